"""The tables as they are released: without local paths, free comments and hospitals' own names."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.tables import SCHEMAS, write_csv, write_parquet
from tumoratlas.ingest.sources import INTERNAL
from tumoratlas.release.facts import Row, Rows
from tumoratlas.release.licences.internal import without_internal
from tumoratlas.release.licences.targets import (
    joined_licences,
    mark_released,
    released_tumors,
    withheld_cases,
)

WITHHELD = "withheld: the source is internal"
# Shards are a matter of the machine; comments are free text that may name a patient.
LEFT_OUT = {
    "scans": ("image_path", "label_paths", "shard"),
    "reviews": ("comment",),
}
ORDER = {
    "scans": ("scan_id",),
    "relations": ("scan_a", "scan_b"),
    "repairs": ("rule", "id", "name"),
    "sources": (),  # the pool first
    "leakage": (),
    "test_scans": (),
    "source_overlaps": (),
    "crosswalk": ("case_id", "scan_id"),
    "masks": ("case_id", "organ"),
    "tumors": ("case_id", "organ", "number"),
    "candidates": ("case_id", "organ", "number"),
    "reviews": (),  # as in the ledger
    "splits": ("scheme", "case_id"),
    "excluded": ("rule", "id", "code"),
    "licences": ("case_id", "file"),
}
LOCAL_PATH = re.compile(
    r"file://\S+"
    r"|(?<![\w./~*-])~?/(?:[^\s/,;:'\"<>()]+/)+[^\s/,;:'\"<>()]*"
    r"|(?<!\w)[A-Za-z]:\\[^\s,;'\"]+"
    r"|\\\\[\w.-]+\\[^\s,;'\"]+"
)
# Shorter names occur in any text by chance.
_SHORTEST_NAME = 4


def released_schema(name: str) -> pa.Schema:
    """Return the columns of a released table."""
    left_out = LEFT_OUT.get(name, ())
    return pa.schema([field for field in SCHEMAS[name] if field.name not in left_out])


def write_released(folder: Path, tables: Mapping[str, Rows]) -> None:
    """Write every table of `ORDER` as ``<name>.parquet`` and ``<name>.csv``."""
    for name, order in ORDER.items():
        schema = released_schema(name)
        rows = [{key: row.get(key) for key in schema.names} for row in tables[name]]
        rows.sort(key=lambda row, order=order: [row[key] for key in order])
        write_parquet(folder / f"{name}.parquet", schema, rows)
        write_csv(folder / f"{name}.csv", rows, schema.names)


def released_tables(
    tables: Mapping[str, Rows], cases: Iterable[str], *, target: str
) -> dict[str, list[Row]]:
    """Return the rows that a release of these cases shows, by table.

    ``scans`` and ``excluded`` tell of every scan that was found, the others of released cases.
    Of a source with the licence ``internal`` no name of a case, patient or file is left: its
    scans are called by their case id (or content, where they became no case), its patients by
    their group, and the texts about its exclusions are withheld. A target other than
    ``internal`` has no row about such a source at all, and no tumor whose mask it withholds.

    Parameters
    ----------
    tables
        Rows of the tables ``scans, relations, repairs, masks, tumors, candidates, reviews, splits,
        excluded, licences``.
    cases
        Released case ids.
    target
        One of `tumoratlas.release.facts.TARGETS`.

    Raises
    ------
    ReleaseError
        ``PRIVATE_TEXT``: a name of an internal source is left in some table.
    """
    kept = set(cases)
    licences = joined_licences(tables["licences"], target)
    masks = mark_released(tables["masks"], licences, target)
    tables = {
        **tables,
        "masks": masks,
        "licences": licences,
        "tumors": released_tumors(tables["tumors"], masks, licences, target),
        "excluded": [
            *tables["excluded"],
            *withheld_cases(tables["scans"], kept, licences, target),
        ],
    }
    groups = {row["case_id"]: row["group"] for row in tables["splits"]}
    names = _internal_names(tables["scans"])
    scans = [_public_scan(scan, names, groups) for scan in tables["scans"]]
    result = {
        name: [_without_paths(row) for row in tables[name] if row["case_id"] in kept]
        for name in ("masks", "tumors", "candidates", "reviews", "splits", "licences")
    }
    result["scans"] = scans
    for name in ("relations", "repairs", "sources", "leakage", "test_scans", "source_overlaps"):
        result[name] = [_without_paths(row, names) for row in tables[name]]
    result["crosswalk"] = [scan for scan in scans if scan["case_id"] in kept]
    internal = {
        row["source"] for row in (*tables["sources"], *tables["scans"]) if _is_internal(row)
    }
    result["excluded"] = _public_excluded(tables["excluded"], tables["scans"], names, internal)
    _refuse_private_text(result, tables["scans"])
    return result if target == "internal" else without_internal(result, filter(_is_internal, scans))


def _is_internal(scan: Mapping[str, Any]) -> bool:
    return scan["licence"] == INTERNAL


def _internal_names(scans: Rows) -> dict[str, str]:
    """Return the released scan id of every scan of an internal source, by its own."""
    taken: Counter[str] = Counter()
    names = {}
    for scan in sorted(filter(_is_internal, scans), key=lambda s: (not s["kept"], s["scan_id"])):
        name = f"{scan['source']}_{scan['case_id'] or scan['voxel_sha256'][:16]}"
        taken[name] += 1
        names[scan["scan_id"]] = name if taken[name] == 1 else f"{name}_{taken[name]}"
    return names


def _public_scan(
    scan: Mapping[str, Any], names: Mapping[str, str], groups: Mapping[str, str]
) -> Row:
    if not _is_internal(scan):
        return _without_paths(scan, names)
    name = names[scan["scan_id"]]
    return _without_paths(scan, names) | {
        "scan_id": name,
        "source_case": scan["case_id"] or name,
        "patient_key": groups.get(scan["case_id"], name),
    }


def _public_excluded(
    rows: Rows, scans: Rows, names: Mapping[str, str], internal: Iterable[str]
) -> list[Row]:
    sources = sorted(internal, key=lambda name: (-len(name), name))  # the longest id is meant
    cases = {scan["case_id"] for scan in scans if _is_internal(scan) and scan["kept"]}
    public, unnamed = [], Counter()
    for row in sorted(rows, key=lambda row: (row["rule"], row["id"], row["code"])):
        own = row["id"] in names or row["id"].startswith(
            tuple(f"{source}{mark}" for source in sources for mark in "_/")
        )
        if own or row["id"].split("/")[-1] in cases:
            public.append(dict(row) | {"reason": WITHHELD, "evidence": "", "remedy": ""})
            if own and row["id"] not in names:  # a file that became no scan
                source = next(s for s in sources if row["id"].startswith((f"{s}_", f"{s}/")))
                unnamed[source, row["rule"]] += 1
                public[-1]["id"] = f"{source}_{row['rule']}_{unnamed[source, row['rule']]}"
            else:
                public[-1]["id"] = names.get(row["id"], row["id"])
        else:
            public.append(_without_paths(row, names))
    return public


def _without_paths(row: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Row:
    """Shorten local paths in a row's texts to the file's name, and rename internal scans."""

    def clean(value: object) -> object:
        if isinstance(value, list):
            return [clean(part) for part in value]
        if not isinstance(value, str):
            return value
        value = LOCAL_PATH.sub(lambda m: re.split(r"[\\/]", m[0].rstrip("\\/"))[-1], value)
        for name, public in (names or {}).items():
            if name in value:
                value = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", public, value)
        return value

    return {
        key: value if key in ("image_path", "label_paths") else clean(value)
        for key, value in row.items()
    }


def _refuse_private_text(tables: Mapping[str, Rows], scans: Rows) -> None:
    names = {
        name
        for scan in scans
        if _is_internal(scan)
        for key in ("scan_id", "source_case", "patient_key", "image_path")
        if len(name := scan[key] or "") >= _SHORTEST_NAME and name != scan["case_id"]
    }
    if not names:
        return
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    private = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")
    for table, rows in tables.items():
        columns = released_schema(table).names
        for row in rows:
            shown = {key: row.get(key) for key in columns}
            if found := private.search(str(list(shown.values()))):
                raise ReleaseError(
                    "PRIVATE_TEXT",
                    f"table {table}",
                    "a name from an internal source is left in a text",
                    evidence=f"{found[0]!r} in {shown.get('id') or shown.get('case_id')}",
                    remedy="Take the name out of the reason or mask note that holds it",
                )
