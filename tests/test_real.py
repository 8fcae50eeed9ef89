"""The whole pipeline on real scans, from source folders to a verified release.

No model is registered, so that organs without labels are left to the reviewers. The measurements
of all real label maps, and pyradiomics' lung, are compared in test_measure.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.phantoms.demo import ROOT, run_targets
from tests.phantoms.reviewer import ROLES, write_roster
from tests.real_sources import (
    CONFIG,
    PRIVATE,
    private_case,
    sign_off,
    write_key,
    write_real_sources,
)
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti
from tumoratlas.ingest.fingerprint import FINGERPRINT, read_fingerprint
from tumoratlas.ingest.labels import LabelMask, read_labels
from tumoratlas.ingest.readers import ScanVolume
from tumoratlas.measure.counts import controls
from tumoratlas.measure.instances import label_instances, measure_instances
from tumoratlas.release.verify.release import verify_release

ORGANS = {"liver", "pancreas", "kidney", "colon", "esophagus", "uterus"}


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its release and the released tables by name."""

    folder: Path
    release: Path
    tables: dict[str, pd.DataFrame]

    def scan(self, source: str, source_case: str) -> pd.Series:
        scans = pd.read_parquet(self.folder / "results/tables/scans.parquet")
        found = scans[(scans.source == source) & (scans.source_case == source_case)]
        assert len(found) == 1
        return found.iloc[0]

    def states(self, case_id: str) -> dict[str, str]:
        masks = self.tables["masks"]
        return masks[masks.case_id == case_id].set_index("organ")["state"].to_dict()

    def image(self, case_id: str, name: str) -> tuple[np.ndarray, nib.Nifti1Image]:
        """Return a released volume (x, y, z) as another program reads it."""
        image = nib.load(self.release / f"{name.format(case_id)}.nii.gz")
        return np.asarray(image.dataobj), image

    def hu(self, case_id: str, structure: str) -> np.ndarray:
        """Return the HU inside a released mask."""
        ct, image = self.image(case_id, "ct/{}/ct")
        mask, mask_image = self.image(case_id, f"label/{{}}/segmentations/{structure}")
        np.testing.assert_allclose(image.affine, mask_image.affine)
        return ct[mask == 1]


@pytest.fixture(scope="module")
def run(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("real")
    write_real_sources(real_data, folder)
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    write_roster(folder / "records")
    write_key(folder / "records")
    run_targets(ROOT, folder, config, ["packets"], "packets of real scans", None)
    scans = pd.read_parquet(folder / "results/tables/scans.parquet")
    donor = scans[scans.source == "chaos"].iloc[0].case_id
    returns = folder / "records/returns"
    assert sign_off(folder / "results/review/packets", donor, returns) == len(ORGANS)
    run_targets(ROOT, folder, config, ["all"], "release of real scans", None)
    release = folder / "results/release/2.0"
    tables = {path.stem: pd.read_parquet(path) for path in release.glob("tables/*.parquet")}
    return Run(folder, release, tables)


@pytest.fixture(scope="module")
def reference(real_data: Path) -> pd.DataFrame:
    return pd.read_csv(real_data / "reference_instances.csv")


def test_the_release_keeps_every_promise(run: Run) -> None:
    verification = verify_release(run.release)
    assert verification.problems == []
    assert (verification.cases, verification.tumors) == (4, 11)
    assert run.tables["excluded"].empty
    assert (run.folder / "results/report/release.html").stat().st_size > 0


def test_every_scan_has_a_fingerprint_and_none_is_a_copy(run: Run) -> None:
    """Anchors enough to find any crop; four people without a common voxel or test set."""
    folder = run.folder / "results/ingest/fingerprint_scans"
    prints = {path.parent.name: read_fingerprint(path) for path in folder.glob(f"*/{FINGERPRINT}")}
    scans = pd.read_parquet(run.folder / "results/tables/scans.parquet").set_index("scan_id")
    assert set(prints) == set(scans.index) and len(scans) == 4
    for scan_id, found in prints.items():
        assert list(found.shape) == list(scans["shape"][scan_id])
        assert len(found.anchors) >= 200 and len(found.slices) == found.shape[0]
        assert not len(scans.repairs[scan_id]) and scans.duplicate_group.nunique() == 4
    assert set(run.tables["relations"].relation) <= {"none"}
    leakage = run.tables["leakage"]
    assert len(leakage) == 4 and not leakage.is_leak.any() and not leakage.test_set.any()


def test_lits_becomes_one_case_with_its_eleven_tumors(run: Run, reference: pd.DataFrame) -> None:
    scan = run.scan("lits", "0")
    assert scan.kept and scan.orientation == "LAI" and list(scan["shape"]) == [75, 512, 512]
    assert (scan.hu_min, scan.hu_max) == (-3024, 1410)
    assert run.states(scan.case_id) == dict.fromkeys(ORGANS, "unknown") | {"liver": "present"}
    tumors = run.tables["tumors"]
    assert set(tumors.case_id) == {scan.case_id} and set(tumors.organ) == {"liver"}
    assert set(tumors.lesion_kind) == {"tumor"} and set(tumors.origin) == {"source"}
    assert not tumors.is_fragment.any() and tumors.is_early.all()
    assert (tumors.longest_axial_mm <= tumors.max_3d_mm).all()
    wanted = reference[reference.file.str.startswith("lits_liver_0/")]
    # The tumors touch nowhere: 6, 18 and 26 neighbours find the same eleven.
    assert set(wanted[["n_cc_6", "n_cc_18", "n_cc_26"]].to_numpy().flat) == {11}
    assert tumors.number.tolist() == wanted.instance.tolist() == list(range(1, 12))
    assert tumors.voxels.tolist() == wanted.voxels.tolist()
    assert tumors.size_class.tolist() == wanted.size_class.tolist()
    # The headers of labels and CT differ in the sixth digit.
    np.testing.assert_allclose(tumors.volume_mm3, wanted.volume_mm3, rtol=1e-5)
    np.testing.assert_allclose(tumors.radius_mm, wanted.radius_mm, rtol=3e-5)
    centroids = wanted[[f"centroid_{axis}_lps" for axis in "xyz"]]
    np.testing.assert_allclose(np.stack(tumors.centroid_lps_mm), centroids, atol=0.0101)


def test_lits_masks_lie_on_liver_and_tumors(run: Run, real_data: Path) -> None:
    case_id = run.scan("lits", "0").case_id
    given = nib.load(real_data / "lits_liver_0/tumor_instances.nii.gz")
    lesions, image = run.image(case_id, "label/{}/segmentations/liver_lesion")
    assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(given.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(lesions, np.asarray(given.dataobj) > 0)
    # A contrast scan of the portal-venous phase: tumors darker than the liver around them.
    assert np.mean(run.hu(case_id, "liver_lesion")) == pytest.approx(87, abs=1)
    assert np.mean(run.hu(case_id, "liver")) == pytest.approx(120, abs=3)
    tumors = run.tables["tumors"]
    weighted = np.average(tumors.mean_hu, weights=tumors.voxels)
    assert weighted == pytest.approx(np.mean(run.hu(case_id, "liver_lesion")))


def test_a_signed_donor_is_the_only_control(run: Run) -> None:
    scan = run.scan("chaos", "3")
    # Slices are 2 mm apart though SliceThickness says 3.2.
    np.testing.assert_allclose(scan.spacing_mm, (0.727, 0.727, 2.0), atol=5e-4)
    assert list(scan["shape"]) == [78, 512, 512]
    assert run.states(scan.case_id) == dict.fromkeys(ORGANS, "confirmed_empty")
    assert controls(run.tables["masks"]) == [scan.case_id]
    with open(run.release / "counts/tumors_by_source.csv", newline="") as file:
        counted = {row["source"]: int(row["controls"]) for row in csv.DictReader(file)}
    assert counted == {"chaos": 1, "lits": 0, "private": 0, "all": 1}
    masks = run.tables["masks"]
    assert set(masks[masks.case_id == scan.case_id].signed_by) <= set(ROLES) - {"R04"}
    reviews = run.tables["reviews"]
    signed = reviews[reviews.decision == "sign_off"]
    assert set(signed.organ) == ORGANS and set(signed.case_id) == {scan.case_id}
    for structure in ("liver_lesion", "colon_lesion", "esophagus_tumor"):
        assert not run.image(scan.case_id, f"label/{{}}/segmentations/{structure}")[0].any()


def test_the_donors_liver_is_not_turned_over(run: Run) -> None:
    case_id = run.scan("chaos", "3").case_id
    # 36 HU where the pictures are paired with slices by position.
    assert np.mean(run.hu(case_id, "liver")) == pytest.approx(141, abs=2)
    _, image = run.image(case_id, "label/{}/segmentations/liver")
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_zooms()[2] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "spacing_mm", "slices"),
    [(PRIVATE[0], (0.797, 0.797, 5.0), 41), (PRIVATE[1], (0.977, 0.977, 2.0), 20)],
)
def test_private_series_are_released_without_their_names(
    run: Run, name: str, spacing_mm: tuple[float, ...], slices: int
) -> None:
    scan = run.scan("private", private_case(name))
    np.testing.assert_allclose(scan.spacing_mm, spacing_mm, atol=5e-4)
    assert scan.kept and scan.slices == slices
    assert run.states(scan.case_id) == dict.fromkeys(ORGANS, "unknown")
    ct, _ = run.image(scan.case_id, "ct/{}/ct")
    assert ct.shape == (512, 512, slices)
    # Abdomens: most of the body is soft tissue.
    assert 0 < np.median(ct[ct > -200]) < 120
    assert not list(run.release.glob(f"label/{scan.case_id}/segmentations/*"))
    for table in ("scans", "crosswalk"):
        public = run.tables[table].set_index("case_id").loc[scan.case_id]
        assert public.source_case == scan.case_id
    assert run.tables["scans"].set_index("case_id").licence[scan.case_id] == "internal"
    # CRLM-CT-1004 is the PatientID of the first series.
    hidden = (name, private_case(name), scan.patient_key, "CRLM-CT-1004", str(run.folder))
    for path in filter(Path.is_file, run.release.rglob("*")):
        is_text = path.suffix in (".csv", ".json", ".md")
        shown = f"{path.relative_to(run.release)} {path.read_text() if is_text else ''}"
        assert not [word for word in hidden if word in shown], path


@pytest.mark.parametrize("case", ["case_00110", "case_00176"])
def test_kits_labels_keep_their_tumors_when_turned(
    real_data: Path, reference: pd.DataFrame, case: str
) -> None:
    """KiTS stores slices along its first axis (IPL); the pipeline measures them as RAS."""
    place = f"kits23_segmentations/{case}.segmentation.nii.gz"
    stored = read_nifti(real_data / place, max_voxels=10**9)
    assert stored.grid.orientation == "IPL"
    masks, grid = _read_as_kits(real_data / place, stored.array, stored.grid)
    assert grid.orientation == "RAS" and grid.shape[0] == stored.array.shape[2]
    assert (masks["kidney"].voxels >= masks["kidney_tumor"].voxels).all()
    for name in ("kidney_tumor", "kidney_cyst"):
        wanted = reference[(reference.file == place) & (reference.structure == name)]
        measured = measure_instances(
            label_instances(masks[name].voxels),
            None,
            grid,
            size_edges_mm=(5, 10, 20),
            early_diameter_mm=20,
            minimum_volume_mm3=14,
        )
        assert [tumor.voxels for tumor in measured] == wanted.voxels.tolist()
        assert [tumor.size_class for tumor in measured] == wanted.size_class.tolist()
        for tumor, row in zip(measured, wanted.itertuples(), strict=True):
            assert tumor.volume_mm3 == pytest.approx(row.volume_mm3, abs=6e-4)
            assert tumor.radius_mm == pytest.approx(row.radius_mm, abs=6e-5)
            centroid = (row.centroid_x_lps, row.centroid_y_lps, row.centroid_z_lps)
            assert tumor.centroid_lps_mm == pytest.approx(centroid, abs=0.00501)


def _read_as_kits(path: Path, stored: np.ndarray, grid: Grid) -> tuple[dict[str, LabelMask], Grid]:
    """Read a label map as the source kits23 does, beside an image of air on its grid."""
    air, canonical = to_canonical(np.full(stored.shape, -1000, np.int16), grid)
    volume = ScanVolume(air, canonical, grid, "", {}, ())
    values = {"1": ["kidney"], "2": ["kidney", "kidney_tumor"], "3": ["kidney", "kidney_cyst"]}
    facts = {"format": "nifti", "partial": False, "header": "own", "licence": ""}
    label = facts | {"paths": [str(path)], "values": values}
    scan = {"scan_id": "kits23_real", "labels": [label], "repairs": []}
    masks, excluded = read_labels(scan, volume, max_voxels=10**9)
    assert excluded == []
    return {mask.name: mask for mask in masks}, canonical
