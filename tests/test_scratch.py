"""A job that is run again finds what it found then, and changes nothing of the run."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tumoratlas.core.files import sha256_file
from tumoratlas.reproduce.scratch import SCRATCH, changed_inputs, scratch_directory
from tumoratlas.reproduce.standin import Named, StandIn

FILES = {
    "../data/beside.txt": "beside",
    "sources/lits/scan.txt": "scan",
    "results/a/given.json": "given",
    "results/a/made.json": "made",
    "results/a/shards/s0000.tsv": "shard",
    "results/a/shards/case/volume.txt": "volume",
    "results/a/other/x.txt": "other",
    "results/b/y.txt": "b",
    "results/provenance/r/all.jsonl": "{}",
    "results/reproduce/replay_rule/r.json": "{}",
    "logs/r.log": "log",
    "records/ledger.jsonl": "one\ntwo\n",
    "records/masks/m.txt": "mask",
    "records/returns/b0001/form.csv": "form",
    "records/returns/b0002/late.csv": "late",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a working directory that looks like a run's."""
    folder = tmp_path / "place/run"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def facts(run: Path, *names: str) -> dict[str, dict]:
    """Return hash and size of files as records hold them."""
    paths = {name: run / name for name in names}
    return {n: {"sha256": sha256_file(p), "bytes": p.stat().st_size} for n, p in paths.items()}


def record(run: Path, **changes: object) -> dict:
    """Return the record of a job of the run."""
    form = "records/returns/b0001/form.csv"
    return {
        "job": "r/all",
        "inputs": facts(run, "results/a/given.json", "results/a/shards/s0000.tsv", form),
        "outputs": facts(run, "results/a/made.json"),
        "params": {"folder": "sources/lits"},
        "log": "logs/r/all.log",
    } | changes


def state(run: Path) -> dict[str, tuple]:
    """Return content and times of every file, and every name, of a run and what is beside it."""
    return {
        str(p): (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_mode) if p.is_file() else None
        for p in run.parent.rglob("*")
    }


def test_only_inputs_lie_where_outputs_will(run: Path) -> None:
    """What the job made, and whatever else is there, is gone; the rest is as it was."""
    with scratch_directory(record(run), run, records="records") as (root, folder):
        assert folder.is_relative_to(root) and root.is_relative_to(run / SCRATCH)
        assert sorted(p.name for p in (folder / "results/a").iterdir()) == ["given.json", "shards"]
        assert (folder / "results/a/shards/case/volume.txt").read_text() == "volume"
        assert (folder / "results/b/y.txt").read_text() == "b"
        assert (folder / "sources/lits/scan.txt").read_text() == "scan"
        for name in ("results/provenance", "results/reproduce", "logs"):
            assert not any(p.is_file() for p in (folder / name).rglob("*"))
        assert (folder / "logs/r").is_dir()
    assert not root.exists()


def test_returns_are_those_of_then(run: Path) -> None:
    """As files, not links; later ones are not there."""
    with scratch_directory(record(run), run, records="records") as (_, folder):
        returns = folder / "records/returns"
        files = [p for p in returns.rglob("*") if p.is_file()]
        assert [p.relative_to(returns).as_posix() for p in files] == ["b0001/form.csv"]
        assert not files[0].is_symlink()


def test_records_that_grew_are_cut(run: Path) -> None:
    job = record(run, inputs=facts(run, "records/ledger.jsonl"))
    with open(run / "records/ledger.jsonl", "a") as file:
        file.write("three\n")
    assert changed_inputs(job, run) == []
    with scratch_directory(job, run, records="records") as (_, folder):
        assert (folder / "records/ledger.jsonl").read_text() == "one\ntwo\n"
    assert (run / "records/ledger.jsonl").read_text() == "one\ntwo\nthree\n"


def test_records_beside_the_run_are_set_back_too(run: Path) -> None:
    """Elsewhere, by an absolute path, they are not in the scratch directory."""
    beside, plain = run.parent / "records", record(run, inputs={})
    (run / "records").rename(beside)
    names = "../records/ledger.jsonl", "../records/returns/b0001/form.csv"
    job = plain | {"inputs": facts(run, *names)}
    with open(beside / "ledger.jsonl", "a") as file:
        file.write("three\n")
    before = state(beside)
    with scratch_directory(job, run, records="../records") as (root, folder):
        place = (folder / "../records").resolve()
        assert place.is_relative_to(root)
        assert (place / "ledger.jsonl").read_text() == "one\ntwo\n"
        assert [p.name for p in place.glob("returns/*/*")] == ["form.csv"]
    for records in (str(beside), "../records"):
        with scratch_directory(plain, run, records=records):
            pass
    assert {name: value for name, value in state(beside).items() if name in before} == before


def test_changed_inputs_are_named(run: Path) -> None:
    """Changed with its size kept, cut, rewritten while growing, grown but no journal, gone."""
    names = list(FILES)[1:6]
    job = {"inputs": facts(run, *names, "records/ledger.jsonl")}
    assert changed_inputs(job, run) == []
    (run / names[0]).write_text("SCAN")
    (run / names[1]).write_text("g")
    (run / names[2]).write_text("made and more")
    (run / names[3]).unlink()
    (run / "records/ledger.jsonl").write_text("one\nTWO\nthree\n")
    assert changed_inputs(job, run) == [*names[:4], "records/ledger.jsonl"]


def test_paths_beside_the_run_lead_there(run: Path) -> None:
    job = record(run, params={"folder": "../data"})
    with scratch_directory(job, run, records="records") as (_, folder):
        assert (folder / "../data/beside.txt").read_text() == "beside"
        assert not (folder / "../run").is_symlink()


WRITES = """
import os, shutil, sys
from pathlib import Path
from tumoratlas.core.files import write_text
from tumoratlas.reproduce.overlay import Overlay

root, run = map(Path, sys.argv[1:])
Overlay(root, [run, run / "records"]).install()
write_text(Path("results/b/y.txt"), "changed")
Path("results/b/new/deep").mkdir(parents=True)
Path("results/b/new/deep/z.txt").write_text("z")
with open("records/ledger.jsonl", "a") as file:
    file.write("three")
with open("records/masks/m.txt", "r+") as file:
    file.write("M")
with open("records/returns/b0001/form.csv", "r+") as file:
    file.write("F")
os.chmod("results/a/other/x.txt", 0o600)
os.utime("results/a/shards/s0000.tsv", (0, 0))
os.truncate("results/a/shards/case/volume.txt", 1)
os.rename("results/a/given.json", "results/a/renamed.json")
os.remove("../data/beside.txt")
os.symlink("x", "sources/lits/link")
shutil.rmtree("results/a/shards")
child = os.fork()
if not child:
    Path("sources/lits/scan.txt").write_text("changed")
    os._exit(0)
os.waitpid(child, 0)
shown = [Path(name).read_text() for name in (
    "results/b/y.txt", "results/b/new/deep/z.txt", "records/ledger.jsonl", "records/masks/m.txt",
    "records/returns/b0001/form.csv", "results/a/renamed.json", "sources/lits/scan.txt",
)]
assert shown == ["changed", "z", "one\\ntwo\\nthree", "Mask", "Form", "given", "changed"], shown
assert not Path("results/a/shards").exists() and not Path("../data/beside.txt").exists()
for path in (run / "results/b/y.txt", run / "records/new.txt", run / "results/new"):
    try:
        path.mkdir() if path.name == "new" else path.write_text("bad")
    except Exception as error:
        assert error.code == "REPLAY_OUTSIDE", error
    else:
        raise SystemExit(f"{path} was written")
"""


def test_whatever_a_job_writes_stays_in_the_scratch_directory(run: Path) -> None:
    """Every way of writing through a link, in a forked process too; names outside are refused."""
    before = state(run)
    job = record(run, params={"folder": "../data"}, outputs=facts(run, "results/b/y.txt"))
    with scratch_directory(job, run, records="records") as (root, folder):
        done = subprocess.run(
            [sys.executable, "-c", WRITES, str(root), str(run)],
            cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    after = state(run)
    added = {name for name in after if name not in before}
    assert all(SCRATCH.as_posix() in name for name in added)
    assert {name: after[name] for name in before} == before


def test_the_stand_in_is_what_scripts_expect() -> None:
    """Names, several entries under one name, places, and the rest of Snakemake's object."""
    values = Named({"one": "a", "many": ["b", "c"], "none": []})
    assert list(values) == ["a", "b", "c"]
    assert (values.one, values["many"], values[2], values.none) == ("a", ["b", "c"], "c", [])
    assert values.get("other") is None and dict(values.items())["one"] == "a"
    with pytest.raises(AttributeError):
        _ = values.other
    job = StandIn(
        {
            "rule": "r", "input_names": {"x": "in"}, "output_names": {"y": "out"}, "log": "l.log",
            "params": {"settings": {"a": 1}}, "wildcards": {"shard": "s0000"}, "threads": 3,
            "resources": {"mem_mb": 5},
        },
        {"seed": 1},
    )  # fmt: skip
    assert (job.input.x, job.output[0], job.log[0], job.threads) == ("in", "out", "l.log", 3)
    assert (job.params.settings, job.wildcards.shard) == ({"a": 1}, "s0000")
    assert (job.resources.mem_mb, job.config["seed"]) == (5, 1)
