"""Checks of returned rows beside one another: what is said twice, and what rests on what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from tumoratlas.core.errors import TumorAtlasError
from tumoratlas.review.returns.decisions import Known, row_seconds, row_time
from tumoratlas.review.returns.forms import Problems, Row
from tumoratlas.review.returns.monai import DATASTORE

# A label map shows every candidate, those too that its reader decided on elsewhere.
_UNTOUCHED = "MONAI_UNTOUCHED"


def passing(rows: Iterable[Row], check: Callable[[Row], None], problems: Problems) -> list[Row]:
    """Return the rows that a check lets through; note the others."""
    passed = []
    for row in rows:
        try:
            check(row)
        except TumorAtlasError as error:
            problems.add(row.id, error)
        else:
            passed.append(row)
    return passed


def drop_repeated(rows: list[Row], known: Known, problems: Problems) -> tuple[list[Row], set[str]]:
    """Keep the first of equal rows; refuse all of those that contradict each other.

    Returns
    -------
    The rows that go on, and the ids of those that say again what one of them says. A second
    file may repeat the first word by word, as a later export does: that needs no remark.
    """
    moments: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for row in rows:
        moments[_moment(row, known)].add(row.cells["decision"])
    first: dict[tuple[str, ...], Row] = {}
    repeated: set[str] = set()

    def check(row: Row) -> None:
        said = moments[_moment(row, known)]
        if row.cells["candidate_id"] and len(said) > 1:
            raise row.error(
                "ROW_CONFLICT",
                "two decisions of one reviewer at the same time",
                "Keep the line that holds",
                ", ".join(sorted(said)),
            )
        mask = str(row.mask) if row.cells["mask"] else ""
        place = row.cells["comment"] if row.cells["decision"] == "contest" else ""
        key = (*_moment(row, known), row.cells["decision"], mask, place)
        before = first.setdefault(key, row)
        if before is row:
            return
        repeated.add(row.id)
        if before.file == row.file or _words(before) != _words(row):
            raise row.error(
                "ROW_DUPLICATE",
                "the decision stands twice; it counted once",
                "Remove the second line",
                before.id,
            )

    passed = passing(rows, check, problems)
    return [row for row in passed if row.id not in repeated], repeated


def leave_untouched(rows: list[Row], problems: Problems) -> list[Row]:
    """Let a reader's form or page speak before a label map that shows the same candidate.

    An approved label map accepts what it shows unchanged, those candidates too that its reader
    rejected in the form.
    """
    formed = {_about(row) for row in rows if not _is_label(row)}

    def check(row: Row) -> None:
        if _is_label(row) and row.cells["decision"] == "accept" and _about(row) in formed:
            raise row.error(
                _UNTOUCHED,
                "the reader's decision in the form or the page counts",
                "Nothing is to be done; to accept it, decide so in the form",
            )

    return passing(rows, check, problems)


def whole_rows(
    rows: list[Row], found: Iterable[Row], known: Known, problems: Problems
) -> list[Row]:
    """Refuse signatures and undos that rest on a line that cannot be taken in.

    A reader who draws a missing tumor and signs has signed that tumor: without it the signature
    would say that there is none. A line about a candidate that the same reader decided on later
    holds up no signature.

    Parameters
    ----------
    rows
        The rows that go on.
    found
        All rows, those with problems too.
    known
        What rows are checked against.
    problems
        What is wrong with the others.
    """
    good = {_same(row) for row in rows}
    latest: dict[tuple[str, ...], str] = {}
    for row in rows:
        latest[_about(row)] = max(latest.get(_about(row), ""), row_time(row, known.now))

    def is_made_good(row: Row) -> bool:
        try:
            return (
                bool(row.cells["candidate_id"]) and row_time(row, known.now) < latest[_about(row)]
            )
        except (KeyError, TumorAtlasError):
            return False

    left_out: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in found:
        error = problems.errors.get(row.id)
        if error and error.code != _UNTOUCHED and _same(row) not in good:
            left_out[(*row.key, row.cells["reviewer_id"])].append(row)

    def check(row: Row) -> None:
        decision, candidate_id = row.cells["decision"], row.cells["candidate_id"]
        lost = left_out[(*row.key, row.cells["reviewer_id"])]
        if decision == "sign_off":
            lost = [one for one in lost if not is_made_good(one)]
        elif decision == "undo":
            lost = [one for one in lost if one.cells["candidate_id"] == candidate_id]
        if lost and decision in ("sign_off", "undo"):
            raise row.error(
                "LINE_LEFT_OUT",
                f"the {decision} rests on a line that cannot be taken in",
                "Correct that line; both are taken in then",
                ", ".join(sorted(one.id for one in lost))[:300],
            )

    return passing(rows, check, problems)


def _is_label(row: Row) -> bool:
    return row.file.endswith(DATASTORE)


def _about(row: Row) -> tuple[str, ...]:
    return *row.key, row.cells["candidate_id"], row.cells["reviewer_id"]


def _same(row: Row) -> tuple[str, ...]:
    names = ("case_id", "organ", "candidate_id", "reviewer_id", "decision", "time")
    return tuple(row.cells[name] for name in names)


def _moment(row: Row, known: Known) -> tuple[str, ...]:
    names = ("case_id", "organ", "candidate_id", "reviewer_id")
    return *(row.cells[name] for name in names), row_time(row, known.now)


def _words(row: Row) -> tuple[object, ...]:
    names = ("reason", "comment", "tool", "base_sha256")
    return *(row.cells[name] for name in names), row_seconds(row)
