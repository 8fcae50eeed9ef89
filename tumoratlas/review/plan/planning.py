"""What is to be reviewed next, by whom: from the state of the masks to new batches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tumoratlas.review.facts import ReviewFacts
from tumoratlas.review.ledger import Event, standing
from tumoratlas.review.merge.consensus import contested
from tumoratlas.review.plan.assignments import Assignment, Key, open_batches
from tumoratlas.review.plan.batches import plan_batches
from tumoratlas.review.plan.dealing import OpenOrgan
from tumoratlas.review.plan.priority import level_precision, order_worklist
from tumoratlas.review.plan.sampling import sample_full_reads

MISSED = "missed"
_PLACE = re.compile(r"R (-?[\d.]+) A (-?[\d.]+) S (-?[\d.]+) mm")


@dataclass(frozen=True)
class ReviewPlan:
    """What is open and who has it.

    Attributes
    ----------
    lines
        New lines for ``records/batches.jsonl``.
    outstanding
        Batches in which something is open, with the lines to write them out by.
    worklist
        Rows of `order_worklist`: what waits, in the order of what to review next.
    stale
        Issued assignments whose mask has changed: ``batch, case_id, organ``.
    pending
        ``excluded`` rows of what no reader can be found for.
    """

    lines: list[dict[str, Any]]
    outstanding: dict[str, list[dict[str, Any]]]
    worklist: list[dict[str, Any]]
    stale: list[dict[str, str]]
    pending: list[dict[str, str]]


def plan_review(
    facts: ReviewFacts,
    *,
    curves: Mapping[str, pd.DataFrame],
    organs: Sequence[str],
    size_edges_mm: Sequence[float],
    batch_cases: int,
    batches_per_reviewer: int,
    double_read_fraction: float,
    full_read_fraction: float,
    full_read_minimum: int,
    seed: int,
) -> ReviewPlan:
    """Find what is open, order it, and deal it to the reviewers.

    Parameters
    ----------
    facts
        What is known of review.
    curves
        Result of `chosen_curves`.
    organs, size_edges_mm, seed
        Configuration.
    batch_cases, batches_per_reviewer, double_read_fraction
        As in `plan_batches`.
    full_read_fraction, full_read_minimum
        As in `sample_full_reads`.

    Raises
    ------
    ReviewError
        ROSTER_EMPTY, BATCHES_INVALID.
    """
    worklist = ordered_worklist(facts, curves=curves, organs=organs, size_edges_mm=size_edges_mm)
    full = _full_reads(facts, full_read_fraction, full_read_minimum, seed)
    missed = to_draw(facts.events)
    work = _open_organs(worklist, facts.maps, contested(facts.merged), missed, full)
    plan = plan_batches(
        work,
        facts.track(facts.batches),
        facts.reviewers,
        events=facts.events,
        batch_cases=batch_cases,
        batches_per_reviewer=batches_per_reviewer,
        double_read_fraction=double_read_fraction,
        seed=seed,
    )
    after = facts.track([*facts.batches, *plan.lines])
    stale = stale_rows(after)
    return ReviewPlan(plan.lines, open_batches(after), worklist, stale, plan.pending)


def ordered_worklist(
    facts: ReviewFacts,
    *,
    curves: Mapping[str, pd.DataFrame],
    organs: Sequence[str],
    size_edges_mm: Sequence[float],
) -> list[dict[str, Any]]:
    """Return what waits, in the order of what to review next (`order_worklist`)."""
    return order_worklist(
        facts.candidates,
        facts.masks,
        facts.reviews,
        facts.tumors,
        sources=facts.sources,
        organs=organs,
        contests=contested(facts.merged),
        inherited=facts.inherited,
        precision={organ: level_precision(curve) for organ, curve in curves.items()},
        size_edges_mm=size_edges_mm,
    )


def stale_rows(assignments: Iterable[Assignment]) -> list[dict[str, str]]:
    """Return the assignments whose mask has changed: ``batch, case_id, organ``."""
    return [
        {"batch": item.line["batch"], "case_id": item.key[0], "organ": item.key[1]}
        for item in assignments
        if item.state == "stale"
    ]


def chosen_curves(
    curves: Mapping[str, pd.DataFrame], thresholds: Mapping[str, Mapping[str, Any]]
) -> dict[str, pd.DataFrame]:
    """Return each organ's FROC curve from its chosen threshold upwards.

    Parameters
    ----------
    curves
        Result of `froc_curve` per organ.
    thresholds
        Chosen threshold per organ; organs without one are left out.
    """
    return {
        organ: curve[curve["threshold"] >= thresholds[organ]["threshold"]]
        for organ, curve in curves.items()
        if organ in thresholds
    }


def missed_places(events: Iterable[Event]) -> dict[Key, list[tuple[float, float, float]]]:
    """Return where readers saw tumors that no candidate marks and nobody has drawn since.

    Places are (right, anterior, superior) in mm, as the triage page writes them into the comment
    of an organ's ``contest`` with the reason ``missed``; a comment without one gives none.
    """
    found: dict[Key, list[tuple[float, float, float]]] = {}
    for _, event in standing(enumerate(e for e in events if e.role != "source")):
        key = event.case_id, event.organ
        # Only who was shown the places can have dealt with them.
        if event.stage == "adjudicate" and event.decision in ("add", "sign_off"):
            found.pop(key, None)
        if event.decision == "contest" and event.reason == MISSED:
            places = found.setdefault(key, [])
            if place := _PLACE.search(event.comment):
                places.append(tuple(float(number) for number in place.groups()))
    return found


def to_draw(events: Iterable[Event]) -> set[Key]:
    """Return where a missed tumor was reported and nobody has looked at the place since.

    The batch in which somebody looked asks for no other look: its reader may only have said once
    more that the tumor is there, and then a senior decides.
    """
    found: dict[Key, str] = {}
    looked: set[tuple[Key, str]] = set()
    for _, event in standing(enumerate(e for e in events if e.role != "source")):
        key = event.case_id, event.organ
        if event.stage == "adjudicate" and found.get(key, event.batch) != event.batch:
            del found[key]
            looked.add((key, event.batch))
        elif event.decision == "contest" and event.reason == MISSED:
            if (key, event.batch) not in looked:
                found[key] = event.batch
    return set(found)


def _full_reads(facts: ReviewFacts, fraction: float, minimum: int, seed: int) -> dict[Key, int]:
    """Return the organs that are read in full, with their place in the order of reading."""
    sample = sample_full_reads(
        facts.units,
        fraction=fraction,
        minimum_per_stratum=minimum,
        seed=seed,
        already=[
            (line["case_id"], organ)
            for line in facts.batches
            if line["kind"] == "full"
            for organ in line["organs"]
        ],
    )
    return {(row["case_id"], row["organ"]): place for place, row in enumerate(sample)}


def _open_organs(
    worklist: Iterable[Mapping[str, Any]],
    bases: Mapping[Key, str],
    contests: Iterable[Mapping[str, Any]],
    missed: set[Key],
    full: Mapping[Key, int],
) -> list[OpenOrgan]:
    """Return what needs somebody: what waits, and settled organs that lack their full read."""
    disputed = {
        (row["case_id"], row["organ"]) for row in contests if f"({MISSED})" not in row["why"]
    }
    waiting = {(row["case_id"], row["organ"]): row for row in worklist}
    work = [
        OpenOrgan(
            *key,
            bases[key],
            rank=row["rank"],
            expected_per_minute=row["expected_per_minute"],
            is_contested=key in disputed,
            is_missed=key in missed,
            full_read=key in full,
        )
        for key, row in waiting.items()
        if key in bases
    ]
    work += [
        OpenOrgan(*key, bases[key], rank=len(waiting) + place, is_pending=False, full_read=True)
        for key, place in full.items()
        if key not in waiting
    ]
    return work
