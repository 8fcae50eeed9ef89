"""Whether a volume is a CT in Hounsfield units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tumoratlas.images.checks import Finding, refusal, warning
from tumoratlas.images.grid import Grid

AIR_BELOW_HU = -200
PADDING_BELOW_HU = -1024
SOFT_TISSUE_HU = (-200, 300)
OFFSET_HU = 1024
# Lung and the air around the patient do not count when tissue is looked for.
TISSUE_ABOVE_HU = -700
LEAST_SOFT_TISSUE = 0.2
LEAST_RANGE_HU = 300
_SAMPLED_VOXELS = 2_000_000


def check_ct(
    array: NDArray[Any], grid: Grid, path: Path, *, min_slices: int
) -> tuple[Finding, ...]:
    """Check that voxels look like Hounsfield units of a whole scan.

    Minimum, maximum and repeats are exact; shares are taken on every n-th voxel along each
    axis, the same ones each time.

    Parameters
    ----------
    array
        Voxels (z, y, x), any real dtype.
    grid
        Their grid, which tells the axis of the slices.
    path
        The file or folder to name.
    min_slices
        Fewer axial slices than this are recorded.

    Returns
    -------
    FLOAT_CT, PADDING, NO_AIR, FEW_SLICES, REPEATED_SLICES where found.

    Raises
    ------
    InputError
        DATA_NOT_FINITE, CONSTANT, HU_RANGE, HU_OFFSET, NOT_CT.
    """
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise refusal("DATA_NOT_FINITE", path)
    if low == high:
        raise refusal("CONSTANT", path, f"all {low}")
    shown = f"values {low} to {high}"
    if low < -32768 or high > 32767:
        raise refusal("HU_RANGE", path, shown)
    step = max(1, round((array.size / _SAMPLED_VOXELS) ** (1 / 3)))
    sample = array[::step, ::step, ::step]
    if low >= 0 and _soft_tissue(sample, OFFSET_HU) >= LEAST_SOFT_TISSUE:
        raise refusal("HU_OFFSET", path, shown)
    soft = _soft_tissue(sample, 0)
    if low >= 0 or high - low < LEAST_RANGE_HU or soft < LEAST_SOFT_TISSUE:
        raise refusal("NOT_CT", path, f"{shown}, {soft:.0%} of the tissue is soft tissue")
    findings = []
    if array.dtype.kind == "f":
        findings.append(warning("FLOAT_CT", str(array.dtype)))
    if low < PADDING_BELOW_HU:
        share = float((sample < PADDING_BELOW_HU).mean())
        findings.append(warning("PADDING", f"minimum {low}, {share:.1%} of the voxels"))
    if low >= AIR_BELOW_HU:
        findings.append(warning("NO_AIR", shown))
    slices = np.moveaxis(array, _slice_axis(grid), 0)
    if len(slices) < min_slices:
        findings.append(warning("FEW_SLICES", f"{len(slices)} of at least {min_slices}"))
    repeats = _repeated(slices)
    if repeats:
        findings.append(warning("REPEATED_SLICES", f"{len(repeats)}, the first is {repeats[0]}"))
    return tuple(findings)


def to_hu(array: NDArray[Any], path: Path) -> NDArray[np.int16]:
    """Return voxels as int16 HU, rounding half up.

    Raises
    ------
    InputError
        HU_RANGE or DATA_NOT_FINITE: a value does not fit.
    """
    if array.dtype == np.int16:
        return array
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise refusal("DATA_NOT_FINITE", path)
    if low < -32768 or high > 32767:
        raise refusal("HU_RANGE", path, f"values {low} to {high}")
    if array.dtype.kind == "f":
        return np.floor(array + array.dtype.type(0.5)).astype(np.int16)
    return array.astype(np.int16)


def _soft_tissue(sample: NDArray[Any], offset_hu: int) -> float:
    """Return the share of soft tissue among what is denser than lung."""
    tissue = np.count_nonzero(sample > TISSUE_ABOVE_HU + offset_hu)
    low, high = SOFT_TISSUE_HU
    soft = np.count_nonzero((sample >= low + offset_hu) & (sample <= high + offset_hu))
    return soft / max(1, tissue)


def _slice_axis(grid: Grid) -> int:
    """Return the array axis (of z, y, x) that runs along the patient."""
    codes = grid.orientation
    return 2 - next(xyz for xyz in range(3) if codes[xyz] in "SI")


def _repeated(slices: NDArray[Any]) -> list[int]:
    """Return the indices of slices equal to an earlier one; blank slices do not count."""
    seen: set[int] = set()
    repeats = []
    for index, part in enumerate(slices):
        digest = xxhash.xxh3_64_intdigest(np.ascontiguousarray(part).data)
        if digest in seen and part.min() != part.max():
            repeats.append(index)
        seen.add(digest)
    return repeats
