"""What people change in mid-run: configuration, code, models, sources; and wrong clocks."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.faults.damage import MEASURED, PREDICTED
from tests.faults.fault import fault
from tests.faults.processes import AGAIN, HARMONIZE, TARGET
from tests.faults.run import VERIFIED, Run, Said, cut, rewrite
from tumoratlas.core.records import latest_by
from tumoratlas.train.registry import store_model

TOPIC = "Edits and clocks"
edited = partial(fault, topic=TOPIC)
SCAN = "sources/lits/Training_Batch1/volume-0.nii"
LABEL = "sources/lits/Training_Batch1/segmentation-0.nii"
LEVELS = f"{PREDICTED}/s0000.tsv"


@edited(
    "the configuration edited in mid-run",
    sees="",
    recovery="none: a run goes on with what it read; the next one does what the edit asks for",
)
def edit_config(run: Run) -> Said:
    run.drop(HARMONIZE, PREDICTED)
    process = run.start(LEVELS)
    run.until_at_work(HARMONIZE, process)
    run.change_config(harmonize={"model_spacing_mm": 2.0})
    said = run.finish(process)
    assert said.status == 0, said.text
    assert "harmonize_scans" in run.run(LEVELS, "-n").text
    run.change_config()
    return said


@edited(
    "a typing error put into the configuration in mid-run",
    sees="CONFIG_VALUE",
    recovery="mend the key, then the same command",
)
def misspell_config(run: Run) -> Said:
    run.drop(HARMONIZE, PREDICTED)
    process = run.start(LEVELS)
    run.until_at_work(HARMONIZE, process)
    run.change_config(shard=7)
    assert run.finish(process).status == 0
    said = run.run(LEVELS)
    run.change_config()
    run.again(LEVELS)
    return said


@contextmanager
def kept(path: Path) -> Iterator[bytes]:
    """Put a file back as it was, time included."""
    times, data = path.stat(), path.read_bytes()
    try:
        yield data
    finally:
        rewrite(path, data, times)


@edited("a module of the package edited in mid-run", sees="CODE_CHANGED", recovery=AGAIN)
def edit_module(run: Run) -> Said:
    run.drop(HARMONIZE, PREDICTED)
    module = run.checkout / "tumoratlas/candidates/levels.py"
    with kept(module) as code:
        process = run.start(LEVELS)
        run.until_at_work(HARMONIZE, process)
        module.write_bytes(code + b"\nADDED = 1\n")
        said = run.finish(process)
    run.again(LEVELS)
    return said


@edited(
    "a module cut in mid-run",
    sees="ImportError|SyntaxError|CODE_CHANGED",
    recovery="restore it, then the same command",
)
def cut_module(run: Run) -> Said:
    run.drop(HARMONIZE, PREDICTED)
    module = run.checkout / "tumoratlas/candidates/levels.py"
    with kept(module):
        process = run.start(LEVELS)
        run.until_at_work(HARMONIZE, process)
        cut(module)
        said = run.finish(process)
    run.again(LEVELS)
    return said


@edited(
    "weights of a registered model swapped for others",
    sees="MODEL_HASH",
    recovery="restore the file from the backup of `records/`, then the same command",
    is_quick=True,
)
def swap_weights(run: Run) -> Said:
    first, second = (run.path(f"records/models/*/fold_{n}/weights.safetensors") for n in (0, 1))
    with kept(first):
        rewrite(first, second.read_bytes())
        run.drop(PREDICTED)
        said = run.run(LEVELS)
    run.again(LEVELS)
    return said


@edited(
    "a registered model whose weights are NaN",
    sees="NAN_LOGITS",
    recovery="restore `records/` from its backup, then the same command",
)
def register_nan(run: Run) -> Said:
    models = run.folder / "results/train/liver"
    records = run.folder / "records"
    run.back_up()
    first, second = (models / f"fold_{fold}/weights.safetensors" for fold in (0, 1))
    with kept(first), kept(second):
        for path in (first, second):
            tensors = {name: np.full_like(t, np.nan) for name, t in load_file(path).items()}
            save_file(tensors, path)
        line = latest_by(records / "models.jsonl", "organ")["liver"]
        groups = {fold["weights"]: fold["training_groups"] for fold in line["folds"]}
        store_model(records / "models.jsonl", "liver", models, records / "models", groups)
    said = run.run(LEVELS)
    run.restore()
    run.again(LEVELS)
    return said


def change_source(run: Run, path: str, data: bytes | None) -> Said:
    """Change a source's file after it was fingerprinted, then put it back."""
    place = run.folder / path
    times, good = place.stat(), place.read_bytes()
    run.drop(HARMONIZE)
    if data is None:
        place.unlink()
    else:
        rewrite(place, data, times)
    said = run.run(TARGET)
    place.touch()
    rewrite(place, good, times)
    run.again(TARGET)
    return said


BACK = "put the file back, then the same command"


@edited("a source's scan replaced in mid-run, its time kept", sees="SCAN_CHANGED", recovery=BACK)
def replace_scan(run: Run) -> Said:
    data = bytearray((run.folder / SCAN).read_bytes())
    data[-2000:] = bytes(2000)
    return change_source(run, SCAN, bytes(data))


@edited("a source's label replaced in mid-run, its time kept", sees="SCAN_CHANGED", recovery=BACK)
def replace_label(run: Run) -> Said:
    data = bytearray((run.folder / LABEL).read_bytes())
    half = len(data) // 2
    data[half:] = bytes(len(data) - half)
    return change_source(run, LABEL, bytes(data))


@edited("a source's scan cut in mid-run", sees="SCAN_CHANGED", recovery=BACK)
def cut_scan(run: Run) -> Said:
    return change_source(run, SCAN, (run.folder / SCAN).read_bytes()[:40000])


@edited("a source's scan deleted in mid-run", sees="SCAN_CHANGED", recovery=BACK)
def delete_scan(run: Run) -> Said:
    return change_source(run, SCAN, None)


def set_times(run: Run, pattern: str, seconds: float) -> None:
    """Move the times of files, by seconds from now."""
    for number, path in enumerate(sorted(run.folder.glob(pattern))):
        if path.is_file():
            os.utime(path, (time.time() + seconds + number,) * 2)


@edited(
    "all results dated a day into the future", sees="Nothing to be done", recovery="none needed"
)
def date_forward(run: Run) -> Said:
    set_times(run, "results/**/*", 86_400)
    return run.run(VERIFIED)


@edited(
    "a machine whose clock is behind: outputs older than their inputs",
    sees="Nothing to be done",
    recovery="none needed: small files are compared by content",
)
def date_backward(run: Run) -> Said:
    set_times(run, f"{MEASURED}/s0000.tsv", -864_000)
    set_times(run, "results/tables/*.parquet", -800_000)
    return run.run(VERIFIED)


@edited(
    "results in an order of time that makes no sense",
    sees="",
    recovery="none needed: some jobs are done again",
)
def date_at_random(run: Run) -> Said:
    paths = sorted(run.folder.glob("results/**/*"))
    shuffled = np.random.default_rng(0).permutation(len(paths))
    for path, place in zip(paths, shuffled, strict=True):
        os.utime(path, (time.time() - 1000.0 * int(place),) * 2)
    said = run.run(VERIFIED)
    assert said.status == 0, said.text
    return said


@edited(
    "a network drive that answers `Stale file handle`",
    sees="DISK_LOST",
    recovery=AGAIN,
)
def lose_drive(run: Run) -> Said:
    run.drop(HARMONIZE)
    shim = run.shim(
        "import errno, pathlib\n"
        "read = pathlib.Path.read_bytes\n"
        "def lost(path):\n"
        "    if path.name == 'volume-0.nii':\n"
        "        raise OSError(errno.ESTALE, 'Stale file handle')\n"
        "    return read(path)\n"
        "pathlib.Path.read_bytes = lost\n"
    )
    said = run.run(TARGET, environment=shim)
    run.again(TARGET)
    return said
