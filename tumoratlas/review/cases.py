"""Cases as review sees them: the scan, what sources annotated, and the candidates."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.files import sha256_json
from tumoratlas.core.runner import finished_folders, read_record
from tumoratlas.core.structures import organ_mask
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti
from tumoratlas.review.bases import Base, store_base
from tumoratlas.review.ledger import Event, make_event
from tumoratlas.review.masks import mask_sha256

CANDIDATES = "candidates.nii.gz"
Key = tuple[str, str]  # case and organ


@dataclass(frozen=True)
class ReviewCase:
    """A case as review sees it.

    Attributes
    ----------
    case_id
        Its id.
    folder, record
        Folder and record of harmonize_scans.
    grid
        Native grid.
    proposed
        Organ to the folder and record of propose_candidates.
    """

    case_id: str
    folder: Path
    record: Mapping[str, Any]
    grid: Grid
    proposed: Mapping[str, tuple[Path, Mapping[str, Any]]]

    @property
    def annotated(self) -> Mapping[str, Mapping[str, str]]:
        """Organs whose tumors a source annotated, to the source's facts."""
        return self.record["row"]["annotated"]

    def rows(self, organ: str) -> list[dict[str, Any]]:
        """Return the rows of an organ's candidates; none where it was not predicted."""
        return self.proposed[organ][1]["row"]["candidates"] if organ in self.proposed else []

    def candidate_ids(self, organ: str) -> dict[int, str]:
        """Return the candidate id of each label of an organ's map."""
        return {row["number"]: row["candidate_id"] for row in self.rows(organ)}

    def candidates(self, organ: str) -> NDArray[np.uint16]:
        """Return the map (z, y, x) of an organ's candidates; it may be empty."""
        if organ not in self.proposed:
            return np.zeros(self.grid.shape, np.uint16)
        path = self.proposed[organ][0] / CANDIDATES
        return read_nifti(path, max_voxels=int(np.prod(self.grid.shape))).array

    def base_sha256(self, organ: str) -> str:
        """Return the hash that names the map of an organ's candidates."""
        return mask_sha256(self.candidates(organ), self.grid)

    def organ_mask(self, organ: str) -> NDArray[np.bool_] | None:
        """Return the organ's mask (z, y, x), or None where the organ is unknown."""
        mask = organ_mask(_planes(self.folder), organ)
        return mask if mask.any() else None

    def hashes(self) -> dict[str, str]:
        """Return the content hashes of all that review reads of the case."""
        own = {name: facts["sha256"] for name, facts in self.record["outputs"].items()}
        theirs = {
            f"{organ}/{name}": facts["sha256"]
            for organ, (_, record) in self.proposed.items()
            for name, facts in record["outputs"].items()
        }
        facts = {organ: sha256_json(facts) for organ, facts in self.annotated.items()}
        return own | theirs | facts


@lru_cache(maxsize=1)  # the organs of a case follow one another
def _planes(folder: Path) -> NDArray[np.uint32]:
    return read_array(folder / "structures.b2nd")[0]


class Bases(Mapping[Key, str]):
    """Hash of the candidate map of every case and organ that reviewers are asked about.

    A map is read when its hash is asked for: few of a run's maps are spoken of in what comes
    back at a time.
    """

    def __init__(self, cases: Iterable[ReviewCase], organs: Iterable[str]) -> None:
        self._cases = {
            (case.case_id, organ): case
            for case in cases
            for organ in organs
            if organ not in case.annotated
        }
        self._known: dict[Key, str] = {}

    def __getitem__(self, key: Key) -> str:
        if key not in self._known:
            self._known[key] = self._cases[key].base_sha256(key[1])
        return self._known[key]

    def __contains__(self, key: object) -> bool:
        return key in self._cases

    def __iter__(self) -> Iterator[Key]:
        return iter(self._cases)

    def __len__(self) -> int:
        return len(self._cases)


def review_cases(harmonized: Iterable[Path], proposed: Iterable[Path]) -> Iterator[ReviewCase]:
    """Yield every case of the manifests of harmonize_scans and propose_candidates, by id."""
    by_case: dict[str, dict[str, tuple[Path, Mapping[str, Any]]]] = defaultdict(dict)
    for name, folder in finished_folders(proposed).items():
        organ, case_id = name.split("/")
        by_case[case_id][organ] = (folder, read_record(folder))
    for case_id, folder in finished_folders(harmonized).items():
        record = read_record(folder)
        grid = Grid.from_json(record["row"]["grid"])
        yield ReviewCase(case_id, folder, record, grid, by_case.get(case_id, {}))


def source_events(cases: Iterable[ReviewCase]) -> list[Event]:
    """Return the ``source_label`` event of every annotated organ; they need no signature."""
    events = []
    for case in cases:
        for organ, facts in sorted(case.annotated.items()):
            events.append(
                make_event(
                    stage="harmonize",
                    batch="sources",
                    case_id=case.case_id,
                    organ=organ,
                    candidate_id=None,
                    reviewer_id=facts["source"],
                    role="source",
                    decision="source_label",
                    mask_sha256=case.record["outputs"][f"lesions_{organ}.b2nd"]["sha256"],
                )
            )
    return events


def store_bases(
    lines: Iterable[Mapping[str, Any]], cases: Mapping[str, ReviewCase], store: Path
) -> Iterator[Base]:
    """Keep the candidate maps that new assignments show (`store_base`)."""
    for line in lines:
        case = cases[line["case_id"]]
        for organ in line["organs"]:
            yield shown_base(case, organ, store)


def shown_base(case: ReviewCase, organ: str, store: Path) -> Base:
    """Keep the present candidate map of a case and organ."""
    return store_base(
        store,
        case_id=case.case_id,
        organ=organ,
        candidates=case.candidates(organ),
        candidate_ids=case.candidate_ids(organ),
        grid=case.grid,
    )


def blinded_batches(lines: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the batches of ``records/batches.jsonl`` whose readers see nobody else's decisions."""
    return {line["batch"] for line in lines if line["kind"] != "adjudicate"}
