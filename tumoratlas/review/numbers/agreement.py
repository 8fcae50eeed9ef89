"""How well two readers of one case agree: verdicts, detections and outlines.

A double read is two batches of kind ``candidates`` that gave one case and organ to different
reviewers, neither of whom saw the other's decisions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tumoratlas.candidates.hits import MINIMUM_IOU
from tumoratlas.review.ledger import CANDIDATE_DECISIONS, MASK_DECISIONS
from tumoratlas.review.masks import voxels_by_label
from tumoratlas.review.merge.instances import Voxels
from tumoratlas.review.merge.items import shared
from tumoratlas.review.numbers.intervals import bootstrap_interval, ratio
from tumoratlas.review.numbers.readings import ALL, standing_events

# What a reader says about a candidate.
CALLS = ("tumor", "no tumor", "uncertain")
AGREEMENT_COLUMNS = (
    "organ", "double_reads", "patients", "candidates", "read_once", "both_tumor",
    "both_no_tumor", "both_uncertain", "differ", "agreement", "agreement_low", "agreement_high",
    "kappa", "kappa_low", "kappa_high", "kappa_note", "instances_a", "instances_b", "matched",
    "detection_f1", "detection_f1_low", "detection_f1_high", "outlines", "dsc_mean", "dsc_low",
    "dsc_high",
)  # fmt: skip


@dataclass(frozen=True)
class DoubleRead:
    """One case and organ read by two reviewers; ``a`` is the first by reviewer id.

    Attributes
    ----------
    case_id, organ
        What was read.
    batch_a, batch_b
        The batches.
    """

    case_id: str
    organ: str
    batch_a: str
    batch_b: str


@dataclass(frozen=True)
class _Compared:
    """Counts of one double read: calls (a, b), candidates read once, instances, outlines."""

    read: DoubleRead
    calls: NDArray[np.float64]
    read_once: int
    instances: tuple[int, int]
    matched: int
    dsc: tuple[float, ...]


def double_reads(batches: Iterable[Mapping[str, Any]], reviews: pd.DataFrame) -> list[DoubleRead]:
    """Return the double reads that both reviewers have begun, in a fixed order.

    Parameters
    ----------
    batches
        Lines of ``records/batches.jsonl``: ``batch, kind, reviewer_id, case_id, organs``.
    reviews
        The table ``reviews``.

    Returns
    -------
    With more than two readers, one for each pair of them.
    """
    columns = ["case_id", "organ", "batch"]
    begun = set(standing_events(reviews)[columns].itertuples(index=False, name=None))
    readers: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for line in batches:
        for organ in line["organs"] if line["kind"] == "candidates" else ():
            if (line["case_id"], organ, line["batch"]) in begun:
                readers[line["case_id"], organ].add((line["reviewer_id"], line["batch"]))
    return [
        DoubleRead(*key, a[1], b[1])
        for key, found in sorted(readers.items())
        for a, b in combinations(sorted(found), 2)
        if a[0] != b[0]
    ]


def agreement_table(
    batches: Iterable[Mapping[str, Any]],
    reviews: pd.DataFrame,
    *,
    organs: Sequence[str],
    load_mask: Callable[[str, str], NDArray[np.uint16]],
    load_candidates: Callable[[str, str], Mapping[str, Voxels]],
    patients: Mapping[str, str],
    bootstrap: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the agreement of double reads per organ, and of all together.

    Parameters
    ----------
    batches, reviews
        As in `double_reads`.
    organs
        Organs that reviewers are asked about.
    load_mask
        Returns the stored instance map (z, y, x) of a case and ``mask_sha256``.
    load_candidates
        Returns the raster indices of each candidate of a case and organ, by candidate id.
    patients
        Patient of each case; a case that is not named is a patient of its own.
    bootstrap, seed
        Samples and seed of the bootstrap over patients that gives the intervals.

    Returns
    -------
    Rows with `AGREEMENT_COLUMNS`, None where a number is undefined. Calls are `CALLS`; a
    candidate that only one reader decided is counted in ``read_once``. ``kappa`` is Cohen's
    (1960); ``kappa_note`` says why there is none. ``detection_f1`` compares the readers' tumors
    (kept candidates and what they drew), matched one to one at an intersection over union of at
    least `MINIMUM_IOU`; the Dice coefficient is over the ``outlines`` pairs among them that both
    drew.
    """
    said: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    for event in standing_events(reviews).itertuples(index=False):
        said[event.case_id, event.organ, event.batch].append(event)
    compared = [
        _compare(read, said, load_mask, load_candidates)
        for read in double_reads(batches, reviews)
        if read.organ in organs
    ]
    rows = []
    for organ in (*organs, ALL):
        own = [c for c in compared if organ in (c.read.organ, ALL)]
        rows.append({"organ": organ, **_summary(own, patients, bootstrap, seed)})
    return rows


def cohen_kappa(calls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Cohen's kappa of tables (..., k, k); NaN where chance alone explains all.

    Examples
    --------
    >>> round(float(cohen_kappa(np.array([[20.0, 5.0], [10.0, 15.0]]))), 3)
    0.4
    """
    total = calls.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        agreed = np.trace(calls, axis1=-2, axis2=-1) / total
        chance = (calls.sum(axis=-1) * calls.sum(axis=-2)).sum(axis=-1) / total**2
        # Whole counts below 2 ** 26 give a chance of exactly 1 where all lie in one class.
        return np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)


def match_instances(
    a: Sequence[Voxels], b: Sequence[Voxels], minimum_iou: float = MINIMUM_IOU
) -> list[tuple[int, int, float]]:
    """Match two sets of instances one to one: most pairs, then the largest overlap.

    Parameters
    ----------
    a, b
        Ascending raster indices of each instance.
    minimum_iou
        Smallest intersection over union of a pair.

    Returns
    -------
    Index in ``a``, index in ``b`` and the Dice coefficient of each pair.
    """
    if not a or not b:
        return []
    common = np.array([[shared(x, y) for y in b] for x in a])
    sizes = np.add.outer([len(x) for x in a], [len(y) for y in b])
    iou = common / (sizes - common)
    fits = (iou >= minimum_iou) & (common > 0)
    # What is added makes one more pair worth more than all overlaps together.
    pairs = linear_sum_assignment(np.where(fits, iou + min(fits.shape), 0), maximize=True)
    dice = 2 * common / sizes
    return [(int(i), int(j), float(dice[i, j])) for i, j in zip(*pairs, strict=True) if fits[i, j]]


def _compare(
    read: DoubleRead,
    said: Mapping[tuple[str, str, str], Sequence[Any]],
    load_mask: Callable[[str, str], NDArray[np.uint16]],
    load_candidates: Callable[[str, str], Mapping[str, Voxels]],
) -> _Compared:
    candidates = load_candidates(read.case_id, read.organ)
    calls, tumors, drawn = [], [], []
    for batch in (read.batch_a, read.batch_b):
        events = said[read.case_id, read.organ, batch]
        last = {e.candidate_id: e for e in events if e.decision in CANDIDATE_DECISIONS}
        calls.append({name: _call(event.decision) for name, event in last.items()})
        accepted = sorted(name for name, event in last.items() if event.decision == "accept")
        kept = [candidates[name] for name in accepted if name in candidates]
        added = [event for event in events if event.decision == "add"]
        outlines = [e.mask_sha256 for e in (*last.values(), *added) if e.decision in MASK_DECISIONS]
        masks = [
            piece
            for sha256 in sorted(set(outlines))
            for piece in voxels_by_label(load_mask(read.case_id, sha256)).values()
        ]
        tumors.append([*kept, *masks])
        drawn.append([False] * len(kept) + [True] * len(masks))
    table = np.zeros((len(CALLS), len(CALLS)))
    both = sorted(calls[0].keys() & calls[1].keys())
    for name in both:
        table[calls[0][name], calls[1][name]] += 1
    pairs = match_instances(*tumors)
    return _Compared(
        read=read,
        calls=table,
        read_once=len(calls[0].keys() ^ calls[1].keys()),
        instances=(len(tumors[0]), len(tumors[1])),
        matched=len(pairs),
        dsc=tuple(dice for i, j, dice in pairs if drawn[0][i] and drawn[1][j]),
    )


def _call(decision: str) -> int:
    return CALLS.index({"reject": "no tumor", "uncertain": "uncertain"}.get(decision, "tumor"))


def _summary(
    compared: Sequence[_Compared], patients: Mapping[str, str], samples: int, seed: int
) -> dict[str, Any]:
    size = len(CALLS)
    # Of each double read: the calls, twice the matches and all instances, Dice sum and pairs.
    columns = [
        [*c.calls.ravel(), 2 * c.matched, sum(c.instances), sum(c.dsc), len(c.dsc)]
        for c in compared
    ]
    clusters = [patients.get(c.read.case_id, c.read.case_id) for c in compared]
    table = pd.DataFrame(columns, columns=range(size * size + 4), dtype=float)
    counts = table.groupby(np.array(clusters, str)).sum().to_numpy()
    sums = counts.sum(axis=0, keepdims=True)

    def calls_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values[:, : size * size].reshape(-1, size, size)

    def agreed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        tables = calls_of(values)
        parts = [np.trace(tables, axis1=1, axis2=2), tables.sum(axis=(1, 2))]
        return ratio(np.column_stack(parts))

    statistics = {
        "agreement": agreed,
        "kappa": lambda values: cohen_kappa(calls_of(values)),
        "detection_f1": lambda values: ratio(values[:, -4:-2]),
        "dsc": lambda values: ratio(values[:, -2:]),
    }
    row: dict[str, Any] = {}
    for name, statistic in statistics.items():
        value = float(statistic(sums)[0])
        low, high = bootstrap_interval(counts, statistic, samples=samples, seed=seed)
        row["dsc_mean" if name == "dsc" else name] = None if np.isnan(value) else value
        row[f"{name}_low"], row[f"{name}_high"] = low, high
    calls = calls_of(sums)[0]
    both = {f"both_{call.replace(' ', '_')}": int(calls[n, n]) for n, call in enumerate(CALLS)}
    row |= {
        "double_reads": len(compared),
        "patients": len(counts),
        "candidates": int(calls.sum()),
        "read_once": sum(c.read_once for c in compared),
        **both,
        "differ": int(calls.sum() - np.trace(calls)),
        "kappa_note": _kappa_note(calls, row["kappa"]),
        "instances_a": sum(c.instances[0] for c in compared),
        "instances_b": sum(c.instances[1] for c in compared),
        "matched": sum(c.matched for c in compared),
        "outlines": sum(len(c.dsc) for c in compared),
    }
    return {name: row[name] for name in AGREEMENT_COLUMNS[1:]}


def _kappa_note(calls: NDArray[np.float64], kappa: float | None) -> str:
    if kappa is not None:
        return ""
    if not calls.any():
        return "no candidate was read twice"
    call = CALLS[int(calls.argmax()) // len(CALLS)]
    return f"both readers said {call} of all {int(calls.sum())} candidates"
