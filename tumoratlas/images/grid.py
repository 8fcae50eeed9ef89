"""The grid of a volume: where each voxel lies in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Grid:
    """Shape and place of a volume.

    Attributes
    ----------
    shape
        Voxels along (z, y, x), the order of every array in this package.
    rows
        The 4 x 4 affine as nested tuples: voxel index (x, y, z) to RAS+ millimetres (the
        NIfTI world). The one place where (x, y, z) order lives.
    """

    shape: tuple[int, int, int]
    rows: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], affine: NDArray[np.floating]) -> Grid:
        """Make a grid from a (z, y, x) shape and a 4 x 4 affine on (x, y, z) indices."""
        z, y, x = (int(n) for n in shape)
        return cls((z, y, x), tuple(tuple(float(v) for v in row) for row in np.asarray(affine)))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Grid:
        """Rebuild a grid from `to_json`."""
        return cls.of(tuple(value["shape"]), np.array(value["affine"]))

    def to_json(self) -> dict[str, Any]:
        """Return the grid as plain JSON values, exact to the last bit."""
        return {"shape": list(self.shape), "affine": [list(row) for row in self.rows]}

    @property
    def affine(self) -> NDArray[np.float64]:
        """The 4 x 4 affine: voxel index (x, y, z) to RAS+ millimetres."""
        return np.array(self.rows, dtype=np.float64)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (x, y, z), in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(x), float(y), float(z))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm3: the determinant's size, right for oblique grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def orientation(self) -> str:
        """Axis codes of (x, y, z), such as ``RAS``: the direction each index grows towards."""
        return "".join(nib.aff2axcodes(self.affine))

    def corner_distance_mm(self, other: Grid) -> float:
        """Return the largest distance in mm between the two grids' eight outer voxels.

        Infinite where the shapes differ. This is the measure of "same grid": it weighs a
        rotation by its effect on voxels, which a comparison of affine entries does not.
        """
        if self.shape != other.shape:
            return float("inf")
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape[::-1]])).reshape(3, -1)
        indices = np.vstack([corners, np.ones(corners.shape[1])])
        difference = (self.affine - other.affine) @ indices
        return float(np.linalg.norm(difference[:3], axis=0).max())

    def with_spacing(self, spacing_mm: float) -> Grid:
        """Return the isotropic grid that covers the same field of view.

        The outer corner of the first voxel stays in place, the spacing is exactly
        ``spacing_mm``, and each axis gets the nearest whole number of voxels (at least 1).
        """
        factors = spacing_mm / np.array(self.spacing_mm)
        sizes = np.maximum(1, np.round(np.array(self.shape[::-1]) / factors)).astype(int)
        affine = self.affine
        affine[:3, 3] += self.affine[:3, :3] @ (factors / 2 - 0.5)
        affine[:3, :3] = self.affine[:3, :3] * factors
        return Grid.of(tuple(sizes[::-1]), affine)


def to_canonical(array: NDArray[Any], grid: Grid, toward: str = "RAS") -> tuple[NDArray[Any], Grid]:
    """Reorder and flip the axes so that indices grow toward ``toward``; voxels stay in place.

    Parameters
    ----------
    array
        Volume (z, y, x), any dtype.
    grid
        Its grid.
    toward
        Wanted axis codes of (x, y, z).

    Returns
    -------
    The same voxels as a contiguous (z, y, x) array, and their grid.
    """
    start = nib.io_orientation(grid.affine)
    end = nib.orientations.axcodes2ornt(tuple(toward))
    change = nib.orientations.ornt_transform(start, end)
    turned = nib.orientations.apply_orientation(array.transpose(2, 1, 0), change)
    affine = grid.affine @ nib.orientations.inv_ornt_aff(change, array.shape[::-1])
    out = np.ascontiguousarray(turned.transpose(2, 1, 0))
    return out, Grid.of(out.shape, affine)
