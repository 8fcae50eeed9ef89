"""Tests of traps of the review loop: work that could be lost, leaked or wedged unseen."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests import test_merge as merging
from tests import test_propose as proposing
from tests import test_returns as returned
from tests.test_merge import (
    CASE,
    ELSEWHERE,
    HALF_OF_A,
    MASKS,
    OLD,
    ORGAN,
    A,
    C,
    base,
    draw,
    merge,
    rejected,
    said,
)
from tests.test_returns import IDS, SENT, Desk, Studies
from tumoratlas.core.errors import ReviewError
from tumoratlas.core.files import write_json
from tumoratlas.images.arrays import write_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.review.bases import Base, read_bases, record_bases, store_base
from tumoratlas.review.cases import ReviewCase, blinded_batches
from tumoratlas.review.ledger import Event, make_event, standing
from tumoratlas.review.masks import load_mask, store_mask
from tumoratlas.review.merge.instances import MergedMask
from tumoratlas.review.merge.organ import merge_organ
from tumoratlas.review.packets.steps import _packet_case
from tumoratlas.review.plan.planning import missed_places, to_draw
from tumoratlas.review.returns.steps import returned_events

_restart, desk, studies = merging._restart, returned.desk, returned.studies
KINDS = {"b0001": "candidates", "b0002": "full", "b0009": "adjudicate"}
BLINDED = blinded_batches({"batch": name, "kind": kind} for name, kind in KINDS.items())
KEY = (CASE, ORGAN)


def blindly(events: Sequence[Event], **more: object) -> MergedMask:
    """Merge with two batches whose readers saw nobody else's decisions."""
    return merge_organ(
        case_id=CASE, organ=ORGAN, shape=merging.SHAPE, source_lesions=None,
        candidates=draw(*OLD.values()), candidate_ids=dict(enumerate(OLD, start=1)),
        events=events, blinded=BLINDED, **({"load_mask": MASKS.__getitem__} | more),
    )  # fmt: skip


def missed(who: str, right_mm: float, **more: str) -> Event:
    place = f"missed tumor at R {right_mm} A 45.0 S 101.5 mm"
    return said(who, "contest", None, reason="missed", comment=place, **more)


# Signatures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unseen",
    [
        lambda: missed("S1", -12.3, batch="b0001"),
        lambda: said("S1", "withdraw", None, stage="records", batch="commands"),
        lambda: said("J1", "add", None, ELSEWHERE, batch="b0003"),
    ],
    ids=["missed", "withdraw", "add"],
)
def test_a_blinded_signature_buries_nothing_that_its_reader_did_not_see(
    unseen: Callable[[], Event],
) -> None:
    first = [*(said("S1", "reject", one, batch="b0001") for one in OLD), unseen()]
    second = [said("S2", "reject", one, batch="b0002") for one in OLD]
    second.append(said("S2", "sign_off", None, batch="b0002"))
    for events in ([*first, *second], [*second, *first]):
        result = blindly(events)
        assert (result.state, result.signed_by) == ("unknown", "")
        is_missed = first[-1].decision == "contest"
        assert [c.why for c in result.contests] == ["contested by S1 (missed)"] * is_missed
        # Who sees all of it settles it.
        seen = said("S3", "sign_off", None, stage="adjudicate", batch="b0009")
        assert blindly([*events, seen]).signed_by == "S3"
        assert not blindly([*events, seen]).contests


def test_two_blinded_signatures_settle() -> None:
    one, two = (
        [*(said(who, "accept", name, batch=batch) for name in OLD),
         said(who, "sign_off", None, batch=batch)]
        for who, batch in (("S1", "b0001"), ("S2", "b0002"))
    )  # fmt: skip
    assert blindly([*one, *two]).state == blindly([*two, *one]).state == "present"
    assert not blindly([*one[:-1], *two]).signed_by


def test_nothing_is_signed_beside_a_line_that_cannot_be_taken_in(desk: Desk) -> None:
    desk.csv(
        *(desk.row("reject", n) for n in IDS["liver"]), desk.row("add", mask="lost.nii.gz"),
        desk.row("sign_off"),
        *(desk.row("reject", n, organ="kidney") for n in IDS["kidney"]),
        desk.row("sign_off", organ="kidney"),
    )  # fmt: skip
    events, left_out = desk.read()
    assert left_out == {
        "b1/decisions.csv:5": "MASK_MISSING", "b1/decisions.csv:6": "LINE_LEFT_OUT",
    }  # fmt: skip
    assert [e.organ for e in events if e.decision == "sign_off"] == ["kidney"]
    assert len(events) == 6
    # Once the mask is there, both count.
    new = returned.draw({1: np.s_[0:2, 16:19, 12:15]})
    write_nifti(desk.folder / "lost.nii.gz", new * np.uint16(9), returned.GRID)
    events, left_out = desk.read()
    assert len(events) == 8 and not left_out


def test_an_undo_of_a_line_that_cannot_be_taken_in_takes_nothing_else_back(desk: Desk) -> None:
    desk.csv(
        desk.row("reject", 1), desk.row("edit", 1, mask="lost.nii.gz"), desk.row("undo", 1),
        desk.row("accept", 2), desk.row("undo", 2),
    )  # fmt: skip
    events, left_out = desk.read()
    assert list(left_out.values()) == ["MASK_MISSING", "LINE_LEFT_OUT"]
    stands = [event for _, event in standing(enumerate(events))]
    assert returned.said(stands) == [("reject", IDS["liver"][1])]


@pytest.mark.parametrize("later", [True, False])
def test_a_line_that_was_decided_anew_holds_up_no_signature(desk: Desk, later: bool) -> None:
    lines = [desk.row("edit", 1, mask="lost.nii.gz"), desk.row("accept", 1)]
    lines = [*(lines if later else lines[::-1]), *(desk.row("reject", n) for n in (2, 3))]
    for minute, line in enumerate(lines):
        line["time"] = f"2026-11-21T10:{minute:02d}:00Z"
    desk.csv(*lines)
    desk.csv(desk.row("sign_off"), name="decisions_2.csv")
    wanted = ["MASK_MISSING"] if later else ["LINE_LEFT_OUT", "MASK_MISSING"]
    assert desk.codes() == wanted


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda line: line.replace(",add,", ",,"), "DECISION_MISSING"),
        (lambda line: line.replace(",new.nii.gz", ",,,new.nii.gz"), "CELLS_COUNT"),
    ],
    ids=["decision", "cells"],
)
def test_a_line_that_cannot_be_read_holds_up_the_signature(
    desk: Desk, damage: Callable[[str], str], code: str
) -> None:
    desk.csv(desk.row("reject", 1), desk.row("add", mask="new.nii.gz"), desk.row("sign_off"))
    path = desk.folder / "decisions.csv"
    path.write_bytes(damage(path.read_bytes().decode()).encode())
    events, left_out = desk.read()
    assert returned.said(events) == [("reject", IDS["liver"][1])]
    assert left_out == {"b1/decisions.csv:3": code, "b1/decisions.csv:4": "LINE_LEFT_OUT"}


@pytest.mark.parametrize("doubt", [True, False])
def test_a_new_model_does_not_bring_an_old_signature_to_life(doubt: bool) -> None:
    """The signer left a candidate open, and the new map does not show it."""
    old, new = base(OLD), base({"n": ELSEWHERE})
    seen = {"base_sha256": old.base_sha256}
    events = [said("S1", "uncertain", "a", **seen)] * doubt
    events += [said("S1", "reject", one, **seen) for one in "bc"]
    events.append(said("S1", "sign_off", **seen))
    assert merge(events, bases=[old]).state == "unknown"
    assert merge(events, {}, [old]).pending == ["a: open when it was signed"]
    # Signed on the map of today, or with all decided, it holds.
    now = {"base_sha256": new.base_sha256}
    again = [*events, said("S1", "reject", "n", **now), said("S1", "sign_off", **now)]
    assert merge(again, {"n": ELSEWHERE}, [old, new]).state == "confirmed_empty"
    whole = [*events[:-1], said("S1", "accept", "a", **seen), said("S1", "sign_off", **seen)]
    assert merge(whole, {}, [old]).state == "present"


# Masks and maps ----------------------------------------------------------------------------


def test_a_mask_of_an_earlier_form_of_the_scan_is_refused(tmp_path: Path) -> None:
    """The scan was turned over since: the same shape, other places."""
    turned = np.diag([1.0, 1.0, -1.0, 1.0])
    turned[2, 3] = merging.SHAPE[0] - 1
    then, now = Grid.of(merging.SHAPE, np.eye(4)), Grid.of(merging.SHAPE, turned)
    sha256 = store_mask(tmp_path, draw(ELSEWHERE), then)

    def load(grid: Grid) -> Callable[[str], np.ndarray]:
        return lambda name: load_mask(tmp_path, name, max_voxels=4000, grid=grid)

    events = [*rejected("S1", *OLD), said("S1", "add", mask_sha256=sha256), said("S1", "sign_off")]
    assert blindly(events, load_mask=load(then)).state == "present"
    with pytest.raises(ReviewError, match="MASK_GRID.*an earlier form of the scan"):
        blindly(events, load_mask=load(now))


def test_the_same_map_of_another_model_has_the_same_ids(tmp_path: Path) -> None:
    levels, grid = proposing.same_grid_case()
    bases = []
    for model_id in ("one", "two"):
        candidates, rows = proposing.propose(levels, grid, grid, model_id=model_id)
        ids = {row["number"]: row["candidate_id"] for row in rows}
        shown = store_base(
            tmp_path, case_id=CASE, organ=ORGAN, candidates=candidates, candidate_ids=ids, grid=grid
        )
        record_bases(tmp_path / "bases.jsonl", [shown])
        bases.append(shown)
    assert list(read_bases(tmp_path / "bases.jsonl").values()) == bases[:1] == bases[1:]


# Missed tumors -----------------------------------------------------------------------------


def test_only_adjudication_shows_what_others_missed(tmp_path: Path) -> None:
    grid = Grid.of(merging.SHAPE, np.eye(4))
    write_array(tmp_path / "structures.b2nd", np.zeros(grid.shape, np.uint32), grid=grid.to_json())
    case = ReviewCase(CASE, tmp_path, {}, grid, {})
    places = [(-12.3, 45.0, 101.5)]
    for kind in ("candidates", "full", "adjudicate"):
        line = {"case_id": CASE, "kind": kind, "rank": 1, "organs": [ORGAN], "bases": {ORGAN: "0"}}
        shown = _packet_case(case, line, {KEY: places}).load(ORGAN).missed_ras_mm
        assert list(shown) == (places if kind == "adjudicate" else [])


def test_only_who_saw_the_places_deals_with_them() -> None:
    events = [missed("S1", -12.3, batch="b0001")]
    events.append(said("S2", "add", None, ELSEWHERE, batch="b0002"))
    events.append(said("S2", "sign_off", None, batch="b0002"))
    assert missed_places(events) == {KEY: [(-12.3, 45.0, 101.5)]}
    assert to_draw(events) == {KEY}
    adjudicate = {"stage": "adjudicate", "batch": "b0003"}
    drawn = [*events, said("J1", "add", None, ELSEWHERE, **adjudicate)]
    assert missed_places(drawn) == {} and to_draw(drawn) == set()
    # A junior who finds nothing leaves the place for the senior who signs.
    looked = [*events, said("J1", "contest", None, comment="nothing there", **adjudicate)]
    assert missed_places(looked).keys() == {KEY} and to_draw(looked) == set()
    signed = [*looked, said("S3", "sign_off", None, stage="adjudicate", batch="b0004")]
    assert missed_places(signed) == {}


@pytest.mark.parametrize("who", ["J1", "S1"])
def test_a_place_is_given_once_to_be_drawn(who: str) -> None:
    """Whoever looks may only say again that it is there: the page cannot draw."""
    events = [missed("S1", -12.3, batch="b0001")]
    events += [missed(who, x, stage="adjudicate", batch="b0003") for x in (-12.3, 40.0)]
    assert to_draw(events) == set()
    assert len(missed_places(events)[KEY]) == 3
    # What a senior sees in settling something else is new.
    events.append(missed("S3", 7.0, stage="adjudicate", batch="b0004"))
    events.append(said("S3", "reject", "a", stage="adjudicate", batch="b0004"))
    assert to_draw(events) == {KEY}


def test_two_places_of_one_moment_both_count(desk: Desk) -> None:
    at = {"reason": "missed", "time": "2026-11-21T10:30:00Z"}
    places = [f"missed tumor at R {x} A 2.0 S 3.0 mm" for x in ("1.0", "50.0")]
    desk.csv(*(desk.row("contest", comment=place, **at) for place in places))
    events, left_out = desk.read()
    assert sorted(e.comment for e in events) == places and not left_out
    assert sorted(missed_places(events)[KEY]) == [(1.0, 2.0, 3.0), (50.0, 2.0, 3.0)]


# Files -------------------------------------------------------------------------------------


def test_a_form_under_another_name_is_told_of(desk: Desk) -> None:
    meant = ("Decisions.csv", "decisions.xlsx", "decision.csv", "decisions.json.txt")
    for name in (*meant, "worklist.csv", "mask.nii.gz", "e.seg.nrrd", ".decisions.csv.swp"):
        desk.csv(desk.row("accept", 1), name=name)
    assert desk.read() == ([], {f"b1/{name}": "FILE_IGNORED" for name in sorted(meant)})


def test_what_lies_in_no_folder_of_a_batch_is_told_of(desk: Desk, tmp_path: Path) -> None:
    place = tmp_path / "returns"
    for folder in ("b0001", "B0001", "b0001 ", "b0007", "of R1"):
        (place / folder).mkdir(parents=True)
        desk.folder = place / folder
        desk.csv(desk.row("accept", 1))
    (place / ".DS_Store").touch()
    (place / "decisions.csv").write_bytes((desk.folder / "decisions.csv").read_bytes())
    events, excluded, _ = returned_events(
        place, [], organs=[ORGAN], reviewers=returned.ROSTER, now=returned.NOW,
        batches=[returned.batch("b0001")], issued={}, store=tmp_path / "store",
    )  # fmt: skip
    assert not events and {row["id"]: row["code"] for row in excluded} == {
        "B0001": "BATCH_OTHER", "b0001 ": "BATCH_OTHER", "b0007": "BATCH_OTHER",
        "decisions.csv": "FILE_IGNORED",
        # These were read, and there is no case.
        "b0001/decisions.csv:2": "CASE_UNKNOWN", "of R1/decisions.csv:2": "CASE_UNKNOWN",
    }  # fmt: skip


def test_an_approved_label_does_not_revive_what_its_reader_rejected(studies: Studies) -> None:
    desk, label = studies.desk, SENT.copy()
    early = {"time": "2026-11-21T09:00:00Z"}
    desk.csv(*(desk.row("reject", n, **early) for n in IDS["liver"]))
    label[10:12, 18:20, 14:16] = 1004
    studies.save(label, approvedBy="R1")
    desk.csv(desk.row("sign_off"), name="decisions_2.csv")
    events, left_out = desk.read()
    assert list(left_out.values()) == ["MONAI_UNTOUCHED"] * 3
    liver = [e.decision for e in events if e.organ == "liver"]
    assert liver == ["reject", "reject", "reject", "add", "sign_off"]
    assert [e.decision for e in events if e.organ == "kidney"] == ["accept", "accept"]


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ({"decision": "edit", "mask": "the tumour continues " * 20}, "MASK_MISSING"),
        ({"comment": "ok \ud83d"}, "TEXT_INVALID"),
        ({"case_id": "ok \ud83d"}, "TEXT_INVALID"),
    ],
    ids=["mask", "comment", "case"],
)
def test_a_bad_cell_is_one_line(desk: Desk, cells: dict[str, str], code: str) -> None:
    desk.json(desk.row("reject", 2), {**desk.row("reject", 1), **cells}, desk.row("accept", 3))
    events, left_out = desk.read()
    assert [e.decision for e in events] == ["reject", "accept"]
    assert left_out == {"b1/decisions.json#2": code}


def test_a_file_name_of_another_encoding_can_be_told(desk: Desk) -> None:
    desk.csv(desk.row("reject", 1), desk.row("oops", 2))
    path = desk.folder / "decisions.csv"
    os.rename(path, os.path.join(os.fsencode(desk.folder), b"decisions_M\xfcller.csv"))
    events, left_out = desk.read()
    assert len(events) == 1
    assert left_out == {"b1/decisions_M\\udcfcller.csv:3": "DECISION_UNKNOWN"}
    write_json(desk.folder / "excluded.json", left_out)
    assert json.loads((desk.folder / "excluded.json").read_text()) == left_out


# An organ that gets a source's labels ------------------------------------------------------


def annotated(
    events: Sequence[Event], bases: Sequence[Base], tumor: merging.Box, value: int = 1
) -> MergedMask:
    """Merge an organ that has a source's labels now, and no candidates any more."""
    label = make_event(
        stage="harmonize", batch="sources", case_id=CASE, organ=ORGAN, candidate_id=None,
        reviewer_id="lits", role="source", decision="source_label", mask_sha256="0" * 64,
    )  # fmt: skip
    return merge_organ(
        case_id=CASE, organ=ORGAN, shape=merging.SHAPE, candidates=None, candidate_ids={},
        source_lesions=((draw(tumor) > 0) * value).astype(np.uint8), events=[label, *events],
        load_mask=MASKS.__getitem__, bases=bases,
    )  # fmt: skip


def reviewed(on: Base, *, signed: bool = True) -> list[Event]:
    seen = {"base_sha256": on.base_sha256}
    events = [said("S1", "accept", "a", **seen), said("S1", "accept", "c", **seen)]
    events.append(said("S1", "reject", "b", **seen))
    return [*events, said("S1", "sign_off", **seen)] if signed else events


@pytest.mark.parametrize("signed", [True, False])
def test_earlier_decisions_do_not_wedge_a_source_s_labels(signed: bool) -> None:
    old = base(OLD)
    result = annotated(reviewed(old, signed=signed), [old], HALF_OF_A)
    assert result.state == "present"
    found = {line.origin for line in result.lineage.values()}
    assert found == ({"source", "accept"} if signed else {"source"})
    # The source's outline is that of the tumor: no rim of the candidate is left around it.
    wanted = draw(HALF_OF_A, C) if signed else draw(HALF_OF_A)
    np.testing.assert_array_equal(result.instances > 0, wanted > 0)


def test_a_source_s_cyst_takes_no_accepted_tumor_away() -> None:
    old = base(OLD)
    result = annotated(reviewed(old), [old], np.s_[1:4, 1:6, 1:3], value=2)
    kinds = [result.kinds[n] for n in result.lineage]
    assert sorted(kinds) == ["cyst", "tumor", "tumor"]
    np.testing.assert_array_equal(result.instances > 0, draw(A, C) > 0)


def test_what_was_taken_back_opens_nothing() -> None:
    old = base(OLD)
    events = reviewed(old)
    undone = [
        said("S1", "undo", event.candidate_id, stage="records", base_sha256=event.event_id)
        for event in events
    ]
    result = annotated([*events, *undone], [old], HALF_OF_A)
    assert (result.state, result.origin, result.pending) == ("present", "source", [])
    np.testing.assert_array_equal(result.instances > 0, draw(HALF_OF_A) > 0)
    withdrawn = said("S1", "withdraw", None, stage="records")
    assert annotated([withdrawn], [], HALF_OF_A).state == "unknown"
    back = said("S1", "undo", None, stage="records", base_sha256=withdrawn.event_id)
    assert not annotated([withdrawn, back], [], HALF_OF_A).pending
