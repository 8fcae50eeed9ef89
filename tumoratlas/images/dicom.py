"""CT series in DICOM: slices in order of position, in HU, on their grid."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, JPEGLossless, JPEGLosslessSV1

from tumoratlas.images.checks import Finding, refusal, warning
from tumoratlas.images.dicom_geometry import place_slices
from tumoratlas.images.grid import Grid
from tumoratlas.images.inflate import read_bytes

_MAX_FILE_BYTES = 1 << 28
# Not slices, but often kept beside them.
_COMPANIONS = {"SEG", "SR", "RTSTRUCT", "PR", "KO", "RTDOSE", "RTPLAN", "REG"}
_PHASE_WORDS = {
    "non_contrast": r"non.?contrast|unenhanced|without|\bnativ|\bplain\b|\bnc\b",
    "arterial": r"arterial|\bart\b|corticomedullary",
    "venous": r"venous|portal|\bpv\b|\bven\b|nephrographic",
    "delayed": r"delay|\blate\b|excretory|equilibrium",
}


@dataclass(frozen=True)
class DicomSeries:
    """A CT series that passed every check of level ``refuse``.

    Attributes
    ----------
    array
        int16 HU (z, y, x); z grows along the slice normal.
    grid
        Where the voxels lie; the affine is RAS+.
    facts
        The allow-listed facts of `series_facts`.
    files
        The file of each slice, in the order of z.
    sha256
        Hash over the hashes of the slices' bytes in the order of z.
    findings
        Checks of level ``warn`` that found something.
    """

    array: NDArray[np.int16]
    grid: Grid
    facts: dict[str, str | float | bool | None]
    files: tuple[Path, ...]
    sha256: str
    findings: tuple[Finding, ...]


def read_series(source: Path | Sequence[Path], *, max_voxels: int) -> DicomSeries:
    """Read one CT series of single-slice files.

    Slices are ordered and spaced by Image Position projected onto the slice normal
    (DICOM PS3.3 C.7.6.2.1.1), never by name, instance number or slice thickness. Slope and
    intercept are applied per slice.

    Parameters
    ----------
    source
        A folder, whose files are all looked at, or the files themselves.
    max_voxels
        Largest volume to take in.

    Raises
    ------
    InputError
        Codes of kind file and series, HU_RANGE or VOLUME_TOO_LARGE in
        `tumoratlas.images.checks.CHECKS`.
    """
    is_folder = isinstance(source, Path)
    paths = sorted(p for p in source.iterdir() if not p.is_dir()) if is_folder else list(source)
    subject = source if is_folder else (paths[0].parent if paths else "no files")
    slices: list[tuple[Path, Dataset, str]] = []
    others = []
    for path in paths:
        data = read_bytes(path, max_bytes=_MAX_FILE_BYTES)
        dataset = _parse(path, data)
        if dataset is None or _is_companion(dataset):
            others.append(path.name)
        else:
            slices.append((path, dataset, hashlib.sha256(data).hexdigest()))
    if not slices:
        raise refusal("NO_DICOM", subject, f"{len(paths)} files")
    _check_alike(subject, slices)
    first = slices[0][1]
    voxels = len(slices) * int(first.Rows) * int(first.Columns)
    if voxels > max_voxels:
        raise refusal("VOLUME_TOO_LARGE", subject, f"{voxels} voxels")
    order, affine, findings = place_slices(subject, [(p, d) for p, d, _ in slices])
    slices = [slices[index] for index in order]
    array = np.stack([_hounsfield(path, dataset) for path, dataset, _ in slices])
    if others:
        findings = (*findings, warning("OTHER_FILES", f"{len(others)}, such as {others[0]}"))
    return DicomSeries(
        array=array,
        grid=Grid.of(array.shape, affine),
        facts=series_facts(first),
        files=tuple(path for path, _, _ in slices),
        sha256=hashlib.sha256("".join(digest for *_, digest in slices).encode()).hexdigest(),
        findings=findings,
    )


def read_png_stack(files: Sequence[Path], series: DicomSeries) -> NDArray[np.uint8]:
    """Put one mask picture per slice onto the grid of a series.

    Pictures and slices are paired by their rank in file-name order, the convention of CHAOS:
    there that order runs against the order of positions, and pairing by position would give
    every mask to another slice.

    Returns
    -------
    The pictures' values as uint8 (z, y, x) on ``series.grid``.

    Raises
    ------
    InputError
        PNG_COUNT, PNG_SHAPE.
    """
    if len(files) != len(series.files):
        subject = files[0].parent if files else "no files"
        raise refusal("PNG_COUNT", subject, f"{len(files)} pictures, {len(series.files)} slices")
    out = np.empty(series.array.shape, np.uint8)
    by_name = sorted(range(len(files)), key=lambda z: _name_order(series.files[z]))
    for z, path in zip(by_name, sorted(files, key=_name_order), strict=True):
        data = read_bytes(path, max_bytes=_MAX_FILE_BYTES)
        try:
            picture = imagecodecs.png_decode(data)
        except (imagecodecs.PngError, ValueError) as error:
            raise refusal("PNG_SHAPE", path, str(error)) from error
        if picture.shape != out.shape[1:] or picture.dtype != np.uint8:
            raise refusal("PNG_SHAPE", path, f"{picture.dtype} {picture.shape}")
        out[z] = picture
    return out


def series_facts(dataset: Dataset) -> dict[str, str | float | bool | None]:
    """Return the facts that may leave the source: an allow-list, so that nothing else can.

    Free text is mapped to a closed set of values; names, dates, identifiers, institutions and
    descriptions are never returned. Unknown facts are None.
    """
    sex = _text(dataset, "PatientSex").upper()
    age = re.fullmatch(r"(\d{3})([YMWD])", _text(dataset, "PatientAge").upper())
    years = {"Y": 1, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
    description = f"{_text(dataset, 'SeriesDescription')} {_text(dataset, 'ProtocolName')}".lower()
    phases = [name for name, words in _PHASE_WORDS.items() if re.search(words, description)]
    return {
        "modality": "CT",
        "sex": sex if sex in ("M", "F", "O") else None,
        "age_years": float(int(int(age[1]) * years[age[2]])) if age else None,
        "manufacturer": _text(dataset, "Manufacturer") or None,
        "manufacturer_model": _text(dataset, "ManufacturerModelName") or None,
        "kvp": _number(dataset, "KVP"),
        "slice_thickness_mm": _number(dataset, "SliceThickness"),
        "patient_position": _text(dataset, "PatientPosition") or None,
        "has_contrast_agent": True if _text(dataset, "ContrastBolusAgent") else None,
        "phase": phases[0] if len(phases) == 1 else None,
    }


def _parse(path: Path, data: bytes) -> Dataset | None:
    """Return a DICOM file's data set, or None if it is no DICOM file."""
    if data[128:132] != b"DICM":
        return None
    try:
        dataset = pydicom.dcmread(BytesIO(data))
    except (InvalidDicomError, EOFError, ValueError, KeyError, OSError, LookupError) as error:
        raise refusal("DICOM_UNREADABLE", path, str(error)) from error
    # The parser takes a cut file for a short one.
    kind = dataset.file_meta.get("MediaStorageSOPClassUID")
    if kind == CTImageStorage and "PixelData" not in dataset:
        raise refusal("DICOM_UNREADABLE", path, "a CT slice without pixels")
    return dataset


def _is_companion(dataset: Dataset) -> bool:
    kinds = [str(kind).upper() for kind in dataset.get("ImageType") or []]
    has_pixels = "Rows" in dataset and "PixelData" in dataset
    return not has_pixels or "LOCALIZER" in kinds or _text(dataset, "Modality") in _COMPANIONS


def _check_alike(subject: object, slices: list[tuple[Path, Dataset, str]]) -> None:
    modalities = {_text(dataset, "Modality") for _, dataset, _ in slices}
    if "CT" not in modalities:
        raise refusal("NOT_CT_SERIES", subject, f"modality {', '.join(sorted(modalities))!r}")
    for name in ("Modality", "SeriesInstanceUID", "Rows", "Columns"):
        values = {_text(dataset, name) for _, dataset, _ in slices}
        if len(values) > 1:
            raise refusal("MIXED_SERIES", subject, f"{len(values)} values of {name}")
    for path, dataset, _ in slices:
        frames, samples = _number(dataset, "NumberOfFrames"), _number(dataset, "SamplesPerPixel")
        if (frames or 1) != 1 or (samples or 1) != 1:
            raise refusal("DICOM_MULTIFRAME", path, f"{frames} frames, {samples} samples")


def _hounsfield(path: Path, dataset: Dataset) -> NDArray[np.int16]:
    stored = _decode(path, dataset)
    if stored.shape != (int(dataset.Rows), int(dataset.Columns)):
        raise refusal("DICOM_UNDECODABLE", path, f"decoded shape {stored.shape}")
    slope = _number(dataset, "RescaleSlope")
    intercept = _number(dataset, "RescaleIntercept") or 0.0
    values = stored * np.float64(1.0 if slope is None else slope) + intercept
    if not (values.min() >= -32768 and values.max() <= 32767):
        raise refusal("HU_RANGE", path, f"values {values.min()} to {values.max()}")
    return np.floor(values + 0.5).astype(np.int16)


def _decode(path: Path, dataset: Dataset) -> NDArray[Any]:
    try:
        # pydicom ships no decoder for these two.
        if dataset.file_meta.TransferSyntaxUID in (JPEGLossless, JPEGLosslessSV1):
            frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
            stored = imagecodecs.ljpeg_decode(frame).astype(np.uint16)
            if int(dataset.PixelRepresentation) == 1:
                unused = 16 - int(dataset.BitsStored)
                stored = (stored << unused).view(np.int16) >> unused
            return stored
        return dataset.pixel_array
    # Decoders of several libraries raise what they like; each means that this slice is lost.
    except Exception as error:
        raise refusal("DICOM_UNDECODABLE", path, str(error).split("\n")[0]) from error


def _name_order(path: Path) -> tuple[list[str | int], str]:
    """Return a sort key under which ``i2`` comes before ``i10``."""
    parts = re.split(r"(\d+)", path.name)
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], path.name


def _text(dataset: Dataset, name: str) -> str:
    value = dataset.get(name)
    return "" if value is None else str(value).strip()


def _number(dataset: Dataset, name: str) -> float | None:
    try:
        return float(dataset.get(name))
    except (TypeError, ValueError):
        return None
