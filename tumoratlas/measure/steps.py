"""The sharded step of measure."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tumoratlas.core.runner import Step, Task, finished_folders, read_record, run_shard
from tumoratlas.core.structures import structure_bit
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti
from tumoratlas.measure.instances import measure_instances


def measure_tumors(
    step: Step,
    manifest: Path,
    *,
    harmonized: Path,
    merged: Path,
    size_edges_mm: Sequence[float],
    early_diameter_mm: float,
    minimum_volume_mm3: float,
) -> None:
    """Measure every tumor instance of the shard's cases (see `run_shard`).

    The row holds the ``tumors`` rows of the case, by organ and number.
    """

    def work(task: Task, _folder: Path) -> dict[str, Any]:
        case, masks = task.data["case"], task.data["masks"]
        row = read_record(masks)["row"]
        grid = Grid.from_json(read_record(case)["row"]["grid"])
        voxels = int(np.prod(grid.shape))
        ct = read_nifti(case / "ct.nii.gz", max_voxels=voxels).array
        planes, _ = read_array(case / "structures.b2nd")
        tumors = []
        for organ, lineage in sorted(row["instances"].items()):
            instances = read_nifti(masks / f"{organ}.nii.gz", max_voxels=voxels).array
            measured = measure_instances(
                instances,
                ct,
                grid,
                size_edges_mm=size_edges_mm,
                early_diameter_mm=early_diameter_mm,
                minimum_volume_mm3=minimum_volume_mm3,
            )
            for instance in measured:
                facts = asdict(instance)
                label = facts.pop("label")
                origin = lineage[str(label)]
                inside = planes[instances == label] if organ == "kidney" else None
                tumors.append(
                    {
                        "tumor_id": origin["tumor_id"],
                        "number": label,
                        "case_id": task.id,
                        "organ": organ,
                        "side": "" if inside is None else _side(inside),
                        "lesion_kind": origin["kind"],
                        "origin": origin["origin"],
                        "reviewers": list(origin["reviewers"]),
                        **facts,
                    }
                )
        return {"case_id": task.id, "tumors": tumors}

    cases = finished_folders([harmonized])
    tasks = []
    for case_id, masks in finished_folders([merged]).items():
        case_outputs = read_record(cases[case_id])["outputs"]
        record = read_record(masks)
        inputs = {
            **{name: case_outputs[name]["sha256"] for name in ("ct.nii.gz", "structures.b2nd")},
            **{name: facts["sha256"] for name, facts in record["outputs"].items()},
            "lineage": str(record["row"]["instances"]),
        }
        tasks.append(Task(case_id, inputs, {"case": cases[case_id], "masks": masks}))
    run_shard(step, tasks, work, manifest)


def _side(planes: np.ndarray) -> str:
    """Return the kidney that holds more of a tumor's voxels; empty if no side is known."""
    counts = {
        side: int(np.count_nonzero(planes & np.uint32(structure_bit(f"kidney_{side}"))))
        for side in ("left", "right")
    }
    if counts["left"] == counts["right"]:
        return ""
    return max(counts, key=counts.__getitem__)
