"""The report on review: models, thresholds, what became of candidates, and what is open."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tumoratlas.core.files import write_text
from tumoratlas.measure.instances import SIZE_CLASSES
from tumoratlas.report.facts import ModelFacts
from tumoratlas.report.figures import yield_figure
from tumoratlas.report.models import (
    loss_figures,
    model_rows,
    threshold_rows,
)
from tumoratlas.report.page import render_page
from tumoratlas.review.bases import Base
from tumoratlas.review.facts import ReviewFacts
from tumoratlas.review.ledger import REJECT_REASONS
from tumoratlas.review.masks import load_mask, voxels_by_label
from tumoratlas.review.merge.consensus import contested
from tumoratlas.review.merge.instances import Voxels
from tumoratlas.review.numbers.agreement import agreement_table
from tumoratlas.review.numbers.efficiency import efficiency_table
from tumoratlas.review.numbers.effort import savings_table, time_table
from tumoratlas.review.numbers.full_reads import empty_table, full_reads, sensitivity_table
from tumoratlas.review.numbers.readings import ALL, KEY, asked_organs, human_events, lineage_table
from tumoratlas.review.plan.assignments import Assignment, Key
from tumoratlas.review.plan.planning import chosen_curves, ordered_worklist, stale_rows
from tumoratlas.review.plan.yields import YieldCurve, yield_curve

Rows = list[dict[str, Any]]

_SHOWN = 20


def write_review_report(
    path: Path,
    *,
    models: ModelFacts,
    review: ReviewFacts,
    organs: Sequence[str],
    size_edges_mm: Sequence[float],
    max_voxels: int,
    bootstrap: int,
    seed: int,
    template: Path,
) -> None:
    """Write the page about models and review; equal inputs give equal bytes.

    Parameters
    ----------
    path
        HTML file to write.
    models, review
        What the page is about.
    organs
        Organs that reviewers are asked about.
    size_edges_mm
        Upper radius of the tiny, small and medium class.
    max_voxels
        Largest mask that is read.
    bootstrap, seed
        Samples and seed of bootstraps and random orders.
    template
        Jinja template of the page, with ``style.css`` beside it.
    """
    lineage = lineage_table(review.merged)
    chance: Any = {"bootstrap": bootstrap, "seed": seed}
    efficiency = efficiency_table(
        review.candidates, review.reviews, review.masks, lineage, review.inherited,
        organs=organs, patients=review.patients, **chance,
    )  # fmt: skip
    times = time_table(review.reviews, organs=organs)
    reads = full_reads(
        review.units, review.reviews, review.masks, lineage, review.tumors,
        patients=review.patients,
    )  # fmt: skip
    sensitivity = sensitivity_table(reads, organs=organs, size_classes=SIZE_CLASSES)
    agreement = agreement_table(
        review.batches,
        review.reviews,
        organs=organs,
        load_mask=lambda _, sha256: load_mask(review.store, sha256, max_voxels=max_voxels),
        load_candidates=_shown_candidates(review, max_voxels),
        patients=review.patients,
        **chance,
    )
    worklist = ordered_worklist(
        review,
        curves=chosen_curves(models.curves, models.thresholds),
        organs=organs,
        size_edges_mm=size_edges_mm,
    )
    assignments = review.track(review.batches)
    values = {
        "shown": _SHOWN,
        "models": model_rows(models),
        "figures": loss_figures(models),
        "thresholds": threshold_rows(models),
        "efficiency": efficiency,
        "reasons": [*REJECT_REASONS, "no_reason"],
        "times": [row for row in times if row["events"]],
        "savings": savings_table(efficiency[-1]["scans_reviewed"], times),
        "full_reads": len(reads.reads),
        "sensitivity": [r for r in sensitivity if r["tumors"] or _is_read(r)],
        "empty": empty_table(reads, review.masks, organs=organs),
        "agreement": [row for row in agreement if row["double_reads"]],
        "contests": contested(review.merged),
        "batches": _batch_rows(assignments),
        "issued": len({line["batch"] for line in review.batches}),
        "stale": stale_rows(assignments),
        "worklist": worklist,
        "pending": review.pending,
        "order": _order(review, lineage, organs, bootstrap, seed),
    }
    write_text(path, render_page(template, values))


def _is_read(row: Mapping[str, Any]) -> bool:
    return row["size_class"] == ALL and row["full_reads"] > 0


def _shown_candidates(
    review: ReviewFacts, max_voxels: int
) -> Callable[[str, str], dict[str, Voxels]]:
    """Return how to read the voxels of all candidates that a case and organ ever showed."""
    by_key: dict[Key, list[Base]] = defaultdict(list)
    for base in review.bases.values():
        by_key[base.case_id, base.organ].append(base)

    def load(case_id: str, organ: str) -> dict[str, Voxels]:
        shown: dict[str, Voxels] = {}
        for base in by_key[case_id, organ]:
            array = load_mask(review.store, base.base_sha256, max_voxels=max_voxels)
            pieces = voxels_by_label(array)
            shown |= {name: pieces[number] for number, name in base.candidates.items()}
        return shown

    return load


def _batch_rows(assignments: Sequence[Assignment]) -> Rows:
    """Return the batches in which somebody has something open, or left without answering."""
    by_batch: dict[str, list[Assignment]] = defaultdict(list)
    for item in assignments:
        by_batch[item.line["batch"]].append(item)
    rows = []
    for batch, own in sorted(by_batch.items()):
        states = Counter(item.state for item in own)
        if states["open"] or states["void"]:
            rows.append(
                {
                    "batch": batch,
                    "kind": own[0].line["kind"],
                    "reviewer_id": own[0].reviewer_id,
                    "cases": len({item.key[0] for item in own}),
                    "cases_open": len({item.key[0] for item in own if item.state == "open"}),
                    **{state: states[state] for state in ("open", "answered", "stale", "void")},
                }
            )
    return rows


def _order(
    review: ReviewFacts, lineage: pd.DataFrame, organs: Sequence[str], samples: int, seed: int
) -> dict[str, Any] | None:
    """Return how soon the order of batches found tumors; None where there is nothing to tell.

    Of the settled organs of ``candidates`` batches, by batch and rank. The time is that of all
    work but full reads, which a sample orders; what only they found does not count.
    """
    issued: dict[Key, int] = {}
    lines = [line for line in review.batches if line["kind"] == "candidates"]
    place = {name: n for n, name in enumerate(dict.fromkeys(line["batch"] for line in lines))}
    for line in sorted(lines, key=lambda line: (place[line["batch"]], line["rank"])):
        for organ in line["organs"]:
            issued.setdefault((line["case_id"], organ), len(issued))
    asked = asked_organs(review.masks)
    asked = asked[asked["is_settled"] & asked["organ"].isin(organs)]
    settled = sorted(set(asked[KEY].itertuples(index=False, name=None)) & set(issued),
                     key=lambda key: issued[key])  # fmt: skip
    events = human_events(review.reviews)
    full = set(events.loc[events["stage"] == "full_read", "event_id"])
    worked = events[events["stage"].isin(("review", "adjudicate"))]
    spent = worked.groupby(KEY)["seconds"].agg(["sum", "count", "size"])
    spent = spent[(spent["count"] == spent["size"]) & (spent["sum"] > 0)]
    seconds = spent["sum"].to_dict()
    found = Counter(
        (row.case_id, row.organ)
        for row in lineage.itertuples()
        if row.kind == "tumor" and row.origin != "source" and not full.issuperset(row.event_ids)
    )
    timed = [key for key in settled if key in seconds]
    if len(timed) < 2 or not any(found[key] for key in timed):
        return None
    best = sorted(timed, key=lambda key: -found[key] / seconds[key])
    ours = yield_curve(timed, found, seconds, random_orders=samples, seed=seed)
    ideal = yield_curve(best, found, seconds, random_orders=1, seed=seed)
    return _order_values(ours, ideal) | {"organs": len(timed), "untimed": len(settled) - len(timed)}


def _order_values(ours: YieldCurve, ideal: YieldCurve) -> dict[str, Any]:
    return {
        "figure": yield_figure(ours.curve, ideal.curve),
        "tumors": int(ours.curve["tumors"].iloc[-1]),
        "minutes": float(ours.curve["minutes"].iloc[-1]),
        "per_minute": float(ours.curve["tumors_per_minute"].iloc[-1]),
        "share": ours.relative_area,
        "random": (ours.random_mean, ours.random_low, ours.random_high),
    }
