"""Intermediate arrays, resampling and the check of CT values."""

from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk

from tumoratlas.core.errors import GeometryError, InputError
from tumoratlas.images.arrays import read_array, write_array
from tumoratlas.images.ct import check_ct, to_hu
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti
from tumoratlas.images.resample import resample_image, resample_labels
from tumoratlas.images.statistics import measure_volume, slice_axis

RANDOM = np.random.default_rng(7)


def straight(shape: tuple[int, int, int], spacing: tuple, origin: tuple = (0, 0, 0)) -> Grid:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return Grid.of(shape, affine)


# Arrays


@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("shape", [(40, 31, 17), (1, 1, 1), (5, 6), (7,), (2, 17, 5, 3)])
def test_array_is_kept_with_equal_bytes(tmp_path: Path, dtype: str, shape: tuple) -> None:
    array = RANDOM.integers(0, 200, shape).astype(dtype)
    grid = straight((40, 31, 17), (0.7, 0.7, 0.1 + 0.2))
    write_array(tmp_path / "a.b2nd", array, grid=grid.to_json(), organ="liver")
    threads = blosc2.set_nthreads(2)
    write_array(tmp_path / "b.b2nd", np.asfortranarray(array), organ="liver", grid=grid.to_json())
    blosc2.set_nthreads(threads)
    assert (tmp_path / "a.b2nd").read_bytes() == (tmp_path / "b.b2nd").read_bytes()
    again, meta = read_array(tmp_path / "a.b2nd")
    np.testing.assert_array_equal(again, array)
    assert again.dtype == dtype and Grid.from_json(meta["grid"]) == grid
    assert meta["organ"] == "liver"


def test_damaged_array_is_refused(tmp_path: Path) -> None:
    """No cut and no flipped bit comes through as other voxels."""
    array = RANDOM.integers(-1000, 1000, (20, 30, 30)).astype(np.int16)
    path = tmp_path / "a.b2nd"
    write_array(path, array, organ="liver")
    data = path.read_bytes()
    bad = [data[:100], data[: len(data) // 2], data[:-1], b"", b"other" * 100]
    bad += [data[:i] + bytes([data[i] ^ 16]) + data[i + 1 :] for i in range(150, len(data), 997)]
    refused = 0
    for content in bad:
        path.write_bytes(content)
        try:
            again, meta = read_array(path)
        except InputError as error:
            assert error.code == "ARRAY_DAMAGED"
            refused += 1
        else:
            np.testing.assert_array_equal(again, array)
    assert refused > len(bad) * 0.8


# Resampling, against ITK


def as_sitk(array: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    to_lps = np.diag([-1.0, -1.0, 1.0])
    axes = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    image.SetSpacing(grid.spacing_mm)
    image.SetDirection((to_lps @ axes).ravel())
    image.SetOrigin(to_lps @ grid.affine[:3, 3])
    return image


def by_sitk(
    array: np.ndarray, grid: Grid, target: Grid, interpolator: int, outside: float
) -> np.ndarray:
    like = as_sitk(np.zeros(target.shape, np.uint8), target)
    dtype = sitk.sitkFloat32 if interpolator == sitk.sitkLinear else sitk.sitkUnknown
    image = as_sitk(array, grid)
    out = sitk.Resample(image, like, sitk.Transform(), interpolator, outside, dtype)
    return sitk.GetArrayFromImage(out)


SOURCE = straight((18, 25, 22), (0.83, 0.71, 2.5), (-12.3, 40.7, -310.2))
TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1.0]])
TURNED = np.block([[TURN @ SOURCE.affine[:3, :3], SOURCE.affine[:3, 3:]], [0, 0, 0, 1]])
PAIRS = {
    "model grid": (SOURCE, SOURCE.with_spacing(1.5)),
    "fine grid": (SOURCE, SOURCE.with_spacing(0.6)),
    "other origin": (SOURCE, straight((40, 30, 20), (1.1, 0.9, 1.3), (-15.1, 38.2, -313.3))),
    "inner part": (SOURCE, straight((5, 6, 7), (1.1, 0.9, 1.3), (-8.1, 44.2, -300.3))),
    "oblique": (Grid.of(SOURCE.shape, TURNED), Grid.of(SOURCE.shape, TURNED).with_spacing(1.3)),
}


def blobs(shape: tuple[int, int, int], labels: int) -> np.ndarray:
    """Return smooth regions of several labels, so that borders and corners abound."""
    noise = sitk.GetImageFromArray(RANDOM.normal(size=(labels, *shape)).astype(np.float32))
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(noise, 1.5))
    return smooth.argmax(0)


@pytest.mark.parametrize("name", PAIRS)
def test_image_equals_itk_linear_rounded(name: str) -> None:
    grid, target = PAIRS[name]
    array = RANDOM.integers(-1024, 2000, grid.shape).astype(np.int16)
    ours = resample_image(array, grid, target, outside_hu=-1111)
    exact = by_sitk(array, grid, target, sitk.sitkLinear, -1111)
    assert ours.dtype == np.int16 and ours.shape == target.shape
    # Half a unit of rounding and the noise of 32-bit interpolation.
    assert np.abs(ours - exact.astype(np.float64)).max() < 0.505
    assert (ours == np.floor(exact + 0.5)).mean() > 0.995
    np.testing.assert_array_equal(ours == -1111, exact == -1111)
    assert (ours == -1111).any() == (name == "other origin")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", PAIRS)
def test_labels_equal_itk_label_linear(name: str, dtype: type) -> None:
    grid, target = PAIRS[name]
    array = blobs(grid.shape, 6).astype(dtype) * (41 if dtype is np.uint8 else 12000)
    ours = resample_labels(array, grid, target)
    exact = by_sitk(array, grid, target, sitk.sitkLabelLinear, 0)
    assert ours.dtype == dtype and len(np.unique(ours)) > 3
    # Only where two labels tie may ITK decide otherwise; ours is then the smaller.
    for index in np.argwhere(ours != exact):
        place = tuple(index)
        weights = [
            by_sitk((array == labels[place]).astype(np.float32), grid, target, sitk.sitkLinear, 0)
            for labels in (ours, exact)
        ]
        assert ours[place] < exact[place]
        assert weights[0][place] == pytest.approx(weights[1][place], abs=1e-6)
    assert (ours != exact).mean() < 1e-4


def test_same_grid_changes_nothing() -> None:
    array = RANDOM.integers(-32768, 32768, SOURCE.shape).astype(np.int16)
    np.testing.assert_array_equal(resample_image(array, SOURCE, SOURCE), array)
    labels = blobs(SOURCE.shape, 5).astype(np.uint8)
    np.testing.assert_array_equal(resample_labels(labels, SOURCE, SOURCE), labels)


def test_ties_and_halves() -> None:
    """At the middle of two voxels: the smaller label, and the half rounded up."""
    pair, middle = straight((1, 1, 2), (1, 1, 1)), straight((1, 1, 1), (1, 1, 1), (0.5, 0, 0))
    for labels in ([5, 3], [3, 5]):
        assert resample_labels(np.array([[labels]], np.uint8), pair, middle).item() == 3
    for low, high, expected in ((0, 1, 1), (-1, 0, 0), (-2, -1, -1), (7, 10, 9)):
        values = np.array([[[low, high]]], np.int16)
        assert resample_image(values, pair, middle).item() == expected


def test_edge_of_the_field_of_view() -> None:
    """Half a voxel beyond the outer centre counts as inside, more does not."""
    source = straight((1, 1, 4), (1, 1, 1))
    array = np.array([[[10, 20, 30, 40]]], np.int16)
    fine = straight((1, 1, 8), (0.75, 1, 1), (-0.75, 0, 0))
    seen = resample_image(array, source, fine, outside_hu=-1000).ravel().tolist()
    assert seen == [-1000, 10, 18, 25, 33, 40, -1000, -1000]
    labels = resample_labels(array.astype(np.uint8), source, fine).ravel().tolist()
    assert labels == [0, 10, 20, 20, 30, 40, 0, 0]
    away = straight((1, 2, 2), (1, 1, 1), (100, 0, 0))
    assert not resample_labels(array.astype(np.uint8), source, away).any()


def test_volume_and_centroid_are_kept() -> None:
    grid = straight((30, 80, 80), (0.7, 0.7, 2.5), (-11.1, 5.3, -40.0))
    z, y, x = np.indices(grid.shape)
    centre_mm, radius_mm = np.array([17.2, 33.1, -3.4]), 11.0
    world = np.stack([x, y, z, np.ones_like(x)], -1) @ grid.affine.T
    ball = (np.linalg.norm(world[..., :3] - centre_mm, axis=-1) <= radius_mm).astype(np.uint8)
    target = grid.with_spacing(1.5)
    out = resample_labels(ball, grid, target)
    true_mm3 = ball.sum() * grid.voxel_volume_mm3
    assert out.sum() * target.voxel_volume_mm3 == pytest.approx(true_mm3, rel=0.015)
    places = np.argwhere(out)[:, ::-1]
    centroid = (target.affine[:3, :3] @ places.mean(0)) + target.affine[:3, 3]
    np.testing.assert_allclose(centroid, centre_mm, atol=0.1)


def test_grids_that_are_not_parallel_are_refused() -> None:
    array = np.zeros(SOURCE.shape, np.uint8)
    flipped = to_canonical(array, SOURCE, "LPS")[1]
    for target in (flipped, PAIRS["oblique"][1]):
        with pytest.raises(GeometryError, match="AXES_DIFFER"):
            resample_labels(array, SOURCE, target)
    with pytest.raises(ValueError, match="not on its grid"):
        resample_labels(array[1:], SOURCE, SOURCE)
    with pytest.raises(ValueError, match="int16"):
        resample_image(array, SOURCE, SOURCE)
    with pytest.raises(ValueError, match="uint8"):
        resample_labels(array.astype(np.int16), SOURCE, SOURCE)


def test_real_liver_and_tumors_resample_as_in_itk(real_data: Path) -> None:
    folder = real_data / "lits_liver_0"
    file = read_nifti(folder / "tumor_instances.nii.gz", max_voxels=10**9)
    array, grid = to_canonical(file.array, file.grid)
    places = np.argwhere(array)
    low, high = places.min(0) - 3, places.max(0) + 4
    part = array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    affine = grid.affine
    affine[:3, 3] += affine[:3, :3] @ low[::-1]
    part_grid = Grid.of(part.shape, affine)
    target = part_grid.with_spacing(1.5)
    ours = resample_labels(part, part_grid, target)
    exact = by_sitk(np.ascontiguousarray(part), part_grid, target, sitk.sitkLabelLinear, 0)
    assert (ours != exact).sum() <= 2
    assert len(np.unique(ours)) > 8


# CT values


def phantom(dtype: type = np.int16) -> tuple[np.ndarray, Grid]:
    """Return air around a body of soft tissue with noise and some bone."""
    noise = np.random.default_rng(5)
    array = noise.integers(-1010, -990, (40, 32, 32))
    array[:, 4:-4, 4:-4] = noise.integers(-20, 120, (40, 24, 24))
    array[:, 20:24, 14:18] = noise.integers(300, 900, (40, 4, 4))
    return array.astype(dtype), straight((40, 32, 32), (1.5, 1.5, 5))


def found(array: np.ndarray, grid: Grid, min_slices: int = 30) -> list[str]:
    path = Path("ct.nii.gz")
    statistics = measure_volume(to_hu(array, path), slice_axis(grid))
    findings = check_ct(statistics, path, stored_dtype=array.dtype, min_slices=min_slices)
    return [finding.code for finding in findings]


def test_good_ct_has_no_findings() -> None:
    array, grid = phantom()
    assert found(array, grid) == []
    assert found(*to_canonical(array, grid, "IPL")) == []


def test_odd_ct_is_recorded() -> None:
    array, grid = phantom()
    padded = array.copy()
    padded[:, :3] = -3024
    assert found(padded, grid) == ["PADDING"]
    assert found(array.astype(np.float32), grid) == ["FLOAT_CT"]
    assert found(array.clip(-160, 240), grid) == ["NO_AIR"]
    assert found(array[:10], Grid.of((10, 32, 32), grid.affine)) == ["FEW_SLICES"]
    again = np.concatenate([array[:20], array[18:]])
    longer = Grid.of(again.shape, grid.affine)
    assert found(again, longer) == ["REPEATED_SLICES"]
    assert found(*to_canonical(again, longer, "IPL")) == ["REPEATED_SLICES"]
    blank = array.copy()
    blank[:5] = -1000
    assert found(blank, grid) == []


def test_what_is_no_ct_is_refused() -> None:
    array, grid = phantom()
    noise = np.random.default_rng(6)
    magnetic = noise.gamma(2.0, 150.0, array.shape).astype(np.int16)
    nan = array.astype(np.float32)
    nan[0, 0, 0] = np.nan
    for code, bad in {
        "CONSTANT": np.zeros_like(array),
        "HU_OFFSET": array + 1024,
        "NOT_CT": magnetic,
        "HU_RANGE": array.astype(np.int32) * 100,
        "DATA_NOT_FINITE": nan,
    }.items():
        with pytest.raises(InputError) as caught:
            found(bad, grid)
        assert caught.value.code == code
    longer = np.concatenate([array, array[-6:]])
    for orientation in ("RAS", "IPL"):
        appended = to_canonical(longer, Grid.of(longer.shape, grid.affine), orientation)
        with pytest.raises(InputError, match="APPENDED_SLICES"):
            found(*appended)
    for bad in (blobs(array.shape, 4), (array - 40.0) / 400, (array.clip(-160, 240) + 160) / 400):
        with pytest.raises(InputError, match="NOT_CT"):
            found(bad, grid)


def test_hu_are_rounded_half_up() -> None:
    values = np.array([-1000.5, -0.5, 0.49, 0.5, 1.5], np.float32)
    assert to_hu(values, Path("a")).tolist() == [-1000, 0, 0, 1, 2]
    assert to_hu(np.array([3], np.uint16), Path("a")).dtype == np.int16
    with pytest.raises(InputError, match="HU_RANGE"):
        to_hu(np.array([40000], np.int32), Path("a"))
