"""Label files of a batch for viewers that show label maps: ITK-SNAP and MONAI Label."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.files import sha256_file, write_json, write_text
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti

ORGANS = ("liver", "pancreas", "kidney", "colon", "esophagus", "uterus")
LABELS_PER_ORGAN = 1000
SCANS, ORIGINAL = "scans", "labels/original"
# Marks the organ's outline in a segmentation file, which is never a tumor.
OUTLINE_TAG = "organ_outline"
_EXTENSION = ".nii.gz"

# The lines that ITK-SNAP itself writes; it reads only what stands below.
_ITKSNAP_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    IDX:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def case_label(organ: str, number: int) -> int:
    """Return a candidate's label in the map that holds the candidates of all organs.

    It is 1000 k + number, with k the 1-based place of the organ in `ORGANS`.

    Raises
    ------
    ReviewError
        TOO_MANY_CANDIDATES: the number does not fit below the next organ's labels.
    """
    if not 0 < number < LABELS_PER_ORGAN:
        raise ReviewError(
            "TOO_MANY_CANDIDATES",
            organ,
            f"a candidate has the number {number}",
            remedy=f"Nobody can review {LABELS_PER_ORGAN} candidates: choose a higher threshold",
        )
    return LABELS_PER_ORGAN * (ORGANS.index(organ) + 1) + number


def color_of(number: int) -> list[float]:
    """Return a colour (r, g, b) far from its neighbours': hues in steps of the golden angle."""
    return [round(v, 3) for v in colorsys.hsv_to_rgb(number * 0.381966 % 1.0, 0.8, 1.0)]


def write_itksnap_labels(path: Path, found: Mapping[str, Iterable[int]]) -> None:
    """Write the label descriptions of a batch: one file for both kinds of label maps in it.

    Parameters
    ----------
    path
        The file.
    found
        Numbers of the candidates of all cases, by organ. In ``candidates.nii.gz`` the labels
        are these numbers, in the map of all organs they are those of `case_label`.
    """
    names = {number: f"candidate {number}" for numbers in found.values() for number in numbers}
    for organ, numbers in found.items():
        names |= {case_label(organ, number): f"{organ} candidate {number}" for number in numbers}
    lines = [_itksnap_line(0, [0.0, 0.0, 0.0], 0, "Clear Label")]
    lines += [_itksnap_line(label, color_of(label), 1, names[label]) for label in sorted(names)]
    write_text(path, _ITKSNAP_HEAD + "".join(lines))


def _itksnap_line(label: int, color: list[float], shown: int, name: str) -> str:
    red, green, blue = (round(255 * part) for part in color)
    return (
        f'{label:5d}   {red:3d}  {green:3d}  {blue:3d}  {shown:7d}  {shown}  {shown}    "{name}"\n'
    )


@dataclass(frozen=True)
class CaseLabels:
    """A case as its entry of the MONAI Label datastore tells of it.

    Attributes
    ----------
    case_id
        Its id, which is the image's id.
    bases
        Hash of the candidate map that is shown, by organ.
    numbers
        Numbers of the candidates, by organ.
    """

    case_id: str
    bases: Mapping[str, str]
    numbers: Mapping[str, list[int]]


def add_labels(case: NDArray[np.uint16], organ: str, candidates: NDArray[np.uint16]) -> None:
    """Draw an organ's candidates into the map of all organs, over what is there.

    Parameters
    ----------
    case
        uint16 (z, y, x), changed in place; labels of `case_label`.
    organ, candidates
        An organ and its map (z, y, x) of candidate numbers, each of which has a `case_label`.
    """
    where = candidates > 0
    case[where] = candidates[where] + np.uint16(case_label(organ, 1) - 1)


def write_case_labels(batch: Path, case_id: str, labels: NDArray[np.uint16], grid: Grid) -> None:
    """Write the map of all organs' candidates where MONAI Label looks for a model's labels."""
    write_nifti(batch / SCANS / ORIGINAL / f"{case_id}{_EXTENSION}", labels, grid)


def write_monai_datastore(batch: Path, name: str, cases: Iterable[CaseLabels]) -> None:
    """Write ``scans/datastore_v2.json``, so that MONAI Label opens ``scans/`` as its studies.

    The form is that of MONAI Label's local datastore: objects by image id, each with ``image``
    and ``labels`` by tag, each of these with ``ext`` and free ``info``. Our own facts stand in
    the image's info, which the server keeps: ``batch`` and the hashes ``bases``.

    Parameters
    ----------
    batch
        Folder of the batch; its scans and maps are written.
    name
        The batch.
    cases
        What is in it.
    """
    objects = {case.case_id: _monai_object(batch, name, case) for case in cases}
    write_json(
        batch / SCANS / "datastore_v2.json",
        {
            "name": name,
            "description": f"CT scans and tumor candidates of batch {name}",
            "images_dir": ".",
            "labels_dir": "labels",
            "objects": objects,
        },
    )


def _monai_object(batch: Path, name: str, case: CaseLabels) -> dict[str, Any]:
    file = f"{case.case_id}{_EXTENSION}"
    # A time stamp of 0 keeps equal packets equal; the server reads none.
    stamp = {"ts": 0, "name": file}
    facts = {"batch": name, "bases": dict(case.bases)}
    classes = [
        {"name": f"{organ} candidate {number}", "idx": case_label(organ, number)}
        for organ in case.numbers
        for number in case.numbers[organ]
    ]
    checksum = f"SHA256:{sha256_file(batch / SCANS / ORIGINAL / file)}"
    shown = {"checksum": checksum, "label_info": sorted(classes, key=lambda c: c["idx"])}
    return {
        "image": {"ext": _EXTENSION, "info": stamp | facts},
        "labels": {"original": {"ext": _EXTENSION, "info": stamp | shown}},
    }
