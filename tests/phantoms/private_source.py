"""The curator's own scans, as an archive exports them, full of personal data."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from tests.phantoms.anatomy import Phantom
from tests.phantoms.cast import Report, Scan
from tests.phantoms.dicom import Series, new_file, uid_of, write_series
from tests.phantoms.nifti import nifti_bytes, save
from tests.phantoms.nifti_sources import Told

_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"

# Personal data and where it is planted; no output may hold any of it.
_TAGS = {
    "PatientName": "DOE^JANE",
    "PatientID": "MRN-4711-0815",
    "PatientBirthDate": "19580314",
    "InstitutionName": "St. Elsewhere Hospital",
}
_MORE_TAGS = {
    "ReferringPhysicianName": "REFERRER^RUTH",
    "OperatorsName": "OPERATOR^OTTO",
    "AccessionNumber": "ACC-99-123456",
    "StudyDescription": "abdomen of Mrs Planter",
    "SeriesDescription": "venous, asked for by Dr Quill",
    "PatientComments": "daughter is Pia Planter",
    "PatientAddress": "12 Elsewhere Lane",
    "StationName": "CT-ELSEWHERE-3",
}
_IN_PRIVATE_TAG = "JANE-IN-PRIVATE-TAG"
_IN_SEQUENCE = "NESTED^NINA"
_IN_PREAMBLE = "PREAMBLE^PAT"
_IN_STRUCTURES = "STRUCTURE^STAN"
_IN_FOLDER = "DOE_JANE"
_IN_FILES = "DOE-JANE-CT"
_NIFTI_TEXTS = {
    "descrip": "ROE^MARY",
    "aux_file": "roe-mary-aux.txt",
    "intent_name": "intent of ROE",
    "db_name": "ROE-DB-1962",
}
_IN_EXTENSION = "exported for Mary Roe, born 1962"
_IN_GZIP = "ROE_MARY_ct.nii"
PLANTED = (
    *_TAGS.values(), *_NIFTI_TEXTS.values(), *_MORE_TAGS.values(), _IN_PRIVATE_TAG, _IN_SEQUENCE,
    _IN_PREAMBLE, _IN_STRUCTURES, _IN_FOLDER, _IN_FILES, _IN_EXTENSION, _IN_GZIP,
)  # fmt: skip
_FACTS = {"PatientAge": "061Y", "StudyDate": "20190702", "Manufacturer": "PHANTOM"}


def private(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a case's folder: ``ct`` with DICOM files or ``ct.nii.gz``, and ``masks``."""
    name, _, series = scan.case.partition("_s")
    folder = root / name
    if name == "P002":
        data = nifti_bytes(
            phantom.image, phantom.grid, "LAS", texts=_NIFTI_TEXTS, extension=_IN_EXTENSION
        )
        save(folder / "ct.nii.gz", data, gzip_name=_IN_GZIP)
    elif series:
        _write_part(folder / "ct", phantom, int(series))
    else:
        _write_series(folder / "ct", phantom, scan)
    for organ in scan.annotated:
        mask = phantom.labels(organ, "tumor").astype(np.uint8)
        texts = {"descrip": _NIFTI_TEXTS["descrip"]}
        data = nifti_bytes(mask, phantom.grid, "LAS", texts=texts)
        save(folder / "masks" / f"{organ}_tumor.nii.gz", data)
    if series != "2":
        return []
    # Listed under the case's name with that of the series, or with `files`.
    return [
        (f"{name}_s1", Report("excluded", "LOCALIZER")),
        (f"{name}_files", Report("excluded", "NOT_CT_SERIES")),
    ]


def _write_series(folder: Path, phantom: Phantom, scan: Scan) -> None:
    """Write a case of one series; those of P001 and P003 are of one person."""
    tags = _FACTS | {"PatientSex": phantom.patient.sex}
    names = _shuffled(scan.case, len(phantom.image))
    if scan.defect == "gantry tilt":
        tags |= {"PatientName": "TESSEL^TIM", "PatientID": "MRN-0005"}
    else:
        tags |= _TAGS | _MORE_TAGS
    if _IN_FOLDER in scan.case:
        names = [f"{_IN_FILES}-{i:03d}.dcm" for i in range(len(phantom.image))]
    series = Series(
        f"private {scan.case}", -1024, phantom.grid.spacing_mm[2], tags,
        tilt_degrees=12.0 if scan.defect == "gantry tilt" else 0.0,
        finish=None if scan.defect == "gantry tilt" else _plant,
    )  # fmt: skip
    write_series(folder, phantom.image, phantom.grid, names, series)


def _plant(data: Dataset) -> None:
    """Put personal data where no list of tags looks."""
    data.private_block(0x0009, "ELSEWHERE ARCHIVE", create=True).add_new(
        0x01, "LO", _IN_PRIVATE_TAG
    )
    request = Dataset()
    request.RequestedProcedureDescription = _IN_SEQUENCE
    data.RequestAttributesSequence = DicomSequence([request])
    data.preamble = _IN_PREAMBLE.encode().ljust(128, b"\0")


def _write_part(folder: Path, phantom: Phantom, number: int) -> None:
    """Write one of two series of a folder, and with the first what else an archive exports."""
    tags = _FACTS | {"PatientName": _NIFTI_TEXTS["descrip"], "PatientID": "MRN-0002"}
    names = _shuffled(f"P004 {number}", len(phantom.image))
    series = Series(
        f"private P004 {number}", -1024, phantom.grid.spacing_mm[2], tags, number=number,
        study="private P004",
    )  # fmt: skip
    write_series(folder, phantom.image, phantom.grid, names, series)
    if number != 2:
        return
    shutil.copyfile(folder / names[3], folder / f"copy of {names[3]}")
    tags |= {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    scout = Series(
        "private P004 scout", -1024, 1.0, tags,
        number=1, study="private P004",
    )  # fmt: skip
    write_series(folder, phantom.image[:1], phantom.grid, ["scout.dcm"], scout)
    structures = new_file(_RTSTRUCT, uid_of("private P004", "structures"))
    structures.Modality = "RTSTRUCT"
    structures.StudyInstanceUID = uid_of("private P004", "study")
    structures.SeriesInstanceUID = uid_of("private P004 structures", "series")
    structures.PatientName = _IN_STRUCTURES
    structures.StructureSetLabel = "organs"
    structures.save_as(folder / "structures.dcm", enforce_file_format=True)


def _shuffled(case: str, count: int) -> Sequence[str]:
    """Return names that sort like noise: only the positions tell the order of the slices."""
    return [hashlib.sha256(f"{case} {i}".encode()).hexdigest()[:16] + ".dcm" for i in range(count)]
