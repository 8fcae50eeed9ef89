"""Reviewers who know the truth, and answer through the files of real ones.

They read their batches of review packets as radiologists would (worklist, candidate maps), and
write what radiologists send back: decisions as a table or as the triage page exports them, and
edited or added masks as NIfTI or, for the liver, as a 3D Slicer segmentation. The candidate that
covers most of a true tumor is accepted where its outline is good, otherwise edited to the true
outline; all others are rejected; true tumors that no candidate covers are added, by the reader
of the whole scan where the case has one; every organ is signed off. The second reader of an organ
takes its first found tumor for a vessel, so that two readers contradict each other.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import slicerio

from tests.phantoms.truth import listed_case, scans, truth_mask, tumors
from tumoratlas.core.records import read_lines
from tumoratlas.ingest.pseudonyms import read_key

ROLES = {"R01": "senior", "R02": "senior", "R03": "senior", "R04": "junior"}
SENDS_JSON = "R02"
REASONS = ("normal", "vessel", "cyst", "artefact", "other")
GOOD_DICE = 0.9

Row = dict[str, Any]


@dataclass(frozen=True)
class _Task:
    """What a reader is asked about one case and organ."""

    packet: Path
    returns: Path
    folder: Path
    patient: str
    lines: list[Row]
    adds: bool
    errs: bool

    @property
    def organ(self) -> str:
        return self.lines[0]["organ"]

    @property
    def name(self) -> str:
        return f"{self.lines[0]['case_id']}_{self.organ}"


def write_roster(records: Path) -> None:
    """Write the roster."""
    records.mkdir(parents=True, exist_ok=True)
    lines = [f"{reviewer},{role}\n" for reviewer, role in ROLES.items()]
    (records / "reviewers.csv").write_text("reviewer_id,role\n" + "".join(lines))


def answer(folder: Path) -> int:
    """Answer every batch that nobody has answered yet; return the number of decisions.

    Parameters
    ----------
    folder
        Working directory of a run on phantoms, with the phantoms' ``truth``.
    """
    records = folder / "records"
    patients = _patients(folder)
    issued = read_lines(records / "batches.jsonl")
    batches = {line["batch"]: line for line in issued}
    read_whole = {line["case_id"] for line in issued if line["kind"] == "full"}
    decided = 0
    for place, (name, batch) in enumerate(sorted(batches.items())):
        packet, returns = folder / "results/review/packets" / name, records / "returns" / name
        if returns.exists() or not (packet / "worklist.csv").exists():
            continue
        returns.mkdir(parents=True)
        before = {
            (line["case_id"], organ)
            for line in issued
            if line["kind"] == batch["kind"] == "candidates" and line["batch"] < name
            for organ in line["organs"]
        }
        worklist = pd.read_csv(packet / "worklist.csv", keep_default_na=False)
        decisions = []
        for (case_id, organ), lines in worklist.groupby(["case_id", "organ"]):
            decisions += _answer_organ(
                _Task(
                    packet=packet / case_id / organ,
                    returns=returns,
                    folder=folder,
                    patient=patients[case_id],
                    lines=lines.to_dict("records"),
                    adds=batch["kind"] != "candidates" or case_id not in read_whole,
                    errs=(case_id, organ) in before,
                )
            )
        for row, time in zip(decisions, _times(place), strict=False):
            row |= {"reviewer_id": batch["reviewer_id"], "tool": "truth", "time": time}
            row["seconds"] = 4 if row["decision"] in ("reject", "accept") else 20
        _send(packet, returns, batch, decisions)
        decided += len(decisions)
    return decided


def _times(place: int) -> Iterator[str]:
    """Yield moments five seconds apart; those of a later batch are all later."""
    start = pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(days=place)
    for number in range(24 * 720):
        yield f"{start + pd.Timedelta(seconds=5 * number):%Y-%m-%dT%H:%M:%SZ}"


def _send(packet: Path, returns: Path, batch: Row, decisions: list[Row]) -> None:
    """Write the decisions as the packet's table, or as the triage page exports them."""
    with open(packet / "decisions.csv", newline="") as file:
        columns = csv.DictReader(file).fieldnames
    if batch["reviewer_id"] == SENDS_JSON:
        export = {
            "format": "tumoratlas-decisions", "schema": 1, "batch": batch["batch"],
            "reviewer_id": batch["reviewer_id"], "tool": "truth",
            "exported": "2026-11-01T00:00:00.000Z",
            "decisions": [
                {key: row.get(key, "") for key in columns if key not in ("reviewer_id", "tool")}
                for row in decisions
            ],
        }  # fmt: skip
        (returns / "decisions.json").write_text(json.dumps(export))
        return
    with open(returns / "decisions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(decisions)


def _patients(folder: Path) -> dict[str, str]:
    """Return the patient behind each case; internal sources show pseudonyms."""
    path = folder / "records/pseudonym.key"
    key = read_key(path) if path.exists() else None
    known = {
        (row.source, listed_case(row.source, row.source_case, key)): row.patient
        for row in scans(folder).itertuples()
    }
    found = pd.read_parquet(folder / "results/tables/scans.parquet").dropna(subset=["case_id"])
    return {
        row.case_id: known[row.source, row.source_case] for row in found.itertuples() if row.kept
    }


def _answer_organ(task: _Task) -> list[Row]:
    instances, affine = truth_mask(task.folder, task.patient)
    table = tumors(task.folder)
    chosen = (table.patient == task.patient) & (table.organ == task.organ)
    missing = {int(n): instances == n for n in table[chosen & (table.kind == "tumor")].instance}
    candidates = _read(task.packet / "candidates.nii.gz", instances.shape)
    outlines = {}  # candidate number to its true outline
    decisions = []
    errs = task.errs
    rows = (row for row in task.lines if row["candidate_id"])
    for line in sorted(rows, key=lambda r: r["number"]):
        number = int(line["number"])
        voxels = candidates == number
        best = max(missing, key=lambda n: np.count_nonzero(missing[n] & voxels), default=None)
        if best is None or not (missing[best] & voxels).any():
            decisions.append(_decision(line, "reject", reason=REASONS[number % len(REASONS)]))
            continue
        outline = missing.pop(best)
        shared = 2 * np.count_nonzero(outline & voxels)
        if errs:
            decisions.append(_decision(line, "reject", reason="vessel"))
            errs = False
        elif shared / (np.count_nonzero(outline) + np.count_nonzero(voxels)) >= GOOD_DICE:
            decisions.append(_decision(line, "accept"))
        else:
            outlines[number] = outline
            decisions.append(_decision(line, "edit", mask=f"masks/{task.name}_edits"))
    masks = task.returns / "masks"
    masks.mkdir(exist_ok=True)
    as_segments = task.organ == "liver"
    if outlines:
        suffix = ".seg.nrrd" if as_segments else ".nii.gz"
        for row in decisions:
            row["mask"] += suffix if row["mask"] else ""
        path = masks / f"{task.name}_edits{suffix}"
        if as_segments:
            _write_segments(path, task.packet / "candidates.seg.nrrd", outlines)
        else:
            _write(path, outlines, affine)
    whole = next(row for row in task.lines if not row["candidate_id"])
    if missing and task.adds:
        free = int(candidates.max()) + 1
        added = {free + n: mask for n, mask in enumerate(missing.values())}
        _write(masks / f"{task.name}_added.nii.gz", added, affine)
        decisions.append(_decision(whole, "add", mask=f"masks/{task.name}_added.nii.gz"))
    return [*decisions, _decision(whole, "sign_off")]


def _decision(line: Row, decision: str, mask: str = "", reason: str = "") -> Row:
    keys = ("case_id", "organ", "candidate_id", "base_sha256")
    return {key: line[key] for key in keys} | {
        "decision": decision, "mask": mask, "reason": reason,
    }  # fmt: skip


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
    layers = voxels if voxels.ndim == 4 else voxels[None]  # the organ's outline is a second one
    layers[0] = 0
    kept = []
    for segment in segmentation["segments"]:
        outline = outlines.get(segment["labelValue"]) if segment["layer"] == 0 else None
        if outline is not None:
            layers[0][outline.transpose(2, 1, 0)] = segment["labelValue"]
        if outline is not None or segment["layer"]:
            kept.append(segment)
    segmentation["segments"] = kept
    slicerio.write_segmentation(str(path), segmentation)
