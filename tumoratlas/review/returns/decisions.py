"""Checks of a returned decision that need no other row and no look into its mask."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tumoratlas.images.grid import Grid
from tumoratlas.review.bases import Base, BaseKey
from tumoratlas.review.ledger import (
    CANDIDATE_DECISIONS,
    MASK_DECISIONS,
    ORGAN_DECISIONS,
    REJECT_REASONS,
    SENIOR_DECISIONS,
)
from tumoratlas.review.returns.forms import PEOPLE_DECISIONS, Row
from tumoratlas.review.returns.mask_files import FORMATS, MASK_SUFFIXES

_LONGEST_TEXT = 2000
_LONGEST_SECONDS = 24 * 3600.0
# What a spreadsheet makes of an id such as 12345678e9012345.
_SCIENTIFIC = re.compile(r"[+-]?\d+([.,]\d+)?E[+-]?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Known:
    """What returned rows are compared with.

    Attributes
    ----------
    candidates
        Number of each current candidate id, by case and organ.
    bases
        Hash of the current candidate map, by case and organ.
    issued
        Every map that was ever shown.
    readers
        Reviewers to whom the batch gave a case and organ; None for a folder that is no batch.
    grids
        Native grid of each case.
    roles
        Role of each reviewer.
    now
        Time of the import.
    """

    candidates: Mapping[tuple[str, str], Mapping[str, int]]
    bases: Mapping[tuple[str, str], str]
    issued: Mapping[BaseKey, Base]
    readers: Mapping[tuple[str, str], frozenset[str]] | None
    grids: Mapping[str, Grid]
    roles: Mapping[str, str]
    now: datetime

    def numbers(self, row: Row) -> Mapping[str, int]:
        """Return the number of each candidate id in the map that a row's reviewer saw."""
        base = self.issued.get((*row.key, row.cells["base_sha256"]))
        if base is None:
            return self.candidates.get(row.key, {})
        return {candidate_id: number for number, candidate_id in base.candidates.items()}


def check_row(row: Row, known: Known) -> None:
    """Check all that can be told without other rows and without the mask's content.

    Raises
    ------
    ReviewError
        TEXT_INVALID, DECISION_UNKNOWN, REASON_UNKNOWN, CASE_UNKNOWN, REVIEWER_UNKNOWN,
        REVIEWER_OTHER, ROLE_WRONG, BASE_STALE, CANDIDATE_UNKNOWN, CANDIDATE_MISSING,
        CANDIDATE_GIVEN, ID_DAMAGED, TIME_INVALID, TIME_FUTURE, SECONDS_INVALID, MASK_MISSING,
        MASK_GIVEN, MASK_FORMAT, PATH_OUTSIDE.
    """
    for key, text in row.cells.items():
        if len(text) > _LONGEST_TEXT or any(
            (ord(c) < 32 and c not in "\n\r\t") or 0xD800 <= ord(c) <= 0xDFFF for c in text
        ):
            raise row.error(
                "TEXT_INVALID",
                f"{key} is too long or holds control characters",
                f"Use at most {_LONGEST_TEXT} plain characters",
            )
    _check_decision(row)
    _check_subject(row, known)
    _check_reviewer(row, known)
    _check_base(row, known)
    _check_candidate(row, known)
    row_time(row, known.now)
    row_seconds(row)
    needs, given = row.cells["decision"] in MASK_DECISIONS, row.cells["mask"]
    if needs != bool(given):
        raise row.error(
            "MASK_GIVEN" if given else "MASK_MISSING",
            f"{row.cells['decision']} {'takes no' if given else 'needs a'} mask",
            f"A mask belongs to {', '.join(MASK_DECISIONS)}",
            given,
        )
    if given and row.drawn is None:
        _check_path(row)


def _check_decision(row: Row) -> None:
    decision, reason = row.cells["decision"], row.cells["reason"]
    if decision not in PEOPLE_DECISIONS:
        raise row.error(
            "DECISION_UNKNOWN",
            "not a decision that a reviewer can take",
            f"Use one of {', '.join(PEOPLE_DECISIONS)}",
            decision,
        )
    if decision == "reject" and reason and reason not in REJECT_REASONS:
        raise row.error(
            "REASON_UNKNOWN",
            "not a reason to reject",
            f"Use one of {', '.join(REJECT_REASONS)}, or none, and write the rest as comment",
            reason[:80],
        )


def _check_subject(row: Row, known: Known) -> None:
    if row.key not in known.bases or row.key[0] not in known.grids:
        _refuse_damaged(row, "case_id", known.grids)
        raise row.error(
            "CASE_UNKNOWN",
            "this case and organ was not sent out",
            "Keep case_id and organ as in the packet",
            " ".join(row.key),
        )
    if known.readers is not None and row.key not in known.readers:
        raise row.error(
            "CASE_UNKNOWN",
            "this case and organ is not of this batch",
            "Send it in the folder of its batch",
            " ".join(row.key),
        )


def _check_reviewer(row: Row, known: Known) -> None:
    reviewer, decision = row.cells["reviewer_id"], row.cells["decision"]
    role = known.roles.get(reviewer)
    if role is None:
        _refuse_damaged(row, "reviewer_id", known.roles)
        raise row.error(
            "REVIEWER_UNKNOWN",
            "the reviewer is not in the roster",
            "Correct reviewer_id or add the reviewer",
            reviewer,
        )
    if known.readers is not None and reviewer not in known.readers[row.key]:
        raise row.error(
            "REVIEWER_OTHER",
            "the batch was issued to somebody else",
            "Send work beside a batch in a folder of another name",
            f"{reviewer} is not {', '.join(sorted(known.readers[row.key]))}",
        )
    if decision in SENIOR_DECISIONS and role != "senior":
        raise row.error(
            "ROLE_WRONG",
            f"{decision} is for senior reviewers",
            "Let a senior reviewer decide",
            f"{reviewer} is {role}",
        )


def _check_base(row: Row, known: Known) -> None:
    base, current = row.cells["base_sha256"], known.bases[row.key]
    if base != current and (*row.key, base) not in known.issued:
        _refuse_damaged(row, "base_sha256", [current])
        raise row.error(
            "BASE_STALE",
            "the decision is about a version of the mask that nobody knows",
            "Review the current packet",
            f"{base[:12]} is not {current[:12]}",
        )


def _check_candidate(row: Row, known: Known) -> None:
    candidate, decision = row.cells["candidate_id"], row.cells["decision"]
    if candidate and candidate not in known.numbers(row):
        _refuse_damaged(row, "candidate_id", known.numbers(row))
        raise row.error(
            "CANDIDATE_UNKNOWN",
            "this case and organ has no such candidate",
            "Keep candidate_id as in the packet",
            candidate,
        )
    if not candidate and decision in CANDIDATE_DECISIONS:
        raise row.error(
            "CANDIDATE_MISSING",
            f"{decision} needs a candidate_id",
            "Use the candidate's line, or add for a new tumor",
        )
    if candidate and decision in ORGAN_DECISIONS:
        raise row.error(
            "CANDIDATE_GIVEN",
            f"{decision} is about the organ, not a candidate",
            "Use the organ's line, which has no candidate_id",
            candidate,
        )


def _refuse_damaged(row: Row, column: str, wanted: Collection[str]) -> None:
    """Refuse an unknown id of which a spreadsheet made a number.

    Raises
    ------
    ReviewError
        ID_DAMAGED.
    """
    text = row.cells[column]
    if text in wanted:
        return
    shorn = bool(text) and any(name.lstrip("0") == text.lstrip("0") for name in wanted)
    if shorn or _SCIENTIFIC.fullmatch(text):
        raise row.error(
            "ID_DAMAGED",
            f"a spreadsheet changed {column}",
            "Import the CSV with all columns as text, and copy the id from worklist.csv",
            text[:80],
        )


def row_time(row: Row, now: datetime) -> str:
    """Return the row's time in the ledger's form."""
    text = row.cells["time"]
    remedy = "Write UTC as 2026-11-21T14:05:00Z; a spreadsheet may have changed it"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() != timedelta(0):
        raise row.error("TIME_INVALID", "the time is not ISO 8601 in UTC", remedy, text)
    if moment > now:
        raise row.error(
            "TIME_FUTURE",
            "the decision lies in the future",
            "Check the computer's clock and time zone",
            text,
        )
    moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


def row_seconds(row: Row) -> float | None:
    """Return the time that the reviewer took in s, None where not given."""
    text = row.cells["seconds"].replace(",", ".")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise row.error(
            "SECONDS_INVALID",
            "seconds is not a duration of at most a day",
            "Write a number of seconds, or nothing",
            text,
        )
    return seconds


def _check_path(row: Row) -> None:
    """Refuse a mask path that leaves the folder of its form."""
    text = row.cells["mask"].replace("\\", "/")
    steps = [Path(*Path(text).parts[: n + 1]) for n in range(len(Path(text).parts))]
    if any(len(part.encode()) > 255 for part in Path(text).parts):
        raise row.error(
            "MASK_MISSING",
            "no file has a name this long",
            "Send the mask along, with its name in this line",
            text[:80],
        )
    leaves = text.startswith("/") or ":" in text or ".." in Path(text).parts
    if leaves or any((row.folder / step).is_symlink() for step in steps):
        raise row.error(
            "PATH_OUTSIDE",
            "the mask's path leaves the returned folder",
            "Put the mask beside the file of decisions and name it from there",
            text,
        )
    if not text.endswith(MASK_SUFFIXES):
        raise row.error(
            "MASK_FORMAT",
            "the mask's file is in none of the formats of masks",
            f"Save it as {FORMATS}",
            text,
        )
    if not row.mask.is_file():
        raise row.error(
            "MASK_MISSING",
            "the mask's file is not there",
            "Send it along, with the name in this line",
            text,
        )
