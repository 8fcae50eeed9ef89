"""The tables as they are released: without local paths, free comments and hospitals' own names."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
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
_WORD = re.compile(r"\w+")
# Texts repeat within a case and its neighbors, and there are millions of them.
_REMEMBERED = 2**16

Clean = Callable[[str], str]


def released_schema(name: str) -> pa.Schema:
    """Return the columns of a released table."""
    left_out = LEFT_OUT.get(name, ())
    return pa.schema([field for field in SCHEMAS[name] if field.name not in left_out])


def write_released(folder: Path, tables: Mapping[str, Rows]) -> None:
    """Write every table of `ORDER` as ``<name>.parquet`` and ``<name>.csv``."""
    for name, order in ORDER.items():
        schema = released_schema(name)
        rows = sorted(tables[name], key=lambda row, order=order: [row[key] for key in order])
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
    no_path, clean = _cleaner({}), _cleaner(names)
    scans = [_public_scan(scan, names, groups, clean) for scan in tables["scans"]]
    result = {
        name: [_cleaned(row, no_path) for row in tables[name] if row["case_id"] in kept]
        for name in ("masks", "tumors", "candidates", "reviews", "splits", "licences")
    }
    result["scans"] = scans
    for name in ("relations", "repairs", "sources", "leakage", "test_scans", "source_overlaps"):
        result[name] = [_cleaned(row, clean) for row in tables[name]]
    result["crosswalk"] = [scan for scan in scans if scan["case_id"] in kept]
    internal = {
        row["source"] for row in (*tables["sources"], *tables["scans"]) if _is_internal(row)
    }
    result["excluded"] = _public_excluded(
        tables["excluded"], tables["scans"], names, internal, clean
    )
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
    scan: Mapping[str, Any], names: Mapping[str, str], groups: Mapping[str, str], clean: Clean
) -> Row:
    if not _is_internal(scan):
        return _cleaned(scan, clean)
    name = names[scan["scan_id"]]
    return _cleaned(scan, clean) | {
        "scan_id": name,
        "source_case": scan["case_id"] or name,
        "patient_key": groups.get(scan["case_id"], name),
    }


def _public_excluded(
    rows: Rows, scans: Rows, names: Mapping[str, str], internal: Iterable[str], clean: Clean
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
            public.append(_cleaned(row, clean))
    return public


def _cleaner(names: Mapping[str, str]) -> Clean:
    """Return what shortens local paths in a text to the file's name, and renames internal scans.

    Parameters
    ----------
    names
        The released scan id of every internal scan, by its own.
    """
    marks = {_longest_word(name) for name in names}

    @lru_cache(_REMEMBERED)
    def clean(text: str) -> str:
        text = LOCAL_PATH.sub(lambda m: re.split(r"[\\/]", m[0].rstrip("\\/"))[-1], text)
        if not marks.isdisjoint(_WORD.findall(text)):
            for name, public in names.items():
                if name in text:
                    text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", public, text)
        return text

    return clean


def _longest_word(name: str) -> str:
    """Return a word that is one, by itself, of every text that holds the name by itself."""
    return max(_WORD.findall(name), key=len, default="")


def _cleaned(row: Mapping[str, Any], clean: Clean) -> Row:
    """Return a row whose texts are clean, but for the columns of paths that are not released."""
    return {
        key: value if key in ("image_path", "label_paths") else _in_texts(value, clean)
        for key, value in row.items()
    }


def _in_texts(value: object, clean: Clean) -> object:
    if isinstance(value, str):
        return clean(value)
    return [_in_texts(part, clean) for part in value] if isinstance(value, list) else value


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


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
    marks = {_longest_word(name) for name in names}
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    private = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")
    for table, rows in tables.items():
        columns = released_schema(table).names
        texts = {text for row in rows for key in columns for text in _texts(row.get(key))}
        # The long pattern is slow, and a name that is left is rare.
        suspects = {t for t in texts if "" in marks or not marks.isdisjoint(_WORD.findall(t))}
        found = {text: match[0] for text in suspects if (match := private.search(text))}
        for row in rows if found else []:
            shown = {key: row.get(key) for key in columns}
            for text in _texts(list(shown.values())):
                if text in found:
                    raise ReleaseError(
                        "PRIVATE_TEXT",
                        f"table {table}",
                        "a name from an internal source is left in a text",
                        evidence=f"{found[text]!r} in {shown.get('id') or shown.get('case_id')}",
                        remedy="Take the name out of the reason or mask note that holds it",
                    )
