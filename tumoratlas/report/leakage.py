"""The report on leakage: which test scans lie in the pool, and where."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.files import write_text
from tumoratlas.ingest.sources import Source
from tumoratlas.release.leakage.audit import NOT_READ, TEST_ONLY, LeakageAudit
from tumoratlas.release.splits.schemes import RESERVED
from tumoratlas.report.page import render_page

Rows = Sequence[Mapping[str, Any]]

_MOST_CASES = 2000
_MOST_MATCHES = 500
_SHOWN_IDS = 20
_TINTS = 4


def write_leakage_report(
    path: Path,
    *,
    audit: LeakageAudit,
    splits: Rows,
    scans: Rows,
    sources: Sequence[Source],
    template: Path,
) -> None:
    """Write the page about leakage; equal inputs give equal bytes.

    Parameters
    ----------
    path
        HTML file to write.
    audit
        Result of `tumoratlas.release.leakage.audit.audit_leakage`.
    splits
        Rows of the table ``splits``.
    scans
        Rows of the table ``scans``: every scan that was read.
    sources
        Every source that is described: test sets that this run lacks are told.
    template
        Jinja template of the page, with ``style.css`` beside it.
    """
    released = {row["case_id"] for row in audit.cases}
    touched = {row["case_id"] for row in audit.cases if row["test_set"]}
    named = [name for source in sources for name in named_test_sets(source)]
    found = {row["test_set"] for row in audit.tests}
    values = {
        "released": len(released),
        "free": len(released - touched),
        "reserved": len({row["case_id"] for row in splits if row["split"] == RESERVED}),
        "tests": len({row["test_scan_id"] for row in audit.tests}),
        "leaks": audit.leaks,
        "torn": audit.torn,
        "sets": [_set_section(name, audit) for name in sorted(found)],
        "absent": sorted(set(named) - found),
        "matrix": _matrix(audit.overlaps, scans),
        "cases": audit.cases if len(audit.cases) <= _MOST_CASES else [],
        "case_rows": len(audit.cases),
        "most_matches": _MOST_MATCHES,
        "shown_ids": _SHOWN_IDS,
    }
    write_text(path, render_page(template, values))


def named_test_sets(source: Source) -> list[str]:
    """Return the test sets that a source is or holds."""
    if source.role == TEST_ONLY:
        return [source.reserved_for or source.name]
    names = {*source.reserved_cases, *(layout.reserved for layout in source.layouts)}
    return sorted(filter(None, names))


def _set_section(name: str, audit: LeakageAudit) -> dict[str, Any]:
    own = (row for row in audit.tests if row["test_set"] == name)
    rows = sorted(own, key=lambda row: (_natural(row["test_scan_id"]), row["case_id"]))
    matches = [row for row in rows if row["pool_scan_id"]]

    def ids(chosen: Iterable[Mapping[str, Any]]) -> list[str]:
        return list(dict.fromkeys(row["test_scan_id"] for row in chosen))

    return {
        "name": name,
        "found": len(ids(rows)),
        "matched": len(ids(matches)),
        "matches": matches,
        "cases": sum(row["test_set"] == name for row in audit.cases),
        "unread": ids(row for row in rows if row["relation"] == NOT_READ),
        "unmatched": ids(
            row for row in rows if not row["pool_scan_id"] and row["relation"] != NOT_READ
        ),
    }


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names by their numbers: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _matrix(overlaps: Rows, scans: Rows) -> list[dict[str, Any]]:
    """Return a row per source: its scans, and per source how many of them it shares.

    ``tint`` is 0 for nothing to 4 for all of the row's scans.
    """
    read: dict[str, int] = {}
    for scan in scans:
        read[scan["source"]] = read.get(scan["source"], 0) + 1
    cells = {(row["source"], row["other"]): row for row in overlaps}
    nothing = {"scans": 0, "patient": 0}
    return [
        {
            "source": source,
            "read": read[source],
            "cells": [
                cell | {"other": other, "tint": -(-_TINTS * cell["scans"] // read[source])}
                for other in sorted(read)
                for cell in [cells.get((source, other), nothing)]
            ],
        }
        for source in sorted(read)
    ]
