"""The sharded step that writes DICOM SEG objects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import read_json, sha256_file, sha256_json
from tumoratlas.core.runner import Step, Task, finished_folders, read_record, run_shard
from tumoratlas.ingest.sources import INTERNAL
from tumoratlas.release.seg.codes import read_codes
from tumoratlas.release.seg.write import SEG, write_seg

_MASKS = ("segmentations/", "instances/")


def write_segs(
    step: Step,
    manifest: Path,
    *,
    written: Path,
    measured: Path,
    cases: Path,
    codes: Path,
    max_voxels: int,
    min_slices: int,
) -> None:
    """Write ``seg.dcm`` of every case of the shard that came as a public DICOM series.

    Other cases are no tasks; a series of an internal source never is one, since its identifiers
    are private. A series that masks cannot refer to fails nothing: the row has ``segments`` 0 and
    tells why under ``excluded_masks``.

    Parameters
    ----------
    written, measured
        Manifests of write_cases and measure_tumors.
    cases
        The shard's JSON file of assign_cases.
    codes
        Table of codes (`tumoratlas.release.seg.codes.read_codes`).
    """
    meanings = read_codes(codes)

    def work(task: Task, folder: Path) -> dict[str, Any]:
        try:
            row = write_seg(
                folder,
                case_id=task.id,
                **task.data,
                codes=meanings,
                max_voxels=max_voxels,
                min_slices=min_slices,
            )
        except ReleaseError as error:
            excluded = error.excluded_row(f"{task.id}/{SEG}", step.rule)
            return {"case_id": task.id, "segments": 0, "frames": 0, "excluded_masks": [excluded]}
        return row | {"excluded_masks": []}

    members = {case_id: case["members"] for case_id, case in read_json(cases).items()}
    numbers = finished_folders([measured])
    tasks = []
    for case_id, folder in finished_folders([written]).items():
        scan = members[case_id][0]
        masks = {
            name: facts["sha256"]
            for name, facts in read_record(folder)["outputs"].items()
            if name.startswith(_MASKS)
        }
        if not _is_public_series(scan) or not masks or case_id not in numbers:
            continue
        tumors = [_named(row) for row in read_record(numbers[case_id])["row"]["tumors"]]
        inputs = {
            **masks,
            "scan": sha256_json(scan),
            "tumors": sha256_json(tumors),
            "codes": sha256_file(codes),
        }
        tasks.append(Task(case_id, inputs, {"scan": scan, "written": folder, "tumors": tumors}))
    run_shard(step, tasks, work, manifest)


def _is_public_series(scan: Mapping[str, Any]) -> bool:
    return scan["format"] == "dicom" and scan["licence"] != INTERNAL


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a segment says of a tumor."""
    return {key: row[key] for key in ("organ", "number", "lesion_kind", "origin", "tumor_id")}
