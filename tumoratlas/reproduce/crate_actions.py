"""The actions of a crate: one per job, with files, parameters, times and resources."""

import ast
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from rocrate.model import ContextEntity, Entity
from rocrate.rocrate import ROCrate

from tumoratlas.core.code import ROOT
from tumoratlas.core.files import sha256_json, to_json
from tumoratlas.reproduce.crate_files import DataFiles
from tumoratlas.reproduce.names import Names

COMPLETED = "http://schema.org/CompletedActionStatus"
_PARAMETER = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
# Of a job's record: what was used, the name of its unit, and its UN/CEFACT code.
_USAGE = {
    "seconds": ("second", "SEC"),
    "cpu_s": ("second", "SEC"),
    "peak_memory_mb": ("mebibyte", "E63"),
    "gpu_memory_mb": ("mebibyte", "E63"),
    "read_mb": ("megabyte", "4L"),
    "written_mb": ("megabyte", "4L"),
    "threads": ("1", "C62"),
}

Job = Mapping[str, Any]


def end_time(job: Job) -> str:
    """Return when a job ended, as an ISO 8601 time in UTC."""
    ended = datetime.fromisoformat(job["time"]) + timedelta(seconds=job["seconds"])
    return ended.isoformat(timespec="milliseconds")


class Actions:
    """Adds jobs, and the parameters of their rules, to a crate.

    Parameters
    ----------
    crate
        Crate with the workflow's files.
    files
        Entities of data files.
    names
        Public names by the digest of the configuration.
    environments
        Entities of the environments by digest.
    agent
        Who ran the workflow, if told.
    """

    def __init__(
        self,
        crate: ROCrate,
        files: DataFiles,
        names: Mapping[str, Names],
        environments: Mapping[str, Entity],
        agent: Entity | None,
    ) -> None:
        self._crate = crate
        self._files = files
        self._names = names
        self._environments = environments
        self._agent = agent
        self._examples: dict[str, set[str]] = defaultdict(set)  # of files, by id
        self._written: dict[str, str] = {}  # id of a file to the output parameter that wrote it
        self._connected: dict[str, set[tuple[str, str]]] = defaultdict(set)

    def add(self, job: Job) -> Entity:
        """Add the action of a job; return it."""
        rule = job["rule"]
        tool = self._crate.get(f"scripts/{rule}.py")
        read, written = self._files.of(job, "inputs"), self._files.of(job, "outputs")
        self._note(tool, "input", job["input_names"], read)
        self._note(tool, "output", job["output_names"], written)
        name = job["job"].partition("/")[2]
        attempt = f" Attempt {job['attempt']} ended well." if job["attempt"] > 1 else ""
        properties = {
            "@type": "CreateAction",
            "name": job["job"],
            "description": f"{_purpose(rule)}{attempt}",
            "instrument": tool,
            "object": [*_unique(read.values()), *self._values(tool, job)],
            "result": _unique(written.values()),
            "startTime": job["time"],
            "endTime": end_time(job),
            "actionStatus": COMPLETED,
            "resourceUsage": self._usage(job),
            "subjectOf": self._environments[job["environment"]],
        }
        if self._agent:
            properties["agent"] = self._agent
        return self._crate.add(ContextEntity(self._crate, f"#job/{rule}/{name}", properties))

    def finish(self) -> None:
        """Link files to their parameters, and steps to what they read; once all jobs are in."""
        for file, parameters in sorted(self._examples.items()):
            self._crate.get(file)["exampleOfWork"] = [{"@id": p} for p in sorted(parameters)]
        for rule, pairs in sorted(self._connected.items()):
            connections = [self._connection(*pair) for pair in sorted(pairs)]
            self._crate.get(f"#step/{rule}")["connection"] = connections

    def _connection(self, source: str, target: str) -> Entity:
        between = "/".join(side.removeprefix("#parameter/") for side in (source, target))
        properties = {
            "@type": "ParameterConnection",
            "sourceParameter": {"@id": source},
            "targetParameter": {"@id": target},
        }
        return self._crate.add(ContextEntity(self._crate, f"#connection/{between}", properties))

    def _note(
        self, tool: Entity, side: str, named: Mapping[str, Any], entities: Mapping[str, Entity]
    ) -> None:
        """Make a rule's named inputs or outputs parameters of its script."""
        for name, paths in named.items():
            found = [
                entities[p] for p in ([paths] if isinstance(paths, str) else paths) if p in entities
            ]
            if not found:
                continue
            parameter = self._parameter(tool, side, name, "File")
            for entity in found:
                self._examples[entity.id].add(parameter.id)
                if side == "output":
                    self._written[entity.id] = parameter.id
                elif entity.id in self._written:
                    rule = tool.id.removeprefix("scripts/").removesuffix(".py")
                    self._connected[rule].add((self._written[entity.id], parameter.id))

    def _parameter(self, tool: Entity, side: str, name: str, kind: str) -> Entity:
        rule = tool.id.removeprefix("scripts/").removesuffix(".py")
        identifier = f"#parameter/{rule}/{side}/{name}"
        known = self._crate.get(identifier)
        if known is not None:
            return known
        properties = {
            "@type": "FormalParameter",
            "name": name,
            "additionalType": kind,
            "conformsTo": {"@id": _PARAMETER},
        }
        parameter = self._crate.add(ContextEntity(self._crate, identifier, properties))
        tool.append_to("output" if side == "output" else "input", parameter)
        return parameter

    def _values(self, tool: Entity, job: Job) -> list[Entity]:
        """Return a job's parameters; jobs with equal ones share them."""
        found = []
        for name, value in self._names[job["config"]].value(job["params"]).items():
            if name == "code":  # the version of the script
                continue
            parameter = self._parameter(tool, "param", name, "PropertyValue")
            plain = value if isinstance(value, str | int | float | bool) else to_json(value)
            identifier = f"#value/{job['rule']}/{name}/{sha256_json(value)[:16]}"
            found.append(
                self._crate.get(identifier)
                or self._value(
                    identifier, {"name": name, "value": plain, "exampleOfWork": parameter}
                )
            )
        return found

    def _usage(self, job: Job) -> list[Entity]:
        found = []
        for name, (text, code) in _USAGE.items():
            if job[name] is None:
                continue
            identifier = f"#usage/{name}/{job[name]}"
            facts = {"name": name, "propertyID": name, "value": str(job[name])}
            found.append(
                self._crate.get(identifier)
                or self._value(identifier, facts | {"unitCode": code, "unitText": text})
            )
        return found

    def _value(self, identifier: str, properties: dict[str, Any]) -> Entity:
        entity = ContextEntity(self._crate, identifier, {"@type": "PropertyValue"} | properties)
        return self._crate.add(entity)


@cache
def _purpose(rule: str) -> str:
    text = (ROOT / f"scripts/{rule}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or rule).splitlines()[0]


def _unique(entities: Any) -> list[Entity]:  # noqa: ANN401 - any iterable
    return list({entity.id: entity for entity in entities}.values())
