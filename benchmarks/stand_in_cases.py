"""What the rules from harmonize_scans to write_cases would leave of a made-up catalog."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.catalog import ORGANS, PARENT, Catalog, Finding, fake_sha256, size_class
from benchmarks.stand_in import SLICES, Stand
from tumoratlas.core.files import read_json
from tumoratlas.core.structures import structures
from tumoratlas.ingest.sources import Source, read_source
from tumoratlas.release.cases import CT, JOINED, segmentation, tumor_files
from tumoratlas.review.ledger import Event, append_events, make_event

_GRID = {
    "shape": [SLICES, 512, 512],
    "affine": [[0.8, 0.0, 0.0, -200.0], [0.0, 0.8, 0.0, -200.0], [0.0, 0.0, 2.0, -300.0],
               [0.0, 0.0, 0.0, 1.0]],
}  # fmt: skip
_REVIEWER = "R01"
_STATES = {"accepted": 0, "added": 0, "carried": 0, "edited": 0, "merged_away": 0, "rejected": 0,
           "source": 0, "split_off": 0, "swallowed": 0}  # fmt: skip


def write_cases(catalog: Catalog, run: Path, descriptions: Path, shards: int) -> None:
    """Write what the rules from harmonize_scans to write_cases would leave, and the decisions.

    Reads ``results/ingest/cases.json``, which the real assign_cases has written.
    """
    results = run / "results"
    sources = {path.stem: read_source(path) for path in sorted(descriptions.glob("*.yaml"))}
    cases = read_json(results / "ingest/cases.json")
    by_scan = {case["members"][0]["scan_id"]: case_id for case_id, case in cases.items()}
    stands = {
        rule: Stand(results, place, shards)
        for rule, place in (
            ("harmonize", "harmonize/harmonize_scans"),
            ("predict", "candidates/predict_tumors"),
            ("propose", "candidates/propose_candidates"),
            ("merge", "review/merge_masks"),
            ("measure", "measure/measure_tumors"),
            ("write", "release/write_cases"),
        )
    }
    events: list[Event] = []
    for scan_id, found in catalog.findings():
        case_id = by_scan[scan_id]
        case = _Case(case_id, cases[case_id], found, sources)
        shard = cases[case_id]["shard"]
        stands["harmonize"].add(case_id, shard, case.harmonized, case.volumes)
        for organ, rows in case.candidates.items():
            one = {"case_id": case_id, "organ": organ}
            stands["predict"].add(f"{organ}/{case_id}", shard, one)
            stands["propose"].add(f"{organ}/{case_id}", shard, one | {"candidates": rows})
        stands["merge"].add(case_id, shard, case.merged)
        tumors = {"case_id": case_id, "tumors": case.tumors, "excluded_masks": []}
        stands["measure"].add(case_id, shard, tumors)
        _write_released(stands["write"], case, shard)
        events += case.events
    for stand in stands.values():
        stand.close()
    append_events(run / "records/ledger.jsonl", events)
    (run / "records/reviewers.csv").write_text("reviewer_id,role\nR01,senior\n")


class _Case:
    """The rows of one case."""

    def __init__(
        self,
        case_id: str,
        case: Mapping[str, Any],
        found: list[Finding],
        sources: Mapping[str, Source],
    ) -> None:
        self.case_id = case_id
        self.kept = case["members"][0]
        self.found = found
        self.candidates = {
            one.organ: [self._candidate(one.organ, n) for n in range(one.candidates)]
            for one in found
        }
        own = self._facts(self.kept, sources)
        parent = [one for one in case["members"] if one["source"] == PARENT]
        names = [
            row.name for row in structures().values() if row.kind == "organ" and row.index < 26
        ]
        self.harmonized = {
            "case_id": case_id, "scan_id": self.kept["scan_id"], "source": self.kept["source"],
            "grid": _GRID, "model_grid": _GRID, "pooled": {}, "repairs": [], "excluded_masks": [],
            "annotated": {one.organ: own for one in found if one.source},
            "structures": {n: self._facts(one, sources) for one in parent for n in names},
        }  # fmt: skip
        lesions = [f"lesions_{one.organ}.b2nd" for one in found if one.source]
        self.volumes = {
            name: {"sha256": fake_sha256(case_id, name), "bytes": 1000}
            for name in (CT, "model.b2nd", "structures.b2nd", *lesions)
        }
        self.events = [event for one in found for event in self._events(one)]
        self.tumors = [
            self._tumor(one, number, radius)
            for one in found
            for number, radius in enumerate(one.radii_mm, 1)
        ]
        self.merged = self._merged(sources)

    @staticmethod
    def _facts(member: Mapping[str, Any], sources: Mapping[str, Source]) -> dict[str, Any]:
        source = sources[member["source"]]
        licence = "CC BY-NC-SA 4.0" if source.id == PARENT else source.licence
        return {
            "scan_id": member["scan_id"], "source": source.id, "licence": licence,
            "is_resampled": False, "tumor_free_means": source.tumor_free_means,
        }  # fmt: skip

    def _id(self, *parts: object) -> str:
        return fake_sha256(self.case_id, *parts)[:16]

    def _candidate(self, organ: str, number: int) -> dict[str, Any]:
        return {
            "candidate_id": self._id(organ, number), "number": number + 1,
            "case_id": self.case_id, "organ": organ, "bbox": [10, 20, 20, 20, 40, 40],
            "voxels": 500, "volume_mm3": 640.0, "radius_mm": 5.346, "max_p": 0.9, "mean_p": 0.7,
            "organ_overlap": 1.0, "distance_to_organ_mm": 0.0, "threshold": 0.3,
            "model_id": fake_sha256(organ)[:16], "is_restored": False,
        }  # fmt: skip

    def _events(self, one: Finding) -> Iterator[Event]:
        about = {"case_id": self.case_id, "organ": one.organ}
        for number, row in enumerate(self.candidates[one.organ]):
            is_tumor = number < len(one.radii_mm) and not one.source
            yield make_event(
                **about, stage="review", batch="b0001", candidate_id=row["candidate_id"],
                reviewer_id=_REVIEWER, role="senior", decision="accept" if is_tumor else "reject",
                reason="" if is_tumor else "vessel", tool="triage", seconds=12.5,
                time=f"2026-01-{1 + number % 28:02d}T10:00:00.000Z",
            )  # fmt: skip

    def _tumor(self, one: Finding, number: int, radius_mm: float) -> dict[str, Any]:
        volume_mm3 = 4.18879 * radius_mm**3
        diameter_mm = 2 * radius_mm
        return {
            "tumor_id": self._id(one.organ, "tumor", number), "number": number,
            "case_id": self.case_id, "organ": one.organ, "side": "", "lesion_kind": "tumor",
            "voxels": round(volume_mm3 / 1.28), "volume_mm3": volume_mm3, "radius_mm": radius_mm,
            "longest_axial_mm": diameter_mm, "perpendicular_mm": diameter_mm,
            "max_3d_mm": diameter_mm, "size_class": size_class(radius_mm),
            "is_early": diameter_mm < 20, "is_early_recist": diameter_mm < 20,
            "is_fragment": False, "centroid_lps_mm": [1.0, 2.0, 3.0],
            "bbox": [10, 20, 20, 20, 40, 40], "mean_hu": 60.0, "sd_hu": 9.0,
            "origin": "source" if one.source else "accept",
            "reviewers": [] if one.source else [_REVIEWER], "events": [self._id("event")],
            "touches_border": False,
        }  # fmt: skip

    def _merged(self, sources: Mapping[str, Source]) -> dict[str, Any]:
        def each(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
            return {organ: value for organ in ORGANS}

        instances: dict[str, dict[str, Any]] = {organ: {} for organ in ORGANS}
        for tumor in self.tumors:
            instances[tumor["organ"]][str(tumor["number"])] = {
                "candidate_ids": [], "event_ids": tumor["events"], "kind": "tumor",
                "origin": tumor["origin"], "reviewers": tumor["reviewers"],
                "tumor_id": tumor["tumor_id"],
            }  # fmt: skip
        masks = [
            {
                "case_id": self.case_id, "organ": one.organ, "state": one.state,
                "origin": "" if one.state == "unknown" else "source" if one.source else "review",
                "source": one.source, "resampled": False, "pending": [],
                "label_licence": sources[one.source].licence if one.source else "",
                "signed_by": _REVIEWER if one.state != "unknown" and not one.source else "",
            }
            for one in self.found
        ]  # fmt: skip
        bases = {o.organ: fake_sha256(self.case_id, o.organ) for o in self.found if not o.source}
        return {
            "case_id": self.case_id, "masks": masks, "instances": instances, "bases": bases,
            "counts": each(_STATES), "contests": each([]), "inherited": each({}),
            "excluded_masks": [],
        }  # fmt: skip

    @property
    def files(self) -> list[str]:
        """Files of the released case."""
        known = [one.organ for one in self.found if one.state != "unknown"]
        masks = [name for organ in known for name in tumor_files(organ)[::2]]
        return sorted([CT, *JOINED, *map(segmentation, self.harmonized["structures"]), *masks])


def _write_released(stand: Stand, case: _Case, shard: str) -> None:
    """Write the record of a released case, and one small file under the names of all its files."""
    facts = {"sha256": fake_sha256(case.case_id), "bytes": len(case.case_id)}
    structure_names = [name.split("/")[1].split(".")[0] for name in case.files if "seg" in name]
    row = {
        "case_id": case.case_id, "source": case.kept["source"], "shape": _GRID["shape"],
        "slices": SLICES, "spacing_mm": [0.8, 0.8, 2.0],
        "organs": sorted(one.organ for one in case.found if one.state != "unknown"),
        "structures": structure_names,
        "voxel_sha256": {name: fake_sha256(case.case_id, name) for name in case.files},
    }  # fmt: skip
    folder = stand.add(case.case_id, shard, row, {name: facts for name in case.files})
    first = folder / CT
    first.write_text(case.case_id)
    for name in ("segmentations", "instances"):
        (folder / name).mkdir()
    for name in case.files:
        if name != CT:
            os.link(first, folder / name)
