"""Ingest of the whole phantom set, rule by rule, against the phantoms' truth.

Every scan, copy, defect and leak that was planted is found, and nothing else is told.
"""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import ROOT
from tests.ingested import LIMITS, PRECEDENCE, Ingested, ingest, name_cases
from tests.phantoms import truth, write_phantoms
from tests.phantoms.demo import DEMO_KEY
from tests.phantoms.told import scan_id
from tumoratlas.core.errors import InputError, PutOffError
from tumoratlas.harmonize.cases import harmonize_case
from tumoratlas.images.grid import Grid
from tumoratlas.ingest.alignment import Alignment
from tumoratlas.ingest.dedupe import COPIES, Groups
from tumoratlas.ingest.labels import LabelMask, read_labels
from tumoratlas.ingest.listing import list_scans
from tumoratlas.ingest.readers import ScanVolume, read_scan
from tumoratlas.ingest.registry import scans_table
from tumoratlas.ingest.sources import INTERNAL, read_source
from tumoratlas.ingest.steps import list_source

KEY = bytes.fromhex(DEMO_KEY)

Read = dict[str, tuple[ScanVolume, list[LabelMask]]]
Told = Counter[tuple[str, str, str, str]]  # id, where, code, mask


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the full set."""
    folder = tmp_path_factory.mktemp("full")
    write_phantoms(folder)
    return folder


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file with the demo's key."""
    path = tmp_path_factory.mktemp("key") / "pseudonym.key"
    path.touch(mode=0o600)
    path.write_text(DEMO_KEY + "\n")
    return path


def sources_of(folder: Path) -> dict[str, Path]:
    """Return the folders of all sources of a set by id."""
    return {path.name: path for path in sorted((folder / "sources").iterdir())}


@pytest.fixture(scope="module")
def done(full: Path, key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    """Return the ingested full set."""
    return ingest(sources_of(full), tmp_path_factory.mktemp("work"), key_file)


@pytest.fixture(scope="module")
def read(done: Ingested) -> Read:
    """Return every readable scan with its labels."""
    result = {}
    for row in done.fingerprints:
        scan = done.listed[row["scan_id"]]
        volume = read_scan(scan, **LIMITS)
        masks, _ = read_labels(scan, volume, max_voxels=LIMITS["max_voxels"])
        result[scan["scan_id"]] = volume, masks
    return result


def id_of(row: Any, end: str = "") -> str:  # noqa: ANN401 - a named tuple of pandas
    """Return the pipeline's id of the scan in a row of the truth."""
    return scan_id(getattr(row, f"source{end}"), getattr(row, f"source_case{end}"), KEY)


def true_scans(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the id and the truth of every scan whose voxels can be read."""
    for row in truth.scans(folder).itertuples():
        if row.expected != "excluded" or row.expected_code == "FALSE_SPACING":
            yield id_of(row), row


# What is told


def test_every_source_is_found_whole(full: Path, done: Ingested) -> None:
    """Twenty layouts: the scans that were written, and their number."""
    numbers = {row.source: int(row.scans) for row in truth.found(full).itertuples()}
    assert {name: len(one["scans"]) for name, one in done.listings.items()} == numbers
    assert done.listed.keys() == {id_of(row) for row in truth.scans(full).itertuples()}
    for name, one in done.listings.items():
        ids = [scan["scan_id"] for scan in one["scans"]]
        assert ids == sorted(ids)
        source = read_source(ROOT / f"resources/sources/{name}.yaml")
        for scan in one["scans"]:
            assert scan["source"] == name and scan["role"] == source.role
            paths = [Path(path) for label in scan["labels"] for path in label["paths"]]
            assert Path(scan["image_path"]).exists() and all(path.is_file() for path in paths)
            assert not [path for path in paths if path.name.startswith("._")]
            if scan["licence"] != INTERNAL:
                assert scan["scan_id"] == f"{name}_{scan['source_case']}".replace(".", "_")


def told_by(done: Ingested) -> Told:
    """Return everything that ingest and harmonize tell about scans, files and masks."""
    found: Told = Counter()
    for row in done.excluded:
        found[row["id"], "excluded", row["code"], ""] += 1
    for scan in done.scans:
        for code in scan["warnings"]:
            found[scan["scan_id"], "warning", code, ""] += 1
        for text in scan["repairs"]:
            found[scan["scan_id"], "repair", text.partition(": ")[0], ""] += 1
    for case in done.case_rows.values():
        for where, key, rows in (
            ("excluded_mask", "code", case["excluded_masks"]), ("repair", "name", case["repairs"])
        ):  # fmt: skip
            for row in rows:
                name, _, mask = row["id"].partition("/")
                found[name, where, row[key], mask] += 1
    kept = {scan["case_id"]: scan["scan_id"] for scan in done.scans if scan["kept"]}
    for case_id, case in done.cases.items():
        for name in filter(None, case["reserved"].split("; ")):
            found[kept[case_id], "leak", name, ""] += 1
    return found


def test_everything_planted_is_told_and_nothing_else(full: Path, done: Ingested) -> None:
    """Excluded files and scans, warnings, repairs, masks and leaks, one row for each."""
    planted: Told = Counter()
    for row in truth.reports(full).itertuples():
        is_file = "/" in row.source_case
        name = f"{row.source}/{row.source_case}" if is_file else id_of(row)
        planted[name, row.where, row.code, row.detail] += 1
    told = told_by(done)
    missed, surplus = (sorted(one.elements()) for one in (planted - told, told - planted))
    assert (missed, surplus) == ([], [])


def test_rows_of_excluded_say_what_to_do(done: Ingested) -> None:
    """Each has a reason and a remedy."""
    for row in done.excluded:
        assert row.keys() == {"id", "rule", "code", "reason", "evidence", "remedy"}
        assert row["reason"] and row["remedy"], row


# Copies, cases and patients


def groups_by(pairs: list[tuple[str, str]], names: list[str]) -> set[frozenset[str]]:
    """Return the connected components of names."""
    groups = Groups()
    for a, b in pairs:
        groups.join(a, b)
    members = defaultdict(set)
    for name in names:
        members[groups.root(name)].add(name)
    return {frozenset(one) for one in members.values()}


def test_relations_are_those_of_the_truth(full: Path, done: Ingested) -> None:
    """Direct relations agree, crops name the outer scan, and chains close what is not direct."""
    true = {
        frozenset((id_of(row, "_a"), id_of(row, "_b"))): row.relation
        for row in truth.relations(full).itertuples()
    }
    for row in done.relations:
        planted = true.get(frozenset((row["a"], row["b"])), "none")
        expected = {planted, "none"} if planted == "same_patient" else {planted}
        assert row["relation"] in expected, row
        if row["relation"] == "crop":
            sizes = {s["scan_id"]: np.prod(s["shape"]) for s in done.fingerprints}
            assert row["outer"] == max(row["a"], row["b"], key=sizes.__getitem__)
    names = sorted(row["scan_id"] for row in done.fingerprints)
    for kinds in (COPIES, (*COPIES, "overlap")):
        planted = [tuple(pair) for pair, kind in true.items() if kind in kinds]
        found = [(row["a"], row["b"]) for row in done.relations if row["relation"] in kinds]
        assert groups_by(found, names) == groups_by(planted, names)


def test_groups_keep_the_scan_that_truth_keeps(full: Path, done: Ingested) -> None:
    """One of each group of copies, none of a test set, and the others by their relation."""
    true = {
        frozenset((id_of(row, "_a"), id_of(row, "_b"))): row.relation
        for row in truth.relations(full).itertuples()
    }
    groups = defaultdict(set)
    for row in done.scans:
        groups[row["duplicate_group"]].add(row["scan_id"])
    names = sorted(row["scan_id"] for row in done.scans)
    pairs = [tuple(pair) for pair, kind in true.items() if kind in COPIES]
    assert {frozenset(group) for group in groups.values()} == groups_by(pairs, names)
    kept = {row["scan_id"]: row for row in done.scans if row["kept"]}
    expected = {name for name, row in true_scans(full) if row.expected == "kept"}
    assert set(kept) == expected
    by_group = {row["duplicate_group"]: name for name, row in kept.items()}
    for row in done.scans:
        stands = by_group.get(row["duplicate_group"])
        if stands and row["scan_id"] != stands:
            assert row["relation"] == true[frozenset((row["scan_id"], stands))]


def test_alignments_lead_to_the_kept_scan(done: Ingested, read: Read) -> None:
    """Voxels of a copy, carried onto the kept scan, are its voxels; offset and padding apart."""
    kept = {row["duplicate_group"]: row["scan_id"] for row in done.scans if row["kept"]}
    checked = Counter()
    for row in done.scans:
        stands = kept.get(row["duplicate_group"])
        if stands in (None, row["scan_id"]):
            continue
        hu, base = read[row["scan_id"]][0].hu, read[stands][0].hu
        way = Alignment.from_json(row["alignment"])
        carried, inside = way.carry(hu, base.shape)
        assert way.is_exact == (row["relation"] != "resample")
        if way.is_exact:
            told = inside & (np.minimum(carried, base) > -1000)
            np.testing.assert_array_equal(carried[told], base[told], err_msg=row["scan_id"])
            assert inside.sum() == hu.size
        else:
            assert np.corrcoef(carried[inside], base[inside])[0, 1] > 0.98
        checked[row["relation"]] += 1
    assert min(checked[kind] for kind in COPIES) >= 1


def test_test_sets_are_touched_as_truth_says(full: Path, done: Ingested) -> None:
    """Through equal, cropped and resampled copies, overlaps and chains of them."""
    kept = {scan["case_id"]: scan["scan_id"] for scan in done.scans if scan["kept"]}
    found = {
        (kept[case_id], name)
        for case_id, case in done.cases.items()
        for name in filter(None, case["reserved"].split("; "))
    }
    assert found == {(id_of(row), row.test_set) for row in truth.leaks(full).itertuples()}


def test_patients_hold_their_cases_together(done: Ingested) -> None:
    """Two phases by a name of folders, two by headers' links: one group each, and no others."""
    groups = defaultdict(set)
    for case_id, case in done.cases.items():
        groups[case["group"]].add(case_id)
    pairs = [
        {"rsna_atd23_21057", "rsna_atd23_51033"},
        {scan_id("private", "P001", KEY), scan_id("private", "P003_DOE_JANE", KEY)},
    ]
    cases = [{done.case_of(name) for name in pair} for pair in pairs]
    assert all(len(pair) == 2 for pair in cases)
    shared = [group for group in groups.values() if len(group) > 1]
    assert sorted(map(sorted, shared)) == sorted(map(sorted, cases))
    assert all(name == min(group) for name, group in groups.items())


def test_ids_are_the_parents_or_new_and_never_change(done: Ingested) -> None:
    """A registry keeps them whatever the precedence, with the same groups and another image."""
    ids = {row["scan_id"]: row["case_id"] for row in done.scans}
    assert ids["msd_ct_liver_28"] == ids["lits_28"] == ids["abdomenct1k_Case_00078"]
    assert ids["ircadb_3Dircadb1_1"] is None
    for name in ("BDMAP_00000001", "BDMAP_00000002", "BDMAP_00000003"):
        assert ids[f"abdomenatlas11_{name}"] == name
    new = sorted({case_id for case_id in ids.values() if case_id and case_id > "BDMAP_9"})
    assert new == [f"BDMAP_{90000001 + n:08d}" for n in range(len(new))]
    _, _, registered = name_cases(done.fingerprints, done.relations, PRECEDENCE)
    scans, _, added = name_cases(
        done.fingerprints, done.relations, PRECEDENCE[::-1], registered
    )  # fmt: skip
    assert added == {}
    assert {row["scan_id"]: row["case_id"] for row in scans} == ids
    before = {row["case_id"]: row["scan_id"] for row in done.scans if row["kept"]}
    after = {row["case_id"]: row["scan_id"] for row in scans if row["kept"]}
    assert before.keys() == after.keys()
    assert before["BDMAP_00000001"] == "lits_0"
    assert after["BDMAP_00000001"] == "abdomenatlas11_BDMAP_00000001"
    # A lost spacing is never kept, though its source now comes first.
    assert after[ids["lits_28"]] == "msd_ct_liver_28"


def test_the_order_of_scans_and_relations_does_not_count(done: Ingested) -> None:
    """Shards may report in any order."""
    turned = name_cases(done.fingerprints[::-1], done.relations[::-1], PRECEDENCE)
    assert turned == name_cases(done.fingerprints, done.relations, PRECEDENCE)


def test_shards_do_not_change_the_result(key_file: Path, tmp_path: Path) -> None:
    """The micro set in one shard and in three."""
    write_phantoms(tmp_path, micro=True)
    results = []
    for shards in (1, 3):
        work = tmp_path / str(shards)
        work.mkdir()
        results.append(ingest(sources_of(tmp_path), work, key_file, shards=shards))
    one, three = results
    for name in ("listings", "fingerprints", "relations", "excluded"):
        rows = [getattr(done, name) for done in results]
        assert rows[0] == rows[1], name
    assert [{**row, "shard": 0} for row in one.scans] == [
        {**row, "shard": 0} for row in three.scans
    ]
    assert {row["scan_id"] for row in scans_table(one.scans)} == one.listed.keys() - {"lits_5"}
    members = one.cases["BDMAP_00000001"]["members"]
    names = [member["scan_id"] for member in members]
    assert names == ["lits_0", "abdomenatlas11_BDMAP_00000001"]
    assert one.cases["BDMAP_00000001"]["members"] == three.cases["BDMAP_00000001"]["members"]


def test_internal_names_are_pseudonyms(full: Path, done: Ingested) -> None:
    """No name of a folder of an internal source is left, except in paths."""
    own = [row for row in done.scans if row["licence"] == INTERNAL]
    assert {row["source"] for row in own} == set(truth.INTERNAL)
    names = {
        path.name for source in truth.INTERNAL for path in (full / "sources" / source).iterdir()
    }
    rows = [{k: v for k, v in row.items() if "path" not in k and "sha" not in k} for row in own]
    rows += [row for row in done.excluded if row["id"].startswith(truth.INTERNAL)]
    for row in rows:
        said = str({k: v for k, v in row.items() if k not in ("evidence", "reason", "remedy")})
        assert not [name for name in names if name in said], row
    one, other = (
        next(row for row in own if row["scan_id"] == scan_id("private", case, KEY))
        for case in ("P001", "P003_DOE_JANE")
    )
    assert set(one["links"]) & set(other["links"])


# Reading


def test_scans_are_read_where_truth_says(full: Path, read: Read) -> None:
    """Every orientation and format ends on its RAS grid; kept ones on the patient's."""
    assert read.keys() == {name for name, _ in true_scans(full)}
    for name, row in true_scans(full):
        volume, _ = read[name]
        assert volume.hu.dtype == np.int16
        assert volume.hu.shape == volume.grid.shape == (row.shape_z, row.shape_y, row.shape_x)
        if "identity affine" in row.defect:
            assert volume.grid.spacing_mm == (1, 1, 1)
            continue
        spacing = (row.spacing_x_mm, row.spacing_y_mm, row.spacing_z_mm)
        np.testing.assert_allclose(volume.grid.spacing_mm, spacing, rtol=1e-4, err_msg=name)
        if row.expected == "kept":
            _, affine = truth.truth_mask(full, row.patient)
            assert volume.grid.corner_distance_mm(Grid.of(volume.hu.shape, affine)) < 1e-2
    assert read["lits_1"][0].stored_orientation == "LAI"
    assert read["kits23_case_00000"][0].stored_orientation == "IPL"
    assert read[scan_id("private", "P001", KEY)][0].facts["sex"] == "F"


def lesions_of(folder: Path, patient: str, organ: str, kind: str) -> NDArray[np.bool_]:
    """Return the true voxels (z, y, x) of an organ's lesions on the RAS grid."""
    mask, _ = truth.truth_mask(folder, patient)
    tumors = truth.tumors(folder)
    mine = (tumors.patient == patient) & (tumors.organ == organ) & (tumors.kind == kind)
    return np.isin(mask, tumors[mine].instance)


def test_labels_lie_where_truth_says(full: Path, read: Read) -> None:
    """Every annotated organ's tumors and cysts, voxel by voxel on the RAS grid."""
    scans, checked = truth.scans(full), Counter()
    kept = set(scans[scans.expected == "kept"].patient)  # those whose truth is written
    for name, row in true_scans(full):
        volume, found = read[name]
        masks = {mask.name: mask.voxels for mask in found}
        assert len(masks) == len(found)
        lesions = {n for n in masks if n.endswith(("_tumor", "_cyst"))} - {"pooled_tumor"}
        organs = set(filter(None, row.annotated.split(";")))
        if row.source in ("uls23", "lits") and not found:
            continue  # labels in archives, test volumes
        drawn = {n.rpartition("_")[0] for n in lesions if masks[n].any()}
        assert drawn <= organs <= {n.rpartition("_")[0] for n in lesions}
        if row.patient not in kept:
            continue
        for lesion in lesions:
            organ, _, kind = lesion.rpartition("_")
            expected = lesions_of(full, row.patient, organ, kind)
            if expected.shape != volume.hu.shape:
                continue  # crops: see test_harmonize
            np.testing.assert_array_equal(masks[lesion], expected, err_msg=f"{name} {lesion}")
            checked[lesion] += bool(expected.any())
            # A lesion belongs to its organ wherever the source draws the organ.
            assert organ not in masks or masks[organ][expected].all()
    organs = ("colon", "esophagus", "kidney", "liver", "pancreas", "uterus")
    assert min(checked[f"{organ}_tumor"] for organ in organs) >= 2
    assert checked["kidney_cyst"] == 2


def test_organ_masks_are_those_of_the_files(full: Path, read: Read) -> None:
    """The parent's masks against nibabel; CHAOS' pictures against their order by name."""
    folder = full / "sources/abdomenatlas11/BDMAP_00000002/segmentations"
    masks = {mask.name: mask.voxels for mask in read["abdomenatlas11_BDMAP_00000002"][1]}
    assert len(masks) == 25
    for name, voxels in masks.items():
        image = nib.load(folder / f"{name}.nii.gz")
        # The header of the aorta is false: it lies in the scan's own order, which is RAS.
        stored = np.asarray(
            image.dataobj if name == "aorta" else nib.as_closest_canonical(image).dataobj
        )
        np.testing.assert_array_equal(voxels, stored.transpose(2, 1, 0) != 0, err_msg=name)
    pictures = sorted((full / "sources/chaos/Train_Sets/CT/1/Ground").iterdir())
    # The first name is the topmost slice; rows run to the back, columns to the left.
    stack = np.stack([np.asarray(Image.open(path)) for path in pictures])[::-1, ::-1, ::-1]
    ((liver,), volume) = read["chaos_1"][1], read["chaos_1"][0]
    np.testing.assert_array_equal(liver.voxels, stack == 255)
    assert 100 < np.median(volume.hu[liver.voxels]) < 120


def test_a_bad_label_leaves_its_scan(
    done: Ingested, read: Read, key_file: Path, tmp_path: Path
) -> None:
    """Grid, value and name are checked per file; the other labels stay."""
    name = scan_id("private", "P002", KEY)
    shutil.copytree(Path(done.listed[name]["image_path"]).parent, tmp_path / "P002")
    masks = tmp_path / "P002/masks"
    tumor = nib.load(masks / "uterus_tumor.nii.gz")
    data = np.asarray(tumor.dataobj)
    moved = tumor.affine.copy()
    moved[0, 3] += 1.0
    for file, array, affine in (
        ("colon_tumor", data, moved),
        ("liver", np.where(data, 1, 0) + np.eye(*data.shape[:2], dtype=int)[..., None] * 3, None),
        ("liver_tumour", data, None),
        ("pancreas", data[:-1], None),
    ):
        image = nib.Nifti1Image(array.astype(np.uint8), tumor.affine if affine is None else affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, masks / f"{file}.nii.gz")
    (masks / "spleen.nii.gz").write_bytes(b"\x1f\x8b")
    listing = list_source(ROOT / "resources/sources/private.yaml", tmp_path, key_file)
    (scan,) = listing["scans"]
    assert scan["scan_id"] == name
    found, excluded = read_labels(scan, read[name][0], max_voxels=10_000_000)
    assert {mask.name for mask in found} == {"uterus_tumor", "esophagus_tumor"}
    codes = {row["id"].partition("/")[2]: row["code"] for row in excluded}
    assert codes.pop("spleen.nii.gz") in {"NOT_NIFTI", "GZIP_TRUNCATED", "GZIP_CORRUPT"}
    assert codes == {
        "colon_tumor.nii.gz": "LABEL_GRID",
        "pancreas.nii.gz": "LABEL_GRID",
        "liver.nii.gz": "LABEL_VALUE",
        "liver_tumour.nii.gz": "STRUCTURE_UNKNOWN",
    }


def test_a_copy_that_changed_is_refused(done: Ingested, tmp_path: Path) -> None:
    """Labels are never carried from a scan that is no longer what was compared."""
    members = done.cases["BDMAP_00000001"]["members"]
    changed = [members[0], {**members[1], "file_sha256": "0" * 64}]
    with pytest.raises(PutOffError, match="SCAN_CHANGED"):
        harmonize_case("BDMAP_1", changed, tmp_path, model_spacing_mm=1.5, **LIMITS)


# Listing


@pytest.fixture
def lits(tmp_path: Path) -> Path:
    """Return a LiTS folder with one empty scan."""
    folder = tmp_path / "lits"
    folder.mkdir()
    for name in ("volume-3.nii", "segmentation-3.nii"):
        (folder / name).touch()
    return folder


def list_lits(folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the scans and the code of each row left out."""
    source = read_source(ROOT / "resources/sources/lits.yaml")
    listing = list_scans(source, folder, None)
    left_out = {row["id"]: row["code"] for row in listing["excluded"]}
    assert len(left_out) == len(listing["excluded"])
    return listing["scans"], left_out


@pytest.mark.parametrize(
    "name", ["volume_3.nii", "more/scan.nrrd", "x.dcm", "VOLUME-4.NII", "IM1.DCM", "a.nii.GZ"]
)
def test_images_that_fit_no_layout_are_told(lits: Path, name: str) -> None:
    """An image under another name is a row, whatever its case."""
    (lits / name).parent.mkdir(exist_ok=True)
    (lits / name).touch()
    scans, left_out = list_lits(lits)
    assert [scan["scan_id"] for scan in scans] == ["lits_3"]
    assert left_out == {f"lits/{name}": "NOT_UNDERSTOOD"}


def test_links_do_not_catch_the_search(lits: Path) -> None:
    """Circles end, dangling links are scans that cannot be read, linked folders are told."""
    (lits / "again").symlink_to(lits, target_is_directory=True)
    (lits / "up").symlink_to("..", target_is_directory=True)
    (lits / "self.nii").symlink_to("self.nii")
    (lits / "volume-9.nii").symlink_to("nowhere.nii")
    (lits / "volume-8.nii").symlink_to("volume-3.nii")
    scans, left_out = list_lits(lits)
    assert [scan["scan_id"] for scan in scans] == ["lits_3", "lits_8", "lits_9"]
    assert left_out == {
        "lits/again": "LINK_NOT_FOLLOWED",
        "lits/up": "LINK_NOT_FOLLOWED",
        "lits/self.nii": "NOT_UNDERSTOOD",
    }
    with pytest.raises(InputError, match="BROKEN_LINK"):
        read_scan(scans[2], **LIMITS)


def test_a_source_that_is_itself_a_link_is_entered(lits: Path, tmp_path: Path) -> None:
    """Sources often lie on another disk."""
    (tmp_path / "link").symlink_to(lits, target_is_directory=True)
    assert len(list_lits(tmp_path / "link")[0]) == 1


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

    def stamp() -> tuple[int, ...]:
        return tuple(list_lits(lits)[0][0]["stamp"])

    first = stamp()
    assert stamp() == first
    (lits / "segmentation-3.nii").write_bytes(b"x")
    second = stamp()
    later = (lits / "volume-3.nii").stat().st_mtime_ns + 10**9
    os.utime(lits / "volume-3.nii", ns=(later, later))
    assert len({first, second, stamp()}) == 3
