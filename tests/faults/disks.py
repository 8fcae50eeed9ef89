"""Disks that are full, out of inodes, or read-only; small file systems in memory stand for them."""

from functools import partial

from tests.faults.damage import PREDICTED
from tests.faults.fault import fault
from tests.faults.processes import HARMONIZE, TARGET
from tests.faults.run import VERIFIED, Run, Said

TOPIC = "Disks"
full = partial(fault, topic=TOPIC)
ROOM = "make room, then the same command"


@full("disk full where scans are written", sees=r"DISK_FULL", recovery=ROOM)
def fill_results(run: Run) -> Said:
    run.drop(HARMONIZE)
    place = run.disk(HARMONIZE, "size=100k")
    said = run.run(TARGET)
    run.remount(place, "size=64m")
    run.again(TARGET)
    return said


@full("disk full where the release is built", sees=r"DISK_FULL|No space left", recovery=ROOM)
def fill_release(run: Run) -> Said:
    run.drop("results/release/2.0", VERIFIED)
    place = run.disk("results/release", "size=64m")
    run.leave_room(place, 200)
    said = run.run(VERIFIED)
    run.remount(place, "size=64m")
    run.again(VERIFIED)
    return said


@full("disk full for a table", sees=r"DISK_FULL|No space left", recovery=ROOM)
def fill_tables(run: Run) -> Said:
    run.drop("results/tables/tumors.parquet")
    place = run.disk("results/tables", "size=64m")
    run.leave_room(place, 4)
    said = run.run("results/tables/tumors.parquet")
    run.remount(place, "size=64m")
    run.again("results/tables/tumors.parquet")
    return said


@full("disk full in the whole working directory", sees=r"No space left|DISK_FULL", recovery=ROOM)
def fill_everything(run: Run) -> Said:
    run.drop(HARMONIZE)
    place = run.disk("", "size=64m")
    run.leave_room(place, 120)
    said = run.run(TARGET)
    run.remount(place, "size=64m")
    run.run("--unlock")
    run.again(TARGET)
    return said


@full(
    "disk full for temporary files",
    sees="",
    recovery="none needed: what is large is written beside the results",
)
def fill_temporary(run: Run) -> Said:
    run.drop(PREDICTED)
    place = run.disk("tmp", "size=4k")
    (place / "rest").write_bytes(bytes(4096))
    said = run.run(f"{PREDICTED}/s0000.tsv", environment={"TMPDIR": str(place)})
    assert said.status == 0, said.text
    return said


@full("no inodes left where scans are written", sees=r"DISK_FULL", recovery=ROOM)
def use_up_inodes(run: Run) -> Said:
    run.drop(HARMONIZE)
    place = run.disk(HARMONIZE, "nr_inodes=12")
    said = run.run(TARGET)
    run.remount(place, "nr_inodes=100k")
    run.again(TARGET)
    return said


@full(
    "results on a disk that became read-only",
    sees=r"Read-only file system",
    recovery="mount it for writing, then the same command",
)
def lock_results(run: Run) -> Said:
    run.drop(HARMONIZE)
    place = run.disk(HARMONIZE, "ro")
    said = run.run(TARGET)
    run.remount(place, "rw")
    run.again(TARGET)
    return said


@full(
    "a working directory that became read-only",
    sees=r"Read-only file system",
    recovery="mount it for writing, then the same command",
)
def lock_everything(run: Run) -> Said:
    run.drop(HARMONIZE)
    place = run.disk("", "ro")
    said = run.run(TARGET)
    run.remount(place, "rw")
    run.again(TARGET)
    return said
