"""What the pipeline must find and tell about the phantoms: copies, leaks and every defect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd

from tests.phantoms.anatomy import Box, Phantom
from tests.phantoms.cast import Report, Scan
from tests.phantoms.copies import cut_masks
from tumoratlas.core.structures import structures
from tumoratlas.images.grid import Grid


@dataclass(frozen=True)
class View:
    """A scan and what it shows of its patient.

    Attributes
    ----------
    grid
        True RAS grid of the scan.
    box
        Its voxels on the patient's grid, None where it was resampled.
    """

    scan: Scan
    phantom: Phantom
    grid: Grid
    box: Box | None


def write_expectations(
    folder: Path, views: Sequence[View], told: Sequence[tuple[str, str, Report]]
) -> None:
    """Write ``relations.csv``, ``reports.csv``, ``leaks.csv`` and ``found.csv``.

    Parameters
    ----------
    folder
        ``truth``.
    views
        Every scan of every source.
    told
        Source, path below its folder and report of files that are no scans.
    """
    pairs = [(a, b, how) for a, b in combinations(views, 2) if (how := relation(a, b))]
    leaks = _leaks(views, pairs)
    reports = [(source, file, report) for source, file, report in told]
    reports += [(v.scan.source, v.scan.case, report) for v in views for report in _reports(v)]
    reports += [(source, case, Report("leak", name)) for source, case, name in leaks]
    tables = {
        "relations": (
            ("source_a", "source_case_a", "source_b", "source_case_b", "relation"),
            [(a.scan.source, a.scan.case, b.scan.source, b.scan.case, how) for a, b, how in pairs],
        ),
        "reports": (
            ("source", "source_case", "where", "code", "detail"),
            [(s, case, one.where, one.code, one.detail) for s, case, one in reports],
        ),
        "leaks": (("source", "source_case", "test_set"), leaks),
        "found": (
            ("source", "scans"),
            sorted(pd.Series([view.scan.source for view in views]).value_counts().items()),
        ),
    }
    for name, (columns, rows) in tables.items():
        pd.DataFrame(rows, columns=columns).to_csv(folder / f"{name}.csv", index=False)


def relation(a: View, b: View) -> str:
    """Return how two scans are related, or an empty text."""
    if not (a.scan.is_read and b.scan.is_read):
        return ""
    first, second = a.phantom.patient, b.phantom.patient
    if first.anatomy != second.anatomy:
        return ""
    if first.number != second.number:
        return "same_patient"
    if a.box is None or b.box is None:
        return "resample"
    if a.box == b.box:
        return "same"
    if _is_inside(a.box, b.box) or _is_inside(b.box, a.box):
        return "crop"
    apart = any(
        a_end <= b_first or b_end <= a_first
        for a_first, a_end, b_first, b_end in zip(*a.box, *b.box, strict=True)
    )
    return "same_patient" if apart else "overlap"


def _is_inside(inner: Box, outer: Box) -> bool:
    return all(
        first >= low and end <= high for first, end, low, high in zip(*inner, *outer, strict=True)
    )


def _leaks(
    views: Sequence[View], pairs: Sequence[tuple[View, View, str]]
) -> list[tuple[str, str, str]]:
    """Return every kept scan with the test sets of its patient, however related."""
    rows = {
        (view.scan.source, view.scan.case, view.scan.test_set)
        for view in views
        if view.scan.expected == "kept" and view.scan.test_set
    }
    for pair in pairs:
        for kept, other in (pair[:2], pair[1::-1]):
            if kept.scan.expected == "kept" and other.scan.test_set:
                rows.add((kept.scan.source, kept.scan.case, other.scan.test_set))
    return sorted(rows)


def _reports(view: View) -> list[Report]:
    """Return what must be told about a scan, masks that its crop cuts among it."""
    scan = view.scan
    rows = list(scan.reports)
    if scan.expected_code:
        rows.append(Report("excluded", scan.expected_code))
    if scan.expected == "duplicate" and view.box is not None:
        told = {report.detail for report in rows}
        for name in cut_masks(_labels(view), view.box):
            if name not in told:
                rows.append(Report("excluded_mask", "LABEL_CUT", name))
    return rows


def _labels(view: View) -> dict:
    """Return the masks, on the patient's grid, that a cropped copy comes with."""
    names = {
        "abdomenatlas11": [s.name for s in structures().values() if s.index <= 25],
        "pancreas_ct": ["pancreas"],
    }.get(view.scan.source, [])
    return {name: view.phantom.masks[name] for name in names}
