"""The check of a release finds any flipped bit, and tells of any damage in one line each."""

import csv
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.small_release import make_release, relist
from tumoratlas.core.tables import csv_text, read_rows_of, write_parquet
from tumoratlas.release.tables import ORDER, released_schema
from tumoratlas.release.verify.files import is_volume
from tumoratlas.release.verify.release import verify_release

SUMS = "SHA256SUMS"
_LINE = re.compile(r"[A-Z][A-Z0-9_]+: [^\n]+: [^\n]+")
# Of a volume: magic, method, flags, time, level and system of the gzip header, and its trailer.
_GZIP_BYTES = (0, 2, 3, 4, 7, 8, 9, -8, -5, -4, -1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole release."""
    work = tmp_path_factory.mktemp("release")
    return make_release(work, work / "out" / "2.0")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a maker of copies whose files are second names of the whole release's."""
    return lambda name: Path(shutil.copytree(whole, tmp_path / name, copy_function=os.link))


def places_of(release: Path) -> list[str]:
    """Return every file of a release."""
    return sorted(p.relative_to(release).as_posix() for p in release.rglob("*") if p.is_file())


def replace(release: Path, place: str, data: bytes) -> None:
    """Give a file other bytes without touching its other names."""
    (release / place).unlink()
    (release / place).write_bytes(data)


def flip(release: Path, place: str, byte: int, bit: int) -> None:
    """Flip one bit of a file."""
    data = bytearray((release / place).read_bytes())
    data[byte] ^= 1 << bit
    replace(release, place, bytes(data))


def problems(release: Path) -> list[str]:
    """Return what is wrong with a release; each problem is a line."""
    found = verify_release(release).problems
    assert all(_LINE.fullmatch(line) for line in found), found
    return found


def names_all(lines: list[str], places: list[str]) -> list[str]:
    """Return the places that no line names."""
    return [place for place in places if not any(f" {place}:" in line for line in lines)]


@pytest.mark.parametrize("only_volumes", [False, True])
def test_a_flipped_bit_is_found_in_every_file(
    whole: Path, copy: Callable[[str], Path], only_volumes: bool
) -> None:
    """Wherever it is: also in bytes that no reader looks at, and beside other damage."""
    rng = random.Random(1)
    places = [place for place in places_of(whole) if place != SUMS]
    if only_volumes:  # the tables are whole, so that everything is compared
        places = [place for place in places if is_volume(place)]
    for turn in range(4 if only_volumes else 6):
        release = copy(f"copy{turn}")
        if turn == 1:  # a changed library is searched for private words, which takes seconds
            places = [place for place in places if not place.endswith("niivue.js")]
        for place in places:
            size = (whole / place).stat().st_size
            byte = rng.randrange(size)
            if is_volume(place) and turn % 2 == 0:
                byte = rng.choice(_GZIP_BYTES)
            flip(release, place, byte % size, rng.randrange(8))
        assert names_all(problems(release), places) == []


def test_each_byte_of_the_gzip_header_and_trailer_counts(
    whole: Path, copy: Callable[[str], Path]
) -> None:
    """One volume after the other has another of these bytes flipped."""
    places = [place for place in places_of(whole) if is_volume(place)]
    bits = [(byte, bit) for byte in (*range(10), *range(-8, 0)) for bit in range(8)]
    for turn, start in enumerate(range(0, len(bits), len(places))):
        release, chosen = copy(f"copy{turn}"), bits[start : start + len(places)]
        changed = places[: len(chosen)]
        for place, (byte, bit) in zip(changed, chosen, strict=True):
            flip(release, place, byte, bit)
        assert names_all(problems(release), changed) == []


@pytest.mark.parametrize("part", ["hash", "gap", "path", "end"])
def test_a_flipped_bit_is_found_in_the_list_itself(
    whole: Path, copy: Callable[[str], Path], part: str
) -> None:
    """In a hash, the gap, a path or a line's end: every damaged line is told of."""
    rng = random.Random(2)
    text = (whole / SUMS).read_bytes()
    lines = text.split(b"\n")[:-1]
    # Every other line, since a lost end damages the line that follows, too.
    chosen = rng.sample(range(0, len(lines), 2), 8)
    ranges = {"hash": (0, 64), "gap": (64, 66), "path": (66, None), "end": (None, None)}
    data = bytearray(text)
    for index, number in enumerate(chosen):
        start = sum(len(line) + 1 for line in lines[:number])
        low, high = ranges[part]
        length = len(lines[number])
        byte = length if low is None else rng.randrange(low, high or length)
        # All eight bits of a line feed: one makes it a sign that ends a line of text, too.
        data[start + byte] ^= 1 << (index if low is None else rng.randrange(8))
    release = copy("copy")
    replace(release, SUMS, bytes(data))
    told = problems(release)
    for number in chosen:
        place = lines[number][66:].decode()
        assert names_all(told, [place]) == [] or any(
            line.startswith(f"SUMS: {SUMS} line ") for line in told
        )
    assert any(SUMS in line for line in told)


@pytest.mark.parametrize("bit", range(8))
def test_one_flipped_bit_in_the_list_is_enough(
    whole: Path, copy: Callable[[str], Path], bit: int
) -> None:
    """The last byte, alone: the end of the last line."""
    release = copy("copy")
    flip(release, SUMS, -1, bit)
    assert any(line.startswith("SUMS: ") for line in problems(release))


def test_any_damage_is_told_and_nothing_is_raised(whole: Path, copy: Callable[[str], Path]) -> None:
    """Files cut, emptied, replaced by rubbish or by another file, with matching checksums."""
    rng = random.Random(3)
    places = [place for place in places_of(whole) if place != SUMS]
    told = [p for p in places if is_volume(p) or p.endswith(".parquet")]
    told += ["definitions.json", "class_map.json", "models.csv", "voxel_hashes.csv"]
    for turn in range(6):
        release = copy(f"copy{turn}")
        damaged = rng.sample(places, len(places) // 4)
        for place in damaged:
            data = (whole / place).read_bytes()
            rubbish = (
                b"",
                data[: len(data) // 2],
                rng.randbytes(500),
                b"[" * 5000,
                b'{"a": 1}',
                "ä;\u2028\x00\x1b[31m".encode(),
                (whole / rng.choice([p for p in places if p != place])).read_bytes(),
            )
            replace(release, place, rng.choice(rubbish))
        relist_all(release, damaged)
        lines = problems(release)
        missing = names_all(lines, [place for place in damaged if place in told])
        assert not [place for place in missing if not is_told(lines, place)]


def is_told(lines: list[str], place: str) -> bool:
    """Return whether a line tells of what a damaged file is about, though not of its place.

    Of a sound volume in another's place the case is told, where the volumes disagree; of half
    a list of hashes the volumes that it lacks.
    """
    about = place.split("/")[1] if is_volume(place) else "has no voxel hash"
    return (is_volume(place) or place == "voxel_hashes.csv") and any(about in x for x in lines)


def relist_all(release: Path, places: list[str]) -> None:
    """Write the new hashes of changed files into the list."""
    for place in places:
        relist(release, release / place)


def test_any_value_in_a_table_is_told_or_taken(whole: Path, copy: Callable[[str], Path]) -> None:
    """Rows lost, doubled, emptied or filled with nonsense raise nothing."""
    rng = random.Random(4)
    for turn in range(8):
        release = copy(f"copy{turn}")
        for name in rng.sample(sorted(ORDER), 4):
            place = f"tables/{name}"
            rows = read_rows_of(release / f"{place}.parquet")
            schema = released_schema(name)
            for row in rng.sample(rows, min(2, len(rows))):
                key = rng.choice(schema.names)
                row[key] = rng.choice(values_of(schema.field(key).type))
            rows = rng.choice([rows, rows[1:], rows + rows[:1]])
            for suffix in ("parquet", "csv"):
                (release / f"{place}.{suffix}").unlink()
            write_parquet(release / f"{place}.parquet", schema, rows)
            (release / f"{place}.csv").write_bytes(csv_text(rows, schema.names).encode())
            relist_all(release, [f"{place}.parquet", f"{place}.csv"])
        assert not [line for line in problems(release) if line.startswith("UNREADABLE")]


def values_of(kind: pa.DataType) -> list[Any]:
    """Return values that fit a type and nothing else."""
    if pa.types.is_boolean(kind):
        return [None, True, False]
    if pa.types.is_integer(kind):
        return [None, -1, 0, 2**40]
    if pa.types.is_floating(kind):
        return [None, float("nan"), float("inf"), -1.0]
    if pa.types.is_string(kind):
        return [None, "", "x", "a\nb", "BDMAP_1"]
    fixed = pa.types.is_fixed_size_list(kind)
    return [None, values_of(kind.value_type)[1:2] * (kind.list_size if fixed else 1)]


def test_other_columns_and_types_are_told(whole: Path, copy: Callable[[str], Path]) -> None:
    """A table holds the columns of its schema, with their types, and may leave them empty."""
    release = copy("copy")
    schema = released_schema("tumors")
    rows = read_rows_of(release / "tables/tumors.parquet")
    number = schema.get_field_index("number")
    changed = {
        "renamed": [field.with_name("n") if field.name == "number" else field for field in schema],
        "ordered": [schema.field(number), *(f for f in schema if f.name != "number")],
        "narrow": [f.with_type(pa.int32()) if f.name == "number" else f for f in schema],
        "strict": [f.with_nullable(False) if f.name == "number" else f for f in schema],
    }
    for name, fields in changed.items():
        (release / "tables/tumors.parquet").unlink()
        write_parquet(
            release / "tables/tumors.parquet",
            pa.schema(fields),
            [{**row, "n": row["number"]} for row in rows],
        )
        relist(release, release / "tables/tumors.parquet")
        told = [line for line in problems(release) if "tables/tumors.parquet" in line]
        assert told and all(line.startswith("TABLE: ") for line in told), name


def test_what_is_no_release_is_told(tmp_path: Path, whole: Path) -> None:
    """No folder, an empty one, a file: a list of problems, and no case."""
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty", whole / "README.md"):
        assert any(line.startswith("SUMS: ") for line in problems(folder))


def test_links_and_pipes_are_told(copy: Callable[[str], Path]) -> None:
    """A link may lead out of the copy; a pipe would be waited for."""
    release = copy("copy")
    (release / "ct/BDMAP_00000001/ct.nii.gz").unlink()
    (release / "ct/BDMAP_00000001/ct.nii.gz").symlink_to("nowhere")
    (release / "README.md").unlink()
    os.mkfifo(release / "README.md")
    told = problems(release)
    assert {"LINK: ct/BDMAP_00000001/ct.nii.gz: is a symbolic link",
            "LINK: README.md: is no regular file"} <= set(told)  # fmt: skip
    assert "MISSING: README.md: is in SHA256SUMS and not there" in told


def test_private_words_are_told(copy: Callable[[str], Path]) -> None:
    """What looks like a person's name or an address, in any file."""
    release = copy("copy")
    text = (release / "README.md").read_text()
    replace(release, "README.md", (text + "\nDOE^JANE, jane.doe@example.org\n").encode())
    relist(release, release / "README.md")
    told = [line for line in problems(release) if line.startswith("PHI: README.md")]
    assert len(told) == 2 and "jane" not in " ".join(told).lower()


def test_files_and_licences_agree(copy: Callable[[str], Path]) -> None:
    """A file that the target withholds is told of, and one that it lacks, too."""
    release = copy("copy")
    path = release / "tables/licences.parquet"
    rows = read_rows_of(path)
    schema = released_schema("licences")
    withheld, added = rows[0], {**rows[1], "file": "segmentations/colon.nii.gz"}
    withheld["internal"] = False
    for suffix in ("parquet", "csv"):
        (release / f"tables/licences.{suffix}").unlink()
    write_parquet(path, schema, [*rows, added])
    (release / "tables/licences.csv").write_text(csv_text([*rows, added], schema.names))
    relist_all(release, ["tables/licences.parquet", "tables/licences.csv"])
    told = [line for line in problems(release) if line.startswith("LICENCE: ")]
    assert [line.split(": ")[1] for line in told] == sorted(
        f"{row['case_id']}/{row['file']}" for row in (withheld, added)
    )


def test_a_listed_stranger_is_hashed_and_told(copy: Callable[[str], Path]) -> None:
    """Misplaced and unknown volumes are read like all others."""
    release = copy("copy")
    source = release / "ct/BDMAP_00000001/ct.nii.gz"
    strangers = ["label/BDMAP_00000001/ct.nii.gz", "ct/BDMAP_00000001/more/x.nii.gz"]
    for place in strangers:
        (release / place).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, release / place)
        relist(release, release / place)
        flip(release, place, -1, 0)
    told = problems(release)
    assert names_all(told, strangers) == []
    assert sum(line.startswith("GZIP") or line.startswith("DATA_SIZE") for line in told) == 2


def test_hashes_of_voxels_are_compared(copy: Callable[[str], Path]) -> None:
    """A hash that belongs to other voxels is told of, as is one that is not there."""
    release = copy("copy")
    path = release / "voxel_hashes.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["voxel_sha256"], lost = rows[1]["voxel_sha256"], rows.pop()
    replace(release, "voxel_hashes.csv", csv_text(rows, ["path", "voxel_sha256"]).encode())
    relist(release, path)
    told = [line for line in problems(release) if line.startswith("VOXELS")]
    assert [line.split(": ")[1] for line in told] == sorted([rows[0]["path"], lost["path"]])
