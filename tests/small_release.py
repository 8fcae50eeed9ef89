"""A release of three small cases, made by the real step runner, writer and builder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
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
from tumoratlas.ingest.sources import Source, read_source
from tumoratlas.ingest.status import source_status
from tumoratlas.measure.instances import measure_instances
from tumoratlas.release.build import build_release
from tumoratlas.release.cases import write_case
from tumoratlas.release.leakage import audit_leakage, audit_tables
from tumoratlas.release.splits import split_cases

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


def make_release(work: Path, target: Path, *, cases: tuple[str, ...] = tuple(CASES)) -> Path:
    """Build a release at ``target``; intermediate folders lie below ``work``."""
    inputs = {case_id: _inputs(work, case_id) for case_id in cases}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)  # where the runner keeps its books

        def release(task: Task, folder: Path) -> dict[str, Any]:
            return write_case(folder, **task.data)

        step = Step("write_cases", "s0000", work / "write_cases", {}, code="1")
        tasks = [Task(case_id, {}, inputs[case_id]) for case_id in cases]
        run_shard(step, tasks, release, step.folder / "s0000.tsv")
        folders = finished_folders([step.folder / "s0000.tsv"])
    names = sorted({"panorama", *(source for source, _, _ in CASES.values())})
    sources = [read_source(ROOT / f"resources/sources/{name}.yaml") for name in names]
    tables = _tables(inputs, sources)
    build_release(
        target,
        version="2.0",
        cases=folders,
        tables=tables,
        sources=sources,
        models=[MODEL],
        thresholds={"liver": CHOICE},
        definitions=DEFINITIONS,
        card=ROOT / "resources/release/README.md.jinja",
    )
    return target


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
    structures = dict.fromkeys(("liver", "kidney_left", "spleen", "kidney", "uterus"), {})
    masks, instances = [], {}
    for organ in tumor_structures():
        state = STATES[case_id].get(organ, "unknown")
        masks.append({"case_id": case_id, "organ": organ, "state": state, "pending": []})
        if state != "unknown":
            labels, kinds = _instances(organ, state)
            write_nifti(merged / f"{organ}.nii.gz", labels, GRID)
            instances[organ] = {
                str(n): {"kind": kind, "tumor_id": f"{n:08x}{organ.encode().hex():0<8.8}"}
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
        },
        "merged_row": {"case_id": case_id, "masks": masks, "instances": instances, "ct": ct},
    }


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
    scans = [_scan(case_id, *facts) for case_id, facts in CASES.items()]
    copy = {"kept": False, "shard": None, "voxel_sha256": f"{7:064x}", "relation": "crop"}
    scans.append(_scan("BDMAP_90000001", "private", "MILLER_JOHN_B", "internal") | copy)
    scans[-1]["repairs"] = ["spacing_from_copy: 1 mm -> 2 mm (private_MILLER_JOHN)"]
    scans.append(_scan("BDMAP_00000001", "panorama", "100001_00001", "CC BY-NC-SA 4.0") | copy)
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
        {"case_id": c, "group": c, "reserved": TEST_SET if c == "BDMAP_00000001" else ""}
        for c in inputs
    ]
    splits = split_cases(groups, seed=1, test_fraction=0.2, validation_fraction=0.2, folds=2)
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


def _scan(case_id: str, source: str, name: str, licence: str) -> dict[str, Any]:
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
