"""DICOM SEG objects as masks: placed by their geometry, whichever frames they leave out."""

from __future__ import annotations

import io
import math
import re
import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.images.grid import Grid
from tumoratlas.images.inflate import read_bytes, refuse_impostors
from tumoratlas.review.masks import (
    LPS_TO_RAS,
    Segment,
    mask_error,
    place,
    value_error,
    voxels_by_label,
)

_MOST_SEGMENTS = 255
_HEADER_BYTES = 1 << 24
# What `tumoratlas.candidates.propose` and `tumoratlas.review.merge.instances` give as ids.
_CANDIDATE_ID = re.compile(r"[0-9a-f]{16}")
# (slice, row, column) indices, as the library counts them, to (x, y, z).
_REVERSED = np.eye(4)[:, [2, 1, 0, 3]]


def read_dicom_seg(path: Path, grid: Grid) -> list[Segment]:
    """Read the segments of a DICOM SEG object (binary, fractional or label map) onto a grid.

    Only the geometry says where a frame lies: objects leave out empty frames and may hold them
    in any order. A segment names its candidate by its tracking id or its label.

    Parameters
    ----------
    path
        The object; nothing but its segments is read.
    grid
        The scan's native grid.

    Returns
    -------
    The segments that have a voxel, by number; they may overlap.

    Raises
    ------
    ReviewError
        MASK_UNREADABLE: no DICOM SEG, or of no regular volume. MASK_VALUES: fractions other
        than 0 and 1. MASK_GRID.
    InputError
        The file is missing, not whole or too large.
    """
    voxels = math.prod(grid.shape)
    data = read_bytes(path, max_bytes=8 * voxels + _HEADER_BYTES)
    refuse_impostors(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names and values that this project never reads
            segmentation = hd.seg.segread(io.BytesIO(data))
        numbers = list(segmentation.segment_numbers)
        frame = segmentation.Rows * segmentation.Columns
    except Exception as error:  # a parser of foreign bytes raises whatever it meets
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    if len(numbers) > _MOST_SEGMENTS or frame > 8 * voxels:
        raise _unreadable(path, f"{len(numbers)} segments of {frame} pixels")
    found: dict[int, NDArray[np.int64]] = {}
    # Segments of a label map cannot overlap; others are read one by one, as they may.
    together = [numbers] if segmentation.SegmentationType == "LABELMAP" else [[n] for n in numbers]
    for some in together:
        array, own = _volume(path, segmentation, some, 8 * voxels)
        found |= voxels_by_label(place(array, own, grid, path=path, may_be_part=True))
    segments = []
    for number in sorted(found):
        facts = segmentation.get_segment_description(number)
        tracked = str(facts.tracking_id or "")
        candidate_id = tracked if _CANDIDATE_ID.fullmatch(tracked) else None
        segments.append(Segment(str(facts.segment_label), None, candidate_id, found[number]))
    return segments


def _volume(
    path: Path, segmentation: hd.seg.Segmentation, numbers: list[int], most_voxels: int
) -> tuple[NDArray[np.uint16], Grid]:
    """Return segments as their numbers (z, y, x), without the frames left out at the ends."""
    try:
        geometry = segmentation.get_volume_geometry()
        if geometry is None:
            raise ValueError("its frames form no regular volume")
        if math.prod(geometry.spatial_shape) > most_voxels:
            raise ValueError(f"a volume of {geometry.spatial_shape} voxels")
        volume = segmentation.get_volume(segment_numbers=numbers, combine_segments=len(numbers) > 1)
    except Exception as error:  # the library reports every defect of an object in its own way
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    array = volume.array
    if array.ndim == 4:
        array = array[..., 0]
        if not np.isin(np.unique(array), (0, 1)).all():
            raise value_error(path, "fractions")
        array = array * numbers[0]
    affine = LPS_TO_RAS @ np.asarray(volume.affine) @ _REVERSED
    return array.astype(np.uint16), Grid.of(array.shape, affine)


def _unreadable(path: Path, evidence: str) -> ReviewError:
    return mask_error(
        "MASK_UNREADABLE",
        path,
        "not a usable DICOM SEG object",
        "Save the segmentation as DICOM SEG again, or as .seg.nrrd",
        evidence.replace(str(path), path.name)[:300],
    )
