"""The model registry: which weights are in force for each organ, in an append-only file.

``models.jsonl`` has one line per registration; the last line of an organ is in force. The
files lie in the store under their content's hash and are never replaced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import read_json, replacing, sha256_file, sha256_json
from tumoratlas.core.records import append_latest, latest_by
from tumoratlas.train.nnunet import CONFIGURATION
from tumoratlas.train.trainer import WEIGHTS

# Of `dataset_description`: 0 background, 1 tumor.
TUMOR_CHANNELS = (1,)


@dataclass(frozen=True)
class ModelFold:
    """One fold's weights and the groups they were trained on."""

    fold: int
    weights: Path
    sha256: str
    training_groups: frozenset[str]


@dataclass(frozen=True)
class Model:
    """The model in force for an organ; all files verified when it was looked up.

    Attributes
    ----------
    organ, model_id
        Whose tumors it finds, and the hash that names it.
    plans, dataset
        nnU-Net's ``plans.json`` and ``dataset.json``.
    folds
        Weights of each fold.
    spacing_mm
        (z, y, x) spacing that the network wants.
    configuration
        Name of the configuration in the plan.
    tumor_channels
        Channels of the network's output whose probabilities add up to the tumor's.
    is_external
        True for a model trained elsewhere.
    licence
        Licence of an external model's weights; empty for one trained here.
    """

    organ: str
    model_id: str
    plans: Path
    dataset: Path
    folds: tuple[ModelFold, ...]
    spacing_mm: tuple[float, float, float]
    configuration: str = CONFIGURATION
    tumor_channels: tuple[int, ...] = TUMOR_CHANNELS
    is_external: bool = False
    licence: str = ""

    @property
    def is_training_known(self) -> bool:
        """Whether it is known which groups each fold was trained on."""
        return not self.is_external or all(fold.training_groups for fold in self.folds)


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
    groups = {
        f"{fold}/{WEIGHTS}": read_json(model_folder / fold / "training.json")["training_groups"]
        for fold in folds
    }
    return store_model(registry, organ, model_folder, store, groups)


def store_model(
    registry: Path,
    organ: str,
    folder: Path,
    store: Path,
    training_groups: Mapping[str, Sequence[str]],
    external: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Copy a model's files into the store and append its line unless it is in force already.

    Parameters
    ----------
    registry, organ, store
        As in `register_model`.
    folder
        Folder with ``plans.json``, ``dataset.json`` and the weights.
    training_groups
        For each fold's weights file, in order, the groups it was trained on.
    external
        Facts of a model trained elsewhere; its configuration and tumor_channels are part of
        ``model_id``.

    Returns
    -------
    The line, see `register_model`.
    """
    hashes = {
        name: sha256_file(folder / name)
        for name in ("plans.json", "dataset.json", *training_groups)
    }
    facts = {"external": dict(external)} if external else {}
    # Other labels or another configuration of the same files are another model.
    use = {key: external[key] for key in ("configuration", "tumor_channels")} if external else {}
    model_id = sha256_json(hashes | use)[:16]
    for name, sha256 in hashes.items():
        _store(folder / name, store / model_id / name, sha256)
    line = {
        "organ": organ,
        "model_id": model_id,
        "folder": os.path.relpath(store / model_id, registry.parent),
        "plans_sha256": hashes["plans.json"],
        "dataset_sha256": hashes["dataset.json"],
        "folds": [
            {
                "fold": number,
                "weights": weights,
                "sha256": hashes[weights],
                "training_groups": list(groups),
            }
            for number, (weights, groups) in enumerate(training_groups.items())
        ],
    } | facts
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
    folds = tuple(
        ModelFold(
            fold["fold"],
            folder / fold["weights"],
            fold["sha256"],
            frozenset(fold["training_groups"]),
        )
        for fold in line["folds"]
    )
    files = folder / "plans.json", folder / "dataset.json"
    if external := line.get("external"):
        return Model(
            line["organ"],
            line["model_id"],
            *files,
            folds,
            spacing_mm=tuple(external["spacing_mm"]),
            configuration=external["configuration"],
            tumor_channels=tuple(external["tumor_channels"]),
            is_external=True,
            licence=external["licence"],
        )
    plan = read_json(files[0])["configurations"][CONFIGURATION]
    return Model(line["organ"], line["model_id"], *files, folds, tuple(plan["spacing"]))


def _store(source: Path, target: Path, sha256: str) -> None:
    """Copy a file into the store unless it is there whole."""
    if not (target.is_file() and sha256_file(target) == sha256):
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
