"""The tables of the pipeline: their columns, types and order, in one place.

A table is read and written as a list of rows or a data frame and always has every column of its
schema. Parquet and CSV bytes depend only on the values.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tumoratlas.core.files import replacing, write_text

_TEXT, _INT, _FLOAT, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_POINT, _TEXTS = pa.list_(_FLOAT, 3), pa.list_(_TEXT)
_BOX = pa.list_(_INT, 6)
# Most cells need no look at what they begin with.
_RISKY = re.compile(r"[=+@-]|\t|[^\r]*\r").match

SCHEMAS: dict[str, pa.Schema] = {
    "scans": pa.schema(
        {
            "scan_id": _TEXT,
            "source": _TEXT,
            "source_case": _TEXT,
            "patient_key": _TEXT,
            "image_path": _TEXT,
            "label_paths": _TEXTS,
            "source_file": _TEXT,
            "file_sha256": _TEXT,
            "voxel_sha256": _TEXT,
            "shape": pa.list_(_INT, 3),
            "spacing_mm": _POINT,
            "orientation": _TEXT,
            "hu_min": _FLOAT,
            "hu_max": _FLOAT,
            "hu_p01": _FLOAT,
            "hu_p99": _FLOAT,
            "slices": _INT,
            "phase": _TEXT,
            "sex": _TEXT,
            "age": _TEXT,
            "manufacturer": _TEXT,
            "licence": _TEXT,
            "role": _TEXT,
            "reserved": _TEXT,
            "repairs": _TEXTS,
            "warnings": _TEXTS,
            "duplicate_group": _TEXT,
            "relation": _TEXT,
            "kept": _BOOL,
            "case_id": _TEXT,
            "shard": _TEXT,
        }
    ),
    "relations": pa.schema(
        {
            "scan_a": _TEXT,
            "scan_b": _TEXT,
            "relation": _TEXT,
            "outer": _TEXT,
            "found_by": _TEXTS,
            "shared": _INT,
            "equal_share": _FLOAT,
            "correlation": _FLOAT,
            "offset_hu": _FLOAT,
            "evidence": _TEXT,
        }
    ),
    "excluded": pa.schema(
        {
            "id": _TEXT,
            "rule": _TEXT,
            "code": _TEXT,
            "reason": _TEXT,
            "evidence": _TEXT,
            "remedy": _TEXT,
        }
    ),
    "repairs": pa.schema(
        {"id": _TEXT, "rule": _TEXT, "name": _TEXT, "before": _TEXT, "after": _TEXT}
    ),
    "sources": pa.schema(
        {
            "source": _TEXT,
            "name": _TEXT,
            "kind": _TEXT,
            "licence": _TEXT,
            "licence_verified": _BOOL,
            "found": _INT,
            "expected_paper": _INT,
            "difference_paper": _INT,
            "expected_official": _INT,
            "difference_official": _INT,
            "reserved": _INT,
            "expected_reserved": _INT,
            "difference_reserved": _INT,
            "claimed": _INT,
            "read": _INT,
            "kept": _INT,
            "in_cases": _INT,
            "unlabelled": _INT,
            "excluded": _TEXT,
            "copies_of": _TEXT,
            "repaired": _TEXT,
            "warned": _TEXT,
            "missing": _TEXT,
        }
    ),
    "leakage": pa.schema(
        {
            "case_id": _TEXT,
            "split": _TEXT,
            "test_set": _TEXT,
            "test_scan_id": _TEXT,
            "relation": _TEXT,
            "path": _TEXT,
            "evidence": _TEXT,
            "is_leak": _BOOL,
            "leaks_in": _TEXT,
        }
    ),
    "test_scans": pa.schema(
        {
            "test_set": _TEXT,
            "test_scan_id": _TEXT,
            "relation": _TEXT,
            "pool_scan_id": _TEXT,
            "case_id": _TEXT,
            "split": _TEXT,
            "path": _TEXT,
            "evidence": _TEXT,
            "cases_touched": _INT,
        }
    ),
    "source_overlaps": pa.schema(
        {
            "source": _TEXT,
            "other": _TEXT,
            "scans": _INT,
            "same": _INT,
            "crop": _INT,
            "resample": _INT,
            "overlap": _INT,
            "chain": _INT,
            "patient": _INT,
        }
    ),
    "candidates": pa.schema(
        {
            "candidate_id": _TEXT,
            "number": _INT,
            "case_id": _TEXT,
            "organ": _TEXT,
            "bbox": _BOX,
            "voxels": _INT,
            "volume_mm3": _FLOAT,
            "radius_mm": _FLOAT,
            "max_p": _FLOAT,
            "mean_p": _FLOAT,
            "organ_overlap": _FLOAT,
            "distance_to_organ_mm": _FLOAT,
            "threshold": _FLOAT,
            "model_id": _TEXT,
            "is_restored": _BOOL,
        }
    ),
    "reviews": pa.schema(
        {
            "schema": _INT,
            "event_id": _TEXT,
            "previous_hash": _TEXT,
            "stage": _TEXT,
            "batch": _TEXT,
            "case_id": _TEXT,
            "organ": _TEXT,
            "candidate_id": _TEXT,
            "reviewer_id": _TEXT,
            "role": _TEXT,
            "decision": _TEXT,
            "reason": _TEXT,
            "comment": _TEXT,
            "tool": _TEXT,
            "time": _TEXT,
            "seconds": _FLOAT,
            "base_sha256": _TEXT,
            "mask_sha256": _TEXT,
        }
    ),
    "tumors": pa.schema(
        {
            "tumor_id": _TEXT,
            "number": _INT,
            "case_id": _TEXT,
            "organ": _TEXT,
            "side": _TEXT,
            "lesion_kind": _TEXT,
            "voxels": _INT,
            "volume_mm3": _FLOAT,
            "radius_mm": _FLOAT,
            "longest_axial_mm": _FLOAT,
            "perpendicular_mm": _FLOAT,
            "max_3d_mm": _FLOAT,
            "size_class": _TEXT,
            "is_early": _BOOL,
            "is_early_recist": _BOOL,
            "is_fragment": _BOOL,
            "centroid_lps_mm": _POINT,
            "bbox": _BOX,
            "mean_hu": _FLOAT,
            "sd_hu": _FLOAT,
            "origin": _TEXT,
            "reviewers": _TEXTS,
            "events": _TEXTS,
            "touches_border": _BOOL,
        }
    ),
    "masks": pa.schema(
        {
            "case_id": _TEXT,
            "organ": _TEXT,
            "state": _TEXT,
            "origin": _TEXT,
            "source": _TEXT,
            "label_licence": _TEXT,
            "signed_by": _TEXT,
            "resampled": _BOOL,
            "pending": _TEXTS,
            "released": _BOOL,
        }
    ),
    "licences": pa.schema(
        {
            "case_id": _TEXT,
            "file": _TEXT,
            "kind": _TEXT,
            "sources": _TEXTS,
            "licences": _TEXTS,
            "internal": _BOOL,
            "labels_only": _BOOL,
            "full": _BOOL,
            "reasons": _TEXTS,
        }
    ),
    "splits": pa.schema({"scheme": _TEXT, "case_id": _TEXT, "split": _TEXT, "group": _TEXT}),
    "crosswalk": pa.schema(
        {
            "case_id": _TEXT,
            "scan_id": _TEXT,
            "source": _TEXT,
            "source_case": _TEXT,
            "source_file": _TEXT,
            "relation": _TEXT,
            "file_sha256": _TEXT,
            "voxel_sha256": _TEXT,
            "kept": _BOOL,
        }
    ),
}


def write_table(path: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as Parquet with the columns of the table ``name``.

    Raises
    ------
    KeyError
        A row has a column that the schema lacks.
    pyarrow.ArrowInvalid
        A value does not fit its column's type.
    """
    schema = SCHEMAS[name]
    rows = list(rows)
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise KeyError(f"table {name} has no column {sorted(unknown)}")
    write_parquet(Path(path), schema, rows)


def write_parquet(path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the schema's columns of rows as Parquet; equal rows give equal bytes."""
    columns = {key: [row.get(key) for row in rows] for key in schema.names}
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary, compression="zstd")


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table; text stays ``str`` or ``None``, lists stay lists."""
    return pd.DataFrame(read_rows_of(path), columns=pq.read_schema(path).names)


def read_rows_of(path: Path) -> list[dict[str, Any]]:
    """Read a Parquet table as rows of plain Python values."""
    return pq.read_table(path).to_pylist()


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV (line feeds); lists are joined by ``;``.

    Text that a spreadsheet would run as a formula is disarmed by a leading apostrophe. Line
    ends inside text become line feeds: readers take a lone carriage return for a row's end.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    rows = list(rows)
    # Column by column: a release has millions of cells.
    cells = [[_cell(row.get(column)) for row in rows] for column in columns]
    writer.writerows(zip(*cells, strict=True))
    return buffer.getvalue()


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write the text of `csv_text` in UTF-8."""
    write_text(Path(path), csv_text(rows, columns))


def _cell(value: object) -> object:
    if isinstance(value, str):
        return _text(value) if _RISKY(value) else value
    if isinstance(value, list | tuple):
        joined = ";".join([str(v) for v in value])
        # A list of numbers may start with a minus and is no formula.
        return _cell(joined) if any(isinstance(v, str) for v in value) else joined
    return value


def _text(value: str) -> str:
    disarmed = f"'{value}" if value[:1] in tuple("=+-@\t\r") else value
    return disarmed.replace("\r\n", "\n").replace("\r", "\n")
