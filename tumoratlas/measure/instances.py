"""Tumor instances of a mask, and the size of each.

The paper sorts tumors by radius (Figure 4) without defining it. Here it is the radius in mm of
the sphere of equal volume, on the annotation's own grid; the classes are closed above.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import GeometryError, InputError
from tumoratlas.images.components import (
    component_runs,
    equal_volume_radius_mm,
    label_statistics,
    minimum_voxels,
)
from tumoratlas.images.grid import Grid
from tumoratlas.images.runs import paint_runs
from tumoratlas.measure.diameters import measure_diameters

_ROUNDING = 1e-9
SIZE_CLASSES = ("tiny", "small", "medium", "large")


@dataclass(frozen=True)
class Instance:
    """One tumor of a mask, measured.

    Attributes
    ----------
    label
        Its value in the instance map.
    voxels, volume_mm3
        Voxel count, and count times the voxel volume (the affine's determinant).
    radius_mm, size_class
        Radius of the sphere of equal volume, and its class (`size_class`).
    longest_axial_mm, perpendicular_mm
        Longest diameter within one axial slice and the width across it, between voxel centers
        (`Diameters`). Axial slices are those across the array axis nearest to
        head-foot, so on an oblique scan they are the acquired slices.
    max_3d_mm
        Largest distance between two voxel centers.
    is_early
        Diameter of the sphere of equal volume below the configured diameter (20 mm).
    is_early_recist
        The same for the longest axial diameter.
    is_fragment
        Below the minimum volume: kept in the table, left out of headline counts.
    centroid_lps_mm
        Mean of the voxel centers, (x, y, z) toward left, posterior, superior (DICOM).
    bbox
        Half-open box of voxel indices ``z0, y0, x0, z1, y1, x1``.
    mean_hu, sd_hu
        Mean and population standard deviation of the scan inside; None without a scan.
    touches_border
        Reaches the first or last voxel of any axis, so that it may be cut off.
    """

    label: int
    voxels: int
    volume_mm3: float
    radius_mm: float
    size_class: str
    longest_axial_mm: float
    perpendicular_mm: float
    max_3d_mm: float
    is_early: bool
    is_early_recist: bool
    is_fragment: bool
    centroid_lps_mm: tuple[float, float, float]
    bbox: tuple[int, int, int, int, int, int]
    mean_hu: float | None
    sd_hu: float | None
    touches_border: bool


def size_class(radius_mm: float, edges_mm: Sequence[float]) -> str:
    """Return the class of a radius: tiny <= e0 < small <= e1 < medium <= e2 < large.

    The paper's classes overlap at their edges (Figure 4); closed above settles it.

    Examples
    --------
    >>> [size_class(r, (5, 10, 20)) for r in (5, 5.01, 20, 20.01)]
    ['tiny', 'small', 'medium', 'large']
    """
    return SIZE_CLASSES[sum(radius_mm > edge for edge in edges_mm)]


def is_below(diameter_mm: float, limit_mm: float) -> bool:
    """Return whether a diameter is below a limit, by more than rounding.

    A tumor of just 20 mm stays what it is wherever it lies and however it is turned.
    """
    return diameter_mm < limit_mm * (1 - _ROUNDING)


def label_instances(mask: NDArray[np.generic], connectivity: int = 26) -> NDArray[np.uint16]:
    """Split a tumor mask into its connected components.

    Parameters
    ----------
    mask
        Bool or integer (z, y, x); every non-zero voxel is tumor.
    connectivity
        6, 18 or 26 neighbours.

    Returns
    -------
    uint16 (z, y, x): 0 background, 1 .. n by descending size, ties by first voxel in raster
    order.

    Raises
    ------
    InputError
        The mask has more components than uint16 can number.
    """
    runs, labels, voxels = component_runs(mask, connectivity)
    if len(voxels) > np.iinfo(np.uint16).max:
        raise InputError(
            "TOO_MANY_INSTANCES",
            "tumor mask",
            f"has {len(voxels)} separate parts, more than 65,535",
            remedy="This is noise, not tumors: look at the mask and exclude or repair it.",
        )
    instances = np.zeros(mask.shape, np.uint16)
    paint_runs(runs, labels, instances)
    return instances


def measure_instances(
    instances: NDArray[np.uint16],
    ct: NDArray[np.int16] | None,
    grid: Grid,
    *,
    size_edges_mm: Sequence[float],
    early_diameter_mm: float,
    minimum_volume_mm3: float,
) -> list[Instance]:
    """Measure every instance of a map, in order of label.

    Parameters
    ----------
    instances
        uint16 (z, y, x), 0 background; labels need neither be contiguous nor connected, since
        review splits and merges them.
    ct
        The scan on the same grid, int16 HU (z, y, x), or None.
    grid
        Grid of both; it may be anisotropic, oblique and of any orientation.
    size_edges_mm
        Upper edges of the tiny, small and medium classes, in mm of radius.
    early_diameter_mm
        A tumor below this diameter is early.
    minimum_volume_mm3
        An instance below this volume is a fragment.

    Raises
    ------
    GeometryError
        An array does not have the grid's shape.
    """
    _check_shapes({"instance map": instances, "scan": ct}, grid)
    statistics = label_statistics(instances, values=ct)
    # Steps along the array axes z, y, x; the affine's columns are x, y, z.
    columns_mm = np.ascontiguousarray(grid.affine[:3, 2::-1])
    axial = _axial_axis(grid)
    axes = [axial, *(axis for axis in range(3) if axis != axial)]
    to_lps = np.array([-1.0, -1.0, 1.0])
    fewest = minimum_voxels(minimum_volume_mm3, grid.voxel_volume_mm3)
    measured = []
    for row in np.flatnonzero(statistics.voxels):
        count = int(statistics.voxels[row])
        low, high = statistics.box[row, :3], statistics.box[row, 3:]
        inside = instances[tuple(map(slice, low, high))] == row + 1
        diameters = measure_diameters(inside.transpose(axes), columns_mm[:, axes])
        volume_mm3 = count * grid.voxel_volume_mm3
        radius_mm = equal_volume_radius_mm(volume_mm3)
        center = statistics.index_sum[row] / count
        centroid = (columns_mm @ center + grid.affine[:3, 3]) * to_lps
        mean_hu, sd_hu = None, None
        if ct is not None:
            total, squares = int(statistics.value_sum[row]), int(statistics.square_sum[row])
            mean_hu = total / count
            # Exact integers up to the root: no cancellation.
            sd_hu = math.sqrt(count * squares - total * total) / count
        measured.append(
            Instance(
                label=int(row) + 1,
                voxels=count,
                volume_mm3=volume_mm3,
                radius_mm=radius_mm,
                size_class=size_class(radius_mm, size_edges_mm),
                longest_axial_mm=diameters.longest_axial_mm,
                perpendicular_mm=diameters.perpendicular_mm,
                max_3d_mm=diameters.max_3d_mm,
                is_early=is_below(2 * radius_mm, early_diameter_mm),
                is_early_recist=is_below(diameters.longest_axial_mm, early_diameter_mm),
                is_fragment=count < fewest,
                centroid_lps_mm=tuple(map(float, centroid)),
                bbox=tuple(map(int, (*low, *high))),
                mean_hu=mean_hu,
                sd_hu=sd_hu,
                touches_border=bool((low == 0).any() or (high == grid.shape).any()),
            )
        )
    return measured


def _check_shapes(arrays: Mapping[str, NDArray[np.generic] | None], grid: Grid) -> None:
    for name, array in arrays.items():
        if array is not None and array.shape != grid.shape:
            raise GeometryError(
                "SHAPE_MISMATCH",
                name,
                f"has shape {array.shape}, its grid {grid.shape}",
                remedy="Give arrays that lie on the grid.",
            )


def _axial_axis(grid: Grid) -> int:
    """Return the array axis (of z, y, x) that runs nearest to head-foot."""
    world_axes = nib.io_orientation(grid.affine)[:, 0]
    return 2 - int(np.flatnonzero(world_axes == 2)[0])
