"""A release is complete, private and reproducible, and its check sees every kind of damage."""

import csv
import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.small_release import (
    CASES,
    DEFINITIONS,
    GRID,
    MEASURE,
    TEST_SCAN,
    TEST_SET,
    make_release,
    relist,
)
from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import sha256_file
from tumoratlas.core.tables import read_rows_of, write_csv
from tumoratlas.images.nifti import read_nifti, write_nifti
from tumoratlas.release.build import build_release
from tumoratlas.release.cases import voxels_sha256
from tumoratlas.release.tables import (
    LOCAL_PATH,
    ORDER,
    released_tables,
    write_released,
)
from tumoratlas.release.verify.release import verify_release

LIVER = "label/BDMAP_00000001"
KIDNEY = "label/BDMAP_90000002"
TARGETS = ("internal", "labels_only", "full")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    work = tmp_path_factory.mktemp("release")
    return make_release(work, work / "out" / "2.0")


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def problems(release, **options):
    return verify_release(release, **options).problems


def codes(release):
    return {problem.split(":")[0] for problem in problems(release)}


def volume(path):
    return read_nifti(path, max_voxels=10**6).array


def put_volume(release, place, array, grid=GRID):
    """Replace a volume, its hash and the hash of its voxels, as a careful forger would."""
    (release / place).unlink(missing_ok=True)
    write_nifti(release / place, array, grid)
    path = release / "voxel_hashes.csv"
    with open(path, newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    rows[place] = {"path": place, "voxel_sha256": voxels_sha256(array)}
    write_csv(path, [rows[key] for key in sorted(rows)], ["path", "voxel_sha256"])
    relist(release, release / place)
    relist(release, path)


def forge_volume(release, place, change, grid=GRID):
    array = volume(release / place).copy()
    put_volume(release, place, change(array) if callable(change) else array, grid)


def forge_table(release, name, change):
    """Change rows of a table and rewrite it with its CSV twin and their hashes."""
    tables = {table: read_rows_of(release / f"tables/{table}.parquet") for table in ORDER}
    change(tables[name])
    write_released(release / "tables", tables)
    for suffix in ("parquet", "csv"):
        relist(release, release / f"tables/{name}.{suffix}")


def test_a_whole_release_has_no_problem(whole):
    told = []
    found = verify_release(whole, progress=lambda *step: told.append(step))
    assert found.problems == []
    assert found.cases == 3
    assert found.tumors == len(read_rows_of(whole / "tables/tumors.parquet")) > 0
    assert found.files == len((whole / "SHA256SUMS").read_text().splitlines())
    assert verify_release(whole, processes=2) == found
    done = [step[0] for step in told]
    assert done == sorted(done) and {step[1] for step in told} == {done[-1]} == {found.files}
    assert told[-1][2] == max(CASES)


@pytest.mark.parametrize("target", TARGETS[1:])
def test_a_release_for_others_has_no_problem(tmp_path, target):
    release = make_release(tmp_path, tmp_path / "out", target=target)
    assert problems(release) == []
    assert any((release / "ct").glob("*/*")) == (target == "full")


def test_combined_labels_and_masks_follow_the_class_map(whole):
    combined = volume(whole / KIDNEY / "combined_labels.nii.gz")
    # Liver 5 under spleen 8, kidney_left 3 under spleen 8, tumors 29 over all; the cyst is none.
    assert combined[12, 12, 14] == 8 and combined[5, 5, 5] == 5 and combined[5, 5, 25] == 3
    assert combined[10, 10, 10] == 29 and combined.max() == 29
    masks = {path.name for path in (whole / KIDNEY / "segmentations").iterdir()}
    assert {"kidney.nii.gz", "kidney_cyst.nii.gz", "uterus.nii.gz"} <= masks
    assert "liver_lesion.nii.gz" not in masks  # unknown is not empty
    assert not volume(whole / KIDNEY / "segmentations/pancreatic_lesion.nii.gz").any()
    instances = volume(whole / KIDNEY / "instances/kidney.nii.gz")
    cyst = volume(whole / KIDNEY / "segmentations/kidney_cyst.nii.gz") > 0
    assert np.array_equal(cyst, instances == 4)


def test_nothing_private_and_no_path_is_left(whole):
    for path in whole.rglob("*"):
        if path.is_file() and not path.name.endswith(".nii.gz"):
            data = path.read_bytes()
            assert b"MILLER" not in data.upper() and b"smith" not in data, path
            assert b"/mnt/" not in data and b"/tmp/" not in data, path
    scans = read_rows_of(whole / "tables/scans.parquet")
    private = [scan for scan in scans if scan["source"] == "private"]
    names = ["private_BDMAP_90000001", "private_BDMAP_90000001_2"]
    assert [scan["scan_id"] for scan in private] == names
    assert {scan["patient_key"] for scan in private} == {"BDMAP_90000001"}
    excluded = {row["id"]: row["reason"] for row in read_rows_of(whole / "tables/excluded.parquet")}
    assert excluded["lits_13"] == "equal to private_BDMAP_90000001, kept"
    assert excluded["lits/bad.nii"] == "bad.nii: broken"


def test_internal_scans_are_renamed_in_every_table(whole):
    """Relations, repairs, leakage and overlaps name them by case id, as the table of scans does."""
    tables = {name: read_rows_of(whole / f"tables/{name}.parquet") for name in ORDER}
    case, copy_ = "private_BDMAP_90000001", "private_BDMAP_90000001_2"
    relations = {(row["scan_a"], row["scan_b"]): row for row in tables["relations"]}
    assert relations.keys() == {
        ("kits23_case_00030", case), ("lits_12", TEST_SCAN), (case, copy_),
    }  # fmt: skip
    assert relations[case, copy_]["outer"] == case
    assert relations[case, copy_]["evidence"] == f"{case} holds all 900 voxels"
    repairs = {row["id"]: row["after"] for row in tables["repairs"]}
    assert repairs == {copy_: f"2 mm ({case})", f"{case}/liver": "RAS, as in ct.nii.gz"}
    scans = {row["scan_id"]: row for row in tables["scans"]}
    assert scans[copy_]["repairs"] == [f"spacing_from_copy: 1 mm -> 2 mm ({case})"]
    assert scans[case]["source_file"] == scans[copy_]["source_file"] == ""
    assert scans.keys() >= {name for pair in relations for name in pair}
    # What is left out tells of the same names.
    assert copy_ in {row["id"] for row in tables["excluded"]}
    assert {row["scan_id"] for row in tables["crosswalk"]} == scans.keys() - {TEST_SCAN}


def test_every_case_says_which_test_set_it_touches(whole):
    """A resampled copy reserves its case; a refuted pair reserves nothing."""
    tables = {name: read_rows_of(whole / f"tables/{name}.parquet") for name in ORDER}
    touched = {row["case_id"]: row["test_set"] for row in tables["leakage"]}
    assert touched == dict.fromkeys(CASES, "") | {"BDMAP_00000001": TEST_SET}
    assert not [row for row in tables["leakage"] if row["is_leak"]]
    places = {(row["scheme"], row["split"]) for row in tables["splits"] if touched[row["case_id"]]}
    assert places == {
        ("iid", "reserved"), ("ood", "reserved"), ("fold", "reserved"), ("scaling", "none"),
    }  # fmt: skip
    (row,) = tables["test_scans"]
    assert (row["test_scan_id"], row["case_id"]) == (TEST_SCAN, "BDMAP_00000001")
    assert row["relation"] == "resample" and row["path"]
    overlaps = {(row["source"], row["other"]) for row in tables["source_overlaps"]}
    assert {("lits", "panorama"), ("panorama", "lits"), ("private", "private")} <= overlaps
    found = {row["source"]: row["found"] for row in tables["sources"]}
    assert (found["private"], found["panorama"], found["lits"]) == (2, 1, 1)


def test_a_private_name_in_another_text_stops_the_release(whole):
    tables = {name: read_rows_of(whole / f"tables/{name}.parquet") for name in ORDER}
    scan = dict(tables["scans"][0], licence="internal", source="private", scan_id="private_DOE")
    tables["scans"] = [scan | {"source_case": "DOE_JANE", "image_path": "x/y"}]
    tables["reviews"][0]["reason"] = "compare with DOE_JANE"
    with pytest.raises(ReleaseError, match="PRIVATE_TEXT.*DOE_JANE"):
        released_tables(tables, CASES, target="internal")


def test_equal_inputs_give_equal_bytes_and_an_old_release_goes_as_a_whole(whole, tmp_path):
    target = tmp_path / "elsewhere" / "2.0"
    (target / "old").mkdir(parents=True)
    again = make_release(tmp_path, target)
    assert not (again / "old").exists()
    assert sorted(path.name for path in target.parent.iterdir()) == ["2.0"]
    assert (again / "SHA256SUMS").read_bytes() == (whole / "SHA256SUMS").read_bytes()


def test_a_failed_build_leaves_the_old_release(whole, tmp_path):
    target = Path(shutil.copytree(whole, tmp_path / "2.0"))
    before = sha256_file(target / "SHA256SUMS")
    with pytest.raises(ReleaseError, match="NO_CASES"):
        build_release(
            target, version="2.0", target="internal", cases={}, tables={}, sources=[], models=[],
            thresholds={}, definitions={}, resources=ROOT / "resources/release",
        )  # fmt: skip
    assert sha256_file(target / "SHA256SUMS") == before


def test_a_case_that_failed_is_excluded_and_the_release_still_whole(tmp_path):
    cases = tuple(case_id for case_id in CASES if case_id != "BDMAP_90000002")
    release = make_release(tmp_path, tmp_path / "out", cases=cases)
    found = verify_release(release)
    assert (found.cases, found.problems) == (2, [])
    scans = read_rows_of(release / "tables/scans.parquet")
    assert "BDMAP_90000002" in {scan["case_id"] for scan in scans}
    assert "BDMAP_90000002" not in {
        row["case_id"] for row in read_rows_of(release / "tables/crosswalk.parquet")
    }


def test_damaged_and_missing_and_foreign_files_are_seen(copy):
    path = copy / "ct/BDMAP_00000001/ct.nii.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (copy / "counts/tumors_by_size.csv").unlink()
    (copy / "stranger.txt").write_text("hello")
    (copy / "link").symlink_to("README.md")
    with open(copy / "README.md", "a") as card:
        card.write("more\n")
    told = "\n".join(problems(copy))
    for line in (
        "MISSING: counts/tumors_by_size.csv",
        "NOT_LISTED: stranger.txt",
        "LINK: link",
        "SHA256: README.md",
    ):
        assert line in told
    assert "ct/BDMAP_00000001/ct.nii.gz" in told and "GZIP" in told


def test_bytes_that_changed_without_damage_are_seen(copy):
    place = copy / KIDNEY / "segmentations/spleen.nii.gz"
    place.write_bytes(gzip.compress(gzip.decompress(place.read_bytes()), 1, mtime=0))
    assert problems(copy) == [
        f"SHA256: {KIDNEY}/segmentations/spleen.nii.gz: its bytes are not those of SHA256SUMS"
    ]


def test_a_table_that_cannot_be_read_is_told_and_not_raised(copy):
    (copy / "tables/masks.parquet").write_bytes(b"no table")
    assert {"TABLE", "SHA256"} <= codes(copy)
    shutil.rmtree(copy / "tables")
    assert "MISSING" in codes(copy)
    (copy / "SHA256SUMS").unlink()
    assert {"SUMS", "NOT_LISTED"} <= codes(copy)


def test_unsafe_lines_of_the_list_are_told(copy):
    with open(copy / "SHA256SUMS", "a") as sums:
        sums.write(f"{'0' * 64}  ../outside\nrubbish\n")
    assert sum(problem.startswith("SUMS: SHA256SUMS line") for problem in problems(copy)) == 2


@pytest.mark.parametrize(
    ("place", "change", "code"),
    [
        (f"{LIVER}/segmentations/liver.nii.gz", lambda a: a * 2, "VALUES"),
        (f"{LIVER}/segmentations/liver.nii.gz", lambda a: a[:-1], "GRID"),
        (f"{LIVER}/segmentations/liver.nii.gz", lambda a: a.astype(np.uint16), "DTYPE"),
        (f"{LIVER}/segmentations/liver.nii.gz", lambda a: a * 0, "COMBINED"),
        (f"{LIVER}/combined_labels.nii.gz", lambda a: np.where(a == 27, 5, a), "COMBINED"),
        (f"{LIVER}/tumor_labels.nii.gz", lambda a: np.where(a == 7, 0, a), "COMBINED"),
        (f"{LIVER}/tumor_labels.nii.gz", lambda a: np.where(a == 1, 2, a), "COMBINED"),
        (f"{LIVER}/segmentations/liver_lesion.nii.gz", np.zeros_like, "INSTANCES"),
        (f"{LIVER}/instances/liver.nii.gz", np.zeros_like, "STATE"),
        (f"{LIVER}/instances/liver.nii.gz", lambda a: np.where(a == 2, 9, a), "TUMORS"),
        (f"{KIDNEY}/instances/pancreas.nii.gz", np.ones_like, "STATE"),
        (f"{KIDNEY}/segmentations/kidney_cyst.nii.gz", np.zeros_like, "INSTANCES"),
        ("ct/BDMAP_00000001/ct.nii.gz", lambda a: a + np.int16(1), "TUMORS"),
    ],
)  # fmt: skip
def test_a_forged_volume_is_seen(copy, place, change, code):
    """Whole files with matching hashes of bytes and voxels: only the content tells."""
    array = volume(copy / place)
    changed = change(array).astype(np.uint16 if code == "DTYPE" else array.dtype)
    grid = GRID if changed.shape == GRID.shape else GRID.of(changed.shape, GRID.affine)
    put_volume(copy, place, changed, grid)
    found = codes(copy)
    assert code in found and not {"SHA256", "VOXELS"} & found


def test_one_forged_voxel_is_seen_wherever_masks_meet(copy):
    """A voxel of a mask, the joined labels or an instance map, with matching hashes."""
    rng = np.random.default_rng(5)
    for path in sorted((copy / KIDNEY).rglob("*.nii.gz")):
        array = volume(path)
        filled = np.argwhere(array)
        if not len(filled):
            continue
        voxel = tuple(rng.choice(filled))
        changed = array.copy()
        changed[voxel] = 0
        place = path.relative_to(copy).as_posix()
        put_volume(copy, place, changed)
        # A mask of which another structure covers the voxel shows in no other file.
        told = codes(copy)
        assert told <= {"COMBINED", "INSTANCES", "TUMORS", "COUNTS", "STATE"}
        assert told or path.parent.name == "segmentations"
        put_volume(copy, place, array)
    assert problems(copy) == []


def test_a_pooled_lesion_without_a_row_or_in_a_settled_tumor_is_seen(copy):
    """Lesions have rows of their own, and none is a tumor that an organ's map shows."""
    settled = volume(copy / f"{LIVER}/instances/liver.nii.gz")
    put_volume(copy, f"{LIVER}/instances/pooled.nii.gz", settled)
    told = problems(copy)
    subject = f"{LIVER.removeprefix('label/')}/instances/pooled.nii.gz"
    count = np.count_nonzero(settled)
    assert f"INSTANCES: {subject}: {count} voxels belong to instances of liver, too" in told
    assert f"TUMORS: {subject}: tumors has the numbers [], the map [1, 2, 3]" in told
    assert f"LICENCE: {subject}: is there, but licences says nothing of it" in told


def test_a_moved_and_a_turned_grid_are_seen(copy):
    affine = GRID.affine
    affine[0, 3] += 0.5
    forge_volume(copy, f"{LIVER}/segmentations/spleen.nii.gz", None, GRID.of(GRID.shape, affine))
    affine = GRID.affine
    affine[0] *= -1
    forge_volume(copy, "ct/BDMAP_90000002/ct.nii.gz", None, GRID.of(GRID.shape, affine))
    assert {"GRID", "ORIENTATION"} <= codes(copy)


def test_planted_text_in_a_header_is_seen(copy):
    path = copy / "ct/BDMAP_90000001/ct.nii.gz"
    image = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    image.header["descrip"] = b"MILLER JOHN"
    path.unlink()
    with gzip.GzipFile(path, "wb", mtime=1) as stream:
        stream.write(image.to_bytes())
    relist(copy, path)
    told = [problem for problem in problems(copy) if problem.startswith("HEADER_TEXT")]
    assert len(told) == 2 and any("descrip" in problem for problem in told)


def test_absent_and_surplus_files_of_a_state_are_seen(copy):
    surplus, absent = (f"{KIDNEY}/segmentations/{n}_lesion.nii.gz" for n in ("liver", "kidney"))
    put_volume(copy, surplus, np.zeros(GRID.shape, np.uint8))
    (copy / absent).unlink()
    sums = copy / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith(absent)]
    sums.write_text("\n".join(lines) + "\n")
    told = problems(copy)
    for place in (surplus, absent):
        assert any(p.startswith(f"STATE: {place.removeprefix('label/')}") for p in told)


@pytest.mark.parametrize(
    ("table", "change", "code"),
    [
        ("tumors", lambda rows: rows[0].update(radius_mm=3.0), "TUMORS"),
        ("tumors", lambda rows: rows[0].update(voxels=5), "TUMORS"),
        ("tumors", lambda rows: rows[0].update(size_class="large"), "TUMORS"),
        ("tumors", lambda rows: rows[0].update(is_fragment=True), "TUMORS"),
        ("tumors", lambda rows: rows[0].update(is_early=True), "TUMORS"),
        ("tumors", lambda rows: rows[0].update(mean_hu=None), "TUMORS"),
        ("tumors", lambda rows: rows[0].update(lesion_kind="cyst"), "INSTANCES"),
        ("tumors", lambda rows: rows[0].update(organ="unassigned"), "ID"),
        ("tumors", lambda rows: rows[0].update(lesion_kind="lesion"), "STATE"),
        ("tumors", lambda rows: rows[0].update(bbox=[0, 0, 0, 1, 1, 1]), "TUMORS"),
        ("tumors", lambda rows: rows[0].update(tumor_id="x"), "ID"),
        ("tumors", lambda rows: rows.append(dict(rows[0])), "ID"),
        ("tumors", lambda rows: rows.pop(0), "COUNTS"),
        ("masks", lambda rows: rows.pop(0), "STATE"),
        ("masks", lambda rows: rows[3].update(state="unknown"), "STATE"),
        ("masks", lambda rows: rows[0].update(released=not rows[0]["released"]), "STATE"),
        ("masks", lambda rows: rows[0].update(state="maybe"), "STATE"),
        ("masks", lambda rows: rows[0].update(case_id="BDMAP_00000099"), "ID"),
        ("scans", lambda rows: rows[0].update(case_id=None), "SCANS"),
        ("scans", lambda rows: rows[0].update(source="lits"), "COUNTS"),
        ("excluded", lambda rows: rows.clear(), "SCANS"),
        ("excluded", lambda rows: rows[0].update(reason="see /home/me/x.nii"), "LOCAL_PATH"),
        ("splits", lambda rows: rows.pop(0), "SPLIT"),
        ("splits", lambda rows: [row.update(group="one") for row in rows], "LEAK"),
        ("crosswalk", lambda rows: rows[0].update(case_id="BDMAP_1"), "ID"),
    ],
)  # fmt: skip
def test_a_forged_table_is_seen(copy, table, change, code):
    forge_table(copy, table, change)
    assert code in codes(copy)


def test_a_tumor_of_just_the_early_diameter_is_not_early_for_the_verifier(tmp_path, monkeypatch):
    """The rule is the one that measured it, though the table's number is a rounding below."""
    limit_mm = 14 * 2**0.5  # the diagonal of 8 by 8 voxels of 2 mm
    monkeypatch.setitem(DEFINITIONS, "early_diameter_mm", limit_mm)
    monkeypatch.setitem(MEASURE, "early_diameter_mm", limit_mm)

    def round_down(tables):
        row = next(row for row in tables["tumors"] if row["number"] == 1)
        assert row["longest_axial_mm"] == pytest.approx(limit_mm) and not row["is_early_recist"]
        row["longest_axial_mm"] = float(np.nextafter(limit_mm, 0))

    release = make_release(tmp_path, tmp_path / "out", change_tables=round_down)
    assert problems(release) == []


def test_a_patient_on_two_sides_is_seen_even_under_two_group_names(copy):
    def share(rows):
        for row in rows:
            row["patient_key"] = "lits/12"

    forge_table(copy, "scans", share)
    assert "LEAK" in codes(copy)


def test_texts_that_differ_or_run_are_seen(copy):
    path = copy / "tables/excluded.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["reason"] = "other"
    write_csv(path, rows, list(rows[0]))
    path.write_text(path.read_text() + '=HYPERLINK("x"),,,,,\n')
    relist(copy, path)
    assert {"TABLE", "FORMULA"} <= codes(copy)


def test_a_forged_class_map_and_definitions_are_seen(copy):
    path = copy / "class_map.json"
    facts = json.loads(path.read_text())
    facts["combined_labels"]["1"] = "liver"
    path.unlink()
    path.write_text(json.dumps(facts))
    relist(copy, path)
    assert codes(copy) == {"CLASS_MAP"}
    (copy / "definitions.json").write_text("{}")
    relist(copy, copy / "definitions.json")
    assert "DEFINITIONS" in codes(copy)


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("/home/me/scan.nii.gz", True),
        ("see ~/data/x", True),
        ("C:\\Users\\me\\x.nii", True),
        ("\\\\server\\share\\x", True),
        ("file:///x", True),
        ("path='/mnt/a/b'", True),
        ("data/lits/volume-3.nii", False),
        ("and/or, 1/2, 3/4/5", False),
        ("https://example.org/a/b", False),
        ("CC BY-NC-SA 4.0; 12/31/2024", False),
    ],
)
def test_what_counts_as_a_local_path(text, is_path):
    assert bool(LOCAL_PATH.search(text)) == is_path
