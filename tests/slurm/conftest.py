"""The cluster of the trial, and runs on it that lack what a test has computed anew."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, slurm_cluster


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    """Return a cluster without accounting, as most tests use it."""
    with slurm_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """Return the cluster with its node in service and no job left of this test."""
    yield shared_cluster
    shared_cluster.clear()


@pytest.fixture
def run_without(micro_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the finished micro run without the results of some rules."""

    def copy(*folders: str) -> Path:
        run = tmp_path / "run"
        shutil.copytree(micro_run, run, symlinks=True)
        for name in folders:
            shutil.rmtree(run / "results" / name)
            shutil.rmtree(run / "results/provenance" / Path(name).name)
        return run

    return copy
