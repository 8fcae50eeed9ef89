"""Plans: limits of jobs, costs against hand computation, and planned beside actual."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.micro import MICRO
from tests.test_layout import RULES
from tumoratlas.core.config import check_config
from tumoratlas.core.provenance import read_jobs
from tumoratlas.reproduce.costs import (
    MINIMUM_MIN,
    START_MB,
    START_READ_MB,
    START_S,
    cost_of,
    expected_units,
    job_limits,
    known_units,
)
from tumoratlas.reproduce.dry_run import PlannedJob, dry_run, parse_dry_run
from tumoratlas.reproduce.plan import measured_costs, plan_work, planned_and_actual
from tumoratlas.reproduce.plan_text import (
    costs_text,
    measured_text,
    open_share,
    read_config,
    review_hours,
    stages,
    wall_hours,
)

DEFAULTS = read_config([ROOT / "config.yaml"])
DEMO = ROOT / "tests/phantoms/demo.yaml"
SHARD = {"shard": "s0001"}


def job(rule: str, wildcards: dict[str, str], *inputs: str, threads: int = 1) -> PlannedJob:
    return PlannedJob(rule, wildcards, inputs, ("out",), "", threads, is_checkpoint=False)


def small_config() -> dict[str, Any]:
    """Return a configuration whose costs are easy to compute by hand."""
    config = copy.deepcopy(DEFAULTS) | {"scans": 40, "cases": 20, "shards": 10}
    config["train"] |= {"epochs": 7, "device": "cuda"}
    row = {"gpu_s": 0, "memory_mb": 100, "read_mb": 20, "written_mb": 4, "kept_mb": 3}
    config["costs"]["harmonize_scans"] = {"per": "case", "cpu_s": 36, **row}
    config["costs"]["match_scans"] = {"per": "scan", "cpu_s": 1, **row}
    config["costs"]["train_model"] = {"per": "epoch", "cpu_s": 5, **row, "gpu_s": 11}
    return config


def test_every_rule_has_a_row_of_costs() -> None:
    """And every row is a rule's."""
    assert sorted(DEFAULTS["costs"]) == sorted(rule.name for rule in RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_has_limits(rule: Any) -> None:  # noqa: ANN401
    """Memory and time are set by the rule, not by a profile."""
    resources = rule.directive("resources")
    assert resources is not None
    assert re.search(r"^ +mem_mb=\w+,$", resources, re.MULTILINE)
    assert re.search(r"^ +runtime=\w+,$", resources, re.MULTILINE)


@pytest.mark.parametrize("rule", sorted(DEFAULTS["costs"]))
def test_each_attempt_has_twice_the_limits(rule: str) -> None:
    """Memory and time, whatever the rule."""
    limits = [job_limits(DEFAULTS, rule, SHARD, [], 4, attempt) for attempt in (1, 2, 3)]
    assert limits[0].runtime_min >= MINIMUM_MIN and limits[0].memory_mb > START_MB
    for before, after in zip(limits, limits[1:], strict=False):
        assert after.memory_mb == 2 * before.memory_mb
        assert after.runtime_min == 2 * before.runtime_min


def test_limits_follow_the_scans_of_the_shard(tmp_path: Path) -> None:
    """Counted where the manifest is there, else the mean and four standard deviations."""
    config = small_config()
    manifest = tmp_path / "s0001.tsv"

    def minutes(threads: int = 1) -> int:
        inputs = ["other.json", str(manifest)]
        return job_limits(config, "harmonize_scans", SHARD, inputs, threads, 1).runtime_min

    # 20 cases in 10 shards: 2 and 4 * sqrt(2) + 1, at 36 s each, times four.
    assert minutes() == 21
    manifest.write_text("id\tstatus\n" + "".join(f"BDMAP_{n}\tok\n" for n in range(50)))
    assert minutes() == 121  # 4 * (2 + 50 * 36) s
    assert minutes(threads=5) == 25
    manifest.write_text("id\tstatus\nliver/BDMAP_1\tok\ncolon/BDMAP_1\tok\n")
    assert known_units([manifest], "s0001") == 1
    assert known_units([manifest], "s0002") is None


def test_memory_follows_processes_and_tables() -> None:
    """A scan per process; a rule over all scans has their tables, more than 10,000 times so."""
    config = small_config()

    def memory(rule: str, wildcards: dict[str, str], threads: int = 1) -> int:
        return job_limits(config, rule, wildcards, [], threads, 1).memory_mb

    assert memory("harmonize_scans", SHARD) == 700  # 500 + 1.5 * 100, rounded up
    assert memory("harmonize_scans", SHARD, threads=4) == 1100
    assert memory("match_scans", {}) == 700
    config["scans"] = 100_000
    assert memory("match_scans", {}) == 2000


@pytest.mark.parametrize("overlay", [MICRO, DEMO], ids=lambda path: path.stem)
def test_phantoms_ask_for_little(overlay: Path) -> None:
    """Every job of the demo fits into a small machine's SLURM."""
    config = read_config([ROOT / "config.yaml", overlay])
    check_config(config, ROOT / "resources/schemas/config.schema.yaml")
    for rule in config["costs"]:
        limits = job_limits(config, rule, SHARD, [], 4, 1)
        assert limits.memory_mb <= 3000 and limits.runtime_min <= 60, rule


def test_units_are_shared_out() -> None:
    """Scans by sources, cases by shards; sources and shards differ, so limits take more."""
    config = small_config()
    assert expected_units(config, "harmonize_scans", SHARD) == 2
    assert expected_units(config, "list_scans", {"source": "lits"}) == 40 / len(config["sources"])
    assert expected_units(config, "list_scans", {"source": "lits"}, is_limit=True) == 40
    assert expected_units(config, "train_model", {"organ": "liver", "fold": "0"}) == 7
    assert expected_units(config, "register_model", {"organ": "liver"}) == 1
    config["cases"] = 90  # more than there are scans
    assert expected_units(config, "count_tumors", {}) == 40


def test_no_gpu_no_gpu_seconds() -> None:
    """A rule that runs on the processor holds no GPU."""
    config = small_config()
    assert cost_of(config, "train_model").gpu_s == 11
    config["train"]["device"] = "cpu"
    assert cost_of(config, "train_model").gpu_s == 0


def test_costs_add_up_by_hand(tmp_path: Path) -> None:
    """Three jobs of two rules, one of them with a manifest of five cases."""
    config = small_config()
    folder = tmp_path / "cases"
    folder.mkdir()
    (folder / "s0001.tsv").write_text("id\n" + "".join(f"{n}\n" for n in range(5)))
    planned = [
        job("harmonize_scans", SHARD, "cases/s0001.tsv", threads=2),
        job("harmonize_scans", {"shard": "s0002"}, "cases/s0002.tsv"),
        job("train_model", {"organ": "liver", "fold": "0"}),
    ]
    cases, training = plan_work(config, planned, tmp_path)
    assert (cases.jobs, cases.units, cases.per) == (2, 7, "case")
    assert cases.cpu_h == pytest.approx((2 * START_S + 7 * 36) / 3600)
    assert cases.read_gb == pytest.approx((2 * START_READ_MB + 7 * 20) / 1000)
    assert (cases.written_gb, cases.kept_gb) == pytest.approx((0.028, 0.021))
    assert cases.longest_h == pytest.approx((START_S + 5 * 36 / 2) / 3600)
    assert training.gpu_h == pytest.approx(7 * 11 / 3600)
    least, most = wall_hours([cases, training], cores=1, gpus=1)
    assert least == pytest.approx(cases.cpu_h + training.cpu_h)
    assert least < most
    rows = costs_text([cases, training], stages(ROOT))
    assert [row.split()[0] for row in rows] == [
        "rule", "harmonize", "harmonize_scans", "train", "train_model", "all",
    ]  # fmt: skip
    assert rows[-1].split()[1] == "3"


def test_hours_of_reviewers_by_hand() -> None:
    """The paper's cases: triage in 5 s, a tenth read twice, a twentieth of six organs in full."""
    hours = review_hours(DEFAULTS)
    assert hours["triage"] == pytest.approx(10_135 * 5 / 3600)
    assert hours["second readers"] == pytest.approx(hours["triage"] / 10)
    assert hours["full reads"] == pytest.approx(10_135 * 6 / 20 * 50 / 3600)
    assert sum(review_hours(DEFAULTS, 0.0).values()) == 0


def test_a_plan_before_any_run(tmp_path: Path) -> None:
    """Snakemake's own jobs, each with limits; planned by what the configuration expects."""
    config = read_config([ROOT / "config.yaml", MICRO])
    planned = dry_run(ROOT, tmp_path / "run", ["train", "all"], [MICRO])
    counted = {row.rule: row for row in plan_work(config, planned, tmp_path / "run")}
    assert counted["list_scans"].jobs == 2
    assert counted["train_model"].jobs == config["train"]["folds"]
    assert counted["train_model"].units == config["train"]["folds"] * config["train"]["epochs"]
    assert counted["fingerprint_scans"].units == config["scans"]
    assert counted["harmonize_scans"].units == config["cases"]
    assert set(counted) <= set(stages(ROOT))


def test_jobs_of_a_dry_run_are_read() -> None:
    """Also where a reason goes on over lines, and where nothing is known of the input yet."""
    text = """Building DAG of jobs...
[Sat Nov 21 23:30:07 2026]
checkpoint shard_scans:
    input: a.json, b.json
    output: c.json
    jobid: 7
    reason: Params have changed since last execution: before: x
y now: z
    threads: 3
[Sat Nov 21 23:30:07 2026]
localrule all:
    input: c.json
    jobid: 0
    reason: Rules with neither input nor output files are always executed.
[Sat Nov 21 23:30:07 2026]
rule fingerprint_scans:
    input: <TBD>
    output: results/s0003.tsv
    reason: Missing output files: results/s0003.tsv
    wildcards: shard=s0003
"""
    first, second = parse_dry_run(text)
    assert (first.rule, first.is_checkpoint, first.threads) == ("shard_scans", True, 3)
    assert first.inputs == ("a.json", "b.json") and first.name == "shard_scans/all"
    assert second.name == "fingerprint_scans/s0003" and second.inputs == ("<TBD>",)


def test_planned_and_actual_of_a_run(micro_run: Path) -> None:
    """Every rule that ran, what its records say it used, and the limits it ran under."""
    config = read_config([ROOT / "config.yaml", MICRO])
    jobs = read_jobs(micro_run / "results/provenance")
    rows = {row["rule"]: row for row in planned_and_actual(config, jobs, micro_run)}
    assert set(rows) == {record["rule"] for record in jobs}
    used = sum(record["cpu_s"] for record in jobs if record["rule"] == "merge_masks")
    assert rows["merge_masks"]["actual_cpu_h"] == pytest.approx(used / 3600)
    assert rows["fingerprint_scans"]["scans"] == 4
    assert rows["harmonize_scans"]["scans"] == 2  # kept, and not corrupt
    folder = micro_run / "results/harmonize/harmonize_scans"
    files = [path for path in folder.glob("BDMAP_*/*") if path.is_file()]
    size = sum(p.stat().st_size for p in [*files, folder / "s0000.tsv"])
    assert rows["harmonize_scans"]["actual_kept_gb"] == pytest.approx(size / 1e9)
    assert all({"mem_mb", "runtime"} <= record["resources"].keys() for record in jobs)


def test_measured_costs_plan_what_was_used(micro_run: Path, tmp_path: Path) -> None:
    """Pasted into a configuration, they are valid and give the hours of the same run again."""
    config = read_config([ROOT / "config.yaml", MICRO])
    jobs = read_jobs(micro_run / "results/provenance")
    overlay = tmp_path / "costs.yaml"
    overlay.write_text(measured_text(measured_costs(config, jobs, micro_run)))
    # No two scans of the micro run may be copies: there is nothing to divide by.
    assert set(yaml.safe_load(overlay.read_text())["costs"]) == {
        record["rule"] for record in jobs if record["rule"] != "confirm_pairs"
    }
    measured = read_config([ROOT / "config.yaml", MICRO, overlay])
    check_config(measured, ROOT / "resources/schemas/config.schema.yaml")
    rows = {row["rule"]: row for row in planned_and_actual(measured, jobs, micro_run)}
    row = rows["train_model"]
    assert row["planned_cpu_h"] == pytest.approx(row["actual_cpu_h"], rel=0.01)
    assert row["planned_kept_gb"] == pytest.approx(row["actual_kept_gb"], rel=0.01)


def test_settled_organs_need_no_reviewer(micro_run: Path, tmp_path: Path) -> None:
    """All are open before a run; the micro run's reviewers answered everything."""
    assert open_share(tmp_path, ["pancreas"]) == 1
    assert open_share(micro_run, ["pancreas"]) == 0
    assert open_share(micro_run, ["pancreas", "colon"]) == 0.5  # nobody asked about the colon
