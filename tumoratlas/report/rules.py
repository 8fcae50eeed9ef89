"""The report on rules: what each did, what it cost, whether a replay repeats it, and lineage."""

import base64
import gzip
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.files import read_json, to_json, write_text
from tumoratlas.core.tables import write_csv
from tumoratlas.report.page import render_page
from tumoratlas.report.rule_facts import rule_rows, workflow_rules
from tumoratlas.report.rule_graph import rule_graph
from tumoratlas.report.rule_records import RunRecords, ancestors, digest_rows, rule_edges
from tumoratlas.reproduce.lineage import COLUMNS, lineage_rows

NOT_REPLAYED = "not_replayed"
# As replay_rule says them, with the words for people.
VERDICTS = {
    "equal": "bitwise equal",
    "within_tolerance": "within tolerance",
    "different": "different",
    "failed": "replay failed",
    "inputs_changed": "inputs changed since",
    NOT_REPLAYED: "not replayed",
}
BROKEN = ("different", "failed")
# What reads this page, or writes it.
_AFTER = ("check_privacy", "report_rules")
# Libraries whose versions decide results; the others are told where they differ.
_PACKAGES = ("numpy", "scipy", "torch", "nnunetv2", "simpleitk", "numba", "pyarrow", "snakemake")
_SHOWN_FAILURES = 50
_HASH_DIGITS = 16
_HASHES = ("file_sha256", "released_sha256")

Row = dict[str, Any]


def write_rules_report(
    path: Path,
    *,
    table: Path,
    run: RunRecords,
    snakefile: Path,
    replays: Iterable[Path],
    costs: Iterable[Mapping[str, Any]],
    release: Path,
    template: Path,
) -> None:
    """Write the page about the rules of a run, and the lineage of every case beside it.

    Parameters
    ----------
    path
        HTML file to write.
    table
        CSV file to write: `tumoratlas.reproduce.lineage.lineage_rows` with whole hashes.
    run
        `tumoratlas.report.rule_records.read_run`.
    snakefile
        The workflow's; it includes the files of the rules.
    replays
        Files of replay_rule; rules without one are shown as not replayed.
    costs
        Planned and actual costs of rules (`tumoratlas.reproduce.plan.planned_and_actual`).
    release
        Folder of the release; the lineage comes from its tables.
    template
        Jinja template of the page, with ``style.css`` beside it.
    """
    verdicts = {facts["rule"]: facts for facts in map(read_json, replays)}
    costs_of = {row["rule"]: row for row in costs}
    workflow = workflow_rules(snakefile)
    rows = rule_rows(run, workflow)
    for row in rows:
        facts = verdicts.get(row["rule"])
        row["replay"] = facts
        row["verdict"] = facts["verdict"] if facts else NOT_REPLAYED
        row["verdict_words"] = VERDICTS[row["verdict"]]
        row["costs"] = costs_of.get(row["rule"])
    edges = rule_edges(run.latest)
    order = [row["rule"] for row in rows]
    lineage = lineage_rows(release)
    write_csv(table, lineage, COLUMNS)
    digests = digest_rows(run)
    values = {
        "release": release.name,
        "rules": rows,
        "verdicts": _verdict_counts(rows),
        "broken": [row["rule"] for row in rows if row["verdict"] in BROKEN],
        "replayed": sum(row["replay"] is not None for row in rows),
        "words": VERDICTS,
        "graph": rule_graph(rows, edges),
        "totals": _totals(rows, run),
        "failures": run.failures[:_SHOWN_FAILURES],
        "failed": sum(row["failed"] for row in rows),
        "killed": sum(row["killed"] for row in rows),
        "open": sorted({job for row in rows for job in row["open"]}),
        "unrun": [name for name in workflow if name not in {*order, *_AFTER}],
        "mixed": [row["rule"] for row in rows if len(row["codes"]) > 1],
        "environments": digests["environments"],
        "machines": _machines(digests["environments"]),
        "configs": digests["configs"],
        "packages": _PACKAGES,
        "outputs": _output_rows(rows, ancestors(edges)),
        "cases": len({row["case_id"] for row in lineage}),
        "lineage": _packed(lineage),
        "table": table.name,
    }
    write_text(path, render_page(template, values))


def _verdict_counts(rows: Sequence[Row]) -> dict[str, int]:
    counts = Counter(row["verdict"] for row in rows)
    return {name: counts[name] for name in VERDICTS}


def _totals(rows: Sequence[Row], run: RunRecords) -> Row:
    sums = {
        key: sum(row[key] for row in rows)
        for key in ("jobs", "attempts", "seconds", "cpu_s", "gpu_s", "read_gb", "written_gb")
    }
    known = [row["costs"] for row in rows if row["costs"]]
    for key in ("planned_cpu_h", "planned_gpu_h", "planned_kept_gb", "actual_kept_gb"):
        sums[key] = sum(row[key] for row in known)
    times = [line["time"] for line in run.ended]
    return sums | {
        "memory_mb": max((row["memory_mb"] or 0 for row in rows), default=0),
        "first": min(times, default=None),
        "last": max(times, default=None),
    }


def _machines(environments: Sequence[Row]) -> list[Row]:
    """Return each machine once, with the jobs that ran on it, the most first."""
    found: dict[str, Row] = {}
    for row in environments:
        machine = row["facts"]["machine"]
        entry = found.setdefault(to_json(machine), {"machine": machine, "jobs": 0})
        entry["jobs"] += row["jobs"]
    return sorted(found.values(), key=lambda row: -row["jobs"])


def _output_rows(rows: Sequence[Row], rests_on: Mapping[str, set[str]]) -> list[Row]:
    """Return each kind of output with the rule that makes it and, by stage, all it rests on."""
    result = []
    for row in rows:
        stages: dict[str, list[str]] = {}
        for other in rows:
            if other["rule"] in rests_on.get(row["rule"], set()):
                stages.setdefault(other["stage"], []).append(other["rule"])
        for group in row["outputs"]:
            result.append({**group, "rule": row["rule"], "rests_on": stages})
    return result


def _packed(lineage: Iterable[Row]) -> str:
    """Return the lineage as the page's script unpacks it: gzip of JSON, as a data URI.

    The search for private words looks into data URIs, and would take bare base64 for text.
    """
    rows = [
        [str(row[key])[:_HASH_DIGITS] if key in _HASHES else row[key] for key in COLUMNS]
        for row in lineage
    ]
    text = to_json({"columns": list(COLUMNS), "rows": rows})
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")
    return f"data:application/gzip;base64,{packed}"
