"""The slices of a public DICOM series as masks refer to them, without a word on the patient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage

from tumoratlas.core.errors import ReleaseError
from tumoratlas.images.grid import Grid
from tumoratlas.ingest.readers import read_stored, scan_changed

_REFERENCES = (
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
)  # fmt: skip
# Kept as they were written, so that the masks lie where the slices do to the last digit.
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_COMPRESSION = (
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
_EMPTY = (
    "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class SourceSeries:
    """A series that masks can refer to slice by slice.

    Attributes
    ----------
    slices
        Headers in the order of z: references and place of the slice; the patient is the case.
    grid
        Grid of the series, z along the slice normal, in its own voxel order.
    """

    slices: tuple[Dataset, ...]
    grid: Grid


def read_source_series(
    case_id: str, scan: Mapping[str, Any], *, max_voxels: int, min_slices: int
) -> SourceSeries:
    """Read what masks need of a case's series, and check that it is the one the case was made of.

    Parameters
    ----------
    case_id
        Id of the case, which takes the place of the patient's.
    scan
        The case's kept scan as `tumoratlas.ingest.steps.case_members` returns it.
    max_voxels, min_slices
        As in `tumoratlas.ingest.readers.read_stored`.

    Raises
    ------
    PutOffError
        ``SCAN_CHANGED``.
    InputError
        The refusals of `tumoratlas.ingest.readers.read_stored`.
    ReleaseError
        ``SEG_SERIES``: a slice has no identifier of its own, or is no file of its own.
        ``SEG_GEOMETRY``: the slices are unevenly spaced.
    """
    stored = read_stored(scan, max_voxels=max_voxels, min_slices=min_slices)
    if stored.sha256 != scan["file_sha256"]:
        raise scan_changed(scan, "a file of the series")
    series = stored.series
    for finding in series.findings:
        if finding.code == "SLICE_JITTER":
            raise geometry_error(case_id, f"unevenly spaced slices, {finding.message}")
    tags = [*_REFERENCES, "SOPClassUID", *_PLACE, *_COMPRESSION]
    headers = [
        pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
        for path in series.files
    ]
    _check_references(case_id, headers)
    thickness_mm = series.grid.spacing_mm[2]
    return SourceSeries(tuple(_plain(case_id, one, thickness_mm) for one in headers), series.grid)


def geometry_error(case_id: str, evidence: str) -> ReleaseError:
    """Return the refusal of masks that do not lie on the slices of their series."""
    return ReleaseError(
        "SEG_GEOMETRY",
        case_id,
        "the masks do not lie slice by slice on the original series",
        evidence=evidence,
        remedy="None needed; the masks are released as NIfTI files",
    )


def _check_references(case_id: str, headers: list[Dataset]) -> None:
    if any(str(one.get("SOPClassUID", "")) != CTImageStorage for one in headers):
        raise _series_error(case_id, "its files are not single slices of CT Image Storage")
    for name in _REFERENCES:
        values = [str(one.get(name) or "") for one in headers]
        if not all(UID(value).is_valid for value in values):
            raise _series_error(case_id, f"{name} is missing or none")
        many = len(set(values))
        if many != (len(headers) if name == "SOPInstanceUID" else 1):
            raise _series_error(case_id, f"{many} values of {name} in {len(headers)} slices")


def _series_error(case_id: str, evidence: str) -> ReleaseError:
    return ReleaseError(
        "SEG_SERIES",
        case_id,
        "masks cannot refer to the slices of the original series",
        evidence=evidence,
        remedy="None needed; the masks are released as NIfTI files",
    )


def _plain(case_id: str, header: Dataset, thickness_mm: float) -> Dataset:
    one = Dataset()
    for name in ("SOPClassUID", *_REFERENCES, *_PLACE, *_COMPRESSION):
        if name in header:
            one[name] = header[name]
    one.Modality = "CT"
    # What the scanner calls thickness may overlap; a mask's voxels fill the space and no more.
    one.SliceThickness = pydicom.valuerep.format_number_as_ds(thickness_mm)
    # Of the one pixel per frame with which `tumoratlas.release.seg.write` lets the object be built.
    one.Rows = one.Columns = 1
    one.PatientID = case_id
    for name in _EMPTY:
        setattr(one, name, "")
    return one
