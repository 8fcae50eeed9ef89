"""What is known of the models, read from the records and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tumoratlas.core.records import latest_by
from tumoratlas.train.trainer import loss_table


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the models and their thresholds.

    Attributes
    ----------
    models
        Line of the model registry in force per organ.
    losses
        Result of `tumoratlas.train.trainer.loss_table`.
    thresholds
        Chosen threshold per organ (`ThresholdChoice` as a mapping, with ``model_id``).
    curves
        Result of `froc_curve` per organ, all thresholds and both rules.
    paper
        Table ``quantity, subject, label, value, place`` of what the paper says.
    """

    models: Mapping[str, Mapping[str, Any]]
    losses: pd.DataFrame
    thresholds: Mapping[str, Mapping[str, Any]]
    curves: Mapping[str, pd.DataFrame]
    paper: pd.DataFrame


def read_model_facts(records: Path, *, training: Path, curves: Path, paper: Path) -> ModelFacts:
    """Read what is known of the models; what does not exist yet is empty.

    Parameters
    ----------
    records
        Folder of records.
    training
        Folder with ``<organ>/fold_<k>/training.json``.
    curves
        Folder with ``<organ>.csv``, the results of `froc_curve`.
    paper
        CSV file of what the paper says.
    """
    return ModelFacts(
        models=latest_by(records / "models.jsonl", "organ"),
        losses=loss_table(training.glob("*/fold_*/training.json")),
        thresholds=latest_by(records / "thresholds.jsonl", "organ"),
        curves={path.stem: pd.read_csv(path) for path in sorted(curves.glob("*.csv"))},
        paper=pd.read_csv(paper, keep_default_na=False),
    )
