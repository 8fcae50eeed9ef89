"""An approved label of MONAI Label, compared with what was sent: one decision per candidate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError, TumorAtlasError
from tumoratlas.core.files import sha256_bytes
from tumoratlas.images.inflate import read_bytes
from tumoratlas.review.masks import Segment, mask_error, voxels_by_label
from tumoratlas.review.packets.batch import DECISION_COLUMNS
from tumoratlas.review.packets.labels import LABELS_PER_ORGAN, ORGANS, add_labels, case_label
from tumoratlas.review.returns.decisions import Known
from tumoratlas.review.returns.drawn import SEGMENT_NAME
from tumoratlas.review.returns.forms import Problems, Row
from tumoratlas.review.returns.mask_files import read_returned

TOOL = "MONAI Label"
_LARGEST_BYTES = 1 << 32
_NEW = np.iinfo(np.uint16).max
_NOTHING = np.zeros(0, np.int64)
# What 3D Slicer numbers segments with, whatever they are.
_SLICER_LABELS = range(1, LABELS_PER_ORGAN)

Shown = Callable[[str], NDArray[np.uint16]]


@dataclass(frozen=True)
class ApprovedLabel:
    """The approved label of a case.

    Attributes
    ----------
    name
        Name of its datastore in reports.
    folder
        Folder of the datastore.
    case_id, tag
        Its case, and its tag in the datastore.
    info
        What the datastore says about it.
    bases
        Hash of the candidate map that was sent, by organ.
    file
        The label's file.
    """

    name: str
    folder: Path
    case_id: str
    tag: str
    info: Mapping[str, Any]
    bases: Mapping[str, str]
    file: Path

    @property
    def place(self) -> str:
        """Where it stands in the datastore."""
        return f"#{self.case_id}/{self.tag}"

    def candidates(self, known: Known) -> dict[str, Mapping[int, str]]:
        """Return the candidate id of each number, by organ."""
        return {o: known.issued[self.case_id, o, b].candidates for o, b in self.bases.items()}


def label_rows(
    label: ApprovedLabel, known: Known, shown: Shown, problems: Problems
) -> Iterator[Row]:
    """Yield a row for each candidate that a label holds, and one for the new tumors of an organ.

    Parameters
    ----------
    label
        The label; each of its bases is among ``known.issued``.
    known, shown, problems
        As of `tumoratlas.review.returns.monai.read_studies`.

    Raises
    ------
    ReviewError
        PATH_OUTSIDE, MONAI_CHANGED, BASE_STALE, and as `read_returned`.
    InputError
        The label's file is missing, not whole or too large.
    """
    found, new = _sorted_segments(label, known, problems)
    sent, full = _sent(label, known.grids[label.case_id].shape, shown)
    returned = np.zeros_like(sent)
    for (organ, number), segment in found.items():
        returned[segment.voxels] = case_label(organ, number)
    for segment in (segment for pieces in new.values() for segment in pieces):
        returned[segment.voxels] = _NEW
    seen_by_label, candidates = voxels_by_label(sent), label.candidates(known)
    head = _head(label)
    for (organ, number), segment in sorted(found.items()):
        value, own = case_label(organ, number), full[organ][number]
        cells = head | {
            "organ": organ,
            "candidate_id": candidates[organ][number],
            "base_sha256": label.bases[organ],
            "decision": "accept",
        }
        drawn = None
        seen = seen_by_label.get(value, _NOTHING)
        if not any(np.array_equal(segment.voxels, voxels) for voxels in (own, seen)):
            # What another organ's candidate covers in the map was not there to be edited.
            covered = own[(sent[own] != value) & (returned[own] == sent[own])]
            drawn = (np.union1d(segment.voxels, covered),)
            cells |= {"decision": "edit", "mask": _mask(label)}
        yield Row(label.name, f"{label.place}/{value}", label.folder, cells, drawn)
    for organ, pieces in sorted(new.items()):
        place = f"{label.place}/{organ} new"
        drawn = tuple(segment.voxels for segment in pieces)
        if len(np.unique(np.concatenate(drawn))) != sum(map(len, drawn)):
            reason, remedy = "two new tumors overlap", "Give each voxel to one tumor"
            error = mask_error("MASK_OVERLAP", label.name, reason, remedy, organ)
            problems.add(label.name + place, error)
            continue
        cells = head | {"organ": organ, "base_sha256": label.bases[organ]}
        cells |= {"decision": "add", "mask": _mask(label)}
        yield Row(label.name, place, label.folder, cells, drawn)


def _sorted_segments(
    label: ApprovedLabel, known: Known, problems: Problems
) -> tuple[dict[tuple[str, int], Segment], dict[str, list[Segment]]]:
    """Return the segments of candidates by organ and number, and the new ones by organ."""
    found: dict[tuple[str, int], Segment] = {}
    new: dict[str, list[Segment]] = defaultdict(list)
    for segment in _segments(label, known):
        try:
            organ, number = _identity(label, segment, label.candidates(known))
            if (organ, number) in found:
                raise _values(label, f"{organ} candidate {number} stands twice")
        except TumorAtlasError as error:
            problems.add(f"{label.name}{label.place}/{segment.name}", error)
            continue
        if number is None:
            new[organ].append(segment)
        else:
            found[organ, number] = segment
    return found, new


def _segments(label: ApprovedLabel, known: Known) -> list[Segment]:
    """Read a label's file, which must be the one that was saved and approved."""
    file = label.file
    if any(part.is_symlink() for part in (file, file.parent, file.parent.parent)):
        raise mask_error(
            "PATH_OUTSIDE", label.name, "the label is a symbolic link", "Send the file itself"
        )
    checksum = label.info.get("checksum")
    own = f"SHA256:{sha256_bytes(read_bytes(file, max_bytes=_LARGEST_BYTES))}"
    if checksum is not None and checksum != own:
        raise mask_error(
            "MONAI_CHANGED",
            label.name,
            "the label's file is not the one that was saved in MONAI Label",
            "Save and approve it again in MONAI Label",
            label.file.name,
        )
    return read_returned(file, known.grids[label.case_id])


def _sent(
    label: ApprovedLabel, shape: tuple[int, int, int], shown: Shown
) -> tuple[NDArray[np.uint16], dict[str, dict[int, NDArray[np.int64]]]]:
    """Return the flat map of all organs as it was sent, and each organ's candidates, whole."""
    sent, full = np.zeros(shape, np.uint16), {}
    for organ in sorted(label.bases, key=ORGANS.index):
        candidates = shown(label.bases[organ])
        if candidates.shape != shape:
            raise mask_error(
                "BASE_STALE",
                label.name,
                "the label was drawn on an earlier form of the scan",
                "Review the current packet",
                organ,
            )
        add_labels(sent, organ, candidates)
        full[organ] = voxels_by_label(candidates)
    return sent.ravel(), full


def _identity(
    label: ApprovedLabel, segment: Segment, candidates: Mapping[str, Mapping[int, str]]
) -> tuple[str, int | None]:
    """Return the organ of a segment and the number of its candidate, None for a new tumor.

    MONAI Label's 3D Slicer client numbers segments anew when it saves them as a label map, and
    keeps their names in ``label_info``.
    """
    for organ, ids in candidates.items():
        for number, candidate_id in ids.items():
            if candidate_id == segment.candidate_id:
                return organ, number
    value = segment.number
    names = {int(row["idx"]): str(row["name"]) for row in label.info.get("label_info") or []}
    title = (segment.name if value is None else names.get(value, "")).strip()
    named = SEGMENT_NAME.fullmatch(title)
    if named and int(named[2]) in candidates.get(named[1], {}):
        if value is None or value in (case_label(named[1], int(named[2])), *_SLICER_LABELS):
            return named[1], int(named[2])
        raise _values(label, f"label {value} is named {title}")
    if value is not None and value not in _SLICER_LABELS:
        place, number = divmod(value, LABELS_PER_ORGAN)
        organ = ORGANS[place - 1] if place <= len(ORGANS) else ""
        if organ in candidates and number in candidates[organ]:
            return organ, number
        if organ in candidates and number > max(candidates[organ], default=0):
            return organ, None
        raise _values(label, f"label {value}")
    organs = [organ for organ in candidates if title.lower().startswith(organ)] or list(candidates)
    if len(organs) == 1 and title and not named:
        return organs[0], None
    raise _values(label, f"{segment.name} {title}".strip())


def _values(label: ApprovedLabel, evidence: str) -> ReviewError:
    return mask_error(
        "MASK_VALUES",
        label.name,
        "the label is of no candidate and no new tumor of an organ",
        "Label a new tumor above the organ's highest candidate (1000 labels per organ), or give "
        "its segment a name that begins with the organ's",
        evidence[:200],
    )


def _mask(label: ApprovedLabel) -> str:
    return label.file.relative_to(label.folder).as_posix()


def _head(label: ApprovedLabel) -> dict[str, str]:
    meta = label.info["segmentationMeta"]
    return dict.fromkeys(DECISION_COLUMNS, "") | {
        "case_id": label.case_id,
        "reviewer_id": str(meta.get("approvedBy") or "").strip(),
        "time": _time(meta.get("editTime")),
        "comment": str(meta.get("comment") or "").strip(),
        "tool": TOOL,
    }


def _time(value: object) -> str:
    """Return a datastore's time (seconds since 1970, as number or text) as UTC."""
    try:
        return datetime.fromtimestamp(int(str(value)), UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return str(value or "")
