"""The outputs of a job against those of its replay, and against its record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumoratlas.core.files import read_json, sha256_file, sha256_json
from tumoratlas.core.results import MANIFEST_HEADER, RECORD

if TYPE_CHECKING:
    from tumoratlas.reproduce.differences import Difference

SUMS = "SHA256SUMS"
# What a manifest calls the row in a scan's record, and the parts of a record that hold no key.
_ROW = "row"
_PARTS = (_ROW, "excluded")


@dataclass(frozen=True)
class Unequal:
    """A file that is not what the record says.

    Attributes
    ----------
    name
        Its place below the working directory.
    is_altered
        True where the replay gave what was recorded, and the file of the run is another.
    """

    name: str
    is_altered: bool


def unequal_outputs(record: Mapping[str, Any], run: Path, folder: Path) -> Iterator[Unequal]:
    """Find every file of a job that is not the same in its record, in the run and in the replay.

    Of an output that lists files by hash (the step runner's manifest, a release's SHA256SUMS)
    the listed files come first, each compared with the list. Second names of one file are not
    read.

    Parameters
    ----------
    record
        The job's ``ended`` record.
    run, folder
        Working directory of the run, and that of the replay.
    """
    for name, facts in record["outputs"].items():
        lists = [_listed(base, name) for base in (run, folder)]
        for member in sorted({*lists[0], *lists[1]}):
            listed = [members.get(member) for members in lists]
            if listed[0] != listed[1] or _excluded(run / member) != _excluded(folder / member):
                yield Unequal(member, is_altered=False)
            elif not _is_one_file(run / member, folder / member) and (
                _hash(run / member) != listed[0]
            ):
                yield Unequal(member, is_altered=True)
        hashes = [_hash(base / name) for base in (folder, run)]
        if hashes != [facts["sha256"]] * 2:
            yield Unequal(name, is_altered=hashes[0] == facts["sha256"])


def locate(found: Unequal, run: Path, folder: Path) -> Difference | None:
    """Return where the file of the run and that of the replay differ first."""
    # Slow to import, and seldom needed.
    from tumoratlas.reproduce.differences import difference_of_values, first_difference

    before, after = run / found.name, folder / found.name
    if before.name == RECORD:
        parts = [_parts(path) for path in (before, after)]
        if None not in parts and parts[0] != parts[1]:
            return difference_of_values(*parts, found.name)
    return first_difference(before, after, found.name)


def _listed(base: Path, name: str) -> dict[str, str]:
    """Return file to hash where an output is a list of files; others list nothing."""
    path, folder = base / name, Path(name).parent
    if not path.is_file() or not (path.suffix == ".tsv" or path.name == SUMS):
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.name == SUMS:
        return {str(folder / line[66:]): line[:64] for line in lines}
    listed = {}
    for line in lines[1:] if lines[:1] == [MANIFEST_HEADER] else []:
        item, _, _, outputs = line.split("\t")
        for part, sha256 in json.loads(outputs).items():
            listed[str(folder / item / (RECORD if part == _ROW else part))] = sha256
    return listed


def _is_one_file(before: Path, after: Path) -> bool:
    """Tell second names of one file: scans of a release, which need not be read."""
    return before.exists() and after.exists() and before.samefile(after)


def _parts(path: Path) -> dict[str, Any] | None:
    """Return what a scan's record holds beside its key, or None where it cannot be read."""
    try:
        record = read_json(path)
        return {part: record[part] for part in _PARTS}
    except (OSError, ValueError, KeyError):
        return None


def _excluded(path: Path) -> Any:  # noqa: ANN401 - JSON values
    return (_parts(path) or {}).get("excluded") if path.name == RECORD else None


def _hash(path: Path) -> str | None:
    """Return the hash that lists give a file (of a record, that of its row), or None."""
    if path.name == RECORD:
        parts = _parts(path)
        return sha256_json(parts[_ROW]) if parts else None
    return sha256_file(path) if path.is_file() else None
