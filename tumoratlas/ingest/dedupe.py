"""Which scans are copies of one another, which of them is kept, and how they lie on it."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tumoratlas.core.tables import SCHEMAS
from tumoratlas.ingest.alignment import Alignment

_RULE = "deduplicate_scans"
# Relations that make two scans one case; `overlap` only makes them one patient, and so does a
# comparison that failed: what may be a copy of a test scan must not be trained on.
COPIES = ("same", "crop", "resample")
UNCONFIRMED = "unconfirmed"
_UNIT_SPACING_MM = [1.0, 1.0, 1.0]

Rows = Sequence[Mapping[str, Any]]


class Groups:
    """Union-find over names; a group is called by its smallest name."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        """Return the name of the group that ``name`` is in."""
        parent = self._parent
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    def join(self, first: str, second: str) -> None:
        """Make one group of two."""
        first, second = self.root(first), self.root(second)
        self._parent[max(first, second)] = min(first, second)


def deduplicate(
    scans: Rows, relations: Rows, precedence: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Group copies and choose the scan to keep in each group.

    Scans of test sets are grouped but never kept. A scan whose header's spacing is known to be
    false, or says 1 x 1 x 1 mm where an equal copy says otherwise, is never kept: where no
    copy has the true spacing the whole group is excluded by name, because every size would be
    wrong.

    Parameters
    ----------
    scans
        Rows of `tumoratlas.ingest.steps.fingerprint_scans`.
    relations
        Confirmed relations: ``a, b, relation, alignment`` (`tumoratlas.ingest.confirming`).
    precedence
        Source ids; the image of the earlier source is kept, of one source the larger image.

    Returns
    -------
    The rows with ``duplicate_group``, ``kept``, ``rank`` (place in the group, the kept scan
    first), ``relation`` and ``alignment`` to the kept scan (JSON, None for itself), sorted by
    scan id, and ``excluded`` rows.
    """
    ordered = sorted(scans, key=lambda scan: scan["scan_id"])
    groups = Groups()
    for row in relations:
        if row["relation"] in COPIES:
            groups.join(row["a"], row["b"])
    members: dict[str, list[Mapping[str, Any]]] = {}
    for scan in ordered:
        members.setdefault(groups.root(scan["scan_id"]), []).append(scan)
    rank = {source: n for n, source in enumerate(precedence)}
    edges = _edges(relations)
    rows, excluded = [], []
    waiting = list(members.values())
    while waiting:
        group = waiting.pop()
        name = f"g{min(scan['voxel_sha256'] for scan in group)[:16]}"
        false = {scan["scan_id"] for scan in group if _has_false_spacing(scan, group)}
        group.sort(
            key=lambda scan: (
                scan["role"] != "pool",
                scan["scan_id"] in false,
                rank.get(scan["source"], len(rank)),
                -_voxels(scan),
                scan["scan_id"],
            )
        )
        chosen = group[0]
        kept = chosen["role"] == "pool" and chosen["scan_id"] not in false
        ways = _ways(chosen["scan_id"], edges)
        if rest := [scan for scan in group if scan["scan_id"] not in ways]:
            waiting.append(rest)
            group = [scan for scan in group if scan["scan_id"] in ways]
            name = f"g{min(scan['voxel_sha256'] for scan in group)[:16]}"
        for n, scan in enumerate(group):
            relation, alignment = ways[scan["scan_id"]]
            row = {**scan, "duplicate_group": name, "kept": kept and n == 0, "rank": n}
            row["relation"] = relation
            row["alignment"] = alignment.to_json() if n else None
            row["repairs"] = list(scan["repairs"])
            if kept and scan["scan_id"] in false:
                row["repairs"].append(_spacing_repair(scan, chosen))
            rows.append(row)
            if not row["kept"]:
                why = _excluded(scan, chosen if kept else None, relation, scan["scan_id"] in false)
                excluded.append(why)
    by_id = "scan_id"
    return sorted(rows, key=lambda row: row[by_id]), sorted(excluded, key=lambda row: row["id"])


def _voxels(scan: Mapping[str, Any]) -> int:
    z, y, x = scan["shape"]
    return z * y * x


def _has_false_spacing(scan: Mapping[str, Any], group: Iterable[Mapping[str, Any]]) -> bool:
    is_lost = scan["spacing_mm"] == _UNIT_SPACING_MM and any(
        other["spacing_mm"] != _UNIT_SPACING_MM and other["voxel_sha256"] == scan["voxel_sha256"]
        for other in group
    )
    return scan["false_spacing"] or is_lost


def _spacing_repair(scan: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    before, after = (_shown_mm(row["spacing_mm"]) for row in (scan, kept))
    return f"spacing_from_copy: {before} -> {after} ({kept['scan_id']})"


def _shown_mm(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in spacing_mm) + " mm"


# Of a scan: the other one, the relation, the way there, and 1 or -1 where that one holds this one
# or is held by it.
_Edge = tuple[str, str, Alignment, int]


def _edges(relations: Rows) -> dict[str, list[_Edge]]:
    edges: dict[str, list[_Edge]] = {}
    for row in relations:
        if row["relation"] in COPIES:
            way = Alignment.from_json(row["alignment"])
            outward = {None: 0, row["a"]: -1, row["b"]: 1}[row.get("outer")]
            edges.setdefault(row["a"], []).append((row["b"], row["relation"], way, outward))
            edges.setdefault(row["b"], []).append(
                (row["a"], row["relation"], way.inverse(), -outward)
            )
    return edges


def _ways(chosen: str, edges: Mapping[str, Sequence[_Edge]]) -> dict[str, tuple[str, Alignment]]:
    """Return relation and alignment to the chosen scan of every copy of its own voxels.

    Of several chains the one with the fewest resampled links counts, then the shortest: each
    resampled link costs accuracy, an exact one nothing.
    """
    costs = {"same": 1, "crop": 100, "resample": 10_000}
    found: dict[str, tuple[str, Alignment]] = {}
    seen: set[tuple[str, int]] = set()
    queue = [(0, chosen, 0, "same", Alignment.identity())]
    while queue:
        cost, scan, outward, relation, to_chosen = heapq.heappop(queue)
        if (scan, outward) in seen:
            continue
        seen.add((scan, outward))
        found.setdefault(scan, (relation, to_chosen))
        for other, link, way, turn in edges.get(scan, ()):
            # Out of a crop and into another, or into one and out again: other voxels.
            if outward * turn >= 0 and (other, outward or turn) not in seen:
                # `way` leads from this scan to the other one.
                joined = way.inverse().then(to_chosen)
                worst = max(relation, link, key=costs.__getitem__)
                heapq.heappush(queue, (cost + costs[link], other, outward or turn, worst, joined))
    return found


_COPY_CODES = {
    "same": ("DUPLICATE", "equal to"),
    "crop": ("CROPPED_COPY", "cut out of the same scan as"),
    "resample": ("RESAMPLED_COPY", "resampled from the same scan as"),
}


def _excluded(
    scan: Mapping[str, Any], kept: Mapping[str, Any] | None, relation: str, is_false: bool
) -> dict[str, str]:
    row = {"id": scan["scan_id"], "rule": _RULE}
    if scan["role"] != "pool":
        return row | {
            "code": "TEST_SET",
            "reason": f"belongs to the test set {scan['reserved']}, which never enters the pool",
            "evidence": f"{_COPY_CODES[relation][1]} {kept['scan_id']}" if kept else "",
            "remedy": "None needed; see the leakage report",
        }
    if kept is None:
        why = "its header's spacing is known to be false" if is_false else "its only copies are"
        return row | {
            "code": "FALSE_SPACING",
            "reason": f"{why} and no copy has the true one",
            "evidence": f"spacing {_shown_mm(scan['spacing_mm'])}",
            "remedy": "Add a source that holds this scan with its true spacing, or list it under "
            "`repairs` of the source",
        }
    code, words = _COPY_CODES[relation]
    return row | {
        "code": code,
        "reason": f"{words} {kept['scan_id']}, which is kept; its labels are carried over",
        "evidence": f"group of voxel_sha256 {scan['voxel_sha256'][:16]}",
        "remedy": "None needed; `ingest.precedence` decides which copy is kept",
    }


def link_patients(scans: Rows, relations: Rows) -> dict[str, tuple[str, str]]:
    """Return the patient group and the test sets that it touches, of every scan.

    Scans belong together through any chain of a shared patient key, a shared link (of an
    internal source's headers), equal copies, crops, resampled copies and overlaps.

    Parameters
    ----------
    scans
        Rows with ``scan_id, patient_key, links, reserved``.
    relations
        Confirmed relations; ``none`` does not count.

    Returns
    -------
    Scan id to (group, a name that is stable only within a run; names of test sets, joined by
    ``"; "``, or empty).
    """
    groups = Groups()
    for scan in scans:
        groups.join(f"scan {scan['scan_id']}", f"patient {scan['patient_key']}")
        for link in scan["links"]:
            groups.join(f"scan {scan['scan_id']}", f"link {link}")
    for row in relations:
        if row["relation"] != "none":
            groups.join(f"scan {row['a']}", f"scan {row['b']}")
    roots = {scan["scan_id"]: groups.root(f"scan {scan['scan_id']}") for scan in scans}
    reserved: dict[str, set[str]] = {}
    for scan in scans:
        if scan["reserved"]:
            reserved.setdefault(roots[scan["scan_id"]], set()).add(scan["reserved"])
    return {
        scan_id: (root, "; ".join(sorted(reserved.get(root, ()))))
        for scan_id, root in roots.items()
    }


def unconfirmed(
    pairs: Iterable[Mapping[str, Any]], excluded: Iterable[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Return a relation for every candidate pair whose comparison failed.

    Parameters
    ----------
    pairs
        Candidates of `tumoratlas.ingest.matching.match_scans`.
    excluded
        Rows of confirm_pairs, by pair id.
    """
    failed = {row["id"]: row for row in excluded}
    keys = ("a", "b", "found_by", "shared")
    return [
        {key: pair[key] for key in keys}
        | {"relation": UNCONFIRMED, "evidence": failed[pair["pair_id"]]["code"]}
        for pair in pairs
        if pair["pair_id"] in failed
    ]


def relations_table(relations: Rows) -> list[dict[str, Any]]:
    """Return relations as rows of the table ``relations``, refuted pairs included."""
    columns = SCHEMAS["relations"].names
    rows = [
        {name: row.get(name) for name in columns} | {"scan_a": row["a"], "scan_b": row["b"]}
        for row in relations
    ]
    return sorted(rows, key=lambda row: (row["scan_a"], row["scan_b"]))
