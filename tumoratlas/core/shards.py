"""What the jobs of one shard need of a result about all scans, in a file per shard.

A shard's file changes only where something of that shard changed: Snakemake compares the file with
the one that the shard's jobs took last, and starts those jobs only where it is another one. So it
holds no times, no counts and no places in an order of all scans.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tumoratlas.core.files import write_json


def write_shards(paths: Iterable[Path | str], parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the part of every shard; a file bears its shard's name, ``<shard>.json``.

    Parameters
    ----------
    paths
        Files of all shards.
    parts
        JSON object of each shard; a shard without one has an empty object.

    Raises
    ------
    KeyError
        A part belongs to a shard without a file.
    """
    files = {Path(path).stem: Path(path) for path in paths}
    if unknown := parts.keys() - files.keys():
        raise KeyError(f"no file for the shards {sorted(unknown)}")
    for shard, path in files.items():
        write_json(path, parts.get(shard, {}))
