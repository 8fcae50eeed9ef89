"""The sharded steps of candidates, and the choice of an organ's threshold.

A task is one organ of one case, named ``<organ>/<case_id>``: sorted by name, one organ's model
is in memory at a time.
"""

import fcntl
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from tumoratlas.candidates.froc import froc_counts, froc_curve
from tumoratlas.candidates.levels import level_map, read_levels, write_levels
from tumoratlas.candidates.predict import Predictor, folds_for
from tumoratlas.candidates.propose import propose_candidates
from tumoratlas.candidates.region import Region, is_organ_known, organ_region, whole_scan
from tumoratlas.candidates.thresholds import choose_threshold
from tumoratlas.core.errors import InputError
from tumoratlas.core.files import read_json, to_json
from tumoratlas.core.runner import Step, Task, finished_folders, read_record, run_shard
from tumoratlas.core.structures import organ_mask
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.train.nnunet import torch_device
from tumoratlas.train.registry import Model, current_models

LOG = logging.getLogger(__name__)
LEVELS = "levels.b2nd"
CANDIDATES = "candidates.nii.gz"


def predict_tumors(
    step: Step,
    manifest: Path,
    *,
    harmonized: Path,
    cases: Path,
    registry: Path,
    thresholds: Sequence[float],
    device: str,
    tile_step: float,
    mirroring: bool,
    precision: str,
    region_margin_mm: float,
) -> None:
    """Predict level maps for the shard (see `run_shard`).

    An organ of a case is predicted where no source annotated it, and where the case took part
    in the organ's training: then by the folds that did not see it, for the thresholds. Of the
    scan only the organ's region is predicted (`organ_region`); elsewhere the level is 0.

    With several processes one reads, prepares or writes a case while another has the GPU: they
    take turns on it, and each loads an organ's model once.

    A row holds case_id, organ, group, folds, model_id; region (``basis`` of `Region`), box (z0,
    y0, x0, z1, y1, x1 of what was predicted), tiles, tiles_whole and device as in `Prediction`;
    and reached_voxels, which reach the lowest threshold: 0 for an empty prediction.
    """

    @lru_cache(maxsize=1)
    def predictor(organ: str) -> Predictor:
        where = torch_device(device)
        turn = partial(_turn, turns) if where.type == "cuda" else nullcontext
        return Predictor(models[organ], where, tile_step, mirroring, precision, turn)

    def work(task: Task, folder: Path) -> dict[str, Any]:
        image, meta = read_array(task.data["image"])
        grid, organ = Grid.from_json(meta["grid"]), task.data["organ"]
        region = _region(task.data, grid, region_margin_mm)
        found = predictor(organ).predict_region(
            image, grid.spacing_mm[::-1], tuple(task.data["folds"]), region
        )
        levels = np.zeros(grid.shape, np.uint8)
        levels[found.box] = level_map(found.probability[found.box], thresholds)
        write_levels(folder / LEVELS, levels, thresholds, grid, models[organ].model_id)
        facts = {key: task.data[key] for key in ("case_id", "organ", "folds", "group")}
        return facts | {
            "model_id": models[organ].model_id,
            "region": region.basis,
            "box": [s.start for s in found.box] + [s.stop for s in found.box],
            "tiles": found.tiles,
            "tiles_whole": found.tiles_whole,
            "device": found.device,
            "reached_voxels": int(np.count_nonzero(levels)),
        }

    models = current_models(registry)
    groups = {case_id: case["group"] for case_id, case in read_json(cases).items()}
    tasks = []
    for case_id, folder in finished_folders([harmonized]).items():
        record = read_record(folder)
        for organ, model in models.items():
            folds = _wanted_folds(record["row"], model, groups[case_id])
            if folds:
                hashes = {name: facts["sha256"] for name, facts in record["outputs"].items()}
                inputs = {
                    "image": hashes["model.b2nd"],
                    "structures": hashes["structures.b2nd"],
                    "model": model.model_id,
                    "folds": to_json(folds),
                }
                facts = {
                    "case_id": case_id,
                    "organ": organ,
                    "group": groups[case_id],
                    "folds": list(folds),
                    "image": folder / "model.b2nd",
                    "structures": folder / "structures.b2nd",
                    "is_organ_known": is_organ_known(organ, record["row"]["structures"]),
                }
                tasks.append(Task(f"{organ}/{case_id}", inputs, facts))
    with tempfile.TemporaryFile() as turns:
        run_shard(step, tasks, work, manifest)


@contextmanager
def _turn(turns: IO[bytes]) -> Iterator[None]:
    """Wait until no other process of the shard has the GPU; a process that dies gives it back."""
    fcntl.lockf(turns, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(turns, fcntl.LOCK_UN)


def _region(facts: Mapping[str, Any], model_grid: Grid, margin_mm: float) -> Region:
    if not facts["is_organ_known"]:
        return whole_scan(model_grid.shape)
    planes, meta = read_array(facts["structures"])
    organ = organ_mask(planes, facts["organ"])
    return organ_region(organ, Grid.from_json(meta["grid"]), model_grid, margin_mm)


def _wanted_folds(row: Mapping[str, Any], model: Model, group: str) -> tuple[int, ...]:
    """Return the folds that predict a case, none if it is not wanted.

    Where no source annotated the organ, a fold that saw another scan of the patient is better
    than none.
    """
    honest = folds_for(model, group)
    if model.organ not in row["annotated"]:
        return honest or tuple(fold.fold for fold in model.folds)
    took_part = any(group in fold.training_groups for fold in model.folds)
    # A model whose training cases nobody knows gets its threshold from all annotated cases.
    return honest if took_part or not model.is_training_known else ()


def choose_organ_threshold(
    organ: str,
    *,
    predicted: Iterable[Path],
    harmonized: Iterable[Path],
    registry: Path,
    sensitivity: float,
    criterion: str,
    hit_rule: str,
    maximum_false_fraction: float,
    on_shortfall: str,
    bootstrap: int,
    minimum_volume_mm3: float,
    connectivity: int,
    seed: int,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Choose an organ's threshold from the out-of-fold predictions of its training cases.

    A model that was trained elsewhere, on cases that nobody named, is judged on all annotated
    cases, and the choice says so.

    Returns
    -------
    The choice (``organ, model_id, is_out_of_fold`` and the fields of `ThresholdChoice`) and the
    FROC curve.

    Raises
    ------
    InputError
        FROC_CASES: no annotated case was predicted by a fold that had not seen it; what
        `choose_threshold` raises.
    """
    model = current_models(registry)[organ]
    harmonized_folders = finished_folders(harmonized)
    counts = []
    for name, folder in finished_folders(predicted).items():
        row = read_record(folder)["row"]
        if row["organ"] != organ or all(
            row["group"] in fold.training_groups for fold in model.folds
        ):
            continue
        case = harmonized_folders[row["case_id"]]
        if organ not in read_record(case)["row"]["annotated"]:
            continue  # another scan of a patient in the training set
        stored = read_levels(folder / LEVELS)
        lesions, _ = read_array(case / f"model_lesions_{organ}.b2nd")
        voxel_volume_mm3 = stored.grid.voxel_volume_mm3
        counted = froc_counts(
            stored.levels,
            lesions == 1,
            stored.thresholds,
            case_id=name,
            voxel_volume_mm3=voxel_volume_mm3,
            searched_volume_mm3=voxel_volume_mm3 * stored.levels.size,
            minimum_volume_mm3=minimum_volume_mm3,
            connectivity=connectivity,
        )
        counts.append(counted.assign(group=row["group"]))
    if not counts:
        raise InputError(
            "FROC_CASES",
            f"{organ} model",
            "no annotated case was predicted by a fold that had not seen it",
            remedy="Annotate more cases, or train with folds that leave some out",
        )
    if not model.is_training_known:
        LOG.warning("%s: threshold chosen on cases that the model may have seen", organ)
    curve = froc_curve(pd.concat(counts), bootstrap=bootstrap, seed=seed, unit="group")
    choice = choose_threshold(
        curve,
        organ=organ,
        sensitivity=sensitivity,
        criterion=criterion,
        rule=hit_rule,
        maximum_false_fraction=maximum_false_fraction,
        on_shortfall=on_shortfall,
    )
    head = {"organ": organ, "model_id": model.model_id, "is_out_of_fold": model.is_training_known}
    return head | asdict(choice), curve


def propose_tumors(
    step: Step,
    manifest: Path,
    *,
    harmonized: Path,
    predicted: Path,
    chosen: Mapping[str, Mapping[str, Any]],
    minimum_volume_mm3: float,
    connectivity: int,
    margin_mm: Mapping[str, float],
) -> None:
    """Propose candidates for every predicted organ that no source annotated (see `run_shard`).

    Parameters
    ----------
    chosen
        Per organ the registered threshold, with the model it was chosen for.
    """

    def work(task: Task, folder: Path) -> dict[str, Any]:
        case, organ = task.data["case"], task.data["organ"]
        stored = read_levels(task.data["levels"])
        planes, meta = read_array(case / "structures.b2nd")
        organ_voxels = organ_mask(planes, organ)
        grid = Grid.from_json(meta["grid"])
        candidates, rows = propose_candidates(
            stored.levels,
            stored.grid,
            stored.thresholds,
            chosen[organ]["threshold"],
            grid,
            case_id=task.data["case_id"],
            organ=organ,
            model_id=stored.model_id,
            minimum_volume_mm3=minimum_volume_mm3,
            organ_mask_native=organ_voxels if organ_voxels.any() else None,
            margin_mm=margin_mm[organ],
            connectivity=connectivity,
        )
        write_nifti(folder / CANDIDATES, candidates, grid)
        return {"case_id": task.data["case_id"], "organ": organ, "candidates": rows}

    cases = finished_folders([harmonized])
    tasks = []
    for name, folder in finished_folders([predicted]).items():
        organ, case_id = name.split("/")
        record = read_record(folder)
        case = read_record(cases[case_id])
        is_chosen = chosen.get(organ, {}).get("model_id") == record["row"]["model_id"]
        if is_chosen and organ not in case["row"]["annotated"]:
            inputs = {
                "levels": record["outputs"][LEVELS]["sha256"],
                "structures": case["outputs"]["structures.b2nd"]["sha256"],
                "threshold": to_json(chosen[organ]["threshold"]),
            }
            facts = {"case_id": case_id, "organ": organ, "case": cases[case_id]}
            tasks.append(Task(name, inputs, facts | {"levels": folder / LEVELS}))
    run_shard(step, tasks, work, manifest)
