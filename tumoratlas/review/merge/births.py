"""The instances that sources and reviewers give, before overlaps are settled, and their counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tumoratlas.images.components import find_components
from tumoratlas.review.ledger import Event, moment
from tumoratlas.review.masks import voxels_by_label
from tumoratlas.review.merge.carry import inherit
from tumoratlas.review.merge.consensus import DRAWN, SAYS_TUMOR, Outline, Ruling
from tumoratlas.review.merge.instances import Birth, Kind, Lineage, Voxels, instance_id
from tumoratlas.review.merge.items import CURRENT, Item, Maps, Masks

KINDS: dict[int, Kind] = {1: "tumor", 2: "cyst"}


def source_births(
    case_id: str,
    organ: str,
    lesions: NDArray[np.uint8],
    events: Sequence[Event],
    connectivity: int,
) -> list[Birth]:
    """Return the instances of a source's labels: the connected components of each kind."""
    label_event = [event for event in events if event.decision == "source_label"][-1]
    births = []
    for value, kind in KINDS.items():
        found = find_components(lesions == value, connectivity=connectivity)
        labels = np.zeros(lesions.shape, np.uint32)
        labels[found.box] = found.labels
        for voxels in voxels_by_label(labels).values():
            tumor_id = instance_id(case_id, organ, lesions.shape, voxels)
            lineage = Lineage(tumor_id, "source", (), (label_event.event_id,), ())
            births.append(Birth(voxels, kind, lineage, ("", 0)))
    return births


class Births:
    """The instances that decisions give, where they come from, and what is open.

    Attributes
    ----------
    births
        One per tumor.
    pending
        What has no outcome yet, in words.
    counts
        Fields of `tumoratlas.review.merge.instances.Counts`.
    """

    def __init__(
        self, case_id: str, organ: str, masks: Masks, rulings: Sequence[tuple[Item, Ruling]]
    ) -> None:
        self._case_id, self._organ, self._masks = case_id, organ, masks
        self._merges: dict[str, list[tuple[Item, Ruling]]] = defaultdict(list)
        self._tumors: dict[str, list[tuple[str, Voxels]]] = defaultdict(list)
        self._rejected: dict[str, list[Voxels]] = {}
        self.births: list[Birth] = []
        self.pending: list[str] = []
        self.counts: Counter[str] = Counter()
        self._settled = {n for i, r in rulings if r.verdict != "uncertain" for n in i.claims}
        for item, ruling in rulings:
            self._take(item, ruling)
        self._join_merges([item for item, _ in rulings])

    def inherited(self, undecided: Mapping[str, Voxels], earlier: Iterable[Item]) -> dict[str, str]:
        """Return the undecided candidates that decisions on earlier items settle."""
        names = [item.item_id for item in earlier]
        tumors = [tumor for name in names for tumor in self._tumors[name]]
        rejected = [voxels for name in names for voxels in self._rejected.get(name, [])]
        return inherit(undecided, tumors, rejected)

    def left_open(
        self, maps: Maps, signature: Event | None, current: Mapping[str, Voxels]
    ) -> list[str]:
        """Return what the signer's map, if it is an earlier one, shows and nobody decided.

        Such a signature never settled the organ, and a new map that no longer shows what was
        open must not bring it to life.
        """
        if signature is None or maps.name(signature.base_sha256) == CURRENT:
            return []
        shown = {c: maps.find(c, self._masks) for c in maps.ids(signature.base_sha256)}
        left = {c: v for c, v in shown.items() if c not in current and c not in self._settled}
        explained = inherit(
            left,
            [t for tumors in self._tumors.values() for t in tumors],
            [v for rejected in self._rejected.values() for v in rejected],
        )
        return [f"{c}: open when it was signed" for c in sorted(left.keys() - explained.keys())]

    def _take(self, item: Item, ruling: Ruling) -> None:
        if ruling.verdict == "contested":
            self.pending.append(f"{item.item_id}: contested by {ruling.why}")
        elif ruling.verdict == "uncertain":
            # On an earlier map it is no decision, unless somebody saw a tumor.
            says = any(event.decision in SAYS_TUMOR for _, event in item.events)
            if CURRENT in item.maps or says:
                self.pending.append(f"{item.item_id}: uncertain")
        elif ruling.outline is None:
            self.counts["rejected"] += 1
            self._rejected[item.item_id] = list(item.claims.values())
        else:
            self._count(item, ruling.outline)
            if ruling.outline.origin == "merge":
                mask = ruling.outline.events[-1][1].mask_sha256
                self._merges[mask].append((item, ruling))
                return
            many = ruling.outline.origin == "split" or len(ruling.outline.pieces) > 1
            for voxels in ruling.outline.pieces:
                tumor_id = self._id(voxels) if many else item.item_id
                self._bear(voxels, tumor_id, [(item, ruling)])

    def _join_merges(self, items: Iterable[Item]) -> None:
        """Make one tumor of the items of each merge, once all are taken in."""
        asked: dict[str, set[str]] = defaultdict(set)
        for item in items:
            for _, event in item.events:
                if event.decision == "merge":
                    asked[event.mask_sha256].add(item.item_id)
        for mask, members in sorted(self._merges.items()):
            if asked[mask] != {item.item_id for item, _ in members}:
                names = ", ".join(sorted(asked[mask]))
                self.pending.append(f"merge of {names}: contradicted by a decision on one of them")
                continue
            self.counts["merged_away"] += len(members) - 1
            latest = max(members, key=lambda member: moment(member[1].outline.events[-1]))
            [voxels] = latest[1].outline.pieces
            self._bear(voxels, self._id(voxels), members)

    def _count(self, item: Item, outline: Outline) -> None:
        kind = "added" if item.is_added else "accepted"
        several = len(outline.pieces) if outline.origin == "add" else 1
        self.counts[kind if CURRENT in item.maps else "carried"] += several
        self.counts["edited"] += outline.origin in DRAWN
        if outline.origin == "split":
            self.counts["split_off"] += len(outline.pieces) - 1

    def _id(self, voxels: Voxels) -> str:
        return instance_id(self._case_id, self._organ, self._masks.shape, voxels)

    def _bear(self, voxels: Voxels, tumor_id: str, members: Sequence[tuple[Item, Ruling]]) -> None:
        """Add an instance that the decisions on one or more items give."""
        outline = members[0][1].outline
        events = {placed[0]: placed for _, ruling in members for placed in ruling.events}
        drawn = max(moment(p) for _, ruling in members for p in ruling.outline.events)
        ids = [name for item, _ in members for name in item.claims if name not in item.adds]
        if not ids and outline.origin != "add":
            ids = [item.item_id for item, _ in members]
        lineage = Lineage(
            tumor_id=tumor_id,
            origin=outline.origin,
            candidate_ids=tuple(sorted(ids)),
            event_ids=tuple(e.event_id for _, e in sorted(events.values(), key=moment)),
            reviewers=tuple(sorted({event.reviewer_id for _, event in events.values()})),
        )
        self.births.append(Birth(voxels, "tumor", lineage, drawn))
        for item, _ in members:
            self._tumors[item.item_id].append((tumor_id, voxels))
