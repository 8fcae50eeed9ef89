"""The step of review that writes packets."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tumoratlas.core.files import sha256_json
from tumoratlas.core.runner import Step, Task, run_shard
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti
from tumoratlas.images.resample import resample_labels
from tumoratlas.review.cases import Key, ReviewCase
from tumoratlas.review.packets.batch import PacketCase, write_batch
from tumoratlas.review.packets.organ import PacketOrgan
from tumoratlas.review.packets.triage import TriageCase, write_triage_page

Line = Mapping[str, Any]


def export_packets(
    step: Step,
    manifest: Path,
    *,
    batches: Mapping[str, Sequence[Line]],
    cases: Mapping[str, ReviewCase],
    reviewers: Mapping[str, str],
    missed: Mapping[Key, Sequence[tuple[float, float, float]]],
) -> None:
    """Write the packet of every outstanding batch, its triage page included (`run_shard`).

    Parameters
    ----------
    batches
        Lines of each outstanding batch (`tumoratlas.review.plan.planning.ReviewPlan`).
    cases
        Every case.
    reviewers
        Role of each reviewer.
    missed
        Places of tumors that are to be drawn (`tumoratlas.review.plan.planning.missed_places`).
    """

    def work(task: Task, folder: Path) -> dict[str, Any]:
        head, lines = task.data["head"], task.data["lines"]
        rows, excluded = write_batch(
            folder,
            **head,
            cases=(_packet_case(cases[line["case_id"]], line, missed) for line in lines),
            previous=step.folder / task.id if (step.folder / task.id).is_dir() else None,
        )
        left_out = {row["id"] for row in excluded}
        write_triage_page(
            folder / "triage.html",
            **head,
            cases=(
                _triage_case(cases[line["case_id"]], organ, line, head["kind"])
                for line in lines
                for organ in line["organs"]
                if f"{task.id}/{line['case_id']}/{organ}" not in left_out
            ),
        )
        return {"batch": task.id, "lines": len(rows), "excluded_organs": excluded}

    tasks = []
    for batch, lines in batches.items():
        head = {key: lines[0][key] for key in ("batch", "kind", "reviewer_id")}
        head["role"] = reviewers[head["reviewer_id"]]
        inputs = {
            f"{line['case_id']}/{name}": sha256
            for line in lines
            for name, sha256 in cases[line["case_id"]].hashes().items()
        }
        places = [
            [line["case_id"], organ, _shown_places(line, organ, missed)]
            for line in lines
            for organ in line["organs"]
        ]
        inputs["lines"] = sha256_json([head, lines, places])
        tasks.append(Task(batch, inputs, {"head": head, "lines": lines}))
    run_shard(step, tasks, work, manifest)


def _packet_case(
    case: ReviewCase, line: Line, missed: Mapping[Key, Sequence[tuple[float, float, float]]]
) -> PacketCase:
    def load(organ: str) -> PacketOrgan:
        return PacketOrgan(
            candidates=case.candidates(organ),
            rows=case.rows(organ),
            organ_mask=case.organ_mask(organ),
            base_sha256=line["bases"][organ],
            missed_ras_mm=_shown_places(line, organ, missed),
        )

    path = case.folder / "ct.nii.gz"
    return PacketCase(case.case_id, line["rank"], path, case.grid, line["organs"], load)


def _shown_places(
    line: Line, organ: str, missed: Mapping[Key, Sequence[tuple[float, float, float]]]
) -> Sequence[tuple[float, float, float]]:
    """Return what others reported missed; those who read blindly never see it."""
    return missed.get((line["case_id"], organ), []) if line["kind"] == "adjudicate" else []


@lru_cache(maxsize=1)  # the organs of a case follow one another
def _ct(folder: Path, kind: str, max_voxels: int) -> tuple[np.ndarray, Grid]:
    if kind == "full":
        array, meta = read_array(folder / "model.b2nd")
        return array, Grid.from_json(meta["grid"])
    file = read_nifti(folder / "ct.nii.gz", max_voxels=max_voxels)
    return file.array, file.grid


def _triage_case(case: ReviewCase, organ: str, line: Line, kind: str) -> TriageCase:
    """Return what the page shows: crops on the native grid, or the whole scan on the model's."""
    ct, grid = _ct(case.folder, kind, int(np.prod(case.grid.shape)))
    candidates, mask = case.candidates(organ), case.organ_mask(organ)
    if kind == "full":
        candidates = resample_labels(candidates, case.grid, grid)
        if mask is not None:
            mask = resample_labels(mask.astype(np.uint8), case.grid, grid) > 0
    return TriageCase(
        case_id=case.case_id,
        organ=organ,
        ct=ct,
        grid=grid,
        candidates=candidates,
        rows=case.rows(organ),
        organ_mask=mask,
        base_sha256=line["bases"][organ],
        rank=line["rank"],
    )
