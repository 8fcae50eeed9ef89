"""What the records of a run say about each of its rules, for the report on rules."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from os.path import commonprefix
from pathlib import Path
from statistics import median
from typing import Any

from tumoratlas.core.provenance import read_stored
from tumoratlas.report.rule_records import RunRecords, different_keys, digest_rows
from tumoratlas.reproduce.names import Names

# Bytes and megabytes per gigabyte.
_GB, _MB_PER_GB = 1e9, 1e3
_SLOWEST = 3
_SHOWN_FAILURES = 50
_PLACEHOLDER = "*"
_RULE = re.compile(r'^(?:rule|checkpoint) (\w+):\n    """(.+?)"""', re.MULTILINE | re.DOTALL)
_INCLUDE = re.compile(r'^include: "(.+)"$', re.MULTILINE)

Row = dict[str, Any]


def workflow_rules(snakefile: Path) -> dict[str, Row]:
    """Return stage and purpose of every rule of the workflow, in its order.

    Parameters
    ----------
    snakefile
        It includes ``rules/<stage>.smk`` in the order of the stages.
    """
    files = _INCLUDE.findall(snakefile.read_text(encoding="utf-8"))
    return {
        name: {"stage": Path(file).stem, "purpose": " ".join(purpose.replace("`", "").split())}
        for file in files
        for name, purpose in _RULE.findall((snakefile.parent / file).read_text(encoding="utf-8"))
    }


def rule_rows(run: RunRecords, workflow: Mapping[str, Row]) -> list[Row]:
    """Return what the page shows of each rule that has records, in the workflow's order."""
    ended, latest, failures = (
        _by_rule(lines) for lines in (run.ended, run.latest.values(), run.failures)
    )
    configs = digest_rows(run)["configs"]
    names_of = Names(configs[0]["facts"] if configs else {}, public=True)
    names = [*workflow, *sorted((set(ended) | set(failures)) - set(workflow))]
    nothing = {"stage": "", "purpose": "no longer in the workflow"}
    return [
        {"rule": name, **workflow.get(name, nothing)}
        | _cost(ended[name])
        | _files(latest[name], names_of)
        | _made_with(latest[name], run.folder)
        | {
            "jobs": len({line["job"] for line in (*ended[name], *failures[name])}),
            "attempts": sum(line["exit"] == 0 for line in ended[name]) + len(failures[name]),
            "failed": sum(row["exit"] is not None for row in failures[name]),
            "killed": sum(row["exit"] is None for row in failures[name]),
            "open": sorted({row["job"] for row in failures[name] if not row["is_mended"]}),
            "failures": failures[name][:_SHOWN_FAILURES],
        }
        for name in names
        if ended[name] or failures[name]
    ]


def pattern(paths: Sequence[str]) -> str:
    """Return what paths have in common, each part that differs as a star."""
    if len(paths) == 1:
        return paths[0]
    ends = [path[::-1] for path in paths]
    head = commonprefix(list(paths))
    tail = commonprefix(ends)[::-1]
    # Names are not cut within a word: results/s0001.tsv and results/s0002.tsv differ in a name.
    head = head[: head.rfind("/") + 1]
    tail = tail[tail.find(".") :] if "." in tail else ""
    return f"{head}{_PLACEHOLDER}{tail}"


def _by_rule(lines: Iterable[Row]) -> defaultdict[str, list[Row]]:
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for line in lines:
        groups[line["rule"]].append(line)
    return groups


def _cost(ended: Sequence[Row]) -> Row:
    seconds = sorted(line["seconds"] for line in ended)
    slowest = sorted(ended, key=lambda line: -line["seconds"])[:_SLOWEST]
    return {
        "seconds": sum(seconds),
        "median_s": median(seconds) if seconds else None,
        "longest_s": max(seconds, default=None),
        "slowest": [{"job": line["job"], "seconds": line["seconds"]} for line in slowest],
        "cpu_s": sum(line["cpu_s"] for line in ended),
        "gpu_s": sum(line["seconds"] * line["resources"].get("gpu", 0) for line in ended),
        "memory_mb": max((line["peak_memory_mb"] for line in ended), default=None),
        "gpu_memory_mb": max((line["gpu_memory_mb"] or 0 for line in ended), default=0),
        "asked_mb": max((line["resources"].get("mem_mb", 0) for line in ended), default=0),
        "read_gb": sum(line["read_mb"] for line in ended) / _MB_PER_GB,
        "written_gb": sum(line["written_mb"] for line in ended) / _MB_PER_GB,
        "threads": max((line["threads"] for line in ended), default=None),
    }


def _files(latest: Sequence[Row], names_of: Names) -> Row:
    return {kind: _file_groups(latest, kind, names_of) for kind in ("inputs", "outputs")}


def _file_groups(latest: Sequence[Row], kind: str, names_of: Names) -> list[Row]:
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for line in latest:
        for name, value in line[f"{kind[:-1]}_names"].items():
            for path in [value] if isinstance(value, str) else value:
                groups[name][path] = line[kind].get(path, {"bytes": 0})["bytes"]
    return [
        {
            "name": name,
            "pattern": pattern(sorted({names_of.path(path) for path in files}))
            if files
            else "none",
            "files": len(files),
            "gb": sum(files.values()) / _GB,
        }
        for name, files in groups.items()
    ]


def _made_with(latest: Sequence[Row], folder: Path) -> Row:
    codes = {digest: read_stored(folder, "codes", digest) for digest in _values(latest, "code")}
    seeds = sorted({line["seed"] for line in latest if line["seed"] is not None})
    flags: dict[str, set[str]] = defaultdict(set)
    for line in latest:
        for name, value in _flat(line["determinism"]).items():
            flags[name].add(str(value))
    return {
        "codes": list(codes),
        "code_files": sorted({name for files in codes.values() for name in files}),
        "code_differs": sorted(
            {
                name
                for files in codes.values()
                for name in different_keys(next(iter(codes.values())), files)
            }
        ),
        "environments": _values(latest, "environment"),
        "configs": _values(latest, "config"),
        "seeds": seeds,
        "flags": [
            f"{name} {' or '.join(sorted(values))}" for name, values in sorted(flags.items())
        ],
        "slurm": sorted({line["slurm"]["job_id"] for line in latest if line["slurm"]}),
        "first": min((line["time"] for line in latest), default=None),
        "last": max((line["time"] for line in latest), default=None),
    }


def _values(lines: Iterable[Row], key: str) -> list[str]:
    return sorted({line[key] for line in lines})


def _flat(value: Mapping[str, Any]) -> Row:
    flat: Row = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= {f"{name}.{key}": said for key, said in inner.items()}
        elif inner is not None:
            flat[name] = inner
    return flat
