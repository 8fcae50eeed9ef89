"""The sharded steps of candidates, and the choice of an organ's threshold.

A task is one organ of one case, named ``<organ>/<case_id>``: sorted by name, one organ's model
is in memory at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from tumoratlas.candidates.froc import froc_counts, froc_curve
from tumoratlas.candidates.levels import level_map, read_levels, write_levels
from tumoratlas.candidates.predict import Predictor, folds_for
from tumoratlas.candidates.propose import propose_candidates
from tumoratlas.candidates.thresholds import choose_threshold
from tumoratlas.core.files import read_json, to_json
from tumoratlas.core.runner import Step, Task, finished_folders, read_record, run_shard
from tumoratlas.core.structures import organ_mask
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.train.nnunet import torch_device
from tumoratlas.train.registry import Model, current_models

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
) -> None:
    """Predict level maps for the shard (see `run_shard`).

    An organ of a case is predicted where no source annotated it, and where the case took part
    in the organ's training: then by the folds that did not see it, for the thresholds.
    """

    @lru_cache(maxsize=1)
    def predictor(organ: str) -> Predictor:
        return Predictor(models[organ], torch_device(device), tile_step, mirroring)

    def work(task: Task, folder: Path) -> dict[str, Any]:
        image, meta = read_array(task.data["image"])
        organ, folds = task.data["organ"], tuple(task.data["folds"])
        probability = predictor(organ).predict(image, folds)
        levels = level_map(probability, thresholds)
        grid = Grid.from_json(meta["grid"])
        write_levels(folder / LEVELS, levels, thresholds, grid, models[organ].model_id)
        facts = {key: task.data[key] for key in ("case_id", "organ", "folds", "group")}
        return facts | {"model_id": models[organ].model_id}

    models = current_models(registry)
    groups = {case_id: case["group"] for case_id, case in read_json(cases).items()}
    tasks = []
    for case_id, folder in finished_folders([harmonized]).items():
        record = read_record(folder)
        for organ, model in models.items():
            if _is_wanted(record["row"], model, groups[case_id]):
                folds = folds_for(model, groups[case_id])
                image = record["outputs"]["model.b2nd"]["sha256"]
                facts = {"case_id": case_id, "organ": organ, "group": groups[case_id]}
                tasks.append(
                    Task(
                        f"{organ}/{case_id}",
                        {"image": image, "model": model.model_id, "folds": to_json(folds)},
                        facts | {"folds": list(folds), "image": folder / "model.b2nd"},
                    )
                )
    run_shard(step, tasks, work, manifest)


def _is_wanted(row: Mapping[str, Any], model: Model, group: str) -> bool:
    took_part = any(group in fold.training_groups for fold in model.folds)
    return took_part or model.organ not in row["annotated"]


def choose_organ_threshold(
    organ: str,
    *,
    predicted: Iterable[Path],
    harmonized: Iterable[Path],
    registry: Path,
    sensitivity: float,
    hit_rule: str,
    maximum_false_fraction: float,
    on_shortfall: str,
    bootstrap: int,
    minimum_volume_mm3: float,
    connectivity: int,
    seed: int,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Choose an organ's threshold from the out-of-fold predictions of its training cases.

    Returns
    -------
    The choice (``organ, model_id`` and the fields of `ThresholdChoice`) and the FROC curve.
    """
    model = current_models(registry)[organ]
    harmonized_folders = finished_folders(harmonized)
    counts = []
    for name, folder in finished_folders(predicted).items():
        row = read_record(folder)["row"]
        if row["organ"] != organ or len(row["folds"]) == len(model.folds):
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
    curve = froc_curve(pd.concat(counts), bootstrap=bootstrap, seed=seed, unit="group")
    choice = choose_threshold(
        curve,
        organ=organ,
        sensitivity=sensitivity,
        rule=hit_rule,
        maximum_false_fraction=maximum_false_fraction,
        on_shortfall=on_shortfall,
    )
    return {"organ": organ, "model_id": model.model_id, **asdict(choice)}, curve


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
