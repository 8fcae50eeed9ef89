"""Dealing of open work into batches: units of work, the sample of double reads, new lines."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tumoratlas.core.files import sha256_json
from tumoratlas.review.plan.assignments import Key

RULE = "plan_batches"
_BATCH = re.compile(r"b(\d+)")


@dataclass(frozen=True)
class OpenOrgan:
    """An organ of a case that still needs somebody.

    Attributes
    ----------
    case_id, organ, base_sha256
        What, and the hash of the candidate map as it is now.
    rank
        Place in the order of what to review next, ascending.
    expected_per_minute
        Tumors expected per minute of review.
    is_pending
        It is not settled: candidates are undecided, or the signature is missing.
    is_contested
        Readers disagree, or one was uncertain.
    is_missed
        A tumor without a candidate was reported and is not drawn yet.
    full_read
        It is in the sample that is read in full, and was not yet.
    """

    case_id: str
    organ: str
    base_sha256: str
    rank: int
    expected_per_minute: float = 0.0
    is_pending: bool = True
    is_contested: bool = False
    is_missed: bool = False
    full_read: bool = False

    @property
    def key(self) -> Key:
        """Case and organ."""
        return self.case_id, self.organ


@dataclass
class Unit:
    """Organs of one case that go to one reader, or to two.

    Attributes
    ----------
    organs
        The organs, by rank.
    readers
        Who may have it.
    copies
        To how many of them it goes.
    lacks
        The reader whom the roster does not have, in words, or nothing.
    given
        Who has got it.
    """

    organs: list[OpenOrgan]
    readers: list[str]
    copies: int = 1
    lacks: str = ""
    given: list[str] = field(default_factory=list)

    @property
    def order(self) -> tuple[int, str, list[str]]:
        """Sort key: rank first."""
        return self.organs[0].rank, self.organs[0].case_id, [row.organ for row in self.organs]

    def may_go_to(self, reader: str) -> bool:
        """Tell whether a reader may have a copy that nobody has yet."""
        return len(self.given) < self.copies and reader in set(self.readers) - set(self.given)


class Sample:
    """A systematic sample of a given share within each stratum, from a seeded start."""

    def __init__(self, fraction: float, seed: int) -> None:
        self.fraction, self.seed = fraction, seed
        self.seen: dict[str, int] = defaultdict(int)

    def takes(self, stratum: str) -> bool:
        """Tell whether the next one of a stratum is in the sample."""
        start = int(sha256_json([self.seed, stratum])[:12], 16) / 16**12
        before = self.seen[stratum] * self.fraction + start
        self.seen[stratum] += 1
        return math.floor(before + self.fraction) > math.floor(before)


def deal(
    kind: str, units: list[Unit], room: dict[str, int], first: int, batch_cases: int, seed: int
) -> list[dict[str, Any]]:
    """Return the lines of new batches: the reader with most room takes what is next.

    Parameters
    ----------
    kind, units
        Work of one kind, in the order in which it is to be read; ``given`` is filled in.
    room
        How many more batches each reader may get; counted down.
    first
        Number of the first new batch.
    batch_cases
        Most cases of a batch.
    seed
        Of who comes first where all have the same room.
    """
    lines: list[dict[str, Any]] = []
    for number in count(first):
        free = [r for r, n in room.items() if n > 0 and any(u.may_go_to(r) for u in units)]
        if not free:
            break
        reader = max(free, key=lambda r: (room[r], sha256_json([seed, number, r])))
        room[reader] -= 1
        cases: dict[str, list[OpenOrgan]] = {}
        for unit in units:
            case_id = unit.organs[0].case_id
            fits = case_id in cases or len(cases) < batch_cases
            if fits and unit.may_go_to(reader):
                unit.given.append(reader)
                cases.setdefault(case_id, []).extend(unit.organs)
        for case_id, organs in cases.items():
            lines.append(
                {
                    "batch": f"b{number:04d}",
                    "kind": kind,
                    "reviewer_id": reader,
                    "case_id": case_id,
                    "organs": [row.organ for row in organs],
                    "bases": {row.organ: row.base_sha256 for row in organs},
                    "rank": organs[0].rank,
                    "expected_per_minute": organs[0].expected_per_minute,
                }
            )
    return lines


def next_number(lines: Iterable[Mapping[str, Any]]) -> int:
    """Return the number of the next batch after all that were issued."""
    names = {str(line["batch"]) for line in lines}
    return 1 + max((int(m[1]) for name in names if (m := _BATCH.fullmatch(name))), default=0)


def without_reader(unit: Unit) -> list[dict[str, str]]:
    """Return rows of the table ``excluded``, ``PENDING_READER``, for work that lacks a reader."""
    return [
        {
            "id": f"{row.case_id}/{row.organ}",
            "rule": RULE,
            "code": "PENDING_READER",
            "reason": f"the roster has no {unit.lacks}",
            "evidence": "",
            "remedy": "Add a reviewer to records/reviewers.csv",
        }
        for row in unit.organs
    ]
