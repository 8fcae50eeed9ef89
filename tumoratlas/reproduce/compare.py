"""Comparison of two whole runs from their records alone; no result is read."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import InputError
from tumoratlas.core.provenance import latest_jobs, read_scans
from tumoratlas.reproduce.causes import (
    Causes,
    Record,
    Run,
    is_stamped,
    job_causes,
    scan_causes,
)
from tumoratlas.reproduce.flow import producers, rule_order, sources_of

# Their results are made of records, and hold times and machines.
OF_RECORDS = frozenset({"replay_rule", "report_rules"})
EQUAL, DIFFERENT, ONLY_A, ONLY_B = "equal", "different", "only in A", "only in B"
NOT_COMPARED = "-"  # all that it writes has time stamps of source files


@dataclass(frozen=True)
class Count:
    """How many of the jobs, or scans, that both runs have differ, and how many one has alone."""

    different: int
    both: int
    only_a: int
    only_b: int

    @property
    def is_equal(self) -> bool:
        """Whether both runs have the same ones with the same results."""
        return not (self.different or self.only_a or self.only_b)


@dataclass(frozen=True)
class RuleComparison:
    """A rule in two runs.

    Attributes
    ----------
    jobs, scans
        Counts; ``scans`` is None for a rule that works on no scans one by one.
    upstream
        Rules with different results whose outputs it reads, in the order of the flow.
    causes
        What else differs between the records of its different jobs and scans, or, if its results
        are equal, of all its jobs.
    """

    rule: str
    verdict: str
    jobs: Count
    scans: Count | None = None
    upstream: tuple[str, ...] = ()
    causes: Causes = field(default_factory=Causes)

    @property
    def is_first(self) -> bool:
        """Whether no difference before it explains the one here."""
        return self.verdict == DIFFERENT and not self.upstream


@dataclass(frozen=True)
class RunComparison:
    """Two runs, rule by rule in the order of the data's flow."""

    rules: tuple[RuleComparison, ...]

    @property
    def is_equal(self) -> bool:
        """Whether every rule is in both runs with the same results."""
        return all(rule.verdict in (EQUAL, NOT_COMPARED) for rule in self.rules)

    @property
    def first(self) -> RuleComparison | None:
        """The first rule of the flow with different results."""
        return next((rule for rule in self.rules if rule.verdict == DIFFERENT), None)


def compare_runs(provenance_a: Path, provenance_b: Path) -> RunComparison:
    """Compare the results of two runs, and say why they differ.

    Of a job counts the last time that it ended well. Files are compared by their SHA-256, named
    by what they are for, whatever folders the runs lie in. Rules that work scan by scan are
    compared scan by scan, so that another number of shards is no difference. Listings and cases
    are not compared, since they hold time stamps of the source's files; what else they say shows
    in the tables and scans that are made of them.

    Parameters
    ----------
    provenance_a, provenance_b
        Folders ``results/provenance`` of the runs.

    Raises
    ------
    InputError
        ``NO_RECORDS`` if a run has no job that ended well.
    """
    runs = Run(provenance_a), Run(provenance_b)
    jobs = tuple(_jobs_by_rule(run.folder) for run in runs)
    all_jobs = [[job for group in found.values() for job in group.values()] for found in jobs]
    order = rule_order(all_jobs[0] + all_jobs[1])
    reads = sources_of(all_jobs[0] + all_jobs[1])
    writers = {
        run.names(job["config"]).path(path): rule
        for run, found in zip(runs, all_jobs, strict=True)
        for job in found
        for path, rule in producers([job]).items()
    }
    rules: dict[str, RuleComparison] = {}
    for rule in order:
        one, two = (found.get(rule, {}) for found in jobs)
        if not one or not two:
            counts = Count(0, 0, len(one), len(two))
            rules[rule] = RuleComparison(rule, ONLY_A if one else ONLY_B, counts)
            continue
        upstream = tuple(r for r in rules if r in reads[rule] and rules[r].verdict == DIFFERENT)
        rules[rule] = _compare_rule(rule, one, two, runs, upstream, writers)
    return RunComparison(tuple(rules.values()))


def _jobs_by_rule(folder: Path) -> dict[str, dict[str, Record]]:
    found: dict[str, dict[str, Record]] = defaultdict(dict)
    for name, job in latest_jobs(folder).items():
        if job["rule"] not in OF_RECORDS:
            found[job["rule"]][name] = job
    if not found:
        raise InputError(
            "NO_RECORDS", folder, "holds no record of a job that ended well",
            remedy="Name the working directory of a run.",
        )  # fmt: skip
    return found


def _compare_rule(
    rule: str,
    a: Mapping[str, Record],
    b: Mapping[str, Record],
    runs: tuple[Run, Run],
    upstream: tuple[str, ...],
    writers: Mapping[str, str],
) -> RuleComparison:
    scans = tuple(_latest_scans(run.folder, rule) for run in runs)
    shards = tuple(_by_shard(found) for found in scans)
    # A shard with other scans in it has another manifest, whatever became of each scan.
    names = [n for n in sorted(a) if n in b and shards[0].get(n) == shards[1].get(n)]
    different = [name for name in names if _results(a[name]) != _results(b[name])]
    by_scan = bool(scans[0] and scans[1])
    jobs = Count(
        len(different),
        len(names),
        0 if by_scan else len(a.keys() - b.keys()),
        0 if by_scan else len(b.keys() - a.keys()),
    )
    both = sorted(scans[0].keys() & scans[1].keys())
    changed = [s for s in both if _outcome(scans[0][s]) != _outcome(scans[1][s])]
    count = Count(
        len(changed),
        len(both),
        len(scans[0].keys() - scans[1].keys()),
        len(scans[1].keys() - scans[0].keys()),
    )
    is_equal = jobs.is_equal and (not by_scan or count.is_equal)
    causes = Causes()

    def inherited(name: str) -> bool:
        return writers.get(name) in upstream

    explained = names if is_equal else different
    for name in explained:
        causes.add(job_causes(a[name], b[name], runs, inherited))
    for scan in changed:
        causes.add(scan_causes(scans[0][scan], scans[1][scan], runs))
    if changed and not different:
        _add_params(causes, a, b, runs)
    has_results = by_scan or any(_results(job) for job in (*a.values(), *b.values()))
    equal = EQUAL if has_results else NOT_COMPARED
    return RuleComparison(
        rule,
        equal if is_equal else DIFFERENT,
        jobs,
        count if by_scan else None,
        () if is_equal else upstream,
        causes,
    )


def _add_params(
    causes: Causes, a: Mapping[str, Record], b: Mapping[str, Record], runs: tuple[Run, Run]
) -> None:
    """Add what a scan's record does not hold, from a job of each run."""
    told = job_causes(a[min(a)], b[min(b)], runs, lambda name: True)
    for kind in ("params", "process"):
        causes.found[kind].update(told[kind])
    if any(told[kind] for kind in ("params", "process")):
        causes.unexplained = 0


def _latest_scans(folder: Path, rule: str) -> dict[str, Record]:
    return {line["subject"]: line for line in read_scans(folder, rule)}


def _by_shard(scans: Mapping[str, Record]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for subject, line in scans.items():
        found[f"{line['rule']}/{line['shard']}"].add(subject)
    return {name: frozenset(subjects) for name, subjects in found.items()}


def _results(job: Record) -> dict[str, list[str]]:
    """Return the SHA-256 of a job's outputs by their names in the rule."""
    paths = {name: [p] if isinstance(p, str) else p for name, p in job["output_names"].items()}
    return {
        name: [job["outputs"].get(path, {}).get("sha256", "") for path in found]
        for name, found in paths.items()
        if not all(is_stamped(path) for path in found)
    }


def _outcome(scan: Record) -> tuple[Any, ...]:
    return scan["status"], sorted(scan["outputs"].items())
