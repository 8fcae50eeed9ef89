"""What several readers together say about one candidate or added tumor: instances, then voxels.

The highest role counts. Among its readers each one's latest decision counts; they must agree
that it is a tumor or that it is none, and then on the outline. Where they do not, a senior who
took no part settles it by a decision of stage ``adjudicate``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from tumoratlas.candidates.hits import MINIMUM_IOU
from tumoratlas.review.ledger import Placed, moment
from tumoratlas.review.merge.instances import Contest, Origin, Voxels
from tumoratlas.review.merge.items import Item, Masks, iou, shared

# Two outlines of one tumor with at least this Dice coefficient are the same.
SAME_OUTLINE_DSC = 0.8
DRAWN = ("edit", "split", "merge")
SAYS_TUMOR = ("accept", "add", *DRAWN)


@dataclass(frozen=True)
class Outline:
    """Where a tumor is.

    Attributes
    ----------
    pieces
        Voxels of each instance: several for a split, or for adds that others drew as one.
    origin
        The step that gave it.
    events
        The events that drew it.
    """

    pieces: tuple[Voxels, ...]
    origin: Origin
    events: tuple[Placed, ...]


@dataclass(frozen=True)
class Ruling:
    """What people together decided on an item.

    Attributes
    ----------
    verdict
        ``uncertain`` where nobody of the highest role decided, ``contested`` where they differ.
    outline
        Of a tumor, else None.
    events
        The decisions that count.
    why
        What is contested, in words.
    """

    verdict: Literal["tumor", "reject", "uncertain", "contested"]
    events: tuple[Placed, ...]
    outline: Outline | None = None
    why: str = ""

    @property
    def parties(self) -> tuple[str, ...]:
        """Return whose decisions count."""
        return tuple(sorted({event.reviewer_id for _, event in self.events}))


def rule(item: Item, masks: Masks) -> Ruling:
    """Return what the readers of the highest role decided on an item with decisions.

    * Each reader's latest decision counts. ``uncertain`` abstains: the item is open only if no
      other reader of that role decided.
    * Tumor against no tumor is contested until one of them changes sides, or a reader who took
      no part decides in stage ``adjudicate``; that decision then stands alone, whatever the
      parties decide later.
    * Tumors that all just accepted get the outline that juniors drew since; else the candidate's,
      of the latest map.
    * Two outlines with a Dice coefficient of `SAME_OUTLINE_DSC` are the same and the later
      stands; three or more give the voxels that more than half of them hold. What differs more,
      or in the number of its parts, is contested.

    Raises
    ------
    ReviewError
        MASK_VALUES, MASK_GRID.
    """
    senior = [placed for placed in item.events if placed[1].role == "senior"]
    counted = senior or item.events
    latest = {placed[1].reviewer_id: placed for placed in counted}
    parties = {event.reviewer_id for _, event in counted if event.stage != "adjudicate"}
    judges = [placed for name, placed in latest.items() if name not in parties]
    decided = _decided(judges)[-1:] or _decided(latest.values())
    if not decided:
        return Ruling("uncertain", tuple(sorted(latest.values(), key=moment)))
    tumor = [placed for placed in decided if placed[1].decision in SAYS_TUMOR]
    if tumor and len(tumor) < len(decided):
        said = (f"{event.reviewer_id} ({event.decision})" for _, event in decided)
        return Ruling("contested", tuple(decided), why=" and ".join(sorted(said)))
    if not tumor:
        return Ruling("reject", tuple(decided))
    return _outlined(item, tumor, masks)


def _decided(events: Iterable[Placed]) -> list[Placed]:
    return sorted((p for p in events if p[1].decision != "uncertain"), key=moment)


def _outlined(item: Item, tumor: list[Placed], masks: Masks) -> Ruling:
    """Return the ruling on an item that its readers all take for a tumor."""
    outlines = [outline_of(item, placed, masks) for placed in tumor]
    if all(event.decision == "accept" for _, event in tumor):
        # The paper's juniors revise what a senior accepted; the signature that must follow is
        # the senior's look at the result.
        later = [p for p in item.events if moment(p) > moment(tumor[0]) and _revises(p)]
        since = {placed[1].reviewer_id: placed for placed in later}
        drawn = sorted((p for p in since.values() if p[1].decision in DRAWN), key=moment)
        if drawn and tumor[0][1].role == "senior":
            outlines = [outline_of(item, placed, masks) for placed in drawn]
        elif all(outline.origin == "accept" for outline in outlines):
            outlines = outlines[-1:]
    stands = _consensus(outlines)
    events = {placed[0]: placed for placed in tumor}
    for outline in outlines:
        events |= {placed[0]: placed for placed in outline.events}
    ordered = tuple(sorted(events.values(), key=moment))
    if isinstance(stands, str):
        drawers = sorted({event.reviewer_id for o in outlines for _, event in o.events})
        return Ruling("contested", ordered, why=f"{' and '.join(drawers)}, {stands}")
    return Ruling("tumor", ordered, stands)


def outline_of(item: Item, placed: Placed, masks: Masks) -> Outline:
    """Return the outline that a reader means who takes an item for a tumor."""
    _, event = placed
    if event.decision == "add":
        return _added(item, event.reviewer_id)
    if event.decision == "split":
        return Outline(tuple(masks.regions(event.mask_sha256).values()), "split", (placed,))
    if event.decision in DRAWN:
        return Outline((masks.only(event),), event.decision, (placed,))
    # An added tumor that is accepted keeps the add that drew it.
    start = item.adds.get(event.candidate_id)
    outline = (item.claims[event.candidate_id],)
    return Outline(outline, "add", (start[0],)) if start else Outline(outline, "accept", (placed,))


def _added(item: Item, reviewer_id: str) -> Outline:
    """Return what a reviewer added; a tumor drawn again replaces the earlier outline."""
    own = [
        (moment(placed), name, placed)
        for name, events in item.adds.items()
        for placed in events
        if placed[1].reviewer_id == reviewer_id
    ]
    pieces: dict[str, Placed] = {}
    for _, name, placed in sorted(own):
        voxels = item.claims[name]
        for earlier in [p for p in pieces if iou(item.claims[p], voxels) >= MINIMUM_IOU]:
            del pieces[earlier]
        pieces[name] = placed
    outlines = tuple(item.claims[name] for name in sorted(pieces))
    return Outline(outlines, "add", tuple(sorted(pieces.values(), key=moment)))


def _consensus(outlines: Sequence[Outline]) -> Outline | str:
    """Return the outline that stands, or how they differ; they come in the order of time."""
    single = all(o.origin in ("accept", "edit", "add") and len(o.pieces) == 1 for o in outlines)
    if len(outlines) >= 3 and single:
        return _majority(outlines)
    last = outlines[-1]
    for other in outlines[:-1]:
        if len(other.pieces) != len(last.pieces):
            return f"outlines differ, {len(other.pieces)} and {len(last.pieces)} tumors"
        table = np.array([[dice(a, b) for b in last.pieces] for a in other.pieces])
        worst = float(table[linear_sum_assignment(table, maximize=True)].min())
        if worst < SAME_OUTLINE_DSC:
            return f"outlines differ, DSC {worst:.2f}"
    return last


def _majority(outlines: Sequence[Outline]) -> Outline | str:
    """Return the voxels that more than half of the outlines hold; on a tie they stay out."""
    found, votes = np.unique(np.concatenate([o.pieces[0] for o in outlines]), return_counts=True)
    voxels = found[2 * votes > len(outlines)]
    if not len(voxels):
        return f"no voxel in more than half of {len(outlines)} outlines"
    equal = [o for o in outlines if np.array_equal(o.pieces[0], voxels)]
    if equal:
        return equal[-1]
    origin: Origin = "add" if all(o.origin == "add" for o in outlines) else "edit"
    events = {placed[0]: placed for outline in outlines for placed in outline.events}
    return Outline((voxels,), origin, tuple(sorted(events.values(), key=moment)))


def dice(first: Voxels, second: Voxels) -> float:
    """Return the Dice coefficient of two regions."""
    return 2 * shared(first, second) / max(1, len(first) + len(second))


def _revises(placed: Placed) -> bool:
    return placed[1].role == "junior" and placed[1].decision in ("accept", *DRAWN)


def open_contests(
    items: Iterable[tuple[Item, Ruling]],
    valid: Sequence[Placed],
    names: Mapping[str | None, str],
    blinded: Collection[str] = (),
) -> list[Contest]:
    """Return the disagreements that nobody has settled yet.

    These are contested items; juniors who decide against a senior's earlier decision, which
    changes nothing but asks for a senior; and ``contest`` events. The latter two are settled by
    a senior's later decision on the same candidate or a later ``sign_off``.

    Parameters
    ----------
    items
        Items with decisions, and what was decided.
    valid
        All standing events of people, by `tumoratlas.review.ledger.moment`.
    names
        Item of each id that events can name.
    """
    contests = []
    by_seniors = [p for p in valid if p[1].role == "senior" and p[1].decision != "contest"]

    def is_open(placed: Placed, item_id: str | None) -> bool:
        return not any(
            later[0] > placed[0]
            and later[1].time >= placed[1].time
            and (later[1].batch not in blinded or later[1].reviewer_id == placed[1].reviewer_id)
            and (later[1].decision == "sign_off" or names.get(later[1].candidate_id) == item_id)
            for later in by_seniors
        )

    for item, ruling in items:
        if ruling.verdict == "contested":
            contests.append(Contest(item.item_id, f"contested by {ruling.why}", ruling.parties))
        latest = {p[1].reviewer_id: p for p in item.events if p[1].role == "junior"}
        for placed in sorted(latest.values(), key=moment):
            _, event = placed
            wanted = "tumor" if event.decision in SAYS_TUMOR else event.decision
            earlier = [p for p in ruling.events if moment(p) < moment(placed)]
            seniors = [p for p in earlier if p[1].role == "senior"]
            differs = {wanted, ruling.verdict} == {"tumor", "reject"}
            if seniors and differs and is_open(placed, item.item_id):
                why = f"{event.reviewer_id} ({event.decision}) against {', '.join(ruling.parties)}"
                contests.append(
                    Contest(item.item_id, why, tuple(sorted({event.reviewer_id, *ruling.parties})))
                )
    for placed in valid:
        _, event = placed
        item_id = names.get(event.candidate_id)
        if event.decision == "contest" and is_open(placed, item_id or "no candidate"):
            reason = f" ({event.reason})" if event.reason else ""
            why = f"contested by {event.reviewer_id}{reason}"
            contests.append(Contest(item_id or "", why, (event.reviewer_id,)))
    return contests


def contested(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the queue of disagreements, for the review plan and the report.

    Parameters
    ----------
    rows
        The rows of merge_masks, one per case: ``case_id`` and ``contests``, organ to a list of
        the fields of `Contest`.

    Returns
    -------
    ``case_id, organ, candidate_id`` (empty for the organ), ``why, parties``, sorted.
    """
    queue = [
        {"case_id": row["case_id"], "organ": organ, **contest}
        for row in rows
        for organ, contests in row["contests"].items()
        for contest in contests
    ]
    return sorted(queue, key=lambda r: (r["case_id"], r["organ"], r["candidate_id"], r["why"]))
