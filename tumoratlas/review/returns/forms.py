"""Forms in which decisions come back: ``decisions*.csv`` and ``decisions*.json``.

A form gives rows, and for whatever cannot be read one problem each; the other rows go on.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError, TumorAtlasError
from tumoratlas.images.inflate import read_bytes
from tumoratlas.review.ledger import DECISIONS
from tumoratlas.review.packets.batch import DECISION_COLUMNS

PEOPLE_DECISIONS = tuple(name for name in DECISIONS if name != "source_label")
JSON_FORMAT, JSON_SCHEMA = "tumoratlas-decisions", 1
_OF_THE_FILE = ("reviewer_id", "tool")
_JSON_KEYS = frozenset(
    ("format", "schema", "batch", "reviewer_id", "tool", "exported", "decisions")
)
_ROW_KEYS = frozenset(DECISION_COLUMNS) - frozenset(_OF_THE_FILE)
_EXPORT_AGAIN = "Export the decisions from the page again and do not change the file"
_LARGEST_BYTES = 1 << 26
_MOST_ROWS = 100_000


@dataclass(frozen=True)
class Row:
    """A decision as it came back.

    Attributes
    ----------
    file
        Its file, ``<batch>/<path>``.
    place
        Where it stands there: ``:<line>``, ``#<n>``.
    folder
        Folder of the file.
    cells
        Text of each of `DECISION_COLUMNS`.
    drawn
        Raster indices of each drawn tumor where the file is itself a mask, not a form; else None.
    """

    file: str
    place: str
    folder: Path
    cells: Mapping[str, str]
    drawn: tuple[NDArray[np.int64], ...] | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """Its name in reports."""
        return self.file + self.place

    @property
    def key(self) -> tuple[str, str]:
        """Case and organ."""
        return self.cells["case_id"], self.cells["organ"]

    @property
    def mask(self) -> Path:
        """The mask's file, meaningful after `tumoratlas.review.returns.decisions.check_row`."""
        return self.folder / self.cells["mask"].replace("\\", "/")

    def error(self, code: str, reason: str, remedy: str, evidence: str = "") -> ReviewError:
        """Return the error that leaves this row out."""
        return ReviewError(code, self.id, reason, remedy=remedy, evidence=evidence)


class Problems:
    """What could not be taken in, each row or file once."""

    def __init__(self) -> None:
        self.errors: dict[str, TumorAtlasError] = {}

    def add(self, item_id: str, error: TumorAtlasError) -> None:
        """Note an error of a row or file."""
        self.errors.setdefault(item_id, error)


def read_form(path: Path, name: str, batch: str, problems: Problems) -> list[Row]:
    """Return the rows of a form that hold or lack a decision, and note what cannot be read.

    Parameters
    ----------
    path
        ``decisions*.csv``: UTF-8 with or without byte order mark, comma or semicolon, the
        columns `DECISION_COLUMNS`. ``decisions*.json``: an export of the triage page.
    name
        Its name in reports, ``<batch>/<path>``.
    batch
        Name of the batch, which an export must name too.
    problems
        Gets PATH_OUTSIDE, CSV_ENCODING, CSV_COLUMNS, CSV_FORM, CELLS_COUNT, JSON_FORM,
        BATCH_OTHER, DECISION_MISSING, and the codes of files that are missing, empty or too large.
        Rows with DECISION_MISSING or CELLS_COUNT are among those returned.
    """
    try:
        if path.is_symlink():
            raise _refusal("PATH_OUTSIDE", name, "it is a symbolic link", "Send the file itself")
        data = read_bytes(path, max_bytes=_LARGEST_BYTES)
        if path.suffix == ".json":
            rows = _json_rows(data, path.parent, name, batch, problems)
        else:
            rows = _csv_rows(data, path.parent, name, problems)
    except TumorAtlasError as error:
        problems.add(name, error)
        return []
    return [row for row in rows if _says_something(row, problems)]


def _refusal(code: str, name: str, reason: str, remedy: str, evidence: str = "") -> ReviewError:
    return ReviewError(code, name, reason, remedy=remedy, evidence=evidence)


def _says_something(row: Row, problems: Problems) -> bool:
    if row.cells["decision"]:
        return True
    is_begun = any(row.cells[key] for key in ("time", "reason", "comment", "mask"))
    if is_begun:
        problems.add(
            row.id,
            row.error(
                "DECISION_MISSING",
                "the decision is empty",
                f"Write one of {', '.join(PEOPLE_DECISIONS)}",
            ),
        )
    return is_begun


def _csv_rows(data: bytes, folder: Path, name: str, problems: Problems) -> list[Row]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refusal("CSV_ENCODING", name, "it is not UTF-8", 'Save it as "CSV UTF-8"') from error
    head = text.split("\n", 1)[0]
    delimiter = ";" if head.count(";") > head.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        header = _trimmed(next(reader, []), 0)
        if sorted(header) != sorted(DECISION_COLUMNS):
            raise _refusal(
                "CSV_COLUMNS",
                name,
                "the columns are not those of the packet's decisions.csv",
                "Use the decisions.csv of the packet",
                ", ".join(header)[:300],
            )
        for line in reader:
            cells = _trimmed(line, len(header))
            if not any(cells):
                continue
            values = dict(zip(header, [*cells, *[""] * len(header)], strict=False))
            rows.append(row := Row(name, f":{reader.line_num}", folder, values))
            if len(cells) != len(header):
                problems.add(
                    row.id,
                    row.error(
                        "CELLS_COUNT",
                        "more or fewer cells than the header",
                        "Put text with commas or semicolons into quotes",
                    ),
                )
    except csv.Error as error:
        # What stands before the damage is whole.
        problems.add(
            name,
            _refusal(
                "CSV_FORM",
                name,
                "it is not a well-formed CSV file; the lines before the damage count",
                "Save it as CSV again",
                f"line {reader.line_num}: {error}",
            ),
        )
    return rows


def _trimmed(cells: list[str], least: int) -> list[str]:
    """Return stripped cells without the empty ones that spreadsheets put behind the last."""
    cells = [cell.strip() for cell in cells]
    while len(cells) > least and not cells[-1]:
        cells.pop()
    return cells


def _json_rows(data: bytes, folder: Path, name: str, batch: str, problems: Problems) -> list[Row]:
    def refuse(evidence: str) -> ReviewError:
        return _refusal(
            "JSON_FORM", name, "it is not an export of the triage page", _EXPORT_AGAIN,
            evidence[:300],
        )  # fmt: skip

    try:
        export = json.loads(
            data.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise refuse(f"{type(error).__name__}: {error}") from error
    if not isinstance(export, dict):
        raise refuse("no object")
    head = {key: export.get(key) for key in ("format", "schema")}
    if head != {"format": JSON_FORMAT, "schema": JSON_SCHEMA} or head["schema"] is True:
        raise refuse(f"format {head['format']!r}, schema {head['schema']!r}")
    if not all(isinstance(export.get(key), str) for key in ("batch", *_OF_THE_FILE)):
        raise refuse(f"batch, {' or '.join(_OF_THE_FILE)} is missing or no text")
    if export["batch"] != batch:
        raise _refusal(
            "BATCH_OTHER",
            name,
            "the decisions are about another batch",
            "Put the file into the folder of its batch",
            f"{export['batch'][:80]!r} is not {batch!r}",
        )
    entries = export.get("decisions")
    if not isinstance(entries, list) or len(entries) > _MOST_ROWS:
        raise refuse("decisions is not a list of at most 100,000 entries")
    unknown = sorted(export.keys() - _JSON_KEYS)
    if unknown:
        problems.add(
            name,
            _refusal(
                "JSON_FORM",
                name,
                "it holds keys that no export has; its decisions count",
                _EXPORT_AGAIN,
                ", ".join(unknown)[:300],
            ),
        )
    whole = {key: export[key].strip() for key in _OF_THE_FILE}
    rows = []
    for number, entry in enumerate(entries, start=1):
        problem = _entry_problem(entry)
        cells = {} if problem else {k: _text(entry.get(k, "")) for k in DECISION_COLUMNS} | whole
        row = Row(name, f"#{number}", folder, cells)
        if problem:
            problems.add(
                row.id,
                row.error(
                    "JSON_FORM",
                    "it is not a decision as the triage page exports it",
                    _EXPORT_AGAIN,
                    problem[:300],
                ),
            )
        else:
            rows.append(row)
    return rows


def _entry_problem(entry: object) -> str:
    if not isinstance(entry, dict):
        return "no object"
    unknown = sorted(entry.keys() - _ROW_KEYS)
    if unknown:
        return f"unknown keys {', '.join(unknown)}"
    for key, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            return f"{key} is neither text nor a number"
    return ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return dict(pairs)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _text(value: str | float | None) -> str:
    return "" if value is None else str(value).strip()
