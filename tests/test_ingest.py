"""Ingest and harmonize on the phantom sources, against the phantoms' truth."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from tests.phantoms import truth, write_phantoms
from tumoratlas.core.errors import InputError
from tumoratlas.core.files import write_json
from tumoratlas.core.runner import Step, read_excluded, read_manifest, read_rows
from tumoratlas.core.structures import organ_mask, structure_bit
from tumoratlas.harmonize.cases import harmonize_case
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti
from tumoratlas.ingest.dedupe import assign_cases, deduplicate, scans_table
from tumoratlas.ingest.fingerprint import Turn, _quantiles, fingerprint_scan, voxel_sha256
from tumoratlas.ingest.listing import list_scans
from tumoratlas.ingest.readers import LabelMask, ScanVolume, read_labels, read_scan
from tumoratlas.ingest.sources import Source, read_source
from tumoratlas.ingest.steps import case_members, fingerprint_scans, patient_groups

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("abdomenatlas11", "chaos", "kits23", "lits", "msd_ct", "private")
PRECEDENCE = yaml.safe_load((ROOT / "config.yaml").read_text())["ingest"]["precedence"]
LIMITS = {"max_voxels": 10_000_000, "min_slices": 20}
Listing = dict[str, list[dict[str, Any]]]


def source_of(name: str) -> Source:
    """Return a source as described in the resources."""
    return read_source(ROOT / f"resources/sources/{name}.yaml")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the full set."""
    folder = tmp_path_factory.mktemp("full")
    write_phantoms(folder)
    return folder


@pytest.fixture(scope="module")
def listings(full: Path) -> dict[str, Listing]:
    """Return the lists of all six sources."""
    return {name: list_scans(source_of(name), full / "sources" / name) for name in SOURCES}


@pytest.fixture(scope="module")
def listed(listings: dict[str, Listing]) -> dict[str, dict[str, Any]]:
    """Return all listed scans by id."""
    return {scan["scan_id"]: scan for one in listings.values() for scan in one["scans"]}


Read = dict[str, tuple[ScanVolume, list[LabelMask]]]


@pytest.fixture(scope="module")
def read(listed: dict[str, dict[str, Any]]) -> Read:
    """Return every readable scan with its labels."""
    result = {}
    for scan_id, scan in listed.items():
        if scan_id == "lits_5":
            continue
        volume = read_scan(scan, **LIMITS)
        masks, excluded = read_labels(scan, volume, max_voxels=LIMITS["max_voxels"])
        assert not excluded
        result[scan_id] = volume, masks
    return result


@pytest.fixture(scope="module")
def prints(listed: dict[str, dict[str, Any]], read: Read) -> list[dict[str, Any]]:
    """Return the fingerprints of all readable scans."""
    return [fingerprint_scan(listed[scan_id], volume) for scan_id, (volume, _) in read.items()]


def lesions_of(folder: Path, patient: str, organ: str, kind: str) -> NDArray[np.bool_]:
    """Return the true voxels (z, y, x) of an organ's lesions on the RAS grid."""
    mask, _ = truth.truth_mask(folder, patient)
    tumors = truth.tumors(folder)
    mine = (tumors.patient == patient) & (tumors.organ == organ) & (tumors.kind == kind)
    return np.isin(mask, tumors[mine].instance)


# Listing


def test_every_scan_of_the_truth_is_listed(full: Path, listings: dict[str, Listing]) -> None:
    """Six layouts: the scans that were written, their names, labels and patients."""
    found = {(s["source"], s["source_case"]) for one in listings.values() for s in one["scans"]}
    rows = truth.scans(full)
    assert found == set(zip(rows.source, rows.source_case, strict=True))
    for name, one in listings.items():
        assert [s["scan_id"] for s in one["scans"]] == sorted(s["scan_id"] for s in one["scans"])
        for scan in one["scans"]:
            case = scan["source_case"]
            assert scan["scan_id"] == f"{name}_{case}"
            assert scan["patient_key"] == f"{name}/{case}"
            paths = [path for label in scan["labels"] for path in label["paths"]]
            assert Path(scan["image_path"]).exists() and all(Path(p).is_file() for p in paths)
            assert paths and not [p for p in paths if Path(p).name.startswith("._")]


def test_what_is_left_out_is_told(listings: dict[str, Listing]) -> None:
    """Resource forks and the MR part are rows; companions of a scan are not."""
    codes = {
        name: Counter(row["code"] for row in one["excluded"]) for name, one in listings.items()
    }
    assert codes.pop("msd_ct") == {"APPLE_DOUBLE": 10}
    assert codes.pop("chaos") == {"NOT_CT": 4}
    assert not any(codes.values())
    for one in listings.values():
        for row in one["excluded"]:
            assert row.keys() == {"id", "rule", "code", "reason", "evidence", "remedy"}


@pytest.fixture
def lits(tmp_path: Path) -> Path:
    """Return a LiTS folder with one empty scan."""
    folder = tmp_path / "lits"
    folder.mkdir()
    for name in ("volume-3.nii", "segmentation-3.nii"):
        (folder / name).touch()
    return folder


def list_lits(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the ids of the scans and the code of each row left out."""
    listing = list_scans(source_of("lits"), folder)
    left_out = {row["id"]: row["code"] for row in listing["excluded"]}
    assert len(left_out) == len(listing["excluded"])
    return [scan["scan_id"] for scan in listing["scans"]], left_out


@pytest.mark.parametrize(
    "name", ["volume_3.nii", "more/scan.nrrd", "x.dcm", "VOLUME-4.NII", "IM1.DCM", "a.nii.GZ"]
)
def test_images_that_fit_no_layout_are_told(lits: Path, name: str) -> None:
    """An image under another name is a row, whatever its case."""
    (lits / name).parent.mkdir(exist_ok=True)
    (lits / name).touch()
    assert list_lits(lits) == (["lits_3"], {f"lits/{name}": "NOT_UNDERSTOOD"})


def test_other_files_are_not_images(lits: Path) -> None:
    """Text, archives' lists and checksums are of no interest."""
    for name in ("README.txt", "md5", ".DS_Store", "list.csv"):
        (lits / name).touch()
    assert list_lits(lits) == (["lits_3"], {})


def test_links_do_not_catch_the_search(lits: Path) -> None:
    """Circles end, dangling links are scans that cannot be read, linked folders are told."""
    (lits / "again").symlink_to(lits, target_is_directory=True)
    (lits / "up").symlink_to("..", target_is_directory=True)
    (lits / "self.nii").symlink_to("self.nii")
    (lits / "volume-9.nii").symlink_to("nowhere.nii")
    (lits / "volume-8.nii").symlink_to("volume-3.nii")
    scans, left_out = list_lits(lits)
    assert scans == ["lits_3", "lits_8", "lits_9"]
    assert left_out == {
        "lits/again": "LINK_NOT_FOLLOWED",
        "lits/up": "LINK_NOT_FOLLOWED",
        "lits/self.nii": "NOT_UNDERSTOOD",
    }
    listing = list_scans(source_of("lits"), lits)
    with pytest.raises(InputError, match="BROKEN_LINK"):
        read_scan(listing["scans"][2], **LIMITS)


def test_a_source_that_is_itself_a_link_is_entered(lits: Path, tmp_path: Path) -> None:
    """Sources often lie on another disk."""
    (tmp_path / "link").symlink_to(lits, target_is_directory=True)
    assert list_lits(tmp_path / "link")[0] == ["lits_3"]


def test_an_empty_source_and_two_scans_of_one_name_are_refused(lits: Path) -> None:
    """Both would end in silent loss."""
    (lits / "volume-3.nii.gz").touch()
    with pytest.raises(InputError, match="SCAN_ID_TWICE"):
        list_lits(lits)
    shutil.rmtree(lits)
    lits.mkdir()
    with pytest.raises(InputError, match="SOURCE_EMPTY.*Expected .*volume"):
        list_lits(lits)


def test_the_stamp_sees_a_replaced_file(lits: Path) -> None:
    """Another size or time of the image or a label is another listing."""

    def stamp() -> list[int]:
        return list_scans(source_of("lits"), lits)["scans"][0]["stamp"]

    first = stamp()
    assert stamp() == first
    (lits / "segmentation-3.nii").write_bytes(b"x")
    second = stamp()
    later = (lits / "volume-3.nii").stat().st_mtime_ns + 10**9
    os.utime(lits / "volume-3.nii", ns=(later, later))
    assert len({tuple(s) for s in (first, second, stamp())}) == 3


# Reading


def test_scans_are_read_where_truth_says(full: Path, read: Read) -> None:
    """Every orientation and format ends on the patient's RAS grid."""
    for row in truth.scans(full).itertuples():
        scan_id = f"{row.source}_{row.source_case}"
        if row.expected == "excluded":
            assert scan_id not in read
            continue
        volume, _ = read[scan_id]
        assert volume.hu.dtype == np.int16
        assert volume.hu.shape == volume.grid.shape == (row.shape_z, row.shape_y, row.shape_x)
        if row.defect == "identity affine":
            continue
        _, affine = truth.truth_mask(full, row.patient)
        assert volume.grid.corner_distance_mm(Grid.of(volume.hu.shape, affine)) < 1e-2
    assert read["lits_1"][0].stored_orientation == "LAI"
    assert read["kits23_case_00000"][0].stored_orientation == "IPL"
    assert read["private_P001"][0].facts["sex"] == "F"


def test_a_truncated_scan_is_refused(listed: dict[str, dict[str, Any]]) -> None:
    """LiTS 5 ends after 60 % of its voxels."""
    with pytest.raises(InputError, match="DATA_SIZE"):
        read_scan(listed["lits_5"], **LIMITS)


def test_labels_lie_where_truth_says(full: Path, read: Read) -> None:
    """Every annotated organ's tumors and cysts, voxel by voxel on the RAS grid."""
    checked = Counter()
    for row in truth.scans(full).itertuples():
        if row.expected == "excluded":
            continue
        _, masks = read[f"{row.source}_{row.source_case}"]
        named = {mask.name: mask.voxels for mask in masks}
        assert len(named) == len(masks)
        lesions = {n for n in named if n.endswith(("_tumor", "_cyst"))}
        organs = row.annotated.split(";") if row.annotated else []
        assert {name.rpartition("_")[0] for name in lesions} == set(organs)
        for name in lesions:
            organ, _, kind = name.rpartition("_")
            expected = lesions_of(full, row.patient, organ, kind)
            np.testing.assert_array_equal(named[name], expected, err_msg=f"{row.patient} {name}")
            checked[name] += bool(expected.any())
            # A lesion belongs to its organ wherever the source draws the organ.
            assert organ not in named or named[organ][expected].all()
    assert min(checked[f"{organ}_tumor"] for organ in ("colon", "esophagus", "kidney", "liver",
                                                        "pancreas", "uterus")) >= 2  # fmt: skip
    assert checked["kidney_cyst"] == 2


def test_organ_masks_are_those_of_the_files(full: Path, read: Read) -> None:
    """The parent's 25 masks against nibabel; CHAOS' pictures against their order by name."""
    folder = full / "sources/abdomenatlas11/BDMAP_00000002/segmentations"
    masks = {mask.name: mask.voxels for mask in read["abdomenatlas11_BDMAP_00000002"][1]}
    assert len(masks) == 25
    for name, voxels in masks.items():
        image = nib.as_closest_canonical(nib.load(folder / f"{name}.nii.gz"))
        np.testing.assert_array_equal(voxels, np.asarray(image.dataobj).transpose(2, 1, 0) != 0)
    pictures = sorted((full / "sources/chaos/Train_Sets/CT/1/Ground").iterdir())
    # The first name is the topmost slice; rows run to the back, columns to the left.
    stack = np.stack([np.asarray(Image.open(path)) for path in pictures])[::-1, ::-1, ::-1]
    ((liver,), volume) = read["chaos_1"][1], read["chaos_1"][0]
    np.testing.assert_array_equal(liver.voxels, stack == 255)
    assert 100 < np.median(volume.hu[liver.voxels]) < 120


def twin_of(scan: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a scan's copy with turned axes and a header that says nothing of it."""
    paths = [scan["image_path"], scan["labels"][0]["paths"][0]]
    for name, path in zip(("volume-30.nii", "segmentation-30.nii"), paths, strict=True):
        array = np.asarray(nib.load(path).dataobj)
        turned = np.ascontiguousarray(array[::-1, :, ::-1].transpose(2, 0, 1))
        image = nib.Nifti1Image(turned, np.eye(4))
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / name)
    (listed,) = list_scans(source_of("lits"), folder)["scans"]
    return listed


def test_a_bad_label_leaves_its_scan(
    listed: dict[str, dict[str, Any]], read: Read, tmp_path: Path
) -> None:
    """Grid, value and name are checked per file; the other labels stay."""
    shutil.copytree(Path(listed["private_P002"]["image_path"]).parent, tmp_path / "P002")
    masks = tmp_path / "P002/masks"
    tumor = nib.load(masks / "uterus_tumor.nii.gz")
    data = np.asarray(tumor.dataobj)
    moved = tumor.affine.copy()
    moved[0, 3] += 1.0
    for name, array, affine in (
        ("colon_tumor", data, moved),
        ("liver", np.where(data, 1, 0) + np.eye(*data.shape[:2], dtype=int)[..., None] * 3, None),
        ("liver_tumour", data, None),
        ("pancreas", data[:-1], None),
    ):
        image = nib.Nifti1Image(array.astype(np.uint8), tumor.affine if affine is None else affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, masks / f"{name}.nii.gz")
    (masks / "spleen.nii.gz").write_bytes(b"\x1f\x8b")
    (scan,) = list_scans(source_of("private"), tmp_path)["scans"]
    found, excluded = read_labels(scan, read["private_P002"][0], max_voxels=10_000_000)
    assert {mask.name for mask in found} == {"uterus_tumor", "esophagus_tumor"}
    codes = {row["id"]: row["code"] for row in excluded}
    assert codes.pop("private_P002/spleen.nii.gz") in {
        "NOT_NIFTI",
        "GZIP_TRUNCATED",
        "GZIP_CORRUPT",
    }
    assert codes == {
        "private_P002/colon_tumor.nii.gz": "LABEL_GRID",
        "private_P002/pancreas.nii.gz": "LABEL_GRID",
        "private_P002/liver.nii.gz": "LABEL_VALUE",
        "private_P002/liver_tumour.nii.gz": "STRUCTURE_UNKNOWN",
    }


# Fingerprints

ORDERS = [(axes, flips) for axes in permutations(range(3)) for flips in product((1, -1), repeat=3)]


def turned(array: NDArray[Any], axes: tuple[int, ...], steps: tuple[int, ...]) -> NDArray[Any]:
    """Return the array with other axis order and flips."""
    return array[tuple(slice(None, None, step) for step in steps)].transpose(axes)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    seed=st.integers(0, 2**32 - 1),
    order=st.sampled_from(ORDERS),
    voxel=st.integers(0, 10**6),
)
def test_the_hash_knows_content_not_order(
    shape: tuple[int, int, int], seed: int, order: tuple[Any, Any], voxel: int
) -> None:
    """Any axis order and flips give one hash; one voxel's change gives another."""
    hu = np.random.default_rng(seed).integers(-1024, 3000, shape).astype(np.int16)
    other = turned(hu, *order)
    assert voxel_sha256(other) == voxel_sha256(hu)
    assert voxel_sha256(np.ascontiguousarray(other)) == voxel_sha256(hu)
    changed = hu.copy()
    changed.flat[voxel % hu.size] += 1
    assert voxel_sha256(changed) != voxel_sha256(hu)
    # Labels follow their voxels through both turns.
    label = np.random.default_rng(seed + 1).random(shape) < 0.5
    start, end = Turn.of(other), Turn.of(hu)
    np.testing.assert_array_equal(end.undo(start.apply(turned(label, *order))), label)


@given(
    axes=st.permutations(range(3)),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    shape=st.tuples(*[st.integers(1, 4)] * 3),
)
def test_turn_and_back(axes: list[int], flips: tuple[bool, ...], shape: tuple[int, ...]) -> None:
    """`undo` takes back `apply`, and the other way round."""
    turn = Turn(tuple(axes), flips)
    array = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(turn.undo(turn.apply(array)), array)
    np.testing.assert_array_equal(turn.apply(turn.undo(array)), array)


def test_all_48_orders_of_a_scan(read: Read) -> None:
    """A body is far from noise: its profiles still tell all orders apart."""
    hu = read["lits_1"][0].hu[:, :30, :30]
    cube = hu[:30]
    for volume in (hu, cube):
        assert {voxel_sha256(turned(volume, *order)) for order in ORDERS} == {voxel_sha256(volume)}
    assert voxel_sha256(hu) != voxel_sha256(cube[:-1])


def test_shape_is_part_of_the_content() -> None:
    """The same bytes in another shape are another scan."""
    flat = np.arange(24, dtype=np.int16) ** 2
    hashes = {voxel_sha256(flat.reshape(shape)) for shape in ((2, 3, 4), (1, 4, 6), (2, 2, 6))}
    assert len(hashes) == 3


def test_a_fingerprint_fills_the_scans_table(prints: list[dict[str, Any]]) -> None:
    """Facts are those of the files; label hashes are those of the label files."""
    by_id = {row["scan_id"]: row for row in prints}
    kits = by_id["kits23_case_00000"]
    assert (kits["shape"], kits["orientation"], kits["slices"]) == ([36, 80, 96], "IPL", 36)
    np.testing.assert_allclose(kits["spacing_mm"], [1.5, 1.5, 3.0], rtol=1e-6)
    for row in prints:
        assert -1000 <= row["hu_min"] <= row["hu_p01"] < row["hu_p99"] <= row["hu_max"] <= 1000
        assert set(row["label_sha256"]) == set(row["label_paths"])
        assert all(len(digest) == 64 for digest in row["label_sha256"].values())
    assert [r["scan_id"] for r in prints if r["false_spacing"]] == ["lits_28"]


# Duplicates


@pytest.mark.parametrize("parent_first", [True, False])
def test_duplicates_are_found_and_one_is_kept(
    full: Path, prints: list[dict[str, Any]], parent_first: bool
) -> None:
    """As truth says; precedence decides of the two whose spacing is true."""
    precedence = PRECEDENCE[::-1] if parent_first else PRECEDENCE
    rows, excluded = deduplicate(prints, precedence)
    kept = {row["scan_id"] for row in rows if row["kept"]}
    groups = Counter(row["duplicate_group"] for row in rows)
    pairs = [
        {row["scan_id"] for row in rows if row["duplicate_group"] == group}
        for group, count in groups.items()
        if count > 1
    ]
    assert sorted(map(sorted, pairs)) == [
        ["abdomenatlas11_BDMAP_00000001", "lits_0"],
        ["lits_28", "msd_ct_liver_28"],
    ]
    duplicates = {"lits_0" if parent_first else "abdomenatlas11_BDMAP_00000001", "lits_28"}
    assert kept == {row["scan_id"] for row in prints} - duplicates
    assert {row["id"]: row["code"] for row in excluded} == dict.fromkeys(duplicates, "DUPLICATE")
    if not parent_first:
        expected = truth.scans(full)
        expected = expected[expected.expected == "kept"]
        assert kept == {f"{row.source}_{row.source_case}" for row in expected.itertuples()}


def test_a_false_spacing_without_a_twin_is_excluded(prints: list[dict[str, Any]]) -> None:
    """LiTS 28 alone has no true size, whichever source comes first."""
    alone = [row for row in prints if row["source"] == "lits"]
    rows, excluded = deduplicate(alone, ["lits"])
    assert {row["scan_id"] for row in rows if not row["kept"]} == {"lits_28"}
    (row,) = excluded
    assert (row["id"], row["code"]) == ("lits_28", "FALSE_SPACING")
    assert "[1.0, 1.0, 1.0]" in row["evidence"]
    both = [row for row in prints if row["scan_id"] in ("lits_28", "msd_ct_liver_28")]
    rows, _ = deduplicate(both, ["lits", "msd_ct"])
    assert [row["scan_id"] for row in rows if row["kept"]] == ["msd_ct_liver_28"]


def test_the_order_of_scans_does_not_count(prints: list[dict[str, Any]]) -> None:
    """Shards may report in any order."""
    assert deduplicate(prints[::-1], PRECEDENCE) == deduplicate(prints, PRECEDENCE)


def test_copies_follow_the_kept_scan_by_precedence(
    prints: list[dict[str, Any]], listed: dict[str, dict[str, Any]]
) -> None:
    """The first source of a structure wins, so the order of copies is that of precedence."""
    base = next(row for row in prints if row["scan_id"] == "lits_0")
    ids = ("lits_0", "abdomenatlas11_BDMAP_00000001", "msd_ct_liver_28")
    scans = [{**base, "scan_id": i, "source": listed[i]["source"]} for i in ids]
    for precedence in (PRECEDENCE, ["abdomenatlas11", "msd_ct", "lits"]):
        rows, _ = deduplicate(scans, precedence)
        rows, _ = assign_cases(rows, {}, parents=[], first_case_id=1, shards=2)
        (case,) = case_members(rows, listed).values()
        order = [precedence.index(member["source"]) for member in case["members"]]
        assert order == sorted(order)


# Cases


def harmonize(
    members: list[dict[str, Any]], folder: Path
) -> tuple[dict[str, Any], Mapping[str, NDArray[Any]]]:
    """Harmonize a case; return its record and arrays by file name."""
    folder.mkdir()
    row = harmonize_case("BDMAP_1", members, folder, model_spacing_mm=1.5, **LIMITS)
    arrays = {}
    for path in folder.glob("*.b2nd"):
        arrays[path.stem], meta = read_array(path)
        assert Grid.from_json(meta["grid"]).shape == arrays[path.stem].shape
        assert meta["grid"] == row["model_grid" if path.stem.startswith("model") else "grid"]
    return row, arrays


def test_labels_of_both_copies_meet_on_the_kept_one(
    full: Path, listed: dict[str, dict[str, Any]], read: Read, tmp_path: Path
) -> None:
    """LiTS 0 and its copy in the parent release, either kept: tumors and all 25 organs."""
    pair = [listed["lits_0"], listed["abdomenatlas11_BDMAP_00000001"]]
    expected = lesions_of(full, "patient_01", "liver", "tumor")
    organs = {mask.name: mask.voxels for mask in read[pair[1]["scan_id"]][1]}
    for number, members in enumerate((pair, pair[::-1])):
        row, arrays = harmonize(members, tmp_path / str(number))
        np.testing.assert_array_equal(arrays["lesions_liver"], expected.astype(np.uint8))
        assert set(arrays) == {
            "model", "structures", "lesions_liver", "model_lesions_liver",
        }  # fmt: skip
        for name, voxels in organs.items():
            present = (arrays["structures"] & np.uint32(structure_bit(name))) != 0
            np.testing.assert_array_equal(present, voxels, err_msg=name)
        both = organs["kidney_left"] | organs["kidney_right"]
        np.testing.assert_array_equal(organ_mask(arrays["structures"], "kidney"), both)
        assert row["excluded_masks"] == []
        assert row["structures"]["liver"]["source"] == members[0]["source"]
        assert row["structures"]["spleen"]["source"] == "abdomenatlas11"
        # Only the source that drew tumors says what their absence means.
        assert row["annotated"].keys() == {"liver"}
        assert row["annotated"]["liver"]["source"] == "lits"
        ct = read_nifti(tmp_path / str(number) / "ct.nii.gz", max_voxels=10**7)
        np.testing.assert_array_equal(ct.array, read["lits_0"][0].hu)
        assert ct.grid.orientation == "RAS"
        assert ct.grid.corner_distance_mm(Grid.from_json(row["grid"])) < 1e-3
        share = arrays["model_lesions_liver"].astype(bool).sum() * 1.5**3
        assert share == pytest.approx(expected.sum() * ct.grid.voxel_volume_mm3, rel=0.05)


def test_labels_of_a_copy_with_a_false_header_are_carried(
    full: Path, listed: dict[str, dict[str, Any]], read: Read, tmp_path: Path
) -> None:
    """LiTS 28 beside liver_28, then a copy whose axes its header denies: equal to the truth."""
    kept = {**listed["msd_ct_liver_28"], "labels": []}
    (tmp_path / "lits").mkdir()
    twin = twin_of(listed["msd_ct_liver_28"], tmp_path / "lits")
    assert twin["false_spacing"]
    volume = read_scan(twin, **LIMITS)
    assert volume.hu.shape != read["msd_ct_liver_28"][0].hu.shape
    assert voxel_sha256(volume.hu) == voxel_sha256(read["msd_ct_liver_28"][0].hu)
    expected = lesions_of(full, "patient_03", "liver", "tumor")
    liver = next(m.voxels for m in read["msd_ct_liver_28"][1] if m.name == "liver")
    _, affine = truth.truth_mask(full, "patient_03")
    for number, copy in enumerate((listed["lits_28"], twin)):
        row, arrays = harmonize([kept, copy], tmp_path / str(number))
        np.testing.assert_array_equal(arrays["lesions_liver"], expected.astype(np.uint8))
        np.testing.assert_array_equal(organ_mask(arrays["structures"], "liver"), liver)
        assert row["annotated"]["liver"]["source"] == "lits"
        grid = Grid.from_json(row["grid"])
        assert grid.corner_distance_mm(Grid.of(grid.shape, affine)) < 1e-3
    row, arrays = harmonize([listed["msd_ct_liver_28"], twin], tmp_path / "both")
    assert row["annotated"]["liver"]["source"] == "msd_ct" and not row["excluded_masks"]


def test_sources_that_disagree_are_recorded(
    full: Path, listed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """The first source's voxels stay; the difference is counted."""
    (tmp_path / "lits").mkdir()
    twin = twin_of(listed["msd_ct_liver_28"], tmp_path / "lits")
    path = twin["labels"][0]["paths"][0]
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    removed = np.argwhere(data == 2)[:3]
    data[tuple(removed.T)] = 1
    nib.save(nib.Nifti1Image(data, image.affine, image.header), path)
    row, arrays = harmonize([listed["msd_ct_liver_28"], twin], tmp_path / "case")
    expected = lesions_of(full, "patient_03", "liver", "tumor")
    np.testing.assert_array_equal(arrays["lesions_liver"], expected.astype(np.uint8))
    (conflict,) = row["excluded_masks"]
    assert conflict["code"] == "LABEL_CONFLICT"
    assert conflict["id"] == "lits_30/liver_tumor"
    assert conflict["evidence"] == "3 voxels"


def test_cysts_are_not_tumors(
    full: Path, listed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """KiTS: 1 where a tumor, 2 where a cyst; the kidney of unknown side holds both."""
    row, arrays = harmonize([listed["kits23_case_00001"]], tmp_path / "case")
    for value, kind in ((1, "tumor"), (2, "cyst")):
        expected = lesions_of(full, "patient_06", "kidney", kind)
        np.testing.assert_array_equal(arrays["lesions_kidney"] == value, expected)
        assert organ_mask(arrays["structures"], "kidney")[expected].all()
    assert row["annotated"]["kidney"]["tumor_free_means"] == "confirmed_empty"


def test_a_copy_that_changed_is_refused(listed: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Labels are never carried from a scan that is no longer equal."""
    with pytest.raises(InputError, match="SCAN_CHANGED"):
        harmonize([listed["lits_0"], listed["lits_1"]], tmp_path / "case")


def test_harmonizing_twice_gives_the_same_bytes(
    listed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """No time, name or process enters a file."""
    found = []
    for name in "ab":
        harmonize([listed["kits23_case_00000"]], tmp_path / name)
        found.append({p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())})
    assert found[0] == found[1]


def test_patients_hold_their_cases_together() -> None:
    """A shared patient links cases, also through a third scan; order does not count."""

    def scan(case: str, patient: str) -> dict[str, str]:
        return {"case_id": case, "patient_key": patient}

    scans = [
        scan("BDMAP_4", "a/1"),
        scan("BDMAP_2", "a/2"),
        scan("BDMAP_2", "b/7"),
        scan("BDMAP_9", "b/7"),
        scan("BDMAP_9", "c/3"),
        scan("BDMAP_5", "c/3"),
        scan("BDMAP_1", "d/1"),
        scan("BDMAP_1", "d/1"),
    ]
    expected = dict.fromkeys(("BDMAP_2", "BDMAP_9", "BDMAP_5"), "BDMAP_2")
    expected |= {"BDMAP_4": "BDMAP_4", "BDMAP_1": "BDMAP_1"}
    for shift in range(len(scans)):
        assert patient_groups(scans[shift:] + scans[:shift]) == expected
        assert patient_groups((scans[shift:] + scans[:shift])[::-1]) == expected
    assert patient_groups([]) == {}


def test_ingest_from_folder_to_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The micro set through the sharded step to named cases, for two numbers of shards."""
    write_phantoms(tmp_path, micro=True)
    monkeypatch.chdir(tmp_path)
    paths = []
    for name in ("lits", "abdomenatlas11"):
        paths.append(Path(f"{name}.json"))
        write_json(paths[-1], list_scans(source_of(name), tmp_path / "sources" / name))
    results = []
    for shards in (1, 3):
        manifests = [Path(f"steps/s{n:04d}.tsv") for n in range(shards)]
        for manifest in manifests:
            step = Step("fingerprint_scans", manifest.stem, Path("steps"), LIMITS, "c0de")
            fingerprint_scans(step, manifest, paths, shards=shards, **LIMITS)
        statuses = {k: v for path in manifests for k, v in read_manifest(path).items()}
        results.append((statuses, read_rows(manifests), read_excluded(manifests)))
    assert results[0] == results[1]
    statuses, rows, excluded = results[0]
    assert Counter(statuses.values()) == {"ok": 3, "excluded": 1}
    assert [(row["id"], row["code"]) for row in excluded] == [("lits_5", "DATA_SIZE")]
    rows, _ = deduplicate(rows, PRECEDENCE)
    rows, new = assign_cases(rows, {}, parents=["abdomenatlas11"], first_case_id=90000001, shards=2)
    assert sorted(new.values()) == ["BDMAP_00000001", "BDMAP_90000001"]
    scans = {s["scan_id"]: s for p in paths for s in yaml.safe_load(p.read_text())["scans"]}
    cases = case_members(rows, scans)
    members = [member["scan_id"] for member in cases["BDMAP_00000001"]["members"]]
    assert members == ["lits_0", "abdomenatlas11_BDMAP_00000001"]
    assert {row["scan_id"] for row in scans_table(rows)} == set(statuses) - {"lits_5"}


@given(arrays(np.int16, st.tuples(*[st.integers(1, 5)] * 3)))
def test_quantiles_are_those_of_numpy(hu: np.ndarray) -> None:
    """Counting gives the inverse of the distribution, the extremes included."""
    shares = (0.0, 0.01, 0.5, 0.99, 1.0)
    expected = np.quantile(hu, shares, method="inverted_cdf")
    assert _quantiles(hu, shares) == expected.tolist()
