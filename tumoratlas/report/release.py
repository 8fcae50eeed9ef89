"""The report of a release: one HTML file that needs nothing else.

The paper's numbers stand beside ours with their place and why they differ, all of them where it
contradicts itself; none is asserted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tumoratlas.core.files import write_text
from tumoratlas.core.structures import tumor_structures
from tumoratlas.core.tables import read_table
from tumoratlas.measure.counts import ALL_SOURCES
from tumoratlas.measure.instances import SIZE_CLASSES
from tumoratlas.release.counts.definitions import definition_line, definition_rows
from tumoratlas.release.counts.files import TABLES, draw_figures, without_none_unassigned
from tumoratlas.release.verify.release import Verification
from tumoratlas.report.figures import froc_figure
from tumoratlas.report.page import render_page
from tumoratlas.report.paper import (
    Paper,
    compare_numbers,
    compare_releases,
    compare_sources,
    our_numbers,
    read_paper,
)

STATES = ("present", "confirmed_empty", "unknown")
_SHOWN_EXCLUDED = 200


def write_report(
    path: Path,
    *,
    release: Path,
    verification: Verification,
    curves: Mapping[str, Path],
    thresholds: Mapping[str, Mapping[str, Any]],
    paper: Iterable[Path],
    template: Path,
) -> None:
    """Write the report of a release; equal inputs give equal bytes.

    Parameters
    ----------
    path
        HTML file to write.
    release
        Folder of the release; all counts come from its tables.
    verification
        Result of `tumoratlas.release.verify.release.verify_release`.
    curves
        CSV file of the FROC curve per organ (`froc_curve`); organs without one are left out.
    thresholds
        Chosen threshold per organ (`ThresholdChoice` as a mapping).
    paper
        CSV files of what the paper says (`tumoratlas.report.paper.read_paper`).
    template
        Jinja template of the page, with ``style.css`` beside it.
    """
    said = read_paper(paper)
    counts = {name: pd.read_csv(release / f"counts/{name}.csv") for name in TABLES}
    scans, excluded, masks, reviews, splits = (
        read_table(release / f"tables/{name}.parquet")
        for name in ("scans", "excluded", "masks", "reviews", "splits")
    )
    definitions = json.loads((release / "definitions.json").read_text(encoding="utf-8"))
    people = reviews[reviews["role"] != "source"]
    by_source = counts["tumors_by_source"]
    composition = compare_sources(said, counts["table6"])
    values = {
        "definitions": definitions,
        "definition_rows": definition_rows(definitions),
        "definition_line": definition_line(definitions),
        "verification": verification,
        "total": by_source.iloc[-1].to_dict(),
        "headline": _headline(counts["headline"]),
        "size_classes": SIZE_CLASSES,
        "sizes": _size_rows(without_none_unassigned(counts["tumors_by_size"])),
        "figures": draw_figures(counts, definitions),
        "froc": [
            _froc(organ, curves[organ], thresholds[organ], said)
            for organ in tumor_structures()
            if organ in curves and organ in thresholds
        ],
        "comparison": compare_numbers(
            said, our_numbers(counts["headline"], counts["table6"], people, thresholds)
        ),
        "composition": composition,
        "coverage": _coverage(composition),
        "table1": compare_releases(said, counts["table1"]),
        "contradictions": said.contradictions.to_dict("records"),
        "sources": _source_rows(scans, excluded, by_source),
        "excluded_codes": _excluded_codes(excluded),
        "excluded": excluded.head(_SHOWN_EXCLUDED).to_dict("records"),
        "excluded_total": len(excluded),
        "states": STATES,
        "masks": _mask_rows(masks),
        "review": _review(people, source_labels=len(reviews) - len(people)),
        "models": _models(release / "models.csv"),
        "splits": _split_rows(splits),
    }
    write_text(path, render_page(template, values))


def release_summary(counts: Iterable[Mapping[str, Any]]) -> str:
    """Return the tumors of every organ and size class as a table of plain text.

    Parameters
    ----------
    counts
        Rows of `tumoratlas.measure.counts.count_tumors` or of ``tumors_by_size.csv``.
    """
    rows = _size_rows(pd.DataFrame(counts))
    heads = ["organ", *SIZE_CLASSES, "all", "early"]
    lines = [f"{heads[0]:<10}" + "".join(f"{head:>8}" for head in heads[1:])]
    for row in rows:
        numbers = [*(row[name] for name in SIZE_CLASSES), row["tumors"], row["early"]]
        lines.append(f"{row['organ']:<10}" + "".join(f"{number:>8}" for number in numbers))
    return "\n".join(lines)


def _size_rows(by_size: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row per organ and ``all``: counts by class, all, early; scans not summed."""
    rows = []
    for organ, group in [*by_size.groupby("organ", sort=False), (ALL_SOURCES, by_size)]:
        row = {"organ": organ}
        row |= {c: int(group.loc[group["size_class"] == c, "tumors"].sum()) for c in SIZE_CLASSES}
        row |= {key: int(group[key].sum()) for key in ("tumors", "early", "early_recist")}
        rows.append(row)
    return rows


def _headline(headline: pd.DataFrame) -> dict[str, int]:
    """Return what is counted once, not by organ, by quantity."""
    total = headline[headline["subject"].isna()]
    return dict(zip(total["quantity"], total["value"], strict=True))


def _coverage(composition: list[dict[str, Any]]) -> dict[str, int]:
    """Return how many components of the paper's Table 6 this run was given, and their scans."""
    # The parent release holds scans of the others.
    parts = [r for r in composition if r["paper_scans"] and r["source"] != "abdomenatlas11"]
    given = [row["found"] for row in parts if row["found"] is not None]
    return {"components": len(parts), "given": len(given), "found": sum(given)}


def _froc(organ: str, path: Path, choice: Mapping[str, Any], published: Paper) -> dict[str, Any]:
    curve = pd.read_csv(path)
    curve = curve[curve["rule"] == choice["rule"]]
    paper = next(iter(published.values("fp_per_scan", organ)), None)
    figure = froc_figure(organ, curve, choice, paper)
    return {**choice, "organ": organ, "figure": figure, "paper": paper}


def _source_rows(
    scans: pd.DataFrame, excluded: pd.DataFrame, by_source: pd.DataFrame
) -> list[dict[str, Any]]:
    kept = scans[scans["kept"].astype(bool)]
    source_of = dict(zip(scans["scan_id"], scans["source"], strict=True))
    source_of |= dict(zip(kept["case_id"], kept["source"], strict=True))
    names = sorted(set(scans["source"]))
    codes: dict[str, Counter[str]] = {name: Counter() for name in names}
    for row in excluded.to_dict("records"):
        parts = (row["id"], *row["id"].split("/"))
        source = next((source_of[part] for part in parts if part in source_of), "")
        if not source:  # a file that became no scan; of two names the longer says more
            own = [n for n in names if row["id"].startswith((f"{n}_", f"{n}/"))]
            source = max(own, key=len, default="")
        if source:
            codes[source][row["code"]] += 1
    counted = by_source.set_index("source")
    nothing = dict.fromkeys(counted.columns, 0)
    return [
        {
            "source": name,
            "licence": scans.loc[scans["source"] == name, "licence"].iloc[0],
            "read": int((scans["source"] == name).sum()),
            "codes": sorted(codes[name].items()),
            **(counted.loc[name].to_dict() if name in counted.index else nothing),
        }
        for name in names
    ]


def _excluded_codes(excluded: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {"rule": rule, "code": code, "count": len(group), "reason": group["reason"].iloc[0]}
        for (rule, code), group in excluded.groupby(["rule", "code"])
    ]


def _mask_rows(masks: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for organ in tumor_structures():
        own = masks[masks["organ"] == organ]
        counts = {state: int((own["state"] == state).sum()) for state in STATES}
        counts["signed"] = int(own["signed_by"].fillna("").ne("").sum())
        counts["pending"] = int(own["pending"].str.len().fillna(0).gt(0).sum())
        rows.append({"organ": organ, **counts})
    return rows


def _review(people: pd.DataFrame, *, source_labels: int) -> dict[str, Any]:
    seconds = people["seconds"].dropna()
    return {
        "events": len(people),
        "source_labels": source_labels,
        "decisions": sorted(Counter(zip(people["role"], people["decision"], strict=True)).items()),
        "reviewers": people["reviewer_id"].nunique(),
        "cases": people["case_id"].nunique(),
        "median_seconds": float(seconds.median()) if len(seconds) else None,
    }


def _models(path: Path) -> list[dict[str, Any]]:
    return pd.read_csv(path, dtype={"model_id": str}).to_dict("records")


def _split_rows(splits: pd.DataFrame) -> list[dict[str, Any]]:
    rows = [
        {"scheme": scheme, "split": split, "cases": len(group), "groups": group["group"].nunique()}
        for (scheme, split), group in splits.groupby(["scheme", "split"])
    ]
    # Shorter names first, so that the sizes of subsets ascend.
    return sorted(rows, key=lambda row: (row["scheme"], len(row["split"]), row["split"]))
