"""Decisions travel to new candidates: a new model or threshold costs no reader's work.

A decision is about the candidate of the map that its reader saw. When the map changes, a tumor
that people confirmed stays one, with its outline and its id, and only candidates that no earlier
decision explains have to be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tumoratlas.candidates.hits import MINIMUM_IOU
from tumoratlas.review.ledger import moment
from tumoratlas.review.merge.consensus import Ruling, rule
from tumoratlas.review.merge.instances import Voxels
from tumoratlas.review.merge.items import Item, Masks, iou, pool, shared


@dataclass
class _Link:
    """An item, what earlier decisions say about it, and the later item that is the same."""

    item: Item
    ruling: Ruling
    later: _Link | None = None
    members: list[Item] = field(default_factory=list)

    @property
    def last(self) -> _Link:
        """The latest item of the chain."""
        return self if self.later is None else self.later.last

    def maps(self) -> frozenset[str]:
        """Return the maps of this item and of all later ones of the chain."""
        return self.item.maps | (self.later.maps() if self.later else frozenset())


def pool_maps(items: Sequence[Item], masks: Masks) -> list[Item]:
    """Join decided items of different maps that are the same thing.

    Each item joins the later decided one, of a map that does not show it, that `explains` says
    is the same; of several the one with the largest overlap. So several earlier items may become
    one, as when a new model sees two tumors as one and a reader agrees, but two of one map never
    do. Events of all then count together: a reader's new decision replaces the earlier one, and
    another reader's contests it.

    Parameters
    ----------
    items
        Items with decisions.
    masks
        The stored masks.
    """
    if len({frozenset(item.maps) for item in items}) < 2:
        return list(items)
    by_time = sorted(items, key=lambda item: (moment(item.events[-1]), item.item_id))
    links: list[_Link] = []
    for item in reversed(by_time):
        link = _Link(item, rule(item, masks))
        extent = _extent(link)
        same = [
            (iou(extent, voxels), other.item.item_id, other)
            for other in links
            if not item.maps & other.maps()
            for voxels in [_region(other.item)]
            if explains(extent, voxels, is_tumor=link.ruling.verdict != "reject")
        ]
        link.later = max(same, key=lambda found: found[:2])[2] if same else None
        links.append(link)
    for link in links:
        link.last.members.append(link.item)
    pooled = [pool(link.members) for link in links if link.members]
    return sorted(pooled, key=lambda item: item.item_id)


def explains(known: Voxels, candidate: Voxels, *, is_tumor: bool) -> bool:
    """Return whether what people decided on one region settles a candidate of another map.

    A tumor does where the intersection over union is at least `MINIMUM_IOU`, or where it covers
    more than half of the candidate; a rejected region where it covers at least half.
    """
    common = shared(known, candidate)
    if not is_tumor:
        return 2 * common >= len(candidate) > 0
    return 2 * common > len(candidate) or iou(known, candidate) >= MINIMUM_IOU


def inherit(
    undecided: Mapping[str, Voxels],
    tumors: Sequence[tuple[str, Voxels]],
    rejected: Sequence[Voxels],
) -> dict[str, str]:
    """Return the candidates that earlier decisions settle.

    Parameters
    ----------
    undecided
        Voxels of the candidates that nobody decided on.
    tumors
        Id and voxels of tumors that were confirmed on earlier maps.
    rejected
        Candidates and added tumors of earlier maps that are none.

    Returns
    -------
    The tumor that overlaps most for each candidate that tumors explain, empty for one that
    stands rejected. Candidates that are not in it have to be read.
    """
    settled = {}
    all_tumors, all_rejected = _union([v for _, v in tumors]), _union(rejected)
    for candidate_id, voxels in sorted(undecided.items()):
        nearest = max(tumors, key=lambda tumor: (iou(tumor[1], voxels), tumor[0]), default=None)
        if nearest is not None and (
            explains(nearest[1], voxels, is_tumor=True)
            or 2 * shared(all_tumors, voxels) > len(voxels)
        ):
            settled[candidate_id] = nearest[0]
        elif explains(all_rejected, voxels, is_tumor=False):
            settled[candidate_id] = ""
    return settled


def _region(item: Item) -> Voxels:
    return _union(list(item.claims.values()))


def _extent(link: _Link) -> Voxels:
    """Return where an item is by the decisions on it; nowhere where nobody decided."""
    if link.ruling.verdict == "uncertain":
        return np.zeros(0, np.int64)
    outline = link.ruling.outline
    return _region(link.item) if outline is None else _union(outline.pieces)


def _union(regions: Sequence[Voxels]) -> Voxels:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *regions]))
