"""Groups of cases, what they are stratified by, and the places that balance them.

Exact shares of every stratum cannot be had: a group is placed as a whole, and its cases have
tumors of several strata. Groups are placed one by one, the largest and rarest first, each where
its strata lack cases most (iterative stratification after Sechidis et al. 2011, with the strata
of a group weighed together instead of one after the other).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import sha256_json
from tumoratlas.measure.counts import controls, headline_tumors

Labels = Counter[tuple[str, ...]]

CONTROL, UNDECIDED = "control", "undecided"


@dataclass(frozen=True)
class Group:
    """Cases that no scheme may tear apart.

    Attributes
    ----------
    name
        As in the table ``splits``.
    cases
        Case ids, sorted.
    is_reserved
        Whether a case touches a test set.
    sources
        Sources whose image became one of the cases.
    touched
        Sources of all scans of the cases.
    labels
        How many of the cases belong to each stratum: ``(stratum, source)``, ``(stratum,)``,
        ``("", source)`` and ``()``, which is all of them.
    """

    name: str
    cases: tuple[str, ...]
    is_reserved: bool
    sources: frozenset[str]
    touched: frozenset[str]
    labels: Labels


def case_strata(
    case_ids: Iterable[str], tumors: pd.DataFrame, masks: pd.DataFrame
) -> dict[str, list[str]]:
    """Return the strata of cases: ``organ size_class`` of each headline tumor, sorted.

    Parameters
    ----------
    case_ids
        The cases to tell of.
    tumors, masks
        The tables of these names.

    Returns
    -------
    Per case its strata without repetition. One without a headline tumor has ``control`` where
    all organs are confirmed empty, else ``undecided``.
    """
    found: dict[str, set[str]] = defaultdict(set)
    rows = headline_tumors(tumors)
    for case_id, organ, size in zip(
        rows["case_id"], rows["organ"], rows["size_class"], strict=True
    ):
        found[case_id].add(f"{organ} {size}")
    empty = set(controls(masks))
    return {
        case_id: sorted(found[case_id]) or [CONTROL if case_id in empty else UNDECIDED]
        for case_id in case_ids
    }


def gather_groups(cases: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Return the groups of cases by name (see `tumoratlas.release.splits.schemes.split_cases`).

    Raises
    ------
    ReleaseError
        ``SPLIT_CASES``: a case stands in two groups.
    """
    members: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    groups: dict[str, str] = {}
    for case in cases:
        case_id, group = case["case_id"], case["group"]
        if groups.setdefault(case_id, group) != group:
            raise ReleaseError(
                "SPLIT_CASES",
                case_id,
                f"stands in the groups {min(groups[case_id], group)} and "
                f"{max(groups[case_id], group)}",
                remedy="Give each case one group",
            )
        members[group][case_id] = case
    return [_group(name, own) for name, own in sorted(members.items())]


def _group(name: str, cases: Mapping[str, Mapping[str, Any]]) -> Group:
    labels: Labels = Counter()
    for case in cases.values():
        source = case["source"]
        labels.update([(), ("", source)])
        for stratum in set(case["strata"]):
            labels.update([(stratum,), (stratum, source)])
    return Group(
        name,
        tuple(sorted(cases)),
        any(case["reserved"] for case in cases.values()),
        frozenset(case["source"] for case in cases.values()),
        frozenset(source for case in cases.values() for source in case["sources"]),
        labels,
    )


def place_groups(
    labels: Mapping[str, Labels],
    sizes: Mapping[str, float],
    *,
    placed: Mapping[str, str],
    seed: str,
) -> dict[str, str]:
    """Give every group that has no place the one that its strata lack most.

    Parameters
    ----------
    labels
        Strata of every group, those with a place too.
    sizes
        Place to the number of cases wanted there. Each stratum is wanted in the same shares.
    placed
        Place of the groups that have one, which they keep.
    seed
        Text that settles order and ties.

    Returns
    -------
    Place of each new group. A place takes no more cases than wanted while others lack some.
    Nothing depends on the order of the input, nor on how a machine sums.
    """
    totals: Labels = Counter()
    for own in labels.values():
        totals.update(own)
    counts: dict[str, Labels] = {place: Counter() for place in sizes}
    for name, place in placed.items():
        counts[place].update(labels[name])
    wanted = sum(sizes.values())
    shares = {place: size / wanted for place, size in sizes.items() if size > 0}
    order = {
        name: (-own[()], min(totals[label] for label in own), _draw(seed, name))
        for name, own in labels.items()
        if name not in placed
    }
    chosen: dict[str, str] = {}
    for name in sorted(order, key=order.__getitem__):
        own = labels[name]
        fitting = [p for p in shares if counts[p][()] + own[()] <= sizes[p]]
        lacking = [p for p in shares if counts[p][()] < sizes[p]]
        empty = [p for p in lacking if not counts[p]]  # else a small release would test on none
        costs = {
            p: _cost(own, totals, shares[p], counts[p])
            for p in fitting or empty or lacking or shares
        }
        least = min(costs.values())
        place = min(
            (p for p in costs if costs[p] == least), key=lambda p, n=name: _draw(seed, n, p)
        )
        chosen[name] = place
        counts[place].update(own)
    return chosen


def _cost(own: Labels, totals: Labels, share: float, counts: Labels) -> float:
    """Return what the group adds to the squared deviations, each over what is expected."""
    cost = 0.0
    for label, more in own.items():
        expected = totals[label] * share
        over = counts[label] - expected
        cost += more * (2 * over + more) / max(expected, 1)
    return cost


def _draw(seed: str, *names: str) -> str:
    return sha256_json([seed, *names])
