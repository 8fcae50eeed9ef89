"""What to review next: an ordered worklist, with every ingredient of its order in a column.

The paper leaves the order open. Here the case-organs that promise most tumors per minute come
first, with a bonus for uncertain candidates and for rare organs and sizes, after what is
contested and a few cases of each source that nobody has seen yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from tumoratlas.review.numbers.readings import (
    KEY,
    TUMOR_DECISIONS,
    asked_organs,
    standing_events,
    verdicts,
)

# The paper's 5 seconds (3.2), taken for one candidate.
SECONDS_PER_CANDIDATE = 5.0
# To load a scan, look at the organ and sign: two candidates' worth, so that a case with one
# candidate costs three times that candidate. Measured seconds replace both.
SECONDS_PER_ORGAN = 10.0
# Timed decisions from which the median is steadier than the assumption.
MINIMUM_TIMED = 30
# The calibration (or, without one, max_p itself) weighs as much as this many decisions at a
# level: after ten the reviewers say more than the model.
PRIOR_DECISIONS = 10.0
# Decisions that the precision over all levels weighs when a level's own is estimated.
PRIOR_LEVEL = 5.0
# Worth, in tumors, of a decision that could go either way: enough to order like by like, too
# little to put doubtful candidates before likely ones.
UNCERTAINTY_VALUE = 0.1
# Largest weight of a rare organ, and of a rare size: at most four common tumors together.
LARGEST_RARITY = 2.0
# Case-organs of a source to be seen before its promise is believed: a model may fail on a new
# scanner, and five show a gross failure, at a cost of five cases.
CASES_PER_NEW_SOURCE = 5

TIERS = ("contested", "unseen source", "expected yield")
WORKLIST_COLUMNS = (
    "rank", *KEY, "source", "tier", "score", "candidates", "expected_tumors", "expected_seconds",
    "expected_per_minute", "uncertainty", "organ_weight", "size_weight", "calibrated_by",
)  # fmt: skip


@dataclass(frozen=True)
class ReviewSpeed:
    """Seconds per candidate and per organ of a case, and how many timed decisions gave them."""

    per_candidate_s: float
    per_organ_s: float
    timed_candidates: int
    timed_organs: int


def level_precision(curve: pd.DataFrame) -> dict[float, float]:
    """Return the share of tumors among candidates by their ``max_p``, from out-of-fold counts.

    Candidates whose ``max_p`` is a level are those that the cut there yields and the next cut
    does not. Shares are drawn toward that of all levels (`PRIOR_LEVEL`) and never fall with
    ``max_p`` (isotonic regression).

    Parameters
    ----------
    curve
        Result of `froc_curve` of an organ from its chosen threshold upwards; rule ``any`` is
        used.
    """
    rows = curve[curve["rule"] == "any"].sort_values("threshold")
    candidates = (rows["candidates_per_scan"] * rows["scans"]).round().to_numpy(float)
    true = candidates - rows["false_positives"].to_numpy(float)
    # A cut may split a candidate of the cut below, so that a level can come out negative.
    here = np.maximum(candidates - np.append(candidates[1:], 0), 0)
    hits = np.clip(true - np.append(true[1:], 0), 0, here)
    if not here.sum():
        return {}
    mean = hits.sum() / here.sum()
    shares = (hits + PRIOR_LEVEL * mean) / (here + PRIOR_LEVEL)
    rising = isotonic_regression(shares, weights=here + PRIOR_LEVEL).x
    return dict(zip(rows["threshold"].astype(float), rising.tolist(), strict=True))


def tumor_probability(
    candidates: pd.DataFrame,
    decided: pd.DataFrame,
    precision: Mapping[str, Mapping[float, float]],
) -> pd.DataFrame:
    """Estimate the probability that a candidate is a tumor.

    The start is the organ's `level_precision` at the candidate's ``max_p``, or ``max_p`` where
    the organ has none. Decisions on candidates of the same organ and ``max_p`` move it: the
    start counts as `PRIOR_DECISIONS` decisions.

    Parameters
    ----------
    candidates
        The table ``candidates``.
    decided
        Result of `verdicts`; ``uncertain`` does not count.
    precision
        Organ to the result of `level_precision`.

    Returns
    -------
    ``p`` and ``calibrated_by`` (``out of fold``, ``max_p``, either with `` + decisions``), with
    the index of the candidates.
    """
    settled = decided[decided["decision"] != "uncertain"]
    known = candidates.merge(settled[[*KEY, "candidate_id", "decision"]])
    is_tumor = known["decision"].isin(TUMOR_DECISIONS)
    counts = is_tumor.groupby([known["organ"], known["max_p"]]).agg(["sum", "size"])
    at_level = {key: (int(kept), int(n)) for key, kept, n in counts.itertuples()}
    rows = []
    for organ, max_p in candidates[["organ", "max_p"]].itertuples(index=False):
        levels = precision.get(organ, {})
        start = levels.get(max_p, max_p)
        kept, n = at_level.get((organ, max_p), (0, 0))
        name = "out of fold" if max_p in levels else "max_p"
        p = (kept + PRIOR_DECISIONS * start) / (n + PRIOR_DECISIONS)
        rows.append((p, f"{name} + decisions" if n else name))
    return pd.DataFrame(rows, columns=["p", "calibrated_by"], index=candidates.index)


def review_speed(reviews: pd.DataFrame) -> ReviewSpeed:
    """Return the median seconds of the candidates' screen and of signatures.

    Fewer than `MINIMUM_TIMED` timed events give `SECONDS_PER_CANDIDATE`, `SECONDS_PER_ORGAN`.
    """
    screen = reviews[reviews["stage"].eq("review") & reviews["seconds"].notna()]
    seconds = screen["seconds"].astype(float)
    per_candidate = seconds[screen["decision"].isin(("accept", "reject", "uncertain"))]
    per_organ = seconds[screen["decision"] == "sign_off"]
    return ReviewSpeed(
        _median(per_candidate, SECONDS_PER_CANDIDATE),
        _median(per_organ, SECONDS_PER_ORGAN),
        len(per_candidate),
        len(per_organ),
    )


def order_worklist(
    candidates: pd.DataFrame,
    masks: pd.DataFrame,
    reviews: pd.DataFrame,
    tumors: pd.DataFrame,
    *,
    sources: Mapping[str, str],
    organs: Sequence[str],
    contests: Iterable[Mapping[str, Any]],
    inherited: Collection[str],
    precision: Mapping[str, Mapping[float, float]],
    size_edges_mm: Sequence[float],
) -> list[dict[str, Any]]:
    """Order the case-organs that wait for review.

    Parameters
    ----------
    candidates, masks, reviews, tumors
        The tables of these names. What no source annotated and no signed review settled waits.
    sources
        Source of each case.
    organs
        Organs that reviewers are asked about.
    contests
        The queue of disagreements (`tumoratlas.review.merge.consensus.contested`).
    inherited
        Ids of candidates that decisions on earlier maps settle.
    precision
        As in `tumor_probability`.
    size_edges_mm
        Upper radius of the tiny, small and medium class.

    Returns
    -------
    Rows with `WORKLIST_COLUMNS` in order of ``rank``, 1 onwards; ties by case and organ.
    Contested ones come first, then the best of each source of which fewer than
    `CASES_PER_NEW_SOURCE` case-organs have been read, then all by ``score``:
    ``(sum of p x organ_weight x size_weight + UNCERTAINTY_VALUE x uncertainty) / minutes`` over
    the candidates that are contested or that nobody has decided. ``uncertainty`` is the sum of
    ``4 p (1 - p)``, ``size_weight`` the mean over the candidates by ``p``, and
    ``expected_per_minute`` the plain sum of ``p`` over minutes.
    """
    standing = standing_events(reviews)
    decided = verdicts(standing)
    candidates = candidates.reset_index(drop=True)
    estimate = tumor_probability(candidates, decided, precision)
    speed = review_speed(reviews)
    asked = asked_organs(masks)
    asked = asked[asked["organ"].isin(organs)]
    waiting = list(asked.loc[~asked["is_settled"], KEY].itertuples(index=False, name=None))
    counted = tumors[tumors["lesion_kind"].ne("cyst") & ~tumors["is_fragment"].astype(bool)]
    by_organ = counted["organ"].value_counts()
    organ_weights = rarity_weights([int(by_organ.get(organ, 0)) for organ in organs])
    organ_weight = dict(zip(organs, organ_weights.tolist(), strict=True))
    by_size = np.bincount(_size_index(counted, size_edges_mm), minlength=len(size_edges_mm) + 1)
    size_weights = rarity_weights(by_size.tolist())[_size_index(candidates, size_edges_mm)]
    table = candidates.join(estimate).assign(size_weight=size_weights)
    done = set(decided.loc[decided["decision"] != "uncertain", "candidate_id"]) | set(inherited)
    queue = list(contests)
    done -= {contest["candidate_id"] for contest in queue}
    contested = {(contest["case_id"], contest["organ"]) for contest in queue}
    table = table[~table["candidate_id"].isin(done)]
    places = table.groupby(KEY).indices
    p_of, size_of = table["p"].to_numpy(float), table["size_weight"].to_numpy(float)
    names = table["calibrated_by"].to_numpy(object)
    rows = []
    for case_id, organ in waiting:
        own = places.get((case_id, organ), np.array([], int))
        p, size_weight = p_of[own], size_of[own]
        minutes = (speed.per_organ_s + len(own) * speed.per_candidate_s) / 60
        uncertainty = float((4 * p * (1 - p)).sum())
        value = float(p @ size_weight) * organ_weight[organ] + UNCERTAINTY_VALUE * uncertainty
        rows.append(
            {
                "case_id": case_id,
                "organ": organ,
                "source": sources[case_id],
                "tier": TIERS[0] if (case_id, organ) in contested else TIERS[2],
                "score": value / minutes,
                "candidates": len(own),
                "expected_tumors": float(p.sum()),
                "expected_seconds": minutes * 60,
                "expected_per_minute": float(p.sum()) / minutes,
                "uncertainty": uncertainty,
                "organ_weight": organ_weight[organ],
                "size_weight": float(p @ size_weight / p.sum()) if p.sum() else 1.0,
                "calibrated_by": "; ".join(sorted(set(names[own]))),
            }
        )
    rows.sort(key=lambda row: (-row["score"], row["case_id"], row["organ"]))
    seen = {key for key in standing[KEY].itertuples(index=False, name=None)}
    _promote_unseen(rows, [sources[case_id] for case_id, _ in seen if case_id in sources])
    rows.sort(key=lambda row: TIERS.index(row["tier"]))
    return [{"rank": n, **row} for n, row in enumerate(rows, start=1)]


def rarity_weights(counts: Sequence[int]) -> NDArray[np.float64]:
    """Return a weight for each class: 1 from the mean count upwards, then by the square root.

    Half the mean count gives 1.4, a quarter or less `LARGEST_RARITY`; one more of each keeps
    the start, without any tumor, at 1.

    Examples
    --------
    >>> rarity_weights([19, 1, 10]).round(2).tolist()
    [1.0, 2.0, 1.0]
    """
    count = np.asarray(counts, float) + 1
    return np.clip(np.sqrt(count.mean() / count), 1.0, LARGEST_RARITY)


def _promote_unseen(rows: list[dict[str, Any]], seen: Sequence[str]) -> None:
    """Move the first rows with candidates of hardly seen sources into the second tier."""
    missing = {row["source"]: CASES_PER_NEW_SOURCE - seen.count(row["source"]) for row in rows}
    for row in rows:
        if row["tier"] == TIERS[2] and row["candidates"] and missing[row["source"]] > 0:
            row["tier"] = TIERS[1]
            missing[row["source"]] -= 1


def _size_index(table: pd.DataFrame, size_edges_mm: Sequence[float]) -> NDArray[np.intp]:
    """Return the size class of each row's ``radius_mm``, closed above."""
    return np.searchsorted(size_edges_mm, table["radius_mm"].to_numpy(float), side="left")


def _median(seconds: pd.Series, assumed: float) -> float:
    return float(seconds.median()) if len(seconds) >= MINIMUM_TIMED else assumed
