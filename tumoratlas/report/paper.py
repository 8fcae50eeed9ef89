"""What the paper says beside what a release holds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tumoratlas.core.structures import structures, tumor_structures
from tumoratlas.release.cases import class_map

Rows = list[dict[str, Any]]
Numbers = dict[tuple[str, str], float]

_MINUTES_MANUAL, _MINUTES_A_DAY = 5, 600  # section 3.1 of the paper


@dataclass(frozen=True)
class Paper:
    """What the paper says, contradictions included.

    Attributes
    ----------
    numbers
        ``quantity, subject, label, value, place, explanation``: every number with its place
        and why ours differs.
    table1, table6
        Rows of its Table 1 and Table 6, with ``source`` (our id), ``place`` and
        ``explanation``.
    contradictions
        ``number, topic, says, place, elsewhere, published``.
    """

    numbers: pd.DataFrame
    table1: pd.DataFrame
    table6: pd.DataFrame
    contradictions: pd.DataFrame

    def values(self, quantity: str, subject: str) -> list[float]:
        """Return every value that the paper gives for a quantity."""
        named = self.numbers[["quantity", "subject"]] == [quantity, subject]
        return self.numbers.loc[named.all(axis="columns"), "value"].tolist()


def read_paper(paths: Iterable[Path]) -> Paper:
    """Read ``paper.csv`` and ``paper_{table1,table6,contradictions}.csv``, in any order."""
    tables = {
        path.stem.removeprefix("paper_"): pd.read_csv(path, keep_default_na=False) for path in paths
    }
    return Paper(
        numbers=tables["paper"],
        table1=tables["table1"],
        table6=tables["table6"],
        contradictions=tables["contradictions"],
    )


def our_numbers(
    headline: pd.DataFrame,
    composition: pd.DataFrame,
    reviews: pd.DataFrame,
    thresholds: Mapping[str, Mapping[str, Any]],
) -> Numbers:
    """Return our value of every quantity that ``paper.csv`` names and that is known here.

    Parameters
    ----------
    headline, composition
        ``headline.csv`` and ``table6.csv`` of the release.
    reviews
        Decisions of people: ``reviewer_id, case_id, seconds``.
    thresholds
        Chosen threshold per organ (`ThresholdChoice` as a mapping).
    """
    numbers: Numbers = {
        (row.quantity, "" if pd.isna(row.subject) else row.subject): row.value
        for row in headline.itertuples()
        if not pd.isna(row.value)
    }
    classes = [structures()[name] for name in class_map().values()]
    numbers["structures", ""] = len(classes)
    numbers["organs", ""] = sum(row.kind == "organ" for row in classes)
    numbers["tumor_types", ""] = len(tumor_structures())
    numbers["reviewers", ""] = reviews["reviewer_id"].nunique()
    private, public = (
        int(composition.loc[composition["kind"].isin(kinds), "released"].sum())
        for kinds in (("private",), ("public", "parent"))
    )
    numbers["source_scans", "private"] = private
    numbers["source_scans", "abdomenatlas11"] = public
    if reviews["seconds"].notna().any():
        seconds = float(reviews.groupby("case_id")["seconds"].sum(min_count=1).mean())
        minutes = numbers["scans", ""] * (_MINUTES_MANUAL - seconds / 60)
        numbers["seconds", ""] = seconds
        numbers["minutes_saved", ""] = minutes
        numbers["workdays_saved", ""] = minutes / _MINUTES_A_DAY
    for organ, choice in thresholds.items():
        numbers["fp_per_scan", organ] = choice["fp_per_scan"]
        numbers["sensitivity_target", ""] = choice["target"]
    return numbers


def compare_numbers(paper: Paper, ours: Mapping[tuple[str, str], float]) -> Rows:
    """Return every number of the paper beside ours, grouped by quantity and subject.

    Returns
    -------
    Per quantity ``label``, ``ours`` (None where nothing here counts it) and ``said``: a list
    of ``value, place, explanation, difference`` (ours less the paper's).
    """
    rows = []
    for key, group in paper.numbers.groupby(["quantity", "subject"], sort=False):
        mine = ours.get(key)
        said = [
            {
                "value": row.value,
                "place": row.place,
                "explanation": row.explanation,
                "difference": None if mine is None else round(mine - row.value, 4),
            }
            for row in group.itertuples()
        ]
        rows.append({"label": group["label"].iloc[0], "ours": mine, "said": said})
    return rows


def compare_sources(paper: Paper, composition: pd.DataFrame) -> Rows:
    """Return every component of the paper's Table 6 beside ours, then our further sources.

    Returns
    -------
    The columns of ``table6.csv`` (None where nothing is known), with ``name`` as the paper
    writes it, ``paper_scans``, ``paper_tumors`` and ``explanation``. The last row sums ours.
    """
    ours = {row["source"]: row for row in _plain(composition)}
    nothing = dict.fromkeys(composition.columns)
    rows = [
        nothing
        | ours.pop(said["source"], {"source": said["source"]})
        | {
            "name": said["component"],
            "paper_scans": said["n_scans"],
            "paper_tumors": said["tumors_annotated"],
            "explanation": said["explanation"],
        }
        for said in paper.table6.to_dict("records")
    ]
    unknown = {"paper_scans": None, "paper_tumors": "", "explanation": "Not in the paper's table."}
    rows += [row | unknown for row in ours.values()]
    rows[-1]["explanation"] = ""
    return rows


def compare_releases(paper: Paper, described: pd.DataFrame) -> Rows:
    """Return our row for Table 1, then the paper's rows."""
    said = paper.table1.to_dict("records")
    (ours,) = _plain(described)
    ours["explanation"] = "No file of a scan says its hospital or country."
    return [dict.fromkeys(paper.table1.columns) | ours, *said]


def _plain(table: pd.DataFrame) -> Rows:
    return table.astype(object).where(table.notna(), None).to_dict("records")
