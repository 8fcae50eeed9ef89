"""Nested sets of training cases, to study what more data bring.

The cases of ``train`` in the scheme ``iid`` stand in one order. A set of n cases is what stands
on the first n places, so that each set holds all smaller ones. The largest set is drawn first,
with the strata of the whole in proportion, and each smaller one out of the next larger. What
stands where stays: a withdrawn case leaves its place empty, and new cases come behind.
"""

from collections.abc import Mapping, Sequence

from tumoratlas.release.splits.register import Register
from tumoratlas.release.splits.strata import Group, place_groups

NONE, REST = "none", "rest"
_IN, _OUT = "in", "out"


def scaling_places(sizes: Sequence[int]) -> list[str]:
    """Return the places of the scheme in order, for ascending sizes."""
    return [*(f"scaling_{size}" for size in sizes), REST]


def place_scaling(
    train: Sequence[Group], register: Register, sizes: Sequence[int]
) -> tuple[dict[str, str], list[str]]:
    """Give every group of ``train`` its place in the scheme ``scaling``.

    Parameters
    ----------
    train
        Groups that are ``train`` in ``iid``.
    register
        Of this scheme; gets the new places.
    sizes
        Numbers of cases, ascending.

    Returns
    -------
    Group to the smallest set that holds it, ``scaling_<size>``, or ``rest``; and what is to be
    told. A set is shown once enough cases have been given a place to fill it, and from then on.
    """
    names = scaling_places(sizes)
    placed = {group.name: place for group in train if (place := register.place(group))}
    for group in train:
        if group.name in placed:  # cases that joined it
            register.give(group, placed[group.name])
    places = placed | _draw(train, placed, register.cases(), sizes, register.seed)
    for group in train:
        register.give(group, places[group.name])
    given = register.cases()
    hidden = {f"scaling_{size}" for size in sizes if size > given}
    shown = {name: REST if place in hidden else place for name, place in places.items()}
    told = []
    if hidden:
        missing = ", ".join(str(size) for size in sizes if size > given)
        told.append(f"scaling: no set of {missing} cases, since {given} have been placed")
    for i, size in enumerate(sizes):
        cases = sum(len(group.cases) for group in train if shown[group.name] in names[: i + 1])
        if size <= given and cases != size:
            told.append(f"scaling: the set of {size} cases holds {cases}")
    return shown, told


def _draw(
    train: Sequence[Group], placed: Mapping[str, str], given: int, sizes: Sequence[int], seed: str
) -> dict[str, str]:
    """Return the place of every group that has none; ``given`` places are taken already."""
    names = scaling_places(sizes)
    inside = {group.name: group.labels for group in train}
    drawn: dict[str, str] = {}
    for size, behind in zip(reversed(sizes), reversed(names), strict=False):
        free = max(0, size - given)
        old = sum(labels[()] for name, labels in inside.items() if name in placed)
        new = sum(labels[()] for labels in inside.values()) - old
        if new <= free:
            continue
        # Where something is free, all that has a place stands in this set.
        sides = place_groups(
            inside,
            {_IN: old + free, _OUT: new - free},
            placed={name: _IN for name in inside if name in placed},
            seed=f"{behind} {seed}",
        )
        drawn |= {name: behind for name, side in sides.items() if side == _OUT}
        inside = {name: labels for name, labels in inside.items() if name not in drawn}
    return drawn | {name: names[0] for name in inside if name not in placed}
