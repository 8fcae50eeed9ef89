"""Tests of the commands on the records: undo, withdraw, backup, restore."""

import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tumoratlas.core.errors import InputError, ReviewError, TumorAtlasError
from tumoratlas.core.files import sha256_file
from tumoratlas.core.records import append_lines
from tumoratlas.core.structures import tumor_structures
from tumoratlas.images.grid import Grid
from tumoratlas.ingest.pseudonyms import read_key, write_key
from tumoratlas.review.backup import backup, restore
from tumoratlas.review.commands import undo, withdraw
from tumoratlas.review.ledger import Event, append_events, make_event, read_ledger, standing
from tumoratlas.review.masks import store_mask

CASE = "BDMAP_00000001"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
GRID = Grid.of((3, 4, 5), np.diag([1.0, 1.0, 2.0, 1.0]))


def said(who: str, decision: str, candidate: str | None, minute: int, **more: str) -> Event:
    facts = {
        "stage": "review", "batch": "b0001", "case_id": CASE, "organ": "liver",
        "candidate_id": candidate, "reviewer_id": who, "decision": decision,
        "role": "senior" if who.startswith("S") else "junior",
        "time": f"2026-11-21T10:{minute:02d}:00.000Z",
    }  # fmt: skip
    return make_event(**(facts | more))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Return a records folder with a ledger, a roster, a mask, returned files and a key."""
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "reviewers.csv").write_text("reviewer_id,role\nS1,senior\nS2,senior\nJ1,junior\n")
    mask = store_mask(folder / "masks", np.ones(GRID.shape, np.uint16), GRID)
    events = [
        make_event(
            stage="harmonize", batch="sources", case_id=CASE, organ="colon", candidate_id=None,
            reviewer_id="msd", role="source", decision="source_label", mask_sha256="ab" * 32,
        ),
        said("J1", "accept", "c1", 1), said("J1", "add", None, 2, mask_sha256=mask),
        said("S1", "reject", "c1", 3), said("S1", "sign_off", None, 4),
    ]  # fmt: skip
    append_events(folder / "ledger.jsonl", events)
    returned = folder / "returns/b0001/Läsion 1"
    returned.mkdir(parents=True)
    (returned / f"{'long' * 40}.csv").write_text("a reviewer's work\n")
    (folder / "returns/b0001/.DS_Store").write_text("of a desktop")
    write_key(folder / "pseudonym.key")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    paths = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def ids(records: Path) -> list[str]:
    return [event.event_id for event in read_ledger(records / "ledger.jsonl")]


# Undo and withdraw -------------------------------------------------------------------------


def test_undo_takes_back_own_decisions_and_seniors_any(records: Path) -> None:
    before = ids(records)
    mine = {"reviewer_id": "J1", "reason": " wrong case ", "now": NOW}
    [event] = undo(records, [before[1][:8]], **mine)
    assert (event.decision, event.stage, event.role) == ("undo", "records", "junior")
    assert (event.candidate_id, event.base_sha256) == ("c1", before[1])
    assert (event.reason, event.comment) == ("", "wrong case")
    assert event.time == "2026-11-21T12:00:00.000Z"
    undo(records, [before[2], before[3]], reviewer_id="S2", reason="left the study", now=NOW)
    left = [
        event.event_id for _, event in standing(enumerate(read_ledger(records / "ledger.jsonl")))
    ]
    assert left == [before[4]]
    assert ids(records)[: len(before)] == before


@pytest.mark.parametrize(
    ("number", "who", "reason", "code"),
    [
        (3, "J1", "why", "ROLE_WRONG"),
        (1, "J9", "why", "REVIEWER_UNKNOWN"),
        (1, "J1", "  ", "REASON_MISSING"),
        (0, "S1", "why", "UNDO_REFUSED"),
        (99, "S1", "why", "EVENT_UNKNOWN"),
        (None, "S1", "why", "EVENT_UNKNOWN"),
    ],
)
def test_undo_is_refused_as_a_whole(
    records: Path, number: int | None, who: str, reason: str, code: str
) -> None:
    known = dict(enumerate(ids(records))) | {None: ids(records)[1][:7]}
    before = (records / "ledger.jsonl").read_bytes()
    mine = known[1] if who == "J1" else known[3]
    with pytest.raises(ReviewError, match=code):
        undo(records, [mine, known.get(number, "0" * 64)], reviewer_id=who, reason=reason, now=NOW)
    assert (records / "ledger.jsonl").read_bytes() == before


def test_what_is_taken_back_stays_so(records: Path) -> None:
    act = {"reviewer_id": "J1", "reason": "why", "now": NOW}
    [event] = undo(records, [ids(records)[1]], **act)
    for again in (ids(records)[1], event.event_id):
        with pytest.raises(ReviewError, match="UNDO_REFUSED"):
            undo(records, [again], **act)
    early = act | {"now": datetime(2026, 11, 21, 10, 1, tzinfo=UTC)}
    with pytest.raises(ReviewError, match="UNDO_REFUSED"):
        undo(records, [ids(records)[2]], **early)


def test_withdraw_a_case_or_an_organ(records: Path) -> None:
    act = {"reviewer_id": "S2", "reason": "consent withdrawn", "now": NOW}
    [event] = withdraw(records, CASE, ["liver"], **act)
    assert (event.organ, event.decision, event.comment) == ("liver", "withdraw", act["reason"])
    rest = withdraw(records, CASE, [], **act)
    assert {e.organ for e in rest} | {"liver"} == set(tumor_structures())
    assert withdraw(records, CASE, [], **act) == []


@pytest.mark.parametrize(
    ("case_id", "organs", "who", "code"),
    [
        ("BDMAP_00000002", [], "S1", "CASE_UNKNOWN"),
        (CASE, ["spleen"], "S1", "ORGAN_UNKNOWN"),
        (CASE, [], "J1", "ROLE_WRONG"),
        (CASE, [], "S9", "REVIEWER_UNKNOWN"),
    ],
)
def test_withdraw_is_refused(
    records: Path, case_id: str, organs: list[str], who: str, code: str
) -> None:
    before = ids(records)
    with pytest.raises(ReviewError, match=code):
        withdraw(records, case_id, organs, reviewer_id=who, reason="why", now=NOW)
    assert ids(records) == before


# Backup and restore ------------------------------------------------------------------------


@pytest.mark.parametrize("with_key", [False, True])
def test_a_backup_comes_back_whole(records: Path, tmp_path: Path, with_key: bool) -> None:
    archive, again, folder = (tmp_path / name for name in ("a.tar", "b.tar", "new"))
    before = content(records)
    if not with_key:
        del before["pseudonym.key"]
    assert backup(records, archive, with_key=with_key) == len(before)
    folder.mkdir()
    assert restore(archive, folder) == len(before)
    assert content(folder) == before
    assert ids(folder) == ids(records)
    if with_key:
        assert read_key(folder / "pseudonym.key") == read_key(records / "pseudonym.key")
    backup(folder, again, with_key=with_key)
    assert archive.read_bytes() == again.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "b.tar", "new", "records"]


def test_a_backup_lists_what_it_holds_as_sha256sum_does(records: Path, tmp_path: Path) -> None:
    backup(records, tmp_path / "a.tar", with_key=False)
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
        sums = tar.extractfile("SHA256SUMS").read().decode().splitlines()
        assert {(m.mtime, m.uid, m.mode) for m in tar.getmembers()} == {(0, 0, 0o644)}
    assert names == [*sorted(names[:-1]), "SHA256SUMS"]
    assert sums == [f"{sha256_file(records / name)}  {name}" for name in names[:-1]]
    assert not any("DS_Store" in name or "lock" in name for name in names)


def break_ledger(records: Path) -> None:
    path = records / "ledger.jsonl"
    path.write_text(path.read_text().replace('"reject"', '"accept"'))


def lose_mask(records: Path) -> None:
    next((records / "masks").glob("*.nii.gz")).unlink()


def lose_shown_map(records: Path) -> None:
    line = {"base_sha256": "cd" * 32, "case_id": CASE, "organ": "colon", "candidates": {}}
    append_lines(records / "bases.jsonl", [line])


def damage_registry(records: Path) -> None:
    append_lines(records / "thresholds.jsonl", [{"organ": "colon", "threshold": 0.3}])
    path = records / "thresholds.jsonl"
    path.write_text(path.read_text().replace("0.3", "0.2"))


def add_link(records: Path) -> None:
    (records / "returns/b0001/link").symlink_to("/etc/hosts")


def add_names(records: Path) -> None:
    for name in ("returns/B0001/x", "returns/b0001/x"):
        (records / name).parent.mkdir(exist_ok=True)
        (records / name).touch()


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (break_ledger, "LEDGER_BROKEN"),
        (lose_mask, "BACKUP_INCOMPLETE"),
        (lose_shown_map, "BACKUP_INCOMPLETE"),
        (damage_registry, "RECORDS"),
        (add_link, "BACKUP_FILE"),
        (add_names, "BACKUP_FILE"),
        (lambda records: (records / "returns/a\\b").touch(), "BACKUP_FILE"),
        (lambda records: (records / "returns/a\nb").touch(), "BACKUP_FILE"),
    ],
)
def test_no_backup_of_what_could_not_come_back(
    records: Path, tmp_path: Path, damage: Callable[[Path], None], code: str
) -> None:
    damage(records)
    with pytest.raises(TumorAtlasError, match=code):
        backup(records, tmp_path / "a.tar", with_key=True)
    assert [p.name for p in tmp_path.iterdir()] == ["records"]


def test_a_backup_replaces_nothing(records: Path, tmp_path: Path) -> None:
    (tmp_path / "old.tar").write_text("last year's")
    for archive in (tmp_path / "old.tar", records / "a.tar", records / "masks/a.tar", records):
        with pytest.raises(InputError, match="BACKUP_TARGET"):
            backup(records, archive, with_key=False)
    with pytest.raises(InputError, match="BACKUP_TARGET"):
        backup(tmp_path / "none", tmp_path / "a.tar", with_key=False)
    backup(records, tmp_path / "a.tar", with_key=False)
    with pytest.raises(InputError, match="RESTORE_TARGET"):
        restore(tmp_path / "a.tar", records)
    with pytest.raises(InputError, match="RESTORE_TARGET"):
        restore(tmp_path / "a.tar", tmp_path / "old.tar")


def rewrite(archive: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    with tarfile.open(archive) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    change(members)
    with tarfile.open(archive, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            path = archive.with_name("member")
            path.write_bytes(data)
            with open(path, "rb") as file:
                tar.addfile(info, file)
    path.unlink()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda m: m.update({"reviewers.csv": b"reviewer_id,role\nX,senior\n"}), "BACKUP_DAMAGED"),
        (lambda m: m.pop("reviewers.csv"), "BACKUP_DAMAGED"),
        (lambda m: m.update({"extra": b"x"}), "BACKUP_DAMAGED"),
        (lambda m: m.pop("SHA256SUMS"), "BACKUP_DAMAGED"),
        (lambda m: m.update({"SHA256SUMS": b"\xff\n"}), "BACKUP_DAMAGED"),
        (lambda m: m.update({"../outside": b"x"}), "ARCHIVE_NAME"),
    ],
)
def test_a_damaged_backup_restores_nothing(
    records: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], object], code: str
) -> None:
    archive = tmp_path / "a.tar"
    backup(records, archive, with_key=False)
    rewrite(archive, change)
    with pytest.raises(InputError, match=code):
        restore(archive, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "records"]


def test_a_cut_backup_restores_nothing(records: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    backup(records, archive, with_key=False)
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(InputError, match="ARCHIVE_DAMAGED"):
        restore(archive, tmp_path / "new")
