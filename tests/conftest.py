"""Fixtures shared by all tests."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real scans; skip the test, and say so, where it is absent."""
    folder = Path(os.environ.get("TUMORATLAS_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not (folder / "reference_instances.csv").is_file():
        pytest.skip(f"no real scans at {folder}: set TUMORATLAS_REAL_DATA to their folder")
    return folder


def _group(path: Path) -> str:
    """Return what a file is tested with on one worker: itself, or all that edit the checkout."""
    return "micro_checkout" if "micro_checkout" in path.read_text(encoding="utf-8") else str(path)


class _ByGroup(LoadScopeScheduling):
    """Groups by file; those by marks are lost between pytest 9.2 and xdist 3.8."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(ROOT / nodeid.split("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep each group on one worker."""
    return _ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that share the checkout: together they take longest."""
    items.sort(key=lambda item: _group(item.path) != "micro_checkout")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this run of the tests, the same for all workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def copied_checkout(shared_folder: Path) -> Path:
    """Copy the checkout, once, and return the copy."""
    folder = shared_folder / "checkout/tumoratlas"
    names = (".git", ".venv", ".snakemake", "demo", "__pycache__", ".ruff_cache", ".pytest_cache")
    with FileLock(shared_folder / "checkout.lock"):
        if not folder.exists():
            ignored = shutil.ignore_patterns(*names)
            shutil.copytree(ROOT, folder, symlinks=True, ignore=ignored)
    return folder


@pytest.fixture(scope="session")
def micro_checkout(shared_folder: Path) -> Path:
    """Return a copy of the checkout, which a test may edit and puts back as it was."""
    return copied_checkout(shared_folder)


@pytest.fixture(scope="session")
def micro_run(shared_folder: Path) -> Path:
    """Return the working directory of an undisturbed micro run of the copy, on two cores.

    Nothing below it may be changed: tests that change something copy it first.
    """
    from tests.micro import MICRO
    from tests.phantoms.demo import run_demo

    folder, done = shared_folder / "micro/reference", shared_folder / "micro.done"
    checkout = copied_checkout(shared_folder)
    with FileLock(shared_folder / "micro.lock"):
        if not done.exists():
            run_demo(folder, MICRO, micro=True, cores=2, checkout=checkout)
            done.touch()
    return folder
