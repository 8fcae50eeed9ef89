"""The final mask of a case's organ: source labels and reviewed candidates become tumors.

The paper's last stage: the union of accepted candidates, of edits in place of their candidate
and of added tumors; nothing rejected, nothing undecided, nothing without a senior's signature.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tumoratlas.review.bases import Base
from tumoratlas.review.ledger import Event, Placed, moment, standing
from tumoratlas.review.masks import voxels_by_label
from tumoratlas.review.merge.births import KINDS, Births, source_births
from tumoratlas.review.merge.carry import explains, pool_maps
from tumoratlas.review.merge.consensus import open_contests, rule
from tumoratlas.review.merge.instances import Birth, Counts, MergedMask, Voxels, settle
from tumoratlas.review.merge.items import (
    CURRENT,
    Item,
    Maps,
    Masks,
    gather_items,
    merge_error,
    require_shape,
)


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
    bases: Sequence[Base] = (),
    blinded: Collection[str] = (),
    connectivity: int = 26,
) -> MergedMask:
    """Settle one case and organ from its source labels, its candidates and its events.

    Source labels need no signature. For the rest, the highest role counts for each candidate,
    and its readers must agree (`tumoratlas.review.merge.consensus.rule`). Added tumors can be
    decided on under their id; those of several people that overlap are one. Decisions on
    candidates of earlier maps are carried over (`tumoratlas.review.merge.carry`): candidates of
    the current map that they explain need none. ``contest`` decides nothing, but like every
    event it asks for a new signature. Until all is decided and signed, only source labels are
    released; ``withdraw`` takes back those as well.

    A senior's signature holds where it is the last that this senior said, in the ledger and in
    time, and everybody who did not sign like that spoke before it; a blinded one answers for its
    reader alone. So two who read without seeing each other's work both sign, in whatever order
    their work arrives, and neither buries what the other said.

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
        Returns the stored instance map of a ``mask_sha256``, or the map of a base.
    bases
        The maps of this case and organ that reviewers were ever shown.
    blinded
        Batches whose readers see nobody else's decisions.
    connectivity
        6, 18 or 26 neighbours make the instances of source labels.

    Raises
    ------
    ReviewError
        EVENT_FOREIGN, CANDIDATE_UNKNOWN, SOURCE_EVENT, MASK_GRID, MASK_VALUES, CONSERVATION.
    """
    subject = f"{case_id} {organ}"
    current = _check(case_id, organ, shape, source_lesions, candidates, candidate_ids, events)
    human = [(n, event) for n, event in enumerate(events) if event.role != "source"]
    timeline, valid = sorted(human, key=moment), standing(human)
    masks, maps = Masks(load_mask, shape), Maps(bases, candidate_ids)
    items = gather_items(case_id, organ, current, maps, timeline, valid, masks)
    # An added tumor whose add was undone is gone; a candidate waits for its decision.
    decided = pool_maps([item for item in items if item.events], masks)
    rulings = [(item, rule(item, masks)) for item in decided]
    reviewed = Births(case_id, organ, masks, rulings)
    names = {name: item.item_id for item in decided for name in item.claims}
    waiting = {name: voxels for name, voxels in current.items() if name not in names}
    inherited = reviewed.inherited(waiting, [i for i in decided if _is_earlier(i, maps)])
    undecided = sorted(waiting.keys() - inherited.keys())
    pending = reviewed.pending
    if undecided and any(maps.name(event.base_sha256) != CURRENT for _, event in valid):
        pending.append(f"{len(undecided)} new candidate{'s' * (len(undecided) > 1)}")
    else:
        pending += [f"{candidate_id}: undecided" for candidate_id in undecided]
    signature = _signature(human, valid, blinded)
    signed_by = signature.reviewer_id if signature else ""
    pending += reviewed.left_open(maps, signature, current)
    if not signed_by:
        pending.append("no senior sign_off after the last event")
    withdrawn = not signed_by and any(event.decision == "withdraw" for _, event in valid)
    labels_known = source_lesions is not None and not withdrawn
    births = []
    if labels_known:
        births = source_births(case_id, organ, source_lesions, events, connectivity)
    counts = Counts(source=len(births))
    origin = "source" if labels_known else ""
    if not pending:
        counts, origin = Counts(source=len(births), **reviewed.counts), "review"
        births += [_within(birth, births) for birth in reviewed.births]
    elif not valid:
        # Nobody has to look at a source's labels; once somebody did, the work must end.
        pending = [] if labels_known else pending
    settled = settle(subject, shape, births, counts)
    known_state = "present" if settled.lineage else "confirmed_empty"
    return MergedMask(
        **vars(settled),
        state=known_state if origin else "unknown",
        origin=origin,
        signed_by=signed_by if origin == "review" else "",
        pending=sorted(pending),
        undecided=undecided,
        inherited=inherited,
        contests=open_contests(rulings, valid, names, blinded),
    )


def _within(birth: Birth, labels: Sequence[Birth]) -> Birth:
    """Return an accepted candidate that a source's tumor explains cut to the source's voxels.

    The source's label came later and is the outline of the same tumor: no rim of the model's
    may be left around it.
    """
    same = [
        label
        for label in labels
        if label.kind == birth.kind and explains(label.voxels, birth.voxels, is_tumor=True)
    ]
    if birth.lineage.origin != "accept" or not same:
        return birth
    own = np.intersect1d(birth.voxels, np.concatenate([label.voxels for label in same]))
    return replace(birth, voxels=own)


def _is_earlier(item: Item, maps: Maps) -> bool:
    """Return whether a decision on an item was made on an earlier map."""
    bases = {maps.name(event.base_sha256) for _, event in item.events}
    return CURRENT not in item.maps or bases != {CURRENT}


def _check(
    case_id: str,
    organ: str,
    shape: tuple[int, int, int],
    source_lesions: NDArray[np.uint8] | None,
    candidates: NDArray[np.uint16] | None,
    candidate_ids: Mapping[int, str],
    events: Sequence[Event],
) -> dict[str, Voxels]:
    """Refuse what does not belong together; return the voxels of each candidate."""
    subject = f"{case_id} {organ}"
    if any((event.case_id, event.organ) != (case_id, organ) for event in events):
        raise merge_error("EVENT_FOREIGN", subject, "an event is about another case or organ")
    has_event = any(event.decision == "source_label" for event in events)
    if has_event != (source_lesions is not None):
        raise merge_error(
            "SOURCE_EVENT",
            subject,
            "source labels and a source_label event must come together",
            f"event {has_event}, labels {not has_event}",
        )
    if source_lesions is not None:
        require_shape(source_lesions, shape, subject)
        if source_lesions.max(initial=0) > max(KINDS):
            raise merge_error(
                "MASK_VALUES", subject, "source labels hold other values than 0, 1, 2"
            )
    regions: dict[int, Voxels] = {}
    if candidates is not None:
        require_shape(candidates, shape, subject)
        regions = voxels_by_label(candidates)
    if set(regions) != set(candidate_ids):
        raise merge_error(
            "MASK_VALUES",
            subject,
            "the candidate map and the candidate ids differ",
            f"labels {sorted(regions)}, ids {sorted(candidate_ids)}",
        )
    return {candidate_ids[number]: voxels for number, voxels in regions.items()}


def _signature(
    human: Sequence[Placed], valid: Sequence[Placed], blinded: Collection[str]
) -> Event | None:
    """Return the latest senior whose signature holds, or nothing."""
    stands = {event.event_id for _, event in valid}
    own: dict[str, list[Placed]] = defaultdict(list)
    for placed in human:
        own[placed[1].reviewer_id].append(placed)
    signed = {}
    for reviewer_id, said in own.items():
        last = said[-1][1]
        is_last = last.time >= max(event.time for _, event in said)
        if last.decision == "sign_off" and is_last and last.event_id in stands:
            signed[reviewer_id] = said[-1]
    unseen = [
        (number, event)
        for number, event in human
        if event.reviewer_id not in signed
        and not any(
            s[0] > number and s[1].time >= event.time and s[1].batch not in blinded
            for s in signed.values()
        )
    ]
    return None if unseen or not signed else max(signed.values(), key=moment)[1]
