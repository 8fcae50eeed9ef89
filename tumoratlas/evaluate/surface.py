"""Normalized surface distance (NSD): the share of two surfaces that lies close to the other.

It is the surface Dice of Nikolov et al. (2018, arXiv:1809.04430) as DeepMind's surface-distance
computes it. The surface passes through the voxel corners: the eight voxels around a corner
make a code of eight bits, and each code stands for a piece of a marching-cubes surface whose
area depends on the spacing. A piece is close where a piece of the other surface lies within the
tolerance, measured from corner to corner.

Only pieces within the tolerance are looked for, nearest first, so that no distance map of the
volume is needed. Pieces are counted per code: the result depends neither on their order nor on
how the volume is turned.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import permutations, product

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tumoratlas.core.errors import ConfigError
from tumoratlas.evaluate.overlap import union_box

# The tolerance of DiffTumor's code and of FLARE's for lesions; the paper names none.
TOLERANCE_MM = 2.0
INSIDE = 255
# Surface pieces around a corner, in eighths of a voxel's faces across z, y and x, for one code
# of each kind: all others are these turned, mirrored or inside out. The pieces are those of
# surface-distance's table of 256 codes (Apache-2.0).
PIECES = {
    0b00000001: ((1, 1, 1),),
    0b00000011: ((2, 2, 0), (2, 2, 0)),
    0b00000110: ((1, 1, 1), (1, 1, 1)),
    0b00000111: ((4, 0, 0), (2, 2, 2), (1, 1, 1)),
    0b00001111: ((4, 0, 0), (4, 0, 0)),
    0b00010110: ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    0b00010111: ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    0b00011000: ((1, 1, 1), (1, 1, 1)),
    0b00011001: ((0, 2, 2), (0, 2, 2), (1, 1, 1)),
    0b00011011: ((1, 1, 1), (3, 3, 3), (0, 2, 2), (2, 0, 2)),
    0b00011110: ((4, 0, 0), (1, 1, 1), (2, 2, 2), (1, 1, 1)),
    0b00111100: ((2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0)),
    0b01101001: ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
}


def surface_dice(
    truth: NDArray[np.generic],
    prediction: NDArray[np.generic],
    *,
    spacing_zyx_mm: Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
) -> float:
    """Return the share of both surfaces within a tolerance of the other (NSD).

    Parameters
    ----------
    truth, prediction
        Bool or integer (z, y, x); any non-zero voxel counts.
    spacing_zyx_mm
        Voxel spacing along z, y and x; the axes are taken to be at right angles.
    tolerance_mm
        Largest distance that counts as close, the edge included.

    Returns
    -------
    0 to 1; NaN where both are empty, 0 where one is.

    Raises
    ------
    ConfigError
        The tolerance or a spacing is not a number, or too small.
    GeometryError
        The masks differ in shape.
    """
    spacing = np.array(spacing_zyx_mm, float)
    if not (np.isfinite(spacing) & (spacing > 0)).all() or not 0 <= tolerance_mm < math.inf:
        raise ConfigError(
            "TOLERANCE",
            "tolerance_mm",
            "the spacing must be above 0, the tolerance at least 0",
            remedy="Give both in mm.",
            evidence=f"spacing {spacing.tolist()}, tolerance {tolerance_mm}",
        )
    box = union_box(truth, prediction)
    masks = [np.pad(np.ascontiguousarray(mask[box] != 0), 1) for mask in (truth, prediction)]
    filled = [mask.any() for mask in masks]
    if not all(filled):
        return 0.0 if any(filled) else math.nan
    offsets = _offsets(spacing, tolerance_mm, [part.stop - part.start for part in box])
    first, second = (_corner_codes(mask.view(np.uint8)) for mask in masks)
    counts = _count_pieces(first, second, offsets) + _count_pieces(second, first, offsets)
    areas = piece_areas_mm2(spacing)
    total, close = (math.fsum(row * areas) for row in counts)
    return close / total


def piece_areas_mm2(spacing_zyx_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the surface area in mm2 that each of the 256 corner codes stands for.

    The bits of a code, highest first, are the eight voxels in (z, y, x) order.
    """
    faces = np.prod(spacing_zyx_mm) / spacing_zyx_mm
    return np.array(
        [math.fsum(np.sqrt(((np.array(rows) / 8 * faces) ** 2).sum(axis=1))) if rows else 0.0
         for rows in _all_pieces()]
    )  # fmt: skip


@cache
def _all_pieces() -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """Return the pieces of every code: those of `PIECES` in all 48 positions, and inside out."""
    found: dict[int, tuple[tuple[int, int, int], ...]] = {0: (), INSIDE: ()}
    places = np.arange(8).reshape(2, 2, 2)
    for code, pieces in PIECES.items():
        voxels = np.array([code >> (7 - place) & 1 for place in range(8)])
        for order, flips in product(permutations(range(3)), product((slice(None),
                                    slice(None, None, -1)), repeat=3)):  # fmt: skip
            turned = voxels[places.transpose(order)[flips]].ravel()
            value = int(turned @ (1 << np.arange(7, -1, -1)))
            rows = tuple(tuple(piece[axis] for axis in order) for piece in pieces)
            found[value] = found[INSIDE - value] = rows
    return tuple(found[code] for code in range(256))


def _offsets(
    spacing: NDArray[np.float64], tolerance_mm: float, shape: Sequence[int]
) -> NDArray[np.int64]:
    """Return the steps (n, 3) from a corner to all those within the tolerance, nearest first."""
    reach = np.minimum(np.floor(tolerance_mm / spacing) + 1, shape).astype(int)
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    steps = steps.reshape(-1, 3)
    z, y, x = (steps * spacing).T
    distance = np.sqrt(z * z + y * y + x * x)
    close = np.flatnonzero(distance <= tolerance_mm)
    return steps[close[np.argsort(distance[close], kind="stable")]]


@njit(cache=True)
def _corner_codes(mask):  # noqa: ANN001, ANN202 (compiled; uint8 0 or 1, (z, y, x))
    nz, ny, nx = mask.shape
    codes = np.empty((nz - 1, ny - 1, nx - 1), np.uint8)
    for z in range(nz - 1):
        for y in range(ny - 1):
            a, b, c, d = mask[z, y], mask[z, y + 1], mask[z + 1, y], mask[z + 1, y + 1]
            row = codes[z, y]
            for x in range(nx - 1):
                row[x] = (
                    (a[x] << 7) | (a[x + 1] << 6) | (b[x] << 5) | (b[x + 1] << 4)
                    | (c[x] << 3) | (c[x + 1] << 2) | (d[x] << 1) | d[x + 1]
                )  # fmt: skip
    return codes


@njit(cache=True)
def _count_pieces(own, other, offsets):  # noqa: ANN001, ANN202 (compiled; see surface_dice)
    """Count own corners by code, int64 (2, 256): all, and those close to the other surface."""
    nz, ny, nx = own.shape
    counts = np.zeros((2, 256), np.int64)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                code = own[z, y, x]
                if code == 0 or code == INSIDE:
                    continue
                counts[0, code] += 1
                for i in range(len(offsets)):
                    k, j, n = z + offsets[i, 0], y + offsets[i, 1], x + offsets[i, 2]
                    if 0 <= k < nz and 0 <= j < ny and 0 <= n < nx:
                        there = other[k, j, n]
                        if there != 0 and there != INSIDE:
                            counts[1, code] += 1
                            break
    return counts
