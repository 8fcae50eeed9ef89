"""The step runner as a job meets it: real processes, real files, real signals.

Each test runs a small script that calls `run_shard`, in a folder of its own. The script's
``behave`` option makes single scans fail, wait or kill their process; it is no part of any key.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tumoratlas.core.files import sha256_file
from tumoratlas.core.provenance import read_scans, read_stored
from tumoratlas.core.runner import (
    finished_folders,
    read_excluded,
    read_manifest,
    read_rows,
    shard_names,
    shard_of,
)

ROOT = Path(__file__).resolve().parents[1]
SCANS = [f"scan_{number}" for number in range(6)]
FOLDER = Path("results/harmonize/double_scans")
SCRIPT = """
import errno, hashlib, json, logging, os, signal, sys, time
from pathlib import Path

from tumoratlas.core.errors import InputError, MachineError
from tumoratlas.core.files import sha256_file
from tumoratlas.core.runner import Step, Task, run_shard, shard_names, shard_of

options = json.loads(sys.argv[1])
logging.basicConfig(level=logging.INFO, stream=sys.stderr)


def wait_for(name):
    while not Path(name).exists():
        with open("ticks", "a") as file:
            file.write(".")
        time.sleep(0.01)


def work(task, folder):
    with open("works.log", "a") as file:
        file.write(task.id + "\\n")
    data = Path(task.data["path"]).read_bytes() * options["params"]["times"]
    (folder / "data.bin").write_bytes(data)
    match options["behave"].get(task.id):
        case "wait":
            Path(f"waiting_{task.id}").touch()
            wait_for("go")
        case "fail":
            raise InputError("GZIP_CRC", task.data["path"], "is damaged", remedy="Mend it",
                             evidence="crc 1 against 2")
        case "defect":
            1 / 0
        case "not json":
            return {"value": float("nan")}
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "disk full":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "machine":
            raise MachineError("GPU_LOST", "cuda:0", "it failed", remedy="Run again")
    (folder / "more").mkdir()
    (folder / "more" / "note.txt").write_text(task.id)
    return {"id": task.id, "bytes": len(data)}


for shard in shard_names(options["shards"]):
    folder = Path("results/harmonize/double_scans")
    step = Step("double_scans", shard, folder, options["params"], options["code"],
                options["processes"], **options["runner"])
    tasks = [Task(path.stem, {"file": sha256_file(path)}, {"path": str(path)})
             for path in sorted(Path("inputs").iterdir(), reverse=True)
             if shard_of(path.stem, options["shards"]) == shard]
    run_shard(step, tasks, work, folder / f"{shard}.tsv")
"""


class Job:
    """A folder with six input files, and runs of the script in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "inputs").mkdir(parents=True)
        for scan in SCANS:
            (folder / "inputs" / f"{scan}.txt").write_text(f"voxels of {scan}\n")
        (folder / "job.py").write_text(SCRIPT)
        self._started: list[subprocess.Popen[str]] = []

    def start(self, **changed: Any) -> subprocess.Popen[str]:  # noqa: ANN401
        """Start a run in a process group of its own."""
        options = {
            "params": {"times": 2}, "code": "c0de", "shards": 1, "processes": 1, "runner": {},
            "behave": {}, **changed,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "job.py", json.dumps(options)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, status: int = 0, **changed: Any) -> str:  # noqa: ANN401
        """Run to the end; return what went to the log."""
        process = self.start(**changed)
        log = process.communicate(timeout=20)[1]
        assert process.returncode == status, log
        return log

    def await_file(self, name: str) -> None:
        """Wait until the script has made a file."""
        self.await_true(lambda: (self.folder / name).exists())

    @staticmethod
    def await_true(condition: Callable[[], bool]) -> None:
        """Wait until something holds, at most ten seconds."""
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.01)

    def go(self) -> None:
        """Let the scans that wait go on."""
        (self.folder / "go").touch()

    def kill(self, process: subprocess.Popen[str]) -> None:
        """End the whole process group as ``kill -9`` does."""
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def works(self) -> Counter[str]:
        """Return how often each scan was worked on, in all runs together."""
        path = self.folder / "works.log"
        return Counter(path.read_text().split() if path.exists() else [])

    def results(self) -> dict[str, bytes]:
        """Return every file that a run leaves for others: manifests, records, outputs."""
        root = self.folder / FOLDER
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and not path.relative_to(root).parts[0].startswith(".")
        }

    def manifest(self, shard: str = "s0000") -> Path:
        """Return the path of a shard's manifest."""
        return self.folder / FOLDER / f"{shard}.tsv"

    def excluded(self) -> dict[str, dict[str, str]]:
        """Return the excluded rows by id."""
        return {row["id"]: row for row in read_excluded([self.manifest()])}

    def end_all(self) -> None:
        """End what a failed test may have left."""
        for process in self._started:
            if process.poll() is None:
                self.kill(process)


@pytest.fixture
def job(tmp_path: Path) -> Any:  # noqa: ANN401
    """Return a fresh job folder."""
    job = Job(tmp_path / "job")
    yield job
    job.end_all()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the results of a run that nothing disturbed."""
    job = Job(tmp_path_factory.mktemp("undisturbed") / "job")
    job.run()
    assert job.works() == Counter(SCANS)
    return job.results()


def test_an_undisturbed_run_leaves_results_and_no_scraps(job: Job) -> None:
    """Manifest, rows and folders read back; no temporary file, journal or record of time."""
    job.run()
    manifest = job.manifest()
    assert read_manifest(manifest) == dict.fromkeys(SCANS, "ok")
    assert [row["id"] for row in read_rows([manifest])] == SCANS
    folders = finished_folders([manifest])
    assert list(folders) == SCANS
    for scan, folder in folders.items():
        assert (folder / "data.bin").read_text() == f"voxels of {scan}\n" * 2
        assert (folder / "more/note.txt").read_text() == scan
    lines = manifest.read_text().splitlines()
    assert lines[0].split("\t") == ["id", "status", "code", "outputs"]
    outputs = json.loads(lines[1].split("\t")[3])
    assert outputs.keys() == {"row", "data.bin", "more/note.txt"}
    assert outputs["data.bin"] == sha256_file(folders["scan_0"] / "data.bin")
    hidden = {
        p.relative_to(job.folder / FOLDER).parts[0] for p in job.manifest().parent.rglob(".*")
    }
    assert hidden == {".tmp", ".locks", ".journal", ".progress"}
    for name in (".tmp/s0000", ".journal"):
        assert not [p for p in (job.folder / FOLDER / name).rglob("*") if p.is_file()]


@pytest.mark.parametrize(("at", "processes"), [("scan_0", 1), ("scan_3", 2), ("scan_5", 2)])
def test_kill_9_resumes_at_the_scan(
    job: Job, undisturbed: dict[str, bytes], at: str, processes: int
) -> None:
    """After kill -9 of the group: same bytes, and only the scans under work are redone."""
    process = job.start(behave={at: "wait"}, processes=processes)
    job.await_file(f"waiting_{at}")
    job.kill(process)
    before = job.works()
    assert not job.manifest().exists()
    job.run(processes=processes)
    assert job.results() == undisturbed
    redone = {scan for scan, count in job.works().items() if count > 1}
    assert at in redone and len(redone) <= processes
    assert set(before) | set(job.works()) == set(SCANS)


def test_many_kills_at_any_moment_change_nothing(job: Job, undisturbed: dict[str, bytes]) -> None:
    """Kills at moments that nobody chose, then one run to the end: the same bytes."""
    # So many crashes are allowed that no scan is excluded for a kill that was not its fault.
    for seconds in (0.12, 0.16, 0.2, 0.24):
        process = job.start(runner={"max_crashes": 9}, processes=2)
        time.sleep(seconds)
        job.kill(process)
    job.run(runner={"max_crashes": 9})
    assert job.results() == undisturbed


@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGUSR1, os.killpg), (signal.SIGINT, os.killpg)],
)
def test_a_stop_finishes_the_current_scan(
    job: Job, undisturbed: dict[str, bytes], number: int, send: Callable[[int, int], None]
) -> None:
    """The scan under work ends well, no other starts, status 143, no manifest; then resume."""
    process = job.start(behave={"scan_2": "wait"})
    job.await_file("waiting_scan_2")
    send(process.pid, number)
    time.sleep(0.1)
    assert process.poll() is None
    job.go()
    process.communicate(timeout=10)
    assert process.returncode == 143
    assert not job.manifest().exists()
    assert (job.folder / FOLDER / "scan_2/record.json").exists()
    assert job.works() == Counter(SCANS[:3])
    job.run()
    assert job.results() == undisturbed
    assert job.works() == Counter(SCANS)


def test_a_failing_scan_is_excluded_and_the_others_go_on(
    job: Job, undisturbed: dict[str, bytes]
) -> None:
    """Errors for users keep code, evidence and remedy; any other exception is UNEXPECTED."""
    log = job.run(behave={"scan_1": "fail", "scan_3": "defect", "scan_4": "not json"})
    expected = dict.fromkeys(SCANS, "ok") | dict.fromkeys(
        ("scan_1", "scan_3", "scan_4"), "excluded"
    )
    assert read_manifest(job.manifest()) == expected
    rows = job.excluded()
    assert rows["scan_1"] == {
        "id": "scan_1",
        "rule": "double_scans",
        "code": "GZIP_CRC",
        "reason": "inputs/scan_1.txt: is damaged",
        "evidence": "crc 1 against 2",
        "remedy": "Mend it",
    }
    assert (rows["scan_3"]["code"], rows["scan_4"]["code"]) == ("UNEXPECTED", "UNEXPECTED")
    assert "ZeroDivisionError" in rows["scan_3"]["reason"] and "Traceback" in log
    for scan in rows:
        assert os.listdir(job.folder / FOLDER / scan) == ["record.json"]
    for name, data in job.results().items():
        assert name.split("/")[0] in {*rows, "s0000.tsv"} or undisturbed[name] == data
    assert job.manifest().read_text().count("\tGZIP_CRC\t") == 1


@pytest.mark.parametrize("processes", [1, 3])
def test_a_scan_that_kills_its_process_is_excluded(job: Job, processes: int) -> None:
    """Two deaths of its process exclude a scan; no other scan suffers."""
    job.run(behave={"scan_2": "die"}, processes=processes)
    statuses = read_manifest(job.manifest())
    assert statuses == {scan: "excluded" if scan == "scan_2" else "ok" for scan in SCANS}
    assert job.excluded()["scan_2"]["code"] == "PROCESS_KILLED"
    assert job.works() == Counter(SCANS) + Counter(["scan_2"])


def test_several_killers_in_one_shard(job: Job) -> None:
    """Every process may die: each is replaced until all scans are settled."""
    job.run(behave={s: "die" for s in SCANS[:3]}, processes=2, runner={"max_crashes": 1})
    assert Counter(read_manifest(job.manifest()).values()) == {"ok": 3, "excluded": 3}
    assert job.works() == Counter(SCANS)


def test_starts_of_killed_runs_count(job: Job, undisturbed: dict[str, bytes]) -> None:
    """A scan that took two whole jobs down (out of memory) is excluded by the third."""
    for _ in range(2):
        process = job.start(behave={"scan_2": "wait"})
        job.await_true(lambda: job.works()["scan_2"] > 0)
        job.await_file("waiting_scan_2")
        job.kill(process)
        (job.folder / "waiting_scan_2").unlink()
    job.run()
    assert job.excluded().keys() == {"scan_2"}
    assert job.works()["scan_2"] == 2
    # Under another key it is another attempt.
    job.run(code="0ther")
    assert read_manifest(job.manifest())["scan_2"] == "ok"
    assert job.results()["scan_2/data.bin"] == undisturbed["scan_2/data.bin"]


def test_stops_that_end_in_a_kill_do_not_count(job: Job, undisturbed: dict[str, bytes]) -> None:
    """Preempted twice in a long scan, with less time between the signals than it needs."""
    journal = job.folder / FOLDER / ".journal/s0000.jsonl"
    for _ in range(2):
        process = job.start(behave={"scan_2": "wait"})
        job.await_file("waiting_scan_2")
        before = journal.read_text().count("abandoned")
        os.kill(process.pid, signal.SIGTERM)
        job.await_true(lambda n=before: journal.read_text().count("abandoned") > n)
        job.kill(process)
        (job.folder / "waiting_scan_2").unlink()
    job.run()
    assert job.results() == undisturbed
    assert job.works()["scan_2"] == 3


def test_a_torn_journal_line_is_passed_over(job: Job) -> None:
    """A journal that was cut while a line was written does not stop the next run."""
    process = job.start(behave={"scan_1": "wait"})
    job.await_file("waiting_scan_1")
    job.kill(process)
    with open(job.folder / FOLDER / ".journal/s0000.jsonl", "a") as file:
        file.write('{"event": "star')
    job.run()
    assert read_manifest(job.manifest()) == dict.fromkeys(SCANS, "ok")


def test_two_runs_at_once_do_each_scan_once(job: Job, undisturbed: dict[str, bytes]) -> None:
    """The second waits for the first, then finds everything done."""
    first = job.start(behave={"scan_0": "wait"})
    job.await_file("waiting_scan_0")
    second = job.start()
    time.sleep(0.3)
    assert second.poll() is None
    job.go()
    logs = [process.communicate(timeout=10)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "another run holds double_scans s0000" in logs[1]
    assert job.works() == Counter(SCANS)
    assert job.results() == undisturbed


def test_nothing_changed_nothing_redone(job: Job, undisturbed: dict[str, bytes]) -> None:
    """A second run, also without its manifest, works on no scan."""
    job.run()
    job.manifest().unlink()
    job.run(processes=3)
    assert job.works() == Counter(SCANS)
    assert job.results() == undisturbed


@pytest.mark.parametrize("changed", [{"params": {"times": 3}}, {"code": "0ther"}])
def test_changed_params_or_code_redo_every_scan(job: Job, changed: dict[str, Any]) -> None:
    """The key holds the parameters and the code."""
    job.run()
    job.run(**changed)
    assert job.works() == Counter(SCANS * 2)
    times = changed.get("params", {"times": 2})["times"]
    assert read_rows([job.manifest()])[0]["bytes"] == times * len("voxels of scan_0\n")


def test_a_changed_input_redoes_its_scan_alone(job: Job) -> None:
    """The key holds the input's content, not its time."""
    job.run()
    os.utime(job.folder / "inputs/scan_4.txt")
    (job.folder / "inputs/scan_1.txt").write_text("other voxels\n")
    job.run()
    assert job.works() == Counter([*SCANS, "scan_1"])
    assert (job.folder / FOLDER / "scan_1/data.bin").read_text() == "other voxels\n" * 2


@pytest.mark.parametrize("damage", ["missing", "truncated", "no record", "torn record"])
def test_damaged_outputs_are_made_again(
    job: Job, undisturbed: dict[str, bytes], damage: str
) -> None:
    """A missing or short file, or record, costs one scan's work."""
    job.run()
    folder = job.folder / FOLDER / "scan_3"
    match damage:
        case "missing":
            (folder / "more/note.txt").unlink()
        case "truncated":
            os.truncate(folder / "data.bin", 3)
        case "no record":
            (folder / "record.json").unlink()
        case "torn record":
            os.truncate(folder / "record.json", 9)
    job.run()
    assert job.works() == Counter([*SCANS, "scan_3"])
    assert job.results() == undisturbed


def test_the_number_of_shards_redoes_no_scan(job: Job, undisturbed: dict[str, bytes]) -> None:
    """Records live with the scans: 1, 3 and 5 shards tell the same of the same scans."""
    job.run()
    for shards in (3, 5):
        job.run(shards=shards)
        manifests = [job.manifest(shard) for shard in shard_names(shards)]
        assert list(finished_folders(manifests)) == SCANS
        for shard, path in zip(shard_names(shards), manifests, strict=True):
            assert all(shard_of(scan, shards) == shard for scan in read_manifest(path))
        lines = sorted(line for path in manifests for line in path.read_text().splitlines()[1:])
        assert lines == undisturbed["s0000.tsv"].decode().splitlines()[1:]
    assert job.works() == Counter(SCANS)


def test_processes_change_no_byte(job: Job, undisturbed: dict[str, bytes]) -> None:
    """Three processes give what one gives."""
    job.run(processes=3)
    assert job.results() == undisturbed


def test_more_processes_than_scans(job: Job, undisturbed: dict[str, bytes]) -> None:
    """Idle cores do no harm."""
    job.run(processes=16)
    assert job.results() == undisturbed


def test_an_empty_shard_has_an_empty_manifest(job: Job) -> None:
    """A shard without scans is no error."""
    for path in (job.folder / "inputs").iterdir():
        path.unlink()
    job.run()
    assert job.manifest().read_text() == "id\tstatus\tcode\toutputs\n"


def test_systematic_failure_fails_the_job_and_is_tried_again(
    job: Job, undisturbed: dict[str, bytes]
) -> None:
    """Above the limit: one line, no manifest; after mending, only the failed are redone."""
    log = job.run(status=1, behave=dict.fromkeys(SCANS[:4], "fail"))
    told = log.strip().splitlines()[-1]
    assert "SYSTEMATIC_FAILURE: double_scans s0000: 4 of 6 scans were excluded, 4 by" in told
    assert "crc 1 against 2" in told
    assert not job.manifest().exists()
    job.run()
    assert job.results() == undisturbed
    assert job.works() == Counter(SCANS + SCANS[:4])


def test_the_limit_is_config_and_one_scan_is_never_systematic(job: Job) -> None:
    """A raised limit lets the shard pass; a lone failing scan passes any limit."""
    job.run(behave=dict.fromkeys(SCANS, "fail"), runner={"max_excluded_fraction": 1.0})
    assert set(read_manifest(job.manifest()).values()) == {"excluded"}
    job.run(code="0ther", behave={"scan_0": "fail"}, runner={"max_excluded_fraction": 0.0})
    assert job.excluded().keys() == {"scan_0"}


def test_a_full_disk_is_no_fault_of_a_scan(job: Job, undisturbed: dict[str, bytes]) -> None:
    """The job fails by name, nothing is excluded, and the next run goes on there."""
    log = job.run(status=1, behave={"scan_3": "disk full"})
    assert "DISK_FULL: results/harmonize/double_scans" in log
    assert not job.manifest().exists()
    job.run()
    assert job.results() == undisturbed
    assert job.works() == Counter([*SCANS, "scan_3"])


def test_a_fault_of_the_machine_fails_the_job(job: Job, undisturbed: dict[str, bytes]) -> None:
    """As a full disk: the scan stays to be done."""
    log = job.run(status=1, behave={"scan_3": "machine"})
    assert "GPU_LOST: cuda:0: it failed. Run again" in log
    assert not job.manifest().exists()
    job.run()
    assert job.results() == undisturbed
    assert job.works() == Counter([*SCANS, "scan_3"])


def test_an_error_of_the_parent_ends_its_workers(job: Job) -> None:
    """A job that fails while scans are under work ends; it does not wait for ever."""
    process = job.start(behave={"scan_0": "wait"}, processes=2)
    job.await_file("waiting_scan_0")
    job.await_true(lambda: len(job.works()) == len(SCANS))
    job.await_true(lambda: (job.folder / FOLDER / ".progress/s0000.json").exists())
    progress = job.folder / FOLDER / ".progress/s0000.json"
    progress.unlink(missing_ok=True)
    (progress / "in_the_way").mkdir(parents=True)
    job.go()
    log = process.communicate(timeout=5)[1]
    assert process.returncode == 1, log
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_no_orphan_goes_on_after_its_parent(job: Job) -> None:
    """A worker dies with the job, so that nothing writes behind the next run's back."""
    process = job.start(behave=dict.fromkeys(SCANS[:2], "wait"), processes=2)
    job.await_file("waiting_scan_0")
    job.await_file("waiting_scan_1")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    ticks = (job.folder / "ticks").stat().st_size
    time.sleep(0.2)
    assert (job.folder / "ticks").stat().st_size == ticks
    # The lock went with them: the next run does not wait.
    job.run()
    assert read_manifest(job.manifest()) == dict.fromkeys(SCANS, "ok")


def test_progress_tells_where_a_shard_stands(job: Job) -> None:
    """The file counts done, excluded and waiting scans, also those of an earlier run."""
    process = job.start(behave={"scan_1": "fail", "scan_3": "wait"})
    job.await_file("waiting_scan_3")
    path = job.folder / FOLDER / ".progress/s0000.json"
    progress = json.loads(path.read_text())
    now = time.time()
    assert now - 30 < progress.pop("started") <= progress.pop("updated") <= now
    assert progress.pop("waiting") >= 2
    assert progress == {
        "rule": "double_scans", "shard": "s0000", "done": 3, "total": 6, "found": 0,
        "excluded": 1,
    }  # fmt: skip
    job.kill(process)
    job.run()
    progress = json.loads(path.read_text())
    assert (progress["done"], progress["total"], progress["waiting"]) == (6, 6, 0)
    assert (progress["excluded"], progress["found"]) == (1, 3)


def test_provenance_tells_how_each_result_came_about(job: Job) -> None:
    """Inputs, outputs, code, key, time and environment of every scan."""
    job.run(behave={"scan_1": "fail"})
    folder = job.folder / "results/provenance"
    lines = read_scans(folder, "double_scans")
    stored = read_stored(folder, "environments", lines[0]["environment"])
    assert stored["software"]["packages"]["numpy"] == np.__version__
    assert stored["machine"]["cpus"] == os.cpu_count()
    assert [line["subject"] for line in lines] == SCANS
    for line in lines:
        scan = line["subject"]
        assert line["environment"] == lines[0]["environment"]
        assert (line["rule"], line["shard"], line["code"]) == ("double_scans", "s0000", "c0de")
        assert 0 <= line["cpu_s"] <= line["seconds"] + 0.1
        assert line["inputs"] == {"file": sha256_file(job.folder / f"inputs/{scan}.txt")}
        assert line["time"].endswith("+00:00") and 0 <= line["seconds"] < 10
        record = json.loads((job.folder / FOLDER / scan / "record.json").read_text())
        assert line["key"] == record["key"]
        if scan == "scan_1":
            assert (line["status"], line["outputs"]) == ("excluded", {})
        else:
            assert line["status"] == "ok"
            assert line["outputs"] == {
                name: sha256_file(job.folder / FOLDER / scan / name)
                for name in ("data.bin", "more/note.txt")
            }


def test_nothing_shared_holds_a_time_or_a_machine(job: Job, undisturbed: dict[str, bytes]) -> None:
    """Manifests and records of another folder at another time are byte-identical."""
    job.run()
    assert job.results() == undisturbed
    for data in undisturbed.values():
        assert os.uname().nodename.encode() not in data
        assert time.strftime("%Y-%m-%d").encode() not in data
    record = json.loads(undisturbed["scan_0/record.json"])
    assert record.keys() == {"id", "key", "status", "row", "excluded", "outputs", "sha256"}


def test_shards_are_stable_and_even() -> None:
    """Membership depends on the scan and the number of shards alone."""
    assert shard_names(2) == ["s0000", "s0001"]
    assert shard_of("lits_0", 160) == shard_of("lits_0", 160)
    sizes = Counter(shard_of(f"lits_{n}", 16) for n in range(1600))
    assert set(sizes) == set(shard_names(16))
    assert max(sizes.values()) < 150
