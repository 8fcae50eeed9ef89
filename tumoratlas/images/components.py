"""Connected components of a volume, and their counts and sums in one pass.

Work happens on the box of the non-zero voxels: tumors fill a hundredth of a scan, so that
this alone saves most of the time.
"""

import math
from dataclasses import dataclass

import cc3d
import numpy as np
from numba import njit
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Statistics:
    """Counts and sums of the labels 1 .. n of a label map, row ``i`` for label ``i + 1``.

    All sums are exact integers, so that they do not depend on the order of the voxels. A label
    without voxels has a count of 0 and an empty box.

    Attributes
    ----------
    voxels
        Number of voxels, int64 (n,).
    first_voxel
        Raster index of the first voxel in the label map, int64 (n,).
    index_sum
        Sum of the voxels' (z, y, x) indices, int64 (n, 3).
    box
        Half-open box ``z0, y0, x0, z1, y1, x1``, int64 (n, 6).
    value_sum, square_sum
        Sum of the values and of their squares, int64 (n,); zero where no values were given.
    """

    voxels: NDArray[np.int64]
    first_voxel: NDArray[np.int64]
    index_sum: NDArray[np.int64]
    box: NDArray[np.int64]
    value_sum: NDArray[np.int64]
    square_sum: NDArray[np.int64]


@dataclass(frozen=True)
class Components:
    """The connected components of a mask, largest first, ties by first voxel in raster order.

    Attributes
    ----------
    labels
        uint32 (z, y, x) on the box only: 0 background, 1 .. n the components.
    box
        Where ``labels`` lies in the mask.
    voxels
        Number of voxels of each component, int64 (n,).
    """

    labels: NDArray[np.uint32]
    box: Box
    voxels: NDArray[np.int64]


def equal_volume_radius_mm(volume_mm3: float) -> float:
    """Return the radius in mm of the sphere of this volume, (3 V / 4 pi)^(1/3).

    The size of a tumor in the paper and in DiffTumor's ``voxel2R``.

    Examples
    --------
    >>> round(equal_volume_radius_mm(4188.7902), 4)
    10.0
    """
    return (3.0 * volume_mm3 / (4.0 * math.pi)) ** (1.0 / 3.0)


def minimum_voxels(minimum_volume_mm3: float, voxel_volume_mm3: float) -> int:
    """Return the smallest number of voxels, at least 1, that fills a volume.

    A millionth of a voxel is forgiven: 27 mm3 are 8 voxels of 1.5 mm whatever the rounding of
    the affine's determinant.
    """
    return max(1, math.ceil(minimum_volume_mm3 / voxel_volume_mm3 - 1e-6))


def foreground_box(array: NDArray[np.generic]) -> Box:
    """Return the smallest box of the non-zero voxels of a (z, y, x) array; empty if none is."""
    bounds = _foreground_bounds(_plain(array))
    return tuple(slice(int(a), int(b)) for a, b in zip(bounds[:3], bounds[3:], strict=True))


def find_components(
    mask: NDArray[np.generic], *, connectivity: int, minimum_count: int = 1
) -> Components:
    """Find the connected components of a mask.

    Parameters
    ----------
    mask
        Bool or integer (z, y, x), any non-zero voxel counts.
    connectivity
        6, 18 or 26 neighbours.
    minimum_count
        Components of fewer voxels are left out.
    """
    box = foreground_box(mask)
    crop = np.ascontiguousarray(mask[box] != 0)
    if crop.size == 0:
        return Components(np.zeros(crop.shape, np.uint32), box, np.zeros(0, np.int64))
    # Not as a binary image: there cc3d 4.1.1 counts on too few labels in a thin box of isolated
    # voxels (shape 3 x 1 x 1 with both ends set) and raises RuntimeError.
    labels, count = cc3d.connected_components(
        crop.view(np.uint8), connectivity=connectivity, return_N=True, out_dtype=np.uint32
    )
    statistics = label_statistics(labels, count)
    order = np.lexsort((statistics.first_voxel, -statistics.voxels))
    kept = order[statistics.voxels[order] >= minimum_count]
    renumbered = np.zeros(count + 1, np.uint32)
    renumbered[kept + 1] = np.arange(1, len(kept) + 1)
    return Components(renumbered[labels], box, statistics.voxels[kept])


def label_statistics(
    labels: NDArray[np.unsignedinteger],
    count: int,
    values: NDArray[np.int16] | None = None,
) -> Statistics:
    """Measure every label of a map in one pass.

    Parameters
    ----------
    labels
        uint16 or uint32 (z, y, x), values 0 .. ``count``.
    count
        The largest label.
    values
        int16 (z, y, x) to sum over each label, such as HU.
    """
    has_values = values is not None
    summed = np.ascontiguousarray(values) if has_values else np.zeros((0, 0, 0), np.int16)
    result = _one_pass(_plain(labels), count, summed, has_values)
    return Statistics(*(table[1:] for table in result))


def _plain(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the array C-contiguous and, if bool, seen as uint8: one compiled kernel for both."""
    array = np.ascontiguousarray(array)
    return array.view(np.uint8) if array.dtype == bool else array


@njit(cache=True)
def _foreground_bounds(array):  # noqa: ANN001, ANN202 (compiled; types in foreground_box)
    nz, ny, nx = array.shape
    bounds = np.array([nz, ny, nx, 0, 0, 0])
    for z in range(nz):
        for y in range(ny):
            row = array[z, y]
            left = 0
            while left < nx and row[left] == 0:
                left += 1
            if left == nx:
                continue
            right = nx
            while right > bounds[5] and row[right - 1] == 0:
                right -= 1
            bounds[0] = min(bounds[0], z)
            bounds[1] = min(bounds[1], y)
            bounds[2] = min(bounds[2], left)
            bounds[3] = z + 1
            bounds[4] = max(bounds[4], y + 1)
            bounds[5] = max(bounds[5], right)
    if bounds[3] == 0:
        bounds[:] = 0
    return bounds


@njit(cache=True)
def _one_pass(labels, count, values, has_values):  # noqa: ANN001, ANN202 (see label_statistics)
    voxels = np.zeros(count + 1, np.int64)
    first = np.zeros(count + 1, np.int64)
    index_sum = np.zeros((count + 1, 3), np.int64)
    box = np.zeros((count + 1, 6), np.int64)
    value_sum = np.zeros(count + 1, np.int64)
    square_sum = np.zeros(count + 1, np.int64)
    nz, ny, nx = labels.shape
    for z in range(nz):
        for y in range(ny):
            x = 0
            while x < nx:
                label = labels[z, y, x]
                if label == 0:
                    x += 1
                    continue
                start = x
                while x < nx and labels[z, y, x] == label:
                    if has_values:
                        value = np.int64(values[z, y, x])
                        value_sum[label] += value
                        square_sum[label] += value * value
                    x += 1
                run = x - start
                if voxels[label] == 0:
                    first[label] = (z * ny + y) * nx + start
                    box[label] = np.array([z, y, start, z + 1, y + 1, x])
                else:
                    box[label, 1] = min(box[label, 1], y)
                    box[label, 2] = min(box[label, 2], start)
                    box[label, 3] = z + 1
                    box[label, 4] = max(box[label, 4], y + 1)
                    box[label, 5] = max(box[label, 5], x)
                voxels[label] += run
                index_sum[label, 0] += run * z
                index_sum[label, 1] += run * y
                index_sum[label, 2] += (start + x - 1) * run // 2
    return voxels, first, index_sum, box, value_sum, square_sum
