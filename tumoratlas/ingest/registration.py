"""Sub-voxel alignment of a scan with a resampled copy, and whether their noise is the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumoratlas.images.resample import resample_image
from tumoratlas.ingest.alignment import Alignment, Shape

# Values outside of soft tissue are cut off: metal, bone and air differ most after resampling.
_TISSUE_HU = (-200, 300)
# Longest axis of the levels, in voxels; a last level has the scan's own voxels.
_LEVELS = (48, 96)
_ITERATIONS = 10
_ENOUGH_VOXELS = 0.01
# The scan's own voxels are seen in so many slabs of so many slices: that is enough.
_SLABS, _SLAB_SLICES = 6, 8
_ALL_SLICES = 32
# The field of view may move by this share of its length; beyond it the registration ran away.
_RUNAWAY = 0.15
# Mean HU of the tissue whose noise is compared, without fat's edges and bone.
_NOISE_HU = (-130, 200)
_SPREAD = 3.0
_LEAST_TISSUE = 2000
# Gradients are those of means over so many voxels; so large a part of the tissue is even.
_EVEN_VOXELS = 5
_EVEN_SHARE = 0.15
_OUTSIDE = -32768


class _Placed(NamedTuple):
    """A scan and its alignment, positive and in order, with the grid of a comparison."""

    hu: NDArray[np.int16]
    straight: Alignment


def refine_alignment(
    hu_a: NDArray[np.int16], hu_b: NDArray[np.int16], alignment: Alignment
) -> Alignment | None:
    """Refine shift and scale along each axis to a fraction of a voxel.

    Gauss-Newton on squared differences of soft tissue, coarse to fine (Lucas and Kanade 1981,
    Baker and Matthews 2004), with a factor and a constant for other brightness.

    Parameters
    ----------
    hu_a, hu_b
        int16 HU (z, y, x).
    alignment
        Of a to b, right to about a fortieth of each axis.

    Returns
    -------
    The refined alignment, or None where there is no minimum nearby.
    """
    view, straight = alignment.turned(hu_a)
    view = np.ascontiguousarray(view)
    start = straight
    for side in (*_LEVELS, None):
        of_a, of_b = ((_shrink(hu, side) if side else _as_is(hu)) for hu in (view, hu_b))
        level = of_a[1].inverse().then(straight).then(of_b[1])
        spans = _spans(hu_b.shape[0]) if side is None else _all_spans(of_b[0].shape[0])
        for _ in range(_ITERATIONS):
            solved = _solve(of_a[0], of_b[0], level, spans)
            if solved is None:
                return None
            level, moved = solved
            if moved < _ENOUGH_VOXELS:
                break
        straight = of_a[1].then(level).then(of_b[1].inverse())
        if _moved(start, straight, view.shape, hu_b.shape) > _RUNAWAY:
            return None
    return _turn_of(alignment, hu_a.shape).then(straight)


def noise_correlation(
    hu_a: NDArray[np.int16], hu_b: NDArray[np.int16], alignment: Alignment
) -> tuple[float, float]:
    """Correlate the noise of two aligned scans in even soft tissue.

    Both are interpolated linearly onto one grid, which has along each axis the coarser of
    their voxels: there both hold the same noise if one was resampled from the other. Noise is
    the difference to the mean of 3 x 3 x 3 voxels. Edges, which all scans of a patient share,
    are left out: only the part of the tissue with the smallest gradient counts.

    Parameters
    ----------
    hu_a, hu_b
        int16 HU (z, y, x).
    alignment
        Of a to b, right to about a third of a voxel.

    Returns
    -------
    correlation
        Of the noise, -1 to 1; 0 where there is no tissue in common.
    offset_hu
        Median of b minus a in this tissue.
    """
    view, straight = alignment.turned(hu_a)
    a, b, shape = _common(np.ascontiguousarray(view), hu_b, straight)
    noise_a, noise_b, differences = [], [], []
    for _, here, there, inside in _slabs(a, b, shape, _spans(shape[0])):
        mean = ndimage.uniform_filter((here + there) / 2, _EVEN_VOXELS)
        tissue = inside & (mean > _NOISE_HU[0]) & (mean < _NOISE_HU[1])
        if not tissue.any():
            continue
        slope = np.sqrt(sum(part**2 for part in np.gradient(mean)))
        even = tissue & (slope <= np.quantile(slope[tissue], _EVEN_SHARE))
        noise_a.append((here - ndimage.uniform_filter(here, 3))[even])
        noise_b.append((there - ndimage.uniform_filter(there, 3))[even])
        differences.append((there - here)[even])
    if sum(map(len, noise_a)) < _LEAST_TISSUE:
        return 0.0, 0.0
    first, second = (_without_outliers(np.concatenate(parts)) for parts in (noise_a, noise_b))
    spread = float(np.sqrt((first @ first) * (second @ second)))
    correlation = float(first @ second) / spread if spread else 0.0
    # Sums differ in their last bits between machines.
    return round(correlation, 6), round(float(np.median(np.concatenate(differences))), 3)


def _turn_of(alignment: Alignment, shape: tuple[int, ...]) -> Alignment:
    """Return the exact alignment of a scan with its turned view."""
    _, straight = alignment.turned(np.broadcast_to(np.int8(0), shape))
    turn = alignment.then(straight.inverse())
    signs = [1 if scale > 0 else -1 for scale in turn.scales]
    return Alignment.of(turn.axes, signs, [round(shift) for shift in turn.shifts])


def _as_is(hu: NDArray[np.int16]) -> tuple[NDArray[np.int16], Alignment]:
    return hu, Alignment.identity()


def _shrink(hu: NDArray[np.int16], side: int) -> tuple[NDArray[np.int16], Alignment]:
    """Average blocks so that no axis is longer than about ``side``; align the scan with it."""
    factors = [max(1, round(n / side)) for n in hu.shape]
    fz, fy, fx = factors
    nz, ny, nx = (n // f for n, f in zip(hu.shape, factors, strict=True))
    out = np.empty((nz, ny, nx), np.int16)
    for k in range(nz):
        block = np.clip(hu[k * fz : (k + 1) * fz, : ny * fy, : nx * fx], *_TISSUE_HU)
        sums = block.sum(axis=0, dtype=np.int32).reshape(ny, fy, nx, fx).sum(axis=(1, 3))
        out[k] = np.rint(sums / (fz * fy * fx))
    return out, Alignment.of(
        (0, 1, 2), [1 / f for f in factors], [(1 - f) / 2 / f for f in factors]
    )


def _spans(count: int) -> list[tuple[int, int]]:
    """Return evenly spread slabs of slices that do not overlap."""
    if count <= _SLABS * _SLAB_SLICES:
        return _all_spans(count)
    starts = np.linspace(0, count - _SLAB_SLICES, _SLABS).astype(int)
    return [(int(start), int(start) + _SLAB_SLICES) for start in starts]


def _all_spans(count: int) -> list[tuple[int, int]]:
    # A slab of less than three slices has no inner one.
    ends = [*range(0, max(1, count - 2), _ALL_SLICES), count]
    return list(zip(ends[:-1], ends[1:], strict=True))


def _common(
    a: NDArray[np.int16], b: NDArray[np.int16], straight: Alignment
) -> tuple[_Placed, _Placed, Shape]:
    """Place both on the grid that has along each axis the lattice of the coarser one."""
    back = straight.inverse()
    scales, shifts, shape = [], [], []
    for axis in range(3):
        is_coarser = straight.scales[axis] <= 1  # b is
        scales.append(1.0 if is_coarser else back.scales[axis])
        shifts.append(0.0 if is_coarser else back.shifts[axis])
        shape.append((b if is_coarser else a).shape[axis])
    from_b = Alignment.of((0, 1, 2), scales, shifts)
    return _Placed(a, straight.then(from_b)), _Placed(b, from_b), (shape[0], shape[1], shape[2])


def _slabs(
    a: _Placed, b: _Placed, shape: Shape, spans: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield of each span its start, a, b, and the voxels that both cover with their neighbors."""
    for start, stop in spans:
        part = (stop - start, *shape[1:])
        if min(part) < 3:
            continue
        both = []
        covered = np.ones(part, np.bool_)
        for hu, straight in (a, b):
            moved = straight.then(Alignment.of((0, 1, 2), (1, 1, 1), (-start, 0, 0)))
            carried = resample_image(hu, *moved.grids(hu.shape, part), outside_hu=_OUTSIDE)
            covered &= carried > _OUTSIDE
            both.append(carried.astype(np.float32))
        inside = np.zeros(part, np.bool_)
        if covered.any():
            # A box; the outermost voxels have neighbors outside of it.
            lines = (covered.any(axis=others) for others in ((1, 2), (0, 2), (0, 1)))
            places = [np.flatnonzero(line) for line in lines]
            inside[tuple(slice(int(p[0]) + 1, int(p[-1])) for p in places)] = True
        yield start, both[0], both[1], inside


def _solve(
    a: NDArray[np.int16],
    b: NDArray[np.int16],
    straight: Alignment,
    spans: Sequence[tuple[int, int]],
) -> tuple[Alignment, float] | None:
    """Make one Gauss-Newton step; return the alignment and the largest move in voxels of b."""
    normal, right = np.zeros((8, 8)), np.zeros(8)
    middles = [(n - 1) / 2 for n in b.shape]
    halves = [max(0.5, middle) for middle in middles]
    placed = _Placed(a, straight), _Placed(b, Alignment.identity())
    for start, carried, part, inside in _slabs(*placed, b.shape, spans):
        carried, part = np.clip(carried, *_TISSUE_HU), np.clip(part, *_TISSUE_HU)
        columns = []
        for axis, slope in enumerate(np.gradient(carried)):
            first = start if axis == 0 else 0
            places = np.arange(part.shape[axis], dtype=np.float32) + np.float32(first)
            ends = (places - np.float32(middles[axis])) / np.float32(halves[axis])
            along = ends.reshape([-1 if i == axis else 1 for i in range(3)])
            columns += [slope[inside], (slope * along)[inside]]
        kept = carried[inside]
        columns += [kept, np.ones_like(kept)]
        stacked = np.stack(columns).astype(np.float64)
        normal += stacked @ stacked.T
        right += stacked @ (part[inside] - kept)
    scale = np.sqrt(np.diag(normal))
    if (scale == 0).any():
        return None
    normal = normal / np.outer(scale, scale) + 1e-9 * np.eye(8)
    solution = np.linalg.solve(normal, right / scale) / scale
    shifts, stretches = solution[0:6:2], solution[1:6:2]
    # Where a's structure is found at x + shift + stretch * u, u from -1 to 1 over b.
    step = Alignment.of(
        (0, 1, 2),
        [1 / (1 + s / h) for s, h in zip(stretches, halves, strict=True)],
        [
            -(t - s * m / h) / (1 + s / h)
            for t, s, m, h in zip(shifts, stretches, middles, halves, strict=True)
        ],
    )
    if not all(0.5 < scale < 2 for scale in step.scales):
        return None
    return straight.then(step), float((np.abs(shifts) + np.abs(stretches)).max())


def _moved(
    start: Alignment, end: Alignment, shape_a: tuple[int, ...], shape_b: tuple[int, ...]
) -> float:
    """Return how far the ends of a moved at most, as a share of b's axis."""
    moves = []
    for axis in range(3):
        for place in (0, shape_a[axis] - 1):
            before, after = (way.scales[axis] * place + way.shifts[axis] for way in (start, end))
            moves.append(abs(after - before) / shape_b[axis])
    return max(moves)


def _without_outliers(noise: NDArray[np.float32]) -> NDArray[np.float64]:
    """Center noise and cut it at three standard deviations (1.4826 median deviations each)."""
    centered = noise.astype(np.float64) - np.median(noise)
    limit = _SPREAD * 1.4826 * np.median(np.abs(centered))
    return np.clip(centered, -limit, limit)
