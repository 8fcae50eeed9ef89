"""The phantoms' truth against an independent reading of their files."""

import gzip
import hashlib
import json
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
import yaml
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tests.conftest import ROOT
from tests.phantoms import truth, write_phantoms
from tests.phantoms.demo import _write_key
from tests.phantoms.private_source import PLANTED
from tests.phantoms.reviewer import _patients
from tumoratlas.core.structures import structures
from tumoratlas.ingest.pseudonyms import pseudonym, read_key

EVERY_WAY = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the full set."""
    folder = tmp_path_factory.mktemp("full")
    write_phantoms(folder)
    return folder


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the micro set."""
    folder = tmp_path_factory.mktemp("micro")
    write_phantoms(folder, micro=True)
    return folder


Slices = tuple[slice, ...]


def box_in(whole: NDArray[np.int64], part: NDArray[np.int64]) -> Slices:
    """Return where a crop lies in a volume, padding of the volume apart; both (z, y, x)."""
    room = tuple(n - m + 1 for n, m in zip(whole.shape, part.shape, strict=True))
    middle = tuple(n // 2 for n in part.shape)
    values = whole[tuple(slice(m, m + n) for m, n in zip(middle, room, strict=True))]
    for start in np.argwhere(values == part[middle]):
        box = tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))
        covered = whole[box] > -2000
        if covered.any() and np.array_equal(whole[box][covered], part[covered]):
            return box
    raise AssertionError("not a crop")


def read_ras(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read a NIfTI file with nibabel alone: RAS (z, y, x) and the affine."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj).astype(np.int64).transpose(2, 1, 0), image.affine


def read_dicom(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read a series with SimpleITK, sorted by position: RAS (z, y, x) and the affine."""
    files = sorted(
        (str(p) for p in folder.glob("*.dcm")),
        key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]),
    )
    image = sitk.DICOMOrient(sitk.ReadImage(files), "LPS")
    affine = np.diag([*image.GetSpacing(), 1.0])
    affine[:3, 3] = image.GetOrigin()
    # ITK's LPS to RAS: turn both in-plane axes and start at the other end.
    size = image.GetSize()
    affine[:2, 3] = [-affine[i, 3] - (size[i] - 1) * affine[i, i] for i in (0, 1)]
    array = sitk.GetArrayFromImage(image)[:, ::-1, ::-1]
    return array.astype(np.int64), affine


# Where a scan's image lies below its source's folder.
IMAGES = {
    "abdomenatlas11": "{case}/ct.nii.gz",
    "abdomenct1k": "AbdomenCT-1K-ImagePart1/{case}_0000.nii.gz",
    "amos22": "amos22/imagesTr/{case}.nii.gz",
    "btcv": "RawData/*/img/img{case}.nii.gz",
    "chaos": "Train_Sets/CT/{case}/DICOM_anon",
    "ct_org": "OrganSegmentations/volume-{case}.nii.gz",
    "flare23": "[iu]*Tr*/{case}*.nii.gz",
    "ircadb": "3Dircadb1/{case}/PATIENT_DICOM",
    "jhh": "{case}/ct.nii.gz",
    "kipa22": "train/image/{case}.nii.gz",
    "kits23": "dataset/{case}/imaging.nii.gz",
    "lits": "*/{case}.nii",
    "msd_ct": "*/images*/{case}.nii.gz",
    "pancreas_ct": "Pancreas-CT/PANCREAS_{case}/*/*",
    "panorama": "batch_1/{case}_0000.nii.gz",
    "pants": "ImageTe/{case}/ct.nii.gz",
    "private": "{case}/ct*",
    "rsna_atd23": "train_images/*/{case}",
    "uls23": "ULS23/novel_data/*/images/{case}.nii.gz",
    "word": "WORD-V0.1.0/images*/{case}.nii.gz",
}
# Spacings of these were lost, these crops kept the header of the whole.
LOST = {("lits", "28"), ("lits", "29"), ("abdomenct1k", "Case_00078")}


def image_path(root: Path, source: str, case: str) -> Path:
    """Return a scan's file, or the folder of its series."""
    name = f"volume-{case}" if source == "lits" and case.isdigit() else case.partition("_s")[0]
    (path,) = (root / source).glob(IMAGES[source].format(case=name))
    return path


def read_scan(root: Path, source: str, case: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read a scan: RAS (z, y, x) HU and the affine that its header tells."""
    path = image_path(root, source, case)
    if not path.is_dir():
        array, affine = read_ras(path)
        return (array - 1024 if source == "kipa22" else array), affine
    if source in ("chaos", "pancreas_ct") or case in ("P001", "P005"):
        return read_dicom(path)
    number = case.partition("_s")[2]
    return read_slices(path, int(number) if number else 1)


def read_slices(folder: Path, number: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read a series of a folder slice by slice with pydicom: RAS (z, y, x) and the affine."""
    found = {}
    for path in folder.iterdir():
        part = pydicom.dcmread(path)
        if part.Modality == "CT" and part.SeriesNumber == number:
            found[float(part.ImagePositionPatient[2])] = part
    slices = [found[height] for height in sorted(found)]
    hu = [s.pixel_array.astype(np.int64) * s.RescaleSlope + s.RescaleIntercept for s in slices]
    array = np.array(hu).astype(np.int64)[:, ::-1, ::-1]
    first, heights = slices[0], sorted(found)
    spacing = [*first.PixelSpacing[::-1], np.diff(heights).mean()]
    affine = np.diag([*map(float, spacing), 1.0])
    corner = np.array(first.ImagePositionPatient[:2], float)
    affine[:2, 3] = -corner - (np.array(array.shape[:0:-1]) - 1) * spacing[:2]
    affine[2, 3] = heights[0]
    return array, affine


def label_files(root: Path, row: object) -> dict[str, tuple[Path, int, int]]:
    """Return by organ an annotated scan's label file, and the tumor and cyst values."""
    case = row.source_case
    if row.source == "lits" and case.isdigit():
        path = root / f"lits/Training_Batch1/segmentation-{case}.nii"
        return {"liver": (path, 2, -1)}
    if row.source == "kits23":
        return {"kidney": (root / f"kits23/dataset/{case}/segmentation.nii.gz", 2, 3)}
    if row.source == "msd_ct" and row.annotated:
        organ = case.split("_")[0]
        (path,) = root.glob(f"msd_ct/*/labelsTr/{case}.nii.gz")
        return {organ: (path, 1 if organ == "colon" else 2, -1)}
    if row.source == "private":
        masks = sorted((root / f"private/{case}/masks").glob("*.nii.gz"))
        return {p.name.split("_")[0]: (p, 1, -1) for p in masks}
    return {}


def check_scans(folder: Path) -> None:
    """Re-read every readable scan of a patient with truth and compare it with the truth."""
    tumors, root = truth.tumors(folder), folder / "sources"
    scans = truth.scans(folder)
    kept = set(scans[scans.expected == "kept"].patient)
    for row in scans[(scans.expected != "excluded") & scans.patient.isin(kept)].itertuples():
        image, affine = read_scan(root, row.source, row.source_case)
        mask, true_affine = truth.truth_mask(folder, row.patient)
        assert image.shape == (row.shape_z, row.shape_y, row.shape_x), row
        is_padded = "padding" in row.defect
        # A crop may show no air but the lungs'.
        assert (image.min() == -3024) if is_padded else (-1000 <= image.min() <= -700), row
        assert 200 < image.max() <= 1000
        if (row.source, row.source_case) not in LOST:
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            stated = (row.spacing_x_mm, row.spacing_y_mm, row.spacing_z_mm)
            np.testing.assert_allclose(spacing, stated, rtol=1e-5)
        if row.expected_code in ("CROPPED_COPY", "RESAMPLED_COPY") or row.source == "pants":
            continue
        assert image.shape == mask.shape
        if (row.source, row.source_case) not in LOST:
            atol = 0.5 if row.defect == "sheared affine" else 2e-4
            np.testing.assert_allclose(affine, true_affine, atol=atol)
        mine = tumors[tumors.patient == row.patient]
        labels = label_files(root, row)
        if row.expected != "test_only":
            assert row.annotated == ";".join(labels)
        for organ, (label_path, tumor_value, cyst_value) in labels.items():
            label, _ = read_ras(label_path)
            for kind, value in (("tumor", tumor_value), ("cyst", cyst_value)):
                chosen = mine[(mine.organ == organ) & (mine.kind == kind)]
                np.testing.assert_array_equal(label == value, np.isin(mask, chosen.instance))
            assert (mine[mine.organ == organ].kind == "tumor").any()
        for tumor in mine.itertuples():
            inside = mask == tumor.instance
            shell = ndimage.binary_dilation(inside, EVERY_WAY, 2) & (mask == 0)
            contrast = np.median(image[inside]) - np.median(image[shell])
            assert abs(contrast) > 40, tumor


def check_tumors(folder: Path) -> None:
    """Recompute every row of the table from the instance maps."""
    tumors = truth.tumors(folder)
    assert sorted(tumors.instance) == list(range(1, len(tumors) + 1))
    for patient, rows in tumors.groupby("patient"):
        mask, affine = truth.truth_mask(folder, patient)
        assert set(np.unique(mask)) == {0, *rows.instance}
        assert nib.aff2axcodes(affine) == ("R", "A", "S")
        for (_organ, kind), group in rows.groupby(["organ", "kind"]):
            found = ndimage.label(np.isin(mask, group.instance), EVERY_WAY)[1]
            assert found == len(group), (patient, kind)
        for row in rows.itertuples():
            voxels = np.argwhere(mask == row.instance)
            assert len(voxels) == row.voxels
            volume = len(voxels) * abs(np.linalg.det(affine[:3, :3]))
            assert volume == pytest.approx(row.volume_mm3, rel=1e-6)
            assert 4 / 3 * np.pi * row.radius_mm**3 == pytest.approx(volume, rel=1e-6)
            assert volume == pytest.approx(4 / 3 * np.pi * row.ball_radius_mm**3, rel=0.08)
            places = nib.affines.apply_affine(affine, voxels[:, ::-1])
            middle = [row.centroid_x_ras_mm, row.centroid_y_ras_mm, row.centroid_z_ras_mm]
            np.testing.assert_allclose(places.mean(axis=0), middle, atol=1e-4)
            # A ball: no voxel centre further out than the radius, seen from about the middle.
            off_centre = np.linalg.norm(affine[:3, :3].diagonal()) / 2
            reach = np.linalg.norm(places - middle, axis=1).max()
            assert reach <= row.ball_radius_mm + off_centre
            assert row.volume_mm3 > 10 * 14
            assert min(abs(row.radius_mm - edge) for edge in (5, 10, 20)) >= 0.6
            edges = [(5, "tiny"), (10, "small"), (20, "medium"), (np.inf, "large")]
            assert row.size_class == next(name for edge, name in edges if row.radius_mm <= edge)


def test_micro_scans_agree_with_truth(micro: Path) -> None:
    """Labels and grids of the micro set are those of the truth."""
    check_scans(micro)
    check_tumors(micro)


def test_full_scans_agree_with_truth(full: Path) -> None:
    """Labels and grids of the full set are those of the truth."""
    check_scans(full)
    check_tumors(full)


def test_every_organ_and_size_class_occurs(full: Path) -> None:
    """Six organs, four classes; two annotated scans per organ; some tumors unlabelled."""
    tumors, scans = truth.tumors(full), truth.scans(full)
    tumors = tumors[tumors.kind == "tumor"]
    organs = {"liver", "pancreas", "kidney", "colon", "esophagus", "uterus"}
    assert set(tumors.organ) == organs
    assert set(tumors.size_class) == {"tiny", "small", "medium", "large"}
    readable = scans[scans.expected != "excluded"]
    for organ in organs:
        assert readable.annotated.str.split(";").map(lambda found, o=organ: o in found).sum() >= 2
    hidden = tumors[~tumors.annotated_by_source]
    assert set(hidden.organ) == organs
    controls = scans[~scans.patient.isin(tumors.patient) & (scans.expected == "kept")]
    assert list(controls.source) == [
        "chaos", "abdomenatlas11", "pancreas_ct", "word", "amos22", "rsna_atd23", "rsna_atd23",
    ]  # fmt: skip


def test_bytes_depend_on_nothing_but_the_seed(micro: Path, tmp_path: Path) -> None:
    """A second run gives the same bytes, another seed other tumors of the same number."""

    def digests(folder: Path) -> dict[str, str]:
        return {
            str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }

    write_phantoms(tmp_path / "again", micro=True)
    write_phantoms(tmp_path / "other", micro=True, seed=1)
    assert digests(tmp_path / "again") == digests(micro)
    other = digests(tmp_path / "other")
    assert other.keys() == digests(micro).keys()
    name = "sources/lits/Training_Batch1/volume-0.nii"
    assert other[name] != digests(micro)[name]
    check_tumors(tmp_path / "other")


def test_a_lost_spacing_is_all_that_is_lost(full: Path) -> None:
    """LiTS 28 lost only its spacing."""
    sources = full / "sources"
    lits = sources / "lits/Training_Batch1"
    twin, _ = read_ras(sources / "msd_ct/Task03_Liver/imagesTr/liver_28.nii.gz")
    array, affine = read_ras(lits / "volume-28.nii")
    np.testing.assert_array_equal(array, twin)
    np.testing.assert_array_equal(affine, np.eye(4))


def test_the_stated_defects_are_there(full: Path) -> None:
    """Orientation, truncation, AppleDouble files and task descriptions."""
    sources = full / "sources"
    lits = sources / "lits/Training_Batch1"
    assert nib.aff2axcodes(nib.load(lits / "volume-1.nii").affine) == ("L", "A", "I")
    with pytest.raises((OSError, ImageFileError, ValueError)):
        np.asarray(nib.load(lits / "volume-5.nii").dataobj)
    np.asarray(nib.load(lits / "segmentation-5.nii").dataobj)
    kits = nib.load(sources / "kits23/dataset/case_00000/imaging.nii.gz")
    assert nib.aff2axcodes(kits.affine) == ("I", "P", "L")
    assert kits.shape == (36, 80, 96)
    assert (int(kits.header["qform_code"]), int(kits.header["sform_code"])) == (0, 2)
    np.testing.assert_array_equal(kits.affine[:3, 3], 0)
    assert len(list(sources.glob("msd_ct/*/*/._*.nii.gz"))) == 11
    content = json.loads((sources / "msd_ct/Task07_Pancreas/dataset.json").read_text())
    assert content["numTraining"] == len(content["training"]) == 2


def test_chaos_pairs_by_file_name(full: Path) -> None:
    """Names run down the body; the picture of the same number marks the liver."""
    folder = full / "sources/chaos/Train_Sets/CT/1"
    slices = [pydicom.dcmread(p) for p in sorted((folder / "DICOM_anon").iterdir())]
    heights = [float(s.ImagePositionPatient[2]) for s in slices]
    np.testing.assert_allclose(np.diff(heights), -2.0, atol=1e-6)
    assert {(float(s.SliceThickness), float(s.RescaleIntercept)) for s in slices} == {(3.2, -1200)}
    pictures = [np.asarray(Image.open(p)) for p in sorted((folder / "Ground").iterdir())]
    assert set(np.unique(pictures)) == {0, 255}
    hu = np.array([s.pixel_array.astype(int) - 1200 for s in slices])
    inside = hu[np.array(pictures) == 255]
    assert 105 < np.median(inside) < 115 and np.percentile(inside, 1) > 50
    assert truth.truth_mask(full, "patient_11")[0].max() == 0
    mr = next((full / "sources/chaos/Train_Sets/MR/1/T1DUAL/DICOM_anon/InPhase").glob("*.dcm"))
    assert pydicom.dcmread(mr).Modality == "MR"


def test_private_series_is_shuffled_and_named(full: Path) -> None:
    """Neither file names nor instance numbers give the order; personal data is planted."""
    folder = full / "sources/private"
    slices = [pydicom.dcmread(p) for p in sorted((folder / "P001/ct").iterdir())]
    heights = [float(s.ImagePositionPatient[2]) for s in slices]
    assert abs(np.corrcoef(heights, [s.InstanceNumber for s in slices])[0, 1]) < 0.5
    assert (slices[0].PatientName, slices[0].PatientID) == PLANTED[:2]


@pytest.mark.parametrize("case", ["BDMAP_00000001", "BDMAP_00000002"])
def test_organ_masks_are_complete_and_agree(full: Path, case: str) -> None:
    """25 masks; only the prostate of a woman is empty; sides are right in RAS."""
    folder = full / "sources/abdomenatlas11" / case
    classes = {s.index: s.name for s in structures().values() if s.index <= 25}
    masks = {p.name[:-7]: read_ras(p) for p in (folder / "segmentations").iterdir()}
    assert set(masks) == set(classes.values())
    empty = {name for name, (mask, _) in masks.items() if not mask.any()}
    assert empty == (set() if case == "BDMAP_00000001" else {"prostate"})
    if case == "BDMAP_00000002":
        # The arrays of all files agree; two headers do not.
        assert nib.load(folder / "segmentations/liver.nii.gz").affine[0, 0] > 0
        for name in ("segmentations/aorta", "combined_labels"):
            file = nib.load(folder / f"{name}.nii.gz")
            assert nib.aff2axcodes(file.affine) == ("L", "P", "S")
            stored = np.asarray(file.dataobj).transpose(2, 1, 0)
            masks[Path(name).name] = (stored, file.affine)
    else:
        masks["combined_labels"] = read_ras(folder / "combined_labels.nii.gz")
    combined, _ = masks.pop("combined_labels")
    image, _ = read_ras(folder / "ct.nii.gz")
    for index, name in classes.items():
        mask, _ = masks[name]
        assert set(np.unique(mask)) <= {0, 1} and (mask[combined == index] == 1).all()
    tumors = truth.tumors(full)
    for row in tumors[tumors.scans.str.contains(case)].itertuples():
        instances, _ = truth.truth_mask(full, row.patient)
        instances = instances[box_in(read_scan(full / "sources", "lits", "0")[0], image)]
        assert masks[row.structure][0][instances == row.instance].all()
    left, right = (np.argwhere(masks[f"kidney_{side}"][0])[:, 2] for side in ("left", "right"))
    assert left.max() < right.min()
    assert np.argwhere(masks["spleen"][0])[:, 2].max() < np.argwhere(masks["liver"][0])[:, 2].mean()
    assert np.median(image[masks["lung_left"][0] == 1]) < -800


def test_tables_are_read_back_with_their_types(micro: Path) -> None:
    """Loaders keep numbers, truth values and case names apart."""
    tumors, scans = truth.tumors(micro), truth.scans(micro)
    assert tumors.annotated_by_source.dtype == bool
    assert scans.source_case.tolist() == ["0", "BDMAP_00000001", "1", "5"]
    assert pd.api.types.is_float_dtype(tumors.volume_mm3)
    assert tumors.scans[0] == "lits/volume-0;abdomenatlas11/BDMAP_00000001"
    assert "patient_04" not in set(tumors.patient)


# Sources, their copies and their defects


def test_every_source_is_in_the_demo(full: Path) -> None:
    """The configuration names what is written, and the counts are those of the table of scans."""
    config = yaml.safe_load((ROOT / "tests/phantoms/demo.yaml").read_text())
    written = {p.name for p in (full / "sources").iterdir()}
    assert {one["id"] for one in config["sources"]} == written
    assert all(one["path"] == f"sources/{one['id']}" for one in config["sources"])
    counts = Counter(truth.scans(full).source)
    assert {row.source: int(row.scans) for row in truth.found(full).itertuples()} == counts
    assert counts.keys() == written


def test_the_reviewer_knows_every_kept_scan(full: Path, tmp_path: Path) -> None:
    """Under its case's name, or under the pseudonym that the demo's key gives."""
    shutil.copytree(full / "truth", tmp_path / "truth")
    (tmp_path / "records").mkdir()
    _write_key(tmp_path / "records/pseudonym.key")
    key = read_key(tmp_path / "records/pseudonym.key")
    rows = truth.scans(full)
    rows["kept"] = rows.expected == "kept"
    rows["case_id"] = [f"BDMAP_{n:08d}" for n in range(len(rows))]
    named = [
        truth.listed_case(source, case, key)
        for source, case in zip(rows.source, rows.source_case, strict=True)
    ]
    internal = rows.source.isin(["jhh", "private"])
    assert ((rows.source_case != named) == internal).all()
    assert truth.listed_case("private", "P004_s2", key) == f"{pseudonym(key, 'P004')}_s2"
    tables = tmp_path / "results/tables"
    tables.mkdir(parents=True)
    rows.assign(source_case=named).to_parquet(tables / "scans.parquet")
    patients = _patients(tmp_path)
    assert patients == dict(zip(rows.case_id[rows.kept], rows.patient[rows.kept], strict=True))
    for patient in patients.values():
        truth.truth_mask(full, patient)


def test_the_demo_stays_small(full: Path) -> None:
    """At most ten small patients more than the fourteen are kept."""
    scans = truth.scans(full)
    kept = scans[scans.expected == "kept"]
    new = kept[kept.patient > "patient_14"]
    assert len(new) <= 10
    assert (new.shape_x * new.shape_y * new.shape_z).max() < 45_000
    assert not kept.patient.duplicated().any()
    assert min(new.shape_x.min(), new.shape_y.min(), new.shape_z.min()) >= 20


def test_relations_hold_voxel_by_voxel(full: Path) -> None:
    """Same, crop and overlap: equal voxels, padding apart; other phases: equal anatomy only."""
    root, seen = full / "sources", set()
    for row in truth.relations(full).itertuples():
        a, affine_a = read_scan(root, row.source_a, row.source_case_a)
        b, affine_b = read_scan(root, row.source_b, row.source_case_b)
        seen.add(row.relation)
        if row.relation == "same":
            covered = (a > -2000) & (b > -2000)
            np.testing.assert_array_equal(a[covered], b[covered], str(row))
            assert (np.minimum(a, b)[~covered] == -3024).all()
            assert (np.maximum(a, b)[~covered] < -950).all()
        elif row.relation == "crop":
            whole, part = (a, b) if a.size > b.size else (b, a)
            # Where padding replaces air the crop has that air.
            assert part.shape == whole[box_in(whole, part)].shape
        elif row.relation == "overlap":
            # The lower part's top slices are the upper part's first ones.
            offset = np.rint((affine_b - affine_a)[:3, 3] / affine_a.diagonal()[:3]).astype(int)
            shift = offset[::-1]
            common = [
                (slice(max(0, s), min(n, m + s)), slice(max(0, -s), min(m, n - s)))
                for s, n, m in zip(shift, a.shape, b.shape, strict=True)
            ]
            of_a, of_b = (tuple(pair[k] for pair in common) for k in (0, 1))
            assert a[of_a].shape == b[of_b].shape and a[of_a].size > 1000
            np.testing.assert_array_equal(a[of_a], b[of_b])
            assert a[of_a].size < min(a.size, b.size)
        elif row.relation == "same_patient" and a.shape == b.shape:
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98
            assert np.std((a - b)[(a > 0) & (a < 60)]) > 9
    assert seen == {"same", "crop", "overlap", "resample", "same_patient"}


def test_a_resampled_copy_is_linear(full: Path) -> None:
    """ITK's resampling of MSD colon_001 to 2 mm gives FLARE23_0001."""
    images = {
        name: sitk.ReadImage(str(image_path(full / "sources", *name.split("/"))), sitk.sitkFloat32)
        for name in ("msd_ct/colon_001", "flare23/FLARE23_0001")
    }
    native, copy = images.values()
    assert copy.GetSpacing() == (2.0, 2.0, 2.0)
    again = sitk.GetArrayFromImage(sitk.Resample(native, copy))
    inner = (slice(1, -1),) * 3
    difference = again[inner] - sitk.GetArrayFromImage(copy)[inner]
    assert np.abs(difference).max() <= 0.51


def test_each_copy_has_a_kept_scan_and_each_leak_a_test_scan(full: Path) -> None:
    """The tables agree with one another."""
    scans, relations = truth.scans(full), truth.relations(full)
    state = {(r.source, r.source_case): r.expected for r in scans.itertuples()}
    near = {}
    for row in relations.itertuples():
        ends = (row.source_a, row.source_case_a), (row.source_b, row.source_case_b)
        assert "excluded" not in (state[ends[0]], state[ends[1]])
        for one, other in (ends, ends[::-1]):
            near.setdefault(one, {})[other] = row.relation
    codes = {"same": "DUPLICATE", "crop": "CROPPED_COPY", "resample": "RESAMPLED_COPY"}
    reports = truth.reports(full)
    assert not reports.duplicated().any()
    told = set(
        zip(reports.source, reports.source_case, reports["where"], reports.code, strict=True)
    )
    for row in scans.itertuples():
        me = row.source, row.source_case
        if row.expected != "kept":
            assert (*me, "excluded", row.expected_code) in told
        if row.expected == "duplicate":
            (relation,) = [how for other, how in near[me].items() if state[other] == "kept"]
            assert row.expected_code == codes[relation]
    for row in truth.leaks(full).itertuples():
        me = row.source, row.source_case
        assert state[me] == "kept" and (*me, "leak", row.test_set) in told
    external = {
        o for r in truth.leaks(full).itertuples() for o in near.get((r.source, r.source_case), {})
    }
    touched = {name for name, what in state.items() if what == "test_only" and name in near}
    assert touched <= external


def test_the_parent_release_keeps_the_header_of_what_it_cut(full: Path) -> None:
    """BDMAP_00000001 and PanTS: cut to the body, voxel 0 where the whole scan's was."""
    root = full / "sources"
    for whole, part in (
        (("lits", "0"), ("abdomenatlas11", "BDMAP_00000001")),
        (("msd_ct", "pancreas_004"), ("pants", "PanTS_00009001")),
    ):
        (image, affine), (cut, _) = read_scan(root, *whole), read_scan(root, *part)
        box = box_in(image, cut)
        assert all(
            b.start > 0 and b.stop < n for b, n in zip(box[1:], image.shape[1:], strict=True)
        )
        stored = nib.load(image_path(root, *part))
        last = affine @ [*np.array(image.shape[::-1])[:2] - 1, 0, 1]
        np.testing.assert_allclose(stored.affine[:3, 3], last[:3], atol=1e-3)
        soft = (image > -100) & (image < 100)
        labels, count = ndimage.label(soft)
        sizes = ndimage.sum_labels(soft, labels, range(1, count + 1))
        assert ndimage.find_objects(labels)[int(np.argmax(sizes))] == box


def test_swapped_sides_and_lost_images(full: Path) -> None:
    """BDMAP_00000003's kidneys; folders that hold labels alone."""
    atlas = full / "sources/abdomenatlas11"
    left, right = (
        np.argwhere(read_ras(atlas / f"BDMAP_00000003/segmentations/kidney_{side}.nii.gz")[0])
        for side in ("left", "right")
    )
    assert left[:, 2].mean() > right[:, 2].mean()
    for folder in (atlas / "BDMAP_00000004", full / "sources/kits23/dataset/case_00002"):
        assert [p for p in folder.rglob("*.nii.gz")] and not list(folder.glob("[ci]*.nii.gz"))


def test_abdomenct1k_headers(full: Path) -> None:
    """Slices on the second axis, identity, a slight shear that ITK refuses, and none."""
    folder = full / "sources/abdomenct1k/AbdomenCT-1K-ImagePart1"
    headers = {p.name[5:10]: nib.load(p) for p in folder.iterdir()}
    assert nib.aff2axcodes(headers["00001"].affine)[1] == "S"
    np.testing.assert_array_equal(headers["00078"].affine, np.eye(4))
    axes = headers["00011"].affine[:3, :3] / np.linalg.norm(headers["00011"].affine[:3, :3], axis=0)
    assert np.abs(axes.T @ axes - np.eye(3)).max() == pytest.approx(3e-3, rel=1e-3)
    assert int(headers["00011"].header["qform_code"]) == 0
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(folder / "Case_00011_0000.nii.gz"))
    codes = [int(headers["00012"].header[f"{form}form_code"]) for form in "sq"]
    assert codes == [0, 0]
    masks = {p.name for p in (folder.parent / "Mask").iterdir()}
    assert masks == {p.name.replace("_0000.nii", ".nii") for p in folder.iterdir()}


def test_flare_files(full: Path) -> None:
    """Partial labels with pooled tumors, unsigned HU + 1024, a label that replaces another."""
    folder = full / "sources/flare23"
    values = set(
        np.unique(np.asarray(nib.load(folder / "labelsTr2200/FLARE23_0001.nii.gz").dataobj))
    )
    assert 14 in values and not values & set(range(5, 13))
    raw = np.asarray(nib.load(folder / "imagesTr2200/FLARE23_0002_0000.nii.gz").dataobj)
    assert raw.dtype == np.uint16
    colon, _ = read_scan(full / "sources", "msd_ct", "colon_006")
    assert sorted((raw.astype(int) - 1024).ravel()) == sorted(colon.ravel())
    wrong, right = (
        read_ras(folder / "labelsTr2200" / name / "FLARE23_0003.nii.gz")[0]
        for name in (".", "20230507-fix")
    )
    assert (right == 1).any() and not (wrong == 1).any()
    assert [p.name for p in (folder / "unlabeledTr1800").iterdir()] == ["FLARE23_2201.nii.gz"]


def test_defects_of_the_other_nifti_sources(full: Path) -> None:
    """Appended slices, a false checksum, padding, MR beside CT, unsided labels, KiPA's offset."""
    root = full / "sources"
    appended, _ = read_scan(root, "kits23", "case_00400")
    np.testing.assert_array_equal(appended[22:], appended[11:22])
    assert not read_ras(root / "kits23/dataset/case_00400/segmentation.nii.gz")[0][22:].any()
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress((root / "word/WORD-V0.1.0/imagesVal/word_0101.nii.gz").read_bytes())
    assert (read_scan(root, "amos22", "amos_0001")[0] == -3024).any()
    assert read_ras(root / "amos22/amos22/imagesTr/amos_0507.nii.gz")[0].min() >= 0
    assert read_ras(root / "msd_ct/Task02_Heart/imagesTr/la_003.nii.gz")[0].min() >= 0
    volume = root / "ct_org/OrganSegmentations/volume-10.nii.gz"
    assert nib.aff2axcodes(nib.load(volume).affine) == ("L", "P", "S")
    labels, _ = read_ras(volume.with_name("labels-10.nii.gz"))
    kidneys = np.argwhere(labels == 4)[:, 2]
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4, 5}
    assert kidneys.min() < labels.shape[2] / 2 < kidneys.max()
    raw = np.asarray(nib.load(root / "kipa22/train/image/0.nii.gz").dataobj)
    assert raw.dtype == np.uint16 and raw.min() >= 0 and 900 < np.median(raw) < 1300
    assert set(np.unique(read_ras(root / "kipa22/train/label/0.nii.gz")[0])) == {0, 2, 4}
    identity = nib.load(root / "lits/Training_Batch1/volume-29.nii")
    np.testing.assert_array_equal(identity.affine, np.eye(4))
    (label,) = root.glob("uls23/annotations/ULS23/novel_data/*/labels/*.nii.gz.zip")
    with zipfile.ZipFile(label) as archive:
        assert archive.namelist() == [label.name.removesuffix(".zip")]
    btcv = [p.relative_to(root / "btcv/RawData").as_posix() for p in (root / "btcv").rglob("*.gz")]
    assert sorted(btcv) == [
        "Testing/img/img0061.nii.gz", "Training/img/img0001.nii.gz",
        "Training/label/label0001.nii.gz",
    ]  # fmt: skip


def test_pancreas_labels_have_axes_but_no_place_of_their_own(full: Path) -> None:
    """Turned by its axis codes a label lies on the pancreas; by array order it does not."""
    root = full / "sources"
    for case in ("0002", "0025"):
        image, affine = read_scan(root, "pancreas_ct", case)
        path = root / f"pancreas_ct/TCIA_pancreas_labels-02-05-2017/label{case}.nii.gz"
        label, label_affine = read_ras(path)
        assert nib.aff2axcodes(nib.load(path).affine) == ("R", "A", "I")
        assert np.linalg.norm(label_affine[:3, 3] - affine[:3, 3]) > 100
        assert image.shape == label.shape
        assert 90 < np.median(image[label == 1]) < 110
        inside, turned = (np.abs(hu[label == 1] - 100) < 30 for hu in (image, image[::-1]))
        assert inside.mean() > 0.95 and turned.mean() < 0.75


def test_trauma_series_are_stored_oddly(full: Path) -> None:
    """RLE, signed values in 12 bits with an overlay above, two directions, a lost slice."""
    folder = full / "sources/rsna_atd23"
    for case, is_upward in (("21057", True), ("51033", False)):
        parts = sorted(
            (pydicom.dcmread(p) for p in (folder / "train_images/10004" / case).iterdir()),
            key=lambda part: part.InstanceNumber,
        )
        first = parts[0]
        assert first.file_meta.TransferSyntaxUID == pydicom.uid.RLELossless
        assert (first.PixelRepresentation, first.BitsAllocated, first.BitsStored) == (1, 16, 12)
        assert first.InstanceNumber == 250
        steps = np.diff([float(part.ImagePositionPatient[2]) for part in parts])
        assert (steps > 0).all() if is_upward else (steps < 0).all()
        assert {part.PatientID for part in parts} == {"10004"}
        decoder = pydicom.pixels.get_decoder(pydicom.uid.RLELossless)
        raw = np.frombuffer(decoder.as_buffer(first, index=0)[0], "<u2")
        assert ((raw >> 12) == 4).any() and set(np.unique(raw >> 12)) == {0, 4}
    parts = [pydicom.dcmread(p) for p in (folder / "train_images/18667/18667").iterdir()]
    gaps = np.diff(sorted(float(part.ImagePositionPatient[2]) for part in parts))
    assert gaps.max() == pytest.approx(2 * gaps.min(), rel=1e-4) and (gaps > 3).sum() == 1
    label = nib.load(folder / "segmentations/21057.nii")
    assert nib.aff2axcodes(label.affine) == ("R", "P", "I")
    values, _ = read_ras(folder / "segmentations/21057.nii")
    image, _ = read_scan(full / "sources", "rsna_atd23", "21057")
    assert 100 < np.median(image[values == 1]) < 120 and set(np.unique(values)) == {
        0,
        1,
        2,
        3,
        4,
        5,
    }
    liver, spleen = (np.argwhere(values == v)[:, 2].mean() for v in (1, 2))
    assert liver > spleen


def test_ircadb_has_no_extensions(full: Path) -> None:
    """Images and masks named image_K; the three tumors lie in the liver's mask."""
    folder = full / "sources/ircadb/3Dircadb1/3Dircadb1.1"
    names = {f"image_{k}" for k in range(43)}
    masks = {}
    for place in (folder / "PATIENT_DICOM", *(folder / "MASKS_DICOM").iterdir()):
        assert {p.name for p in place.iterdir()} == names
        if place.name != "PATIENT_DICOM":
            stack = [pydicom.dcmread(place / f"image_{k}").pixel_array for k in range(43)]
            masks[place.name] = np.array(stack)
    assert masks.keys() == {"liver", "livertumor01", "livertumor02", "livertumor03"}
    assert all(set(np.unique(mask)) == {0, 255} for mask in masks.values())
    instances, _ = truth.truth_mask(full, "patient_03")
    tumors = sum((mask > 0).astype(int) for name, mask in masks.items() if name != "liver")
    np.testing.assert_array_equal(tumors[::-1, ::-1, ::-1] == 1, instances > 0)


def test_private_data_is_planted_everywhere(full: Path) -> None:
    """Each planted text is in a file, a file's name or a folder's name; twenty and more."""
    folder = full / "sources/private"
    files = [p for p in folder.rglob("*") if p.is_file()]
    names = "\n".join(str(p.relative_to(folder)) for p in files)
    content = b""
    for path in files:
        data = path.read_bytes()
        content += data[:100] + (gzip.decompress(data)[:1000] if path.suffix == ".gz" else data)
    assert len(set(PLANTED)) == len(PLANTED) >= 20
    assert not [text for text in PLANTED if text not in names and text.encode() not in content]
    part = pydicom.dcmread(next((folder / "P001/ct").iterdir()))
    assert part.private_block(0x0009, "ELSEWHERE ARCHIVE")[0x01].value in PLANTED
    assert part.RequestAttributesSequence[0].RequestedProcedureDescription in PLANTED
    assert part.preamble.rstrip(b"\0").decode() in PLANTED
    image = nib.load(folder / "P002/ct.nii.gz")
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        assert image.header[field].item().decode() in PLANTED
    assert image.header.extensions[0].get_content().decode() in PLANTED
    with gzip.open(folder / "P002/ct.nii.gz") as file:
        file.read(1)
        assert file.mtime == 0
    assert (folder / "P002/ct.nii.gz").read_bytes()[3] == 8  # a name follows the gzip header


def test_an_archive_s_export_holds_more_than_scans(full: Path) -> None:
    """Two series, a copied slice, a localizer and structures in one folder; P003; a tilt."""
    folder = full / "sources/private"
    parts = [pydicom.dcmread(p) for p in (folder / "P004/ct").iterdir()]
    kinds = Counter(part.Modality for part in parts)
    assert kinds["RTSTRUCT"] == 1
    images = [part for part in parts if part.Modality == "CT"]
    assert len({part.SeriesInstanceUID for part in images}) == 3
    assert Counter(Counter(part.SOPInstanceUID for part in images).values())[2] == 1
    (scout,) = [part for part in images if "LOCALIZER" in (part.get("ImageType") or [])]
    assert scout.SeriesNumber == 1
    first, second = (
        pydicom.dcmread(next((folder / name / "ct").iterdir()))
        for name in ("P001", "P003_DOE_JANE")
    )
    assert first.PatientID == second.PatientID
    assert first.StudyInstanceUID != second.StudyInstanceUID
    tumors = truth.tumors(full).set_index("patient")
    phase = tumors.loc["patient_24"]
    same = tumors.loc["patient_13"].query("organ == 'esophagus'")
    assert list(phase.voxels) == list(same.voxels)
    np.testing.assert_allclose(phase.centroid_z_ras_mm, same.centroid_z_ras_mm, atol=1e-3)
    tilted = pydicom.dcmread(next((folder / "P005/ct").iterdir()))
    assert float(tilted.ImageOrientationPatient[5]) == pytest.approx(
        np.sin(np.radians(12)), abs=1e-5
    )
