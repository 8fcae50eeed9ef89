"""The check of a release's rows against each other: ids, states, scans, licences, splits, leaks."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from tumoratlas.core.errors import TumorAtlasError
from tumoratlas.core.structures import tumor_structures
from tumoratlas.measure.pooled import UNASSIGNED
from tumoratlas.release.leakage.audit import audit_leakage
from tumoratlas.release.splits.scaling import NONE
from tumoratlas.release.splits.schemes import RESERVED, SCHEMES
from tumoratlas.release.verify.problems import Problems
from tumoratlas.release.verify.tables import Tables

LESION = "lesion"
STATES = ("present", "confirmed_empty", "unknown")
_KINDS = ("tumor", "cyst", LESION)
_CASE_ID = re.compile(r"BDMAP_\d{8}")
_HEX = re.compile(r"[0-9a-f]{16}")
_OF_CASES = ("tumors", "candidates", "reviews", "masks", "splits", "crosswalk", "licences")


def check_ids(tables: Tables, case_ids: Collection[str], problems: Problems) -> None:
    """Check that ids are well formed, used once, and of released cases."""
    for case_id in case_ids:
        if not _CASE_ID.fullmatch(case_id):
            problems.add("ID", case_id, "is no case id")
    for table, key in (("tumors", "tumor_id"), ("candidates", "candidate_id")):
        ids = Counter((row["case_id"], row[key]) for row in tables.get(table, []))
        for (case_id, item_id), count in sorted(ids.items()):
            if count > 1 or not _HEX.fullmatch(item_id):
                problems.add("ID", f"{case_id} {item_id}", f"{count} rows of {table}, or no id")
    for table in _OF_CASES:
        strangers = {row["case_id"] for row in tables.get(table, [])} - set(case_ids)
        for case_id in sorted(strangers):
            problems.add("ID", case_id, f"is in {table} and has no files")


def check_states(tables: Tables, case_ids: Collection[str], problems: Problems) -> None:
    """Check the mask of every case and organ, and that tumors fit it."""
    if "masks" not in tables:
        return
    rows = {(row["case_id"], row["organ"]): row for row in tables["masks"]}
    counts = Counter((row["case_id"], row["organ"]) for row in tables["masks"])
    wanted = {(case_id, organ) for case_id in case_ids for organ in tumor_structures()}
    for key in sorted({*(wanted ^ set(counts)), *(k for k, n in counts.items() if n > 1)}):
        problems.add("STATE", " ".join(key), "needs exactly one row in masks")
    for key, row in sorted(rows.items()):
        if row["state"] not in STATES:
            problems.add("STATE", " ".join(key), f"has no such state: {row['state']}")
        elif row["released"] and row["state"] == "unknown":
            problems.add("STATE", " ".join(key), "is unknown, so that nothing can be released")
    tumors = tables.get("tumors", [])
    numbers = Counter((t["case_id"], _map_of(t), t["number"]) for t in tumors)
    for key, count in sorted(numbers.items()):
        if count > 1:
            problems.add("ID", " ".join(map(str, key)), f"{count} tumors have this number")
    for row in tumors:
        key = f"{row['case_id']} {row['organ']} {row['number']}"
        is_pooled = row["lesion_kind"] == LESION
        organs = {*tumor_structures(), *([UNASSIGNED] if is_pooled else [])}
        state = rows.get((row["case_id"], row["organ"]), {})
        if row["lesion_kind"] not in _KINDS or row["organ"] not in organs:
            problems.add("ID", key, f"no such kind or organ: {row['lesion_kind']}")
        elif is_pooled and state.get("state", "unknown") != "unknown":
            problems.add("STATE", key, f"is a pooled lesion, but the organ is {state['state']}")
        elif not is_pooled and not state.get("released"):
            problems.add("STATE", key, "is a tumor of a mask that is unknown or not released")


def _map_of(tumor: Mapping[str, Any]) -> str:
    return "pooled" if tumor["lesion_kind"] == LESION else tumor["organ"]


def check_scans(tables: Tables, case_ids: Collection[str], problems: Problems) -> None:
    """Check that every kept scan is released or excluded, and every case has one scan."""
    if not {"scans", "excluded"} <= tables.keys():
        return
    excluded = {row["id"].split("/")[-1] for row in tables["excluded"]}
    kept = Counter(row["case_id"] for row in tables["scans"] if row["kept"])
    for case_id in case_ids:
        if kept[case_id] != 1:
            problems.add("SCANS", case_id, f"has {kept[case_id]} kept scans, not one")
    for row in tables["scans"]:
        names = {row["scan_id"], row["case_id"]}
        is_told = row["kept"] and row["case_id"] in case_ids
        if not is_told and not names & excluded:
            problems.add("SCANS", row["scan_id"], "is neither released nor excluded")


def check_licences(
    tables: Tables, files: Mapping[str, Collection[str]], target: str, problems: Problems
) -> None:
    """Check that a case has just the files that the licences allow in this target.

    Parameters
    ----------
    tables
        Tables of the release.
    files
        Names below the case of its files, by case.
    target
        For whom the release is.
    problems
        What is found wrong goes here.
    """
    if "licences" not in tables:
        return
    allowed: dict[str, set[str]] = defaultdict(set)
    told: Counter[tuple[str, str]] = Counter()
    for row in tables["licences"]:
        told[row["case_id"], row["file"]] += 1
        if row[target]:
            allowed[row["case_id"]].add(row["file"])
    for (case_id, file), count in sorted(told.items()):
        if count > 1:
            problems.add("LICENCE", f"{case_id}/{file}", f"has {count} rows in licences")
    for case_id, names in sorted(files.items()):
        for name in sorted(set(names) - allowed[case_id]):
            reason = "withholds it" if told[case_id, name] else "says nothing of it"
            problems.add("LICENCE", f"{case_id}/{name}", f"is there, but licences {reason}")
        for name in sorted(allowed[case_id] - set(names)):
            problems.add("LICENCE", f"{case_id}/{name}", f"may be in {target} and is not there")


def check_splits(tables: Tables, case_ids: Collection[str], problems: Problems) -> None:
    """Check that every scheme places every case once, and no patient on two sides."""
    if not {"scans", "splits"} <= tables.keys():
        return
    patients = {row["case_id"]: row["patient_key"] for row in tables["scans"] if row["kept"]}
    for scheme in sorted({*SCHEMES, *(row["scheme"] for row in tables["splits"])}):
        rows = [row for row in tables["splits"] if row["scheme"] == scheme]
        placed = Counter(row["case_id"] for row in rows)
        for case_id in case_ids:
            if placed[case_id] != 1:
                problems.add("SPLIT", f"{scheme} {case_id}", f"{placed[case_id]} places")
        sides = defaultdict(set)
        for row in rows:
            sides["group", row["group"]].add(row["split"])
            sides["patient", patients.get(row["case_id"])].add(row["split"])
        for (kind, name), splits in sides.items():
            if len(splits) > 1 and name is not None:
                problems.add("LEAK", f"{scheme} {kind} {name}", f"is in {sorted(splits)}")


def check_leakage(tables: Tables, problems: Problems) -> None:
    """Check that no case that touches a test set can be trained on, in any scheme."""
    if not {"scans", "relations", "splits", "leakage"} <= tables.keys():
        return
    touched = {row["case_id"] for row in tables["leakage"] if row["test_set"]}
    for row in tables["leakage"]:
        if row["is_leak"]:
            problems.add("LEAK", row["case_id"], f"touches {row['test_set']} by {row['path']}")
    # Searched again: a table of leakage that lacks a row proves nothing.
    scans = [{**row, "links": []} for row in tables["scans"]]
    try:
        audit = audit_leakage(scans, tables["relations"], tables["splits"])
    except TumorAtlasError as error:
        problems.add("LEAK", error.subject, error.reason)
        return
    touched |= {row["case_id"] for row in audit.cases if row["test_set"]}
    for row in audit.torn:
        problems.add("LEAK", f"{row['scheme']} {row['cases']}", row["path"])
    listed = {row["case_id"] for row in tables["leakage"]}
    for case_id in sorted({row["case_id"] for row in audit.cases} - listed):
        problems.add("LEAK", case_id, "has no row in leakage")
    for row in tables["splits"]:
        if row["case_id"] in touched and row["split"] not in (RESERVED, NONE):
            problems.add("LEAK", f"{row['scheme']} {row['case_id']}", f"is in {row['split']}")
