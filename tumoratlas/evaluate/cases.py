"""Scores of one case and organ, and of each of its tumors.

What was annotated decides what is scored:

* ``unknown`` organs are left out: their rows hold no number.
* Cysts are background: who predicts a tumor there is wrong.
* Fragments (below the minimum volume) are part of the truth's volume and surface, but nobody
  has to find them, and to find them is not wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumoratlas.candidates.hits import match_findings, shared_voxels
from tumoratlas.core.errors import InputError
from tumoratlas.evaluate.overlap import dice, union_box
from tumoratlas.evaluate.surface import TOLERANCE_MM, surface_dice
from tumoratlas.images.components import find_components, minimum_voxels
from tumoratlas.images.grid import Grid
from tumoratlas.measure.counts import headline_tumors

STATES = ("present", "confirmed_empty", "unknown")


@dataclass(frozen=True)
class CaseScore:
    """One organ of one case.

    Attributes
    ----------
    case_id, organ, state
        What was scored, and its state in the table ``masks``.
    tolerance_mm
        Tolerance of ``nsd``.
    dsc, nsd
        Of all tumor voxels together (`dice`, `surface_dice`): NaN where both masks are empty
        and where the organ is unknown, 0 where one is empty.
    truth_volume_mm3, predicted_volume_mm3, false_volume_mm3
        Volumes; the last is predicted and no tumor. NaN where the organ is unknown.
    tumors, findings
        Headline tumors of the truth, and components of the prediction.
    false_positives, false_positives_iou
        Findings that touch no tumor, and that overlap none by `MINIMUM_IOU`.
    """

    case_id: str
    organ: str
    state: str
    tolerance_mm: float
    dsc: float = math.nan
    nsd: float = math.nan
    truth_volume_mm3: float = math.nan
    predicted_volume_mm3: float = math.nan
    false_volume_mm3: float = math.nan
    tumors: int = 0
    findings: int = 0
    false_positives: int = 0
    false_positives_iou: int = 0


@dataclass(frozen=True)
class TumorScore:
    """One headline tumor of the truth.

    Attributes
    ----------
    case_id, organ, number
        The tumor, as in the table ``tumors``.
    size_class, is_early, is_early_recist
        From that table.
    is_hit
        A finding shares a voxel with it.
    is_hit_iou
        It is matched with one finding, one to one, with an intersection over union of at least
        `MINIMUM_IOU`.
    """

    case_id: str
    organ: str
    number: int
    size_class: str
    is_early: bool
    is_early_recist: bool
    is_hit: bool
    is_hit_iou: bool


def score_case(
    truth: NDArray[np.unsignedinteger],
    tumors: pd.DataFrame,
    prediction: NDArray[np.generic],
    grid: Grid,
    *,
    case_id: str,
    organ: str,
    state: str,
    connectivity: int,
    minimum_volume_mm3: float,
    tolerance_mm: float = TOLERANCE_MM,
) -> tuple[CaseScore, list[TumorScore]]:
    """Compare the predicted tumors of an organ with the final ones.

    Parameters
    ----------
    truth
        Instance map of the organ, uint16 (z, y, x), 0 background.
    tumors
        The organ's rows of the table ``tumors``: ``number, lesion_kind, size_class, is_early,
        is_early_recist, is_fragment``; one for each value of the map.
    prediction
        Predicted tumor mask (argmax, or probability at least 0.5) on the same grid, bool or
        integer (z, y, x), non-zero is tumor.
    grid
        Native grid of the case.
    case_id, organ, state
        Written into the rows; an ``unknown`` organ is not scored.
    connectivity
        6, 18 or 26 neighbours, for the findings.
    minimum_volume_mm3
        Smaller components of the prediction are no findings; they count in ``dsc`` and ``nsd``.
    tolerance_mm
        Tolerance of ``nsd``.

    Returns
    -------
    The row of the case, and one row per headline tumor by number.

    Raises
    ------
    InputError
        The state does not exist, or the map's values are not those of the rows.
    GeometryError
        The masks differ in shape.
    """
    if state not in STATES:
        raise _wrong_rows(case_id, organ, f"the state {state!r} does not exist")
    if state == "unknown":
        return CaseScore(case_id, organ, state, tolerance_mm), []
    box = union_box(truth, prediction)
    truth, predicted = truth[box], np.ascontiguousarray(prediction[box] != 0)
    sizes = np.bincount(truth.ravel(), minlength=1)
    numbers = np.flatnonzero(sizes[1:]) + 1
    if numbers.tolist() != sorted(tumors["number"]):
        raise _wrong_rows(case_id, organ, "the instance map and the rows name other numbers")
    if state == "confirmed_empty" and len(numbers):
        raise _wrong_rows(case_id, organ, "it is confirmed empty and holds tumors")
    headline = headline_tumors(tumors).sort_values("number")
    wanted = headline["number"].to_numpy(np.int64)
    renumbered = np.zeros(len(sizes), np.uint32)
    renumbered[wanted] = np.arange(1, len(wanted) + 1)
    is_tumor = np.ones(len(sizes), bool)
    is_tumor[[0, *tumors.loc[tumors["lesion_kind"] == "cyst", "number"]]] = False
    mask = is_tumor[truth]

    fewest = minimum_voxels(minimum_volume_mm3, grid.voxel_volume_mm3)
    found = find_components(predicted, connectivity=connectivity, minimum_count=fewest)
    findings = np.zeros(predicted.shape, np.uint32)
    findings[found.box] = found.labels
    counts = (len(wanted), len(found.voxels))
    shared = shared_voxels(renumbered[truth[mask]], findings[mask], counts)
    lesion_voxels = sizes[wanted]
    hit, false = match_findings("any", shared, lesion_voxels, found.voxels)
    hit_iou, false_iou = match_findings("iou", shared, lesion_voxels, found.voxels)

    def volume_mm3(voxels: NDArray[np.bool_]) -> float:
        return float(np.count_nonzero(voxels) * grid.voxel_volume_mm3)

    score = CaseScore(
        case_id,
        organ,
        state,
        tolerance_mm,
        dsc=dice(mask, predicted),
        nsd=surface_dice(
            mask, predicted, spacing_zyx_mm=grid.spacing_mm[::-1], tolerance_mm=tolerance_mm
        ),
        truth_volume_mm3=volume_mm3(mask),
        predicted_volume_mm3=volume_mm3(predicted),
        false_volume_mm3=volume_mm3(predicted & ~mask),
        tumors=len(wanted),
        findings=len(found.voxels),
        false_positives=int(false.sum()),
        false_positives_iou=int(false_iou.sum()),
    )
    rows = [
        TumorScore(
            case_id,
            organ,
            int(row.number),
            row.size_class,
            bool(row.is_early),
            bool(row.is_early_recist),
            bool(hit[index]),
            bool(hit_iou[index]),
        )
        for index, row in enumerate(headline.itertuples())
    ]
    return score, rows


def scores_table(scores: Sequence[CaseScore] | Sequence[TumorScore], kind: type) -> pd.DataFrame:
    """Return the rows as a table with the columns of ``kind``, by case, organ and number."""
    columns = [field.name for field in fields(kind)]
    keys = [name for name in ("case_id", "organ", "number") if name in columns]
    table = pd.DataFrame(map(asdict, scores), columns=columns)
    return table.sort_values(keys, ignore_index=True)


def _wrong_rows(case_id: str, organ: str, reason: str) -> InputError:
    return InputError(
        "EVALUATION_ROWS",
        f"{organ} of case {case_id}",
        reason,
        remedy="Take the instance map and the tables from one release.",
    )
