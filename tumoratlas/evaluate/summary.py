"""Join the scores of all cases of an evaluation set into the numbers of a paper's table.

Every number stands with what it was counted of (`Share`, `Mean`), and no case is left out
silently: unknown organs are counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import pandas as pd

from tumoratlas.core.errors import InputError
from tumoratlas.evaluate.shares import Mean, Share, mean_by_case
from tumoratlas.measure.counts import controls

ALL = "all"


@dataclass(frozen=True)
class Summary:
    """The numbers of one organ, or of all organs together (`ALL`).

    Attributes
    ----------
    organ, tolerance_mm
        What was scored, and the tolerance of ``nsd``.
    unknown
        Organs of cases that were left out because nobody annotated them.
    dsc, nsd
        Means over the cases (and organs) with at least one headline tumor.
    tumor_sensitivity, tumor_sensitivity_iou
        Headline tumors that are hit (`TumorScore`).
    early_sensitivity, early_sensitivity_iou, early_recist_sensitivity
        The same of the early tumors, by either rule of early.
    patient_sensitivity
        Patients with a tumor for whom the model found anything, wherever it lies.
    specificity
        Tumor-free scans in which the model found nothing. Of an organ: the organ is confirmed
        empty; of all: the controls, whose six organs are.
    false_positives, false_positives_iou
        False findings per scan.
    false_positives_tumor_free, false_volume_tumor_free_mm3
        False findings, and falsely predicted volume, per tumor-free scan.
    """

    organ: str
    tolerance_mm: float
    unknown: int
    dsc: Mean
    nsd: Mean
    tumor_sensitivity: Share
    tumor_sensitivity_iou: Share
    early_sensitivity: Share
    early_sensitivity_iou: Share
    early_recist_sensitivity: Share
    patient_sensitivity: Share
    specificity: Share
    false_positives: Mean
    false_positives_iou: Mean
    false_positives_tumor_free: Mean
    false_volume_tumor_free_mm3: Mean


def summarize(
    cases: pd.DataFrame,
    tumors: pd.DataFrame,
    *,
    patients: Mapping[str, str],
    bootstrap: int,
    seed: int,
) -> list[Summary]:
    """Join the scores of an evaluation set.

    Parameters
    ----------
    cases, tumors
        The tables of `CaseScore` and `TumorScore`, rows in any order.
    patients
        Patient of each case; a case that is not named is a patient of its own.
    bootstrap, seed
        Samples and seed of the bootstrap over patients that gives the means' intervals.

    Returns
    -------
    One summary per organ in alphabetic order, then one of `ALL`.

    Raises
    ------
    InputError
        A case has an organ twice, tolerances differ, or a tumor belongs to no scored case.
    """
    keys = ["case_id", "organ"]
    known = cases[cases["state"] != "unknown"]
    counted = tumors.groupby(keys).size()
    wanted = known.set_index(keys)["tumors"]
    wanted = wanted[wanted > 0]
    if (
        cases.duplicated(keys).any()
        or cases["tolerance_mm"].nunique() != 1
        or counted.to_dict() != wanted.to_dict()
    ):
        raise InputError(
            "EVALUATION_ROWS",
            "scores of an evaluation set",
            "name an organ of a case twice, have several tolerances or other tumors than cases",
            remedy="Score every case once, with one tolerance, and give all rows.",
        )
    summaries = []
    for organ in (*sorted(cases["organ"].unique()), ALL):
        own = cases if organ == ALL else cases[cases["organ"] == organ]
        found = tumors if organ == ALL else tumors[tumors["organ"] == organ]
        free = controls(own) if organ == ALL else own.loc[own["state"] == "confirmed_empty"].case_id
        summaries.append(_summary(organ, own, found, set(free), patients, bootstrap, seed))
    return summaries


def summary_table(summaries: list[Summary]) -> pd.DataFrame:
    """Return one row per organ and number.

    Returns
    -------
    ``organ, measure, value, low, high, total, of``: the value, its 95 % interval, and the count
    or sum over what it was counted of; of ``unknown`` and ``tolerance_mm`` the value only.
    """
    rows = []
    for summary in summaries:
        for field in fields(Summary)[1:]:
            value = getattr(summary, field.name)
            row = {"organ": summary.organ, "measure": field.name}
            if isinstance(value, Share | Mean):
                low, high = value.interval
                total = value.hits if isinstance(value, Share) else value.total
                row |= {"value": value.value, "low": low, "high": high, "total": total}
                row["of"] = value.of
            else:
                row["value"] = value
            rows.append(row)
    table = pd.DataFrame(rows, columns=["organ", "measure", "value", "low", "high", "total", "of"])
    types = dict.fromkeys(("value", "low", "high", "total"), "float64")
    return table.astype(types | {"of": "Int64"})


def _summary(
    organ: str,
    cases: pd.DataFrame,
    tumors: pd.DataFrame,
    free: set[str],
    patients: Mapping[str, str],
    bootstrap: int,
    seed: int,
) -> Summary:
    known = cases[cases["state"] != "unknown"]
    with_tumor = known[known["tumors"] > 0]
    tumor_free = known[known["case_id"].isin(free)]
    early = tumors[tumors["is_early"].astype(bool)]
    early_recist = tumors[tumors["is_early_recist"].astype(bool)]
    patient = {name: patients.get(name, name) for name in known["case_id"]}
    ill = set(with_tumor["case_id"].map(patient))
    warned = set(known.loc[known["findings"] > 0, "case_id"])

    def per_case(rows: pd.DataFrame, column: str) -> Mean:
        """Mean over the rows: over cases and organs."""
        totals = {
            name: (float(own.sum()), len(own)) for name, own in rows.groupby("case_id")[column]
        }
        return mean_by_case(totals, patients, bootstrap=bootstrap, seed=seed)

    def per_scan(rows: pd.DataFrame, column: str) -> Mean:
        """Mean over the scans, whose organs are added."""
        totals = {name: (float(n), 1) for name, n in rows.groupby("case_id")[column].sum().items()}
        return mean_by_case(totals, patients, bootstrap=bootstrap, seed=seed)

    def hits(rows: pd.DataFrame, column: str) -> Share:
        return Share(int(rows[column].sum()), len(rows))

    return Summary(
        organ=organ,
        tolerance_mm=float(cases["tolerance_mm"].iloc[0]),
        unknown=len(cases) - len(known),
        dsc=per_case(with_tumor, "dsc"),
        nsd=per_case(with_tumor, "nsd"),
        tumor_sensitivity=hits(tumors, "is_hit"),
        tumor_sensitivity_iou=hits(tumors, "is_hit_iou"),
        early_sensitivity=hits(early, "is_hit"),
        early_sensitivity_iou=hits(early, "is_hit_iou"),
        early_recist_sensitivity=hits(early_recist, "is_hit"),
        patient_sensitivity=Share(len(ill & {patient[name] for name in warned}), len(ill)),
        specificity=Share(len(free - warned), len(free)),
        false_positives=per_scan(known, "false_positives"),
        false_positives_iou=per_scan(known, "false_positives_iou"),
        false_positives_tumor_free=per_scan(tumor_free, "false_positives"),
        false_volume_tumor_free_mm3=per_scan(tumor_free, "false_volume_mm3"),
    )
