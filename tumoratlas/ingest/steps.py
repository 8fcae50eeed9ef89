"""The sharded step of ingest."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.files import read_json, sha256_json
from tumoratlas.core.runner import Step, Task, run_shard, shard_of
from tumoratlas.ingest.fingerprint import fingerprint_scan
from tumoratlas.ingest.readers import read_scan


def listed_scans(listings: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return all scans of the sources' lists by scan id."""
    scans = [scan for path in listings for scan in read_json(Path(path))["scans"]]
    return {scan["scan_id"]: scan for scan in scans}


def fingerprint_scans(
    step: Step,
    manifest: Path,
    listings: Iterable[Path],
    *,
    shards: int,
    max_voxels: int,
    min_slices: int,
) -> None:
    """Fingerprint every listed scan of the shard (see `run_shard`).

    A scan's key is its listing with the stamp of its files, so that unchanged files are not
    read again.
    """

    def work(task: Task, _folder: Path) -> dict[str, Any]:
        volume = read_scan(task.data, max_voxels=max_voxels, min_slices=min_slices)
        return fingerprint_scan(task.data, volume)

    tasks = [
        Task(scan_id, {"listing": sha256_json(scan)}, scan)
        for scan_id, scan in listed_scans(listings).items()
        if shard_of(scan_id, shards) == step.shard
    ]
    run_shard(step, tasks, work, manifest)


def case_members(
    scans: Sequence[Mapping[str, Any]], listed: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return what later stages need of every case, by case id.

    Parameters
    ----------
    scans
        Rows of `tumoratlas.ingest.dedupe.assign_cases`.
    listed
        `listed_scans`.

    Returns
    -------
    Per case ``shard``, ``group`` and ``members``: the listed scans of its group, the kept one
    first and the others by precedence, each with ``content`` (hash of the image and label
    files). Cases of one patient share a group, so that no split or fold tears a patient apart.
    """
    group_of = patient_groups([scan for scan in scans if scan["case_id"]])
    cases: dict[str, dict[str, Any]] = {}
    for scan in sorted((s for s in scans if s["case_id"]), key=lambda s: s["rank"]):
        case_id = scan["case_id"]
        case = cases.setdefault(case_id, {"group": group_of[case_id], "members": []})
        if scan["kept"]:
            case["shard"] = scan["shard"]
        content = sha256_json([scan["file_sha256"], scan["label_sha256"]])
        case["members"].append({**listed[scan["scan_id"]], "content": content})
    return cases


def patient_groups(scans: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the group of every case: cases linked by a shared patient, through any scan.

    A group is named after its first case id.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for scan in scans:
        case, patient = root(scan["case_id"]), root(f"patient {scan['patient_key']}")
        # Case ids sort before "patient ...", so that the smallest case id is the root.
        parent[max(case, patient)] = min(case, patient)
    return {name: root(name) for name in parent if not name.startswith("patient ")}
