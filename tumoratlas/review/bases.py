"""What reviewers were shown: the candidate maps of issued batches, kept for good.

A decision speaks about the map that its reviewer saw. A new model or threshold makes new
candidates, and earlier decisions can be understood, and carried over, only if the earlier map is
still known. The maps lie in the mask store under their hash; ``records/bases.jsonl`` says whose
they are and which candidate each number is, in one line for each:
``{"base_sha256", "case_id", "organ", "candidates": {"1": "<candidate_id>", ...}}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.records import append_lines, read_lines
from tumoratlas.images.grid import Grid
from tumoratlas.review.masks import store_mask, voxels_by_label

# Case, organ and hash of the map: equal maps of two organs (empty ones) have equal hashes.
BaseKey = tuple[str, str, str]


@dataclass(frozen=True)
class Base:
    """A candidate map that was shown.

    Attributes
    ----------
    base_sha256
        Its hash, `tumoratlas.review.masks.mask_sha256`, and name in the mask store.
    case_id, organ
        Whose it is.
    candidates
        Candidate id of each of its labels.
    """

    base_sha256: str
    case_id: str
    organ: str
    candidates: Mapping[int, str]

    @property
    def key(self) -> BaseKey:
        """Case, organ and hash."""
        return self.case_id, self.organ, self.base_sha256


def store_base(
    store: Path,
    *,
    case_id: str,
    organ: str,
    candidates: NDArray[np.uint16],
    candidate_ids: Mapping[int, str],
    grid: Grid,
) -> Base:
    """Keep the map that a batch shows; call it when the batch is issued, then `record_bases`.

    Parameters
    ----------
    store
        Folder of masks, `tumoratlas.review.masks.store_mask`.
    case_id, organ
        Whose map it is.
    candidates
        uint16 (z, y, x), 0 or a candidate's number.
    candidate_ids
        Candidate id of each number.
    grid
        The native grid.

    Raises
    ------
    ValueError
        The map's labels are not the numbers of the candidates.
    """
    if set(voxels_by_label(candidates)) != set(candidate_ids):
        raise ValueError(f"{case_id} {organ}: the map's labels are not the candidates' numbers")
    sha256 = store_mask(store, candidates, grid)
    return Base(sha256, case_id, organ, dict(sorted(candidate_ids.items())))


def record_bases(path: Path, bases: Iterable[Base]) -> None:
    """Append to the record of bases those that it lacks.

    Raises
    ------
    ReviewError
        BASE_CONFLICT: the same map of the same case and organ with other candidates.
    """
    known = read_bases(path)
    new: dict[BaseKey, Base] = {}
    for base in bases:
        before = known.get(base.key, new.get(base.key))
        if before is None:
            new[base.key] = base
        elif before.candidates != base.candidates:
            raise ReviewError(
                "BASE_CONFLICT",
                path,
                f"{base.case_id} {base.organ}: one map with two lists of candidates",
                remedy="Restore the file from its backup, or report a defect",
                evidence=base.base_sha256[:12],
            )
    lines = [
        {
            "base_sha256": base.base_sha256,
            "case_id": base.case_id,
            "organ": base.organ,
            "candidates": {str(number): name for number, name in base.candidates.items()},
        }
        for base in new.values()
    ]
    append_lines(path, lines)


def read_bases(path: Path) -> dict[BaseKey, Base]:
    """Return every map that was ever shown; an absent record has none.

    Raises
    ------
    InputError
        RECORDS: a line is damaged.
    """
    bases = [
        Base(
            line["base_sha256"],
            line["case_id"],
            line["organ"],
            {int(number): name for number, name in line["candidates"].items()},
        )
        for line in read_lines(path)
    ]
    return {base.key: base for base in bases}
