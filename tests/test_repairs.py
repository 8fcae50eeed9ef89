"""Repairs of scans and masks: made where they must be, refused where they would be guesses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tumoratlas.core.errors import GeometryError, InputError
from tumoratlas.images.checks import CHECKS, Repair
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import NiftiFile, read_nifti, write_nifti
from tumoratlas.images.orientation import STRAIGHTENED_VOXELS, itk_affine, straighten
from tumoratlas.ingest.fitting import edge_contrast
from tumoratlas.ingest.labels import LabelMask, label_hashes, read_labels, values_present
from tumoratlas.ingest.pseudonyms import pseudonym
from tumoratlas.ingest.readers import ScanVolume, read_scan, read_stored

LIMITS = {"max_voxels": 10**8, "min_slices": 5}
SPACING = (1.5, 1.5, 4.0)
SHAPE = (30, 72, 96)
KEY = bytes(range(32))
Array = NDArray[Any]

# Centre and half axes (x, y, z) in voxels of the RAS array, HU. Left is small x, back small y.
ORGANS = {
    "liver": ((66, 44, 16), (18, 14, 9), 110),
    "spleen": ((22, 30, 17), (8, 10, 7), 130),
    "kidney_right": ((62, 18, 10), (7, 6, 7), 190),
    "kidney_left": ((33, 19, 12), (7, 6, 7), 180),
    "pancreas": ((40, 42, 13), (9, 6, 5), 90),
    "aorta": ((45, 30, 14), (4, 4, 14), 240),
}
TUMOR = ((72, 46, 18), (5, 5, 3), 50)


def ellipsoid(centre: Sequence[float], half: Sequence[float]) -> NDArray[np.bool_]:
    z, y, x = np.indices(SHAPE)
    return sum(((a - c) / h) ** 2 for a, c, h in zip((x, y, z), centre, half, strict=True)) <= 1


def draw() -> tuple[NDArray[np.int16], dict[str, NDArray[np.bool_]]]:
    """Return a CT (RAS, HU) of an upper abdomen and its masks."""
    noise = np.random.default_rng(11).normal(0, 12, SHAPE)
    hu = np.full(SHAPE, -1000.0)
    hu[ellipsoid((48, 35, 15), (44, 33, 60))] = -90
    hu[ellipsoid((48, 35, 15), (40, 29, 60))] = 45
    hu[ellipsoid((48, 10, 15), (7, 6, 60))] = 350
    masks = {}
    for name, (centre, half, value) in ORGANS.items():
        hu[ellipsoid(centre, [h + 2 for h in half])] = -90
        masks[name] = ellipsoid(centre, half)
        hu[masks[name]] = value
    masks["liver_tumor"] = ellipsoid(*TUMOR[:2])
    hu[masks["liver_tumor"]] = TUMOR[2]
    return np.rint(hu + noise).clip(-1024).astype(np.int16), masks


HU, MASKS = draw()
ORIGIN = (-70.0, -50.0, -300.0)
GRID = Grid.of(SHAPE, nib.affines.from_matvec(np.diag(SPACING), ORIGIN))


def nifti(
    path: Path,
    array: Array,
    affine: Array,
    *,
    codes: tuple[int, int] = (1, 1),
    pixdim: Sequence[float] | None = None,
    qform: Array | None = None,
) -> Path:
    """Write an array (z, y, x) under an affine, whatever it says."""
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    header.set_qform(affine if qform is None else qform, code=codes[0], strip_shears=True)
    header.set_sform(affine, code=codes[1])
    header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0) if pixdim is None else pixdim
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.binaryblock + bytes(4) + np.ascontiguousarray(array).tobytes())
    return path


def stored_as(array: Array, orientation: str, grid: Grid = GRID) -> tuple[Array, Array]:
    """Return a RAS array in another voxel order, and the affine that belongs to it."""
    turned, placed = to_canonical(array, grid, orientation)
    return turned, placed.affine


def scan_of(path: Path, **changes: Any) -> dict[str, Any]:
    """Return a listed scan."""
    listed = {
        "scan_id": "source_1", "source": "source", "licence": "CC0", "format": "nifti",
        "image_path": str(path), "pattern": "*.dcm", "files": [], "labels": [], "repairs": [],
        "suspects": [], "false_spacing": False,
    }  # fmt: skip
    return listed | changes


def label_of(
    paths: Path | Sequence[Path], values: Mapping[str, list[str]] | None = None, **changes: Any
) -> dict[str, Any]:
    """Return a listed label."""
    given_paths = [str(p) for p in ([paths] if isinstance(paths, Path) else paths)]
    label = {
        "format": "nifti_masks" if values is None else "nifti", "paths": given_paths,
        "values": dict(values or {}), "partial": False, "header": "own", "licence": "CC BY",
    }  # fmt: skip
    return label | changes


def refused(code: str, read: Any, *args: Any, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        read(*args, **options)
    assert caught.value.code == code, caught.value
    return caught.value


def codes(found: NiftiFile | ScanVolume) -> list[str]:
    return [finding.code for finding in found.findings]


def names(repairs: Sequence[Repair]) -> list[str]:
    assert all(repair.before and repair.after for repair in repairs)
    return [repair.name for repair in repairs]


def shear(**entries: float) -> Array:
    """Return GRID's affine with entries such as ``r0c1`` replaced."""
    affine = GRID.affine
    for place, value in entries.items():
        affine[int(place[1]), int(place[3])] = value
    return affine


# Headers


def read_file(path: Path) -> NiftiFile:
    return read_nifti(path, max_voxels=10**8)


def test_a_slight_shear_is_straightened(tmp_path: Path) -> None:
    """What ITK refuses becomes what every reader takes, at the same place."""
    path = nifti(tmp_path / "a.nii", HU, shear(r0c1=0.01), codes=(0, 1))
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(path)
    file = read_file(path)
    assert names(file.repairs) == ["straightened"] and codes(file) == ["READERS_DIFFER"]
    assert "ITK refuses" in file.findings[0].message
    axes = file.grid.affine[:3, :3] / file.grid.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    moved = file.grid.corner_distance_mm(Grid.of(SHAPE, nib.load(path).affine))
    assert 0.1 * min(SPACING) < moved <= 0.5 * min(SPACING)
    write_nifti(tmp_path / "b.nii.gz", file.array, file.grid)
    image = sitk.ReadImage(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(image.GetSpacing(), file.grid.spacing_mm, rtol=1e-6)
    assert not read_file(tmp_path / "b.nii.gz").repairs


def test_a_large_shear_is_not_straightened(tmp_path: Path) -> None:
    """A tilted gantry needs the qform, or resampling."""
    tilt = shear(r1c2=0.8)
    error = refused("NON_ORTHONORMAL", read_file, nifti(tmp_path / "a.nii", HU, tilt, codes=(0, 1)))
    assert isinstance(error, GeometryError)
    pixdim = np.linalg.norm(tilt[:3, :3], axis=0)
    path = nifti(tmp_path / "b.nii", HU, tilt, qform=GRID.affine, pixdim=pixdim)
    file = read_file(path)
    assert codes(file) == ["SFORM_SHEARED", "READERS_DIFFER"] and not file.repairs
    message = file.findings[1].message
    assert "nibabel moves" in message and "ITK moves" not in message and "ITK ref" not in message
    image = sitk.ReadImage(path)
    np.testing.assert_allclose(image.GetOrigin(), [70, 50, -300], atol=1e-3)
    np.testing.assert_allclose(file.grid.affine[:3, 3], ORIGIN, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    flips=st.tuples(*[st.sampled_from((1, -1))] * 3),
    skew=st.tuples(*[st.floats(-0.03, 0.03)] * 3),
)
def test_straightening_moves_little_or_nothing(
    angles: tuple[float, ...], flips: tuple[int, ...], skew: tuple[float, ...]
) -> None:
    """Nearest rotation: centre and spacing stay, corners move by half a voxel at most."""
    turn = nib.eulerangles.euler2mat(*angles) * flips
    slant = np.eye(3)
    slant[np.triu_indices(3, 1)] = skew
    affine = nib.affines.from_matvec(turn @ slant * SPACING, ORIGIN)
    straight, repairs = straighten(affine, SHAPE)
    axes = straight[:3, :3] / np.linalg.norm(straight[:3, :3], axis=0)
    if not repairs:
        np.testing.assert_array_equal(straight, affine)
        return
    assert np.abs(axes.T @ axes - np.eye(3)).max() < 1e-12
    assert np.linalg.det(axes) == pytest.approx(np.prod(flips))
    before, after = Grid.of(SHAPE, affine), Grid.of(SHAPE, straight)
    np.testing.assert_allclose(after.spacing_mm, before.spacing_mm, rtol=1e-12)
    assert before.corner_distance_mm(after) <= STRAIGHTENED_VOXELS * min(SPACING) * (1 + 1e-9)
    middle = np.append((np.array(SHAPE[::-1]) - 1) / 2, 1)
    np.testing.assert_allclose(affine @ middle, straight @ middle, atol=1e-9)
    # No rotation nearby is nearer.
    tilt = nib.eulerangles.euler2mat(1e-3, -2e-3, 1e-3)
    own = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    assert np.linalg.norm(axes - own) <= np.linalg.norm(tilt @ axes - own)


def itk_reading(path: Path) -> Array | None:
    """Return the affine (RAS+) with which ITK reads a file, or None where it refuses."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    axes = np.array(reader.GetDirection()).reshape(3, 3) * reader.GetSpacing()
    to_ras = np.diag([-1.0, -1, 1])
    return nib.affines.from_matvec(to_ras @ axes, to_ras @ reader.GetOrigin())


@settings(max_examples=80, deadline=None)
@given(
    form_codes=st.tuples(st.integers(0, 2), st.sampled_from((0, 1, 2, 4))),
    skew=st.sampled_from((0, 0, 1e-5, 5e-4, 5e-3, 0.1)),
    shift=st.sampled_from((0.0, 0.0, 3.0)),
    angles=st.tuples(*[st.sampled_from((0.0, 0.02, 1.5, -2.0))] * 3),
    flips=st.tuples(*[st.sampled_from((1, -1))] * 3),
    zoom=st.sampled_from((1, 1, 1.005)),
)
def test_itks_reading_is_known_without_itk(
    tmp_path_factory: pytest.TempPathFactory,
    form_codes: tuple[int, int],
    skew: float,
    shift: float,
    angles: tuple[float, ...],
    flips: tuple[int, ...],
    zoom: float,
) -> None:
    """The rule in this package and the installed ITK agree on any pair of forms."""
    assume(form_codes != (0, 0))
    axes = nib.eulerangles.euler2mat(*angles) * flips * SPACING
    qform = nib.affines.from_matvec(axes, np.array(ORIGIN) + shift)
    slant = np.eye(3)
    slant[0, 1] = skew
    sform = nib.affines.from_matvec(axes @ slant, ORIGIN)
    pixdim = np.linalg.norm(sform[:3, :3], axis=0) * zoom
    path = tmp_path_factory.mktemp("itk") / "a.nii"
    small = np.zeros((4, 5, 6), np.int16)
    nifti(path, small, sform, qform=qform, codes=form_codes, pixdim=pixdim)
    ours, itk = itk_affine(nib.load(path).header), itk_reading(path)
    assert (ours is None) == (itk is None)
    if ours is not None:
        grids = [Grid.of(small.shape, affine) for affine in (ours, itk)]
        assert grids[0].corner_distance_mm(grids[1]) < 0.02


def test_readers_that_differ_are_told(tmp_path: Path) -> None:
    """Each named reader places it elsewhere indeed, and one not named does not."""
    moved = shear(r0c3=-60.0)
    for number, (options, told) in enumerate(
        (
            ({}, False),
            ({"codes": (0, 2)}, False),
            ({"codes": (1, 0)}, False),
            ({"codes": (1, 1), "qform": moved}, False),
            ({"codes": (1, 2), "qform": moved}, True),
            ({"codes": (0, 1), "pixdim": [1.5 * 1.006, 1.5, 4]}, True),
        )
    ):
        path = nifti(tmp_path / f"{number}.nii", HU, GRID.affine, **options)
        file = read_file(path)
        itk = Grid.of(SHAPE, itk_reading(path))
        assert (itk.corner_distance_mm(file.grid) > 0.1 * min(SPACING)) == told
        assert ("READERS_DIFFER" in codes(file)) == told
        assert file.grid.corner_distance_mm(Grid.of(SHAPE, nib.load(path).affine)) < 1e-3
    refused("NO_ORIENTATION", read_file, nifti(tmp_path / "x.nii", HU, GRID.affine, codes=(0, 0)))


# Scans


def test_a_good_scan_is_read_once_and_unchanged(tmp_path: Path) -> None:
    array, affine = stored_as(HU, "LPS")
    path = nifti(tmp_path / "a.nii", array, affine)
    stored = read_stored(scan_of(path), **LIMITS)
    np.testing.assert_array_equal(stored.hu, array)
    assert stored.grid.orientation == "LPS" and stored.statistics.shape == SHAPE
    assert stored.repairs == () and stored.links == () and stored.series is None
    volume = read_scan(scan_of(path), **LIMITS)
    np.testing.assert_array_equal(volume.hu, HU)
    assert volume.stored_orientation == "LPS" and volume.grid.orientation == "RAS"
    assert volume.sha256 == stored.sha256 and not volume.findings


def test_a_suspect_is_read_with_a_warning(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", HU, GRID.affine)
    volume = read_scan(scan_of(path, suspects=["APPENDED_PHASE"]), **LIMITS)
    assert codes(volume) == ["NAMED_SUSPECT"] and "APPENDED_PHASE" in volume.findings[0].message


OFFSET = {"name": "hu_offset", "add_hu": -1024}


@pytest.mark.parametrize("offset", [1000, 1024])
def test_a_declared_offset_is_taken_off(tmp_path: Path, offset: int) -> None:
    """KiPA22: raw values from 0 on; the source says by how much."""
    raw = np.clip(HU + offset, 0, None).astype(np.uint16)
    path = nifti(tmp_path / "a.nii", raw, GRID.affine)
    error = refused("HU_OFFSET", read_scan, scan_of(path), **LIMITS)
    assert error.remedy == CHECKS["HU_OFFSET"].remedy
    repair = {"name": "hu_offset", "add_hu": -offset}
    volume = read_scan(scan_of(path, repairs=[repair]), **LIMITS)
    np.testing.assert_array_equal(volume.hu, raw.astype(int) - offset)
    assert names(volume.repairs) == ["hu_offset"]
    assert volume.repairs[0].before.startswith("values 0 to")
    assert read_stored(scan_of(path, repairs=[repair]), **LIMITS).statistics.low == -offset


def test_an_offset_is_taken_off_a_crop_without_air(tmp_path: Path) -> None:
    """KiPA22 shows one kidney and its surroundings."""
    crop = HU[4:24, 14:44, 45:75]
    assert crop.min() > -200
    path = nifti(tmp_path / "a.nii", (crop + 1024).astype(np.uint16), GRID.affine)
    volume = read_scan(scan_of(path, repairs=[OFFSET]), **LIMITS)
    np.testing.assert_array_equal(volume.hu, crop)


def test_an_offset_that_is_not_there_is_left(tmp_path: Path) -> None:
    """Somebody has already applied it; twice would be air."""
    for number, array in enumerate((HU, HU[4:24, 14:44, 45:75])):
        path = nifti(tmp_path / f"{number}.nii", array, GRID.affine)
        volume = read_scan(scan_of(path, repairs=[OFFSET]), **LIMITS)
        np.testing.assert_array_equal(volume.hu, array)
        assert volume.repairs == () and "REPAIR_UNNEEDED" in codes(volume)


def test_an_offset_that_does_not_help_is_refused(tmp_path: Path) -> None:
    for number, array in enumerate((HU + 2500, np.clip(HU, 0, None), HU // 8 + 130)):
        path = nifti(tmp_path / f"{number}.nii", array.astype(np.int16), GRID.affine)
        refused("HU_OFFSET", read_scan, scan_of(path, repairs=[OFFSET]), **LIMITS)
    far = nifti(
        tmp_path / "far.nii", np.where(HU > 300, 32000, HU + 1024).astype(np.int16), GRID.affine
    )
    up = {"name": "hu_offset", "add_hu": 1024}
    refused("HU_OFFSET", read_scan, scan_of(far, repairs=[up]), **LIMITS)


TRUE_MM = {"name": "spacing", "spacing_mm": list(SPACING)}


def test_a_listed_spacing_replaces_a_false_one(tmp_path: Path) -> None:
    """LiTS 28 to 47: the identity affine, of the scan and of its labels."""
    path = nifti(tmp_path / "volume.nii", HU, np.eye(4))
    mask = nifti(tmp_path / "mask.nii", MASKS["liver"].astype(np.uint8), np.eye(4))
    label = label_of(mask, {"1": ["liver"]})
    false = read_scan(scan_of(path), **LIMITS)
    assert false.grid.spacing_mm == (1, 1, 1) and codes(false) == ["SPACING_SUSPECT"]
    scan = scan_of(path, repairs=[TRUE_MM], labels=[label])
    volume = read_scan(scan, **LIMITS)
    assert volume.grid.spacing_mm == SPACING
    assert volume.repairs == (Repair("spacing", "1 x 1 x 1 mm", "1.5 x 1.5 x 4 mm"),)
    masks = good(scan, volume)
    np.testing.assert_array_equal(masks["liver"].voxels, MASKS["liver"])
    assert names(masks["liver"].repairs) == ["spacing"]


def test_a_spacing_follows_the_stored_axes(tmp_path: Path) -> None:
    """The listed numbers are those of the stored x, y and z, wherever they point."""
    turned, _ = to_canonical(HU, GRID, "IPL")
    affine = to_canonical(HU, Grid.of(SHAPE, np.eye(4)), "IPL")[1].affine
    path = nifti(tmp_path / "a.nii", turned, affine)
    listed = {"name": "spacing", "spacing_mm": [4.0, 1.4, 1.6]}
    volume = read_scan(scan_of(path, repairs=[listed]), **LIMITS)
    np.testing.assert_allclose(volume.grid.spacing_mm, [1.6, 1.4, 4.0])
    np.testing.assert_array_equal(volume.hu, HU)


def test_a_spacing_that_is_not_false_is_kept_or_refused(tmp_path: Path) -> None:
    right = nifti(tmp_path / "right.nii", HU, GRID.affine)
    volume = read_scan(scan_of(right, repairs=[TRUE_MM]), **LIMITS)
    assert codes(volume) == ["REPAIR_UNNEEDED"] and volume.repairs == ()
    third = nifti(tmp_path / "third.nii", HU, np.diag([1.0, 1, 4, 1]))
    refused("REPAIR_UNFIT", read_scan, scan_of(third, repairs=[TRUE_MM]), **LIMITS)


# Masks


def good(scan: dict[str, Any], volume: ScanVolume) -> dict[str, LabelMask]:
    """Return the masks of a scan whose labels are all used."""
    masks, excluded = read_labels(scan, volume, max_voxels=10**8)
    assert not excluded, excluded
    assert len({mask.name for mask in masks}) == len(masks)
    return {mask.name: mask for mask in masks}


def bad(scan: dict[str, Any], volume: ScanVolume) -> tuple[set[str], dict[str, str]]:
    """Return the names of the masks of a scan, and the codes of what was left out."""
    masks, excluded = read_labels(scan, volume, max_voxels=10**8)
    for row in excluded:
        assert row.keys() == {"id", "rule", "code", "reason", "evidence", "remedy"}
        assert row["reason"] and row["remedy"]
    return {m.name for m in masks}, {r["id"].removeprefix("source_1/"): r["code"] for r in excluded}


@pytest.fixture
def ct(tmp_path: Path) -> ScanVolume:
    """Return the CT, stored in RAS."""
    return read_scan(scan_of(nifti(tmp_path / "ct.nii", HU, GRID.affine)), **LIMITS)


def of_ct(tmp_path: Path, *labels: dict[str, Any]) -> dict[str, Any]:
    return scan_of(tmp_path / "ct.nii", labels=list(labels))


def mask_file(
    folder: Path, name: str, array: Array, affine: Array = GRID.affine, dtype: type = np.uint8
) -> Path:
    return nifti(folder / f"{name}.nii", array.astype(dtype), affine)


LPS = np.diag([-1.0, -1, 1, 1])
FOUR = {"1": ["liver"], "2": ["spleen"], "3": ["kidney_left"], "4": ["kidney_right"]}


def four(**replaced: Array) -> Array:
    """Return a label map of four organs."""
    labels = np.zeros(SHAPE, np.uint8)
    for value, names_ in FOUR.items():
        labels[replaced.get(names_[0], MASKS[names_[0]])] = int(value)
    return labels


@pytest.mark.parametrize("ct_orientation", ["RAS", "LPS"])
@pytest.mark.parametrize("origin", [(0, 0, 0), ORIGIN])
def test_masks_with_a_header_of_another_order(
    tmp_path: Path, ct_orientation: str, origin: tuple[float, ...]
) -> None:
    """BDMAP_00000002: some headers say LPS, others RAS, and all arrays agree voxel by voxel."""
    array, _ = stored_as(HU, ct_orientation)
    axes = {"RAS": np.diag(SPACING), "LPS": LPS[:3, :3] * SPACING}
    headers = {code: nib.affines.from_matvec(axis, origin) for code, axis in axes.items()}
    path = nifti(tmp_path / "ct.nii", array, headers[ct_orientation])
    paths = []
    for name, mask in MASKS.items():
        wrong = name in ("aorta", "pancreas", "liver_tumor", "kidney_left")
        says = ct_orientation if not wrong else {"RAS": "LPS", "LPS": "RAS"}[ct_orientation]
        paths.append(mask_file(tmp_path, name, stored_as(mask, ct_orientation)[0], headers[says]))
    volume = read_scan(scan_of(path), **LIMITS)
    masks = good(scan_of(path, labels=[label_of(paths)]), volume)
    assert masks.keys() == MASKS.keys()
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask.voxels, MASKS[name], err_msg=name)
        wrong = name in ("aorta", "pancreas", "liver_tumor", "kidney_left")
        assert names(mask.repairs) == (["mask_header"] if wrong else [])
        assert mask.licence == "CC BY"
        if wrong:
            # What the header alone would have made of it.
            seen = nib.as_closest_canonical(nib.load(tmp_path / f"{name}.nii"))
            flipped = np.asarray(seen.dataobj).T
            overlap = np.count_nonzero(flipped.astype(bool) & mask.voxels)
            assert overlap < 0.5 * np.count_nonzero(mask.voxels)
            assert "voxel order of the scan" in mask.repairs[0].after


def test_a_whole_label_map_with_a_header_of_another_order(tmp_path: Path, ct: ScanVolume) -> None:
    affine = LPS @ np.diag([*SPACING, 1])
    scan = of_ct(tmp_path, label_of(mask_file(tmp_path, "a", four(), affine), FOUR))
    for name, mask in good(scan, ct).items():
        np.testing.assert_array_equal(mask.voxels, MASKS[name])
        assert "sides right" in mask.repairs[0].after


def test_a_header_with_true_axes_and_a_false_origin(tmp_path: Path, ct: ScanVolume) -> None:
    """Here the header turns the mask as it should."""
    turned, affine = stored_as(MASKS["liver"], "LPS")
    affine[:3, 3] = 0
    path = mask_file(tmp_path, "liver", turned, affine)
    mask = good(of_ct(tmp_path, label_of([path])), ct)["liver"]
    np.testing.assert_array_equal(mask.voxels, MASKS["liver"])
    assert "axis codes LPS on the scan's grid" in mask.repairs[0].after


def test_swapped_sides_alone_are_seen_by_the_body(tmp_path: Path) -> None:
    """A mirror image has the same tissue; only the sides tell."""
    mirror = np.diag([-1.0, 1, 1, 1]) @ np.diag([*SPACING, 1])
    both = MASKS["kidney_left"] | MASKS["kidney_left"][:, :, ::-1]
    hu = HU.copy()
    hu[MASKS["kidney_right"]] = 45
    hu[both] = 185
    scan = scan_of(nifti(tmp_path / "even.nii", hu, GRID.affine))
    volume = read_scan(scan, **LIMITS)
    path = mask_file(tmp_path, "kidney_left", MASKS["kidney_left"], mirror)
    mask = good(scan | {"labels": [label_of([path])]}, volume)["kidney_left"]
    np.testing.assert_array_equal(mask.voxels, MASKS["kidney_left"])
    assert "1 of 1 sides right; by header" in mask.repairs[0].after
    assert "0 of 1 sides right" in mask.repairs[0].after


def test_what_the_image_does_not_tell_is_refused(tmp_path: Path) -> None:
    """One of two like parts fits both ways; a mask of no part of the image fits neither."""
    flipped = LPS @ np.diag([*SPACING, 1])
    one = ellipsoid((66, 44, 16), (10, 9, 6))
    path = mask_file(tmp_path, "stomach", one, flipped)
    noise = np.random.default_rng(5).normal(0, 12, SHAPE)
    for parts, code in (
        (np.zeros_like(one), "LABEL_GRID"),
        (one | one[:, ::-1, ::-1], "LABEL_AMBIGUOUS"),
    ):
        hu = np.where(parts, 150, 45) + noise
        hu[:, :4] = -1000
        scan = scan_of(nifti(tmp_path / f"{code}.nii", hu.astype(np.int16), GRID.affine))
        volume = read_scan(scan, **LIMITS)
        found = bad(scan | {"labels": [label_of([path])]}, volume)
        assert found == (set(), {"stomach.nii": code})


def test_a_mask_of_another_case_is_off_the_grid(tmp_path: Path, ct: ScanVolume) -> None:
    """Other sizes, spacings and shifts are never taken for an order."""
    liver, flipped = MASKS["liver"], LPS @ np.diag([*SPACING, 1])
    for name, array, affine in (
        ("liver", liver[:-1], GRID.affine),
        ("spleen", liver, shear(r0c3=-69.0)),
        ("colon", liver, shear(r2c2=5.0)),
        ("aorta", liver, LPS @ np.diag([1.6, 1.6, 4, 1])),
        ("bladder", liver[:-1], flipped),
    ):
        path = mask_file(tmp_path, name, array, affine)
        assert bad(of_ct(tmp_path, label_of([path])), ct) == (set(), {f"{name}.nii": "LABEL_GRID"})


def test_an_empty_mask_is_empty_in_any_order(tmp_path: Path, ct: ScanVolume) -> None:
    path = mask_file(tmp_path, "liver_tumor", np.zeros(SHAPE), LPS @ np.diag([*SPACING, 1]))
    mask = good(of_ct(tmp_path, label_of([path])), ct)["liver_tumor"]
    assert not mask.voxels.any() and names(mask.repairs) == ["mask_header"]


def test_a_small_tumor_is_placed_by_its_organ(tmp_path: Path, ct: ScanVolume) -> None:
    """Too small for an edge; the liver, whose header is right, holds it."""
    small = np.zeros(SHAPE, bool)
    small[17:19, 45:48, 71:74] = True
    flipped = LPS @ np.diag([*SPACING, 1])
    paths = [
        mask_file(tmp_path, "liver", MASKS["liver"]),
        mask_file(tmp_path, "liver_tumor", small, flipped),
    ]
    mask = good(of_ct(tmp_path, label_of(paths)), ct)["liver_tumor"]
    np.testing.assert_array_equal(mask.voxels, small)
    assert "0% in other structures" in mask.repairs[0].after
    alone = of_ct(tmp_path, label_of(paths[1:]))
    assert bad(alone, ct) == (set(), {"liver_tumor.nii": "LABEL_AMBIGUOUS"})


def test_a_true_place_in_another_order_is_believed(tmp_path: Path, ct: ScanVolume) -> None:
    """Voxels that the header contradicts by content are not, though header and scan agree."""
    turned, affine = stored_as(four(), "LPS")
    scan = of_ct(tmp_path, label_of(mask_file(tmp_path, "a", turned, affine), FOUR))
    for name, mask in good(scan, ct).items():
        np.testing.assert_array_equal(mask.voxels, MASKS[name])
        assert mask.repairs == ()
    scan = of_ct(tmp_path, label_of(mask_file(tmp_path, "b", four(), affine), FOUR))
    assert bad(scan, ct) == (set(), {"b.nii": "LABEL_AMBIGUOUS"})


def test_a_listed_voxel_order_counts(tmp_path: Path) -> None:
    """``header: array``: whatever the header says; the number of voxels must fit."""
    array, affine = stored_as(HU, "LPI")
    path = nifti(tmp_path / "ct.nii", array, affine)
    volume = read_scan(scan_of(path), **LIMITS)
    labels, _ = stored_as(four(), "LPI")
    for number, header in enumerate((np.eye(4), affine, np.diag([-3.0, 2, 1, 1]))):
        file = mask_file(tmp_path, f"m{number}", labels, header)
        scan = scan_of(path, labels=[label_of(file, FOUR, header="array")])
        for name, mask in good(scan, volume).items():
            np.testing.assert_array_equal(mask.voxels, MASKS[name])
            assert names(mask.repairs) == ([] if number == 1 else ["mask_header"])
    file = mask_file(tmp_path, "cut", labels[:-1], affine)
    scan = scan_of(path, labels=[label_of(file, FOUR, header="array")])
    assert bad(scan, volume) == (set(), {"cut.nii": "LABEL_GRID"})


def test_a_straightened_scan_keeps_its_straight_mask(tmp_path: Path) -> None:
    """One tool kept the shear, another dropped it."""
    path = nifti(tmp_path / "ct.nii", HU, shear(r0c1=0.012), codes=(0, 1))
    volume = read_scan(scan_of(path), **LIMITS)
    assert names(volume.repairs) == ["straightened"]
    for name, affine in (("a", GRID.affine), ("b", shear(r0c1=0.012)), ("c", volume.grid.affine)):
        file = nifti(tmp_path / f"{name}.nii", four(), affine, codes=(0, 1))
        masks = good(scan_of(path, labels=[label_of(file, FOUR)]), volume)
        np.testing.assert_array_equal(masks["liver"].voxels, MASKS["liver"])
        assert names(masks["liver"].repairs) == (["straightened"] if name == "b" else [])


# DICOM images


def dicom(folder: Path, array: Array, *, intercept: int = -1024, number: int = 1) -> Path:
    """Write a RAS array as axial slices in LPS, named by their order from head to feet."""
    stored, placed = to_canonical(array, GRID, "LPS")
    folder.mkdir(parents=True)
    for z, part in enumerate(stored):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        uid = generate_uid(entropy_srcs=[str(folder), str(z)])
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[str(number)])
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
        dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
        dataset.Modality, dataset.PatientID = "CT", "MRN-1"
        dataset.Rows, dataset.Columns = part.shape
        dataset.PixelSpacing = [SPACING[1], SPACING[0]]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        corner = placed.affine @ [0, 0, z, 1]
        dataset.ImagePositionPatient = [float(v) for v in (-corner[0], -corner[1], corner[2])]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, intercept
        dataset.PixelData = (part.astype(np.int32) - intercept).astype(np.uint16).tobytes()
        dataset.save_as(folder / f"image_{len(stored) - z}", enforce_file_format=True)
    return folder


def dicom_scan(folder: Path, *labels: dict[str, Any]) -> dict[str, Any]:
    changes = {"format": "dicom", "pattern": "image_*", "labels": list(labels)}
    return scan_of(folder, **changes)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the CT as a DICOM series."""
    return dicom(tmp_path_factory.mktemp("dicom") / "PATIENT_DICOM", HU)


def test_a_series_is_read_and_linked_by_pseudonyms(series: Path) -> None:
    stored = read_stored(dicom_scan(series), **LIMITS)
    assert stored.links == () and stored.grid.orientation == "LPS"
    linked = read_stored(dicom_scan(series), key=KEY, **LIMITS)
    assert linked.sha256 == stored.sha256 and pseudonym(KEY, "MRN-1") in linked.links
    assert all(len(link) == 17 for link in linked.links) and len(linked.links) == 3
    chosen = [path.name for path in sorted(series.iterdir())]
    again = read_stored(dicom_scan(series) | {"files": chosen, "pattern": "none"}, **LIMITS)
    assert again.sha256 == stored.sha256


def test_a_nifti_mask_of_a_dicom_scan_lies_by_its_own_header(series: Path, tmp_path: Path) -> None:
    """RSNA: segmentation and series are stored in other orders; ITK is the witness."""
    volume = read_scan(dicom_scan(series), **LIMITS)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series)))
    for orientation in ("RAS", "LAS", "PIR"):
        turned, affine = stored_as(four(), orientation)
        path = mask_file(tmp_path, orientation, turned, affine)
        masks = good(dicom_scan(series, label_of(path, FOUR)), volume)
        onto = sitk.Resample(
            sitk.ReadImage(path), image, sitk.Transform(), sitk.sitkNearestNeighbor
        )
        seen, _ = to_canonical(sitk.GetArrayFromImage(onto), volume.stored_grid)
        np.testing.assert_array_equal(masks["spleen"].voxels, seen == 2)
        np.testing.assert_array_equal(masks["spleen"].voxels, MASKS["spleen"])
        assert masks["spleen"].repairs == ()


PANCREAS = {"1": ["pancreas"]}


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAI"])
def test_axis_codes_count_and_the_origin_does_not(
    series: Path, tmp_path: Path, orientation: str
) -> None:
    """Pancreas-CT: after canonicalising both, the arrays agree although the origins differ."""
    volume = read_scan(dicom_scan(series), **LIMITS)
    turned, affine = stored_as(MASKS["pancreas"], orientation)
    affine[:3, 3] = 0
    path = mask_file(tmp_path, "label0001", turned, affine)
    scan = dicom_scan(series, label_of(path, PANCREAS, header="orientation"))
    mask = good(scan, volume)["pancreas"]
    np.testing.assert_array_equal(mask.voxels, MASKS["pancreas"])
    (repair,) = mask.repairs
    assert repair.name == "mask_header" and orientation in repair.before
    seen = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(np.asarray(seen.dataobj).T.astype(bool), mask.voxels)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_axis_codes_that_look_wrong_are_refused(
    series: Path, tmp_path: Path, axes: tuple[int, ...]
) -> None:
    """Labels whose voxels run against their header, in-plane or from head to feet."""
    volume = read_scan(dicom_scan(series), **LIMITS)
    path = mask_file(tmp_path, "a", np.flip(MASKS["pancreas"], axes), np.diag([*SPACING, 1]))
    scan = dicom_scan(series, label_of(path, PANCREAS, header="orientation"))
    assert bad(scan, volume) == (set(), {"a.nii": "LABEL_AMBIGUOUS"})
    cut = mask_file(tmp_path, "cut", MASKS["pancreas"][:-1], np.diag([*SPACING, 1]))
    scan = dicom_scan(series, label_of(cut, PANCREAS, header="orientation"))
    assert bad(scan, volume) == (set(), {"cut.nii": "LABEL_GRID"})


def test_structure_folders_of_binary_series(series: Path, tmp_path: Path) -> None:
    """3D-IRCADb: one folder per structure, one per tumor; 255 is the structure."""
    volume = read_scan(dicom_scan(series), **LIMITS)
    parts = {"liver": MASKS["liver"], "livertumor01": MASKS["liver_tumor"].copy()}
    parts["livertumor02"] = ellipsoid((60, 30, 12), (3, 3, 2))
    parts["livertumor01"][:, :, 72:] = False
    parts["bone"] = HU > 250
    values = {
        "liver": ["liver"], "livertumors?[0-9]*": ["liver", "liver_tumor"], "bone": ["other_bone"],
    }  # fmt: skip
    paths = []
    for number, (name, mask) in enumerate(parts.items()):
        folder = dicom(tmp_path / name, mask * 255, intercept=0, number=number + 2)
        paths += sorted(folder.iterdir())
    label = label_of(paths, values, format="dicom_masks")
    masks = good(dicom_scan(series, label), volume)
    assert masks.keys() == {"liver", "liver_tumor"}
    tumors = parts["livertumor01"] | parts["livertumor02"]
    np.testing.assert_array_equal(masks["liver_tumor"].voxels, tumors)
    np.testing.assert_array_equal(masks["liver"].voxels, MASKS["liver"] | tumors)
    # With one tumor lost, no other part of the structures is used.
    next(path for path in paths if path.parent.name == "livertumor02").unlink()
    paths = [path for path in paths if path.exists()]
    found = bad(dicom_scan(series, label_of(paths, values, format="dicom_masks")), volume)
    assert found == (set(), {"livertumor02": "MASK_SERIES"})
    assert set(label_hashes(dicom_scan(series, label)).values()) >= {""}


# Values


def test_partial_labels_leave_structures_unknown(tmp_path: Path, ct: ScanVolume) -> None:
    """FLARE: what does not occur was not drawn."""
    values = {**FOUR, "9": ["pancreas"], "14": ["pooled_tumor"]}
    path = mask_file(tmp_path, "a", four())
    whole = good(of_ct(tmp_path, label_of(path, values)), ct)
    assert whole.keys() == {*(n for names_ in FOUR.values() for n in names_), "pancreas",
                            "pooled_tumor"}  # fmt: skip
    assert not whole["pancreas"].voxels.any()
    part = good(of_ct(tmp_path, label_of(path, values, partial=True)), ct)
    assert part.keys() == whole.keys() - {"pancreas", "pooled_tumor"}
    labels = four()
    labels[MASKS["liver_tumor"]] = 14
    path = mask_file(tmp_path, "b", labels)
    part = good(of_ct(tmp_path, label_of(path, values, partial=True)), ct)
    np.testing.assert_array_equal(part["pooled_tumor"].voxels, MASKS["liver_tumor"])


def test_what_is_outside_the_release_is_checked_and_dropped(tmp_path: Path, ct: ScanVolume) -> None:
    """PANORAMA: veins and arteries have values of their own; 7 and 8 have no meaning."""
    values = {"1": ["pancreas", "pancreas_tumor"], "2": ["other_veins"], "4": ["pancreas"]}
    labels = np.where(MASKS["pancreas"], 4, np.where(MASKS["aorta"], 2, 0))
    path = mask_file(tmp_path, "a", labels)
    masks = good(of_ct(tmp_path, label_of(path, values)), ct)
    assert masks.keys() == {"pancreas", "pancreas_tumor"}
    for stray in (7, 8):
        labels[0, 0, 0] = stray
        path = mask_file(tmp_path, f"b{stray}", labels)
        found = bad(of_ct(tmp_path, label_of(path, values)), ct)
        assert found == (set(), {path.name: "LABEL_VALUE"})


def test_soft_masks_have_no_meaning(tmp_path: Path, ct: ScanVolume) -> None:
    """A mask of 0.999 was interpolated; one of 1.0 is a mask."""
    whole = mask_file(tmp_path, "liver", MASKS["liver"], dtype=np.float32)
    masks = good(of_ct(tmp_path, label_of([whole])), ct)
    np.testing.assert_array_equal(masks["liver"].voxels, MASKS["liver"])
    soft = mask_file(tmp_path, "spleen", MASKS["spleen"] * 0.999, dtype=np.float32)
    assert bad(of_ct(tmp_path, label_of([soft])), ct) == (set(), {"spleen.nii": "LABEL_VALUE"})
    strange = mask_file(tmp_path, "tail", MASKS["spleen"])
    assert bad(of_ct(tmp_path, label_of([strange])), ct)[1] == {"tail.nii": "STRUCTURE_UNKNOWN"}


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32"])
def test_values_are_those_that_are_there(dtype: str) -> None:
    values = np.array([[[0, 3, 3], [100, 7, 0]]]).astype(dtype)
    if values.dtype.kind != "u":
        values[0, 0, 0] = -5
    assert values_present(values) == set(np.unique(values).tolist())


# Sides


def test_swapped_kidneys_are_given_up(tmp_path: Path, ct: ScanVolume) -> None:
    swapped = four(kidney_left=MASKS["kidney_right"], kidney_right=MASKS["kidney_left"])
    scan = of_ct(tmp_path, label_of(mask_file(tmp_path, "a", swapped), FOUR))
    sides = dict.fromkeys(("kidney_left", "kidney_right"), "SIDES_SWAPPED")
    assert bad(scan, ct) == ({"liver", "spleen"}, sides)
    paths = [
        mask_file(tmp_path, name, MASKS[other])
        for name, other in (
            ("kidney_left", "kidney_right"), ("kidney_right", "kidney_left"), ("aorta", "aorta"),
            ("femur_left", "kidney_right"), ("femur_right", "kidney_left"),
        )
    ]  # fmt: skip
    found, excluded = bad(of_ct(tmp_path, label_of(paths)), ct)
    assert found == {"aorta"} and set(excluded.values()) == {"SIDES_SWAPPED"}
    assert len(excluded) == 4


def test_a_single_or_empty_side_is_no_contradiction(tmp_path: Path, ct: ScanVolume) -> None:
    labels = four(kidney_left=np.zeros(SHAPE, bool), liver=np.zeros(SHAPE, bool))
    scan = of_ct(tmp_path, label_of(mask_file(tmp_path, "a", labels), FOUR))
    assert good(scan, ct).keys() == {"liver", "spleen", "kidney_left", "kidney_right"}


def test_a_liver_on_the_left_needs_a_look(tmp_path: Path) -> None:
    """Situs inversus or swapped axes: no mask of the files is used."""
    path = nifti(tmp_path / "ct.nii", HU[:, :, ::-1], GRID.affine)
    volume = read_scan(scan_of(path), **LIMITS)
    mirrored = mask_file(tmp_path, "a", four()[:, :, ::-1])
    found, excluded = bad(scan_of(path, labels=[label_of(mirrored, FOUR)]), volume)
    assert found == set() and set(excluded.values()) == {"LIVER_LEFT"} and len(excluded) == 4
    alone = mask_file(tmp_path, "liver", MASKS["liver"][:, :, ::-1])
    assert good(scan_of(path, labels=[label_of([alone])]), volume).keys() == {"liver"}


# Real scans


@pytest.mark.parametrize("says", ["LPS", "LAS", "RPS", "RAI", "RAS"])
def test_a_real_liver_with_a_false_header(real_data: Path, tmp_path: Path, says: str) -> None:
    """LiTS 0: any false order is seen, for the organ and for its tumors."""
    folder = real_data / "lits_liver_0"
    scan = scan_of(folder / "ct.nii.gz")
    volume = read_scan(scan, **LIMITS)
    values = {"1": ["liver"], "2": ["liver", "liver_tumor"]}
    file = read_file(folder / "liver_pseudo_difftumor.nii.gz")
    labels, grid = to_canonical((file.array > 0).astype(np.uint8), file.grid)
    tumors, _ = to_canonical(
        *(lambda f: (f.array, f.grid))(read_file(folder / "tumor_instances.nii.gz"))
    )
    labels[tumors > 0] = 2
    ordered, _ = to_canonical(labels, grid, volume.stored_orientation)
    axes = to_canonical(np.zeros((1, 1, 1)), Grid.of((1, 1, 1), np.eye(4)), says)[1].affine
    affine = nib.affines.from_matvec(axes[:3, :3] * volume.stored_grid.spacing_mm, (0, 0, 0))
    path = mask_file(tmp_path, "a", ordered, affine)
    masks = good(scan | {"labels": [label_of(path, values)]}, volume)
    np.testing.assert_array_equal(masks["liver_tumor"].voxels, tumors > 0)
    np.testing.assert_array_equal(masks["liver"].voxels, labels > 0)


def test_edges_of_real_organs_tell_their_place(real_data: Path) -> None:
    """CHAOS-like thin slabs are the hard case: still every in-plane turn is seen."""
    folder = real_data / "totalseg_ct_dicom"
    volume = read_scan(
        scan_of(folder / "dicom", format="dicom", pattern="*"), max_voxels=10**8, min_slices=5
    )
    seg = read_file(folder / "seg.nii.gz")
    labels, grid = to_canonical(seg.array, seg.grid)
    assert grid.corner_distance_mm(volume.grid) < 1e-3
    for value in (1, 5, 6, 7, 20, 52):
        mask = labels == value
        own = edge_contrast(mask, volume.hu)
        turns = [edge_contrast(np.flip(mask, axes), volume.hu) for axes in ((1,), (2,), (1, 2))]
        assert own > 0.25 and max(turns) < own - 0.15
