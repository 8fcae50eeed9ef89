"""Interleaved timing: every method once per round, so that a busy machine slows all alike."""

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Methods = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Timing:
    """Medians of one method: CPU and wall seconds, and the memory it took beyond its start."""

    name: str
    cpu_s: float
    wall_s: float
    peak_mb: float | None


def time_methods(methods: Methods, rounds: int) -> tuple[list[Timing], dict[str, Any]]:
    """Run every method ``rounds`` times in turn, after one round that is not counted.

    Returns
    -------
    Timings in the order of the methods, and the results of the first round by name.
    """
    results = {name: method() for name, method in methods.items()}
    runs: dict[str, list[tuple[float, float, float | None]]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            runs[name].append(_run(method))
    timings = []
    for name, measured in runs.items():
        cpu, wall, peak = zip(*measured, strict=True)
        memory = None if None in peak else statistics.median(peak)
        timings.append(Timing(name, statistics.median(cpu), statistics.median(wall), memory))
    return timings, results


def markdown_table(title: str, timings: Sequence[Timing], base: str) -> str:
    """Return a table whose ratios are CPU seconds of ``base`` by those of each method."""
    base_s = next(timing.cpu_s for timing in timings if timing.name == base)
    lines = [
        f"### {title}",
        "",
        "| method | CPU s | wall s | ratio | extra peak memory, MB |",
        "|---|---:|---:|---:|---:|",
    ]
    for timing in timings:
        memory = "" if timing.peak_mb is None else f"{timing.peak_mb:.0f}"
        ratio = "1 (base)" if timing.name == base else f"{base_s / max(timing.cpu_s, 1e-6):.1f}"
        cells = (timing.name, f"{timing.cpu_s:.3f}", f"{timing.wall_s:.3f}", ratio, memory)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _run(method: Callable[[], Any]) -> tuple[float, float, float | None]:
    gc.collect()
    before_kb = _reset_peak()
    cpu, wall = _cpu_s(), time.perf_counter()
    method()  # the result is freed at once
    wall, cpu = time.perf_counter() - wall, _cpu_s() - cpu
    peak_mb = None if before_kb is None else (_memory_kb("VmHWM") - before_kb) / 1024
    return cpu, wall, peak_mb


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _reset_peak() -> int | None:
    """Set the process's peak memory back to its present memory in kB; None where it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _memory_kb("VmRSS")


def _memory_kb(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise ValueError(f"no {field} in /proc/self/status")
