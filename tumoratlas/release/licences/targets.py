"""The rows that a target shows: licences decide file by file."""

from collections.abc import Collection, Mapping

from tumoratlas.core.structures import tumor_structures
from tumoratlas.ingest.sources import INTERNAL
from tumoratlas.release.cases import JOINED, POOLED, segmentation
from tumoratlas.release.facts import Row, Rows


def mark_released(masks: Rows, licences: Rows, target: str) -> list[Row]:
    """Return the rows of ``masks`` with ``released``: its tumor files are in the target."""
    withheld = {(row["case_id"], row["file"]) for row in licences if not row[target]}
    structures = tumor_structures()
    return [
        {
            **mask,
            "released": mask["state"] != "unknown"
            and (mask["case_id"], segmentation(structures[mask["organ"]].name)) not in withheld,
        }
        for mask in masks
    ]


def released_tumors(tumors: Rows, masks: Rows, licences: Rows, target: str) -> list[Mapping]:
    """Return the tumors whose instance map is in the target."""
    known = {(mask["case_id"], mask["organ"]) for mask in masks if mask["released"]}
    no_pooled = {row["case_id"] for row in licences if row["file"] == POOLED and not row[target]}
    return [
        row
        for row in tumors
        if (
            row["case_id"] not in no_pooled
            if row["lesion_kind"] == "lesion"
            else (row["case_id"], row["organ"]) in known
        )
    ]


def hiding_cases(masks: Rows, licences: Rows, target: str) -> set[str]:
    """Return the cases of which tumors or pooled lesions are known and not in the target."""
    hiding = {r["case_id"] for r in masks if r["state"] != "unknown" and not r["released"]}
    return hiding | {
        row["case_id"] for row in licences if row["file"] == POOLED and not row[target]
    }


def joined_licences(licences: Rows, target: str) -> list[Row]:
    """Return the rows, of which those of joined files name what they join in the target."""
    parts: dict[str, set[tuple[str, str]]] = {}
    for row in licences:
        if row["kind"] == "mask" and row["file"] not in JOINED and row[target]:
            pairs = zip(row["sources"], row["licences"], strict=True)
            parts.setdefault(row["case_id"], set()).update(pairs)
    rows = []
    for row in licences:
        rows.append(dict(row))
        if row["file"] in JOINED:
            held = sorted(parts.get(row["case_id"], ()))
            rows[-1]["sources"] = [source for source, _ in held]
            rows[-1]["licences"] = [licence for _, licence in held]
    return rows


def withheld_cases(
    scans: Rows, cases: Collection[str], licences: Rows, target: str
) -> list[dict[str, str]]:
    """Return an ``excluded`` row for every case that only the licences keep out."""
    reasons: dict[str, set[str]] = {}
    for row in licences:
        if not row[target] and INTERNAL not in row["licences"]:
            reasons.setdefault(row["case_id"], set()).update(row["reasons"])
    return [
        {
            "id": case_id,
            "rule": "write_cases",
            "code": "LICENCE",
            "reason": f"no image or mask of it may be in the target {target}",
            "evidence": "; ".join(sorted(reasons[case_id])),
            "remedy": "None needed; record a permission in permissions.csv if you hold one",
        }
        for case_id in sorted({s["case_id"] for s in scans if s["kept"]} & reasons.keys())
        if case_id not in cases
    ]
