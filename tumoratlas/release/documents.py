"""The documents of a release: who may use it, what is known to be wrong, what came and went."""

from typing import Any

from tumoratlas.core.structures import tumor_structures
from tumoratlas.core.tables import csv_text
from tumoratlas.release.facts import ReleaseFacts
from tumoratlas.release.texts import render_text

_ISSUE_COLUMNS = ["issue", "source", "case_id", "what", "answer", "is_verified"]
_WITHDRAWN_COLUMNS = ["case_id", "organ", "code", "reason", "remedy"]
# Rows of `excluded` that tell a user of the release something about the masks of its cases.
_MASK_CODES = ("LABEL_CONFLICT", "LABEL_CUT", "COPY_MIRRORED", "POOLED_CONTRADICTED")


def document_files(facts: ReleaseFacts) -> dict[str, str]:
    """Return the texts of the datasheet, citation, known issues and withdrawn list."""
    return {
        "CITATION.cff": render_text(facts.resources / "CITATION.cff.jinja", _values(facts)),
        "datasheet.md": render_text(facts.resources / "datasheet.md.jinja", _values(facts)),
        "KNOWN_ISSUES.csv": csv_text(known_issues(facts), _ISSUE_COLUMNS),
        "withdrawn.csv": csv_text(withdrawn(facts), _WITHDRAWN_COLUMNS),
        "voxel_hashes.csv": csv_text(voxel_hashes(facts), ["path", "voxel_sha256"]),
    }


def known_issues(facts: ReleaseFacts) -> list[dict[str, Any]]:
    """Return what is known to be wrong: defects of the sources, and masks that were left out."""
    rows = [
        {"issue": defect.id, "source": source.id, "case_id": "", "what": defect.text,
         "answer": defect.answer, "is_verified": defect.verified}
        for source in sorted(facts.sources, key=lambda source: source.id)
        for defect in source.defects
    ]  # fmt: skip
    scans = {
        row["scan_id"]: row
        for table in ("scans", "crosswalk")
        for row in facts.tables[table]
        if row["case_id"]
    }
    sources = {case["case_id"]: case["source"] for case in facts.cases}
    for row in facts.tables["excluded"]:
        if row["code"] not in _MASK_CODES:
            continue
        scan = scans.get(row["id"].split("/")[0], {})
        case_id = next((part for part in row["id"].split("/") if part in sources), "")
        case_id = case_id or scan.get("case_id", "")
        if case_id in sources:
            rows.append(
                {"issue": row["code"], "source": scan.get("source", sources[case_id]),
                 "case_id": case_id,
                 "what": " ".join(filter(None, (row["id"], row["reason"], row["evidence"]))),
                 "answer": row["remedy"], "is_verified": True}
            )  # fmt: skip
    return rows


def withdrawn(facts: ReleaseFacts) -> list[dict[str, str]]:
    """Return the cases whose id is never used again, and the organs whose masks were taken back."""
    rows = [
        {"case_id": row["id"], "organ": "", **{k: row[k] for k in ("code", "reason", "remedy")}}
        for row in facts.tables["excluded"]
        if row["code"] == "CASE_WITHDRAWN"
    ]
    unknown = {
        (mask["case_id"], mask["organ"])
        for mask in facts.tables["masks"]
        if mask["state"] == "unknown"
    }
    last = {
        (event["case_id"], event["organ"]): event
        for event in facts.tables["reviews"]
        if event["decision"] == "withdraw"
    }
    for key in unknown & last.keys():
        reason = f"taken back by {last[key]['reviewer_id']} at {last[key]['time']}"
        rows.append(
            {"case_id": key[0], "organ": key[1], "code": "MASK_WITHDRAWN", "reason": reason,
             "remedy": "Do not use the organ's tumor masks of earlier releases"}
        )  # fmt: skip
    return sorted(rows, key=lambda row: (row["case_id"], row["organ"]))


def voxel_hashes(facts: ReleaseFacts) -> list[dict[str, str]]:
    """Return path and voxel hash of every volume; a hash of voxels outlives a repacked file."""
    rows = [
        {"path": place_of(case["case_id"], name), "voxel_sha256": sha256}
        for case in facts.cases
        for name, sha256 in case["voxel_sha256"].items()
    ]
    return sorted(rows, key=lambda row: row["path"])


def place_of(case_id: str, name: str) -> str:
    """Return the place in the release of a file that `write_case` wrote."""
    return f"{'ct' if name == 'ct.nii.gz' else 'label'}/{case_id}/{name}"


def _values(facts: ReleaseFacts) -> dict[str, Any]:
    tumors, masks = facts.tables["tumors"], facts.tables["masks"]
    reviews = [row for row in facts.tables["reviews"] if row["role"] != "source"]
    states = {
        state: sum(
            mask["state"] == state for mask in masks if mask["released"] or state == "unknown"
        )
        for state in ("present", "confirmed_empty", "unknown")
    }
    states["withheld"] = len(masks) - sum(states.values())
    return {
        "facts": facts,
        "organs": list(tumor_structures()),
        "tumors": len(tumors),
        "states": states,
        "sources": sorted(facts.sources, key=lambda source: source.id),
        "reviewers": len({row["reviewer_id"] for row in reviews}),
        "reviews": len(reviews),
        "excluded": len(facts.tables["excluded"]),
        "slices": sum(case["slices"] for case in facts.cases),
    }
