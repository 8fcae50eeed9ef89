"""Diameters of one tumor between voxel centers.

Every diameter here is a distance between two voxel centers, as a caliper set on a viewer's
voxels gives it: a tumor of one voxel has diameter 0. Tools that measure on the surface mesh
(pyradiomics) add up to one voxel spacing.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

# Pairs whose lengths differ by less than this share, in square, are equally long: the result
# then does not depend on how the volume is turned.
TIE = 1e-9
# Below this many points all pairs are cheaper than their convex hull.
FEW_POINTS = 200


def axial_diameters_mm(
    slices: NDArray[np.bool_], columns_mm: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the longest axial diameter and the diameter across it, in mm.

    The longest diameter is the largest distance between two voxel centers of one slice (RECIST
    1.1; the line may leave the tumor). The perpendicular is the full width of the tumor in that
    slice at a right angle to it, between the outermost voxel centers. Among equally long
    diameters the one with the larger perpendicular counts.

    Parameters
    ----------
    slices
        The tumor's voxels, bool (slice, row, column).
    columns_mm
        Steps in mm from one row and from one column to the next, float64 (3, 2); they need not
        be at a right angle.
    """
    return _axial_diameters(slices.view(np.uint8), _plane_steps(columns_mm))


def max_diameter_mm(voxels: NDArray[np.bool_], columns_mm: NDArray[np.float64]) -> float:
    """Return the largest distance between two voxel centers, in mm.

    Only the two ends of each row of voxels can be corners of the convex hull, and only its
    corners can be farthest apart.

    Parameters
    ----------
    voxels
        The tumor's voxels, bool (z, y, x).
    columns_mm
        Steps in mm along z, y and x, float64 (3, 3).
    """
    # Rows along the longest side: few of them, even in a tumor as flat as one voxel.
    axis = int(np.argmax(voxels.shape))
    order = [other for other in range(3) if other != axis] + [axis]
    voxels, columns_mm = voxels.transpose(order), columns_mm[:, order]
    filled = voxels.any(axis=2)
    first = voxels.argmax(axis=2)[filled]
    last = voxels.shape[2] - 1 - voxels[:, :, ::-1].argmax(axis=2)[filled]
    rows = np.argwhere(filled)
    ends = np.vstack([np.column_stack([rows, first]), np.column_stack([rows, last])])
    if len(ends) > FEW_POINTS:
        try:
            ends = ends[ConvexHull(ends).vertices]
        except QhullError:
            pass  # All in one plane or line: few enough for all pairs.
    return float(np.sqrt(_longest_square(ends @ columns_mm.T)))


def _plane_steps(columns_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the two steps (3, 2) in axes of their own plane, (2, 2)."""
    row, column = columns_mm.T
    along = row / np.linalg.norm(row)
    across = column - (column @ along) * along
    across /= np.linalg.norm(across)
    axes = np.vstack([along, across])
    return np.ascontiguousarray(axes @ columns_mm)


@njit(cache=True)
def _longest_square(points):  # noqa: ANN001, ANN202 (compiled; float64 (n, 3), mm)
    longest = 0.0
    for i in range(len(points)):
        for j in range(i):
            square = 0.0
            for k in range(points.shape[1]):
                square += (points[i, k] - points[j, k]) ** 2
            longest = max(longest, square)
    return longest


@njit(cache=True)
def _slice_ends(plane, steps):  # noqa: ANN001, ANN202 (compiled)
    """First and last voxel center of every row of a slice, (n, 2) in mm."""
    rows, columns = plane.shape
    ends = np.empty((2 * rows, 2))
    count = 0
    for y in range(rows):
        left = 0
        while left < columns and plane[y, left] == 0:
            left += 1
        if left == columns:
            continue
        right = columns - 1
        while plane[y, right] == 0:
            right -= 1
        for x in (left, right):
            ends[count, 0] = steps[0, 0] * y + steps[0, 1] * x
            ends[count, 1] = steps[1, 0] * y + steps[1, 1] * x
            count += 1
    return ends[:count]


@njit(cache=True)
def _axial_diameters(slices, steps):  # noqa: ANN001, ANN202 (compiled; see axial_diameters_mm)
    longest = 0.0
    for z in range(slices.shape[0]):
        longest = max(longest, _longest_square(_slice_ends(slices[z], steps)))
    widest = 0.0
    if longest == 0.0:
        return 0.0, 0.0
    for z in range(slices.shape[0]):
        ends = _slice_ends(slices[z], steps)
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
