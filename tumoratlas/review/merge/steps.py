"""The step of review that settles final masks."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import TumorAtlasError
from tumoratlas.core.files import sha256_json
from tumoratlas.core.runner import Step, Task, run_shard
from tumoratlas.core.structures import tumor_structures
from tumoratlas.images.arrays import read_array
from tumoratlas.images.nifti import write_nifti
from tumoratlas.review.bases import Base
from tumoratlas.review.cases import ReviewCase, review_cases
from tumoratlas.review.ledger import Event
from tumoratlas.review.masks import load_mask, mask_sha256
from tumoratlas.review.merge.organ import merge_organ
from tumoratlas.review.shards import Said


def merge_masks(
    step: Step,
    manifest: Path,
    *,
    harmonized: Path,
    proposed: Path,
    said: Said,
    store: Path,
    organs: Sequence[str],
    connectivity: int,
) -> None:
    """Settle the final masks of every case of the shard (see `run_shard` and `merge_organ`).

    Each known organ gets ``<organ>.nii.gz``, the uint16 instance map on the native grid. The
    row holds the ``masks`` rows, kind and lineage of every instance, what was counted, who
    contradicts whom, which candidates earlier decisions settle, and the hash of the candidate
    map of every organ that reviewers are asked about.
    """

    def work(task: Task, folder: Path) -> dict[str, Any]:
        case: ReviewCase = task.data["case"]
        row: dict[str, Any] = {"case_id": case.case_id, "masks": [], "excluded_masks": []}
        row |= {key: {} for key in ("bases", "instances", "counts", "contests", "inherited")}
        for organ in tumor_structures():
            own = [event for event in task.data["events"] if event.organ == organ]
            shown = [base for base in task.data["bases"] if base.organ == organ]
            candidates = None if organ in case.annotated else case.candidates(organ)
            if candidates is not None and organ in organs:
                row["bases"][organ] = mask_sha256(candidates, case.grid)
            try:
                merged, facts = _merge(case, organ, own, shown, candidates)
            except TumorAtlasError as error:
                # The organ is open again, the case's other organs are not.
                row["masks"].append(_unknown(case.case_id, organ, [str(error)]))
                row["excluded_masks"].append(
                    error.excluded_row(f"{case.case_id}/{organ}", "merge_masks")
                )
                continue
            row["masks"].append(facts)
            row["counts"][organ] = asdict(merged.counts)
            row["contests"][organ] = [asdict(contest) for contest in merged.contests]
            row["inherited"][organ] = dict(merged.inherited)
            if merged.state != "unknown":
                write_nifti(folder / f"{organ}.nii.gz", merged.instances, case.grid)
                row["instances"][organ] = {
                    str(label): {"kind": merged.kinds[label], **asdict(lineage)}
                    for label, lineage in merged.lineage.items()
                }
        return row

    def _merge(
        case: ReviewCase,
        organ: str,
        own: Sequence[Event],
        shown: Sequence[Base],
        candidates: NDArray[np.uint16] | None,
    ) -> tuple[Any, dict[str, Any]]:
        facts = case.annotated.get(organ)
        if facts is None:
            # A source that left the configuration takes its labels along.
            own = [event for event in own if event.role != "source"]
        lesions = read_array(case.folder / f"lesions_{organ}.b2nd")[0] if facts else None
        merged = merge_organ(
            case_id=case.case_id,
            organ=organ,
            shape=case.grid.shape,
            source_lesions=lesions,
            candidates=candidates,
            candidate_ids={} if facts else case.candidate_ids(organ),
            events=own,
            load_mask=lambda sha256: load_mask(
                store, sha256, max_voxels=int(np.prod(case.grid.shape)), grid=case.grid
            ),
            bases=shown,
            blinded=said.blinded,
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
    for event in said.events:
        by_case[event.case_id].append(event)
    shown_of: dict[str, list[Base]] = defaultdict(list)
    for base in said.bases:
        shown_of[base.case_id].append(base)
    tasks = []
    for case in review_cases([harmonized], [proposed]):
        own, shown = by_case[case.case_id], shown_of[case.case_id]
        heard = {
            "blinded": sha256_json(sorted({event.batch for event in own} & said.blinded)),
            "events": sha256_json([event.event_id for event in own]),
            "bases": sha256_json([[*base.key, sorted(base.candidates.items())] for base in shown]),
        }
        facts = {"case": case, "events": own, "bases": shown}
        tasks.append(Task(case.case_id, case.hashes() | heard, facts))
    run_shard(step, tasks, work, manifest)


def _unknown(case_id: str, organ: str, pending: list[str]) -> dict[str, Any]:
    texts = dict.fromkeys(("origin", "source", "label_licence", "signed_by"), "")
    row = {"case_id": case_id, "organ": organ, "state": "unknown", **texts}
    return row | {"resampled": False, "pending": pending}
