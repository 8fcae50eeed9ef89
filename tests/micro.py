"""The workflow on the micro phantoms, as tests run it."""

import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import ROOT

MICRO = ROOT / "tests/phantoms/micro.yaml"
RELEASE = "results/release/2.0"


def config_with(folder: Path, **changes: object) -> Path:
    """Write the micro configuration with some keys changed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(MICRO.read_text()) | changes))
    return path


def snakemake(
    checkout: Path, folder: Path, *arguments: str, config: Path = MICRO
) -> subprocess.CompletedProcess[str]:
    """Run a checkout's snakemake in a working directory."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *arguments,
         "--configfile", str(config), "--directory", str(folder), "--cores", "2"],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
