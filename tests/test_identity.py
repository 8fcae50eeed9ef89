"""The same bytes however the micro phantoms are worked on.

One undisturbed run is the reference; others differ in cores, in shards and by a kill -9, and
must end in the same bytes, trained weights included.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.micro import MICRO, RELEASE, config_with, snakemake
from tests.phantoms.demo import run_demo
from tumoratlas.core.files import sha256_file


def sums(folder: Path) -> str:
    """Return the checksums of a release and of the weights behind it."""
    weights = sorted((folder / "records/models").rglob("*.safetensors"))
    lines = [f"{sha256_file(path)} {path.parent.name}" for path in weights]
    return (folder / RELEASE / "SHA256SUMS").read_text() + "\n".join(lines)


def test_one_core_and_five_shards_give_the_same_bytes(micro_run: Path, tmp_path: Path) -> None:
    """Cores and shards are only ways to cut the work; neither changes weights or release."""
    config = config_with(tmp_path, shards=5)
    run_demo(tmp_path / "run", config, micro=True, cores=1)
    assert sums(tmp_path / "run") == sums(micro_run)


def test_a_kill_in_the_middle_gives_the_same_bytes(micro_run: Path, tmp_path: Path) -> None:
    """Kill -9 while a model is trained; the same command after an unlock ends the same."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.phantoms.demo", str(folder), "--micro"],
        cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(folder.glob("results/train/liver/*/fold_*")):
        assert time.monotonic() < deadline, "training never started"
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / RELEASE).exists()
    assert snakemake(ROOT, folder, "--unlock").returncode == 0
    run_demo(folder, MICRO, micro=True, cores=2)
    assert sums(folder) == sums(micro_run)


def test_more_shards_redo_no_scan(micro_run: Path, tmp_path: Path) -> None:
    """Per-scan results live with the scan: another number of shards finds them all."""
    folder = tmp_path / "run"
    shutil.copytree(micro_run, folder, symlinks=True)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("results/*/*/BDMAP_*/record.json")}
    assert before
    config = config_with(tmp_path, shards=3)
    run_demo(folder, config, micro=True, cores=2)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert sums(folder) == sums(micro_run)
