"""The workflow is killed while its jobs run: they go on; nothing is lost, nothing done twice."""

import signal
from collections.abc import Callable
from pathlib import Path

from tests.micro import config_with
from tests.slurm.cluster import Cluster
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

RULE = "fingerprint_scans"
SHARDS = 5
WAITS = "another run holds"


def rows(folder: Path, shards: int) -> list[str]:
    """Return the rows of all manifests of the rule, sorted."""
    names = [folder / f"results/ingest/{RULE}/s{n:04d}.tsv" for n in range(shards)]
    return sorted(row for path in names for row in path.read_text().splitlines()[1:])


def shard_of(job: dict[str, str]) -> str:
    """Return the shard that a job works on."""
    return Path(job["StdOut"]).parent.name


def test_a_killed_workflow_resumes_beside_its_orphans(
    cluster: Cluster,
    micro_checkout: Path,
    micro_run: Path,
    run_without: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """kill -9 of snakemake with one shard at work, one finished and others not begun."""
    run = run_without(f"ingest/{RULE}")
    config = config_with(tmp_path, shards=SHARDS)
    manifests = [f"results/ingest/{RULE}/s{n:04d}.tsv" for n in range(SHARDS)]
    with workflow(cluster, micro_checkout, run, *manifests, config=config) as snakemake:
        orphan, frozen = freeze_job(cluster, run, RULE)
        wait_for_job(cluster, run, RULE, "COMPLETED")
        snakemake.process.send_signal(signal.SIGKILL)
        snakemake.process.wait()
    ended = [job for job in jobs_of(cluster, run, RULE) if job["JobState"] == "COMPLETED"]
    done = [run / f"results/ingest/{RULE}/{shard_of(job)}.tsv" for job in ended]
    times = {path: path.stat().st_mtime_ns for path in done}
    with workflow(cluster, micro_checkout, run, *manifests, config=config) as snakemake:
        assert "--unlock" in snakemake.finish(status=1)
    with workflow(cluster, micro_checkout, run, "--unlock", config=config) as snakemake:
        snakemake.finish()
    submitted = len(jobs_of(cluster, run, RULE))
    with workflow(cluster, micro_checkout, run, *manifests, config=config) as snakemake:
        log = run / "logs" / RULE / f"{shard_of(orphan)}.log"
        wait_until("the orphan's twin", RUN_S, lambda: log.is_file() and WAITS in log.read_text())
        assert cluster.job(orphan["JobId"])["JobState"] == "RUNNING"
        send(frozen, signal.SIGCONT)
        snakemake.finish()
    assert cluster.job(orphan["JobId"])["JobState"] == "COMPLETED"
    assert len(jobs_of(cluster, run, RULE)) - submitted <= SHARDS - len(done)
    assert {path: path.stat().st_mtime_ns for path in done} == times
    assert rows(run, SHARDS) == rows(micro_run, 1)
    scans = worked_on(run, RULE)
    assert len(scans) == len(rows(run, SHARDS))
    assert set(scans.values()) == {1}
