"""Downloads are what was locked, or an error by name; what is there is kept."""

import csv
import hashlib
import io
import re
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tumoratlas.core.errors import InputError
from tumoratlas.ingest.fetching import COLUMNS, fetch, lock_files, read_lock

BODY = bytes(range(256)) * 300
PAGE = b"<!DOCTYPE html>\n<title>Log in</title>"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; knows ranges, unless the path says otherwise."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match and self.path != "/whole" else 0
        if start >= len(body) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.path in self.server.cut:
            self.server.cut.remove(self.path)
            self.wfile.write(body[start : start + 20_480])
            self.close_connection = True
        else:
            self.wfile.write(body[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.cut = {}, [], set()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def write_lock(tmp_path, rows):
    lock = tmp_path / "lock.csv"
    with open(lock, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, *rows])
    return lock


def lock_of(tmp_path, server, path="a/ct.nii.gz", place="/ct", body=BODY):
    return write_lock(tmp_path, [[path, server.url + place, len(body), sha256(body)]])


def refused(lock, folder):
    with pytest.raises(InputError) as caught:
        fetch(lock, folder)
    assert caught.value.remedy
    return caught.value


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_files_are_fetched_once(tmp_path, server):
    server.files = {"/ct": BODY, "/b": b"b"}
    lock = write_lock(
        tmp_path,
        [
            ["a/ct.nii.gz", f"{server.url}/ct", len(BODY), sha256(BODY)],
            ["b.txt", f"{server.url}/b", 1, sha256(b"b")],
        ],
    )
    rows = fetch(lock, tmp_path / "data")
    assert rows == read_lock(lock) and rows[0]["bytes"] == len(BODY)
    assert names(tmp_path / "data") == ["a/ct.nii.gz", "b.txt"]
    assert (tmp_path / "data/a/ct.nii.gz").read_bytes() == BODY
    assert (tmp_path / "data/b.txt").stat().st_mode & 0o044  # as any new file
    (tmp_path / "data/b.txt").unlink()
    fetch(lock, tmp_path / "data")
    assert [path for path, _ in server.requests] == ["/ct", "/b", "/b"]


def test_a_damaged_file_is_fetched_again(tmp_path, server):
    server.files = {"/ct": BODY}
    (tmp_path / "a").mkdir()
    (tmp_path / "a/ct.nii.gz").write_bytes(BODY[:-1])
    fetch(lock_of(tmp_path, server), tmp_path)
    assert (tmp_path / "a/ct.nii.gz").read_bytes() == BODY


@pytest.mark.parametrize("place", ["/ct", "/whole"])
def test_a_cut_download_goes_on_where_it_ended(tmp_path, server, place, monkeypatch):
    """And starts again with a server that knows no ranges."""
    monkeypatch.setattr("tumoratlas.ingest.fetching._CHUNK", 4096)
    server.files, server.cut = {place: BODY}, {place}
    lock, folder = lock_of(tmp_path, server, place=place), tmp_path / "data"
    assert refused(lock, folder).code == "FETCH_FAILED"
    assert not (folder / "a/ct.nii.gz").exists()
    fetch(lock, folder)
    assert (folder / "a/ct.nii.gz").read_bytes() == BODY
    assert names(folder) == ["a/ct.nii.gz"]
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=20480-", None][: 2 if place == "/ct" else 3]


def test_a_changed_file_stops_it_and_keeps_the_old_one(tmp_path, server):
    server.files = {"/ct": BODY + b"new"}
    lock, folder = lock_of(tmp_path, server), tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    (folder / "a/ct.nii.gz").write_bytes(b"old")
    error = refused(lock, folder)
    assert (error.code, error.subject) == ("UPSTREAM_CHANGED", f"{server.url}/ct")
    assert sha256(BODY) in error.evidence and sha256(BODY + b"new") in error.evidence
    assert (folder / "a/ct.nii.gz").read_bytes() == b"old"
    assert names(folder) == ["a/ct.nii.gz"]


def test_an_endless_file_is_not_read_to_its_end(tmp_path, server, monkeypatch):
    monkeypatch.setattr("tumoratlas.ingest.fetching._SURPLUS", 10)
    server.files = {"/ct": BODY}
    error = refused(lock_of(tmp_path, server, body=b"short"), tmp_path)
    assert error.code == "UPSTREAM_CHANGED" and "more than 15 bytes" in error.evidence


def test_a_rest_of_something_else_is_thrown_away(tmp_path, server):
    server.files = {"/ct": BODY}
    (tmp_path / "a").mkdir()
    (tmp_path / f"a/.ct.nii.gz.{sha256(BODY)[:16]}.part").write_bytes(b"x" * len(BODY))
    fetch(lock_of(tmp_path, server), tmp_path)
    assert (tmp_path / "a/ct.nii.gz").read_bytes() == BODY


def test_a_web_page_and_a_pointer_are_named(tmp_path, server):
    server.files = {"/ct": PAGE}
    assert refused(lock_of(tmp_path, server), tmp_path).code == "HTML_PAGE"
    server.files = {"/ct": b"version https://git-lfs.github.com/spec/v1\n"}
    assert refused(lock_of(tmp_path, server), tmp_path).code == "POINTER_FILE"
    # A locked page is no mistake.
    server.files = {"/page": PAGE}
    fetch(lock_of(tmp_path, server, "page.html", "/page", PAGE), tmp_path)


def test_no_file_and_no_server_are_named(tmp_path, server):
    error = refused(lock_of(tmp_path, server), tmp_path)
    assert error.code == "FETCH_FAILED" and "404" in error.evidence
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
        error = refused(write_lock(tmp_path, [["x", url, 1, sha256(b"x")]]), tmp_path)
    assert error.code == "FETCH_FAILED" and "refused" in error.evidence


@pytest.mark.parametrize(
    "change",
    [
        *({"path": p} for p in ("../x", "/x", "a/../x", "a//x", "", "a\\x", "C:x", ".x", "a/")),
        *({"url": u} for u in ("ftp://example.org/x", "file:///etc/passwd", "x", "https:///x")),
        {"url": "https://me:secret@example.org/x"},
        {"bytes": "-1"},
        {"bytes": "many"},
        {"sha256": "0" * 63},
    ],
)
def test_unsafe_lines_are_refused_before_anything_is_fetched(tmp_path, change):
    row = {"path": "x", "url": "https://example.org/x", "bytes": "1", "sha256": "0" * 64}
    lock = write_lock(tmp_path, [(row | change).values()])
    error = refused(lock, tmp_path / "data")
    assert error.code == "FETCH_LOCK" and "secret" not in str(error)
    assert not (tmp_path / "data").exists()


def test_what_is_no_lock_is_refused(tmp_path):
    row = ["x", "https://example.org/x", "1", "0" * 64]
    for rows in ([row, row], [row, ["X", *row[1:]]], [row[:3]], [[*row, "more"]]):
        assert refused(write_lock(tmp_path, rows), tmp_path).code == "FETCH_LOCK"
    (tmp_path / "lock.csv").write_text("path;url\n")
    assert refused(tmp_path / "lock.csv", tmp_path).code == "FETCH_LOCK"
    assert refused(tmp_path / "absent.csv", tmp_path).code == "FETCH_LOCK"


def test_archives_are_unpacked_once(tmp_path, server):
    def zipped(text):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as file:
            file.writestr("inner/ct.nii.gz", text)
        return data.getvalue()

    server.files = {"/z": zipped("one")}
    folder = tmp_path / "data"
    lock = lock_of(tmp_path, server, "set.ZIP", "/z", server.files["/z"])
    fetch(lock, folder)
    assert (folder / "set/inner/ct.nii.gz").read_text() == "one"
    (folder / "set/inner/ct.nii.gz").write_text("seen again")  # not unpacked twice
    fetch(lock, folder)
    assert (folder / "set/inner/ct.nii.gz").read_text() == "seen again"
    server.files = {"/z": zipped("two")}
    lock = lock_of(tmp_path, server, "set.ZIP", "/z", server.files["/z"])
    assert refused(lock, folder).code == "ARCHIVE_TARGET"  # no mixture of versions


def test_the_first_fetch_writes_the_lock(tmp_path, server):
    server.files = {"/ct": BODY, "/page": PAGE, "/empty": b""}
    lock = tmp_path / "locks" / "new.csv"
    lock_files(lock, tmp_path / "data", {"a/ct.nii.gz": f"{server.url}/ct"})
    assert read_lock(lock) == [
        {"path": "a/ct.nii.gz", "url": f"{server.url}/ct", "bytes": len(BODY),
         "sha256": sha256(BODY)}
    ]  # fmt: skip
    fetch(lock, tmp_path / "data")
    assert len(server.requests) == 1
    with pytest.raises(InputError, match=r"FETCH_LOCK.*trust"):
        lock_files(lock, tmp_path / "data", {})
    for place, code in (("/page", "HTML_PAGE"), ("/empty", "EMPTY_FILE"), ("/x", "FETCH_FAILED")):
        with pytest.raises(InputError, match=code):
            lock_files(tmp_path / "other.csv", tmp_path / "data", {"x": server.url + place})
    assert not (tmp_path / "other.csv").exists() and not (tmp_path / "data/x").exists()
