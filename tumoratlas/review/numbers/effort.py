"""How long review takes, and what it saves against drawing by hand (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tumoratlas.review.ledger import MASK_DECISIONS
from tumoratlas.review.numbers.readings import ALL, KEY, by_organ, human_events

# Section 3.2: "full manual annotation typically requires 5 minutes per scan, whereas annotation
# with SMART-Annotator takes only 5 seconds"; "a radiologist works 10 hours per day". Its 49,826
# minutes are those of 10,134 scans, the sum of its Table 6, not of the 10,135 that it writes.
PAPER_SCANS = 10_134
PAPER_MINUTES_BY_HAND = 5
PAPER_SECONDS_PER_SCAN = 5
PAPER_HOURS_PER_DAY = 10

WORK = ("screen", "draw", "full_read", "adjudicate", ALL)
TIME_COLUMNS = (
    "organ", "work", "events", "events_untimed", "readings", "readings_untimed",
    "median_per_candidate_s", "mean_per_candidate_s", "scans", "scans_untimed",
    "median_per_scan_s", "mean_per_scan_s", "total_s",
)  # fmt: skip
SAVING_COLUMNS = (
    "basis", "scans", "minutes_by_hand_per_scan", "seconds_per_scan", "minutes_saved",
    "workdays_saved",
)  # fmt: skip


def time_table(reviews: pd.DataFrame, *, organs: Sequence[str]) -> list[dict[str, Any]]:
    """Return how long review took, per organ and kind of work, and of all together.

    Parameters
    ----------
    reviews
        The table ``reviews``.
    organs
        Organs that reviewers are asked about.

    Returns
    -------
    Rows with `TIME_COLUMNS`. Work is ``screen`` (decisions without a mask), ``draw`` (those
    with one), ``full_read``, ``adjudicate`` and ``all``. A reading is one reviewer's events on
    one candidate; a scan's time is that of all its reviewers. What an undo took back took its
    time, too. Readings and scans with an event that carries no seconds are counted as untimed
    and stay out of median and mean, which are None where nothing is timed. Commands on the
    records are no work of reviewers.
    """
    events = human_events(reviews)
    events = events[events["stage"].isin(("review", "full_read", "adjudicate"))]
    drawn = events["decision"].isin(MASK_DECISIONS).map({True: "draw", False: "screen"})
    events = events.assign(work=drawn.where(events["stage"] == "review", events["stage"]))
    rows = []
    for organ, own in by_organ(organs):
        mine = events[events["organ"].isin(own)]
        for work in WORK:
            part = mine if work == ALL else mine[mine["work"] == work]
            on_candidates = part[part["candidate_id"] != ""]
            per_reading = _times(on_candidates, [*KEY, "candidate_id", "reviewer_id"])
            per_scan = _times(part, ["case_id"])
            rows.append(
                {
                    "organ": organ,
                    "work": work,
                    "events": len(part),
                    "events_untimed": int(part["seconds"].isna().sum()),
                    "readings": len(per_reading),
                    "readings_untimed": int(per_reading.isna().sum()),
                    "median_per_candidate_s": _number(per_reading.median()),
                    "mean_per_candidate_s": _number(per_reading.mean()),
                    "scans": len(per_scan),
                    "scans_untimed": int(per_scan.isna().sum()),
                    "median_per_scan_s": _number(per_scan.median()),
                    "mean_per_scan_s": _number(per_scan.mean()),
                    "total_s": float(part["seconds"].sum()),
                }
            )
    return rows


def minutes_saved(scans: int, seconds_per_scan: float = PAPER_SECONDS_PER_SCAN) -> float:
    """Return the minutes saved by the paper's formula (3.2): scans x (5 - seconds / 60).

    Examples
    --------
    >>> minutes_saved(10_134)
    49825.5
    """
    return scans * (PAPER_MINUTES_BY_HAND * 60 - seconds_per_scan) / 60


def savings_table(scans_reviewed: int, times: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the minutes saved: the paper's, ours with its 5 seconds, ours as measured.

    Parameters
    ----------
    scans_reviewed
        Scans with a settled organ, the row ``all`` of `efficiency_table`.
    times
        Rows of `time_table`.

    Returns
    -------
    Rows with `SAVING_COLUMNS`. ``measured screen`` takes the mean time per scan of the screen,
    the work that the paper's 5 seconds are about; ``measured all`` that of all work, drawing,
    full reads and adjudication too. Both take untimed scans to last as long as the timed ones;
    None where none is timed. The 5 minutes by hand are the paper's in every row.
    """
    mean_s = {row["work"]: row["mean_per_scan_s"] for row in times if row["organ"] == ALL}
    bases = [
        ("paper", PAPER_SCANS, PAPER_SECONDS_PER_SCAN),
        ("paper's seconds", scans_reviewed, PAPER_SECONDS_PER_SCAN),
        ("measured screen", scans_reviewed, mean_s["screen"]),
        ("measured all", scans_reviewed, mean_s[ALL]),
    ]
    rows = []
    for basis, scans, seconds in bases:
        saved = None if seconds is None else minutes_saved(scans, seconds)
        rows.append(
            {
                "basis": basis,
                "scans": scans,
                "minutes_by_hand_per_scan": PAPER_MINUTES_BY_HAND,
                "seconds_per_scan": seconds,
                "minutes_saved": saved,
                "workdays_saved": None if saved is None else saved / (60 * PAPER_HOURS_PER_DAY),
            }
        )
    return rows


def _times(events: pd.DataFrame, unit: list[str]) -> pd.Series:
    """Return the seconds of each unit, NaN where one of its events has none."""
    seconds = events.groupby(unit)["seconds"].agg(["sum", "count", "size"])
    return seconds["sum"].where(seconds["count"] == seconds["size"])


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
