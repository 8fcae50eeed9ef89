"""How far a run is, from the progress files that the step runner keeps."""

from dataclasses import dataclass
from pathlib import Path

from tumoratlas.core.files import read_json


@dataclass(frozen=True)
class RuleStatus:
    """Progress of one rule over its shards.

    Attributes
    ----------
    rule
        Its name.
    shards, finished_shards
        Shards that were started, and those of them without waiting scans.
    done, total, excluded
        Scans (or organs of scans) of the started shards.
    scans_per_s
        Rate of the shards that are running, or None.
    seconds_left
        Time left of the started shards at that rate, or None.
    running
        ``(shard, done, total)`` of the shards that have scans left.
    """

    rule: str
    shards: int
    finished_shards: int
    done: int
    total: int
    excluded: int
    scans_per_s: float | None
    seconds_left: float | None
    running: tuple[tuple[str, int, int], ...]


def read_status(results: Path) -> list[RuleStatus]:
    """Return the status of every sharded rule that has started, in the order of their start."""
    shards: dict[str, list[dict]] = {}
    for path in sorted(results.glob("*/*/.progress/*.json")):
        facts = read_json(path)
        shards.setdefault(facts["rule"], []).append(facts)
    ordered = sorted(shards.values(), key=lambda rows: min(row["started"] for row in rows))
    return [_rule_status(rows) for rows in ordered]


def _rule_status(rows: list[dict]) -> RuleStatus:
    done, total = sum(r["done"] for r in rows), sum(r["total"] for r in rows)
    running = [row for row in rows if row["done"] < row["total"]]
    # Scans that were there before the job started say nothing about its rate.
    rates = [
        (row["done"] - row["found"]) / (row["updated"] - row["started"])
        for row in running
        if row["updated"] > row["started"]
    ]
    rate = sum(rates) or None
    return RuleStatus(
        rule=rows[0]["rule"],
        shards=len(rows),
        finished_shards=len(rows) - len(running),
        done=done,
        total=total,
        excluded=sum(row["excluded"] for row in rows),
        scans_per_s=rate,
        seconds_left=(total - done) / rate if rate else None,
        running=tuple((row["shard"], row["done"], row["total"]) for row in running),
    )


def format_status(rules: list[RuleStatus]) -> str:
    """Return the status as a table of text."""
    if not rules:
        return "no sharded rule has started in this working directory"
    head = f"{'rule':20} {'shards':>9} {'scans':>13} {'excluded':>8} {'scans/min':>9} {'left':>8}"
    lines = [head]
    for rule in rules:
        rate = f"{60 * rule.scans_per_s:9.1f}" if rule.scans_per_s else f"{'-':>9}"
        left = _duration(rule.seconds_left) if rule.seconds_left is not None else "-"
        shards = f"{rule.finished_shards}/{rule.shards}"
        scans = f"{rule.done}/{rule.total}"
        lines.append(f"{rule.rule:20} {shards:>9} {scans:>13} {rule.excluded:8} {rate} {left:>8}")
        lines += [f"  {shard:28} {f'{n}/{of}':>13}" for shard, n, of in rule.running]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
