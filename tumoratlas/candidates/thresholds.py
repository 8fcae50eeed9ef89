"""The thresholds of a level map, and the one chosen on the FROC curve (paper, section 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumoratlas.core.errors import ConfigError, InputError

RULES = ("any", "iou")
# The column of the curve that must reach the wanted sensitivity.
CRITERIA = {"point": "sensitivity", "ci_lower": "sensitivity_low"}


@dataclass(frozen=True)
class ThresholdChoice:
    """The threshold chosen for an organ, and what the curve says there.

    Attributes
    ----------
    threshold, index
        The probability cut and its place in the thresholds: candidates are ``level > index``.
    rule
        Hit rule, ``any`` or ``iou``.
    criterion, target
        What has to reach the wanted sensitivity (``point`` or ``ci_lower``), and that value.
    is_target_reached
        False if this is the fallback of a model that never reaches the target.
    sensitivity, sensitivity_low, sensitivity_high
        Share of lesions hit and its bootstrap interval.
    lesions, hits
        The counts behind it.
    fp_per_scan, fp_per_tumor_free_scan
        False-positive candidates per scan; None for the latter without tumor-free scans.
    false_fraction
        Candidate volume outside lesions over the volume searched.
    """

    threshold: float
    index: int
    rule: str
    criterion: str
    target: float
    is_target_reached: bool
    sensitivity: float
    sensitivity_low: float
    sensitivity_high: float
    lesions: int
    hits: int
    fp_per_scan: float
    fp_per_tumor_free_scan: float | None
    false_fraction: float


def choose_threshold(
    curve: pd.DataFrame,
    *,
    organ: str,
    sensitivity: float = 0.90,
    rule: str = "any",
    criterion: str = "point",
    maximum_false_fraction: float = 1.0,
    on_shortfall: str = "error",
) -> ThresholdChoice:
    """Choose the largest threshold that reaches the wanted sensitivity (paper 3.1: 90 %).

    Not the one with fewest false positives: toward threshold 0 a single candidate covers all,
    with sensitivity 1 and no false positive. Thresholds whose candidates flood the searched
    volume are therefore out of the choice.

    Parameters
    ----------
    curve
        Result of `froc_curve`.
    organ
        Named in the error.
    sensitivity
        Wanted share of lesions hit.
    rule
        Hit rule.
    criterion
        What has to reach it: ``point``, the share itself, or ``ci_lower``, the lower end of its
        interval.
    maximum_false_fraction
        Largest allowed share of the searched volume covered by candidates outside lesions.
    on_shortfall
        Where no threshold reaches the target: ``error``, or ``fallback`` to the best
        sensitivity, at the largest such threshold.

    Raises
    ------
    InputError
        No threshold reaches the target and ``on_shortfall`` is ``error``, or all thresholds
        flood the searched volume.
    ConfigError
        Unknown rule, criterion or ``on_shortfall``.
    """
    known = rule in RULES and criterion in CRITERIA and on_shortfall in ("error", "fallback")
    if not known:
        raise ConfigError(
            "FROC_OPTION",
            f"rule {rule!r}, criterion {criterion!r}, on_shortfall {on_shortfall!r}",
            "is not a known choice",
            remedy="Use rule any or iou, criterion point or ci_lower, and on_shortfall error or "
            "fallback.",
        )
    points = curve[curve["rule"] == rule].sort_values("threshold", ignore_index=True)
    sane = points[points["false_fraction"] <= maximum_false_fraction]
    reached = sane[sane[CRITERIA[criterion]] >= sensitivity]
    if sane.empty or (reached.empty and on_shortfall == "error"):
        best = points.loc[points["sensitivity"].idxmax()]
        raise InputError(
            "FROC_SHORTFALL",
            f"{organ} model",
            f"reaches no sensitivity of {sensitivity:g} ({criterion}) at a usable threshold",
            remedy="Train it further, add lower thresholds, or allow the fallback by config.",
            evidence=f"best {best['sensitivity']:.3f} at {best['threshold']:g} with false "
            f"fraction {best['false_fraction']:.3g} (allowed {maximum_false_fraction:g})",
        )
    is_target_reached = not reached.empty
    if not is_target_reached:
        reached = sane[sane["sensitivity"] == sane["sensitivity"].max()]
    row = reached.iloc[-1]
    free_rate = row["fp_per_tumor_free_scan"]
    return ThresholdChoice(
        threshold=float(row["threshold"]),
        index=int(row.name),
        rule=rule,
        criterion=criterion,
        target=sensitivity,
        is_target_reached=is_target_reached,
        sensitivity=float(row["sensitivity"]),
        sensitivity_low=float(row["sensitivity_low"]),
        sensitivity_high=float(row["sensitivity_high"]),
        lesions=int(row["lesions"]),
        hits=int(row["hits"]),
        fp_per_scan=float(row["fp_per_scan"]),
        fp_per_tumor_free_scan=None if np.isnan(free_rate) else float(free_rate),
        false_fraction=float(row["false_fraction"]),
    )


def check_thresholds(thresholds: Sequence[float], levels: NDArray[np.uint8]) -> None:
    """Raise ConfigError unless the thresholds ascend and cover the levels of the map."""
    ascend = all(a < b for a, b in zip(thresholds, thresholds[1:], strict=False))
    if not ascend or int(levels.max(initial=0)) > len(thresholds):
        raise ConfigError(
            "THRESHOLDS",
            "thresholds",
            f"do not ascend, or are fewer than the {levels.max(initial=0)} levels of the map",
            remedy="Give the ascending thresholds that the level map was made with.",
        )
