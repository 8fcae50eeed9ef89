"""The bytes of a volume file: what they are, and their content, checked whole."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tumoratlas.images.checks import refusal

GZIP_MAGIC = b"\x1f\x8b"
# The gzip trailer holds the size modulo 2**32, and libdeflate needs the true size.
LARGEST_BYTES = 2**32 - 1
_CHUNK = 1 << 20


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    """Read a regular file once.

    Raises
    ------
    InputError
        FILE_MISSING, BROKEN_LINK, UNREADABLE, EMPTY_FILE, VOLUME_TOO_LARGE.
    """
    try:
        status = os.stat(path)
        # Opening a pipe or a device could wait for ever.
        if not stat.S_ISREG(status.st_mode):
            raise refusal("UNREADABLE", path, "it is not a regular file")
        if status.st_size == 0:
            raise refusal("EMPTY_FILE", path)
        if status.st_size > max_bytes:
            raise refusal("VOLUME_TOO_LARGE", path, f"{status.st_size} bytes on disk")
        return path.read_bytes()
    except FileNotFoundError as error:
        code = "BROKEN_LINK" if path.is_symlink() else "FILE_MISSING"
        raise refusal(code, path) from error
    except OSError as error:
        code = "BROKEN_LINK" if error.errno == errno.ELOOP else "UNREADABLE"
        raise refusal(code, path, error.strerror or "") from error


def refuse_impostors(path: Path, data: bytes) -> None:
    """Refuse what often lies in the place of a volume, by its first bytes.

    Raises
    ------
    InputError
        HTML_PAGE, POINTER_FILE, ZIP_FILE.
    """
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise refusal("HTML_PAGE", path, repr(data[:40]))
    if head.startswith(b"version https://git-lfs") or b"annex/objects/" in head:
        raise refusal("POINTER_FILE", path, repr(data[:40]))
    if head.startswith(b"pk\x03\x04"):
        raise refusal("ZIP_FILE", path)


def inflate_head(path: Path, data: bytes, size: int) -> bytes:
    """Return the first ``size`` bytes of a gzip stream, or all if it holds fewer.

    Raises
    ------
    InputError
        GZIP_CORRUPT, GZIP_TRUNCATED.
    """
    stream = zlib.decompressobj(31)
    try:
        head = stream.decompress(data, size)
    except zlib.error as error:
        raise refusal("GZIP_CORRUPT", path, str(error)) from error
    if len(head) < size and not stream.eof:
        raise refusal("GZIP_TRUNCATED", path, f"{len(data)} bytes on disk")
    return head


def inflate(path: Path, data: bytes, size: int) -> NDArray[np.uint8]:
    """Inflate a gzip stream that must hold exactly ``size`` bytes, and check its CRC.

    libdeflate verifies CRC and length of the first member, whose trailer is thus known; that
    these eight bytes stand at the file's end and nowhere before shows that nothing follows.
    No more than ``size`` bytes are ever allocated.

    Raises
    ------
    InputError
        GZIP_TRUNCATED, GZIP_CORRUPT, GZIP_CRC, GZIP_MEMBERS, GZIP_TRAILING, DATA_SIZE.
    """
    if int.from_bytes(data[-4:], "little") != size:
        raise _diagnose(path, data, size)
    out = np.empty(size, np.uint8)
    try:
        written = len(imagecodecs.gzip_decode(data, out=out))
    except imagecodecs.DeflateError:
        written = -1
    trailer = imagecodecs.deflate_crc32(out).to_bytes(4, "little") + data[-4:]
    if written != size or data.find(trailer) != len(data) - 8:
        raise _diagnose(path, data, size)
    return out


def _diagnose(path: Path, data: bytes, size: int) -> Exception:
    """Return the refusal that names what is wrong with a gzip stream known to be bad.

    The stream is walked in pieces that are thrown away, so that a small file which claims
    terabytes costs no memory; the walk ends soon after what header or trailer claim.
    """
    limit = max(size, int.from_bytes(data[-4:], "little")) + _CHUNK
    stream = zlib.decompressobj(31)
    total = 0
    pending: bytes | memoryview = data
    try:
        while not stream.eof and total <= limit:
            piece = stream.decompress(pending, _CHUNK)
            pending = stream.unconsumed_tail
            total += len(piece)
            if not piece and not pending and not stream.eof:
                return refusal("GZIP_TRUNCATED", path, f"{total} of {size} bytes inflated")
    except zlib.error as error:
        code = "GZIP_CRC" if "check" in str(error) else "GZIP_CORRUPT"
        return refusal(code, path, str(error))
    rest = stream.unused_data
    if rest.startswith(GZIP_MAGIC):
        return refusal("GZIP_MEMBERS", path, f"{len(rest)} bytes follow the first member")
    if rest:
        return refusal("GZIP_TRAILING", path, f"{len(rest)} bytes follow")
    return refusal("DATA_SIZE", path, f"header claims {size} bytes, file holds {total}")
