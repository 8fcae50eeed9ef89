"""The steps of review: packets out, returns in, masks merged."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.files import sha256_json
from tumoratlas.core.runner import Step, Task, finished_folders, read_record, run_shard
from tumoratlas.core.structures import organ_mask, tumor_structures
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti, write_nifti
from tumoratlas.review.ledger import Event, make_event
from tumoratlas.review.masks import load_mask, mask_sha256
from tumoratlas.review.merge import merge_organ
from tumoratlas.review.packets import write_packet
from tumoratlas.review.returns import read_returns

CANDIDATES = "candidates.nii.gz"


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

    def candidates(self, organ: str) -> tuple[NDArray[np.uint16], list[dict[str, Any]]]:
        """Return the map (z, y, x) of an organ's candidates and their rows; both may be empty."""
        if organ not in self.proposed:
            return np.zeros(self.grid.shape, np.uint16), []
        folder, record = self.proposed[organ]
        file = read_nifti(folder / CANDIDATES, max_voxels=int(np.prod(self.grid.shape)))
        return file.array, record["row"]["candidates"]

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


def export_packets(
    step: Step, manifest: Path, *, harmonized: Path, proposed: Path, organs: Sequence[str]
) -> None:
    """Write the packet of every case of the shard that has an organ to review (`run_shard`).

    Reviewers are asked about the organs that no source annotated.
    """

    def work(task: Task, folder: Path) -> dict[str, Any]:
        case: ReviewCase = task.data["case"]
        planes, _ = read_array(case.folder / "structures.b2nd")
        rows = []
        for organ in organs:
            if organ in case.annotated:
                continue
            candidates, found = case.candidates(organ)
            mask = organ_mask(planes, organ)
            rows += write_packet(
                folder,
                case_id=case.case_id,
                organ=organ,
                ct_path=case.folder / "ct.nii.gz",
                candidates=candidates,
                rows=found,
                organ_mask=mask if mask.any() else None,
                grid=case.grid,
                base_sha256=mask_sha256(candidates, case.grid),
            )
        return {"case_id": case.case_id, "worklist": rows}

    tasks = [
        Task(case.case_id, case.hashes(), {"case": case})
        for case in review_cases([harmonized], [proposed])
        if set(organs) - set(case.annotated)
    ]
    run_shard(step, tasks, work, manifest)


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


def returned_events(
    returns: Path,
    cases: Sequence[ReviewCase],
    *,
    organs: Sequence[str],
    reviewers: pd.DataFrame,
    store: Path,
    now: datetime,
) -> tuple[list[Event], list[dict[str, str]]]:
    """Read what reviewers sent back, one folder per batch below ``returns``.

    Returns
    -------
    Events not yet in a ledger, and ``excluded`` rows for the lines that cannot be taken in.
    """
    if not returns.is_dir():
        return [], []
    bases, candidates = {}, []
    for case in cases:
        for organ in organs:
            if organ not in case.annotated:
                shown, rows = case.candidates(organ)
                bases[case.case_id, organ] = mask_sha256(shown, case.grid)
                candidates += rows
    events, excluded = [], []
    for batch in sorted(path for path in returns.iterdir() if path.is_dir()):
        found, bad = read_returns(
            batch,
            batch=batch.name,
            candidates=pd.DataFrame(
                candidates, columns=["candidate_id", "number", "case_id", "organ"]
            ),
            bases=bases,
            grids={case.case_id: case.grid for case in cases},
            reviewers=reviewers,
            store=store,
            now=now,
        )
        events += found
        excluded += bad
    return events, excluded


def _unknown(case_id: str, organ: str, pending: list[str]) -> dict[str, Any]:
    texts = dict.fromkeys(("origin", "source", "label_licence", "signed_by"), "")
    row = {"case_id": case_id, "organ": organ, "state": "unknown", **texts}
    return row | {"resampled": False, "pending": pending}


def merge_masks(
    step: Step,
    manifest: Path,
    *,
    harmonized: Path,
    proposed: Path,
    events: Sequence[Event],
    store: Path,
    connectivity: int,
) -> None:
    """Settle the final masks of every case of the shard (see `run_shard` and `merge_organ`).

    Each known organ gets ``<organ>.nii.gz``, the uint16 instance map on the native grid. The
    row holds the ``masks`` rows, and kind and lineage of every instance.
    """

    def work(task: Task, folder: Path) -> dict[str, Any]:
        case: ReviewCase = task.data["case"]
        row: dict[str, Any] = {"case_id": case.case_id, "masks": [], "instances": {}}
        row["excluded_masks"] = []
        for organ in tumor_structures():
            own = [event for event in task.data["events"] if event.organ == organ]
            try:
                merged, facts = _merge(case, organ, own)
            except ReviewError as error:
                # The organ is open again, the case's other organs are not.
                row["masks"].append(_unknown(case.case_id, organ, [str(error)]))
                row["excluded_masks"].append(
                    error.excluded_row(f"{case.case_id}/{organ}", "merge_masks")
                )
                continue
            row["masks"].append(facts)
            if merged.state != "unknown":
                write_nifti(folder / f"{organ}.nii.gz", merged.instances, case.grid)
                row["instances"][organ] = {
                    str(label): {"kind": merged.kinds[label], **asdict(lineage)}
                    for label, lineage in merged.lineage.items()
                }
        return row

    def _merge(case: ReviewCase, organ: str, own: Sequence[Event]) -> tuple[Any, dict[str, Any]]:
        facts = case.annotated.get(organ)
        if facts is None:
            # A source that left the configuration takes its labels along.
            own = [event for event in own if event.role != "source"]
        lesions = read_array(case.folder / f"lesions_{organ}.b2nd")[0] if facts else None
        candidates, rows = case.candidates(organ) if facts is None else (None, [])
        merged = merge_organ(
            case_id=case.case_id,
            organ=organ,
            shape=case.grid.shape,
            source_lesions=lesions,
            candidates=candidates,
            candidate_ids={row["number"]: row["candidate_id"] for row in rows},
            events=own,
            load_mask=lambda sha256: load_mask(
                store, sha256, max_voxels=int(np.prod(case.grid.shape))
            ),
            connectivity=connectivity,
        )
        origins = {lineage.origin for lineage in merged.lineage.values()}
        return merged, {
            "case_id": case.case_id,
            "organ": organ,
            "state": merged.state,
            "origin": merged.origin,
            "source": facts["source"] if facts else "",
            "label_licence": facts["licence"] if facts else "",
            "signed_by": merged.signed_by,
            # Candidates come from the model grid, labels of a resampled copy from its own.
            "resampled": "accept" in origins or bool(facts and facts["is_resampled"]),
            "pending": merged.pending,
        }

    by_case: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_case[event.case_id].append(event)
    tasks = []
    for case in review_cases([harmonized], [proposed]):
        own = by_case[case.case_id]
        ids = sha256_json([event.event_id for event in own])
        facts = {"case": case, "events": own}
        tasks.append(Task(case.case_id, case.hashes() | {"events": ids}, facts))
    run_shard(step, tasks, work, manifest)
