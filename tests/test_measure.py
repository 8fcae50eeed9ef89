"""Tumor instances: their labels, sizes and diameters, against published numbers and ITK."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import cc3d
import numpy as np
import pandas as pd
import pydicom
import pytest
import scipy.ndimage as ndi
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from tumoratlas.core.errors import GeometryError, InputError
from tumoratlas.core.tables import SCHEMAS
from tumoratlas.images.components import find_components, foreground_box, minimum_voxels
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti
from tumoratlas.measure.instances import (
    SIZE_CLASSES,
    Instance,
    equal_volume_radius_mm,
    is_below,
    label_instances,
    measure_instances,
    size_class,
)

EDGES_MM = (5.0, 10.0, 20.0)
OBLIQUE = np.array(
    [[0.8, 0.1, 0.3, -50], [-0.1, 0.78, 0.5, 20], [0.02, -0.2, 2.4, 7], [0, 0, 0, 1]]
)


def measured(instances: np.ndarray, grid: Grid, ct: np.ndarray | None = None) -> list[Instance]:
    return measure_instances(
        instances,
        ct,
        grid,
        size_edges_mm=EDGES_MM,
        early_diameter_mm=20.0,
        minimum_volume_mm3=14.0,
    )


def diagonal_grid(shape: tuple[int, ...], x: float, y: float, z: float) -> Grid:
    return Grid.of(shape, np.diag([x, y, z, 1.0]))


def blobs(seed: int, shape: tuple[int, int, int] = (20, 30, 28), count: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    mask = np.zeros(shape, bool)
    for _ in range(count):
        center, radius = rng.uniform(0, shape), rng.uniform(0.5, 5, 3)
        parts = zip((z, y, x), center, radius, strict=True)
        mask |= sum(((i - c) / r) ** 2 for i, c, r in parts) <= 1
    return mask


@pytest.fixture(scope="module")
def reference(real_data: Path) -> pd.DataFrame:
    return pd.read_csv(real_data / "reference_instances.csv")


def read_labels(path: Path) -> tuple[np.ndarray, Grid]:
    if path.suffix == ".nrrd":
        image = sitk.ReadImage(path)
        matrix = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = matrix, image.GetOrigin()
        array = sitk.GetArrayFromImage(image)
        return array, Grid.of(array.shape, np.diag([-1, -1, 1, 1]) @ affine)
    file = read_nifti(path, max_voxels=10**9)
    return file.array, file.grid


def test_all_reference_instances(real_data: Path, reference: pd.DataFrame) -> None:
    assert len(reference) == 123
    compared = 0
    for file, rows in reference.groupby("file"):
        labels, grid = read_labels(real_data / file.removesuffix(" (binarised)"))
        for value, expected in rows.groupby("value"):
            mask = labels > 0 if file.endswith("(binarised)") else labels == value
            for connectivity in (6, 18, 26):
                components = find_components(mask, connectivity=connectivity)
                wanted = expected[f"n_cc_{connectivity}"].unique()
                assert [len(components.voxels)] == wanted.tolist(), (file, value, connectivity)
            ours = measured(label_instances(mask), grid)
            left = expected[expected["voxels"] > 0].to_dict("records")
            assert len(ours) == len(left)
            # A file without any such voxel has one row of zeros.
            compared += len(expected) - len(left)
            for tumor in ours:
                centroid = np.array(tumor.centroid_lps_mm)
                distances = [
                    np.abs(centroid - [row[f"centroid_{a}_lps"] for a in "xyz"]).max()
                    for row in left
                ]
                row = left.pop(int(np.argmin(distances)))
                # The reference is rounded to 2 decimals.
                assert min(distances) <= 0.00501
                assert tumor.voxels == row["voxels"]
                assert tumor.volume_mm3 == pytest.approx(row["volume_mm3"], abs=6e-4)
                assert tumor.radius_mm == pytest.approx(row["radius_mm"], abs=6e-5)
                assert tumor.size_class == row["size_class"]
                compared += 1
    assert compared == 123


def test_radiologists_measure_the_same_tumor_size(real_data: Path) -> None:
    folder = real_data / "kits23_segmentations"
    ratios = []
    for case in json.loads((folder / "kits23_clinical_subset.json").read_text()):
        if case["radiographic_size"]:
            labels, grid = read_labels(folder / f"{case['case_id']}.segmentation.nii.gz")
            largest = measured(label_instances(labels == 2), grid)[0]
            ratios.append(largest.longest_axial_mm / (10 * case["radiographic_size"]))
    assert len(ratios) == 19
    assert 0.95 < np.median(ratios) < 1.15


def test_pyradiomics_baseline(real_data: Path) -> None:
    folder = real_data / "pyradiomics_lung1"
    baseline = pd.read_csv(folder / "baseline_shape.csv", index_col=0)["lung1"]
    value = {
        key: float(baseline[f"original_shape_{key}"])
        for key in ("VoxelVolume", "Maximum3DDiameter", "Maximum2DDiameterSlice")
    }
    labels, grid = read_labels(folder / "lung1_label.nrrd")
    [tumor] = measured(label_instances(labels), grid)
    assert tumor.volume_mm3 == pytest.approx(value["VoxelVolume"], rel=1e-9)
    # pyradiomics measures between the corners of its surface mesh, which lie halfway between a
    # voxel of the tumor and a neighbour outside; on these points our way gives its numbers.
    mask = np.pad(labels == 1, 1).astype(bool)
    steps = grid.affine[:3, 2::-1]
    halves = []
    for axis in range(3):
        for way in (-1, 1):
            beside = mask & ~np.roll(mask, -way, axis)
            halves.append(np.argwhere(beside) + 0.5 * way * np.eye(3)[axis])
    corners = np.vstack(halves)
    hull = corners[ConvexHull(corners).vertices] @ steps.T
    assert np.linalg.norm(hull[:, None] - hull, axis=2).max() == pytest.approx(
        value["Maximum3DDiameter"], rel=1e-9
    )
    # Between voxel centers it is at most the two half steps shorter.
    assert 0 <= value["Maximum3DDiameter"] - tumor.max_3d_mm <= max(grid.spacing_mm)
    in_slices = []
    for z in np.unique(corners[:, 0]):
        plane = corners[corners[:, 0] == z] @ steps.T
        in_slices.append(np.linalg.norm(plane[:, None] - plane, axis=2).max())
    assert max(in_slices) == pytest.approx(value["Maximum2DDiameterSlice"], rel=1e-9)
    assert 0 <= value["Maximum2DDiameterSlice"] - tumor.longest_axial_mm <= 0.5703125 * np.sqrt(2)


def test_hu_of_the_published_dicom_example(real_data: Path) -> None:
    # dcmqi's TID 1500 example: 107,098 voxels, 70,361.9 mm3, mean 37.3289, sd 59.1691 HU.
    folder = real_data / "dcmqi_liver_seg"
    slices = [pydicom.dcmread(path) for path in (folder / "ct-3slice").iterdir()]
    slices.sort(key=lambda part: part.ImagePositionPatient[2])
    ct = np.stack([s.pixel_array * s.RescaleSlope + s.RescaleIntercept for s in slices])
    mask = pydicom.dcmread(folder / "liver_seg.dcm").pixel_array
    spacing = [float(v) for v in slices[0].PixelSpacing]
    grid = diagonal_grid(mask.shape, *spacing, 1.0)
    [liver] = measured(mask.astype(np.uint16), grid, ct.astype(np.int16))
    assert liver.voxels == 107_098
    assert liver.volume_mm3 == pytest.approx(70_361.9, abs=0.2)
    assert liver.mean_hu == pytest.approx(37.3289, abs=5e-5)
    assert liver.sd_hu == pytest.approx(59.1691, abs=5e-4)


@pytest.mark.parametrize("seed", range(6))
def test_itk_finds_the_same_instances_and_diameters(seed: int) -> None:
    mask = blobs(seed)
    grid = diagonal_grid(mask.shape, 0.7, 0.9, 2.5)
    instances = label_instances(mask)
    ours = measured(instances, grid)
    image = sitk.GetImageFromArray(instances)
    image.SetSpacing(grid.spacing_mm)
    itk = sitk.LabelShapeStatisticsImageFilter()
    itk.ComputeFeretDiameterOn()
    itk.Execute(image)
    full = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True)
    assert sitk.GetArrayFromImage(full).max() == len(ours) == itk.GetNumberOfLabels()
    flat = sitk.LabelShapeStatisticsImageFilter()
    flat.ComputeFeretDiameterOn()
    for tumor in ours:
        assert tumor.voxels == itk.GetNumberOfPixels(tumor.label)
        assert tumor.max_3d_mm == pytest.approx(itk.GetFeretDiameter(tumor.label))
        assert tumor.radius_mm == pytest.approx(itk.GetEquivalentSphericalRadius(tumor.label))
        x, y, z = itk.GetCentroid(tumor.label)
        assert tumor.centroid_lps_mm == pytest.approx((-x, -y, z))
        longest = 0.0
        for z in range(tumor.bbox[0], tumor.bbox[3]):
            flat.Execute(image[:, :, z])
            if flat.HasLabel(tumor.label):
                longest = max(longest, flat.GetFeretDiameter(tumor.label))
        assert tumor.longest_axial_mm == pytest.approx(longest)


def all_pairs_mm(mask: np.ndarray, affine: np.ndarray) -> float:
    points = np.argwhere(mask)[:, ::-1] @ affine[:3, :3].T
    return float(np.linalg.norm(points[:, None] - points[None], axis=2).max())


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (4, 5, 6)))
def test_diameters_on_an_oblique_grid_equal_all_pairs(mask: np.ndarray) -> None:
    if not mask.any():
        return
    grid = Grid.of(mask.shape, OBLIQUE)
    [tumor] = measured(mask.astype(np.uint16), grid)
    assert tumor.max_3d_mm == pytest.approx(all_pairs_mm(mask, OBLIQUE))
    slices = [all_pairs_mm(plane[None], OBLIQUE) for plane in mask if plane.any()]
    assert tumor.longest_axial_mm == pytest.approx(max(slices))
    assert 0 <= tumor.perpendicular_mm <= tumor.longest_axial_mm + 1e-9
    assert tumor.volume_mm3 == pytest.approx(mask.sum() * abs(np.linalg.det(OBLIQUE[:3, :3])))
    center = OBLIQUE @ [*np.argwhere(mask).mean(axis=0)[::-1], 1]
    assert tumor.centroid_lps_mm == pytest.approx(center[:3] * [-1, -1, 1])


def test_large_flat_tumors_have_degenerate_hulls() -> None:
    disc = np.hypot(*np.ogrid[-100:101, -80:81]) < 78
    rim = disc & ~ndi.binary_erosion(disc, np.ones((3, 3)))
    expected = all_pairs_mm(rim[None], np.eye(4))
    for axis in range(3):
        plate = np.expand_dims(disc, axis)
        [tumor] = measured(plate.astype(np.uint16), diagonal_grid(plate.shape, 1, 1, 1))
        assert tumor.max_3d_mm == pytest.approx(expected)
    # More corners than all pairs are taken of.
    ball = sum((p - 60) ** 2 for p in np.ogrid[:121, :121, :121]) <= 57.3**2
    [tumor] = measured(ball.astype(np.uint16), diagonal_grid(ball.shape, 1, 1, 1))
    shell = np.argwhere(ball & ~ndi.binary_erosion(ball))
    corners = shell[ConvexHull(shell).vertices]
    assert tumor.max_3d_mm == pytest.approx(pdist(corners).max())
    line = np.ones((1, 1, 300), np.uint16)
    [tumor] = measured(line, diagonal_grid(line.shape, 0.5, 1, 1))
    assert (tumor.max_3d_mm, tumor.longest_axial_mm, tumor.perpendicular_mm) == (149.5, 149.5, 0)


def test_one_voxel() -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 2] = True
    [tumor] = measured(label_instances(mask), diagonal_grid(mask.shape, 1, 1, 4))
    assert (tumor.longest_axial_mm, tumor.perpendicular_mm, tumor.max_3d_mm) == (0, 0, 0)
    assert tumor.volume_mm3 == 4 and tumor.is_fragment and tumor.is_early
    assert tumor.bbox == (1, 1, 2, 2, 2, 3) and tumor.touches_border
    assert tumor.mean_hu is None and tumor.sd_hu is None


def test_perpendicular_lies_in_the_slice_of_the_longest() -> None:
    mask = np.zeros((5, 20, 20), bool)
    mask[1, 10, 1:18] = True  # 16 columns of 0.5 mm, the longest of all slices
    mask[1, 8:12, 6] = True  # 3 rows of 1 mm across it
    mask[2, 6:12, 4:10] = True  # shorter, though 5 mm wide
    [tumor] = measured(label_instances(mask), diagonal_grid(mask.shape, 0.5, 1, 3))
    assert (tumor.longest_axial_mm, tumor.perpendicular_mm) == (8, 3)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from((1, -1))] * 3),
    st.integers(0, 3),
)
def test_turning_flipping_and_padding_change_nothing(
    seed: int, order: list[int], flips: tuple[int, ...], padding: int
) -> None:
    mask = blobs(seed, (9, 11, 10), 3)
    grid = Grid.of(mask.shape, OBLIQUE)
    codes = "".join("RAS"[a] if f > 0 else "LPI"[a] for a, f in zip(order, flips, strict=True))
    ct = np.random.default_rng(seed).integers(-1000, 2000, mask.shape, np.int16)
    before = measured(label_instances(mask), grid, ct)
    turned, turned_grid = to_canonical(mask, grid, codes)
    turned_ct, _ = to_canonical(ct, grid, codes)
    affine = turned_grid.affine
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, padding)
    padded = np.pad(turned, padding)
    after = measured(
        label_instances(padded), Grid.of(padded.shape, affine), np.pad(turned_ct, padding)
    )
    assert len(before) == len(after)

    def facts(tumor: Instance) -> list[float]:
        return [
            tumor.voxels,
            *tumor.centroid_lps_mm,
            tumor.volume_mm3,
            tumor.radius_mm,
            tumor.longest_axial_mm,
            tumor.perpendicular_mm,
            tumor.max_3d_mm,
            tumor.mean_hu,
            tumor.sd_hu,
        ]

    key = lambda row: np.round(row, 4).tolist()  # noqa: E731
    ours = sorted((facts(t) for t in before), key=key)
    assert np.allclose(ours, sorted((facts(t) for t in after), key=key), atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 80)))
def test_every_radius_has_one_class(radii: list[float]) -> None:
    classes = [size_class(radius, EDGES_MM) for radius in sorted(radii)]
    assert classes == sorted(classes, key=("tiny", "small", "medium", "large").index)


def test_edges_belong_to_the_class_below() -> None:
    assert [size_class(r, EDGES_MM) for r in (5, 10, 20)] == ["tiny", "small", "medium"]


def test_spheres_have_their_radius() -> None:
    z, y, x = np.indices((14, 60, 60))
    for radius in (4.0, 9.0, 15.0):
        grid = diagonal_grid(z.shape, 0.8, 0.8, 2.5)
        mask = ((x - 30.2) * 0.8) ** 2 + ((y - 29.6) * 0.8) ** 2 + ((z - 6.7) * 2.5) ** 2
        [tumor] = measured(label_instances(mask <= radius**2), grid)
        assert tumor.radius_mm == pytest.approx(radius, abs=0.2)
        assert tumor.is_early == (tumor.radius_mm < 10)
        assert tumor.longest_axial_mm == pytest.approx(2 * radius, abs=1.0)
    assert equal_volume_radius_mm(4 / 3 * np.pi * 1000) == pytest.approx(10)


ROTATED = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0], [0.48, 0.64, 0.6]])


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (0.7, 0.7, 2.5), (0.6, 0.9, 1.5)])
@pytest.mark.parametrize("turn", [np.eye(3), ROTATED])
@pytest.mark.parametrize("half_axes", [(9.0, 9.0, 9.0), (14.0, 7.0, 10.0)])
def test_ellipsoids_on_any_grid_have_their_size(
    spacing: tuple[float, ...], turn: np.ndarray, half_axes: tuple[float, ...]
) -> None:
    """Their axes lie in the patient, not on the grid: volume, place and length are known."""
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    size = [int(36 / step) for step in spacing]  # x, y, z
    center = np.array([12.3, -40.1, 7.7])
    affine[:3, 3] = center - affine[:3, :3] @ (np.array(size) / 2 + 0.2)
    indices = np.stack(np.meshgrid(*map(np.arange, size[::-1]), indexing="ij"), axis=-1)
    away = (indices[..., ::-1] @ affine[:3, :3].T + affine[:3, 3] - center) / half_axes
    mask = (away**2).sum(axis=-1) <= 1
    [tumor] = measured(label_instances(mask), Grid.of(mask.shape, affine))
    volume = 4 / 3 * np.pi * np.prod(half_axes)
    assert tumor.volume_mm3 == pytest.approx(volume, rel=0.02)
    assert tumor.voxels == mask.sum() and not tumor.touches_border
    assert tumor.radius_mm == pytest.approx(np.prod(half_axes) ** (1 / 3), rel=0.007)
    assert np.abs(tumor.centroid_lps_mm - center * [-1, -1, 1]).max() < 0.1
    # No distance between centers exceeds the axis, and a voxel's diagonal is all it may lack.
    assert 0 <= 2 * max(half_axes) - tumor.max_3d_mm <= np.linalg.norm(spacing)
    assert tumor.longest_axial_mm <= tumor.max_3d_mm + 1e-9
    if turn is not ROTATED:
        assert 0 <= 2 * half_axes[0] - tumor.longest_axial_mm <= np.linalg.norm(spacing[:2])
        # Slices are parallel to the two half axes in the plane.
        most = 2 * half_axes[1]
        assert abs(most - tumor.perpendicular_mm) <= np.linalg.norm(spacing[:2])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from((6, 18, 26)))
def test_voxels_and_instances_are_conserved(seed: int, connectivity: int) -> None:
    """Whatever the bins: every instance is in one class, every voxel and HU in one instance."""
    mask = blobs(seed, (12, 16, 14), 5)
    ct = np.random.default_rng(seed).integers(-1000, 2000, mask.shape, np.int16)
    labels = label_instances(mask, connectivity)
    ours = measured(labels, Grid.of(mask.shape, OBLIQUE), ct)
    np.testing.assert_array_equal(labels > 0, mask)
    assert [tumor.label for tumor in ours] == list(range(1, len(ours) + 1))
    assert sum(tumor.voxels for tumor in ours) == mask.sum()
    assert sum(tumor.mean_hu * tumor.voxels for tumor in ours) == pytest.approx(ct[mask].sum())
    by_class = Counter(tumor.size_class for tumor in ours)
    assert by_class.total() == len(ours) and set(by_class) <= set(SIZE_CLASSES)
    for tumor in ours:
        assert tumor.sd_hu == pytest.approx(ct[labels == tumor.label].std())


def test_order_is_by_size_then_first_voxel() -> None:
    mask = np.zeros((3, 3, 9), np.uint8)
    mask[0, 0, 0] = mask[0, 0, 4] = mask[2, 2, 6] = mask[2, 2, 7] = 1
    labels = label_instances(mask)
    assert labels.dtype == np.uint16
    assert (labels[0, 0, 0], labels[0, 0, 4], labels[2, 2, 6]) == (2, 3, 1)
    assert not label_instances(np.zeros((2, 3, 4), bool)).any()


def test_corner_neighbours_are_one_tumor_only_with_26() -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert [label_instances(mask, n).max() for n in (6, 18, 26)] == [2, 2, 1]


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.integers(1, 5)] * 3).flatmap(lambda shape: arrays(bool, shape)),
    st.sampled_from((6, 18, 26)),
)
def test_small_boxes_have_the_components_that_scipy_finds(
    mask: np.ndarray, connectivity: int
) -> None:
    order = {6: 1, 18: 2, 26: 3}[connectivity]
    _, count = ndi.label(mask, ndi.generate_binary_structure(3, order))
    assert label_instances(mask, connectivity).max(initial=0) == count


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("share", [0.02, 0.15, 0.3, 0.6])
def test_noise_falls_apart_as_in_cc3d(share: float, connectivity: int) -> None:
    mask = np.random.default_rng(5).random((31, 40, 37)) < share
    mask[3:9, 5:30, 2:35] = True
    ours = find_components(mask, connectivity=connectivity)
    whole = np.zeros(mask.shape, np.int64)
    whole[ours.box] = ours.labels
    theirs = cc3d.connected_components(mask, connectivity=connectivity).astype(np.int64)
    pairs = np.unique(np.stack([whole[mask], theirs[mask]]), axis=1)
    assert len(ours.voxels) == theirs.max() == pairs.shape[1]
    assert not whole[~mask].any()


def test_two_voxels_in_a_thin_box_are_two() -> None:
    # A box of isolated voxels, in which libraries of components fail.
    assert label_instances(np.array([1, 0, 1], bool).reshape(3, 1, 1)).max() == 2


def test_labels_of_a_reviewer_may_have_gaps_and_touch() -> None:
    instances = np.zeros((2, 4, 6), np.uint16)
    instances[0, 0, :3], instances[0, 0, 3:], instances[1, 3, 5] = 7, 2, 7
    ours = measured(instances, diagonal_grid(instances.shape, 1, 1, 1))
    assert [(t.label, t.voxels) for t in ours] == [(2, 3), (7, 4)]
    assert measured(np.zeros_like(instances), diagonal_grid(instances.shape, 1, 1, 1)) == []


def test_hu_extremes_stay_exact() -> None:
    instances = np.ones((40, 200, 200), np.uint16)
    ct = np.full(instances.shape, -32768, np.int16)
    [tumor] = measured(instances, diagonal_grid(ct.shape, 1, 1, 1), ct)
    assert (tumor.mean_hu, tumor.sd_hu) == (-32768, 0)


def test_minimum_volume_forgives_rounding() -> None:
    assert minimum_voxels(27, 3.375) == minimum_voxels(27, 3.374999999) == 8
    assert minimum_voxels(27, 3.3751) == 8 and minimum_voxels(0, 3) == 1
    assert minimum_voxels(14, 1.0001) == 14


@pytest.mark.parametrize(("spacing_mm", "steps"), [(0.8, 25), (0.4, 50)])
@pytest.mark.parametrize("shorter", [0, 1])
def test_just_20_mm_are_20_mm_wherever_they_lie(
    spacing_mm: float, steps: int, shorter: int
) -> None:
    """Sums of 0.8 mm from another first voxel round otherwise."""
    found = set()
    for offset in range(60):
        instances = np.zeros((2, 2, steps + 1 + offset), np.uint16)
        instances[1, 1, offset + shorter :] = 1
        instances[0, 0, 0] = 1  # an outrider moves the box
        grid = diagonal_grid(instances.shape, spacing_mm, spacing_mm, 5)
        [tumor] = measured(instances, grid)
        assert tumor.longest_axial_mm == pytest.approx((steps - shorter) * spacing_mm)
        found.add(tumor.is_early_recist)
    assert found == {bool(shorter)}


@pytest.mark.parametrize("shorter", [0, 1])
def test_just_20_mm_are_20_mm_however_they_are_turned(shorter: int) -> None:
    """Turned about the head-foot axis, so that the slice stays the slice."""
    instances = np.zeros((1, 1, 21), np.uint16)
    instances[..., shorter:] = 1
    found = set()
    for angle in np.linspace(0, 2 * np.pi, 60):
        affine = np.eye(4)
        affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        [tumor] = measured(instances, Grid.of(instances.shape, affine))
        found.add(tumor.is_early_recist)
    assert found == {bool(shorter)}


def test_a_diameter_is_below_a_limit_by_more_than_rounding() -> None:
    assert not is_below(20.0, 20.0) and not is_below(np.nextafter(20.0, 0), 20.0)
    assert is_below(19.99999, 20.0) and not is_below(20.00001, 20.0)
    # A ball of just 20 mm by volume, too.
    volume_mm3 = 4 / 3 * np.pi * 1000
    for count in range(1, 300):
        radius_mm = equal_volume_radius_mm(count * (volume_mm3 / count))
        assert not is_below(2 * radius_mm, 20.0)


def test_empty_box() -> None:
    assert foreground_box(np.zeros((3, 4, 5), bool)) == (slice(0, 0),) * 3


def test_every_measure_has_its_column() -> None:
    fields = {field.name for field in dataclasses.fields(Instance)} - {"label"}
    assert fields <= set(SCHEMAS["tumors"].names)


def test_wrong_shapes_and_noise_are_refused() -> None:
    grid = diagonal_grid((2, 2, 2), 1, 1, 1)
    with pytest.raises(GeometryError, match="SHAPE_MISMATCH"):
        measured(np.zeros((2, 2, 3), np.uint16), grid)
    with pytest.raises(GeometryError, match="SHAPE_MISMATCH"):
        measured(np.zeros((2, 2, 2), np.uint16), grid, np.zeros((1, 2, 2), np.int16))
    noise = np.zeros((82, 82, 82), bool)
    noise[::2, ::2, ::2] = True
    with pytest.raises(InputError, match="TOO_MANY_INSTANCES"):
        label_instances(noise)
