"""What differs between the records of a run and now: options, code and software."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumoratlas.core.environment import environment
from tumoratlas.core.provenance import latest_jobs, read_stored

# Options of plans and limits, which no result depends on.
_NO_OPTIONS = ("costs.", "review_costs.", "scans", "cases")
_ABSENT = object()
_LONGEST = 60  # characters of a value that is told


@dataclass(frozen=True)
class VersionChange:
    """Software that is not the one that jobs were recorded with; ``None``: not installed."""

    name: str
    before: str | None
    now: str | None
    jobs: int


def version_changes(run: Path) -> list[VersionChange]:
    """Return the software that differs from that of the latest jobs, by name.

    Parameters
    ----------
    run
        Working directory of the run.
    """
    folder = run / "results/provenance"
    digests = Counter(record["environment"] for record in latest_jobs(folder).values())
    now = _versions(environment()["software"])
    found: Counter[tuple[str, str | None, str | None]] = Counter()
    for digest, jobs in digests.items():
        before = _versions(read_stored(folder, "environments", digest)["software"])
        for name in before.keys() | now.keys():
            if before.get(name) != now.get(name):
                found[name, before.get(name), now.get(name)] += jobs
    changes = [VersionChange(*key, jobs) for key, jobs in found.items()]
    return sorted(changes, key=lambda change: (change.name, str(change.before)))


def config_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the values of every option that differs, by its dotted name; absent is None."""
    old, new = dict(_options(before)), dict(_options(now))
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name, _ABSENT) != new.get(name, _ABSENT) and not name.startswith(_NO_OPTIONS)
    }


def code_changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield the files that differ between two results of `core.code.code_files`."""
    for name in sorted(before.keys() | now.keys()):
        if name not in before:
            yield f"{name} (new)"
        elif name not in now:
            yield f"{name} (gone)"
        elif before[name] != now[name]:
            yield name


def _options(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in json.loads(json.dumps(value)).items():
        if isinstance(inner, dict) and inner:
            yield from _options(inner, f"{above}{key}.")
        else:
            yield f"{above}{key}", inner


def values_text(before: object, now: object) -> str:
    """Return two values of an option as a text."""
    texts = [json.dumps(value) if value is not None else "absent" for value in (before, now)]
    return " -> ".join(
        text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..." for text in texts
    )


def _versions(software: Mapping[str, Any]) -> dict[str, str | None]:
    single = {key: software[key] for key in ("tumoratlas", "python", "container")}
    return {key: value for key, value in single.items() if value} | software["packages"]
