"""One look at the voxels: statistics, hashes, anchors and thumbnail of copies and of others."""

import tarfile
from collections.abc import Callable, Sequence
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from tumoratlas.core.errors import InputError
from tumoratlas.images.anchors import find_anchors
from tumoratlas.images.ct import check_ct
from tumoratlas.images.dicom import read_series
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti
from tumoratlas.images.statistics import VolumeStatistics, measure_volume, slice_axis
from tumoratlas.images.thumbnail import body_box
from tumoratlas.ingest.fingerprint import (
    Fingerprint,
    Turn,
    _content,
    fingerprint_of,
    read_fingerprint,
    voxel_sha256,
    write_fingerprint,
)

ORDERS = [(axes, steps) for axes in permutations(range(3)) for steps in product((1, -1), repeat=3)]
Scan = tuple[np.ndarray, Grid]


def turned(array: np.ndarray, axes: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    return array[tuple(slice(None, None, step) for step in steps)].transpose(axes)


def straight(shape: tuple[int, ...], codes: str = "RAS") -> Grid:
    """Return a grid of these axis codes and unlike spacings."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for xyz, code in enumerate(codes):
        ras = next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[ras, xyz] = (0.8 + 0.3 * ras) * (1 if code in "RAS" else -1)
    return Grid.of(shape, affine)


def body(seed: int, shape: tuple[int, int, int] = (40, 96, 96)) -> np.ndarray:
    """Return a noisy body in noisy air."""
    noise = np.random.default_rng(seed)
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    organs = ndi.gaussian_filter(noise.standard_normal(shape), 4)
    organs *= 60 / organs.std()
    grain = ndi.gaussian_filter(noise.standard_normal(shape), 0.6)
    grain *= 15 / grain.std()
    inside = (y + 0.05) ** 2 / 0.4 + (x - 0.08) ** 2 / 0.6 + 0.1 * z < 1
    return np.rint(np.where(inside, 60 + organs + grain, -990 + grain / 3)).astype(np.int16)


def print_of(hu: np.ndarray, grid: Grid) -> Fingerprint:
    hu = np.ascontiguousarray(hu)
    return fingerprint_of(hu, grid, measure_volume(hu, slice_axis(grid)))


def correlation(first: Fingerprint, second: Fingerprint) -> float:
    return float(np.corrcoef(first.thumbnail.ravel(), second.thumbnail.ravel())[0, 1])


def sha(hu: np.ndarray, axis: int = 0) -> str:
    return voxel_sha256(measure_volume(np.ascontiguousarray(hu), axis))


# Statistics


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_statistics_are_those_of_numpy(axis: int) -> None:
    hu = body(1, (24, 40, 52))
    hu[:, :2] = -3024
    found = measure_volume(np.ascontiguousarray(np.moveaxis(hu, 0, axis)), axis)
    assert (found.low, found.high) == (hu.min(), hu.max())
    # Below two million voxels the sample is the whole.
    for value, share in ((found.p01, 0.01), (found.p99, 0.99)):
        assert value == np.quantile(hu, share, method="inverted_cdf")
    for share, offset in ((found.soft, 0), (found.soft_with_offset, 1024)):
        v = hu.astype(int) - offset
        assert share == ((v >= -200) & (v <= 300)).sum() / max(1, (v > -700).sum())
    assert found.padding == (hu < -1024).mean()
    dense = np.moveaxis(hu >= -50, 0, axis)
    for n, planes in enumerate(found.tissue):
        np.testing.assert_array_equal(planes, dense.sum(tuple(a for a in range(3) if a != n)))
    np.testing.assert_array_equal(found.slices, measure_volume(hu, 0).slices)


def test_extreme_values_do_not_overflow() -> None:
    hu = np.full((2, 300, 300), 32767, np.int16)
    hu[1] = -32768
    hu[:, 0, 0] = -32768, 32767
    found = measure_volume(hu, 0)
    assert (found.low, found.high, found.p01, found.p99) == (-32768, 32767, -32768, 32767)
    assert len(set(found.digests.tolist())) == 2
    assert sha(hu) == sha(hu[::-1, ::-1, ::-1]) != sha(np.maximum(hu, -32767))


def test_only_int16_volumes_are_measured() -> None:
    for bad in (np.zeros((3, 4, 5), np.float32), np.zeros((4, 5), np.int16)):
        with pytest.raises(ValueError, match="int16"):
            measure_volume(bad, 0)


# Slice hashes


@pytest.mark.parametrize("shape", [(3, 20, 20), (3, 20, 27), (3, 27, 20)])
def test_slices_are_equal_in_any_in_plane_order_and_only_then(shape: tuple[int, ...]) -> None:
    hu = np.random.default_rng(2).integers(-100, 300, shape).astype(np.int16)
    slices = measure_volume(hu, 0).slices
    for transpose, *steps in product((0, 1), (1, -1), (1, -1)):
        other = hu[:, :: steps[0], :: steps[1]]
        other = np.ascontiguousarray(other.transpose(0, 2, 1) if transpose else other)
        np.testing.assert_array_equal(measure_volume(other, 0).slices, slices)
    seen = set(slices.tolist())
    for change in range(60):
        other = hu.copy()
        if change < 40:
            other[1, change % 20, (change * 7 + change // 20) % 20] += 1
        elif change < 59:  # equal sums of rows and columns
            other[1, [0, change - 39], [0, change - 39]] += 1
            other[1, [0, change - 39], [change - 39, 0]] -= 1
        else:
            other = np.pad(hu, ((0, 0), (0, 0), (0, 1)))
        value = int(measure_volume(other, 0).slices[1])
        assert value not in seen
        seen.add(value)


def test_blank_slices_have_no_hash() -> None:
    hu = body(3)
    hu[0], hu[1], hu[2] = -1000, -1024, 40
    hu[3] = np.where(hu[3] > -500, -900, -1000)
    slices = measure_volume(hu, 0).slices
    assert (slices[:4] == 0).all() and (slices[4:] != 0).all()


# Voxel hash


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    axis=st.integers(0, 2),
    values=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    order=st.tuples(*[st.booleans()] * 4),
    voxel=st.integers(0, 10**9),
)
def test_the_voxel_hash_is_exact_for_symmetric_volumes_too(
    shape: tuple[int, int, int],
    axis: int,
    values: int,
    seed: int,
    order: tuple[bool, ...],
    voxel: int,
) -> None:
    """Few values make ties and symmetric slices; copies end as equal arrays through their turns."""
    hu = np.random.default_rng(seed).integers(0, values, shape).astype(np.int16)
    transpose, *flips = order
    other = hu[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    if transpose:
        other = other.swapaxes(*(a for a in range(3) if a != axis))
    first, second = (measure_volume(np.ascontiguousarray(v), axis) for v in (hu, other))
    assert voxel_sha256(first) == voxel_sha256(second)
    ends = _content(first)[1].apply(hu), _content(second)[1].apply(other)
    np.testing.assert_array_equal(*ends)
    changed = hu.copy()
    changed.flat[voxel % hu.size] += 1
    is_turned = any(
        np.array_equal(v, hu)
        for steps in product((1, -1), repeat=3)
        for w in [turned(changed, (0, 1, 2), steps)]
        for v in (w, w.swapaxes(*(a for a in range(3) if a != axis)))
        if v.shape == hu.shape
    )
    assert (sha(changed, axis) == voxel_sha256(first)) == is_turned


def test_the_turn_of_single_slices_is_part_of_the_content() -> None:
    """One slice flipped, shifted to another place, or of another blank value is another scan."""
    hu = body(4)
    hu[0] = -1000
    found = {sha(hu)}
    for change in range(5):
        other = hu.copy()
        if change == 0:
            other[7] = other[7, ::-1]
        elif change == 1:
            other[7] = other[7].T
        elif change == 2:
            other[[7, 8]] = other[[8, 7]]
        elif change == 3:
            other[0] = -1001
        else:
            other = other[:-1]
        found.add(sha(other))
    assert len(found) == 6
    flat = np.arange(24, dtype=np.int16) ** 2
    assert len({sha(flat.reshape(shape)) for shape in ((2, 3, 4), (1, 4, 6), (2, 2, 6))}) == 3


def test_fingerprints_are_equal_through_any_header(tmp_path: Path) -> None:
    """Stored in any order with a true header: all but rounding of the thumbnail is equal."""
    hu = body(5, (30, 48, 64))
    grid = straight(hu.shape)
    base = print_of(hu, grid)
    assert base.shape == hu.shape and len(base.slices) == 30
    for codes in ("LPS", "LAI", "IPL", "ASR", "SRA"):
        stored, stored_grid = to_canonical(hu, grid, codes)
        assert stored_grid.orientation == codes
        other = print_of(stored, stored_grid)
        assert (other.shape, other.turn) == (base.shape, base.turn)
        for name in ("anchors", "places", "slices"):
            np.testing.assert_array_equal(getattr(other, name), getattr(base, name))
        np.testing.assert_allclose(other.box, base.box, atol=1e-4)
        np.testing.assert_allclose(other.thumbnail, base.thumbnail, atol=0.01)
        to_ras = Turn.to_ras(stored_grid)
        np.testing.assert_array_equal(to_ras.apply(stored), hu)
        content = _content(measure_volume(stored, slice_axis(stored_grid)))[1]
        again = other.turn.apply(to_ras.apply(stored))
        np.testing.assert_array_equal(content.apply(stored), again)
    # A header that is wrong: the same hash, and turned arrays are still equal.
    wrong = hu[::-1, :, ::-1].swapaxes(1, 2)
    other = print_of(wrong, straight(wrong.shape))
    assert sha(wrong) == sha(hu)
    np.testing.assert_array_equal(other.turn.apply(wrong), base.turn.apply(hu))


def test_files_hold_fingerprints_with_equal_bytes(tmp_path: Path) -> None:
    base = print_of(body(6), straight((40, 96, 96)))
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in paths:
        write_fingerprint(path, base)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert 10_000 < paths[0].stat().st_size < 40_000
    again = read_fingerprint(paths[0])
    assert (again.shape, again.turn) == (base.shape, base.turn)
    for name in ("anchors", "places", "slices", "thumbnail", "box"):
        value, expected = getattr(again, name), getattr(base, name)
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)
    data = paths[0].read_bytes()
    for bad in (b"", data[:100], data[:-1], data[:8] + data[9:]):
        paths[0].write_bytes(bad)
        with pytest.raises(InputError, match="ARRAY_DAMAGED"):
            read_fingerprint(paths[0])


# Anchors


def share_found(
    hu: np.ndarray, copy: np.ndarray, kept: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, int, np.ndarray, np.ndarray]:
    """Return which share of the anchors that ``kept`` names by place is in a copy, and places.

    A scan with fewer than 256 anchors below the bound keeps the smallest: only hashes that are
    not above the largest of both can be shared.
    """
    hashes, places = find_anchors(hu)
    others, there = find_anchors(np.ascontiguousarray(copy))
    expected = kept(places) & (hashes <= others[-1])
    _, i, j = np.intersect1d(hashes, others, assume_unique=True, return_indices=True)
    found = np.isin(hashes[expected], others).mean()
    return float(found), int(expected.sum()), places[i], there[j]


def check_anchors(hu: np.ndarray, orders: Sequence[tuple]) -> None:
    """Hold the anchors of a scan against those of copies of it."""
    hashes, places = find_anchors(hu)
    shape = np.array(hu.shape)
    for axes, steps in orders:
        copy = np.ascontiguousarray(turned(hu, axes, steps))
        found, there = find_anchors(copy)
        np.testing.assert_array_equal(found, hashes)
        moved = np.where(np.array(steps) < 0, shape - 1 - places, places)[:, list(axes)]
        np.testing.assert_array_equal(there, moved)

    def around(test: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda at: np.array(
            [
                test(hu[z - 3 : z + 4, y, x]).all()
                and test(hu[z, y - 3 : y + 4, x]).all()
                and test(hu[z, y, x - 3 : x + 4]).all()
                for z, y, x in at
            ]
        )

    def everything(at: np.ndarray) -> np.ndarray:
        return np.ones(len(at), bool)

    copies = [
        ((hu.astype(int) + 1024).astype(np.int16), everything),
        (hu.clip(-1000, 1000), around(lambda v: (v >= -1000) & (v <= 1000))),
        (hu.clip(-200, 300), around(lambda v: (v >= -200) & (v <= 300))),
        (np.where(hu <= -1024, -2000, hu).astype(np.int16), around(lambda v: v > -1024)),
    ]
    for copy, kept in copies:
        found, expected, here, there = share_found(hu, copy, kept)
        assert expected > 80 and found >= 0.95
        np.testing.assert_array_equal(here, there)
    for low, high in (((0.2, 0.1, 0.15), (0.9, 0.8, 0.9)), ((0.3, 0, 0), (0.7, 1, 1))):
        start, end = (np.array(v) * hu.shape for v in (low, high))
        start, end = start.astype(int), end.astype(int)
        part = hu[tuple(slice(a, b) for a, b in zip(start, end, strict=True))]

        def inside(at: np.ndarray, start: np.ndarray = start, end: np.ndarray = end) -> np.ndarray:
            return ((at >= start + 3) & (at < end - 3)).all(axis=1)

        found, expected, here, there = share_found(hu, part, inside)
        assert expected > 20 and found >= 0.95
        np.testing.assert_array_equal(here - start, there)


def test_anchors_of_copies() -> None:
    check_anchors(body(7, (36, 80, 88)), ORDERS)


def test_anchors_of_others_differ() -> None:
    found = [find_anchors(body(seed))[0] for seed in range(8, 12)]
    assert all(len(hashes) == 256 for hashes in found)
    assert len(np.unique(np.concatenate(found))) == sum(map(len, found))


def test_few_or_flat_voxels_have_no_anchors() -> None:
    for hu in (np.zeros((20, 20, 20), np.int16), body(12)[:6], body(12)[:, :, :5]):
        hashes, places = find_anchors(np.ascontiguousarray(hu))
        assert len(hashes) == 0 and places.shape == (0, 3)
    steps = np.where(np.indices((20, 20, 20)).sum(0) % 9 < 4, 50, 80).astype(np.int16)
    assert len(find_anchors(steps)[0]) == 0


def test_repeated_slices_lose_their_anchors() -> None:
    hu = body(13)
    twice = np.concatenate([hu, hu])
    hashes, places = find_anchors(twice)
    # What is left lies at the seam, or had been cut off at the ends.
    assert (np.abs(places[:, 0] - 39.5) < 4).all()


# Checks of a CT


def codes(hu: np.ndarray) -> list[str]:
    statistics = measure_volume(np.ascontiguousarray(hu), 0)
    found = check_ct(statistics, Path("a"), stored_dtype=hu.dtype, min_slices=20)
    return [finding.code for finding in found]


@pytest.mark.parametrize("end", ["head", "foot"])
def test_appended_slices_are_refused_and_scattered_ones_recorded(end: str) -> None:
    hu = body(14)
    for block in (hu[-6:], hu[20:23], hu[[5, 30, 12]], hu[[-1] * 3], hu[::-1]):
        longer = np.concatenate([hu, block])
        with pytest.raises(InputError, match="APPENDED_SLICES.*repeat"):
            codes(longer if end == "head" else longer[::-1])
    blank = np.full_like(hu[:4], -1000)
    with pytest.raises(InputError, match="APPENDED_SLICES"):
        codes(np.concatenate([hu, blank[:1], hu[3:5], blank, hu[7:8], blank]))
    assert codes(np.concatenate([hu, hu[3:5]])) == ["REPEATED_SLICES"]
    assert codes(np.concatenate([hu[:20], hu[10:]])) == ["REPEATED_SLICES"]
    assert codes(np.concatenate([blank, hu, blank])) == []


# Thumbnail


def test_box_leaves_out_table_and_arms() -> None:
    hu = body(15, (20, 96, 96))
    base = print_of(hu, straight(hu.shape))
    hu[:, 2:4, 10:80] = 60
    hu[:, 40:50, 2:5] = 60
    np.testing.assert_allclose(print_of(hu, straight(hu.shape)).box, base.box, atol=0.5)
    nothing = measure_volume(np.full((4, 5, 6), -1000, np.int16), 0)
    np.testing.assert_array_equal(body_box(nothing), [(0, 4), (0, 5), (0, 6)])


def resampled(scan: Scan, spacing_mm: tuple[float, ...], how: int) -> Scan:
    hu, grid = to_canonical(*scan)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(grid.spacing_mm)
    sizes = [
        max(1, round(n * a / b))
        for n, a, b in zip(hu.shape[::-1], grid.spacing_mm, spacing_mm, strict=True)
    ]
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize(sizes)
    filter_.SetOutputSpacing(spacing_mm)
    filter_.SetInterpolator(how)
    filter_.SetDefaultPixelValue(-1024)
    filter_.SetOutputPixelType(sitk.sitkFloat32)
    out = np.rint(sitk.GetArrayFromImage(filter_.Execute(image))).clip(-3024, 3071)
    return out.astype(np.int16), Grid.of(out.shape, np.diag([*spacing_mm, 1]))


def check_thumbnails(scan: Scan, kernel: int) -> None:
    """Hold the thumbnail of a scan against those of copies that share no voxel with it."""
    base = print_of(*scan)
    in_plane = scan[1].spacing_mm[0]
    hu, grid = to_canonical(*scan)
    low, high = np.floor(base.box[:, 0]).astype(int) - 8, np.ceil(base.box[:, 1]).astype(int) + 8
    low = np.maximum(low, 0)
    cropped = hu[:, low[1] : high[1], low[2] : high[2]].clip(-1000, 1000)
    copies = [
        resampled(scan, (1.5, 1.5, 1.5), kernel),
        resampled(scan, (in_plane, in_plane, 5.0), sitk.sitkLinear),
        (hu.clip(-160, 240), grid),
        (cropped, Grid.of(cropped.shape, np.eye(4))),
    ]
    for copy in copies:
        assert correlation(base, print_of(*copy)) > 0.97


def test_thumbnails_of_copies_and_others() -> None:
    first, second = (body(seed, (48, 96, 96)) for seed in (16, 17))
    for kernel in (sitk.sitkLinear, sitk.sitkBSpline):
        check_thumbnails((first, straight(first.shape)), kernel)
    assert correlation(*(print_of(v, straight(v.shape)) for v in (first, second))) < 0.9


# Real scans


@pytest.fixture(scope="module")
def real_scans(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scan]:
    folder = tmp_path_factory.mktemp("real")
    file = read_nifti(real_data / "lits_liver_0/ct.nii.gz", max_voxels=10**9)
    scans = {"lits": (file.array, file.grid)}
    for name in ("chaos_ct_set_3", "tcia_crlm_ct_1004"):
        with tarfile.open(real_data / name / "dicom.tar.xz") as archive:
            archive.extractall(folder / name, filter="data")
        files = sorted(path for path in (folder / name).rglob("*") if path.is_file())
        series = read_series(files, max_voxels=10**9)
        scans[name] = series.array, series.grid
    image = sitk.ReadImage(real_data / "pyradiomics_lung1/lung1_image.nrrd")
    lung = sitk.GetArrayFromImage(image).astype(np.int16)
    scans["lung1"] = lung, Grid.of(lung.shape, np.diag([-0.57, -0.57, 5, 1]))
    return scans


def test_real_copies_share_anchors(real_scans: dict[str, Scan]) -> None:
    check_anchors(real_scans["lits"][0], ORDERS[::7])


def test_real_copies_have_like_thumbnails(real_scans: dict[str, Scan]) -> None:
    check_thumbnails(real_scans["lits"], sitk.sitkLinear)


def test_real_scans_share_nothing(real_scans: dict[str, Scan]) -> None:
    prints = [print_of(*scan) for scan in real_scans.values()]
    for values in ([p.anchors for p in prints], [p.slices for p in prints]):
        values = np.concatenate(values)
        assert (values != 0).all() and len(np.unique(values)) == len(values)
    for n, first in enumerate(prints):
        assert all(correlation(first, second) < 0.8 for second in prints[:n])


def test_real_statistics_are_plausible(real_scans: dict[str, Scan]) -> None:
    found: VolumeStatistics = measure_volume(real_scans["lits"][0], 0)
    assert (found.low, found.high, found.p01) == (-3024, 1410, -3024)
    assert abs(found.p99 - np.quantile(real_scans["lits"][0], 0.99)) <= 5
