"""The sharded step of measure."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.runner import Step, Task, finished_folders, read_record, run_shard
from tumoratlas.harmonize.cases import POOLED_FILE
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti
from tumoratlas.measure.instances import Instance, measure_instances
from tumoratlas.measure.pooled import Contradiction, pooled_map
from tumoratlas.measure.sides import kidney_side, with_sides
from tumoratlas.review.merge.instances import instance_id


def measure_tumors(
    step: Step,
    manifest: Path,
    *,
    harmonized: Path,
    merged: Path,
    connectivity: int,
    size_edges_mm: Sequence[float],
    early_diameter_mm: float,
    minimum_volume_mm3: float,
) -> None:
    """Measure every tumor instance of the shard's cases (see `run_shard`).

    The row holds the ``tumors`` rows of the case, by organ and number, those of pooled lesions
    last, and under ``excluded_masks`` the pooled lesions that settled organs contradict.
    """
    limits = {
        "size_edges_mm": size_edges_mm,
        "early_diameter_mm": early_diameter_mm,
        "minimum_volume_mm3": minimum_volume_mm3,
    }

    def work(task: Task, _folder: Path) -> dict[str, Any]:
        case, masks = task.data["case"], task.data["masks"]
        row = read_record(masks)["row"]
        grid = Grid.from_json(read_record(case)["row"]["grid"])
        voxels = int(np.prod(grid.shape))
        ct = read_nifti(case / "ct.nii.gz", max_voxels=voxels).array
        planes, _ = read_array(case / "structures.b2nd")
        spacing_mm = np.array(grid.spacing_mm[::-1])
        tumors = []
        settled = np.zeros(grid.shape, bool)
        for organ, lineage in sorted(row["instances"].items()):
            instances = read_nifti(masks / f"{organ}.nii.gz", max_voxels=voxels).array
            settled |= instances > 0
            if organ == "kidney":
                sided = with_sides(planes, instances > 0, spacing_mm)
            for instance in measure_instances(instances, ct, grid, **limits):
                origin = lineage[str(instance.label)]
                side = ""
                if organ == "kidney":
                    box = _box(instance)
                    side = kidney_side(instances[box] == instance.label, box, sided, spacing_mm)
                facts = {
                    "tumor_id": origin["tumor_id"],
                    "organ": organ,
                    "side": side,
                    "lesion_kind": origin["kind"],
                    "origin": origin["origin"],
                    "reviewers": list(origin["reviewers"]),
                    "events": list(origin["event_ids"]),
                }
                tumors.append(_row(task.id, instance, facts))
        excluded = []
        if (case / POOLED_FILE).exists():
            pooled, _ = read_array(case / POOLED_FILE)
            lesions = pooled_map(
                pooled, planes, settled, row["instances"], grid, connectivity=connectivity
            )
            for instance in measure_instances(lesions.instances, ct, grid, **limits):
                places = np.ravel_multi_index(_places(lesions.instances, instance), grid.shape)
                facts = {
                    "tumor_id": instance_id(task.id, "pooled", grid.shape, places),
                    "organ": lesions.organs[instance.label],
                    "side": lesions.sides[instance.label],
                    "lesion_kind": "lesion",
                    "origin": "pooled",
                    "reviewers": [],
                    "events": [],
                }
                tumors.append(_row(task.id, instance, facts))
            excluded = [_contradicted_row(task.id, one) for one in lesions.contradicted]
        return {"case_id": task.id, "tumors": tumors, "excluded_masks": excluded}

    cases = finished_folders([harmonized])
    tasks = []
    for case_id, masks in finished_folders([merged]).items():
        case_outputs = read_record(cases[case_id])["outputs"]
        record = read_record(masks)
        read = {"ct.nii.gz", "structures.b2nd", POOLED_FILE} & case_outputs.keys()
        inputs = {
            **{name: case_outputs[name]["sha256"] for name in sorted(read)},
            **{name: facts["sha256"] for name, facts in record["outputs"].items()},
            "lineage": str(record["row"]["instances"]),
        }
        tasks.append(Task(case_id, inputs, {"case": cases[case_id], "masks": masks}))
    run_shard(step, tasks, work, manifest)


def _row(case_id: str, instance: Instance, facts: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the ``tumors`` table."""
    measured = asdict(instance)
    return {"number": measured.pop("label"), "case_id": case_id, **facts, **measured}


def _places(instances: NDArray[np.uint16], instance: Instance) -> tuple[NDArray[np.int64], ...]:
    """Return the z, y and x of an instance's voxels, in raster order."""
    places = np.nonzero(instances[_box(instance)] == instance.label)
    return tuple(axis + first for axis, first in zip(places, instance.bbox[:3], strict=True))


def _box(instance: Instance) -> tuple[slice, ...]:
    return tuple(map(slice, instance.bbox[:3], instance.bbox[3:]))


def _contradicted_row(case_id: str, lesion: Contradiction) -> dict[str, str]:
    place = ", ".join(map(str, lesion.first_voxel))
    return {
        "id": f"{case_id}/{lesion.organ}",
        "rule": "measure_tumors",
        "code": "POOLED_CONTRADICTED",
        "reason": "a source labels a tumor of an unnamed organ where the settled organ has none",
        "evidence": f"{lesion.voxels} voxels from voxel ({place})",
        "remedy": f"Look at the {lesion.organ} there; a reviewer can add the tumor",
    }
