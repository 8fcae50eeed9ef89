"""Masks of review: regions on a scan's grid, their place in space, and the store.

Tools re-orient and crop what they save: 3D Slicer writes LPS NRRD, often cut to the smallest
box. A mask is placed by its geometry alone, never by its array shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.files import sha256_bytes, sha256_json
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti, write_nifti

SAME_GRID_VOXELS = 0.1
CANDIDATE_TAG = "candidate_id"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Segment:
    """One labelled region of a returned file.

    Attributes
    ----------
    name
        As the tool shows it.
    number
        Its label value in a label map, None in a segmentation file.
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


def load_mask(
    folder: Path, sha256: str, *, max_voxels: int, grid: Grid | None = None
) -> NDArray[np.uint16]:
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
    if grid is not None and (
        file.grid.corner_distance_mm(grid) > SAME_GRID_VOXELS * min(grid.spacing_mm)
    ):
        raise grid_error(path, "it was drawn on an earlier form of the scan")
    return file.array


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
        raise grid_error(path, "the affine is not finite")
    turn = np.round(relation[:3, :3])
    if not np.array_equal(np.abs(turn) @ np.abs(turn).T, np.eye(3)):
        raise grid_error(path, f"axes {relation[:3, :3].round(3).tolist()} to the scan's")
    origin = np.round(relation[:3, 3])
    ends = [(0, n - 1) for n in grid.shape[::-1]]
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1)
    snapped = turn @ corners + origin[:, None]
    moved = relation[:3, :3] @ corners + relation[:3, 3:] - snapped
    displacement = float(np.linalg.norm(moved, axis=0).max())
    if displacement > SAME_GRID_VOXELS:
        raise grid_error(path, f"corners displaced by {displacement:.3g} voxels")
    low = snapped.min(axis=1).astype(int)
    order = np.abs(turn).argmax(axis=1)
    turned = array.transpose(2, 1, 0).transpose(tuple(order))
    flips = turn[np.arange(3), order] < 0
    turned = turned[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    turned = turned.transpose(2, 1, 0)
    if not may_be_part and (low.any() or turned.shape != target.shape):
        raise grid_error(path, f"box of {turned.shape} at {low[::-1].tolist()} voxels")
    return _paste(turned, low[::-1], target.shape, path)


def mask_error(
    code: str, subject: object, reason: str, remedy: str, evidence: str = ""
) -> ReviewError:
    """Return the error of a returned mask that cannot be taken in."""
    return ReviewError(code, subject, reason, remedy=remedy, evidence=evidence)


def _paste(
    array: NDArray[Any], start: NDArray[np.int_], shape: tuple[int, int, int], path: Path
) -> NDArray[Any]:
    out = np.zeros(shape, array.dtype)
    low = np.maximum(start, 0)
    high = np.minimum(start + array.shape, shape)
    inside = tuple(slice(a, max(a, b)) for a, b in zip(low - start, high - start, strict=True))
    if np.count_nonzero(array) != np.count_nonzero(array[inside]):
        raise grid_error(path, "set voxels lie outside the scan")
    out[tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))] = array[inside]
    return out


def grid_error(path: Path, evidence: str) -> ReviewError:
    """Return the error of a mask that does not lie on the scan's voxels."""
    return mask_error(
        "MASK_GRID",
        path,
        "the mask is not on the scan's grid",
        "Draw on the scan of the packet and save with its geometry",
        evidence,
    )


def value_error(path: Path, evidence: str) -> ReviewError:
    """Return the error of a mask whose values are not labels."""
    return mask_error(
        "MASK_VALUES",
        path,
        "the values are not labels of this file",
        "Save a label map of whole numbers, not a smooth or resampled one",
        evidence,
    )
