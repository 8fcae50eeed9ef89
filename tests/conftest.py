"""Fixtures shared by all tests."""

import os
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
