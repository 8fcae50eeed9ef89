"""DICOM series and mask pictures onto a grid."""

import re
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    ComprehensiveSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from tumoratlas.core.errors import InputError
from tumoratlas.images.dicom import (
    DicomSeries,
    read_mask_series,
    read_png_stack,
    read_series,
)
from tumoratlas.images.dicom_facts import series_facts
from tumoratlas.images.dicom_series import split_series
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


def test_rounded_axes_are_made_straight(tmp_path: Path) -> None:
    """Cosines of three digits: ITK would refuse to read the affine when it is written."""
    slices = stack(ImageOrientationPatient=[0.999, 0.035, 0, -0.0345, 0.9994, 0])
    axes = read(save(tmp_path / "s", slices)).grid.affine[:3, :3] / [0.5, 0.75, 2.0]
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(axes[:2, 0], [-0.999, -0.035], atol=1e-3)


def test_hu_are_computed_per_slice(tmp_path: Path) -> None:
    stored = [(part.astype(np.int32) + 1024).astype(np.uint16) for part in HU]
    slices = [slice_of(part, 2 * k) for k, part in enumerate(stored)]
    slices[3] = slice_of(stored[3] * np.uint16(1), 6, RescaleSlope="0.5", RescaleIntercept="-10")
    array = read(save(tmp_path / "s", slices)).array
    np.testing.assert_array_equal(array[[0, 1, 2, 4]], HU[[0, 1, 2, 4]])
    np.testing.assert_array_equal(array[3], np.floor(stored[3] * 0.5 - 10 + 0.5))


def test_only_listed_facts_leave_the_series(tmp_path: Path) -> None:
    slices = stack(
        ContrastBolusAgent="Jane's Omnipaque",
        ManufacturerModelName="Scanner of Dr. Doe",
        PatientPosition="DOE",
        Manufacturer="DOE JANE",
        StationName="DOE",
    )
    series = read(save(tmp_path / "s", slices))
    assert series.facts == {
        "modality": "CT",
        "sex": "F",
        "age_years": 61.0,
        "manufacturer": "other",
        "kvp": 120.0,
        "slice_thickness_mm": 5.0,
        "patient_position": None,
        "has_contrast_agent": True,
        "phase": "venous",
    }


def smooth_volume() -> np.ndarray:
    """Return HU (4, 24, 20) of a body in air with fat, soft tissue, bone and noise."""
    z, y, x = np.mgrid[:4, :24, :20]
    radius = np.hypot(y - 11.5, x - 9.5) + 0.2 * z
    hu = np.select([radius < 2, radius < 7, radius < 9], [900, 40, -100], -1000)
    return (hu + np.random.default_rng(3).integers(-15, 16, hu.shape)).astype(np.int16)


BODY = smooth_volume()


def stored_as(words: np.ndarray, **fields: object) -> list[Dataset]:
    """Return slices of 16-bit words."""
    return [slice_of(part, 2 * k, **fields) for k, part in enumerate(words)]


def encoded(stored: np.ndarray, syntax: str) -> bytes:
    words = stored.view(np.uint16)
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        predictor = 1 if syntax == JPEGLosslessSV1 else 6
        return imagecodecs.jpeg8_encode(words, lossless=True, predictor=predictor, bitspersample=16)
    if syntax == JPEG2000Lossless:
        return imagecodecs.jpeg2k_encode(stored, level=0, codecformat="J2K", reversible=True)
    if syntax == JPEG2000:
        return imagecodecs.jpeg2k_encode(stored, level=80, codecformat="J2K", reversible=False)
    if syntax == HTJ2KLossless:
        return imagecodecs.htj2k_encode(stored)
    if syntax == JPEGBaseline8Bit:
        return imagecodecs.jpeg8_encode(stored.astype(np.uint8), level=98)
    if syntax == JPEGExtended12Bit:
        return imagecodecs.jpeg8_encode(words, level=98, bitspersample=12)
    return imagecodecs.jpegls_encode(words, level=2 if syntax == JPEGLSNearLossless else None)


def compressed(stored: np.ndarray, height_mm: float, syntax: str, **fields: object) -> Dataset:
    dataset = slice_of(stored, height_mm, **fields)
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
        return dataset
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([encoded(stored, syntax)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


LOSSLESS = [JPEGLossless, JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless, HTJ2KLossless]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [*LOSSLESS, RLELossless])
def test_lossless_compression_is_decoded(tmp_path: Path, syntax: str, signed: bool) -> None:
    stored = HU if signed else (HU.astype(np.int32) + 1024).astype(np.uint16)
    series = read(
        save(tmp_path / "s", [compressed(p, 2 * k, syntax) for k, p in enumerate(stored)])
    )
    np.testing.assert_array_equal(series.array, HU)
    assert series.findings == () and series.repairs == ()


def test_signed_values_in_an_unsigned_stream_get_their_sign(tmp_path: Path) -> None:
    """A JPEG stream of 12 bits has no sign: PixelRepresentation tells it."""
    slices = []
    for k, part in enumerate(BODY):
        bits = part.view(np.uint16) & np.uint16(0xFFF)
        dataset = compressed(bits, 2 * k, JPEGLSLossless, PixelRepresentation=1)
        dataset.RescaleIntercept = "0"
        slices.append(dataset)
    series = read(save(tmp_path / "s", slices))
    np.testing.assert_array_equal(series.array, BODY)
    assert series.repairs == ()


@pytest.mark.parametrize(
    "syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000]
)
def test_lossy_compression_is_decoded_and_recorded(tmp_path: Path, syntax: str) -> None:
    fields: dict[str, object] = {"BitsStored": 12, "HighBit": 11}
    stored = (BODY.astype(np.int32) + 1024).astype(np.uint16)
    if syntax == JPEGBaseline8Bit:
        stored = stored >> np.uint16(3)
        fields = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleSlope": "8"}
    slices = [compressed(part, 2 * k, syntax, **fields) for k, part in enumerate(stored)]
    series = read(save(tmp_path / "s", slices))
    # The worst pixel is at the skin, where quantized waves ring most.
    assert np.abs(series.array.astype(int) - BODY).mean() < 15
    assert [finding.code for finding in series.findings] == ["LOSSY"]


def test_stated_loss_is_recorded(tmp_path: Path) -> None:
    series = read(save(tmp_path / "s", stack(LossyImageCompression="01")))
    assert [finding.code for finding in series.findings] == ["LOSSY"]


@pytest.mark.parametrize("kept", [-3, 0.9, 0.5])
@pytest.mark.parametrize("syntax", [*LOSSLESS, RLELossless, JPEGExtended12Bit])
def test_cut_stream_is_refused(tmp_path: Path, syntax: str, kept: float) -> None:
    """Decoders fill up what is missing: the file is whole, the stream in it is not."""
    stored = (BODY.astype(np.int32) + 1024).astype(np.uint16)
    slices = [compressed(part, 2 * k, syntax) for k, part in enumerate(stored)]
    stream = next(generate_frames(slices[2].PixelData, number_of_frames=1))
    stream = stream[: kept if kept < 0 else int(kept * len(stream))]
    # RLE may end in a byte of padding.
    slices[2].PixelData = encapsulate([stream[:-3] if syntax == RLELossless else stream])
    folder = save(tmp_path / "s", slices)
    assert "002.dcm" in str(refused("DICOM_UNDECODABLE", lambda: read(folder)))


NATIVE = {
    "implicit": (ImplicitVRLittleEndian, True, True),
    "deflated": (DeflatedExplicitVRLittleEndian, False, True),
    "big endian": (ExplicitVRBigEndian, False, False),
}


@pytest.mark.parametrize("name", NATIVE)
def test_every_native_encoding_is_read(tmp_path: Path, name: str) -> None:
    syntax, implicit, little = NATIVE[name]
    (tmp_path / "s").mkdir()
    for k, part in enumerate(HU):
        dataset = slice_of(part, 2 * k)
        dataset.file_meta.TransferSyntaxUID = syntax
        if not little:
            dataset.PixelData = part.byteswap().tobytes()
        dataset.save_as(
            tmp_path / f"s/{k}.dcm", implicit_vr=implicit, little_endian=little,
            enforce_file_format=True,
        )  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path / "s").array, HU)
    assert split(tmp_path / "s") == [("", 8, None)]


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for k, part in enumerate(HU):
        dataset = slice_of(part, 2 * k)
        del dataset.file_meta
        dataset.save_as(folder / f"{k}", implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(read(folder).array, HU)
    assert split(folder) == [("", 8, None)]


def by_gdcm(series: DicomSeries) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in series.files])
    return sitk.GetArrayFromImage(reader.Execute())


def test_sign_is_extended_from_the_stored_bits(tmp_path: Path) -> None:
    """RSNA's files: signed values of 12 bits whose sign was not copied into the upper bits."""
    words = BODY.view(np.uint16) & np.uint16(0xFFF)
    fields = {"PixelRepresentation": 1, "RescaleIntercept": "0"}
    series = read(save(tmp_path / "s", stored_as(words, **fields)))
    np.testing.assert_array_equal(series.array, BODY)
    np.testing.assert_array_equal(series.array, by_gdcm(series))
    (repair,) = series.repairs
    assert repair.name == "stored_bits" and "4 slices" in repair.before
    assert repair.after == f"values {BODY.min()} to {BODY.max()}"
    extended = {"BitsStored": 12, "HighBit": 11}
    assert read(save(tmp_path / "e", stored_as(BODY, **extended))).repairs == ()


def test_overlay_in_high_bits_is_no_value(tmp_path: Path) -> None:
    words = (BODY.astype(np.int32) + 1024).astype(np.uint16)
    words[1, 5:9, 3:15] |= np.uint16(1 << 13)
    series = read(save(tmp_path / "s", stored_as(words)))
    np.testing.assert_array_equal(series.array, BODY)
    assert "1 slices" in series.repairs[0].before


@pytest.mark.parametrize("signed", [True, False])
def test_values_above_too_few_stored_bits_are_kept(tmp_path: Path, signed: bool) -> None:
    """Metal beyond the 12 bits that the header states: cut to them, it would turn into air."""
    hu = BODY.copy()
    hu[2, 9:15, 7:13], hu[2, 10:14, 8:12] = 1800, 3600
    words = hu if signed else (hu + 1024).astype(np.uint16)
    series = read(save(tmp_path / "s", stored_as(words, BitsStored=12, HighBit=11)))
    np.testing.assert_array_equal(series.array, hu)
    assert series.repairs == () and [f.code for f in series.findings] == ["STORED_BITS"]


def test_padding_outside_the_stored_bits_is_refused(tmp_path: Path) -> None:
    """-2000 written as an unsigned word: cut to 12 bits, it would be bone around the body."""
    words = (BODY.astype(np.int32) + 1024).astype(np.uint16)
    words[:, :3] = 65536 - 2000
    folder = save(tmp_path / "s", stored_as(words))
    refused("DICOM_UNDECODABLE", lambda: read(folder))


def test_value_is_taken_at_high_bit(tmp_path: Path) -> None:
    words = (BODY.view(np.uint16) & np.uint16(0xFFF)) << np.uint16(4)
    fields = {"HighBit": 15, "PixelRepresentation": 1, "RescaleIntercept": "0"}
    series = read(save(tmp_path / "s", stored_as(words, **fields)))
    np.testing.assert_array_equal(series.array, BODY)
    assert [repair.name for repair in series.repairs] == ["stored_bits"]
    words[0, 0, 0] |= 1
    folder = save(tmp_path / "t", stored_as(words, **fields))
    refused("DICOM_UNDECODABLE", lambda: read(folder))


def enhanced(frames: np.ndarray, heights_mm: list[float], **fields: object) -> Dataset:
    """Return an enhanced CT image: places per frame, the rest shared but one intercept."""
    dataset = slice_of(frames[0], 0, NumberOfFrames=len(frames), **fields)
    dataset.PixelData = frames.tobytes()
    kind = EnhancedCTImageStorage
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    shared, measures, turn = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, turn.ImageOrientationPatient = [0.75, 0.5], [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for index, height in enumerate(heights_mm):
        group, place, scaling = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-10.5, 20.25, height]
        scaling.RescaleSlope, scaling.RescaleIntercept = "1", str(index)
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [scaling]
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del dataset[name]
    return dataset


def test_enhanced_image_is_read_by_its_frames(tmp_path: Path) -> None:
    frames = HU - np.arange(8, dtype=np.int16)[:, None, None]
    heights = [100 + 2.0 * k for k in range(8)]
    whole = read(save(tmp_path / "w", [enhanced(frames, heights)]))
    single = read(save(tmp_path / "s", stack()))
    np.testing.assert_array_equal(whole.array, HU)
    assert whole.grid == single.grid and len(whole.files) == 8
    assert split(tmp_path / "w") == [("", 1, None)]
    down = read(save(tmp_path / "d", [enhanced(frames, heights[::-1])]))
    np.testing.assert_array_equal(down.array, HU[::-1])
    halves = [enhanced(frames[:4], heights[:4]), enhanced(frames[:4], heights[4:])]
    np.testing.assert_array_equal(
        read(save(tmp_path / "h", halves)).array, HU[[0, 1, 2, 3, 0, 1, 2, 3]]
    )
    packed = enhanced(frames, heights)
    packed.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(read(save(tmp_path / "p", [packed])).array, HU)
    repeated = save(tmp_path / "r", [enhanced(frames, heights[:4] * 2)])
    refused("DUPLICATE_POSITIONS", lambda: read(repeated))
    short = save(tmp_path / "c", [enhanced(frames, heights[:7])])
    refused("DICOM_MULTIFRAME", lambda: read(short))


@pytest.mark.parametrize(
    "row_column",
    [[-1, 0, 0, 0, 1, 0], [-1, 0, 0, 0, -1, 0], [0, 1, 0, 0, 0, -1], [0, -1, 0, 1, 0, 0]],
)
@pytest.mark.parametrize("step_mm", [1.5, -1.5])
def test_any_patient_position_lies_where_itk_puts_it(
    tmp_path: Path, row_column: list[int], step_mm: float
) -> None:
    """Feet first, prone, sagittal and turned stacks, with file names up or down the stack."""
    normal = np.cross(row_column[:3], row_column[3:])
    slices = [
        slice_of(
            part, k,
            ImageOrientationPatient=row_column,
            ImagePositionPatient=list(np.array([5, 6, 7]) + step_mm * k * normal),
        )
        for k, part in enumerate(HU)
    ]  # fmt: skip
    series = read(save(tmp_path / "s", slices))
    np.testing.assert_array_equal(series.array, HU[:: 1 if step_mm > 0 else -1])
    by_itk = sitk.ImageSeriesReader()
    by_itk.SetFileNames([str(path) for path in series.files])
    image = by_itk.Execute()
    for index in ((0, 0, 0), (4, 5, 7)):
        here = (series.grid.affine @ [*index, 1])[:3] * [-1, -1, 1]
        np.testing.assert_allclose(here, image.TransformIndexToPhysicalPoint(index), atol=1e-6)


def test_copies_of_slices_count_once(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", stack())
    shutil.copy(folder / "003.dcm", folder / "003 (1).dcm")
    # Another export of the same slice: other instance, same pixels.
    save(folder, [slice_of(HU[5], 110, SOPInstanceUID=generate_uid())], ["z.dcm"])
    series = read(folder)
    np.testing.assert_array_equal(series.array, HU)
    assert [finding.code for finding in series.findings] == ["DUPLICATE_SLICES"]
    assert len(series.files) == 8 and split(folder) == [("", 10, None)]
    save(folder, [slice_of(HU[5], 110, RescaleIntercept="1")], ["other.dcm"])
    refused("DUPLICATE_POSITIONS", lambda: read(folder))


def test_links_are_raw_and_agreed(tmp_path: Path) -> None:
    slices = stack(PatientID="P 17", FrameOfReferenceUID="")
    series = read(save(tmp_path / "s", slices))
    assert series.links == {"PatientID": "P 17", "StudyInstanceUID": STUDY}
    assert "P 17" not in str(series.facts)
    slices[0].PatientID = "P 18"
    folder = save(tmp_path / "t", slices)
    refused("MIXED_SERIES", lambda: read(folder))


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("SIEMENS", "SIEMENS"), ("Siemens Healthineers", "SIEMENS"), ("Philips", "Philips"),
        ("GE MEDICAL SYSTEMS", "GE MEDICAL SYSTEMS"), ("Canon Medical Systems", "CANON"),
        ("GE", "GE MEDICAL SYSTEMS"), ("GEORGE DOE", "other"), ("", None),
        ("siemens canon", "other"),
    ],
)  # fmt: skip
def test_makers_are_a_closed_set(stated: str, name: str | None) -> None:
    facts = series_facts(slice_of(HU[0], 0, Manufacturer=stated, PatientAge="999Y", KVP="5550199"))
    assert facts["manufacturer"] == name
    assert facts["age_years"] is None and facts["kvp"] is None
    assert series_facts(slice_of(HU[0], 0, PatientPosition="FFS"))["patient_position"] == "FFS"


def split(folder: Path) -> list[tuple[str, int, str | None]]:
    found = split_series(path for path in folder.iterdir() if path.is_file())
    return [(s.key, len(s.files), s.refusal[0] if s.refusal else None) for s in found]


def numbered(number: int, step_mm: float = 2.0, **fields: object) -> list[Dataset]:
    uid = generate_uid(entropy_srcs=[f"series {number}"])
    return stack(step_mm, **{"SeriesInstanceUID": uid, "SeriesNumber": number, **fields})


def add(folder: Path, slices: list[Dataset], prefix: str) -> None:
    save(folder, slices, [f"{prefix}{k:02d}.dcm" for k in range(len(slices))])


def test_folder_is_split_into_its_series(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    add(folder, numbered(2), "a")
    assert split(folder) == [("", 8, None)]
    # A localizer within the series, and everything else a study may hold.
    uid = numbered(2)[0].SeriesInstanceUID
    add(folder, numbered(2, SeriesInstanceUID=uid, **scout)[:2], "b")
    add(folder, numbered(9, Modality="MR"), "c")
    add(folder, numbered(10, Modality="SEG"), "d")
    add(folder, numbered(11)[:1], "e")
    capture = numbered(12, SOPClassUID=SecondaryCaptureImageStorage, ImagePositionPatient=None)
    add(folder, capture[:1], "f")
    report = numbered(13, Modality="SR")[0]
    del report.Rows, report.PixelData, report.Columns
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    add(folder, [report], "g")
    (folder / "readme.txt").write_text("about")
    refusals = [
        ("s2", 2, "LOCALIZER"),
        ("s9", 8, "NOT_CT_SERIES"),
        ("s10", 8, "NOT_CT_SERIES"),
        ("s11", 1, "ONE_SLICE"),
        ("s12", 1, "SECONDARY_CAPTURE"),
    ]
    found = split(folder)
    assert found[:6] == [("", 8, None), *refusals]
    assert [item[1:] for item in found[6:]] == [(1, "NOT_CT_SERIES"), (1, "OTHER_FILES")]
    add(folder, numbered(3), "h")
    found = split(folder)
    assert found[:2] == [("s2", 8, None), ("s3", 8, None)]
    assert len({key for key, _, _ in found}) == len(found)
    add(folder, numbered(4), "i")
    assert split(folder)[:3] == [("s2", 8, None), ("s3", 8, None), ("s4", 8, None)]
    other = generate_uid(entropy_srcs=["another"])
    add(folder, numbered(4, SeriesInstanceUID=other), "j")
    keys = [key for key, _, refusal in split(folder) if refusal is None]
    assert keys[:2] == ["s2", "s3"] and len(set(keys)) == 4
    assert all(re.fullmatch(r"s4-[0-9a-f]{6}", key) for key in keys[2:])
    for one in split_series(folder.iterdir()):
        if one.refusal is None:
            np.testing.assert_array_equal(read_series(one.files, max_voxels=MAX_VOXELS).array, HU)


def test_series_without_identifiers_are_told_by_number_and_place(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    turned = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": None}
    add(folder, numbered(2, SeriesInstanceUID=""), "a")
    add(folder, numbered(3, SeriesInstanceUID=""), "b")
    side = numbered(3, SeriesInstanceUID="", **turned)
    for k, dataset in enumerate(side):
        dataset.ImagePositionPatient = [2.0 * k, 0, 0]
    add(folder, side, "c")
    keys = [key for key, _, _ in split(folder)]
    assert keys[0] == "s2" and [key[:3] for key in keys[1:]] == ["s3-", "s3-"]


PHASES = {
    "acquisition": ("AcquisitionNumber", ["4", "5"], ["s2a4", "s2a5"]),
    "temporal": ("TemporalPositionIdentifier", ["1", "2"], ["s2t1", "s2t2"]),
    "time": ("ContentTime", ["101502.5", "093000"], ["s2p1", "s2p2"]),
}


@pytest.mark.parametrize("name", PHASES)
def test_phases_of_a_series_are_told_apart(tmp_path: Path, name: str) -> None:
    tag, values, keys = PHASES[name]
    folder = tmp_path / "s"
    for phase, value in enumerate(values):
        slices = numbered(2, **{tag: value})
        for part, dataset in enumerate(slices):
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[value, str(part)])
            dataset.PixelData = (HU[part] + np.int16(phase)).tobytes()
        add(folder, slices, "ab"[phase])
    found = split_series(folder.iterdir())
    assert [one.key for one in found] == keys
    means = [read_series(one.files, max_voxels=MAX_VOXELS).array.mean() for one in found]
    assert abs(means[0] - means[1]) == pytest.approx(1)
    refused("DUPLICATE_POSITIONS", lambda: read(folder))
    # Without one slice of a phase nothing tells which slices are missing: the series stays whole.
    (folder / "a03.dcm").unlink()
    assert split(folder) == [("", 15, None)]


def test_successive_acquisitions_are_one_volume(tmp_path: Path) -> None:
    slices = numbered(2)
    for k, dataset in enumerate(slices):
        dataset.AcquisitionNumber = 1 + k // 4
    assert split(save(tmp_path / "s", slices)) == [("", 8, None)]


def test_unreadable_file_is_not_lost(tmp_path: Path) -> None:
    """Beside one volume it may be a slice of it; beside two, it is refused by itself."""
    folder = save(tmp_path / "s", numbered(2))
    path = folder / "007.dcm"
    path.write_bytes(path.read_bytes()[:300])
    (one,) = split_series(folder.iterdir())
    refused("DICOM_UNREADABLE", lambda: read_series(one.files, max_voxels=MAX_VOXELS))
    add(folder, numbered(3), "x")
    found = split(folder)
    assert [item[2] for item in found] == [None, None, "DICOM_UNREADABLE"]
    (folder / "007.dcm").write_bytes(b"")
    assert split(folder)[2][1:] == (1, "EMPTY_FILE")


def masks_of(heights_mm: list[float | None]) -> list[Dataset]:
    out = []
    for k, height in enumerate(heights_mm):
        mask = np.zeros(HU.shape[1:], np.uint16)
        mask.flat[: k + 1] = 255
        dataset = slice_of(mask, height or 0, Modality="OT", RescaleIntercept="-1024")
        if height is None:
            del dataset.ImagePositionPatient
        out.append(dataset)
    return out


def read_masks(folder: Path, series: DicomSeries) -> list[int]:
    masks = read_mask_series(list(folder.iterdir()), series)
    assert masks.dtype == np.uint8 and set(np.unique(masks)) == {0, 255}
    return np.count_nonzero(masks, axis=(1, 2)).tolist()


def test_mask_slices_are_paired_by_position_or_else_by_name(tmp_path: Path) -> None:
    names = [f"image_{k}" for k in range(8)]
    heights = [100 + 2.0 * k for k in range(8)]
    series = read(save(tmp_path / "s", stack(), names[::-1]))
    by_place = save(tmp_path / "p", masks_of([*heights]), names)
    assert read_masks(by_place, series) == [1, 2, 3, 4, 5, 6, 7, 8]
    by_name = save(tmp_path / "n", masks_of([None] * 8), names)
    assert read_masks(by_name, series) == [8, 7, 6, 5, 4, 3, 2, 1]
    elsewhere = save(tmp_path / "e", masks_of([h + 500 for h in heights]), names)
    assert read_masks(elsewhere, series) == [8, 7, 6, 5, 4, 3, 2, 1]


def test_masks_of_another_series_are_refused(tmp_path: Path) -> None:
    names = [f"image_{k}" for k in range(8)]
    heights = [100 + 2.0 * k for k in range(8)]
    series = read(save(tmp_path / "s", stack(), names))
    two_values = masks_of([*heights])
    two_values[0].PixelData = np.arange(30, dtype=np.uint16).tobytes()
    bad = {
        "few": (masks_of([*heights[:7]]), names[:7]),
        "half": (masks_of([*heights[:4], 900, 902, 904, 906]), names),
        "numbers": (masks_of([None] * 8), [f"image_{k + 1}" for k in range(8)]),
        "values": (two_values, names),
        "size": ([*masks_of([*heights[:7]]), slice_of(HU[7, :3].astype(np.uint16), 114)], names),
    }
    for name, (masks, files) in bad.items():
        folder = save(tmp_path / name, masks, files)
        refused("MASK_SERIES", lambda folder=folder: read_masks(folder, series))
    refused("MASK_SERIES", lambda: read_mask_series([], series))


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
    "thick part": (
        "IRREGULAR_SLICES",
        lambda: [slice_of(HU[k], z) for k, z in enumerate([0, 2, 4, 6, 8, 12, 16, 20])],
    ),
    "scaling of one slice": ("MIXED_SERIES", lambda: changed(3, RescaleIntercept=None)),
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


@pytest.mark.parametrize("kept", [4, 131, 140, 300, 700, -100, -1])
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
