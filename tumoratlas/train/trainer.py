"""Training of one fold and its two products: weights without pickle and a training record."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import read_json, replacing, sha256_json, write_json
from tumoratlas.train.dataset import WORK
from tumoratlas.train.nnunet import CONFIGURATION, nnunet_session
from tumoratlas.train.plan import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tumoratlas.train.nnunet_trainer import TumorTrainer

LOGGER = logging.getLogger(__name__)
WEIGHTS = "weights.safetensors"
LOSS_COLUMNS = ["organ", "fold", "epoch", "train_loss", "val_loss", "pseudo_dice"]


def train_fold(folder: Path, fold: int, settings: TrainSettings, device: torch.device) -> None:
    """Train one fold of a folder made by `prepare_training`, resuming where a run was cut.

    Writes ``fold_<k>/weights.safetensors`` (last epoch) and ``fold_<k>/training.json``. On the
    CPU the bytes are equal for equal inputs, also after an interruption; on a GPU they are
    equal only as far as cuDNN's deterministic kernels reach.

    Parameters
    ----------
    folder
        Model folder.
    fold
        Index into ``splits_final.json``.
    settings
        The settings given to `prepare_training`; a checkpoint is resumed only under the same
        settings, plan and split.
    device
        Where to train.

    Raises
    ------
    InputError
        ``NO_FOLD``: the folder has no such fold. ``NAN_LOSS``: training diverged.
    """
    import torch

    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    splits = read_json(folder / "splits_final.json")
    if fold not in range(len(splits)):
        raise InputError(
            "NO_FOLD",
            folder / "splits_final.json",
            f"there is no fold {fold} among {len(splits)}",
            remedy="Run prepare_training with the same number of folds as the training",
        )
    described = {**dataclasses.asdict(settings), "device": device.type}
    work = folder / WORK
    run = work / f"fold_{fold}_{sha256_json([described, plans, splits])[:16]}"
    with nnunet_session(
        device,
        nnUNet_preprocessed=str(work / "preprocessed"),
        nnUNet_results=str(run),
        # Worker processes would deliver batches in the order they finish.
        nnUNet_n_proc_DA="0",
    ):
        from tumoratlas.train.nnunet_trainer import TumorTrainer

        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        trainer = TumorTrainer(
            {**plans, "continue_training": False}, CONFIGURATION, fold, dataset, device
        )
        trainer.configure(settings, dataset["name"])
        checkpoint = Path(trainer.output_folder) / "checkpoint_latest.pth"
        if checkpoint.is_file():
            LOGGER.info("resuming from %s", checkpoint)
            trainer.load_checkpoint(str(checkpoint))
        trainer.run_training()
    record = _record(trainer, splits[fold], read_json(folder / "groups.json"))
    target = folder / f"fold_{fold}"
    write_weights(target / WEIGHTS, trainer.network)
    write_json(target / "training.json", {**record, "settings": described})
    shutil.rmtree(run)


def write_weights(path: Path, network: nn.Module) -> None:
    """Write a network's weights as safetensors, each shared tensor once.

    nnU-Net's decoder holds its encoder, so every encoder weight has two names; safetensors
    refuses that. The first name in sorted order is kept, and no metadata is written, because
    the order of its keys is not fixed.
    """
    from safetensors.torch import save

    state = network.state_dict()
    names = set(_stored_names(network).values())
    tensors = {name: state[name].detach().cpu().contiguous() for name in names}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors))


def read_weights(path: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    """Read `write_weights` output as a full state dict for a network of the same plan.

    Raises
    ------
    InputError
        ``MODEL_WEIGHTS`` when the file does not fit the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
        names = _stored_names(network)
        state = {name: stored[kept] for name, kept in names.items()}
        network.load_state_dict(state)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(
            "MODEL_WEIGHTS",
            path,
            "these weights do not fit the network of the model's plan",
            remedy="Register the trained model folder again",
            evidence=str(error).splitlines()[0],
        ) from error
    return state


def _stored_names(network: nn.Module) -> dict[str, str]:
    """Return, for every name of the state dict, the name under which its tensor is stored."""
    state = network.state_dict()
    first: dict[int, str] = {}
    for name in sorted(state):
        first.setdefault(state[name].data_ptr(), name)
    return {name: first[tensor.data_ptr()] for name, tensor in state.items()}


def _record(
    trainer: TumorTrainer, split: Mapping[str, list[str]], groups: Mapping[str, str]
) -> dict[str, Any]:
    """Return what is told of a training: no times, which the log has."""
    history = _history(trainer.logger.get_checkpoint())
    losses = [row[name] for row in history for name in ("train_loss", "val_loss")]
    if not all(math.isfinite(loss) for loss in losses):
        raise InputError(
            "NAN_LOSS",
            f"{trainer.organ} fold {trainer.fold}",
            "the training loss is not finite",
            remedy="Lower train.learning_rate and train again",
            evidence=str(losses),
        )
    return {
        "history": history,
        "organ": trainer.organ,
        "fold": trainer.fold,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "training_groups": sorted({groups[case] for case in split["train"]}),
        "held_out_groups": sorted({groups[case] for case in split["val"]}),
        "versions": {name: version(name) for name in ("nnunetv2", "torch")},
    }


def _history(log: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return a row per epoch from nnU-Net's own log, which its checkpoints carry along."""
    values = zip(
        log["train_losses"], log["val_losses"], log["mean_fg_dice"], log["lrs"], strict=True
    )
    return [
        {
            "epoch": epoch,
            "train_loss": float(train),
            "val_loss": float(validation),
            # Undefined (None) where the validation patches hold no tumor, true or predicted.
            "pseudo_dice": float(dice) if math.isfinite(dice) else None,
            "learning_rate": float(rate),
        }
        for epoch, (train, validation, dice, rate) in enumerate(values)
    ]


def loss_table(paths: Iterable[Path]) -> pd.DataFrame:
    """Return the loss curves of trainings.

    Parameters
    ----------
    paths
        ``training.json`` files, in any order.

    Returns
    -------
    A row per organ, fold and epoch, in that order: ``organ, fold, epoch, train_loss, val_loss,
    pseudo_dice``. The pseudo Dice is nnU-Net's, over validation patches; NaN where undefined.
    """
    records = sorted(map(read_json, paths), key=lambda record: (record["organ"], record["fold"]))
    rows = [
        {"organ": record["organ"], "fold": record["fold"], **epoch}
        for record in records
        for epoch in record["history"]
    ]
    table = pd.DataFrame(rows, columns=LOSS_COLUMNS)
    return table.astype({"pseudo_dice": float})
