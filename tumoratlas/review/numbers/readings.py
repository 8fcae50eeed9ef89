"""What reviewers said, read from the table ``reviews``: events that stand, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from tumoratlas.review.ledger import CANDIDATE_DECISIONS, COLUMNS, Event, standing

TUMOR_DECISIONS = ("accept", "edit", "split", "merge")
KEY = ["case_id", "organ"]
# The row of a table that takes all organs or classes together.
ALL = "all"
LINEAGE_COLUMNS = (
    "case_id", "organ", "tumor_id", "kind", "origin", "candidate_ids", "event_ids",
)  # fmt: skip


def human_events(reviews: pd.DataFrame) -> pd.DataFrame:
    """Return the events of people in order of time, then of the ledger.

    An empty ``candidate_id`` becomes ``""``.
    """
    events = reviews[reviews["role"] != "source"].reset_index(drop=True)
    events["candidate_id"] = events["candidate_id"].fillna("")
    events["seconds"] = events["seconds"].astype(float)
    return events.sort_values("time", kind="stable", ignore_index=True)


def standing_events(reviews: pd.DataFrame) -> pd.DataFrame:
    """Return the events of `human_events` that no ``undo`` takes back, without the undos.

    See `tumoratlas.review.ledger.standing`.
    """
    events = human_events(reviews)
    rows = events[list(COLUMNS)].itertuples(index=False, name=None)
    kept = standing((number, Event(*row)) for number, row in enumerate(rows))
    return events.iloc[[number for number, _ in kept]].reset_index(drop=True)


def verdicts(standing: pd.DataFrame) -> pd.DataFrame:
    """Return the decision that counts for each candidate: the latest of the highest role.

    Parameters
    ----------
    standing
        Result of `standing_events`, or some of its rows.

    Returns
    -------
    ``case_id, organ, candidate_id, decision, reason``, sorted by the first three.
    """
    rows = standing[standing["decision"].isin(CANDIDATE_DECISIONS)]
    rows = rows.assign(rank=rows["role"].eq("senior")).sort_values("rank", kind="stable")
    last = rows.drop_duplicates([*KEY, "candidate_id"], keep="last")
    columns = [*KEY, "candidate_id", "decision", "reason"]
    return last[columns].sort_values(columns[:3], ignore_index=True)


def asked_organs(masks: pd.DataFrame) -> pd.DataFrame:
    """Return the case's organs that reviewers are asked about, with ``is_settled``.

    These are the rows of the table ``masks`` that no source annotated; settled is what rests on
    a signed review.
    """
    asked = masks[masks["source"].fillna("") == ""]
    return asked.assign(is_settled=asked["origin"].eq("review")).reset_index(drop=True)


def lineage_table(merged: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per instance of the final masks: `LINEAGE_COLUMNS`.

    Parameters
    ----------
    merged
        The rows of merge_masks, one per case.
    """
    rows = [
        {"case_id": row["case_id"], "organ": organ, **facts}
        for row in merged
        for organ, instances in row["instances"].items()
        for facts in instances.values()
    ]
    table = pd.DataFrame(rows, columns=list(LINEAGE_COLUMNS))
    return table.sort_values([*KEY, "tumor_id"], ignore_index=True)


def by_organ(organs: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """Return the name and the organs of each row of a table: one per organ, then `ALL`."""
    return [*((organ, [organ]) for organ in organs), (ALL, organs)]
