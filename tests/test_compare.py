"""Two runs are compared from their records alone, and the cause of a difference is named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tumoratlas.core.errors import InputError
from tumoratlas.core.files import sha256_bytes, sha256_json, write_json
from tumoratlas.core.provenance import PROVENANCE, append_line
from tumoratlas.reproduce.compare import (
    DIFFERENT,
    NOT_COMPARED,
    ONLY_B,
    RunComparison,
    compare_runs,
)
from tumoratlas.reproduce.compare_text import comparison_text
from tumoratlas.reproduce.flow import rule_order

ENVIRONMENT = {
    "software": {"tumoratlas": "1", "python": "3.11.7", "packages": {"numpy": "2.4.6"}},
    "machine": {"host": "a", "cpu": "Xeon", "gpus": [], "driver": None, "system": "Linux"},
}
CODE = {"scripts/measure.py": "1", "tumoratlas/core/files.py": "2"}
SHARDS = {"s0000": ["c1", "c2"], "s0001": ["c3"]}


class FakeRun:
    """Writes the records of a run of three rules: list_scans, measure_tumors (by scan), report."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.provenance = folder / PROVENANCE
        self.facts = {
            "place": "sources/lits", "records": "records", "listing": "L", "model": "m1",
            "spacing": 1.5, "environment": ENVIRONMENT, "code": CODE, "shards": SHARDS,
            "results": {}, "page": "page", "threads": 1, "checkout": "/home/a/tumoratlas",
        } | changes  # fmt: skip
        config = {
            "records": self.facts["records"],
            "sources": [{"id": "lits", "path": self.facts["place"]}],
        }
        self._common = {
            "config": self._store("configs", config),
            "environment": self._store("environments", self.facts["environment"]),
            "threads": self.facts["threads"],
            "determinism": {"hash_seed": None, "torch": None},
        }
        self._write()

    def _store(self, kind: str, value: dict[str, Any]) -> str:
        digest = sha256_json(value)[:16]
        write_json(self.provenance / kind / f"{digest}.json", value)
        return digest

    def _write(self) -> None:
        facts = self.facts
        description = f"{facts['checkout']}/resources/sources/lits.yaml"
        listing, page = "results/ingest/list_scans/lits.json", "results/report/tumors.html"
        self.job(
            "list_scans", "lits", {description: "d"}, {listing: facts["listing"]},
            {"folder": facts["place"], "key": f"{facts['records']}/pseudonym.key"},
        )  # fmt: skip
        models = f"{facts['records']}/models.jsonl"
        manifests = {}
        for shard, cases in facts["shards"].items():
            outcomes = {c: facts["results"].get(c, f"{c} at {facts['spacing']}") for c in cases}
            for case, outcome in outcomes.items():
                self.scan("measure_tumors", shard, case, {"model": facts["model"]}, outcome)
            path = f"results/measure/measure_tumors/{shard}.tsv"
            manifests[path] = f"{shard} {outcomes}"
            self.job(
                "measure_tumors", shard, {listing: facts["listing"], models: facts["model"]},
                {path: manifests[path]}, {"settings": {"spacing_mm": facts["spacing"]}},
            )  # fmt: skip
        merged = sorted(facts["results"].items())
        self.job("report_tumors", "all", manifests, {page: f"{facts['page']} {merged}"}, {})

    def job(
        self,
        rule: str,
        name: str,
        inputs: dict[str, str],
        outputs: dict[str, str],
        params: dict[str, Any],
        status: int = 0,
    ) -> None:
        """Append the start and the end of a job."""
        code = self._store("codes", self.facts["code"])
        path = self.provenance / rule / f"{name}.jsonl"
        common = {"rule": rule, "job": f"{rule}/{name}", "time": "2026-01-01T00:00:00.000+00:00"}
        append_line(path, common | {"event": "started"})
        files = [
            {
                key: {"sha256": sha256_bytes(text.encode()), "bytes": 1}
                for key, text in found.items()
            }
            for found in (inputs, outputs)
        ]
        facts = {"event": "ended", "exit": status, "code": code, "params": params | {"code": code}}
        named = {"inputs": files[0], "outputs": files[1], "output_names": {"all": [*outputs]}}
        append_line(path, common | self._common | facts | named)

    def scan(self, rule: str, shard: str, case: str, inputs: dict[str, str], outcome: str) -> None:
        """Append the line of a scan."""
        line = {
            "event": "scan", "rule": rule, "shard": shard, "subject": case, "inputs": inputs,
            "outputs": {"row": outcome}, "status": "ok", "time": "2026-01-01T00:00:00.000+00:00",
            "code": sha256_json(self.facts["code"]), "environment": self._common["environment"],
        }  # fmt: skip
        append_line(self.provenance / rule / f"{shard}_scans.jsonl", line)


def compared(folder: Path, **changes: Any) -> RunComparison:
    """Return the comparison of a run with one that has changes."""
    runs = FakeRun(folder / "a"), FakeRun(folder / "b", **changes)
    return compare_runs(*(run.provenance for run in runs))


def verdicts(found: RunComparison) -> dict[str, str]:
    """Return the verdict of each rule."""
    return {rule.rule: rule.verdict for rule in found.rules}


def first_causes(found: RunComparison) -> dict[str, list[str]]:
    """Return what the first different rule's causes are, by kind."""
    assert found.first is not None and found.first.is_first
    causes = found.first.causes
    return {kind: causes.texts(kind) for kind in causes.found if causes.texts(kind)}


def test_equal_runs_are_equal_wherever_they_lie(tmp_path: Path) -> None:
    """Another folder, host, place of sources, records and checkout is no difference."""
    elsewhere = ENVIRONMENT | {"machine": ENVIRONMENT["machine"] | {"host": "b"}}
    found = compared(
        tmp_path, place="/data/LiTS", records="/data/human", checkout="/opt/x",
        environment=elsewhere,
    )  # fmt: skip
    assert found.is_equal and found.first is None
    assert [rule.rule for rule in found.rules] == ["list_scans", "measure_tumors", "report_tumors"]
    assert all(not any(rule.causes.found.values()) for rule in found.rules)
    assert comparison_text(found).startswith("Equal: all 2 rules")


def test_a_changed_param_is_named_before_and_after(tmp_path: Path) -> None:
    """The first rule of the flow is told with its scans; what follows points to it."""
    found = compared(tmp_path, spacing=2.0, page="other page")
    assert verdicts(found) == {
        "list_scans": NOT_COMPARED, "measure_tumors": DIFFERENT, "report_tumors": DIFFERENT
    }  # fmt: skip
    assert first_causes(found) == {"params": ["settings.spacing_mm: 1.5 -> 2.0"]}
    assert found.first.jobs.different == 2 and found.first.scans.different == 3
    last = found.rules[-1]
    assert last.upstream == ("measure_tumors",) and not last.is_first
    assert not last.causes.unexplained and not any(last.causes.found.values())
    text = comparison_text(found)
    assert "measure_tumors differs first: 2 of 2 jobs; 3 of 3 scans" in text
    assert "params: settings.spacing_mm: 1.5 -> 2.0" in text and "follows measure_tumors" in text


def test_changed_code_names_its_files(tmp_path: Path) -> None:
    """A file that changed and one that is new, told apart."""
    code = CODE | {"scripts/measure.py": "9", "tumoratlas/new.py": "1"}
    found = compared(tmp_path, code=code, results={"c3": "x"})
    assert first_causes(found)["code"] == ["scripts/measure.py", "tumoratlas/new.py (only in B)"]
    assert found.first.scans.different == 1 and found.first.jobs.different == 1


def test_changed_software_and_machine_are_named(tmp_path: Path) -> None:
    """Versions and the CPU before and after; equal rules say that they are equal although."""
    software = ENVIRONMENT["software"] | {"packages": {"numpy": "2.5.0", "torch": "2.13.0"}}
    machine = ENVIRONMENT["machine"] | {"cpu": "EPYC"}
    found = compared(
        tmp_path, environment={"software": software, "machine": machine}, results={"c1": "x"}
    )
    assert first_causes(found) == {
        "software": ["numpy: 2.4.6 -> 2.5.0", "torch 2.13.0 (only in B)"],
        "machine": ["cpu: Xeon -> EPYC"],
    }
    found = compared(tmp_path / "x", environment={"software": software, "machine": machine})
    assert found.is_equal and "although software, machine differ" in comparison_text(found)


def test_changed_weights_are_an_input(tmp_path: Path) -> None:
    """Of the job its registry, of the scan its model."""
    found = compared(tmp_path, model="m2", results={c: "x" for c in ("c1", "c2", "c3")})
    assert first_causes(found) == {"inputs": ["model", "records/models.jsonl"]}


def test_without_a_cause_the_rule_is_not_deterministic(tmp_path: Path) -> None:
    """Nothing recorded differs but the result; the rules after it are not blamed."""
    found = compared(tmp_path, results={"c2": "by chance"})
    assert first_causes(found) == {} and found.first.causes.unexplained
    assert "the rule is not deterministic here" in comparison_text(found)
    assert not found.rules[-1].causes.unexplained


def test_other_shards_are_compared_scan_by_scan(tmp_path: Path) -> None:
    """Another number of shards is no difference; one other scan in it is."""
    shards = {"s0000": ["c1"], "s0001": ["c3"], "s0002": ["c2"]}
    found = compared(tmp_path, shards=shards)
    assert found.is_equal and found.rules[1].scans.both == 3
    found = compared(tmp_path / "x", shards=shards, results={"c2": "x"})
    assert found.first.rule == "measure_tumors" and found.first.scans.different == 1
    found = compared(tmp_path / "y", shards=shards | {"s0002": ["c4"]})
    assert (found.first.scans.only_a, found.first.scans.only_b) == (1, 1)


def test_time_stamps_of_source_files_are_no_difference(tmp_path: Path) -> None:
    """Listings hold them; a rule that read one and differs may differ by it, or not."""
    found = compared(tmp_path, listing="later")
    assert found.is_equal and found.rules[0].verdict == NOT_COMPARED
    found = compared(tmp_path / "x", listing="later", page="x", results={"c1": "x"})
    assert first_causes(found)["inputs"] == [
        "results/ingest/list_scans/lits.json (perhaps only time stamps in it)"
    ]
    assert found.first.causes.unexplained == 1  # the scan, whose record holds no listing


def test_failed_and_killed_attempts_do_not_count(tmp_path: Path) -> None:
    """Only the last good end of a job is compared; a start without an end is nothing."""
    runs = FakeRun(tmp_path / "a"), FakeRun(tmp_path / "b")
    runs[1].job("report_tumors", "all", {}, {}, {"other": 1}, status=1)
    path = runs[1].provenance / "list_scans/lits.jsonl"
    append_line(path, {"event": "started", "rule": "list_scans", "job": "list_scans/lits"})
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"event": "ended", "rul')
    assert compare_runs(*(run.provenance for run in runs)).is_equal


def test_a_rule_of_one_run_only_is_a_difference(tmp_path: Path) -> None:
    """It is named; what is made of records never counts."""
    runs = FakeRun(tmp_path / "a"), FakeRun(tmp_path / "b")
    runs[1].job("report_rules", "all", {}, {"results/report/rules.html": "times"}, {})
    assert compare_runs(*(run.provenance for run in runs)).is_equal
    runs[1].job("export_packets", "all", {}, {"results/review/packets/batches.tsv": "x"}, {})
    found = compare_runs(*(run.provenance for run in runs))
    assert not found.is_equal and verdicts(found)["export_packets"] == ONLY_B


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    """The message names the folder."""
    run = FakeRun(tmp_path / "a")
    with pytest.raises(InputError, match="NO_RECORDS"):
        compare_runs(run.provenance, tmp_path / "none")


def test_rules_stand_in_the_order_of_the_flow() -> None:
    """Whatever started first; rules that read each other do not hang it."""

    def job(rule: str, time: str, inputs: str, outputs: str) -> dict[str, Any]:
        facts = {"inputs": dict.fromkeys(inputs, {}), "outputs": dict.fromkeys(outputs, {})}
        return {"rule": rule, "time": time} | facts

    jobs = [job("a", "1", "y", "z"), job("b", "2", "x", "y"), job("c", "3", "", "x")]
    assert rule_order(jobs) == ["c", "b", "a"]
    assert rule_order([*jobs, job("c", "4", "z", "w")]) == ["a", "c", "b"]
    assert rule_order([job("a", "2", "", "x"), job("b", "1", "", "y")]) == ["b", "a"]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command `compare`."""
    words = [sys.executable, "-m", "tumoratlas", "compare", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_exits_as_diff_does(tmp_path: Path) -> None:
    """0 equal, 1 different, 2 trouble."""
    runs = FakeRun(tmp_path / "a"), FakeRun(tmp_path / "b", spacing=3.0)
    same = command(runs[0].folder, runs[0].folder)
    assert same.returncode == 0 and "Equal" in same.stdout
    other = command(runs[0].folder, runs[1].folder)
    assert other.returncode == 1 and "settings.spacing_mm: 1.5 -> 3.0" in other.stdout
    trouble = command(runs[0].folder, tmp_path)
    assert trouble.returncode == 2 and "NO_RECORDS" in trouble.stderr


def test_a_real_run_equals_its_records_elsewhere(tmp_path: Path, micro_run: Path) -> None:
    """From the records alone: no result is copied; a scan's other hash is found."""
    shutil.copytree(micro_run / PROVENANCE, tmp_path / PROVENANCE)
    found = compare_runs(micro_run / PROVENANCE, tmp_path / PROVENANCE)
    assert found.is_equal and len(found.rules) > 25
    order = [rule.rule for rule in found.rules]
    flow = ["list_scans", "harmonize_scans", "train_model", "predict_tumors", "merge_masks"]
    assert [rule for rule in order if rule in flow] == flow
    path = next((tmp_path / PROVENANCE / "merge_masks").glob("*_scans.jsonl"))
    before, _, last = path.read_text().rstrip().rpartition("\n")
    digest = next(iter(json.loads(last)["outputs"].values()))
    path.write_text(f"{before}\n{last.replace(digest, '0' * 64)}\n")
    found = compare_runs(micro_run / PROVENANCE, tmp_path / PROVENANCE)
    assert found.first.rule == "merge_masks" and found.first.scans.different == 1
