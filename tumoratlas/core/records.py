"""Append-only JSON-lines files of the records folder.

Each line ends in ``sum``, 16 digits of a hash over itself and the ``sum`` before, so that a
changed digit is seen. A line that a person wrote has none.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import locked, sha256_bytes, to_json, write_text

_SUM = "sum"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a file in order; an absent file has none.

    Raises
    ------
    InputError
        ``RECORDS``: a line is damaged.
    """
    return _parse(path, _text(path))[0]


def _parse(path: Path, text: str) -> tuple[list[dict[str, Any]], str]:
    """Return the entries of a file's text and the last ``sum``."""
    entries, before = [], ""
    # Not splitlines: a pasted comment may hold U+2028 and the like, which JSON leaves as it is.
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            told = entry.pop(_SUM, None)
        except (json.JSONDecodeError, AttributeError, TypeError) as error:
            raise _damaged(path, f"line {number} cannot be read") from error
        if told is not None:
            before = _sum(before, entry)
            if told != before:
                raise _damaged(path, f"line {number} is not what was written")
        entries.append(entry)
    return entries, before


def _sum(before: str, entry: Mapping[str, Any]) -> str:
    return sha256_bytes(f"{before}{to_json(entry)}".encode())[:16]


def _damaged(path: Path, reason: str) -> InputError:
    return InputError("RECORDS", path, reason, remedy="Restore the file from its backup")


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
        text = _text(path)
        if text and not text.endswith("\n"):  # as some editors leave a file
            text += "\n"
        _, before = _parse(path, text)
        for entry in entries:
            before = _sum(before, json.loads(to_json(entry)))
            text += to_json({**entry, _SUM: before}) + "\n"
        write_text(path, text)


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8") if path.exists() else ""
