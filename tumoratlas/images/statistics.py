"""What one look at the voxels of a CT tells: extremes, shares, slice hashes, body extent.

Everything is taken from the array as stored, slice by slice, so that a whole scan passes the
processor once. Integer sums make all of it exact and equal on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash
from numba import njit
from numpy.typing import NDArray

from tumoratlas.images.grid import Grid

SOFT_TISSUE_HU = (-200, 300)
# Muscle, organs and bone, which tell where the body is even where air was clipped to a window.
BODY_ABOVE_HU = -50
# Lung and the air around the patient do not count when tissue is looked for.
TISSUE_ABOVE_HU = -700
PADDING_BELOW_HU = -1024
OFFSET_HU = 1024
_SAMPLED_VOXELS = 2_000_000
_CODES = 8


@dataclass(frozen=True)
class VolumeStatistics:
    """Facts of an int16 (z, y, x) volume as stored.

    Attributes
    ----------
    shape
        Voxels along the stored (z, y, x) axes.
    slice_axis
        The array axis that runs along the patient.
    low, high
        Smallest and largest value in HU, exact.
    p01, p99
        1st and 99th percentile in HU, of the sample.
    soft, soft_with_offset
        Soft tissue as a share of what is denser than lung, as it is and as if 1024 had been
        added to all values; of the sample.
    padding
        Share of voxels below -1024 HU, of the sample.
    digests
        uint64 per slice: hash of its voxels, equal for flipped and transposed slices.
    turns
        uint8 per slice: the in-plane turns that bring the slice into the order it is hashed
        in, one bit per code ``4 * transpose + 2 * flip rows + flip columns`` (flips come
        first). Several bits are set where the slice is symmetric.
    slices
        ``digests``, with 0 for blank slices: of one value, or all below -50 HU.
    tissue
        For each stored axis the number of voxels from -50 HU in every plane.
    """

    shape: tuple[int, int, int]
    slice_axis: int
    low: int
    high: int
    p01: int
    p99: int
    soft: float
    soft_with_offset: float
    padding: float
    digests: NDArray[np.uint64]
    turns: NDArray[np.uint8]
    slices: NDArray[np.uint64]
    tissue: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def slice_axis(grid: Grid) -> int:
    """Return the array axis (of z, y, x) that runs along the patient."""
    codes = grid.orientation
    return 2 - next(xyz for xyz in range(3) if codes[xyz] in "SI")


def measure_volume(hu: NDArray[np.int16], slice_axis: int) -> VolumeStatistics:
    """Measure a CT in one pass over its slices.

    A slice is hashed in an order that its own voxels choose: the one of smallest row sums,
    then column sums, among its eight flips and transpositions (of unequal sides: with the
    shorter side first). Each row of that order gives the exact sum of its voxels times fixed
    32-bit weights, and the digest is XXH3 of these sums.

    The sample of percentiles and shares is every n-th row of every n-th plane, whole rows, the
    same ones each time, about two million voxels; of fewer voxels all are taken.

    Parameters
    ----------
    hu
        int16 HU (z, y, x) in the order in which it is stored. Fastest where slices are
        contiguous (``slice_axis`` 0); otherwise a copy is made.
    slice_axis
        See `slice_axis`.

    Raises
    ------
    ValueError
        If the array is not int16 with three axes.
    """
    if hu.dtype != np.int16 or hu.ndim != 3:
        raise ValueError(f"a CT is int16 with three axes, not {hu.dtype} {hu.shape}")
    slices = np.ascontiguousarray(np.moveaxis(hu, slice_axis, 0))
    count, rows, columns = slices.shape
    low, high = np.empty(count, np.int16), np.empty(count, np.int16)
    sums = np.empty((count, min(rows, columns)), np.int64)
    turns = np.zeros(count, np.uint8)
    along, across = np.zeros(count, np.int64), np.zeros(rows, np.int64)
    aside = np.zeros(columns, np.int64)
    weights = _weights(max(rows, columns))
    _measure(slices, weights, low, high, sums, turns, along, across, aside)
    digests = np.array(
        [xxhash.xxh3_64_intdigest(part.data, seed=max(rows, columns)) for part in sums], np.uint64
    )
    is_blank = (low == high) | (along == 0)
    planes = [across, aside]
    planes.insert(slice_axis, along)
    return VolumeStatistics(
        hu.shape,
        slice_axis,
        int(low.min()),
        int(high.max()),
        *_sampled(slices),
        digests,
        turns,
        np.where(is_blank, np.uint64(0), digests),
        (planes[0], planes[1], planes[2]),
    )


def _sampled(slices: NDArray[np.int16]) -> tuple[int, int, float, float, float]:
    """Return p01, p99, soft, soft_with_offset and padding of the sample."""
    step = max(1, round((slices.size / _SAMPLED_VOXELS) ** 0.5))
    counts = np.zeros(1 << 16, np.int64)
    _count(slices[::step, ::step], counts)
    below = np.concatenate([[0], counts.cumsum()])  # voxels smaller than value - 32768
    total = below[-1]
    p01, p99 = (
        int(np.searchsorted(below[1:], max(1, np.ceil(share * total)))) - (1 << 15)
        for share in (0.01, 0.99)
    )

    def share_between(low: int, high: int, above: int) -> float:
        low, high, above = (value + (1 << 15) for value in (low, high + 1, above + 1))
        return float((below[high] - below[low]) / max(1, total - below[above]))

    soft, offset = (
        share_between(*(value + added for value in (*SOFT_TISSUE_HU, TISSUE_ABOVE_HU)))
        for added in (0, OFFSET_HU)
    )
    return p01, p99, soft, offset, float(below[PADDING_BELOW_HU + (1 << 15)] / total)


def _weights(count: int) -> NDArray[np.int32]:
    """Return fixed pseudo-random 32-bit integers: SplitMix64 (Steele et al. 2014), its top half."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    return (state >> np.uint64(32)).astype(np.uint32).view(np.int32)


@njit(cache=True, nogil=True)
def _measure(
    slices: NDArray[np.int16],
    weights: NDArray[np.int32],
    low: NDArray[np.int16],
    high: NDArray[np.int16],
    sums: NDArray[np.int64],
    turns: NDArray[np.uint8],
    along: NDArray[np.int64],
    across: NDArray[np.int64],
    aside: NDArray[np.int64],
) -> None:
    """Fill all outputs of `measure_volume`, one slice after the other while it is in the cache.

    Loops are kept apart and narrow so that the compiler turns them into vector code.
    """
    count, rows, columns = slices.shape
    row_sums, column_sums = np.empty(rows, np.int32), np.empty(columns, np.int32)
    body_columns = np.zeros(columns, np.int32)
    best, trial = np.empty(sums.shape[1], np.int64), np.empty(sums.shape[1], np.int64)
    for k in range(count):
        plane = slices[k]
        column_sums[:] = 0
        lowest, highest = plane[0, 0], plane[0, 0]
        for i in range(rows):
            row = plane[i]
            for j in range(columns):
                value = row[j]
                lowest = value if value < lowest else lowest
                highest = value if value > highest else highest
            total, body = np.int32(0), np.int32(0)
            for j in range(columns):
                total = np.int32(total + row[j])
                column_sums[j] = np.int32(column_sums[j] + row[j])
            for j in range(columns):
                is_body = np.int32(row[j] >= BODY_ABOVE_HU)
                body = np.int32(body + is_body)
                body_columns[j] = np.int32(body_columns[j] + is_body)
            row_sums[i] = total
            across[i] += body
            along[k] += body
        low[k], high[k] = lowest, highest
        if lowest == highest:
            sums[k] = lowest
            turns[k] = 255
            continue
        chosen = _smallest_turns(row_sums, column_sums)
        found = 0
        for code in range(_CODES):
            if not chosen >> code & 1:
                continue
            _weigh(plane, weights, code, trial)
            order = -1 if found == 0 else _compare(trial, False, best, False)
            if order < 0:
                best[:] = trial
                found = 0
            if order <= 0:
                found |= 1 << code
        sums[k] = best
        turns[k] = found
    aside += body_columns


@njit(cache=True, nogil=True)
def _smallest_turns(rows: NDArray[np.int32], columns: NDArray[np.int32]) -> int:
    """Return the codes, as bits, of the turns with the smallest row sums, then column sums."""
    turned_rows = _compare(rows, True, rows, False)
    turned_columns = _compare(columns, True, columns, False)
    if len(rows) == len(columns):
        order = _compare(columns, turned_columns < 0, rows, turned_rows < 0)
    else:
        order = len(columns) - len(rows)
    codes = 0
    for code in range(_CODES):
        flips_rows, flips_columns = code >> 1 & 1, code & 1
        if (
            (turned_rows == 0 or flips_rows == (turned_rows < 0))
            and (turned_columns == 0 or flips_columns == (turned_columns < 0))
            and (order == 0 or code >> 2 == (order < 0))
        ):
            codes |= 1 << code
    return codes


@njit(cache=True, nogil=True)
def _compare(
    first: NDArray[np.integer], turn_first: bool, second: NDArray[np.integer], turn_second: bool
) -> int:
    """Return -1, 0 or 1 as one sequence comes before, equals or follows another of its length."""
    last = len(first) - 1
    for i in range(last + 1):
        a = first[last - i] if turn_first else first[i]
        b = second[last - i] if turn_second else second[i]
        if a != b:
            return -1 if a < b else 1
    return 0


@njit(cache=True, nogil=True)
def _weigh(
    plane: NDArray[np.int16], weights: NDArray[np.int32], code: int, out: NDArray[np.int64]
) -> None:
    """Sum each row of a turned slice times the weights, without turning the slice.

    A product has at most 46 bits, so that sums of up to 65,536 voxels are exact.
    """
    rows, columns = plane.shape
    transposes, flips_rows, flips_columns = code >> 2, code >> 1 & 1, code & 1
    if transposes:
        totals = np.zeros(columns, np.int64)
        for i in range(rows):
            weight = np.int64(weights[rows - 1 - i if flips_rows else i])
            row = plane[i]
            for j in range(columns):
                totals[j] += np.int64(row[j]) * weight
        out[:] = totals[::-1] if flips_columns else totals
        return
    turned = weights[:columns][::-1].copy() if flips_columns else weights[:columns].copy()
    for i in range(rows):
        row = plane[i]
        total = np.int64(0)
        for j in range(columns):
            total += np.int64(row[j]) * np.int64(turned[j])
        out[rows - 1 - i if flips_rows else i] = total


@njit(cache=True, nogil=True)
def _count(sample: NDArray[np.int16], counts: NDArray[np.int64]) -> None:
    """Count every value of a (z, y, x) volume at index value + 32768."""
    for k in range(sample.shape[0]):
        for i in range(sample.shape[1]):
            for j in range(sample.shape[2]):
                counts[np.int64(sample[k, i, j]) + 32768] += 1
