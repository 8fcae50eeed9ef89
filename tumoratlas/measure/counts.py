"""Counts over the tumors of a release: Table 1, Table 6 and Figure 4c of the paper.

A headline tumor is a row of the `tumors` table that is no cyst and no fragment. All counts
come in a fixed order and keep their zeros, so that two releases can be compared line by line.
Tumors that belong to none of the six organs are counted as `unassigned`, after the organs and
only where there are any: every sum over organs is that of all headline tumors.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from tumoratlas.core.errors import InputError
from tumoratlas.core.structures import tumor_structures
from tumoratlas.measure.instances import SIZE_CLASSES
from tumoratlas.measure.pooled import UNASSIGNED

HEADLINE_KINDS = ("tumor", "lesion")
ALL_SOURCES = "all"


def headline_tumors(tumors: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the `tumors` table that headline counts count.

    Parameters
    ----------
    tumors
        Columns ``lesion_kind`` and ``is_fragment``.
    """
    kept = tumors["lesion_kind"].isin(HEADLINE_KINDS) & ~tumors["is_fragment"].astype(bool)
    return tumors[kept]


def counted_organs(tumors: pd.DataFrame) -> list[str]:
    """Return the six organs, and `unassigned` where a headline tumor is.

    Parameters
    ----------
    tumors
        Columns ``organ``, ``lesion_kind`` and ``is_fragment``.
    """
    organs = list(tumor_structures())
    return [*organs, UNASSIGNED] if UNASSIGNED in set(headline_tumors(tumors)["organ"]) else organs


def count_tumors(tumors: pd.DataFrame) -> pd.DataFrame:
    """Count the headline tumors of every organ and size class.

    Parameters
    ----------
    tumors
        The `tumors` table: ``case_id, organ, lesion_kind, size_class, is_early,
        is_early_recist, is_fragment``.

    Returns
    -------
    `counted_organs` x four size classes, in that order: ``organ, size_class, tumors, cases,
    early, early_recist``; ``cases`` are those with at least one such tumor.

    Raises
    ------
    InputError
        A row names an organ or a size class that does not exist.
    """
    _check_tumors(tumors)
    rows = {"organ": counted_organs(tumors), "size_class": SIZE_CLASSES}
    return _count_groups(headline_tumors(tumors), rows)


def count_strata(tumors: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """Count the headline tumors of every source, organ and size class.

    Parameters
    ----------
    tumors
        The `tumors` table (see `count_tumors`).
    cases
        One row per case of the release: ``case_id, source``.

    Returns
    -------
    Sources in alphabetic order x `counted_organs` x four size classes: ``source, organ,
    size_class, tumors, cases, early, early_recist``.

    Raises
    ------
    InputError
        See `count_sources`.
    """
    _check_tumors(tumors)
    _check_cases(tumors, cases)
    counted = headline_tumors(tumors)
    counted = counted.assign(source=counted["case_id"].map(cases.set_index("case_id")["source"]))
    rows = {
        "source": sorted(set(cases["source"])),
        "organ": counted_organs(tumors),
        "size_class": SIZE_CLASSES,
    }
    return _count_groups(counted, rows)


def controls(masks: pd.DataFrame) -> list[str]:
    """Return the control cases, sorted: all six organs are confirmed empty.

    An organ that nobody annotated is unknown, and a case with one is no control.

    Parameters
    ----------
    masks
        The `masks` table: ``case_id, organ, state``.
    """
    empty = masks[masks["state"] == "confirmed_empty"]
    empty = empty[empty["organ"].isin(list(tumor_structures()))]
    organs = empty.groupby("case_id")["organ"].nunique()
    return sorted(organs[organs == len(tumor_structures())].index)


def count_sources(tumors: pd.DataFrame, masks: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """Count the cases, slices and headline tumors of every source, and of all together.

    Parameters
    ----------
    tumors
        The `tumors` table (see `count_tumors`).
    masks
        The `masks` table: ``case_id, organ, state``.
    cases
        One row per case of the release: ``case_id, source, slices``.

    Returns
    -------
    One row per source in alphabetic order, then ``all``: ``source, cases, slices,
    tumor_cases, controls, undecided_cases, tumors, early, early_recist`` and
    ``<organ>_tumors`` of `counted_organs`. A case is undecided when no headline tumor is known
    and at least one organ is not annotated or has only cysts or fragments.

    Raises
    ------
    InputError
        A tumor belongs to no case, a case occurs twice, or a source has the name ``all``.
    """
    _check_tumors(tumors)
    _check_cases(tumors, cases)
    counted = headline_tumors(tumors)
    table = cases[["case_id", "source", "slices"]].set_index("case_id")
    table["cases"] = 1
    table["tumor_cases"] = table.index.isin(counted["case_id"]).astype(int)
    table["controls"] = (table.index.isin(controls(masks)) & (table["tumor_cases"] == 0)).astype(
        int
    )
    table["undecided_cases"] = 1 - table["tumor_cases"] - table["controls"]
    by_case = counted.groupby("case_id")
    table["tumors"] = by_case.size()
    table["early"] = by_case["is_early"].sum()
    table["early_recist"] = by_case["is_early_recist"].sum()
    for organ in counted_organs(tumors):
        rows = counted[counted["organ"] == organ]
        table[f"{organ}_tumors"] = rows.groupby("case_id").size()
    table = table.fillna(0)
    numbers = ["cases", "slices", *table.columns.drop(["source", "slices", "cases"])]
    sources = table.groupby("source")[numbers].sum().sort_index().reset_index()
    total = pd.DataFrame([{"source": ALL_SOURCES, **table[numbers].sum()}])
    result = pd.concat([sources, total], ignore_index=True)
    return result.astype(dict.fromkeys(numbers, "int64"))


def _count_groups(counted: pd.DataFrame, rows: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    """Count every combination of the values of some columns, also those without a tumor."""
    index = pd.MultiIndex.from_product(list(rows.values()), names=list(rows))
    groups = counted.groupby(list(rows))
    table = pd.DataFrame(
        {
            "tumors": groups.size(),
            "cases": groups["case_id"].nunique(),
            "early": groups["is_early"].sum(),
            "early_recist": groups["is_early_recist"].sum(),
        }
    )
    return table.reindex(index, fill_value=0).astype("int64").reset_index()


def _check_tumors(tumors: pd.DataFrame) -> None:
    _check_values(tumors, "organ", [*tumor_structures(), UNASSIGNED])
    _check_values(tumors, "size_class", SIZE_CLASSES)
    _check_values(tumors, "lesion_kind", (*HEADLINE_KINDS, "cyst"))


def _check_cases(tumors: pd.DataFrame, cases: pd.DataFrame) -> None:
    if cases["case_id"].duplicated().any() or (cases["source"] == ALL_SOURCES).any():
        raise InputError(
            "CASES_TABLE",
            "table of cases",
            f"names a case twice or a source {ALL_SOURCES!r}",
            remedy="Give one row per case and another name to the source.",
        )
    _check_values(tumors, "case_id", cases["case_id"])


def _check_values(table: pd.DataFrame, column: str, allowed: object) -> None:
    unknown = sorted(set(table[column]) - set(allowed))
    if unknown:
        raise InputError(
            "UNKNOWN_VALUE",
            f"column {column} of the tumors table",
            f"holds {len(unknown)} values that cannot be counted",
            remedy="Rebuild the table; every tumor needs a known case, organ and size class.",
            evidence=", ".join(map(str, unknown[:5])),
        )


def case_facts(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return ``case_id, source, slices`` of every row of harmonize_scans.

    The grid is canonical, so that its first axis runs along the patient.
    """
    facts = [(row["case_id"], row["source"], row["grid"]["shape"][0]) for row in rows]
    return pd.DataFrame(facts, columns=["case_id", "source", "slices"])
