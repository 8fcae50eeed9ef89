"""What may differ where a GPU computed: declared tolerances, and the deviation measured."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tumoratlas.core.errors import ToldError
from tumoratlas.core.files import read_json
from tumoratlas.core.results import RECORD

_TRAINING, _LOSSES = "training.json", ("train_loss", "val_loss")
# Of a prediction's row: follows from its levels.
_REACHED = "reached_voxels"


@dataclass(frozen=True)
class Tolerance:
    """How far the results of a rule on a device may lie apart; a row of ``tolerances.csv``.

    Attributes
    ----------
    rule, device
        Whose results.
    measure
        What is measured.
    tolerance
        Largest value that is allowed.
    why
        Where this number is from.
    """

    rule: str
    device: str
    measure: str
    tolerance: float
    why: str


def read_tolerances(path: Path) -> list[Tolerance]:
    """Read the table of tolerances."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [Tolerance(**row | {"tolerance": float(row["tolerance"])}) for row in rows]


def deviation(
    rule: str, files: Sequence[str], before: Path, after: Path
) -> dict[str, float] | None:
    """Measure how far the files of a job that are not equal lie apart.

    Parameters
    ----------
    rule
        The job's rule.
    files
        Files, below both working directories, whose bytes differ.
    before, after
        The working directories.

    Returns
    -------
    The largest value of each measure of the rule. None where something differs that has no
    measure, or no measure applies: shape, facts, a row, a missing or damaged file, settings,
    groups.
    """
    try:
        return _MEASURED[rule](files, before, after)
    except (ToldError, OSError, ValueError, KeyError):
        return None


def _levels(files: Sequence[str], before: Path, after: Path) -> dict[str, float] | None:
    """Compare level maps (`tumoratlas.candidates.levels`) and the rows beside them."""
    from tumoratlas.images.arrays import read_array

    share, step = 0.0, 0
    for name in files:
        if name.endswith(RECORD):
            rows = [read_json(base / name)["row"] | {_REACHED: None} for base in (before, after)]
            if rows[0] != rows[1]:
                return None
        elif name.endswith(".b2nd"):
            (one, meta), (other, other_meta) = read_array(before / name), read_array(after / name)
            if meta != other_meta or one.shape != other.shape:
                return None
            apart = np.abs(one.astype(np.int16) - other)
            share = max(share, float(np.count_nonzero(apart) / apart.size))
            step = max(step, int(apart.max()))
        elif not name.endswith(".tsv"):
            return None
    return {"voxel_share": share, "level_step": step}


def _losses(files: Sequence[str], before: Path, after: Path) -> dict[str, float] | None:
    """Compare two trainings by their settings, data and loss over the last tenth of the epochs.

    Weights are not compared: rounding errors grow with every step.
    """
    (name,) = [name for name in files if name.endswith(_TRAINING)]
    one, other = (read_json(base / name) for base in (before, after))
    if any(one[key] != other[key] for key in one.keys() | other.keys() if key != "history"):
        return None
    if len(one["history"]) != len(other["history"]):
        return None
    last = max(1, len(one["history"]) // 10)
    means = [
        {loss: float(np.mean([row[loss] for row in facts["history"][-last:]])) for loss in _LOSSES}
        for facts in (one, other)
    ]
    return {loss: abs(means[0][loss] - means[1][loss]) for loss in _LOSSES}


_MEASURED: Mapping[str, Callable[[Sequence[str], Path, Path], dict[str, float] | None]] = {
    "predict_tumors": _levels,
    "train_model": _losses,
}


def allowed(rule: str, params: Mapping[str, Any], table: Sequence[Tolerance]) -> dict[str, float]:
    """Return the tolerance of each measure of a job; empty where it must repeat bit by bit."""
    device = params.get("device", "cpu")
    return {t.measure: t.tolerance for t in table if (t.rule, t.device) == (rule, device)}
