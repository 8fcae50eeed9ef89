"""Tumor instances of a final mask: their ids, their lineage, and who keeps a shared voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.files import sha256_bytes, sha256_json
from tumoratlas.review.masks import voxels_by_label

Kind = Literal["tumor", "cyst"]
Origin = Literal["source", "accept", "edit", "split", "merge", "add"]
State = Literal["present", "confirmed_empty", "unknown"]
Voxels = NDArray[np.int64]

# Who keeps a voxel that two instances claim: a drawn outline before a source's, that before a
# model's.
_RANK = {"accept": 0, "source": 1, "edit": 2, "split": 2, "merge": 2, "add": 2}


@dataclass(frozen=True)
class Lineage:
    """Where an instance comes from.

    Attributes
    ----------
    tumor_id
        Stable id: the candidate's for an accepted or edited candidate, else
        `instance_id` of the voxels at birth.
    origin
        The step that gave the outline.
    candidate_ids, event_ids, reviewers
        Candidates and events that led to it, and the people who decided (no source).
    """

    tumor_id: str
    origin: Origin
    candidate_ids: tuple[str, ...]
    event_ids: tuple[str, ...]
    reviewers: tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """Voxels that one instance lost to another."""

    loser_id: str
    winner_id: str
    voxels: int


@dataclass(frozen=True)
class Contest:
    """A disagreement that a senior who took no part has to settle.

    Attributes
    ----------
    candidate_id
        What it is about, empty for the organ.
    why
        What people disagree on, in words.
    parties
        Who took part, sorted.
    """

    candidate_id: str
    why: str
    parties: tuple[str, ...]


@dataclass(frozen=True)
class Counts:
    """Where the instances of a final mask come from, and what became of the rest.

    The conservation law: the instances are source + accepted + added + carried + split_off -
    merged_away - swallowed.

    Attributes
    ----------
    source
        Instances of the source's labels.
    accepted
        Candidates of the current map that are tumors.
    edited
        Accepted and carried ones whose outline a reviewer drew or readers' outlines gave.
    added
        Tumors that reviewers added.
    carried
        Candidates and added tumors of earlier maps that no decision on the current one is about.
    split_off
        Parts of split tumors beyond the first of each.
    merged_away
        Members of merged tumors beyond the first of each.
    rejected
        Candidates and added tumors that are none.
    swallowed
        Instances whose every voxel went to others.
    """

    source: int = 0
    accepted: int = 0
    edited: int = 0
    added: int = 0
    carried: int = 0
    split_off: int = 0
    merged_away: int = 0
    rejected: int = 0
    swallowed: int = 0


@dataclass(frozen=True)
class MergedMask:
    """The final mask of one case and organ.

    Attributes
    ----------
    instances
        uint16 (z, y, x): 0 background, 1 .. n tumors before cysts, larger ones first, ties by
        first voxel.
    kinds, lineage
        What each label is and where it comes from.
    state
        ``present`` (some instance), ``confirmed_empty``, or ``unknown``: not annotated or not
        settled, then no instance is released.
    origin
        ``source`` or ``review``: what the state rests on; empty where unknown.
    signed_by
        The senior reviewer whose signature holds, or empty.
    pending
        What still has to be decided, in words.
    overlaps
        Voxels that were claimed twice.
    counts
        Where the instances come from; zeros where unknown.
    undecided
        Candidates of the current map that somebody has to look at.
    inherited
        Candidates of the current map that decisions on earlier maps settle, to the tumor that
        explains each; empty for those that stand rejected.
    contests
        Disagreements that are open.
    """

    instances: NDArray[np.uint16]
    kinds: dict[int, Kind]
    lineage: dict[int, Lineage]
    state: State
    origin: Literal["source", "review", ""]
    signed_by: str
    pending: list[str]
    overlaps: list[Overlap]
    counts: Counts
    undecided: list[str]
    inherited: dict[str, str]
    contests: list[Contest]


@dataclass(frozen=True)
class Settled:
    """Instances after overlaps are settled; the fields are those of `MergedMask`."""

    instances: NDArray[np.uint16]
    kinds: dict[int, Kind]
    lineage: dict[int, Lineage]
    overlaps: list[Overlap]
    counts: Counts


@dataclass(frozen=True)
class Birth:
    """An instance before overlaps are settled.

    Attributes
    ----------
    voxels
        Raster indices, int64 (n,).
    kind, lineage
        What it is and where it comes from.
    drawn
        Time and ledger position of the event that gave the outline.
    """

    voxels: Voxels
    kind: Kind
    lineage: Lineage
    drawn: tuple[str, int]


def instance_id(case_id: str, organ: str, shape: Sequence[int], voxels: Voxels) -> str:
    """Return the id (16 hexadecimal digits) of an instance by its voxels' raster indices."""
    content = sha256_bytes(np.ascontiguousarray(voxels, dtype="<i8").tobytes())
    return sha256_json([case_id, organ, [int(n) for n in shape], content])[:16]


def settle(
    subject: str, shape: tuple[int, int, int], births: Sequence[Birth], counts: Counts
) -> Settled:
    """Settle overlaps, number what is left of the instances, and check that none got lost.

    A voxel claimed twice goes to the outline that a reviewer drew, then to a source's, then to a
    model's; between drawn outlines to the later one. An instance without voxels left is gone.

    Parameters
    ----------
    subject
        Case and organ, for errors.
    shape
        (z, y, x) of the grid.
    births
        The instances.
    counts
        Where they come from, counted from the decisions.

    Raises
    ------
    ReviewError
        MASK_VALUES: more instances than uint16 can number. CONSERVATION.
    """
    births = sorted(births, key=_precedence)
    owner = np.zeros(shape, np.uint16)
    flat = owner.ravel()
    if len(births) > np.iinfo(np.uint16).max:
        raise ReviewError(
            "MASK_VALUES",
            births[0].lineage.tumor_id,
            "too many instances",
            remedy="Raise the threshold",
            evidence=str(len(births)),
        )
    overlaps: list[Overlap] = []
    for number, birth in enumerate(births, start=1):
        lost, sizes = np.unique(flat[birth.voxels], return_counts=True)
        for loser, count in zip(lost, sizes, strict=True):
            if loser:
                loser_id = births[int(loser) - 1].lineage.tumor_id
                overlaps.append(Overlap(loser_id, birth.lineage.tumor_id, int(count)))
        flat[birth.voxels] = number
    # Whole scans are a thousand times what tumors fill: only claimed voxels are looked at.
    claimed = np.unique(np.concatenate([np.zeros(0, np.int64), *(b.voxels for b in births)]))
    left = {n: claimed[places] for n, places in voxels_by_label(flat[claimed]).items()}
    order = sorted(
        left, key=lambda n: (births[n - 1].kind != "tumor", -len(left[n]), int(left[n][0]))
    )
    ranked = {label: births[number - 1] for label, number in enumerate(order, start=1)}
    instances = np.zeros(shape, np.uint16)
    for label, number in enumerate(order, start=1):
        instances.ravel()[left[number]] = label
    counts = replace(counts, swallowed=sum(n not in left for n in range(1, len(births) + 1)))
    check_conservation(subject, counts, len(np.unique(instances.ravel()[claimed])))
    return Settled(
        instances=instances,
        kinds={label: birth.kind for label, birth in ranked.items()},
        lineage={label: birth.lineage for label, birth in ranked.items()},
        overlaps=overlaps,
        counts=counts,
    )


def check_conservation(subject: str, counts: Counts, instances: int) -> None:
    """Check that decisions and labels account for every instance, see `Counts`.

    Raises
    ------
    ReviewError
        CONSERVATION
    """
    gained = counts.source + counts.accepted + counts.added + counts.carried + counts.split_off
    expected = gained - counts.merged_away - counts.swallowed
    if expected != instances:
        numbers = ", ".join(f"{name} {n}" for name, n in asdict(counts).items() if n)
        raise ReviewError(
            "CONSERVATION",
            subject,
            "tumors were lost or made from nothing",
            remedy="Report a defect; the organ stays unsettled",
            evidence=f"{instances} instances, expected {expected}: {numbers}",
        )


def _precedence(birth: Birth) -> tuple[int, tuple[str, int], str]:
    return _RANK[birth.lineage.origin], birth.drawn, birth.lineage.tumor_id
