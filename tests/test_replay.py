"""Every rule of the micro run repeats bit by bit; what does not is located, and nothing is touched.

The whole run is replayed once through the workflow, on a copy; single rules are tried by calls.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.micro import config_with, snakemake
from tumoratlas.core.files import sha256_file
from tumoratlas.core.results import SUMS, read_record, write_record
from tumoratlas.core.tables import read_rows_of, write_table
from tumoratlas.images.arrays import read_array, write_array
from tumoratlas.reproduce.replay import replay_rule
from tumoratlas.reproduce.tolerances import Tolerance

VERDICTS = "results/reproduce/replay_rule"
# The micro run has no locks, no external model, no DICOM series and no earlier release; the
# others cannot be tried.
NOT_REPLAYED = {
    "fetch_files", "import_model", "write_segs", "report_diff",
    "check_replays", "replay_rule", "report_rules",
}  # fmt: skip
# Written by the replay itself.
OWN = re.compile(r"(results/provenance/sums/)?results/reproduce/"
                 r"|(logs|benchmarks|results/provenance)/replay_rule/"
                 r"|results/provenance/(codes|configs|environments)/|\.snakemake/")  # fmt: skip


def state(run: Path) -> dict[str, tuple]:
    """Return hash, time and mode of every file of a run that is not the replay's own."""
    names = {str(p.relative_to(run)): p for p in run.rglob("*") if p.is_file()}
    return {
        name: (sha256_file(p), p.stat().st_mtime_ns, p.stat().st_mode)
        for name, p in names.items()
        if not OWN.match(name)
    }


@pytest.fixture(scope="module")
def replayed(
    micro_run: Path, micro_checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, tuple]]:
    """Return a copy of the micro run after its replay, and its state before."""
    run = tmp_path_factory.mktemp("replay") / "run"
    shutil.copytree(micro_run, run, symlinks=True)
    # Since the packets were written their readers have answered.
    done = snakemake(micro_checkout, run, "packets")
    assert done.returncode == 0, done.stderr
    before = state(run)
    done = snakemake(micro_checkout, run, "replay")
    assert done.returncode == 0, done.stderr
    return run, before


@pytest.fixture
def run(replayed: tuple[Path, dict[str, tuple]], tmp_path: Path) -> Path:
    """Return a copy of that run, which a test may change."""
    return shutil.copytree(replayed[0], tmp_path / "run", symlinks=True)


def again(run: Path, rule: str, **changes: Any) -> dict[str, Any]:
    """Replay all jobs of a rule by a call."""
    settings = {"records": "records", "sources": [], "jobs": 9, "seed": 1, "tolerances": []}
    return replay_rule(rule, run=run, **settings | changes)


def test_every_rule_repeats_bit_by_bit(replayed: tuple[Path, dict[str, tuple]]) -> None:
    """Training included: this is a run on a CPU."""
    verdicts = [json.loads(path.read_text()) for path in (replayed[0] / VERDICTS).glob("*.json")]
    words = {found["rule"]: found["verdict"] for found in verdicts}
    assert set(words) == {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert {rule for rule, word in words.items() if word == "not_replayed"} == NOT_REPLAYED
    bad = [f for f in verdicts if f["verdict"] not in ("equal", "not_replayed")]
    assert bad == []
    for found in verdicts:
        assert bool(found["jobs"]) == (found["rule"] not in NOT_REPLAYED)
        assert bool(found["reason"]) == (found["rule"] in NOT_REPLAYED)
        for job in found["jobs"]:
            assert (job["verdict"], job["difference"], job["changed"]) == ("equal", None, [])


def test_the_run_is_untouched(replayed: tuple[Path, dict[str, tuple]]) -> None:
    """No file of the run has another content, time or mode, none is new, none is left behind."""
    run, before = replayed
    assert state(run) == before
    assert not any((run / "results/reproduce/.replay").rglob("*"))


def test_a_replay_is_not_repeated_without_need(run: Path, micro_checkout: Path) -> None:
    """Only more jobs, or jobs that ran again, make it run again."""
    assert "Nothing to be done" in snakemake(micro_checkout, run, "replay").stderr
    path = run / "results/provenance/count_tumors/all.jsonl"
    path.write_text(path.read_text() * 2)
    planned = snakemake(micro_checkout, run, "replay", "-n").stdout
    assert re.findall(r"wildcards: rule=(\w+)", planned) == ["count_tumors"]


def test_an_altered_file_is_located(run: Path) -> None:
    """A voxel of a level map that only the manifest names."""
    path = next((run / "results/candidates/predict_tumors/liver").glob("*/levels.b2nd"))
    levels, meta = read_array(path)
    levels[1, 2, 3] += 1
    write_array(path, levels, **meta)
    found = again(run, "predict_tumors")
    assert found["verdict"] == "different"
    (job,) = found["jobs"]
    assert job["difference"] == {
        "file": str(path.relative_to(run)),
        "place": "voxel 1, 2, 3 (z, y, x)",
        "before": str(levels[1, 2, 3]),
        "after": str(levels[1, 2, 3] - 1),
    }
    assert found["reason"].startswith("altered since the job ended: results/candidates/")


def test_an_altered_table_is_located(run: Path) -> None:
    path = run / "results/tables/tumors.parquet"
    rows = read_rows_of(path)
    rows[1]["volume_mm3"] += 0.5
    write_table(path, "tumors", rows)
    (job,) = again(run, "count_tumors")["jobs"]
    assert job["verdict"] == "different"
    assert (job["difference"]["file"], job["difference"]["place"]) == (
        "results/tables/tumors.parquet",
        "row 1, column volume_mm3",
    )


def test_a_changed_input_is_named(run: Path) -> None:
    """The rules that read it are not tried, those that do not are."""
    path = run / "results/tables/masks.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    found = again(run, "split_cases")
    assert (found["verdict"], found["jobs"]) == ("inputs_changed", [])
    assert found["passed_over"] == {"split_cases/all": ["results/tables/masks.parquet"]}
    assert found["reason"] == "split_cases/all: results/tables/masks.parquet is not what it was"
    assert again(run, "list_repairs")["verdict"] == "equal"


def test_a_job_that_fails_says_why(run: Path) -> None:
    """In the one line that it would say in the run."""
    next((run / "records/models").glob("*/plans.json")).unlink()
    found = again(run, "predict_tumors")
    assert found["verdict"] == "failed"
    assert found["reason"].startswith("MODEL_HASH: ")


def move_levels(run: Path, step: int) -> None:
    """Make the run one whose level maps lie a step beside those that are made here."""
    folder = run / "results/candidates/predict_tumors"
    record, manifest = run / "results/provenance/predict_tumors/s0000.jsonl", folder / "s0000.tsv"
    text, before = manifest.read_text(), sha256_file(manifest)
    for path in folder.glob("*/*/levels.b2nd"):
        levels, meta = read_array(path)
        recorded = sha256_file(path)
        levels[0, 0, 0] += step
        write_array(path, levels, **meta)
        text = text.replace(recorded, sha256_file(path))
        facts = read_record(path.parent)
        facts["outputs"][path.name]["sha256"] = sha256_file(path)
        write_record(path.parent, facts)
    manifest.write_text(text)
    record.write_text(record.read_text().replace(before, sha256_file(manifest)))


@pytest.mark.parametrize(("step", "verdict"), [(1, "within_tolerance"), (3, "different")])
def test_a_declared_tolerance_is_measured(run: Path, step: int, verdict: str) -> None:
    """On real level maps; the table declares it for GPUs, this test for the CPU that it has."""
    move_levels(run, step)
    declared = {"voxel_share": 0.01, "level_step": 1.0}
    table = [Tolerance("predict_tumors", "cpu", name, most, "") for name, most in declared.items()]
    (job,) = again(run, "predict_tumors", tolerances=table)["jobs"]
    assert (job["verdict"], job["tolerance"]) == (verdict, declared)
    assert job["deviation"]["level_step"] == step
    assert 0 < job["deviation"]["voxel_share"] < 0.01
    assert job["difference"]["place"] == "voxel 0, 0, 0 (z, y, x)"
    assert again(run, "predict_tumors")["verdict"] == "different"


def test_the_check_refuses_a_run_that_differs(run: Path, micro_checkout: Path) -> None:
    """`all` asks for it where the configuration requires replays."""
    check = "results/reproduce/check_replays.json"
    done = snakemake(micro_checkout, run, check)
    assert done.returncode == 0, done.stderr
    told = json.loads((run / check).read_text())["verdicts"]
    assert told["train_model"] == "equal"
    path = run / VERDICTS / "merge_masks.json"
    changed = {"verdict": "different", "reason": "x: voxel 0, 0, 0"}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    (run / SUMS / VERDICTS / "merge_masks.json").write_text(sha256_file(path) + "\n")
    done = snakemake(micro_checkout, run, check)
    assert done.returncode == 1
    assert "REPLAY_DIFFERENT: merge_masks: is different: x: voxel 0, 0, 0" in done.stderr
    assert path.is_file()


def test_a_release_can_require_replays(run: Path, micro_checkout: Path, tmp_path: Path) -> None:
    """Then `all` plans the check, and the replays after the release and the reports."""
    config = config_with(tmp_path, replay={"jobs": 1, "required": True})
    planned = snakemake(micro_checkout, run, "all", "-n", config=config).stdout
    assert "rule check_replays:" in planned
    assert "rule check_replays:" not in snakemake(micro_checkout, run, "all", "-n").stdout
    block = re.search(r"rule replay_rule:\n(?:    .*\n)+?    wildcards: rule=merge_masks", planned)
    assert "results/release/2.0.verified.json" in block[0]


def test_replays_of_gpu_rules_ask_for_a_gpu(
    run: Path, micro_checkout: Path, tmp_path: Path
) -> None:
    """And for the threads of the rule."""
    with open(ROOT / "tests/phantoms/micro.yaml", encoding="utf-8") as file:
        text = file.read().replace("device: cpu", "device: cuda")
    config = tmp_path / "cuda.yaml"
    config.write_text(text)
    shutil.rmtree(run / VERDICTS)
    planned = snakemake(micro_checkout, run, "replay", "-n", config=config).stdout
    asked = dict(re.findall(r"wildcards: rule=(\w+)\n(?:    threads.*\n)?.*?gpu=(\d)", planned))
    assert {rule for rule, number in asked.items() if number == "1"} == {
        "predict_tumors",
        "train_model",
    }
