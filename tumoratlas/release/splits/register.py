"""The register of places: every place that a case was ever given in a split, for ever.

A line gives a place to the cases of a group, in a scheme under certain settings. It holds for a
case as long as no later line of a group with that case finds a better claim: the place of
another case of the group that was given earlier. Lines are never changed or taken out, so that a
case that was withdrawn and comes back has its old place, and two runs that wrote at once agree
on the first line.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import sha256_json
from tumoratlas.core.records import read_lines
from tumoratlas.release.splits.strata import Group

_KEYS = {"scheme": str, "settings": str, "group": str, "cases": list, "place": str}
_REMEDY = "Restore the register of splits from its backup; places that were published must stay"


class _Claim(NamedTuple):
    """A place, and how good the claim to it is: the smallest wins."""

    precedence: int
    number: int  # of the line
    place: str


class Register:
    """Places of one scheme under one set of settings.

    Parameters
    ----------
    scheme
        One of the schemes.
    settings
        What defines the scheme. Lines of other settings are ignored.
    places
        Every place that can be given to its precedence: where a group has claims to two, the
        lower precedence wins, then the earlier line.
    lines
        All lines of the register, in order.

    Raises
    ------
    InputError
        ``RECORDS``: a line gives a place that the scheme does not have.
    """

    def __init__(
        self,
        scheme: str,
        settings: Mapping[str, Any],
        places: Mapping[str, int],
        lines: Iterable[Mapping[str, Any]],
    ) -> None:
        self.scheme = scheme
        self.digest = sha256_json({"scheme": scheme, **settings})[:16]
        self.seed = f"{scheme} {self.digest}"
        self.new_lines: list[dict[str, Any]] = []
        self._places = places
        self._count = 0
        self._held: dict[str, _Claim] = {}
        self._first: dict[str, str] = {}
        self._named: dict[str, _Claim] = {}
        for line in lines:
            if line["scheme"] == scheme and line["settings"] == self.digest:
                self._add(line["group"], line["cases"], line["place"])

    def place(self, group: Group) -> str | None:
        """Return the place that the group's cases, or else its name, have."""
        claims = self._claims(group.name, group.cases)
        return min(claims).place if claims else None

    def give(self, group: Group, place: str) -> None:
        """Register the place of a group, unless all its cases hold it by one claim."""
        held = {self._held.get(case_id) for case_id in group.cases}
        if len(held) > 1 or {claim and claim.place for claim in held} != {place}:
            line = {"group": group.name, "cases": list(group.cases), "place": place}
            self.new_lines.append({"scheme": self.scheme, "settings": self.digest, **line})
            self._add(**line)

    def cases(self) -> int:
        """Return how many cases have a place, withdrawn ones too."""
        return len(self._held)

    def moved(self, groups: Iterable[Group]) -> list[str]:
        """Tell of every case that is no more where it was placed first."""
        return [
            f"{self.scheme}: {case_id} is in {self._held[case_id].place} and no more in "
            f"{self._first[case_id]}, since its group {group.name} has another claim"
            for group in groups
            for case_id in group.cases
            if case_id in self._held and self._held[case_id].place != self._first[case_id]
        ]

    def _claims(self, group: str, cases: Iterable[str]) -> list[_Claim]:
        claims = [self._held[case_id] for case_id in cases if case_id in self._held]
        if not claims and group in self._named:
            return [self._named[group]]  # a patient whose earlier cases are gone
        return claims

    def _add(self, group: str, cases: Sequence[str], place: str) -> None:
        if place not in self._places:
            raise InputError(
                "RECORDS",
                f"{self.scheme} {group}",
                f"was placed in {place!r}, which the scheme does not have",
                remedy=_REMEDY,
            )
        claims = self._claims(group, cases)
        best = min([*claims, _Claim(self._places[place], self._count, place)])
        self._count += 1
        self._named.setdefault(group, best)
        for case_id in cases:
            self._first.setdefault(case_id, best.place)
            self._held[case_id] = best


def read_places(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the register in order; an absent file has none.

    Raises
    ------
    InputError
        ``RECORDS``: a line is damaged.
    """
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if (
            not isinstance(line, dict)
            or line.keys() != _KEYS.keys()
            or any(not isinstance(line[key], kind) for key, kind in _KEYS.items())
            or not line["cases"]
            or any(not isinstance(case_id, str) for case_id in line["cases"])
        ):
            raise InputError("RECORDS", path, f"line {number} places no group", remedy=_REMEDY)
    return lines
