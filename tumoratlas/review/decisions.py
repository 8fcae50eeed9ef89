"""Lines of a returned ``decisions.csv``: read, and checked one by one."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tumoratlas.core.errors import ReviewError
from tumoratlas.images.grid import Grid
from tumoratlas.images.inflate import read_bytes
from tumoratlas.review.ledger import (
    CANDIDATE_DECISIONS,
    DECISIONS,
    MASK_DECISIONS,
    ORGAN_DECISIONS,
    SENIOR_DECISIONS,
)
from tumoratlas.review.masks import MASK_SUFFIXES
from tumoratlas.review.packets import DECISION_COLUMNS

PEOPLE_DECISIONS = tuple(name for name in DECISIONS if name != "source_label")
_LARGEST_CSV_BYTES = 1 << 26
_LONGEST_TEXT = 2000
_LONGEST_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Row:
    """A line of a ``decisions.csv`` with a decision: its id, its folder and its cells."""

    id: str
    folder: Path
    cells: Mapping[str, str]

    @property
    def key(self) -> tuple[str, str]:
        """Case and organ."""
        return self.cells["case_id"], self.cells["organ"]

    @property
    def mask(self) -> Path:
        """The mask's file, meaningful after `check_row`."""
        return self.folder / self.cells["mask"].replace("\\", "/")

    def error(self, code: str, reason: str, remedy: str, evidence: str = "") -> ReviewError:
        """Return the error that leaves this row out."""
        return ReviewError(code, self.id, reason, remedy=remedy, evidence=evidence)


@dataclass(frozen=True)
class Known:
    """What returned rows are compared with.

    Attributes
    ----------
    candidates
        Number of each candidate id, by case and organ.
    bases
        Hash of the mask that was sent out, by case and organ.
    grids
        Native grid of each case.
    roles
        Role of each reviewer.
    now
        Time of the import.
    """

    candidates: Mapping[tuple[str, str], Mapping[str, int]]
    bases: Mapping[tuple[str, str], str]
    grids: Mapping[str, Grid]
    roles: Mapping[str, str]
    now: datetime


def csv_lines(path: Path, name: str) -> list[tuple[int, dict[str, str] | None]]:
    """Return the number and the cells of each line that is not blank.

    The cells are None where a line has more or fewer of them than the header.

    Raises
    ------
    ReviewError
        PATH_OUTSIDE, CSV_ENCODING, CSV_COLUMNS, CSV_FORM.
    InputError
        The file is empty, too large or unreadable.
    """

    def refuse(code: str, reason: str, remedy: str, evidence: str = "") -> ReviewError:
        return ReviewError(code, name, reason, remedy=remedy, evidence=evidence)

    if path.is_symlink():
        raise refuse("PATH_OUTSIDE", "it is a symbolic link", "Send the file itself")
    try:
        text = read_bytes(path, max_bytes=_LARGEST_CSV_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse("CSV_ENCODING", "it is not UTF-8", 'Save it as "CSV UTF-8"') from error
    head = text.split("\n", 1)[0]
    delimiter = ";" if head.count(";") > head.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    out = []
    try:
        header = [column.strip() for column in next(reader, [])]
        if sorted(header) != sorted(DECISION_COLUMNS):
            raise refuse(
                "CSV_COLUMNS",
                "the columns are not those of the packet's decisions.csv",
                "Use the decisions.csv of the packet",
                ", ".join(header)[:300],
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            fits = len(cells) == len(header)
            named = dict(zip(header, (cell.strip() for cell in cells), strict=False))
            out.append((reader.line_num, named if fits else None))
    except csv.Error as error:
        raise refuse(
            "CSV_FORM",
            "it is not a well-formed CSV file",
            "Save it as CSV again",
            f"line {reader.line_num}: {error}",
        ) from error
    return out


def check_row(row: Row, known: Known) -> None:
    """Check all that can be told without other rows and without the mask's content.

    Raises
    ------
    ReviewError
        TEXT_INVALID, DECISION_UNKNOWN, CASE_UNKNOWN, REVIEWER_UNKNOWN, ROLE_WRONG, BASE_STALE,
        CANDIDATE_UNKNOWN, CANDIDATE_MISSING, CANDIDATE_GIVEN, TIME_INVALID, TIME_FUTURE,
        SECONDS_INVALID, MASK_MISSING, MASK_GIVEN, MASK_FORMAT, PATH_OUTSIDE.
    """
    cells, decision, candidate = row.cells, row.cells["decision"], row.cells["candidate_id"]
    for key, text in cells.items():
        if len(text) > _LONGEST_TEXT or any(ord(c) < 32 and c not in "\n\r\t" for c in text):
            raise row.error(
                "TEXT_INVALID",
                f"{key} is too long or holds control characters",
                f"Use at most {_LONGEST_TEXT} plain characters",
            )
    if decision not in PEOPLE_DECISIONS:
        raise row.error(
            "DECISION_UNKNOWN",
            "not a decision that a reviewer can take",
            f"Use one of {', '.join(PEOPLE_DECISIONS)}",
            decision,
        )
    if row.key not in known.bases or row.key[0] not in known.grids:
        raise row.error(
            "CASE_UNKNOWN",
            "this case and organ was not sent out",
            "Keep case_id and organ as in the packet",
            " ".join(row.key),
        )
    role = known.roles.get(cells["reviewer_id"])
    if role is None:
        raise row.error(
            "REVIEWER_UNKNOWN",
            "the reviewer is not in the roster",
            "Correct reviewer_id or add the reviewer",
            cells["reviewer_id"],
        )
    if decision in SENIOR_DECISIONS and role != "senior":
        raise row.error(
            "ROLE_WRONG",
            f"{decision} is for senior reviewers",
            "Let a senior reviewer decide",
            f"{cells['reviewer_id']} is {role}",
        )
    if cells["base_sha256"] != known.bases[row.key]:
        raise row.error(
            "BASE_STALE",
            "the decision is about another version of the mask",
            "Review the current packet",
            f"{cells['base_sha256'][:12]} is not {known.bases[row.key][:12]}",
        )
    if candidate and candidate not in known.candidates.get(row.key, {}):
        raise row.error(
            "CANDIDATE_UNKNOWN",
            "this case and organ has no such candidate",
            "Keep candidate_id as in the packet",
            candidate,
        )
    if not candidate and decision in CANDIDATE_DECISIONS:
        raise row.error(
            "CANDIDATE_MISSING",
            f"{decision} needs a candidate_id",
            "Use the candidate's line, or add for a new tumor",
        )
    if candidate and decision in ORGAN_DECISIONS:
        raise row.error(
            "CANDIDATE_GIVEN",
            f"{decision} is about the organ, not a candidate",
            "Use the organ's line, which has no candidate_id",
            candidate,
        )
    row_time(row, known.now)
    row_seconds(row)
    if (decision in MASK_DECISIONS) != bool(cells["mask"]):
        raise row.error(
            "MASK_MISSING" if not cells["mask"] else "MASK_GIVEN",
            f"{decision} {'needs a' if not cells['mask'] else 'takes no'} mask",
            f"A mask belongs to {', '.join(MASK_DECISIONS)}",
            cells["mask"],
        )
    if cells["mask"]:
        _check_path(row)


def row_time(row: Row, now: datetime) -> str:
    """Return the row's time in the ledger's form."""
    text = row.cells["time"]
    remedy = "Write UTC as 2026-11-21T14:05:00Z; a spreadsheet may have changed it"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() != timedelta(0):
        raise row.error("TIME_INVALID", "the time is not ISO 8601 in UTC", remedy, text)
    if moment > now:
        raise row.error(
            "TIME_FUTURE",
            "the decision lies in the future",
            "Check the computer's clock and time zone",
            text,
        )
    moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


def row_seconds(row: Row) -> float | None:
    """Return the time that the reviewer took in s, None where not given."""
    text = row.cells["seconds"].replace(",", ".")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise row.error(
            "SECONDS_INVALID",
            "seconds is not a duration of at most a day",
            "Write a number of seconds, or nothing",
            text,
        )
    return seconds


def _check_path(row: Row) -> None:
    """Refuse a mask path that leaves the folder of its ``decisions.csv``."""
    text = row.cells["mask"].replace("\\", "/")
    steps = [Path(*Path(text).parts[: n + 1]) for n in range(len(Path(text).parts))]
    leaves = text.startswith("/") or ":" in text or ".." in Path(text).parts
    if leaves or any((row.folder / step).is_symlink() for step in steps):
        raise row.error(
            "PATH_OUTSIDE",
            "the mask's path leaves the returned folder",
            "Put the mask beside decisions.csv and name it from there",
            text,
        )
    if not text.endswith(MASK_SUFFIXES):
        raise row.error(
            "MASK_FORMAT",
            "the mask is not a .nii.gz or .seg.nrrd file",
            "Save it in one of these formats",
            text,
        )
    if not row.mask.is_file():
        raise row.error(
            "MASK_MISSING",
            "the mask's file is not there",
            "Send it along, with the name in this line",
            text,
        )
