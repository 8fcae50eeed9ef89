"""Tumor instances of a label map: components, sizes, places and HU."""

from collections.abc import Callable

import numpy as np
import scipy.ndimage as ndi
import SimpleITK as sitk
from skimage.measure import regionprops

from benchmarks.phantom import SPACING_MM, TUMORS, Phantom
from benchmarks.timing import markdown_table, time_methods
from tumoratlas.images.grid import Grid
from tumoratlas.measure.instances import label_instances, measure_instances

OURS = "tumoratlas: label_instances, measure_instances (with diameters)"
NAIVE = "scipy label, skimage regionprops (no diameters)"
ITK = "SimpleITK ConnectedComponent, LabelShapeStatistics with Feret"
# Per instance: class, voxels, center (x, y, z) in mm, mean HU, largest diameter in mm; None
# where a method does not measure it.
Rows = list[tuple[int, int, tuple[float, ...], float | None, float | None]]


def compare_instances(phantom: Phantom, rounds: int) -> str:
    """Time the ways of measuring, compare their numbers and return the table."""
    methods: dict[str, Callable[[], Rows]] = {
        OURS: lambda: _ours(phantom),
        NAIVE: lambda: _naive(phantom),
        ITK: lambda: _itk(phantom),
    }
    timings, results = time_methods(methods, rounds)
    ours = sorted(results[OURS])
    for name, rows in results.items():
        _compare(name, sorted(rows), ours)
    title = f"Measure {len(ours)} tumors of {len(TUMORS)} organs"
    return (
        f"{markdown_table(title, timings, NAIVE)}\n\nAll find the same {len(ours)} tumors with "
        "equal voxel counts, centers, mean HU and largest diameters, where they measure them."
    )


def _ours(phantom: Phantom) -> Rows:
    grid = Grid.of(phantom.hu.shape, np.diag([*SPACING_MM, 1]))
    rows: Rows = []
    for value in TUMORS.values():
        tumors = measure_instances(
            label_instances(phantom.values == value),
            phantom.hu,
            grid,
            size_edges_mm=(5, 10, 20),
            early_diameter_mm=20,
            minimum_volume_mm3=14,
        )
        for tumor in tumors:
            x, y, z = tumor.centroid_lps_mm
            rows.append((value, tumor.voxels, (-x, -y, z), tumor.mean_hu, tumor.max_3d_mm))
    return rows


def _naive(phantom: Phantom) -> Rows:
    rows: Rows = []
    for value in TUMORS.values():
        components, _ = ndi.label(phantom.values == value, np.ones((3, 3, 3)))
        for region in regionprops(components, phantom.hu, spacing=SPACING_MM[::-1]):
            count = round(region.area / np.prod(SPACING_MM))
            center = tuple(float(c) for c in region.centroid[::-1])
            rows.append((value, count, center, float(region.intensity_mean), None))
    return rows


def _itk(phantom: Phantom) -> Rows:
    rows: Rows = []
    for value in TUMORS.values():
        mask = sitk.GetImageFromArray((phantom.values == value).astype(np.uint8))
        mask.SetSpacing(SPACING_MM)
        found = sitk.LabelShapeStatisticsImageFilter()
        found.ComputeFeretDiameterOn()
        found.Execute(sitk.ConnectedComponent(mask, True))
        for label in found.GetLabels():
            count, center = found.GetNumberOfPixels(label), found.GetCentroid(label)
            rows.append((value, count, center, None, found.GetFeretDiameter(label)))
    return rows


def _compare(name: str, theirs: Rows, ours: Rows) -> None:
    if [row[:2] for row in theirs] != [row[:2] for row in ours]:
        raise ValueError(f"{name} finds other tumors")
    for other, row in zip(theirs, ours, strict=True):
        pairs = [
            (a, b)
            for a, b in zip((*other[2], *other[3:]), (*row[2], *row[3:]), strict=True)
            if a is not None
        ]
        if not np.allclose(*zip(*pairs, strict=True), rtol=1e-6, atol=1e-6):
            raise ValueError(f"{name} measures {other}, not {row}")
