"""What happened in a run as a Workflow Run RO-Crate: workflow, jobs, files, environments.

The crate conforms to RO-Crate 1.1, Workflow RO-Crate 1.0 and the Process, Workflow and Provenance
Run Crate profiles 0.5. It holds the workflow; data is named by path and SHA-256 and stays where it
is. Nothing in it names a person, a machine or a folder of the place where it ran.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from rocrate.model import ContextEntity, Entity, File
from rocrate.rocrate import ROCrate

from tumoratlas.core.code import ROOT, code_files
from tumoratlas.core.errors import InputError, ReleaseError
from tumoratlas.core.files import sha256_bytes, sha256_file, sha256_json, to_json
from tumoratlas.core.provenance import PROVENANCE, latest_jobs, read_stored
from tumoratlas.reproduce.crate_actions import Actions
from tumoratlas.reproduce.crate_files import DataFiles, add_workflow_files, named_facts
from tumoratlas.reproduce.crate_workflow import add_run, add_workflow, describe, unwrap
from tumoratlas.reproduce.flow import rule_order
from tumoratlas.reproduce.names import Names

_TERMS = "https://w3id.org/ro/terms/workflow-run/context"

Job = Mapping[str, Any]


@dataclass(frozen=True)
class CrateFacts:
    """What a crate holds: number of jobs, of files named or copied, and of entities."""

    jobs: int
    files: int
    entities: int


def write_crate(run: Path, folder: Path, *, agent: str | None = None) -> CrateFacts:
    """Write the crate of a run into a new folder.

    Of a job counts the last time that it ended well. Jobs whose outputs are gone, as those of a
    shard that is no more, are left out.

    Parameters
    ----------
    run
        Working directory of the run.
    folder
        Folder to create.
    agent
        Name of the organization that ran it, to be published.

    Raises
    ------
    InputError
        ``CRATE_TARGET`` if the folder is there and not empty, ``NO_RECORDS`` without any job.
    ReleaseError
        ``CRATE_CODE`` if the checkout is not the code that the run was made with;
        ``CRATE_OUTPUT`` if a result is not what its job wrote.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(
            "CRATE_TARGET", folder, "is there and not empty", remedy="Name a new folder."
        )
    provenance = run / PROVENANCE
    jobs = _present_jobs(run, latest_jobs(provenance))
    last = max(jobs, key=lambda job: job["time"])
    order = rule_order(jobs)
    _refuse_other_code(jobs)
    configs = {digest: read_stored(provenance, "configs", digest) for digest in _of(jobs, "config")}
    names = {digest: Names(config, public=True) for digest, config in configs.items()}
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(_TERMS)
    add_workflow_files(crate)
    config = yaml.safe_dump(names[last["config"]].value(configs[last["config"]]))
    _add_text(crate, "config.yaml", config)
    environments = {
        digest: _public_environment(read_stored(provenance, "environments", digest))
        for digest in _of(jobs, "environment")
    }
    engine = environments[last["environment"]]["software"]["packages"]["snakemake"]
    stored = [
        _add_text(crate, f"configs/{digest}.json", to_json(names[digest].value(config)) + "\n")
        for digest, config in configs.items()
    ]
    machines = {
        digest: _add_text(crate, f"environments/{digest}.json", to_json(found) + "\n")
        for digest, found in environments.items()
    }
    author = _add_agent(crate, agent) if agent else None
    workflow = add_workflow(crate, jobs, order)
    files = DataFiles(crate, jobs, names)
    actions = Actions(crate, files, names, machines, author)
    by_rule: dict[str, list[Entity]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: (order.index(job["rule"]), job["job"])):
        by_rule[job["rule"]].append(actions.add(job))
    actions.finish()
    add_run(crate, workflow, jobs, by_rule, stored, files, engine)
    describe(crate, jobs, author)
    entities = list(crate.get_entities())
    for entity in entities:
        unwrap(entity.properties())
    crate.write(folder)
    count = sum("File" in entity.properties()["@type"] for entity in entities)
    return CrateFacts(len(jobs), count, len(entities))


def _of(jobs: list[Job], field: str) -> list[str]:
    return sorted({job[field] for job in jobs})


def _present_jobs(run: Path, latest: Mapping[str, Job]) -> list[Job]:
    present = [
        job for job in latest.values() if all((run / path).is_file() for path in job["outputs"])
    ]
    if not present:
        raise InputError(
            "NO_RECORDS", run, "holds no record of a job whose outputs are there",
            remedy="Name the working directory of a run.",
        )  # fmt: skip
    for job in present:
        for path, facts in job["outputs"].items():
            if sha256_file(run / path) != facts["sha256"]:
                raise ReleaseError(
                    "CRATE_OUTPUT", path, f"is not what {job['job']} wrote",
                    remedy="Run the workflow again.",
                )  # fmt: skip
    return present


def _refuse_other_code(jobs: list[Job]) -> None:
    for rule in _of(jobs, "rule"):
        script = ROOT / f"scripts/{rule}.py"
        now = sha256_json(code_files(rule))[:16] if script.is_file() else "no script"
        if {job["code"] for job in jobs if job["rule"] == rule} != {now}:
            raise ReleaseError(
                "CRATE_CODE", rule, "ran with other code than that of this checkout",
                remedy="Use the checkout that the run was made with, or run the workflow again.",
            )  # fmt: skip


def _public_environment(found: dict[str, Any]) -> dict[str, Any]:
    """Return an environment without the machine's name."""
    machine = {key: value for key, value in found["machine"].items() if key != "host"}
    return found | {"machine": machine}


def _add_text(crate: ROCrate, name: str, text: str) -> Entity:
    data = text.encode()
    properties = named_facts(name, sha256_bytes(data), len(data))
    return crate.add(File(crate, BytesIO(data), name, properties=properties))


def _add_agent(crate: ROCrate, name: str) -> Entity:
    return crate.add(ContextEntity(crate, "#agent", {"@type": "Organization", "name": name}))
