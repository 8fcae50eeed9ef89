"""Fixtures shared by all tests."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real scans; skip the test, and say so, where it is absent."""
    folder = Path(os.environ.get("TUMORATLAS_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not (folder / "reference_instances.csv").is_file():
        pytest.skip(f"no real scans at {folder}: set TUMORATLAS_REAL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def micro_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the checkout, which a test may edit."""
    folder = tmp_path_factory.mktemp("checkout") / "tumoratlas"
    names = (".git", ".venv", ".snakemake", "demo", "__pycache__", ".ruff_cache", ".pytest_cache")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*names))
    return folder


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory: pytest.TempPathFactory, micro_checkout: Path) -> Path:
    """Return the working directory of an undisturbed micro run of the copy, on two cores.

    Nothing below it may be changed: tests that change something copy it first.
    """
    from tests.micro import MICRO
    from tests.phantoms.demo import run_demo

    folder = tmp_path_factory.mktemp("micro") / "reference"
    run_demo(folder, MICRO, micro=True, cores=2, checkout=micro_checkout)
    return folder
