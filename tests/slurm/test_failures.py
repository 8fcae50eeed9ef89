"""Jobs that fail on a live SLURM: each ends, or is repeated, in the bytes of the micro run."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.micro import MICRO, config_with
from tests.slurm.cluster import Cluster
from tests.slurm.configuration import CPUS
from tests.slurm.waiting import wait_until
from tests.slurm.workflow import (
    RUN_S,
    freeze_job,
    jobs_of,
    send,
    wait_for_job,
    worked_on,
    workflow,
)
from tumoratlas.core.provenance import read_jobs

RULE = "harmonize_scans"
MANIFEST = f"results/harmonize/{RULE}/s0000.tsv"
CASES = 2


@pytest.fixture
def run(run_without: Callable[..., Path]) -> Path:
    """Return a run in which two cases are to be harmonized, by one job."""
    return run_without(f"harmonize/{RULE}")


def check(run: Path, micro_run: Path) -> None:
    """The manifest is that of the micro run, and no case was worked on twice to its end."""
    assert (run / MANIFEST).read_bytes() == (micro_run / MANIFEST).read_bytes()
    assert sorted(worked_on(run, RULE).values()) == [1] * CASES


def check_second_got_more(cluster: Cluster, run: Path) -> None:
    """The job was submitted twice, with twice the memory and time."""
    first, second = jobs_of(cluster, run, RULE)
    assert second["JobState"] == "COMPLETED"
    memory = [int(job["MinMemoryNode"].rstrip("M")) for job in (first, second)]
    assert memory[1] == 2 * memory[0]


def ended(run: Path, rule: str) -> list[dict[str, Any]]:
    """Return the records of the ends of a rule's jobs, in their order."""
    records = read_jobs(run / "results/provenance")
    return [record for record in records if record["rule"] == rule]


@pytest.mark.parametrize("how", ["scancel", "kill -9 of the script"])
def test_a_killed_job_is_repeated_with_more(
    cluster: Cluster, micro_checkout: Path, micro_run: Path, run: Path, how: str
) -> None:
    """One is what an operator does; a kill -9 (exit 137) is what a lack of memory does.

    The latter is simulated: without cgroups nothing enforces the limit of memory.
    """
    with workflow(cluster, micro_checkout, run, MANIFEST) as snakemake:
        job, pids = freeze_job(cluster, run, RULE)
        if how == "scancel":
            cluster.ask("scancel", job["JobId"])
        else:
            send(pids, signal.SIGKILL)
        said = snakemake.finish()
    state = "CANCELLED" if how == "scancel" else "FAILED"
    assert f"SLURM status is: '{state}'" in said
    assert jobs_of(cluster, run, RULE)[0]["JobState"] == state
    check_second_got_more(cluster, run)
    check(run, micro_run)


def test_a_job_out_of_time_is_repeated_with_more(
    cluster: Cluster, micro_checkout: Path, micro_run: Path, run: Path
) -> None:
    """The limit is cut to SLURM's shortest, a minute, and the script hangs."""
    with workflow(cluster, micro_checkout, run, MANIFEST) as snakemake:
        job, pids = freeze_job(cluster, run, RULE)
        cluster.ask("scontrol", "update", f"JobId={job['JobId']}", "TimeLimit=1")

        def has_ended() -> bool:
            send(pids[::-1], signal.SIGSTOP)  # SLURM's SIGTERM comes with a SIGCONT
            return cluster.job(job["JobId"])["JobState"] != "RUNNING"

        wait_until("the time limit", RUN_S, has_ended)
        said = snakemake.finish()
    assert "SLURM status is: 'TIMEOUT'" in said
    first, second = jobs_of(cluster, run, RULE)
    assert second["TimeLimit"] not in (job["TimeLimit"], first["TimeLimit"])
    check_second_got_more(cluster, run)
    check(run, micro_run)


def test_a_job_stops_between_scans_before_its_limit(
    cluster: Cluster, micro_checkout: Path, micro_run: Path, run: Path
) -> None:
    """SLURM tells the script in time; it ends well before the limit, and the next one resumes."""
    with workflow(cluster, micro_checkout, run, MANIFEST) as snakemake:
        job, _ = freeze_job(cluster, run, RULE)
        # Less than the five minutes of the profile's signal are left: it comes at once.
        cluster.ask("scontrol", "update", f"JobId={job['JobId']}", "TimeLimit=4")
        said = snakemake.finish()
    assert "SLURM status is: 'FAILED'" in said
    first = ended(run, RULE)[0]
    assert (first["exit"], first["error"]) == (143, "stopped on request")
    check_second_got_more(cluster, run)
    check(run, micro_run)


def test_a_preempted_job_is_requeued_and_resumes(
    cluster: Cluster, micro_checkout: Path, micro_run: Path, run: Path
) -> None:
    """A job of the urgent partition takes the node; SLURM itself starts ours again."""
    with workflow(cluster, micro_checkout, run, MANIFEST) as snakemake:
        job, _ = freeze_job(cluster, run, RULE)
        cluster.ask(
            "sbatch", "--partition=urgent", f"--cpus-per-task={CPUS}", "--output=/dev/null",
            "--wrap=sleep 5",
        )  # fmt: skip
        wait_for_job(cluster, run, RULE, "PENDING")
        # SLURM holds a requeued job back for two minutes.
        cluster.ask("scontrol", "update", f"JobId={job['JobId']}", "StartTime=now")
        snakemake.finish()
    (job,) = jobs_of(cluster, run, RULE)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    check(run, micro_run)


def test_a_drained_node_delays(
    cluster: Cluster, micro_checkout: Path, micro_run: Path, run: Path
) -> None:
    """The running job ends, the next one waits, and goes on when the node is back."""
    cluster.set_node("DRAIN")
    with workflow(cluster, micro_checkout, run, MANIFEST) as snakemake:
        job = wait_for_job(cluster, run, RULE, "PENDING")
        time.sleep(5)
        (waiting,) = jobs_of(cluster, run, RULE)
        assert waiting["JobState"] == "PENDING"
        assert snakemake.process.poll() is None
        cluster.set_node("RESUME")
        snakemake.finish()
    (ended,) = jobs_of(cluster, run, RULE)
    assert (ended["JobId"], ended["JobState"]) == (job["JobId"], "COMPLETED")
    check(run, micro_run)


def test_a_job_that_always_fails_is_run_three_times(
    cluster: Cluster, micro_checkout: Path, run_without: Callable[..., Path], tmp_path: Path
) -> None:
    """Retries multiply nowhere, and the pipeline's own line tells why: no GPU that computes."""
    run = run_without("candidates/predict_tumors")
    settings = yaml.safe_load(MICRO.read_text())["candidates"] | {"device": "cuda"}
    config = config_with(tmp_path, candidates=settings)
    target = "results/candidates/predict_tumors/s0000.tsv"
    with workflow(cluster, micro_checkout, run, target, config=config) as snakemake:
        said = snakemake.finish(status=1)
    assert [job["JobState"] for job in jobs_of(cluster, run, "predict_tumors")] == ["FAILED"] * 3
    failed = [record for record in ended(run, "predict_tumors") if record["exit"]]
    assert [record["attempt"] for record in failed] == [1, 2, 3]
    assert failed[-1]["error"] in said
