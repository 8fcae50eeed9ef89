"""Batches of review work: what is open is dealt to readers by rank, and never changed again.

Nothing here reads or writes files. A plan is new lines for ``records/batches.jsonl``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tumoratlas.core.errors import ReviewError
from tumoratlas.review.ledger import Event
from tumoratlas.review.plan.assignments import Assignment, Key
from tumoratlas.review.plan.dealing import (
    OpenOrgan,
    Sample,
    Unit,
    deal,
    next_number,
    without_reader,
)


@dataclass(frozen=True)
class Plan:
    """New lines for ``records/batches.jsonl``, and ``PENDING_READER`` rows of ``excluded``."""

    lines: list[dict[str, Any]]
    pending: list[dict[str, str]]


def plan_batches(
    open_work: Iterable[OpenOrgan],
    assignments: Sequence[Assignment],
    reviewers: Mapping[str, str],
    *,
    events: Iterable[Event],
    batch_cases: int,
    batches_per_reviewer: int,
    double_read_fraction: float,
    seed: int,
) -> Plan:
    """Deal open work to readers who have room for it.

    Seniors get the kinds ``candidates`` and ``full`` (paper 3.1, stage 3), and as ``adjudicate``
    the contested organs in which they had no part. Missed tumors go as ``adjudicate`` to
    juniors, who draw (stage 4), or to anybody where there is no junior. An organ that all its
    readers have answered and that lacks only the last signature goes to a senior, one without a
    part in it if there is one. What is issued on the present mask is not dealt again; only a
    seeded share of the cases is read by a second senior, in another batch. Nobody gets the
    candidates or the full read of an organ twice, nor another round of adjudication before the
    last one is answered.

    Parameters
    ----------
    open_work
        The organs that need somebody, in any order.
    assignments
        All that was issued, in the order of issue (`tumoratlas.review.plan.assignments.track`).
    reviewers
        Role of each reviewer of the roster.
    events
        The ledger: who took part in what.
    batch_cases
        Most cases of a batch.
    batches_per_reviewer
        Open batches of each kind that a reader may have.
    double_read_fraction
        Share of the cases with a second reader: a systematic sample of the order of issue
        within each organ, so that every organ has its share and later cases change nothing.
    seed
        Of the sample, and of which reader is first where all have the same load.

    Raises
    ------
    ReviewError
        ROSTER_EMPTY: there is work and no reviewer.
    """
    work = sorted(open_work, key=lambda row: (row.rank, *row.key))
    if work and not reviewers:
        raise ReviewError(
            "ROSTER_EMPTY", "reviewers.csv", "there is work to review and no reviewer",
            remedy="Write records/reviewers.csv with the columns reviewer_id and role (senior "
            "or junior)",
        )  # fmt: skip
    desk = _Desk(work, assignments, dict(sorted(reviewers.items())), events)
    lines: list[dict[str, Any]] = []
    pending: list[dict[str, str]] = []
    for kind, find in (
        ("adjudicate", desk.adjudications),
        ("candidates", lambda: desk.readings(double_read_fraction, seed)),
        ("full", desk.full_reads),
    ):
        units = sorted(find(), key=lambda unit: unit.order)
        pending += [row for unit in units if unit.lacks for row in without_reader(unit)]
        first = next_number([*(item.line for item in assignments), *lines])
        room = desk.room(kind, batches_per_reviewer)
        dealt = deal(kind, units, room, first, batch_cases, seed)
        desk.note(dealt)
        lines += dealt
    return Plan(lines, pending)


class _Desk:
    """What is open and who may do it."""

    def __init__(
        self,
        work: Sequence[OpenOrgan],
        assignments: Sequence[Assignment],
        reviewers: Mapping[str, str],
        events: Iterable[Event],
    ) -> None:
        self.work, self.reviewers, self.history = work, reviewers, assignments
        self.seniors = [r for r, role in reviewers.items() if role == "senior"]
        self.part: dict[Key, set[str]] = defaultdict(set)
        self.issued: dict[tuple[str, Key], list[Assignment]] = defaultdict(list)
        for event in events:
            self.part[event.case_id, event.organ].add(event.reviewer_id)
        for item in assignments:
            if item.is_current:
                self.part[item.key].add(item.reviewer_id)
                self.issued[item.line["kind"], item.key].append(item)

    def note(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take note of who has a part in what by new lines."""
        for line in lines:
            for organ in line["organs"]:
                self.part[line["case_id"], organ].add(line["reviewer_id"])

    def room(self, kind: str, most: int) -> dict[str, int]:
        """Return how many more batches of a kind each reader may get."""
        busy = {
            (item.line["batch"], item.reviewer_id)
            for item in self.history
            if item.state == "open" and item.line["kind"] == kind
        }
        held = [reader for _, reader in busy]
        return {reader: most - held.count(reader) for reader in self.reviewers}

    def adjudications(self) -> list[Unit]:
        """Return contested organs, missed tumors and open signatures, by case and readers."""
        units: dict[tuple[str, tuple[str, ...], str], Unit] = {}
        for row in self.work:
            read = self.issued["candidates", row.key]
            is_answered = read and all(item.state == "answered" for item in read)
            if any(item.state == "open" for item in self.issued["adjudicate", row.key]):
                continue
            rested = [r for r in self.seniors if r not in self.part[row.key]]
            if row.is_missed:
                juniors = [r for r, role in self.reviewers.items() if role == "junior"]
                readers, lacks = juniors or list(self.reviewers), ""
            elif row.is_contested:
                readers, lacks = rested, "senior without a part in it to settle what is contested"
            elif row.is_pending and is_answered:
                readers, lacks = rested or self.seniors, "senior to sign it"
            else:
                continue
            key = (row.case_id, tuple(readers), lacks)
            unit = units.setdefault(key, Unit([], readers, lacks="" if readers else lacks))
            unit.organs.append(row)
        return list(units.values())

    def readings(self, double_read_fraction: float, seed: int) -> list[Unit]:
        """Return the first readings of what is new, and the second readings that are due."""
        sample = Sample(double_read_fraction, seed)
        twice: dict[tuple[Key, str], bool] = {}

        def draw(fresh: list[tuple[Key, str]]) -> None:
            fresh = [reading for reading in fresh if reading not in twice]
            if fresh:
                twice.update(dict.fromkeys(fresh, sample.takes(fresh[0][0][1])))

        # Replayed in the order of issue, stale ones included: what was drawn stays drawn.
        by_line = groupby(
            (item for item in self.history if item.line["kind"] == "candidates"),
            lambda item: (item.line["batch"], item.line["case_id"]),
        )
        for _, items in by_line:
            draw([(item.key, item.base_sha256) for item in items])
        new: dict[str, list[OpenOrgan]] = defaultdict(list)
        for row in self.work:
            is_new = not self.issued["candidates", row.key]
            if row.is_pending and is_new and not row.is_contested:
                new[row.case_id].append(row)
        for rows in new.values():
            draw([(row.key, row.base_sha256) for row in rows])
        units: dict[tuple[str, bool, tuple[str, ...]], Unit] = {}
        second = "second senior for a blinded double read"
        for row in (row for rows in new.values() for row in rows):
            is_double = twice[row.key, row.base_sha256]
            lacks = second if is_double and len(self.seniors) == 1 else ""
            unit = Unit([], self.seniors, 1 + is_double, lacks if self.seniors else "senior")
            units.setdefault((row.case_id, is_double, ()), unit).organs.append(row)
        for (kind, key), items in self.issued.items():
            readers = {item.reviewer_id for item in items}
            if kind != "candidates" or len(readers) != 1 or not twice[key, items[0].base_sha256]:
                continue
            others = [r for r in self.seniors if r not in readers]
            line = items[0].line
            row = OpenOrgan(*key, items[0].base_sha256, line["rank"], line["expected_per_minute"])
            unit = Unit([], others, lacks="" if others else second)
            units.setdefault((row.case_id, True, tuple(readers)), unit).organs.append(row)
        return list(units.values())

    def full_reads(self) -> list[Unit]:
        """Return the full reads, for seniors who do not know the candidates if there are any."""
        units: dict[tuple[str, tuple[str, ...]], Unit] = {}
        for row in self.work:
            if row.full_read and not self.issued["full", row.key]:
                others = [r for r in self.seniors if r not in self.part[row.key]]
                readers = others or self.seniors
                unit = Unit([], readers, lacks="" if readers else "senior")
                units.setdefault((row.case_id, tuple(readers)), unit).organs.append(row)
        return list(units.values())
