"""The phantoms' truth against an independent reading of their files."""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tests.phantoms import truth, write_phantoms
from tests.phantoms.layouts import PLANTED
from tumoratlas.core.structures import structures

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


def source_files(root: Path, row: object) -> tuple[Path, dict[str, tuple[Path, int, int]]]:
    """Return a scan's image and, by organ, its label file and the tumor and cyst values."""
    case = row.source_case
    if row.source == "lits":
        folder = root / "lits/Training_Batch1"
        labels = {"liver": (folder / f"segmentation-{case}.nii", 2, -1)}
        return folder / f"volume-{case}.nii", labels
    if row.source == "kits23":
        folder = root / "kits23/dataset" / case
        return folder / "imaging.nii.gz", {"kidney": (folder / "segmentation.nii.gz", 2, 3)}
    if row.source == "msd_ct":
        organ = case.split("_")[0]
        (image,) = root.glob(f"msd_ct/*/imagesTr/{case}.nii.gz")
        value = 1 if organ == "colon" else 2
        label = image.parent.with_name("labelsTr") / image.name
        return image, {organ: (label, value, -1)}
    if row.source == "abdomenatlas11":
        return root / row.source / case / "ct.nii.gz", {}
    if row.source == "chaos":
        return root / "chaos/Train_Sets/CT" / case / "DICOM_anon", {}
    folder = root / row.source / case
    labels = {o: (folder / f"masks/{o}_tumor.nii.gz", 1, -1) for o in ("esophagus", "uterus")}
    return folder / ("ct" if case == "P001" else "ct.nii.gz"), labels


def check_scans(folder: Path) -> None:
    """Re-read every readable scan and compare it with the truth of its patient."""
    tumors = truth.tumors(folder)
    for row in truth.scans(folder).itertuples():
        path, labels = source_files(folder / "sources", row)
        if row.expected == "excluded":
            continue
        image, affine = read_dicom(path) if path.is_dir() else read_ras(path)
        mask, true_affine = truth.truth_mask(folder, row.patient)
        assert image.shape == mask.shape == (row.shape_z, row.shape_y, row.shape_x)
        assert -1000 <= image.min() <= -900 and 200 < image.max() <= 1000
        if row.defect != "identity affine":
            np.testing.assert_allclose(affine, true_affine, atol=2e-4)
        assert row.annotated == ";".join(labels)
        mine = tumors[tumors.patient == row.patient]
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
    assert list(controls.source) == ["chaos", "abdomenatlas11"]


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


def test_the_duplicates_hold_the_same_voxels(full: Path) -> None:
    """LiTS 0 is BDMAP_00000001 stored otherwise; LiTS 28 lost only its spacing."""
    sources = full / "sources"
    lits = sources / "lits/Training_Batch1"
    atlas = sources / "abdomenatlas11/BDMAP_00000001/ct.nii.gz"
    assert nib.aff2axcodes(nib.load(atlas).affine) == ("L", "P", "S")
    np.testing.assert_array_equal(read_ras(lits / "volume-0.nii")[0], read_ras(atlas)[0])
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
    assert len(list(sources.glob("msd_ct/*/*/._*.nii.gz"))) == 10
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
    header = nib.load(folder / "P002/ct.nii.gz").header
    assert header["descrip"].item().decode() == PLANTED[4]


@pytest.mark.parametrize("case", ["BDMAP_00000001", "BDMAP_00000002"])
def test_organ_masks_are_complete_and_agree(full: Path, case: str) -> None:
    """25 masks; only the prostate of a woman is empty; sides are right in RAS."""
    folder = full / "sources/abdomenatlas11" / case
    classes = {s.index: s.name for s in structures().values() if s.index <= 25}
    masks = {p.name[:-7]: read_ras(p) for p in (folder / "segmentations").iterdir()}
    assert set(masks) == set(classes.values())
    empty = {name for name, (mask, _) in masks.items() if not mask.any()}
    assert empty == (set() if case == "BDMAP_00000001" else {"prostate"})
    combined, _ = read_ras(folder / "combined_labels.nii.gz")
    image, _ = read_ras(folder / "ct.nii.gz")
    for index, name in classes.items():
        mask, _ = masks[name]
        assert set(np.unique(mask)) <= {0, 1} and (mask[combined == index] == 1).all()
    tumors = truth.tumors(full)
    for row in tumors[tumors.scans.str.contains(case)].itertuples():
        instances, _ = truth.truth_mask(full, row.patient)
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
