"""The workflow of a crate, its run as a whole, and what the crate says of itself."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from rocrate.model import ComputationalWorkflow, ContextEntity, Entity, File
from rocrate.rocrate import ROCrate

from tumoratlas import __version__
from tumoratlas.core.code import ROOT
from tumoratlas.reproduce.crate_actions import COMPLETED, end_time
from tumoratlas.reproduce.crate_files import DataFiles, file_facts

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_LICENCE = "https://spdx.org/licenses/Apache-2.0"
_WORKFLOW_PROFILE = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
_README = """# Provenance of a TumorAtlas run

`ro-crate-metadata.json` says, for each job of the run, which script made which files from which
files, with which parameters, software and machine, when, and with how much time and memory.

* `Snakefile`, `rules/`, `scripts/`, `tumoratlas/`: the workflow as it ran; each script's `version`
  is the digest of the code that it reaches.
* `configs/`: the configuration, without the places of folders. `environments/`: every package
  with its version, and the machine without its name.
* Files whose `@id` begins with `#` are named by path and SHA-256 and are not in this folder; the
  release's own files are those of its `SHA256SUMS`.

Check it with `rocrate-validator validate -p provenance-run-crate .`
"""

Job = Mapping[str, Any]


def add_workflow(crate: ROCrate, jobs: list[Job], order: list[str]) -> Entity:
    """Add the Snakefile, a script per rule as its tool, and a step per rule."""
    workflow = crate.add_workflow(
        ROOT / "Snakefile", "Snakefile", main=True, lang="snakemake", cls=_Workflow
    )
    facts = file_facts(ROOT / "Snakefile", "Snakefile")
    for key, value in facts.items():
        workflow[key] = value
    workflow["name"] = "TumorAtlas"
    workflow["version"] = __version__
    workflow["conformsTo"] = {"@id": _WORKFLOW_PROFILE}
    codes = {job["rule"]: job["code"] for job in jobs}
    for position, rule in enumerate(order, 1):
        tool = crate.get(f"scripts/{rule}.py")
        tool.properties()["@type"] = ["File", "SoftwareSourceCode"]
        tool["version"] = codes[rule]  # of the script and of all that it imports
        step = ContextEntity(
            crate,
            f"#step/{rule}",
            {"@type": "HowToStep", "name": rule, "position": str(position), "workExample": tool},
        )
        workflow.append_to("hasPart", tool)
        workflow.append_to("step", crate.add(step))
    return workflow


class _Workflow(ComputationalWorkflow):
    """Main workflow with steps."""

    TYPES = [*ComputationalWorkflow.TYPES, "HowTo"]


def add_run(
    crate: ROCrate,
    workflow: Entity,
    jobs: list[Job],
    by_rule: Mapping[str, list[Entity]],
    configs: list[Entity],
    files: DataFiles,
    engine_version: str,
) -> None:
    """Add the run as a whole, its engine, and how the engine ran each step."""
    read = {entity.id for job in jobs for entity in files.of(job, "inputs").values()}
    written = {e.id: e for job in jobs for e in files.of(job, "outputs").values()}
    times = {
        "startTime": min(job["time"] for job in jobs),
        "endTime": max(end_time(job) for job in jobs),
        "actionStatus": COMPLETED,
    }
    parameter = ContextEntity(
        crate,
        "#parameter/config",
        {"@type": "FormalParameter", "name": "config", "additionalType": "File"},
    )
    workflow["input"] = [crate.add(parameter)]
    for config in configs:
        config["exampleOfWork"] = parameter
    action = {
        "@type": "CreateAction",
        "name": "run of the workflow",
        "description": f"{len(jobs)} jobs of {len(by_rule)} rules",
        "instrument": workflow,
        "object": configs,
        "result": [entity for key, entity in written.items() if key not in read],
    }
    run = crate.add(ContextEntity(crate, "#run", action | times))
    engine = {
        "@type": "SoftwareApplication",
        "name": "Snakemake",
        "softwareVersion": engine_version,
        "url": "https://snakemake.readthedocs.io",
    }
    steps = [
        crate.add(
            ContextEntity(
                crate,
                f"#control/{rule}",
                {"@type": "ControlAction", "name": rule, "instrument": {"@id": f"#step/{rule}"}}
                | {"object": actions},
            )
        )
        for rule, actions in by_rule.items()
    ]
    organize = {
        "@type": "OrganizeAction",
        "name": "Snakemake ran the workflow",
        "instrument": crate.add(ContextEntity(crate, "#snakemake", engine)),
        "object": steps,
        "result": run,
    }
    crate.add(ContextEntity(crate, "#organize", organize | times))
    crate.root_dataset["mentions"] = [run, *(a for actions in by_rule.values() for a in actions)]


def unwrap(properties: dict[str, Any]) -> None:
    """Make lists of one as that one, as RO-Crate recommends."""
    for key, value in properties.items():
        if isinstance(value, list) and len(value) == 1:
            properties[key] = value[0]


def describe(crate: ROCrate, jobs: list[Job], author: Entity | None) -> None:
    """Say what the crate is, which profiles it conforms to, and who ran the workflow."""
    root = crate.root_dataset
    root["name"] = "Provenance of a TumorAtlas run"
    root["description"] = (
        "How a dataset of tumors was built: the workflow, and for each of its jobs the files, "
        "parameters, code, software, machine, times and resources. Data files are named by path "
        "and SHA-256 and are not part of the crate."
    )
    # When the run ended, so that equal records give equal bytes.
    root["datePublished"] = max(end_time(job) for job in jobs)
    licence = {"@type": "CreativeWork", "name": "Apache License 2.0"}
    root["license"] = crate.add(ContextEntity(crate, _LICENCE, licence))
    root["conformsTo"] = [
        crate.add(
            ContextEntity(
                crate,
                profile,
                {"@type": "CreativeWork", "name": name, "version": profile.rsplit("/", 1)[1]},
            )
        )
        for profile, name in PROFILES.items()
    ]
    readme = {"name": "README.md", "encodingFormat": "text/markdown", "about": root}
    crate.add(File(crate, BytesIO(_README.encode()), "README.md", properties=readme))
    if author:
        root["author"] = author
        root["publisher"] = author
        crate.get("#run")["agent"] = author
        crate.get("#organize")["agent"] = author
