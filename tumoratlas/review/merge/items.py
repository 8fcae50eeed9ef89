"""What is decided on: candidates of any map that was shown, and tumors that reviewers added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tumoratlas.candidates.hits import MINIMUM_IOU
from tumoratlas.core.errors import ReviewError
from tumoratlas.review.bases import Base
from tumoratlas.review.ledger import Event, Placed, moment
from tumoratlas.review.masks import voxels_by_label
from tumoratlas.review.merge.instances import Voxels, instance_id

# The candidate map in force, in `Item.maps`; earlier ones stand there by their hash.
CURRENT = ""


@dataclass
class Item:
    """One thing that people decide about.

    Attributes
    ----------
    item_id
        Id of a candidate, or of the first outline of an added tumor.
    claims
        Voxels of each id that decisions can name: one candidate; all outlines of an added
        tumor; what was found to be the same thing on several maps.
    maps
        The candidate maps that show it, or that were shown when it was added.
    is_added
        No candidate map shows it.
    events
        The standing decisions on it, by `moment`.
    adds
        The standing ``add`` events that drew an id.
    """

    item_id: str
    claims: dict[str, Voxels]
    maps: frozenset[str]
    is_added: bool = False
    events: list[Placed] = field(default_factory=list)
    adds: dict[str, list[Placed]] = field(default_factory=dict)


class Masks:
    """Stored instance maps of one case, each read once and checked against its grid."""

    def __init__(
        self, load_mask: Callable[[str], NDArray[np.uint16]], shape: tuple[int, int, int]
    ) -> None:
        self._load, self.shape = load_mask, shape
        self._read: dict[str, dict[int, Voxels]] = {}

    def regions(self, mask_sha256: str) -> dict[int, Voxels]:
        """Return the voxels of each instance of a stored map."""
        if mask_sha256 not in self._read:
            array = self._load(mask_sha256)
            require_shape(array, self.shape, mask_sha256)
            self._read[mask_sha256] = voxels_by_label(array)
        return self._read[mask_sha256]

    def only(self, event: Event) -> Voxels:
        """Return the one instance of an event's mask."""
        regions = list(self.regions(event.mask_sha256).values())
        if len(regions) != 1:
            raise merge_error(
                "MASK_VALUES",
                event.mask_sha256,
                f"the mask of an {event.decision} must hold one instance",
                f"it holds {len(regions)}",
            )
        return regions[0]


class Maps:
    """The candidate maps of a case's organ that reviewers may have seen."""

    def __init__(self, bases: Iterable[Base], candidate_ids: Mapping[int, str]) -> None:
        # Candidate ids are hashes of content, so that equal ids mean an equal map.
        self._bases = {
            CURRENT if dict(base.candidates) == dict(candidate_ids) else base.base_sha256: base
            for base in bases
        }
        self._names = {base.base_sha256: name for name, base in self._bases.items()}

    def name(self, base_sha256: str) -> str:
        """Return the map of this hash; one that is not known counts as the current one."""
        return self._names.get(base_sha256, CURRENT)

    def ids(self, base_sha256: str) -> list[str]:
        """Return the candidates of the map of this hash, none where it is not known."""
        name = self._names.get(base_sha256)
        return [] if name is None else list(self._bases[name].candidates.values())

    def showing(self, candidate_id: str) -> frozenset[str]:
        """Return the maps that show a candidate."""
        shown = self._bases.items()
        return frozenset(n for n, base in shown if candidate_id in base.candidates.values())

    def find(self, candidate_id: str, masks: Masks) -> Voxels | None:
        """Return the voxels of a candidate of any map, None where no map shows it."""
        for base in self._bases.values():
            for number, name in base.candidates.items():
                if name == candidate_id:
                    return masks.regions(base.base_sha256)[number]
        return None


def gather_items(
    case_id: str,
    organ: str,
    current: Mapping[str, Voxels],
    maps: Maps,
    timeline: Sequence[Placed],
    valid: Sequence[Placed],
    masks: Masks,
) -> list[Item]:
    """Return candidates and added tumors by id, with the standing events on each.

    Parameters
    ----------
    case_id, organ
        Whose they are.
    current
        Voxels of the candidates of the map in force.
    maps
        All maps that were shown.
    timeline, valid
        All events of people, and those that stand, by `moment`.
    masks
        The stored masks.

    Raises
    ------
    ReviewError
        CANDIDATE_UNKNOWN: an event names a candidate of a map that is not known.
    """
    by_id = {
        candidate_id: Item(
            candidate_id, {candidate_id: voxels}, maps.showing(candidate_id) | {CURRENT}
        )
        for candidate_id, voxels in current.items()
    }
    for item in _added(case_id, organ, maps, timeline, valid, masks):
        for tumor_id in item.claims:
            by_id.setdefault(tumor_id, item)
    for _, event in valid:
        name = event.candidate_id
        if name is None or name in by_id:
            continue
        voxels = maps.find(name, masks)
        if voxels is None:
            reason = "an event names a candidate that no known map shows"
            raise merge_error("CANDIDATE_UNKNOWN", f"{case_id} {organ}", reason, name)
        by_id[name] = Item(name, {name: voxels}, maps.showing(name))
    for placed in valid:
        name = placed[1].candidate_id
        if name is not None and placed[1].decision != "contest":
            by_id[name].events.append(placed)
    items = list({id(item): item for item in by_id.values()}.values())
    for item in items:
        item.events.sort(key=moment)
    return sorted(items, key=lambda item: item.item_id)


def _added(
    case_id: str,
    organ: str,
    maps: Maps,
    timeline: Sequence[Placed],
    valid: Sequence[Placed],
    masks: Masks,
) -> list[Item]:
    """Return the added tumors; outlines of one tumor by several people are one item."""
    stands = {event.event_id for _, event in valid}
    items: dict[str, Item] = {}
    for placed in timeline:
        _, event = placed
        if event.decision != "add":
            continue
        for piece in masks.regions(event.mask_sha256).values():
            tumor_id = instance_id(case_id, organ, masks.shape, piece)
            item = items.setdefault(
                tumor_id, Item(tumor_id, {tumor_id: piece}, frozenset(), is_added=True)
            )
            item.maps |= {maps.name(event.base_sha256)}
            if event.event_id in stands:
                item.events.append(placed)
                item.adds.setdefault(tumor_id, []).append(placed)
    joined: list[Item] = []
    for item in items.values():
        # An outline that was taken back joins nothing.
        same = [other for other in joined if item.adds and _is_same(item, other)]
        joined = [other for other in joined if all(other is not one for one in same)]
        joined.append(pool([*same, item]) if same else item)
    return joined


def _is_same(item: Item, other: Item) -> bool:
    pairs = ((a, b) for a in item.claims.values() for b in other.claims.values())
    return bool(other.adds) and any(iou(a, b) >= MINIMUM_IOU for a, b in pairs)


def pool(items: Sequence[Item]) -> Item:
    """Return one item for several that are the same thing; the first decided gives the id."""
    first = min(items, key=lambda item: (moment(item.events[0]), item.item_id))
    events = {placed[0]: placed for item in items for placed in item.events}
    return Item(
        item_id=first.item_id,
        claims={name: voxels for item in items for name, voxels in item.claims.items()},
        maps=frozenset().union(*(item.maps for item in items)),
        is_added=all(item.is_added for item in items),
        events=sorted(events.values(), key=moment),
        adds={name: placed for item in items for name, placed in item.adds.items()},
    )


def shared(first: Voxels, second: Voxels) -> int:
    """Return the number of voxels that two regions have in common."""
    if not len(first) or not len(second) or first[-1] < second[0] or second[-1] < first[0]:
        return 0
    return len(np.intersect1d(first, second, assume_unique=True))


def iou(first: Voxels, second: Voxels) -> float:
    """Return the intersection over union of two regions."""
    common = shared(first, second)
    return common / max(1, len(first) + len(second) - common)


def require_shape(array: NDArray[np.generic], shape: tuple[int, int, int], subject: str) -> None:
    """Refuse an array that does not have the shape of the case's grid."""
    if array.shape != shape:
        evidence = f"{array.shape}, not {shape}"
        raise merge_error("MASK_GRID", subject, "the mask is not on the case's grid", evidence)


def merge_error(code: str, subject: str, reason: str, evidence: str = "") -> ReviewError:
    """Return the error that leaves an organ unsettled."""
    return ReviewError(
        code, subject, reason, evidence=evidence,
        remedy="Build candidates and ledger from the same working directory",
    )  # fmt: skip
