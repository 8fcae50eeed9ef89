"""What a run told of the phantom sources, against what was planted in them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from tests.phantoms import truth
from tumoratlas.core.tables import read_rows_of

Told = Counter[tuple[str, str, str]]  # id, where, code

_ABOUT_SOURCES = {
    "list_scans", "fingerprint_scans", "confirm_pairs", "deduplicate_scans", "assign_cases",
}  # fmt: skip


def scan_id(source: str, case: str, key: bytes) -> str:
    """Return the id under which the pipeline knows a scan of the truth."""
    name = truth.listed_case(source, case, key)
    return f"{source}_{re.sub(r'[^A-Za-z0-9-]', '_', name)}"


def planted(folder: Path, key: bytes) -> Told:
    """Return every defect, copy and leak that was planted."""
    rows = truth.reports(folder)
    return Counter(
        (
            f"{row.source}/{row.source_case}"
            if "/" in row.source_case
            else scan_id(row.source, row.source_case, key),
            row.where,
            row.code,
        )
        for row in rows.itertuples()
    )


def told(tables: Path) -> Told:
    """Return what the tables of a run tell about scans, their masks and test sets."""
    rows = {
        name: read_rows_of(tables / f"{name}.parquet")
        for name in ("excluded", "scans", "repairs", "leakage")
    }
    found: Told = Counter()
    for row in rows["excluded"]:
        if row["rule"] in _ABOUT_SOURCES:
            found[row["id"], "excluded", row["code"]] += 1
        elif row["rule"] == "harmonize_scans":
            found[row["id"].split("/")[0], "excluded_mask", row["code"]] += 1
    for row in rows["scans"]:
        for code in row["warnings"]:
            found[row["scan_id"], "warning", code] += 1
    for row in rows["repairs"]:
        found[row["id"].split("/")[0], "repair", row["name"]] += 1
    kept = {row["case_id"]: row["scan_id"] for row in rows["scans"] if row["kept"]}
    for row in rows["leakage"]:
        if row["test_set"]:
            found[kept[row["case_id"]], "leak", row["test_set"]] += 1
    return found


def differences(folder: Path, tables: Path, key: bytes) -> list[str]:
    """Return one line for everything that was planted and not told, or told and not planted.

    Parameters
    ----------
    folder
        Folder of the phantoms, with ``truth``.
    tables
        ``results/tables`` of the run.
    key
        Key of the pseudonyms.
    """
    wanted, found = planted(folder, key), told(tables)
    lines = [f"not told: {' '.join(one)}" for one in sorted((wanted - found).elements())]
    lines += [f"not planted: {' '.join(one)}" for one in sorted((found - wanted).elements())]
    status = {row["source"]: row["found"] for row in read_rows_of(tables / "sources.parquet")}
    for row in truth.found(folder).itertuples():
        if status.get(row.source) != int(row.scans):
            lines.append(f"{row.source}: {row.scans} scans planted, {status.get(row.source)} found")
    return lines


def summary(folder: Path) -> str:
    """Return in one line what was planted."""
    found, where = truth.found(folder), truth.reports(folder)["where"]
    counts = pd.Series(where).value_counts()
    parts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    return f"{found.scans.astype(int).sum()} scans in {len(found)} sources; told by name: {parts}"
