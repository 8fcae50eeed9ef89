"""Models trained elsewhere with nnU-Net v2, put into the registry by the configuration.

Every file is used only under the SHA-256 that the configuration gives. The weights are
converted once; from then on an imported model is kept and checked like one trained here.
"""

from __future__ import annotations

import csv
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import ConfigError, InputError
from tumoratlas.core.files import read_json, sha256_file, to_json
from tumoratlas.train.checkpoint import (
    check_plan,
    check_tumor_labels,
    load_network,
    read_checkpoint,
)
from tumoratlas.train.nnunet import nnunet_session
from tumoratlas.train.registry import store_model
from tumoratlas.train.trainer import WEIGHTS, write_weights

LOGGER = logging.getLogger(__name__)
DESCRIPTIONS = ("plans.json", "dataset.json")
CHECKPOINT = "checkpoint_final.pth"


@dataclass(frozen=True)
class ExternalModel:
    """One entry of ``train.external``.

    Attributes
    ----------
    organ
        Organ whose tumors the model finds.
    folder
        nnU-Net's results folder, ``<trainer>__<plans>__<configuration>``.
    configuration
        Name of the configuration in ``plans.json``.
    tumor_labels
        Values of the labels that are tumor; their probabilities are added.
    sha256
        Hash of ``plans.json``, ``dataset.json`` and of each ``fold_<k>/checkpoint_final.pth``
        that is to be used.
    licence
        Licence of the weights.
    training_groups_file
        CSV with columns ``fold`` and ``case``, a line per training case; None where the
        training cases are unknown.
    """

    organ: str
    folder: Path
    configuration: str
    tumor_labels: tuple[int, ...]
    sha256: Mapping[str, str]
    licence: str
    training_groups_file: Path | None = None


def external_model(entry: Mapping[str, Any]) -> ExternalModel:
    """Return the model that an entry of ``train.external`` describes."""
    groups = entry.get("training_groups_file")
    return ExternalModel(
        entry["organ"],
        Path(entry["folder"]),
        entry["configuration"],
        tuple(sorted(set(entry["tumor_labels"]))),
        dict(entry["sha256"]),
        entry["licence"],
        Path(groups) if groups else None,
    )


def import_model(
    model: ExternalModel,
    *,
    registry: Path,
    store: Path,
    work: Path,
    cases: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Convert a model trained elsewhere, copy it into the store and put it in force.

    Importing the model that is already in force adds no line to the registry.

    Parameters
    ----------
    model
        What the configuration says.
    registry, store
        As in `register_model`.
    work
        Folder for the conversion; emptied before and removed after.
    cases
        Content of ``cases.json``, for the groups of ``training_groups_file``; may be empty
        without one.

    Returns
    -------
    The organ's line in the registry, as `register_model`, with ``external``: configuration,
    tumor_channels, spacing_mm, licence, trainer and the hashes of the files given.

    Raises
    ------
    ConfigError
        ``MODEL_HASH``: a file has no or another hash in the configuration. ``MODEL_LABELS``,
        ``TRAINING_GROUPS``: wrong entries.
    InputError
        ``MODEL_INCOMPLETE``: files are missing. ``MODEL_UNSAFE``, ``MODEL_PLAN``,
        ``MODEL_WEIGHTS``: see `tumoratlas.train.checkpoint`.
    """
    import torch

    names = _checked_names(model)
    plans, dataset = (read_json(model.folder / name) for name in DESCRIPTIONS)
    folds = [name.split("/")[0] for name in names if name.endswith(CHECKPOINT)]
    groups = _training_groups(model, folds, cases)
    trainers = set()
    with nnunet_session(torch.device("cpu")):
        manager = check_plan(model.folder / "plans.json", plans, dataset, model.configuration)
        check_tumor_labels(dataset, model.tumor_labels)
        shutil.rmtree(work, ignore_errors=True)
        for fold in folds:
            path = model.folder / fold / CHECKPOINT
            checkpoint = read_checkpoint(path)
            network = load_network(
                path,
                checkpoint,
                manager,
                configuration=model.configuration,
                labels=len(dataset["labels"]) - ("ignore" in dataset["labels"]),
            )
            write_weights(work / fold / WEIGHTS, network)
            trainers.add(str(checkpoint.get("trainer_name")))
            LOGGER.info("%s %s: converted", model.organ, fold)
    for name in DESCRIPTIONS:
        shutil.copyfile(model.folder / name, work / name)
    if not model.training_groups_file:
        LOGGER.warning(
            "%s: it is not known which cases this model was trained on; its threshold will be "
            "chosen on cases that it may have seen, and flagged (is_out_of_fold: false)",
            model.organ,
        )
    line = store_model(
        registry,
        model.organ,
        work,
        store,
        {f"{fold}/{WEIGHTS}": groups[fold] for fold in folds},
        external={
            "configuration": model.configuration,
            "tumor_channels": list(model.tumor_labels),
            # The plan's order of axes is its own.
            "spacing_mm": [
                float(manager.spacing[plans["transpose_forward"].index(axis)]) for axis in range(3)
            ],
            "licence": model.licence,
            "trainer": ", ".join(sorted(trainers)),
            "sha256": {name: model.sha256[name] for name in names},
        },
    )
    shutil.rmtree(work)
    return line


def _checked_names(model: ExternalModel) -> list[str]:
    """Return the files to use, folds in order; each has the hash that is configured for it."""
    found_places = (path.parent.name for path in model.folder.glob(f"fold_*/{CHECKPOINT}"))
    places = [place for place in found_places if re.fullmatch(r"fold_(\d+|all)", place)]
    # By number; fold_all comes after one-digit folds.
    places.sort(key=lambda place: (len(place), place))
    names = [*DESCRIPTIONS, *(f"{place}/{CHECKPOINT}" for place in places)]
    missing = {*DESCRIPTIONS, *model.sha256} - {n for n in names if (model.folder / n).is_file()}
    if missing or not places:
        raise InputError(
            "MODEL_INCOMPLETE",
            model.folder,
            f"{', '.join(sorted(missing)) or f'fold_<k>/{CHECKPOINT}'} is missing",
            remedy="Name nnU-Net's folder <trainer>__<plans>__<configuration> with its files",
        )
    found = {name: sha256_file(model.folder / name) for name in names}
    used = [name for name in names if name in model.sha256]
    unlisted = [name for name in DESCRIPTIONS if name not in used]
    if not any(name.endswith(CHECKPOINT) for name in used):
        unlisted += names[len(DESCRIPTIONS) :]
    changed = [name for name in used if model.sha256[name] != found[name]]
    if refused := [*changed, *unlisted]:
        raise ConfigError(
            "MODEL_HASH",
            model.folder / refused[0],
            "this is not the file whose sha256 stands in train.external"
            if changed
            else "its sha256 is not in train.external",
            remedy=f"If you trust these files, write sha256: {to_json(found)}",
            evidence=f"found {found[refused[0]]}",
        )
    for name in sorted(set(names) - set(used)):
        LOGGER.warning(
            "%s: %s has no sha256 in the configuration and is left out", model.organ, name
        )
    return used


def _training_groups(
    model: ExternalModel, folds: list[str], cases: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Return the groups of each fold's training cases, empty where they are unknown."""
    if not model.training_groups_file:
        return {fold: [] for fold in folds}
    path = model.training_groups_file
    group_of = {case_id: case["group"] for case_id, case in cases.items()}
    for case in cases.values():
        for member in case["members"]:
            group_of[f"{member['source']}/{member['source_case']}"] = case["group"]
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    has_columns = rows and {"fold", "case"} <= set(rows[0])
    listed = {
        fold: [row["case"] for row in rows if has_columns and f"fold_{row['fold']}" == fold]
        for fold in folds
    }
    groups = {
        fold: sorted({group_of[name] for name in names if name in group_of})
        for fold, names in listed.items()
    }
    if not all(groups.values()):
        raise ConfigError(
            "TRAINING_GROUPS",
            path,
            "does not name a case of this run for every fold",
            remedy="Give columns fold and case, and a line per training case: its case id, or "
            "<source>/<its name there>; or leave training_groups_file out",
            evidence=f"folds {', '.join(folds)}, {len(rows)} lines",
        )
    for fold, names in listed.items():
        unknown = sum(name not in group_of for name in names)
        LOGGER.info(
            "%s %s: %d of %d training cases are not in this run",
            model.organ,
            fold,
            unknown,
            len(names),
        )
    return groups
