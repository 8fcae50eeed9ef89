"""What a release holds, for those who write its further files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumoratlas.ingest.sources import Source

Row = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]
TARGETS = ("internal", "labels_only", "full")


@dataclass(frozen=True)
class ReleaseFacts:
    """A release whose volumes, tables and counts are written.

    Attributes
    ----------
    version
        Version of the dataset.
    target
        One of `TARGETS`: for whom it is.
    cases
        Rows of `tumoratlas.release.cases.write_case`, by case id.
    tables
        Released rows by table.
    sources
        Descriptions of the sources that its cases come from.
    definitions
        Configuration ``connectivity, minimum_volume_mm3, size_edges_mm, early_diameter_mm``.
    sums
        Place below the release to SHA-256, of every file written so far.
    resources
        Folder of templates.
    """

    version: str
    target: str
    cases: Rows
    tables: Mapping[str, list[Row]]
    sources: Sequence[Source]
    definitions: Mapping[str, Any]
    sums: Mapping[str, str]
    resources: Path
