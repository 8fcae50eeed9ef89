"""Copies of a scan are found, aligned voxel by voxel and told from look-alikes."""

import io
import tarfile
from functools import cache
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.phantoms.anatomy import draw
from tests.phantoms.patients import FIRST
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.resample import resample_image
from tumoratlas.images.statistics import measure_volume
from tumoratlas.ingest.alignment import Alignment, fit_alignment
from tumoratlas.ingest.confirming import confirm_pair, same_from_turns
from tumoratlas.ingest.fingerprint import Fingerprint, fingerprint_of, voxel_sha256
from tumoratlas.ingest.matching import match_scans

# Ways to find a pair without a single equal voxel.
PICTURES = {"thumbnail", "overview"}
TURNS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


@cache
def lits(folder: Path) -> tuple[np.ndarray, Grid]:
    """LiTS 0: 512 x 512 x 75, 0.7 x 0.7 x 5 mm."""
    image = nib.load(folder / "lits_liver_0/ct.nii.gz")
    hu = np.asarray(image.dataobj).astype(np.int16).transpose(2, 1, 0)
    return to_canonical(hu, Grid.of(hu.shape, image.affine))


@cache
def series(archive: Path) -> tuple[np.ndarray, Grid]:
    """A DICOM series in RAS order, spacing only."""
    with tarfile.open(archive) as tar:
        names = [m for m in tar.getmembers() if m.isfile() and "LICENSE" not in m.name]
        slices = [pydicom.dcmread(io.BytesIO(tar.extractfile(m).read())) for m in names]
    slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
    hu = [s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices]
    hu = np.ascontiguousarray(np.stack(hu)[:, ::-1, ::-1].astype(np.int16))
    z = [float(s.ImagePositionPatient[2]) for s in slices[:2]]
    y, x = map(float, slices[0].PixelSpacing)
    return hu, Grid.of(hu.shape, np.diag([x, y, z[1] - z[0], 1]))


@pytest.fixture(scope="module")
def chaos(real_data: Path) -> tuple[np.ndarray, Grid]:
    """CHAOS CT 3: 512 x 512 x 78, 0.73 x 0.73 x 2 mm."""
    return series(real_data / "chaos_ct_set_3/dicom.tar.xz")


@pytest.fixture(scope="module")
def crlm(real_data: Path) -> tuple[np.ndarray, Grid]:
    """CRLM-CT-1004: 512 x 512 x 41, 0.8 x 0.8 x 5 mm."""
    return series(real_data / "tcia_crlm_ct_1004/dicom.tar.xz")


def taken(hu: np.ndarray) -> tuple[Fingerprint, str]:
    """Fingerprint and voxel hash of a volume; its header says nothing of use."""
    hu = np.ascontiguousarray(hu)
    statistics = measure_volume(hu, 0)
    return fingerprint_of(hu, Grid.of(hu.shape, np.eye(4)), statistics), voxel_sha256(statistics)


def matched(**volumes: np.ndarray) -> list[dict]:
    """Candidates among volumes by name."""
    prints = {name: taken(hu) for name, hu in volumes.items()}
    return match_scans(
        {n: p for n, (p, _) in prints.items()}, {n: h for n, (_, h) in prints.items()}
    )


def related(a: np.ndarray, b: np.ndarray) -> dict:
    """Match and confirm two volumes."""
    pairs = matched(a=a, b=b)
    assert [pair["pair_id"] for pair in pairs] == ["a__b"]
    return confirm_pair(a, b, pairs[0])


def resampled(
    hu: np.ndarray, grid: Grid, spacing_mm: tuple[float, ...], spline: bool
) -> np.ndarray:
    """Resample as ITK does: the first voxel stays in place, values outside are -1024."""
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(grid.spacing_mm)
    size = [
        round(n * s / t)
        for n, s, t in zip(image.GetSize(), grid.spacing_mm, spacing_mm, strict=True)
    ]
    kind = sitk.sitkBSpline if spline else sitk.sitkLinear
    grids = ((0, 0, 0), spacing_mm, image.GetDirection())
    out = sitk.Resample(image, size, sitk.Transform(), kind, *grids, -1024.0, sitk.sitkFloat32)
    return np.rint(np.clip(sitk.GetArrayFromImage(out), -1024, 3071)).astype(np.int16)


def body_box(hu: np.ndarray) -> tuple[slice, ...]:
    """Box of the largest part of (-100, 100) HU, as the parent release was cropped."""
    parts, _ = ndimage.label((hu > -100) & (hu < 100))
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    return ndimage.find_objects(parts)[largest - 1]


def noise(shape: tuple[int, ...], sd: float, seed: int) -> np.ndarray:
    """CT-like noise: smooth within a slice."""
    drawn = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    drawn = ndimage.gaussian_filter(drawn, (0.3, 0.6, 0.6))
    return drawn * np.float32(sd / drawn.std())


def check_carried(row: dict, label: np.ndarray, expected: np.ndarray, inside: np.ndarray) -> None:
    """A label of a must lie on b where the change put it."""
    carried, covered = Alignment.from_json(row["alignment"]).carry(label, expected.shape)
    np.testing.assert_array_equal(carried, expected)
    np.testing.assert_array_equal(covered, inside)


# --- alignments ----------------------------------------------------------------------------


@pytest.mark.parametrize(("axes", "signs"), TURNS)
def test_every_turn_is_found_among_wrong_matches_and_carries_exactly(
    axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(3)
    label = rng.integers(0, 200, (6, 7, 9)).astype(np.uint8)
    shift = rng.integers(-2, 12, 3)
    places_a = np.argwhere(label >= 0)[::5]
    places_b = places_a[:, list(axes)] * signs + shift
    wrong = rng.random(len(places_a)) < 0.6
    places_b[wrong] = rng.integers(0, 30, (wrong.sum(), 3))
    alignment = fit_alignment(places_a, places_b)
    assert alignment == Alignment.of(axes, signs, shift) and alignment.is_exact
    assert alignment.then(alignment.inverse()) == Alignment.identity()
    assert Alignment.from_json(alignment.to_json()) == alignment
    expected, inside = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), bool)
    for place in np.ndindex(label.shape):
        to = np.array(place)[list(axes)] * signs + shift
        if ((to >= 0) & (to < 8)).all():
            expected[tuple(to)], inside[tuple(to)] = label[place], True
    check_carried({"alignment": alignment.to_json()}, label, expected, inside)


def test_no_alignment_from_chance_or_from_a_line() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 500, (2, 200, 3))
    assert fit_alignment(a, b) is None
    assert fit_alignment(a[:2], a[:2]) is None
    line = np.zeros((20, 3), int)
    line[:, 0] = range(20)
    assert fit_alignment(line, line) is None


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(3)), st.lists(st.floats(0.3, 3), min_size=3, max_size=3),
       st.lists(st.sampled_from([1, -1]), min_size=3, max_size=3))  # fmt: skip
def test_chains_and_inverses_of_resampled_alignments(axes, sizes, signs) -> None:
    scales = [size * sign for size, sign in zip(sizes, signs, strict=True)]
    way = Alignment.of(axes, scales, (1.5, -2.25, 7))
    back = np.array(way.then(way.inverse()).rows)
    np.testing.assert_allclose(back, np.eye(3, 4), atol=1e-9)
    there = np.vstack([way.then(way).rows, [0, 0, 0, 1]])
    once = np.vstack([way.rows, [0, 0, 0, 1]])
    np.testing.assert_allclose(there, once @ once, atol=1e-9)


def test_a_resampled_label_is_carried_with_its_flip() -> None:
    label = np.zeros((10, 20, 20), bool)
    label[2:6, 5:15, 4:10] = True
    way = Alignment.of((0, 2, 1), (2.0, -0.5, 1.0), (0.5, 9.25, 0))
    carried, inside = way.carry(label, (20, 10, 20))
    expected = np.zeros((20, 10, 20), bool)
    expected[4:12, 5:8, 5:15] = True
    np.testing.assert_array_equal(carried, expected)
    assert inside.all() and carried.dtype == bool
    with pytest.raises(ValueError, match="axis order"):
        Alignment(((1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)))


# --- real scans ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["turn", "flip", "clip", "mini", "slices", "offset", "padding",
                                  "appended", "masked"])  # fmt: skip
def test_copies_of_a_real_scan(real_data: Path, name: str) -> None:
    """Found through the index, named, and aligned voxel by voxel."""
    hu, _ = lits(real_data)
    label = (np.arange(hu.size, dtype=np.uint32) * np.uint32(2654435761) >> 24).astype(np.uint8)
    label = label.reshape(hu.shape)
    full = tuple(slice(None) for _ in range(3))
    box, change, on_label = full, lambda v: v, lambda v: v
    relation, offset = "same", 0
    if name == "turn":
        change = on_label = lambda v: v.transpose(0, 2, 1)[::-1, :, ::-1]
    elif name == "flip":  # left and right, and other clipping
        on_label = lambda v: v[:, :, ::-1]  # noqa: E731
        change = lambda v: np.clip(v[:, :, ::-1], -1000, 1000)  # noqa: E731
    elif name == "clip":
        change = lambda v: np.clip(v, -1000, 1000)  # noqa: E731
    elif name == "mini":
        box, relation = body_box(np.clip(hu, -1000, 1000)), "crop"
        change = lambda v: np.clip(v, -1000, 1000)  # noqa: E731
    elif name == "slices":
        box, relation = (slice(20, 45), *full[1:]), "crop"
    elif name == "offset":
        change, offset = (lambda v: v + np.int16(1024)), 1024
    elif name == "padding":
        change = lambda v: np.where(v < -1000, np.int16(-2000), v)  # noqa: E731
    elif name == "masked":  # everything around the body set to air
        inside = ndimage.binary_fill_holes(ndimage.binary_opening(hu > -300, iterations=2))
        change = lambda v: np.where(inside, v, np.int16(-1024))  # noqa: E731
    b = np.ascontiguousarray(change(hu[box]))
    expected = on_label(label[box])
    inside = np.ones(expected.shape, bool)
    if name == "appended":  # ten slices again at the head
        b = np.concatenate([hu, hu[30:40]])
        inside = np.concatenate([np.ones(hu.shape, bool), np.zeros((10, *hu.shape[1:]), bool)])
        expected = np.concatenate([label, np.zeros((10, *hu.shape[1:]), np.uint8)])
    row = related(hu, b)
    assert (row["relation"], row["outer"]) == (relation, "a" if relation == "crop" else None)
    assert row["offset_hu"] == offset and row["equal_share"] == 1
    check_carried(row, label, expected, inside)
    back = related(b, hu)
    assert back["relation"] == relation and back["outer"] == ("b" if relation == "crop" else None)
    assert Alignment.from_json(back["alignment"]) == Alignment.from_json(row["alignment"]).inverse()


def test_overlapping_parts_are_no_copies(real_data: Path) -> None:
    hu, _ = lits(real_data)
    row = related(hu[:50], hu[30:])
    assert row["relation"] == "overlap" and row["equal_share"] == 1
    assert Alignment.from_json(row["alignment"]).shifts == (-30, 0, 0)


def test_equal_content_needs_no_voxels(real_data: Path) -> None:
    """The turns alone align copies of equal hash."""
    hu, _ = lits(real_data)
    other = np.ascontiguousarray(hu.transpose(0, 2, 1)[::-1])
    (print_a, hash_a), (print_b, hash_b) = taken(hu), taken(other)
    assert hash_a == hash_b
    row = same_from_turns("b", print_b, "a", print_a)
    assert (row["a"], row["b"], row["relation"]) == ("a", "b", "same")
    carried, inside = Alignment.from_json(row["alignment"]).carry(hu, other.shape)
    np.testing.assert_array_equal(carried, other)
    assert inside.all()
    pair = match_scans({"a": print_a, "b": print_b}, {"a": hash_a, "b": hash_b})[0]
    assert pair["found_by"][:2] == ["voxels", "anchors"] and pair["alignment"] == row["alignment"]


@pytest.mark.parametrize(("spacing_mm", "spline"), [((1.5, 1.5, 1.5), False),
                                                    ((1.5, 1.5, 1.5), True),
                                                    ((3.0, 3.0, 3.0), False)])  # fmt: skip
def test_resampled_copies_of_a_real_scan(chaos, spacing_mm, spline) -> None:
    """Aligned within a tenth of a voxel from body boxes that are a voxel off."""
    hu, grid = chaos
    row = related(hu, resampled(hu, grid, spacing_mm, spline))
    assert row["relation"] == "resample" and row["correlation"] > 0.9
    assert set(row["found_by"]) <= PICTURES
    way = Alignment.from_json(row["alignment"])
    scales = np.divide(grid.spacing_mm[::-1], spacing_mm)
    truth = Alignment.of((0, 1, 2), scales, (0, 0, 0))
    ends = np.array([*product(*((0, n - 1) for n in hu.shape))])
    off = np.subtract(*(ends * w.scales + w.shifts for w in (way, truth)))
    assert np.abs(off).max() < 0.15


def test_flipped_thick_slices_are_a_resampled_copy(crlm) -> None:
    hu, grid = crlm
    x, y, z = grid.spacing_mm
    row = related(hu, resampled(hu, grid, (x, y, 2 * z), False)[:, ::-1])
    assert row["relation"] == "resample" and row["correlation"] > 0.9
    np.testing.assert_allclose(
        Alignment.from_json(row["alignment"]).scales, (0.5, -1, 1), atol=1e-3
    )


def test_every_other_slice_is_found_by_its_slices(chaos) -> None:
    hu, _ = chaos
    row = related(hu, hu[::2])
    assert "slices" in row["found_by"] and row["relation"] == "resample"


def test_rounding_by_one_hu_is_found_as_an_exact_copy(chaos) -> None:
    """No hash survives it; thumbnail and noise do, and the alignment is whole again."""
    hu, _ = chaos
    row = related(hu, hu + np.random.default_rng(0).integers(0, 2, hu.shape, np.int16))
    assert set(row["found_by"]) <= PICTURES and row["relation"] != "none"
    assert Alignment.from_json(row["alignment"]) == Alignment.identity()


def test_a_smoothed_copy_on_the_same_grid_is_found_by_its_noise(crlm) -> None:
    """Hardly a voxel is equal, and pictures suggest a whole shift."""
    hu, _ = crlm
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), (0, 0.7, 0.7))
    row = related(hu, np.rint(smooth).astype(np.int16))
    assert row["relation"] == "resample" and set(row["found_by"]) <= PICTURES
    assert Alignment.from_json(row["alignment"]).scales == pytest.approx((1, 1, 1), abs=2e-3)


def test_the_same_anatomy_with_other_noise_is_none(chaos) -> None:
    """Nothing but the noise differs: harder than another phase of the patient."""
    hu, grid = chaos
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), (2, 3, 3))
    first, second = (
        np.rint(smooth + noise(hu.shape, 12, seed)).astype(np.int16) for seed in (1, 2)
    )
    for other in (second, resampled(second, grid, (1.5, 1.5, 1.5), False)):
        row = related(first, other)
        assert set(row["found_by"]) <= PICTURES
        assert row["relation"] == "none" and row["correlation"] < 0.35


def test_small_phantoms_of_one_atlas_are_told_apart() -> None:
    """Patients that differ by millimetres and noise only, and one resampled copy."""
    drawn = {f"p{p.number}": draw(p, 1) for p in FIRST[:6]}
    volumes = {name: phantom.image for name, phantom in drawn.items()}
    grid = drawn["p1"].grid
    volumes["q"] = resample_image(volumes["p1"], grid, grid.with_spacing(2.0))
    volumes["r"] = volumes["p1"][3:30, 8:70, 6:90]
    pairs = matched(**volumes)
    rows = [confirm_pair(volumes[pair["a"]], volumes[pair["b"]], pair) for pair in pairs]
    found = {row["pair_id"]: row["relation"] for row in rows if row["relation"] != "none"}
    assert found == {"p1__q": "resample", "p1__r": "crop"}


def test_unrelated_scans_are_no_candidates(real_data: Path, chaos, crlm) -> None:
    volumes = {"lits": lits(real_data)[0], "chaos": chaos[0], "crlm": crlm[0]}
    assert matched(**volumes) == []
    # Nor would the voxels be taken for copies if they were.
    pair = {"pair_id": "a__b", "a": "a", "b": "b", "found_by": ["anchors"], "shared": 3}
    pair["alignment"] = Alignment.of((0, 1, 2), (1, 1, 1), (5, 9, -7)).to_json()
    row = confirm_pair(chaos[0], crlm[0], pair)
    assert row["relation"] == "none" and row["equal_share"] < 0.1


def test_candidates_do_not_depend_on_order(real_data: Path) -> None:
    hu, _ = lits(real_data)
    volumes = {"x": hu, "y": hu[5:60], "z": hu[:, 40:], "w": np.clip(hu, -1000, 1000)}
    first = matched(**volumes)
    assert [pair["pair_id"] for pair in first] == ["w__x", "w__y", "w__z", "x__y", "x__z", "y__z"]
    assert matched(**dict(reversed(volumes.items()))) == first
