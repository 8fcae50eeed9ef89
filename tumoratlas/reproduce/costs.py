"""What a job costs, in proportion to the scans that it works on, and the limits it runs under.

Imports nothing heavy: Snakemake parses the rules, and with them this module, twice per SLURM job.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# CPU seconds and MB of one process before its first scan: Python and the libraries. The jobs of
# the demo take 1.0 to 2.5 s and 200 to 500 MB for scans of a few thousand voxels.
START_S = 2.0
START_MB = 500
# MB of modules that a job reads.
START_READ_MB = 40
# Limits above what is expected: a time limit costs nothing while a killed job costs all of it.
TIME_FACTOR = 4.0
MEMORY_FACTOR = 1.5
MINIMUM_MIN = 15
# Standard deviations by which a shard of unknown size may exceed the mean; ids are hashed.
SPREAD = 4.0
# Memory of a rule that reads the tables of all scans is told for this many.
TABLE_SCANS = 10_000
# The section of the configuration that says whether a rule with GPU seconds has a GPU.
DEVICE_OF = {"train_model": "train", "predict_tumors": "candidates"}


@dataclass(frozen=True)
class Cost:
    """A row of ``costs`` in the configuration, which documents the fields."""

    per: str
    cpu_s: float
    gpu_s: float
    memory_mb: float
    read_mb: float
    written_mb: float
    kept_mb: float


@dataclass(frozen=True)
class Limits:
    """The most memory, in MB, and wall time, in minutes, that a job may take."""

    memory_mb: int
    runtime_min: int


def cost_of(config: Mapping[str, Any], rule: str) -> Cost:
    """Return the cost row of a rule; without a GPU it has no GPU seconds.

    Raises
    ------
    KeyError
        The configuration has no row for the rule.
    """
    row = dict(config["costs"][rule])
    if rule in DEVICE_OF and config[DEVICE_OF[rule]]["device"] != "cuda":
        row["gpu_s"] = 0
    return Cost(**row)


def expected_units(
    config: Mapping[str, Any], rule: str, wildcards: Mapping[str, str], *, is_limit: bool = False
) -> float:
    """Return how many scans, cases or epochs a job is expected to work on.

    Parameters
    ----------
    config
        The whole configuration.
    rule, wildcards
        The job.
    is_limit
        Return what it will hardly exceed: sources differ in size, and shards vary.
    """
    per = config["costs"][rule]["per"]
    if per == "job":
        return 1
    if per == "epoch":
        return config["train"]["epochs"]
    total = config["scans"] if per == "scan" else min(config["cases"], config["scans"])
    if "shard" in wildcards:
        mean = total / config["shards"]
        return min(total, mean + SPREAD * math.sqrt(mean) + 1) if is_limit else mean
    if "source" in wildcards and not is_limit:
        return total / len(config["sources"])
    return total


def known_units(inputs: Iterable[str | Path], shard: str) -> int | None:
    """Return how many scans or cases the shard of a job has, from its first readable input.

    Parameters
    ----------
    inputs
        Paths of the job's inputs; those of a shard bear its name.
    shard
        Name of the shard.
    """
    for path in (Path(path) for path in inputs if shard in str(path)):
        if path.stem == shard and path.is_file():
            return _count(path, path.stat().st_mtime_ns)
    return None


@cache
def _count(path: Path, _written_ns: int) -> int:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":  # by scan, pair or case
        return len(json.loads(text))
    # A manifest of organs of cases has <organ>/<case id>.
    ids = (line.split("\t")[0] for line in text.splitlines()[1:])
    return len({item_id.rsplit("/", 1)[-1] for item_id in ids})


def wall_s(cost: Cost, units: float, threads: int) -> float:
    """Return the expected wall seconds of a job whose scans are worked on by ``threads``."""
    return START_S + (cost.cpu_s / threads + cost.gpu_s) * units


def job_limits(
    config: Mapping[str, Any],
    rule: str,
    wildcards: Mapping[str, str],
    inputs: Iterable[str | Path],
    threads: int,
    attempt: int,
) -> Limits:
    """Return the limits of a job; each attempt has twice those of the one before.

    A job on a shard has a scan per thread in memory, any other the tables of all its scans. The
    scans of a shard are counted in its input as soon as that exists, which it does when
    Snakemake starts the job.
    """
    cost = cost_of(config, rule)
    is_sharded = "shard" in wildcards
    units = known_units(inputs, wildcards["shard"]) if inputs and is_sharded else None
    if units is None or cost.per == "job":
        units = expected_units(config, rule, wildcards, is_limit=True)
    is_table = cost.per in ("scan", "case") and not is_sharded
    parts = max(1.0, units / TABLE_SCANS) if is_table else threads
    memory_mb = START_MB + MEMORY_FACTOR * cost.memory_mb * parts
    minutes = TIME_FACTOR * wall_s(cost, units, threads) / 60
    growth = 2 ** (attempt - 1)
    return Limits(
        memory_mb=math.ceil(memory_mb / 100) * 100 * growth,
        runtime_min=max(MINIMUM_MIN, math.ceil(minutes)) * growth,
    )
