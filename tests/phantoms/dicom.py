"""DICOM series and PNG stacks as public collections and a hospital's archive hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from tumoratlas.images.grid import Grid, to_canonical

# Pixels (row, column) of an overlay in an unused bit, as scanners once drew rulers.
_OVERLAY = (slice(4, -4, 3), slice(2, 5))


@dataclass(frozen=True)
class Series:
    """How a series is written.

    Attributes
    ----------
    uid
        Seeds every UID.
    intercept
        RescaleIntercept; stored value = HU - intercept.
    slice_thickness_mm
        What the tag SliceThickness says.
    tags
        Further elements, by keyword.
    modality
        ``CT``, or ``MR``, which has no rescale.
    number
        SeriesNumber.
    study
        Seeds the UIDs of study and frame of reference; empty: of its own.
    instances
        InstanceNumber of each slice; empty: the rank of its name, so that the order of the
        files, not the anatomy, decides it.
    bits
        Of 16; below that values are signed, their sign is not copied into the bits above, and
        a bit there belongs to an overlay.
    is_rle
        Pixels are compressed (RLE Lossless).
    tilt_degrees
        Turns the slices about the patient's left-right axis, not their positions: gantry tilt.
    without
        Indices of slices that are lost.
    finish
        Changes each data set before it is saved.
    """

    uid: str
    intercept: int
    slice_thickness_mm: float
    tags: Mapping[str, str | int] = field(default_factory=dict)
    modality: str = "CT"
    number: int = 1
    study: str = ""
    instances: Sequence[int] = ()
    bits: int = 16
    is_rle: bool = False
    tilt_degrees: float = 0.0
    without: Sequence[int] = ()
    finish: Callable[[Dataset], None] | None = None


def write_series(
    folder: Path, image: NDArray[np.int16], grid: Grid, names: Sequence[str], series: Series
) -> None:
    """Write a scan as one DICOM file per slice.

    Parameters
    ----------
    image
        HU, RAS (z, y, x).
    grid
        Its grid; only the slices' positions tell the spacing along z.
    names
        File names of the slices from the feet up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # DICOM rows run to the patient's back, columns to the left; slices here from the feet up.
    pixels, placed = to_canonical(image, grid, toward="LPS")
    order = sorted(names)
    to_lps = np.diag([-1.0, -1.0, 1.0])
    for index, name in enumerate(names):
        if index in series.without:
            continue
        position = to_lps @ (placed.affine @ [0, 0, index, 1])[:3]
        data = _head(series, name)
        data.InstanceNumber = series.instances[index] if series.instances else order.index(name) + 1
        data.ImagePositionPatient = [f"{v:.6f}" for v in position]
        data.ImageOrientationPatient = _orientation(series.tilt_degrees)
        data.PixelSpacing = [f"{grid.spacing_mm[1]:.6f}", f"{grid.spacing_mm[0]:.6f}"]
        data.SliceThickness = f"{series.slice_thickness_mm:.6f}"
        for keyword, value in series.tags.items():
            setattr(data, keyword, value)
        stored = pixels[index].astype(np.int32) - series.intercept
        if series.bits < 16:
            stored &= (1 << series.bits) - 1
            stored[_OVERLAY] |= 1 << 14
        _set_pixels(data, stored.astype("<u2"), series)
        if series.finish:
            series.finish(data)
        data.save_as(folder / name, enforce_file_format=True)


def write_masks(
    folder: Path, mask: NDArray[np.bool_], grid: Grid, names: Sequence[str], uid: str
) -> None:
    """Write a RAS mask (z, y, x) as one 8-bit DICOM file per slice, 255 inside."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, _ = to_canonical(mask, grid, toward="LPS")
    series = Series(uid, 0, grid.spacing_mm[2])
    for index, name in enumerate(names):
        data = _head(series, name)
        data.InstanceNumber = index + 1
        picture = pixels[index].astype(np.uint8) * np.uint8(255)
        _set_pixels(data, picture, series)
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit = 7
        data.PixelData = picture.tobytes() + bytes(picture.size % 2)
        data.save_as(folder / name, enforce_file_format=True)


def write_png_stack(
    folder: Path, mask: NDArray[np.bool_], grid: Grid, names: Sequence[str]
) -> None:
    """Write a RAS mask (z, y, x) as 0/255 pictures, ``names`` from the feet up."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, _ = to_canonical(mask, grid, toward="LPS")
    for picture, name in zip(pixels, names, strict=True):
        Image.fromarray(picture.astype(np.uint8) * np.uint8(255)).save(folder / name)


def uid_of(*parts: str) -> str:
    """Return a UID that depends on the parts alone."""
    return generate_uid(prefix="1.2.826.0.1.3680043.8.498.", entropy_srcs=list(parts))


def new_file(storage: str, uid: str) -> Dataset:
    """Return an empty data set that can be saved."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # Fixed, else the library writes its own version and the bytes change with it.
    meta.ImplementationClassUID = uid_of("phantom", "implementation")
    meta.ImplementationVersionName = "PHANTOM"
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID = storage
    data.SOPInstanceUID = uid
    return data


def _head(series: Series, name: str) -> Dataset:
    storage = CTImageStorage if series.modality == "CT" else MRImageStorage
    data = new_file(storage, uid_of(series.uid, name))
    study = series.study or series.uid
    data.StudyInstanceUID = uid_of(study, "study")
    data.SeriesInstanceUID = uid_of(series.uid, "series")
    data.FrameOfReferenceUID = uid_of(study, "frame")
    data.Modality = series.modality
    data.SeriesNumber = series.number
    return data


def _orientation(tilt_degrees: float) -> list[str | int]:
    if not tilt_degrees:
        return [1, 0, 0, 0, 1, 0]
    angle = np.radians(tilt_degrees)
    return [1, 0, 0, 0, f"{np.cos(angle):.6f}", f"{np.sin(angle):.6f}"]


def _set_pixels(data: Dataset, stored: NDArray[np.unsignedinteger], series: Series) -> None:
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = 16
    data.BitsStored = series.bits
    data.HighBit = series.bits - 1
    data.PixelRepresentation = int(series.bits < 16)
    if series.modality == "CT":
        data.RescaleIntercept = series.intercept
        data.RescaleSlope = 1
        data.RescaleType = "HU"
    data.PixelData = stored.tobytes()
    if series.is_rle:
        data["PixelData"].VR = "OW"
        data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
