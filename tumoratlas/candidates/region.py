"""The part of a scan in which an organ's tumors are looked for.

A tumor of an organ lies in it or against it, so that the network need not see the whole scan.
Where the organ's place is not known for certain, all of the scan is the region.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from tumoratlas.core.structures import structures
from tumoratlas.images.grid import Grid

Box = tuple[slice, slice, slice]

ORGAN = "organ"
UNKNOWN = "organ_unknown"
EMPTY = "organ_empty"
SMALL = "organ_small"

# Less than a fifth of the smallest of the six organs (esophagus, about 30 ml): a failed mask,
# or a sliver at the border of the field of view.
SMALLEST_ORGAN_MM3 = 5000.0
# Distances are measured between blocks of this many voxels: an eighth of the time.
_BLOCK = 2
_CORNERS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Region:
    """Where one organ's model predicts.

    Attributes
    ----------
    mask
        bool (z, y, x) on the model grid.
    basis
        Why it is this part: ``organ`` (the mask grown by the margin), or the whole scan
        because no source drew all of the organ (``organ_unknown``), because the organ's mask
        is empty (``organ_empty``) or too small to be the organ (``organ_small``).
    """

    mask: NDArray[np.bool_]
    basis: str


def whole_scan(shape: tuple[int, ...], basis: str = UNKNOWN) -> Region:
    """Return the region that is all of a scan."""
    return Region(np.ones(shape, bool), basis)


def is_organ_known(organ: str, drawn: Collection[str]) -> bool:
    """Return whether the structures that sources drew hold all of a tumor organ.

    A pair needs both sides, or the mask that names no side.
    """
    names = {s.name for s in structures().values() if (s.kind, s.organ) == ("organ", organ)}
    sides = {name for name in names if name.endswith(("_left", "_right"))}
    return bool((names - sides) & set(drawn)) or bool(sides) and sides <= set(drawn)


def organ_region(
    organ: NDArray[np.bool_], grid: Grid, model_grid: Grid, margin_mm: float
) -> Region:
    """Return the region around an organ's mask.

    A mask that ends at the border of the field of view is taken as it is: there is nothing
    beyond. An empty mask means the whole scan and not none of it, because a tumor that has
    taken the place of its organ is what empties the mask of an organ's segmentation.

    Parameters
    ----------
    organ
        The whole organ, bool (z, y, x) on ``grid``.
    grid, model_grid
        The scan's own grid and the model grid; parallel axes that point the same way.
    margin_mm
        Every voxel whose center is at most so far from one of the organ's is in the region; so
        are some up to 6 voxels farther.
    """
    volume_mm3 = np.count_nonzero(organ) * grid.voxel_volume_mm3
    if volume_mm3 < SMALLEST_ORGAN_MM3:
        return whole_scan(model_grid.shape, SMALL if volume_mm3 else EMPTY)
    near = grow_mask(_touched(organ, grid, model_grid), model_grid.spacing_mm[::-1], margin_mm)
    return Region(near, ORGAN)


def grow_mask(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, ...], margin_mm: float
) -> NDArray[np.bool_]:
    """Return a mask (z, y, x) with all voxels up to a distance, and some a little farther.

    Distances are those between the centers of blocks of 2 x 2 x 2 voxels, lengthened by what
    two voxels' places in their blocks can add.
    """
    grown = np.zeros_like(mask)
    if not mask.any():
        return grown
    spacing = np.array(spacing_mm)
    reach = np.ceil(margin_mm / spacing).astype(int) + 2 * _BLOCK
    box = box_of(mask)
    near = tuple(
        slice(max(0, s.start - r), min(n, s.stop + r))
        for s, r, n in zip(box, reach, mask.shape, strict=True)
    )
    part = mask[near]
    sizes = [-(-n // _BLOCK) * _BLOCK for n in part.shape]
    padded = np.zeros(sizes, bool)
    padded[tuple(map(slice, part.shape))] = part
    z, y, x = (n // _BLOCK for n in sizes)
    blocks = padded.reshape(z, _BLOCK, y, _BLOCK, x, _BLOCK).any(axis=(1, 3, 5))
    slack_mm = np.linalg.norm((_BLOCK - 1) * spacing)
    close = ndi.distance_transform_edt(~blocks, sampling=_BLOCK * spacing) <= margin_mm + slack_mm
    for axis in range(3):
        close = close.repeat(_BLOCK, axis=axis)
    grown[near] = close[tuple(map(slice, part.shape))]
    return grown


def cut_off(
    reached: NDArray[np.bool_],
    done: NDArray[np.bool_],
    spacing_mm: tuple[float, ...],
    step_mm: float,
) -> NDArray[np.bool_]:
    """Return what must be predicted too, since something found reaches the region's border.

    Parameters
    ----------
    reached
        What was found, bool (z, y, x), within ``done``.
    done
        What was predicted.
    spacing_mm, step_mm
        Voxel spacing (z, y, x), and how far to go on around the places where it is cut.

    Returns
    -------
    bool (z, y, x), none of it in ``done``; empty where nothing is cut.
    """
    inner = ndi.binary_erosion(done, _CORNERS, border_value=1)
    return grow_mask(reached & ~inner, spacing_mm, step_mm) & ~done


def box_of(mask: NDArray[np.bool_]) -> Box:
    """Return the bounding box of a mask that is not empty."""
    sides = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        sides.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return (sides[0], sides[1], sides[2])


def _touched(organ: NDArray[np.bool_], grid: Grid, model_grid: Grid) -> NDArray[np.bool_]:
    """Return the model grid's voxels in which a voxel center of the organ lies."""
    to_model = np.linalg.inv(model_grid.affine) @ grid.affine
    box = box_of(organ)
    part = organ[box]
    places = []
    for axis, side in enumerate(box):
        xyz = 2 - axis
        index = to_model[xyz, xyz] * np.arange(side.start, side.stop) + to_model[xyz, 3]
        index = np.clip(np.rint(index).astype(int), 0, model_grid.shape[axis] - 1)
        # Voxels of one target lie side by side.
        targets, starts = np.unique(index, return_index=True)
        part = np.logical_or.reduceat(part, starts, axis=axis)
        places.append(targets)
    touched = np.zeros(model_grid.shape, bool)
    touched[np.ix_(*places)] = part
    return touched
