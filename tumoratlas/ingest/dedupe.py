"""Which scans are the same, which of them is kept, and what each kept scan is called."""

from collections.abc import Mapping, Sequence
from typing import Any

from tumoratlas.core.runner import shard_of
from tumoratlas.core.tables import SCHEMAS

_RULE = "deduplicate_scans"


def deduplicate(
    scans: Sequence[Mapping[str, Any]], precedence: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Group scans of equal content and choose the one to keep in each group.

    A scan whose header's spacing is known to be false is never kept: where no copy has
    the true spacing the whole group is excluded by name, because every size would be wrong.

    Parameters
    ----------
    scans
        Rows of `fingerprint_scan`.
    precedence
        Source ids; the earlier source's image is kept.

    Returns
    -------
    The rows with ``duplicate_group``, ``kept`` and ``rank`` (place in the group, the kept scan
    first), sorted by scan id, and ``excluded`` rows.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for scan in sorted(scans, key=lambda scan: scan["scan_id"]):
        groups.setdefault(scan["voxel_sha256"], []).append(scan)
    rank = {source: n for n, source in enumerate(precedence)}
    rows, excluded = [], []
    for voxels, members in groups.items():
        group = f"g{voxels[:16]}"
        members.sort(key=lambda s: (s["false_spacing"], rank.get(s["source"], len(rank))))
        chosen = None if members[0]["false_spacing"] else members[0]
        for n, scan in enumerate(members):
            rows.append({**scan, "duplicate_group": group, "kept": scan is chosen, "rank": n})
            if scan is not chosen:
                excluded.append(_excluded(scan, chosen))
    key = "scan_id"
    return sorted(rows, key=lambda row: row[key]), sorted(excluded, key=lambda row: row["id"])


def _excluded(scan: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> dict[str, str]:
    row = {"id": scan["scan_id"], "rule": _RULE}
    if chosen is None:
        return row | {
            "code": "FALSE_SPACING",
            "reason": "its header's spacing is known to be false and no copy has the true one",
            "evidence": f"spacing {scan['spacing_mm']} mm",
            "remedy": "Add a source that holds this scan with its true spacing",
        }
    return row | {
        "code": "DUPLICATE",
        "reason": f"equal to {chosen['scan_id']}, which is kept; its labels are carried over",
        "evidence": f"voxel_sha256 {scan['voxel_sha256'][:16]}",
        "remedy": "None needed; `ingest.precedence` decides which copy is kept",
    }


def assign_cases(
    scans: Sequence[Mapping[str, Any]],
    registered: Mapping[str, str],
    *,
    parents: Sequence[str],
    first_case_id: int,
    shards: int,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Give every kept scan its case id and shard.

    A content that the registry knows keeps its id for ever. A new one takes the id that a
    parent release gave it, or else the next free number from ``first_case_id``.

    Parameters
    ----------
    scans
        Rows of `deduplicate`.
    registered
        ``voxel_sha256`` to ``case_id``, as registered so far.
    parents
        Sources whose case names are case ids.
    first_case_id, shards
        Configuration.

    Returns
    -------
    The rows with ``case_id`` (of every member of a kept group) and ``shard`` (of kept scans),
    and what is new in the registry.
    """
    ids = dict(registered)
    names = {
        scan["voxel_sha256"]: scan["source_case"] for scan in scans if scan["source"] in parents
    }
    used = set(ids.values())
    numbers = (n for n in range(first_case_id, 10**8) if f"BDMAP_{n:08d}" not in used)
    new = {}
    for scan in scans:
        content = scan["voxel_sha256"]
        if scan["kept"] and content not in ids:
            name = names.get(content)
            new[content] = name if name and name not in used else f"BDMAP_{next(numbers):08d}"
            used.add(new[content])
            ids[content] = new[content]
    kept_groups = {scan["duplicate_group"] for scan in scans if scan["kept"]}
    rows = [
        {
            **scan,
            "case_id": ids[scan["voxel_sha256"]]
            if scan["duplicate_group"] in kept_groups
            else None,
            "shard": shard_of(scan["scan_id"], shards) if scan["kept"] else None,
        }
        for scan in scans
    ]
    return rows, new


def scans_table(scans: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of `assign_cases` with the columns of the ``scans`` table."""
    return [{key: scan.get(key) for key in SCHEMAS["scans"].names} for scan in scans]
