"""What became of the candidates, and how good they are (paper, section 3.2).

Counts rest on settled organs: a candidate's fate is what became of it in the signed mask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tumoratlas.review.ledger import REJECT_REASONS
from tumoratlas.review.numbers.intervals import bootstrap_interval, ratio, wilson
from tumoratlas.review.numbers.readings import (
    KEY,
    TUMOR_DECISIONS,
    asked_organs,
    by_organ,
    standing_events,
    verdicts,
)

FATES = (
    "accepted", "edited", "split", "merged", "rejected", "covered", "inherited", "unsigned",
    "undecided",
)  # fmt: skip
# A tumor that was added on an earlier map, and that a candidate of this one shows.
_FATE_OF = dict(zip(TUMOR_DECISIONS, FATES[:4], strict=True)) | {"add": "inherited"}
_REASONS = (*REJECT_REASONS, "no_reason")
EFFICIENCY_COLUMNS = (
    "organ", "scans", "scans_reviewed", "candidates", "candidates_per_scan", *FATES,
    *(f"rejected_{reason}" for reason in _REASONS), "precision", "precision_low",
    "precision_high", "found", "added", "sensitivity", "sensitivity_low", "sensitivity_high",
    "sensitivity_patient_low", "sensitivity_patient_high",
)  # fmt: skip


def candidate_fates(
    candidates: pd.DataFrame,
    reviews: pd.DataFrame,
    masks: pd.DataFrame,
    lineage: pd.DataFrame,
    inherited: Collection[str],
) -> pd.DataFrame:
    """Return what became of each candidate.

    Parameters
    ----------
    candidates, reviews, masks
        The tables of these names.
    lineage
        Result of `lineage_table`.
    inherited
        Ids of candidates that decisions on earlier maps settle.

    Returns
    -------
    ``case_id, organ, candidate_id, fate, reason`` of the candidates that reviewers were asked
    about. In a settled organ the fate is ``accepted``, ``edited``, ``split`` or ``merged`` by
    the outline of its tumor, ``rejected`` (then with one of `REJECT_REASONS` or
    ``no_reason``), or ``covered``: kept, but all its voxels went to other tumors. In an open
    organ it is ``unsigned`` if somebody decided, else ``undecided``. ``inherited`` ones need no
    decision.
    """
    asked = asked_organs(masks)[[*KEY, "is_settled"]]
    table = candidates[[*KEY, "candidate_id"]].merge(asked, on=KEY)
    born = lineage[lineage["candidate_ids"].map(len) > 0].explode("candidate_ids")
    origin = dict(zip(born["candidate_ids"], born["origin"], strict=True))
    table = table.merge(verdicts(standing_events(reviews)), how="left")
    table["fate"] = [
        "inherited"
        if row.candidate_id in inherited
        else _fate(row.is_settled, origin.get(row.candidate_id), row.decision)
        for row in table.itertuples()
    ]
    said = table["reason"].fillna("").replace("", "no_reason")
    said = said.where(said.isin(_REASONS), "other")
    table["reason"] = said.where(table["fate"] == "rejected", "")
    columns = [*KEY, "candidate_id", "fate", "reason"]
    return table[columns].sort_values(columns[:3], ignore_index=True)


def efficiency_table(
    candidates: pd.DataFrame,
    reviews: pd.DataFrame,
    masks: pd.DataFrame,
    lineage: pd.DataFrame,
    inherited: Collection[str],
    *,
    organs: Sequence[str],
    patients: Mapping[str, str] | None,
    bootstrap: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the yield of review per organ, and of all together.

    Parameters
    ----------
    candidates, reviews, masks, lineage, inherited
        As in `candidate_fates`.
    organs
        Organs that reviewers are asked about.
    patients
        Patient of each case, or None where patients are unknown.
    bootstrap, seed
        Samples and seed of the patient bootstrap.

    Returns
    -------
    Rows with `EFFICIENCY_COLUMNS`. ``precision`` is the share of tumors among the candidates
    that were decided in settled organs, ``sensitivity`` the realised one of the candidates:
    ``found / (found + added)``, tumors whose outline came from candidates against those that
    reviewers added. Both have Wilson's interval; None without a denominator.
    """
    fates = candidate_fates(candidates, reviews, masks, lineage, inherited)
    asked = asked_organs(masks)
    asked = asked[asked["organ"].isin(organs)]
    tumors = lineage[lineage["kind"].eq("tumor") & lineage["origin"].ne("source")]
    tumors = tumors.merge(asked.loc[asked["is_settled"], KEY], on=KEY)
    rows = []
    for organ, own in by_organ(organs):
        mine = fates[fates["organ"].isin(own)]
        places = asked[asked["organ"].isin(own)]
        reviewed = places.loc[places["is_settled"], "case_id"].nunique()
        count = mine["fate"].value_counts()
        reasons = mine["reason"].value_counts()
        kept = int(count.reindex(FATES[:4], fill_value=0).sum() + count.get("covered", 0))
        decided = kept + int(count.get("rejected", 0))
        here = tumors[tumors["organ"].isin(own)]
        added = int(here["origin"].eq("add").sum())
        found = len(here) - added
        low, high = wilson(kept, decided)
        sensitivity_low, sensitivity_high = wilson(found, len(here))
        rows.append(
            {
                "organ": organ,
                "scans": places["case_id"].nunique(),
                "scans_reviewed": reviewed,
                "candidates": len(mine),
                "candidates_per_scan": _share(decided, reviewed),
                **{fate: int(count.get(fate, 0)) for fate in FATES},
                **{f"rejected_{reason}": int(reasons.get(reason, 0)) for reason in _REASONS},
                "precision": _share(kept, decided),
                "precision_low": low,
                "precision_high": high,
                "found": found,
                "added": added,
                "sensitivity": _share(found, len(here)),
                "sensitivity_low": sensitivity_low,
                "sensitivity_high": sensitivity_high,
                **_patient_interval(here, patients, bootstrap, seed),
            }
        )
    return rows


def _fate(is_settled: bool, origin: str | None, decision: object) -> str:
    is_decided = isinstance(decision, str) and decision != "uncertain"
    if not is_settled:
        return "unsigned" if is_decided else "undecided"
    if origin:
        return _FATE_OF[origin]
    return "covered" if decision in TUMOR_DECISIONS else "rejected"


def _patient_interval(
    tumors: pd.DataFrame, patients: Mapping[str, str] | None, samples: int, seed: int
) -> dict[str, float | None]:
    low, high = None, None
    if patients is not None and len(tumors):
        owners = [patients.get(case_id, case_id) for case_id in tumors["case_id"]]
        found = tumors["origin"].ne("add").groupby(owners)
        counts = np.column_stack([found.sum(), found.size()]).astype(float)
        low, high = bootstrap_interval(counts, ratio, samples=samples, seed=seed)
    return {"sensitivity_patient_low": low, "sensitivity_patient_high": high}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
