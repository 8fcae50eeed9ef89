"""What became of every source: what was expected, found, read, left out, repaired and kept."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tumoratlas.ingest.sources import INTERNAL, Source

Row = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]

TOTAL = "total"
_COUNTS = (
    *("found", "reserved", "read", "kept", "in_cases", "unlabelled"),
    *("expected_paper", "expected_official", "expected_reserved"),
)
_CODES = ("excluded", "copies_of", "repaired", "warned")


def source_status(
    sources: Iterable[Source],
    listings: Mapping[str, Mapping[str, Rows]],
    scans: Rows,
    excluded: Rows,
    *,
    claimed: int | None = None,
) -> list[Row]:
    """Return one row per source and two rows of totals.

    Parameters
    ----------
    sources
        Every source that is described, in this run or not.
    listings
        ``scans`` and ``excluded`` of `tumoratlas.ingest.listing.list_scans`, by the id of each
        source of this run.
    scans
        Rows of the table ``scans``: every scan that was read.
    excluded
        Rows of the table ``excluded``.
    claimed
        Scans that the paper claims for all its public sources together.

    Returns
    -------
    Rows with

    - ``source, name, kind`` (``public, parent, private, test`` or ``total``), ``licence,
      licence_verified``;
    - ``found``, and of these ``reserved`` as official test images; None: not in this run;
    - ``expected_paper`` (Table 6), ``expected_official`` and ``expected_reserved``, with
      ``difference_paper`` (to all that was found), ``difference_official`` (to what is not
      reserved) and ``difference_reserved``;
    - ``read`` (fingerprinted), ``kept`` (their image became a case), ``in_cases`` (cases that
      a scan of the source is part of), ``unlabelled`` (found without any label file);
    - texts ``<name> <count>; ...``: ``excluded`` by code, ``copies_of`` by the source whose
      image was kept, ``repaired`` and ``warned``;
    - ``missing``: cases that the source's description names and that were not found;
    - ``claimed``, in the row of the public sources only.

    The row ``public`` sums the paper's public sources, and has differences only where all of
    them are in this run; the row ``all`` sums what was found.
    """
    sources = list(sources)
    left_out = excluded_by_source(excluded, sources, scans)
    by_source: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for scan in scans:
        by_source[scan["source"]].append(scan)
    kept_from = {scan["duplicate_group"]: scan["source"] for scan in scans if scan["kept"]}
    rows = []
    for source in sources:
        counts, texts = Counter(), {name: Counter() for name in _CODES}
        own = by_source[source.id]
        listing = listings.get(source.id)
        if listing is not None:
            counts["found"] = len(listing["scans"])
            counts["reserved"] = sum(scan["reserved"] != "" for scan in listing["scans"])
            counts["unlabelled"] = sum(not scan["labels"] for scan in listing["scans"])
        counts["read"] = len(own)
        counts["kept"] = sum(scan["kept"] for scan in own)
        counts["in_cases"] = len({scan["case_id"] for scan in own if scan["case_id"]})
        texts["excluded"].update(row["code"] for row in left_out[source.id])
        for scan in own:
            if not scan["kept"] and scan["duplicate_group"] in kept_from:
                texts["copies_of"][kept_from[scan["duplicate_group"]]] += 1
            texts["repaired"].update({repair.split(":")[0] for repair in scan["repairs"]})
            texts["warned"].update(set(scan["warnings"]))
        for name in ("paper", "official", "reserved"):
            counts[f"expected_{name}"] = getattr(source.expected, name)
        missing = missing_cases(source, listing["scans"]) if listing else []
        rows.append({
            "source": source.id, "name": source.name, "kind": kind_of(source),
            "licence": source.licence, "licence_verified": source.licence_verified,
            **{name: counts[name] for name in _COUNTS}, **texts,
            "missing": "; ".join(missing), "claimed": None,
        })  # fmt: skip
        if listing is None:
            rows[-1] |= dict.fromkeys(("found", "reserved", "read", "kept", "in_cases",
                                       "unlabelled"))  # fmt: skip
    public = [row for row in rows if row["kind"] == "public"]
    totals = [
        _total("public", "the paper's public sources", public) | {"claimed": claimed},
        _total("all", "all sources", rows)
        | dict.fromkeys(f"expected_{name}" for name in ("paper", "official", "reserved")),
    ]
    finished = [_finished(row) for row in [*rows, *totals]]
    if any(row["found"] is None for row in public):
        # The sum of some sources is no count of them all.
        finished[-2] |= dict.fromkeys(name for name in finished[-2] if name.startswith("diff"))
    return finished


def kind_of(source: Source) -> str:
    """Return ``test``, ``parent`` (an earlier release), ``private`` or ``public``."""
    if source.role != "pool":
        return "test"
    if source.keeps_case_id:
        return "parent"
    return "private" if source.licence == INTERNAL else "public"


def missing_cases(source: Source, listed: Rows) -> list[str]:
    """Return the cases that a source's description names and that are not among the listed.

    A description names cases with a false spacing, under suspicion, with a repair or a defect,
    or that are official test cases; it does not list all others. Names of an internal source
    are pseudonyms when listed and cannot be compared.
    """
    if source.licence == INTERNAL:
        return []
    named = {
        *source.false_spacing_cases,
        *(case for suspects in source.suspect_cases.values() for case in suspects.cases),
        *(case for cases in source.reserved_cases.values() for case in cases),
        *(case for repair in source.repairs for case in (*repair.cases, *repair.spacing_mm)),
        *(case for defect in source.defects for case in defect.cases),
    }
    found = {scan["source_case"] for scan in listed}
    return sorted(named - found, key=lambda case: (len(case), case))


def excluded_by_source(
    excluded: Rows, sources: Iterable[Source], scans: Rows
) -> dict[str, list[Mapping[str, Any]]]:
    """Return the ``excluded`` rows of every source, in their order.

    A row is about a scan, a case (it is its kept scan's source's), a part of either
    (``<id>/<structure>``) or a file or pair named ``<source>/...`` or ``<source>_...``.
    """
    source_of = {scan["case_id"]: scan["source"] for scan in scans if scan["kept"]}
    source_of |= {scan["scan_id"]: scan["source"] for scan in scans}
    # Of two ids that begin alike the longer one is meant.
    ids = sorted((source.id for source in sources), key=len, reverse=True)
    found: dict[str, list[Mapping[str, Any]]] = {source_id: [] for source_id in ids}
    for row in excluded:
        parts = row["id"].split("/")
        names = (row["id"], parts[0], parts[-1])
        source = next((source_of[name] for name in names if name in source_of), None)
        if source is None:
            source = next((i for i in ids if row["id"].startswith((f"{i}_", f"{i}/"))), None)
        if source in found:
            found[source].append(row)
    return found


def _total(source: str, name: str, rows: Sequence[Row]) -> Row:
    texts = {key: sum((row[key] for row in rows), Counter()) for key in _CODES}
    counts = {key: sum(row[key] or 0 for row in rows) for key in _COUNTS}
    row = {"source": source, "name": name, "kind": TOTAL, "licence": "", "licence_verified": None}
    return row | counts | texts | {"missing": "", "claimed": None}


def _finished(row: Row) -> Row:
    """Add the differences, and write the counters as texts."""
    found, reserved = row["found"], row["reserved"]
    official = None if found is None else found - reserved
    counted = {"paper": found, "official": official, "reserved": reserved}
    differences = {
        f"difference_{name}": count - row[f"expected_{name}"]
        if None not in (count, row[f"expected_{name}"])
        else None
        for name, count in counted.items()
    }
    return row | differences | {name: _shown(row[name]) for name in _CODES}


def _shown(counter: Counter[str]) -> str:
    return "; ".join(f"{name} {count}" for name, count in sorted(counter.items()) if count)


def claimed_scans(paper: Path) -> int:
    """Return the size of the public pool that the paper claims (Table 6).

    Parameters
    ----------
    paper
        ``resources/paper.csv``.
    """
    table = pd.read_csv(paper)
    chosen = (table["quantity"] == "source_scans") & (table["subject"] == "abdomenatlas11")
    return int(table.loc[chosen, "value"].iloc[0])
