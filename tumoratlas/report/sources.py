"""The report on sources: what each of them was to bring and what became of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.files import write_text
from tumoratlas.images.checks import CHECKS
from tumoratlas.ingest.sources import ANSWERS, INTERNAL, Source
from tumoratlas.ingest.status import TOTAL, excluded_by_source
from tumoratlas.report.page import render_page

Rows = Sequence[Mapping[str, Any]]

_SHOWN_IDS = 20


def write_sources_report(
    path: Path,
    *,
    sources: Sequence[Source],
    status: Rows,
    scans: Rows,
    excluded: Rows,
    overlaps: Rows,
    template: Path,
) -> None:
    """Write the page about all sources; equal inputs give equal bytes.

    Parameters
    ----------
    path
        HTML file to write.
    sources
        Every source that is described; those of this run are shown first.
    status
        Rows of `tumoratlas.ingest.status.source_status`.
    scans, excluded
        Rows of the tables of that name.
    overlaps
        ``source, other, scans, ...``: `tumoratlas.release.leakage.audit.LeakageAudit.overlaps`.
    template
        Jinja template of the page, with ``style.css`` beside it.
    """
    left_out = excluded_by_source(excluded, sources, scans)
    rows = {row["source"]: row for row in status if row["kind"] != TOTAL}
    present = {name for name, row in rows.items() if row["found"] is not None}
    ordered = sorted(sources, key=lambda source: source.id not in present)
    values = {
        "rows": [rows[source.id] for source in ordered],
        "totals": [row for row in status if row["kind"] == TOTAL],
        "present": len(present),
        "sections": [
            {
                "source": source,
                "row": rows[source.id],
                "excluded": _excluded_groups(left_out[source.id], source.licence == INTERNAL),
                "overlaps": _overlap_rows(source, overlaps, present),
                "defects": _defect_rows(source, rows[source.id]),
            }
            for source in ordered
        ],
        "shown_ids": _SHOWN_IDS,
    }
    write_text(path, render_page(template, values))


def _excluded_groups(rows: Rows, is_internal: bool) -> list[dict[str, Any]]:
    """Return the rows of each code: how many, why for example, what to do, first ids.

    An example names its file, and the report is passed on: of an internal source it tells what
    the code means instead.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["code"], []).append(row)
    return [
        {
            "code": code,
            "count": len(group),
            "reason": _meaning(code) if is_internal else group[0]["reason"],
            "remedy": group[0]["remedy"],
            "ids": sorted(row["id"] for row in group)[:_SHOWN_IDS],
        }
        for code, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _meaning(code: str) -> str:
    return CHECKS[code].meaning if code in CHECKS else "told in the table excluded"


def _overlap_rows(source: Source, overlaps: Rows, present: set[str]) -> list[dict[str, Any]]:
    """Return what is documented beside what was found, and what was found besides."""
    found = {row["other"]: row for row in overlaps if row["source"] == source.id}
    rows = [
        {
            "other": overlap.other,
            "documented": overlap.cases,
            "verified": overlap.verified,
            "is_looked_at": overlap.other in present and source.id in present,
            "found": found.get(overlap.other),
        }
        for overlap in source.overlaps
    ]
    told = {row["other"] for row in rows}
    rows += [
        {"other": other, "documented": "", "verified": None, "is_looked_at": True, "found": row}
        for other, row in sorted(found.items())
        if other not in told
    ]
    return rows


def _defect_rows(source: Source, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the known defects with the meaning of their answer and how often it was given."""
    met: Counter[str] = Counter()
    for name in ("excluded", "repaired", "warned"):
        for part in filter(None, row[name].split("; ")):
            code, _, count = part.rpartition(" ")
            # A false spacing is met too where a copy brought the true one.
            met["FALSE_SPACING" if code == "spacing_from_copy" else code] += int(count)
    return [
        {
            "defect": defect,
            "meaning": ANSWERS.get(defect.answer) or CHECKS[defect.answer].meaning,
            "met": met.get(defect.answer),
        }
        for defect in source.defects
    ]
