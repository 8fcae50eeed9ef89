"""What the sharded rules would leave of a made-up catalog: records and manifests, no volumes.

They have the formats of `tumoratlas.core.runner`; the rules between them are the real ones.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.catalog import (
    ANNOTATED,
    PARENT,
    PRIVATE,
    TEST_SET,
    Catalog,
    Scan,
    fake_sha256,
)
from tumoratlas.core.errors import InputError
from tumoratlas.core.files import sha256_json, to_json
from tumoratlas.core.results import MANIFEST_HEADER, RECORD, signed
from tumoratlas.core.runner import shard_names, shard_of
from tumoratlas.core.structures import structures
from tumoratlas.ingest.sources import Source, read_source

SLICES = 100  # of every scan
_IDENTITY = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]


class Stand:
    """Writes the records and manifests of one sharded rule, as the step runner leaves them."""

    def __init__(self, results: Path, place: str, shards: int) -> None:
        self._folder = results / place
        self._shards = shards
        self._lines: dict[str, list[str]] = defaultdict(list)

    def add(
        self,
        item_id: str,
        shard: str,
        row: Mapping[str, Any] | None,
        outputs: Mapping[str, Mapping[str, Any]] | None = None,
        excluded: Mapping[str, str] | None = None,
    ) -> Path:
        """Write the record of one scan and return its folder."""
        folder = self._folder / item_id
        folder.mkdir(parents=True)
        outputs = outputs or {}
        status = "excluded" if excluded else "ok"
        key = fake_sha256(self._folder.name, item_id)
        record = {"id": item_id, "key": key, "status": status, "row": row, "excluded": excluded}
        (folder / RECORD).write_text(to_json(signed(record | {"outputs": outputs})))
        hashes = {name: facts["sha256"] for name, facts in outputs.items()}
        told = to_json({"row": sha256_json(row), **hashes})
        code = excluded["code"] if excluded else ""
        self._lines[shard].append(f"{item_id}\t{status}\t{code}\t{told}")
        return folder

    def close(self) -> None:
        """Write the manifests of all shards."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for shard in shard_names(self._shards):
            text = "\n".join([MANIFEST_HEADER, *sorted(self._lines[shard])]) + "\n"
            (self._folder / f"{shard}.tsv").write_text(text)


def write_scans(catalog: Catalog, run: Path, descriptions: Path, shards: int) -> None:
    """Write what list_scans, fingerprint_scans, match_scans and confirm_pairs would leave.

    Parameters
    ----------
    catalog
        The catalog.
    run
        Working directory.
    descriptions
        Folder of the descriptions of sources.
    shards
        Number of shards.
    """
    results = run / "results"
    sources = {path.stem: read_source(path) for path in sorted(descriptions.glob("*.yaml"))}
    listed: dict[str, list[dict[str, Any]]] = defaultdict(list)
    fingerprinted = Stand(results, "ingest/fingerprint_scans", shards)
    for scan in catalog.scans.values():
        listing = _listing(scan, sources[scan.source])
        listed[scan.source].append(listing)
        shard = shard_of(scan.scan_id, shards)
        if scan.is_readable:
            fingerprinted.add(scan.scan_id, shard, _scan_row(scan, listing))
        else:
            error = InputError("GZIP_CRC", listing["image_path"], "is damaged", remedy="Fetch it")
            excluded = error.excluded_row(scan.scan_id, "fingerprint_scans")
            fingerprinted.add(scan.scan_id, shard, None, excluded=excluded)
    fingerprinted.close()
    for source, scans in listed.items():
        _write(results / f"ingest/list_scans/{source}.json", {"scans": scans, "excluded": []})
    relations, pairs = [], []
    confirmed = Stand(results, "ingest/confirm_pairs", shards)
    for scan in catalog.scans.values():
        if scan.copy_of:
            row = _relation(scan)
            if scan.relation == "same":
                relations.append(row)
                continue
            confirmed.add(row["pair_id"], shard_of(row["pair_id"], shards), row)
            pairs.append({key: row[key] for key in ("a", "b", "found_by", "pair_id", "shared")})
    confirmed.close()
    _write(results / "ingest/match_scans.json", {"relations": relations, "pairs": pairs})


def _listing(scan: Scan, source: Source) -> dict[str, Any]:
    labels = []
    if scan.source in (PARENT, *ANNOTATED):
        names = [row.name for row in structures().values() if row.index < 26]
        paths = [f"data/{scan.source}/{scan.case}/segmentations/{name}.nii.gz" for name in names]
        labels = [
            {"format": "nifti_masks", "header": "own", "licence": source.licence,
             "partial": False, "paths": paths, "values": {}}
        ]  # fmt: skip
    return {
        "scan_id": scan.scan_id, "source": scan.source, "source_case": scan.case,
        "patient_key": scan.patient, "image_path": f"data/{scan.source}/{scan.case}/ct.nii.gz",
        "source_file": "" if scan.source == PRIVATE else f"{scan.case}/ct.nii.gz",
        "files": [], "format": "nifti", "pattern": "ct.nii.gz", "labels": labels,
        "licence": source.licence, "repairs": [], "suspects": [], "false_spacing": False,
        "role": source.role, "reserved": source.name if scan.source == TEST_SET else "",
        "stamp": [1, 1000, 1], "tumor_free_means": source.tumor_free_means,
    }  # fmt: skip


def _scan_row(scan: Scan, listing: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("scan_id", "source", "source_case", "patient_key", "image_path", "source_file",
            "licence", "role", "reserved", "false_spacing")  # fmt: skip
    paths = [path for label in listing["labels"] for path in label["paths"]]
    return {key: listing[key] for key in keys} | {
        "label_paths": paths, "label_sha256": {path: fake_sha256(path) for path in paths},
        "file_sha256": fake_sha256(scan.scan_id, "file"), "voxel_sha256": scan.content,
        "shape": [90 if scan.relation == "crop" else 100, 512, 512], "slices": 100,
        "spacing_mm": [0.8, 0.8, 2.0], "orientation": "LPS", "hu_min": -1024.0, "hu_max": 1500.0,
        "hu_p01": -1000.0, "hu_p99": 320.0, "age": "", "sex": "", "phase": "", "manufacturer": "",
        "links": [], "repairs": [], "warnings": [],
    }  # fmt: skip


def _relation(scan: Scan) -> dict[str, Any]:
    first, second = sorted([scan.scan_id, scan.copy_of])
    return {
        "a": first, "b": second, "pair_id": f"{first}__{second}", "relation": scan.relation,
        "alignment": _IDENTITY, "correlation": None, "equal_share": 1.0, "offset_hu": 0.0,
        "evidence": "equal voxel hashes" if scan.relation == "same" else "99 % of voxels are equal",
        "found_by": ["voxels"] if scan.relation == "same" else ["anchors"], "shared": 200,
        "outer": None if scan.relation == "same" else scan.copy_of,
    }  # fmt: skip


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(value))
