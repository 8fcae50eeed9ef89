"""One more scan, source, review or model starts the jobs that depend on it, and no others.

Five shards of small phantoms, run through every sharded rule; then one thing is added at a time.
The shards that have to work are told by the shards of scans and cases, not by what was seen. At
the end a run from nothing, on one shard, must give the same tables.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.conftest import ROOT
from tests.micro import config_with, snakemake
from tests.phantoms import nifti_sources, write_phantoms
from tests.phantoms.anatomy import draw
from tests.phantoms.cast import Scan
from tests.phantoms.copies import stored
from tests.phantoms.patients import MICRO
from tests.phantoms.reviewer import write_roster
from tests.tiny_training import TINY, tiny_cases
from tumoratlas.core.provenance import PROVENANCE, read_scans
from tumoratlas.core.records import append_lines
from tumoratlas.core.runner import read_record, shard_names, shard_of
from tumoratlas.core.tables import read_table
from tumoratlas.review.packets.batch import DECISION_COLUMNS
from tumoratlas.train.dataset import prepare_training
from tumoratlas.train.registry import register_model
from tumoratlas.train.trainer import train_fold

SHARDS = 5
# Together they need every sharded rule but write_segs.
TARGETS = ("results/tables/excluded.parquet", "results/tables/tumors.parquet")
TABLES = ("excluded", "masks", "relations", "reviews", "tumors")
LITS = {"id": "lits", "path": "sources/lits"}
CT_ORG = {"id": "ct_org", "path": "sources/ct_org"}
# One job each, on the tables of all scans; those of ingest and review.
INGEST = ("shard_scans", "match_scans", "deduplicate_scans", "assign_cases")
REVIEW = ("check_review", "count_tumors", "list_excluded")
# One job per shard, in their order.
OF_SCANS = ("fingerprint_scans",)
OF_CASES = ("harmonize_scans", "predict_tumors", "propose_candidates")
OF_MASKS = ("merge_masks", "measure_tumors", "write_cases")


@dataclass
class Run:
    """A working directory, and what its last call did.

    Attributes
    ----------
    folder
        Of the run.
    sources
        Entries of its configuration.
    jobs
        Jobs that were started, by rule.
    worked
        Scans, or organs of cases, that were worked on, by rule.
    """

    folder: Path
    shards: int = SHARDS
    sources: list[dict[str, str]] = field(default_factory=lambda: [LITS])
    jobs: Counter[str] = field(default_factory=Counter)
    worked: dict[str, list[str]] = field(default_factory=dict)

    def again(self, *options: str) -> None:
        """Run the same command again."""
        before = {rule: len(self._scans(rule)) for rule in self._rules()}
        config = config_with(self.folder, shards=self.shards, sources=self.sources)
        done = snakemake(ROOT, self.folder, *TARGETS, *options, config=config)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        self.jobs = Counter(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", said, re.M))
        new = {rule: self._scans(rule)[before.get(rule, 0) :] for rule in self._rules()}
        self.worked = {rule: sorted(subjects) for rule, subjects in new.items() if subjects}

    def _rules(self) -> list[str]:
        return sorted(path.name for path in (self.folder / PROVENANCE).glob("*") if path.is_dir())

    def _scans(self, rule: str) -> list[str]:
        return [record["subject"] for record in read_scans(self.folder / PROVENANCE, rule)]


def register(folder: Path, organ: str, seed: int) -> str:
    """Train a tiny model for an organ, register it, and return its id."""
    settings = dataclasses.replace(TINY, seed=seed)
    model = folder / f"model_{organ}_{seed}"
    prepare_training(tiny_cases(model / "cases"), model, organ, settings)
    for fold in range(settings.folds):
        train_fold(model, fold, settings, torch.device("cpu"))
    records = folder / "records"
    line = register_model(records / "models.jsonl", organ, model, records / "models")
    shutil.rmtree(model)
    return line["model_id"]


def cases_of(run: Run) -> dict[str, str]:
    """Return the case id of every scan that has one."""
    scans = read_table(run.folder / "results/tables/scans.parquet").dropna(subset="case_id")
    return dict(zip(scans.scan_id, scans.case_id, strict=True))


def manifest_lines(run: Run, rule: str) -> list[str]:
    """Return the lines of a rule's manifests, which hold the hashes of all files."""
    paths = [run.folder / f"results/{rule}/{shard}.tsv" for shard in shard_names(run.shards)]
    return sorted(line for path in paths for line in path.read_text().splitlines()[1:])


def counts(*rules: str) -> Counter[str]:
    """Return one job for each rule."""
    return Counter(rules)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run with a model of the pancreas, which no source annotated."""
    folder = tmp_path_factory.mktemp("incremental")
    write_phantoms(folder / "phantoms", micro=True)
    (folder / "phantoms/sources").rename(folder / "sources")
    write_roster(folder / "records")
    model_id = register(folder, "pancreas", seed=1)
    chosen = {"organ": "pancreas", "model_id": model_id, "threshold": 0.3}
    append_lines(folder / "records/thresholds.jsonl", [chosen])
    run = Run(folder)
    run.again()
    return run


def test_the_first_run_runs_every_shard_once(run: Run) -> None:
    """What is counted below is counted here: all shards of all sharded rules."""
    sharded = (*OF_SCANS, "confirm_pairs", *OF_CASES, *OF_MASKS)
    assert run.jobs == counts("list_scans", *INGEST, *REVIEW, *sharded * SHARDS)
    assert run.worked["fingerprint_scans"] == ["lits_0", "lits_1", "lits_5"]
    assert len(run.worked["merge_masks"]) == 2


def test_one_new_scan(run: Run, tmp_path: Path) -> None:
    """Its shard, and the shard of its case."""
    write_phantoms(tmp_path, micro=True, seed=1)
    for name in ("volume", "segmentation"):
        there = Path("sources/lits/Training_Batch1")
        shutil.copy(tmp_path / there / f"{name}-0.nii", run.folder / there / f"{name}-12.nii")
    run.again("--forcerun", "list_scans")
    case = cases_of(run)["lits_12"]
    assert run.jobs == counts("list_scans", *INGEST, *REVIEW, *OF_SCANS, *OF_CASES, *OF_MASKS)
    assert run.worked == {
        "fingerprint_scans": ["lits_12"],
        "harmonize_scans": [case],
        "predict_tumors": [f"pancreas/{case}"],
        "propose_candidates": [f"pancreas/{case}"],
        **{rule: [case] for rule in OF_MASKS},
    }


def test_one_more_source(run: Run) -> None:
    """Its scans' shards; a copy of an earlier scan is compared and changes that one's case."""
    root = run.folder / CT_ORG["path"]
    copy = Scan("ct_org", "7", copy="crop", margins=((0, 0), (0, 0), (2, 2)))
    nifti_sources.ct_org(root, stored(draw(MICRO[1], 0), copy)[0], copy)
    nifti_sources.ct_org(root, draw(MICRO[0], 2), Scan("ct_org", "10"))
    run.sources.append(CT_ORG)
    run.again()
    cases = cases_of(run)
    assert cases["ct_org_7"] == cases["lits_1"]
    old, new = cases["lits_1"], cases["ct_org_10"]
    read = {shard_of(scan, SHARDS) for scan in ("ct_org_7", "ct_org_10")}
    changed = {shard_of(scan, SHARDS) for scan in ("lits_1", "ct_org_10")}
    expected = counts("list_scans", *INGEST, *REVIEW, "confirm_pairs")
    expected += counts(*OF_SCANS * len(read), *(*OF_CASES, *OF_MASKS) * len(changed))
    assert run.jobs == expected
    assert run.worked["fingerprint_scans"] == ["ct_org_10", "ct_org_7"]
    assert run.worked["confirm_pairs"] == ["ct_org_7__lits_1"]
    assert run.worked["harmonize_scans"] == sorted([old, new])
    assert f"pancreas/{new}" in run.worked["predict_tumors"]


def test_one_more_review(run: Run) -> None:
    """The shard of its case, from merging on."""
    case = cases_of(run)["lits_0"]
    merged = read_record(run.folder / f"results/review/merge_masks/{case}")
    returned = run.folder / "records/returns/later"
    returned.mkdir(parents=True)
    row = {
        "case_id": case, "organ": "pancreas", "decision": "sign_off", "reviewer_id": "R01",
        "time": "2026-02-01T00:00:00Z", "seconds": "20",
        "base_sha256": merged["row"]["bases"]["pancreas"],
    }  # fmt: skip
    form = pd.DataFrame([row], columns=DECISION_COLUMNS)
    form.to_csv(returned / "decisions.csv", index=False)
    run.again()
    assert run.jobs == counts(*REVIEW, *OF_MASKS)
    assert run.worked["merge_masks"] == [case]
    events = read_table(run.folder / "results/tables/reviews.parquet")
    assert list(events[events.role != "source"].case_id) == [case]


def test_one_more_model(run: Run) -> None:
    """All shards are predicted; what follows starts only where something was proposed anew."""
    register(run.folder, "colon", seed=2)
    run.again()
    cases = sorted(set(cases_of(run).values()))
    first = ("predict_tumors", "propose_candidates") * SHARDS
    assert run.jobs == counts(*REVIEW, *first)
    assert run.worked == {"predict_tumors": [f"colon/{case}" for case in cases]}


def test_a_run_from_nothing_gives_the_same(run: Run, tmp_path: Path) -> None:
    """One shard, the same folders and records: the same tables and the same case files."""
    for name in ("sources", "records"):
        shutil.copytree(run.folder / name, tmp_path / name)
    fresh = Run(tmp_path, shards=1, sources=run.sources)
    fresh.again()
    for name in TABLES:
        tables = [one.folder / f"results/tables/{name}.parquet" for one in (run, fresh)]
        assert tables[0].read_bytes() == tables[1].read_bytes(), name
    for rule in ("harmonize/harmonize_scans", "release/write_cases"):
        assert manifest_lines(run, rule) == manifest_lines(fresh, rule)
