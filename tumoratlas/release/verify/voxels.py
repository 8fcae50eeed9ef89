"""Passes over whole volumes, each voxel seen once: masks are joined and boxed on the way.

Rows are searched as a whole first: loops without a branch become vector code, and most rows of
a mask hold nothing.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tumoratlas.images.components import Box


@dataclass(frozen=True)
class Part:
    """The part of a volume that holds something.

    Attributes
    ----------
    box
        Box of the non-zero voxels, of all columns x; empty if there are none.
    array
        A copy of the voxels there.
    """

    box: Box
    array: NDArray[np.unsignedinteger]


def paint(mask: NDArray[np.uint8], *targets: tuple[NDArray[np.uint8], int]) -> tuple[int, Box]:
    """Set what a mask covers to a value, in two volumes at most.

    Parameters
    ----------
    mask
        uint8 (z, y, x); every non-zero voxel counts.
    targets
        Volumes uint8 (z, y, x) and the value to set.

    Returns
    -------
    All bits that are set in any voxel of the mask, and the box of its voxels (see `Part`).
    """
    nothing = (np.zeros((0, 0, 0), np.uint8), 0)
    (first, one), (second, two) = (*targets, nothing, nothing)[:2]
    bits, box = _paint(mask, first, np.uint8(one), second, np.uint8(two))
    return int(bits), _box(box, mask.shape[2])


def filled_part(array: NDArray[np.unsignedinteger]) -> Part:
    """Return the part of a volume (z, y, x) that holds something."""
    box = _box(_bounds(array), array.shape[2])
    return Part(box, array[box].copy())


def differences(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    """Return in how many voxels two volumes uint8 (z, y, x) differ."""
    return int(_differences(a.reshape(-1, a.shape[2]), b.reshape(-1, b.shape[2])))


def _box(bounds: NDArray[np.int64], columns: int) -> Box:
    z0, y0, z1, y1 = map(int, bounds)
    return slice(z0, z1), slice(y0, y1), slice(0, columns)


@njit(cache=True, nogil=True)
def _paint(mask, first, one, second, two):  # noqa: ANN001, ANN202 (compiled; see paint)
    nz, ny, nx = mask.shape
    bounds = np.array([nz, ny, 0, 0])
    all_bits = np.uint8(0)
    for z in range(nz):
        for y in range(ny):
            row = mask[z, y]
            bits = np.uint8(0)
            for x in range(nx):
                bits = np.uint8(bits | row[x])
            if bits == 0:
                continue
            all_bits = np.uint8(all_bits | bits)
            bounds[0] = min(bounds[0], z)
            bounds[1] = min(bounds[1], y)
            bounds[2] = z + 1
            bounds[3] = max(bounds[3], y + 1)
            if one:
                target = first[z, y]
                for x in range(nx):
                    target[x] = one if row[x] != 0 else target[x]
            if two:
                target = second[z, y]
                for x in range(nx):
                    target[x] = two if row[x] != 0 else target[x]
    if bounds[2] == 0:
        bounds[:] = 0
    return all_bits, bounds


@njit(cache=True, nogil=True)
def _bounds(array):  # noqa: ANN001, ANN202 (compiled; see filled_part)
    nz, ny, nx = array.shape
    bounds = np.array([nz, ny, 0, 0])
    for z in range(nz):
        for y in range(ny):
            row = array[z, y]
            bits = row[0]
            for x in range(nx):
                bits = array.dtype.type(bits | row[x])
            if bits == 0:
                continue
            bounds[0] = min(bounds[0], z)
            bounds[1] = min(bounds[1], y)
            bounds[2] = z + 1
            bounds[3] = max(bounds[3], y + 1)
    if bounds[2] == 0:
        bounds[:] = 0
    return bounds


@njit(cache=True, nogil=True)
def _differences(a, b):  # noqa: ANN001, ANN202 (compiled; uint8 rows)
    count = 0
    for y in range(a.shape[0]):
        one, two = a[y], b[y]
        bits = np.uint8(0)
        for x in range(a.shape[1]):
            bits = np.uint8(bits | (one[x] ^ two[x]))
        if bits != 0:
            for x in range(a.shape[1]):
                count += one[x] != two[x]
    return count
