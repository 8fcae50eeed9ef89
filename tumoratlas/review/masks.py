"""Masks of reviewers: read from what their tools save, placed on the scan's grid, and stored.

Tools re-orient and crop what they save: 3D Slicer writes LPS NRRD, often cut to the smallest
box. A mask is placed by its geometry alone, never by its array shape.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import slicerio
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.files import sha256_bytes, sha256_json
from tumoratlas.images.grid import Grid
from tumoratlas.images.inflate import inflate, read_bytes, refuse_impostors
from tumoratlas.images.nifti import read_nifti, write_nifti

SAME_GRID_VOXELS = 0.1
CANDIDATE_TAG = "candidate_id"
MASK_SUFFIXES = (".nii.gz", ".seg.nrrd")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
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


@dataclass(frozen=True)
class Segment:
    """One labelled region of a returned file.

    Attributes
    ----------
    name
        As the tool shows it.
    number
        Its label value in a NIfTI file, None in a segmentation file.
    candidate_id
        The candidate that a segmentation file says it is, or None.
    voxels
        Its raster indices on the scan's grid, int64 (n,), ascending.
    """

    name: str
    number: int | None
    candidate_id: str | None
    voxels: NDArray[np.int64]


def voxels_by_label(labels: NDArray[np.integer]) -> dict[int, NDArray[np.int64]]:
    """Return the ascending raster indices of each non-zero label of a (z, y, x) map."""
    flat = labels.ravel()
    indices = np.flatnonzero(flat)
    order = np.argsort(flat[indices], kind="stable")
    indices = indices[order]
    values, starts = np.unique(flat[indices], return_index=True)
    parts = np.split(indices, starts[1:])
    return {int(value): part for value, part in zip(values, parts, strict=bool(len(values)))}


def mask_sha256(array: NDArray[np.uint16], grid: Grid) -> str:
    """Return the hash of a mask's voxels (as uint16) and grid (as a NIfTI header keeps it)."""
    affine = np.float32(grid.affine).astype(float).tolist()
    head = sha256_json({"shape": list(grid.shape), "affine": affine})
    voxels = np.ascontiguousarray(array, dtype="<u2")
    return sha256_bytes(head.encode() + voxels.tobytes())


def store_mask(folder: Path, instances: NDArray[np.uint16], grid: Grid) -> str:
    """Keep an instance map under the hash of its content, and return the hash.

    Parameters
    ----------
    folder
        The store; the file is ``<hash>.nii.gz``.
    instances
        uint16 (z, y, x), 0 background.
    grid
        Its grid, RAS+ as every native grid after harmonization.
    """
    sha256 = mask_sha256(instances, grid)
    path = folder / f"{sha256}.nii.gz"
    if not path.exists():
        write_nifti(path, np.ascontiguousarray(instances, dtype=np.uint16), grid)
    return sha256


def load_mask(folder: Path, sha256: str, *, max_voxels: int) -> NDArray[np.uint16]:
    """Return a stored instance map (z, y, x), verified against its name.

    Raises
    ------
    ReviewError
        STORE_BROKEN: its content is not what its name says.
    InputError
        The file is missing or not whole.
    """
    path = folder / f"{sha256}.nii.gz"
    file = read_nifti(path, max_voxels=max_voxels)
    if file.array.dtype != np.uint16 or mask_sha256(file.array, file.grid) != sha256:
        raise ReviewError(
            "STORE_BROKEN", path, "the content is not what the name says",
            remedy="Restore the mask store from its backup",
        )  # fmt: skip
    return file.array


def read_returned(path: Path, grid: Grid) -> list[Segment]:
    """Read the regions of a returned ``.nii.gz`` or ``.seg.nrrd`` file onto a grid.

    Raises
    ------
    ReviewError
        MASK_FORMAT, MASK_UNREADABLE, MASK_VALUES, MASK_GRID, MASK_EMPTY (no region at all).
    InputError
        The file is missing, not whole or too large.
    """
    if path.name.endswith(".seg.nrrd"):
        segments = _read_seg_nrrd(path, grid)
    elif path.name.endswith(".nii.gz"):
        segments = _read_nifti(path, grid)
    else:
        raise mask_error(
            "MASK_FORMAT",
            path,
            "not a .nii.gz or .seg.nrrd file",
            "Save the mask as NIfTI (.nii.gz) or as a 3D Slicer segmentation",
        )
    if not segments:
        raise mask_error(
            "MASK_EMPTY",
            path,
            "no voxel is set",
            "To remove a candidate, decide reject; otherwise save the mask again",
        )
    return segments


def place(
    array: NDArray[Any], grid: Grid, target: Grid, *, path: Path, may_be_part: bool
) -> NDArray[Any]:
    """Put an array onto a target grid whose voxels it shares, whatever its axis order.

    The largest displacement of a corner decides (at most 0.1 voxel), since it weighs a rotation
    or a spacing by its effect on voxels, which a comparison of affine entries does not.

    Parameters
    ----------
    array
        (z, y, x), integers.
    grid, target
        Its grid and the wanted one.
    path
        The file, for the message.
    may_be_part
        A box cut from (or larger than) the target is placed; otherwise only the same box.

    Returns
    -------
    Array of the target's shape, zero where ``array`` says nothing.

    Raises
    ------
    ReviewError
        MASK_GRID: other voxels, another box, or set voxels outside the target.
    """
    with np.errstate(all="ignore"):
        relation = np.linalg.pinv(target.affine) @ grid.affine
    if not np.isfinite(relation).all():
        raise _grid_error(path, "the affine is not finite")
    turn = np.round(relation[:3, :3])
    if not np.array_equal(np.abs(turn) @ np.abs(turn).T, np.eye(3)):
        raise _grid_error(path, f"axes {relation[:3, :3].round(3).tolist()} to the scan's")
    origin = np.round(relation[:3, 3])
    ends = [(0, n - 1) for n in grid.shape[::-1]]
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1)
    snapped = turn @ corners + origin[:, None]
    moved = relation[:3, :3] @ corners + relation[:3, 3:] - snapped
    displacement = float(np.linalg.norm(moved, axis=0).max())
    if displacement > SAME_GRID_VOXELS:
        raise _grid_error(path, f"corners displaced by {displacement:.3g} voxels")
    low = snapped.min(axis=1).astype(int)
    order = np.abs(turn).argmax(axis=1)
    turned = array.transpose(2, 1, 0).transpose(tuple(order))
    flips = turn[np.arange(3), order] < 0
    turned = turned[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    turned = turned.transpose(2, 1, 0)
    if not may_be_part and (low.any() or turned.shape != target.shape):
        raise _grid_error(path, f"box of {turned.shape} at {low[::-1].tolist()} voxels")
    return _paste(turned, low[::-1], target.shape, path)


def mask_error(code: str, path: Path, reason: str, remedy: str, evidence: str = "") -> ReviewError:
    """Return the error of a returned mask that cannot be taken in."""
    return ReviewError(code, path, reason, remedy=remedy, evidence=evidence)


def _paste(
    array: NDArray[Any], start: NDArray[np.int_], shape: tuple[int, int, int], path: Path
) -> NDArray[Any]:
    out = np.zeros(shape, array.dtype)
    low = np.maximum(start, 0)
    high = np.minimum(start + array.shape, shape)
    inside = tuple(slice(a, max(a, b)) for a, b in zip(low - start, high - start, strict=True))
    if np.count_nonzero(array) != np.count_nonzero(array[inside]):
        raise _grid_error(path, "set voxels lie outside the scan")
    out[tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))] = array[inside]
    return out


def _read_nifti(path: Path, grid: Grid) -> list[Segment]:
    file = read_nifti(path, max_voxels=math.prod(grid.shape))
    array = file.array
    whole = array if array.dtype.kind in "iu" else np.rint(array)
    if whole is not array and not np.array_equal(whole, array):
        raise _value_error(path, "fractions")
    low, high = int(whole.min()), int(whole.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise _value_error(path, f"values {low} to {high}")
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
            raise _value_error(path, f"a segment names layer {layer} of {len(placed)}")
        voxels = placed[layer].pop(value, None)
        if voxels is not None:
            name = str(segment.get("name", segment["id"]))
            candidate_id = segment.get("tags", {}).get(CANDIDATE_TAG)
            segments.append(Segment(name, None, candidate_id, voxels))
    if any(placed):
        raise _value_error(path, "voxels that belong to no segment")
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


def _grid_error(path: Path, evidence: str) -> ReviewError:
    return mask_error(
        "MASK_GRID",
        path,
        "the mask is not on the scan's grid",
        "Draw on the ct.nii.gz of the packet and save with its geometry",
        evidence,
    )


def _value_error(path: Path, evidence: str) -> ReviewError:
    return mask_error(
        "MASK_VALUES",
        path,
        "the values are not labels of this file",
        "Save a label map of whole numbers, not a smooth or resampled one",
        evidence,
    )


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
