"""The records folder in one archive and back: what people decided cannot be computed again."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import unicodedata
from pathlib import Path

from tumoratlas.core.errors import InputError, ReviewError
from tumoratlas.core.files import locked, replacing, sha256_file, sync
from tumoratlas.core.records import read_lines
from tumoratlas.ingest.archives import MAX_BYTES, MAX_MEMBERS, unpack
from tumoratlas.review.bases import read_bases
from tumoratlas.review.ledger import read_ledger

LEDGER, KEY, SUMS = "ledger.jsonl", "pseudonym.key", "SHA256SUMS"


def backup(records: Path, archive: Path, *, with_key: bool) -> int:
    """Write all files of the records folder into one tar archive; equal files give equal bytes.

    The archive holds ``SHA256SUMS``, in the form of ``sha256sum``, as its last member. Hidden
    files (locks, unfinished writes) stay out. An older archive is never replaced.

    Parameters
    ----------
    records
        The records folder.
    archive
        File to create, outside of that folder.
    with_key
        Whether to take in the key of the pseudonyms. Who has it can tell from a name or number
        in a hospital's list which released case it became; keep such an archive as secret as the
        key.

    Returns
    -------
    Number of files.

    Raises
    ------
    ReviewError
        LEDGER_BROKEN: the chain of the ledger is verified first. BACKUP_INCOMPLETE: a mask that
        a reader drew or was shown is not there.
    InputError
        BACKUP_TARGET, BACKUP_FILE; RECORDS: a line of another record is damaged.
    """
    folder = records.resolve()
    if not folder.is_dir() or os.path.lexists(archive) or folder in archive.resolve().parents:
        raise InputError(
            "BACKUP_TARGET", archive, "it exists, lies in the records, or there are no records",
            remedy="Name the records folder and a new file elsewhere, with the date in its name",
            evidence=str(records),
        )  # fmt: skip
    with locked(records / LEDGER), replacing(archive) as temporary:
        _check_records(records)
        sums = []
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for name in _files(records, with_key):
                sums.append(f"{_add(tar, name, records / name)}  {name}\n")
            text = "".join(sums).encode()
            tar.addfile(_member(SUMS, len(text)), io.BytesIO(text))
    return len(sums)


def restore(archive: Path, records: Path) -> int:
    """Unpack a backup into a new or empty records folder; it appears whole or not at all.

    Returns
    -------
    Number of files.

    Raises
    ------
    InputError
        RESTORE_TARGET, BACKUP_DAMAGED, RECORDS; as `tumoratlas.ingest.archives.unpack`.
    ReviewError
        LEDGER_BROKEN, BACKUP_INCOMPLETE.
    """
    if os.path.lexists(records) and (not records.is_dir() or any(records.iterdir())):
        raise InputError(
            "RESTORE_TARGET", records, "it exists and is not an empty folder",
            remedy="Move it away first, or name a new folder",
        )  # fmt: skip
    building = records.with_name(f".{records.name}.restoring")
    shutil.rmtree(building, ignore_errors=True)
    try:
        unpack(archive, building, max_members=MAX_MEMBERS, max_bytes=MAX_BYTES, max_ratio=1)
        listed = _listed(building / SUMS)
        found = {p.relative_to(building).as_posix() for p in building.rglob("*") if p.is_file()}
        wrong = {name for name, sha256 in listed.items() if name not in found
                 or sha256_file(building / name) != sha256}  # fmt: skip
        wrong |= found - {SUMS} - set(listed)
        if wrong or not listed:
            raise InputError(
                "BACKUP_DAMAGED", archive, f"its files are not those that its {SUMS} lists",
                remedy="Take another copy of the backup", evidence=", ".join(sorted(wrong)[:5]),
            )  # fmt: skip
        (building / SUMS).unlink()
        _check_records(building)
        if KEY in listed:
            (building / KEY).chmod(0o600)
        os.rename(building, records)
        sync(records.absolute().parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return len(listed)


def _check_records(records: Path) -> None:
    """Verify every line, and that the masks which a reader drew or was shown are there.

    What a source labelled stands in results/, which can be built again.
    """
    for path in sorted(records.glob("*.jsonl")):
        if path.name != LEDGER:
            read_lines(path)
    drawn = (event for event in read_ledger(records / LEDGER) if event.role != "source")
    named = {event.mask_sha256 for event in drawn} - {""}
    named |= {base.base_sha256 for base in read_bases(records / "bases.jsonl").values()}
    missing = sorted(n for n in named if not (records / "masks" / f"{n}.nii.gz").is_file())
    if missing:
        raise ReviewError(
            "BACKUP_INCOMPLETE", records, "masks that were drawn or shown are not there",
            remedy="Restore them from an earlier backup",
            evidence=f"{len(missing)} masks, first {missing[0][:12]}",
        )  # fmt: skip


def _files(records: Path, with_key: bool) -> list[str]:
    """Return the names of the files to back up, sorted; refuse what could not be restored."""
    files, names = [], {}
    for path in sorted(records.rglob("*")):
        name = path.relative_to(records).as_posix()
        if any(part.startswith(".") for part in Path(name).parts) or name == SUMS:
            continue
        if (name == KEY and not with_key) or (path.is_dir() and not path.is_symlink()):
            continue
        parents = [p.as_posix() for p in reversed(Path(name).parents[:-1])]
        clash = [names.setdefault(_seen(part), part) for part in (*parents, name)]
        plain = path.is_file() and not path.is_symlink() and name.isprintable()
        if not plain or "\\" in name or name[1:2] == ":" or clash != [*parents, name]:
            raise InputError(
                "BACKUP_FILE", records,
                "a file is a link, or its name cannot be restored on every machine",
                remedy="Replace the link by the file, or rename it",
                evidence=repr(name),
            )  # fmt: skip
        files.append(name)
    return sorted(files)


def _seen(name: str) -> str:
    """Return a name as a file system sees it that ignores case and spelling."""
    return unicodedata.normalize("NFC", name).casefold()


def _add(tar: tarfile.TarFile, name: str, path: Path) -> str:
    """Add a file and return the hash of the bytes that went in."""
    with open(path, "rb") as file:
        # Writers replace files, so that this one stays as it was when it was opened.
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        file.seek(0)
        tar.addfile(_member(name, size), file)
    return sha256


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _listed(sums: Path) -> dict[str, str]:
    """Return the hash of each file of a ``SHA256SUMS``; none where it is absent."""
    if not sums.is_file():
        return {}
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
