"""One organ of a case in a review packet: candidates, outline, and its rows of the worklist."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicerio
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.files import replacing
from tumoratlas.images.components import label_statistics
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.review.masks import CANDIDATE_TAG, LPS_TO_RAS
from tumoratlas.review.packets.labels import OUTLINE_TAG, case_label, color_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class PacketOrgan:
    """What a packet shows of one organ of a case.

    Attributes
    ----------
    candidates
        uint16 (z, y, x) on the case's grid, 0 or a candidate's number.
    rows
        Rows of the table ``candidates`` of this case and organ.
    organ_mask
        bool (z, y, x), or None where the organ is unknown.
    base_sha256
        Hash of the mask that is shown, `tumoratlas.review.masks.mask_sha256` of ``candidates``.
    missed_ras_mm
        Places (right, anterior, superior, in mm) where a reader saw a tumor that is to be drawn.
    """

    candidates: NDArray[np.uint16]
    rows: Sequence[Mapping[str, Any]]
    organ_mask: NDArray[np.bool_] | None
    base_sha256: str
    missed_ras_mm: Sequence[tuple[float, float, float]] = ()


def write_packet(
    folder: Path, *, case_id: str, organ: str, shown: PacketOrgan, grid: Grid
) -> list[dict[str, Any]]:
    """Write the files of one case and organ, and return its rows of the worklist.

    Parameters
    ----------
    folder
        Folder of the case; gets ``<organ>/``: ``candidates.nii.gz`` and ``candidates.seg.nrrd``
        if there are candidates, ``organ.nii.gz`` if the organ is known.
    case_id, organ
        What the packet is about.
    shown
        What it shows.
    grid
        The native grid.

    Returns
    -------
    One row per candidate by number, then one for the organ with an empty ``candidate_id``, on
    which a reviewer adds tumors and signs off.

    Raises
    ------
    ReviewError
        NAME_INVALID, TOO_MANY_CANDIDATES.
    ValueError
        The map's labels are not the numbers of the rows.
    """
    rows = sorted(shown.rows, key=lambda row: row["number"])
    for name in (case_id, organ, *(row["candidate_id"] for row in rows)):
        require_name(name)
    numbers = [int(row["number"]) for row in rows]
    count = max(int(shown.candidates.max(initial=0)), *numbers, 0)
    if count:
        case_label(organ, count)  # refuses a number that has no label of its own
    statistics = label_statistics(shown.candidates, count)
    if [n + 1 for n in np.flatnonzero(statistics.voxels)] != numbers:
        raise ValueError(f"{case_id} {organ}: the map's labels are not the rows' {numbers}")
    place = folder / organ
    if rows:
        write_nifti(place / "candidates.nii.gz", shown.candidates, grid)
        _write_seg_nrrd(place / "candidates.seg.nrrd", organ, shown, rows, grid)
    if shown.organ_mask is not None:
        write_nifti(place / "organ.nii.gz", shown.organ_mask.astype(np.uint8), grid)
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
                "base_sha256": shown.base_sha256,
            }
        )
    missed = [round(float(v), 1) for point in shown.missed_ras_mm for v in point]
    last = {"candidate_id": "", "missed_ras_mm": missed, "base_sha256": shown.base_sha256}
    return [*work, {**head, **last}]


def require_name(name: str) -> None:
    """Refuse what would leave the folder, or break the header of a segmentation file."""
    if not _NAME.fullmatch(name):
        raise ReviewError(
            "NAME_INVALID", repr(name), "not a plain file name",
            remedy="Use letters, digits, - and _ only",
        )  # fmt: skip


def _write_seg_nrrd(
    path: Path, organ: str, shown: PacketOrgan, rows: list[Mapping[str, Any]], grid: Grid
) -> None:
    """Write a 3D Slicer segmentation: a segment per candidate, and the organ's outline.

    The outline overlaps the candidates and so lies in a second layer; its tag `OUTLINE_TAG`
    says that it is no tumor.
    """
    small = max(int(row["number"]) for row in rows) <= np.iinfo(np.uint8).max
    layers = [shown.candidates.transpose(2, 1, 0).astype(np.uint8 if small else np.uint16)]
    segments: list[dict[str, Any]] = [
        {
            "id": row["candidate_id"],
            "name": f"{organ} candidate {int(row['number'])}",
            "labelValue": int(row["number"]),
            "layer": 0,
            "color": color_of(int(row["number"])),
            "status": "notstarted",
            "tags": {CANDIDATE_TAG: row["candidate_id"]},
        }
        for row in rows
    ]
    if shown.organ_mask is not None:
        layers.append(shown.organ_mask.transpose(2, 1, 0).astype(layers[0].dtype))
        segments.append(
            {
                "id": f"{organ}_outline",
                "name": f"{organ} (outline)",
                "labelValue": 1,
                "layer": 1,
                "color": [0.85, 0.85, 0.85],
                "tags": {OUTLINE_TAG: organ},
            }
        )
    segmentation = {
        "voxels": np.stack(layers) if len(layers) > 1 else layers[0],
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
