"""What the segments of a DICOM SEG object are, in codes of SNOMED CT."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes as dicom

from tumoratlas.core.structures import structures, tumor_structures
from tumoratlas.release.cases import POOLED, segmentation, tumor_files
from tumoratlas.release.facts import Rows

# A model drew the outline, a person accepted or changed it.
_BY_MODEL = ("accept", "edit", "split", "merge")


@dataclass(frozen=True)
class Meaning:
    """Codes of a segment: category and type (DICOM PS3.16 CID 7150, 7151), and side or None."""

    category: CodedConcept
    type: CodedConcept
    side: CodedConcept | None


@dataclass(frozen=True)
class Part:
    """A mask of a case that becomes a segment.

    Attributes
    ----------
    label
        Name of the segment: a structure's, ``liver tumor 2``, ``kidney cyst 1`` or ``pooled
        lesion 1``.
    file, number
        File below the case, and the label in it.
    meaning
        Name in ``resources/dicom_codes.csv``.
    organ
        Organ of a tumor, empty for organs and where no organ is known.
    tumor_id
        Id of a tumor, empty for organs.
    is_manual
        Whether no model of this project drew its outline.
    """

    label: str
    file: str
    number: int
    meaning: str
    organ: str = ""
    tumor_id: str = ""
    is_manual: bool = True


def read_codes(path: Path) -> dict[str, Meaning]:
    """Return the codes of every structure, and of tumors, ``cyst`` and ``lesion``, by name."""
    with open(path, newline="", encoding="utf-8") as file:
        return {
            row["name"]: Meaning(
                *(
                    CodedConcept(row[key], "SCT", row[f"{key}_meaning"]) if row[key] else None
                    for key in ("category", "type", "side")
                )
            )
            for row in csv.DictReader(file)
        }


def parts_of(folder: Path, tumors: Rows) -> list[Part]:
    """Return the parts of a case's files: organs in index order, then its tumors.

    Parameters
    ----------
    folder
        Folder of the case's masks; what is not in it is no part.
    tumors
        Rows ``organ, number, lesion_kind, origin, tumor_id`` of the case.
    """
    parts = [
        Part(row.name, segmentation(row.name), 1, row.name)
        for row in structures().values()
        if row.kind == "organ"
    ]
    for row in sorted(tumors, key=_order):
        organ, kind = row["organ"], row["lesion_kind"]
        is_pooled = _is_pooled(row)
        parts.append(
            Part(
                label=f"{'pooled' if is_pooled else organ} {kind} {row['number']}",
                file=POOLED if is_pooled else tumor_files(organ)[2],
                number=int(row["number"]),
                meaning=tumor_structures()[organ].name if kind == "tumor" else kind,
                organ=organ if organ in tumor_structures() else "",
                tumor_id=row["tumor_id"],
                is_manual=row["origin"] not in _BY_MODEL,
            )
        )
    return [part for part in parts if (folder / part.file).is_file()]


def _is_pooled(row: Mapping[str, Any]) -> bool:
    return row["origin"] == "pooled"


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    # By file, and in it by number.
    return _is_pooled(row), "" if _is_pooled(row) else row["organ"], row["number"]


def describe(
    number: int, part: Part, codes: Mapping[str, Meaning], tracking_uid: str
) -> SegmentDescription:
    """Return the description of a segment."""
    meaning = codes[part.meaning]
    algorithm = AlgorithmIdentificationSequence(
        "tumor candidates, reviewed", dicom.cid7162.ArtificialIntelligence, "see models.csv"
    )
    description = SegmentDescription(
        number,
        part.label,
        meaning.category,
        meaning.type,
        "MANUAL" if part.is_manual else "SEMIAUTOMATIC",
        algorithm_identification=None if part.is_manual else algorithm,
        tracking_id=part.tumor_id or None,
        tracking_uid=tracking_uid if part.tumor_id else None,
        anatomic_regions=[codes[part.organ].type] if part.organ else None,
    )
    if meaning.side:
        description.SegmentedPropertyTypeModifierCodeSequence = [meaning.side]
    return description
