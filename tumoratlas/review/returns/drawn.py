"""What a returned mask means for its decision: which segments count, and whether they fit."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from tumoratlas.review.ledger import MASK_DECISIONS
from tumoratlas.review.masks import Segment
from tumoratlas.review.returns.forms import Row

# How packets name a candidate's segment; tools that drop tags keep the name.
SEGMENT_NAME = re.compile(r"(\w+) candidate (\d+)")


def partners(row: Row, rows: Iterable[Row]) -> list[Row]:
    """Return the rows that name the same mask file, the row itself included."""
    return [r for r in rows if r.cells["mask"] and r.mask == row.mask]


def check_sharing(row: Row, found: Iterable[Row], left_out: Collection[str]) -> None:
    """Check which rows share a file: edits may, lines of one merge must, others may not.

    Parameters
    ----------
    row
        A row that is good so far.
    found
        All rows that came back, each once.
    left_out
        Ids of those that are not taken in.

    Raises
    ------
    ReviewError
        MASK_SHARED, MERGE_INCOMPLETE.
    """
    decision = row.cells["decision"]
    if decision not in MASK_DECISIONS or row.drawn is not None:
        return
    sharing = partners(row, found)
    same = {(r.cells["decision"], *r.key, r.cells["reviewer_id"]) for r in sharing}
    if len(same) > 1 or (decision in ("add", "split") and len(sharing) > 1):
        raise row.error(
            "MASK_SHARED",
            f"the mask of this {decision} is named by other lines",
            "Save a mask file of its own for each add, split and merge",
            ", ".join(sorted(r.id for r in sharing)),
        )
    if decision == "merge":
        refused = sorted(r.id for r in sharing if r.id in left_out)
        if refused or len({r.cells["candidate_id"] for r in sharing}) < 2:
            raise row.error(
                "MERGE_INCOMPLETE",
                "a merge needs two or more good lines",
                "Write a line for each merged candidate with the same mask",
                ", ".join(refused),
            )


def instances(
    row: Row,
    wanted: Collection[str],
    numbers: Mapping[str, int],
    segments: Iterable[Segment],
    shape: tuple[int, int, int],
) -> NDArray[np.uint16]:
    """Return the instance map (z, y, x) that a row's mask means.

    Parameters
    ----------
    row
        The row.
    wanted
        Candidates that the mask is about: of a merge all, else the row's own.
    numbers
        Number of each candidate id that the reviewer saw.
    segments
        What the row's file holds; not needed for a row that brings its mask along.
    shape
        Of the native grid.

    Raises
    ------
    ReviewError
        MASK_SEGMENT, MASK_OVERLAP, MASK_OTHER_CASE.
    """
    if row.drawn is not None:
        labels = np.zeros(shape, np.uint16)
        for label, voxels in enumerate(row.drawn, start=1):
            labels.ravel()[voxels] = label
        return labels
    decision = row.cells["decision"]
    own, new = [], []
    for segment in segments:
        candidate = _candidate_of(segment, numbers, row)
        if candidate in wanted:
            own.append(segment)
        elif candidate is None:
            new.append(segment)
    pieces = {"edit": own, "split": own + new, "merge": own + new, "add": new}[decision]
    fits = {"edit": len(pieces) == 1, "split": len(pieces) > 1}.get(decision, len(pieces) > 0)
    if not fits:
        raise row.error(
            "MASK_SEGMENT",
            f"the mask does not hold what {decision} needs",
            "edit: the candidate's own segment (label = its number); split: two or more; add: "
            "segments that are no candidate's (labels above the highest number)",
            f"{len(own)} segments of this candidate, {len(new)} new ones",
        )
    labels = np.zeros(shape, np.uint16)
    for label, piece in enumerate(pieces, start=1):
        if decision != "merge" and labels.ravel()[piece.voxels].any():
            raise row.error(
                "MASK_OVERLAP", "two segments overlap", "Give each voxel to one tumor", piece.name
            )
        labels.ravel()[piece.voxels] = 1 if decision == "merge" else label
    return labels


def check_shown(
    row: Row,
    labels: NDArray[np.uint16],
    wanted: Collection[str],
    numbers: Mapping[str, int],
    shown: NDArray[np.uint16],
) -> None:
    """Compare a mask with the candidates that its reviewer was shown.

    Parameters
    ----------
    row, wanted, numbers
        As of `instances`.
    labels
        What `instances` returned (z, y, x).
    shown
        The candidate map that the row's base hash names (z, y, x).

    Raises
    ------
    ReviewError
        EDIT_UNCHANGED, MASK_ELSEWHERE, ADD_KNOWN.
    """
    decision, drawn = row.cells["decision"], labels > 0
    own = np.isin(shown, [numbers[name] for name in wanted if name in numbers])
    if decision == "edit" and np.array_equal(drawn, own):
        raise row.error(
            "EDIT_UNCHANGED",
            "the edited outline is the candidate's, voxel by voxel",
            "Decide accept, or save the edited segment",
        )
    if decision != "add" and not (drawn & own).any():
        raise row.error(
            "MASK_ELSEWHERE",
            f"the mask of this {decision} shares no voxel with its candidate",
            "Draw over the candidate; to replace it, decide reject and add",
        )
    values = np.unique(shown[drawn])
    if decision == "add" and len(values) == 1 and values[0]:
        if np.array_equal(drawn, shown == values[0]):
            raise row.error(
                "ADD_KNOWN",
                "the new tumor is a candidate, voxel by voxel",
                "Decide accept for the candidate",
                f"candidate {values[0]}",
            )


def _candidate_of(segment: Segment, numbers: Mapping[str, int], row: Row) -> str | None:
    """Return the candidate that a segment is, or None for a new one; a tag is stronger than a name.

    A number in a name or a label is never taken for another candidate's.
    """
    by_number = {number: candidate for candidate, number in numbers.items()}
    if segment.number is not None:
        return by_number.get(segment.number)
    named = SEGMENT_NAME.fullmatch(segment.name.strip())
    if segment.candidate_id is not None:
        candidate = segment.candidate_id
    elif named:
        candidate = by_number.get(int(named[2]), "") if named[1] == row.key[1] else ""
    else:
        candidate = segment.name if segment.name in numbers else None
    if candidate is not None and candidate not in numbers:
        raise row.error(
            "MASK_OTHER_CASE",
            "a segment belongs to another case or organ",
            "Send the mask that was drawn for this case and organ",
            f"{segment.name}: {segment.candidate_id or 'no such candidate'}",
        )
    return candidate
