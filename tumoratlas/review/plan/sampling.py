"""Which case-organs are read in full, to learn what candidates miss.

A full read looks for tumors slice by slice, candidates or not. The sample is stratified by
source, organ and whether the organ has candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from tumoratlas.core.files import sha256_json
from tumoratlas.review.numbers.readings import KEY

STRATUM = ["source", "organ", "has_candidates"]
SAMPLE_COLUMNS = (*KEY, "source", "has_candidates", "stratum_size", "draw", "is_new")


def sample_full_reads(
    units: pd.DataFrame,
    *,
    fraction: float,
    minimum_per_stratum: int,
    seed: int,
    already: Iterable[tuple[str, str]],
) -> list[dict[str, Any]]:
    """Choose the case-organs that are read in full.

    The fraction of all units is shared out among the strata by largest remainder, and each
    stratum gets at least the minimum, or all that it has. Within a stratum the units with the
    smallest hash of seed, case and organ are drawn; those of earlier batches stay and count
    first, so that new cases never push one out.

    Parameters
    ----------
    units
        Case-organs that reviewers are asked about: ``case_id, organ, source, has_candidates``.
    fraction
        Share of the units, 0 to 1.
    minimum_per_stratum
        Smallest sample of a stratum.
    seed
        Seed of the draw.
    already
        Case and organ of every assignment of kind ``full``; those that are no unit any more
        are ignored.

    Returns
    -------
    Rows with `SAMPLE_COLUMNS` by ascending ``draw``, the hash as a number from 0 to 1: read in
    this order, any beginning is a random sample of the strata.
    """
    if units.empty:
        return []
    table = units.sort_values(KEY, ignore_index=True)
    keys = list(table[KEY].itertuples(index=False, name=None))
    issued = set(already)
    table["is_new"] = [key not in issued for key in keys]
    table["draw"] = [int(sha256_json([seed, *key])[:13], 16) / 16**13 for key in keys]
    strata = table.groupby(STRATUM)["case_id"].transform("size")
    table["stratum_size"] = strata
    sizes = table.groupby(STRATUM).size()
    total = math.floor(fraction * len(table) + 0.5)
    shares = dict(zip(sizes.index, apportion(total, sizes.tolist()), strict=True))
    chosen = []
    for stratum, rows in table.groupby(STRATUM):
        quota = max(shares[stratum], min(minimum_per_stratum, len(rows)))
        ordered = rows.sort_values(["is_new", "draw", *KEY])
        chosen.append(ordered.head(max(quota, int((~rows["is_new"]).sum()))))
    result = pd.concat(chosen).sort_values(["draw", *KEY])
    return result[list(SAMPLE_COLUMNS)].to_dict("records")


def apportion(total: int, sizes: Sequence[int]) -> list[int]:
    """Share out ``total`` in proportion to sizes by largest remainder; ties to the earlier.

    Examples
    --------
    >>> apportion(10, [6, 6, 2])
    [4, 4, 2]
    """
    whole = sum(sizes)
    shares = [total * size // whole for size in sizes]
    remainders = [total * size % whole for size in sizes]
    order = sorted(range(len(sizes)), key=lambda n: (-remainders[n], n))
    for n in order[: total - sum(shares)]:
        shares[n] += 1
    return shares
