"""Where two files that should be equal differ first, in the terms of their content."""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tumoratlas.core.errors import ToldError
from tumoratlas.images.arrays import decode_array
from tumoratlas.images.nifti import decode_nifti

_SHOWN = 120  # characters of a value
_LARGEST = 2**40  # voxels: both files are our own


@dataclass(frozen=True)
class Difference:
    """The first difference of two files.

    Attributes
    ----------
    file
        Name of both.
    place
        Where they differ, such as ``row 3, column radius_mm`` or ``voxel 0, 4, 2 (z, y, x)``.
    before, after
        What the first and the second file hold there.
    """

    file: str
    place: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}: {self.place}: {self.before} became {self.after}"


# Place, value before, value after.
_Found = tuple[str, object, object]


def first_difference(before: Path, after: Path, name: str) -> Difference | None:
    """Return where two files differ first, or None where their bytes are equal.

    Tables are compared by row and column, JSON by path, volumes by voxel (z, y, x), tensors by
    name and place, everything else, and what cannot be read or differs in its bytes alone, by
    byte offset (from 0).

    Parameters
    ----------
    before, after
        The files; their suffix tells the format.
    name
        Name of both in the result.
    """
    missing = [path for path in (before, after) if not path.is_file()]
    if missing:
        shown = ["absent" if path in missing else "present" for path in (before, after)]
        return None if len(missing) == 2 else Difference(name, "file", *shown)
    # Whether a run's file is what was written does not count here, only how the two differ.
    data = before.read_bytes(), after.read_bytes()
    if data[0] == data[1]:
        return None
    found = None
    for suffix, compare in _COMPARED.items():
        if before.name.endswith(suffix):
            try:
                found = compare(before, after)
            except (ToldError, ValueError, KeyError, pa.ArrowException):  # damaged: by its bytes
                found = None
    return _told(name, found or _bytes(*data))


def difference_of_values(before: object, after: object, name: str) -> Difference | None:
    """Return the first JSON path, in the order of the keys, at which two JSON values differ."""
    found = _values(before, after, "$")
    return _told(name, found) if found else None


def _told(name: str, found: _Found) -> Difference:
    place, *values = found
    return Difference(name, place, *(_shown(value) for value in values))


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _values(before: object, after: object, place: str) -> _Found | None:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}, key=str):
            if key not in before or key not in after:
                return f"{place}.{key}", before.get(key, "absent"), after.get(key, "absent")
            if found := _values(before[key], after[key], f"{place}.{key}"):
                return found
        return None
    if isinstance(before, list) and isinstance(after, list):
        for index, pair in enumerate(zip(before, after, strict=False)):
            if found := _values(*pair, f"{place}[{index}]"):
                return found
        if len(before) != len(after):
            return f"{place}, length", len(before), len(after)
        return None
    return None if _is_same(before, after) else (place, before, after)


def _is_same(before: object, after: object) -> bool:
    if isinstance(before, float) and isinstance(after, float) and math.isnan(before):
        return math.isnan(after)
    return type(before) is type(after) and before == after


def _json(before: Path, after: Path) -> _Found | None:
    return _values(*(json.loads(path.read_text(encoding="utf-8")) for path in (before, after)), "$")


def _json_lines(before: Path, after: Path) -> _Found | None:
    lines = [path.read_text(encoding="utf-8").split("\n") for path in (before, after)]
    for number, pair in enumerate(zip(*lines, strict=False), 1):
        if pair[0] != pair[1]:
            if not all(pair):
                break
            return _values(*map(json.loads, pair), f"line {number}, $")
    return _length("lines", *map(len, lines))


def _length(what: str, before: int, after: int) -> _Found | None:
    return None if before == after else (f"number of {what}", before, after)


def _csv(before: Path, after: Path) -> _Found | None:
    delimiter = "\t" if before.name.endswith(".tsv") else ","
    rows = [
        list(csv.reader(path.read_text(encoding="utf-8").splitlines(), delimiter=delimiter))
        for path in (before, after)
    ]
    return _rows(*rows)


def _rows(before: Sequence[Sequence[Any]], after: Sequence[Sequence[Any]]) -> _Found | None:
    """Compare tables whose first row is the header; rows are numbered from 0 below it."""
    if before[0] != after[0]:
        return "columns", list(before[0]), list(after[0])
    for number, pair in enumerate(zip(before[1:], after[1:], strict=False)):
        for column, *values in zip(before[0], *pair, strict=False):
            if _values(*values, "$"):
                return f"row {number}, column {column}", *values
    return _length("rows", len(before) - 1, len(after) - 1)


def _parquet(before: Path, after: Path) -> _Found | None:
    tables = [pq.read_table(path) for path in (before, after)]
    schemas = [{field.name: str(field.type) for field in table.schema} for table in tables]
    if schemas[0] != schemas[1]:
        return _values(*schemas, "columns")
    return _rows(*([t.column_names, *zip(*t.to_pydict().values(), strict=True)] for t in tables))


def _array(before: Path, after: Path) -> _Found | None:
    (one, meta), (other, other_meta) = (decode_array(p, p.read_bytes()) for p in (before, after))
    return _values(meta, other_meta, "facts") or _voxels(one, other)


def _nifti(before: Path, after: Path) -> _Found | None:
    one, other = (
        decode_nifti(path, path.read_bytes(), max_voxels=_LARGEST) for path in (before, after)
    )
    return _values(one.grid.to_json(), other.grid.to_json(), "grid") or _voxels(
        one.array, other.array
    )


def _voxels(before: NDArray[Any], after: NDArray[Any]) -> _Found | None:
    kinds = [f"{array.dtype} {array.shape}" for array in (before, after)]
    if kinds[0] != kinds[1]:
        return "type and shape", *kinds
    if (index := _first_unequal(before, after)) is None:
        return None
    axes = " (z, y, x)" if before.ndim == 3 else ""
    place = f"voxel {', '.join(map(str, index))}{axes}"
    return place, before[index].item(), after[index].item()


def _first_unequal(before: NDArray[Any], after: NDArray[Any]) -> tuple[int, ...] | None:
    unequal = before != after
    if before.dtype.kind == "f":
        unequal &= ~(np.isnan(before) & np.isnan(after))
    if not unequal.any():
        return None
    return tuple(int(n) for n in np.unravel_index(int(unequal.argmax()), before.shape))


def _tensors(before: Path, after: Path) -> _Found | None:
    from safetensors.numpy import load_file

    one, other = load_file(before), load_file(after)
    shapes = [{name: f"{t.dtype} {t.shape}" for name, t in found.items()} for found in (one, other)]
    if shapes[0] != shapes[1]:
        return _values(*shapes, "tensors")
    for name in sorted(one):
        if (index := _first_unequal(one[name], other[name])) is not None:
            place = f"tensor {name}[{', '.join(map(str, index))}]"
            return place, one[name][index].item(), other[name][index].item()
    return None


def _bytes(before: bytes, after: bytes) -> _Found:
    length = min(len(before), len(after))
    one, other = (np.frombuffer(data, np.uint8, length) for data in (before, after))
    unequal = one != other
    offset = int(unequal.argmax()) if unequal.any() else length
    return f"byte {offset}", *(_excerpt(data, offset) for data in (before, after))


def _excerpt(data: bytes, offset: int) -> str:
    """Return what stands at an offset: text as text, other bytes in hexadecimal digits."""
    part = data[offset : offset + 24]
    if not part:
        return "end of file"
    try:
        return part.decode("ascii")
    except UnicodeDecodeError:
        return part[:8].hex(" ")


_COMPARED: dict[str, Callable[[Path, Path], _Found | None]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".jsonl": _json_lines,
    ".b2nd": _array,
    ".nii.gz": _nifti,
    ".safetensors": _tensors,
}
