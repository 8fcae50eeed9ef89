"""Separable resampling between grids of parallel axes: linear, on one core.

Both kernels share one rule of coordinates. A target voxel whose centre lies within the source's
field of view (its outer voxel faces) takes part, with the outer voxel centres continued to the
faces; a target voxel outside gets the outside value. Coordinates are rounded to 2**-20 voxel, so
that the last bits of a matrix inverse, which differ between machines, cannot change a result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tumoratlas.images.checks import refusal
from tumoratlas.images.grid import Grid

# Three products of 20-bit weights fill 60 of an int64's bits: label weights are exact.
_ONE = 1 << 20
_PARALLEL_VOXELS = 0.05


def resample_image(
    array: NDArray[np.int16], grid: Grid, target: Grid, *, outside_hu: int = -1024
) -> NDArray[np.int16]:
    """Resample a CT linearly, rounding half up.

    Parameters
    ----------
    array
        int16 HU (z, y, x) on ``grid``.
    grid, target
        Grids of parallel axes that point the same way.
    outside_hu
        Value of target voxels whose centre lies outside the source's field of view.

    Returns
    -------
    int16 HU (z, y, x) on ``target``; values stay within those of ``array`` and ``outside_hu``.

    Raises
    ------
    GeometryError
        AXES_DIFFER: the grids are turned or flipped against each other.
    ValueError
        If the array is not int16 on its grid.
    """
    if array.dtype != np.int16:
        raise ValueError(f"a CT is int16, not {array.dtype}")
    tables, inside = _tables(array, grid, target)
    shares = [(low, high, (weight / _ONE).astype(np.float32)) for low, high, weight in tables]
    inner = np.empty([len(low) for low, _, _ in tables], np.int16)
    _linear(np.ascontiguousarray(array), *shares, inner)
    return _embed(inner, inside, target, outside_hu)


def resample_labels(array: NDArray[Any], grid: Grid, target: Grid) -> NDArray[Any]:
    """Resample a label map: each label's mask linearly, then the label of largest weight.

    The same as the argmax of linearly interpolated one-hot masks (ITK's LabelImageGeneric with
    a linear interpolator), computed exactly in integers; ties go to the smallest label.

    Parameters
    ----------
    array
        uint8 or uint16 labels (z, y, x) on ``grid``.
    grid, target
        Grids of parallel axes that point the same way.

    Returns
    -------
    Labels on ``target`` in the same dtype, 0 outside the source's field of view.

    Raises
    ------
    GeometryError
        AXES_DIFFER: the grids are turned or flipped against each other.
    ValueError
        If the array is not uint8 or uint16 on its grid.
    """
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"labels are uint8 or uint16, not {array.dtype}")
    tables, inside = _tables(array, grid, target)
    inner = np.empty([len(low) for low, _, _ in tables], array.dtype)
    _vote(np.ascontiguousarray(array), *tables, inner)
    return _embed(inner, inside, target, 0)


_Table = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _tables(
    array: NDArray[Any], grid: Grid, target: Grid
) -> tuple[list[_Table], tuple[slice, slice, slice]]:
    """Return for z, y, x the lower and upper source index and weight of the upper in 2**-20.

    The tables cover only the target voxels inside the source's field of view, whose range is
    the second result.
    """
    if array.shape != grid.shape:
        raise ValueError(f"array {array.shape} is not on its grid {grid.shape}")
    to_source = np.linalg.inv(grid.affine) @ target.affine
    steps = np.diag(to_source)[:3]
    # What the off-diagonal terms move the far corner of the target, in source voxels.
    lengths = np.array(target.shape[::-1]) - 1
    drift = np.abs(to_source[:3, :3] - np.diag(steps)) @ lengths
    if (steps <= 0).any() or drift.max() > _PARALLEL_VOXELS:
        raise refusal(
            "AXES_DIFFER",
            f"grids {grid.orientation} and {target.orientation}",
            f"drift {drift.max():.3g} voxels",
        )
    tables, inside = [], []
    # The drift is shared between both ends by taking it at the target's middle.
    start = to_source[:3, 3] + (to_source[:3, :3] - np.diag(steps)) @ (lengths / 2)
    for axis, count in enumerate(grid.shape):
        xyz = 2 - axis
        places = start[xyz] + steps[xyz] * np.arange(target.shape[axis])
        fixed = np.rint(places * _ONE).astype(np.int64)
        within = np.flatnonzero((fixed >= -_ONE // 2) & (fixed < count * _ONE - _ONE // 2))
        first, end = (within[0], within[-1] + 1) if len(within) else (0, 0)
        inside.append(slice(int(first), int(end)))
        fixed = np.clip(fixed[first:end], 0, (count - 1) * _ONE)
        low = fixed // _ONE
        tables.append((low, np.minimum(low + 1, count - 1), fixed % _ONE))
    return tables, (inside[0], inside[1], inside[2])


def _embed(
    inner: NDArray[Any], inside: tuple[slice, slice, slice], target: Grid, outside: int
) -> NDArray[Any]:
    if inner.shape == target.shape:
        return inner
    out = np.full(target.shape, outside, inner.dtype)
    out[inside] = inner
    return out


@njit(cache=True, nogil=True)
def _linear(
    v: NDArray[np.int16],
    z: tuple[NDArray[Any], ...],
    y: tuple[NDArray[Any], ...],
    x: tuple[NDArray[Any], ...],
    out: NDArray[np.int16],
) -> None:
    """Interpolate along z, then y, then x, one output slice at a time, in float32."""
    (z0, z1, wz), (y0, y1, wy), (x0, x1, wx) = z, y, x
    ny, nx = v.shape[1], v.shape[2]
    plane = np.empty((ny, nx), np.float32)
    row = np.empty(nx, np.float32)
    for k in range(out.shape[0]):
        below, above, w = v[z0[k]], v[z1[k]], wz[k]
        for r in range(ny):
            for c in range(nx):
                p = np.float32(below[r, c])
                plane[r, c] = p + w * (np.float32(above[r, c]) - p)
        for j in range(out.shape[1]):
            a, b, w = y0[j], y1[j], wy[j]
            for c in range(nx):
                row[c] = plane[a, c] + w * (plane[b, c] - plane[a, c])
            for i in range(out.shape[2]):
                p = row[x0[i]]
                value = p + wx[i] * (row[x1[i]] - p)
                out[k, j, i] = np.int16(np.floor(value + np.float32(0.5)))


@njit(cache=True, nogil=True)
def _vote(
    v: NDArray[Any],
    z: tuple[NDArray[Any], ...],
    y: tuple[NDArray[Any], ...],
    x: tuple[NDArray[Any], ...],
    out: NDArray[Any],
) -> None:
    """Give each output voxel the label with the largest sum of its eight neighbours' weights."""
    (z0, z1, wz), (y0, y1, wy), (x0, x1, wx) = z, y, x
    labels = np.empty(8, np.int64)
    weights = np.empty(8, np.int64)
    for k in range(out.shape[0]):
        below, above = v[z0[k]], v[z1[k]]
        for j in range(out.shape[1]):
            ya, yb = y0[j], y1[j]
            for i in range(out.shape[2]):
                a, b = x0[i], x1[i]
                first = below[ya, a]
                if (
                    first == below[ya, b]
                    and first == below[yb, a]
                    and first == below[yb, b]
                    and first == above[ya, a]
                    and first == above[ya, b]
                    and first == above[yb, a]
                    and first == above[yb, b]
                ):
                    out[k, j, i] = first
                    continue
                for corner in range(8):
                    plane = above if corner & 4 else below
                    labels[corner] = plane[yb if corner & 2 else ya, b if corner & 1 else a]
                    weights[corner] = (
                        (wz[k] if corner & 4 else _ONE - wz[k])
                        * (wy[j] if corner & 2 else _ONE - wy[j])
                        * (wx[i] if corner & 1 else _ONE - wx[i])
                    )
                most, best = np.int64(-1), np.int64(0)
                for p in range(8):
                    total = np.int64(0)
                    for q in range(8):
                        if labels[q] == labels[p]:
                            total += weights[q]
                    if total > most or (total == most and labels[p] < best):
                        most, best = total, labels[p]
                out[k, j, i] = best
