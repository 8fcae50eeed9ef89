"""What a run knows about one voxel of a case: organs, labels, candidates, tumors, decisions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import InputError
from tumoratlas.core.structures import structure_bit, structures
from tumoratlas.images.arrays import read_array
from tumoratlas.images.nifti import read_nifti
from tumoratlas.reproduce.lineage import decision_text
from tumoratlas.reproduce.runs import Made, Run

POOLED_INSTANCES = "instances/pooled.nii.gz"
_LESIONS = {1: "tumor", 2: "cyst"}

Line = tuple[str, str]
Place = tuple[int, int, int]


def voxel_lines(
    run: Run,
    case_id: str,
    harmonized: Made,
    merged: Made | None,
    organs: Sequence[str],
    voxel: Place,
) -> list[Line]:
    """Return what stands at a voxel, and through whom.

    Parameters
    ----------
    run, case_id, harmonized, merged
        The case, and what harmonize_scans and merge_masks left of it.
    organs
        Tumor organs to look at.
    voxel
        Index (x, y, z), from 0.

    Raises
    ------
    InputError
        NO_VOXEL: outside the scan.
    """
    shape = tuple(harmonized.row["grid"]["shape"])
    place = voxel[::-1]
    if not all(0 <= index < size for index, size in zip(place, shape, strict=True)):
        size = " x ".join(map(str, shape[::-1]))
        raise InputError(
            "NO_VOXEL", case_id, f"the scan has {size} voxels (x, y, z)",
            remedy="Count from 0, in the released ct.nii.gz",
        )  # fmt: skip
    image = read_nifti(harmonized.folder / "ct.nii.gz", max_voxels=int(np.prod(shape))).array
    lines = [("image", f"{image[place]} HU"), *_structure_lines(harmonized, place)]
    found = False
    for organ in organs:
        own = _tumor_lines(run, case_id, harmonized, merged, organ, place)
        found = found or any(what == "tumor" for what, _ in own)
        lines += own
    pooled = _pooled_lines(run, case_id, harmonized, place)
    lines += pooled
    if not found and not pooled:
        lines.append(("tumor", f"none of {', '.join(organs)}"))
    return lines


def _structure_lines(harmonized: Made, place: Place) -> list[Line]:
    planes = read_array(harmonized.folder / "structures.b2nd")[0][place]
    lines = []
    for structure in structures().values():
        if structure.kind == "organ" and planes & np.uint32(structure_bit(structure.name)):
            origin = harmonized.row["structures"][structure.name]
            said = f"{structure.name}, labelled by {origin['source']} in {origin['scan_id']}"
            lines.append(("organ", f"{said}{', resampled' if origin['is_resampled'] else ''}"))
    return lines


def _tumor_lines(
    run: Run, case_id: str, harmonized: Made, merged: Made | None, organ: str, place: Place
) -> list[Line]:
    lines = []
    origin = harmonized.row["annotated"].get(organ)
    if origin:
        value = int(read_array(harmonized.folder / f"lesions_{organ}.b2nd")[0][place])
        if value:
            lines.append(
                (
                    "source label",
                    f"{organ} {_LESIONS[value]} by {origin['source']} in {origin['scan_id']}",
                )
            )
    lines += _candidate_lines(run, case_id, organ, place)
    if merged and f"{organ}.nii.gz" in merged.outputs:
        number = _value(merged.folder / f"{organ}.nii.gz", place)
        if number:
            facts = merged.row["instances"][organ][str(number)]
            made = ", ".join(facts["candidate_ids"])
            said = f"{organ} {facts['kind']} {number}, {facts['tumor_id']}"
            from_candidate = f", from candidate {made}" if made else ""
            lines.append(("tumor", f"{said}, origin {facts['origin']}{from_candidate}"))
            ids = set(facts["event_ids"])
            lines += [("decision", decision_text(e)) for e in run.reviews if e["event_id"] in ids]
    return lines


def _pooled_lines(run: Run, case_id: str, harmonized: Made, place: Place) -> list[Line]:
    """Return the lesion of an unnamed organ at a place, if there is one."""
    written, measured = run.made("write_cases", case_id), run.made("measure_tumors", case_id)
    if written is None or measured is None or POOLED_INSTANCES not in written.outputs:
        return []
    number = _value(written.folder / POOLED_INSTANCES, place)
    for row in measured.row["tumors"]:
        if number and row["origin"] == "pooled" and row["number"] == number:
            origin = harmonized.row["pooled"]
            said = f"lesion {number}, {row['tumor_id']}, nearest organ {row['organ']}"
            return [("tumor", f"{said}, labelled by {origin['source']} in {origin['scan_id']}")]
    return []


def _candidate_lines(run: Run, case_id: str, organ: str, place: Place) -> list[Line]:
    proposed = run.made("propose_candidates", f"{organ}/{case_id}")
    number = _value(proposed.folder / "candidates.nii.gz", place) if proposed else 0
    if not number:
        return []
    row = next(r for r in proposed.row["candidates"] if r["number"] == number)
    head = (
        f"{organ} {row['candidate_id']}, model {row['model_id']} at {row['threshold']:g}, "
        f"probability up to {row['max_p']:.2f}"
    )
    decided = [
        ("decision", f"{decision_text(event)}{', ' + event['reason'] if event['reason'] else ''}")
        for event in run.reviews
        if event["candidate_id"] == row["candidate_id"]
    ]
    return [("candidate", head), *decided]


def _value(path: Path, place: Place) -> int:
    array: NDArray[Any] = read_nifti(path, max_voxels=2**31).array
    return int(array[place])
