"""One organ's training cases as an nnU-Net preprocessed dataset, written in this process.

nnU-Net's own commands start a pool of workers for each step, at several seconds of imports per
worker; here its planner, preprocessor and writer are called directly.
"""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import GeometryError, InputError
from tumoratlas.core.files import sha256_json, to_json, write_json, write_text
from tumoratlas.images.arrays import read_array
from tumoratlas.train.nnunet import CONFIGURATION, nnunet_session
from tumoratlas.train.plan import TrainSettings, dataset_description, make_plans

LOGGER = logging.getLogger(__name__)
WORK = "work"
TUMOR = 1


@dataclass(frozen=True)
class TrainingCase:
    """One annotated case on the model grid.

    Attributes
    ----------
    case_id
        Its name.
    group
        Patient or cluster of duplicates: never on both sides of a fold.
    image
        ``.b2nd``, int16 HU (z, y, x).
    label
        ``.b2nd``, uint8 (z, y, x): 1 tumor; every other value is background.
    """

    case_id: str
    group: str
    image: Path
    label: Path


def prepare_training(
    cases: Sequence[TrainingCase], folder: Path, organ: str, settings: TrainSettings
) -> None:
    """Write all that `train_fold` needs; the result does not depend on the order of ``cases``.

    Leaves ``plans.json``, ``dataset.json``, ``splits_final.json`` and ``groups.json`` in
    ``folder`` and nnU-Net's preprocessed arrays in ``folder/work``, which can go once every
    fold is trained. Earlier folds and work in ``folder`` are removed.

    Parameters
    ----------
    cases
        Every case whose tumors of ``organ`` are annotated, tumor-free ones included.
    folder
        Model folder of the organ.
    organ
        Tumor organ.
    settings
        Training settings.

    Raises
    ------
    InputError
        Repeated case ids (``CASE_REPEATED``), an image that is zero throughout
        (``EMPTY_IMAGE``) or too few groups or tumor groups for the folds (``FEW_GROUPS``).
    GeometryError
        ``GRID_MISMATCH``: an image and its label differ in shape.
    """
    cases = sorted(cases, key=lambda case: case.case_id)
    _refuse_repeats(cases)
    shapes, positive = [], set()
    for case in cases:
        image, label = _read_case(case)
        shapes.append(_nonzero_shape(image, case))
        if label.any():
            positive.add(case.group)
    groups = {case.case_id: case.group for case in cases}
    splits = split_folds(groups, positive, settings.folds, settings.seed)

    work = folder / WORK
    for stale in (work, *folder.glob("fold_*")):
        shutil.rmtree(stale, ignore_errors=True)
    name = f"Dataset001_{organ}"
    description = dataset_description(organ, len(cases))
    import torch

    raw, preprocessed = work / "raw", work / "preprocessed"
    # Planning sets torch's threads to nnU-Net's number of augmenters, so that must not be 0.
    with nnunet_session(
        torch.device("cpu"),
        nnUNet_raw=str(raw),
        nnUNet_preprocessed=str(preprocessed),
        nnUNet_n_proc_DA="1",
    ):
        plans = make_plans(name, description, shapes, settings, work)
        _preprocess(cases, plans, description, preprocessed / name)
    for place in (folder, preprocessed / name):
        write_json(place / "plans.json", plans)
        write_json(place / "dataset.json", description)
        write_text(place / "splits_final.json", to_json(splits) + "\n")
    write_json(folder / "groups.json", groups)
    LOGGER.info("%s: %d cases, %d groups with tumors", organ, len(cases), len(positive))


def split_folds(
    groups: Mapping[str, str], positive: set[str], folds: int, seed: int
) -> list[dict[str, list[str]]]:
    """Split cases into cross-validation folds that keep every group whole.

    Groups with and without tumors are each ordered by a seeded hash and dealt like cards, the
    second deal starting where the first stopped, so each kind and the total are balanced to
    one group.

    Parameters
    ----------
    groups
        Group of every case id.
    positive
        Groups with at least one tumor voxel.
    folds, seed
        Number of folds and seed of the order.

    Returns
    -------
    nnU-Net's ``splits_final.json``: sorted ``train`` and ``val`` case ids per fold.
    """
    names = set(groups.values())
    if len(names) < folds or len(positive) < 2:
        raise InputError(
            "FEW_GROUPS",
            "training cases",
            f"{len(names)} groups, {len(positive)} of them with tumors, cannot fill {folds} folds",
            remedy="Annotate more patients (two with tumors at least) or choose fewer folds",
        )
    ordered = sorted(names, key=lambda g: (g not in positive, sha256_json([seed, g])))
    fold_of = {group: rank % folds for rank, group in enumerate(ordered)}
    held_out = defaultdict(list)
    for case_id in sorted(groups):
        held_out[fold_of[groups[case_id]]].append(case_id)
    return [
        {
            "train": sorted(set(groups) - set(held_out[fold])),
            "val": held_out[fold],
        }
        for fold in range(folds)
    ]


def _refuse_repeats(cases: Sequence[TrainingCase]) -> None:
    for first, second in zip(cases, cases[1:], strict=False):
        if first.case_id == second.case_id:
            raise InputError(
                "CASE_REPEATED",
                first.case_id,
                "the case is listed twice for one organ's training",
                remedy="List every case once",
            )


def _read_case(case: TrainingCase) -> tuple[NDArray[np.int16], NDArray[np.int8]]:
    """Return image (int16 HU) and label (int8, 1 = tumor), both (z, y, x)."""
    image, _ = read_array(case.image)
    label, _ = read_array(case.label)
    if image.shape != label.shape:
        raise GeometryError(
            "GRID_MISMATCH",
            case.label,
            "the label does not lie on its image's model grid",
            remedy="Run harmonize_scans for this case again",
            evidence=f"image {image.shape}, label {label.shape}",
        )
    # Signed, because nnU-Net marks voxels outside its nonzero mask with -1.
    return image, (label == TUMOR).astype(np.int8)


def _nonzero_shape(image: NDArray[np.int16], case: TrainingCase) -> tuple[int, int, int]:
    """Return the shape of the box around all nonzero voxels, to which nnU-Net crops."""
    mask = image != 0
    if not mask.any():
        raise InputError(
            "EMPTY_IMAGE",
            case.image,
            "every voxel is 0 HU",
            remedy="Exclude the scan or import it again",
        )
    edges = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        edges.append(int(hits[-1] - hits[0] + 1))
    return (edges[0], edges[1], edges[2])


def _preprocess(
    cases: Sequence[TrainingCase],
    plans: dict[str, Any],
    description: dict[str, Any],
    preprocessed: Path,
) -> None:
    """Crop, normalize and store each case as nnU-Net's `DefaultPreprocessor.run_case_save`."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import (
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    folder = preprocessed / configuration.data_identifier
    folder.mkdir(parents=True)
    preprocessor = DefaultPreprocessor(verbose=False)
    patch = tuple(configuration.patch_size)
    for case in cases:
        image, label = _read_case(case)
        data, seg, properties = preprocessor.run_case_npy(
            image[None],
            label[None],
            {"spacing": list(configuration.spacing)},
            manager,
            configuration,
            description,
        )
        seg = seg.astype(np.int16)
        blocks, chunks = comp_blosc2_params(data.shape, patch, data.itemsize)
        blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, patch, seg.itemsize)
        nnUNetDatasetBlosc2.save_case(
            data,
            seg,
            properties,
            str(folder / case.case_id),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=chunks_seg,
            blocks_seg=blocks_seg,
        )
