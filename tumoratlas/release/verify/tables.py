"""The check of a release's tables and definitions, and of the counts made from them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tumoratlas.core.errors import TumorAtlasError
from tumoratlas.core.tables import csv_text
from tumoratlas.release.build import MODEL_COLUMNS, class_map_facts
from tumoratlas.release.counts.files import COUNTS, write_counts
from tumoratlas.release.facts import TARGETS
from tumoratlas.release.tables import ORDER, released_schema
from tumoratlas.release.verify.files import VOXEL_HASHES, Files
from tumoratlas.release.verify.problems import Problems

Row = dict[str, Any]
Tables = Mapping[str, list[Row]]

# What the checks of rows rely on; other cells may be empty.
_FILLED = {
    "scans": ("scan_id", "source", "kept"),
    "relations": ("scan_a", "scan_b", "relation"),
    "leakage": ("case_id", "test_set", "is_leak"),
    "crosswalk": ("case_id", "scan_id", "source"),
    "masks": ("case_id", "organ", "state", "released"),
    "tumors": (
        *("tumor_id", "case_id", "organ", "number", "lesion_kind", "size_class", "origin"),
        *("radius_mm", "longest_axial_mm", "is_early", "is_early_recist", "is_fragment"),
    ),
    "candidates": ("candidate_id", "case_id", "organ"),
    "reviews": ("case_id", "decision"),
    "splits": ("scheme", "case_id", "split", "group"),
    "excluded": ("id", "rule", "code"),
    "licences": ("case_id", "file", "kind", *TARGETS),
}


def read_tables(files: Files, problems: Problems) -> dict[str, list[Row]]:
    """Return the rows of every table that can be read and is what its schema says."""
    tables = {}
    for name in ORDER:
        place = f"tables/{name}.parquet"
        if place not in files.intact:
            told = "is missing or damaged, so that nothing that rests on it is checked"
            problems.add("TABLE", place, told)
            continue
        rows = _read_table(files.folder / place, name, place, problems)
        if rows is not None:
            tables[name] = rows
            _compare_csv(files, f"tables/{name}.csv", rows, released_schema(name), problems)
    return tables


def _read_table(path: Path, name: str, place: str, problems: Problems) -> list[Row] | None:
    schema = released_schema(name)
    try:
        with pq.ParquetFile(path) as file:
            # What the table says of itself is not what its columns must hold.
            found = file.schema_arrow
            if wrong := _difference(found, schema):
                problems.add("TABLE", place, wrong)
                return None
            table = file.read()
        table.validate(full=True)
        rows = table.to_pylist()
    except Exception as error:  # Arrow raises errors of several libraries
        problems.add("TABLE", place, f"cannot be read: {type(error).__name__}")
        return None
    empty = [key for key in _FILLED.get(name, ()) if any(row[key] is None for row in rows)]
    if empty:
        problems.add("TABLE", place, f"has rows without {', '.join(empty)}")
        return None
    return rows


def _difference(found: pa.Schema, schema: pa.Schema) -> str:
    """Return how two schemas differ in names, order, types or nullability; empty if they do not."""
    if found.names != schema.names:
        strange = sorted(set(found.names) ^ set(schema.names)) or ["another order"]
        return f"has other columns than it should: {', '.join(strange)}"
    wrong = [
        f"{a.name} is {_type(a)}, not {_type(b)}"
        for a, b in zip(found, schema, strict=True)
        if not a.equals(b)
    ]
    return "; ".join(wrong)


def _type(field: pa.Field) -> str:
    return f"{field.type}" if field.nullable else f"{field.type} without nulls"


def _compare_csv(
    files: Files, place: str, rows: list[Row], schema: pa.Schema, problems: Problems
) -> None:
    if place in files.intact:
        expected = csv_text(rows, schema.names).encode("utf-8")
        if (files.folder / place).read_bytes() != expected:
            problems.add("TABLE", place, "does not say what the Parquet file says")


def read_definitions(files: Files, problems: Problems) -> dict[str, Any] | None:
    """Return ``definitions.json`` if it defines what it must."""
    place = "definitions.json"
    value = files.read_json(place)
    if not isinstance(value, dict):
        problems.add("DEFINITIONS", place, "is missing, damaged or no object")
        return None
    edges = value.get("size_edges_mm")
    holds = {
        "version": isinstance(value.get("version"), str),
        "target": value.get("target") in TARGETS,
        "connectivity": value.get("connectivity") in (6, 18, 26),
        "early_diameter_mm": _is_number(value.get("early_diameter_mm")),
        "minimum_volume_mm3": _is_number(value.get("minimum_volume_mm3")),
        "public_words": _are_words(value.get("public_words", [])),
        "size_edges_mm": isinstance(edges, list)
        and len(edges) == 3
        and all(map(_is_number, edges))
        and edges == sorted(set(edges)),
    }
    wrong = [name for name, is_right in holds.items() if not is_right]
    if wrong:
        problems.add("DEFINITIONS", place, f"does not define {', '.join(wrong)}")
        return None
    return value


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def check_small_files(files: Files, problems: Problems) -> None:
    """Check the class map and the list of models."""
    facts = files.read_json("class_map.json")
    if facts is not None and facts != class_map_facts():
        problems.add("CLASS_MAP", "class_map.json", "is not the class map of this version")
    files.read_csv("models.csv", MODEL_COLUMNS)


def read_voxel_hashes(files: Files, volumes: list[str], problems: Problems) -> dict[str, str]:
    """Return the listed hash of the voxels of every volume, by path."""
    rows = files.read_csv(VOXEL_HASHES, ["path", "voxel_sha256"])
    if rows is None:
        return {}
    paths = [row["path"] for row in rows]
    for place in sorted(set(paths) ^ set(volumes)):
        told = "has no voxel hash" if place in volumes else f"is in {VOXEL_HASHES} and not listed"
        problems.add("VOXELS", place, told)
    if paths != sorted(set(paths)):
        problems.add("VOXELS", VOXEL_HASHES, "is not sorted by path, or lists one twice")
    return {row["path"]: row["voxel_sha256"] for row in rows}


def check_counts(
    files: Files,
    tables: Tables,
    slices: Mapping[str, int],
    definitions: Mapping[str, Any],
    problems: Problems,
) -> None:
    """Count again, and compare with every file of counts byte by byte.

    Parameters
    ----------
    files
        The release.
    tables
        Its tables, whose tumors were measured again on the instance maps.
    slices
        Slices of every case, as its volumes have them.
    definitions
        Content of ``definitions.json``.
    problems
        What is found wrong goes here.
    """
    sources = {row["case_id"]: row["source"] for row in tables["scans"] if row["kept"]}
    cases = [
        {"case_id": case_id, "source": sources.get(case_id, ""), "slices": count}
        for case_id, count in sorted(slices.items())
    ]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            write_counts(Path(scratch), tables=tables, cases=cases, definitions=definitions)
        except TumorAtlasError as error:
            problems.add("COUNTS", "counts", f"cannot be computed: {error.reason}")
            return
        for name in COUNTS:
            place = f"counts/{name}"
            if place in files.intact:
                expected = (Path(scratch) / name).read_bytes()
                if (files.folder / place).read_bytes() != expected:
                    problems.add("COUNTS", place, "is not what the tables give")
