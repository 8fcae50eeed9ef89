"""Waiting with a deadline: no trial may hang."""

import time
from collections.abc import Callable
from typing import Any

import pytest


def wait_until(what: str, seconds: float, found: Callable[[], Any], pause_s: float = 0.1) -> Any:
    """Return the first true result; after some time fail, telling what was waited for."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause_s)
    return result
