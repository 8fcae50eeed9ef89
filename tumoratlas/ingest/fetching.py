"""Open files of a source, fetched by the checksums of a lock file.

A lock is a CSV file with the columns ``path, url, bytes, sha256``. It makes a download
repeatable: what the server gives today is either what was locked, or an error.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pooch
import requests

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import sha256_file, write_text
from tumoratlas.core.tables import write_csv
from tumoratlas.images.checks import refusal
from tumoratlas.images.inflate import refuse_impostors
from tumoratlas.ingest.archives import MAX_BYTES, MAX_MEMBERS, MAX_RATIO, unpack

COLUMNS = ["path", "url", "bytes", "sha256"]
_ARCHIVE = re.compile(r"(.+)(?:\.zip|\.tar|\.tar\.(?:gz|bz2|xz)|\.tgz)", re.IGNORECASE)
_PAGES = (".html", ".htm", ".xml")
_CHUNK = 1 << 20
# A file that changed is read to its end for its hash, unless it is much longer.
_SURPLUS = 1 << 26
_TIMEOUT_S = 60


def fetch(lock: Path, folder: Path) -> list[dict[str, Any]]:
    """Fetch the files of a lock into a folder, and unpack the archives among them.

    A file that is there and right is not fetched again, and a download that was cut goes on
    where it ended. An archive is unpacked beside itself, into a folder of its name.

    Parameters
    ----------
    lock
        The lock file.
    folder
        Folder that its paths are relative to.

    Returns
    -------
    The lock's rows.

    Raises
    ------
    InputError
        ``FETCH_LOCK``: the lock file holds an unsafe path, another kind of address, or is no
        lock; ``UPSTREAM_CHANGED``: the server gives another file than the locked one;
        ``HTML_PAGE``, ``POINTER_FILE``: it gives a web page or a pointer; ``FETCH_FAILED``:
        it gives none. An older file then
        stays as it was. Errors of `tumoratlas.ingest.archives.unpack`.
    """
    rows = read_lock(lock)
    files = pooch.create(
        path=folder,
        base_url="",
        registry={row["path"]: f"sha256:{row['sha256']}" for row in rows},
        urls={row["path"]: row["url"] for row in rows},
    )
    for row in rows:
        with _named_errors(row["url"]):
            files.fetch(row["path"], downloader=partial(_download, row))
    for row in rows:
        if name := _ARCHIVE.fullmatch(row["path"]):
            _unpack_once(folder / row["path"], folder / name[1], row["sha256"])
    return rows


def lock_files(lock: Path, folder: Path, urls: Mapping[str, str]) -> None:
    """Fetch files for the first time, trusting the server once, and write their lock.

    Parameters
    ----------
    lock
        Lock file to write; an older one is never replaced.
    folder
        Folder to fetch into.
    urls
        Address of each file, by its path below the folder.

    Raises
    ------
    InputError
        ``FETCH_LOCK``, ``HTML_PAGE``, ``FETCH_FAILED`` as in `fetch`.
    """
    if lock.exists():
        raise _lock_error(lock, "the lock exists, and a new one would trust the server again")
    rows = []
    for path, url in sorted(urls.items()):
        rows.append({"path": path, "url": url, "bytes": None, "sha256": ""})
        _check_row(lock, rows[-1])
    for row in rows:
        target = folder / row["path"]
        with _named_errors(row["url"]):
            name, parent = target.name, target.parent
            pooch.retrieve(row["url"], None, name, parent, downloader=partial(_download, row))
        row |= {"bytes": target.stat().st_size, "sha256": sha256_file(target)}
    write_csv(lock, rows, COLUMNS)


def read_lock(lock: Path) -> list[dict[str, Any]]:
    """Read a lock file.

    Raises
    ------
    InputError
        ``FETCH_LOCK``.
    """
    try:
        with open(lock, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows: list[dict[str, Any]] = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _lock_error(lock, "it cannot be read", str(error)) from error
    if reader.fieldnames != COLUMNS:
        raise _lock_error(lock, f"its columns are not {', '.join(COLUMNS)}")
    seen: set[str] = set()
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise _lock_error(lock, f"line {number} has not {len(COLUMNS)} cells")
        if not re.fullmatch(r"\d{1,15}", row["bytes"]):
            raise _lock_error(lock, f"line {number}: no number of bytes", repr(row["bytes"]))
        if not re.fullmatch(r"[0-9a-f]{64}", row["sha256"]):
            raise _lock_error(lock, f"line {number}: no SHA-256", repr(row["sha256"]))
        row["bytes"] = int(row["bytes"])
        _check_row(lock, row, f"line {number}: ")
        if row["path"].casefold() in seen:
            raise _lock_error(lock, f"line {number}: the path is listed twice", repr(row["path"]))
        seen.add(row["path"].casefold())
    return rows


def _check_row(lock: Path, row: Mapping[str, Any], where: str = "") -> None:
    url = urlsplit(row["url"])
    for name in row["path"].split("/"):
        # No hidden names either: those are our own.
        if not name or name.startswith(".") or re.search(r"[\\:\x00-\x1f]", name):
            raise _lock_error(lock, f"{where}the path leads out of the folder", repr(row["path"]))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise _lock_error(lock, f"{where}the address is not one of http or https", repr(row["url"]))
    if url.username or url.password:
        raise _lock_error(lock, f"{where}the address holds a password")


def _download(row: Mapping[str, Any], url: str, output: str, _: object) -> None:
    """Download a row's file to ``output``; what was cut before is continued."""
    target = Path(output).parent / Path(row["path"]).name
    part = target.with_name(f".{target.name}.{row['sha256'][:16]}.part")
    start = part.stat().st_size if part.exists() and row["sha256"] else 0
    if start:
        try:
            _append(url, part, row["bytes"], start)
        except requests.HTTPError:  # no more to get, or only from the beginning
            pass
        if sha256_file(part) == row["sha256"]:
            part.replace(output)
            return
    part.unlink(missing_ok=True)
    _append(url, part, row["bytes"], 0)
    try:
        if sha256_file(part) != row["sha256"]:
            _refuse_other_content(row, part)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def _append(url: str, part: Path, expected: int | None, start: int) -> None:
    # A server that compresses what it sends would change the bytes.
    headers = {"Accept-Encoding": "identity"}

    def refuse_whole(response: requests.Response, **_: object) -> None:
        if response.status_code == requests.codes.ok:
            raise requests.HTTPError("the server knows no ranges")

    options: dict[str, Any] = {"headers": headers, "timeout": _TIMEOUT_S}
    if start:
        headers["Range"] = f"bytes={start}-"
        options["hooks"] = {"response": refuse_whole}
    downloader = pooch.HTTPDownloader(chunk_size=_CHUNK, **options)
    with open(part, "ab") as file:
        limit = None if expected is None else expected + _SURPLUS
        downloader(url, _Bounded(file, url, limit), None)


class _Bounded:
    """A file that takes no more than ``limit`` bytes."""

    def __init__(self, file: IO[bytes], url: str, limit: int | None) -> None:
        self.file, self.url, self.limit = file, url, limit

    def write(self, data: bytes) -> None:
        self.file.write(data)
        if self.limit is not None and self.file.tell() > self.limit:
            raise _changed(self.url, f"more than {self.limit} bytes")

    def flush(self) -> None:
        self.file.flush()


def _refuse_other_content(row: Mapping[str, Any], part: Path) -> None:
    """Raise the error that tells what came in a locked file's place, if it is locked."""
    with open(part, "rb") as file:
        head = file.read(512)
    try:
        if not row["path"].lower().endswith(_PAGES):
            refuse_impostors(row["url"], head)
    except InputError as error:
        if error.code != "ZIP_FILE":
            raise
    if row["sha256"]:
        found = f"found {sha256_file(part)}, {part.stat().st_size} bytes"
        raise _changed(row["url"], f"expected {row['sha256']}, {row['bytes']} bytes; {found}")
    if not head:
        raise refusal("EMPTY_FILE", row["url"])


def _changed(url: str, evidence: str) -> InputError:
    return InputError(
        "UPSTREAM_CHANGED",
        url,
        "the server gives another file than the locked one",
        evidence=evidence,
        remedy="Find out what changed; if the new file is right, write its hash and size "
        "into the lock",
    )


@contextmanager
def _named_errors(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # those of the network among them
        response = getattr(error, "response", None)
        if response is not None:
            evidence = f"HTTP status {response.status_code}"
        else:
            cause: BaseException = error
            while cause.__context__ is not None:  # down to what the system said
                cause = cause.__context__
            evidence = getattr(cause, "strerror", None) or str(cause)[:200]
        raise InputError(
            "FETCH_FAILED",
            url,
            "the file could not be fetched",
            evidence=evidence,
            remedy="Check address, network and free space, and run it again: what is there is kept",
        ) from error


def _unpack_once(archive: Path, folder: Path, sha256: str) -> None:
    """Unpack an archive unless it was, and refuse to mix two versions of it."""
    stamp = folder.with_name(f".{folder.name}.sha256")
    is_same = stamp.exists() and stamp.read_text(encoding="ascii").strip() == sha256
    if folder.exists() and is_same:
        return
    # The stamp comes first: a kill after it leaves no folder, which is then unpacked.
    if not folder.exists():
        write_text(stamp, f"{sha256}\n")
    unpack(archive, folder, max_members=MAX_MEMBERS, max_bytes=MAX_BYTES, max_ratio=MAX_RATIO)


def _lock_error(lock: Path, reason: str, evidence: str = "") -> InputError:
    return InputError(
        "FETCH_LOCK",
        lock,
        reason,
        evidence=evidence,
        remedy="Correct the lock: path, url, bytes, sha256 of each file",
    )
