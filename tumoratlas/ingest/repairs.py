"""Named repairs of scans, each checked against the content before and after it is made.

A repair is made because the source's description asks for it, never because it would make a
check pass. `tumoratlas.images.orientation.straighten` is the only one that needs no description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.images.checks import Finding, Repair, refusal, warning
from tumoratlas.images.ct import LEAST_SOFT_TISSUE
from tumoratlas.images.grid import Grid
from tumoratlas.images.orientation import SPACING_TOLERANCE
from tumoratlas.images.statistics import SOFT_TISSUE_HU, TISSUE_ABOVE_HU

# Fat and air of a CT in HU; raw values of a CT are not negative, padding apart.
BELOW_WATER_HU = (-1100, -50)
LEAST_BELOW_WATER = 0.005
_SAMPLED_VOXELS = 2_000_000


def repair_scan(
    repairs: Sequence[Mapping[str, Any]], hu: NDArray[np.int16], grid: Grid, path: Path
) -> tuple[NDArray[np.int16], Grid, tuple[Repair, ...], tuple[Finding, ...]]:
    """Make the repairs that a source lists for a scan.

    Parameters
    ----------
    repairs
        ``{name: hu_offset, add_hu}`` or ``{name: spacing, spacing_mm}`` (x, y, z of the stored
        array).
    hu
        int16 (z, y, x) as stored.
    grid
        Its grid.
    path
        The file to name.

    Returns
    -------
    Voxels, grid, the repairs made, and REPAIR_UNNEEDED for each one whose defect is not there.

    Raises
    ------
    InputError, GeometryError
        HU_OFFSET, HU_RANGE, REPAIR_UNFIT.
    """
    made: list[Repair] = []
    findings: list[Finding] = []
    for repair in repairs:
        if repair["name"] == "hu_offset":
            hu, done = add_offset(hu, int(repair["add_hu"]), path)
        else:
            grid, done = set_spacing(grid, repair["spacing_mm"], path)
        made += done
        if not done:
            findings.append(warning("REPAIR_UNNEEDED", repair["name"]))
    return hu, grid, tuple(made), tuple(findings)


def add_offset(
    hu: NDArray[np.int16], add_hu: int, path: Path
) -> tuple[NDArray[np.int16], tuple[Repair, ...]]:
    """Add a constant to raw values so that they become HU.

    Values that hold fat or air below water, and soft tissue near 0, are in HU already and stay.

    Raises
    ------
    InputError
        HU_OFFSET: soft tissue does not lie near 0 HU afterwards. HU_RANGE: a value does not fit.
    """
    step = max(1, round((hu.size / _SAMPLED_VOXELS) ** (1 / 3)))
    sample = hu[::step, ::step, ::step].astype(np.int32)
    low, high = BELOW_WATER_HU
    below_water = float(((sample >= low) & (sample <= high)).mean())
    if below_water >= LEAST_BELOW_WATER and _soft_tissue(sample) >= LEAST_SOFT_TISSUE:
        return hu, ()
    soft = _soft_tissue(sample + add_hu)
    if soft < LEAST_SOFT_TISSUE:
        shown = f"with {add_hu:+d} HU, {soft:.0%} of the tissue is soft tissue"
        raise refusal("HU_OFFSET", path, shown)
    lowest, highest = int(hu.min()), int(hu.max())
    if lowest + add_hu < -32768 or highest + add_hu > 32767:
        raise refusal("HU_RANGE", path, f"values {lowest} to {highest} and {add_hu:+d} HU")
    before = f"values {lowest} to {highest}"
    after = f"{add_hu:+d} HU, {soft:.0%} of the tissue is soft tissue"
    return hu + np.int16(add_hu), (Repair("hu_offset", before, after),)


def _soft_tissue(values: NDArray[np.int32]) -> float:
    """Return the share of soft tissue among what is denser than lung, as `check_ct` does."""
    low, high = SOFT_TISSUE_HU
    soft = np.count_nonzero((values >= low) & (values <= high))
    return soft / max(1, np.count_nonzero(values > TISSUE_ABOVE_HU))


def set_spacing(
    grid: Grid, spacing_mm: Sequence[float], path: Path
) -> tuple[Grid, tuple[Repair, ...]]:
    """Give a grid of false 1 x 1 x 1 mm its true spacing; directions and first voxel stay.

    Parameters
    ----------
    grid
        The grid as the header states it.
    spacing_mm
        True spacing along x, y, z of the stored array.
    path
        The file to name.

    Returns
    -------
    The grid and the repair ``spacing``; no repair where the header already has the listed one.

    Raises
    ------
    GeometryError
        REPAIR_UNFIT: the header has a third spacing.
    """
    found, listed = np.array(grid.spacing_mm), np.array(spacing_mm, np.float64)
    if np.allclose(found, listed, rtol=SPACING_TOLERANCE, atol=0):
        return grid, ()
    before, after = (" x ".join(f"{s:g}" for s in row) + " mm" for row in (found, listed))
    if not np.allclose(found, 1, rtol=1e-3):
        raise refusal("REPAIR_UNFIT", path, f"header {before}, listed {after}")
    affine = grid.affine
    affine[:3, :3] *= listed / found
    return Grid.of(grid.shape, affine), (Repair("spacing", before, after),)
