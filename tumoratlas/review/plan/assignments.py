"""Assignments of ``records/batches.jsonl``: who was given what, and how that stands.

A line is one case in one batch: its reader, the organs, and the hash of the mask that each organ
showed. Lines are only ever appended. Nothing here reads or writes files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tumoratlas.core.errors import ReviewError
from tumoratlas.review.ledger import Event

KINDS = ("adjudicate", "candidates", "full")
Key = tuple[str, str]  # case and organ


@dataclass(frozen=True)
class Assignment:
    """A line of ``records/batches.jsonl``, for one of its organs, and how it stands.

    Attributes
    ----------
    line
        The line.
    key
        Case and organ.
    state
        ``open``; ``answered`` by its reader; ``stale``: the mask has changed or nobody is asked
        about the organ any more; ``void``: the reader left the roster before answering.
    """

    line: Mapping[str, Any]
    key: Key
    state: str

    @property
    def reviewer_id(self) -> str:
        """The reader."""
        return self.line["reviewer_id"]

    @property
    def base_sha256(self) -> str:
        """Hash of the mask that the organ showed."""
        return self.line["bases"][self.key[1]]

    @property
    def is_current(self) -> bool:
        """Whether it counts as reading of the present mask, done or to come."""
        return self.state in ("open", "answered")


def track(
    issued: Iterable[Mapping[str, Any]],
    reviewers: Mapping[str, str],
    *,
    bases: Mapping[Key, str],
    candidates: Mapping[Key, Collection[str]],
    events: Iterable[Event],
) -> list[Assignment]:
    """Return how every issued organ stands, in the order of issue.

    Parameters
    ----------
    issued
        Lines of ``records/batches.jsonl``.
    reviewers
        Role of each reviewer of the roster.
    bases, candidates
        Hash of the present candidate map, and ids of its candidates, of every case and organ
        that reviewers are asked about.
    events
        The ledger, in its order.

    Notes
    -----
    An answer, in the batch and on the present mask, is a junior's any decision; a senior's
    signature, withdrawal or contest of the organ; or, where a candidate is left uncertain or
    contested and the senior therefore cannot sign, a decision on every candidate (adjudication:
    on any).

    Raises
    ------
    ReviewError
        BATCHES_INVALID: a line is not of the form.
    """
    decisions = _decisions(events)
    found = []
    for line in issued:
        try:
            batch, kind, reader = line["batch"], line["kind"], line["reviewer_id"]
            pairs = [(organ, line["bases"][organ]) for organ in line["organs"]]
            keys = [(line["case_id"], organ) for organ, _ in pairs]
            fits = kind in KINDS and {"rank", "expected_per_minute"} <= set(line)
        except (KeyError, TypeError):
            fits = False
        if not fits:
            raise ReviewError(
                "BATCHES_INVALID", "batches.jsonl", "a line is not an assignment",
                remedy="Restore the file from its backup", evidence=str(dict(line))[:300],
            )  # fmt: skip
        for key, (_, base) in zip(keys, pairs, strict=True):
            made = decisions.get((batch, reader, *key, base), {})
            role = reviewers.get(reader, "senior")
            if bases.get(key) != base:
                state = "stale"
            elif _is_answer(made, kind, role, candidates.get(key, ())):
                state = "answered"
            else:
                state = "open" if reader in reviewers else "void"
            found.append(Assignment(line, key, state))
    return found


def open_batches(assignments: Iterable[Assignment]) -> dict[str, list[dict[str, Any]]]:
    """Return the batches in which something is open, with the lines to write them out by.

    A line keeps the organs whose mask is the present one, decided or not, so that a packet does
    not change while its answers come in.
    """
    current: dict[str, dict[str, tuple[Mapping[str, Any], list[str]]]] = defaultdict(dict)
    open_ones = set()
    for item in assignments:
        batch, case_id = item.line["batch"], item.key[0]
        if item.is_current:
            current[batch].setdefault(case_id, (item.line, []))[1].append(item.key[1])
        if item.state == "open":
            open_ones.add(batch)
    return {
        batch: [
            {**line, "organs": organs, "bases": {o: line["bases"][o] for o in organs}}
            for line, organs in sorted(
                current[batch].values(), key=lambda pair: (pair[0]["rank"], pair[0]["case_id"])
            )
        ]
        for batch in sorted(open_ones)
    }


def _decisions(
    events: Iterable[Event],
) -> dict[tuple[str, str, str, str, str], dict[str | None, Event]]:
    """Return the latest decision on each candidate (None: the organ) that no undo takes back.

    Keys are batch, reviewer, case, organ and base.
    """
    made: dict[tuple[str, ...], dict[str | None, list[Event]]] = {}
    for event in sorted(events, key=lambda event: event.time):
        key = (event.batch, event.reviewer_id, event.case_id, event.organ, event.base_sha256)
        mine = made.setdefault(key, {}).setdefault(event.candidate_id, [])
        if event.decision != "undo":
            mine.append(event)
        elif mine:
            mine.pop()
    return {
        key: {candidate: mine[-1] for candidate, mine in by.items() if mine}
        for key, by in made.items()
    }


def _is_answer(
    made: Mapping[str | None, Event], kind: str, role: str, candidates: Collection[str]
) -> bool:
    if role == "junior":
        return bool(made)
    if None in made and made[None].decision in ("sign_off", "withdraw", "contest"):
        return True
    doubts = any(e.decision in ("uncertain", "contest") for c, e in made.items() if c)
    return doubts and (kind == "adjudicate" or set(candidates) <= set(made))
