"""Two releases as their comparison reads them; of either version of the tables."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import sha256_file

Row = dict[str, Any]
SUMS = "SHA256SUMS"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_NO_TARGET = "internal"  # releases were made for nobody else before they named their target


class ReleaseFolder:
    """A release folder, read as far as it is asked for.

    Attributes
    ----------
    path
        The folder.
    sums
        Place to SHA-256 of every file.
    definitions
        Content of ``definitions.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sums = self._read_sums()
        self.definitions = self._json("definitions.json")

    @property
    def version(self) -> str:
        """Return the version of the dataset."""
        return str(self.definitions.get("version", ""))

    @property
    def target(self) -> str:
        """Return for whom the release is made."""
        return str(self.definitions.get("target", _NO_TARGET))

    @cached_property
    def cases(self) -> set[str]:
        """Return the cases that have a file."""
        parts = (place.split("/") for place in self.sums)
        return {p[1] for p in parts if len(p) > 2 and p[0] in ("ct", "label")}

    @cached_property
    def voxel_hashes(self) -> dict[str, str]:
        """Return the hash of the voxels of every volume, by place; empty in early releases."""
        return {row["path"]: row["voxel_sha256"] for row in self.csv("voxel_hashes.csv")}

    def holds(self, place: str) -> bool:
        """Return whether the release lists a file."""
        return place in self.sums

    def json(self, place: str) -> dict[str, Any]:
        """Return the object in a JSON file, or nothing where the release lacks it."""
        return self._json(place) if place in self.sums else {}

    def csv(self, place: str) -> list[Row]:
        """Return the rows of a CSV file, or none where the release lacks it."""
        if place not in self.sums:
            return []
        try:
            with open(self._checked(place), newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise self._unreadable(place, error) from error

    def table(self, name: str, columns: Collection[str] = ()) -> list[Row] | None:
        """Return the rows of a table, or None where the release lacks it.

        Parameters
        ----------
        name
            Name of the table.
        columns
            Columns to read, those that it has; all if none are named.
        """
        place = f"tables/{name}.parquet"
        if place not in self.sums:
            return None
        try:
            names = pq.read_schema(self._checked(place)).names
            wanted = [column for column in names if column in columns] if columns else names
            return pq.read_table(self.path / place, columns=wanted).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(place, error) from error

    def table_columns(self, name: str) -> list[str]:
        """Return the columns of a table; none where the release lacks it."""
        place = f"tables/{name}.parquet"
        return pq.read_schema(self.path / place).names if place in self.sums else []

    def table_length(self, name: str) -> int | None:
        """Return the number of rows of a table, or None where the release lacks it."""
        place = f"tables/{name}.parquet"
        if place not in self.sums:
            return None
        try:
            return pq.read_metadata(self._checked(place)).num_rows
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(place, error) from error

    def _read_sums(self) -> dict[str, str]:
        path = self.path / SUMS
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ReleaseError(
                "NO_RELEASE", path, f"cannot be read: {type(error).__name__}",
                remedy="Give the folder of a release, the one that holds SHA256SUMS",
            ) from error  # fmt: skip
        matches = [_SUM_LINE.fullmatch(line) for line in lines]
        if not lines or None in matches:
            raise ReleaseError(
                "NO_RELEASE", path, "is not a list of hashes and places",
                remedy="Copy the release again; `python -m tumoratlas verify` names each problem",
            )  # fmt: skip
        return {match[2]: match[1] for match in matches if match}

    def _json(self, place: str) -> dict[str, Any]:
        try:
            value = json.loads(self._checked(place).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._unreadable(place, error) from error
        if not isinstance(value, dict):
            raise self._unreadable(place, TypeError())
        return value

    def _checked(self, place: str) -> Path:
        """Return the path of a file that has the bytes that were released."""
        path = self.path / place
        if sha256_file(path) != self.sums.get(place):
            raise ReleaseError(
                "CHANGED", path, f"its bytes are not those that {SUMS} lists",
                remedy="Copy the release again; `python -m tumoratlas verify` names each problem",
            )  # fmt: skip
        return path

    def _unreadable(self, place: str, error: Exception) -> ReleaseError:
        return ReleaseError(
            "NO_RELEASE", self.path / place, f"cannot be read: {type(error).__name__}",
            remedy="Copy the release again; `python -m tumoratlas verify` names each problem",
        )  # fmt: skip


class Pair:
    """Two releases side by side.

    Attributes
    ----------
    old, new
        The releases.
    notes
        What could not be compared, and why.
    """

    def __init__(self, old: ReleaseFolder, new: ReleaseFolder) -> None:
        self.old, self.new = old, new
        self.notes: list[str] = []
        self._tables: dict[str, tuple[list[Row], list[Row]] | None] = {}

    @cached_property
    def common_cases(self) -> set[str]:
        """Return the cases of both releases."""
        return self.old.cases & self.new.cases

    def tables(self, name: str, key: Collection[str]) -> tuple[list[Row], list[Row]] | None:
        """Return the rows of a table in both releases, or None where they cannot be compared.

        What one of them lacks is noted.

        Parameters
        ----------
        name
            Name of the table.
        key
            Columns without which its rows cannot be told apart.
        """
        if name not in self._tables:
            self._tables[name] = self._read(name, key)
        return self._tables[name]

    def columns(self, name: str) -> list[str]:
        """Return the columns that a table has in both releases."""
        theirs = set(self.old.table_columns(name))
        return [column for column in self.new.table_columns(name) if column in theirs]

    def same_voxels(self, place: str) -> bool:
        """Return whether a volume of both releases is known to hold the same voxels."""
        if self.old.sums.get(place) == self.new.sums.get(place):
            return True
        before, after = (r.voxel_hashes.get(place) for r in (self.old, self.new))
        return before is not None and before == after

    @cached_property
    def changed_volumes(self) -> dict[str, list[str]]:
        """Return the places of volumes that came, went or have other voxels, by case."""
        changed = defaultdict(list)
        for place in sorted(self.old.sums.keys() | self.new.sums.keys()):
            parts = place.split("/")
            if parts[0] in ("ct", "label") and len(parts) > 2 and parts[1] in self.common_cases:
                if not self.same_voxels(place):
                    changed[parts[1]].append(place)
        return changed

    def _read(self, name: str, key: Collection[str]) -> tuple[list[Row], list[Row]] | None:
        rows = []
        sides = (("older", self.old, self.new), ("newer", self.new, self.old))
        for side, release, other in sides:
            found, columns = release.table(name), set(release.table_columns(name))
            if found is None:
                if other.table_columns(name):
                    self.notes.append(f"table {name}: the {side} release has none")
                return None
            if missing := sorted(set(key) - columns):
                lacks = f"the {side} release has no column {', '.join(missing)}"
                self.notes.append(f"table {name}: {lacks}")
                return None
            rows.append(found)
        for side, release, other in sides:
            ours = release.table_columns(name)
            missing = [column for column in other.table_columns(name) if column not in ours]
            if missing:
                text = f"{', '.join(missing)} of table {name}: the {side} release has none"
                self.notes.append(text)
        return rows[0], rows[1]


def by_key(rows: list[Row], key: Collection[str], subject: str) -> dict[tuple[str, ...], Row]:
    """Return rows by their key.

    Raises
    ------
    ReleaseError
        ``TABLE_KEY``: two rows have the same key.
    """
    keyed = {tuple(row[column] or "" for column in key): row for row in rows}
    if len(keyed) < len(rows):
        raise ReleaseError(
            "TABLE_KEY", subject, f"two rows have the same {', '.join(key)}",
            remedy="`python -m tumoratlas verify` names each problem; build the release again",
        )  # fmt: skip
    return keyed
