"""What candidates miss: the results of scans that were read in full."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tumoratlas.review.numbers.intervals import clopper_pearson, upper_bound, weighted_share
from tumoratlas.review.numbers.readings import (
    ALL,
    KEY,
    TUMOR_DECISIONS,
    asked_organs,
    standing_events,
    verdicts,
)
from tumoratlas.review.plan.sampling import STRATUM

SENSITIVITY_COLUMNS = (
    "organ", "size_class", "full_reads", "open", "tumors", "found_by_candidates",
    "found_by_reviewers", "found_by_full_read", "sensitivity", "sensitivity_low",
    "sensitivity_high", "review_sensitivity", "review_sensitivity_low",
    "review_sensitivity_high",
)  # fmt: skip
EMPTY_COLUMNS = (
    "organ", "confirmed_empty", "full_reads", "with_tumor", "share", "share_high",
    "expected_wrong", "expected_wrong_high",
)  # fmt: skip
# Reason of a `contest` that reports a tumor which nobody has drawn yet.
MISSED = "missed"
_UNDRAWN = "not drawn yet"
# Who found a tumor first.
_FINDERS = ("candidates", "reviewers", "full_read")


@dataclass(frozen=True)
class FullReads:
    """Results of full reads, input of `sensitivity_table` and `empty_table`.

    Attributes
    ----------
    reads
        One row per case and organ read in full: ``case_id, organ, weight, patient, is_open``
        (no verdict yet), ``was_empty`` (signed without a tumor before the full read),
        ``has_tumor``.
    tumors
        One row per tumor in them: ``case_id, organ, weight, patient, size_class, found_by``
        (``candidates``, ``reviewers``, ``full_read``).
    """

    reads: pd.DataFrame
    tumors: pd.DataFrame


def full_reads(
    units: pd.DataFrame,
    reviews: pd.DataFrame,
    masks: pd.DataFrame,
    lineage: pd.DataFrame,
    tumors: pd.DataFrame,
    *,
    patients: Mapping[str, str],
) -> FullReads:
    """Return what finished full reads found.

    A full read is finished where a ``sign_off``, ``add`` or ``contest`` of stage ``full_read``
    stands. Until a senior has settled the organ it is open, unless a ``contest`` with reason
    ``missed`` reports a tumor. Each weighs the units of its stratum over the full reads there
    that are not open. A tumor added once the full read began is the full read's.

    Parameters
    ----------
    units
        As in `sample_full_reads`.
    reviews, masks, tumors
        The tables of these names; cysts and fragments among the tumors do not count.
    lineage
        Result of `lineage_table`.
    patients
        Patient of each case; a case that is not named is a patient of its own.
    """
    standing = standing_events(reviews)
    places = standing.groupby(KEY).indices
    begun = set(
        standing.loc[standing["stage"] == "full_read", KEY].itertuples(index=False, name=None)
    )
    settled = asked_organs(masks).query("is_settled")
    settled = set(settled[KEY].itertuples(index=False, name=None))
    real = tumors[tumors["lesion_kind"].ne("cyst") & ~tumors["is_fragment"].astype(bool)]
    tumors_of = dict(list(real[real["origin"] != "source"].groupby(KEY)))
    events_of = dict(zip(lineage["tumor_id"], lineage["event_ids"], strict=True))
    reads, found = [], []
    for unit in units.sort_values(KEY).itertuples():
        key = unit.case_id, unit.organ
        if key not in begun:
            continue
        events = standing.iloc[places[key]]
        ends = events["stage"].eq("full_read") & events["decision"].isin(
            ("sign_off", "add", "contest")
        )
        if not ends.any():
            continue
        head = dict(zip(KEY, key, strict=True))
        head["patient"] = patients.get(unit.case_id, unit.case_id)
        head["stratum"] = (unit.source, unit.organ, unit.has_candidates)
        own = []
        if key in settled:
            late = set(events["event_id"].iloc[_start(events) :])
            for tumor in tumors_of[key].itertuples() if key in tumors_of else ():
                by = "candidates"
                if tumor.origin == "add":
                    born = events_of.get(tumor.tumor_id, ())
                    by = "full_read" if late.issuperset(born) else "reviewers"
                own.append({**head, "size_class": tumor.size_class, "found_by": by})
        else:
            reported = ends & events["decision"].eq("contest") & events["reason"].eq(MISSED)
            for _ in range(int(reported.sum())):
                own.append({**head, "size_class": _UNDRAWN, "found_by": "full_read"})
        was_empty = _was_signed_empty(events)
        is_open = key not in settled and not own
        reads.append({**head, "is_open": is_open, "was_empty": was_empty, "has_tumor": bool(own)})
        found += own
    return _weighted(units, reads, found)


def sensitivity_table(
    results: FullReads, *, organs: Sequence[str], size_classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the realised sensitivity by organ and size class, and of all together.

    Returns
    -------
    Rows with `SENSITIVITY_COLUMNS`. ``sensitivity`` is that of the candidates, the weighted
    share of tumors that they found; ``review_sensitivity`` that of candidates and reviewers
    before the full read. The intervals are exact ones at the effective size (Korn and Graubard
    1998), patients drawn as a whole. Tumors that are reported but not drawn have no size and
    count under ``all`` only. ``open`` full reads are in no share.
    """
    rows = []
    for organ in (*organs, ALL):
        reads = _of(results.reads, organ)
        for size in (*size_classes, ALL):
            tumors = _of(results.tumors, organ)
            if size != ALL:
                tumors = tumors[tumors["size_class"] == size]
            by = tumors["found_by"].value_counts()
            row = {
                "organ": organ,
                "size_class": size,
                "full_reads": len(reads),
                "open": int(reads["is_open"].sum()),
                "tumors": len(tumors),
                **{f"found_by_{who}": int(by.get(who, 0)) for who in _FINDERS},
            }
            for name, finders in (("sensitivity", 1), ("review_sensitivity", 2)):
                share, low, high = None, None, None
                if len(tumors):
                    hits = tumors["found_by"].isin(_FINDERS[:finders])
                    share, count = weighted_share(hits, tumors["weight"], tumors["patient"])
                    low, high = clopper_pearson(share, count)
                row |= {name: share, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    return rows


def empty_table(
    results: FullReads, masks: pd.DataFrame, *, organs: Sequence[str]
) -> list[dict[str, Any]]:
    """Return how safe "confirmed empty" is, per organ and of all together.

    Returns
    -------
    Rows with `EMPTY_COLUMNS`. Of the organs that were signed empty and then read in full,
    ``share`` (weighted) held a tumor; ``share_high`` is the exact one-sided 95 % bound at the
    effective size, ``1 - 0.05 ** (1 / n)`` where none of n held one. ``expected_wrong`` applies
    both to the ``confirmed_empty`` organs of the table ``masks`` that rest on review. Without a
    full read the bound is 1: nothing is known.
    """
    asked = asked_organs(masks)
    empty = asked[asked["is_settled"] & asked["state"].eq("confirmed_empty")]
    empty = empty[empty["organ"].isin(organs)]
    rows = []
    for organ in (*organs, ALL):
        reads = _of(results.reads, organ)
        reads = reads[reads["was_empty"] & ~reads["is_open"]]
        count = len(_of(empty, organ))
        share, high = None, 1.0
        if len(reads):
            share, size = weighted_share(reads["has_tumor"], reads["weight"], reads["patient"])
            high = upper_bound(share, size)
        rows.append(
            {
                "organ": organ,
                "confirmed_empty": count,
                "full_reads": len(reads),
                "with_tumor": int(reads["has_tumor"].sum()),
                "share": share,
                "share_high": high,
                "expected_wrong": None if share is None else share * count,
                "expected_wrong_high": high * count,
            }
        )
    return rows


def _of(table: pd.DataFrame, organ: str) -> pd.DataFrame:
    return table if organ == ALL else table[table["organ"] == organ]


def _was_signed_empty(events: pd.DataFrame) -> bool:
    """Return whether the organ was signed without a tumor before its full read began."""
    before = events.iloc[: _start(events)]
    if before.empty or before["decision"].iloc[-1] != "sign_off":
        return False
    holds = verdicts(before)["decision"].isin((*TUMOR_DECISIONS, "uncertain")).any()
    return not holds and not before["decision"].eq("add").any()


def _start(events: pd.DataFrame) -> int:
    """Return the place of the first event of the full read."""
    return int(np.flatnonzero(events["stage"] == "full_read")[0])


def _weighted(
    units: pd.DataFrame, reads: list[dict[str, Any]], found: list[dict[str, Any]]
) -> FullReads:
    sizes = units.groupby(STRATUM).size().to_dict()
    counts: dict[tuple[Any, ...], int] = defaultdict(int)
    for read in reads:
        counts[read["stratum"]] += not read["is_open"]
    for row in (*reads, *found):
        stratum = row.pop("stratum")
        row["weight"] = sizes[stratum] / max(1, counts[stratum])
    head = [*KEY, "weight", "patient"]
    table = pd.DataFrame(reads, columns=[*head, "is_open", "was_empty", "has_tumor"])
    flags = dict.fromkeys(["is_open", "was_empty", "has_tumor"], bool)
    tumors = pd.DataFrame(found, columns=[*head, "size_class", "found_by"])
    return FullReads(table.astype(flags), tumors)
