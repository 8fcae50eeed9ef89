"""A finished run's folder as lineage reads it: records of scans, jobs, tables and registries."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tumoratlas.core.files import read_json
from tumoratlas.core.provenance import PROVENANCE, latest_jobs, read_stored
from tumoratlas.core.records import latest_by, read_lines
from tumoratlas.core.tables import read_rows_of

_STAGES = {
    "fingerprint_scans": "ingest",
    "harmonize_scans": "harmonize",
    "predict_tumors": "candidates",
    "propose_candidates": "candidates",
    "merge_masks": "review",
    "measure_tumors": "measure",
    "write_cases": "release",
}


@dataclass(frozen=True)
class Made:
    """What a sharded rule left of one scan, case, or organ of a case.

    Attributes
    ----------
    folder
        Its folder.
    row, outputs
        The row of its record; name of each file to its SHA-256.
    inputs
        Name of each thing read to its SHA-256, from provenance; empty where no line is left.
    line
        The line of provenance, or None.
    """

    folder: Path
    row: Mapping[str, Any]
    outputs: Mapping[str, str]
    inputs: Mapping[str, str]
    line: Mapping[str, Any] | None


class Run:
    """The folder of a run; everything is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[tuple[str, str], Made | None] = {}
        self._digests: dict[str, dict[str, None]] = {}

    @cached_property
    def cases(self) -> dict[str, Any]:
        """Every case of ``cases.json``, by id."""
        return read_json(self.folder / "results/ingest/cases.json")

    @cached_property
    def scans(self) -> dict[str, dict[str, Any]]:
        """Rows of the table ``scans``, by id."""
        return {row["scan_id"]: row for row in self._table("scans")}

    @cached_property
    def reviews(self) -> list[dict[str, Any]]:
        """Rows of the table ``reviews``, in the ledger's order."""
        return self._table("reviews")

    @cached_property
    def models(self) -> list[dict[str, Any]]:
        """Every registered model."""
        return read_lines(self._records / "models.jsonl")

    @cached_property
    def thresholds(self) -> dict[str, dict[str, Any]]:
        """The threshold in force, by organ."""
        return latest_by(self._records / "thresholds.jsonl", "organ")

    @cached_property
    def releases(self) -> list[Path]:
        """Folders of the releases of this run."""
        return sorted(p.parent for p in self.folder.glob("results/release/*/SHA256SUMS"))

    def made(self, rule: str, subject: str) -> Made | None:
        """Return what a rule left of a subject, or None where it left nothing."""
        if (rule, subject) not in self._made:
            self._made[rule, subject] = self._read_made(rule, subject)
        return self._made[rule, subject]

    def made_text(self, rule: str, subject: str) -> str:
        """Return which rule made something, when, how long it took, with which code."""
        made = self.made(rule, subject)
        if made is None:
            return f"{rule}: nothing"
        return self._text(rule, made.line) if made.line else f"{rule}: no record is left"

    def job_texts(self, rule: str, name: str) -> list[str]:
        """Return the same for the jobs of a rule whose wildcards begin with ``name``."""
        return [
            self._text(job, line)
            for job, line in self._jobs.items()
            if job == f"{rule}/{name}" or job.startswith(f"{rule}/{name}_")
        ]

    def digest_lines(self) -> list[tuple[str, str]]:
        """Return what the digests stand for that the texts so far have named."""
        lines = []
        for digest in self._digests.get("environments", {}):
            facts = read_stored(self._provenance, "environments", digest)
            software, machine = facts["software"], facts["machine"]
            lines.append(
                (
                    f"environment {digest[:8]}",
                    f"tumoratlas {software['tumoratlas']}, python {software['python']}, "
                    f"{len(software['packages'])} packages, lock {software['lock_sha256'][:16]}, "
                    f"on {machine['host']} ({machine['cpu']}"
                    f"{''.join(f', {gpu}' for gpu in machine['gpus'])})",
                )
            )
        return lines

    def _text(self, what: str, line: Mapping[str, Any]) -> str:
        self._digests.setdefault("environments", {})[line["environment"]] = None
        when = line["time"][:19].replace("T", " ")
        return (
            f"{what}, {when} UTC, {line['seconds']:g} s, code {line['code'][:16]}, "
            f"environment {line['environment'][:8]}"
        )

    def _read_made(self, rule: str, subject: str) -> Made | None:
        folder = self.folder / "results" / _STAGES[rule] / rule / subject
        if not (folder / "record.json").is_file():
            return None
        record = read_json(folder / "record.json")
        line = self._line(rule, subject, record["key"])
        return Made(
            folder,
            record["row"] or {},
            {name: facts["sha256"] for name, facts in record["outputs"].items()},
            line["inputs"] if line else {},
            line,
        )

    def _line(self, rule: str, subject: str, key: str) -> dict[str, Any] | None:
        """Return the last line of provenance about a subject under its present key."""
        found = None
        # Most lines are another's, and some are long: they are not decoded.
        marks = (json.dumps(subject), json.dumps(key))
        for path in sorted((self._provenance / rule).glob("*_scans.jsonl")):
            with open(path, encoding="utf-8") as file:
                for text in file:
                    if all(mark in text for mark in marks):
                        line = json.loads(text)
                        if line["subject"] == subject and line["key"] == key:
                            found = line
        return found

    def _table(self, name: str) -> list[dict[str, Any]]:
        return read_rows_of(self.folder / f"results/tables/{name}.parquet")

    @property
    def _provenance(self) -> Path:
        return self.folder / PROVENANCE

    @cached_property
    def _jobs(self) -> dict[str, dict[str, Any]]:
        return latest_jobs(self._provenance)

    @cached_property
    def _records(self) -> Path:
        """The records folder, as the configuration of the last job names it."""
        last = max(self._jobs.values(), key=lambda job: job["time"])
        config = read_stored(self._provenance, "configs", last["config"])
        return self.folder / config["records"]
