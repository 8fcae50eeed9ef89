"""A reviewer who knows the truth, and answers through the files of a real one.

Reads a batch of review packets as a radiologist would (worklist, candidate maps), and writes
what a radiologist sends back: ``decisions.csv`` and edited or added masks as NIfTI or, for the
liver, as a 3D Slicer segmentation. Rules of the answers: the candidate that covers most of a
true tumor is accepted where its outline is good, otherwise edited to the true outline; all
others are rejected; true tumors that no candidate covers are added; every organ is signed off.
"""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import slicerio

from tests.phantoms.truth import listed_case, scans, truth_mask, tumors
from tumoratlas.ingest.pseudonyms import read_key

REVIEWER = "R01"
GOOD_DICE = 0.9


def write_roster(records: Path) -> None:
    """Write the roster with the one reviewer."""
    records.mkdir(parents=True, exist_ok=True)
    (records / "reviewers.csv").write_text(f"reviewer_id,role\n{REVIEWER},senior\n")


def answer(packets: Path, truth: Path, scans_table: Path, returns: Path) -> int:
    """Answer every line of a batch's worklist; return the number of decisions.

    Parameters
    ----------
    packets
        ``results/review/packets``.
    truth
        Folder with the phantoms' ``truth/``, and ``records/pseudonym.key`` if there is one.
    scans_table
        ``results/tables/scans.parquet``, for the patient behind a case id.
    returns
        Folder of the returned batch, below ``records/returns``.
    """
    patients = _patients(truth, scans_table)
    worklist = pd.read_csv(packets / "worklist.csv", keep_default_na=False)
    decisions = []
    for (case_id, organ), lines in worklist.groupby(["case_id", "organ"]):
        decisions += _answer_organ(
            packets / case_id / organ, returns, truth, patients[case_id], lines.to_dict("records")
        )
    with open(packets / "decisions.csv", newline="") as file:
        columns = csv.DictReader(file).fieldnames
    for number, row in enumerate(decisions):
        minutes, seconds = divmod(5 * number, 60)
        hours, minutes = divmod(minutes, 60)
        row |= {"reviewer_id": REVIEWER, "tool": "truth", "seconds": 5}
        row["time"] = f"2026-01-{1 + hours // 24:02d}T{hours % 24:02d}:{minutes:02d}:{seconds:02d}Z"
    with open(returns / "decisions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(decisions)
    return len(decisions)


def _patients(truth: Path, scans_table: Path) -> dict[str, str]:
    """Return the patient behind each case; internal sources show pseudonyms."""
    path = truth / "records/pseudonym.key"
    key = read_key(path) if path.exists() else None
    known = {
        (row.source, listed_case(row.source, row.source_case, key)): row.patient
        for row in scans(truth).itertuples()
    }
    found = pd.read_parquet(scans_table).dropna(subset=["case_id"])
    return {
        row.case_id: known[row.source, row.source_case] for row in found.itertuples() if row.kept
    }


def _answer_organ(
    packet: Path, returns: Path, truth: Path, patient: str, lines: list[dict]
) -> list[dict]:
    name = f"{lines[0]['case_id']}_{lines[0]['organ']}"
    instances, affine = truth_mask(truth, patient)
    table = tumors(truth)
    chosen = (table.patient == patient) & (table.organ == packet.name) & (table.kind == "tumor")
    missing = {int(n): instances == n for n in table[chosen].instance}
    candidates = _read(packet / "candidates.nii.gz", instances.shape)
    outlines = {}  # candidate number to its true outline
    decisions = []
    for line in sorted((row for row in lines if row["candidate_id"]), key=lambda r: r["number"]):
        number = int(line["number"])
        voxels = candidates == number
        best = max(missing, key=lambda n: np.count_nonzero(missing[n] & voxels), default=None)
        if best is None or not (missing[best] & voxels).any():
            decisions.append(_decision(line, "reject"))
            continue
        outline = missing.pop(best)
        shared = 2 * np.count_nonzero(outline & voxels)
        if shared / (np.count_nonzero(outline) + np.count_nonzero(voxels)) >= GOOD_DICE:
            decisions.append(_decision(line, "accept"))
        else:
            outlines[number] = outline
            decisions.append(_decision(line, "edit", mask=f"masks/{name}_edits"))
    (returns / "masks").mkdir(parents=True, exist_ok=True)
    as_segments = packet.name == "liver"
    if outlines:
        suffix = ".seg.nrrd" if as_segments else ".nii.gz"
        for row in decisions:
            row["mask"] += suffix if row["mask"] else ""
        path = returns / "masks" / f"{name}_edits{suffix}"
        if as_segments:
            _write_segments(path, packet / "candidates.seg.nrrd", outlines)
        else:
            _write(path, outlines, affine)
    whole = next(row for row in lines if not row["candidate_id"])
    if missing:
        free = int(candidates.max()) + 1
        added = {free + n: mask for n, mask in enumerate(missing.values())}
        _write(returns / "masks" / f"{name}_added.nii.gz", added, affine)
        decisions.append(_decision(whole, "add", mask=f"masks/{name}_added.nii.gz"))
    return [*decisions, _decision(whole, "sign_off")]


def _decision(line: dict, decision: str, mask: str = "") -> dict:
    keys = ("case_id", "organ", "candidate_id", "base_sha256")
    return {key: line[key] for key in keys} | {"decision": decision, "mask": mask}


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if not path.exists():  # a packet without candidates
        return np.zeros(shape, np.uint16)
    return np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)


def _write(path: Path, outlines: dict[int, np.ndarray], affine: np.ndarray) -> None:
    labels = np.zeros(next(iter(outlines.values())).shape, np.uint16)
    for number, outline in outlines.items():
        labels[outline] = number
    nib.save(nib.Nifti1Image(labels.transpose(2, 1, 0), affine), path)


def _write_segments(path: Path, template: Path, outlines: dict[int, np.ndarray]) -> None:
    """Save the packet's segmentation with the edited segments redrawn, as 3D Slicer does."""
    segmentation = slicerio.read_segmentation(str(template))
    voxels = segmentation["voxels"]
    voxels[...] = 0
    kept = []
    for segment in segmentation["segments"]:
        outline = outlines.get(segment["labelValue"])
        if outline is not None:
            voxels[outline.transpose(2, 1, 0)] = segment["labelValue"]
            kept.append(segment)
    segmentation["segments"] = kept
    slicerio.write_segmentation(str(path), segmentation)
