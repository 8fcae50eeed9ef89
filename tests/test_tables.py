"""Tables: fixed columns and types, bytes that depend on the values alone, harmless CSV."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tumoratlas.core.tables import SCHEMAS, read_rows_of, read_table, write_csv, write_table

ROW = {
    "id": "lits/volume-5.nii",
    "rule": "list_scans",
    "code": "DATA_SIZE",
    "reason": "Grüße",
    "evidence": "",
    "remedy": None,
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_empty_table_has_every_column(tmp_path: Path, name: str) -> None:
    """No row is no reason to lack a column."""
    path = tmp_path / "t.parquet"
    write_table(path, name, [])
    assert pq.read_schema(path).equals(SCHEMAS[name])
    frame = read_table(path)
    assert list(frame.columns) == SCHEMAS[name].names and len(frame) == 0


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    """Text, nothing, lists, truth values and floats keep value and type; absent is None."""
    row = {
        "scan_id": "lits_0",
        "label_paths": ["a", "b"],
        "shape": [3, 4, 5],
        "spacing_mm": [0.1, 0.2, 1 / 3],
        "hu_min": -1024.0,
        "slices": 3,
        "kept": True,
        "warnings": [],
    }
    write_table(tmp_path / "t.parquet", "scans", iter([row]))
    (back,) = read_rows_of(tmp_path / "t.parquet")
    assert back == dict.fromkeys(SCHEMAS["scans"].names) | row


def test_bytes_depend_on_the_values_alone(tmp_path: Path) -> None:
    """Another writing, another place, another key order: the same file."""
    write_table(tmp_path / "a.parquet", "excluded", [ROW, {"id": "x"}])
    (tmp_path / "elsewhere").mkdir()
    reversed_row = dict(reversed(ROW.items()))
    write_table(tmp_path / "elsewhere/b.parquet", "excluded", [reversed_row, {"id": "x"}])
    first = (tmp_path / "a.parquet").read_bytes()
    assert first == (tmp_path / "elsewhere/b.parquet").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "elsewhere"]
    for name in ("c.csv", "d.csv"):
        write_csv(tmp_path / name, [ROW], list(ROW))
    assert (tmp_path / "c.csv").read_bytes() == (tmp_path / "d.csv").read_bytes()


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"id": "a", "colour": "red"}, KeyError),
        ({"id": 7}, pa.ArrowException),
    ],
)
def test_what_the_schema_lacks_is_refused(
    tmp_path: Path, row: dict[str, object], error: type[Exception]
) -> None:
    """An unknown column or a wrong type leaves the older table as it was."""
    path = tmp_path / "t.parquet"
    write_table(path, "excluded", [ROW])
    before = path.read_bytes()
    with pytest.raises(error):
        write_table(path, "excluded", [ROW, row])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_csv_is_plain(tmp_path: Path) -> None:
    """UTF-8, newline ends, lists joined, nothing for None, chosen columns in order."""
    rows = [{"b": ["x", "y"], "a": 0.1, "c": None, "unused": 1}, {"a": True}]
    write_csv(tmp_path / "t.csv", rows, ["a", "b", "c"])
    assert (tmp_path / "t.csv").read_bytes() == b"a,b,c\n0.1,x;y,\nTrue,,\n"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
@pytest.mark.parametrize("as_list", [False, True])
def test_csv_disarms_formulas(tmp_path: Path, text: str, as_list: bool) -> None:
    """A reviewer's comment must not run in the reader's spreadsheet; numbers stay numbers."""
    cell = [text, "b"] if as_list else text
    write_csv(
        tmp_path / "t.csv", [{"comment": cell, "hu": -5, "mean": -5.5}], ["comment", "hu", "mean"]
    )
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        _, row = csv.reader(file)
    shown = "'" + text.replace("\r", "\n")
    assert row == [f"{shown};b" if as_list else shown, "-5", "-5.5"]
