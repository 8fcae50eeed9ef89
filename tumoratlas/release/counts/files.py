"""The counts of a release as CSV files, and Figure 4 of the paper as CSV and SVG.

Every table keeps its zeros and has a fixed order, so that two releases can be compared line by
line. Nothing here reads a volume: the same tables give the same bytes, which is how
`tumoratlas.release.verify.release` checks them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumoratlas.core.files import write_text
from tumoratlas.core.tables import SCHEMAS, write_csv
from tumoratlas.measure.counts import (
    ALL_SOURCES,
    count_sources,
    count_strata,
    count_tumors,
    headline_tumors,
)
from tumoratlas.measure.pooled import UNASSIGNED
from tumoratlas.release.counts.composition import count_composition, describe_release
from tumoratlas.release.counts.definitions import definition_rows
from tumoratlas.release.counts.figures import radius_figure, share_figure, size_figure
from tumoratlas.release.facts import Rows

# The paper's sizes range from 0 to 100 mm (section 3.2 item 3). The edges of the size classes
# are edges of bins, and bins are closed above as the classes are.
RADIUS_STEP_MM, RADIUS_TOP_MM = 2.5, 100.0
FIGURES = ("figure4a", "figure4b", "figure4c")
TABLES = (
    "headline",
    "definitions",
    "tumors_by_size",
    "tumors_by_source",
    "tumors_by_organ_size_source",
    "early_by_organ",
    *FIGURES,
    "table1",
    "table6",
)
COUNTS = (*(f"{name}.csv" for name in TABLES), *(f"{name}.svg" for name in FIGURES))


def write_counts(
    folder: Path, *, tables: Mapping[str, Rows], cases: Rows, definitions: Mapping[str, Any]
) -> dict[str, pd.DataFrame]:
    """Write every file of `COUNTS`; return the tables of `TABLES` by name.

    Parameters
    ----------
    folder
        Folder to write to.
    tables
        Released rows of ``sources, scans, masks, tumors``.
    cases
        One row per case of the release: ``case_id, source, slices``.
    definitions
        Configuration ``connectivity, minimum_volume_mm3, size_edges_mm, early_diameter_mm``.

    Raises
    ------
    InputError
        See `tumoratlas.measure.counts.count_tumors` and `count_sources`.
    """
    sources, scans, masks, tumors = (
        pd.DataFrame(tables[name], columns=SCHEMAS[name].names)
        for name in ("sources", "scans", "masks", "tumors")
    )
    facts = pd.DataFrame(cases, columns=["case_id", "source", "slices"])
    by_size, by_source = count_tumors(tumors), count_sources(tumors, masks, facts)
    early = _count_early(by_size)
    counts = {
        "headline": _headline(tumors, by_source, early),
        "definitions": pd.DataFrame(definition_rows(definitions)),
        "tumors_by_size": by_size,
        "tumors_by_source": by_source,
        "tumors_by_organ_size_source": count_strata(tumors, facts),
        "early_by_organ": early,
        "figure4a": count_shares(by_size),
        "figure4b": count_radii(tumors, list(by_size["organ"].unique())),
        "figure4c": by_size[["organ", "size_class", "tumors"]],
        "table1": describe_release(tumors, by_source),
        "table6": count_composition(sources, scans, masks, tumors, facts),
    }
    for name in TABLES:
        rows = counts[name].astype(object).where(counts[name].notna(), None)
        write_csv(folder / f"{name}.csv", rows.to_dict("records"), list(rows.columns))
    for name, figure in draw_figures(counts, definitions).items():
        write_text(folder / f"{name}.svg", figure + "\n")
    return counts


def draw_figures(
    counts: Mapping[str, pd.DataFrame], definitions: Mapping[str, Any]
) -> dict[str, str]:
    """Return the SVG text of every figure of `FIGURES` from its table of that name."""
    drawn = (share_figure, radius_figure, size_figure)
    return {
        name: draw(without_none_unassigned(counts[name]), definitions)
        for name, draw in zip(FIGURES, drawn, strict=True)
    }


def without_none_unassigned(counts: pd.DataFrame) -> pd.DataFrame:
    """Return rows ``organ, tumors, ...`` for people: unassigned ones only if there are any."""
    is_row = counts["organ"] == UNASSIGNED
    return counts if counts.loc[is_row, "tumors"].any() else counts[~is_row]


def count_shares(by_size: pd.DataFrame) -> pd.DataFrame:
    """Return Figure 4a, ``organ, tumors, share_percent`` of all; no share of no tumors."""
    shares = by_size.groupby("organ", sort=False)["tumors"].sum().reset_index()
    total = shares["tumors"].sum()
    shares["share_percent"] = (100 * shares["tumors"] / total).round(4) if total else None
    return shares


def count_radii(tumors: pd.DataFrame, organs: list[str]) -> pd.DataFrame:
    """Return Figure 4b: the headline tumors of every organ by radius.

    Returns
    -------
    ``organ, above_mm, to_mm, tumors``: a bin holds radii above its lower and up to its upper
    end; the last bin of an organ has no upper end.
    """
    edges = np.arange(0, RADIUS_TOP_MM + RADIUS_STEP_MM / 2, RADIUS_STEP_MM)
    counted = headline_tumors(tumors)
    parts = []
    for organ in organs:
        radii_mm = counted.loc[counted["organ"] == organ, "radius_mm"].to_numpy(float)
        # The first edge at or above a radius ends its bin.
        bins = np.searchsorted(edges[1:], radii_mm, side="left")
        numbers = np.bincount(bins, minlength=len(edges))
        ends = {"above_mm": edges, "to_mm": [*edges[1:], None]}
        parts.append(pd.DataFrame({"organ": organ, **ends, "tumors": numbers}))
    return pd.concat(parts, ignore_index=True)


def _count_early(by_size: pd.DataFrame) -> pd.DataFrame:
    """Return ``organ, tumors, early, early_recist`` of every organ, and of all."""
    numbers = ["tumors", "early", "early_recist"]
    organs = by_size.groupby("organ", sort=False)[numbers].sum().reset_index()
    total = pd.DataFrame([{"organ": ALL_SOURCES, **by_size[numbers].sum()}])
    return pd.concat([organs, total], ignore_index=True)


def _headline(tumors: pd.DataFrame, by_source: pd.DataFrame, early: pd.DataFrame) -> pd.DataFrame:
    """Return ``quantity, subject, value``: what the paper states in its text, counted here."""
    total, counted = by_source.iloc[-1], headline_tumors(tumors)
    is_cyst = tumors["lesion_kind"] == "cyst"
    rows = [
        ("scans", "", total["cases"]),
        ("slices", "", total["slices"]),
        ("tumor_scans", "", total["tumor_cases"]),
        ("controls", "", total["controls"]),
        ("undecided_scans", "", total["undecided_cases"]),
        ("tumor_masks", "", len(counted[["case_id", "organ"]].drop_duplicates())),
    ]
    for name in ("tumors", "early", "early_recist"):
        rows.append((name, "", total[name]))
        rows += [(name, row["organ"], row[name]) for _, row in early.iloc[:-1].iterrows()]
    rows += [
        ("cysts", "", is_cyst.sum()),
        ("fragments", "", (tumors["is_fragment"].astype(bool) & ~is_cyst).sum()),
        ("pooled", "", (counted["origin"] == "pooled").sum()),
    ]
    values = [(name, subject, int(value)) for name, subject, value in rows]
    for name, found in (("smallest", counted["radius_mm"].min()),
                        ("largest", counted["radius_mm"].max())):  # fmt: skip
        values.append((f"{name}_radius_mm", "", None if pd.isna(found) else round(found, 4)))
    return pd.DataFrame(values, columns=["quantity", "subject", "value"], dtype=object)
