"""Configuration, names of shards and files, and input functions; no rules."""

from pathlib import Path

from snakemake.exceptions import WorkflowError

from tumoratlas.core.code import code_digest
from tumoratlas.core.config import check_config, missing_sources
from tumoratlas.core.errors import ConfigError
from tumoratlas.core.runner import shard_names

RESOURCES = Path(workflow.basedir) / "resources"

try:
    check_config(config, RESOURCES / "schemas/config.schema.yaml")
except ConfigError as error:
    raise WorkflowError(str(error)) from None

SOURCES = {source["id"]: source["path"] for source in config["sources"]}
SHARDS = shard_names(config["shards"])
VERSION = config["version"]
RECORDS = config["records"]
LISTINGS = expand("results/ingest/list_scans/{source}.json", source=SOURCES)


def refuse_missing_sources():
    """Stop a run, but not a plan, whose source folders do not exist."""
    if told := missing_sources(config["sources"]):
        raise WorkflowError(told)


def source_file(wildcards):
    """Return the description of a source."""
    return str(RESOURCES / f"sources/{wildcards.source}.yaml")


def source_folder(wildcards):
    """Return the folder of a source."""
    return SOURCES[wildcards.source]


def manifests(stage, rule):
    """Return the manifests of all shards of a rule."""
    return expand("results/{stage}/{rule}/{shard}.tsv", stage=stage, rule=rule, shard=SHARDS)


def records(*names):
    """Return those files of the records folder that exist; no rule makes them."""
    return [f"{RECORDS}/{name}" for name in names if Path(RECORDS, name).exists()]


def returned_files(wildcards):
    """Return every file that reviewers have sent back."""
    return sorted(str(path) for path in Path(RECORDS, "returns").rglob("*") if path.is_file())


def gpus(stage):
    """Return how many GPUs a rule of the stage asks for."""
    return 1 if config[stage]["device"] == "cuda" else 0
