"""The records of how results came about: inputs, outputs, parameters, code, software, machine.

Below ``results/provenance/``: ``<rule>/<name>.jsonl`` holds the starts and ends of a job,
``<rule>/<shard>_scans.jsonl`` the scans that the step runner worked on. What many records share
(environment, configuration, code) is stored once, by its digest. Records hold times and
machines, therefore no rule's result depends on them.
"""

import json
import os
import resource
import socket
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tumoratlas.core.environment import environment, gpu_memory_mb, torch_flags
from tumoratlas.core.files import read_json, sha256_file, sha256_json, to_json, write_json

PROVENANCE = Path("results/provenance")  # below the working directory
STORED = ("environments", "configs", "codes")
_DIGITS = 16


class JobRecord:
    """Writes the start and the end of one job; ``job`` is the ``snakemake`` object of a script."""

    def __init__(self, job: Any) -> None:  # noqa: ANN401 - Snakemake's object, not imported here
        name = "_".join(str(value) for value in job.wildcards) or "all"
        self._job = job
        self._path = PROVENANCE / job.rule / f"{name}.jsonl"
        self._started = time.time()
        self._common: dict[str, Any] = {
            "rule": job.rule,
            "job": f"{job.rule}/{name}",
            "attempt": 1 + _starts_since_success(self._path),
            "time": _iso(self._started),
        }
        self.inputs: dict[str, dict[str, Any]] = {}

    def start(self, files: Mapping[str, str]) -> None:
        """Write that the job started; ``files`` are those behind its rule (`code_files`)."""
        place = {"host": socket.gethostname(), "pid": os.getpid()}
        append_line(self._path, {"event": "started"} | self._common | place)
        self._common |= {
            "config": store("configs", self._job.config),
            "code": store("codes", files),
            "environment": store("environments", environment()),
        }
        # Before the work: a rule may append to a file of the records that it reads.
        self.inputs = file_facts(self._job.input)

    def end(self, status: int, error: str | None = None) -> dict[str, dict[str, Any]]:
        """Write how the job ended; return its outputs' hashes. ``status`` is its exit status."""
        job = self._job
        outputs = {} if status else file_facts(job.output)
        params = dict(job.params.items())
        append_line(
            self._path,
            {"event": "ended", "exit": status, "error": error}
            | self._common
            | {
                "wildcards": dict(job.wildcards.items()),
                "inputs": self.inputs,
                "outputs": outputs,
                "input_names": _named(job.input),
                "output_names": _named(job.output),
                "params": params,
                "log": str(job.log[0]),
                "threads": job.threads,
                "resources": {k: v for k, v in job.resources.items() if k != "tmpdir"},
                "seed": params.get("seed", dict(params.get("settings") or {}).get("seed")),
                "determinism": {
                    "torch": torch_flags(),
                    "hash_seed": os.environ.get("PYTHONHASHSEED"),
                },
                "slurm": _slurm(),
                "seconds": round(time.time() - self._started, 3),
            }
            | _usage(),
        )
        return outputs


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line; a line that a killed process left unfinished is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write((to_json(value) + "\n").encode())


def store(kind: str, value: Mapping[str, Any]) -> str:
    """Write a JSON value below ``kind`` under its digest of 16 digits, once; return that."""
    digest = sha256_json(value)[:_DIGITS]
    path = PROVENANCE / kind / f"{digest}.json"
    if not path.exists():
        write_json(path, value)
    return digest


def scan_line(subject: str, started: float, **facts: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the line of a scan that the step runner finished; ``started`` as ``time.time()``."""
    return {
        "event": "scan",
        "subject": subject,
        "environment": store("environments", environment()),
        "time": _iso(started),
        "seconds": round(time.time() - started, 3),
        **facts,
    }


def file_facts(paths: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Return ``sha256`` and ``bytes`` of every regular file among ``paths``, by its path."""
    return {
        str(path): {"sha256": sha256_file(Path(path)), "bytes": Path(path).stat().st_size}
        for path in map(str, paths)
        if Path(path).is_file()
    }


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """Return the ``ended`` lines of all jobs below a provenance folder, by time of start."""
    lines = [line for path in _job_files(folder) for line in _lines(path)]
    return sorted(
        (x for x in lines if x.get("event") == "ended"), key=lambda x: (x["time"], x["job"])
    )


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """Return the ``started`` lines of all jobs, by time; one without an end was killed."""
    lines = [line for path in _job_files(folder) for line in _lines(path)]
    starts = (line for line in lines if line.get("event") == "started")
    return sorted(starts, key=lambda line: (line["time"], line["job"]))


def latest_jobs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return, per job, the record of the last time that it ended well."""
    return {line["job"]: line for line in read_jobs(folder) if line["exit"] == 0}


def read_scans(folder: Path, rule: str) -> list[dict[str, Any]]:
    """Return the lines of all scans that a rule's step runner finished, by time of start."""
    lines = [line for path in (folder / rule).glob("*_scans.jsonl") for line in _lines(path)]
    return sorted(lines, key=lambda line: (line["time"], line["subject"]))


def read_stored(folder: Path, kind: str, digest: str) -> dict[str, Any]:
    """Return an environment, configuration or code list by its digest; see `STORED`."""
    return read_json(folder / kind / f"{digest}.json")


def _job_files(folder: Path) -> list[Path]:
    found = folder.glob("*/*.jsonl")
    return sorted(path for path in found if not path.name.endswith("_scans.jsonl"))


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # what a killed process was writing, or a power loss left
            continue
    return found


def _starts_since_success(path: Path) -> int:
    count = 0
    for line in _lines(path) if path.exists() else []:
        if line.get("event") == "started":
            count += 1
        elif line.get("exit") == 0:
            count = 0
    return count


def _named(paths: Any) -> dict[str, Any]:  # noqa: ANN401 - Snakemake's list of paths
    return {
        name: value if isinstance(value, str) else [str(path) for path in value]
        for name, value in paths.items()
    }


def _slurm() -> dict[str, str | None] | None:
    if "SLURM_JOB_ID" not in os.environ:
        return None
    names = {"job_id": "JOB_ID", "partition": "JOB_PARTITION", "node": "JOB_NODELIST"}
    return {key: os.environ.get(f"SLURM_{name}") for key, name in names.items()}


def _usage() -> dict[str, float | None]:
    """Return time, memory and traffic of this process and of the children that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    with open("/proc/self/io", encoding="ascii") as file:
        counted = dict(line.split(": ") for line in file.read().splitlines())
    return {
        "cpu_s": round(sum(u.ru_utime + u.ru_stime for u in used), 3),
        "peak_memory_mb": round(max(u.ru_maxrss for u in used) / 1024, 1),
        "gpu_memory_mb": gpu_memory_mb(),
        "read_mb": round(int(counted["rchar"]) / 1e6, 3),
        "written_mb": round(int(counted["wchar"]) / 1e6, 3),
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
