"""Processes that die, are stopped, or end without having done their work."""

import os
import signal
import subprocess
from functools import partial

from tests.faults.fault import fault
from tests.faults.run import VERIFIED, Run, Said, told
from tumoratlas.core.results import read_record

AGAIN = "the same command"
UNLOCK = "`--unlock`, then the same command"
HARMONIZE = "results/harmonize/harmonize_scans"
TARGET = f"{HARMONIZE}/s0000.tsv"

TOPIC = "Processes"
killed = partial(fault, topic=TOPIC)


def at_work(run: Run) -> subprocess.Popen[bytes]:
    """Start a run whose shard of harmonize_scans has to be done, and wait until it works."""
    run.drop(HARMONIZE)
    process = run.start(TARGET)
    run.until_at_work(HARMONIZE, process)
    return process


@killed(
    "kill -9 of the process that works on a scan",
    sees=r"the process of \S+ died with status -9",
    recovery="none needed: another process takes the scan",
)
def kill_worker(run: Run) -> Said:
    process = at_work(run)
    run.worker(process, "harmonize_scans").kill()
    said = run.finish(process)
    assert said.status == 0, said.text
    return said


@killed("kill -9 of a job", sees=r"Error in rule harmonize_scans", recovery=AGAIN)
def kill_job(run: Run) -> Said:
    process = at_work(run)
    run.job(process, "harmonize_scans").kill()
    said = run.finish(process)
    run.again(TARGET)
    return said


@killed("kill -9 of snakemake alone", sees=r"Directory cannot be locked", recovery=UNLOCK)
def kill_snakemake(run: Run) -> Said:
    process = at_work(run)
    process.kill()
    process.wait()
    said = run.run(TARGET)
    run.unlock()
    run.again(TARGET)
    return said


@killed(
    "kill -9 of the whole process group",
    sees=r"Directory cannot be locked",
    recovery=UNLOCK,
)
def kill_group(run: Run) -> Said:
    process = at_work(run)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    said = run.run(TARGET)
    run.unlock()
    run.again(TARGET)
    return said


@killed(
    "kill -9 of the group while the release is built",
    sees=r"Directory cannot be locked",
    recovery=UNLOCK,
)
def kill_build(run: Run) -> Said:
    run.drop("results/release/2.0", VERIFIED)
    process = run.start(VERIFIED)
    run.until(lambda: list(run.folder.glob("results/release/.2.0.building/*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    said = run.run(VERIFIED)
    run.unlock()
    run.again(VERIFIED)
    return said


@killed(
    "SIGTERM to snakemake",
    sees=r"Will exit after finishing currently running jobs",
    recovery=AGAIN,
)
def terminate_snakemake(run: Run) -> Said:
    process = at_work(run)
    process.terminate()
    said = run.finish(process)
    run.again(TARGET)
    return said


@killed("SIGTERM to a job", sees=r"stopped on request", recovery=AGAIN)
def terminate_job(run: Run) -> Said:
    process = at_work(run)
    run.job(process, "harmonize_scans").terminate()
    said = run.finish(process)
    assert said.status == 1, said.text
    run.again(TARGET)
    return said


@killed("SIGUSR1 to a job, as before a time limit", sees=r"stopped on request", recovery=AGAIN)
def limit_job(run: Run) -> Said:
    process = at_work(run)
    run.job(process, "harmonize_scans").send_signal(signal.SIGUSR1)
    said = run.finish(process)
    run.again(TARGET)
    return said


@killed("Ctrl-C (SIGINT to the group)", sees=r"stopped on request", recovery=AGAIN)
def interrupt_group(run: Run) -> Said:
    process = at_work(run)
    os.killpg(process.pid, signal.SIGINT)
    said = run.finish(process)
    run.again(TARGET)
    return said


@killed(
    "too little memory twice for one scan (its process exits 137)",
    sees=r"PROCESS_KILLED",
    recovery="what the remedy in `excluded` says: more memory, delete the scan's folder and the "
    "manifest; then the same command",
)
def starve_scan(run: Run) -> Said:
    run.drop(HARMONIZE)
    # The first two processes that the step runner forks die like those that the kernel ends.
    shim = run.shim(
        "import os, signal\n"
        "if b'harmonize_scans.py' in open('/proc/self/cmdline', 'rb').read():\n"
        "    def die():\n"
        "        for place in ('first', 'second'):\n"
        f"            place = {str(run.folder.parent)!r} + '/' + place\n"
        "            if not os.path.exists(place):\n"
        "                open(place, 'w').close()\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "    os.register_at_fork(after_in_child=die)\n"
    )
    said = run.run(TARGET, environment=shim)
    manifest = run.folder / TARGET
    [line] = [line for line in manifest.read_text().splitlines() if "PROCESS_KILLED" in line]
    scan = line.split()[0]
    row = read_record(run.folder / HARMONIZE / scan)["excluded"]
    run.drop(f"{HARMONIZE}/{scan}", TARGET)
    run.again(TARGET)
    return Said(said.status, told(row))


@killed(
    "a job exits 0 without its output",
    sees=r"MissingOutputException|Job completed successfully, but some output files are missing",
    recovery=AGAIN,
)
def skip_work(run: Run) -> Said:
    run.drop("results/measure/measure_tumors")
    shim = run.shim(
        "import os\n"
        "if b'measure_tumors.py' in open('/proc/self/cmdline', 'rb').read():\n"
        "    os._exit(0)\n"
    )
    said = run.run("results/measure/measure_tumors/s0000.tsv", environment=shim)
    run.again("results/measure/measure_tumors/s0000.tsv")
    return said


@killed(
    "a second run in the same folder",
    sees=r"Directory cannot be locked",
    recovery="none needed: the first goes on",
)
def run_twice(run: Run) -> Said:
    process = at_work(run)
    worker = run.worker(process, "harmonize_scans")
    worker.suspend()
    said = run.run(TARGET)
    worker.resume()
    assert run.finish(process).status == 0
    return said


@killed(
    "a second run at the same time, with `--nolock`",
    sees=r"another run holds harmonize_scans s0000; waiting for it",
    recovery="none needed: it waits, then finds the work done",
)
def run_twice_unlocked(run: Run) -> Said:
    first = at_work(run)
    worker = run.worker(first, "harmonize_scans")
    worker.suspend()
    second = run.start(TARGET, "--nolock")
    log = run.folder / "logs/harmonize_scans/s0000.log"
    run.until(lambda: log.exists() and b"another run holds" in log.read_bytes(), second)
    text = log.read_text(errors="replace")
    worker.resume()
    for process in (first, second):
        assert run.finish(process).status == 0
    return Said(0, text)


@killed(
    "a lock and a half-done scan left by a machine that lost power",
    sees=r"Directory cannot be locked",
    recovery=UNLOCK,
)
def lose_power(run: Run) -> Said:
    run.drop(TARGET, f"{HARMONIZE}/BDMAP_0*")
    half = run.folder / HARMONIZE / ".tmp/s0000/BDMAP_00000001"
    half.mkdir(parents=True)
    (half / "ct.nii.gz").write_bytes(b"\x1f\x8b half")
    journal = run.folder / HARMONIZE / ".journal/s0000.jsonl"
    journal.parent.mkdir(exist_ok=True)
    journal.write_bytes(b'{"event": "started", "id": "BDMAP_0000\x00\x00\x00\xff garbage')
    locks = run.folder / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    for kind in ("input", "output"):
        (locks / f"0.{kind}.lock").write_text(f"{TARGET}\n")
    said = run.run(TARGET)
    run.unlock()
    run.again(TARGET)
    return said
