"""What a device can fail of: its memory, which other ways need less of, or all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tumoratlas.core.errors import MachineError

if TYPE_CHECKING:
    import torch

# How torch, cuDNN, cuBLAS and the C++ library word a lack of memory, and a GPU that failed.
_NO_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "bad_alloc")
_LOST = ("CUDA error", "CUDA driver", "CUDNN_STATUS", "CUBLAS_STATUS", "NVML")
# Small patches leave a large GPU idle; each mirrored input is its own sum all the same.
_MIRRORED_AT_ONCE = 8


@dataclass(frozen=True)
class Way:
    """A way to compute: where, where sums are kept, and how many mirrored inputs at once."""

    device: torch.device
    accumulate_on: torch.device
    at_once: int


def ways_to_compute(device: torch.device) -> tuple[Way, ...]:
    """Return how to compute, the fastest way first and the one of least memory last."""
    import torch

    cpu = torch.device("cpu")
    last = Way(cpu, cpu, 1)
    if device.type == "cpu":
        return (last,)
    return (Way(device, device, _MIRRORED_AT_ONCE), Way(device, cpu, 1), last)


def memory_fault(error: BaseException, device: torch.device) -> str:
    """Return what memory was missing, or an empty text for another fault.

    Raises
    ------
    MachineError
        ``GPU_LOST``.
    """
    told = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, MemoryError) or any(mark in str(error) for mark in _NO_MEMORY):
        return told
    if device.type == "cuda" and any(mark in str(error) for mark in _LOST):
        raise MachineError(
            "GPU_LOST",
            device,
            "the GPU failed, and this process cannot use it any more",
            remedy="Run the same command again, on another GPU if it fails again; it resumes here",
            evidence=told,
        ) from error
    return ""
