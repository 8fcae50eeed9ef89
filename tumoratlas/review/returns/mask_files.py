"""Files in which reviewers return masks: label maps and segmentations of their tools."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import slicerio
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.images.grid import Grid
from tumoratlas.images.inflate import inflate, read_bytes, refuse_impostors
from tumoratlas.images.nifti import read_nifti
from tumoratlas.review.masks import (
    CANDIDATE_TAG,
    LPS_TO_RAS,
    Segment,
    mask_error,
    place,
    value_error,
    voxels_by_label,
)
from tumoratlas.review.packets.labels import ORGANS, OUTLINE_TAG

NIFTI, SEG_NRRD, DICOM_SEG = MASK_SUFFIXES = (".nii.gz", ".seg.nrrd", ".dcm")
FORMATS = "NIfTI (.nii.gz), 3D Slicer segmentation (.seg.nrrd) or DICOM SEG (.dcm)"
# The organ's outline is in a packet to look at; some tools drop its tag and keep its name.
_OUTLINES = frozenset(f"{organ} (outline)" for organ in ORGANS)
_MOST_LAYERS = 64
_HEADER_BYTES = 1 << 24
_INTEGERS = {
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i1": ("signed char", "int8", "int8_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
}
_DTYPES = {name: np.dtype(code) for code, names in _INTEGERS.items() for name in names}


def read_returned(path: Path, grid: Grid) -> list[Segment]:
    """Read the regions of a returned mask file onto a grid, without the organs' outlines.

    Parameters
    ----------
    path
        File with a suffix of `MASK_SUFFIXES`.
    grid
        The scan's native grid.

    Raises
    ------
    ReviewError
        MASK_FORMAT, MASK_UNREADABLE, MASK_VALUES, MASK_GRID, MASK_EMPTY (no region at all).
    InputError
        The file is missing, not whole or too large.
    """
    if path.name.endswith(SEG_NRRD):
        segments = _read_seg_nrrd(path, grid)
    elif path.name.endswith(NIFTI):
        segments = _read_nifti(path, grid)
    elif path.name.endswith(DICOM_SEG):
        # Here, since its libraries take a second to load and few returns hold such a file.
        from tumoratlas.review.returns.dicom_seg import read_dicom_seg

        segments = read_dicom_seg(path, grid)
    else:
        raise mask_error(
            "MASK_FORMAT", path, "not a format of masks", f"Save the mask as {FORMATS}"
        )
    segments = [segment for segment in segments if segment.name not in _OUTLINES]
    if not segments:
        raise mask_error(
            "MASK_EMPTY",
            path,
            "no voxel is set",
            "To remove a candidate, decide reject; otherwise save the mask again",
        )
    return segments


def _read_nifti(path: Path, grid: Grid) -> list[Segment]:
    file = read_nifti(path, max_voxels=math.prod(grid.shape))
    array = file.array
    whole = array if array.dtype.kind in "iu" else np.rint(array)
    if whole is not array and not np.array_equal(whole, array):
        raise value_error(path, "fractions")
    low, high = int(whole.min()), int(whole.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise value_error(path, f"values {low} to {high}")
    labels = place(whole.astype(np.uint16), file.grid, grid, path=path, may_be_part=False)
    return [Segment(f"label {n}", n, None, v) for n, v in voxels_by_label(labels).items()]


def _read_seg_nrrd(path: Path, grid: Grid) -> list[Segment]:
    layers, facts = _read_layers(path, math.prod(grid.shape))
    # An empty segmentation is saved as a single voxel at no particular place.
    if not layers.any():
        return []
    affine = LPS_TO_RAS @ facts["ijkToLPS"]
    own = Grid.of(layers.shape[1:], affine)
    placed = [
        voxels_by_label(place(layer, own, grid, path=path, may_be_part=True)) for layer in layers
    ]
    segments: list[Segment] = []
    for segment in facts["segments"]:
        layer, value = segment.get("layer", 0), segment.get("labelValue", 1)
        if not 0 <= layer < len(placed):
            raise value_error(path, f"a segment names layer {layer} of {len(placed)}")
        voxels = placed[layer].pop(value, None)
        tags = segment.get("tags", {})
        if voxels is not None and OUTLINE_TAG not in tags:
            name = str(segment.get("name", segment["id"]))
            segments.append(Segment(name, None, tags.get(CANDIDATE_TAG), voxels))
    if any(placed):
        raise value_error(path, "voxels that belong to no segment")
    return segments


def _read_layers(path: Path, voxels: int) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return integer layers (layer, z, y, x) and slicerio's facts of a segmentation file.

    The voxels are read here: the library follows a header to other files and checks no CRC.
    """
    data = read_bytes(path, max_bytes=voxels * _MOST_LAYERS + _HEADER_BYTES)
    refuse_impostors(path, data)
    try:
        stream = io.BytesIO(data)
        header = nrrd.read_header(stream)
        facts = dict(slicerio.read_segmentation(str(path), skip_voxels=True))
        sizes = [int(n) for n in header["sizes"]]
        dtype = _DTYPES[str(header["type"]).lower()]
        encoding = str(header["encoding"]).lower()
        order = ">" if header.get("endian") == "big" else "<"
    except Exception as error:  # two parsers of foreign text raise whatever they meet
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    if {"data file", "datafile"} & {key.lower() for key in header}:
        raise _unreadable(path, "its voxels are in another file")
    if len(sizes) not in (3, 4) or min(sizes) < 1:
        raise _unreadable(path, f"sizes {sizes}")
    layers = sizes[0] if len(sizes) == 4 else 1
    # Slicer may save a box larger than the scan, but not by far.
    if layers > _MOST_LAYERS or math.prod(sizes[-3:]) > 8 * voxels:
        raise _unreadable(path, f"sizes {sizes} for a scan of {voxels} voxels")
    payload, size = data[stream.tell() :], math.prod(sizes) * dtype.itemsize
    if encoding in ("gzip", "gz"):
        raw = inflate(path, payload, size)
    elif encoding == "raw" and len(payload) == size:
        raw = np.frombuffer(payload, np.uint8)
    else:
        raise _unreadable(path, f"encoding {encoding}, {len(payload)} bytes of voxels")
    array = raw.view(dtype.newbyteorder(order)).reshape(sizes[::-1])
    array = np.moveaxis(array, -1, 0) if len(sizes) == 4 else array[None]
    return array, facts


def _unreadable(path: Path, evidence: str) -> ReviewError:
    # Parsers put the full path into their messages; a report goes to other people.
    evidence = evidence.replace(str(path), path.name)
    return mask_error(
        "MASK_UNREADABLE",
        path,
        "not a usable 3D Slicer segmentation",
        "Save the segmentation in 3D Slicer again as one .seg.nrrd file",
        evidence,
    )
