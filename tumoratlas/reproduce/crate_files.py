"""The files of a crate: the workflow, copied; the run's data, named by path and hash."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rocrate.model import ContextEntity, Entity, File
from rocrate.rocrate import ROCrate

from tumoratlas.core.code import ROOT
from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import sha256_file
from tumoratlas.reproduce.names import Names

_SINGLE = ("requirements.lock", "pyproject.toml", "LICENSE", "NOTICE", "CITATION.cff")
_FOLDERS = ("rules", "scripts", "tumoratlas", "resources", "envs")
_LEFT_OUT = {"__pycache__"}
_FORMATS = {
    ".csv": "text/csv",
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".py": "text/x-python",
    ".tsv": "text/tab-separated-values",
    ".yaml": "application/yaml",
}
_TEXTS = {"", ".smk", ".lock", ".toml", ".cff", ".jinja"}

Job = Mapping[str, Any]


def _encoding_format(name: str) -> str:
    """Return the media type of a file by its suffix."""
    suffix = Path(name).suffix
    plain = "text/plain" if suffix in _TEXTS else "application/octet-stream"
    return _FORMATS.get(suffix, plain)


def workflow_files() -> list[Path]:
    """Return what of the checkout a run needs, but for Snakefile and configuration, by place."""
    found = [ROOT / name for name in _SINGLE]
    for folder in _FOLDERS:
        found += (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return sorted(path for path in found if not _LEFT_OUT & set(path.parts))


def add_workflow_files(crate: ROCrate) -> None:
    """Add the files of the checkout, each with size and SHA-256, to be copied."""
    for path in workflow_files():
        name = path.relative_to(ROOT).as_posix()
        crate.add(File(crate, path, name, properties=file_facts(path, name)))


def file_facts(path: Path, name: str) -> dict[str, str]:
    """Return the properties of a file that is copied."""
    return named_facts(name, sha256_file(path), path.stat().st_size)


def named_facts(name: str, sha256: str, size: int) -> dict[str, str]:
    """Return the properties of a file by its content."""
    return {
        "name": name,
        "sha256": sha256,
        "contentSize": str(size),
        "encodingFormat": _encoding_format(name),
    }


class DataFiles:
    """Entities of the files that jobs read and wrote.

    A file that the crate holds is that entity. Every other one has an ``@id`` that starts with
    ``#``, as RO-Crate asks for files that are not in it; where a file had several contents in the
    run, the ``@id`` ends with the first digits of its hash.

    Parameters
    ----------
    crate
        Crate with the workflow's files.
    jobs
        Records of all jobs of the crate.
    names
        Public names by the digest of the configuration.
    """

    def __init__(self, crate: ROCrate, jobs: Iterable[Job], names: Mapping[str, Names]) -> None:
        self._crate = crate
        self._names = names
        contents: dict[str, set[str]] = defaultdict(set)
        for job in jobs:
            for path, facts in (job["inputs"] | job["outputs"]).items():
                contents[self._name(job, path)].add(facts["sha256"])
        self._many = {name for name, found in contents.items() if len(found) > 1}
        self._entities: dict[tuple[str, str], Entity] = {}

    def of(self, job: Job, field: str) -> dict[str, Entity]:
        """Return the entities of a job's ``inputs`` or ``outputs`` by path; keys have none."""
        return {
            path: self._entity(self._name(job, path), facts)
            for path, facts in job[field].items()
            if Path(path).suffix != ".key"
        }

    def _name(self, job: Job, path: str) -> str:
        return self._names[job["config"]].path(path)

    def _entity(self, name: str, facts: Mapping[str, Any]) -> Entity:
        key = (name, facts["sha256"])
        if key not in self._entities:
            self._entities[key] = self._held(name, facts) or self._named(name, facts)
        return self._entities[key]

    def _held(self, name: str, facts: Mapping[str, Any]) -> Entity | None:
        held = self._crate.get(quote(name)) if not name.startswith("results/") else None
        if held is not None and held["sha256"] != facts["sha256"]:
            raise ReleaseError(
                "CRATE_CODE", name, "is not the file that the run read",
                remedy="Use the checkout that the run was made with, or run the workflow again.",
            )  # fmt: skip
        return held

    def _named(self, name: str, facts: Mapping[str, Any]) -> Entity:
        version = f"@{facts['sha256'][:16]}" if name in self._many else ""
        properties = {"@type": "File"} | named_facts(name, facts["sha256"], facts["bytes"])
        return self._crate.add(ContextEntity(self._crate, f"#{quote(name)}{version}", properties))
