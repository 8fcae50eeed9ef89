"""Anchors: voxels chosen and named by the noise around them, to recognise copies of a scan.

An anchor's hash and the choice of it depend only on differences between voxels up to three
steps apart along the axes, taken alike in every direction. They therefore survive flips,
other axis orders, any header, a constant added to all values, clipping of values that the
neighborhood does not hold, crops on any side and other padding. Resampled copies share none.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Voxels whose six neighbors exceed them by this sum: about one in three hundred of a CT.
_LAPLACIAN = 30
# Air around the patient is often clipped or padded. Copies with 1024 added stay above it.
_ABOVE_HU = -700
_REACH = 3
# Of the 18 differences to the center; flat surroundings could be equal in unrelated scans.
_LEAST_NONZERO = 12
# One candidate in 512 is kept: an anchor per 130,000 to 250,000 voxels of a large scan.
_BOUND = 1 << 55
_LEAST_ANCHORS = 256
# Anchors that a volume should have below the first bound that is tried.
_EXPECTED_ANCHORS = 600


def find_anchors(hu: NDArray[np.int16]) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Find the anchors of a volume.

    Kept are all whose hash is below a fixed bound, and the 256 of smallest hash in any case:
    two scans share those anchors of their common part that are not above the largest hash of
    either. A hash that occurs twice in a scan, as in repeated slices, is dropped. A volume of
    fewer than seven voxels along an axis has no anchors.

    Parameters
    ----------
    hu
        int16 HU (z, y, x), contiguous, in any axis order.

    Returns
    -------
    hashes
        uint64, ascending.
    places
        int32 (n, 3), the index (z, y, x) of each.
    """
    # Noise and share of air vary: one voxel in a thousand is a candidate, or more.
    everything = 1 << 64
    bound = max(_BOUND, min(everything, everything * 1000 * _EXPECTED_ANCHORS // max(1, hu.size)))
    while True:
        hashes, places = _collect(hu, np.uint64(bound - 1))
        hashes, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        hashes, first = hashes[counts == 1], first[counts == 1]
        if len(hashes) >= _LEAST_ANCHORS or bound == everything:
            break
        bound = min(bound * 16, everything)
    kept = max(_LEAST_ANCHORS, int(np.searchsorted(hashes, np.uint64(_BOUND))))
    z, rest = np.divmod(places[first[:kept]], hu.shape[1] * hu.shape[2])
    y, x = np.divmod(rest, hu.shape[2])
    return hashes[:kept], np.stack([z, y, x], axis=1).astype(np.int32)


@njit(cache=True, nogil=True)
def _collect(
    hu: NDArray[np.int16], largest: np.uint64
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return hash and flat index of every candidate whose hash is not above ``largest``."""
    depth, rows, columns = hu.shape
    hashes, places = np.empty(4096, np.uint64), np.empty(4096, np.int64)
    count = 0
    # Padded to whole groups of eight, which are looked at as one number.
    flags = np.zeros((columns + 7) // 8 * 8, np.uint8)
    groups = flags.view(np.uint64)
    for k in range(_REACH, depth - _REACH):
        for i in range(_REACH, rows - _REACH):
            _mark(hu, k, i, flags)
            for group in range(len(groups)):
                if groups[group] == 0:
                    continue
                for j in range(8 * group, 8 * group + 8):
                    if flags[j] == 0:
                        continue
                    # The first byte is cheap and already tells most candidates apart.
                    rank = _rank(hu, k, i, j) << np.uint64(56)
                    if rank > largest:
                        continue
                    value, nonzero = _hash(hu, k, i, j)
                    value = rank | value >> np.uint64(8)
                    if nonzero < _LEAST_NONZERO or value > largest:
                        continue
                    if count == len(hashes):
                        hashes = np.concatenate((hashes, np.empty_like(hashes)))
                        places = np.concatenate((places, np.empty_like(places)))
                    hashes[count] = value
                    places[count] = (np.int64(k) * rows + i) * columns + j
                    count += 1
    return hashes[:count], places[:count]


@njit(cache=True, nogil=True)
def _mark(hu: NDArray[np.int16], k: int, i: int, flags: NDArray[np.uint8]) -> None:
    """Flag the candidates of a row; from 1 and in its own function the loop is vector code."""
    row, above, below = hu[k, i], hu[k, i - 1], hu[k, i + 1]
    front, back = hu[k - 1, i], hu[k + 1, i]
    for j in range(1, len(row) - 1):
        # 16-bit overflow is alike in all copies.
        laplacian = np.int16(
            row[j - 1] + row[j + 1] + above[j] + below[j] + front[j] + back[j] - 6 * row[j]
        )
        flags[j] = np.uint8((laplacian == _LAPLACIAN) & (row[j] > _ABOVE_HU))
    flags[:_REACH] = 0
    flags[len(row) - _REACH :] = 0


@njit(cache=True, nogil=True)
def _rank(hu: NDArray[np.int16], k: int, i: int, j: int) -> np.uint64:
    """Return a number below 256 from the squared differences to the six neighbors."""
    v = np.int64(hu[k, i, j])
    z = (hu[k - 1, i, j] - v) ** 2 + (hu[k + 1, i, j] - v) ** 2
    y = (hu[k, i - 1, j] - v) ** 2 + (hu[k, i + 1, j] - v) ** 2
    x = (hu[k, i, j - 1] - v) ** 2 + (hu[k, i, j + 1] - v) ** 2
    return _mix(np.uint64(z + y + x)) >> np.uint64(56)


@njit(cache=True, nogil=True)
def _hash(hu: NDArray[np.int16], k: int, i: int, j: int) -> tuple[np.uint64, int]:
    """Return the hash around a voxel and how many of the 18 differences are not zero.

    Each of the six directions gives its three differences to the center as one number; both
    directions of an axis are added, then the three axes, each after mixing.
    """
    v = hu[k, i, j]
    a, m = _direction(hu[k - 1, i, j] - v, hu[k - 2, i, j] - v, hu[k - 3, i, j] - v)
    b, n = _direction(hu[k + 1, i, j] - v, hu[k + 2, i, j] - v, hu[k + 3, i, j] - v)
    c, o = _direction(hu[k, i - 1, j] - v, hu[k, i - 2, j] - v, hu[k, i - 3, j] - v)
    d, p = _direction(hu[k, i + 1, j] - v, hu[k, i + 2, j] - v, hu[k, i + 3, j] - v)
    e, q = _direction(hu[k, i, j - 1] - v, hu[k, i, j - 2] - v, hu[k, i, j - 3] - v)
    f, r = _direction(hu[k, i, j + 1] - v, hu[k, i, j + 2] - v, hu[k, i, j + 3] - v)
    return _mix(_mix(a + b) + _mix(c + d) + _mix(e + f)), m + n + o + p + q + r


@njit(cache=True, nogil=True)
def _direction(near: int, middle: int, far: int) -> tuple[np.uint64, int]:
    """Return three differences as one mixed number, and how many of them are not zero."""
    packed = np.uint64(np.uint16(near))
    packed = packed << np.uint64(16) | np.uint64(np.uint16(middle))
    packed = packed << np.uint64(16) | np.uint64(np.uint16(far))
    return _mix(packed), (near != 0) + (middle != 0) + (far != 0)


@njit(cache=True, nogil=True)
def _mix(state: np.uint64) -> np.uint64:
    """Return SplitMix64 of a number (Steele et al. 2014)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
