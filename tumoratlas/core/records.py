"""Append-only JSON-lines files of the records folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import locked, to_json, write_text


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a file in order; an absent file has none.

    Raises
    ------
    InputError
        ``RECORDS``: a line is damaged.
    """
    entries = []
    text = _text(path)
    # Not splitlines: a pasted comment may hold U+2028 and the like, which JSON leaves as it is.
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(
                "RECORDS",
                path,
                f"line {number} cannot be read",
                remedy="Restore the file from its backup",
            ) from error
    return entries


def latest_by(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Return the last entry of every value of ``key``."""
    return {entry[key]: entry for entry in read_lines(path)}


def append_lines(path: Path, entries: list[Mapping[str, Any]]) -> None:
    """Append entries; the file changes as a whole or not at all."""
    with locked(path):
        _append(path, entries)


def append_latest(path: Path, key: str, entry: Mapping[str, Any]) -> None:
    """Append an entry unless the last one of the same ``key`` is equal to it."""
    with locked(path):
        if latest_by(path, key).get(entry[key]) != entry:
            _append(path, [entry])


def _append(path: Path, entries: list[Mapping[str, Any]]) -> None:
    if entries:
        before = _text(path)
        if before and not before.endswith("\n"):  # as some editors leave a file
            before += "\n"
        write_text(path, before + "".join(to_json(entry) + "\n" for entry in entries))


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8") if path.exists() else ""
