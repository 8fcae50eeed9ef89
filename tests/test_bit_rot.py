"""Results that are no longer what was written: seen by whoever reads them, then made again."""

import errno
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tumoratlas.core.errors import DamageError, InputError, PutOffError
from tumoratlas.core.files import sha256_file, write_text
from tumoratlas.core.provenance import file_facts
from tumoratlas.core.rereading import damaged_results
from tumoratlas.core.results import (
    SUMS,
    keep_sums,
    read_record,
    read_result,
    refuse_damaged_inputs,
    take_away,
    write_record,
)
from tumoratlas.core.runner import (
    Step,
    Task,
    finished_folders,
    read_manifest,
    run_shard,
)
from tumoratlas.images.arrays import read_array, write_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti, write_nifti

MADE = Path("results/harmonize/make_scans")
READ = Path("results/measure/read_scans")
SCANS = ["a", "b", "c"]
GRID = Grid((4, 4, 4), np.eye(4))


class Run:
    """A rule that makes volumes and one that reads them, in a working directory."""

    def __init__(self) -> None:
        self.worked: Counter[str] = Counter()

    def make(self) -> None:
        """Write a volume, an array and a note for every scan."""

        def work(task: Task, folder: Path) -> dict[str, Any]:
            array = np.full((4, 4, 4), ord(task.id), np.int16)
            write_array(folder / "model.b2nd", array, spacing_mm=1.5)
            (folder / "more").mkdir()
            write_text(folder / "more/note.txt", f"a note on {task.id}\n")
            return {"id": task.id, "voxels": array.size}

        tasks = [Task(scan, {"scan": scan}) for scan in SCANS]
        run_shard(Step("make_scans", "s0000", MADE, {}, "c0de"), tasks, work, MADE / "s0000.tsv")

    def read(self) -> None:
        """Read all of it; the row tells what was there."""

        def work(task: Task, _folder: Path) -> dict[str, Any]:
            folder = task.data["folder"]
            return {
                "model": int(read_array(folder / "model.b2nd")[0].sum()),
                "note": read_result(folder / "more/note.txt").decode(),
                "voxels": read_record(folder)["row"]["voxels"],
            }

        tasks = [
            Task(scan, {"scan": scan}, {"folder": folder})
            for scan, folder in finished_folders([MADE / "s0000.tsv"]).items()
        ]
        step = Step("read_scans", "s0000", READ, {}, "c0de", max_excluded_fraction=1.0)
        run_shard(step, tasks, work, READ / "s0000.tsv")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a run of which the first rule is done."""
    monkeypatch.chdir(tmp_path)
    done = Run()
    done.make()
    keep_sums(file_facts([MADE / "s0000.tsv"]))
    return done


def flip(path: Path, at: float = 0.5) -> None:
    """Flip a bit; size and time stay."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file that belongs to results."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): sha256_file(path) for path in paths if "/." not in str(path)}


@pytest.mark.parametrize("at", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("name", ["model.b2nd", "more/note.txt", "record.json"])
def test_a_flipped_bit_stops_the_reader_and_is_mended(run: Run, name: str, at: float) -> None:
    """No scan is excluded; its rule makes it again, and nothing else."""
    made = hashes(MADE)
    run.read()
    undisturbed = hashes(READ)
    for path in READ.iterdir():
        if path.name in SCANS or path.suffix == ".tsv":
            take_away(path)
    flip(MADE / "b" / name, at)
    times = {scan: (MADE / scan).stat().st_ino for scan in SCANS}
    with pytest.raises(DamageError, match=f"RESULT_DAMAGED: {MADE}/b/{name}: "):
        run.read()
    assert not (READ / "s0000.tsv").exists() and not (READ / "b/record.json").exists()
    assert not (MADE / "s0000.tsv").exists()
    run.make()
    assert {scan for scan in SCANS if (MADE / scan).stat().st_ino != times[scan]} == {"b"}
    run.read()
    assert hashes(MADE) == made
    assert hashes(READ) == undisturbed


def test_other_scans_go_on(run: Run) -> None:
    """Two damaged files cost one failed run, not two, and no other scan waits for them."""
    flip(MADE / "a/more/note.txt")
    flip(MADE / "b/model.b2nd")
    with pytest.raises(DamageError):
        run.read()
    assert [scan for scan in SCANS if (READ / scan / "record.json").exists()] == ["c"]
    run.make()
    run.read()
    assert read_manifest(READ / "s0000.tsv") == dict.fromkeys(SCANS, "ok")


@pytest.mark.parametrize("gone", ["b", "b/model.b2nd", "b/more/note.txt"])
def test_what_is_gone_is_no_scan_without_data(run: Run, gone: str) -> None:
    """A deleted file or folder is told as such, and made again."""
    made = hashes(MADE)
    path = MADE / gone
    if path.is_dir():
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        path.rmdir()
    else:
        path.unlink()
    with pytest.raises(DamageError, match="RESULT_DAMAGED: .*is gone"):
        run.read()
    run.make()
    run.read()
    assert hashes(MADE) == made


def test_a_volume_is_compared_before_it_is_read(tmp_path: Path) -> None:
    """A CT whose bytes differ is no bad file of a source, which would exclude its case."""
    path = tmp_path / "ct.nii.gz"
    write_nifti(path, np.zeros((4, 4, 4), np.int16), GRID)
    outputs = {path.name: {"sha256": sha256_file(path)}}
    write_record(tmp_path, {"outputs": outputs, "status": "ok"})
    assert read_nifti(path, max_voxels=64).array.shape == (4, 4, 4)
    flip(path)
    with pytest.raises(DamageError, match="RESULT_DAMAGED"):
        read_nifti(path, max_voxels=64)
    path.unlink()
    with pytest.raises(DamageError, match="RESULT_DAMAGED: .*is gone"):
        read_nifti(path, max_voxels=64)


def test_a_file_of_somebody_else_is_read_as_it_is(tmp_path: Path) -> None:
    """A source may hold a `record.json` of its own, and files that are damaged as they came."""
    write_text(tmp_path / "record.json", '{"outputs": {"ct.nii.gz": {"sha256": "0"}}, "id": 1}\n')
    write_nifti(tmp_path / "ct.nii.gz", np.zeros(GRID.shape, np.int16), GRID)
    assert read_nifti(tmp_path / "ct.nii.gz", max_voxels=64).array.shape == GRID.shape
    flip(tmp_path / "ct.nii.gz")
    with pytest.raises(InputError, match="GZIP_"):
        read_nifti(tmp_path / "ct.nii.gz", max_voxels=64)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_does_not_answer_is_no_fault_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A scan on a network drive is not excluded for what the drive does; a forbidden one is."""
    path = tmp_path / "ct.nii.gz"
    write_nifti(path, np.zeros((4, 4, 4), np.int16), GRID)

    def fail(_path: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(PutOffError, match=f"DISK_LOST: .*ct.nii.gz.*{os.strerror(number)}"):
        read_nifti(path, max_voxels=64)
    number = errno.EACCES
    with pytest.raises(InputError, match="UNREADABLE"):
        read_nifti(path, max_voxels=64)


def test_an_input_that_its_rule_did_not_write_stops_a_job(run: Run) -> None:
    """A table that Snakemake tracks; it is moved aside, so that its rule makes it again."""
    table, note = Path("results/tables/tumors.csv"), Path("records/note.txt")
    for path in (table, note):
        write_text(path, "organ,tumors\nliver,3\n")
    keep_sums(file_facts([table]))
    paths = [table, note]
    refuse_damaged_inputs(paths, file_facts(paths))
    flip(note)  # no rule made it
    refuse_damaged_inputs(paths, file_facts(paths))
    flip(table)
    with pytest.raises(DamageError, match=f"INPUT_DAMAGED: {table}: is not what its rule") as told:
        refuse_damaged_inputs(paths, file_facts(paths))
    take_away(Path(told.value.subject))
    assert not table.exists() and table.with_name("tumors.csv.damaged").exists()
    with pytest.raises(DamageError, match="INPUT_DAMAGED: .*is gone"):
        refuse_damaged_inputs(paths, file_facts(paths))


def test_nothing_is_taken_away_that_no_rule_made(run: Run) -> None:
    """A source's file, a record, an input from elsewhere."""
    for path in (
        Path("records/models.jsonl"),
        Path("sources/lits/ct.nii"),
        Path("a.tsv").absolute(),
    ):
        write_text(path, "id\tstatus\tcode\toutputs\nct.nii\tok\t\t{}\n")
        take_away(path)
        assert path.exists()


def test_a_replay_takes_nothing_from_its_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder has no kept hash, and links into the run."""
    scratch = Path("scratch")
    scratch.mkdir()
    (scratch / "results").symlink_to(Path("results").absolute())
    flip(MADE / "b/model.b2nd")
    before = hashes(MADE)
    monkeypatch.setattr("tumoratlas.core.results.SUMS", scratch / "results/nothing/sums")
    with pytest.raises(DamageError):
        run.read()
    assert hashes(MADE) == before


def test_all_results_are_read_back(run: Run) -> None:
    """Files of scans, tracked files and releases; a hard link of a damaged file is one, too."""
    table = Path("results/tables/tumors.csv")
    write_text(table, "organ,tumors\n")
    release = Path("results/release/2.0")
    release.mkdir(parents=True)
    os.link(MADE / "a/model.b2nd", release / "model.b2nd")
    sums = release / "SHA256SUMS"
    write_text(sums, f"{sha256_file(MADE / 'a/model.b2nd')}  model.b2nd\n")
    verified = release.with_name("2.0.verified.json")
    write_text(verified, "{}\n")
    keep_sums(file_facts([table, sums, verified, MADE / "s0000.tsv"]))
    assert list(damaged_results()) == []
    flip(MADE / "a/model.b2nd")
    flip(MADE / "b/record.json")
    flip(table)
    assert dict(damaged_results()) == {
        MADE / "a/model.b2nd": [MADE / "a/model.b2nd"],
        MADE / "b/record.json": [MADE / "b/record.json"],
        table: [table],
        release / "model.b2nd": [sums, verified],
    }
    for _, taken in list(damaged_results()):
        for path in taken:
            take_away(path)
    assert not any(path.exists() for path in (table, sums, verified, MADE / "s0000.tsv"))
    assert (SUMS / table).exists()
