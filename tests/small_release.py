"""A release of three small cases, made by the real step runner, writer and builder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tumoratlas.core.runner import Step, Task, finished_folders, run_shard
from tumoratlas.core.structures import structure_bit, tumor_structures
from tumoratlas.core.tables import SCHEMAS
from tumoratlas.images.arrays import write_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.ingest.sources import Source
from tumoratlas.ingest.status import source_status
from tumoratlas.measure.instances import measure_instances
from tumoratlas.release.build import build_release
from tumoratlas.release.cases import write_case
from tumoratlas.release.leakage.audit import audit_leakage, audit_tables
from tumoratlas.release.licences.decide import decide_case
from tumoratlas.release.licences.policy import OURS, Policy, read_policy
from tumoratlas.release.splits.schemes import split_cases

GRID = Grid.of(
    (24, 32, 32),
    np.array([[2, 0, 0, -30], [0, 2, 0, -20], [0, 0, 2.5, 10], [0, 0, 0, 1]], float),
)
DEFINITIONS = {
    "connectivity": 26,
    "minimum_volume_mm3": 14,
    "size_edges_mm": [5, 10, 20],
    "early_diameter_mm": 20,
}
MEASURE = {key: value for key, value in DEFINITIONS.items() if key != "connectivity"}
# The names of the private source must not be found in a release.
CASES = {
    "BDMAP_00000001": ("lits", "12", "CC BY-NC-ND 4.0"),
    "BDMAP_90000001": ("private", "MILLER_JOHN", "internal"),
    "BDMAP_90000002": ("kits23", "case_00030", "CC BY-NC-SA 4.0"),
}
STATES = {
    "BDMAP_00000001": {"liver": "present"},
    "BDMAP_90000001": dict.fromkeys(tumor_structures(), "confirmed_empty"),
    "BDMAP_90000002": {"kidney": "present", "pancreas": "confirmed_empty"},
}
# A scan of an external test set, resampled from that of the first case.
TEST_SCAN, TEST_SET = "panorama_100001_00001", "PANORAMA"
MODEL = {
    "organ": "liver",
    "model_id": "ab" * 8,
    "plans_sha256": "c" * 64,
    "folds": [{"fold": 0, "sha256": "d" * 64}, {"fold": 1, "sha256": "e" * 64}],
}
CHOICE = {
    "organ": "liver",
    "model_id": "ab" * 8,
    "threshold": 0.2,
    "index": 5,
    "rule": "any",
    "target": 0.9,
    "is_target_reached": True,
    "sensitivity": 0.93,
    "sensitivity_low": 0.84,
    "sensitivity_high": 0.98,
    "lesions": 60,
    "hits": 56,
    "fp_per_scan": 1.6,
    "fp_per_tumor_free_scan": 0.7,
    "false_fraction": 0.01,
}


def make_release(
    work: Path,
    folder: Path,
    *,
    cases: tuple[str, ...] = tuple(CASES),
    target: str = "internal",
    previous: Path | None = None,
    change_case: Callable[[str, dict[str, Any]], None] | None = None,
    change_tables: Callable[[dict[str, list[dict[str, Any]]]], None] | None = None,
    change_source: Callable[[Source], Source] | None = None,
) -> Path:
    """Build a release at ``folder``; intermediate folders lie below ``work``.

    What a test wants to be otherwise it changes in place: of a case (its id and the arguments of
    `write_case`), in the tables before they are released, or of a source.
    """
    inputs = {case_id: _inputs(work, case_id) for case_id in cases}
    if change_case is not None:
        for case_id, case in inputs.items():
            change_case(case_id, case)
    policy = _policy()
    rows = [(case["harmonized_row"], case["merged_row"]) for case in inputs.values()]
    licences = [row for pair in rows for row in decide_case(*pair, policy)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)  # where the runner keeps its books

        def release(task: Task, folder: Path) -> dict[str, Any]:
            own = [row for row in licences if row["case_id"] == task.id]
            if not any(row[target] for row in own):
                return {}
            withheld = [row["file"] for row in own if not row[target]]
            return write_case(folder, **task.data, withheld=withheld, connectivity=26)

        step = Step("write_cases", "s0000", work / "write_cases", {}, code="1")
        tasks = [Task(case_id, {}, inputs[case_id]) for case_id in cases]
        run_shard(step, tasks, release, step.folder / "s0000.tsv")
        folders = finished_folders([step.folder / "s0000.tsv"])
    names = {"panorama", *(source for source, _, _ in CASES.values())}
    names |= {name for row in licences for name in row["sources"]} - {OURS}
    sources = [policy.sources[name] for name in sorted(names)]
    if change_source is not None:
        sources = [change_source(source) for source in sources]
    tables = _tables(inputs, sources) | {"licences": licences}
    if change_tables is not None:
        change_tables(tables)
    build_release(
        folder,
        version="2.0",
        target=target,
        cases=folders,
        tables=tables,
        sources=sources,
        models=[MODEL],
        thresholds={"liver": CHOICE},
        definitions=DEFINITIONS,
        resources=ROOT / "resources/release",
        previous=previous,
    )
    return folder


@cache
def _policy() -> Policy:
    return read_policy(
        sources=sorted((ROOT / "resources/sources").glob("*.yaml")),
        terms=ROOT / "resources/licences.csv",
        permissions=[],
        annotation_licence="CC BY-NC-SA 4.0",
    )


def _inputs(work: Path, case_id: str) -> dict[str, Any]:
    """Write what harmonize and review leave of a case."""
    rng = np.random.default_rng(int(case_id[-8:]))
    harmonized, merged = work / "harmonized" / case_id, work / "merged" / case_id
    for folder in (harmonized, merged):
        folder.mkdir(parents=True, exist_ok=True)
    ct = rng.integers(-100, 200, GRID.shape, dtype=np.int16)
    write_nifti(harmonized / "ct.nii.gz", ct, GRID)
    planes = np.zeros(GRID.shape, np.uint32)
    for name, region in (
        ("liver", np.s_[4:20, 4:28, 4:16]),
        ("kidney_left", np.s_[4:16, 4:16, 18:28]),
        ("spleen", np.s_[10:20, 10:20, 12:22]),  # overlaps both
        ("kidney", np.s_[4:16, 4:16, 18:28]),
    ):
        planes[region] |= np.uint32(structure_bit(name))
    write_array(harmonized / "structures.b2nd", planes, grid=GRID.to_json())
    source, _, licence = CASES[case_id]
    origin = {"source": source, "licence": licence}
    structures = dict.fromkeys(("liver", "kidney_left", "spleen", "kidney", "uterus"), origin)
    masks, instances = [], {}
    for organ in tumor_structures():
        state = STATES[case_id].get(organ, "unknown")
        labelled = {"source": source, "label_licence": licence} if state == "present" else {}
        masks.append(
            {"case_id": case_id, "organ": organ, "state": state, "pending": [], "source": "",
             "label_licence": "", **labelled}
        )  # fmt: skip
        if state != "unknown":
            labels, kinds = _instances(organ, state)
            write_nifti(merged / f"{organ}.nii.gz", labels, GRID)
            instances[organ] = {
                str(n): {
                    "kind": kind,
                    "origin": "source",
                    "tumor_id": f"{n:08x}{organ.encode().hex():0<8.8}",
                }
                for n, kind in kinds.items()
            }
    return {
        "harmonized": harmonized,
        "merged": merged,
        "harmonized_row": {
            "case_id": case_id,
            "source": CASES[case_id][0],
            "grid": GRID.to_json(),
            "structures": structures,
            "pooled": None,
        },
        "merged_row": {"case_id": case_id, "masks": masks, "instances": instances, "ct": ct},
    }


def _tumor_id(organ: str, number: int) -> str:
    return f"{number:08x}{organ.encode().hex():0<8.8}"


def _instances(organ: str, state: str) -> tuple[np.ndarray, dict[int, str]]:
    labels = np.zeros(GRID.shape, np.uint16)
    if state == "confirmed_empty":
        return labels, {}
    labels[6:14, 6:14, 6:14] = 1
    labels[16:18, 6:8, 6:8] = 2
    labels[19, 20, 5] = 3  # 10 mm3: a fragment
    kinds = {1: "tumor", 2: "tumor", 3: "tumor"}
    if organ == "kidney":
        labels[8:10, 8:12, 20:24] = 4
        kinds[4] = "cyst"
    return labels, kinds


def _tables(
    inputs: dict[str, dict[str, Any]], sources: Sequence[Source]
) -> dict[str, list[dict[str, Any]]]:
    scans = [scan_row(case_id, *facts) for case_id, facts in CASES.items()]
    copy = {"kept": False, "shard": None, "voxel_sha256": f"{7:064x}", "relation": "crop"}
    scans.append(scan_row("BDMAP_90000001", "private", "MILLER_JOHN_B", "internal") | copy)
    scans[-1]["repairs"] = ["spacing_from_copy: 1 mm -> 2 mm (private_MILLER_JOHN)"]
    scans.append(scan_row("BDMAP_00000001", "panorama", "100001_00001", "CC BY-NC-SA 4.0") | copy)
    scans[-1] |= {"voxel_sha256": f"{8:064x}", "relation": "resample", "case_id": None}
    scans[-1] |= {"role": "test_only", "reserved": TEST_SET}
    excluded = [
        (TEST_SCAN, "deduplicate_scans", "TEST_SET", "belongs to a test set"),
        ("private_MILLER_JOHN_B", "deduplicate_scans", "DUPLICATE", "equal to private_MILLER_JOHN"),
        ("private/smith/x.png", "list_scans", "NOT_UNDERSTOOD", "files in /mnt/private/smith"),
        ("lits/bad.nii", "list_scans", "GZIP_CRC", "/data/in/lits/bad.nii: broken"),
        ("lits_13", "deduplicate_scans", "DUPLICATE", "equal to private_MILLER_JOHN, kept"),
    ]
    excluded += [
        (case_id, "harmonize_scans", "AFFINE_SINGULAR", "no inverse")
        for case_id in CASES
        if case_id not in inputs
    ]
    keys = ("id", "rule", "code", "reason")
    groups = [
        {"case_id": c, "group": c, "reserved": TEST_SET if c == "BDMAP_00000001" else "",
         "source": CASES[c][0], "sources": [CASES[c][0]], "strata": ["undecided"]}
        for c in CASES
    ]  # fmt: skip
    splits = split_cases(
        groups, earlier=[], seed=4, test_fraction=0.2, validation_fraction=0.2, folds=2,
        ood_sources=["kits23"], scaling_sizes=[1],
    ).rows  # fmt: skip
    # A case keeps its place whether others come or go.
    splits = [row for row in splits if row["case_id"] in inputs]
    relations = _relations()
    excluded = [
        dict(zip(keys, row, strict=True)) | {"evidence": "", "remedy": ""} for row in excluded
    ]
    listed = [scan | {"labels": [{"paths": scan["label_paths"]}]} for scan in scans]
    listings = {
        source.id: {"scans": [s for s in listed if s["source"] == source.id], "excluded": []}
        for source in sources
    }
    linked = [scan | {"links": []} for scan in scans]
    reviews = [
        {"event_id": "f" * 64, "case_id": "BDMAP_90000001", "organ": "liver", "role": "senior",
         "reviewer_id": "r01", "decision": "sign_off", "seconds": 4.0, "comment": "Mr Miller"},
        {"event_id": "e" * 64, "case_id": "BDMAP_90000002", "organ": "pancreas",
         "role": "senior", "reviewer_id": "r02", "decision": "reject", "seconds": 7.5,
         "reason": "vessel", "time": "2025-01-01T10:00:00.000Z"},
    ]  # fmt: skip
    return {
        "scans": scans,
        "relations": relations,
        "repairs": _repairs(),
        "sources": source_status(sources, listings, scans, excluded),
        **audit_tables(audit_leakage(linked, relations, splits, scans)),
        "masks": [mask for case in inputs.values() for mask in case["merged_row"]["masks"]],
        "tumors": [row for case_id, case in inputs.items() for row in _tumors(case_id, case)],
        "candidates": [],
        "reviews": reviews,
        "splits": splits,
        "excluded": excluded,
    }


def _relations() -> list[dict[str, Any]]:
    rows = [
        ("kits23_case_00030", "private_MILLER_JOHN", "none", None, "no voxels are equal"),
        ("lits_12", TEST_SCAN, "resample", None, "noise correlates by 0.9"),
        ("private_MILLER_JOHN", "private_MILLER_JOHN_B", "crop", "private_MILLER_JOHN",
         "private_MILLER_JOHN holds all 900 voxels"),
    ]  # fmt: skip
    names = ("scan_a", "scan_b", "relation", "outer", "evidence")
    facts = {"found_by": ["anchors"], "shared": 9, "offset_hu": 0.0}
    return [dict(zip(names, row, strict=True)) | facts for row in rows]


def _repairs() -> list[dict[str, Any]]:
    rows = [
        ("private_MILLER_JOHN_B", "fingerprint_scans", "spacing_from_copy", "1 mm",
         "2 mm (private_MILLER_JOHN)"),
        ("private_MILLER_JOHN/liver", "harmonize_scans", "mask_header", "LPS",
         "RAS, as in /mnt/private/MILLER_JOHN/ct.nii.gz"),
    ]  # fmt: skip
    return [dict(zip(SCHEMAS["repairs"].names, row, strict=True)) for row in rows]


def scan_row(case_id: str, source: str, name: str, licence: str) -> dict[str, Any]:
    return {
        "scan_id": f"{source}_{name}",
        "source": source,
        "source_case": name,
        "patient_key": f"{source}/{name}",
        "image_path": f"/mnt/{source}/{name}/ct.nii.gz",
        "label_paths": [f"/mnt/{source}/{name}/masks/liver.nii.gz"],
        # Of an internal source no file's name is listed.
        "source_file": "" if licence == "internal" else f"{name}/ct.nii.gz",
        "file_sha256": f"{int(case_id[-8:]) + 1:064x}",
        "voxel_sha256": f"{int(case_id[-8:]):064x}",
        "shape": list(GRID.shape),
        "spacing_mm": list(GRID.spacing_mm),
        "slices": GRID.shape[0],
        "licence": licence,
        "role": "pool",
        "reserved": "",
        "repairs": [],
        "warnings": [],
        "duplicate_group": f"g{int(case_id[-8:]):016x}",
        "relation": "same",
        "kept": True,
        "case_id": case_id,
        "shard": "s0000",
    }


def _tumors(case_id: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for organ, facts in case["merged_row"]["instances"].items():
        labels, _ = _instances(organ, STATES[case_id][organ])
        for found in measure_instances(labels, case["merged_row"]["ct"], GRID, **MEASURE):
            row = asdict(found)
            number = row.pop("label")
            own = facts[str(number)]
            rows.append(
                {
                    **row,
                    "tumor_id": own["tumor_id"],
                    "number": number,
                    "case_id": case_id,
                    "organ": organ,
                    "side": "",
                    "lesion_kind": own["kind"],
                    "origin": "source",
                    "reviewers": [],
                    "events": [],
                    "bbox": list(row["bbox"]),
                    "centroid_lps_mm": list(row["centroid_lps_mm"]),
                }
            )
    return rows


def relist(release: Path, path: Path) -> None:
    """Write a changed file's new hash into SHA256SUMS, as a careful forger would."""
    from tumoratlas.core.files import sha256_file

    place = path.relative_to(release).as_posix()
    sums = release / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if line[66:] != place]
    lines.append(f"{sha256_file(path)}  {place}")
    os.unlink(sums)
    sums.write_text("\n".join(sorted(lines, key=lambda line: line[66:])) + "\n")
