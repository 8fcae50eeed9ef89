"""Programs of the system that some tests need besides the Python environment."""

import subprocess

import pytest

from tests.conftest import ROOT


def install_or_skip(what: str) -> None:
    """Install what a test needs (see install_system.sh) where this user can, else skip it."""
    command = ["sh", ROOT / "tests/install_system.sh", what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip((done.stdout + done.stderr).strip())
