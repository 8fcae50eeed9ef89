"""Tumor instances of a final mask: their ids, their lineage, and who keeps a shared voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """

    instances: NDArray[np.uint16]
    kinds: dict[int, Kind]
    lineage: dict[int, Lineage]
    state: State
    origin: Literal["source", "review", ""]
    signed_by: str
    pending: list[str]
    overlaps: list[Overlap]


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
    shape: tuple[int, int, int],
    births: Sequence[Birth],
    origin: Literal["source", "review"],
    signed_by: str,
    pending: list[str],
) -> MergedMask:
    """Settle overlaps and number what is left of the instances.

    A voxel claimed twice goes to the outline that a reviewer drew, then to a source's, then to a
    model's; between drawn outlines to the later one. An instance without voxels left is gone.

    Raises
    ------
    ReviewError
        MASK_VALUES: more instances than uint16 can number.
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
        lost, counts = np.unique(flat[birth.voxels], return_counts=True)
        for loser, count in zip(lost, counts, strict=True):
            if loser:
                loser_id = births[int(loser) - 1].lineage.tumor_id
                overlaps.append(Overlap(loser_id, birth.lineage.tumor_id, int(count)))
        flat[birth.voxels] = number
    left = voxels_by_label(owner)
    order = sorted(
        left, key=lambda n: (births[n - 1].kind != "tumor", -len(left[n]), int(left[n][0]))
    )
    renumbered = np.zeros(len(births) + 1, np.uint16)
    renumbered[order] = np.arange(1, len(order) + 1)
    ranked = {label: births[number - 1] for label, number in enumerate(order, start=1)}
    return MergedMask(
        instances=renumbered[owner],
        kinds={label: birth.kind for label, birth in ranked.items()},
        lineage={label: birth.lineage for label, birth in ranked.items()},
        state="present" if ranked else "confirmed_empty",
        origin=origin,
        signed_by=signed_by,
        pending=pending,
        overlaps=overlaps,
    )


def _precedence(birth: Birth) -> tuple[int, tuple[str, int], str]:
    return _RANK[birth.lineage.origin], birth.drawn, birth.lineage.tumor_id
