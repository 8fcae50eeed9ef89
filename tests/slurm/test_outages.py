"""What SLURM tells snakemake fails for a while: the run must neither hang nor fail."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, slurm_cluster
from tests.slurm.workflow import PROFILES, freeze_job, jobs_of, send, workflow

RULE = "harmonize_scans"
MANIFEST = f"results/harmonize/{RULE}/s0000.tsv"
OUTAGE_S = 20


@pytest.fixture
def run(run_without: Callable[..., Path]) -> Path:
    """Return a run in which two cases are to be harmonized, by one job."""
    return run_without(f"harmonize/{RULE}")


@pytest.fixture(scope="module")
def accounted() -> Iterator[Cluster]:
    """Return a cluster with accounting."""
    with slurm_cluster(with_accounting=True) as cluster:
        cluster.ask("sacctmgr", "--immediate", "add", "account", "my_account")
        cluster.ask("sacctmgr", "--immediate", "add", "user", "root", "account=my_account")
        yield cluster


def check_outage(
    cluster: Cluster,
    checkout: Path,
    run: Path,
    micro_run: Path,
    daemon: str,
    *overlays: str,
    programs: Path | None = None,
) -> None:
    """A daemon is away for some time, in which a job ends."""
    first, last = PROFILES
    with workflow(
        cluster, checkout, run, MANIFEST, profiles=(first, *overlays, last), programs=programs
    ) as snakemake:
        _, frozen = freeze_job(cluster, run, RULE)
        with cluster.outage(daemon, OUTAGE_S):
            send(frozen, signal.SIGCONT)
        snakemake.finish()
    (ended,) = jobs_of(cluster, run, RULE)
    assert ended["JobState"] == "COMPLETED"
    assert (run / MANIFEST).read_bytes() == (micro_run / MANIFEST).read_bytes()


def test_no_controller_for_a_while(
    cluster: Cluster, micro_checkout: Path, micro_run: Path, run: Path
) -> None:
    """Without accounting, as its profile says: snakemake must not ask what never answers."""
    programs = micro_checkout / "profiles/slurm-squeue/bin"
    check_outage(cluster, micro_checkout, run, micro_run, "slurmctld", programs=programs)


@pytest.mark.parametrize(
    ("daemon", "overlays"),
    [("slurmdbd", ()), ("slurmctld", ()), ("slurmdbd", ("profiles/slurm-sacct",))],
)
def test_no_answer_for_a_while(
    accounted: Cluster,
    micro_checkout: Path,
    micro_run: Path,
    run: Path,
    daemon: str,
    overlays: tuple[str, ...],
) -> None:
    """With accounting: either is away."""
    check_outage(accounted, micro_checkout, run, micro_run, daemon, *overlays)
