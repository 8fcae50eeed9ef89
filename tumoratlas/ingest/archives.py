"""Archives of sources, unpacked so that nothing in them can harm: whole, bounded, in one folder.

What an archive's own lists claim is not believed: bytes are counted as they are inflated, and
checksums and end marks are read, since common tools take a cut archive for a short one.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import sync
from tumoratlas.images.checks import refusal
from tumoratlas.images.inflate import refuse_impostors

# What sources hold at most, with room to spare.
MAX_MEMBERS, MAX_BYTES, MAX_RATIO = 1_000_000, 1 << 40, 200
_CHUNK = 1 << 20
# Long names and the like; real ones are a few hundred bytes, and they are read into memory.
_LARGEST_TAR_HEADER = 1 << 20
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags: member, strong, and hidden list
_TAR_READERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_HEADERS = {
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
}
_AGAIN = "Download the archive again and compare its checksum with the source's"
_BY_HAND = "Unpack it with the source's own tool, and name the unpacked folder instead"
_REMEDIES = {
    "ARCHIVE_FORMAT": _BY_HAND,
    "ARCHIVE_METHOD": _BY_HAND,
    "ARCHIVE_DAMAGED": _AGAIN,
    "ARCHIVE_ENCRYPTED": "Ask the source for the password (WORD gives it by e-mail), unpack it "
    "with unzip or 7-Zip, and name the unpacked folder instead",
    "ARCHIVE_NAME": "Do not unpack it: ask the source for a clean archive",
    "ARCHIVE_LINK": "Do not unpack it: ask the source for an archive of plain files",
    "ARCHIVE_COLLISION": "Unpack its members one by one and rename those that collide",
    "ARCHIVE_BOMB": "If the source is trusted, allow more members, bytes or a higher ratio",
    "ARCHIVE_TARGET": "Name a new folder, or remove the old one",
    "UNPACK_FAILED": "Free space, or choose a folder on another disk",
}


def unpack(
    archive: Path, folder: Path, *, max_members: int, max_bytes: int, max_ratio: float
) -> int:
    """Unpack a zip or tar (plain, gzip, bzip2, xz) archive into a new folder.

    The folder appears whole or not at all. Archives within it stay files. Files get the mode
    of any new file: neither set-user-id nor execution bits are taken over.

    Parameters
    ----------
    archive
        The archive; its content, not its name, tells its format.
    folder
        Folder to create.
    max_members
        Most files and folders to take in.
    max_bytes
        Most bytes to write.
    max_ratio
        Most bytes to write per byte of the archive. Empty masks shrink a hundredfold.

    Returns
    -------
    Number of files written.

    Raises
    ------
    InputError
        ``ARCHIVE_FORMAT``, ``ARCHIVE_METHOD``, ``ARCHIVE_DAMAGED``, ``ARCHIVE_ENCRYPTED``,
        ``ARCHIVE_NAME``, ``ARCHIVE_LINK``, ``ARCHIVE_COLLISION``, ``ARCHIVE_BOMB``,
        ``ARCHIVE_TARGET``, ``UNPACK_FAILED``; ``FILE_MISSING``, ``EMPTY_FILE``, ``HTML_PAGE``
        or ``POINTER_FILE`` of `tumoratlas.images.checks.CHECKS`.
    """
    if os.path.lexists(folder):
        raise _refusal("ARCHIVE_TARGET", folder, "the folder exists")
    if not archive.is_file():
        raise refusal("FILE_MISSING", archive)
    size = archive.stat().st_size
    if not size:
        raise refusal("EMPTY_FILE", archive)
    building = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(building, ignore_errors=True)
    budget = _Budget(archive, max_members, min(max_bytes, int(size * max_ratio)))
    try:
        with _named_errors(archive, folder):
            building.mkdir(parents=True)
            _unpack(archive, building, budget)
            os.rename(building, folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return budget.files


@dataclass
class _Budget:
    """What may still be unpacked, and the names that are taken."""

    archive: Path
    max_members: int
    max_bytes: int
    members: int = 0
    files: int = 0
    names: dict[str, tuple[str, bool]] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)

    def take(self, name: str, *, is_folder: bool) -> str:
        """Check a member's name; return it as a path below the folder, ``""`` for the folder."""
        self.members += 1
        if self.members > self.max_members:
            raise _refusal("ARCHIVE_BOMB", self.archive, f"more than {self.max_members} members")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if (
            name.startswith("/")
            or ".." in parts
            or re.search(r"[\\\x00-\x1f\x7f]", name)
            or re.match(r"[A-Za-z]:", name)
            or not (parts or is_folder)
        ):
            reason = "a member's name leads out of the folder or is none"
            raise _refusal("ARCHIVE_NAME", self.archive, reason, repr(name[:200]))
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            is_inner = depth < len(parts) or is_folder
            # As a file system that ignores case and spelling sees it.
            seen = unicodedata.normalize("NFC", path).casefold()
            if self.names.setdefault(seen, (path, is_inner)) != (path, is_inner) or (
                not is_inner and path in self.written
            ):
                reason = "two members have one name, or differ in upper and lower case only"
                evidence = f"{self.names[seen][0][:200]!r} and {path[:200]!r}"
                raise _refusal("ARCHIVE_COLLISION", self.archive, reason, evidence)
        path = "/".join(parts)
        if not is_folder:
            self.written.add(path)
            self.files += 1
        return path

    def count(self, total: int) -> None:
        """Check the number of bytes so far."""
        if total > self.max_bytes:
            reason = f"it holds more than the {self.max_bytes} bytes allowed"
            raise _refusal("ARCHIVE_BOMB", self.archive, reason)


def _unpack(archive: Path, building: Path, budget: _Budget) -> None:
    with open(archive, "rb") as file:
        head = file.read(512)
    written = 0
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        members = _zip_members(archive)
    elif head[257:262] == b"ustar" or head.startswith(tuple(_TAR_READERS)):
        members = _tar_members(archive, head, building, budget)
    else:
        refuse_impostors(archive, head)
        raise _refusal("ARCHIVE_FORMAT", archive, "it is no zip or tar archive", head[:8].hex(" "))
    for name, content in members:
        path = budget.take(name, is_folder=content is None)
        if content is None:
            (building / path).mkdir(parents=True, exist_ok=True)
            continue
        (building / path).parent.mkdir(parents=True, exist_ok=True)
        with open(building / path, "xb") as out:
            while piece := content.read(_CHUNK):
                written += len(piece)
                budget.count(written)
                out.write(piece)


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Give name and content (None: a folder) of each member; its CRC is checked as it is read."""
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            name = member.orig_filename  # the other ends at a zero byte
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal("ARCHIVE_LINK", archive, "a member is a link", repr(name[:200]))
            if member.flag_bits & _ENCRYPTED:
                raise _refusal("ARCHIVE_ENCRYPTED", archive, "it is password protected")
            # Others are inflated in pieces of any size.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                method = zipfile.compressor_names.get(member.compress_type, "an unknown method")
                raise _refusal("ARCHIVE_METHOD", archive, f"it is compressed with {method}")
        for member in members:
            if member.is_dir():
                yield member.orig_filename, None
            else:
                with file.open(member) as content:
                    yield member.orig_filename, content


class _TarMember(tarfile.TarInfo):
    """A member whose headers are whole; the module itself takes a broken one for the end."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_TarMember":
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _HEADERS and member.size > _LARGEST_TAR_HEADER):
            raise tarfile.ReadError(f"a header claims {member.size} bytes")
        return member

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_TarMember":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # the end mark
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error) or "the end is missing") from error


class _Counted(io.RawIOBase):
    """A stream whose bytes are counted as they are inflated."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream, self._budget, self._total = stream, budget, 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._total += len(data)
        # Headers and padding come on top of what is written.
        self._budget.count(self._total - self._budget.members * 4096 - (1 << 16))
        return data


def _tar_members(
    archive: Path, head: bytes, building: Path, budget: _Budget
) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Give name and content (None: a folder) of each member, reading the archive once."""
    opener = next((o for magic, o in _TAR_READERS.items() if head.startswith(magic)), open)
    with opener(archive, "rb") as stream:
        counted = _Counted(stream, budget)
        try:
            file = tarfile.open(fileobj=counted, mode="r|", tarinfo=_TarMember)
        except tarfile.ReadError as error:
            if opener is open:
                raise
            reason = "what is compressed is no tar archive"
            raise _refusal("ARCHIVE_FORMAT", archive, reason, str(error)) from error
        with file:
            while (member := file.next()) is not None:
                if not (member.isreg() or member.isdir()):
                    reason = "a member is a link or a device"
                    raise _refusal("ARCHIVE_LINK", archive, reason, repr(member.name[:200]))
                # The library's own judgement, beside that of `_Budget.take`.
                tarfile.data_filter(member, str(building))
                yield member.name, None if member.isdir() else file.extractfile(member)
                file.members.clear()  # else it keeps every one
        while counted.read(_CHUNK):  # to the end, where the checksum is
            pass


@contextmanager
def _named_errors(archive: Path, folder: Path) -> Iterator[None]:
    """Give each error of the libraries the name that says what to do about it."""
    try:
        yield
    except tarfile.FilterError as error:
        reason = "a member's name leads out of the folder"
        raise _refusal("ARCHIVE_NAME", archive, reason, str(error)) from error
    except (
        *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
        *(EOFError, ValueError, NotImplementedError),
    ) as error:
        raise _refusal("ARCHIVE_DAMAGED", archive, "it is cut or altered", str(error)) from error
    except OSError as error:
        if error.errno is None:  # of the decompressors
            reason = "it is cut or altered"
            raise _refusal("ARCHIVE_DAMAGED", archive, reason, str(error)) from error
        reason = "its members cannot be written"
        raise _refusal("UNPACK_FAILED", folder, reason, error.strerror or "") from error


def _refusal(code: str, subject: object, reason: str, evidence: str = "") -> InputError:
    return InputError(code, subject, reason, evidence=evidence, remedy=_REMEDIES[code])
