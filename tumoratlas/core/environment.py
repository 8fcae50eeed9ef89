"""The software and the machine that a result was made with."""

import os
import platform
import socket
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tumoratlas import __version__
from tumoratlas.core.code import ROOT
from tumoratlas.core.files import sha256_file

_NVIDIA = Path("/proc/driver/nvidia")


@cache
def environment() -> dict[str, Any]:
    """Return the software and the machine of this process, as plain JSON values."""
    return {
        "software": {
            "tumoratlas": __version__,
            "python": platform.python_version(),
            "packages": _packages(),
            "lock_sha256": sha256_file(ROOT / "requirements.lock"),
            "container": _container(),
            "environment": _environment_name(),
        },
        "machine": {
            "host": socket.gethostname(),
            "system": platform.platform(),
            "cpu": _cpu_model(),
            "cpus": os.cpu_count(),
            "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
            "gpus": _gpus(),
            "driver": _driver(),
        },
    }


def torch_flags() -> dict[str, Any] | None:
    """Return what decides whether torch repeats itself, or None where no torch is loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "backends"):
        return None
    return {
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "cuda": torch.version.cuda,
    }


def gpu_memory_mb() -> float | None:
    """Return the most memory that torch held on a GPU in this process, if it used one."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return None
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def _packages() -> dict[str, str]:
    """Return every installed distribution by the name of its metadata folder.

    Reading the metadata itself would cost each job a quarter of a second.
    """
    found: dict[str, str] = {}
    for place in sys.path:
        for folder in Path(place).glob("*.dist-info") if Path(place).is_dir() else []:
            name, _, version = folder.name.removesuffix(".dist-info").partition("-")
            found.setdefault(name.lower(), version)  # the first on the path is imported
    return dict(sorted(found.items()))


def _container() -> str | None:
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        if name in os.environ:
            return Path(os.environ[name]).name
    return next(
        (p.name for p in map(Path, ("/.dockerenv", "/run/.containerenv")) if p.exists()), None
    )


def _environment_name() -> str:
    kind = "conda" if (Path(sys.prefix) / "conda-meta").is_dir() else "venv"
    return (
        f"{kind} {Path(sys.prefix).name}"
        if sys.prefix != sys.base_prefix or kind == "conda"
        else "system"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _gpus() -> list[str]:
    """Return the model of every NVIDIA GPU, from the driver's own files."""
    lines = [
        line
        for path in sorted(_NVIDIA.glob("gpus/*/information"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model")]


def _driver() -> str | None:
    path = _NVIDIA / "version"
    return path.read_text(encoding="utf-8").splitlines()[0].strip() if path.exists() else None
