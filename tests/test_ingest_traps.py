"""Traps that a hostile reader laid: each test fails where its trap is not seen."""

import shutil
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.conftest import ROOT
from tests.ingested import LIMITS, PRECEDENCE, ingest
from tests.phantoms.anatomy import Phantom, crop, draw
from tests.phantoms.cast import Lesion, Patient
from tests.phantoms.nifti import layers, nifti_bytes, save
from tests.small_release import make_release
from tests.test_dedupe import CASES, kept, relation, scan
from tests.test_dedupe import PRECEDENCE as SHORT
from tests.test_matching import lits, related
from tests.test_release import forge_table, problems
from tumoratlas.core.structures import structure_bit
from tumoratlas.harmonize.cases import harmonize_case
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti
from tumoratlas.ingest.alignment import Alignment
from tumoratlas.ingest.dedupe import deduplicate
from tumoratlas.ingest.labels import read_labels
from tumoratlas.ingest.readers import read_scan
from tumoratlas.ingest.registry import assign_cases
from tumoratlas.ingest.steps import case_members, list_source
from tumoratlas.release.privacy.search import find_phi
from tumoratlas.release.privacy.terms import private_terms

PATIENT = Patient(1, "M", (96, 80, 60), (1.5, 1.5, 3.0), (Lesion("liver", 21.2),), ())
SIDED = ("liver", "spleen", "kidney_left", "kidney_right", "stomach")
MASKS = "segmentation-0.nii"


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """A man of 60 slices."""
    return draw(PATIENT, 3)


def lits_labels(phantom: Phantom) -> np.ndarray:
    """Liver 1, tumor 2, as LiTS has them."""
    return layers(phantom.masks["liver"], phantom.labels("liver", "tumor"))


def slab(phantom: Phantom, first: int, end: int) -> Phantom:
    """Some slices of a phantom."""
    return crop(phantom, ((first, 0, 0), (end, *phantom.image.shape[1:])))


# --- a mask that is flipped under its scan's own header --------------------------------------


class LitsCase:
    """Case 0 of LiTS in a folder, whose masks are written again and again."""

    def __init__(self, folder: Path, hu: np.ndarray, grid: Grid) -> None:
        self.folder, self.grid = folder, grid
        save(folder / "volume-0.nii", nifti_bytes(hu, grid))
        self.write(np.zeros(grid.shape, np.uint8))
        description = ROOT / "resources/sources/lits.yaml"
        (self.scan,) = list_source(description, folder, folder / "no key")["scans"]
        self.volume = read_scan(self.scan, max_voxels=10**8, min_slices=20)

    def write(self, masks: np.ndarray, orientation: str = "RAS") -> None:
        """Write liver and tumors (z, y, x) RAS."""
        save(self.folder / MASKS, nifti_bytes(np.ascontiguousarray(masks), self.grid, orientation))

    def read(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return the masks by name, and the codes of those left out."""
        masks, excluded = read_labels(self.scan, self.volume, max_voxels=10**8)
        return {mask.name: mask.voxels for mask in masks}, [row["code"] for row in excluded]


def test_a_flipped_mask_of_a_real_scan_is_refused(real_data: Path, tmp_path: Path) -> None:
    """LiTS 0: its header is its scan's, so only the image can tell."""
    hu, grid = lits(real_data)
    case = LitsCase(tmp_path, hu, grid)
    parts = []
    for name in ("liver_pseudo_difftumor", "tumor_instances"):
        file = read_nifti(real_data / f"lits_liver_0/{name}.nii.gz", max_voxels=10**8)
        parts.append(to_canonical(file.array, file.grid)[0] > 0)
    true = layers(*parts)
    case.write(true)
    found, codes = case.read()
    assert not codes
    np.testing.assert_array_equal(found["liver"], true > 0)
    for axis in (0, 2):
        case.write(np.flip(true, axis))
        assert case.read() == ({}, ["LABEL_AMBIGUOUS"])


@pytest.mark.parametrize("orientation", ["RAS", "LPS"])
def test_a_flipped_mask_is_refused_in_any_voxel_order(
    phantom: Phantom, tmp_path: Path, orientation: str
) -> None:
    """Stored in another order than the scan, and where the scan's header says."""
    case = LitsCase(tmp_path, phantom.image, phantom.grid)
    true = lits_labels(phantom)
    case.write(true, orientation)
    assert set(case.read()[0]) == {"liver", "liver_tumor"}
    case.write(np.flip(true, 0), orientation)
    assert case.read() == ({}, ["LABEL_AMBIGUOUS"])


# --- copies that are mirror images -----------------------------------------------------------


def test_only_an_odd_number_of_turns_mirrors() -> None:
    """Flips and exchanged axes, against the hand of the axes."""
    for axes, signs in product(permutations(range(3)), product((1, -2), repeat=3)):
        first, second, third = (
            np.eye(3)[axis] * sign for axis, sign in zip(axes, signs, strict=True)
        )
        is_mirrored = float(np.cross(first, second) @ third) < 0
        assert Alignment.of(axes, signs, (4, 5, 6)).is_mirrored == is_mirrored


@pytest.mark.parametrize("axis", [2, 0])
def test_masks_of_a_mirrored_copy_stay_on_their_side(
    phantom: Phantom, tmp_path: Path, axis: int
) -> None:
    """The scan that is kept is flipped under its header: left to right, or feet to head."""
    flip = (slice(None),) * axis + (slice(None, None, -1),)
    flipped = [np.ascontiguousarray(a[flip]) for a in (phantom.image, lits_labels(phantom))]
    for name, array in zip(("volume", "segmentation"), flipped, strict=True):
        save(tmp_path / f"lits/{name}-0.nii", nifti_bytes(array, phantom.grid))
    case = tmp_path / "atlas/BDMAP_00000001"
    save(case / "ct.nii.gz", nifti_bytes(phantom.image, phantom.grid))
    for name in SIDED:
        mask = phantom.masks[name].astype(np.uint8)
        save(case / f"segmentations/{name}.nii.gz", nifti_bytes(mask, phantom.grid))
    sources = {"lits": tmp_path / "lits", "abdomenatlas11": tmp_path / "atlas"}
    (tmp_path / "work").mkdir()
    done = ingest(sources, tmp_path / "work", tmp_path / "no key")
    ((case_id, folder),) = done.harmonized.items()
    row = done.case_rows[case_id]
    assert row["scan_id"] == "lits_0"
    refused = {mask["id"] for mask in row["excluded_masks"] if mask["code"] == "COPY_MIRRORED"}
    if axis == 2:
        assert refused == {f"abdomenatlas11_BDMAP_00000001/{name}" for name in SIDED}
        assert set(row["structures"]) == {"liver"}
        return
    assert not refused and set(row["structures"]) == set(SIDED)
    planes, _ = read_array(folder / "structures.b2nd")
    for name in SIDED:
        present = (planes & np.uint32(structure_bit(name))) != 0
        np.testing.assert_array_equal(present, phantom.masks[name][flip])


# --- crops of one scan are not copies of one another -----------------------------------------


def copies(inner: str, outer: str, **more: Any) -> dict[str, Any]:
    """Return the relation of a crop."""
    return {**relation(*sorted((inner, outer)), "crop"), "outer": outer, **more}


def test_two_parts_of_a_scan_are_two_cases_and_so_are_two_around_a_part() -> None:
    """Whatever the order; what leads on in one direction is still one case."""
    parts = [scan("lits/1"), scan("lits/2"), scan("ct_org/9")]
    for relations in (
        [copies("lits_1", "ct_org_9"), copies("lits_2", "ct_org_9")],
        [copies("ct_org_9", "lits_1"), copies("ct_org_9", "lits_2")],
    ):
        rows, excluded = deduplicate(parts, relations, SHORT)
        assert kept(rows) == ["lits_1", "lits_2"]
        assert [(row["id"], row["code"]) for row in excluded] == [("ct_org_9", "CROPPED_COPY")]
        groups = {row["scan_id"]: row["duplicate_group"] for row in rows}
        assert groups["ct_org_9"] == groups["lits_1"] != groups["lits_2"]
        for some in permutations(parts):
            assert deduplicate(some, relations[::-1], SHORT) == (rows, excluded)
    nested = [copies("lits_1", "ct_org_9"), copies("ct_org_9", "lits_2")]
    assert len(kept(deduplicate(parts, nested, SHORT)[0])) == 1


def test_two_stations_around_a_test_scan_are_both_kept_and_both_reserved(
    phantom: Phantom, tmp_path: Path
) -> None:
    """CT-ORG 0, of its test set, is what two overlapping scans of LiTS both show."""
    for number, (first, end) in enumerate(((0, 42), (20, 60))):
        part = slab(phantom, first, end)
        save(tmp_path / f"lits/volume-{number}.nii", nifti_bytes(part.image, part.grid))
        save(
            tmp_path / f"lits/segmentation-{number}.nii", nifti_bytes(lits_labels(part), part.grid)
        )
    part = slab(phantom, 21, 41)
    save(tmp_path / "ct_org/volume-0.nii.gz", nifti_bytes(part.image, part.grid))
    liver = part.masks["liver"].astype(np.uint8)
    save(tmp_path / "ct_org/labels-0.nii.gz", nifti_bytes(liver, part.grid))
    sources = {name: tmp_path / name for name in ("lits", "ct_org")}
    (tmp_path / "work").mkdir()
    done = ingest(sources, tmp_path / "work", tmp_path / "no key", PRECEDENCE)
    cases = {done.case_of(f"lits_{number}") for number in range(2)}
    assert len(cases) == 2 and kept(done.scans) == ["lits_0", "lits_1"]
    assert {done.cases[case_id]["reserved"] for case_id in cases} == {"CT-ORG test"}
    assert len({done.cases[case_id]["group"] for case_id in cases}) == 1
    assert set(done.harmonized) == cases


def test_a_copy_that_covers_nothing_of_the_kept_scan_gives_no_mask(
    phantom: Phantom, tmp_path: Path
) -> None:
    """Through a resampled link two parts can still meet that share no voxel."""
    members = []
    for number, (first, end) in enumerate(((0, 30), (30, 60))):
        part, folder = slab(phantom, first, end), tmp_path / f"{number}"
        case = LitsCase(folder, part.image, part.grid)
        case.write(lits_labels(part))
        away = Alignment.of((0, 1, 2), (1, 1, 1), (30, 0, 0)).to_json() if number else None
        facts = {"scan_id": f"lits_{number}", "file_sha256": case.volume.sha256}
        members.append({**case.scan, **facts, "alignment": away})
    (tmp_path / "out").mkdir()
    row = harmonize_case("c", members, tmp_path / "out", model_spacing_mm=3.0, **LIMITS)
    assert {(mask["id"], mask["code"]) for mask in row["excluded_masks"]} == {
        ("lits_1/liver", "LABEL_CUT"), ("lits_1/liver_tumor", "LABEL_CUT"),
    }  # fmt: skip


# --- equal slices ----------------------------------------------------------------------------


def test_equal_slices_in_any_order_link_two_scans(phantom: Phantom) -> None:
    """Shuffled; every fifth left out and transposed, so that no alignment is found at all."""
    hu = phantom.image
    shuffled = hu[np.random.default_rng(1).permutation(len(hu))]
    gaps = np.delete(hu, slice(4, None, 5), axis=0).transpose(0, 2, 1)
    for other, slices in ((shuffled, 60), (gaps, 48)):
        row = related(hu, np.ascontiguousarray(other))
        assert row["relation"] == "overlap" and row["outer"] is None
        assert row["evidence"].startswith(f"{slices} slices are equal")
    # Two slices alone are no proof.
    noise = np.random.default_rng(2).normal(0, 60, hu[2:].shape).astype(np.int16)
    assert related(hu, np.concatenate([hu[[10, 40]], noise]))["relation"] == "none"


# --- unread scans of test sets ---------------------------------------------------------------


@pytest.mark.parametrize("is_read", [True, False])
def test_a_patient_of_a_test_set_is_reserved_though_its_scan_cannot_be_read(is_read: bool) -> None:
    """RSNA: two series of one patient, one of them in the test set."""
    own = scan("rsna_atd23/21057", patient_key="rsna_atd23/10004")
    test = scan("rsna_atd23/51033", patient_key="rsna_atd23/10004", reserved="RSNA test")
    # A list knows nothing of headers.
    listed = {
        row["scan_id"]: {key: row[key] for key in ("scan_id", "patient_key", "reserved")}
        for row in (own, test)
    }
    rows, _ = deduplicate([own, test] if is_read else [own], [], SHORT)
    rows, _ = assign_cases(rows, {}, withdrawn=[], **CASES)
    cases = case_members(rows, [], listed, {})
    assert {case["reserved"] for case in cases.values()} == {"RSNA test"}
    assert len(cases) == 1 + is_read


# --- names of common words -------------------------------------------------------------------


def terms_of(folder: Path, name: str) -> set[str]:
    """Return the private terms of a source with one file of one patient."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.PatientName = name
    folder.mkdir()
    dataset.save_as(folder / "a.dcm", enforce_file_format=False)
    return private_terms(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("YOUNG^MAY", "seen with May Young"), ("YOUNG^MAY", "young_may"),
        ("HEAD^TOM", "Tom Head"), ("YOUNG^JUNE^A", "June A. Young"), ("NG^AMY", "Amy Ng"),
        ("MAY YOUNG=LI^NA", "na li"),
    ],
)  # fmt: skip
def test_a_name_of_common_words_is_found_as_a_whole(tmp_path: Path, name: str, text: str) -> None:
    """Neither part alone tells anybody, both together do."""
    terms = terms_of(tmp_path / "private", name)
    release = tmp_path / "release"
    release.mkdir()
    (release / "a.csv").write_text(f"reason\n{text}\n")
    assert [hit.kind for hit in find_phi(release, terms)] == ["term"]
    (release / "a.csv").write_text("reason\na young man\nin May\nthe head\n")
    assert find_phi(release, terms) == []


@pytest.mark.parametrize("name", ["LIVER^LEFT", "KIDNEY^TUMOR", "A^B", "PATIENT^001", "CASE 12"])
def test_organs_numbers_and_initials_are_no_name(tmp_path: Path, name: str) -> None:
    """They would be found in every release."""
    assert terms_of(tmp_path / "private", name) == set()


# --- leakage is searched again ---------------------------------------------------------------


def test_verify_does_not_believe_a_table_of_leakage(tmp_path: Path) -> None:
    """Rows left out, and the case of a test set put where it is trained on."""
    whole = make_release(tmp_path, tmp_path / "out" / "2.0")
    assert problems(whole) == []
    forged = Path(shutil.copytree(whole, tmp_path / "forged"))
    forge_table(forged, "leakage", lambda rows: rows.clear())
    found = problems(forged)
    assert "LEAK: BDMAP_00000001: has no row in leakage" in found

    def train(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["split"] == "reserved":
                row["split"] = "train" if row["scheme"] == "iid" else "fold_0"

    forge_table(forged, "splits", train)
    found = problems(forged)
    for place in ("fold BDMAP_00000001: is in fold_0", "iid BDMAP_00000001: is in train"):
        assert f"LEAK: {place}" in found
