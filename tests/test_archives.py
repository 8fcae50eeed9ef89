"""Archives are unpacked whole and safely, or refused by name with nothing left behind."""

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.conftest import ROOT
from tumoratlas.core.errors import InputError
from tumoratlas.ingest.archives import unpack

LIMITS = {"max_members": 100, "max_bytes": 1 << 24, "max_ratio": 200}
CONTENT = {"a/ct.nii.gz": os.urandom(3000), "a/masks/liver.nii.gz": b"liver" * 10, "b.txt": b""}


def make_zip(path, members, *, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def member(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as file:
        for info, data in members:
            file.addfile(info, io.BytesIO(data))
    return path


def make(path, kind):
    """Write CONTENT and an empty folder as a zip or tar file."""
    if kind == "zip":
        return make_zip(path, [("empty/", b""), *CONTENT.items()])
    members = [member("empty", type=tarfile.DIRTYPE, mode=0o700)]
    members += [member(name, data, mode=0o6777) for name, data in CONTENT.items()]
    return make_tar(path, members, f"w:{kind}")


def refused(archive, **limits):
    """Return the error's code, having looked that nothing is left behind."""
    folder = archive.parent / "out" / "unpacked"
    with pytest.raises(InputError) as caught:
        unpack(archive, folder, **(LIMITS | limits))
    assert not folder.parent.exists() or not list(folder.parent.iterdir())
    assert caught.value.remedy
    return caught.value.code


@pytest.mark.parametrize("kind", ["zip", "", "gz", "bz2", "xz"])
def test_every_format_is_unpacked_whole(tmp_path, kind):
    folder = tmp_path / "out" / "new"
    assert unpack(make(tmp_path / "archive", kind), folder, **LIMITS) == 3
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in files.items()} == CONTENT
    assert (folder / "empty").is_dir()
    assert not any(path.stat().st_mode & 0o7111 for path in files.values())
    assert sorted(p.name for p in folder.parent.iterdir()) == ["new"]


def test_archives_within_stay_files(tmp_path):
    inner = make(tmp_path / "inner.zip", "zip").read_bytes()
    unpack(make_zip(tmp_path / "outer.zip", [("x/inner.zip", inner)]), tmp_path / "o", **LIMITS)
    assert (tmp_path / "o/x/inner.zip").read_bytes() == inner


@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "a/../../x", "a/../x", "C:/x", "C:x", "a\\..\\x", "a\nb", "."]
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    archive = make_zip(tmp_path / "a.zip", [("fine", b""), (name, b"x")])
    assert refused(archive) == "ARCHIVE_NAME"
    assert refused(make_tar(tmp_path / "a.tar", [member(name, b"x")])) == "ARCHIVE_NAME"


def test_a_name_that_ends_early_is_refused(tmp_path):
    """Some tools would write ``a``, others refuse, what is listed as ``a<zero>b#``."""
    archive = make_zip(tmp_path / "a.zip", [("a#b#", b"x")])
    archive.write_bytes(archive.read_bytes().replace(b"a#b#", b"a\0b#"))
    assert refused(archive) == "ARCHIVE_NAME"


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE"])
@pytest.mark.parametrize("target", ["a", "/etc/passwd"])
def test_links_and_devices_are_refused(tmp_path, kind, target):
    link = member("link", type=getattr(tarfile, kind), linkname=target)
    assert refused(make_tar(tmp_path / "a.tar", [member("a", b"x"), link])) == "ARCHIVE_LINK"


def test_links_in_zip_files_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    assert refused(make_zip(tmp_path / "a.zip", [(info, b"/etc/passwd")])) == "ARCHIVE_LINK"


@pytest.mark.parametrize(
    "names",
    [("a/x", "a/x"), ("a/x", "A/X"), ("a/x", "A/y"), ("a", "a/x"), ("a/x", "a"), ("ä", "a\u0308")],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_collide_are_refused(tmp_path, names):
    assert refused(make_zip(tmp_path / "a.zip", [(n, b"x") for n in names])) == "ARCHIVE_COLLISION"
    tar = make_tar(tmp_path / "a.tar", [member(n, b"x") for n in names])
    assert refused(tar) == "ARCHIVE_COLLISION"


def test_a_protected_archive_says_so(tmp_path):
    data = bytearray(make(tmp_path / "a.zip", "zip").read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(magic) + place] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"ARCHIVE_ENCRYPTED.*password protected.*WORD"):
        unpack(tmp_path / "a.zip", tmp_path / "out", **LIMITS)


@pytest.mark.parametrize("kind", ["zip", "gz", "bz2", "xz"])
def test_bombs_are_refused(tmp_path, kind):
    zeros = bytes(1 << 22)
    archive = tmp_path / "a"
    if kind == "zip":
        make_zip(archive, [("a", zeros)])
    else:
        make_tar(archive, [member("a", zeros)], f"w:{kind}")
    assert refused(archive) == "ARCHIVE_BOMB"
    assert refused(archive, max_ratio=1e9, max_bytes=1 << 21) == "ARCHIVE_BOMB"
    assert unpack(archive, tmp_path / "big", **(LIMITS | {"max_ratio": 1e9})) == 1


@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_too_many_members_are_refused(tmp_path, kind):
    assert refused(make(tmp_path / "a", kind), max_members=3) == "ARCHIVE_BOMB"


def test_a_size_that_lies_is_not_believed(tmp_path):
    """The list says 10 bytes, the stream holds four million."""
    archive = make_zip(tmp_path / "a.zip", [("a", bytes(1 << 22))])
    data = bytearray(archive.read_bytes())
    for magic, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(magic) + place, 10)
    archive.write_bytes(data)
    assert refused(archive) == "ARCHIVE_DAMAGED"


def test_a_bomb_in_a_header_is_refused_unread(tmp_path):
    """A long name of four megabytes; a negative size, which would loop."""
    long = member("x" * (1 << 22), b"")
    assert refused(make_tar(tmp_path / "a", [long], "w:gz"), max_ratio=1e9) == "ARCHIVE_FORMAT"
    block = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 11 + b"\x00"  # minus 256
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "b").write_bytes(bytes(member("first")[0].tobuf()) + block + bytes(1024))
    assert refused(tmp_path / "b") == "ARCHIVE_DAMAGED"


def test_a_sparse_member_is_counted_as_it_is_written(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 26)
    command = ["tar", "--sparse", "-cf", tmp_path / "a.tar", "-C", tmp_path, "sparse"]
    subprocess.run(command, check=True)
    assert refused(tmp_path / "a.tar") == "ARCHIVE_BOMB"


@pytest.mark.parametrize("kind", ["zip", "", "gz", "bz2", "xz"])
def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path, kind):
    whole = make(tmp_path / "whole", kind).read_bytes()
    # A plain one ends in a mark and padding, which are all zeros.
    end = len(whole) - 1 if kind else -(-len(whole.rstrip(b"\0")) // 512) * 512
    for size in {end, end // 2, 600, *range(512, end, 512)}:
        (tmp_path / "cut").write_bytes(whole[:size])
        assert refused(tmp_path / "cut") in ("ARCHIVE_DAMAGED", "ARCHIVE_FORMAT"), size


@pytest.mark.parametrize("kind", ["zip", "gz", "bz2", "xz"])
def test_an_altered_archive_is_refused(tmp_path, kind):
    data = bytearray(make(tmp_path / "a", kind).read_bytes())
    data[1500] ^= 0x10
    (tmp_path / "a").write_bytes(data)
    assert refused(tmp_path / "a") == "ARCHIVE_DAMAGED"


def test_an_altered_header_is_not_taken_for_the_end(tmp_path):
    data = bytearray(make(tmp_path / "a", "").read_bytes())
    data[512] ^= 0x10  # the second member's name
    (tmp_path / "a").write_bytes(data)
    assert refused(tmp_path / "a") == "ARCHIVE_DAMAGED"


def test_what_is_no_archive_is_named(tmp_path):
    for name, data, code in (
        ("page.zip", b"<!DOCTYPE html><p>Log in", "HTML_PAGE"),
        ("pointer.zip", b"version https://git-lfs.github.com/spec/v1\n", "POINTER_FILE"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(90), "ARCHIVE_FORMAT"),
        ("ct.nii.gz", gzip.compress(b"\x5c\x01" * 9000), "ARCHIVE_FORMAT"),
        ("empty.zip", b"", "EMPTY_FILE"),
    ):
        (tmp_path / name).write_bytes(data)
        assert refused(tmp_path / name) == code
    assert refused(tmp_path / "absent.zip") == "FILE_MISSING"
    lzma = make_zip(tmp_path / "l.zip", [("a", b"x" * 99)], compression=zipfile.ZIP_LZMA)
    assert refused(lzma) == "ARCHIVE_METHOD"


def test_an_existing_folder_stays_as_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="ARCHIVE_TARGET"):
        unpack(make(tmp_path / "a", "gz"), tmp_path / "out", **LIMITS)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    archive = make(tmp_path / "a", "gz")
    monkeypatch.setattr("os.rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    assert refused(archive) == "UNPACK_FAILED"


def test_the_command(tmp_path):
    archive = make(tmp_path / "a.zip", "zip")
    command = [sys.executable, "-m", "tumoratlas", "unpack", archive, tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}: 3 files\n")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("ARCHIVE_TARGET: ")
