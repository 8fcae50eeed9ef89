"""Diameters of one tumor between voxel centers.

Every diameter here is a distance between two voxel centers, as a caliper set on a viewer's
voxels gives it: a tumor of one voxel has diameter 0. Tools that measure on the surface mesh
(pyradiomics) add up to one voxel spacing.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

# Pairs whose lengths differ by less than this share, in square, are equally long: the result
# then does not depend on how the volume is turned.
TIE = 1e-9
# Below this many points all pairs are cheaper than their convex hull.
FEW_POINTS = 2000
# Without these the compiler may not compare several distances at once; sums stay as written.
_COMPARES = {"nnan", "nsz"}


@dataclass(frozen=True)
class Diameters:
    """Diameters of a tumor in mm.

    Attributes
    ----------
    longest_axial_mm
        Largest distance between two voxel centers of one slice (RECIST 1.1; the line may leave
        the tumor).
    perpendicular_mm
        Full width of the tumor in that slice at a right angle to it, between the outermost
        voxel centers. Among equally long diameters the one with the larger width counts.
    max_3d_mm
        Largest distance between two voxel centers.
    """

    longest_axial_mm: float
    perpendicular_mm: float
    max_3d_mm: float


def measure_diameters(slices: NDArray[np.bool_], steps_mm: NDArray[np.float64]) -> Diameters:
    """Measure a tumor's diameters.

    Only the corners of the convex hull of a slice can be farthest apart, in the slice and in
    space. Being a corner does not depend on the steps, so that they are found in whole numbers.

    Parameters
    ----------
    slices
        The tumor's voxels, bool (slice, row, column).
    steps_mm
        Columns: steps in mm from one slice, row and column to the next, float64 (3, 3); they
        need not be at a right angle.
    """
    corners, starts = _corners(np.ascontiguousarray(slices).view(np.uint8))
    in_plane = corners[:, 1:] @ _plane_steps(steps_mm[:, 1:]).T
    longest, perpendicular = _axial_diameters(in_plane, starts)
    if len(corners) > FEW_POINTS:
        try:
            corners = corners[ConvexHull(corners).vertices]
        except QhullError:
            pass  # All in one plane or line.
    places = np.ascontiguousarray((corners @ steps_mm.T).T)
    return Diameters(longest, perpendicular, float(np.sqrt(_longest_square(*places))))


def _plane_steps(columns_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the two steps (3, 2) in axes of their own plane, (2, 2)."""
    row, column = columns_mm.T
    along = row / np.linalg.norm(row)
    across = column - (column @ along) * along
    across /= np.linalg.norm(across)
    axes = np.vstack([along, across])
    return np.ascontiguousarray(axes @ columns_mm)


@njit(cache=True, nogil=True)
def _corners(slices: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the corners of every slice's convex hull, and where those of each slice start.

    Both ends of every row are taken down the slice, and each side keeps those where it turns
    outwards (Andrew's monotone chain, 1979).
    """
    depth, rows, columns = slices.shape
    corners = np.empty((2 * depth * rows, 3), np.int64)
    starts = np.zeros(depth + 1, np.int64)
    count = 0
    for z in range(depth):
        for side in (1, -1):
            first = count
            for y in range(rows):
                row = slices[z, y]
                x = 0 if side == 1 else columns - 1
                while 0 <= x < columns and row[x] == 0:
                    x += side
                if not 0 <= x < columns:
                    continue
                while count - first > 1:
                    a, b = corners[count - 2], corners[count - 1]
                    turn = (b[1] - a[1]) * (x - a[2]) - (b[2] - a[2]) * (y - a[1])
                    if side * turn > 0:
                        break
                    count -= 1
                corners[count] = (z, y, x)
                count += 1
        starts[z + 1] = count
    return corners[:count].copy(), starts


@njit(cache=True, nogil=True, fastmath=_COMPARES)
def _longest_square(
    z: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]
) -> float:
    longest = 0.0
    for i in range(len(z)):
        for j in range(i):
            dz, dy, dx = z[i] - z[j], y[i] - y[j], x[i] - x[j]
            longest = max(longest, dz * dz + dy * dy + dx * dx)
    return longest


@njit(cache=True, nogil=True)
def _axial_diameters(
    corners: NDArray[np.float64], starts: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the longest diameter in a slice and the width across it, in mm."""
    longest = 0.0
    for z in range(len(starts) - 1):
        for i in range(starts[z], starts[z + 1]):
            for j in range(starts[z], i):
                v, u = corners[i, 0] - corners[j, 0], corners[i, 1] - corners[j, 1]
                longest = max(longest, v * v + u * u)
    widest = 0.0
    if longest == 0.0:
        return 0.0, 0.0
    for z in range(len(starts) - 1):
        ends = corners[starts[z] : starts[z + 1]]
        for i in range(len(ends)):
            for j in range(i):
                v = ends[i, 0] - ends[j, 0]
                u = ends[i, 1] - ends[j, 1]
                square = v * v + u * u
                if square < longest * (1.0 - TIE):
                    continue
                across = (v * ends[:, 1] - u * ends[:, 0]) / np.sqrt(square)
                widest = max(widest, across.max() - across.min())
    return np.sqrt(longest), widest
