"""Results on the disk, and whether they still are what was written.

A scan's folder holds a ``record.json`` with the SHA-256 of itself and of every file beside it; a
file that Snakemake tracks has its SHA-256 below ``results/provenance/sums/``. Whoever reads a
result compares. What differs is taken away, so that the next run makes it again.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import DamageError
from tumoratlas.core.files import (
    sha256_bytes,
    sha256_json,
    to_json,
    write_json,
    write_text,
)
from tumoratlas.core.provenance import PROVENANCE

RECORD = "record.json"
MANIFEST_HEADER = "id\tstatus\tcode\toutputs"
DAMAGED = ".damaged"
SUMS = PROVENANCE / "sums"
_OWN = "sha256"
# An id holds one slash at most, a released file's place another.
_DEPTH = 4


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a scan's folder, with its own hash."""
    write_json(folder / RECORD, signed(record))


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its own hash."""
    plain = json.loads(to_json(record))  # as it will be read: keys are texts
    return plain | {_OWN: sha256_json(plain)}


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record in a scan's folder: ``row``, ``outputs``, ``excluded`` (`run_shard`).

    Raises
    ------
    DamageError
        ``RESULT_DAMAGED``: it is gone or altered.
    """
    path = folder / RECORD
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text)
        expected = record.pop(_OWN)
    except FileNotFoundError:
        raise _damage(path, "is gone") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise _damage(path, f"cannot be read: {error}") from None
    # Records are one canonical line: without its hash it is what was hashed, and need not be
    # written again to be compared.
    plain = text.removesuffix("\n").replace(f'"{_OWN}": "{expected}", ', "", 1)
    if (found := sha256_bytes(plain.encode())) != expected:
        raise _damage(path, "is not what was written", expected, found)
    return record


def refuse_missing_record(folder: Path) -> None:
    """Stop at a scan that a manifest lists and whose folder is gone, at the cost of one look.

    Raises
    ------
    DamageError
        ``RESULT_DAMAGED``.
    """
    if not (folder / RECORD).is_file():
        raise _damage(folder / RECORD, "is gone")


def read_manifest(path: Path) -> dict[str, str]:
    """Return ``ok`` or ``excluded`` for every id of a manifest."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return {line.split("\t")[0]: line.split("\t")[1] for line in lines}


def is_result(path: Path) -> bool:
    """Tell whether a file belongs to a finished scan's folder."""
    return _recorded(path) is not None


def read_result(path: Path) -> bytes:
    """Return the bytes of a file; those of a finished scan's folder must be the recorded ones.

    Raises
    ------
    DamageError
        ``RESULT_DAMAGED``: the file is gone or altered.
    """
    expected = _recorded(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if expected is None:
            raise
        raise _damage(path, "is gone") from None
    if expected is not None and (found := sha256_bytes(data)) != expected:
        raise _damage(path, "is not what was written", expected, found)
    return data


def keep_sums(outputs: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the hash of every output of a job; ``outputs`` as `core.provenance.file_facts`."""
    for path, facts in outputs.items():
        write_text(SUMS / path, facts["sha256"] + "\n")


def refuse_damaged_inputs(paths: Iterable[Any], facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Stop a job of which an input is gone, or not what the rule that made it wrote.

    Parameters
    ----------
    paths
        The inputs.
    facts
        ``sha256`` of those that are there, by path (`core.provenance.file_facts`). Files that
        no rule made have no kept hash.

    Raises
    ------
    DamageError
        ``INPUT_DAMAGED``.
    """
    for path in map(str, paths):
        expected, found = _kept(path), facts.get(path, {}).get(_OWN)
        if found is None or expected not in (None, found):
            raise DamageError(
                "INPUT_DAMAGED",
                path,
                "is not what its rule wrote" if found else "is gone",
                evidence=f"written {expected[:16]}, found {found[:16]}" if found else "",
                remedy="Run the same command again: it is made again",
            )


def take_away(path: Path) -> None:
    """Take a damaged result out of the way, so that the next run makes it again.

    A tracked file is renamed. Of a scan the record goes, and every manifest that lists the scan;
    its files stay until it is done again. Where no run has kept a hash, nothing is touched: the
    folder may be a replay's, full of links into a run.
    """
    if not SUMS.is_dir():
        return
    for folder, manifest in list(_listing(path)):
        (folder / RECORD).unlink(missing_ok=True)
        manifest.unlink(missing_ok=True)
    # Another scan of the shard may have taken the manifest away.
    if _recorded(path):
        next(f for f in path.parents if (f / RECORD).is_file()).joinpath(RECORD).unlink()
    elif _kept(str(path)) and path.is_file():
        path.rename(path.with_name(path.name + DAMAGED))


def _listing(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the folder of the scan that a file belongs to, with each manifest that lists it."""
    above = [path, *path.parents][: _DEPTH + 1]
    for place in above[1:]:
        for manifest in sorted(place.glob("*.tsv")):
            with open(manifest, encoding="utf-8", errors="replace") as file:
                if file.readline().rstrip("\n") != MANIFEST_HEADER:
                    continue
            listed = read_manifest(manifest)
            for folder in above[: above.index(place)]:
                if folder.relative_to(place).as_posix() in listed:
                    yield folder, manifest


def _recorded(path: Path) -> str | None:
    """Return the hash that the record of a scan's folder has of a file, or None."""
    for folder in list(path.parents)[:_DEPTH]:
        if (folder / RECORD).is_file():
            try:
                outputs = read_record(folder)["outputs"]
                return outputs[path.relative_to(folder).as_posix()][_OWN]
            except (DamageError, KeyError, TypeError):
                return None  # another program's file of this name, beside somebody's scans
    return None


def _kept(path: str) -> str | None:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        return None
    try:
        return (SUMS / path).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _damage(path: Path, reason: str, expected: str = "", found: str = "") -> DamageError:
    remedy = "Run the same command again: its rule makes the scan again"
    if path.is_file() and path.stat().st_nlink > 1:
        remedy = "Run `python -m tumoratlas check`, which finds its other names, and then the "
        remedy += "same command again"
    evidence = f"written {expected[:16]}, found {found[:16]}" if expected else ""
    return DamageError("RESULT_DAMAGED", path, reason, evidence=evidence, remedy=remedy)
