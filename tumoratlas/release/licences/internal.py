"""A public target leaves no trace of internal scans."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tumoratlas.ingest.sources import INTERNAL
from tumoratlas.release.facts import Row

UNNAMED = "an internal scan"
_SCAN_KEYS = ("scan_id", "scan_a", "scan_b", "id", "test_scan_id", "pool_scan_id")
_SOURCE_KEYS = ("source", "other")
_ALL = "all"  # row of the table `sources` that sums internal scans, too
_HIDDEN = {"source": "", "label_licence": "", "origin": "", "signed_by": ""}


def without_internal(
    tables: Mapping[str, list[Row]], internal: Iterable[Mapping[str, Any]]
) -> dict[str, list[Row]]:
    """Return the tables without any row about an internal scan, and without its name in texts.

    A public case that an internal copy belongs to stays, with what is its own.

    Parameters
    ----------
    tables
        Released rows, in which internal scans have their public names already.
    internal
        Released rows of the internal scans.
    """
    scans = list(internal)
    sources = {scan["source"] for scan in scans}
    sources |= {row["source"] for row in tables["sources"] if row["licence"] == INTERNAL}
    names = {scan["scan_id"] for scan in scans}
    names |= {scan["case_id"] for scan in scans if scan["kept"]}
    pattern = re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})(?!\w)"
    )

    def clean(value: object) -> object:
        if isinstance(value, list):
            return [clean(part) for part in value]
        return pattern.sub(UNNAMED, value) if isinstance(value, str) and names else value

    tables = {
        **tables,
        "masks": [
            row | _HIDDEN if row.get("source") in sources else row for row in tables["masks"]
        ],
        "licences": [_without_sources(row, sources) for row in tables["licences"]],
        "splits": _renamed_groups(tables["splits"], names),
        "sources": [
            row | {"copies_of": _without_copies(row["copies_of"] or "", sources)}
            for row in tables["sources"]
            if row["source"] != _ALL
        ],
        # Where a withdrawn case went tells that it was an internal one.
        "excluded": [
            row
            for row in tables["excluded"]
            if row["code"] != "CASE_WITHDRAWN" or clean(row["reason"]) == row["reason"]
        ],
    }
    return {
        name: [
            {key: clean(value) for key, value in row.items()}
            for row in rows
            # The chain of a public case may lead through internal scans, which have no name.
            if not _is_internal(row, names, sources, () if name == "leakage" else _SCAN_KEYS)
        ]
        for name, rows in tables.items()
    }


def _is_internal(
    row: Mapping[str, Any], names: Collection[str], sources: Collection[str], keys: Iterable[str]
) -> bool:
    ids = [str(row.get(key) or "") for key in keys]
    marks = tuple(f"{source}{mark}" for source in sources for mark in "_/")
    return (
        row.get("licence") == INTERNAL
        or any(row.get(key) in sources for key in _SOURCE_KEYS)
        or row.get("case_id") in names
        or any(part in names for text in ids for part in text.split("/"))
        or any(text.startswith(marks) for text in ids)
    )


def _without_sources(row: Row, sources: Collection[str]) -> Row:
    """Leave internal sources out of what joins masks, or tells of a withheld one."""
    pairs = list(zip(row["sources"], row["licences"], strict=True))
    kept = [pair for pair in pairs if pair[0] not in sources]
    if kept == pairs:
        return row
    marks = tuple(f"{source}," for source in sources)
    return row | {
        "sources": [source for source, _ in kept],
        "licences": [licence for _, licence in kept],
        "reasons": [reason for reason in row["reasons"] if not reason.startswith(marks)],
    }


def _renamed_groups(splits: Iterable[Row], names: Collection[str]) -> list[Row]:
    """Name groups after their first case that is public."""
    rows = list(splits)
    first: dict[str, str] = {}
    for case_id, group in sorted((row["case_id"], row["group"]) for row in rows):
        if case_id not in names:
            first.setdefault(group, case_id)
    return [
        row | {"group": first.get(row["group"], row["group"])} if row["group"] in names else row
        for row in rows
    ]


def _without_copies(copies_of: str, sources: Collection[str]) -> str:
    """Leave ``<source> <count>`` of internal sources out of a list of them."""
    parts = copies_of.split("; ")
    return "; ".join(part for part in parts if part.rpartition(" ")[0] not in sources)
