"""The steps of ingest, from lists and manifests to functions on scans and rows."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.files import read_json, sha256_json
from tumoratlas.core.runner import Step, Task, finished_folders, read_record, run_shard
from tumoratlas.ingest.confirming import confirm_pair, same_from_turns
from tumoratlas.ingest.dedupe import link_patients
from tumoratlas.ingest.fingerprint import (
    FINGERPRINT,
    fingerprint_of,
    read_fingerprint,
    scan_row,
    write_fingerprint,
)
from tumoratlas.ingest.listing import list_scans
from tumoratlas.ingest.matching import match_scans
from tumoratlas.ingest.pseudonyms import read_key
from tumoratlas.ingest.readers import read_stored, read_unchanged
from tumoratlas.ingest.shards import without_stamp
from tumoratlas.ingest.sources import INTERNAL, read_source


def list_source(description: Path, folder: Path, key_file: Path) -> dict[str, list[dict[str, Any]]]:
    """List the scans of a source (`list_scans`); only internal ones need the key of pseudonyms."""
    source = read_source(description)
    return list_scans(source, folder, read_key(key_file) if source.licence == INTERNAL else None)


def listed_scans(listings: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return all scans of the sources' lists by scan id."""
    scans = [scan for path in listings for scan in read_json(Path(path))["scans"]]
    return {scan["scan_id"]: scan for scan in scans}


def fingerprint_scans(
    step: Step,
    manifest: Path,
    scans: Path,
    *,
    key_file: Path,
    max_voxels: int,
    min_slices: int,
) -> None:
    """Fingerprint every listed scan of the shard (see `run_shard`).

    ``scans`` is the shard's file of shard_scans.

    A scan's key is its listing with the stamp of its files, so that unchanged files are not
    read again.
    """

    def work(task: Task, folder: Path) -> dict[str, Any]:
        key = read_key(key_file) if task.data["licence"] == INTERNAL else None
        scan = read_stored(task.data, max_voxels=max_voxels, min_slices=min_slices, key=key)
        fingerprint = fingerprint_of(scan.hu, scan.grid, scan.statistics)
        write_fingerprint(folder / FINGERPRINT, fingerprint)
        return scan_row(task.data, scan)

    tasks = [
        Task(scan_id, {"listing": sha256_json(scan)}, scan)
        for scan_id, scan in read_json(scans).items()
    ]
    run_shard(step, tasks, work, manifest)


def match_fingerprints(manifests: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return which scans are equal, and which pairs may be copies of one another.

    Of scans with equal content one stands for all, so that a pair of contents is confirmed
    once, however many copies there are.

    Returns
    -------
    ``relations``: a row per scan whose content another one has; ``pairs``: candidates of
    `tumoratlas.ingest.matching.match_scans`.
    """
    folders = finished_folders(manifests)
    contents = {i: read_record(path)["row"]["voxel_sha256"] for i, path in folders.items()}
    first: dict[str, str] = {}
    for scan_id, content in sorted(contents.items()):
        first.setdefault(content, scan_id)
    prints = {i: read_fingerprint(folders[i] / FINGERPRINT) for i in first.values()}
    relations = []
    for scan_id, content in sorted(contents.items()):
        if (stands := first[content]) != scan_id:
            copy = read_fingerprint(folders[scan_id] / FINGERPRINT)
            relations.append(same_from_turns(stands, prints[stands], scan_id, copy))
    pairs = match_scans(prints, {scan_id: contents[scan_id] for scan_id in prints})
    return {"relations": relations, "pairs": pairs}


def confirm_pairs(
    step: Step,
    manifest: Path,
    *,
    pairs: Path,
    max_voxels: int,
    min_slices: int,
) -> None:
    """Compare the voxels of every candidate pair of the shard (see `run_shard`).

    ``pairs`` is the shard's file of match_scans (`tumoratlas.ingest.shards.pairs_by_shard`).
    """
    limits = {"max_voxels": max_voxels, "min_slices": min_slices}

    def work(task: Task, _folder: Path) -> dict[str, Any]:
        scans = (task.data[side] for side in "ab")
        first, second = (read_unchanged(scan, scan["file_sha256"], **limits) for scan in scans)
        return confirm_pair(first.hu, second.hu, task.data["pair"])

    tasks = []
    for pair_id, found in read_json(pairs).items():
        sides = [found[side] for side in "ab"]
        inputs = {scan["scan_id"]: scan["file_sha256"] for scan in sides}
        inputs["pair"] = sha256_json(found["pair"])
        inputs["listed"] = sha256_json([scan["repairs"] for scan in sides])
        tasks.append(Task(pair_id, inputs, found))
    run_shard(step, tasks, work, manifest)


def case_members(
    scans: Sequence[Mapping[str, Any]],
    relations: Sequence[Mapping[str, Any]],
    listed: Mapping[str, Mapping[str, Any]],
    published: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Return what later stages need of every case, by case id.

    Parameters
    ----------
    scans
        Rows of `tumoratlas.ingest.registry.assign_cases`, those without a case too.
    relations
        Confirmed relations.
    listed
        `listed_scans`.
    published
        Group of each case when it was registered, `tumoratlas.ingest.registry.read_groups`.

    Returns
    -------
    Per case ``shard``; ``group``, which cases of one patient share, so that no split or fold
    tears a patient apart, and which keeps the name that its first registered case had, so that
    no case changes its split when others come or go; ``reserved``, the test sets that the group
    touches; ``members``: the listed scans of the case, the kept one first and the others by
    precedence, each without its stamp and with ``file_sha256``, ``content`` (hash of the image and
    label files) and ``alignment`` to the kept one.
    """
    # Scans that could not be read have a patient too, and may belong to a test set.
    read = {scan["scan_id"] for scan in scans}
    unread = [{**one, "links": []} for scan_id, one in listed.items() if scan_id not in read]
    patients = link_patients([*scans, *unread], relations)
    cases: dict[str, dict[str, Any]] = {}
    for scan in sorted((s for s in scans if s["case_id"]), key=lambda s: s["rank"]):
        group, reserved = patients[scan["scan_id"]]
        case = cases.setdefault(
            scan["case_id"], {"group": group, "reserved": reserved, "members": []}
        )
        if scan["kept"]:
            case["shard"] = scan["shard"]
        facts = {
            "file_sha256": scan["file_sha256"],
            "content": sha256_json([scan["file_sha256"], scan["label_sha256"]]),
            "alignment": scan["alignment"],
        }
        case["members"].append(without_stamp(listed[scan["scan_id"]]) | facts)
    names: dict[str, str] = {}
    order = {case_id: place for place, case_id in enumerate(published)}
    for case_id in sorted(cases, key=lambda c: (order.get(c, len(order)), c)):
        names.setdefault(cases[case_id]["group"], published.get(case_id, case_id))
    for case in cases.values():
        case["group"] = names[case["group"]]
    return cases
