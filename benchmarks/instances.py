"""Tumor instances of a label map: components, sizes, places, HU and diameters.

As a program, ``python -m benchmarks.instances TUMORS.npy HU.npy`` prints the memory in MB that
ours takes beyond the two volumes.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi
import SimpleITK as sitk
from numpy.typing import NDArray
from skimage.measure import regionprops

from benchmarks.phantom import SPACING_MM, Phantom
from benchmarks.timing import markdown_table, time_methods
from tumoratlas.images.grid import Grid
from tumoratlas.measure.instances import label_instances, measure_instances

OURS = "tumoratlas: label_instances, measure_instances"
SKIMAGE = "scipy label, skimage regionprops (no diameters)"
FERET = "scipy label, skimage regionprops (largest diameter, of the mesh)"
SCIPY = "scipy label, scipy measurements (no diameters)"
ITK = "SimpleITK ConnectedComponent, LabelShapeStatistics with Feret (no HU)"
MB = 1e6
# Per instance: voxels, center (x, y, z) in mm, mean and sd of HU, largest diameter in mm; None
# where a method does not measure it.
Rows = list[tuple[int, tuple[float, ...], float | None, float | None, float | None]]


def compare_instances(phantom: Phantom, rounds: int) -> str:
    """Time the ways of measuring, compare their numbers and return the table.

    The scan is the phantom twice, one above the other. Its tumors are drawn anew, 100 of them
    in 512 x 512 x 300 voxels.
    """
    hu = np.concatenate([phantom.hu, phantom.hu])
    tumors = draw_tumors(hu.shape, max(8, round(100 * hu.size / (512 * 512 * 300))), seed=20251021)
    methods: dict[str, Callable[[], Rows]] = {
        OURS: lambda: _ours(tumors, hu),
        SKIMAGE: lambda: _skimage(tumors, hu, has_feret=False),
        FERET: lambda: _skimage(tumors, hu, has_feret=True),
        SCIPY: lambda: _scipy(tumors, hu),
        ITK: lambda: _itk(tumors),
    }
    timings, results = time_methods(methods, rounds)
    ours = sorted(results[OURS])
    for name, rows in results.items():
        _compare(name, sorted(rows), ours)
    peak_mb = _peak_of_ours_mb(tumors, hu)
    title = f"Measure {len(ours)} tumors in {' x '.join(map(str, hu.shape[::-1]))} voxels"
    return (
        f"{markdown_table(title, timings, SKIMAGE)}\n\nAll find the same {len(ours)} tumors with "
        "equal voxel counts, centers, HU and largest diameters, where they measure them; "
        "diameters of a mesh, which lies around the voxels, are not compared. In a process of "
        f"its own ours takes {peak_mb:.1f} MB beyond the volumes, "
        f"{peak_mb * MB / tumors.nbytes:.2f} times the label map of {tumors.nbytes / MB:.0f} MB."
    )


def draw_tumors(shape: tuple[int, int, int], count: int, seed: int) -> NDArray[np.uint8]:
    """Return a mask (z, y, x) of balls that touch nowhere; equal arguments give equal voxels."""
    rng = np.random.default_rng(seed)
    spacing_mm = np.array(SPACING_MM[::-1])
    mask = np.zeros(shape, np.uint8)
    drawn = 0
    while drawn < count:
        radius = float(np.clip(rng.lognormal(np.log(6.5), 0.6), 3, 40))
        center = rng.uniform(0.1, 0.9, 3) * shape
        low = np.maximum(center - radius / spacing_mm - 1, 0).astype(int)
        high = np.minimum(center + radius / spacing_mm + 2, shape).astype(int)
        box = tuple(map(slice, low, high))
        places = np.ogrid[box]
        parts = zip(places, center, spacing_mm, strict=True)
        ball = sum(((p - c) * s) ** 2 for p, c, s in parts) < radius**2
        near = tuple(map(slice, np.maximum(low - 1, 0), high + 1))
        if ball.any() and not mask[near].any():
            mask[box][ball] = 1
            drawn += 1
    return mask


def _ours(tumors: NDArray[np.uint8], hu: NDArray[np.int16]) -> Rows:
    measured = measure_instances(
        label_instances(tumors),
        hu,
        Grid.of(hu.shape, np.diag([*SPACING_MM, 1])),
        size_edges_mm=(5, 10, 20),
        early_diameter_mm=20,
        minimum_volume_mm3=14,
    )
    rows: Rows = []
    for tumor in measured:
        x, y, z = tumor.centroid_lps_mm
        rows.append((tumor.voxels, (-x, -y, z), tumor.mean_hu, tumor.sd_hu, tumor.max_3d_mm))
    return rows


def _skimage(tumors: NDArray[np.uint8], hu: NDArray[np.int16], *, has_feret: bool) -> Rows:
    labels, _ = ndi.label(tumors, np.ones((3, 3, 3)))
    rows: Rows = []
    for region in regionprops(labels, hu, spacing=SPACING_MM[::-1]):
        count = round(region.area / np.prod(SPACING_MM))
        center = tuple(float(c) for c in region.centroid[::-1])
        mean, sd = float(region.intensity_mean), float(region.intensity_std)
        if has_feret:
            _ = region.feret_diameter_max
        rows.append((count, center, mean, sd, None))
    return rows


def _scipy(tumors: NDArray[np.uint8], hu: NDArray[np.int16]) -> Rows:
    labels, count = ndi.label(tumors, np.ones((3, 3, 3)))
    index = np.arange(1, count + 1)
    voxels = ndi.sum_labels(tumors, labels, index)
    centers = np.array(ndi.center_of_mass(tumors, labels, index))[:, ::-1] * SPACING_MM
    means, sds = ndi.mean(hu, labels, index), ndi.standard_deviation(hu, labels, index)
    return [
        (round(n), tuple(map(float, center)), float(mean), float(sd), None)
        for n, center, mean, sd in zip(voxels, centers, means, sds, strict=True)
    ]


def _itk(tumors: NDArray[np.uint8]) -> Rows:
    mask = sitk.GetImageFromArray(tumors)
    mask.SetSpacing(SPACING_MM)
    found = sitk.LabelShapeStatisticsImageFilter()
    found.ComputeFeretDiameterOn()
    found.Execute(sitk.ConnectedComponent(mask, True))
    return [
        (
            found.GetNumberOfPixels(label),
            found.GetCentroid(label),
            None,
            None,
            found.GetFeretDiameter(label),
        )
        for label in found.GetLabels()
    ]


def _compare(name: str, theirs: Rows, ours: Rows) -> None:
    if [row[0] for row in theirs] != [row[0] for row in ours]:
        raise ValueError(f"{name} finds other tumors")
    for other, row in zip(theirs, ours, strict=True):
        pairs = [
            (a, b)
            for a, b in zip((*other[1], *other[2:]), (*row[1], *row[2:]), strict=True)
            if a is not None
        ]
        if not np.allclose(*zip(*pairs, strict=True), rtol=1e-6, atol=1e-6):
            raise ValueError(f"{name} measures {other}, not {row}")


def _peak_of_ours_mb(tumors: NDArray[np.uint8], hu: NDArray[np.int16]) -> float:
    """Return the memory that ours takes in a process that has held nothing before."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("tumors.npy", "hu.npy")]
        for file, array in zip(files, (tumors, hu), strict=True):
            np.save(file, array)
        command = [sys.executable, "-m", "benchmarks.instances", *files]
        root = Path(__file__).resolve().parents[1]
        return float(subprocess.run(command, cwd=root, check=True, capture_output=True).stdout)


def _highest_kb() -> int:
    # Not ru_maxrss, which a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def _main() -> None:
    tumors, hu = (np.load(path) for path in sys.argv[1:])
    # Compiled code is loaded before.
    _ours(tumors[:2, :2], hu[:2, :2])
    before_kb = _highest_kb()
    _ours(tumors, hu)
    print((_highest_kb() - before_kb) * 1024 / MB)


if __name__ == "__main__":
    _main()
