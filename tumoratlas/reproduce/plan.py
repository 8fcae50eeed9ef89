"""What a run will cost, and what it did cost: hours of processors and GPUs, GB, hours of people.

Costs of one scan, case or epoch stand in the configuration (``costs``); what is to be done is
Snakemake's dry run.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumoratlas.core.provenance import read_scans
from tumoratlas.reproduce.costs import (
    START_MB,
    START_READ_MB,
    START_S,
    Cost,
    cost_of,
    expected_units,
    known_units,
    wall_s,
)
from tumoratlas.reproduce.dry_run import PlannedJob

COST_COLUMNS = ("cpu_h", "gpu_h", "read_gb", "written_gb", "kept_gb")


@dataclass(frozen=True)
class Work:
    """A rule's jobs, what they work on and what that costs.

    Attributes
    ----------
    rule
        Its name.
    jobs
        How many.
    units, per
        Scans, cases or epochs of all of them.
    cpu_h, gpu_h, read_gb, written_gb, kept_gb
        Hours of one processor and of one GPU; GB of 10^9 bytes.
    longest_h
        Wall hours of the longest job.
    """

    rule: str
    jobs: int
    units: float
    per: str
    cpu_h: float
    gpu_h: float
    read_gb: float
    written_gb: float
    kept_gb: float
    longest_h: float


def with_known_counts(config: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Return the configuration with the numbers of scans and cases that a run has found."""
    found = dict(config)
    for key, rule in (
        ("scans", "ingest/fingerprint_scans"),
        ("cases", "harmonize/harmonize_scans"),
    ):
        manifests = sorted((run / "results" / rule).glob("s*.tsv"))
        if len(manifests) == config["shards"]:
            found[key] = sum(known_units([path], path.stem) or 0 for path in manifests)
    return found


def plan_work(config: Mapping[str, Any], planned: Sequence[PlannedJob], run: Path) -> list[Work]:
    """Return what the jobs of a dry run cost, by rule in the order of the dry run.

    Parameters
    ----------
    config
        The whole configuration.
    planned
        Jobs of a dry run.
    run
        Working directory; shards whose scans are listed there count with their number.
    """
    config = with_known_counts(config, run)
    grouped: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for job in planned:
        units = job_units(config, job.rule, job.wildcards, [run / path for path in job.inputs])
        grouped[job.rule].append((units, job.threads))
    return [_work(config, rule, jobs) for rule, jobs in grouped.items()]


def job_units(
    config: Mapping[str, Any], rule: str, wildcards: Mapping[str, str], inputs: Iterable[Path]
) -> float:
    """Return the scans, cases or epochs of a job: counted if its shard is there, else expected."""
    if config["costs"][rule]["per"] in ("scan", "case") and "shard" in wildcards:
        known = known_units(inputs, wildcards["shard"])
        if known is not None:
            return known
    return expected_units(config, rule, wildcards)


def _work(config: Mapping[str, Any], rule: str, jobs: list[tuple[float, int]]) -> Work:
    cost = cost_of(config, rule)
    units = sum(units for units, _ in jobs)
    return Work(
        rule=rule,
        jobs=len(jobs),
        units=units,
        per=cost.per,
        cpu_h=(START_S * len(jobs) + cost.cpu_s * units) / 3600,
        gpu_h=cost.gpu_s * units / 3600,
        read_gb=(START_READ_MB * len(jobs) + cost.read_mb * units) / 1000,
        written_gb=cost.written_mb * units / 1000,
        kept_gb=cost.kept_mb * units / 1000,
        longest_h=max(wall_s(cost, units, threads) for units, threads in jobs) / 3600,
    )


def planned_and_actual(
    config: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]], run: Path = Path()
) -> list[dict[str, Any]]:
    """Return, per rule in the order of their first job, what was planned and what was used.

    Parameters
    ----------
    config
        The whole configuration.
    jobs
        Records of ended jobs (`core.provenance.read_jobs`), repeated and failed ones too: what
        they used was used. Planned is each job once.
    run
        Working directory of the run.

    Returns
    -------
    Rows with ``rule, jobs, scans, per``; ``planned_`` and ``actual_`` of ``cpu_h, gpu_h, read_gb,
    written_gb, kept_gb``. ``scans`` counts scans, cases or epochs, as ``per`` says.
    """
    config = with_known_counts(config, run)
    rows: list[dict[str, Any]] = []
    seen: set[int] = set()
    for rule, records in _by_rule(jobs, config).items():
        latest = {record["job"]: record for record in records}
        units = [(_units(config, record, run), record["threads"]) for record in latest.values()]
        work = _work(config, rule, units)
        kept_mb = sum(_kept_mb(record, run, seen) for record in latest.values())
        actual = _used(records) | {"kept_gb": kept_mb / 1000}
        row = {"rule": rule, "jobs": len(latest), "scans": work.units, "per": work.per}
        for name in COST_COLUMNS:
            row |= {f"planned_{name}": getattr(work, name), f"actual_{name}": actual[name]}
        rows.append(row)
    return rows


def measured_costs(
    config: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]], run: Path = Path()
) -> dict[str, Cost]:
    """Return the costs of one scan, case or epoch as a run's records give them, by rule.

    Scans that a job found done are not counted; see `planned_and_actual` for the parameters.
    """
    config = with_known_counts(config, run)
    found = {}
    seen: set[int] = set()
    for rule, records in _by_rule(jobs, config).items():
        worked = _worked(read_scans(run / "results/provenance", rule))
        latest = {record["job"]: record for record in records}
        units = worked or sum(_units(config, record, run) for record in records)
        if not units:
            continue
        used = _used(records)
        kept_mb = sum(_kept_mb(record, run, seen) for record in latest.values())
        per = config["costs"][rule]["per"]
        every = len(latest) if per == "job" else units
        found[rule] = Cost(
            per=per,
            cpu_s=_above(used["cpu_h"] * 3600, START_S * len(records)) / units,
            gpu_s=used["gpu_h"] * 3600 / units,
            memory_mb=_above(max(record["peak_memory_mb"] for record in records), START_MB),
            read_mb=_above(used["read_gb"] * 1000, START_READ_MB * len(records)) / units,
            written_mb=used["written_gb"] * 1000 / units,
            kept_mb=kept_mb / every,
        )
    return found


def _above(value: float, start: float) -> float:
    return max(0.0, value - start)


def _by_rule(
    jobs: Iterable[Mapping[str, Any]], config: Mapping[str, Any]
) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in jobs:
        if record["rule"] in config["costs"]:
            found[record["rule"]].append(record)
    return found


def _units(config: Mapping[str, Any], record: Mapping[str, Any], run: Path) -> float:
    places = [path for value in record["input_names"].values() for path in _paths(value)]
    return job_units(config, record["rule"], record["wildcards"], [run / p for p in places])


def _paths(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _worked(lines: Sequence[Mapping[str, Any]]) -> float:
    """Return how often a rule worked on a scan; the organs of a case (``<organ>/<id>``) are one."""
    return len(lines) / max(1, len({line["subject"].rpartition("/")[0] for line in lines}))


def _used(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return what jobs used; a GPU is theirs for as long as they run."""
    total = dict.fromkeys(("cpu_h", "gpu_h", "read_gb", "written_gb"), 0.0)
    for record in records:
        total["cpu_h"] += record["cpu_s"] / 3600
        total["gpu_h"] += record["seconds"] * int(record["resources"].get("gpu", 0)) / 3600
        total["read_gb"] += record["read_mb"] / 1000
        total["written_gb"] += record["written_mb"] / 1000
    return total


def _kept_mb(record: Mapping[str, Any], run: Path, seen: set[int]) -> float:
    """Return the MB of a job's outputs and of the folders of its manifest's scans, as they are.

    A file with several names (a CT in a release) counts once; ``seen`` takes its number.
    """
    files = [run / path for path in record["outputs"]]
    for path in [path for path in files if path.suffix == ".tsv" and path.is_file()]:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        folders = (path.parent / line.split("\t")[0] for line in lines)
        files += [file for folder in folders for file in folder.rglob("*")]
    total = 0
    for path in files:
        facts = path.stat() if path.is_file() else None
        if facts and facts.st_ino not in seen:
            seen.add(facts.st_ino)
            total += facts.st_size
    return total / 1e6
