"""The report of a release: one HTML file that needs nothing else.

The paper's figures stand beside ours with their place, all of them where it contradicts
itself; none is asserted.
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
from tumoratlas.measure.counts import ALL_SOURCES, headline_tumors
from tumoratlas.measure.instances import SIZE_CLASSES
from tumoratlas.release.cases import class_map
from tumoratlas.release.tables import ORDER
from tumoratlas.release.verify import Verification
from tumoratlas.report.figures import froc_figure, organ_figure, radius_figure, size_figure
from tumoratlas.report.page import render_page

STATES = ("present", "confirmed_empty", "unknown")
_SHOWN_EXCLUDED = 200


def write_report(
    path: Path,
    *,
    release: Path,
    verification: Verification,
    curves: Mapping[str, Path],
    thresholds: Mapping[str, Mapping[str, Any]],
    paper: Path,
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
        Result of `tumoratlas.release.verify.verify_release`.
    curves
        CSV file of the FROC curve per organ (`froc_curve`); organs without one are left out.
    thresholds
        Chosen threshold per organ (`ThresholdChoice` as a mapping).
    paper
        CSV file ``quantity, subject, label, value, place`` of what the paper says.
    template
        Jinja template of the page.
    """
    tables = {name: read_table(release / f"tables/{name}.parquet") for name in ORDER}
    by_size = pd.read_csv(release / "counts/tumors_by_size.csv")
    by_source = pd.read_csv(release / "counts/tumors_by_source.csv")
    definitions = json.loads((release / "definitions.json").read_text(encoding="utf-8"))
    published = pd.read_csv(paper, keep_default_na=False)
    radii_mm = headline_tumors(tables["tumors"])["radius_mm"].tolist()
    shown = {organ for organ in curves if organ in thresholds}
    values = {
        "definitions": definitions,
        "verification": verification,
        "total": by_source.iloc[-1].to_dict(),
        "organs": list(tumor_structures()),
        "size_classes": SIZE_CLASSES,
        "sizes": _size_rows(by_size),
        "figures": [organ_figure(by_size), radius_figure(radii_mm, definitions["size_edges_mm"])],
        "size_figures": [size_figure(by_size, organ) for organ in tumor_structures()],
        "froc": [
            _froc(organ, curves[organ], thresholds[organ], published)
            for organ in tumor_structures()
            if organ in shown
        ],
        "comparison": _comparison(published, _our_numbers(tables, by_size, by_source, thresholds)),
        "sources": _source_rows(tables, by_source, published),
        "excluded_codes": _excluded_codes(tables["excluded"]),
        "excluded": tables["excluded"].head(_SHOWN_EXCLUDED).to_dict("records"),
        "excluded_total": len(tables["excluded"]),
        "states": STATES,
        "masks": _mask_rows(tables["masks"]),
        "review": _review(tables["reviews"]),
        "models": _models(release / "models.csv"),
        "splits": _split_rows(tables["splits"]),
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


def _our_numbers(
    tables: Mapping[str, pd.DataFrame],
    by_size: pd.DataFrame,
    by_source: pd.DataFrame,
    thresholds: Mapping[str, Mapping[str, Any]],
) -> dict[tuple[str, str], float]:
    """Return our value of every quantity that ``paper.csv`` may name, by quantity and subject."""
    total = by_source.iloc[-1]
    people = _people(tables["reviews"])
    numbers: dict[tuple[str, str], float] = {
        ("scans", ""): total["cases"],
        ("tumors", ""): total["tumors"],
        ("tumor_scans", ""): total["tumor_cases"],
        ("controls", ""): total["controls"],
        ("slices", ""): total["slices"],
        ("early", ""): total["early"],
        ("structures", ""): len(class_map()),
        ("reviewers", ""): people["reviewer_id"].nunique(),
    }
    if people["seconds"].notna().any():
        numbers["seconds", ""] = float(people.groupby("case_id")["seconds"].sum().mean())
    for organ, count in by_size.groupby("organ")["early"].sum().items():
        numbers["early", str(organ)] = count
    for organ, choice in thresholds.items():
        numbers["fp_per_scan", organ] = choice["fp_per_scan"]
    return numbers


def _comparison(
    published: pd.DataFrame, ours: Mapping[tuple[str, str], float]
) -> list[dict[str, Any]]:
    rows = []
    wanted = published[published["quantity"] != "source_scans"]
    for key, group in wanted.groupby(["quantity", "subject"], sort=False):
        said = list(zip(group["value"], group["place"], strict=True))
        rows.append({"label": group["label"].iloc[0], "ours": ours.get(key), "paper": said})
    return rows


def _paper_values(published: pd.DataFrame, quantity: str, subject: str) -> list[float]:
    is_it = (published["quantity"] == quantity) & (published["subject"] == subject)
    return published.loc[is_it, "value"].tolist()


def _froc(
    organ: str, path: Path, choice: Mapping[str, Any], published: pd.DataFrame
) -> dict[str, Any]:
    curve = pd.read_csv(path)
    curve = curve[curve["rule"] == choice["rule"]]
    paper = next(iter(_paper_values(published, "fp_per_scan", organ)), None)
    figure = froc_figure(organ, curve, choice, paper)
    return {**choice, "organ": organ, "figure": figure, "paper": paper}


def _source_rows(
    tables: Mapping[str, pd.DataFrame], by_source: pd.DataFrame, published: pd.DataFrame
) -> list[dict[str, Any]]:
    scans = tables["scans"]
    kept = scans[scans["kept"].astype(bool)]
    source_of = dict(zip(scans["scan_id"], scans["source"], strict=True))
    source_of |= dict(zip(kept["case_id"], kept["source"], strict=True))
    names = sorted(set(scans["source"]))
    codes: dict[str, Counter[str]] = {name: Counter() for name in names}
    for row in tables["excluded"].to_dict("records"):
        source = source_of.get(row["id"]) or source_of.get(row["id"].split("/")[-1])
        source = source or next((n for n in names if row["id"].startswith((f"{n}_", f"{n}/"))), "")
        if source:
            codes[source][row["code"]] += 1
    counted = by_source.set_index("source")
    nothing = dict.fromkeys(counted.columns, 0)
    return [
        {
            "source": name,
            "licence": scans.loc[scans["source"] == name, "licence"].iloc[0],
            "found": int((scans["source"] == name).sum()),
            "kept": int((kept["source"] == name).sum()),
            "codes": sorted(codes[name].items()),
            "paper": _paper_values(published, "source_scans", name),
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


def _people(reviews: pd.DataFrame) -> pd.DataFrame:
    return reviews[reviews["role"] != "source"]


def _review(reviews: pd.DataFrame) -> dict[str, Any]:
    people = _people(reviews)
    seconds = people["seconds"].dropna()
    return {
        "events": len(people),
        "source_labels": len(reviews) - len(people),
        "decisions": sorted(Counter(zip(people["role"], people["decision"], strict=True)).items()),
        "reviewers": people["reviewer_id"].nunique(),
        "cases": people["case_id"].nunique(),
        "median_seconds": float(seconds.median()) if len(seconds) else None,
    }


def _models(path: Path) -> list[dict[str, Any]]:
    return pd.read_csv(path, dtype={"model_id": str}).to_dict("records")


def _split_rows(splits: pd.DataFrame) -> list[dict[str, Any]]:
    grouped = splits.groupby(["scheme", "split"])
    return [
        {"scheme": scheme, "split": split, "cases": len(group), "groups": group["group"].nunique()}
        for (scheme, split), group in grouped
    ]
