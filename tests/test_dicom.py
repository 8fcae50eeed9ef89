"""DICOM series and mask pictures onto a grid."""

import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from tumoratlas.core.errors import InputError
from tumoratlas.images.dicom import DicomSeries, read_png_stack, read_series
from tumoratlas.images.grid import to_canonical
from tumoratlas.images.nifti import read_nifti

MAX_VOXELS = 10**9
SERIES, STUDY = generate_uid(entropy_srcs=["series"]), generate_uid(entropy_srcs=["study"])
HU = np.random.default_rng(11).integers(-1024, 1500, (8, 6, 5)).astype(np.int16)


def slice_of(stored: np.ndarray, height_mm: float, **fields: object) -> Dataset:
    """Return a CT slice; ``fields`` replace elements, None removes them."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    uid = generate_uid(entropy_srcs=[str(height_mm)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    values = {
        "Modality": "CT",
        "PatientName": "DOE^JANE",
        "PatientSex": "F",
        "PatientAge": "061Y",
        "InstitutionName": "St. Doe",
        "SeriesDescription": "Abd PORTAL venous DOE",
        "Manufacturer": "ACME",
        "KVP": "120",
        "SliceThickness": "5",
        "SeriesInstanceUID": SERIES,
        "StudyInstanceUID": STUDY,
        "ImagePositionPatient": [-10.5, 20.25, height_mm],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.75, 0.5],
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16 if stored.dtype == np.int16 else 12,
        "HighBit": 15 if stored.dtype == np.int16 else 11,
        "PixelRepresentation": int(stored.dtype == np.int16),
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024" if stored.dtype == np.uint16 else "0",
        "PixelData": stored.tobytes(),
    }
    for name, value in {**values, **fields}.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset["PixelData"].VR = "OW"
    return dataset


def save(folder: Path, slices: list[Dataset], names: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for index, dataset in enumerate(slices):
        name = names[index] if names else f"{index:03d}.dcm"
        dataset.save_as(folder / name, enforce_file_format=True)
    return folder


def stack(step_mm: float = 2.0, **fields: object) -> list[Dataset]:
    return [slice_of(part, 100 + step_mm * k, **fields) for k, part in enumerate(HU)]


def read(folder: Path) -> DicomSeries:
    return read_series(folder, max_voxels=MAX_VOXELS)


def refused(code: str, action: Callable[[], object]) -> InputError:
    with pytest.raises(InputError) as caught:
        action()
    assert caught.value.code == code, caught.value
    return caught.value


def test_slices_are_placed_by_position_whatever_their_names(tmp_path: Path) -> None:
    names = [f"{7 - k}.dcm" for k in range(8)]
    series = read(save(tmp_path / "s", stack(), names))
    np.testing.assert_array_equal(series.array, HU)
    assert [path.name for path in series.files] == names
    assert series.grid.orientation == "LPS" and series.grid.spacing_mm == (0.5, 0.75, 2.0)
    by_itk = sitk.ImageSeriesReader()
    by_itk.SetFileNames([str(path) for path in series.files])
    image = by_itk.Execute()
    to_ras = np.diag([-1, -1, 1])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), HU)
    for index in ((0, 0, 0), (4, 5, 7), (2, 1, 3)):
        there = to_ras @ image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((series.grid.affine @ [*index, 1])[:3], there)
    shuffled = read_series(sorted(series.files)[::-1], max_voxels=MAX_VOXELS)
    assert shuffled.sha256 == series.sha256 and shuffled.files == series.files


def test_oblique_series_lies_where_itk_puts_it(tmp_path: Path) -> None:
    row, column = np.array([0.8, 0.6, 0]), np.array([-0.36, 0.48, -0.8])
    normal = np.cross(row, column)
    slices = [
        slice_of(
            part, k,
            ImageOrientationPatient=[*row, *column],
            ImagePositionPatient=list(np.round([5, 6, 7] + 1.5 * k * normal, 6)),
        )
        for k, part in enumerate(HU)
    ]  # fmt: skip
    series = read(save(tmp_path / "s", slices))
    by_itk = sitk.ImageSeriesReader()
    by_itk.SetFileNames([str(path) for path in series.files])
    there = by_itk.Execute().TransformIndexToPhysicalPoint((4, 5, 7))
    here = (series.grid.affine @ [4, 5, 7, 1])[:3]
    np.testing.assert_allclose(here * [-1, -1, 1], there, atol=1e-4)


def test_hu_are_computed_per_slice(tmp_path: Path) -> None:
    stored = [(part.astype(np.int32) + 1024).astype(np.uint16) for part in HU]
    slices = [slice_of(part, 2 * k) for k, part in enumerate(stored)]
    slices[3] = slice_of(stored[3] * np.uint16(1), 6, RescaleSlope="0.5", RescaleIntercept="-10")
    array = read(save(tmp_path / "s", slices)).array
    np.testing.assert_array_equal(array[[0, 1, 2, 4]], HU[[0, 1, 2, 4]])
    np.testing.assert_array_equal(array[3], np.floor(stored[3] * 0.5 - 10 + 0.5))


def test_only_listed_facts_leave_the_series(tmp_path: Path) -> None:
    series = read(save(tmp_path / "s", stack(ContrastBolusAgent="Jane's Omnipaque")))
    assert series.facts == {
        "modality": "CT",
        "sex": "F",
        "age_years": 61.0,
        "manufacturer": "ACME",
        "manufacturer_model": None,
        "kvp": 120.0,
        "slice_thickness_mm": 5.0,
        "patient_position": None,
        "has_contrast_agent": True,
        "phase": "venous",
    }


def encoded(stored: np.ndarray, syntax: str) -> bytes:
    if syntax == JPEGLosslessSV1:
        return imagecodecs.ljpeg_encode(stored.view(np.uint16), bitspersample=16)
    if syntax == JPEG2000Lossless:
        return imagecodecs.jpeg2k_encode(stored, level=0, codecformat="J2K", reversible=True)
    return imagecodecs.jpegls_encode(stored.view(np.uint16))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_lossless_compression_is_decoded(tmp_path: Path, syntax: str, signed: bool) -> None:
    slices = []
    for k, part in enumerate(HU):
        stored = part if signed else (part.astype(np.int32) + 1024).astype(np.uint16)
        dataset = slice_of(stored, 2 * k)
        if syntax == RLELossless:
            dataset.compress(RLELossless, generate_instance_uid=False)
        else:
            frame = encoded(stored, syntax)
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.PixelData = encapsulate([frame])
            dataset["PixelData"].VR = "OB"
            dataset["PixelData"].is_undefined_length = True
        slices.append(dataset)
    series = read(save(tmp_path / "s", slices))
    np.testing.assert_array_equal(series.array, HU)


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", stack())
    (folder / "README.txt").write_text("about these scans " * 20)
    localizer = slice_of(HU[0], 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    localizer.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    save(folder, [localizer, slice_of(HU[0], 0, Modality="SEG")], ["loc.dcm", "seg.dcm"])
    series = read(folder)
    np.testing.assert_array_equal(series.array, HU)
    assert [finding.code for finding in series.findings] == ["OTHER_FILES"]


def test_empty_identifiers_are_no_defect(tmp_path: Path) -> None:
    slices = stack(SeriesInstanceUID="", StudyInstanceUID="")
    np.testing.assert_array_equal(read(save(tmp_path / "s", slices)).array, HU)


def changed(index: int, **fields: object) -> list[Dataset]:
    slices = stack()
    slices[index] = slice_of(HU[index], 100 + 2.0 * index, **fields)
    return slices


def tilted(per_slice_mm: float) -> list[Dataset]:
    return [
        slice_of(part, 2 * k, ImagePositionPatient=[0, per_slice_mm * k, 2 * k])
        for k, part in enumerate(HU)
    ]


BAD: dict[str, tuple[str, Callable[[], list[Dataset]]]] = {
    "MR": ("NOT_CT_SERIES", lambda: stack(Modality="MR")),
    "one MR slice": ("MIXED_SERIES", lambda: changed(3, Modality="MR")),
    "two series": ("MIXED_SERIES", lambda: changed(3, SeriesInstanceUID=STUDY)),
    "two sizes": ("MIXED_SERIES", lambda: [*stack()[:7], slice_of(HU[7, :5], 114)]),
    "two spacings": ("MIXED_SERIES", lambda: changed(3, PixelSpacing=[0.7, 0.5])),
    "turned": ("MIXED_SERIES", lambda: changed(3, ImageOrientationPatient=[0, 1, 0, -1, 0, 0])),
    "no position": ("NO_POSITION", lambda: changed(3, ImagePositionPatient=None)),
    "no orientation": ("NO_POSITION", lambda: stack(ImageOrientationPatient=None)),
    "no spacing": ("NO_POSITION", lambda: stack(PixelSpacing=None)),
    "axes not square": ("NO_POSITION", lambda: stack(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])),
    "one slice": ("ONE_SLICE", lambda: stack()[:1]),
    "duplicate": ("DUPLICATE_POSITIONS", lambda: [*stack(), slice_of(HU[0], 104)]),
    "all at one place": ("DUPLICATE_POSITIONS", lambda: stack(0)),
    "inner slice missing": ("MISSING_SLICES", lambda: stack()[:4] + stack()[5:]),
    "second slice missing": ("MISSING_SLICES", lambda: stack()[:1] + stack()[2:]),
    "half a step": ("IRREGULAR_SLICES", lambda: [*stack()[:7], slice_of(HU[7], 113)]),
    "tilt": ("GANTRY_TILT", lambda: tilted(0.3)),
    "enhanced": ("DICOM_MULTIFRAME", lambda: stack(NumberOfFrames=2)),
    "cut pixels": ("DICOM_UNDECODABLE", lambda: changed(3, PixelData=bytes(10))),
    "beyond HU": ("HU_RANGE", lambda: stack(RescaleSlope="100")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_series_is_refused(tmp_path: Path, name: str) -> None:
    code, slices = BAD[name]
    folder = save(tmp_path / "s", slices())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(code, lambda: read(folder))


def test_bad_folder_is_refused(tmp_path: Path) -> None:
    refused("NO_DICOM", lambda: read_series([], max_voxels=10))
    (tmp_path / "readme").write_text("no scans here " * 20)
    refused("NO_DICOM", lambda: read(tmp_path))
    folder = save(tmp_path / "s", stack())
    refused("VOLUME_TOO_LARGE", lambda: read_series(folder, max_voxels=HU.size - 1))
    syntax = changed(0)
    syntax[0].file_meta.TransferSyntaxUID = JPEG2000Lossless
    syntax[0].PixelData = encapsulate([b"no picture"])
    syntax[0]["PixelData"].VR = "OB"
    error = refused("DICOM_UNDECODABLE", lambda: read(save(tmp_path / "t", syntax)))
    assert error.subject.endswith("000.dcm")


@pytest.mark.parametrize("kept", [300, 700, -100, -1])
def test_cut_slice_is_refused(tmp_path: Path, kept: int) -> None:
    """The last slice: without it the rest would still be a regular stack."""
    folder = save(tmp_path / "s", stack())
    path = folder / "007.dcm"
    path.write_bytes(path.read_bytes()[:kept])
    with warnings.catch_warnings(), pytest.raises(InputError, match=r"DICOM_UN.*007\.dcm"):
        warnings.simplefilter("ignore")
        read(folder)


def test_jitter_is_recorded(tmp_path: Path) -> None:
    slices = [*stack()[:4], slice_of(HU[4], 108.1), *stack()[5:]]
    series = read(save(tmp_path / "s", slices))
    assert [finding.code for finding in series.findings] == ["SLICE_JITTER"]
    assert series.grid.spacing_mm[2] == pytest.approx(2.0)
    rounded = read(save(tmp_path / "r", stack(0.625, RescaleType="HU")))
    assert rounded.findings == ()


def test_pictures_follow_file_names(tmp_path: Path) -> None:
    """Numbers in names count as numbers, and names may run against positions."""
    names = [f"i{11 - k}.dcm" for k in range(8)]
    series = read(save(tmp_path / "s", stack(), names))
    pictures = []
    for k in range(8):
        path = tmp_path / f"liver_{k + 3}.png"
        path.write_bytes(imagecodecs.png_encode(np.full(HU.shape[1:], k, np.uint8)))
        pictures.append(path)
    masks = read_png_stack(pictures[::-1], series)
    assert masks[:, 0, 0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    refused("PNG_COUNT", lambda: read_png_stack(pictures[1:], series))
    pictures[0].write_bytes(imagecodecs.png_encode(np.zeros((3, 3), np.uint8)))
    refused("PNG_SHAPE", lambda: read_png_stack(pictures, series))
    pictures[0].write_bytes(b"no picture")
    refused("PNG_SHAPE", lambda: read_png_stack(pictures, series))


def unpack(archive: Path, folder: Path) -> list[Path]:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_real_chaos_masks_lie_on_the_liver(real_data: Path, tmp_path: Path) -> None:
    chaos = real_data / "chaos_ct_set_3"
    slices = unpack(chaos / "dicom.tar.xz", tmp_path / "d")
    series = read(slices[0].parent)
    masks = read_png_stack(unpack(chaos / "ground_png.tar.xz", tmp_path / "g"), series)
    assert series.array.shape == (78, 512, 512)
    assert series.grid.spacing_mm == pytest.approx((0.727, 0.727, 2.0), abs=1e-3)
    assert series.array[masks > 0].mean() == pytest.approx(141, abs=1)
    assert series.array[masks[::-1] > 0].mean() == pytest.approx(36, abs=1)


def test_real_series_have_the_spacing_of_their_positions(real_data: Path, tmp_path: Path) -> None:
    crlm = read(unpack(real_data / "tcia_crlm_ct_1004" / "dicom.tar.xz", tmp_path / "c")[0].parent)
    assert crlm.array.shape == (41, 512, 512) and crlm.array.min() == -3024
    assert crlm.grid.spacing_mm == pytest.approx((0.797, 0.797, 5.0), abs=1e-3)
    totalseg = read(real_data / "totalseg_ct_dicom" / "dicom")
    assert totalseg.array.shape == (20, 512, 512)
    assert totalseg.grid.spacing_mm == pytest.approx((0.977, 0.977, 2.0), abs=1e-3)
    dcmqi = read(real_data / "dcmqi_liver_seg" / "ct-3slice")
    assert dcmqi.grid.spacing_mm == pytest.approx((0.811, 0.811, 1.0), abs=1e-3)


def test_real_labels_fit_the_series(real_data: Path) -> None:
    """TotalSegmentator's label map of the JPEG 2000 series lies on it: liver and spleen in HU."""
    folder = real_data / "totalseg_ct_dicom"
    series = read(folder / "dicom")
    array, grid = to_canonical(series.array, series.grid)
    labels = read_nifti(folder / "seg.nii.gz", max_voxels=MAX_VOXELS)
    masks, mask_grid = to_canonical(labels.array, labels.grid)
    assert grid.corner_distance_mm(mask_grid) < 0.05
    assert 85 < array[masks == 5].mean() < 95 and 75 < array[masks == 1].mean() < 85
