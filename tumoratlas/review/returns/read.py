"""Returned decisions: read from people's files, checked row by row, turned into events.

A row that cannot be taken in becomes a row of the table ``excluded`` and the others go on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError, TumorAtlasError
from tumoratlas.images.grid import Grid
from tumoratlas.review.bases import Base, BaseKey
from tumoratlas.review.ledger import MASK_DECISIONS, Event, make_event
from tumoratlas.review.masks import Segment, load_mask, store_mask
from tumoratlas.review.returns.decisions import Known, check_row, row_seconds, row_time
from tumoratlas.review.returns.drawn import check_sharing, check_shown, instances, partners
from tumoratlas.review.returns.forms import Problems, Row, read_form
from tumoratlas.review.returns.mask_files import read_returned
from tumoratlas.review.returns.monai import DATASTORE, read_studies
from tumoratlas.review.returns.together import (
    drop_repeated,
    leave_untouched,
    passing,
    whole_rows,
)
from tumoratlas.review.roster import roles

RULE = "check_review"
# Stage of a decision by the kind of its batch; a folder that is no batch is plain review.
STAGES = {"candidates": "review", "full": "full_read", "adjudicate": "adjudicate"}
# Files that somebody may have put decisions into.
_FORMLIKE = (".csv", ".tsv", ".json", ".xlsx", ".xls", ".ods", ".zip")
# Decisions of one moment on one organ: what closes or takes back comes last.
_LAST = {"sign_off": 1, "withdraw": 2, "undo": 3}


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
    batches: Iterable[Mapping[str, Any]] = (),
    issued: Mapping[BaseKey, Base] | None = None,
) -> tuple[list[Event], list[dict[str, str]]]:
    """Read what came back for one batch, and store the masks that it holds.

    Parameters
    ----------
    folder
        What came back: ``decisions*.csv`` and ``decisions*.json`` (`read_form`), the masks that
        they name, relative to their own folder (`read_returned`), and MONAI Label studies
        (`read_studies`), in any subfolders.
    batch
        Name of the batch.
    candidates
        Table ``candidates``: ``candidate_id``, ``number``, ``case_id``, ``organ``.
    bases
        Hash of the current candidate map of each case and organ that reviewers are asked about.
    grids
        Native grid of each case.
    reviewers
        The roster: ``reviewer_id``, ``role`` (senior or junior).
    store
        Folder of masks, `store_mask`: the returned ones, and all that were ever shown.
    now
        Time of the import, with time zone; later decisions are refused.
    batches
        Lines of ``records/batches.jsonl``. A batch among them takes only what it asked for, from
        the reviewer that it was issued to, and its kind gives the events' stage.
    issued
        Every map that was ever shown, `tumoratlas.review.bases.read_bases`. A decision on an
        earlier one is taken in; what it means today is not decided here.

    Returns
    -------
    Events in the order of their times, not yet in a ledger, and rows of the table ``excluded``
    (rule ``check_review``) with ids ``<batch>/<file>``, ``<batch>/<file>:<line>`` (CSV),
    ``<batch>/<file>#<n>`` (JSON, from 1) or ``<batch>/<file>#<case_id>/<label>/<n>`` (MONAI Label).

    Raises
    ------
    ReviewError
        ROSTER_INVALID.
    """
    own = [line for line in batches if line["batch"] == batch]
    known = Known(
        candidates=_numbers(candidates),
        bases=bases,
        issued=issued or {},
        readers=_readers(own) if own else None,
        grids=grids,
        roles=roles(reviewers),
        now=now,
    )
    stage = STAGES[own[0]["kind"]] if own else "review"
    problems = Problems()

    @lru_cache(maxsize=6)  # the organs of a case
    def shown(base_sha256: str) -> NDArray[np.uint16]:
        return load_mask(store, base_sha256, max_voxels=max(map(_voxels, grids.values())))

    found: list[Row] = []
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        # A name of another encoding must not stop the report that tells of it.
        name = f"{batch}/{path.relative_to(folder).as_posix()}"
        name = name.encode("utf-8", "backslashreplace").decode()
        if path.name == DATASTORE:
            found += read_studies(path, name, batch, known, shown, problems)
        elif path.name.startswith("decisions") and path.suffix in (".csv", ".json"):
            found += read_form(path, name, batch, problems)
        elif _is_like_form(path.name):
            problems.add(
                name,
                ReviewError(
                    "FILE_IGNORED",
                    name,
                    "it was not read: its name is not that of a form",
                    remedy="Name it decisions*.csv or decisions*.json, or take it away",
                ),
            )
    whole = [row for row in found if row.id not in problems.errors]
    rows = passing(whole, lambda row: check_row(row, known), problems)
    rows, repeated = drop_repeated(rows, known, problems)
    found = [row for row in found if row.id not in repeated]
    rows = leave_untouched(rows, problems)

    def check_files(row: Row) -> None:
        check_sharing(row, found, problems.errors.keys())

    rows = passing(rows, check_files, problems)
    masks: dict[str, str] = {}
    read: dict[tuple[Path, str], list[Segment]] = {}

    def keep_mask(row: Row) -> None:
        if row.cells["decision"] not in MASK_DECISIONS:
            return
        grid, numbers, wanted = grids[row.key[0]], known.numbers(row), {row.cells["candidate_id"]}
        if row.cells["decision"] == "merge":
            wanted = {r.cells["candidate_id"] for r in partners(row, rows)}
        file = row.mask, row.key[0]
        if row.drawn is None and file not in read:
            read[file] = read_returned(row.mask, grid)
        labels = instances(row, wanted, numbers, read.get(file, []), grid.shape)
        base = row.cells["base_sha256"]
        if (*row.key, base) in known.issued:
            check_shown(row, labels, wanted, numbers, _on_grid(row, shown(base), grid))
        masks[row.id] = store_mask(store, labels, grid)

    rows = passing(rows, keep_mask, problems)
    # A mask may have failed for one line of a merge only: then the merge as a whole fails.
    rows = passing(rows, check_files, problems)
    rows = whole_rows(rows, found, known, problems)
    events = [_event(row, stage, batch, known, masks.get(row.id, "")) for row in rows]
    events.sort(key=lambda e: (e.time, _LAST.get(e.decision, 0), e.case_id, e.organ, e.event_id))
    return events, [_excluded(name, error) for name, error in problems.errors.items()]


def _numbers(candidates: pd.DataFrame) -> dict[tuple[str, str], dict[str, int]]:
    numbers: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for row in candidates.itertuples():
        numbers[row.case_id, row.organ][row.candidate_id] = int(row.number)
    return numbers


def _readers(lines: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], frozenset[str]]:
    """Return whom a batch asked about each case and organ."""
    readers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in lines:
        for organ in line["organs"]:
            readers[line["case_id"], organ].add(line["reviewer_id"])
    return {key: frozenset(names) for key, names in readers.items()}


def _voxels(grid: Grid) -> int:
    return math.prod(grid.shape)


def _on_grid(row: Row, shown: NDArray[np.uint16], grid: Grid) -> NDArray[np.uint16]:
    if shown.shape != grid.shape:
        raise row.error(
            "BASE_STALE",
            "the mask was drawn on an earlier form of the scan",
            "Review the current packet",
            f"{shown.shape} is not {grid.shape} voxels",
        )
    return shown


def _is_like_form(name: str) -> bool:
    """Return whether a file that is no form may have been meant as one."""
    if name.startswith(".") or name == "worklist.csv":
        return False
    return name.lower().endswith(_FORMLIKE) or "decision" in name.lower()


def _excluded(item_id: str, error: TumorAtlasError) -> dict[str, str]:
    # A file's defect is shown by its name below the batch, never by a path of this machine.
    return error.excluded_row(item_id, RULE) | {"reason": error.reason}


def _event(row: Row, stage: str, batch: str, known: Known, mask: str) -> Event:
    cells = row.cells
    return make_event(
        stage=stage, batch=batch, case_id=cells["case_id"], organ=cells["organ"],
        candidate_id=cells["candidate_id"] or None, reviewer_id=cells["reviewer_id"],
        role=known.roles[cells["reviewer_id"]], decision=cells["decision"],
        reason=cells["reason"], comment=cells["comment"], tool=cells["tool"],
        time=row_time(row, known.now), seconds=row_seconds(row), base_sha256=cells["base_sha256"],
        mask_sha256=mask,
    )  # fmt: skip
