"""The append-only registry of case ids: content to id, for ever."""

from collections.abc import Mapping
from pathlib import Path

from tumoratlas.core.errors import InputError
from tumoratlas.core.records import append_lines, read_lines


def read_case_ids(path: Path) -> dict[str, str]:
    """Return ``voxel_sha256`` to ``case_id``; an absent file is an empty registry.

    Raises
    ------
    InputError
        ``REGISTRY`` where a content or an id stands twice; ``RECORDS`` where a line is damaged.
    """
    entries = read_lines(path)
    ids = {entry["voxel_sha256"]: entry["case_id"] for entry in entries}
    if len(ids) != len(entries) or len(set(ids.values())) != len(entries):
        raise InputError(
            "REGISTRY",
            path,
            "names a content or an id a second time",
            remedy="Restore the file from its backup; ids that were published must not change",
        )
    return ids


def append_case_ids(path: Path, new: Mapping[str, str]) -> None:
    """Append ids to the registry."""
    append_lines(path, [{"voxel_sha256": v, "case_id": c} for v, c in new.items()])
