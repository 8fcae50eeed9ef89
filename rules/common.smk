"""Configuration, names of shards and files, and input functions; no rules."""

from pathlib import Path

from snakemake.exceptions import IncompleteCheckpointException, WorkflowError
from snakemake.io import checkpoint_target

from tumoratlas.core.code import code_digest
from tumoratlas.core.config import check_config, missing_sources, sort_keys
from tumoratlas.core.errors import ConfigError
from tumoratlas.core.files import sha256_file
from tumoratlas.core.runner import shard_names
from tumoratlas.ingest.sources import INTERNAL, read_source
from tumoratlas.reproduce.costs import DEVICE_OF, job_limits
from tumoratlas.train.plan import external_by_organ

RESOURCES = Path(workflow.basedir) / "resources"

try:
    check_config(config, RESOURCES / "schemas/config.schema.yaml")
    # Snakemake compares parameters as text: an option's place in a file must not count.
    sort_keys(config)
    EXTERNAL = external_by_organ(config["train"]["external"], config["train"]["organs"])
except ConfigError as error:
    raise WorkflowError(str(error)) from None

SOURCES = {source["id"]: source["path"] for source in config["sources"]}
LOCKS = {s["id"]: s["lock"] for s in config["sources"] if "lock" in s}
SHARDS = shard_names(config["shards"])
VERSION = config["version"]
TARGET = config["release"]["target"]
# What is for the curators alone has the plain name; other targets stand beside it.
RELEASE = VERSION if TARGET == "internal" else f"{VERSION}-{TARGET}"
PREVIOUS = config["release"]["previous"]
# Snakemake tells of the cycle, takes the old release as it is, and ends well.
if PREVIOUS and Path(PREVIOUS).resolve() == Path(f"results/release/{RELEASE}").resolve():
    raise WorkflowError(f"release.previous is the release to build, {PREVIOUS}: raise `version`")
RECORDS = config["records"]
DESCRIPTIONS = {name: RESOURCES / f"sources/{name}.yaml" for name in SOURCES}
ALL_DESCRIPTIONS = sorted(str(path) for path in (RESOURCES / "sources").glob("*.yaml"))
INTERNAL_FOLDERS = [
    SOURCES[name] for name, path in DESCRIPTIONS.items() if read_source(path).licence == INTERNAL
]
REPORTS = expand(
    "results/report/{name}.html",
    name=["leakage", "release", "review", "sources", "tumors", *(["diff"] if PREVIOUS else [])],
)
# Of the records of all jobs but check_privacy, which searches it.
RULES_REPORT = "results/report/rules.html"
# What counts and places rest on; the release says so.
DEFINITIONS = config["measure"] | {
    "splits": config["splits"] | {"seed": config["seed"]},
    "public_words": config["release"]["public_words"],
}
PAPER = [
    str(RESOURCES / name)
    for name in (
        "paper.csv",
        "paper_table1.csv",
        "paper_table6.csv",
        "paper_contradictions.csv",
    )
]
TRIAGE_PAGE = sorted(str(path) for path in (RESOURCES / "review").glob("triage.*"))
RELEASE_FILES = sorted(
    str(path)
    for folder in ("release", "viewer", "vendor/niivue")
    for path in (RESOURCES / folder).glob("*")
    if path.is_file()
)
PSEUDONYM_KEY = f"{RECORDS}/pseudonym.key"
READ_LIMITS = {key: config["ingest"][key] for key in ("max_voxels", "min_slices")}
LISTINGS = expand("results/ingest/list_scans/{source}.json", source=SOURCES)


def refuse_missing_sources():
    """Stop a run, but not a plan, whose source folders do not exist."""
    if told := missing_sources([s for s in config["sources"] if s["id"] not in LOCKS]):
        raise WorkflowError(told)


def source_file(wildcards):
    """Return the description of a source."""
    return str(DESCRIPTIONS[wildcards.source])


def source_folder(wildcards):
    """Return the folder of a source."""
    return SOURCES[wildcards.source]


def pseudonym_key(wildcards):
    """Return the key of pseudonyms for an internal source, if it exists; no rule makes it."""
    return records("pseudonym.key") if SOURCES[wildcards.source] in INTERNAL_FOLDERS else []


def source_lock(wildcards):
    """Return the file that lists a source's open files and their checksums."""
    return LOCKS[wildcards.source]


def fetched_files(wildcards):
    """Return the record of a source's fetched files, if it has a lock."""
    if wildcards.source in LOCKS:
        return [f"results/ingest/fetch_files/{wildcards.source}.json"]
    return []


def manifests(stage, rule):
    """Return the manifests of all shards of a rule."""
    return expand("results/{stage}/{rule}/{shard}.tsv", stage=stage, rule=rule, shard=SHARDS)


def shard_files(stage, folder):
    """Return the files in which a checkpoint tells every shard what concerns it."""
    return expand("results/{stage}/{folder}/{shard}.json", stage=stage, folder=folder, shard=SHARDS)


# Every sharded rule takes its shard's file of the last checkpoint before it. Once that ran,
# Snakemake looks again at each job that takes one of its files, and leaves out those whose inputs
# are as they were. Jobs that take none stay planned. Where nothing is read from the file it is
# called `after` and ancient: a reason to look again, none to run.


def told(checkpoint, path):
    """Return the file in which a checkpoint tells a shard what concerns it, once it ran.

    The checkpoint's own `get` looks at the files of all shards each time.
    """
    if path not in checkpoints.created_output:
        raise IncompleteCheckpointException(checkpoint.rule, checkpoint_target(path))
    return path


def scans_of_shard(wildcards):
    """Return the shard's listed scans."""
    return told(checkpoints.shard_scans, f"results/ingest/shard_scans/{wildcards.shard}.json")


def pairs_of_shard(wildcards):
    """Return the shard's candidate pairs."""
    return told(checkpoints.match_scans, f"results/ingest/match_scans/{wildcards.shard}.json")


def cases_of_shard(wildcards):
    """Return the shard's cases."""
    return told(checkpoints.assign_cases, f"results/ingest/cases/{wildcards.shard}.json")


def said_of_shard(wildcards):
    """Return the events of the shard's cases."""
    return told(checkpoints.check_review, f"results/review/check_review/{wildcards.shard}.json")


def segs(wildcards):
    """Return the manifests of the DICOM SEG objects, if the release holds them."""
    return manifests("release", "write_segs") if config["release"]["dicom_seg"] else []


def records(*names):
    """Return those files of the records folder that exist; no rule makes them."""
    return [f"{RECORDS}/{name}" for name in names if Path(RECORDS, name).exists()]


def returned_files(wildcards):
    """Return every file that reviewers have sent back."""
    return sorted(str(path) for path in Path(RECORDS, "returns").rglob("*") if path.is_file())


def external_model(wildcards):
    """Return the configuration of an organ's model that was trained elsewhere."""
    return EXTERNAL[wildcards.organ]


def external_files(wildcards):
    """Return those files of an external model that the configuration has hashes of."""
    entry = EXTERNAL[wildcards.organ]
    paths = [f"{entry['folder']}/{name}" for name in sorted(entry["sha256"])]
    return [path for path in paths if Path(path).is_file()]


def external_groups(wildcards):
    """Return the list of an external model's training cases, if there is one."""
    return EXTERNAL[wildcards.organ].get("training_groups_file", [])


def external_cases(wildcards):
    """Return the cases whose groups that list needs."""
    return "results/ingest/cases.json" if external_groups(wildcards) else []


def previous_release(wildcards):
    """Return the list of files of the release before this one, if there is one."""
    return [f"{PREVIOUS}/SHA256SUMS"] if PREVIOUS else []


def replays(wildcards):
    """Return the SHA-256 of each verdict of a replay that is there, where none is required."""
    paths = sorted(Path("results/reproduce/replay_rule").glob("*.json"))
    return {} if config["replay"]["required"] else {str(p): sha256_file(p) for p in paths}


def checked_replays(wildcards):
    """Return the check of the replays, if the configuration requires it."""
    return ["results/reproduce/check_replays.json"] if config["replay"]["required"] else []


def gpus(stage):
    """Return how many GPUs a rule of the stage asks for."""
    return 1 if config[stage]["device"] == "cuda" else 0


def memory_limit(wildcards, input, attempt, threads, rulename):
    """Return the MB of memory that a job may take, more with each attempt."""
    return job_limits(config, rulename, dict(wildcards.items()), input, threads, attempt).memory_mb


def time_limit(wildcards, input, attempt, threads, rulename):
    """Return the minutes that a job may take, more with each attempt."""
    return job_limits(
        config, rulename, dict(wildcards.items()), input, threads, attempt
    ).runtime_min


def replayed_after(wildcards):
    """Return what a replay comes after: the release that requires it, else the rule's records."""
    if not_replayed(wildcards):
        return []
    if config["replay"]["required"]:
        return [f"results/release/{RELEASE}.verified.json", *REPORTS]
    # No rule makes them; those of scans only repeat what a job's say.
    files = Path("results/provenance", wildcards.rule).glob("*.jsonl")
    return sorted(str(path) for path in files if not path.stem.endswith("_scans"))


def not_replayed(wildcards):
    """Return why a rule is never replayed, or an empty text."""
    return NOT_REPLAYED.get(wildcards.rule, "")


def replayed_code(wildcards):
    """Return the digest of the code of the rule to replay."""
    return code_digest(wildcards.rule)


def rule_to_replay(wildcards):
    """Return the rule whose jobs are run; one that is not replayed costs next to nothing."""
    name = "check_replays" if wildcards.rule in NOT_REPLAYED else wildcards.rule
    return workflow.get_rule(name)


def replay_threads(wildcards):
    """Return the threads of the rule to replay."""
    return rule_to_replay(wildcards).resources["_cores"].value


def replay_gpus(wildcards):
    """Return how many GPUs the rule to replay asks for."""
    return gpus(DEVICE_OF[wildcards.rule]) if wildcards.rule in DEVICE_OF else 0


def replay_limits(wildcards, threads, attempt):
    """Return the limits of a job of the rule to replay."""
    replayed = rule_to_replay(wildcards)
    names = dict.fromkeys(replayed.wildcard_names)
    return job_limits(config, replayed.name, names, [], threads, attempt)


def replay_memory(wildcards, threads, attempt):
    """Return the MB of memory that a replay may take."""
    return replay_limits(wildcards, threads, attempt).memory_mb


def replay_time(wildcards, threads, attempt):
    """Return the minutes that a replay may take."""
    minutes = replay_limits(wildcards, threads, attempt).runtime_min
    return minutes * config["replay"]["jobs"]
