"""The step runner: one rule over one shard, resumable, isolating failures, single writer.

Every sharded rule runs through `run_shard`. Per-scan results live in ``<folder>/<id>/`` with a
``record.json`` that is part of the folder, so that a folder that exists is whole: it is written
under a temporary name and renamed. Snakemake tracks only the manifest, which is written last.
"""

import ctypes
import fcntl
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from tumoratlas.core.errors import (
    NO_ROOM,
    DamageError,
    MachineError,
    PutOffError,
    TumorAtlasError,
    disk_full,
)
from tumoratlas.core.files import (
    sha256_bytes,
    sha256_file,
    sha256_json,
    sync,
    to_json,
    write_json,
    write_text,
)
from tumoratlas.core.provenance import PROVENANCE, append_line, scan_line
from tumoratlas.core.results import (
    MANIFEST_HEADER,
    read_manifest,
    read_record,
    refuse_missing_record,
    take_away,
    write_record,
)

log = logging.getLogger("tumoratlas.runner")

STOPPED = 143  # exit status after SIGTERM, as a shell would report it
_LISTEN_S = 1  # a stop is noticed so late at most

Work = Callable[["Task", Path], dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """One scan or case to work on.

    Attributes
    ----------
    id
        Scan id or case id; the name of its folder.
    inputs
        Name to SHA-256 of everything that the result depends on and that varies by scan.
    data
        What the work function needs (paths, table row); not part of the key.
    """

    id: str
    inputs: Mapping[str, str]
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Step:
    """A rule on a shard.

    Attributes
    ----------
    rule, shard
        Names, as in the Snakefile.
    folder
        Where the per-scan folders of this rule live; the same for all shards.
    params
        Configuration that the result depends on, as JSON values.
    code
        Digest of the rule's code (`tumoratlas.core.code.code_digest`).
    processes
        Scans worked on at the same time.
    max_excluded_fraction
        A larger share of excluded scans in one shard is systematic: the job fails.
    max_crashes
        A scan that has killed its process this many times is excluded.
    """

    rule: str
    shard: str
    folder: Path
    params: Mapping[str, Any]
    code: str
    processes: int = 1
    max_excluded_fraction: float = 0.5
    max_crashes: int = 2


def shard_step(job: Any) -> Step:
    """Return the step of a job of the runner; per-scan folders lie beside its manifest.

    A shard bears the name of its manifest.
    """
    return Step(
        rule=job.rule,
        shard=Path(job.output.manifest).stem,
        folder=Path(job.output.manifest).parent,
        params=job.params.settings,
        code=job.params.code,
        processes=job.threads,
        **job.params.runner,
    )


def shard_of(scan_id: str, shards: int) -> str:
    """Return the shard of a scan, ``s0000`` onwards: ``sha256(scan_id) mod shards``."""
    return f"s{int(sha256_bytes(scan_id.encode()), 16) % shards:04d}"


def shard_names(shards: int) -> list[str]:
    """Return the names of all shards."""
    return [f"s{n:04d}" for n in range(shards)]


def finished_folders(manifests: Iterable[Path | str]) -> dict[str, Path]:
    """Return the folder of every finished scan of a rule by id, sorted; see `run_shard`."""
    return {item_id: path for item_id, path in _folders(manifests, "ok")}


def read_rows(manifests: Iterable[Path | str]) -> list[dict[str, Any]]:
    """Return the rows of all finished scans of a rule, sorted by id."""
    return [read_record(path)["row"] for _, path in _folders(manifests, "ok")]


def read_excluded(manifests: Iterable[Path | str]) -> list[dict[str, str]]:
    """Return the ``excluded`` rows of a rule, sorted by id."""
    return [read_record(path)["excluded"] for _, path in _folders(manifests, "excluded")]


def _folders(manifests: Iterable[Path | str], wanted: str) -> list[tuple[str, Path]]:
    found = sorted(
        (item_id, Path(path).parent / item_id)
        for path in manifests
        for item_id, status in read_manifest(Path(path)).items()
        if status == wanted
    )
    for _, folder in found:
        refuse_missing_record(folder)
    return found


def run_shard(step: Step, tasks: Sequence[Task], work: Work, manifest: Path) -> None:
    """Work on every task of a shard and write the manifest.

    ``work(task, folder)`` writes its files into ``folder`` (empty, temporary) and returns a row
    of JSON values. Both must depend on nothing but the task's inputs, the step's parameters and
    the code, because a task whose recorded key still holds is skipped. A task that raises is
    excluded, with the error's code, evidence and remedy in its record, and the rest goes on.

    After SIGTERM, SIGUSR1 or Ctrl-C the scans under work are finished, no manifest is written
    and the process exits with status 143. The manifest holds no times, hosts or keys: equal
    results give equal bytes.

    Raises
    ------
    TumorAtlasError
        ``SYSTEMATIC_FAILURE`` when more than ``max_excluded_fraction`` of the shard failed;
        these scans are tried again by the next run. `MachineError`: ``DISK_FULL`` when results
        cannot be written, or what ``work`` raises; the scan stays to be done. A `PutOffError`
        lets the other scans go on before.
    """
    tasks = sorted(tasks, key=lambda task: task.id)
    step.folder.mkdir(parents=True, exist_ok=True)
    with _lock(step), _stop_on_sigterm() as stop:
        shutil.rmtree(_scratch(step), ignore_errors=True)  # what a killed run left
        keys = {task.id: _key(step, task) for task in tasks}
        held = {t.id: r for t in tasks if (r := _held(step.folder / t.id, keys[t.id]))}
        todo = [task for task in tasks if task.id not in held]
        pool = _Pool(step, todo, keys, work, stop, list(held.values()))
        pool.run()
        if stop.is_set():
            log.warning("stopped on request; the same command resumes here")
            sys.exit(STOPPED)
        if pool.changes:
            raise pool.changes[-1]
        records = {task.id: read_record(step.folder / task.id) for task in tasks}
        _refuse_systematic_failure(step, records)
        write_text(manifest, _manifest_text(records))
        _journal_path(step).unlink(missing_ok=True)


def _key(step: Step, task: Task) -> str:
    return sha256_json(
        {"inputs": dict(task.inputs), "params": dict(step.params), "code": step.code}
    )


def _held(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the record of a folder that has this key and all its files at their size."""
    try:
        record = read_record(folder)
    except DamageError:
        return None
    is_whole = record["key"] == key and all(
        (folder / name).is_file() and (folder / name).stat().st_size == facts["bytes"]
        for name, facts in record["outputs"].items()
    )
    return record if is_whole else None


def _refuse_systematic_failure(step: Step, records: Mapping[str, dict[str, Any]]) -> None:
    codes = Counter(r["excluded"]["code"] for r in records.values() if r["status"] == "excluded")
    limit = max(1, step.max_excluded_fraction * len(records))
    if codes.total() > limit:
        for item_id, record in records.items():
            if record["status"] == "excluded":
                shutil.rmtree(step.folder / item_id)  # the cause may lie outside the key
        code, count = codes.most_common(1)[0]
        example = next(
            r["excluded"]
            for r in records.values()
            if r["status"] == "excluded" and r["excluded"]["code"] == code
        )
        raise TumorAtlasError(
            "SYSTEMATIC_FAILURE",
            f"{step.rule} {step.shard}",
            f"{codes.total()} of {len(records)} scans were excluded, {count} by {code}",
            evidence=f"{example['id']}: {example['reason']} {example['evidence']}".strip(),
            remedy="Mend the cause, or raise `runner.max_excluded_fraction` if it is as it "
            "should be",
        )


def _manifest_text(records: Mapping[str, dict[str, Any]]) -> str:
    lines = [MANIFEST_HEADER]
    for item_id, record in sorted(records.items()):
        code = record["excluded"]["code"] if record["status"] == "excluded" else ""
        hashes = {name: facts["sha256"] for name, facts in record["outputs"].items()}
        outputs = to_json({"row": sha256_json(record["row"]), **hashes})
        lines.append(f"{item_id}\t{record['status']}\t{code}\t{outputs}")
    return "\n".join(lines) + "\n"


def _scratch(step: Step) -> Path:
    return step.folder / ".tmp" / step.shard


def _journal_path(step: Step) -> Path:
    return step.folder / ".journal" / f"{step.shard}.jsonl"


@contextmanager
def _lock(step: Step) -> Iterator[None]:
    """Hold the shard; a second writer (an orphan of a killed run) is waited for."""
    path = step.folder / ".locks" / f"{step.shard}.lock"
    path.parent.mkdir(exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another run holds %s %s; waiting for it", step.rule, step.shard)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Stop:
    """A flag that a signal handler sets."""

    def __init__(self) -> None:
        self._set = False

    def set(self, _signal: int, _frame: FrameType | None) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


@contextmanager
def _stop_on_sigterm() -> Iterator[_Stop]:
    stop = _Stop()
    # SIGUSR1 is what SLURM is asked to send some time before a job's limit.
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, stop.set) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Pool:
    """Worker processes for the tasks of one shard; the parent alone keeps the books.

    A worker is forked, so that a crash in native code or an out-of-memory kill costs one
    attempt at one scan. The parent journals each start; a start without an end, in this run or
    a killed earlier one that nobody had asked to stop, counts as a crash of that scan.
    """

    def __init__(
        self,
        step: Step,
        todo: list[Task],
        keys: Mapping[str, str],
        work: Work,
        stop: _Stop,
        held: list[dict[str, Any]],
    ) -> None:
        self._step = step
        self._waiting = todo[::-1]
        self._keys = keys
        self._work = work
        self._stop = stop
        self._total = len(held) + len(todo)
        self._found = self._finished = len(held)
        self._excluded = sum(record["status"] == "excluded" for record in held)
        self._started = time.time()
        self._context = multiprocessing.get_context("fork")
        self._busy: dict[Connection, tuple[multiprocessing.process.BaseProcess, Task | None]] = {}
        self._provenance = PROVENANCE / step.rule / f"{step.shard}_scans.jsonl"
        self._crashes = self._read_journal()
        self.changes: list[PutOffError] = []

    def run(self) -> None:
        """Work until nothing waits; returns early, after the scans under work, on a stop."""
        self._write_progress()
        try:
            for _ in range(min(self._step.processes, len(self._waiting))):
                self._start_worker()
            told = False
            while self._busy:
                for connection in wait(list(self._busy), timeout=_LISTEN_S):
                    self._hear(connection)
                if self._stop.is_set() and not told:
                    self._forgive()  # a kill may follow before they end
                    told = True
        finally:  # after an error of our own: this process would wait for its workers for ever
            self._forgive()
            for process, _ in self._busy.values():
                process.kill()
                process.join()
        self._write_progress()

    def _forgive(self) -> None:
        """Journal that it is no fault of the scans under work if they do not end."""
        for _, task in self._busy.values():
            if task is not None:
                with suppress(OSError):  # a full disk may be why we are here
                    self._journal("abandoned", task)

    def _start_worker(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_worker, args=(theirs, self._step, self._keys, self._work), daemon=True
        )
        process.start()
        theirs.close()
        self._busy[ours] = (process, None)
        self._hand_out(ours)

    def _hand_out(self, connection: Connection) -> None:
        """Give the worker its next task, or let it go."""
        process, _ = self._busy[connection]
        while self._waiting and not self._stop.is_set():
            task = self._waiting.pop()
            if self._crashes[task.id] >= self._step.max_crashes:
                self._exclude_crasher(task)
                continue
            self._journal("started", task)
            self._busy[connection] = (process, task)
            with suppress(BrokenPipeError):  # a worker that died idle is heard of next
                connection.send(task)
            return
        # Not by closing the pipe: later workers hold copies of this end.
        with suppress(BrokenPipeError):
            connection.send(None)
        process.join()
        connection.close()
        del self._busy[connection]

    def _hear(self, connection: Connection) -> None:
        process, task = self._busy[connection]
        try:
            facts = connection.recv()
        except (EOFError, ConnectionResetError):
            self._bury(connection, process, task)
            return
        if facts["status"] == "machine":
            raise facts["error"]
        if facts["status"] == "changed":
            self._put_off(task, facts["error"])
        else:
            self._book(task, facts)
        self._hand_out(connection)

    def _bury(
        self,
        connection: Connection,
        process: multiprocessing.process.BaseProcess,
        task: Task | None,
    ) -> None:
        process.join()
        del self._busy[connection]
        log.error("the process of %s died with status %s", task.id, process.exitcode)
        self._crashes[task.id] += 1
        self._waiting.append(task)
        self._start_worker()

    def _put_off(self, task: Task, error: PutOffError) -> None:
        """Leave a scan to the next run, which first makes again what it reads."""
        log.error("%s: %s", task.id, error)
        self._journal("abandoned", task)
        if isinstance(error, DamageError):
            take_away(Path(error.subject))
        self.changes.append(error)

    def _book(self, task: Task, facts: dict[str, Any]) -> None:
        self._journal("finished", task)
        self._finished += 1
        self._excluded += facts["status"] == "excluded"
        line = scan_line(
            task.id,
            facts["started"],
            rule=self._step.rule,
            shard=self._step.shard,
            inputs=dict(task.inputs),
            outputs=facts["outputs"],
            status=facts["status"],
            code=self._step.code,
            key=self._keys[task.id],
            cpu_s=facts["cpu_s"],
        )
        append_line(self._provenance, line)
        self._write_progress()

    def _exclude_crasher(self, task: Task) -> None:
        error = TumorAtlasError(
            "PROCESS_KILLED",
            task.id,
            f"its process died {self._crashes[task.id]} times",
            evidence="killed or crashed in native code, as by too little memory",
            remedy=f"Give the job more memory, delete {self._step.folder / task.id} and the "
            f"manifest {self._step.shard}.tsv beside it, and run again",
        )
        started = time.time()
        record = _excluded_record(self._step, task, error)
        _store(self._step, task, self._keys[task.id], record, None)
        self._book(task, {"status": "excluded", "outputs": {}, "started": started, "cpu_s": 0.0})

    def _read_journal(self) -> Counter[str]:
        """Count, per task, the starts without an end under the present key."""
        crashes: Counter[str] = Counter()
        path = _journal_path(self._step)
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
                task_id, step = entry["id"], 1 if entry["event"] == "started" else -1
            except (ValueError, KeyError, TypeError):  # what a power loss made of a line
                continue
            if self._keys.get(task_id) == entry.get("key"):
                # After a stop a scan may be both abandoned and finished.
                crashes[task_id] = max(0, crashes[task_id] + step)
        return crashes

    def _journal(self, event: str, task: Task) -> None:
        path = _journal_path(self._step)
        path.parent.mkdir(exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            line = {"event": event, "id": task.id, "key": self._keys[task.id]}
            file.write(to_json(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _write_progress(self) -> None:
        done, total = self._finished, self._total
        log.info("%s %s: %d of %d scans", self._step.rule, self._step.shard, done, total)
        write_json(
            self._step.folder / ".progress" / f"{self._step.shard}.json",
            {
                "rule": self._step.rule,
                "shard": self._step.shard,
                "done": done,
                "total": total,
                "found": self._found,
                "excluded": self._excluded,
                "waiting": len(self._waiting),
                "started": self._started,
                "updated": time.time(),
            },
        )


def _worker(connection: Connection, step: Step, keys: Mapping[str, str], work: Work) -> None:
    """Work on the tasks that come through ``connection`` until None comes."""
    _die_with_parent()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the parent decides, after the current scan
    while (task := connection.recv()) is not None:
        connection.send(_work_on(step, task, keys[task.id], work))


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies: no orphan goes on writing."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != multiprocessing.parent_process().pid:  # it died before the call
        os._exit(1)


def _work_on(step: Step, task: Task, key: str, work: Work) -> dict[str, Any]:
    try:
        return _attempt(step, task, key, work)
    except PutOffError as error:
        return {"status": "changed", "error": error}
    except MachineError as error:
        return {"status": "machine", "error": error}
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        full = disk_full(step.folder, f"the results of {task.id}", error)
        return {"status": "machine", "error": full}


def _attempt(step: Step, task: Task, key: str, work: Work) -> dict[str, Any]:
    started, cpu = time.time(), time.process_time()
    temporary = _scratch(step) / task.id
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        row = work(task, temporary)
        record = {"status": "ok", "row": row, "excluded": None, "outputs": _outputs(temporary)}
        _store(step, task, key, record, temporary)
    except Exception as error:  # whatever one scan does, the others go on
        if isinstance(error, MachineError) or (
            isinstance(error, OSError) and error.errno in NO_ROOM
        ):
            raise
        log.error("%s excluded: %s", task.id, error)
        if not isinstance(error, TumorAtlasError):
            log.error("%s", traceback.format_exc())
        record = _excluded_record(step, task, error)
        _store(step, task, key, record, None)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    hashes = {name: facts["sha256"] for name, facts in record["outputs"].items()}
    cpu_s = round(time.process_time() - cpu, 3)
    return {"status": record["status"], "outputs": hashes, "started": started, "cpu_s": cpu_s}


def _outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Sync and re-read every file of a folder: what is hashed is what the disk gave back."""
    facts = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync(path)
        size = path.stat().st_size
        facts[str(path.relative_to(folder))] = {"sha256": sha256_file(path), "bytes": size}
    return facts


def _excluded_record(step: Step, task: Task, error: Exception) -> dict[str, Any]:
    if not isinstance(error, TumorAtlasError):
        error = TumorAtlasError(
            "UNEXPECTED",
            type(error).__name__,
            str(error),
            remedy="See the rule's log; if the file is sound, report the defect",
        )
    excluded = error.excluded_row(task.id, step.rule)
    return {"status": "excluded", "row": None, "excluded": excluded, "outputs": {}}


def _store(step: Step, task: Task, key: str, record: dict[str, Any], folder: Path | None) -> None:
    """Put a finished folder (or, for an excluded scan, only its record) in its place."""
    if folder is None:
        folder = _scratch(step) / f"{task.id}.excluded"
        folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, {"id": task.id, "key": key, **record})
    final = step.folder / task.id
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(folder, final)
    sync(final.parent)
