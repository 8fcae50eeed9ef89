"""What a release is made of: our rows for Table 1 and Table 6 of the paper."""

import pandas as pd

from tumoratlas.core.structures import tumor_structures
from tumoratlas.ingest.status import TOTAL
from tumoratlas.measure.counts import ALL_SOURCES, headline_tumors

# Who drew the outline of a tumor, by its origin.
_ANNOTATORS = {
    "source": "source",
    "pooled": "source",
    "accept": "AI, accepted by humans",
    "edit": "human",
    "split": "human",
    "merge": "human",
    "add": "human",
}


def describe_release(tumors: pd.DataFrame, by_source: pd.DataFrame) -> pd.DataFrame:
    """Return our row for Table 1, with the columns of the paper and exact slices.

    Parameters
    ----------
    tumors
        The `tumors` table.
    by_source
        Result of `tumoratlas.measure.counts.count_sources`.

    Returns
    -------
    ``dataset, n_scans, n_slices_k, n_slices, n_tumors, tumor_in, n_hospitals, countries,
    annotators``. No file of a scan says its hospital or country: these stay empty.
    ``annotators`` tells who drew the outlines that are counted.
    """
    total, counted = by_source.iloc[-1], headline_tumors(tumors)
    organs = set(counted["organ"])
    named = [organ for organ in tumor_structures() if organ in organs]
    drawn = {_ANNOTATORS.get(origin, "") for origin in counted["origin"]} - {""}
    row = {
        "dataset": "this release",
        "n_scans": int(total["cases"]),
        "n_slices_k": round(int(total["slices"]) / 1000, 1),
        "n_slices": int(total["slices"]),
        "n_tumors": int(total["tumors"]),
        "tumor_in": "; ".join([*named, *sorted(organs - set(named))]),
        "n_hospitals": None,
        "countries": None,
        "annotators": "; ".join(sorted(drawn)),
    }
    return pd.DataFrame([row])


def count_composition(
    sources: pd.DataFrame,
    scans: pd.DataFrame,
    masks: pd.DataFrame,
    tumors: pd.DataFrame,
    cases: pd.DataFrame,
) -> pd.DataFrame:
    """Return our rows for Table 6: what every source of the pool gave.

    Parameters
    ----------
    sources, scans, masks, tumors
        The tables of that name.
    cases
        ``case_id, source`` of the release.

    Returns
    -------
    One row per source in the order of the table ``sources``, then ``all``:

    - ``source, name, kind``;
    - ``found``: scans in its folder, empty where the source is not in this run; ``read``: of
      these, those that could be read;
    - ``kept``: scans whose image became a case, each scan once however many sources hold it;
    - ``released``: cases of this release with its image; ``tumors`` in them;
    - ``labelled_tumors``: tumors of this release that are its own labels, in whosever image
      (a pooled lesion counts for the source of the image); ``labelled_organs``: organs whose
      tumors it annotated in released cases.
    """
    of_case = dict(zip(cases["case_id"], cases["source"], strict=True))
    counted = headline_tumors(tumors)
    label_source = {
        (row.case_id, row.organ): "" if pd.isna(row.source) else row.source
        for row in masks.itertuples()
    }
    own = counted[counted["origin"].isin(("source", "pooled"))]
    labelled = pd.Series(
        [
            label_source.get((row.case_id, row.organ), "") or of_case[row.case_id]
            for row in own.itertuples()
        ],
        dtype=object,
    ).value_counts()
    tumors_of = counted["case_id"].map(of_case).value_counts()
    released, read = cases["source"].value_counts(), scans["source"].value_counts()
    kept = scans.loc[scans["kept"].astype(bool), "source"].value_counts()
    pool = sources[~sources["kind"].isin(("test", TOTAL))]
    rows = []
    for row in pool.itertuples():
        organs = set(masks.loc[masks["source"] == row.source, "organ"])
        rows.append(
            {
                "source": row.source,
                "name": row.name,
                "kind": row.kind,
                "found": row.found,
                "read": int(read.get(row.source, 0)),
                "kept": int(kept.get(row.source, 0)),
                "released": int(released.get(row.source, 0)),
                "tumors": int(tumors_of.get(row.source, 0)),
                "labelled_tumors": int(labelled.get(row.source, 0)),
                "labelled_organs": "; ".join(o for o in tumor_structures() if o in organs),
            }
        )
    numbers = ("found", "read", "kept", "released", "tumors", "labelled_tumors")
    sums = {name: sum(int(row[name]) for row in rows if pd.notna(row[name])) for name in numbers}
    rows.append({"source": ALL_SOURCES, "name": "all sources", "kind": TOTAL, **sums})
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(numbers, "Int64"))
