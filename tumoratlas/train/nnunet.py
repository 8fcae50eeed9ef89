"""The one door to nnU-Net: its folders, its threads and where its prints go."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from tumoratlas.core.errors import MachineError

if TYPE_CHECKING:
    import torch

LOGGER = logging.getLogger(__name__)
CONFIGURATION = "3d_fullres"


class _LogStream(io.TextIOBase):
    """A text stream whose lines become log records."""

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                LOGGER.info("%s", line.rstrip())
        return len(text)


@contextmanager
def nnunet_session(device: torch.device, **variables: str) -> Iterator[None]:
    """Run nnU-Net code in this process alone: no worker processes, no prints, no compiling.

    Parameters
    ----------
    device
        On the CPU torch gets one thread, which makes results repeatable to the last bit.
    variables
        nnU-Net's environment variables for the time of the session.
    """
    values = {"nnUNet_compile": "f", "nnUNet_def_n_proc": "1", **variables}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    import torch

    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        with redirect_stdout(_LogStream()):
            yield
    finally:
        torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def torch_device(name: str) -> torch.device:
    """Return the configured device.

    Raises
    ------
    MachineError
        ``NO_GPU``: cuda is wanted and there is none.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise MachineError(
            "NO_GPU",
            "device: cuda",
            "this machine offers torch no GPU",
            remedy="Set `train.device` and `candidates.device` to cpu, or run on a GPU machine",
        )
    return torch.device(name)
