"""The record of how a result came about: inputs, outputs, parameters, code, software, machine."""

import os
import platform
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tumoratlas import __version__
from tumoratlas.core.files import sha256_file, sha256_json, to_json

PROVENANCE = Path("results/provenance")  # below the working directory
PACKAGES = (
    "SimpleITK",
    "blosc2",
    "nibabel",
    "nnunetv2",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "pydicom",
    "scipy",
    "snakemake",
    "torch",
)


@cache
def environment() -> dict[str, Any]:
    """Return the software and the machine of this process, as plain JSON values."""
    return {
        "tumoratlas": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "slurm_partition": os.environ.get("SLURM_JOB_PARTITION"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


class ProvenanceFile:
    """Appends one JSON line per result to a file; the first line of a process is its environment.

    Lines hold times and machines, therefore no rule ever depends on them.
    """

    def __init__(self, path: Path, *, rule: str, params: Mapping[str, Any]) -> None:
        self._path = path
        self._common = {"rule": rule, "environment": sha256_json(environment())[:16]}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._append({"environment_record": environment(), "params": dict(params)})

    def record(
        self,
        subject: str,
        *,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        started: float,
        **facts: Any,  # noqa: ANN401 - JSON values of any kind
    ) -> None:
        """Write that ``subject`` was made.

        Parameters
        ----------
        subject
            Scan, case, shard or rule.
        inputs, outputs
            Name of each file or value to its SHA-256.
        started
            ``time.time()`` at the start.
        facts
            Further JSON values (status, code digest, seed).
        """
        self._append(
            {
                "subject": subject,
                "inputs": dict(inputs),
                "outputs": dict(outputs),
                "time": datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds"),
                "seconds": round(time.time() - started, 3),
                **facts,
            }
        )

    def _append(self, value: dict[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(to_json(self._common | value) + "\n")


def file_hashes(paths: Mapping[str, Path] | list[Path]) -> dict[str, str]:
    """Return the SHA-256 of every regular file among ``paths``, by name."""
    named = paths if isinstance(paths, Mapping) else {str(path): path for path in paths}
    return {name: sha256_file(path) for name, path in named.items() if path.is_file()}
