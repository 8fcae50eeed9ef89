"""A small picture of a scan's trunk, alike in copies that share no voxel with each other."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tumoratlas.images.statistics import SOFT_TISSUE_HU, VolumeStatistics

THUMBNAIL_SIDE = 16
# Samples per cell along each axis.
_CELL_SAMPLES = 8
# Of the fullest plane's tissue.
_LEAST_TISSUE = 0.25
_LOW, _HIGH = SOFT_TISSUE_HU


def body_box(statistics: VolumeStatistics) -> NDArray[np.float64]:
    """Return where the trunk lies along each stored axis, float64 (3, 2).

    Along an axis it is the run of planes with at least a quarter of the fullest plane's tissue
    that holds the most tissue, its ends interpolated between planes: table and arms, which
    some copies lack, are left out. Measured from the outer face of the first voxel: voxel
    ``i`` spans ``i`` to ``i + 1``. The whole volume where there is no tissue.
    """
    box = np.empty((3, 2))
    for axis, planes in enumerate(statistics.tissue):
        least = max(1.0, _LEAST_TISSUE * planes.max())
        bounds = np.flatnonzero(np.diff(planes >= least, prepend=False, append=False))
        if not len(bounds):
            box[axis] = 0, len(planes)
            continue
        held = [planes[first:end].sum() for first, end in bounds.reshape(-1, 2)]
        first, end = bounds.reshape(-1, 2)[int(np.argmax(held))]
        box[axis] = (
            _crossing(planes, first, least),
            len(planes) - _crossing(planes[::-1], len(planes) - end, least),
        )
    return box


def _crossing(planes: NDArray[np.int64], first: int, least: float) -> float:
    """Return where tissue reaches ``least`` before plane ``first``, the first that has it."""
    if first == 0:
        return 0.0
    below, above = planes[first - 1], planes[first]
    return float(first - 0.5 + (least - below) / (above - below))


def coarse_means(hu: NDArray[np.int16], box: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return mean HU of 16 x 16 x 16 equal cells of a box, of values clipped to soft tissue.

    Each cell is sampled at 8 x 8 x 8 evenly spaced points, which take the value of the voxel
    they lie in.

    Parameters
    ----------
    hu
        int16 (z, y, x).
    box
        As from `body_box`.

    Returns
    -------
    float32 (16, 16, 16) in the axis order of ``hu``.
    """
    points = THUMBNAIL_SIDE * _CELL_SAMPLES
    shares = (np.arange(points) + 0.5) / points
    places = [
        np.clip(np.floor(low + shares * (high - low)).astype(np.int64), 0, count - 1)
        for (low, high), count in zip(box, hu.shape, strict=True)
    ]
    sums = np.zeros((THUMBNAIL_SIDE,) * 3, np.int64)
    _sum_cells(hu, places[0], places[1], places[2], sums)
    return (sums / _CELL_SAMPLES**3).astype(np.float32)


@njit(cache=True, nogil=True)
def _sum_cells(
    hu: NDArray[np.int16],
    z: NDArray[np.int64],
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    sums: NDArray[np.int64],
) -> None:
    """Add up the clipped voxels at all places z, y, x of each cell."""
    for k in range(len(z)):
        plane = hu[z[k]]
        for i in range(len(y)):
            row = plane[y[i]]
            cells = sums[k // _CELL_SAMPLES, i // _CELL_SAMPLES]
            for j in range(len(x)):
                cells[j // _CELL_SAMPLES] += min(max(row[x[j]], _LOW), _HIGH)
