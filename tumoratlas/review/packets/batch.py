"""Review packets: what a radiologist gets for one batch, in files that every viewer opens."""

from __future__ import annotations

import csv
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tumoratlas.core.errors import TumorAtlasError
from tumoratlas.core.files import replacing, write_text
from tumoratlas.core.tables import write_csv
from tumoratlas.images.grid import Grid
from tumoratlas.review.packets.instructions import instructions
from tumoratlas.review.packets.labels import (
    ORGANS,
    SCANS,
    CaseLabels,
    add_labels,
    write_case_labels,
    write_itksnap_labels,
    write_monai_datastore,
)
from tumoratlas.review.packets.organ import PacketOrgan, require_name, write_packet

RULE = "export_packets"
WORKLIST_COLUMNS = [
    "rank", "case_id", "organ", "candidate_id", "number", "volume_mm3", "radius_mm", "max_p",
    "centroid_ras_mm", "missed_ras_mm", "base_sha256",
]  # fmt: skip
DECISION_COLUMNS = [
    "case_id", "organ", "candidate_id", "decision", "reviewer_id", "time", "seconds", "reason",
    "comment", "tool", "base_sha256", "mask",
]  # fmt: skip
FILLED_IN = ("case_id", "organ", "candidate_id", "reviewer_id", "base_sha256")


@dataclass(frozen=True)
class PacketCase:
    """A case of a batch.

    Attributes
    ----------
    case_id, rank
        Its id, and its place in the order of reading.
    ct_path, grid
        Its CT, and the native grid of that.
    organs
        The organs that the batch asks about.
    load
        Returns what is shown of an organ; called for one organ at a time.
    """

    case_id: str
    rank: int
    ct_path: Path
    grid: Grid
    organs: Sequence[str]
    load: Callable[[str], PacketOrgan]


def write_batch(
    folder: Path,
    *,
    batch: str,
    kind: str,
    reviewer_id: str,
    role: str,
    cases: Iterable[PacketCase],
    previous: Path | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Write all that one reviewer gets for one batch; the triage page is written beside it.

    Parameters
    ----------
    folder
        Empty folder of the batch. Gets ``README.txt``, ``worklist.csv``, ``decisions.csv``,
        ``labels.itksnap.txt``, ``scans/`` (CTs, also a MONAI Label folder) and
        ``<case_id>/<organ>/`` (`write_packet`).
    batch, kind, reviewer_id, role
        From ``records/batches.jsonl`` and the roster.
    cases
        The cases; one is held in memory at a time, of it one organ and the map of all organs.
    previous
        The batch's folder as it was written before, in which somebody may have worked:
        decisions and the folder ``masks`` are carried over (`_carry_over`).

    Returns
    -------
    Rows of the worklist in the order of reading, and rows of the table ``excluded`` for the
    organs that could not be written; the others are.

    Raises
    ------
    ReviewError
        NAME_INVALID: a name that is no plain file name.
    """
    require_name(batch)
    rows: list[dict[str, Any]] = []
    excluded: list[dict[str, str]] = []
    datastore: list[CaseLabels] = []
    numbers: dict[str, set[int]] = defaultdict(set)
    for case in cases:
        require_name(case.case_id)
        _copy(case.ct_path, folder / SCANS / f"{case.case_id}.nii.gz")
        labels = np.zeros(case.grid.shape, np.uint16)
        shown: dict[str, list[int]] = {}
        bases: dict[str, str] = {}
        for organ in sorted(case.organs, key=ORGANS.index):
            try:
                found = case.load(organ)
                work = write_packet(
                    folder / case.case_id,
                    case_id=case.case_id,
                    organ=organ,
                    shown=found,
                    grid=case.grid,
                )
                add_labels(labels, organ, found.candidates)
            except TumorAtlasError as error:
                excluded.append(error.excluded_row(f"{batch}/{case.case_id}/{organ}", RULE))
                continue
            rows += [{"rank": case.rank, **row} for row in work]
            shown[organ] = [row["number"] for row in work if row["candidate_id"]]
            bases[organ] = found.base_sha256
            numbers[organ] |= set(shown[organ])
        write_case_labels(folder, case.case_id, labels, case.grid)
        datastore.append(CaseLabels(case.case_id, bases, shown))
    rows.sort(key=lambda row: (row["rank"], row["case_id"]))
    write_monai_datastore(folder, batch, datastore)
    write_itksnap_labels(folder / "labels.itksnap.txt", numbers)
    text = instructions(
        batch=batch, kind=kind, reviewer_id=reviewer_id, role=role, cases=len(datastore)
    )
    write_text(folder / "README.txt", text)
    write_csv(folder / "worklist.csv", rows, WORKLIST_COLUMNS)
    if previous is not None:
        _carry_over(previous, folder)
    if not (folder / "decisions.csv").exists():
        cells = [row | {"reviewer_id": reviewer_id} for row in rows]
        write_csv(folder / "decisions.csv", cells, DECISION_COLUMNS)
    return rows, excluded


def _copy(source: Path, target: Path) -> None:
    """Copy a file: a reviewer who saves over it must not reach the pipeline's file."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _carry_over(previous: Path, folder: Path) -> None:
    """Copy what a reviewer made in a folder that is about to be replaced.

    That is ``decisions*.csv`` in which something is filled in, ``decisions*.json`` and all
    files below ``masks``.
    """
    paths = [*previous.glob("decisions*"), *(previous / "masks").rglob("*")]
    for path in sorted(paths):
        if path.is_file() and not path.is_symlink() and not _is_blank_form(path):
            _copy(path, folder / path.relative_to(previous))


def _is_blank_form(path: Path) -> bool:
    """Tell whether a file is a form for decisions as it was sent out; when in doubt, not."""
    if path.suffix != ".csv":
        return False
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error):
        return False
    return reader.fieldnames == DECISION_COLUMNS and not any(
        value for row in rows for key, value in row.items() if key not in FILLED_IN
    )
