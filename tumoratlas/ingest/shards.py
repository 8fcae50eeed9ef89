"""Scans, candidate pairs and cases by the shard whose jobs work on them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tumoratlas.core.runner import finished_folders, read_record, shard_of

Parts = dict[str, dict[str, Any]]


def scans_by_shard(scans: Mapping[str, Mapping[str, Any]], shards: int) -> Parts:
    """Return the listed scans of each shard by scan id."""
    parts: Parts = {}
    for scan_id, scan in scans.items():
        parts.setdefault(shard_of(scan_id, shards), {})[scan_id] = scan
    return parts


def pairs_by_shard(
    pairs: Iterable[Mapping[str, Any]],
    scans: Mapping[str, Mapping[str, Any]],
    fingerprinted: Iterable[Path],
    shards: int,
) -> Parts:
    """Return the candidate pairs of each shard by pair id, with all that a comparison needs.

    Parameters
    ----------
    pairs
        Of `tumoratlas.ingest.matching.match_scans`.
    scans
        `tumoratlas.ingest.steps.listed_scans`.
    fingerprinted
        Manifests of fingerprint_scans.

    Returns
    -------
    Per pair ``pair``, the candidate, and ``a`` and ``b``, its scans: as listed, without the stamp
    of their files, and with ``file_sha256``.
    """
    folders = finished_folders(fingerprinted)

    def side(scan_id: str) -> dict[str, Any]:
        row = read_record(folders[scan_id])["row"]
        return without_stamp(scans[scan_id]) | {"file_sha256": row["file_sha256"]}

    parts: Parts = {}
    for pair in pairs:
        part = parts.setdefault(shard_of(pair["pair_id"], shards), {})
        part[pair["pair_id"]] = {"pair": pair, "a": side(pair["a"]), "b": side(pair["b"])}
    return parts


def cases_by_shard(cases: Mapping[str, Mapping[str, Any]]) -> Parts:
    """Return the cases of each shard by case id (`tumoratlas.ingest.steps.case_members`)."""
    parts: Parts = {}
    for case_id, case in cases.items():
        parts.setdefault(case["shard"], {})[case_id] = case
    return parts


def without_stamp(scan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a listed scan without the stamp of its files: they have been read, and hashed."""
    return {key: value for key, value in scan.items() if key != "stamp"}
