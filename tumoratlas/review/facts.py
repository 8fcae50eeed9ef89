"""What is known of review, read from the records, tables and manifests of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tumoratlas.core.files import read_json
from tumoratlas.core.records import read_lines
from tumoratlas.core.runner import read_rows
from tumoratlas.core.tables import SCHEMAS, read_rows_of, read_table
from tumoratlas.review.bases import Base, BaseKey, read_bases
from tumoratlas.review.ledger import Event
from tumoratlas.review.plan.assignments import Assignment, Key, track
from tumoratlas.review.roster import read_roster, roles


@dataclass(frozen=True)
class ReviewFacts:
    """What is known of review.

    Attributes
    ----------
    merged
        Rows of merge_masks.
    candidates, masks, tumors, reviews
        The tables of these names.
    events
        The ledger; the rows of ``reviews``.
    batches
        Lines of ``records/batches.jsonl``.
    bases
        Every candidate map that was ever shown (`read_bases`).
    store
        The mask store.
    reviewers
        Role of each reviewer of the roster.
    pending
        ``excluded`` rows of what no reader can be found for (`ReviewPlan.pending`).
    sources, patients
        Source and patient of each case.
    """

    merged: Sequence[Mapping[str, Any]]
    candidates: pd.DataFrame
    masks: pd.DataFrame
    tumors: pd.DataFrame
    reviews: pd.DataFrame
    events: Sequence[Event]
    batches: Sequence[Mapping[str, Any]]
    bases: Mapping[BaseKey, Base]
    store: Path
    reviewers: Mapping[str, str]
    pending: Sequence[Mapping[str, str]]
    sources: Mapping[str, str]
    patients: Mapping[str, str]

    @property
    def inherited(self) -> set[str]:
        """Candidates that decisions on earlier maps settle."""
        return {c for row in self.merged for own in row["inherited"].values() for c in own}

    @property
    def units(self) -> pd.DataFrame:
        """Case-organs that may be read in full: those of `sample_full_reads`, sorted."""
        proposed = set(self.candidates[["case_id", "organ"]].itertuples(index=False, name=None))
        rows = [(*key, self.sources[key[0]], key in proposed) for key in sorted(self.maps)]
        return pd.DataFrame(rows, columns=["case_id", "organ", "source", "has_candidates"])

    def track(self, issued: Iterable[Mapping[str, Any]]) -> list[Assignment]:
        """Return how assignments stand on the present maps (`assignments.track`)."""
        ids: dict[Key, list[str]] = defaultdict(list)
        columns = ["case_id", "organ", "candidate_id"]
        for case_id, organ, name in self.candidates[columns].itertuples(index=False):
            ids[case_id, organ].append(name)
        return track(issued, self.reviewers, bases=self.maps, candidates=ids, events=self.events)

    @property
    def maps(self) -> dict[Key, str]:
        """Hash of the present candidate map of every case and organ that is asked about."""
        return {(r["case_id"], o): sha256 for r in self.merged for o, sha256 in r["bases"].items()}


def read_review_facts(
    records: Path,
    *,
    tables: Mapping[str, Path],
    cases: Path,
    proposed: Iterable[Path | str],
    merged: Iterable[Path | str],
    plan: Path,
) -> ReviewFacts:
    """Read what is known of review.

    Parameters
    ----------
    records
        Folder of records.
    tables
        Files of the tables ``scans, masks, tumors, reviews``.
    cases
        ``cases.json``.
    proposed, merged
        Manifests of propose_candidates and merge_masks.
    plan
        ``plan_review.json``; nothing is pending where it is absent.
    """
    scans = read_table(tables["scans"])
    candidates = [row for case in read_rows(proposed) for row in case["candidates"]]
    return ReviewFacts(
        merged=read_rows(merged),
        candidates=pd.DataFrame(candidates, columns=SCHEMAS["candidates"].names),
        masks=read_table(tables["masks"]),
        tumors=read_table(tables["tumors"]),
        reviews=read_table(tables["reviews"]),
        events=[Event(**row) for row in read_rows_of(tables["reviews"])],
        batches=read_lines(records / "batches.jsonl"),
        bases=read_bases(records / "bases.jsonl"),
        store=records / "masks",
        reviewers=roles(read_roster(records / "reviewers.csv")),
        pending=read_json(plan)["pending"] if plan.exists() else [],
        sources=dict(scans.loc[scans["kept"].astype(bool), ["case_id", "source"]].to_numpy()),
        patients={case_id: case["group"] for case_id, case in read_json(cases).items()},
    )
