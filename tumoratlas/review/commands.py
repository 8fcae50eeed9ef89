"""What people do to the ledger by command: take decisions back, withdraw a case."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.structures import tumor_structures
from tumoratlas.review.ledger import Event, append_events, make_event, read_ledger, standing
from tumoratlas.review.roster import read_roster

LEDGER, ROSTER = "ledger.jsonl", "reviewers.csv"
_BATCH, _TOOL = "commands", "python -m tumoratlas"
_SHORTEST_ID = 8


def undo(
    records: Path, event_ids: Sequence[str], *, reviewer_id: str, reason: str, now: datetime
) -> list[Event]:
    """Take decisions back: append an ``undo`` event for each.

    Reviewers take back their own decisions, seniors anybody's. All are taken back or none.

    Parameters
    ----------
    records
        The records folder.
    event_ids
        Ids of the events, or their first 8 digits or more.
    reviewer_id, reason
        Who takes them back, and why.
    now
        The time, with time zone.

    Returns
    -------
    The new events.

    Raises
    ------
    ReviewError
        EVENT_UNKNOWN, UNDO_REFUSED, REVIEWER_UNKNOWN, ROLE_WRONG, REASON_MISSING, LEDGER_BROKEN,
        ROSTER_INVALID.
    """
    role = _role(records, reviewer_id, reason)
    ledger = read_ledger(records / LEDGER)
    stands = {event.event_id for _, event in standing(enumerate(ledger))}
    events = []
    for event_id in dict.fromkeys(event_ids):
        target = _find(ledger, event_id)
        if role != "senior" and target.reviewer_id != reviewer_id:
            raise ReviewError(
                "ROLE_WRONG", event_id, "it is another reviewer's decision",
                remedy="Let that reviewer or a senior take it back",
                evidence=f"of {target.reviewer_id}, {reviewer_id} is {role}",
            )  # fmt: skip
        if target.event_id not in stands or target.time > _time(now):
            raise ReviewError(
                "UNDO_REFUSED", event_id, "it is no decision of a person that stands now",
                remedy="Name a decision that was not yet taken back; after an undo, decide again",
                evidence=f"{target.decision} of {target.reviewer_id} at {target.time or 'no time'}",
            )  # fmt: skip
        events.append(
            _event(
                target.case_id, target.organ, "undo", reviewer_id, role, reason, now,
                candidate_id=target.candidate_id, base_sha256=target.event_id,
            )
        )  # fmt: skip
    return append_events(records / LEDGER, events)


def withdraw(
    records: Path,
    case_id: str,
    organs: Sequence[str],
    *,
    reviewer_id: str,
    reason: str,
    now: datetime,
) -> list[Event]:
    """Take a case's organs out of what is released, source labels included, until signed again.

    Parameters
    ----------
    records
        The records folder.
    case_id
        The case; the ledger must know it.
    organs
        Tumor organs; none means all.
    reviewer_id, reason
        The senior who withdraws it, and why.
    now
        The time, with time zone.

    Returns
    -------
    The new events, one per organ.

    Raises
    ------
    ReviewError
        CASE_UNKNOWN, ORGAN_UNKNOWN, REVIEWER_UNKNOWN, ROLE_WRONG, REASON_MISSING,
        LEDGER_BROKEN, ROSTER_INVALID.
    """
    role = _role(records, reviewer_id, reason)
    if role != "senior":
        raise ReviewError(
            "ROLE_WRONG", case_id, "withdraw is for senior reviewers",
            remedy="Let a senior reviewer decide", evidence=f"{reviewer_id} is {role}",
        )  # fmt: skip
    if case_id not in {event.case_id for event in read_ledger(records / LEDGER)}:
        raise ReviewError(
            "CASE_UNKNOWN", case_id, "the ledger holds nothing about this case",
            remedy="Give the case_id as in the tables",
        )  # fmt: skip
    unknown = sorted(set(organs) - set(tumor_structures()))
    if unknown:
        raise ReviewError(
            "ORGAN_UNKNOWN", case_id, "no tumor organ has this name",
            remedy=f"Use one of {', '.join(tumor_structures())}", evidence=", ".join(unknown),
        )  # fmt: skip
    events = [
        _event(case_id, organ, "withdraw", reviewer_id, role, reason, now)
        for organ in tumor_structures()
        if organ in organs or not organs
    ]
    return append_events(records / LEDGER, events)


def _role(records: Path, reviewer_id: str, reason: str) -> str:
    """Return a reviewer's role; refuse an act without a reason."""
    if not reason.strip():
        raise ReviewError(
            "REASON_MISSING", reviewer_id, "no reason is given",
            remedy="Say why; it stays in the ledger, as a comment that is not released",
        )  # fmt: skip
    roster = read_roster(records / ROSTER)
    roles = dict(zip(roster["reviewer_id"], roster["role"], strict=True))
    if reviewer_id not in roles:
        raise ReviewError(
            "REVIEWER_UNKNOWN", reviewer_id, "the reviewer is not in the roster",
            remedy=f"Correct the id or add the reviewer to {ROSTER}",
        )  # fmt: skip
    return roles[reviewer_id]


def _find(ledger: Sequence[Event], event_id: str) -> Event:
    found = [event for event in ledger if event.event_id.startswith(event_id)]
    if len(event_id) < _SHORTEST_ID or len(found) != 1:
        raise ReviewError(
            "EVENT_UNKNOWN", event_id, "not the id of one event of the ledger",
            remedy=f"Give event_id as in the table reviews, at least {_SHORTEST_ID} digits",
            evidence=f"{len(found)} events",
        )  # fmt: skip
    return found[0]


def _time(now: datetime) -> str:
    moment = now.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


def _event(
    case_id: str,
    organ: str,
    decision: str,
    reviewer_id: str,
    role: str,
    reason: str,
    now: datetime,
    *,
    candidate_id: str | None = None,
    base_sha256: str = "",
) -> Event:
    return make_event(
        stage="records", batch=_BATCH, case_id=case_id, organ=organ, candidate_id=candidate_id,
        reviewer_id=reviewer_id, role=role, decision=decision, comment=reason.strip(),
        tool=_TOOL, time=_time(now), base_sha256=base_sha256,
    )  # fmt: skip
