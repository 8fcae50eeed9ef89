"""Returned decisions: read from people's files, checked row by row, turned into events.

A row that cannot be taken in becomes a row of the table ``excluded`` and the others go on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError, TumorAtlasError
from tumoratlas.images.grid import Grid
from tumoratlas.review.decisions import (
    PEOPLE_DECISIONS,
    Known,
    Row,
    check_row,
    csv_lines,
    row_seconds,
    row_time,
)
from tumoratlas.review.ledger import MASK_DECISIONS, Event, make_event
from tumoratlas.review.masks import Segment, read_returned, store_mask

RULE = "check_review"
STAGE = "review"
# Decisions of one moment on one organ: what closes or takes back comes last.
_LAST = {"sign_off": 1, "withdraw": 2, "undo": 3}


class _Excluded:
    """The rows left out, each once."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, str]] = {}

    def add(self, row_id: str, error: TumorAtlasError) -> None:
        # A file's defect is shown by its name below the batch, never by a path of this machine.
        self.rows.setdefault(
            row_id,
            {
                "id": row_id,
                "rule": RULE,
                "code": error.code,
                "reason": error.reason,
                "evidence": error.evidence,
                "remedy": error.remedy,
            },
        )

    def passing(self, rows: Iterable[Row], check: Callable[[Row], None]) -> list[Row]:
        """Return the rows that a check lets through; note the others."""
        passed = []
        for row in rows:
            try:
                check(row)
            except TumorAtlasError as error:
                self.add(row.id, error)
            else:
                passed.append(row)
        return passed


def read_returns(
    folder: Path,
    *,
    batch: str,
    candidates: pd.DataFrame,
    bases: Mapping[tuple[str, str], str],
    grids: Mapping[str, Grid],
    reviewers: pd.DataFrame,
    store: Path,
    now: datetime,
) -> tuple[list[Event], list[dict[str, str]]]:
    """Read every ``decisions.csv`` below a folder and store the masks that it names.

    Parameters
    ----------
    folder
        What came back for one batch. Each ``decisions.csv`` (UTF-8 with or without byte order
        mark, comma or semicolon) has the columns `DECISION_COLUMNS`; ``mask`` is relative to
        its own folder. Rows with an empty decision are skipped.
    batch
        Name of the batch.
    candidates
        Table ``candidates`` of the batch: ``candidate_id``, ``number``, ``case_id``, ``organ``.
    bases
        Hash of the mask that was sent out for each case and organ; others are stale.
    grids
        Native grid of each case.
    reviewers
        The roster: ``reviewer_id``, ``role`` (senior or junior).
    store
        Folder of returned masks, `store_mask`.
    now
        Time of the import, with time zone; later decisions are refused.

    Returns
    -------
    Events in the order of their times, not yet in a ledger, and rows of the table ``excluded``
    (rule ``check_review``) with ids ``<batch>/<file>:<line>``.

    Raises
    ------
    ReviewError
        ROSTER_INVALID.
    """
    known = Known(_numbers(candidates), bases, grids, _roles(reviewers), now)
    excluded = _Excluded()
    found = [
        row
        for path in sorted(folder.rglob("decisions.csv"))
        for row in _read_csv(path, f"{batch}/{path.relative_to(folder).as_posix()}", excluded)
    ]
    rows = excluded.passing(found, lambda row: check_row(row, known))
    rows = _drop_repeated(rows, excluded)
    rows = excluded.passing(rows, lambda row: _check_mask_use(row, found, excluded.rows))
    masks: dict[str, str] = {}
    read: dict[tuple[Path, str], list[Segment]] = {}

    def keep_mask(row: Row) -> None:
        if row.cells["decision"] in MASK_DECISIONS:
            file = row.mask, row.key[0]
            grid = known.grids[row.key[0]]
            if file not in read:
                read[file] = read_returned(row.mask, grid)
            masks[row.id] = store_mask(store, _instances(row, rows, known, read[file]), grid)

    rows = excluded.passing(rows, keep_mask)
    # A mask may have failed for one line of a merge only: then the merge as a whole fails.
    rows = excluded.passing(rows, lambda row: _check_mask_use(row, found, excluded.rows))
    events = [_event(row, batch, known, masks.get(row.id, "")) for row in rows]
    events.sort(key=lambda e: (e.time, _LAST.get(e.decision, 0), e.case_id, e.organ, e.event_id))
    return events, list(excluded.rows.values())


def read_roster(path: Path) -> pd.DataFrame:
    """Return the reviewers (``reviewer_id``, ``role``) of a CSV file; none where it is absent."""
    columns = ["reviewer_id", "role"]
    if not path.exists():
        return pd.DataFrame(columns=columns)
    roster = pd.read_csv(path, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    if not set(columns) <= set(roster.columns):
        raise ReviewError(
            "ROSTER_INVALID", path, "the roster lacks a column",
            remedy="Give it the columns reviewer_id and role",
            evidence=", ".join(map(str, roster.columns)),
        )  # fmt: skip
    return roster[columns]


def _numbers(candidates: pd.DataFrame) -> dict[tuple[str, str], dict[str, int]]:
    numbers: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for row in candidates.itertuples():
        numbers[row.case_id, row.organ][row.candidate_id] = int(row.number)
    return numbers


def _roles(reviewers: pd.DataFrame) -> dict[str, str]:
    roles = dict(zip(reviewers["reviewer_id"], reviewers["role"], strict=True))
    wrong = sorted(set(roles.values()) - {"senior", "junior"})
    if wrong or len(roles) != len(reviewers):
        raise ReviewError(
            "ROSTER_INVALID", "reviewers.csv", "a role is unknown or a reviewer stands twice",
            remedy="Give each reviewer_id one row with the role senior or junior",
            evidence=", ".join(map(str, wrong)),
        )  # fmt: skip
    return roles


def _read_csv(path: Path, name: str, excluded: _Excluded) -> list[Row]:
    """Return the rows of a file that hold a decision; note what is wrong with its form."""
    try:
        lines = csv_lines(path, name)
    except TumorAtlasError as error:
        excluded.add(name, error)
        return []
    rows = []
    for line, cells in lines:
        row = Row(f"{name}:{line}", path.parent, cells or {})
        if cells is None:
            excluded.add(
                row.id,
                row.error(
                    "CELLS_COUNT",
                    "more or fewer cells than the header",
                    "Put text with commas or semicolons into quotes",
                ),
            )
        elif cells["decision"]:
            rows.append(row)
        elif any(cells[key] for key in ("reviewer_id", "time", "reason", "comment", "mask")):
            excluded.add(
                row.id,
                row.error(
                    "DECISION_MISSING",
                    "the decision is empty",
                    f"Write one of {', '.join(PEOPLE_DECISIONS)}",
                ),
            )
    return rows


def _drop_repeated(rows: list[Row], excluded: _Excluded) -> list[Row]:
    """Keep the first of equal rows; refuse all of those that contradict each other."""
    moments: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for row in rows:
        moments[_moment(row)].add(row.cells["decision"])
    seen: set[tuple[str, ...]] = set()

    def check(row: Row) -> None:
        if row.cells["candidate_id"] and len(moments[_moment(row)]) > 1:
            raise row.error(
                "ROW_CONFLICT",
                "two decisions of one reviewer at the same time",
                "Keep the line that holds",
                ", ".join(sorted(moments[_moment(row)])),
            )
        content = (*_moment(row), row.cells["decision"], str(row.mask))
        if content in seen:
            raise row.error(
                "ROW_DUPLICATE", "the line stands twice; it counted once", "Remove the second line"
            )
        seen.add(content)

    return excluded.passing(rows, check)


def _moment(row: Row) -> tuple[str, ...]:
    names = ("case_id", "organ", "candidate_id", "reviewer_id", "time")
    return tuple(row.cells[name] for name in names)


def _partners(row: Row, rows: Iterable[Row]) -> list[Row]:
    """Return the rows that name the same mask file, the row itself included."""
    return [r for r in rows if r.cells["mask"] and r.mask == row.mask]


def _check_mask_use(row: Row, found: list[Row], out: Mapping[str, object]) -> None:
    """Check which rows share a file: edits may, lines of one merge must, others may not."""
    decision = row.cells["decision"]
    if decision not in MASK_DECISIONS:
        return
    everyone = _partners(row, found)
    partners = [r for r in everyone if out.get(r.id, {}).get("code") != "ROW_DUPLICATE"]
    same = {(r.cells["decision"], *r.key, r.cells["reviewer_id"]) for r in partners}
    if len(same) > 1 or (decision in ("add", "split") and len(partners) > 1):
        raise row.error(
            "MASK_SHARED",
            f"the mask of this {decision} is named by other lines",
            "Save a mask file of its own for each add, split and merge",
            ", ".join(sorted(r.id for r in partners)),
        )
    if decision == "merge":
        refused = sorted(r.id for r in partners if r.id in out)
        if refused or len({r.cells["candidate_id"] for r in partners}) < 2:
            raise row.error(
                "MERGE_INCOMPLETE",
                "a merge needs two or more good lines",
                "Write a line for each merged candidate with the same mask",
                ", ".join(refused),
            )


def _instances(
    row: Row, rows: list[Row], known: Known, segments: list[Segment]
) -> NDArray[np.uint16]:
    """Return the instance map (z, y, x) that a row's mask means."""
    decision, numbers = row.cells["decision"], known.candidates.get(row.key, {})
    grid = known.grids[row.key[0]]
    wanted = {row.cells["candidate_id"]}
    if decision == "merge":
        wanted = {r.cells["candidate_id"] for r in _partners(row, rows)}
    own, new = [], []
    for segment in segments:
        candidate = _candidate_of(segment, numbers, row)
        if candidate in wanted:
            own.append(segment)
        elif candidate is None:
            new.append(segment)
    pieces = {"edit": own, "split": own + new, "merge": own + new, "add": new}[decision]
    fits = {"edit": len(pieces) == 1, "split": len(pieces) > 1}.get(decision, len(pieces) > 0)
    if not fits:
        raise row.error(
            "MASK_SEGMENT", f"the mask does not hold what {decision} needs",
            "edit: the candidate's own segment (label = its number); split: two or more; add: "
            "segments that are no candidate's (labels above the highest number)",
            f"{len(own)} segments of this candidate, {len(new)} new ones",
        )  # fmt: skip
    labels = np.zeros(grid.shape, np.uint16)
    for label, piece in enumerate(pieces, start=1):
        if decision != "merge" and labels.ravel()[piece.voxels].any():
            raise row.error(
                "MASK_OVERLAP", "two segments overlap", "Give each voxel to one tumor", piece.name
            )
        labels.ravel()[piece.voxels] = 1 if decision == "merge" else label
    return labels


def _candidate_of(segment: Segment, numbers: Mapping[str, int], row: Row) -> str | None:
    """Return the candidate that a segment is, or None for a new one."""
    if segment.number is not None:
        return next((c for c, number in numbers.items() if number == segment.number), None)
    if segment.candidate_id is not None and segment.candidate_id not in numbers:
        raise row.error(
            "MASK_OTHER_CASE",
            "a segment belongs to another case or organ",
            "Send the mask that was drawn for this case and organ",
            f"{segment.name}: {segment.candidate_id}",
        )
    return segment.candidate_id


def _event(row: Row, batch: str, known: Known, mask: str) -> Event:
    cells = row.cells
    return make_event(
        stage=STAGE, batch=batch, case_id=cells["case_id"], organ=cells["organ"],
        candidate_id=cells["candidate_id"] or None, reviewer_id=cells["reviewer_id"],
        role=known.roles[cells["reviewer_id"]], decision=cells["decision"],
        reason=cells["reason"], comment=cells["comment"], tool=cells["tool"],
        time=row_time(row, known.now), seconds=row_seconds(row), base_sha256=cells["base_sha256"],
        mask_sha256=mask,
    )  # fmt: skip
