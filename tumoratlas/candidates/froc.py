"""The FROC curve of a tumor model (Stage 2 of the paper, section 3.1).

A level map holds, for every voxel, how many of the ascending thresholds its probability
reaches, so that ``level > k`` is ``probability >= thresholds[k]`` to the bit. Components change
with the threshold: each one cuts the map anew.

Two hit rules stand side by side:

``any``
    A lesion is hit by any candidate that shares a voxel with it, and one candidate may hit
    several lesions: the reader is led there. A candidate that touches no lesion is a false
    positive. Sensitivity never rises with the threshold.
``iou``
    One lesion, one candidate, with an intersection over union of at least `MINIMUM_IOU`: the
    largest number of pairs, then the largest overlap. A candidate left over beside a lesion that
    it overlaps enough is no false positive. This is picai_eval's rule.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumoratlas.candidates.hits import match_findings, shared_voxels
from tumoratlas.candidates.thresholds import RULES, check_thresholds
from tumoratlas.core.errors import GeometryError, InputError
from tumoratlas.images.components import find_components, foreground_box, minimum_voxels

CONFIDENCE = 0.95
BOOTSTRAP_BLOCK = 100


def froc_counts(
    levels: NDArray[np.uint8],
    truth: NDArray[np.generic],
    thresholds: Sequence[float],
    *,
    case_id: str,
    voxel_volume_mm3: float,
    searched_volume_mm3: float,
    minimum_volume_mm3: float,
    connectivity: int,
) -> pd.DataFrame:
    """Count hits and false positives of one case at every threshold.

    Parameters
    ----------
    levels
        Level map, uint8 (z, y, x).
    truth
        Lesion mask on the same grid, bool or integer (z, y, x), non-zero is lesion.
    thresholds
        Ascending probabilities of the levels.
    case_id
        Written into the rows.
    voxel_volume_mm3
        Volume of a voxel of this grid.
    searched_volume_mm3
        Volume in which candidates may arise: the organ's, or the scan's without an organ mask.
    minimum_volume_mm3
        Smaller components are neither candidates nor lesions; a candidate that touches only
        such a fragment of the truth is no false positive.
    connectivity
        6, 18 or 26 neighbours, for lesions and candidates.

    Returns
    -------
    One row per rule and threshold: ``case_id, rule, threshold, lesions, hits,
    false_positives, candidates, candidate_volume_mm3, false_volume_mm3,
    searched_volume_mm3``; ``false_volume_mm3`` is the candidates' volume outside the truth.

    Raises
    ------
    GeometryError
        The two arrays differ in shape.
    ConfigError
        The thresholds do not ascend, or are fewer than the levels of the map.
    """
    check_thresholds(thresholds, levels)
    if levels.shape != truth.shape:
        raise GeometryError(
            "SHAPE_MISMATCH",
            case_id,
            f"level map {levels.shape} and lesion mask {truth.shape} differ in shape",
            remedy="Bring the lesion mask onto the model grid.",
        )
    box = foreground_box((levels > 0) | (truth != 0))
    levels, truth = levels[box], np.ascontiguousarray(truth[box] != 0)
    fewest = minimum_voxels(minimum_volume_mm3, voxel_volume_mm3)
    lesions = find_components(truth, connectivity=connectivity, minimum_count=fewest)
    lesion_map = np.zeros(truth.shape, np.uint32)
    lesion_map[lesions.box] = lesions.labels
    inside = np.flatnonzero(truth)
    rows = []
    for index, threshold in enumerate(thresholds):
        candidates = find_components(
            levels > index, connectivity=connectivity, minimum_count=fewest
        )
        candidate_map = np.zeros(truth.shape, np.uint32)
        candidate_map[candidates.box] = candidates.labels
        counts = (len(lesions.voxels), len(candidates.voxels))
        shared = shared_voxels(lesion_map.flat[inside], candidate_map.flat[inside], counts)
        total = int(candidates.voxels.sum())
        for rule in RULES:
            hit, false = match_findings(rule, shared, lesions.voxels, candidates.voxels)
            rows.append(
                {
                    "case_id": case_id,
                    "rule": rule,
                    "threshold": float(threshold),
                    "lesions": len(lesions.voxels),
                    "hits": int(hit.sum()),
                    "false_positives": int(false.sum()),
                    "candidates": len(candidates.voxels),
                    "candidate_volume_mm3": total * voxel_volume_mm3,
                    "false_volume_mm3": (total - int(shared[:, 1:].sum())) * voxel_volume_mm3,
                    "searched_volume_mm3": searched_volume_mm3,
                }
            )
    return pd.DataFrame(rows).sort_values(["rule", "threshold"], ignore_index=True)


def froc_curve(
    cases: pd.DataFrame, *, bootstrap: int, seed: int, unit: str = "case_id"
) -> pd.DataFrame:
    """Join the counts of all cases into the FROC curve.

    Parameters
    ----------
    cases
        The rows of `froc_counts` of every case, in any order.
    bootstrap
        Number of bootstrap samples for the intervals.
    seed
        Seed of the bootstrap.
    unit
        Column to resample by: ``case_id``, or a column of patients where scans share one.

    Returns
    -------
    One row per rule and ascending threshold: ``rule, threshold, scans, tumor_free_scans,
    lesions, hits, sensitivity, sensitivity_low, sensitivity_high, false_positives,
    fp_per_scan, fp_per_scan_low, fp_per_scan_high, fp_per_tumor_free_scan,
    candidates_per_scan, candidate_volume_mm3_per_scan, false_fraction``. The intervals are
    the 2.5 and 97.5 percentiles. Without tumor-free scans their rate is NaN.

    Raises
    ------
    InputError
        No case has a lesion, or a case lacks a threshold or occurs twice.
    """
    cases = cases.sort_values([unit, "case_id"], ignore_index=True)
    scans = cases["case_id"].nunique()
    tables = []
    for rule, rows in cases.groupby("rule"):
        counts = rows.groupby("threshold")["case_id"].agg(["size", "nunique"])
        if (counts != scans).any(axis=None) or rows["lesions"].sum() == 0:
            raise InputError(
                "FROC_CASES",
                f"{scans} calibration cases",
                "hold no lesion, or not one row per case and threshold",
                remedy="Calibrate on cases with tumors, all counted at the same thresholds.",
            )
        free = rows[rows["lesions"] == 0]
        sums = rows.groupby("threshold").sum(numeric_only=True)
        curve = sums[["lesions", "hits", "false_positives"]].copy()
        curve.insert(0, "rule", rule)
        curve["scans"] = scans
        curve["tumor_free_scans"] = free["case_id"].nunique()
        curve["sensitivity"] = sums["hits"] / sums["lesions"]
        curve["fp_per_scan"] = sums["false_positives"] / scans
        curve["fp_per_tumor_free_scan"] = free.groupby("threshold")["false_positives"].mean()
        curve["candidates_per_scan"] = sums["candidates"] / scans
        curve["candidate_volume_mm3_per_scan"] = sums["candidate_volume_mm3"] / scans
        curve["false_fraction"] = sums["false_volume_mm3"] / sums["searched_volume_mm3"]
        intervals = _bootstrap(rows, bootstrap, seed, unit)
        tables.append(curve.join(intervals).reset_index())
    return pd.concat(tables, ignore_index=True)


def _bootstrap(rows: pd.DataFrame, samples: int, seed: int, unit: str) -> pd.DataFrame:
    """Return percentile intervals per threshold, resampling the units (patients or cases)."""
    tables = {
        name: rows.pivot_table(index=unit, columns="threshold", values=name, aggfunc="sum")
        for name in ("lesions", "hits", "false_positives")
    }
    per_unit = {name: table.to_numpy(np.float64) for name, table in tables.items()}
    scans = rows.groupby(unit)["case_id"].nunique().to_numpy(np.float64)
    rng = np.random.default_rng(seed)
    units = len(scans)
    sensitivity, fp_per_scan = [], []
    for start in range(0, samples, BOOTSTRAP_BLOCK):
        size = min(BOOTSTRAP_BLOCK, samples - start)
        weights = rng.multinomial(units, np.full(units, 1 / units), size=size)
        with np.errstate(invalid="ignore"):
            # A sample without any lesion has no sensitivity: NaN, left out below.
            sensitivity.append((weights @ per_unit["hits"]) / (weights @ per_unit["lesions"]))
        fp_per_scan.append((weights @ per_unit["false_positives"]) / (weights @ scans)[:, None])
    tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    result = pd.DataFrame(index=tables["hits"].columns)
    for name, drawn in (("sensitivity", sensitivity), ("fp_per_scan", fp_per_scan)):
        low, high = np.nanpercentile(np.vstack(drawn), tails, axis=0)
        result[f"{name}_low"], result[f"{name}_high"] = low, high
    return result
