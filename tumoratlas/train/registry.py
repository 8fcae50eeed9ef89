"""The model registry: which weights are in force for each organ, in an append-only file.

``models.jsonl`` has one line per registration; the last line of an organ is in force. The
files lie in the store under their content's hash and are never replaced.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import read_json, replacing, sha256_file, sha256_json
from tumoratlas.core.records import append_latest, latest_by
from tumoratlas.train.trainer import WEIGHTS


@dataclass(frozen=True)
class ModelFold:
    """One fold's weights and the groups they were trained on."""

    fold: int
    weights: Path
    sha256: str
    training_groups: frozenset[str]


@dataclass(frozen=True)
class Model:
    """The model in force for an organ; all files verified when it was looked up."""

    organ: str
    model_id: str
    plans: Path
    dataset: Path
    folds: tuple[ModelFold, ...]


def register_model(registry: Path, organ: str, model_folder: Path, store: Path) -> dict[str, Any]:
    """Copy a trained model into the store and put it in force for its organ.

    Registering the model that is already in force adds no line.

    Parameters
    ----------
    registry
        ``models.jsonl``; made if absent.
    organ
        Tumor organ.
    model_folder
        Folder with ``plans.json``, ``dataset.json``, ``splits_final.json`` and every fold's
        ``weights.safetensors`` and ``training.json``.
    store
        Folder of model folders named by model id; must move together with the registry.

    Returns
    -------
    The organ's line: organ, model_id, folder (relative to the registry), plans_sha256,
    dataset_sha256 and folds (fold, weights, sha256, training_groups). ``model_id`` is the
    start of the SHA-256 over the hashes of plans, dataset and all weights.

    Raises
    ------
    InputError
        ``MODEL_INCOMPLETE``: a fold of the split is not trained.
    """
    splits = read_json(model_folder / "splits_final.json")
    folds = [f"fold_{fold}" for fold in range(len(splits))]
    names = ["plans.json", "dataset.json", *(f"{fold}/{WEIGHTS}" for fold in folds)]
    missing = [name for name in names if not (model_folder / name).is_file()]
    if missing:
        raise InputError(
            "MODEL_INCOMPLETE",
            model_folder,
            f"{', '.join(missing)} is missing",
            # Every group must be unseen by one fold, or thresholds have no honest scores.
            remedy="Train every fold before registering the model",
        )
    hashes = {name: sha256_file(model_folder / name) for name in names}
    model_id = sha256_json(hashes)[:16]
    for name, sha256 in hashes.items():
        _store(model_folder / name, store / model_id / name, sha256)
    line = {
        "organ": organ,
        "model_id": model_id,
        "folder": os.path.relpath(store / model_id, registry.parent),
        "plans_sha256": hashes["plans.json"],
        "dataset_sha256": hashes["dataset.json"],
        "folds": [
            {
                "fold": number,
                "weights": f"{fold}/{WEIGHTS}",
                "sha256": hashes[f"{fold}/{WEIGHTS}"],
                "training_groups": read_json(model_folder / fold / "training.json")[
                    "training_groups"
                ],
            }
            for number, fold in enumerate(folds)
        ],
    }
    append_latest(registry, "organ", line)
    return line


def current_models(registry: Path) -> dict[str, Model]:
    """Return the model in force for each organ, every file's hash verified.

    Raises
    ------
    InputError
        ``MODEL_HASH``: a registered file is missing or changed.
    """
    models = latest_by(registry, "organ")
    return {organ: _verified(registry, line) for organ, line in models.items()}


def _verified(registry: Path, line: dict[str, Any]) -> Model:
    folder = registry.parent / line["folder"]
    expected = {"plans.json": line["plans_sha256"], "dataset.json": line["dataset_sha256"]}
    expected |= {fold["weights"]: fold["sha256"] for fold in line["folds"]}
    for name, sha256 in expected.items():
        path = folder / name
        found = sha256_file(path) if path.is_file() else "no file"
        if found != sha256:
            raise InputError(
                "MODEL_HASH",
                path,
                f"this is not the file registered for {line['organ']}",
                remedy="Restore the file from a backup or register a model again",
                evidence=f"registered {sha256[:16]}, found {found[:16]}",
            )
    return Model(
        organ=line["organ"],
        model_id=line["model_id"],
        plans=folder / "plans.json",
        dataset=folder / "dataset.json",
        folds=tuple(
            ModelFold(
                fold["fold"],
                folder / fold["weights"],
                fold["sha256"],
                frozenset(fold["training_groups"]),
            )
            for fold in line["folds"]
        ),
    )


def _store(source: Path, target: Path, sha256: str) -> None:
    """Copy a file into the store unless it is there whole."""
    if not (target.is_file() and sha256_file(target) == sha256):
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
