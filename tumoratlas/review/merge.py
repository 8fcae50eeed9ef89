"""The final mask of a case's organ: source labels and reviewed candidates become tumors.

The paper's last stage: the union of accepted candidates, of edits in place of their candidate
and of added tumors; nothing rejected, nothing undecided, nothing without a senior's signature.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.images.components import find_components
from tumoratlas.review.instances import (
    Birth,
    Kind,
    Lineage,
    MergedMask,
    Voxels,
    instance_id,
    settle,
)
from tumoratlas.review.ledger import Event
from tumoratlas.review.masks import voxels_by_label

_KINDS: dict[int, Kind] = {1: "tumor", 2: "cyst"}
Pair = tuple[int, Event]


@dataclass
class _Item:
    """A candidate or an added tumor, and the valid events on it in the order of their times."""

    voxels: Voxels
    is_added: bool = False
    events: list[Pair] = field(default_factory=list)


def merge_organ(
    *,
    case_id: str,
    organ: str,
    shape: tuple[int, int, int],
    source_lesions: NDArray[np.uint8] | None,
    candidates: NDArray[np.uint16] | None,
    candidate_ids: Mapping[int, str],
    events: Sequence[Event],
    load_mask: Callable[[str], NDArray[np.uint16]],
    connectivity: int = 26,
) -> MergedMask:
    """Settle one case and organ from its source labels, its candidates and its events.

    Source labels need no signature. For the rest, the latest decision of the highest role
    counts for each candidate (senior over junior; time, then ledger order); a junior's outline
    drawn after a senior's ``accept`` refines it. Added tumors can be decided on under their id.
    ``undo`` cancels the reviewer's latest event on the same candidate or organ. ``contest``
    decides nothing, but like every event it asks for a new signature. A signature holds if no
    event of the organ follows it, in the ledger or in time. Until all is decided and signed,
    only source labels are released; ``withdraw`` takes back those as well.

    Parameters
    ----------
    case_id, organ
        What is merged.
    shape
        (z, y, x) of the native grid.
    source_lesions
        uint8 on that grid, 0 none, 1 tumor, 2 cyst, or None where no source annotated the
        organ. Its connected components are the instances.
    candidates, candidate_ids
        uint16 map of candidates and the id of each label, or None and empty.
    events
        The ledger's events of this case and organ, in ledger order.
    load_mask
        Returns the stored instance map of a ``mask_sha256``.
    connectivity
        6, 18 or 26 neighbours make the instances of source labels.

    Raises
    ------
    ReviewError
        EVENT_FOREIGN, CANDIDATE_UNKNOWN, SOURCE_EVENT, MASK_GRID, MASK_VALUES.
    """
    _check(case_id, organ, shape, source_lesions, candidates, candidate_ids, events)
    human = [(n, e) for n, e in enumerate(events) if e.role != "source"]
    timeline = sorted(human, key=_moment)
    valid = _without_undone(timeline)
    drawn: dict[str, dict[int, Voxels]] = {}

    def outlines(event: Event) -> dict[int, Voxels]:
        if event.mask_sha256 not in drawn:
            array = load_mask(event.mask_sha256)
            _require_shape(array, shape, event.mask_sha256)
            drawn[event.mask_sha256] = voxels_by_label(array)
        return drawn[event.mask_sha256]

    items = _items(case_id, organ, shape, candidates, candidate_ids, timeline, valid, outlines)
    births, pending = _reviewed(case_id, organ, shape, items, outlines)
    signed_by = _signature(human)
    if not signed_by:
        pending.append("no senior sign_off after the last event")
    withdrawn = not signed_by and any(event.decision == "withdraw" for _, event in valid)
    labels_known = source_lesions is not None and not withdrawn
    source = []
    if labels_known:
        source = _source_births(case_id, organ, source_lesions, events, connectivity)
    if not pending:
        return settle(shape, source + births, "review", signed_by, [])
    if labels_known:
        # Nobody has to look at a source's labels; once somebody did, the work must end.
        return settle(shape, source, "source", "", sorted(pending) if human else [])
    empty = np.zeros(shape, np.uint16)
    return MergedMask(empty, {}, {}, "unknown", "", "", sorted(pending), [])


def _check(
    case_id: str,
    organ: str,
    shape: tuple[int, int, int],
    source_lesions: NDArray[np.uint8] | None,
    candidates: NDArray[np.uint16] | None,
    candidate_ids: Mapping[int, str],
    events: Sequence[Event],
) -> None:
    subject = f"{case_id} {organ}"
    if any((event.case_id, event.organ) != (case_id, organ) for event in events):
        raise _error("EVENT_FOREIGN", subject, "an event is about another case or organ")
    has_event = any(event.decision == "source_label" for event in events)
    if has_event != (source_lesions is not None):
        raise _error(
            "SOURCE_EVENT",
            subject,
            "source labels and a source_label event must come together",
            f"event {has_event}, labels {not has_event}",
        )
    if source_lesions is not None:
        _require_shape(source_lesions, shape, subject)
        if source_lesions.max(initial=0) > max(_KINDS):
            raise _error("MASK_VALUES", subject, "source labels hold other values than 0, 1, 2")
    labels: set[int] = set()
    if candidates is not None:
        _require_shape(candidates, shape, subject)
        labels = {int(n) for n in np.flatnonzero(np.bincount(candidates.ravel())) if n}
    if labels != set(candidate_ids):
        raise _error(
            "MASK_VALUES",
            subject,
            "the candidate map and the candidate ids differ",
            f"labels {sorted(labels)}, ids {sorted(candidate_ids)}",
        )


def _without_undone(timeline: Iterable[Pair]) -> list[Pair]:
    """Return the events that no ``undo`` cancels, without the undos."""
    open_events: dict[tuple[str, str | None], list[Pair]] = defaultdict(list)
    for number, event in timeline:
        mine = open_events[event.reviewer_id, event.candidate_id]
        if event.decision != "undo":
            mine.append((number, event))
        elif mine:
            mine.pop()
    kept = [pair for pairs in open_events.values() for pair in pairs]
    return sorted(kept, key=_moment)


def _items(
    case_id: str,
    organ: str,
    shape: tuple[int, int, int],
    candidates: NDArray[np.uint16] | None,
    candidate_ids: Mapping[int, str],
    timeline: Iterable[Pair],
    valid: Iterable[Pair],
    outlines: Callable[[Event], dict[int, Voxels]],
) -> dict[str, _Item]:
    """Return candidates and added tumors by id, with the valid events on each."""
    voxels = {} if candidates is None else voxels_by_label(candidates)
    items = {candidate_ids[label]: _Item(voxels[label]) for label in sorted(voxels)}
    added: dict[str, list[str]] = defaultdict(list)
    for _, event in timeline:
        if event.decision == "add":
            for piece in outlines(event).values():
                tumor_id = instance_id(case_id, organ, shape, piece)
                items.setdefault(tumor_id, _Item(piece, is_added=True))
                added[event.event_id].append(tumor_id)
    for _, event in timeline:
        if event.candidate_id is not None and event.candidate_id not in items:
            raise _error(
                "CANDIDATE_UNKNOWN",
                f"{case_id} {organ}",
                "an event names a candidate that does not exist",
                event.candidate_id,
            )
    for number, event in valid:
        if event.decision == "add":
            for tumor_id in added[event.event_id]:
                items[tumor_id].events.append((number, event))
        elif event.candidate_id is not None and event.decision != "contest":
            items[event.candidate_id].events.append((number, event))
    return items


def _reviewed(
    case_id: str,
    organ: str,
    shape: tuple[int, int, int],
    items: Mapping[str, _Item],
    outlines: Callable[[Event], dict[int, Voxels]],
) -> tuple[list[Birth], list[str]]:
    """Return the instances that the decisions give, and what is still open."""
    births: list[Birth] = []
    pending: list[str] = []
    merges: dict[str, dict[str, tuple[Pair, Pair]]] = defaultdict(dict)
    for item_id, item in sorted(items.items()):
        if not item.events:
            # An added tumor whose add was undone is gone; a candidate waits for its decision.
            if not item.is_added:
                pending.append(f"{item_id}: undecided")
            continue
        verdict, outline = _verdict(item)
        decision = outline[1].decision
        if verdict[1].decision == "uncertain":
            pending.append(f"{item_id}: uncertain")
        elif verdict[1].decision == "reject":
            continue
        elif decision == "merge":
            merges[outline[1].mask_sha256][item_id] = (verdict, outline)
        elif decision == "split":
            for piece in outlines(outline[1]).values():
                tumor_id = instance_id(case_id, organ, shape, piece)
                births.append(_birth(piece, tumor_id, [item_id], outline, [verdict, outline]))
        else:
            voxels = _only(outlines, outline[1]) if decision == "edit" else item.voxels
            births.append(_birth(voxels, item_id, [item_id], outline, [verdict, outline]))
    for mask, members in sorted(merges.items()):
        asked = {
            item_id
            for item_id, item in items.items()
            if any(e.decision == "merge" and e.mask_sha256 == mask for _, e in item.events)
        }
        if asked != set(members):
            names = ", ".join(sorted(asked))
            pending.append(f"merge of {names}: contradicted by a decision on one of them")
            continue
        outline = max((drawn for _, drawn in members.values()), key=_moment)
        voxels = _only(outlines, outline[1])
        tumor_id = instance_id(case_id, organ, shape, voxels)
        events = [pair for pairs in members.values() for pair in pairs]
        births.append(_birth(voxels, tumor_id, sorted(members), outline, events))
    return births, pending


def _verdict(item: _Item) -> tuple[Pair, Pair]:
    """Return the event that decides whether the tumor is real, and the one that outlines it."""
    senior = [pair for pair in item.events if pair[1].role == "senior"]
    verdict = (senior or item.events)[-1]
    if verdict[1].decision != "accept":
        return verdict, verdict
    # The paper's juniors revise what a senior accepted; the signature that must follow is the
    # senior's look at the result.
    later = item.events[item.events.index(verdict) + 1 :]
    drawn = [pair for pair in later if pair[1].decision in ("edit", "split", "merge")]
    return verdict, (drawn or [_start(item) or verdict])[-1]


def _start(item: _Item) -> Pair | None:
    """Return the add that drew an added tumor, which an ``accept`` only confirms."""
    return next((pair for pair in item.events if pair[1].decision == "add"), None)


def _only(outlines: Callable[[Event], dict[int, Voxels]], event: Event) -> Voxels:
    pieces = list(outlines(event).values())
    if len(pieces) != 1:
        raise _error(
            "MASK_VALUES",
            event.mask_sha256,
            f"the mask of an {event.decision} must hold one instance",
            f"it holds {len(pieces)}",
        )
    return pieces[0]


def _birth(
    voxels: Voxels,
    tumor_id: str,
    item_ids: Sequence[str],
    outline: Pair,
    events: Iterable[Pair],
) -> Birth:
    ordered = sorted(set(events), key=_moment)
    origin = outline[1].decision
    lineage = Lineage(
        tumor_id=tumor_id,
        origin=origin,
        candidate_ids=() if origin == "add" else tuple(item_ids),
        event_ids=tuple(event.event_id for _, event in ordered),
        reviewers=tuple(sorted({event.reviewer_id for _, event in ordered})),
    )
    return Birth(voxels, "tumor", lineage, _moment(outline))


def _moment(pair: Pair) -> tuple[str, int]:
    return pair[1].time, pair[0]


def _source_births(
    case_id: str,
    organ: str,
    lesions: NDArray[np.uint8],
    events: Sequence[Event],
    connectivity: int,
) -> list[Birth]:
    label_event = [event for event in events if event.decision == "source_label"][-1]
    births = []
    for value, kind in _KINDS.items():
        found = find_components(lesions == value, connectivity=connectivity)
        labels = np.zeros(lesions.shape, np.uint32)
        labels[found.box] = found.labels
        for voxels in voxels_by_label(labels).values():
            tumor_id = instance_id(case_id, organ, lesions.shape, voxels)
            lineage = Lineage(tumor_id, "source", (), (label_event.event_id,), ())
            births.append(Birth(voxels, kind, lineage, ("", 0)))
    return births


def _signature(human: Sequence[Pair]) -> str:
    """Return the senior whose ``sign_off`` is the last event in the ledger and in time."""
    if not human:
        return ""
    last = human[-1][1]
    is_last = last.time >= max(event.time for _, event in human)
    return last.reviewer_id if last.decision == "sign_off" and is_last else ""


def _require_shape(array: NDArray[np.generic], shape: tuple[int, int, int], subject: str) -> None:
    if array.shape != shape:
        raise _error(
            "MASK_GRID",
            subject,
            "the mask is not on the case's grid",
            f"{array.shape}, not {shape}",
        )


def _error(code: str, subject: str, reason: str, evidence: str = "") -> ReviewError:
    return ReviewError(
        code, subject, reason, evidence=evidence,
        remedy="Build candidates and ledger from the same working directory",
    )  # fmt: skip
