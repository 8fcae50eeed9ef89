"""The crate of a real run is accepted by the profiles' own validator, and tells no secrets."""

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from requests import Request
from requests_cache import CachedResponse, CachedSession
from requests_cache.models import CachedRequest
from rocrate_validator.models import Severity, ValidationResult
from rocrate_validator.services import ValidationSettings, validate

from tests.conftest import ROOT
from tumoratlas.core.errors import InputError, ReleaseError
from tumoratlas.core.files import sha256_file
from tumoratlas.core.provenance import PROVENANCE, latest_jobs
from tumoratlas.reproduce.crate import write_crate
from tumoratlas.reproduce.crate_workflow import PROFILES
from tumoratlas.reproduce.names import Names

METADATA = "ro-crate-metadata.json"
PROFILE = "provenance-run-crate"  # extends the three others
_BIOSCHEMAS = "https://bioschemas.org"
_RUN_TERMS = "https://w3id.org/ro/terms/workflow-run"
# Terms of the published context of the Workflow Run profiles.
RUN_TERMS = (
    "ParameterConnection", "ContainerImage", "DockerImage", "SIFImage", "connection",
    "sourceParameter", "targetParameter", "md5", "sha1", "sha256", "sha512", "environment",
    "registry", "tag", "containerImage", "resourceUsage",
)  # fmt: skip

Graph = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def crate(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the crate of the micro run."""
    folder = tmp_path_factory.mktemp("crate") / "crate"
    facts = write_crate(micro_run, folder, agent="An Institute")
    assert facts.jobs == len(latest_jobs(micro_run / PROVENANCE))
    return folder


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the validator's cache with both contexts, so that it asks no network.

    RO-Crate's own library holds the context of version 1.3. In that of 1.1 the terms that crates
    of runs use are the same but for four of Bioschemas.
    """
    library = resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_text()
    terms = json.loads(library)["@context"] | {
        "ComputationalWorkflow": f"{_BIOSCHEMAS}/ComputationalWorkflow",
        "FormalParameter": f"{_BIOSCHEMAS}/FormalParameter",
        "input": f"{_BIOSCHEMAS}/ComputationalWorkflow#input",
        "output": f"{_BIOSCHEMAS}/ComputationalWorkflow#output",
    }
    path = tmp_path_factory.mktemp("contexts") / "http"
    session = CachedSession(str(path), backend="sqlite", expire_after=-1)
    for url, context in {
        "https://w3id.org/ro/crate/1.1/context": terms,
        f"{_RUN_TERMS}/context": {term: f"{_RUN_TERMS}#{term}" for term in RUN_TERMS},
    }.items():
        response = CachedResponse(
            url=url,
            status_code=200,
            content=json.dumps({"@context": context}).encode(),
            headers={"Content-Type": "application/ld+json"},
            request=CachedRequest.from_request(Request("GET", url).prepare()),
        )
        session.cache.save_response(response)
    session.close()
    return path


def validated(crate: Path, contexts: Path, **settings: Any) -> ValidationResult:
    """Return what the validator finds at the level REQUIRED, from its cache alone."""
    return validate(
        ValidationSettings(
            rocrate_uri=str(crate),
            profile_identifier=PROFILE,
            requirement_severity=Severity.REQUIRED,
            offline=True,
            cache_path=contexts,
            **settings,
        )
    )


def read_graph(crate: Path) -> Graph:
    """Return the entities of a crate by id."""
    graph = json.loads((crate / METADATA).read_text(encoding="utf-8"))["@graph"]
    return {entity["@id"]: entity for entity in graph}


def listed(value: Any) -> list[str]:
    """Return the ids of one reference or of several."""
    return [item["@id"] for item in (value if isinstance(value, list) else [value])]


def test_the_validator_accepts_it(crate: Path, contexts: Path) -> None:
    """Every profile that the crate claims is checked, with no issue."""
    found = validated(crate, contexts)
    assert found.passed(), [issue.message for issue in found.get_issues()]
    checked = {check.requirement.profile.uri for check in found.executed_checks}
    claimed = set(listed(read_graph(crate)["./"]["conformsTo"]))
    assert claimed == set(PROFILES) and claimed <= checked


def break_step(graph: Graph) -> None:
    """Take the script from a step."""
    del graph["#step/harmonize_scans"]["workExample"]


def break_file(graph: Graph) -> None:
    """Name a file that the crate does not hold."""
    graph["rules/nothing.smk"] = {"@id": "rules/nothing.smk", "@type": "File"}
    graph["./"]["hasPart"].append({"@id": "rules/nothing.smk"})


@pytest.mark.parametrize("damage", [break_step, break_file])
def test_the_validator_refuses_a_broken_one(
    damage: Any, crate: Path, contexts: Path, tmp_path: Path
) -> None:
    """The acceptance above means something."""
    copy = shutil.copytree(crate, tmp_path / "crate")
    graph = deepcopy(read_graph(crate))
    damage(graph)
    document = json.loads((crate / METADATA).read_text()) | {"@graph": list(graph.values())}
    (copy / METADATA).write_text(json.dumps(document))
    # Without the profiles that it extends, unless the damage is theirs.
    inherits = damage is break_file
    found = validated(copy, contexts, abort_on_first=True, enable_profile_inheritance=inherits)
    assert not found.passed()


def test_hashes_and_sizes_are_those_of_the_files(crate: Path, micro_run: Path) -> None:
    """Of every file that is copied, and of every result that is named."""
    graph = read_graph(crate)
    results = {i for e in graph.values() if "instrument" in e for i in listed(e.get("result", []))}
    files = {key: micro_run / graph[key]["name"] for key in results if key in graph}
    named = {key: path for key, path in files.items() if "sha256" in graph[key]}
    held = {key: crate / key for key in graph if (crate / key).is_file() and key != METADATA}
    assert len(held) > 200 and len(named) > 50
    for key, path in (held | named).items():
        if key == "README.md":
            continue
        assert graph[key]["sha256"] == sha256_file(path), key
        assert graph[key]["contentSize"] == str(path.stat().st_size)
    copied = {p.relative_to(crate).as_posix() for p in crate.rglob("*") if p.is_file()}
    assert copied == {*held, METADATA}


def test_every_job_is_told_with_files_times_and_environment(crate: Path, micro_run: Path) -> None:
    """One action per job, linked from its rule's step, as its record says."""
    graph = read_graph(crate)
    jobs = latest_jobs(micro_run / PROVENANCE)
    assert sum(key.startswith("#job/") for key in graph) == len(jobs)
    job = jobs["predict_tumors/s0000"]
    action = graph["#job/predict_tumors/s0000"]
    assert action["instrument"]["@id"] == "scripts/predict_tumors.py"
    assert graph["scripts/predict_tumors.py"]["version"] == job["code"]
    assert action["@id"] in listed(graph["#control/predict_tumors"]["object"])
    assert set(listed(action["result"])) == {f"#{path}" for path in job["outputs"]}
    assert {f"#{p}" for p in job["inputs"] if p.startswith("results/")} <= set(
        listed(action["object"])
    )
    assert action["startTime"] == job["time"] < action["endTime"]
    assert f"#usage/cpu_s/{job['cpu_s']}" in listed(action["resourceUsage"])
    environment = json.loads((crate / action["subjectOf"]["@id"]).read_text())
    assert environment["software"]["packages"]["numpy"] and "host" not in environment["machine"]
    values = {graph[i]["name"]: graph[i].get("value") for i in listed(action["object"])}
    assert values["device"] == "cpu" and "code" not in values
    source = "#parameter/harmonize_scans/output/manifest"
    assert f"#connection/{source[11:]}/merge_masks/input/harmonized" in str(
        graph["#step/merge_masks"]["connection"]
    )


def test_equal_records_give_equal_bytes(crate: Path, micro_run: Path, tmp_path: Path) -> None:
    """The time of writing is nowhere in it."""
    write_crate(micro_run, tmp_path / "again", agent="An Institute")
    assert (tmp_path / "again" / METADATA).read_bytes() == (crate / METADATA).read_bytes()


def test_it_names_no_person_machine_or_place(micro_run: Path, tmp_path: Path) -> None:
    """Folders of sources and records, hosts, returned files and accounts do not appear."""
    run = shutil.copytree(micro_run, tmp_path / "run")
    job = latest_jobs(run / PROVENANCE)["check_review/all"]
    path = run / PROVENANCE / "check_review/all.jsonl"
    facts = {"sha256": "ab" * 32, "bytes": 1}
    secret = ["/data/St_Elsewhere/returns/b1/Dr_Jane_Doe.nii.gz", "../Smith/model.pth"]
    records = job | {
        "inputs": job["inputs"] | {name: facts for name in secret},
        "slurm": {"job_id": "1", "partition": "elsewhere", "node": "quimby-7"},
        "log": "/data/St_Elsewhere/x.log",
    }
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(records) + "\n")
    for found in (run / PROVENANCE).rglob("*.json*"):
        text = found.read_text()
        text = text.replace('"sources/lits"', '"/data/St_Elsewhere/Jane Doe"')
        found.write_text(text.replace('"host": "', '"host": "quimby-'))
    write_crate(run, tmp_path / "crate")
    words = ("Elsewhere", "Jane Doe", "Dr_Jane", "Smith", "quimby", str(tmp_path))
    for found in (tmp_path / "crate").rglob("*"):
        if found.is_file() and found.suffix in {".json", ".yaml", ".md", ""}:
            text = found.read_text(encoding="utf-8")
            assert not [word for word in words if word in text], found
    assert "sources/lits" in (tmp_path / "crate/config.yaml").read_text()


def test_public_names_keep_what_is_ours() -> None:
    """Only names that the pipeline gave are left of a path."""
    config = {
        "records": "/home/doe/human",
        "sources": [{"id": "private", "path": "../Clinic", "lock": "/x/clinic.csv"}],
        "train": {"external": [{"organ": "liver", "folder": "models/Doe"}]},
        "release": {"previous": "/nas/old"},
    }
    public, plain = Names(config, public=True), Names(config)
    assert public.path("../Clinic/Jane/ct.nii.gz") == "sources/private"
    assert plain.path("../Clinic/Jane/ct.nii.gz") == "sources/private/Jane/ct.nii.gz"
    assert public.path("/home/doe/human/ledger.jsonl") == "records/ledger.jsonl"
    assert public.path("/home/doe/human/returns/b1/Doe.csv") == "records/returns"
    assert public.path("/a/tumoratlas/resources/paper.csv") == "resources/paper.csv"
    assert public.path("/etc/secret/name") == "outside"
    assert public.path("results/tables/scans.parquet") == "results/tables/scans.parquet"
    assert public.value({"a": ["/nas/old/SHA256SUMS", "models/Doe", "mask", 3]}) == {
        "a": ["previous", "external/liver", "mask", 3]
    }


def test_what_does_not_hold_is_not_told(micro_run: Path, tmp_path: Path) -> None:
    """Refused: a result that changed, other code, a folder in use. Left out: a job without."""
    run = shutil.copytree(micro_run, tmp_path / "run")
    (run / "results/report/tumors.html").unlink()
    facts = write_crate(run, tmp_path / "less")
    assert facts.jobs == len(latest_jobs(micro_run / PROVENANCE)) - 1
    with pytest.raises(InputError, match="CRATE_TARGET"):
        write_crate(run, tmp_path / "less")
    with open(run / "results/tables/scans.parquet", "ab") as file:
        file.write(b"x")
    with pytest.raises(ReleaseError, match="CRATE_OUTPUT: results/tables/scans.parquet"):
        write_crate(run, tmp_path / "changed")
    shutil.copy(micro_run / "results/tables/scans.parquet", run / "results/tables/scans.parquet")
    path = run / PROVENANCE / "list_scans/lits.jsonl"
    kept = path.read_text()
    description = sha256_file(ROOT / "resources/sources/lits.yaml")
    for old, new, subject in (
        (description, "0" * 64, "resources/sources/lits.yaml"),
        ('"code": "', '"code": "0', "list_scans"),
    ):
        path.write_text(kept.replace(old, new))
        with pytest.raises(ReleaseError, match=f"CRATE_CODE: {subject}"):
            write_crate(run, tmp_path / "code")
    assert not (tmp_path / "changed").exists() and not (tmp_path / "code").exists()


def test_the_command_writes_it(micro_run: Path, tmp_path: Path) -> None:
    """From any folder, with what it holds in one line."""
    words = [sys.executable, "-m", "tumoratlas", "crate", str(tmp_path / "crate")]
    done = subprocess.run(
        [*words, "--directory", str(micro_run)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert " jobs, " in done.stdout and (tmp_path / "crate" / METADATA).is_file()
