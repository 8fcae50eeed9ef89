"""Case ids for ever: an append-only registry maps content to id."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import InputError
from tumoratlas.core.records import append_lines, read_lines
from tumoratlas.core.runner import shard_of
from tumoratlas.core.tables import SCHEMAS

_RULE = "assign_cases"


def read_case_ids(path: Path) -> dict[str, str]:
    """Return ``voxel_sha256`` to ``case_id`` in order of registration.

    Every copy of a case is registered, so that its id outlives a change of the kept scan. An
    absent file is an empty registry.

    Raises
    ------
    InputError
        ``REGISTRY`` where a content has a second id without giving up its first one;
        ``RECORDS`` where a line is damaged.
    """
    ids: dict[str, str] = {}
    for entry in read_lines(path):
        content = entry["voxel_sha256"]
        if ids.get(content) != entry.get("instead_of"):
            raise InputError(
                "REGISTRY",
                path,
                f"names the content {content[:16]} a second time",
                remedy="Restore the file from its backup; ids that were published must not change",
            )
        ids[content] = entry["case_id"]
    return ids


def read_groups(path: Path) -> dict[str, str]:
    """Return the patient group of each case when it was registered, in order of registration."""
    groups: dict[str, str] = {}
    for entry in read_lines(path):
        groups.setdefault(entry["case_id"], entry["group"])
    return groups


def withdrawn_cases(path: Path) -> list[dict[str, str]]:
    """Return an ``excluded`` row for every id that no content has any more."""
    ids = read_case_ids(path)
    given_up = {e["instead_of"]: e["case_id"] for e in read_lines(path) if "instead_of" in e}
    return [
        {
            "id": case_id,
            "rule": _RULE,
            "code": "CASE_WITHDRAWN",
            "reason": f"turned out to be the same scan as {stays}; its id is never used again",
            "evidence": "",
            "remedy": f"Use {stays}; reviews of {case_id} have to be given again",
        }
        for case_id, stays in sorted(given_up.items())
        if case_id not in ids.values()
    ]


def append_case_ids(
    path: Path, new: Mapping[str, str], registered: Mapping[str, str], groups: Mapping[str, str]
) -> None:
    """Append ids to the registry, with the group of each case; one that replaces says so."""
    append_lines(
        path,
        [
            {"voxel_sha256": content, "case_id": case_id, "group": groups[case_id]}
            | ({"instead_of": registered[content]} if content in registered else {})
            for content, case_id in new.items()
        ],
    )


def assign_cases(
    scans: Sequence[Mapping[str, Any]],
    registered: Mapping[str, str],
    *,
    withdrawn: Iterable[str],
    parents: Sequence[str],
    first_case_id: int,
    shards: int,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Give every kept scan its case id and shard.

    A group of copies that the registry knows through any member keeps that id for ever. A new
    one takes the id that a parent release gave a member, or else the next free number from
    ``first_case_id``. Where two registered cases turn out to be one scan, the id that was
    registered first stays and the other is withdrawn, never to be used again; where copies
    turn out not to be, the id stays with the content registered first.

    Parameters
    ----------
    scans
        Rows of `tumoratlas.ingest.dedupe.deduplicate`.
    registered
        Result of `read_case_ids`.
    withdrawn
        Ids of `withdrawn_cases`, which are never given again.
    parents
        Sources whose case names are case ids.
    first_case_id, shards
        Configuration.

    Returns
    -------
    The rows with ``case_id`` (of the pool's members of a kept group) and ``shard`` (of kept
    scans); what is new in the registry.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for scan in scans:
        if scan["role"] == "pool":
            groups.setdefault(scan["duplicate_group"], []).append(scan)
    kept = {name: group for name, group in groups.items() if any(s["kept"] for s in group)}
    order = {content: n for n, content in enumerate(registered)}

    def earliest(group: Sequence[Mapping[str, Any]]) -> int:
        return min(order.get(scan["voxel_sha256"], len(order)) for scan in group)

    used = {*registered.values(), *withdrawn}
    numbers = (n for n in range(first_case_id, 10**8) if f"BDMAP_{n:08d}" not in used)
    ids: dict[str, str] = {}
    taken: set[str] = set()
    new: dict[str, str] = {}
    for name, group in sorted(kept.items(), key=lambda item: _order(earliest(item[1]), item[1])):
        known = sorted(
            {s["voxel_sha256"] for s in group if s["voxel_sha256"] in order}, key=order.__getitem__
        )
        free = [i for i in dict.fromkeys(registered[c] for c in known) if i not in taken]
        named = sorted({s["source_case"] for s in group if s["source"] in parents} - used)
        case_id = (free or named or [f"BDMAP_{next(numbers):08d}"])[0]
        ids[name] = case_id
        taken |= {case_id, *free}
        used.add(case_id)
        for content in sorted({scan["voxel_sha256"] for scan in group}):
            if registered.get(content) != case_id:
                new[content] = case_id
    rows = [
        {
            **scan,
            "case_id": ids.get(scan["duplicate_group"]) if scan["role"] == "pool" else None,
            "shard": shard_of(scan["scan_id"], shards) if scan["kept"] else None,
        }
        for scan in scans
    ]
    return rows, new


def _order(registered: int, group: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """Return the place of a group: by registration, new ones by their kept scan."""
    return registered, next(scan["scan_id"] for scan in group if scan["kept"])


def scans_table(scans: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of `assign_cases` with the columns of the ``scans`` table."""
    return [{key: scan.get(key) for key in SCHEMAS["scans"].names} for scan in scans]
