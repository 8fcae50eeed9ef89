"""Tests of the merge: several readers, decisions carried to new candidates, conservation."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.review.bases import Base
from tumoratlas.review.ledger import Event, make_event, standing
from tumoratlas.review.merge.consensus import contested
from tumoratlas.review.merge.instances import Counts, MergedMask, check_conservation, instance_id
from tumoratlas.review.merge.organ import merge_organ

CASE, ORGAN = "BDMAP_00000001", "liver"
SHAPE = (10, 20, 20)
ROLES = {"S1": "senior", "S2": "senior", "S3": "senior", "J1": "junior", "J2": "junior"}
Box = tuple[slice, slice, slice]
MASKS: dict[str, NDArray[np.uint16]] = {}

A, B, C = np.s_[1:4, 1:6, 1:6], np.s_[1:4, 1:6, 9:14], np.s_[6:9, 10:15, 2:7]
OLD = {"a": A, "b": B, "c": C}
# Four fifths of A, and half of it.
MOST_OF_A, HALF_OF_A = np.s_[1:4, 1:6, 1:5], np.s_[1:4, 1:6, 3:8]
ELSEWHERE = np.s_[6:9, 1:4, 14:18]


def draw(*boxes: Box) -> NDArray[np.uint16]:
    array = np.zeros(SHAPE, np.uint16)
    for label, box in enumerate(boxes, start=1):
        array[box] = label
    return array


def stored(*boxes: Box) -> str:
    sha256 = f"{len(MASKS):064x}"
    MASKS[sha256] = draw(*boxes)
    return sha256


def base(candidates: dict[str, Box]) -> Base:
    ids = dict(enumerate(candidates, start=1))
    return Base(stored(*candidates.values()), CASE, ORGAN, ids)


class Clock:
    second = 0


@pytest.fixture(autouse=True)
def _restart() -> None:
    Clock.second = 0


def said(who: str, decision: str, candidate: str | None = None, *boxes: Box, **more: str) -> Event:
    """Return an event one second after the one before."""
    Clock.second += 1
    facts = {
        "stage": "review", "batch": f"of {who}", "case_id": CASE, "organ": ORGAN,
        "candidate_id": candidate, "reviewer_id": who, "role": ROLES[who], "decision": decision,
        "mask_sha256": stored(*boxes) if boxes else "",
        "time": f"2026-11-21T10:{Clock.second // 60:02d}:{Clock.second % 60:02d}.000Z",
    }  # fmt: skip
    return make_event(**(facts | more))


def merge(
    events: Sequence[Event],
    candidates: dict[str, Box] = OLD,
    bases: Sequence[Base] = (),
    source: NDArray[np.uint8] | None = None,
) -> MergedMask:
    return merge_organ(
        case_id=CASE, organ=ORGAN, shape=SHAPE, source_lesions=source,
        candidates=draw(*candidates.values()),
        candidate_ids=dict(enumerate(candidates, start=1)), events=events,
        load_mask=MASKS.__getitem__, bases=bases,
    )  # fmt: skip


def signed(events: Sequence[Event], *arguments: object, **more: object) -> MergedMask:
    return merge([*events, said("S1", "sign_off")], *arguments, **more)


def tumors(result: MergedMask) -> dict[str, NDArray[np.bool_]]:
    assert not result.pending and result.origin == "review", result.pending
    return {line.tumor_id: result.instances == n for n, line in result.lineage.items()}


def rejected(who: str, *ids: str) -> list[Event]:
    return [said(who, "reject", one) for one in ids]


def same(first: MergedMask, second: MergedMask) -> None:
    np.testing.assert_array_equal(first.instances, second.instances)
    assert replace(first, instances=second.instances) == second


# Several readers: instances ----------------------------------------------------------------


def test_two_readers_who_agree_settle_a_candidate() -> None:
    events = [said("S1", "accept", "a"), *rejected("S1", "b", "c")]
    events += [said("S2", "accept", "a"), *rejected("S2", "b", "c")]
    result = signed(events)
    assert list(tumors(result)) == ["a"]
    assert result.lineage[1].reviewers == ("S1", "S2")
    assert result.counts == Counts(accepted=1, rejected=2)


@pytest.mark.parametrize("role", ["S", "J"])
def test_two_readers_who_contradict_each_other_are_contested(role: str) -> None:
    events = [*rejected("S1", "b", "c"), said(f"{role}1", "accept", "a")]
    events.append(said(f"{role}2", "reject", "a"))
    result = signed(events)
    why = f"contested by {role}1 (accept) and {role}2 (reject)"
    assert result.state == "unknown" and result.pending == [f"a: {why}"]
    row = {"case_id": CASE, "contests": {ORGAN: [asdict(c) for c in result.contests]}}
    assert contested([row]) == [
        {"case_id": CASE, "organ": ORGAN, "candidate_id": "a", "why": why,
         "parties": (f"{role}1", f"{role}2")}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        (lambda: [said("S3", "accept", "a", stage="adjudicate")], ["a"]),
        (lambda: [said("S3", "reject", "a", stage="adjudicate")], []),
        # What the parties say later does not reopen it.
        (lambda: [said("S3", "reject", "a", stage="adjudicate"), said("S1", "accept", "a")], []),
        # Of two who settle it the later counts, in any case.
        (
            lambda: [
                said("S3", "reject", "a", stage="adjudicate"),
                said("S3", "accept", "a", stage="adjudicate"),
            ],
            ["a"],
        ),
        # A party who changes sides.
        (lambda: [said("S2", "accept", "a", stage="adjudicate")], ["a"]),
        (lambda: [said("S1", "reject", "a")], []),
        (lambda: [said("S2", "undo", "a")], ["a"]),
        # Nobody who took part settles it alone; a third vote of the review does not either.
        (lambda: [said("S2", "reject", "a", stage="adjudicate")], None),
        (lambda: [said("S3", "accept", "a")], None),
        (lambda: [said("S3", "uncertain", "a", stage="adjudicate")], None),
        (lambda: [said("J1", "accept", "a", stage="adjudicate")], None),
    ],
)
def test_who_settles_a_contested_candidate(
    more: Callable[[], list[Event]], outcome: list[str] | None
) -> None:
    events = [*rejected("S1", "b", "c"), said("S1", "accept", "a"), said("S2", "reject", "a")]
    result = signed([*events, *more()])
    if outcome is None:
        assert result.pending and "contested" in result.pending[0]
    else:
        assert list(tumors(result)) == outcome and not result.contests


def test_uncertain_abstains() -> None:
    rest = rejected("S1", "b", "c")
    doubt, sure = said("S1", "uncertain", "a"), said("S2", "accept", "a")
    assert list(tumors(signed([*rest, doubt, sure]))) == ["a"]
    assert list(tumors(signed([*rest, sure, doubt]))) == ["a"]
    assert signed([*rest, doubt]).pending == ["a: uncertain"]
    # A junior does not decide what a senior left open.
    assert signed([*rest, doubt, said("J1", "accept", "a")]).pending == ["a: uncertain"]


def test_a_junior_against_a_senior_changes_nothing_and_asks_for_a_senior() -> None:
    events = [*rejected("S1", "b", "c"), said("S1", "accept", "a"), said("J1", "reject", "a")]
    asked = merge(events)
    assert [c.why for c in asked.contests] == ["J1 (reject) against S1"]
    assert asked.pending == ["no senior sign_off after the last event"]
    seen = signed(events)
    assert list(tumors(seen)) == ["a"] and not seen.contests
    assert not merge([*events, said("S2", "accept", "a")]).contests
    revived = merge([*rejected("S1", "a", "b", "c"), said("J1", "accept", "a")])
    assert revived.contests[0].parties == ("J1", "S1")
    assert not merge([said("J1", "reject", "a"), said("S1", "accept", "a")]).contests


def test_contest_events_wait_for_a_senior() -> None:
    events = [*rejected("S1", "a", "b", "c"), said("S1", "sign_off")]
    missed = said("J1", "contest", None, reason="missed")
    result = merge([*events, missed, said("J1", "contest", "b")])
    assert [(c.candidate_id, c.why) for c in result.contests] == [
        ("", "contested by J1 (missed)"), ("b", "contested by J1"),
    ]  # fmt: skip
    answered = merge([*events, missed, said("J1", "contest", "b"), said("S1", "reject", "b")])
    assert [c.candidate_id for c in answered.contests] == [""]
    assert not signed([*events, missed]).contests


# Several readers: voxels -------------------------------------------------------------------


def test_two_outlines_that_agree_give_the_later() -> None:
    events = [*rejected("S1", "b", "c"), said("S1", "edit", "a", A)]
    events.append(said("S2", "edit", "a", MOST_OF_A))
    result = signed(events)
    np.testing.assert_array_equal(tumors(result)["a"], draw(MOST_OF_A) > 0)
    assert result.counts == Counts(accepted=1, edited=1, rejected=2)
    # An accept says that the candidate's outline is good.
    result = signed([*events[:3], said("S2", "accept", "a")])
    np.testing.assert_array_equal(tumors(result)["a"], draw(A) > 0)


def test_two_outlines_that_differ_are_contested() -> None:
    rest = rejected("S1", "b", "c")
    for other in ("edit", "accept"):
        first = said("S1", "edit", "a", HALF_OF_A)
        second = said("S2", other, "a", *([A] if other == "edit" else []))
        for events in ([first, second], [second, first]):
            result = signed([*rest, *events])
            assert result.pending == ["a: contested by S1 and S2, outlines differ, DSC 0.60"]
            assert result.contests[0].parties == ("S1", "S2")
    # One reader alone changes the outline as often as she likes.
    result = signed([*rest, said("S1", "edit", "a", HALF_OF_A), said("S1", "accept", "a")])
    np.testing.assert_array_equal(tumors(result)["a"], draw(A) > 0)


def test_three_outlines_give_the_majority_in_any_order() -> None:
    rest = rejected("S1", "b", "c")
    boxes = {"S1": np.s_[1:3, 1:4, 1:3], "S2": np.s_[1:3, 2:5, 1:3], "S3": np.s_[2:4, 1:5, 1:3]}
    votes = sum((draw(box) > 0).astype(int) for box in boxes.values())
    assert set(np.unique(votes)) == {0, 1, 2, 3}
    events = [said(who, "edit", "a", box) for who, box in boxes.items()]
    for order in permutations(events):
        result = signed([*rest, *order])
        np.testing.assert_array_equal(tumors(result)["a"], votes >= 2)
        assert result.lineage[1].origin == "edit" and len(result.lineage[1].event_ids) == 3
    # With four, two of four are no majority.
    apart = [
        said(who, "edit", "a", box)
        for who, box in zip(ROLES, (A, A, B, B), strict=False)
        if ROLES[who] == "senior"
    ]
    assert "contested" in signed([*rest, apart[0], apart[2], events[2]]).pending[0]


def test_three_accepts_are_an_accept() -> None:
    result = signed([*rejected("S1", "b", "c"), *(said(f"S{n}", "accept", "a") for n in (1, 2, 3))])
    assert result.lineage[1].origin == "accept" and result.counts.edited == 0


def test_juniors_refine_what_seniors_accepted() -> None:
    rest = [*rejected("S1", "b", "c"), said("S1", "accept", "a")]
    one, two = said("J1", "edit", "a", MOST_OF_A), said("J2", "edit", "a", HALF_OF_A)
    # The second senior never saw the junior's outline, and does not undo it.
    late = said("S2", "accept", "a")
    for events in ([one, late], [late, one]):
        np.testing.assert_array_equal(tumors(signed([*rest, *events]))["a"], draw(MOST_OF_A) > 0)
    assert "contested by J1 and J2" in signed([*rest, one, two]).pending[0]
    back = said("J1", "accept", "a")
    np.testing.assert_array_equal(tumors(signed([*rest, one, back]))["a"], draw(A) > 0)
    np.testing.assert_array_equal(
        tumors(signed([*rest, one, two, said("S2", "edit", "a", A)]))["a"], draw(A) > 0
    )


def test_a_split_against_one_tumor_is_contested() -> None:
    rest = rejected("S1", "b", "c")
    parts = (np.s_[1:4, 1:3, 1:6], np.s_[1:4, 3:6, 1:6])
    split = said("S1", "split", "a", *parts)
    assert (
        "outlines differ, 2 and 1 tumors"
        in signed([*rest, split, said("S2", "accept", "a")]).pending[0]
    )
    result = signed([*rest, split, said("S2", "split", "a", *reversed(parts))])
    assert len(tumors(result)) == 2 and result.counts.split_off == 1


def test_two_readers_merge() -> None:
    bridge = np.s_[1:4, 1:6, 1:14]
    rest = [*rejected("S1", "c"), *rejected("S2", "c")]
    masks = [stored(bridge), stored(bridge), stored(A)]
    merges = [
        [said(who, "merge", one, mask_sha256=mask) for one in "ab"]
        for who, mask in zip(("S1", "S2"), masks, strict=False)
    ]
    result = signed([*rest, *merges[0], *merges[1]])
    [only] = tumors(result).values()
    np.testing.assert_array_equal(only, draw(bridge) > 0)
    assert result.lineage[1].candidate_ids == ("a", "b")
    assert result.counts == Counts(accepted=2, merged_away=1, rejected=1, edited=2)
    parted = signed([*rest, *merges[0], said("S2", "accept", "a"), said("S2", "accept", "b")])
    assert parted.pending and all("contested" in text for text in parted.pending)


def test_one_tumor_added_by_two_readers_is_one_tumor() -> None:
    rest = rejected("S1", *OLD)
    one, near = ELSEWHERE, np.s_[6:9, 1:4, 14:17]
    twice = [said("S1", "add", None, one), said("S2", "add", None, near)]
    for events in (twice, twice[::-1]):
        result = signed([*rest, *events])
        [found] = tumors(result).values()
        np.testing.assert_array_equal(found, draw(near) > 0)
        assert result.counts == Counts(added=1, rejected=3)
        first = instance_id(CASE, ORGAN, SHAPE, np.flatnonzero(draw(one)))
        assert result.lineage[1].tumor_id == first
    far = said("S2", "add", None, np.s_[6:9, 3:8, 16:19])
    apart = signed([*rest, twice[0], far])
    assert len(tumors(apart)) == 2 and apart.counts.added == 2
    half = said("S2", "add", None, np.s_[6:9, 2:6, 15:19])
    assert "outlines differ" in signed([*rest, twice[0], half]).pending[0]
    settled = said("S3", "accept", first, stage="adjudicate")
    np.testing.assert_array_equal(
        tumors(signed([*rest, twice[0], half, settled]))[first], draw(one) > 0
    )
    drawn = said("S3", "add", None, one, stage="adjudicate")
    assert len(tumors(signed([*rest, twice[0], half, drawn]))) == 1
    # The junior's outline gives way, the same reader's later one replaces the earlier.
    junior = said("J1", "add", None, np.s_[6:9, 2:6, 15:19])
    np.testing.assert_array_equal(tumors(signed([*rest, twice[0], junior]))[first], draw(one) > 0)
    again = signed([*rest, twice[0], said("S1", "add", None, near)])
    np.testing.assert_array_equal(tumors(again)[first], draw(near) > 0)


def test_two_tumors_drawn_as_one_by_another_reader_are_contested() -> None:
    rest = rejected("S1", *OLD)
    two = said("S1", "add", None, np.s_[6:9, 1:3, 14:18], np.s_[6:9, 3:5, 14:18])
    result = signed([*rest, two, said("S2", "add", None, np.s_[6:9, 1:5, 14:18])])
    assert "outlines differ, 2 and 1 tumors" in result.pending[0]
    assert len(tumors(signed([*rest, two]))) == 2


# Signatures --------------------------------------------------------------------------------


def test_two_who_read_blindly_both_sign_in_any_order_of_arrival() -> None:
    first = [said("S1", "accept", "a"), *rejected("S1", "b", "c"), said("S1", "sign_off")]
    second = [said("S2", "accept", "a"), *rejected("S2", "b", "c"), said("S2", "sign_off")]
    same(merge([*first, *second]), merge([*second, *first]))
    assert merge([*first, *second]).signed_by == "S2"
    # Who did not sign must have spoken before.
    assert not merge([*first, *second[:-1]]).signed_by
    assert merge([*second[:-1], *first]).signed_by == ""
    assert not merge([*first, *second, said("J1", "contest", "a")]).signed_by


# Undo by command ---------------------------------------------------------------------------


def test_undo_by_command_takes_back_the_event_that_it_names() -> None:
    target = said("S1", "accept", "a")
    events = [target, *rejected("S1", "b", "c"), said("S2", "reject", "a")]
    undo = said("S3", "undo", "a", stage="records", base_sha256=target.event_id)
    result = signed([*events, undo])
    assert not tumors(result) and result.counts.rejected == 3
    left = standing(enumerate([*events, undo]))
    assert [n for n, _ in left] == [1, 2, 3]
    sign = said("S2", "sign_off")
    undo = said("S3", "undo", None, stage="records", base_sha256=sign.event_id)
    assert not merge([*events[1:], sign, undo]).signed_by
    with pytest.raises(ReviewError, match="EVENT_INVALID"):
        said("S3", "undo", "a", stage="records")
    with pytest.raises(ReviewError, match="EVENT_INVALID"):
        said("S3", "accept", "a", stage="somewhere")


# Decisions travel --------------------------------------------------------------------------


def decided(on: Base) -> list[Event]:
    """Return a signed review of the old map: two tumors and a vessel."""
    seen = {"base_sha256": on.base_sha256}
    return [
        said("S1", "accept", "a", **seen), said("S1", "edit", "b", np.s_[1:5, 1:6, 9:14], **seen),
        said("S1", "reject", "c", **seen), said("S1", "sign_off", **seen),
    ]  # fmt: skip


def shifted(box: Box) -> Box:
    z, y, x = box
    return z, y, slice(x.start + 1, x.stop + 1)


def test_the_same_model_again_changes_nothing() -> None:
    old = base(OLD)
    events = decided(old)
    before = merge(events)
    same(before, merge(events, bases=[old]))
    renamed = {f"new {name}": box for name, box in OLD.items()}
    after = merge(events, renamed, [old])
    np.testing.assert_array_equal(before.instances, after.instances)
    assert (before.lineage, after.signed_by) == (after.lineage, "S1")
    assert after.inherited == {"new a": "a", "new b": "b", "new c": ""}
    assert after.counts == Counts(carried=2, edited=1, rejected=1)
    same(after, merge(events, renamed, [old, base(renamed)]))


def test_shifted_candidates_are_explained() -> None:
    old = base(OLD)
    moved = {f"new {name}": shifted(box) for name, box in OLD.items()}
    after = merge(decided(old), moved, [old])
    np.testing.assert_array_equal(after.instances, merge(decided(old)).instances)
    assert set(tumors(after)) == {"a", "b"}


def test_a_tumor_that_the_new_model_misses_stays() -> None:
    old = base(OLD)
    added = said("S1", "add", None, ELSEWHERE, base_sha256=old.base_sha256)
    after = merge([added, *decided(old)], {}, [old])
    assert len(tumors(after)) == 3 and after.counts.carried == 3


def test_only_what_is_new_has_to_be_read() -> None:
    old = base(OLD)
    more = {f"new {name}": box for name, box in OLD.items()} | {"d": ELSEWHERE}
    new = base(more)
    events = decided(old)
    half = merge(events, more, [old, new])
    assert half.state == "unknown" and half.undecided == ["d"]
    assert half.pending == ["1 new candidate"]
    seen = {"base_sha256": new.base_sha256}
    read = [*events, said("S2", "accept", "d", **seen)]
    assert merge(read, more, [old, new]).pending == ["no senior sign_off after the last event"]
    done = merge([*read, said("S2", "sign_off", **seen)], more, [old, new])
    assert set(tumors(done)) == {"a", "b", "d"}
    assert done.counts == Counts(accepted=1, carried=2, edited=1, rejected=1)
    # And back to the old model.
    back = merge([*read, said("S2", "sign_off", **seen)], OLD, [old, new])
    np.testing.assert_array_equal(back.instances, done.instances)


def test_an_old_reject_covers_at_least_half_of_a_new_candidate() -> None:
    old = base({"c": C})
    events = [said("S1", "reject", "c", base_sha256=old.base_sha256), said("S1", "sign_off")]
    half, less = np.s_[6:9, 10:20, 2:7], np.s_[5:9, 9:18, 2:8]
    assert merge(events, {"n": half}, [old]).inherited == {"n": ""}
    assert merge(events, {"n": half}, [old]).state == "confirmed_empty"
    assert merge(events, {"n": less}, [old]).undecided == ["n"]
    assert merge(events, {"n": A}, [old]).pending == ["1 new candidate"]


def test_what_is_decided_again_replaces_what_was_decided_before() -> None:
    old, moved = base(OLD), {"n": shifted(A)}
    new = base(moved)
    seen = {"base_sha256": new.base_sha256}
    accepted = merge(
        [*decided(old), said("S1", "accept", "n", **seen), said("S1", "sign_off")],
        moved, [old, new],
    )  # fmt: skip
    # One tumor, under its first id, with the outline that was accepted last.
    assert set(tumors(accepted)) == {"a", "b"}
    np.testing.assert_array_equal(tumors(accepted)["a"], draw(shifted(A)) > 0)
    assert accepted.counts == Counts(accepted=1, carried=1, edited=1, rejected=1)
    changed = [*decided(old), said("S1", "reject", "n", **seen), said("S1", "sign_off")]
    assert set(tumors(merge(changed, moved, [old, new]))) == {"b"}
    other = [*decided(old), said("S2", "reject", "n", **seen), said("S2", "sign_off")]
    assert "contested by S1 (accept) and S2 (reject)" in merge(other, moved, [old, new]).pending[0]
    junior = [*decided(old), said("J1", "reject", "n", **seen), said("S1", "sign_off")]
    assert set(tumors(merge(junior, moved, [old, new]))) == {"a", "b"}
    revived = [*decided(old), said("J1", "accept", "v", **seen), said("S1", "sign_off")]
    assert set(tumors(merge(revived, {"v": C}, [old, base({"v": C})]))) == {"a", "b"}


def test_two_old_tumors_may_become_one_and_one_two() -> None:
    old = base(OLD)
    bridge = {"n": np.s_[1:4, 1:6, 1:14]}
    new = base(bridge)
    seen = {"base_sha256": new.base_sha256}
    events = [*decided(old), said("S1", "accept", "n", **seen), said("S1", "sign_off")]
    one = merge(events, bridge, [old, new])
    assert set(tumors(one)) == {"a"} and one.lineage[1].candidate_ids == ("a", "b", "n")
    # A third map sees two again, and both are read.
    again = {"x": A, "y": B}
    newest = base(again)
    seen = {"base_sha256": newest.base_sha256}
    events += [said("S1", "accept", n, **seen) for n in "xy"] + [said("S1", "sign_off")]
    two = merge(events, again, [old, new, newest])
    np.testing.assert_array_equal(two.instances > 0, draw(A, B) > 0)
    assert len(tumors(two)) == 2 and two.counts.accepted == 2


def test_an_addition_that_the_new_model_finds_is_one_tumor() -> None:
    old = base(OLD)
    added = said("J1", "add", None, ELSEWHERE, base_sha256=old.base_sha256)
    events = [added, *decided(old)]
    found = {"n": shifted(ELSEWHERE)}
    new = base(found)
    explained = merge(events, found, [old, new])
    assert len(tumors(explained)) == 3 and explained.inherited.keys() == {"n"}
    seen = {"base_sha256": new.base_sha256}
    read = [*events, said("S2", "accept", "n", **seen), said("S2", "sign_off", **seen)]
    assert len(tumors(merge(read, found, [old, new]))) == 3


def test_what_was_open_on_an_old_map() -> None:
    old = base(OLD)
    seen = {"base_sha256": old.base_sha256}
    rest = [said("S1", "reject", "c", **seen), said("S1", "reject", "b", **seen)]
    # Doubt alone is no decision; a tumor that somebody saw does not vanish.
    doubt = [*rest, said("S1", "uncertain", "a", **seen), said("S1", "sign_off")]
    assert merge(doubt, {}, [old]).state == "confirmed_empty"
    seen_by_one = [said("J1", "accept", "a", **seen), *doubt[:-1]]
    assert signed(seen_by_one, {}, [old]).pending == ["a: uncertain"]
    contest = [*rest, said("S1", "accept", "a", **seen), said("S2", "reject", "a", **seen)]
    contest.append(said("S2", "sign_off"))
    assert "contested" in " ".join(merge(contest, {}, [old]).pending)
    new = base({"n": A})
    judge = said("S3", "accept", "n", stage="adjudicate", base_sha256=new.base_sha256)
    judged = signed([*contest, judge], {"n": A}, [old, new])
    assert set(tumors(judged)) == {"a"}


def test_a_signature_needs_every_candidate_explained() -> None:
    empty = base({})
    events = [said("S1", "sign_off", base_sha256=empty.base_sha256)]
    assert merge(events, {}, [empty]).state == "confirmed_empty"
    assert merge(events, OLD, [empty]).pending == ["3 new candidates"]


def test_a_map_that_is_not_known_leaves_the_organ_open() -> None:
    old = base(OLD)
    with pytest.raises(ReviewError, match="CANDIDATE_UNKNOWN"):
        merge(decided(old), {"n": A}, [])


# Any history -------------------------------------------------------------------------------

NEW = {"m": MOST_OF_A, "b": B, "k": np.s_[5:8, 10:15, 2:7], "n": np.s_[1:4, 12:17, 12:17]}
LESIONS = (draw(np.s_[1:3, 4:8, 4:8], np.s_[8:10, 17:19, 0:3])).astype(np.uint8)
EDITS = [MOST_OF_A, HALF_OF_A, shifted(A), np.s_[0:6, 0:8, 0:16]]
WORDS = ["accept", "reject", "uncertain", "edit", "split", "merge", "add", "contest", "undo"]
STEP = st.tuples(
    st.sampled_from(WORDS), st.sampled_from("abcmkn"), st.sampled_from(sorted(ROLES)),
    st.sampled_from(["review", "review", "adjudicate"]), st.integers(0, 3),
)  # fmt: skip


def history(steps: Sequence[tuple[str, str, str, str, int]], bases: list[Base]) -> list[Event]:
    Clock.second = 0
    events = []
    for decision, candidate, who, stage, pick in steps:
        on = bases[0] if candidate in OLD else bases[1]
        boxes: list[Box] = []
        if decision in ("edit", "add", "merge"):
            boxes = [EDITS[pick]]
        elif decision == "split":
            boxes = [np.s_[1:4, 1:3, 1:6], np.s_[1:4, 3 + pick // 2 : 6, 1:6]]
        names = [None] if decision == "add" else [candidate]
        if decision == "merge":
            names = [candidate, "b"] if candidate != "b" else ["b", "c"]
        mask = stored(*boxes) if boxes else ""
        more = {"stage": stage, "base_sha256": on.base_sha256, "mask_sha256": mask}
        events += [said(who, decision, name, **more) for name in names]
    return events


@settings(max_examples=120, deadline=None)
@given(
    steps=st.lists(STEP, max_size=16),
    settle=st.booleans(),
    has_source=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_any_history(
    steps: list[tuple[str, str, str, str, int]],
    settle: bool,
    has_source: bool,
    order: object,
) -> None:
    """Order of arrival does not count, every voxel has an owner, and no tumor gets lost."""
    MASKS.clear()
    bases = [base(OLD), base(NEW)]
    events = history(steps, bases)
    if settle:
        # A reader who takes no part settles what is left, so that some histories end.
        more = {"stage": "adjudicate", "base_sha256": bases[1].base_sha256}
        events += [said("S3", "accept", name, **more) for name in NEW]
    end = said("S1", "sign_off")
    source = []
    if has_source:
        source = [
            make_event(
                stage="harmonize", batch="", case_id=CASE, organ=ORGAN, candidate_id=None,
                reviewer_id="kits23", role="source", decision="source_label",
            )
        ]  # fmt: skip
    lesions = LESIONS if has_source else None
    result = merge([*source, *events, end], NEW, bases, lesions)
    arrived = list(events)
    order.shuffle(arrived)
    same(result, merge([*source, *arrived, end], NEW, bases, lesions))
    counts = asdict(result.counts)
    labels = set(np.unique(result.instances)) - {0}
    assert labels == set(result.lineage) == set(result.kinds)
    gained = sum(counts[name] for name in ("source", "accepted", "added", "carried", "split_off"))
    assert len(labels) == gained - counts["merged_away"] - counts["swallowed"]
    if result.origin != "review":
        assert result.pending or has_source
        return
    known = {event.event_id: event for event in [*source, *events]}
    boxes = OLD | NEW
    for label, line in result.lineage.items():
        assert line.event_ids and set(line.event_ids) <= set(known)
        assert line.origin in ("source", "add") or line.candidate_ids
        claims = [draw(boxes[name]) > 0 for name in line.candidate_ids if name in boxes]
        masks = [known[one].mask_sha256 for one in line.event_ids]
        claims += [MASKS[mask] > 0 for mask in masks if mask]
        claims += [LESIONS > 0] if line.origin == "source" else []
        assert not (result.instances == label)[~np.any(claims, axis=0)].any()
    # A candidate that everybody rejects gives no voxel, unless another outline covers it.
    used = {name for line in result.lineage.values() for name in line.candidate_ids}
    drawn = np.any([MASKS[e.mask_sha256] > 0 for e in known.values() if e.mask_sha256]
                   or [np.zeros(SHAPE, bool)], axis=0)  # fmt: skip
    others = np.any([draw(boxes[n]) > 0 for n in used if n in boxes]
                    or [np.zeros(SHAPE, bool)], axis=0)  # fmt: skip
    for name, box in boxes.items():
        verdicts = {e.decision for e in events if e.candidate_id == name}
        if verdicts == {"reject"}:
            alone = (draw(box) > 0) & ~drawn & ~others & (LESIONS == 0)
            assert not result.instances[alone].any()


def test_a_lost_or_doubled_tumor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_conservation("x", Counts(accepted=3, split_off=1, merged_away=1, swallowed=1), 2)
    with pytest.raises(ReviewError, match="CONSERVATION.*2 instances, expected 3: accepted 3"):
        check_conservation("x", Counts(accepted=3), 2)
    births = "tumoratlas.review.merge.births.Births._bear"
    monkeypatch.setattr(births, lambda *_: None)
    with pytest.raises(ReviewError, match="CONSERVATION"):
        signed([said("S1", "accept", "a"), *rejected("S1", "b", "c")])
