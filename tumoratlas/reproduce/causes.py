"""Why two jobs, or two works on a scan, gave different results: what differs between them."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tumoratlas.core.provenance import read_stored
from tumoratlas.reproduce.names import Names

KINDS = ("inputs", "params", "code", "software", "machine", "process")
# Of a machine; its name and its memory do not change a result.
_MACHINE = ("cpu", "gpus", "driver", "system")
_LONELY = (" (only in A)", " (only in B)")

# Listings and what is copied from them hold the latest change of each source file.
_STAMPED = ("results/ingest/list_scans/", "results/ingest/shard_scans/")
_PERHAPS = " (perhaps only time stamps in it)"

Record = Mapping[str, Any]


def is_stamped(path: str) -> bool:
    """Return whether a file holds time stamps of source files, which tell nothing of results."""
    return path.startswith(_STAMPED)


@dataclass
class Causes:
    """What differs, by kind; each text with the number of pairs of jobs or scans it is true of."""

    found: dict[str, Counter[str]] = field(
        default_factory=lambda: {kind: Counter() for kind in KINDS}
    )
    pairs: int = 0
    unexplained: int = 0

    def add(self, told: Mapping[str, list[str]]) -> None:
        """Count the differences of one pair."""
        self.pairs += 1
        self.unexplained += not any(told.values())
        for kind in KINDS:
            self.found[kind].update(told.get(kind, ()))

    def texts(self, kind: str) -> list[str]:
        """Return the differences of a kind: frequent ones first, those of one run only last."""
        found = self.found[kind]
        return sorted(found, key=lambda text: (-found[text], text.endswith(_LONELY), text))


class Run:
    """Records of one run, read once.

    Parameters
    ----------
    provenance
        Folder ``results/provenance`` of the run.
    """

    def __init__(self, provenance: Path) -> None:
        self.folder = provenance
        self._stored: dict[tuple[str, str], dict[str, Any]] = {}
        self._names: dict[str, Names] = {}

    def stored(self, kind: str, digest: str) -> dict[str, Any]:
        """Return an environment, configuration or code list."""
        key = (kind, digest)
        if key not in self._stored:
            self._stored[key] = read_stored(self.folder, kind, digest)
        return self._stored[key]

    def names(self, config: str) -> Names:
        """Return the names of the paths of jobs with a configuration, by its digest."""
        if config not in self._names:
            self._names[config] = Names(self.stored("configs", config))
        return self._names[config]

    def inputs(self, job: Record) -> dict[str, str]:
        """Return the SHA-256 of a job's inputs by the names of their files."""
        names = self.names(job["config"])
        return {names.path(path): facts["sha256"] for path, facts in job["inputs"].items()}


def job_causes(
    a: Record, b: Record, runs: tuple[Run, Run], inherited: Callable[[str], bool]
) -> dict[str, list[str]]:
    """Return what differs between two records of a job, by kind.

    Parameters
    ----------
    a, b
        ``ended`` records of the same job in two runs.
    runs
        The runs that they are of.
    inherited
        Whether an input, by its name, was written by a rule that differs itself.

    Returns
    -------
    Texts by the kinds of `KINDS`, and ``inherited`` inputs.
    """
    one, two = runs[0].inputs(a), runs[1].inputs(b)
    names = [name for name in sorted({*one, *two}) if one.get(name) != two.get(name)]
    return {
        "inherited": [name for name in names if inherited(name)],
        "inputs": [
            name + (_only(name in one, name in two) or (_PERHAPS if is_stamped(name) else ""))
            for name in names
            if not inherited(name)
        ],
        "params": _params(a, b, runs),
        "code": _code(a["code"], b["code"], runs),
        **_environments(a["environment"], b["environment"], runs),
        "process": _changes(
            {"threads": a["threads"], **_flat(a["determinism"])},
            {"threads": b["threads"], **_flat(b["determinism"])},
        ),
    }


def scan_causes(a: Record, b: Record, runs: tuple[Run, Run]) -> dict[str, list[str]]:
    """Return what differs between two records of a scan, by kind; see `job_causes`."""
    one, two = a["inputs"], b["inputs"]
    return {
        "inputs": [
            name + _only(name in one, name in two)
            for name in sorted({*one, *two})
            if one.get(name) != two.get(name)
        ],
        "code": _code(a["code"], b["code"], runs),
        **_environments(a["environment"], b["environment"], runs),
    }


def _params(a: Record, b: Record, runs: tuple[Run, Run]) -> list[str]:
    one, two = (
        _flat(
            {k: v for k, v in run.names(job["config"]).value(job["params"]).items() if k != "code"}
        )
        for run, job in zip(runs, (a, b), strict=True)
    )
    return _changes(one, two)


def _code(a: str, b: str, runs: tuple[Run, Run]) -> list[str]:
    if a == b:
        return []
    # A scan's record holds the whole digest, of which the file has the first digits.
    one, two = (run.stored("codes", digest[:16]) for run, digest in zip(runs, (a, b), strict=True))
    return [
        name + _only(name in one, name in two)
        for name in sorted({*one, *two})
        if one.get(name) != two.get(name)
    ]


def _environments(a: str, b: str, runs: tuple[Run, Run]) -> dict[str, list[str]]:
    if a == b:
        return {"software": [], "machine": []}
    one, two = (
        run.stored("environments", digest) for run, digest in zip(runs, (a, b), strict=True)
    )
    software = [dict(e["software"]) for e in (one, two)]
    packages = [facts.pop("packages") for facts in software]
    machines = [{k: e["machine"].get(k) for k in _MACHINE} for e in (one, two)]
    return {
        "software": [*_changes(*packages), *_changes(*software)],
        "machine": _changes(*machines),
    }


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dots in its keys."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _flat(item, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = item
    return found


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {a[key]} -> {b[key]}"
        if key in a and key in b
        else f"{key} {a.get(key, b.get(key))}{_only(key in a, key in b)}"
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key) or (key in a) != (key in b)
    ]


def _only(in_a: bool, in_b: bool) -> str:
    return "" if in_a and in_b else _LONELY[in_b]
