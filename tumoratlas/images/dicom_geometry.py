"""Where the slices of a DICOM series lie, and whether they make up one regular stack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tumoratlas.images.checks import Finding, refusal, warning

ORTHONORMAL_TOLERANCE = 1e-3
SAME_POSITION = 0.01
JITTER = (0.01, 0.1)
# A gap counts as missing slices if it is this close to a whole number of spacings.
WHOLE_GAP = 0.1
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def place_slices(
    subject: object, slices: Sequence[tuple[Path, Dataset]]
) -> tuple[NDArray[np.intp], NDArray[np.float64], tuple[Finding, ...]]:
    """Order slices along their normal and return the affine of the stack.

    Parameters
    ----------
    subject
        The series to name in errors.
    slices
        Path and data set of each slice, in any order.

    Returns
    -------
    The order of the slices, the affine (x, y, z) to RAS+ mm (DICOM PS3.3 C.7.6.2.1.1, with
    the spacing of the slices from their positions), and SLICE_JITTER if found.

    Raises
    ------
    InputError
        NO_POSITION, MIXED_SERIES, ONE_SLICE, DUPLICATE_POSITIONS, GANTRY_TILT,
        MISSING_SLICES, IRREGULAR_SLICES.
    """
    orientation = np.array([_floats(p, d, "ImageOrientationPatient", 6) for p, d in slices])
    spacing = np.array([_floats(p, d, "PixelSpacing", 2) for p, d in slices])
    position = np.array([_floats(p, d, "ImagePositionPatient", 3) for p, d in slices])
    if np.ptp(orientation, axis=0).max() > ORTHONORMAL_TOLERANCE:
        raise refusal("MIXED_SERIES", subject, "slices are turned against each other")
    if (np.ptp(spacing, axis=0) > 1e-3 * spacing[0]).any():
        raise refusal("MIXED_SERIES", subject, "slices differ in pixel spacing")
    along_row, along_column = orientation[0, :3], orientation[0, 3:]
    axes = np.stack([along_row, along_column])
    if np.abs(axes @ axes.T - np.eye(2)).max() > ORTHONORMAL_TOLERANCE or spacing.min() <= 0:
        raise refusal("NO_POSITION", subject, "orientation or spacing is not that of a slice")
    if len(slices) < 2:
        raise refusal("ONE_SLICE", subject)
    normal = np.cross(along_row, along_column)
    height = position @ normal
    order = np.argsort(height, kind="stable")
    position, height = position[order], height[order]
    names = [slices[index][0].name for index in order]
    findings = _check_regular(subject, height, names)
    step = (position[-1] - position[0]) / (len(slices) - 1)
    slice_spacing = float(step @ normal)
    aside = float(np.linalg.norm(step - slice_spacing * normal))
    if aside > ORTHONORMAL_TOLERANCE * slice_spacing:
        tilt = np.degrees(np.arctan(aside / slice_spacing))
        raise refusal("GANTRY_TILT", subject, f"{tilt:.2g} degrees")
    line = position[0] + np.arange(len(slices))[:, None] * step
    strayed = float(np.linalg.norm(position - line, axis=1).max())
    if strayed > spacing[0].min():
        raise refusal("IRREGULAR_SLICES", subject, f"a slice is {strayed:.3g} mm aside")
    affine = np.eye(4)
    # PixelSpacing is (between rows, between columns).
    affine[:3, 0] = along_row * spacing[0, 1]
    affine[:3, 1] = along_column * spacing[0, 0]
    affine[:3, 2] = normal * slice_spacing
    affine[:3, 3] = position[0]
    affine[:3] = _LPS_TO_RAS @ affine[:3]
    return order, affine, findings


def _check_regular(
    subject: object, height: NDArray[np.float64], names: Sequence[str]
) -> tuple[Finding, ...]:
    """Check ascending heights in mm for repeats, gaps and uneven steps."""
    gaps = np.diff(height)
    usual = float(np.median(gaps))
    smallest = int(gaps.argmin())
    if gaps[smallest] <= SAME_POSITION * max(usual, float(gaps.max())):
        shown = f"{names[smallest]} and {names[smallest + 1]} at {height[smallest]:.6g} mm"
        raise refusal("DUPLICATE_POSITIONS", subject, shown)
    # Against the line through the first and the last slice, so that positions that were
    # rounded when written do not add up, while a single missing slice shows as half a step.
    step = (height[-1] - height[0]) / (len(height) - 1)
    strayed = float(np.abs(height - height[0] - step * np.arange(len(height))).max() / step)
    tolerated, refused = JITTER
    if strayed > refused:
        whole = np.abs(gaps / usual - np.rint(gaps / usual)) <= WHOLE_GAP
        largest = int(gaps.argmax())
        shown = f"gaps {gaps.min():.4g} to {gaps.max():.4g} mm, the widest after {names[largest]}"
        code = "MISSING_SLICES" if whole.all() else "IRREGULAR_SLICES"
        raise refusal(code, subject, shown)
    return (warning("SLICE_JITTER", f"{strayed:.1%}"),) if strayed > tolerated else ()


def _floats(path: Path, dataset: Dataset, name: str, count: int) -> list[float]:
    try:
        values = [float(value) for value in dataset.get(name) or []]
    except (TypeError, ValueError):
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise refusal("NO_POSITION", path, name)
    return values
