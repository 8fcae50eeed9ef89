"""Training settings and the nnU-Net plan that follows from them (paper, section 3.1)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import ConfigError
from tumoratlas.core.files import write_json
from tumoratlas.train.nnunet import CONFIGURATION

PLANS_NAME = "TumorAtlasResEncM"
# nnU-Net pools an axis only while its feature map keeps at least this edge.
MINIMUM_EDGE = 4
# With fewer stages deep supervision has a single output, to which nnU-Net gives weight 0.
MINIMUM_STAGES = 3


@dataclass(frozen=True)
class TrainSettings:
    """What one training does; the defaults are the paper's values and nnU-Net's own.

    Attributes
    ----------
    folds
        Cross-validation folds.
    epochs, iterations, validation_iterations
        Epochs, and batches per epoch for training and for validation.
    batch_size
        Patches per batch.
    patch_size
        Edge of the cubic patch in voxels.
    features, max_features
        Channels of the first stage, doubled per stage up to the maximum.
    blocks
        Residual blocks per encoder stage (ResEncM); its length caps the number of stages.
    learning_rate
        Start of the polynomial schedule.
    clip_hu
        Window mapped to [0, 1].
    spacing_mm
        Isotropic spacing of the model grid.
    seed
        Start of every random draw.
    checkpoint_every
        Epochs between two checkpoints.
    """

    folds: int = 5
    epochs: int = 1000
    iterations: int = 250
    validation_iterations: int = 50
    batch_size: int = 2
    patch_size: int = 96
    features: int = 32
    max_features: int = 320
    blocks: tuple[int, ...] = (1, 3, 4, 6, 6, 6)
    learning_rate: float = 0.01
    clip_hu: tuple[float, float] = (-175.0, 250.0)
    spacing_mm: float = 1.5
    seed: int = 0
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        """Refuse settings that no network fits."""
        if self.stages < MINIMUM_STAGES:
            raise ConfigError(
                "TRAIN_STAGES",
                "train.patch_size",
                f"a patch of {self.patch_size} voxels and {len(self.blocks)} block counts give "
                f"{self.stages} stages",
                remedy=f"Choose a patch that halves twice to >= {MINIMUM_EDGE} voxels (16, 32, "
                f"48, 96) and at least {MINIMUM_STAGES} block counts",
            )
        if self.folds < 2:
            raise ConfigError(
                "TRAIN_FOLDS",
                "train.folds",
                f"{self.folds} folds leave no case unseen",
                remedy="Choose at least 2 folds",
            )

    @property
    def stages(self) -> int:
        """Resolution levels: nnU-Net halves the patch while it is even and stays >= 4."""
        edge, stages = self.patch_size, 1
        while edge % 2 == 0 and edge // 2 >= MINIMUM_EDGE and stages < len(self.blocks):
            edge, stages = edge // 2, stages + 1
        return stages


def train_settings(values: Mapping[str, Any]) -> TrainSettings:
    """Return the settings that the configuration gives."""
    return TrainSettings(
        **{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    )


def external_by_organ(
    entries: Iterable[Mapping[str, Any]], trained: Iterable[str]
) -> dict[str, Mapping[str, Any]]:
    """Return the entry of ``train.external`` of each organ that has one.

    Parameters
    ----------
    entries
        ``train.external``.
    trained
        ``train.organs``.

    Raises
    ------
    ConfigError
        ``MODEL_TWICE``: an organ has two models, and either could come into force last.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        organ = entry["organ"]
        if organ in {*trained, *found}:
            raise ConfigError(
                "MODEL_TWICE",
                f"train.external, {organ}",
                "the organ is also in train.organs or listed twice",
                remedy="Give each organ one model: take it out of one of the two lists",
            )
        found[organ] = entry
    return found


def dataset_description(organ: str, cases: int) -> dict[str, Any]:
    """Return nnU-Net's ``dataset.json`` for one organ's tumors."""
    return {
        "name": organ,
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }


def make_plans(
    dataset_name: str,
    description: dict[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    settings: TrainSettings,
    work: Path,
) -> dict[str, Any]:
    """Return nnU-Net's ResEncM plan with the paper's patch, batch and topology.

    nnU-Net's planner runs on a fingerprint made here, inside an open nnU-Net session on
    ``work``. Its patch follows its own memory target (128 voxels), hence the edit.

    Parameters
    ----------
    dataset_name
        ``DatasetNNN_<organ>``.
    description
        From `dataset_description`.
    shapes
        (z, y, x) of every case's box of nonzero voxels.
    settings
        Training settings.
    work
        nnU-Net's folders; the fingerprint is left there.
    """
    low, high = settings.clip_hu
    # CTNormalization computes (clip(x, p00.5, p99.5) - mean) / std: with these it is the
    # paper's clip and scaling to [0, 1].
    window = {
        "mean": low,
        "std": high - low,
        "percentile_00_5": low,
        "percentile_99_5": high,
        "median": (low + high) / 2,
        "min": low,
        "max": high,
    }
    fingerprint = {
        "spacings": [[settings.spacing_mm] * 3 for _ in shapes],
        "shapes_after_crop": [list(shape) for shape in shapes],
        "foreground_intensity_properties_per_channel": {"0": window},
        "median_relative_size_after_cropping": 1.0,
    }
    # The planner wants one image's name, to choose a reader; nothing opens it.
    image = {"example": {"images": ["example_0000.nii.gz"], "label": "example.nii.gz"}}
    preprocessed = work / "preprocessed" / dataset_name
    write_json(work / "raw" / dataset_name / "dataset.json", {**description, "dataset": image})
    write_json(preprocessed / "dataset_fingerprint.json", fingerprint)

    import torch
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
        residual_encoder_unet_planners as planners,
    )

    planner = planners.nnUNetPlannerResEncM(
        dataset_name, plans_name=PLANS_NAME, overwrite_target_spacing=[settings.spacing_mm] * 3
    )
    # Planning only counts feature maps: on the meta device its networks cost nothing.
    with torch.device("meta"):
        planner.plan_experiment()
    plans = json.loads((preprocessed / f"{PLANS_NAME}.json").read_text(encoding="utf-8"))
    return _edit(plans, settings)


def _edit(plans: dict[str, Any], settings: TrainSettings) -> dict[str, Any]:
    """Keep the full-resolution configuration and give it the paper's topology."""
    stages = settings.stages
    configuration = plans["configurations"][CONFIGURATION]
    configuration |= {
        "data_identifier": f"{PLANS_NAME}_{CONFIGURATION}",
        "patch_size": [settings.patch_size] * 3,
        "batch_size": settings.batch_size,
    }
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": [
            min(settings.max_features, settings.features * 2**stage) for stage in range(stages)
        ],
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_blocks_per_stage": list(settings.blocks[:stages]),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }
    plans["configurations"] = {CONFIGURATION: configuration}
    return plans
