"""Where a NIfTI header places its volume: one declared reading of qform and sform."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tumoratlas.images.checks import Finding, Repair, refusal, warning
from tumoratlas.images.grid import Grid

# What ITK accepts (itkNiftiImageIO.cxx, release 5.4); beyond it refuses to read.
ORTHONORMAL_TOLERANCE = 1e-4
STRAIGHTENED_VOXELS = 0.5
SPACING_TOLERANCE = 0.01
SAME_PLACE_VOXELS = 0.1
SAME_TURN_VOXELS = 1.0
PLAUSIBLE_SPACING_MM = (0.1, 20.0)


def header_grid(
    path: Path, header: nib.Nifti1Header | nib.Nifti2Header, shape: tuple[int, int, int]
) -> tuple[Grid, tuple[Finding, ...], tuple[Repair, ...]]:
    """Return the grid that a header states, what is odd about it, and what was put right.

    The policy: the sform if it is coded, else the qform if it is coded, else none. The sform
    must have the spacing of ``pixdim``, since readers differ in which of them they believe. A
    sform that is off straight by so little that no corner of the volume moves by more than half
    a voxel is straightened; one that is sheared more gives way to a coded qform. Where both
    are coded and differ, a mere shift is only recorded, because scan and masks are compared
    with each other later; a difference in rotation, flip or size of more than a voxel at the
    corners is refused, because it would change sides or sizes. Where nibabel or ITK would place
    the volume elsewhere, that is recorded.

    Raises
    ------
    GeometryError
        NO_ORIENTATION, QFORM_INVALID, AFFINE_NOT_FINITE, AFFINE_SINGULAR, NON_ORTHONORMAL,
        SPACING_CONTRADICTION, FORMS_CONTRADICT.
    """
    findings: list[Finding] = []
    repairs: tuple[Repair, ...] = ()
    qform, qform_problem = _qform(header)
    if int(header["sform_code"]) > 0:
        affine = header.get_sform().astype(np.float64)
        check_affine(path, affine)
        _refuse_other_spacing(path, header, affine)
        affine, repairs = straighten(affine, shape)
        shear = _shear(affine)
        if shear > ORTHONORMAL_TOLERANCE:
            if qform is None:
                raise refusal("NON_ORTHONORMAL", path, f"deviation {shear:.3g}")
            findings.append(warning("SFORM_SHEARED", f"deviation {shear:.3g}"))
            affine = qform
        elif qform is not None:
            findings += _compare(path, Grid.of(shape, affine), Grid.of(shape, qform))
    elif qform is not None:
        affine = qform
    elif qform_problem:
        raise refusal("QFORM_INVALID", path, qform_problem)
    else:
        raise refusal("NO_ORIENTATION", path)
    check_affine(path, affine)
    grid = Grid.of(shape, affine)
    findings += _other_readers(header, grid)
    spacing = np.array(grid.spacing_mm)
    low, high = PLAUSIBLE_SPACING_MM
    if (spacing == 1).all() or spacing.min() < low or spacing.max() > high:
        findings.append(warning("SPACING_SUSPECT", " x ".join(f"{s:g}" for s in spacing)))
    return grid, tuple(findings), repairs


def straighten(
    affine: NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[NDArray[np.float64], tuple[Repair, ...]]:
    """Replace slightly sheared axes by the nearest straight ones about the volume's centre.

    The nearest rotation in the Frobenius norm is the orthogonal factor of the polar
    decomposition (Higham, SIAM J. Sci. Stat. Comput. 7, 1986); it may hold a reflection. The
    spacing is kept.

    Parameters
    ----------
    affine
        4 x 4, voxel index (x, y, z) to mm, not singular.
    shape
        Voxels along (z, y, x).

    Returns
    -------
    The affine and the repair ``straightened``; the same affine and no repair where it is
    straight, or where a corner would move by more than `STRAIGHTENED_VOXELS`.
    """
    shear = _shear(affine)
    if shear <= ORTHONORMAL_TOLERANCE:
        return affine, ()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    straight = affine.copy()
    straight[:3, :3] = left @ right * spacing
    centre = (np.array(shape[::-1]) - 1) / 2
    straight[:3, 3] += (affine[:3, :3] - straight[:3, :3]) @ centre
    moved = Grid.of(shape, affine).corner_distance_mm(Grid.of(shape, straight)) / spacing.min()
    if moved > STRAIGHTENED_VOXELS:
        return affine, ()
    after = f"straight axes, corners moved by {moved:.2g} voxels"
    return straight, (Repair("straightened", f"axes off straight by {shear:.3g}", after),)


def itk_affine(header: nib.Nifti1Header | nib.Nifti2Header) -> NDArray[np.float64] | None:
    """Return where ITK places a volume (RAS+ mm), or None where it refuses to read it.

    ITK takes directions and origin of the sform if that is straight and either scanner-based
    (code 1) or the only form, else of the qform; the spacing is always that of ``pixdim``
    (itkNiftiImageIO.cxx, release 5.4, SetImageIOOrientationFromNIfTI). A volume without codes
    is not looked at here.
    """
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    affine = header.get_sform().astype(np.float64)
    spacing = np.array(header["pixdim"][1:4], np.float64)
    if sform_code > 0 and (sform_code == 1 or qform_code <= 0):
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        if np.abs(axes @ axes.T - np.eye(3)).max() <= ORTHONORMAL_TOLERANCE:
            affine[:3, :3] = axes * spacing
            return affine
    if qform_code <= 0:
        return None
    vector = np.array([header[f"quatern_{letter}"] for letter in "bcd"], np.float64)
    axes = nib.quaternions.quat2mat([np.sqrt(max(0.0, 1 - float(vector @ vector))), *vector])
    axes[:, 2] *= -1 if header["pixdim"][0] < 0 else 1
    origin = [header[f"qoffset_{letter}"] for letter in "xyz"]
    return nib.affines.from_matvec(axes * spacing, origin)


def _other_readers(header: nib.Nifti1Header | nib.Nifti2Header, grid: Grid) -> list[Finding]:
    """Compare a grid with the readings of nibabel and ITK."""
    readings = {"nibabel": header.get_best_affine().astype(np.float64), "ITK": itk_affine(header)}
    shown = []
    for reader, affine in readings.items():
        if affine is None:
            shown.append(f"{reader} refuses to read it")
            continue
        moved = grid.corner_distance_mm(Grid.of(grid.shape, affine)) / min(grid.spacing_mm)
        if not moved <= SAME_PLACE_VOXELS:
            shown.append(f"{reader} moves a corner by {moved:.3g} voxels")
    return [warning("READERS_DIFFER", "; ".join(shown))] if shown else []


def _qform(
    header: nib.Nifti1Header | nib.Nifti2Header,
) -> tuple[NDArray[np.float64] | None, str]:
    """Return the coded qform, or None and why a coded one is no use."""
    if int(header["qform_code"]) <= 0:
        return None, ""
    try:
        affine = header.get_qform().astype(np.float64)
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        return None, str(error)
    return affine, ""


def check_affine(path: Path, affine: NDArray[np.float64]) -> None:
    """Refuse an affine that places no volume.

    Raises
    ------
    GeometryError
        AFFINE_NOT_FINITE, AFFINE_SINGULAR.
    """
    if not np.isfinite(affine).all():
        raise refusal("AFFINE_NOT_FINITE", path)
    # Relative to the product of the spacings the determinant is 1 for straight axes.
    size = float(np.prod(np.linalg.norm(affine[:3, :3], axis=0)))
    if size == 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-3 * size:
        raise refusal("AFFINE_SINGULAR", path, f"affine {affine[:3].tolist()}")


def _refuse_other_spacing(
    path: Path, header: nib.Nifti1Header | nib.Nifti2Header, affine: NDArray[np.float64]
) -> None:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    pixdim = np.array(header["pixdim"][1:4], np.float64)
    # Written so that a NaN in pixdim counts as a contradiction.
    if not (np.abs(pixdim - spacing) <= SPACING_TOLERANCE * spacing).all():
        shown = [" x ".join(f"{v:g}" for v in row) for row in (spacing, pixdim)]
        raise refusal("SPACING_CONTRADICTION", path, f"sform {shown[0]}, pixdim {shown[1]} mm")


def _shear(affine: NDArray[np.float64]) -> float:
    """Return the largest entry of |R'R - I| for the affine's unit axes R."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def _compare(path: Path, sform: Grid, qform: Grid) -> list[Finding]:
    voxel_mm = min(sform.spacing_mm)
    moved = sform.corner_distance_mm(qform) / voxel_mm
    # Both centred on the same point: what remains is turn, flip and size.
    centre = np.append((np.array(sform.shape[::-1]) - 1) / 2, 1)
    centred = qform.affine
    centred[:3, 3] += (sform.affine @ centre - qform.affine @ centre)[:3]
    turned = sform.corner_distance_mm(Grid.of(qform.shape, centred)) / voxel_mm
    shown = f"corners differ by {moved:.3g} voxels, without the shift by {turned:.3g}"
    if not turned <= SAME_TURN_VOXELS:
        raise refusal("FORMS_CONTRADICT", path, shown)
    return [warning("FORMS_DIFFER", shown)] if moved > SAME_PLACE_VOXELS else []
