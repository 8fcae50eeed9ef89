"""Review packets: what a radiologist gets, in files that every viewer opens."""

from __future__ import annotations

import colorsys
import filecmp
import io
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import slicerio
from numpy.typing import NDArray

from tumoratlas.core.files import replacing, write_text
from tumoratlas.core.tables import write_csv
from tumoratlas.images.components import label_statistics
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.review.masks import CANDIDATE_TAG, LPS_TO_RAS

WORKLIST_COLUMNS = [
    "case_id", "organ", "candidate_id", "number", "volume_mm3", "radius_mm", "max_p",
    "centroid_ras_mm", "base_sha256",
]  # fmt: skip
DECISION_COLUMNS = [
    "case_id", "organ", "candidate_id", "decision", "reviewer_id", "time", "seconds", "reason",
    "comment", "tool", "base_sha256", "mask",
]  # fmt: skip

README = """\
What to do with this folder
===========================

Each folder below holds one patient's CT (ct.nii.gz) and, for each organ, the places where a
model suspects a tumor (candidates). worklist.csv lists them, the centre in mm as 3D Slicer
shows it (right, anterior, superior).

1. In 3D Slicer drag ct.nii.gz and <organ>/candidates.seg.nrrd into the window (in ITK-SNAP:
   ct.nii.gz as main image, <organ>/candidates.nii.gz as segmentation). Each candidate is a
   segment; its number is the one in worklist.csv. An organ without candidates has no such file.
2. Write your decisions into decisions.csv. It has a line for each candidate, and one line
   without candidate_id for each organ. A line whose decision stays empty means: not decided.

   decision   meaning                                                  mask file
   accept     the candidate is a tumor, its outline is good            -
   reject     it is not a tumor                                        -
   uncertain  somebody else has to decide                              -
   edit       it is a tumor, with the outline in your mask             needed
   split      it is several tumors, one segment (label) each           needed
   merge      several candidates are one tumor: a line for each of     needed
              them, all naming the same mask
   add        a tumor that is missing (line without candidate_id);     needed
              one segment (label) per tumor
   contest    you disagree with an earlier decision; say why           -
   undo       take back your last decision on this candidate/organ     -
   sign_off   the organ is finished, also where it holds no tumor      -
              (line without candidate_id, senior reviewers only, last)
   withdraw   take the organ out of the release again (senior only)    -

   reviewer_id  your id in the roster
   time         UTC, as 2026-11-21T14:05:00Z
   seconds      how long you took (may be empty)
   reason, comment, tool   free text (may be empty)
   base_sha256  leave it as it is: it tells which version you looked at
   mask         the mask's file name, as seen from decisions.csv: masks/patient1_liver.seg.nrrd

3. Save masks as .seg.nrrd (3D Slicer) or .nii.gz. Draw on this ct.nii.gz.
   - Edited candidates: change their segment in candidates.seg.nrrd. In a .nii.gz keep the
     candidate's number as label.
   - New tumors and the parts of a split: new segments. In a .nii.gz use labels above the highest
     candidate number of that organ.
   - One file may hold all edited candidates of an organ. For add, split and merge save a file
     of its own.
4. Send back decisions.csv and the masks. Lines that cannot be taken in come back with the
   reason; the others count.
"""


def write_packet(
    folder: Path,
    *,
    case_id: str,
    organ: str,
    ct_path: Path,
    candidates: NDArray[np.uint16],
    rows: Iterable[Mapping[str, Any]],
    organ_mask: NDArray[np.bool_] | None,
    grid: Grid,
    base_sha256: str,
) -> list[dict[str, Any]]:
    """Write the files of one case and organ, and return its rows of the worklist.

    Parameters
    ----------
    folder
        Folder of the case; gets ``ct.nii.gz`` (a copy: a reviewer who saves over it must not
        reach the pipeline's file) and ``<organ>/``: ``candidates.nii.gz`` and
        ``candidates.seg.nrrd`` if there are candidates, ``organ.nii.gz`` if the organ is known.
    case_id, organ
        What the packet is about.
    ct_path
        The case's CT on ``grid``.
    candidates
        uint16 (z, y, x), 0 or a candidate's number.
    rows
        Rows of the table ``candidates`` of this case and organ.
    organ_mask
        bool (z, y, x), or None where the organ is unknown.
    grid
        The native grid.
    base_sha256
        Hash of the mask that is shown, `tumoratlas.review.masks.mask_sha256` of ``candidates``.

    Returns
    -------
    One row per candidate by number, then one for the organ with an empty ``candidate_id``, on
    which a reviewer adds tumors and signs off.

    Raises
    ------
    ValueError
        The map's labels are not the numbers of the rows.
    """
    rows = sorted(rows, key=lambda row: row["number"])
    numbers = [int(row["number"]) for row in rows]
    count = max(int(candidates.max(initial=0)), *numbers, 0)
    statistics = label_statistics(candidates, count)
    if [n + 1 for n in np.flatnonzero(statistics.voxels)] != numbers:
        raise ValueError(f"{case_id} {organ}: the map's labels are not the rows' {numbers}")
    _copy_once(ct_path, folder / "ct.nii.gz")
    place = folder / organ
    if rows:
        write_nifti(place / "candidates.nii.gz", candidates, grid)
        _write_seg_nrrd(place / "candidates.seg.nrrd", organ, candidates, rows, grid)
    if organ_mask is not None:
        write_nifti(place / "organ.nii.gz", organ_mask.astype(np.uint8), grid)
    head = {"case_id": case_id, "organ": organ}
    work = []
    for row, number in zip(rows, numbers, strict=True):
        index_zyx = statistics.index_sum[number - 1] / statistics.voxels[number - 1]
        centroid = (grid.affine @ [*index_zyx[::-1], 1.0])[:3]
        work.append(
            {
                **head,
                "candidate_id": row["candidate_id"],
                "number": number,
                "volume_mm3": round(row["volume_mm3"], 1),
                "radius_mm": round(row["radius_mm"], 2),
                "max_p": round(row["max_p"], 3),
                "centroid_ras_mm": [round(float(v), 1) for v in centroid],
                "base_sha256": base_sha256,
            }
        )
    return [*work, {**head, "candidate_id": "", "base_sha256": base_sha256}]


def write_batch_files(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``worklist.csv``, ``decisions.csv`` and ``README.txt`` of a batch.

    Parameters
    ----------
    folder
        Folder of the batch.
    rows
        The rows that `write_packet` returned, of all cases and organs, in the order of reading.

    Notes
    -----
    ``decisions.csv`` has the rows of the worklist with an empty decision. One that is there
    already is kept: it may hold a reviewer's work.
    """
    rows = list(rows)
    write_csv(folder / "worklist.csv", rows, WORKLIST_COLUMNS)
    if not (folder / "decisions.csv").exists():
        write_csv(folder / "decisions.csv", rows, DECISION_COLUMNS)
    write_text(folder / "README.txt", README)


def _copy_once(source: Path, target: Path) -> None:
    if target.exists() and filecmp.cmp(source, target, shallow=False):
        return
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_seg_nrrd(
    path: Path,
    organ: str,
    candidates: NDArray[np.uint16],
    rows: list[Mapping[str, Any]],
    grid: Grid,
) -> None:
    """Write a 3D Slicer segmentation with one segment per candidate, named and tagged."""
    small = max(int(row["number"]) for row in rows) <= np.iinfo(np.uint8).max
    segments = [
        {
            "id": row["candidate_id"],
            "name": f"{organ} candidate {int(row['number'])}",
            "labelValue": int(row["number"]),
            "layer": 0,
            "color": _color(int(row["number"])),
            "status": "notstarted",
            "tags": {CANDIDATE_TAG: row["candidate_id"]},
        }
        for row in rows
    ]
    segmentation = {
        "voxels": candidates.transpose(2, 1, 0).astype(np.uint8 if small else np.uint16),
        "ijkToLPS": LPS_TO_RAS @ grid.affine,
        "containedRepresentationNames": ["Binary labelmap", "Closed surface"],
        "segments": segments,
    }
    stream = io.BytesIO()
    slicerio.write_segmentation(stream, segmentation, compression_level=6)
    # The writer puts the time of day into a comment of the header.
    data = re.sub(rb"\n# on [^\n]*\n", b"\n", stream.getvalue(), count=1)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _color(number: int) -> list[float]:
    """Return a colour (r, g, b) far from its neighbours': hues in steps of the golden angle."""
    return [round(v, 3) for v in colorsys.hsv_to_rgb(number * 0.381966 % 1.0, 0.8, 1.0)]
