"""The review ledger: every decision on a mask, append-only and hash-chained.

One line of canonical JSON per event. Each line carries the SHA-256 of the line before it, so
that a changed, removed or reordered line shows.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.files import locked, sha256_bytes, sha256_json, to_json, write_text

SCHEMA = 1
FIRST_HASH = "0" * 64
ROLES = ("senior", "junior", "source")
# What a decision speaks about: one candidate, the organ, or either.
CANDIDATE_DECISIONS = ("accept", "reject", "uncertain", "edit", "split", "merge")
ORGAN_DECISIONS = ("source_label", "add", "sign_off", "withdraw")
DECISIONS = (*CANDIDATE_DECISIONS, *ORGAN_DECISIONS, "contest", "undo")
MASK_DECISIONS = ("edit", "split", "merge", "add")
SENIOR_DECISIONS = ("sign_off", "withdraw")
# Why a candidate is no tumor. Ledgers may hold other words: older forms took free text.
REJECT_REASONS = ("cyst", "vessel", "normal", "artefact", "other")
# Where an event comes from: source labels, a batch by its kind, or a command.
STAGES = ("harmonize", "review", "full_read", "adjudicate", "records")

_HASH = re.compile(r"[0-9a-f]{64}")
# Fixed width, so that text order is time order.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@dataclass(frozen=True)
class Event:
    """A line of the ledger; the columns of the table ``reviews``.

    Attributes
    ----------
    schema
        Version of this record, 1.
    event_id
        SHA-256 of all other fields without ``previous_hash``: the same decision imported twice
        has the same id.
    previous_hash
        SHA-256 of the line before, 64 zeros in the first line, empty before it is appended.
    stage, batch
        Stage of the pipeline and packet batch that the decision came through.
    case_id, organ, candidate_id
        What it is about; ``candidate_id`` is None where it is about the whole organ.
    reviewer_id, role
        Who decided: a reviewer (senior or junior), or a source (role ``source``).
    decision
        One of `DECISIONS`.
    reason, comment, tool
        Free text of the reviewer.
    time
        ``YYYY-MM-DDThh:mm:ss.sssZ``; empty for source labels.
    seconds
        Time that the reviewer took, in s, or None.
    base_sha256
        Hash of the mask that the reviewer looked at; in an ``undo`` of stage ``records``, the
        id of the event that it takes back.
    mask_sha256
        Hash of the returned mask in the store, or empty.
    """

    schema: int
    event_id: str
    previous_hash: str
    stage: str
    batch: str
    case_id: str
    organ: str
    candidate_id: str | None
    reviewer_id: str
    role: str
    decision: str
    reason: str
    comment: str
    tool: str
    time: str
    seconds: float | None
    base_sha256: str
    mask_sha256: str


COLUMNS = tuple(field.name for field in fields(Event))
# An event and its place in the ledger, or in any part of it that keeps the order.
Placed = tuple[int, Event]


def make_event(
    *,
    stage: str,
    batch: str,
    case_id: str,
    organ: str,
    candidate_id: str | None,
    reviewer_id: str,
    role: str,
    decision: str,
    reason: str = "",
    comment: str = "",
    tool: str = "",
    time: str = "",
    seconds: float | None = None,
    base_sha256: str = "",
    mask_sha256: str = "",
) -> Event:
    """Make an event that is not yet in a ledger, and its id.

    Raises
    ------
    ReviewError
        EVENT_INVALID: a value outside its closed set, or values that contradict each other.
    """
    event = Event(
        schema=SCHEMA, event_id="", previous_hash="", stage=stage, batch=batch, case_id=case_id,
        organ=organ, candidate_id=candidate_id or None, reviewer_id=reviewer_id, role=role,
        decision=decision, reason=reason, comment=comment, tool=tool, time=time,
        seconds=None if seconds is None else float(seconds), base_sha256=base_sha256,
        mask_sha256=mask_sha256,
    )  # fmt: skip
    problem = _problem(event)
    if problem:
        raise ReviewError(
            "EVENT_INVALID", f"{case_id} {organ} {decision}", problem,
            remedy="See the decisions and fields in docs/review.md",
        )  # fmt: skip
    return replace(event, event_id=_event_id(event))


def append_events(path: Path, events: Iterable[Event]) -> list[Event]:
    """Append those events whose ids the ledger lacks; nothing is ever changed or removed.

    The whole file is replaced at once: a killed import leaves the old ledger. Writers wait for
    each other.

    Returns
    -------
    The events that were new, chained, in their order.

    Raises
    ------
    ReviewError
        As `read_ledger`.
    """
    with locked(path):
        lines = _lines(path)
        known = {event.event_id for event in _verified(path, lines)}
        previous = sha256_bytes(lines[-1].encode()) if lines else FIRST_HASH
        new: list[Event] = []
        for event in events:
            if event.event_id in known:
                continue
            known.add(event.event_id)
            chained = replace(event, previous_hash=previous)
            lines.append(to_json(vars(chained)))
            previous = sha256_bytes(lines[-1].encode())
            new.append(chained)
        if new:
            write_text(path, "".join(f"{line}\n" for line in lines))
    return new


def read_ledger(path: Path) -> list[Event]:
    """Read every event and verify the chain; a ledger that does not exist yet has none.

    Raises
    ------
    ReviewError
        LEDGER_BROKEN, with the line: not canonical JSON of an event, an id that does not fit the
        content, or a hash that does not fit the line before. A last line without its end counts
        as broken: writes are atomic, so that somebody else cut it.
    """
    return _verified(path, _lines(path))


def moment(placed: Placed) -> tuple[str, int]:
    """Return the time of an event, then its place in the ledger."""
    return placed[1].time, placed[0]


def standing(placed: Iterable[Placed]) -> list[Placed]:
    """Return the events of people that no ``undo`` takes back, without the undos, by `moment`.

    An ``undo`` takes back its reviewer's latest standing event on the same candidate or organ;
    one of stage ``records`` takes back the event that it names, whoever decided it.
    """
    kept: dict[tuple[str, ...], list[Placed]] = defaultdict(list)
    for number, event in sorted(placed, key=moment):
        if event.role == "source":
            continue
        place = (event.case_id, event.organ, event.candidate_id or "")
        mine = kept[*place, event.reviewer_id]
        if event.decision != "undo":
            mine.append((number, event))
        elif event.stage == "records":
            for key in [key for key in kept if key[:3] == place]:
                kept[key] = [p for p in kept[key] if p[1].event_id != event.base_sha256]
        elif mine:
            mine.pop()
    return sorted((pair for pairs in kept.values() for pair in pairs), key=moment)


def to_table(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return events as rows of the table ``reviews``, in ledger order."""
    return [dict(vars(event)) for event in events]


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    data = path.read_bytes()
    text = data.decode("utf-8", errors="replace")
    lines = text.split("\n")
    if lines[-1]:
        raise _broken(path, len(lines), "the line has no end")
    return lines[:-1]


def _verified(path: Path, lines: list[str]) -> list[Event]:
    events: list[Event] = []
    previous = FIRST_HASH
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            event = Event(**record)
            canonical = to_json(record)
        except (ValueError, TypeError) as error:
            raise _broken(path, number, "it is not an event", str(error)) from error
        if event.schema != SCHEMA:
            raise _broken(path, number, f"its schema is not {SCHEMA}", str(event.schema))
        if canonical != line:
            raise _broken(path, number, "its JSON is not in the canonical form")
        if event.previous_hash != previous:
            raise _broken(path, number, "its previous_hash is not the hash of the line before")
        if event.event_id != _event_id(event):
            raise _broken(path, number, "its event_id does not fit its content")
        problem = _problem(event)
        if problem:
            raise _broken(path, number, problem)
        previous = sha256_bytes(line.encode())
        events.append(event)
    return events


def _event_id(event: Event) -> str:
    content = dict(vars(event))
    del content["event_id"], content["previous_hash"]
    return sha256_json(content)


def _problem(event: Event) -> str:
    """Return what is wrong with an event's values, or nothing."""
    if event.decision not in DECISIONS:
        return f"decision {event.decision!r} is not one of {', '.join(DECISIONS)}"
    if event.role not in ROLES:
        return f"role {event.role!r} is not one of {', '.join(ROLES)}"
    if event.stage not in STAGES:
        return f"stage {event.stage!r} is not one of {', '.join(STAGES)}"
    if (event.role == "source") != (event.decision == "source_label"):
        return "source_label is the decision of a source, and the only one"
    if event.decision in SENIOR_DECISIONS and event.role != "senior":
        return f"{event.decision} is the decision of a senior reviewer"
    if (event.time == "") != (event.role == "source") or (
        event.time and not _TIME.fullmatch(event.time)
    ):
        return f"time {event.time!r} is not YYYY-MM-DDThh:mm:ss.sssZ (empty for a source)"
    if event.decision in CANDIDATE_DECISIONS and not event.candidate_id:
        return f"{event.decision} needs a candidate_id"
    if event.decision in ORGAN_DECISIONS and event.candidate_id:
        return f"{event.decision} is about the organ and takes no candidate_id"
    if event.decision in MASK_DECISIONS and not event.mask_sha256:
        return f"{event.decision} needs a mask"
    if event.decision == "undo" and event.stage == "records" and not event.base_sha256:
        return "undo of stage records needs the event that it takes back"
    for name, value in (("base", event.base_sha256), ("mask", event.mask_sha256)):
        if value and not _HASH.fullmatch(value):
            return f"{name}_sha256 is not 64 hexadecimal digits"
    if not (event.case_id and event.organ and event.reviewer_id):
        return "case_id, organ and reviewer_id must not be empty"
    return ""


def _broken(path: Path, line: int, reason: str, evidence: str = "") -> ReviewError:
    return ReviewError(
        "LEDGER_BROKEN", f"{path}, line {line}", reason,
        remedy="Restore the ledger from its backup; never edit it by hand", evidence=evidence,
    )  # fmt: skip
