"""Ingest in one process, rule by rule as the workflow runs it, for tests of its results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT
from tumoratlas.core.files import write_json
from tumoratlas.core.runner import (
    Step,
    finished_folders,
    read_excluded,
    read_record,
    read_rows,
    shard_names,
)
from tumoratlas.core.shards import write_shards
from tumoratlas.harmonize.steps import harmonize_scans
from tumoratlas.ingest.dedupe import deduplicate
from tumoratlas.ingest.registry import assign_cases
from tumoratlas.ingest.shards import cases_by_shard, pairs_by_shard, scans_by_shard
from tumoratlas.ingest.steps import (
    case_members,
    confirm_pairs,
    fingerprint_scans,
    list_source,
    listed_scans,
    match_fingerprints,
)

PRECEDENCE = yaml.safe_load((ROOT / "config.yaml").read_text())["ingest"]["precedence"]
LIMITS = {"max_voxels": 10_000_000, "min_slices": 20}
Row = dict[str, Any]


@dataclass(frozen=True)
class Ingested:
    """What ingest left in a folder.

    Attributes
    ----------
    folder
        Working folder.
    listings
        Rows ``scans`` and ``excluded`` by source.
    listed
        The listed scans by id.
    fingerprints
        Rows of fingerprint_scans.
    relations
        Rows of match_scans and confirm_pairs.
    scans, cases
        Rows of assign_cases, and the members by case id.
    excluded
        Rows of all rules, masks apart.
    """

    folder: Path
    listings: dict[str, dict[str, list[Row]]]
    listed: dict[str, Row]
    fingerprints: list[Row]
    relations: list[Row]
    scans: list[Row]
    cases: dict[str, Row]
    excluded: list[Row]

    @cached_property
    def harmonized(self) -> dict[str, Path]:
        """Folder of every case, harmonized on the first call."""
        manifests = []
        for shard, part in sorted(cases_by_shard(self.cases).items()):
            cases = self.folder / "cases" / f"{shard}.json"
            write_shards([cases], {shard: part})
            manifests.append(self.folder / "harmonize" / f"{shard}.tsv")
            step = _step("harmonize_scans", manifests[-1])
            with chdir(self.folder):
                harmonize_scans(step, manifests[-1], cases, model_spacing_mm=1.5, **LIMITS)
        assert not read_excluded(manifests)
        return finished_folders(manifests)

    @cached_property
    def case_rows(self) -> dict[str, Row]:
        """The row of harmonize_scans by case id."""
        return {case_id: read_record(path)["row"] for case_id, path in self.harmonized.items()}

    def case_of(self, scan_id: str) -> str:
        """Return the id of a scan's case."""
        return next(scan["case_id"] for scan in self.scans if scan["scan_id"] == scan_id)


def _step(rule: str, manifest: Path) -> Step:
    # A twentieth of the phantoms is made to fail: the share that stops a job does not count.
    return Step(rule, manifest.stem, manifest.parent, LIMITS, "c0de", 2, 1.0)


def ingest(
    sources: Mapping[str, Path],
    folder: Path,
    key_file: Path,
    precedence: Sequence[str] = PRECEDENCE,
    shards: int = 1,
) -> Ingested:
    """List, fingerprint, match, confirm, deduplicate and name the scans of some sources."""
    listings, paths = {}, []
    for name, place in sources.items():
        listings[name] = list_source(ROOT / f"resources/sources/{name}.yaml", place, key_file)
        paths.append(folder / f"{name}.json")
        write_json(paths[-1], listings[name])

    def manifests(rule: str) -> list[Path]:
        return [folder / rule / f"{shard}.tsv" for shard in shard_names(shards)]

    def files(rule: str, parts: Mapping[str, Row]) -> list[Path]:
        paths = [folder / rule / f"{shard}.json" for shard in shard_names(shards)]
        write_shards(paths, parts)
        return paths

    listed = listed_scans(paths)
    # The runner keeps its books in the working directory.
    with chdir(folder):
        parts = scans_by_shard(listed, shards)
        prints = manifests("fingerprint_scans")
        for manifest, found in zip(prints, files("shard_scans", parts), strict=True):
            step = _step("fingerprint_scans", manifest)
            fingerprint_scans(step, manifest, found, key_file=key_file, **LIMITS)
        matched = match_fingerprints(prints)
        parts = pairs_by_shard(matched["pairs"], listed, prints, shards)
        confirmed = manifests("confirm_pairs")
        for manifest, pairs in zip(confirmed, files("match_scans", parts), strict=True):
            confirm_pairs(_step("confirm_pairs", manifest), manifest, pairs=pairs, **LIMITS)
    relations = matched["relations"] + read_rows(confirmed)
    scans, excluded, _ = name_cases(read_rows(prints), relations, precedence, shards=shards)
    excluded += [row for listing in listings.values() for row in listing["excluded"]]
    excluded += read_excluded([*prints, *confirmed])
    cases = case_members(scans, relations, listed, {})
    return Ingested(folder, listings, listed, read_rows(prints), relations, scans, cases, excluded)


def name_cases(
    fingerprints: Iterable[Row],
    relations: Sequence[Row],
    precedence: Sequence[str],
    registered: Mapping[str, str] | None = None,
    shards: int = 1,
) -> tuple[list[Row], list[Row], dict[str, str]]:
    """Return the named scans, the excluded rows and what is new in the registry."""
    rows, excluded = deduplicate(list(fingerprints), relations, precedence)
    scans, new = assign_cases(
        rows, registered or {}, withdrawn=[], parents=["abdomenatlas11"],
        first_case_id=90000001, shards=shards,
    )  # fmt: skip
    return scans, excluded, new
