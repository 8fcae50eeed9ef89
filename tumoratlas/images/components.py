"""Connected components of a volume, and their counts and sums in one pass (see `runs`)."""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tumoratlas.images.runs import Box, Runs, find_runs, join_runs, paint_runs


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
        The smallest box of the mask's non-zero voxels, where ``labels`` lies.
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
    return find_runs(array, of_equal_value=False).box


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
    runs, numbers, voxels = component_runs(mask, connectivity, minimum_count)
    box = runs.box
    labels = np.zeros([part.stop - part.start for part in box], np.uint32)
    paint_runs(runs.within(box), numbers, labels)
    return Components(labels, box, voxels)


def component_runs(
    mask: NDArray[np.generic], connectivity: int, minimum_count: int = 1
) -> tuple[Runs, NDArray[np.int64], NDArray[np.int64]]:
    """Find the components of a mask as `find_components` does, without a volume of labels.

    Returns
    -------
    The runs of the mask; the label of each, int64 (runs,), 0 where the component is too small;
    the voxels of each component, int64 (n,).
    """
    runs = find_runs(mask, of_equal_value=False)
    numbers, count = join_runs(runs, connectivity=connectivity)
    lengths = runs.places[:, 2] - runs.places[:, 1]
    voxels = np.bincount(numbers, lengths, minlength=count + 1).astype(np.int64)[1:]
    # Stable: numbers come in the order of first voxels.
    order = np.argsort(-voxels, kind="stable")
    kept = order[voxels[order] >= minimum_count]
    labels = np.zeros(count + 1, np.int64)
    labels[kept + 1] = np.arange(1, len(kept) + 1)
    return runs, labels[numbers], voxels[kept]


def label_statistics(
    labels: NDArray[np.unsignedinteger],
    count: int | None = None,
    values: NDArray[np.int16] | None = None,
) -> Statistics:
    """Measure every label of a map in one pass.

    Parameters
    ----------
    labels
        uint16 or uint32 (z, y, x), values 0 .. ``count``.
    count
        The largest label that may occur; by default the largest that does.
    values
        int16 (z, y, x) to sum over each label, such as HU.
    """
    runs = find_runs(labels, of_equal_value=True)
    count = int(runs.values.max(initial=0)) if count is None else count
    has_values = values is not None
    summed = np.ascontiguousarray(values) if has_values else np.zeros((0, 0, 0), np.int16)
    tables = _sums(runs.places, runs.values, runs.shape, count, summed, has_values)
    return Statistics(*(table[1:] for table in tables))


@njit(cache=True, nogil=True)
def _sums(places, values, shape, count, hu, has_hu):  # noqa: ANN001, ANN202 (compiled)
    """Fill the tables of `Statistics`, row 0 for the background left empty."""
    voxels = np.zeros(count + 1, np.int64)
    first = np.zeros(count + 1, np.int64)
    index_sum = np.zeros((count + 1, 3), np.int64)
    box = np.zeros((count + 1, 6), np.int64)
    value_sum = np.zeros(count + 1, np.int64)
    square_sum = np.zeros(count + 1, np.int64)
    ny, nx = shape[1], shape[2]
    for i in range(len(values)):
        label = values[i]
        row, start, stop = places[i, 0], places[i, 1], places[i, 2]
        z, y = row // ny, row % ny
        if has_hu:
            total, squares = np.int64(0), np.int64(0)
            for x in range(start, stop):
                value = np.int64(hu[z, y, x])
                total += value
                squares += value * value
            value_sum[label] += total
            square_sum[label] += squares
        part = box[label]
        if voxels[label] == 0:
            first[label] = row * nx + start
            part[0], part[1], part[2], part[4] = z, y, start, y + 1
        part[1] = min(part[1], y)
        part[2] = min(part[2], start)
        part[3] = z + 1
        part[4] = max(part[4], y + 1)
        part[5] = max(part[5], stop)
        length = stop - start
        voxels[label] += length
        index_sum[label, 0] += length * z
        index_sum[label, 1] += length * y
        index_sum[label, 2] += (start + stop - 1) * length // 2
    return voxels, first, index_sum, box, value_sum, square_sum
