"""Whether a volume is a CT in Hounsfield units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.images.checks import Finding, refusal, warning
from tumoratlas.images.statistics import PADDING_BELOW_HU, VolumeStatistics

AIR_BELOW_HU = -200
LEAST_SOFT_TISSUE = 0.2
LEAST_RANGE_HU = 300
LEAST_APPENDED = 3


def check_ct(
    statistics: VolumeStatistics, path: Path, *, stored_dtype: np.dtype[Any], min_slices: int
) -> tuple[Finding, ...]:
    """Check that voxels look like Hounsfield units of a whole scan.

    Minimum, maximum and repeats are exact; shares are those of a sample.

    Parameters
    ----------
    statistics
        `measure_volume` of the voxels as int16 HU (`to_hu`).
    path
        The file or folder to name.
    stored_dtype
        Type of the voxels before `to_hu`.
    min_slices
        Fewer axial slices than this are recorded.

    Returns
    -------
    FLOAT_CT, PADDING, NO_AIR, FEW_SLICES, REPEATED_SLICES where found.

    Raises
    ------
    InputError
        CONSTANT, HU_OFFSET, NOT_CT, APPENDED_SLICES.
    """
    low, high = statistics.low, statistics.high
    if low == high:
        raise refusal("CONSTANT", path, f"all {low}")
    shown = f"values {low} to {high}"
    if low >= 0 and statistics.soft_with_offset >= LEAST_SOFT_TISSUE:
        raise refusal("HU_OFFSET", path, shown)
    if low >= 0 or high - low < LEAST_RANGE_HU or statistics.soft < LEAST_SOFT_TISSUE:
        raise refusal(
            "NOT_CT", path, f"{shown}, {statistics.soft:.0%} of the tissue is soft tissue"
        )
    appended = _appended(statistics.slices)
    if appended:
        raise refusal("APPENDED_SLICES", path, appended)
    findings = []
    if stored_dtype.kind == "f":
        findings.append(warning("FLOAT_CT", str(stored_dtype)))
    if low < PADDING_BELOW_HU:
        message = f"minimum {low}, {statistics.padding:.1%} of the voxels"
        findings.append(warning("PADDING", message))
    if low >= AIR_BELOW_HU:
        findings.append(warning("NO_AIR", shown))
    count = len(statistics.slices)
    if count < min_slices:
        findings.append(warning("FEW_SLICES", f"{count} of at least {min_slices}"))
    repeats = np.flatnonzero(_repeats(statistics.slices))
    if len(repeats):
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


def _repeats(slices: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which slices equal an earlier one; blank slices, hash 0, never do."""
    is_first = np.zeros(len(slices), bool)
    is_first[np.unique(slices, return_index=True)[1]] = True
    return ~is_first & (slices != 0)


def _appended(slices: NDArray[np.uint64]) -> str:
    """Describe a block at one end whose slices all stand elsewhere in the scan too, or ``""``.

    Blank slices neither count nor end the block.
    """
    for turned, end in ((slices, "last"), (slices[::-1], "first")):
        filled = turned[turned != 0]
        firsts = np.flatnonzero(~_repeats(filled))
        count = len(filled) - 1 - firsts[-1] if len(firsts) else 0
        if count >= LEAST_APPENDED:
            return f"the {end} {count} of {len(slices)} slices repeat others"
    return ""
