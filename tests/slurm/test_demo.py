"""The demo, from phantom sources to a release, on SLURM: byte by byte that of one machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.micro import RELEASE
from tests.slurm.cluster import Cluster
from tests.slurm.workflow import PROFILES

DEMO_S = 3 * 3600


def test_the_demo_on_slurm_is_the_demo(cluster: Cluster, tmp_path: Path) -> None:
    """Training, thresholds, reviewers and release, every job on the cluster."""
    here = ROOT / "demo" / RELEASE / "SHA256SUMS"
    assert here.is_file(), "run make demo first"
    folder = tmp_path / "demo"
    profiles = [word for profile in PROFILES for word in ("--profile", profile)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.phantoms.demo", str(folder), *profiles],
        cwd=ROOT, env=cluster.environment, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.wait(DEMO_S) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("the demo hangs")
    assert (folder / RELEASE / "SHA256SUMS").read_bytes() == here.read_bytes()
    jobs = [job for job in cluster.jobs() if job["StdOut"].startswith(str(folder))]
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    asked = {job["Comment"].split("_wildcards_")[0] for job in jobs if "TresPerNode" in job}
    assert asked == {"rule_train_model", "rule_predict_tumors"}
