"""DICOM series and PNG stacks as CHAOS and a hospital's archive hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from tumoratlas.images.grid import Grid, to_canonical


def write_series(
    folder: Path,
    image: NDArray[np.int16],
    grid: Grid,
    names: Sequence[str],
    *,
    series: str,
    intercept: int,
    slice_thickness_mm: float,
    tags: dict[str, str | int],
    modality: str = "CT",
) -> None:
    """Write a scan as one uint16 DICOM file per slice.

    Parameters
    ----------
    image
        HU, RAS (z, y, x).
    grid
        Its grid; only the slices' positions tell the spacing along z.
    names
        File names of the slices from the feet up. InstanceNumber counts the sorted names, so
        that the order of the files, not the anatomy, decides it.
    series
        Seeds every UID.
    intercept
        RescaleIntercept; stored value = HU - intercept.
    slice_thickness_mm
        What the tag SliceThickness says.
    tags
        Further elements, by keyword.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # DICOM rows run to the patient's back, columns to the left; slices here from the feet up.
    pixels, placed = to_canonical(image, grid, toward="LPS")
    order = sorted(names)
    storage = CTImageStorage if modality == "CT" else MRImageStorage
    to_lps = np.diag([-1.0, -1.0, 1.0])
    for index, name in enumerate(names):
        position = to_lps @ (placed.affine @ [0, 0, index, 1])[:3]
        uid = _uid(series, name)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = storage
        meta.MediaStorageSOPInstanceUID = uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        # Fixed, else pydicom writes its own version and the bytes change with it.
        meta.ImplementationClassUID = _uid("phantom", "implementation")
        meta.ImplementationVersionName = "PHANTOM"
        data = Dataset()
        data.file_meta = meta
        data.SOPClassUID = storage
        data.SOPInstanceUID = uid
        data.StudyInstanceUID = _uid(series, "study")
        data.SeriesInstanceUID = _uid(series, "series")
        data.FrameOfReferenceUID = _uid(series, "frame")
        data.Modality = modality
        data.SeriesNumber = 1
        data.InstanceNumber = order.index(name) + 1
        data.ImagePositionPatient = [f"{v:.6f}" for v in position]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing = [f"{grid.spacing_mm[1]:.6f}", f"{grid.spacing_mm[0]:.6f}"]
        data.SliceThickness = f"{slice_thickness_mm:.6f}"
        data.Rows, data.Columns = pixels.shape[1:]
        data.SamplesPerPixel = 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit = 15
        data.PixelRepresentation = 0
        if modality == "CT":
            data.RescaleIntercept = intercept
            data.RescaleSlope = 1
            data.RescaleType = "HU"
        for keyword, value in tags.items():
            setattr(data, keyword, value)
        data.PixelData = (pixels[index].astype(np.int32) - intercept).astype("<u2").tobytes()
        data.save_as(folder / name, enforce_file_format=True)


def write_png_stack(
    folder: Path, mask: NDArray[np.bool_], grid: Grid, names: Sequence[str]
) -> None:
    """Write a RAS mask (z, y, x) as 0/255 pictures, ``names`` from the feet up."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, _ = to_canonical(mask, grid, toward="LPS")
    for picture, name in zip(pixels, names, strict=True):
        Image.fromarray(picture.astype(np.uint8) * np.uint8(255)).save(folder / name)


def _uid(*parts: str) -> str:
    return generate_uid(prefix="1.2.826.0.1.3680043.8.498.", entropy_srcs=list(parts))
