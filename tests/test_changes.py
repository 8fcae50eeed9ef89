"""What changed since a run: each edit is named with the rule that it re-runs, and nothing else."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.micro import MICRO, config_with
from tumoratlas.core.environment import environment
from tumoratlas.reproduce.edits import config_changes


@pytest.fixture
def run(micro_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the micro run, which a test may change."""
    return Path(shutil.copytree(micro_run, tmp_path / "run", symlinks=True))


def plan(checkout: Path, run: Path, overlay: str = "{}") -> list[str]:
    """Return the lines of a plan that a checkout makes with some options changed."""
    changed = run.with_name("changed.yaml")
    changed.write_text(overlay)
    command = [
        sys.executable, "-m", "tumoratlas", "plan", "--directory", str(run), "--configfile",
        str(MICRO), str(changed), "--cores", "2",
    ]  # fmt: skip
    told = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return [line.strip() for line in told.stdout.splitlines()]


def causes(lines: list[str]) -> dict[str, str]:
    """Return the cause of each rule that a plan re-runs, without those that only follow."""
    told = [line.partition(" because ") for line in lines if " because " in line]
    return {
        head.split(" (")[0]: text for head, _, text in told if not text.startswith("it follows")
    }


@contextmanager
def appended(path: Path, text: str) -> Iterator[None]:
    """Append a text to a file of the shared checkout and take it out again."""
    before = path.read_bytes()
    path.write_bytes(before + text.encode())
    try:
        yield
    finally:
        path.write_bytes(before)


def test_nothing_changed_but_a_version(micro_checkout: Path, run: Path) -> None:
    """Nothing to be done; the package is named with the jobs that had the other version."""
    now = environment()["software"]["packages"]["numpy"]
    for path in (run / "results/provenance/environments").glob("*.json"):
        facts = json.loads(path.read_text())
        facts["software"]["packages"]["numpy"] = "0.1"
        path.write_text(json.dumps(facts))
    lines = plan(micro_checkout, run)
    assert lines[0] == "nothing to be done"
    names = {
        path.parent.name + path.stem
        for path in (run / "results/provenance").glob("*/*.jsonl")
        if not path.stem.endswith("_scans")
    }
    assert f"numpy 0.1 -> {now}: {len(names)} jobs" in lines
    assert "re-runs nothing by itself" in lines[1]


def test_an_edit_of_code_is_named(micro_checkout: Path, run: Path) -> None:
    """The module, for every rule that reaches it; the rules behind them follow."""
    module = "tumoratlas/measure/diameters.py"
    with appended(micro_checkout / module, "\n_EDITED = 1\n"):
        lines = plan(micro_checkout, run)
    found = causes(lines)
    assert found["measure_tumors"] == f"its code changed: {module}"
    assert set(found.values()) == {f"its code changed: {module}"}
    assert "harmonize_scans" not in " ".join(lines)
    followers = [line for line in lines if " because it follows from " in line]
    assert followers
    for line in followers:
        roots = line.rpartition(" from ")[2].split(" and ")[0].split(", ")
        assert set(roots) <= set(found)


def test_an_edit_of_an_option_is_named(micro_checkout: Path, run: Path) -> None:
    """With its values; an option of plans and limits re-runs nothing."""
    lines = plan(micro_checkout, run, "harmonize: {model_spacing_mm: 2.0}\ncases: 9\n")
    told = "option harmonize.model_spacing_mm changed: 1.5 -> 2.0"
    assert causes(lines) == {"harmonize_scans": told}
    assert f"harmonize_scans (s0000) because {told}" in lines
    shown = [line.split() for line in lines if line.startswith("harmonize_scans ")]
    assert shown[-1][1:3] == ["1", "2"]  # in the table of costs: one job, two cases


def test_inputs_models_and_outputs_are_named(micro_checkout: Path, run: Path) -> None:
    """An edited file, a line in the registry of models, a file that is gone: one rule each."""
    models = run / "records/models.jsonl"
    line = json.loads(models.read_text().splitlines()[0])
    models.write_text(models.read_text() + json.dumps(line | {"organ": "kidney"}) + "\n")
    reviewers = run / "records/reviewers.csv"
    reviewers.write_text(reviewers.read_text() + "\n")
    (run / "results/report/tumors.html").unlink()
    found = causes(plan(micro_checkout, run))
    assert found["predict_tumors"] == "records/models.jsonl has a new model for kidney"
    assert found["check_review"] == "an input changed: records/reviewers.csv"
    assert found["report_tumors"] == "an output is missing: results/report/tumors.html"


def test_a_run_without_records_is_planned(micro_checkout: Path, run: Path) -> None:
    """What re-runs is known, why is not: no record tells."""
    shutil.rmtree(run / "results/provenance")
    found = causes(plan(micro_checkout, run, "harmonize: {model_spacing_mm: 2.0}"))
    assert found["harmonize_scans"] == "its code or options changed; no record tells which"


def test_a_run_that_cannot_be_planned_is_one_line(micro_checkout: Path, tmp_path: Path) -> None:
    """Snakemake's own words, the remedy, no traceback."""
    config = config_with(tmp_path, sead=1)
    command = [
        sys.executable, "-m", "tumoratlas", "plan", "--directory", str(tmp_path / "run"),
        "--configfile", str(config),
    ]  # fmt: skip
    told = subprocess.run(command, cwd=micro_checkout, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr.startswith("PLAN_FAILED: ") and "`sead` is unknown" in told.stderr
    assert "Traceback" not in told.stderr


def test_options_are_compared_by_name() -> None:
    """Nested options with both values; lists as a whole; costs are no options."""
    before = {"a": {"b": 1, "c": [1, 2]}, "costs": {"x": {"cpu_s": 1}}, "scans": 3, "old": 1}
    now = {"a": {"b": 2, "c": [1, 2]}, "costs": {"x": {"cpu_s": 2}}, "scans": 4, "new": True}
    assert config_changes(before, now) == {
        "a.b": (1, 2), "new": (None, True), "old": (1, None),
    }  # fmt: skip
