"""The facts of a DICOM series that may leave its source, and those that link series."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

from tumoratlas.images.dicom_files import number_of, text_of

LINKS = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")
_PHASE_WORDS = {
    "non_contrast": r"non.?contrast|unenhanced|without|\bnativ|\bplain\b|\bnc\b",
    "arterial": r"arterial|\bart\b|corticomedullary",
    "venous": r"venous|portal|\bpv\b|\bven\b|nephrographic",
    "delayed": r"delay|\blate\b|excretory|equilibrium",
}
_MAKERS = {
    "SIEMENS": r"siemens",
    "GE MEDICAL SYSTEMS": r"^ge\b|\bge (medical|healthcare)|general electric",
    "Philips": r"philips|marconi|picker",
    "TOSHIBA": r"toshiba",
    "CANON": r"canon",
    "HITACHI": r"hitachi",
    "FUJIFILM": r"fujifilm",
    "United Imaging": r"united imaging|\buih\b",
    "Neusoft": r"neusoft",
    "SHIMADZU": r"shimadzu",
    "Samsung": r"samsung|neurologica",
}
_POSITIONS = re.compile(r"(HF|FF)(S|P|DR|DL)")
_OLDEST_YEARS = 120


def series_facts(dataset: Dataset) -> dict[str, str | float | bool | None]:
    """Return the facts that may leave the source: an allow-list, so that nothing else can.

    Free text is mapped to a closed set of values, the manufacturer too, and numbers that no
    scan can have are left out; names, dates, identifiers, institutions, models and descriptions
    are never returned. Unknown facts are None.
    """
    sex = text_of(dataset, "PatientSex").upper()
    description = f"{text_of(dataset, 'SeriesDescription')} {text_of(dataset, 'ProtocolName')}"
    phases = [name for name, words in _PHASE_WORDS.items() if re.search(words, description.lower())]
    maker = text_of(dataset, "Manufacturer").lower()
    makers = [name for name, words in _MAKERS.items() if re.search(words, maker)]
    position = text_of(dataset, "PatientPosition").upper()
    return {
        "modality": "CT",
        "sex": sex if sex in ("M", "F", "O") else None,
        "age_years": _age_years(text_of(dataset, "PatientAge").upper()),
        "manufacturer": makers[0] if len(makers) == 1 else "other" if maker else None,
        "kvp": _within(number_of(dataset, "KVP"), 40, 200),
        "slice_thickness_mm": _within(number_of(dataset, "SliceThickness"), 0.05, 50),
        "patient_position": position if _POSITIONS.fullmatch(position) else None,
        "has_contrast_agent": True if text_of(dataset, "ContrastBolusAgent") else None,
        "phase": phases[0] if len(phases) == 1 else None,
    }


def series_links(datasets: Sequence[Dataset]) -> dict[str, str]:
    """Return the raw identifiers of `LINKS` on which all files agree; empty ones are left out.

    They tell which series are of one patient. They identify the patient, so that only
    pseudonyms of them may be stored.
    """
    links = {}
    for name in LINKS:
        values = {text_of(dataset, name) for dataset in datasets}
        if len(values) == 1 and "" not in values:
            links[name] = values.pop()
    return links


def _age_years(text: str) -> float | None:
    age = re.fullmatch(r"(\d{3})([YMWD])", text)
    if not age:
        return None
    share = {"Y": 1, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}[age[2]]
    return _within(float(int(int(age[1]) * share)), 0, _OLDEST_YEARS)


def _within(value: float | None, low: float, high: float) -> float | None:
    return value if value is not None and low <= value <= high else None
