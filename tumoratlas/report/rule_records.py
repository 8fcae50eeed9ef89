"""The records of a run as the report on rules reads them: attempts, failures, who reads whom."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumoratlas.core.provenance import read_jobs, read_starts, read_stored
from tumoratlas.reproduce.flow import sources_of

NO_END = "killed"

Row = dict[str, Any]


@dataclass(frozen=True)
class RunRecords:
    """All that the records of a run hold about its jobs.

    Attributes
    ----------
    folder
        ``results/provenance`` of the run.
    ended
        Lines of all attempts that ended, well or not.
    latest
        Per job the line of the last attempt that ended well.
    failures
        Attempts that failed or have no end, with ``job, attempt, time, host, exit, code`` and
        ``is_mended``: the job ended well later.
    """

    folder: Path
    ended: Sequence[Row]
    latest: Mapping[str, Row]
    failures: Sequence[Row]

    @property
    def attempts(self) -> int:
        """How many attempts were made in all."""
        good = sum(line["exit"] == 0 for line in self.ended)
        return good + len(self.failures)


def read_run(folder: Path, *, running: str) -> RunRecords:
    """Read the records of a run.

    Parameters
    ----------
    folder
        ``results/provenance`` of the run.
    running
        The job that reads: its own last start has no end yet, and is left out.
    """
    ended = read_jobs(folder)
    latest = {line["job"]: line for line in ended if line["exit"] == 0}
    known = {(line["job"], line["time"]) for line in ended}
    starts = [line for line in read_starts(folder)]
    own = max((line["time"] for line in starts if line["job"] == running), default="")
    failures = [
        _failure(line, line["exit"], _error_code(line["error"]), latest)
        for line in ended
        if line["exit"] != 0
    ]
    failures += [
        _failure(line, None, NO_END, latest)
        for line in starts
        if (line["job"], line["time"]) not in known
        and (line["job"], line["time"]) != (running, own)
    ]
    return RunRecords(
        folder, ended, latest, sorted(failures, key=lambda row: (row["time"], row["job"]))
    )


def rule_edges(latest: Mapping[str, Row]) -> set[tuple[str, str]]:
    """Return the pairs of rules of which the second read a file that the first wrote."""
    read = sources_of(latest.values())
    return {(before, rule) for rule, others in read.items() for before in others}


def ancestors(edges: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Return for each rule all rules whose results it rests on, near and far."""
    direct: dict[str, set[str]] = defaultdict(set)
    for before, after in edges:
        direct[after].add(before)
    found: dict[str, set[str]] = {}

    def collect(rule: str) -> set[str]:
        if rule not in found:
            found[rule] = set()  # a cycle ends here
            found[rule] = direct[rule].union(*(collect(name) for name in sorted(direct[rule])))
        return found[rule]

    for rule in sorted({name for edge in edges for name in edge}):
        collect(rule)
    return found


def digest_rows(run: RunRecords) -> dict[str, list[Row]]:
    """Return the environments and configurations of the results, the most used first.

    Returns
    -------
    ``environments`` and ``configs``: rows with ``digest, jobs`` and the ``facts`` stored; of all
    but the first, ``differs`` says what is not as in the first.
    """
    result = {}
    for kind, key in (("environments", "environment"), ("configs", "config")):
        counts: dict[str, int] = defaultdict(int)
        for line in run.latest.values():
            counts[line[key]] += 1
        order = sorted(counts, key=lambda digest: (-counts[digest], digest))
        facts = {digest: read_stored(run.folder, kind, digest) for digest in order}
        result[kind] = [
            {
                "digest": digest,
                "jobs": counts[digest],
                "facts": facts[digest],
                "differs": different_keys(facts[order[0]], facts[digest]),
            }
            for digest in order
        ]
    return result


def different_keys(one: Any, other: Any, place: str = "") -> list[str]:  # noqa: ANN401 - JSON
    """Return the places, as ``a.b.c``, where two JSON values differ; values are not told."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            name
            for key in sorted({*one, *other})
            for name in different_keys(
                one.get(key), other.get(key), f"{place}.{key}" if place else key
            )
        ]
    return [] if one == other else [place]


def _failure(line: Row, status: int | None, code: str, latest: Mapping[str, Row]) -> Row:
    job = line["job"]
    return {
        "rule": line["rule"],
        "job": job,
        "attempt": line["attempt"],
        "time": line["time"],
        "exit": status,
        "code": code,
        "is_mended": job in latest and latest[job]["time"] > line["time"],
    }


def _error_code(error: str | None) -> str:
    """Return the code of an error; the rest of it may name files of an internal source."""
    found = re.match(r"[A-Za-z_]+", error or "")
    return found[0] if found else "stopped"
