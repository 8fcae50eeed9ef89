"""The difference of two releases, from nothing but their folders."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tumoratlas.core.structures import tumor_structures
from tumoratlas.core.tables import write_csv
from tumoratlas.release.cases import CT
from tumoratlas.release.diff.cases import CaseDiff
from tumoratlas.release.diff.causes import NOTHING, Causes
from tumoratlas.release.diff.facts import (
    Cause,
    Change,
    CountRow,
    FileGroup,
    ReleaseDiff,
    Side,
    TableRows,
)
from tumoratlas.release.diff.folder import Pair, ReleaseFolder, Row
from tumoratlas.release.diff.text import changelog_text
from tumoratlas.release.diff.tumors import NOT_COUNTED, TumorDiff

__all__ = [
    "DIFF_COLUMNS",
    "ReleaseDiff",
    "changelog_text",
    "diff_releases",
    "diff_rows",
    "write_diff_csv",
]

DIFF_COLUMNS = (
    "kind", "case_id", "organ", "tumor_id", "what", "before", "after", "cause", "events", "signers",
)  # fmt: skip
_EXAMPLES = 5
# Made from the masks of a case: they change with these.
_COMBINED = ("combined_labels.nii.gz", "tumor_labels.nii.gz")
_PARTS = {
    "tables": "table",
    "counts": "count",
    "layouts": "layout",
    "viewer": "viewer",
    "seg": "seg",
}
_KIND_ORDER = ("image", "organ mask", "tumor mask", *_PARTS.values(), "document")
# Changes with which the voxels of a case's volumes change.
_OF_VOXELS = (
    "case_reimaged", "organ_masks_changed", "mask_state", "tumor_added", "tumor_removed",
    "tumor_resized", "tumor_reshaped", "tumors_renumbered", "tumor_changed",
)  # fmt: skip
_REGISTRY = Cause("model", "the registry of models and thresholds")


def diff_releases(old: Path, new: Path) -> ReleaseDiff:
    """Compare two releases; each difference comes with what brought it about.

    Read are ``SHA256SUMS``, ``definitions.json`` and the tables, no volume. The releases may have
    been made by different versions of the tables: what one of them lacks is told in ``notes``
    and not compared.

    Parameters
    ----------
    old, new
        Folders of the releases.

    Raises
    ------
    ReleaseError
        ``NO_RELEASE``: a folder is no release, or a file that is needed cannot be read;
        ``CHANGED``: a file is not the one that was released; ``TABLE_KEY``: a table names a
        tumor, mask or place twice.
    """
    pair = Pair(ReleaseFolder(Path(old)), ReleaseFolder(Path(new)))
    causes = Causes(pair)
    cases = CaseDiff(pair, causes)
    tumors = TumorDiff(pair, causes, cases.of_added, cases.of_withdrawn)
    changes = [
        *_lost_events(causes),
        *_definition_changes(pair),
        *_licence_changes(pair),
        *cases.changes(),
        *tumors.changes(),
    ]
    changes += _unexplained_volumes(pair, changes)
    counts = tumors.counts()
    return ReleaseDiff(
        old=_side(pair.old, [row.before for row in _counted(counts)]),
        new=_side(pair.new, [row.after for row in _counted(counts)]),
        changes=tuple(sorted(changes, key=lambda change: change.key)),
        counts=tuple(counts),
        files=tuple(_file_groups(pair)),
        tables=tuple(_table_rows(pair)),
        events=tuple(causes.events),
        notes=tuple(dict.fromkeys(pair.notes)),
        definitions=pair.new.definitions,
    )


def diff_rows(diff: ReleaseDiff) -> list[Row]:
    """Return every change as a row with the columns `DIFF_COLUMNS`."""
    return [
        {
            **{key: getattr(change, key) for key in DIFF_COLUMNS[:7]},
            "cause": change.cause.text,
            "events": list(change.cause.events),
            "signers": list(change.cause.signers),
        }
        for change in diff.changes
    ]


def write_diff_csv(path: Path, diff: ReleaseDiff) -> None:
    """Write every change as CSV; equal differences give equal bytes."""
    write_csv(Path(path), diff_rows(diff), DIFF_COLUMNS)


def _counted(counts: list[CountRow]) -> Iterator[CountRow]:
    return (row for row in counts if row.size_class != NOT_COUNTED)


def _side(release: ReleaseFolder, tumors: list[int]) -> Side:
    return Side(release.version, release.target, len(release.cases), sum(tumors))


def _lost_events(causes: Causes) -> Iterator[Change]:
    """Yield the organs whose events are gone: the ledger only grows."""
    lost: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in causes.lost:
        lost[row["case_id"], row["organ"]].append(row)
    for key, rows in sorted(lost.items()):
        cause = Cause(
            "unknown",
            "cause unknown: a ledger only grows; look into its backup",
            tuple(row["event_id"] for row in rows),
            tuple(sorted({row["reviewer_id"] for row in rows})),
        )
        yield Change("events_lost", cause, *key, before=f"{len(rows)} events", after="gone")


def _definition_changes(pair: Pair) -> Iterator[Change]:
    old, new = pair.old, pair.new
    if old.target != new.target:
        cause = Cause("licence", "the configuration: release.target")
        yield Change("target_changed", cause, before=old.target, after=new.target)
    before, after = (
        {k: v for k, v in release.definitions.items() if k not in ("version", "target")}
        for release in (old, new)
    )
    cause = Cause("definitions", "the configuration")
    yield from _json_changes("definition_changed", before, after, cause)
    maps = [release.json("class_map.json") for release in (old, new)]
    cause = Cause("code", "the structures of the code")
    yield from _json_changes("class_map_changed", *map(_flat, maps), cause)
    rows = [{row.get("organ", ""): row for row in r.csv("models.csv")} for r in (old, new)]
    for organ in sorted(rows[0].keys() | rows[1].keys()):
        theirs = [side.get(organ, {}) for side in rows]
        keys = sorted(k for k in {*theirs[0], *theirs[1]} if theirs[0].get(k) != theirs[1].get(k))
        if keys:
            told = ["; ".join(f"{k} {side[k]}" for k in keys if side.get(k)) for side in theirs]
            what = ", ".join(keys)
            yield Change(
                "model_changed", _REGISTRY, "", organ, what=what, before=told[0], after=told[1]
            )


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a JSON object of objects by ``key/key``."""
    flat = {}
    for key, part in value.items():
        if isinstance(part, dict):
            flat |= {f"{key}/{name}": leaf for name, leaf in part.items()}
        else:
            flat[key] = part
    return flat


def _json_changes(
    kind: str, before: Mapping[str, Any], after: Mapping[str, Any], cause: Cause
) -> Iterator[Change]:
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            told = [_json_text(values.get(key)) for values in (before, after)]
            yield Change(kind, cause, what=key, before=told[0], after=told[1])


def _json_text(value: object) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _licence_changes(pair: Pair) -> Iterator[Change]:
    """Yield what changed in the licences of files, together for the files of the same sources."""
    key = ("case_id", "file", "kind", "sources", "licences")
    tables = pair.tables("licences", key)
    if tables is None:
        return
    flags = [
        c for c in ("licences", "internal", "labels_only", "full") if c in pair.columns("licences")
    ]
    before, after = ({(r["case_id"], r["file"]): r for r in rows} for rows in tables)
    groups: dict[tuple[str, ...], int] = defaultdict(int)
    reasons: dict[tuple[str, ...], str] = {}
    for place in sorted(before.keys() & after.keys()):
        rows = before[place], after[place]
        changed = [flag for flag in flags if rows[0][flag] != rows[1][flag]]
        if changed:
            told = ["; ".join(f"{flag} {_listed(row[flag])}" for flag in changed) for row in rows]
            group = (rows[1]["kind"], _listed(rows[1]["sources"]), *told)
            groups[group] += 1
            reasons.setdefault(group, _listed(rows[1].get("reasons")))
    for group, count in sorted(groups.items()):
        files = f"{count} {group[0]} file{'s' if count > 1 else ''} of {group[1]}"
        cause = Cause("licence", reasons[group] or "the table of licences")
        yield Change("licence_changed", cause, what=files, before=group[2], after=group[3])


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "no")


def _unexplained_volumes(pair: Pair, changes: list[Change]) -> Iterator[Change]:
    """Yield volumes with other voxels of which no other change tells."""
    told_of = [
        change
        for change in changes
        if change.kind in _OF_VOXELS
        or (change.kind == "mask_changed" and "released" in change.what)
    ]
    of_case = {change.case_id for change in told_of}
    of_organ = {(change.case_id, change.organ) for change in told_of}
    pooled = {
        row["case_id"]
        for rows in pair.tables("tumors", ("origin",)) or ()
        for row in rows
        if row.get("origin") == "pooled"
    }
    of_organ |= {(case_id, "pooled") for case_id in of_case & pooled}
    names = {row.name: organ for organ, row in tumor_structures().items()}
    names |= {f"{organ}_cyst": organ for organ in tumor_structures()}
    for case_id, places in pair.changed_volumes.items():
        for place in places:
            if not (pair.old.holds(place) and pair.new.holds(place)):
                continue  # a state or a licence tells of it, or the tree has other files now
            file = place.split("/", 2)[2]
            name = file.split("/")[-1].removesuffix(".nii.gz")
            organ = name if file.startswith("instances/") else names.get(name, "")
            told = (case_id, organ) in of_organ if organ else case_id in of_case
            if (organ or file in _COMBINED) and file != CT and not told:
                yield Change("volume_changed", NOTHING, case_id, organ, what=file)


def _file_groups(pair: Pair) -> Iterator[FileGroup]:
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for place in sorted(pair.old.sums.keys() | pair.new.sums.keys()):
        before, after = pair.old.sums.get(place), pair.new.sums.get(place)
        if before != after:
            action = "changed" if before and after else "added" if after else "removed"
            groups[_file_kind(place)][action].append(place)
    for kind in sorted(groups, key=_KIND_ORDER.index):
        files = groups[kind]
        changed = files["changed"]
        yield FileGroup(
            kind=kind,
            added=len(files["added"]),
            removed=len(files["removed"]),
            changed=len(changed),
            same_voxels=sum(map(pair.same_voxels, changed)),
            examples=tuple(sorted(sum(files.values(), []))[:_EXAMPLES]),
        )


def _file_kind(place: str) -> str:
    parts = place.split("/")
    if parts[0] == "ct":
        return "image"
    if parts[0] == "label":
        name = parts[-1].removesuffix(".nii.gz")
        of_tumors = {row.name for row in tumor_structures().values()}
        is_organ = parts[2] == "segmentations" and name not in of_tumors
        return "organ mask" if is_organ and not name.endswith("_cyst") else "tumor mask"
    return _PARTS.get(parts[0], "document") if len(parts) > 1 else "document"


def _table_rows(pair: Pair) -> Iterator[TableRows]:
    places = pair.old.sums.keys() | pair.new.sums.keys()
    for place in sorted(p for p in places if p.startswith("tables/") and p.endswith(".parquet")):
        if pair.old.sums.get(place) != pair.new.sums.get(place):
            name = place.removeprefix("tables/").removesuffix(".parquet")
            yield TableRows(name, pair.old.table_length(name), pair.new.table_length(name))
