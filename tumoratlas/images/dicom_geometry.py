"""Where the slices of a DICOM series lie, and whether they make up one regular stack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tumoratlas.images.checks import Finding, refusal, warning
from tumoratlas.images.dicom_files import Slice, text_of

ORTHONORMAL_TOLERANCE = 1e-3
ROUNDING = 1e-6
SAME_POSITION = 0.01
JITTER = (0.01, 0.1)
# A gap counts as missing slices if it is this close to a whole number of spacings.
WHOLE_GAP = 0.1
# Above this share of wide gaps, slices are not missing: the stack changes its spacing.
FEW_GAPS = 0.25
_PIXEL_LAYOUT = ("BitsStored", "HighBit", "PixelRepresentation")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def drop_copies(slices: Sequence[Slice]) -> tuple[list[Slice], list[Slice]]:
    """Return the slices without copies, and the copies: same place, scaling and stored pixels."""
    at_place: dict[tuple[float, ...], list[Slice]] = {}
    copies = []
    for part in slices:
        here = at_place.setdefault(part.position, [])
        if any(_is_copy(part, other) for other in here):
            copies.append(part)
        else:
            here.append(part)
    return [part for here in at_place.values() for part in here], copies


def place_slices(
    subject: object, slices: Sequence[Slice]
) -> tuple[NDArray[np.intp], NDArray[np.float64], tuple[Finding, ...]]:
    """Order slices along their normal and return the affine of the stack.

    Parameters
    ----------
    subject
        The series to name in errors.
    slices
        The slices, in any order.

    Returns
    -------
    The order of the slices, the affine (x, y, z) to RAS+ mm (DICOM PS3.3 C.7.6.2.1.1, with
    the spacing of the slices from their positions), and SLICE_JITTER if found.

    Raises
    ------
    InputError
        MIXED_SERIES, NO_POSITION, ONE_SLICE, DUPLICATE_POSITIONS, GANTRY_TILT,
        MISSING_SLICES, IRREGULAR_SLICES.
    """
    orientation = np.array([part.orientation for part in slices])
    spacing = np.array([part.spacing for part in slices])
    position = np.array([part.position for part in slices])
    if np.ptp(orientation, axis=0).max() > ORTHONORMAL_TOLERANCE:
        raise refusal("MIXED_SERIES", subject, "slices are turned against each other")
    if (np.ptp(spacing, axis=0) > 1e-3 * spacing[0]).any():
        raise refusal("MIXED_SERIES", subject, "slices differ in pixel spacing")
    along_row, along_column = orientation[0, :3], orientation[0, 3:]
    axes = np.stack([along_row, along_column])
    if np.abs(axes @ axes.T - np.eye(2)).max() > ORTHONORMAL_TOLERANCE or spacing.min() <= 0:
        raise refusal("NO_POSITION", subject, "orientation or spacing is not that of a slice")
    along_row, along_column = _straight(axes)
    if len(slices) < 2:
        raise refusal("ONE_SLICE", subject)
    normal = np.cross(along_row, along_column)
    height = position @ normal
    order = np.argsort(height, kind="stable")
    position, height = position[order], height[order]
    names = [slices[index].path.name for index in order]
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


def _straight(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest pair of orthonormal axes, since readers refuse a sheared affine."""
    if np.abs(axes @ axes.T - np.eye(2)).max() <= ROUNDING:
        return axes
    left, _, right = np.linalg.svd(axes, full_matrices=False)
    return left @ right


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
        are_few = (gaps > 1.5 * usual).mean() <= FEW_GAPS
        largest = int(gaps.argmax())
        shown = f"gaps {gaps.min():.4g} to {gaps.max():.4g} mm, the widest after {names[largest]}"
        code = "MISSING_SLICES" if whole.all() and are_few else "IRREGULAR_SLICES"
        raise refusal(code, subject, shown)
    return (warning("SLICE_JITTER", f"{strayed:.1%}"),) if strayed > tolerated else ()


def _is_copy(a: Slice, b: Slice) -> bool:
    return (
        (a.frame, a.orientation, a.spacing) == (b.frame, b.orientation, b.spacing)
        and (a.slope, a.intercept) == (b.slope, b.intercept)
        and all(text_of(a.dataset, n) == text_of(b.dataset, n) for n in _PIXEL_LAYOUT)
        and a.dataset.PixelData == b.dataset.PixelData
    )
