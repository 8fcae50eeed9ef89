"""Runs: the stretches of equal non-zero voxels along the rows of a volume.

Tumors fill a hundredth of a scan. Their runs are found in one pass over the volume, which the
compiler turns into vector code where a row is empty; components, counts and sums then take the
runs alone, and no array of the volume's size is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Runs:
    """The runs of a (z, y, x) volume, in raster order.

    Attributes
    ----------
    shape
        Of the volume.
    places
        Columns row (z times rows of a slice, plus y), first x, last x plus 1; int64 (n, 3).
    values
        The voxels' value in each run, int64 (n,).
    """

    shape: tuple[int, int, int]
    places: NDArray[np.int64]
    values: NDArray[np.int64]

    @property
    def box(self) -> Box:
        """The smallest box that holds all runs; empty if there is none."""
        if not len(self.places):
            return (slice(0, 0), slice(0, 0), slice(0, 0))
        z, y = np.divmod(self.places[:, 0], self.shape[1])
        return (
            slice(int(z[0]), int(z[-1]) + 1),
            slice(int(y.min()), int(y.max()) + 1),
            slice(int(self.places[:, 1].min()), int(self.places[:, 2].max())),
        )

    def within(self, box: Box) -> Runs:
        """Return the runs as they lie in a box that holds them all."""
        shape = tuple(part.stop - part.start for part in box)
        z, y = np.divmod(self.places[:, 0], self.shape[1])
        rows = (z - box[0].start) * shape[1] + y - box[1].start
        places = np.column_stack([rows, self.places[:, 1:] - box[2].start])
        return Runs(shape, places, self.values)


def find_runs(array: NDArray[np.generic], *, of_equal_value: bool) -> Runs:
    """Find the runs of a volume.

    Parameters
    ----------
    array
        Bool or integer (z, y, x).
    of_equal_value
        A run ends where the value changes; else only at a zero, and all values are 1.
    """
    array = np.ascontiguousarray(array)
    # One kernel for bool and uint8, and one for the search of rows in any type.
    plain = array.view(np.uint8) if array.dtype == bool else array
    rows = _rows(plain)
    filled = _filled_rows(rows.view(np.uint8))
    places, values = _runs_of(rows, np.flatnonzero(filled), of_equal_value)
    return Runs(array.shape, places, values)


def join_runs(runs: Runs, *, connectivity: int) -> tuple[NDArray[np.int64], int]:
    """Give the runs of each connected component a number.

    Parameters
    ----------
    runs
        Of `find_runs`; whatever their values, all count as the same.
    connectivity
        6, 18 or 26 neighbours.

    Returns
    -------
    The number of every run's component, 1 .. n in the order of their first voxels, int64; n.
    """
    starts = np.searchsorted(runs.places[:, 0], np.arange(runs.shape[0] * runs.shape[1] + 1))
    return _join(runs.places, starts, runs.shape[1], connectivity)


def paint_runs(runs: Runs, values: NDArray[np.int64], out: NDArray[np.unsignedinteger]) -> None:
    """Write a value into the voxels of every run of a volume (z, y, x) of the runs' shape."""
    _paint(runs.places, values, _rows(out))


def _rows(volume: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a contiguous volume as its rows, without a copy."""
    return volume.reshape(volume.shape[0] * volume.shape[1], volume.shape[2])


@njit(cache=True, nogil=True)
def _filled_rows(rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
    filled = np.zeros(len(rows), np.bool_)
    for i in range(len(rows)):
        row = rows[i]
        either = np.uint8(0)
        for j in range(len(row)):
            either = np.uint8(either | row[j])
        filled[i] = either != 0
    return filled


@njit(cache=True, nogil=True)
def _runs_of(
    rows: NDArray[np.generic], filled: NDArray[np.int64], of_equal_value: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    length = rows.shape[1]
    places = np.empty((max(16, 4 * len(filled)), 3), np.int64)
    values = np.empty(len(places), np.int64)
    count = 0
    for i in filled:
        row = rows[i]
        x = 0
        while True:
            while x < length and row[x] == 0:
                x += 1
            if x == length:
                break
            first, value = x, row[x]
            if of_equal_value:
                while x < length and row[x] == value:
                    x += 1
            else:
                while x < length and row[x] != 0:
                    x += 1
            if count == len(values):
                places = np.concatenate((places, np.empty_like(places)))
                values = np.concatenate((values, np.empty_like(values)))
            places[count, 0], places[count, 1], places[count, 2] = i, first, x
            values[count] = np.int64(value) if of_equal_value else 1
            count += 1
    return places[:count].copy(), values[:count].copy()


@njit(cache=True, nogil=True)
def _root(parents: NDArray[np.int64], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@njit(cache=True, nogil=True)
def _join(
    places: NDArray[np.int64], starts: NDArray[np.int64], ny: int, connectivity: int
) -> tuple[NDArray[np.int64], int]:
    """Join each run with those of the rows before it; the first run of a component is its root."""
    parents = np.arange(len(places))
    # Of the four rows before: the first run that may still touch, the end, and how far x may
    # differ. 26 neighbours allow three axes to differ by 1, 18 two and 6 one.
    nexts, ends = np.zeros(4, np.int64), np.zeros(4, np.int64)
    reaches = np.zeros(4, np.int64)
    for i in range(len(places)):
        if i == 0 or places[i, 0] != places[i - 1, 0]:
            z, y = places[i, 0] // ny, places[i, 0] % ny
            for k, (dz, dy) in enumerate(((1, 1), (1, 0), (1, -1), (0, 1))):
                is_edge = dz != 0 and dy != 0
                reaches[k] = connectivity == 26 or (connectivity == 18 and not is_edge)
                if z < dz or not 0 <= y - dy < ny or (is_edge and connectivity == 6):
                    nexts[k] = ends[k] = 0
                    continue
                row = (z - dz) * ny + y - dy
                nexts[k], ends[k] = starts[row], starts[row + 1]
        first, stop = places[i, 1], places[i, 2]
        for k in range(4):
            reach, j = reaches[k], nexts[k]
            while j < ends[k] and places[j, 2] + reach <= first:
                j += 1
            nexts[k] = j
            while j < ends[k] and places[j, 1] < stop + reach:
                a, b = _root(parents, i), _root(parents, j)
                parents[max(a, b)] = min(a, b)
                j += 1
    numbers = np.zeros(len(places), np.int64)
    count = 0
    for i in range(len(places)):
        root = _root(parents, i)
        if root == i:
            count += 1
            numbers[i] = count
        else:
            numbers[i] = numbers[root]
    return numbers, count


@njit(cache=True, nogil=True)
def _paint(
    places: NDArray[np.int64], values: NDArray[np.int64], rows: NDArray[np.unsignedinteger]
) -> None:
    for i in range(len(places)):
        rows[places[i, 0], places[i, 1] : places[i, 2]] = values[i]
