"""nnU-Net's trainer with seeds, safe checkpoints and nothing on the side.

Importing this module imports torch and nnU-Net; `tumoratlas.train.trainer` does so when it runs.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from tumoratlas.core.files import replacing
from tumoratlas.train.plan import TrainSettings

LOGGER = logging.getLogger(__name__)
_LOGGED = ("train_losses", "val_losses", "mean_fg_dice", "epoch_start_timestamps")


class TumorTrainer(nnUNetTrainer):
    """The stock trainer, repeatable and able to resume to the same weights.

    The constructor is nnU-Net's, which inspects its own signature; `configure` must follow.
    """

    def configure(self, settings: TrainSettings, organ: str) -> None:
        """Take epochs, batches, learning rate and seed from the settings."""
        self.settings = settings
        self.organ = organ
        self.num_epochs = settings.epochs
        self.num_iterations_per_epoch = settings.iterations
        self.num_val_iterations_per_epoch = settings.validation_iterations
        self.initial_lr = settings.learning_rate
        self.save_every = settings.checkpoint_every
        # The progress figure takes a second per epoch.
        self.logger.plot_progress_png = lambda output_folder: None

    def seed(self, moment: object) -> None:
        """Seed Python, NumPy and torch for one epoch (or another named moment) of this fold."""
        text = f"{self.settings.seed}:{self.organ}:{self.fold}:{moment}"
        value = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002  (nnU-Net draws from the global generator)
        torch.manual_seed(value)

    def initialize(self) -> None:
        """Build the network from seeded weights."""
        self.seed("weights")
        super().initialize()

    def on_epoch_start(self) -> None:
        """Seed each epoch on its own, so that a resumed run draws what an unbroken one does."""
        self.seed(self.current_epoch)
        super().on_epoch_start()

    def on_epoch_end(self) -> None:
        """Log one line of progress; times go to the log alone."""
        epoch, last = self.current_epoch, {key: self.logger.get_value(key, -1) for key in _LOGGED}
        super().on_epoch_end()
        LOGGER.info(
            "progress: %s fold %s epoch %d of %d: train loss %.4f, validation loss %.4f, "
            "pseudo Dice %.4f, %.1f s per epoch",
            self.organ,
            self.fold,
            epoch + 1,
            self.num_epochs,
            *(last[key] for key in _LOGGED[:3]),
            time.time() - last["epoch_start_timestamps"],
        )

    def get_training_transforms(self, *args: object, **kwargs: object) -> BasicTransform:
        """Return nnU-Net's augmentation without its one choice by the clock."""
        transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        for transform in transforms.transforms:
            inner = getattr(transform, "transform", transform)
            if isinstance(inner, GaussianBlurTransform):
                # Its benchmark picks direct or Fourier convolution by the clock, and the two
                # differ in the last bits: training would depend on the machine's load.
                inner.benchmark = False
        return transforms

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint whole or not at all; the best-epoch one is never used."""
        if Path(filename).name == "checkpoint_best.pth":
            return
        with replacing(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))

    def on_train_end(self) -> None:
        """Leave the last weights in the network; `train_fold` writes them."""

    def print_to_log_file(self, *args: object, **kwargs: object) -> None:
        """Send nnU-Net's own log to the rule's log."""
        LOGGER.info("%s", " ".join(str(arg) for arg in args).strip())

    def plot_network_architecture(self) -> None:
        """Draw nothing."""

    def _save_debug_information(self) -> None:
        """Write nothing: it would name the host."""
