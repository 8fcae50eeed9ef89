"""DICOM files: parsed, told apart by kind, and taken apart into slices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

from tumoratlas.core.errors import NO_ANSWER, disk_lost
from tumoratlas.images.checks import refusal

_CT_STORAGE = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# Secondary capture in all its variants (DICOM PS3.4 B.5).
_CAPTURE_STORAGE = "1.2.840.10008.5.1.4.1.1.7"
_HEADER_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "ImageType",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "AcquisitionNumber", "TemporalPositionIdentifier",
    "AcquisitionTime", "ContentTime", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
# A file of which one of these is damaged cannot be placed, decoded or told from others.
_TEXTS = ("SOPClassUID", "SeriesInstanceUID", "Modality", "ImageType")
_COUNTS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation",
)  # fmt: skip
_MOST = 1 << 16


@dataclass(frozen=True)
class Slice:
    """One slice: a file, or a frame of a file.

    Attributes
    ----------
    path, dataset
        The file and its data set.
    frame
        Number of the frame in the file, from 0.
    position
        Image Position (Patient), LPS mm.
    orientation
        Image Orientation (Patient): direction of a row, then of a column.
    spacing
        Pixel Spacing in mm: between rows, between columns.
    slope, intercept
        HU = stored value * slope + intercept.
    """

    path: Path
    dataset: Dataset
    frame: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    slope: float
    intercept: float


def parse_file(path: Path, data: bytes) -> Dataset | None:
    """Return a DICOM file's data set, or None if it is no DICOM file.

    Raises
    ------
    InputError
        DICOM_UNREADABLE.
    """
    if not _looks_like_dicom(data):
        return None
    try:
        dataset = pydicom.dcmread(BytesIO(data), force=True)
        _check_elements(dataset)
    # The parser raises what it likes on bytes that are no DICOM.
    except Exception as error:
        raise refusal("DICOM_UNREADABLE", path, str(error)) from error
    # The parser takes a cut file for a short one.
    if _is_cut(dataset) or ("Rows" in dataset and "PixelData" not in dataset):
        raise refusal("DICOM_UNREADABLE", path, "a slice without pixels")
    return dataset


def parse_header(path: Path) -> Dataset | None:
    """Return what tells a DICOM file's series and place, or None if it is no DICOM file.

    Only the start of the file is read, up to the pixels.

    Raises
    ------
    InputError
        FILE_MISSING, EMPTY_FILE, DICOM_UNREADABLE.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise refusal("EMPTY_FILE", path)
    tags: list[Any] = list(_HEADER_TAGS)
    try:
        with path.open("rb") as file:
            if not _looks_like_dicom(file.read(132)):
                return None
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
            _check_elements(dataset)
    except FileNotFoundError as error:
        raise refusal("FILE_MISSING", path) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ANSWER:
            raise disk_lost(path, error) from error
        raise refusal("DICOM_UNREADABLE", path, str(error)) from error
    if _is_cut(dataset):
        raise refusal("DICOM_UNREADABLE", path, "a slice without a size")
    return dataset


def name_pattern(path: Path) -> str:
    """Return a file's name without its numbers, which the slices of a series share."""
    return re.sub(r"[0-9]+", "#", path.name)


def name_order(path: Path) -> tuple[list[str | int], str]:
    """Return a sort key under which ``i2`` comes before ``i10``."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], path.name


def kind_of(dataset: Dataset) -> tuple[str, str] | None:
    """Return code and evidence of why a file is no slice of a CT volume, or None if it is one."""
    modality = text_of(dataset, "Modality")
    kinds = [str(kind).upper() for kind in value_of(dataset, "ImageType") or []]
    if "Rows" not in dataset:
        return (
            ("NOT_CT_SERIES", f"modality {modality}") if modality else ("OTHER_FILES", "no image")
        )
    if modality != "CT":
        return "NOT_CT_SERIES", f"modality {modality!r}"
    if "LOCALIZER" in kinds:
        return "LOCALIZER", ""
    captured = text_of(dataset, "SOPClassUID").startswith(_CAPTURE_STORAGE)
    if "SCREEN SAVE" in kinds or (captured and "ImagePositionPatient" not in dataset):
        return "SECONDARY_CAPTURE", ""
    return None


def slices_of(path: Path, dataset: Dataset) -> list[Slice]:
    """Return the slices of a file: itself, or the frames of an enhanced CT image.

    The place and the scaling of a frame stand in its functional groups or in those that all
    frames share (DICOM PS3.3 C.7.6.16).

    Raises
    ------
    InputError
        NO_POSITION, DICOM_MULTIFRAME.
    """
    frames = int(number_of(dataset, "NumberOfFrames") or 1)
    samples = int(number_of(dataset, "SamplesPerPixel") or 1)
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    if samples != 1 or frames != (1 if own is None else len(own)):
        raise refusal("DICOM_MULTIFRAME", path, f"{frames} frames, {samples} samples")
    if own is None:
        return [_slice(path, dataset, 0, [dataset], [dataset], [dataset], [dataset])]
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])
    return [
        _slice(
            path, dataset, frame,
            *(
                [item for groups in (group, *shared) for item in groups.get(macro) or []]
                for macro in (
                    "PlanePositionSequence", "PlaneOrientationSequence",
                    "PixelMeasuresSequence", "PixelValueTransformationSequence",
                )
            ),
        )
        for frame, group in enumerate(own)
    ]  # fmt: skip


def value_of(dataset: Dataset, name: str) -> Any:
    """Return an element's value, None where it is missing or cannot be read."""
    try:
        return dataset.get(name)
    except Exception:
        return None


def text_of(dataset: Dataset, name: str) -> str:
    """Return an element as stripped text, empty where it is missing."""
    value = value_of(dataset, name)
    return "" if value is None else str(value).strip()


def number_of(dataset: Dataset, name: str) -> float | None:
    """Return an element as a number, None where it is missing or none."""
    try:
        return float(value_of(dataset, name))
    except (TypeError, ValueError, OverflowError):
        return None


def _slice(
    path: Path,
    dataset: Dataset,
    frame: int,
    position: Sequence[Dataset],
    orientation: Sequence[Dataset],
    measures: Sequence[Dataset],
    scaling: Sequence[Dataset],
) -> Slice:
    return Slice(
        path=path,
        dataset=dataset,
        frame=frame,
        position=_floats(path, position, "ImagePositionPatient", 3),
        orientation=_floats(path, orientation, "ImageOrientationPatient", 6),
        spacing=_floats(path, measures, "PixelSpacing", 2),
        slope=_factor(path, scaling, "RescaleSlope", 1.0),
        intercept=_factor(path, scaling, "RescaleIntercept", 0.0),
    )


def _factor(path: Path, holders: Sequence[Dataset], name: str, default: float) -> float:
    """Return slope or intercept; one that stands there and is no number must not be passed over."""
    if not holders or name not in holders[0]:
        return default
    value = number_of(holders[0], name)
    if value is None or not np.isfinite(value):
        raise refusal("DICOM_UNREADABLE", path, name)
    return value


def _floats(path: Path, holders: Sequence[Dataset], name: str, count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in value_of(holders[0], name) or [])
    except (TypeError, ValueError, IndexError):
        values = ()
    if len(values) != count or not np.isfinite(values).all():
        raise refusal("NO_POSITION", path, name)
    return values


def _looks_like_dicom(head: bytes) -> bool:
    """Return whether a file starts with the DICOM preamble or, without it, with group 2 or 8."""
    return head[128:132] == b"DICM" or (head[:2] in (b"\2\0", b"\b\0") and head[3:4] == b"\0")


def _check_elements(dataset: Dataset) -> None:
    """Raise what reading an element raises, so that no damaged file is taken for another."""
    for name in _TEXTS:
        dataset.get(name)
    dataset.file_meta.get("MediaStorageSOPClassUID")
    dataset.file_meta.get("TransferSyntaxUID")
    for name in _COUNTS:
        value = dataset.get(name)
        if name in ("Rows", "Columns") and "Rows" in dataset and not value:
            raise ValueError(f"{name} is {value}")
        if value is not None and not 0 <= int(value) < _MOST:
            raise ValueError(f"{name} is {value}")


def _is_cut(dataset: Dataset) -> bool:
    """Return whether a file without an image was meant to hold one, or does not say what it is."""
    kind = str(dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or "")
    is_unknown = UID(kind).name == kind and text_of(dataset, "Modality") in ("", "CT")
    return "Rows" not in dataset and (kind in _CT_STORAGE or is_unknown)
