"""Snakemake on a trial's cluster, and what its jobs do there."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.micro import MICRO
from tests.slurm.cluster import Cluster
from tests.slurm.waiting import wait_until
from tumoratlas.core.provenance import read_scans

# The profile that users get, and over it the trial's short waits.
PROFILES = ("slurm", "tests/slurm/profile.yaml")
RUN_S = 600  # a job takes ten seconds, or minutes on a machine that is shared


@dataclass(frozen=True)
class Workflow:
    """A snakemake that was started."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """Return what it has said so far."""
        return self.log.read_text()

    def finish(self, status: int = 0) -> str:
        """Wait for its end, which must come and have this status; return what it said."""
        try:
            ended = self.process.wait(RUN_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"snakemake hangs:\n{self.said()[-6000:]}")
        assert ended == status, self.said()[-6000:]
        return self.said()


@contextmanager
def workflow(
    cluster: Cluster,
    checkout: Path,
    folder: Path,
    *arguments: str,
    config: Path = MICRO,
    profiles: Sequence[str] = PROFILES,
    programs: Path | None = None,
) -> Iterator[Workflow]:
    """Start a checkout's snakemake on the cluster; kill it, if it still runs, at the end.

    ``programs`` is a folder of programs that it finds before those of the system.
    """
    environment = cluster.environment
    if programs:
        environment["PATH"] = f"{programs}:{environment['PATH']}"
    log = folder / "snakemake.log"
    command = [
        sys.executable, "-m", "snakemake", *arguments,
        *(word for profile in profiles for word in ("--profile", profile)),
        "--configfile", str(config), "--directory", str(folder),
    ]  # fmt: skip
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield Workflow(process, log)
    finally:
        process.kill()
        process.wait()


def jobs_of(cluster: Cluster, folder: Path, rule: str) -> list[dict[str, str]]:
    """Return the jobs of a rule in a run, the ended ones too, in the order of submission."""
    logs = f"{folder}/logs/slurm/rule_{rule}/"
    return [job for job in cluster.jobs() if job["StdOut"].startswith(logs)]


def wait_for_job(cluster: Cluster, folder: Path, rule: str, state: str) -> dict[str, str]:
    """Return the first job of a rule in a run that is in a state."""

    def found() -> list[dict[str, str]]:
        return [job for job in jobs_of(cluster, folder, rule) if job["JobState"] == state]

    return wait_until(f"{rule} {state}", RUN_S, found)[0]


def script_processes(job_id: str, rule: str) -> list[int]:
    """Return the processes of the rule's script in a job: the script, then its workers."""
    mark = f"SLURM_JOB_ID={job_id}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_script = f".{rule}.py".encode() in (path / "cmdline").read_bytes()
            if is_script and mark in (path / "environ").read_bytes():
                found.append(int(path.name))
    return sorted(found)


def send(pids: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to processes, some of which may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze_job(cluster: Cluster, folder: Path, rule: str) -> tuple[dict[str, str], list[int]]:
    """Stop the script of a rule's job in the middle of a scan: it neither goes on nor ends.

    Returns the job and the processes to send a SIGCONT to.
    """

    def at_work() -> tuple[dict[str, str], list[int]] | None:
        for job in jobs_of(cluster, folder, rule):
            pids = script_processes(job["JobId"], rule)
            if len(pids) > 1:
                return job, pids
        return None

    job, pids = wait_until(f"a worker of {rule}", RUN_S, at_work, 0.02)
    send(pids[::-1], signal.SIGSTOP)  # workers first
    return job, pids


def worked_on(folder: Path, rule: str) -> Counter[str]:
    """Return how often each scan was worked on, by the records."""
    return Counter(scan["subject"] for scan in read_scans(folder / "results/provenance", rule))
