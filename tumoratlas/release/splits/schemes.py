"""Splits of the release: by patient group, stratified, and stable for ever.

Exact shares of every stratum need to know all cases; that no case ever moves needs to know none
but it. So the first run balances all groups, every place ever given stands in a register, and a
later run keeps those and balances only the new groups against them.

Some places follow from what a group touches and are given to no other: ``reserved`` where it
touches a test set, and in ``ood`` ``test`` and ``left_out``.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import ConfigError
from tumoratlas.core.records import append_lines
from tumoratlas.release.splits.register import Register, read_places
from tumoratlas.release.splits.scaling import NONE, place_scaling, scaling_places
from tumoratlas.release.splits.strata import Group, Labels, gather_groups, place_groups

SCHEMES = ("iid", "ood", "fold", "scaling")
RESERVED, LEFT_OUT = "reserved", "left_out"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
# Nobody trains on a case in one of these places.
NOT_TRAINED = (RESERVED, TEST, LEFT_OUT, NONE)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitResult:
    """Where every case stands.

    Attributes
    ----------
    rows
        Rows of the table ``splits``, by scheme and case.
    new_lines
        What the register lacks: ``scheme, settings, group, cases, place``, a line per group.
    told
        What a user should know, one line each: cases that are not where they were first, sizes
        of ``scaling`` that cannot be had or are not full, sources of ``ood`` without a case.
    """

    rows: list[dict[str, str]]
    new_lines: list[dict[str, Any]]
    told: list[str]


def register_splits(path: Path, cases: Iterable[Mapping[str, Any]], **settings: Any) -> SplitResult:
    """Split the cases and append new places to the register (see `split_cases`).

    The result is what the register says once every place stands in it, also where another
    process wrote at the same time.

    Raises
    ------
    InputError
        ``RECORDS``: a line of the register is damaged.
    """
    cases = list(cases)
    while (result := split_cases(cases, earlier=read_places(path), **settings)).new_lines:
        append_lines(path, result.new_lines)
    for line in result.told:
        _LOG.warning(line)
    return result


def split_cases(
    cases: Iterable[Mapping[str, Any]],
    *,
    earlier: Sequence[Mapping[str, Any]],
    seed: int,
    test_fraction: float,
    validation_fraction: float,
    folds: int,
    ood_sources: Sequence[str],
    scaling_sizes: Sequence[int],
) -> SplitResult:
    """Return the place of every case in all `SCHEMES`.

    Parameters
    ----------
    cases
        ``case_id``; ``group``, which cases of one patient share; ``reserved``, the test sets
        that the group touches, joined by ``"; "``, or an empty text (one such case reserves its
        group); ``source`` of its image; ``sources`` of all its scans; ``strata``, see
        `tumoratlas.release.splits.strata.case_strata`.
    earlier
        Lines of the register, in order.
    seed, test_fraction, validation_fraction, folds, ood_sources, scaling_sizes
        Configuration. What a scheme does not use does not touch it; another value of what it
        uses starts it anew.

    Returns
    -------
    Rows, new lines and what is to be told. In ``iid`` the free groups are ``train``,
    ``validation`` and ``test``; in ``ood`` a group with a case of ``ood_sources`` is ``test``,
    one that touches such a source through another scan is ``left_out``, the rest is ``train``
    and ``validation``; ``fold`` has ``fold_0`` onwards; of ``scaling`` see
    `tumoratlas.release.splits.scaling`. A reserved group is ``reserved``, and ``none`` in
    ``scaling``.

    Raises
    ------
    ConfigError
        ``SPLIT_FRACTIONS``: the shares exceed 1.
    ReleaseError
        ``SPLIT_CASES``: a case stands in two groups.
    InputError
        ``RECORDS``: a line of the register gives a place that its scheme does not have.
    """
    if test_fraction + validation_fraction > 1:
        raise ConfigError(
            "SPLIT_FRACTIONS",
            "splits.test_fraction and splits.validation_fraction",
            f"{test_fraction:g} and {validation_fraction:g} exceed 1",
            remedy="Lower one of them",
        )
    groups = gather_groups(cases)
    free = [group for group in groups if not group.is_reserved]
    test, validation = float(test_fraction), float(validation_fraction)
    sizes, ood = sorted(scaling_sizes), frozenset(ood_sources)
    iid_settings = {"seed": seed, "test_fraction": test, "validation_fraction": validation}
    shares = {TRAIN: 1 - test - validation, VALIDATION: validation, TEST: test}

    iid = Register("iid", iid_settings, dict.fromkeys(shares, 0), earlier)
    places = {"iid": _balance(iid, free, shares, {g.name: g.labels for g in free})}

    ood_settings = {"seed": seed, "validation_fraction": validation, "ood_sources": sorted(ood)}
    # What touched a source of the test once stays away from it, whatever was said before.
    precedences = {TEST: 0, LEFT_OUT: 1, TRAIN: 2, VALIDATION: 2}
    outside = Register("ood", ood_settings, precedences, earlier)
    held_out = {}
    for group in free:
        touched = TEST if group.sources & ood else LEFT_OUT if group.touched & ood else None
        if claims := {touched, outside.place(group)} & {TEST, LEFT_OUT}:
            held_out[group.name] = place = TEST if TEST in claims else LEFT_OUT
            outside.give(group, place)
    inside = [group for group in free if group.name not in held_out]
    shares = {TRAIN: 1 - validation, VALIDATION: validation}
    labels = {group.name: group.labels for group in inside}
    places["ood"] = _balance(outside, inside, shares, labels) | held_out

    names = [f"fold_{number}" for number in range(folds)]
    fold = Register("fold", {"seed": seed, "folds": folds}, dict.fromkeys(names, 0), earlier)
    # Folds are used without the test cases of iid too, and balanced with and without them.
    labels = {g.name: _sided(g.labels, places["iid"][g.name] == TEST) for g in free}
    places["fold"] = _balance(fold, free, dict.fromkeys(names, 1 / folds), labels)

    settings = {"iid": iid.digest, "scaling_sizes": sizes}
    scaling = Register("scaling", settings, dict.fromkeys(scaling_places(sizes), 0), earlier)
    train = [group for group in free if places["iid"][group.name] == TRAIN]
    places["scaling"], told = place_scaling(train, scaling, sizes)

    registers = (iid, outside, fold, scaling)
    moved = [line for register in registers for line in register.moved(free)]
    moved += [
        f"{register.scheme}: group {group.name} touches a test set and is no more in {place}"
        for register in registers
        for group in groups
        if group.is_reserved and (place := register.place(group))
    ]
    found = {source for group in groups for source in group.sources}
    told += [f"ood: no case is of the source {source}" for source in sorted(ood - found)]
    rows = [
        {
            "scheme": scheme,
            "case_id": case_id,
            "split": places[scheme].get(group.name, NONE if scheme == "scaling" else RESERVED),
            "group": group.name,
        }
        for scheme in SCHEMES
        for group in groups
        for case_id in group.cases
    ]
    rows.sort(key=lambda row: (row["scheme"], row["case_id"]))
    lines = [line for register in registers for line in register.new_lines]
    return SplitResult(rows, lines, moved + told)


def _balance(
    register: Register,
    groups: Sequence[Group],
    shares: Mapping[str, float],
    labels: Mapping[str, Labels],
) -> dict[str, str]:
    """Return the place of every group by name, and register those that are new."""
    placed = {group.name: place for group in groups if (place := register.place(group))}
    cases = sum(len(group.cases) for group in groups)
    sizes = {place: share * cases for place, share in shares.items()}
    places = placed | place_groups(labels, sizes, placed=placed, seed=register.seed)
    for group in groups:
        register.give(group, places[group.name])
    return places


def _sided(labels: Labels, is_test: bool) -> Labels:
    side = "test" if is_test else "not test"
    return Counter({(): labels[()]} | {(side, *label): n for label, n in labels.items()})
