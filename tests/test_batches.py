"""Tests of batches: who gets what to read, and that nothing is issued twice."""

import itertools
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.records import append_lines, read_lines
from tumoratlas.review.ledger import make_event
from tumoratlas.review.plan.assignments import KINDS, open_batches, track
from tumoratlas.review.plan.batches import plan_batches
from tumoratlas.review.plan.dealing import OpenOrgan

TEAM = {"R01": "senior", "R02": "senior", "R03": "senior", "R04": "junior"}
CANDIDATES = ("c1", "c2")
SETTINGS = {"batch_cases": 25, "batches_per_reviewer": 2, "double_read_fraction": 0.0, "seed": 7}
clock = itertools.count()


def base(case_id, organ, version=0):
    return f"{case_id}{organ}{version}".encode().hex().ljust(64, "0")[:64]


def organ(number, name="liver", version=0, **facts):
    case_id = f"BDMAP_{number:08d}"
    fields = {"rank": number, "expected_per_minute": 0.5} | facts
    return OpenOrgan(case_id, name, base(case_id, name, version), **fields)


def event(line, decision, *, organ_name=None, candidate=None, reviewer=None, role=None):
    name = organ_name or line["organs"][0]
    who = reviewer or line["reviewer_id"]
    minutes, seconds = divmod(next(clock), 60)
    return make_event(
        stage="review", batch=line["batch"], case_id=line["case_id"], organ=name,
        candidate_id=candidate, reviewer_id=who, role=role or TEAM[who], decision=decision,
        time=f"2026-11-21T{10 + minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}.000Z",
        base_sha256=line["bases"][name], mask_sha256="0" * 64 * (decision == "add"),
    )  # fmt: skip


class Loop:
    """A review loop: what is issued, what is decided, what the masks are."""

    def __init__(self, team=TEAM, **options):
        self.team, self.options = team, SETTINGS | options
        self.issued, self.events, self.bases = [], [], {}

    def track(self):
        return track(
            self.issued, self.team, bases=self.bases, events=self.events,
            candidates=dict.fromkeys(self.bases, CANDIDATES),
        )  # fmt: skip

    def plan(self, *work):
        self.bases |= {row.key: row.base_sha256 for row in work}
        plan = plan_batches(work, self.track(), self.team, events=self.events, **self.options)
        self.issued += plan.lines
        return plan

    def answer(self, lines, decision="sign_off"):
        self.events += [
            event(line, decision, organ_name=name, role=self.team[line["reviewer_id"]])
            for line in lines
            for name in line["organs"]
        ]

    def states(self):
        return [(item.reviewer_id, item.state) for item in self.track()]


@pytest.fixture(autouse=True)
def _restart_clock():
    global clock
    clock = itertools.count()


def batches(lines):
    found = defaultdict(list)
    for line in lines:
        found[line["batch"]].append(line)
    return found


def test_the_form_of_a_line(tmp_path):
    work = [organ(1, rank=1), organ(1, "pancreas", rank=4), organ(2, rank=2)]
    lines = Loop({"R01": "senior"}).plan(*work).lines
    assert lines == [
        {
            "batch": "b0001", "kind": "candidates", "reviewer_id": "R01",
            "case_id": "BDMAP_00000001", "organs": ["liver", "pancreas"],
            "bases": {"liver": work[0].base_sha256, "pancreas": work[1].base_sha256},
            "rank": 1, "expected_per_minute": 0.5,
        },
        {
            "batch": "b0001", "kind": "candidates", "reviewer_id": "R01",
            "case_id": "BDMAP_00000002", "organs": ["liver"],
            "bases": {"liver": work[2].base_sha256}, "rank": 2, "expected_per_minute": 0.5,
        },
    ]  # fmt: skip
    append_lines(tmp_path / "batches.jsonl", lines)
    assert read_lines(tmp_path / "batches.jsonl") == lines


def test_best_first_at_most_so_many_and_evenly():
    loop = Loop(batch_cases=4)
    lines = loop.plan(*(organ(n) for n in range(1, 101))).lines
    found = batches(lines)
    assert len(found) == 6 and all(len(part) == 4 for part in found.values())
    assert Counter(part[0]["reviewer_id"] for part in found.values()) == {
        "R01": 2, "R02": 2, "R03": 2,
    }  # fmt: skip
    assert [line["rank"] for line in lines] == list(range(1, 25))
    # Nobody has room: nothing more until somebody sends work back.
    work = [organ(n) for n in range(1, 101)]
    assert loop.plan(*work).lines == []
    done = next(iter(found.values()))
    loop.answer(done)
    settled = {line["case_id"] for line in done}
    more = loop.plan(*(row for row in work if row.case_id not in settled)).lines
    assert {line["reviewer_id"] for line in more} == {done[0]["reviewer_id"]}
    assert [line["rank"] for line in more] == list(range(25, 29))
    assert {line["batch"] for line in more} == {"b0007"}


def test_juniors_do_not_screen_and_an_empty_roster_is_told():
    assert not Loop({}).plan().lines
    with pytest.raises(ReviewError, match="ROSTER_EMPTY.*reviewers.csv"):
        Loop({}).plan(organ(1))
    plan = Loop({"R04": "junior"}).plan(organ(1), organ(2, full_read=True))
    assert not plan.lines
    assert [(row["id"], row["code"]) for row in plan.pending] == [
        ("BDMAP_00000001/liver", "PENDING_READER"),
        ("BDMAP_00000002/liver", "PENDING_READER"),
        ("BDMAP_00000002/liver", "PENDING_READER"),
    ]


def test_contested_work_goes_to_a_senior_without_a_part_in_it():
    loop = Loop()
    first = loop.plan(organ(1)).lines
    loop.events.append(event(first[0], "uncertain", candidate="c1"))
    loop.events.append(event(first[0], "reject", candidate="c2"))
    other = "R02" if first[0]["reviewer_id"] != "R02" else "R01"
    loop.events.append(event(first[0], "contest", reviewer=other))
    second = loop.plan(organ(1, is_contested=True)).lines
    [line] = second
    assert line["kind"] == "adjudicate"
    assert {line["reviewer_id"], first[0]["reviewer_id"], other} == {"R01", "R02", "R03"}
    assert loop.plan(organ(1, is_contested=True)) == plan_of([])
    # The third one cannot tell either, and there is no fourth.
    loop.events.append(event(line, "uncertain", candidate="c1"))
    plan = loop.plan(organ(1, is_contested=True))
    assert not plan.lines and [row["code"] for row in plan.pending] == ["PENDING_READER"]
    loop.team = loop.team | {"R05": "senior"}
    [line] = loop.plan(organ(1, is_contested=True)).lines
    assert (line["kind"], line["reviewer_id"]) == ("adjudicate", "R05")


def plan_of(lines):
    return type(Loop().plan())(lines, [])


def test_missed_tumors_go_to_a_junior_and_then_to_a_signature():
    loop = Loop()
    [line] = loop.plan(organ(1)).lines
    for candidate in CANDIDATES:
        loop.events.append(event(line, "accept", candidate=candidate))
    loop.answer([line], "contest")
    [drawing] = loop.plan(organ(1, is_missed=True)).lines
    assert (drawing["kind"], drawing["reviewer_id"]) == ("adjudicate", "R04")
    assert not loop.plan(organ(1, is_missed=True)).lines
    loop.answer([drawing], "add")
    [signing] = loop.plan(organ(1)).lines
    assert signing["kind"] == "adjudicate"
    assert signing["reviewer_id"] not in (line["reviewer_id"], "R04")
    assert TEAM[signing["reviewer_id"]] == "senior"
    assert not loop.plan(organ(1)).lines
    alone = Loop({"R01": "senior"})
    alone.plan(organ(1))
    assert alone.plan(organ(1, is_missed=True)).lines[0]["reviewer_id"] == "R01"


def test_the_only_senior_signs_what_the_junior_drew():
    loop = Loop({"R01": "senior", "R04": "junior"})
    loop.answer(loop.plan(organ(1)).lines, "contest")
    loop.answer(loop.plan(organ(1, is_missed=True)).lines, "add")
    [line] = loop.plan(organ(1)).lines
    assert (line["kind"], line["reviewer_id"]) == ("adjudicate", "R01")
    loop.answer([line], "contest")  # another one was missed: another round
    [line] = loop.plan(organ(1, is_missed=True)).lines
    assert (line["kind"], line["reviewer_id"]) == ("adjudicate", "R04")


def test_full_reads_go_to_a_senior_who_does_not_know_the_candidates():
    loop = Loop()
    lines = loop.plan(*(organ(n, full_read=n in (2, 5)) for n in range(1, 7))).lines
    by_kind = {kind: [x for x in lines if x["kind"] == kind] for kind in KINDS}
    assert [x["rank"] for x in by_kind["full"]] == [2, 5]
    reader = {x["case_id"]: x["reviewer_id"] for x in by_kind["candidates"]}
    assert all(x["reviewer_id"] != reader[x["case_id"]] for x in by_kind["full"])
    for seed in range(6):
        pair = Loop({"R01": "senior", "R02": "senior"}, seed=seed)
        assert len({x["reviewer_id"] for x in pair.plan(organ(1, full_read=True)).lines}) == 2
    [screen, full] = Loop({"R01": "senior"}).plan(organ(1, full_read=True)).lines
    assert screen["reviewer_id"] == full["reviewer_id"] and screen["kind"] != full["kind"]
    # A settled organ is still read in full, once.
    [line] = loop.plan(organ(9, is_pending=False, full_read=True)).lines
    assert line["kind"] == "full"
    loop.answer([line])
    assert not loop.plan(organ(9, is_pending=False, full_read=True)).lines


def test_a_share_is_read_twice_by_different_seniors_in_different_batches():
    loop = Loop(double_read_fraction=0.25, batch_cases=100)
    work = [organ(n, ("liver", "pancreas")[n % 2]) for n in range(1, 81)]
    lines = loop.plan(*work).lines
    readers = defaultdict(list)
    for line in lines:
        readers[line["case_id"]].append((line["reviewer_id"], line["batch"]))
    double = {case_id: found for case_id, found in readers.items() if len(found) > 1}
    assert len(readers) == 80
    organs = Counter("liver" if int(case_id[-8:]) % 2 == 0 else "pancreas" for case_id in double)
    assert organs == {"liver": 10, "pancreas": 10}
    for found in double.values():
        assert len({who for who, _ in found}) == len({batch for _, batch in found}) == 2
    assert not loop.plan(*work).lines
    other = Loop(double_read_fraction=0.25, batch_cases=100, seed=8)
    seen = Counter(line["case_id"] for line in other.plan(*work).lines)
    assert {case_id for case_id, n in seen.items() if n > 1} != set(double)


def test_nobody_signs_before_both_readers_have_answered():
    loop = Loop(double_read_fraction=1.0)
    first, second = loop.plan(organ(1)).lines
    loop.answer([first])
    assert not loop.plan(organ(1)).lines
    loop.answer([second])
    [line] = loop.plan(organ(1)).lines
    assert line["kind"] == "adjudicate"


def test_a_second_reading_waits_for_room_but_is_not_forgotten():
    loop = Loop({"R01": "senior"}, double_read_fraction=0.5, batches_per_reviewer=1, batch_cases=10)
    work = [organ(n) for n in range(1, 11)]
    plan = loop.plan(*work)
    assert len(plan.lines) == 10 and len(plan.pending) == 5
    loop.answer(plan.lines)  # all settled; the second senior comes later
    loop.team = {"R01": "senior", "R02": "senior"}
    again = plan_batches(
        [], loop.track(), loop.team, events=loop.events, **loop.options
    )  # fmt: skip
    assert {f"{line['case_id']}/liver" for line in again.lines} == {
        row["id"] for row in plan.pending
    }
    assert {line["reviewer_id"] for line in again.lines} == {"R02"}


def test_a_new_mask_makes_old_assignments_stale():
    loop = Loop(batch_cases=2)
    old = loop.plan(organ(1), organ(1, "colon", rank=1), organ(2)).lines
    new = loop.plan(organ(1, version=1), organ(1, "colon", rank=1), organ(2)).lines
    assert [(line["case_id"], line["organs"]) for line in new] == [("BDMAP_00000001", ["liver"])]
    stale = [item for item in loop.track() if item.state == "stale"]
    assert [(item.line["batch"], item.key) for item in stale] == [
        (old[0]["batch"], ("BDMAP_00000001", "liver"))
    ]
    # The old batch goes on without what is stale.
    written = open_batches(loop.track())
    assert [line["organs"] for line in written[old[0]["batch"]]] == [["colon"], ["liver"]]
    assert set(written[old[0]["batch"]][0]["bases"]) == {"colon"}
    assert old[0]["organs"] == ["colon", "liver"]  # as issued


def test_batches_stay_open_until_all_is_answered():
    loop = Loop(batch_cases=2)
    lines = loop.plan(organ(1), organ(2)).lines
    whole = open_batches(loop.track())
    loop.answer(lines[:1])
    assert open_batches(loop.track()) == whole  # the packet does not change meanwhile
    loop.events.append(event(lines[1], "uncertain", candidate="c1"))
    assert open_batches(loop.track()) == whole
    loop.events.append(event(lines[1], "accept", candidate="c2"))
    assert not open_batches(loop.track())
    loop.events.append(event(lines[1], "undo", candidate="c2"))
    assert open_batches(loop.track()) == whole
    loop.events.append(event(lines[1], "sign_off"))
    assert not open_batches(loop.track())


def test_who_leaves_the_roster_gives_open_work_back():
    loop = Loop(double_read_fraction=0.0)
    lines = loop.plan(organ(1), organ(2)).lines
    loop.answer(lines[:1])
    gone = lines[0]["reviewer_id"]
    loop.team = {who: role for who, role in TEAM.items() if who != gone}
    assert loop.states() == [(gone, "answered"), (gone, "void")]
    [line] = loop.plan(organ(2)).lines
    assert line["case_id"] == "BDMAP_00000002" and line["reviewer_id"] != gone


def test_answers_of_others_and_on_other_masks_do_not_count():
    loop = Loop()
    [line] = loop.plan(organ(1)).lines
    other = next(who for who in TEAM if who != line["reviewer_id"])
    loop.events.append(event(line, "contest", reviewer=other))
    moved = {**line, "bases": {"liver": "f" * 64}}
    loop.events.append(event(moved, "sign_off"))
    loop.events.append(event({**line, "batch": "b0009"}, "sign_off"))
    assert loop.states() == [(line["reviewer_id"], "open")]


@pytest.mark.parametrize(
    "change", [{"kind": "glance"}, {"bases": {}}, {"batch": None}, {"organs": 3}, {"rank": None}]
)
def test_damaged_lines_are_told(change):
    loop = Loop()
    [line] = loop.plan(organ(1)).lines
    damaged = {key: value for key, value in (line | change).items() if value is not None}
    loop.issued = [damaged]
    with pytest.raises(ReviewError, match="BATCHES_INVALID"):
        loop.track()


ROWS = st.builds(
    lambda n, name, facts: organ(n, name, rank=1 + n % 5, **facts),
    st.integers(1, 14),
    st.sampled_from(["liver", "kidney", "colon"]),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.booleans() for name in ("is_pending", "is_contested", "is_missed", "full_read")
        },
    ),
)
ROSTERS = st.dictionaries(
    st.sampled_from(["R01", "R02", "R03", "R04", "R05"]),
    st.sampled_from(["senior", "senior", "junior"]),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(ROWS, max_size=25, unique_by=lambda row: row.key),
    team=ROSTERS,
    rounds=st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=4),
    size=st.integers(1, 5),
    most=st.integers(1, 3),
    fraction=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    order=st.randoms(use_true_random=False),
)
def test_any_history_keeps_the_rules(rows, team, rounds, size, most, fraction, order):
    loop = Loop(team, batch_cases=size, batches_per_reviewer=most, double_read_fraction=fraction)
    for answers, renew in rounds:
        work = list(rows)
        if renew:
            work = [OpenOrgan(**{**vars(r), "base_sha256": f"{answers:x}" * 64}) for r in work]
        work = [OpenOrgan(**{**vars(r), "base_sha256": r.base_sha256[:64]}) for r in work]
        loop.bases |= {row.key: row.base_sha256 for row in work}
        before, tracked = list(loop.issued), loop.track()
        open_before = {(i.key, i.line["kind"]) for i in tracked if i.state == "open"}
        current = {
            (i.key, i.line["kind"], i.reviewer_id) for i in tracked if i.is_current
        }  # fmt: skip
        part = {(i.key, i.reviewer_id) for i in tracked if i.is_current}
        part |= {((e.case_id, e.organ), e.reviewer_id) for e in loop.events}
        order.shuffle(work)
        shuffled_team = dict(order.sample(sorted(team.items()), len(team)))
        again = plan_batches(work, tracked, shuffled_team, events=loop.events, **loop.options)
        plan = loop.plan(*sorted(work, key=lambda row: row.key))
        assert plan == again  # whatever the order of the input
        assert loop.issued[: len(before)] == before
        contested = {r.key for r in work if r.is_contested and not r.is_missed}
        for name, lines in batches(plan.lines).items():
            assert name not in {line["batch"] for line in before}
            assert len({(x["kind"], x["reviewer_id"]) for x in lines}) == 1
            assert len({x["case_id"] for x in lines}) == len(lines) <= size
            assert [x["rank"] for x in lines] == sorted(x["rank"] for x in lines)
            for line, organ_name in ((x, o) for x in lines for o in x["organs"]):
                key, who, kind = (line["case_id"], organ_name), line["reviewer_id"], line["kind"]
                assert line["bases"][organ_name] == loop.bases[key]
                if kind != "adjudicate":
                    assert team[who] == "senior"
                    assert (key, kind, who) not in current
                else:
                    assert (key, kind) not in open_before
                    if key in contested:
                        assert team[who] == "senior" and (key, who) not in part
        readers = Counter(
            (i.key, i.line["kind"], i.reviewer_id) for i in loop.track() if i.state == "open"
        )
        assert all(n == 1 for n in readers.values())
        both = defaultdict(set)
        for item in loop.track():
            if item.is_current and item.line["kind"] == "candidates":
                both[item.key].add(item.reviewer_id)
        assert all(len(found) <= (1 if fraction == 0 else 2) for found in both.values())
        for kind in KINDS:
            held = Counter(
                who for _, who in {
                    (i.line["batch"], i.reviewer_id)
                    for i in loop.track() if i.state == "open" and i.line["kind"] == kind
                }
            )  # fmt: skip
            assert all(n <= most for n in held.values())
        chosen = order.sample(loop.issued, min(answers, len(loop.issued)))
        loop.answer([x for x in chosen if team[x["reviewer_id"]] == "senior"])


@settings(max_examples=40, deadline=None)
@given(
    counts=st.integers(0, 60),
    size=st.integers(1, 6),
    team=st.integers(1, 5),
    most=st.integers(1, 4),
)
def test_loads_are_even_to_within_a_batch(counts, size, team, most):
    readers = {f"R{n}": "senior" for n in range(team)}
    loop = Loop(readers, batch_cases=size, batches_per_reviewer=most)
    work = [organ(n) for n in range(1, counts + 1)]
    random.Random(counts).shuffle(work)
    lines = loop.plan(*work).lines
    held = Counter(part[0]["reviewer_id"] for part in batches(lines).values())
    loads = [held[who] for who in readers]
    assert max(loads) - min(loads) <= 1
    assert len(lines) == min(counts, size * most * team)
