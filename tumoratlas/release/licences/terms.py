"""What licences allow, and the permissions that curators hold beyond them."""

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from tumoratlas.core.errors import ReleaseError

Answer = Literal["yes", "no", "doubt"]
ANSWERS = ("yes", "no", "doubt")
COVERS = ("image", "labels", "both")
GRANTS = ("full", "labels_only")
_ANSWERED = ("share", "share_altered", "non_commercial", "share_alike")
_TERMS = ("licence", "spdx", *_ANSWERED, "note")
_PERMISSION = ("source", "covers", "terms", "holder", "date", "evidence")


@dataclass(frozen=True)
class Terms:
    """A row of ``resources/licences.csv``: what a licence allows anybody.

    Attributes
    ----------
    licence
        Its name, as descriptions of sources write it.
    spdx
        Its SPDX identifier, or empty where it has none.
    share, share_altered
        Whether copies may be passed on, as they are and altered.
    non_commercial, share_alike
        Whether it forbids commercial use, and asks for the same licence on what is made from it.
    note
        In words.
    """

    licence: str
    spdx: str
    share: Answer
    share_altered: Answer
    non_commercial: Answer
    share_alike: Answer
    note: str


@dataclass(frozen=True)
class Permission:
    """A row of ``records/permissions.csv``: what a rights holder allowed beyond the licence.

    Attributes
    ----------
    source
        Id of the source.
    covers
        ``image``, ``labels`` or ``both``.
    terms
        ``full``: it may be in every release; ``labels_only``: in those without images.
    holder, date, evidence
        Who gave it, when (ISO 8601), and where that is written down.
    """

    source: str
    covers: str
    terms: str
    holder: str
    date: str
    evidence: str


def read_terms(path: Path) -> dict[str, Terms]:
    """Return the terms of every licence by its name.

    Raises
    ------
    ReleaseError
        ``LICENCE_TABLE``: a column is missing, an answer is unknown or a licence stands twice.
    """
    found: dict[str, Terms] = {}
    for place, row in _rows(path, _TERMS, "LICENCE_TABLE"):
        terms = Terms(**row)  # type: ignore[arg-type]
        unknown = [key for key in _ANSWERED if row[key] not in ANSWERS]
        if unknown or not terms.licence or terms.licence in found:
            raise ReleaseError(
                "LICENCE_TABLE", place, "the row does not say what one licence allows",
                evidence=", ".join(f"{key}: {row[key]!r}" for key in unknown or ["licence"]),
                remedy=f"Name each licence once and answer with {', '.join(ANSWERS)}",
            )  # fmt: skip
        found[terms.licence] = terms
    return found


def terms_of(licence: str, terms: Mapping[str, Terms]) -> Terms:
    """Return what a licence allows; of one that nobody described all is in doubt."""
    described = terms.get(licence)
    note = "No row of the table of licences describes it."
    return described or Terms(licence, "", "doubt", "doubt", "doubt", "doubt", note)


def read_permissions(
    path: Path, *, sources: Collection[str], internal: Collection[str]
) -> list[Permission]:
    """Return the permissions that curators recorded.

    Parameters
    ----------
    path
        CSV file with the columns of `Permission`.
    sources
        Ids of all described sources.
    internal
        Those of them whose licence is ``internal``, which no permission releases.

    Raises
    ------
    ReleaseError
        ``PERMISSION``, with file and line.
    """
    found = []
    for place, row in _rows(path, _PERMISSION, "PERMISSION"):
        if problem := _problem(row, sources, internal):
            reason, remedy = problem
            raise ReleaseError("PERMISSION", place, reason, remedy=remedy)
        found.append(Permission(**row))
    return found


def _problem(
    row: Mapping[str, str], sources: Collection[str], internal: Collection[str]
) -> tuple[str, str] | None:
    """Return what is wrong with a permission and what to do, or None."""
    for key in _PERMISSION:
        if not row[key]:
            return f"`{key}` is empty", f"Fill in `{key}`, or take the row out"
    if row["source"] not in sources:
        return (
            f"no source is called {row['source']!r}",
            "Use the id of a description in resources/sources",
        )
    for key, allowed in (("covers", COVERS), ("terms", GRANTS)):
        if row[key] not in allowed:
            return f"`{key}` is {row[key]!r}", f"Use one of {', '.join(allowed)}"
    if row["source"] in internal:
        return (
            f"{row['source']} is an internal source, which no permission releases",
            "Take the row out; scans that may leave need a description with a licence of their own",
        )
    if row["terms"] == "labels_only" and row["covers"] != "labels":
        return (
            f"it covers {row['covers']}, but its terms are labels_only, which holds no images",
            "Use covers `labels`, or terms `full`",
        )
    try:
        is_date = date.fromisoformat(row["date"]).isoformat() == row["date"]
    except ValueError:
        is_date = False
    if not is_date:
        return f"`date` is {row['date']!r}", "Write it as 2025-10-21"
    return None


def _rows(path: Path, columns: tuple[str, ...], code: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield file and line, and the trimmed cells, of every row of a CSV file."""
    remedy = f"Save it as UTF-8 CSV with the columns {', '.join(columns)}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReleaseError(code, path, "is no UTF-8 text", remedy=remedy) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="more", restval="")
    header = [name.strip() for name in reader.fieldnames or ()]
    if sorted(header) != sorted(columns):
        raise ReleaseError(
            code, f"{path}:1", "the columns are not those of the table",
            evidence=", ".join(header), remedy=remedy,
        )  # fmt: skip
    reader.fieldnames = header
    for row in reader:
        place = f"{path}:{reader.line_num}"
        if "more" in row:
            raise ReleaseError(
                code, place, "the row has more cells than columns",
                remedy="Put text with a comma in double quotes",
            )  # fmt: skip
        cells = {key: value.strip() for key, value in row.items()}
        if any(cells.values()):
            yield place, cells
