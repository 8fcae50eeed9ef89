"""Why jobs would run: edits of code, options, inputs, models and versions since their records.

Whether a job runs is Snakemake's word; what caused it is found in the records of earlier runs.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumoratlas.core.code import code_digest, code_files
from tumoratlas.core.files import sha256_bytes, sha256_file
from tumoratlas.core.provenance import latest_jobs, read_stored
from tumoratlas.reproduce.dry_run import UNKNOWN, PlannedJob
from tumoratlas.reproduce.edits import code_changes, config_changes, values_text

# Files of the records that only grow: what a line adds, where it names an organ.
_GROWING = {"models.jsonl": "model", "thresholds.jsonl": "threshold"}
_LARGEST_HASHED = 2**28
_NAMED = 3  # files and options told by name in one line
NOT_YET = "it has not run yet"


@dataclass(frozen=True)
class Cause:
    """One cause of re-running jobs of one rule.

    Attributes
    ----------
    rule
        Its name.
    text
        The cause; ``{shard}`` stands for the name of each job's shard.
    jobs
        Names of the jobs (``<rule>/<wildcards>``) that it concerns.
    """

    rule: str
    text: str
    jobs: tuple[str, ...]


def find_causes(planned: Sequence[PlannedJob], run: Path, config: Mapping[str, Any]) -> list[Cause]:
    """Return why each job would run, alike ones together, in the order of the dry run.

    Parameters
    ----------
    planned
        Jobs of a dry run.
    run
        Working directory of the run.
    config
        The whole configuration that the dry run was made with.
    """
    records = latest_jobs(run / "results/provenance")
    makers = {path: job.rule for job in planned for path in job.outputs}
    own: dict[tuple[str, str], list[str]] = defaultdict(list)
    before: dict[str, set[str]] = defaultdict(set)
    following: dict[str, list[str]] = {}
    for job in planned:
        causes = _Asked(job, records.get(job.name), run, config, makers).causes()
        for text in causes:
            own[job.rule, text].append(job.name)
        files = _files(job.reason, "Input files updated by another job")
        before[job.rule] |= {makers[path] for path in files if path in makers}
        following.setdefault(job.rule, []).extend([] if causes else [job.name])
    caused = {rule for rule, _ in own}
    for rule, names in following.items():
        if names:
            roots = [root for root in following if root in _roots(rule, before, caused)]
            own[rule, f"it follows from {_listing(roots)}"] = names
    places = {rule: n for n, rule in enumerate(following)}
    found = [Cause(rule, text, tuple(jobs)) for (rule, text), jobs in own.items()]
    return sorted(found, key=lambda cause: places[cause.rule])


def _roots(rule: str, before: Mapping[str, set[str]], caused: set[str]) -> set[str]:
    """Return the rules before ``rule`` that have a cause of their own, the nearest on each way."""
    found: set[str] = set()
    seen = {rule}
    waiting = list(before[rule])
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in caused:
            found.add(name)
        else:
            waiting += before[name]
    return found


@dataclass(frozen=True)
class _Asked:
    """A job with what is known of its last run."""

    job: PlannedJob
    record: Mapping[str, Any] | None
    run: Path
    config: Mapping[str, Any]
    makers: Mapping[str, str]

    def causes(self) -> list[str]:
        """Return the job's own causes; none where it only follows from other jobs."""
        reason = self.job.reason
        found = []
        if "Forced execution" in reason:
            return ["it is forced"]
        if "Missing output files:" in reason:
            gone = f"an output is missing: {self._shown(_files(reason, 'Missing output files'))}"
            found.append(gone if self.record else NOT_YET)
        if "Incomplete output files:" in reason:
            found.append("it was interrupted")
        if "Params have changed" in reason:
            found += self._params()
        if "Software environment definition" in reason:
            found.append("its environment file changed")
        if "Updated input files:" in reason:
            found += [self._input(path) for path in _files(reason, "Updated input files")]
        if "Set of input files has changed" in reason:
            found += self._input_set()
        if "Input files updated by another job:" in reason:
            # Snakemake looks no further, but the job may have causes of its own.
            found += [*self._code(), *self._edited_inputs()]
        elif not found:
            found.append(reason.split("; ")[0])
        return list(dict.fromkeys(found))

    def _params(self) -> list[str]:
        record = self.record
        if record is None:
            return ["its code or options changed; no record tells which"]
        found = self._code()
        folder = self.run / "results/provenance"
        changes = config_changes(read_stored(folder, "configs", record["config"]), self.config)
        options = [name for name in changes if _uses(record["params"], name, changes[name][0])]
        # An option may have another name among the parameters.
        if not found and not options:
            options = list(changes)
        found += [f"option {name} changed: {values_text(*changes[name])}" for name in options]
        return found or ["its parameters changed"]

    def _code(self) -> list[str]:
        record, rule = self.record, self.job.rule
        if record is None or code_digest(rule).startswith(record["code"]):
            return []
        before = read_stored(self.run / "results/provenance", "codes", record["code"])
        return [f"its code changed: {_listing(list(code_changes(before, code_files(rule))))}"]

    def _edited_inputs(self) -> list[str]:
        """Return edits of inputs that no job makes; the ledgers grow by the jobs themselves."""
        if self.record is None:
            return []
        given = [
            path
            for path in self.job.inputs
            if path in self.record["inputs"]
            and path not in self.makers
            and not path.startswith("results/")
            and not path.endswith(".jsonl")
        ]
        texts = [self._input(path) for path in given if (self.run / path).is_file()]
        return [text for text in texts if "same content" not in text]

    def _input_set(self) -> list[str]:
        if self.record is None:
            return ["its inputs changed; no record tells which"]
        if UNKNOWN in self.job.inputs:  # until the checkpoint before it has run
            return []
        before, now = set(self.record["inputs"]), set(self.job.inputs)
        found = []
        for path in sorted(now - before):
            if Path(path).name in _GROWING:
                found.append(self._input(path))
        added = [p for p in sorted(now - before) if Path(p).name not in _GROWING]
        if added:
            found.append(f"there is a new input: {self._shown(added)}")
        if before - now:
            found.append(f"an input is gone: {self._shown(sorted(before - now))}")
        return found

    def _input(self, path: str) -> str:
        """Return what changed about an input of this name."""
        place = self.run / path
        before = (self.record or {}).get("inputs", {}).get(path)
        size = before["bytes"] if before else 0
        if not place.is_file():
            return f"an input is gone: {self._shown([path])}"
        if place.suffix == ".jsonl" and (self.record is not None):
            data = place.read_bytes()
            if before is None or sha256_bytes(data[:size]) == before["sha256"]:
                return f"{path} has {_added(place.name, data[size:])}"
            return f"{path} was edited"
        if before is None:
            return f"there is a new input: {self._shown([path])}"
        if place.stat().st_size == size and size <= _LARGEST_HASHED:
            if sha256_file(place) == before["sha256"]:
                return f"an input is newer, with the same content: {self._shown([path])}"
        return f"an input changed: {self._shown([path])}"

    def _shown(self, paths: Sequence[str]) -> str:
        shard = self.job.wildcards.get("shard")
        names = [path.replace(shard, "{shard}") if shard else path for path in paths]
        return _listing(names)


def _files(reason: str, label: str) -> list[str]:
    """Return the files that follow a label in Snakemake's reason."""
    text = reason.partition(f"{label}: ")[2]
    return sorted(part for part in text.split("; ")[0].split(", ") if part)


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _uses(params: Any, name: str, before: object) -> bool:  # noqa: ANN401 - JSON
    """Return whether a value under the option's last name is anywhere among the parameters."""
    key = name.rsplit(".", 1)[-1]
    inner = params.values() if isinstance(params, Mapping) else params
    if isinstance(params, Mapping) and key in params and params[key] == before:
        return True
    return isinstance(params, Mapping | list) and any(_uses(part, name, before) for part in inner)


def _added(name: str, data: bytes) -> str:
    lines = [json.loads(line) for line in data.splitlines() if line.strip()]
    if name in _GROWING and lines:
        organs = dict.fromkeys(str(line.get("organ")) for line in lines)
        return f"a new {_GROWING[name]} for {', '.join(organs)}"
    return f"{len(lines)} new lines"
