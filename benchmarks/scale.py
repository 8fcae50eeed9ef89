"""``python -m benchmarks.scale [--scans 100 1000 10135 100000]``: what the pipeline costs by size.

Plans the whole job graph for each number of cases, and runs the real table rules on a made-up
catalog of that size (benchmarks/catalog.py, benchmarks/stand_in.py), on two cores. CPU seconds
count, of the process and its children: wall time depends on who else uses the machine.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.catalog import PARENT, POOL, TEST_SET, Catalog, make_catalog
from benchmarks.stand_in import SLICES, write_scans
from benchmarks.stand_in_cases import write_cases
from tumoratlas.core.files import write_json
from tumoratlas.core.provenance import latest_jobs
from tumoratlas.release.verify import rows
from tumoratlas.release.verify.files import Files
from tumoratlas.release.verify.problems import Problems
from tumoratlas.release.verify.release import Verification
from tumoratlas.release.verify.tables import (
    check_counts,
    check_small_files,
    read_definitions,
    read_tables,
)

ROOT = Path(__file__).resolve().parents[1]
SEED = 20251021
CASES_PER_SHARD = 64
MOST_CASES = 20_000  # of which the records of all stages are made
BEND = 1.3
# The rules that read tables and records only, in the order of the runs that they need.
SCAN_RULES = ("deduplicate_scans", "assign_cases")
CASE_RULES = (
    "check_review", "count_tumors", "list_excluded", "list_repairs", "count_sources",
    "split_cases", "check_leakage", "build_release",
)  # fmt: skip
REPORT_RULES = ("report_release", "report_leakage", "report_sources", "report_review")
RELEASE = "results/release/2.0"
# As many jobs on shards, with nothing in them: what Snakemake itself takes.
_BARE = """
SHARDS = [f"s{{n:04d}}" for n in range({shards})]


rule all:
    input:
        expand("7/{{shard}}.tsv", shard=SHARDS),


rule first:
    output:
        "0/{{shard}}.tsv",
    shell:
        "touch {{output}}"


for stage in range(1, 8):

    rule:
        input:
            f"{{stage - 1}}/{{{{shard}}}}.tsv",
        output:
            f"{{stage}}/{{{{shard}}}}.tsv",
        shell:
            "touch {{output}}"
"""
# A small process in between: a child's peak counts what its parent held when it forked.
_METER = """
import resource, subprocess, sys

done = subprocess.run(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"\\n{used.ru_utime + used.ru_stime} {used.ru_maxrss}")
sys.exit(done.returncode)
"""
_VERIFY = """
import sys
from pathlib import Path

from benchmarks.scale import verify_tables

verify_tables(Path(sys.argv[1]))
"""
_NO_OP = """
from pathlib import Path

for path in snakemake.output:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("{}\\n")
"""


@dataclass(frozen=True)
class Cost:
    """CPU seconds and the most memory of a process with its children."""

    cpu_s: float
    peak_mb: float


def measure(*arguments: str, folder: Path = ROOT) -> tuple[str, Cost]:
    """Return what Python says, and costs, with these arguments in a folder; it must end well."""
    command = [sys.executable, "-c", _METER, sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    told, _, numbers = done.stdout.rstrip("\n").rpartition("\n")
    cpu_s, peak_kb = map(float, numbers.split())
    return told + done.stderr, Cost(cpu_s, peak_kb / 1024)


def shards_of(cases: int) -> int:
    """Return the number of shards for a number of cases."""
    return max(1, round(cases / CASES_PER_SHARD))


def configuration(catalog: Catalog) -> dict[str, Any]:
    """Return what a run of a catalog has other than the default configuration."""
    sources = [*POOL, PARENT, TEST_SET]
    default = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    return {
        "shards": shards_of(len(catalog.kept)),
        "train": default["train"] | {"device": "cpu"},
        "candidates": default["candidates"] | {"device": "cpu"},
        "scans": len(catalog.scans),
        "cases": len(catalog.kept),
        "sources": [{"id": name, "path": f"data/{name}"} for name in sources],
    }


def snakemake(run: Path, *arguments: str, checkout: Path = ROOT) -> tuple[str, Cost]:
    """Run the workflow in a working directory, whose ``config.yaml`` lies over the default."""
    return measure(
        "-m", "snakemake", "--profile", "profiles/local", *arguments, "--cores", "2",
        "--configfile", str(run / "config.yaml"), "--directory", str(run), folder=checkout,
    )  # fmt: skip


def prepare(folder: Path, catalog: Catalog) -> Path:
    """Make a working directory with empty source folders and return it."""
    changes = configuration(catalog)
    for source in changes["sources"]:
        (folder / source["path"]).mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(changes))
    return folder


def plan(run: Path) -> tuple[int, Cost]:
    """Return the number of jobs of everything, and what planning them costs."""
    told, cost = snakemake(run, "all", "--dry-run", "--quiet", "rules")
    return int(re.search(r"^total +(\d+)", told, re.MULTILINE)[1]), cost


def plan_bare(folder: Path, shards: int) -> Cost:
    """Return what planning a bare graph of as many jobs on shards costs."""
    folder.mkdir()
    (folder / "Snakefile").write_text(_BARE.format(shards=shards))
    asked = ("--dry-run", "--quiet", "all", "--cores", "2")
    return measure("-m", "snakemake", *asked, folder=folder)[1]


def run_tables(run: Path, catalog: Catalog) -> dict[str, Cost]:
    """Run the table rules on the catalog and return what each cost.

    The sharded rules are not allowed to run: their stand-ins count as given files.
    """
    shards, descriptions = shards_of(len(catalog.kept)), ROOT / "resources/sources"
    write_scans(catalog, run, descriptions, shards)
    snakemake(run, "results/ingest/cases.json", "--allowed-rules", *SCAN_RULES)
    rules, costs = SCAN_RULES, {}
    if len(catalog.kept) <= MOST_CASES:
        write_cases(catalog, run, descriptions, shards)
        snakemake(run, f"{RELEASE}/SHA256SUMS", "--allowed-rules", *CASE_RULES)
        costs["verify_release, tables"] = measure("-c", _VERIFY, str(run / RELEASE))[1]
        reports = [f"results/report/{name.removeprefix('report_')}.html" for name in REPORT_RULES]
        snakemake(run, *reports, "--allowed-rules", *REPORT_RULES)
        rules += CASE_RULES + REPORT_RULES
    jobs = latest_jobs(run / "results/provenance")
    return costs | {
        rule: Cost(jobs[f"{rule}/all"]["cpu_s"], jobs[f"{rule}/all"]["peak_memory_mb"])
        for rule in rules
    }


def verify_tables(release: Path) -> None:
    """Check what `verify_release` checks of a release but its volumes, which are stand-ins.

    Writes the result that the report needs.
    """
    problems = Problems()
    files = Files(release, problems)
    files.check_bytes(lambda _: None)
    definitions = read_definitions(files, problems)
    files.check_texts(definitions["public_words"])
    tables = read_tables(files, problems)
    check_small_files(files, problems)
    for check in (rows.check_ids, rows.check_states, rows.check_scans, rows.check_splits):
        check(tables, files.case_ids, problems)
    rows.check_leakage(tables, problems)
    names: dict[str, set[str]] = {case_id: set() for case_id in files.case_ids}
    for place in files.sums:
        parts = place.split("/", 2)
        if len(parts) == 3 and parts[1] in names:
            names[parts[1]].add(parts[2])
    rows.check_licences(tables, names, definitions["target"], problems)
    slices = dict.fromkeys(files.case_ids, SLICES)
    check_counts(files, tables, slices, definitions, problems)
    if problems.lines:
        raise RuntimeError("; ".join(problems.lines[:5]))
    facts = Verification(len(files.sums), len(names), len(tables["tumors"]), [])
    write_json(release.with_name(f"{release.name}.verified.json"), asdict(facts))


def run_empty(scratch: Path, shards: int) -> tuple[int, float, Cost]:
    """Run the whole job graph with scripts that only leave their outputs.

    Returns
    -------
    Number of jobs, and the wall seconds and cost of all, Snakemake and interpreters together.
    """
    checkout, run = scratch / "checkout", scratch / "run"
    (checkout / "scripts").mkdir(parents=True)
    for name in ("profiles", "resources", "tumoratlas", "envs", "config.yaml", "Snakefile"):
        (checkout / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "rules", checkout / "rules")  # scripts are found from where they lie
    for path in (ROOT / "scripts").glob("*.py"):
        (checkout / "scripts" / path.name).write_text(_NO_OP)
    prepare(run, make_catalog(shards * CASES_PER_SHARD, SEED))
    jobs, _ = plan(run)
    started = time.perf_counter()
    _, cost = snakemake(run, "all", "--quiet", "all", checkout=checkout)
    return jobs, time.perf_counter() - started, cost


def growth_text(costs: Mapping[int, Mapping[str, Cost]]) -> str:
    """Return a table of rules: CPU seconds and peak MB by size, and where a rule bends.

    A rule bends between two sizes where its cost per scan, without what it costs at the smallest
    size (its start), grows by more than `BEND`.
    """
    sizes = sorted(costs)
    heads = [f"{size:,}: CPU s | MB" for size in sizes]
    lines = [
        f"| rule | {' | '.join(heads)} | bends |",
        "|---" + "|---:" * (2 * len(sizes)) + "|---|",
    ]
    for rule in costs[sizes[0]]:
        cells, bends = [], []
        for before, size in zip([None, *sizes], sizes, strict=False):
            cost = costs[size].get(rule)
            cells += [f"{cost.cpu_s:.1f} | {cost.peak_mb:.0f}"] if cost else ["| "]
            if cost and before and before != sizes[0]:
                start = costs[sizes[0]][rule].cpu_s
                factor = (cost.cpu_s - start) / max(costs[before][rule].cpu_s - start, 0.5)
                if factor > BEND * size / before:
                    bends.append(f"{size:,}: {factor:.0f} times for {size / before:.0f}")
        lines.append(f"| {rule} | {' | '.join(cells)} | {'; '.join(bends)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument(
        "--scans", type=int, nargs="+", default=[100, 1000, 10135, 100_000],
        help="numbers of cases; with more than 20,000 only rules on scans run",
    )  # fmt: skip
    parser.add_argument("--empty-shards", type=int, default=20, help="shards of the empty run")
    chosen = parser.parse_args(arguments)
    print("| cases | scans | shards | jobs | CPU s to plan | of a bare graph | peak MB |")
    print("|" + "---:|" * 7)
    costs: dict[int, dict[str, Cost]] = {}
    for cases in sorted(chosen.scans):
        with tempfile.TemporaryDirectory() as scratch:
            catalog = make_catalog(cases, SEED)
            run = prepare(Path(scratch), catalog)
            jobs, cost = plan(run)
            bare = plan_bare(run / "bare", shards_of(cases))
            row = (f"{cases:,}", f"{len(catalog.scans):,}", f"{shards_of(cases)}", f"{jobs:,}",
                   f"{cost.cpu_s:.1f}", f"{bare.cpu_s:.1f}", f"{cost.peak_mb:.0f}")  # fmt: skip
            print(f"| {' | '.join(row)} |", flush=True)
            costs[cases] = run_tables(run, catalog)
    print(f"\n{growth_text(costs)}")
    with tempfile.TemporaryDirectory() as scratch:
        jobs, wall_s, cost = run_empty(Path(scratch), chosen.empty_shards)
    print(f"\n{jobs} empty jobs: {wall_s / jobs:.3f} s and {cost.cpu_s / jobs:.3f} CPU s each")


if __name__ == "__main__":
    main()
