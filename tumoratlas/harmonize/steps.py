"""The sharded step of harmonize."""

from pathlib import Path
from typing import Any

from tumoratlas.core.files import read_json, sha256_json
from tumoratlas.core.runner import Step, Task, run_shard
from tumoratlas.harmonize.cases import harmonize_case
from tumoratlas.ingest.labels import label_hashes
from tumoratlas.ingest.readers import scan_changed


def harmonize_scans(
    step: Step,
    manifest: Path,
    cases: Path,
    *,
    model_spacing_mm: float,
    max_voxels: int,
    min_slices: int,
) -> None:
    """Harmonize every case of the shard (see `run_shard` and `harmonize_case`).

    ``cases`` is the shard's file of assign_cases. A scan of which the image or a label is no
    longer what was fingerprinted stays to be done.
    """

    def work(task: Task, folder: Path) -> dict[str, Any]:
        for scan in task.data["members"]:
            if sha256_json([scan["file_sha256"], label_hashes(scan)]) != scan["content"]:
                raise scan_changed(scan, "a label")
        return harmonize_case(
            task.id,
            task.data["members"],
            folder,
            model_spacing_mm=model_spacing_mm,
            max_voxels=max_voxels,
            min_slices=min_slices,
        )

    tasks = [Task(case_id, _contents(case), case) for case_id, case in read_json(cases).items()]
    run_shard(step, tasks, work, manifest)


def _contents(case: dict[str, Any]) -> dict[str, str]:
    """Return the key inputs of a case: contents, names and label meanings; no file times."""
    return {member["scan_id"]: sha256_json(member) for member in case["members"]}
