"""What the report on review says of models and thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tumoratlas.candidates.thresholds import RULES
from tumoratlas.core.structures import tumor_structures
from tumoratlas.report.facts import ModelFacts
from tumoratlas.report.figures import loss_figure

Rows = list[dict[str, Any]]


def loss_figures(facts: ModelFacts) -> list[str]:
    """Return the figure of every organ with a training."""
    return [
        loss_figure(organ, own)
        for organ in tumor_structures()
        if len(own := facts.losses[facts.losses["organ"] == organ])
    ]


def _is_training_known(line: Mapping[str, Any]) -> bool:
    """Return `tumoratlas.train.registry.Model.is_training_known` of a registry's line."""
    return not line.get("external") or all(fold["training_groups"] for fold in line["folds"])


def model_rows(facts: ModelFacts) -> Rows:
    """Return one row per organ with a registered model or a training, in the order of organs."""
    rows = []
    for organ in tumor_structures():
        line, choice = facts.models.get(organ), facts.thresholds.get(organ)
        losses = facts.losses[facts.losses["organ"] == organ].sort_values("epoch")
        if line is None and losses.empty:
            continue
        last = losses.groupby("fold").last()
        rows.append(
            {
                "organ": organ,
                "model_id": line and line["model_id"],
                "licence": line and line.get("external", {}).get("licence"),
                "folds": line and len(line["folds"]),
                "trained": len(last),
                "epochs": sorted({int(epoch) + 1 for epoch in last["epoch"]}),
                "train_loss": last["train_loss"].tolist(),
                "val_loss": last["val_loss"].tolist(),
                "threshold": _threshold_state(line, choice),
            }
        )
    return rows


def _threshold_state(line: Mapping[str, Any] | None, choice: Mapping[str, Any] | None) -> str:
    if line is None or choice is None:
        return "none"
    if choice["model_id"] != line["model_id"]:
        return "other model"
    return "out of fold" if _is_training_known(line) else "maybe seen"


def threshold_rows(facts: ModelFacts) -> Rows:
    """Return both hit rules at each chosen threshold; one where the curve is not there."""
    said = facts.paper[facts.paper["quantity"] == "fp_per_scan"]
    paper = {row.subject: (row.value, row.place) for row in said.itertuples()}
    rows = []
    for organ in tumor_structures():
        if organ not in facts.thresholds:
            continue
        choice = facts.thresholds[organ]
        points = {choice["rule"]: dict(choice)}
        if organ in facts.curves:
            curve = facts.curves[organ]
            at = curve[np.isclose(curve["threshold"], choice["threshold"])]
            points = {row["rule"]: row for row in at.to_dict("records")} or points
        rows += [
            points[rule]
            | {"organ": organ, "is_chosen": rule == choice["rule"], "choice": choice}
            | {"paper": paper.get(organ)}
            for rule in RULES
            if rule in points
        ]
    return rows
