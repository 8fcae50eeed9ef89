"""Every text that a file can hold: in its headers, cells, keys, comments and members."""

import base64
import binascii
import bz2
import csv
import io
import json
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pydicom

# Enough for a volume's header; reading whole volumes would take days.
_HEAD = 1 << 14
_LARGEST_HEADER = 1 << 24
_LARGEST = 1 << 31
_DEEPEST = 4
_BLOCK_LINES = 500
# Shorter numbers are counts, sizes and places.
_LONG_NUMBER = re.compile(r"(\d{7,})(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:\d*\.\d+|\d+\.?)(?:[eE][+-]?\d+)?|nan|inf", re.IGNORECASE)
# Written by the ledger into its column of this name; no date of a patient.
_TIME_KEY = "time"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_DATA_URI = re.compile(r"data:[\w/+.;=-]*;base64,([A-Za-z0-9+/=\s]+)")
_RUN = re.compile(rb"[\t\x20-\x7e\x80-\xff]{3,}")
_WIDE_RUN = re.compile(
    rb"(?P<le>(?:[\t\x20-\x7e\xa0-\xff]\x00){3,})|(?P<be>(?:\x00[\t\x20-\x7e\xa0-\xff]){3,})"
)
_NIFTI_FIELDS = {
    348: {"data_type": (4, 14), "db_name": (14, 32), "descrip": (148, 228),
          "aux_file": (228, 252), "intent_name": (328, 344)},
    540: {"descrip": (240, 320), "aux_file": (320, 344), "intent_name": (508, 524),
          "unused_str": (525, 540)},
}  # fmt: skip
_PNG_PICTURE = {b"IHDR", b"PLTE", b"IDAT", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"bKGD", b"tRNS"}
# Formats whose content is compressed, encrypted or otherwise closed to a search.
_CLOSED = {
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"%PDF": "PDF",
    b"\x89HDF": "HDF5",
    b"\x9e\xa8b2frame": "Blosc2",
}
_OF_SOFTWARE = {"ImplementationClassUID", "ImplementationVersionName"}
_NUMERIC_VRS = {"DS", "IS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV", "AT"}


@dataclass(frozen=True)
class Piece:
    """A text in a file.

    Attributes
    ----------
    where
        Its place in the file, such as ``column reason, row 3``.
    text
        The text; None: what is there could not be read, and ``where`` says why.
    line
        Number of its first line, where the lines of a text are counted.
    is_noise
        Whether it is a run of printable bytes that need not be text.
    """

    where: str
    text: str | None
    line: int | None = None
    is_noise: bool = False


def pieces_of(path: Path) -> Iterator[Piece]:
    """Give every text in a file, of a NIfTI volume those of its header only.

    Voxels are whole numbers written from arrays; that nothing follows them is what
    `tumoratlas.release.verify.release` checks. What cannot be read is given as such, never passed
    over.
    """
    try:
        if path.is_symlink():
            yield Piece("link target", os.readlink(path))
            return
        if not path.is_file():
            yield Piece("no regular file", None)
            return
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            volume = _volume_pieces(head)
            if volume is not None:
                yield from volume
                return
            if os.fstat(file.fileno()).st_size > _LARGEST:
                yield Piece("too large", None)
                return
            data = head + file.read()
    except OSError as error:
        yield Piece(error.strerror or "unreadable", None)
        return
    yield from _content(path.name.lower(), data, "", 0)


def is_dicom(head: bytes) -> bool:
    """Return whether a file starts as DICOM does: with its mark, or at once with group 2 or 8."""
    return head[128:132] == b"DICM" or (head[:2] in (b"\2\0", b"\b\0") and head[3:4] == b"\0")


def _content(name: str, data: bytes, where: str, depth: int) -> Iterator[Piece]:
    """Give the texts of a file's bytes; ``where`` is the place of the file within another."""
    if not data:
        return
    if depth > _DEEPEST:
        yield Piece(f"{where}archives within archives", None)
        return
    reader = _reader(name, data)
    try:
        for piece in reader(name, data, depth):
            yield Piece(where + piece.where, piece.text, piece.line, piece.is_noise)
    # Libraries raise what they like; each means that a part was not looked at.
    except Exception as error:
        yield Piece(f"{where}not readable: {type(error).__name__}", None)


def _reader(name: str, data: bytes) -> Callable[[str, bytes, int], Iterator[Piece]]:
    for magic, reader in _MAGICS.items():
        if data.startswith(magic):
            return reader
    if is_dicom(data):
        return _dicom
    if data[257:262] == b"ustar":
        return _tar
    if _nifti_size(data):
        return _nifti
    if name.endswith(".safetensors"):
        return _safetensors
    return _text_or_noise


def _text_or_noise(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    text = _decoded(data)
    if text is None:
        yield from _runs(data, is_noise=True)
    elif name.endswith((".csv", ".tsv")):
        yield from _csv(text, "\t" if name.endswith(".tsv") else ",")
    elif name.endswith((".jsonl", ".ndjson")):
        for number, line in enumerate(text.split("\n"), 1):
            yield from _json(line, f"line {number}, ", number)
    elif name.endswith(".json") or text.lstrip()[:1] == "{":
        yield from _json(text, "", 1)
    else:
        yield from _embedded(text, depth)
        yield from _lines(_DATA_URI.sub(" ", text))


def _decoded(data: bytes) -> str | None:
    """Return a file's text, or None if it is none."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings: Sequence[str] = ("utf-16",)
    elif re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", data):
        return None
    else:
        encodings = ("utf-8-sig", "latin-1")
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def _lines(text: str, first: int = 1) -> Iterator[Piece]:
    lines = text.split("\n")
    for start in range(0, len(lines), _BLOCK_LINES):
        yield Piece("line ", "\n".join(lines[start : start + _BLOCK_LINES]), first + start)


def _embedded(text: str, depth: int) -> Iterator[Piece]:
    for number, match in enumerate(_DATA_URI.finditer(text), 1):
        try:
            data = base64.b64decode(match[1])
        except binascii.Error:
            yield Piece(f"embedded file {number}", None)
            continue
        yield from _content("", data, f"embedded file {number}: ", depth + 1)


def _runs(data: bytes, *, is_noise: bool) -> Iterator[Piece]:
    """Give the printable runs of bytes, in 8-bit encodings and in UTF-16.

    A byte before a text, such as its length, may be printable by chance: what stands between
    such bytes is given too.
    """
    for match in _RUN.finditer(data):
        try:
            text = match[0].decode("utf-8")
        except UnicodeDecodeError:
            text = match[0].decode("latin-1")
        yield Piece(f"byte {match.start()}", text, is_noise=is_noise)
        if not text.isascii():
            text = "".join(sign if sign.isascii() else " " for sign in text)
            yield Piece(f"byte {match.start()}", text, is_noise=is_noise)
    for match in _WIDE_RUN.finditer(data):
        text = match[0].decode("utf-16-le" if match["le"] else "utf-16-be")
        for part in (text, text[1:]):
            yield Piece(f"byte {match.start()}", part, is_noise=is_noise)


def _text_field(data: bytes) -> str:
    """Return what a field of fixed length holds, also behind its end mark."""
    data = data.replace(b"\0", b" ").strip()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


# Tables and trees


def _csv(text: str, delimiter: str) -> Iterator[Piece]:
    columns: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for index, row in enumerate(reader):
        if index == 0:
            columns = row
        for place, cell in enumerate(row):
            name = columns[place] if place < len(columns) else f"{place + 1}"
            if index:
                yield from _value(cell, f"line {reader.line_num}, column {name}", name)
            else:
                yield Piece("header", cell)


def _json(text: str, where: str, line: int) -> Iterator[Piece]:
    if not text.strip():
        return
    try:
        value = json.loads(
            text,
            object_pairs_hook=_Pairs,  # all of them, also of equal keys
            parse_int=str,
            parse_float=str,
        )
        yield from _tree(value, where, "")
    except (ValueError, RecursionError):
        yield from _lines(text, line)


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of a JSON object."""


def _tree(value: object, where: str, key: str) -> Iterator[Piece]:
    if isinstance(value, _Pairs):
        for name, part in value:
            inner = f"{key}.{name}" if key else name
            yield Piece(f"{where}name of key {inner}", name)
            yield from _tree(part, where, inner)
    elif isinstance(value, list):
        for part in value:
            yield from _tree(part, where, key)
    elif isinstance(value, str):
        yield from _value(value, f"{where}key {key}" if key else where, key.split(".")[-1])


def _value(value: object, where: str, name: str = "") -> Iterator[Piece]:
    """Give the texts of one cell; ``name`` is its column or key."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _value(part, where, str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _value(part, where, name)
    elif isinstance(value, bytes):
        yield from _content("", value, f"{where}: ", 1)
    elif isinstance(value, int | float):
        yield from _number(str(value), where)
    elif isinstance(value, date):  # or a time
        yield Piece(where, value.isoformat().split("T")[0])
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        yield from _number(value, where)
    elif isinstance(value, str) and not (name == _TIME_KEY and _TIME.fullmatch(value)):
        yield Piece(where, value)


def _number(text: str, where: str) -> Iterator[Piece]:
    """Give a whole number that is long enough to name somebody."""
    if match := _LONG_NUMBER.fullmatch(text):
        yield Piece(where, match[1])


def _parquet(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    with pq.ParquetFile(io.BytesIO(data)) as file:
        yield Piece("created_by", file.metadata.created_by)
        yield from _metadata(file.metadata.metadata, "metadata")
        for field in file.schema_arrow:
            yield from _field(field)
        first = 1
        for batch in file.iter_batches():
            for column in batch.schema.names:
                for row, value in enumerate(batch.column(column).to_pylist(), first):
                    yield from _value(value, f"column {column}, row {row}", column)
            first += batch.num_rows


def _field(field: pa.Field) -> Iterator[Piece]:
    yield Piece("name of a column", field.name)
    yield from _metadata(field.metadata, f"metadata of column {field.name}")
    for index in range(field.type.num_fields):
        yield from _field(field.type.field(index))


def _metadata(metadata: dict[bytes, bytes] | None, where: str) -> Iterator[Piece]:
    for key, value in (metadata or {}).items():
        # The schema once more, in another form; its fields are looked at one by one.
        if key != b"ARROW:schema":
            yield Piece(f"{where}, a key", _text_field(key))
            yield from _content("", value, f"{where} {_text_field(key)}: ", 1)


# Volumes, pictures and models


def _nifti_size(data: bytes) -> int:
    """Return the size of a NIfTI header, or 0 if it is none."""
    sizes = {int.from_bytes(data[:4], order) for order in ("little", "big")}
    if 348 in sizes and data[344:347] in (b"n+1", b"ni1") and len(data) >= 348:
        return 348
    return 540 if 540 in sizes and data[4:7] in (b"n+2", b"ni2") and len(data) >= 540 else 0


def _volume_pieces(head: bytes) -> list[Piece] | None:
    """Return the texts of a volume's header, if a file's first bytes hold all of one."""
    is_gzip = head.startswith(b"\x1f\x8b")
    try:
        data = zlib.decompressobj(31).decompress(head, 1 << 16) if is_gzip else head
    except zlib.error:
        return None
    size = _nifti_size(data)
    if not size or _is_paired(data) or _voxel_offset(data, size) > len(data):
        return None
    return [*(_gzip_header(head) if is_gzip else ()), *_nifti("", data, 0)]


def _is_paired(data: bytes) -> bool:
    return data[344:347] == b"ni1" or data[4:7] == b"ni2"


def _voxel_offset(data: bytes, size: int) -> int:
    order = "<" if int.from_bytes(data[:4], "little") == size else ">"
    place, kind = (108, "f") if size == 348 else (168, "q")
    offset = struct.unpack_from(order + kind, data, place)[0]
    return int(offset) if 0 <= offset <= _LARGEST_HEADER else _LARGEST_HEADER


def _nifti(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    size = _nifti_size(data)
    for field, (start, end) in _NIFTI_FIELDS[size].items():
        if text := _text_field(data[start:end]):
            yield Piece(field, text)
    order = "little" if int.from_bytes(data[:4], "little") == size else "big"
    end = len(data) if _is_paired(data) else _voxel_offset(data, size)
    if end > len(data):
        yield Piece("NIfTI extensions are too large or cut", None)
    start = size + 4
    while start + 8 <= end:
        length = int.from_bytes(data[start : start + 4], order)
        code = int.from_bytes(data[start + 4 : start + 8], order)
        if length < 8 or start + length > end:
            yield from _runs(data[start:end], is_noise=False)
            return
        content = data[start + 8 : start + length].rstrip(b"\0")
        yield from _content("", content, f"extension of code {code}: ", depth + 1)
        start += length


def _gzip_header(data: bytes) -> Iterator[Piece]:
    """Give name, comment, extra field and date of a gzip header (RFC 1952)."""
    flags, seconds = data[3], int.from_bytes(data[4:8], "little")
    if seconds:
        yield Piece("gzip date", datetime.fromtimestamp(seconds, UTC).date().isoformat())
    place = 10
    if flags & 4:
        length = int.from_bytes(data[10:12], "little")
        yield from _runs(data[12 : 12 + length], is_noise=False)
        place = 12 + length
    for flag, where in ((8, "gzip name"), (16, "gzip comment")):
        if flags & flag:
            end = data.index(b"\0", place)
            yield Piece(where, _text_field(data[place:end]))
            place = end + 1


def _nrrd(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    head, _, _ = data.replace(b"\r\n", b"\n").partition(b"\n\n")
    yield from _lines(_text_field(head))


def _safetensors(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    size = int.from_bytes(data[:8], "little")
    yield from _json(data[8 : 8 + size].decode(), "header, ", 1)


def _png(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    place = 8
    kind = b""
    while place + 12 <= len(data) and kind != b"IEND":
        length = int.from_bytes(data[place : place + 4], "big")
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        where = kind.decode("latin-1")
        place += 12 + length
        if kind in (b"zTXt", b"iCCP"):
            keyword, _, packed = body.partition(b"\0")
            body = keyword + b" " + _inflated(packed[1:])
        elif kind == b"iTXt":
            keyword, _, rest = body.partition(b"\0")
            language, translated, text = rest[2:].split(b"\0", 2)
            text = _inflated(text) if rest[0] else text
            body = b" ".join((keyword, language, translated, text))
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            yield Piece(where, _text_field(body))
        elif kind not in _PNG_PICTURE and body:
            for piece in _runs(body, is_noise=False):
                yield Piece(f"{where} {piece.where}", piece.text)
    yield from _content("", data[place:], "behind the picture: ", depth + 1)


def _jpeg(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            for piece in _runs(data[place + 4 : place + 2 + length], is_noise=False):
                yield Piece(f"marker {marker:02X} {piece.where}", piece.text)
        place += 2 + length
    yield from _content("", data[data.rindex(b"\xff\xd9") + 2 :], "behind the picture: ", depth + 1)


def _dicom(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    if data[128:132] == b"DICM":
        yield from _runs(data[:128], is_noise=False)
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    yield from _elements(dataset.file_meta, "")
    yield from _elements(dataset, "")


def _elements(dataset: pydicom.Dataset, where: str) -> Iterator[Piece]:
    for element in dataset:
        place = f"{where}{element.tag}"
        if element.VR == "SQ":
            for index, item in enumerate(element.value):
                yield from _elements(item, f"{place}[{index}]/")
        elif isinstance(element.value, bytes):
            if element.keyword != "PixelData":
                yield from _bytes_value(element.value, place)
        elif element.VR not in _NUMERIC_VRS and element.keyword not in _OF_SOFTWARE:
            many = element.value if isinstance(element.value, pydicom.multival.MultiValue) else None
            for value in many if many is not None else [element.value]:
                yield Piece(place, str(value or ""))


def _bytes_value(value: bytes, where: str) -> Iterator[Piece]:
    for piece in _runs(value, is_noise=False):
        yield Piece(where, piece.text)


# What holds other files


def _inflated(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    out = stream.decompress(data, _LARGEST_HEADER)
    if stream.unconsumed_tail:
        raise ValueError("a text of many megabytes")
    return out


def _gzip(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    inner = name.removesuffix(".gz")
    while data.startswith(b"\x1f\x8b"):
        yield from _gzip_header(data)
        stream = zlib.decompressobj(31)
        out = stream.decompress(data, _LARGEST_HEADER)
        if not _nifti_size(out):
            out += stream.decompress(stream.unconsumed_tail, _LARGEST)
            if not stream.eof:
                yield Piece("cut, or too large when inflated", None)
        yield from _content(inner, out, "", depth + 1)
        data = stream.unused_data
    yield from _content("", data, "behind the gzip stream: ", depth + 1)


def _other_compressed(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    is_xz = data.startswith(b"\xfd7zXZ")
    stream = lzma.LZMADecompressor() if is_xz else bz2.BZ2Decompressor()
    out = stream.decompress(data, _LARGEST)
    if not stream.eof:
        yield Piece("cut, or too large when inflated", None)
    yield from _content(name.rpartition(".")[0], out, "", depth + 1)
    yield from _content("", stream.unused_data, "behind the stream: ", depth + 1)


def _zip(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        yield Piece("zip comment", _text_field(file.comment))
        total = 0
        for member in file.infolist():
            yield Piece("name of a member", member.orig_filename)
            yield Piece(f"{member.orig_filename}, comment", _text_field(member.comment))
            yield from _bytes_value(member.extra, f"{member.orig_filename}, extra field")
            total += member.file_size
            if total > _LARGEST:
                yield Piece("too large when inflated", None)
                return
            yield from _content(
                member.filename.lower(), file.read(member), f"{member.orig_filename} > ", depth + 1
            )


def _tar(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        for member in file:
            yield Piece("name of a member", member.name)
            for key in ("linkname", "uname", "gname"):
                yield Piece(f"{member.name}, {key}", getattr(member, key))
            for key, value in member.pax_headers.items():
                if key != "path":
                    yield Piece(f"{member.name}, {key}", value)
            if content := file.extractfile(member) if member.isreg() else None:
                yield from _content(
                    member.name.lower(), content.read(), f"{member.name} > ", depth + 1
                )


def _closed(name: str, data: bytes, depth: int) -> Iterator[Piece]:
    kind = next(kind for magic, kind in _CLOSED.items() if data.startswith(magic))
    yield Piece(f"{kind} cannot be searched", None)


_MAGICS = {
    b"\x1f\x8b": _gzip,
    b"BZh": _other_compressed,
    b"\xfd7zXZ": _other_compressed,
    b"PK\x03\x04": _zip,
    b"PK\x05\x06": _zip,
    b"PAR1": _parquet,
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"NRRD000": _nrrd,
    **dict.fromkeys(_CLOSED, _closed),
}
