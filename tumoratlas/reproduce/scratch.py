"""The scratch directory of a replay: the run as the job found it, without what the job made."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tumoratlas.core.files import sha256_bytes, sha256_file
from tumoratlas.reproduce.overlay import Overlay

SCRATCH = Path("results/reproduce/.replay")  # below the working directory
# Made anew by every run: the scratch directory begins with none of it.
_FRESH = ("results/provenance", "results/reproduce", "logs", "benchmarks", ".snakemake")
# Folder of the records that takes in files at any time; a job sees those that it was given.
_RETURNS = "returns"


def changed_inputs(record: Mapping[str, Any], run: Path) -> list[str]:
    """Return the recorded inputs of a job that are no longer what they were, or gone.

    A file that has only grown (``.jsonl`` files of the records are appended to) is still there in
    its former state.
    """
    return [name for name, facts in record["inputs"].items() if _former(run / name, facts) is None]


def _former(path: Path, facts: Mapping[str, Any]) -> int | None:
    """Return how many bytes of the file are the recorded ones, or None."""
    if not path.is_file():
        return None
    size = path.stat().st_size
    if size == facts["bytes"]:
        return size if sha256_file(path) == facts["sha256"] else None
    if path.suffix != ".jsonl" or size < facts["bytes"]:
        return None
    with open(path, "rb") as file:
        is_former = sha256_bytes(file.read(facts["bytes"])) == facts["sha256"]
    return facts["bytes"] if is_former else None


@contextmanager
def scratch_directory(
    record: Mapping[str, Any], run: Path, *, records: str
) -> Iterator[tuple[Path, Path]]:
    """Give a directory in which a job can be run again; it is removed at the end.

    Everything in it is a link into the run, with these exceptions. The folder of each output
    holds nothing but recorded inputs, so that the job finds nothing of what it made. Records that
    have grown since are cut to what the job read. Logs and provenance begin empty. Folders beside
    the run are linked as far up as a path of the record climbs.

    Parameters
    ----------
    record
        The job's ``ended`` record.
    run
        Working directory of the run, absolute, without links.
    records
        The configured folder of records.

    Yields
    ------
    The root, which the job must not leave, and the working directory in it.
    """
    root = run / SCRATCH / record["job"].replace("/", ".")
    shutil.rmtree(root, ignore_errors=True)  # what a killed replay left
    climb = min(_climb([list(record["inputs"]), record["params"]]), len(run.parents) - 1)
    folder = root.joinpath(*run.parts[len(run.parts) - 1 - climb :])
    overlay = Overlay(root, [])
    try:
        for real in [*run.parents[:climb]][::-1] + [run]:
            place = root / real.relative_to(run.parents[climb])
            place.mkdir(parents=True, exist_ok=True)
            for name in os.listdir(real):
                if not (place / name).exists() and real / name not in (run, *run.parents):
                    (place / name).symlink_to(real / name)
        for name in _FRESH:
            overlay.own(folder / Path(name).parent)
            (folder / name).unlink(missing_ok=True)
        (folder / record["log"]).parent.mkdir(parents=True, exist_ok=True)
        for parent in sorted({Path(name).parent for name in record["outputs"]}):
            overlay.own((folder / parent).parent)
            _link_inputs(record["inputs"], run / parent, folder / parent, parent)
        _set_back(record, run, folder, records, overlay)
        yield root, folder
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _climb(value: Any) -> int:  # noqa: ANN401 - JSON values
    """Return the most steps up from the working directory that a path among the values takes."""
    if isinstance(value, str):
        parts = Path(value).parts
        return next((n for n, part in enumerate(parts) if part != ".."), len(parts))
    values = value.values() if isinstance(value, Mapping) else value
    return max(map(_climb, values), default=0) if isinstance(value, Mapping | list) else 0


def _link_inputs(inputs: Iterable[str], real: Path, place: Path, parent: Path) -> None:
    """Make a folder that holds inputs, and folders with inputs, and nothing else."""
    if place.is_symlink():
        place.unlink()
    place.mkdir(exist_ok=True)
    below = [Path(name).relative_to(parent) for name in inputs if Path(name).is_relative_to(parent)]
    for name in sorted({path.parts[0] for path in below}):
        (place / name).symlink_to(real / name)


def _set_back(
    record: Mapping[str, Any], run: Path, folder: Path, records: str, overlay: Overlay
) -> None:
    """Give the records the state that the job found, as far as it is recorded."""
    real, place = (Path(os.path.normpath(base / records)) for base in (run, folder))
    # Records beside the run are linked only if the job names them, those elsewhere never.
    if not place.is_dir() or place == real:
        return
    overlay.own(place)
    inputs = {Path(os.path.normpath(run / name)): facts for name, facts in record["inputs"].items()}
    if (place / _RETURNS).exists():
        for path in sorted((real / _RETURNS).rglob("*")):
            returned = place / path.relative_to(real)
            if path.is_dir():
                overlay.own(returned)
            else:
                returned.unlink()
                # No link: what readers send back is refused if it is one.
                if path in inputs:
                    _link(path, returned)
    for path, facts in inputs.items():
        if path.is_relative_to(real) and path.stat().st_size != facts["bytes"]:
            with open(path, "rb") as file:
                former = file.read(facts["bytes"])
            (place / path.relative_to(real)).unlink()
            (place / path.relative_to(real)).write_bytes(former)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
