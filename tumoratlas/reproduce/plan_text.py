"""The text of a plan: what would run and why, what it costs, and costs as a run measured them."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tumoratlas.reproduce.changes import NOT_YET, Cause, find_causes
from tumoratlas.reproduce.costs import Cost
from tumoratlas.reproduce.dry_run import dry_run
from tumoratlas.reproduce.edits import VersionChange, version_changes
from tumoratlas.reproduce.plan import COST_COLUMNS, Work, plan_work, with_known_counts
from tumoratlas.review.numbers.readings import asked_organs

_DIGITS = 3
_SHOWN_VERSIONS = 20


def read_config(files: Sequence[Path]) -> dict[str, Any]:
    """Return the configuration of several files; later ones win, key by key, lists as a whole."""
    merged: dict[str, Any] = {}
    for path in files:
        _merge(merged, yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    return merged


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def stages(checkout: Path) -> dict[str, str]:
    """Return the stage of every rule, in the order of the Snakefile: the file it stands in."""
    snakefile = (checkout / "Snakefile").read_text(encoding="utf-8")
    files = re.findall(r'^include: "(rules/\w+\.smk)"', snakefile, re.MULTILINE)
    return {
        rule: Path(name).stem
        for name in files
        for rule in re.findall(
            r"^(?:rule|checkpoint) (\w+):",
            (checkout / name).read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }


def wall_hours(work: Iterable[Work], cores: int, gpus: int) -> tuple[float, float]:
    """Return the least and the most wall hours on so many processors and GPUs.

    The least keeps all of them busy; the most starts a rule when the one before has ended.
    """
    work = list(work)
    least = max(
        sum(row.cpu_h for row in work) / cores,
        sum(row.gpu_h for row in work) / max(1, gpus),
        max((row.longest_h for row in work), default=0),
    )
    most = sum(max(row.longest_h, row.cpu_h / cores + row.gpu_h / max(1, gpus)) for row in work)
    return least, most


def review_hours(config: Mapping[str, Any], open_share: float = 1.0) -> dict[str, float]:
    """Return hours of reviewers by kind of reading, for the cases that are open.

    Every case is triaged once, a share of them by a second reader, and a share of the organs is
    read in full.
    """
    review, costs = config["review"], config["review_costs"]
    cases = min(config["cases"], config["scans"]) * open_share
    triage_h = cases * costs["triage_s"] / 3600
    organs = cases * len(review["organs"]) * review["full_read_fraction"]
    return {
        "triage": triage_h,
        "second readers": triage_h * review["double_read_fraction"],
        "full reads": organs * costs["full_read_s"] / 3600,
    }


def open_share(run: Path, organs: Collection[str]) -> float:
    """Return the share of the cases' organs that reviewers have not settled yet.

    Parameters
    ----------
    run
        Working directory; before its first masks all is open.
    organs
        Organs that reviewers are asked about.
    """
    table = run / "results/tables/masks.parquet"
    if not table.is_file():
        return 1.0
    asked = asked_organs(pd.read_parquet(table))
    asked = asked[asked["organ"].isin(organs)]
    return 1 - float(asked["is_settled"].mean()) if len(asked) else 0.0


def plan_lines(
    checkout: Path,
    run: Path,
    targets: Sequence[str],
    configfiles: Sequence[Path],
    cores: int,
    gpus: int,
) -> list[str]:
    """Return the plan of a run, line by line.

    Parameters
    ----------
    checkout
        Folder with the Snakefile and ``config.yaml``.
    run
        Working directory; it need not exist.
    targets, configfiles
        As for Snakemake.
    cores, gpus
        Machine that wall hours are estimated for.

    Raises
    ------
    TumorAtlasError
        ``PLAN_FAILED``: Snakemake refuses to plan.
    """
    config = read_config([checkout / "config.yaml", *configfiles])
    planned = dry_run(checkout, run, targets, configfiles)
    versions = versions_text(version_changes(run))
    if not planned:
        return ["nothing to be done", *versions]
    work = plan_work(config, planned, run)
    least, most = wall_hours(work, cores, gpus)
    hours = review_hours(
        with_known_counts(config, run), open_share(run, config["review"]["organs"])
    )
    kinds = ", ".join(f"{kind} {number(value)}" for kind, value in hours.items())
    deciding = sorted({job.rule for job in planned if job.is_checkpoint})
    causes = find_causes(planned, run, config)
    is_first = all(cause.text == NOT_YET for cause in causes)
    at_most = f"  at most: what {', '.join(deciding)} leave as it was re-runs nothing"
    return [
        f"would run {len(planned)} jobs of {len(work)} rules",
        *([at_most] if deciding and not is_first else []),
        *(f"  {line}" for line in causes_text(causes)),
        *versions,
        *costs_text(work, stages(checkout)),
        f"wall: {number(least)} to {number(most)} h on {cores} cores and {gpus} GPUs",
        f"reviewers: {number(sum(hours.values()))} h ({kinds})",
    ]


def causes_text(causes: Iterable[Cause]) -> list[str]:
    """Return one line per cause: rule, how many jobs, or which one, and why."""
    causes = list(causes)
    first = [cause for cause in causes if cause.text == NOT_YET]
    lines = []
    if first:
        jobs = sum(len(cause.jobs) for cause in first)
        lines.append(f"{jobs} jobs of {len(first)} rules have not run yet")
    for cause in causes:
        if cause.text == NOT_YET:
            continue
        names = [name.split("/", 1)[1] for name in cause.jobs]
        text = cause.text.replace("{shard}", names[0]) if len(names) == 1 else cause.text
        which = f"{len(names)} jobs" if len(names) > 1 else names[0].replace("all", "1 job")
        lines.append(f"{cause.rule} ({which}) because {text}")
    return lines


def versions_text(changes: Sequence[VersionChange]) -> list[str]:
    """Return one line per package that differs from the one that jobs were recorded with."""
    if not changes:
        return []
    lines = [
        "software changed since these jobs ran; it re-runs nothing by itself (--forcerun RULE)"
    ]
    known = [change for change in changes if change.before]
    for change in known[:_SHOWN_VERSIONS]:
        lines.append(
            f"  {change.name} {change.before} -> {change.now or 'absent'}: {change.jobs} jobs"
        )
    if len(known) > _SHOWN_VERSIONS:
        lines.append(f"  and {len(known) - _SHOWN_VERSIONS} more")
    if new := len({change.name for change in changes if not change.before}):
        lines.append(f"  {new} packages were not there")
    return lines


def costs_text(work: Sequence[Work], stage_of: Mapping[str, str]) -> list[str]:
    """Return the table of costs, rule by rule, with a sum per stage and of all.

    Parameters
    ----------
    work
        Result of `plan_work`.
    stage_of
        Result of `stages`.
    """
    head = ("rule", "jobs", "scans", "CPU h", "GPU h", "read GB", "written GB", "kept GB")
    rows = [head]
    for stage in dict.fromkeys(stage_of.values()):
        of_stage = [row for row in work if stage_of[row.rule] == stage]
        if not of_stage:
            continue
        rows.append((stage, str(sum(row.jobs for row in of_stage)), "", *_sums(of_stage)))
        for row in of_stage:
            units = f"{row.units:,.0f}" + ("" if row.per in ("scan", "case") else f" {row.per}s")
            rows.append((f"  {row.rule}", str(row.jobs), units, *_sums([row])))
    rows.append(("all", str(sum(row.jobs for row in work)), "", *_sums(work)))
    widths = [max(len(row[n]) for row in rows) for n in range(len(head))]
    return [
        "  ".join(f"{row[n]:{'>' if n else '<'}{width}}" for n, width in enumerate(widths))
        for row in rows
    ]


def measured_text(costs: Mapping[str, Cost]) -> str:
    """Return measured costs as the block ``costs`` of a configuration."""
    lines = ["costs:"]
    for rule, cost in costs.items():
        row = {
            key: value if isinstance(value, str) else _plain(value)
            for key, value in asdict(cost).items()
        }
        fields = ", ".join(f"{key}: {value}" for key, value in row.items())
        lines.append(f"  {rule}: {{{fields}}}")
    return "\n".join(lines)


def _plain(value: float) -> str:
    """Return a number without an exponent: YAML reads ``5e-05`` as a text."""
    return f"{float(f'{value:.{_DIGITS}g}'):.6f}".rstrip("0").rstrip(".")


def _sums(rows: Iterable[Work]) -> list[str]:
    rows = list(rows)
    return [number(sum(getattr(row, name) for row in rows)) for name in COST_COLUMNS]


def number(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{float(f'{value:.{_DIGITS}g}'):.10g}"
