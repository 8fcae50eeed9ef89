"""What the review numbers say, against hand-made truth and reference implementations."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tumoratlas.core.tables import read_table, write_table
from tumoratlas.review.ledger import COLUMNS, make_event
from tumoratlas.review.merge.organ import merge_organ
from tumoratlas.review.numbers.efficiency import (
    EFFICIENCY_COLUMNS,
    FATES,
    candidate_fates,
    efficiency_table,
)
from tumoratlas.review.numbers.effort import (
    SAVING_COLUMNS,
    TIME_COLUMNS,
    minutes_saved,
    savings_table,
    time_table,
)
from tumoratlas.review.numbers.full_reads import (
    EMPTY_COLUMNS,
    SENSITIVITY_COLUMNS,
    empty_table,
    full_reads,
    sensitivity_table,
)
from tumoratlas.review.numbers.intervals import (
    bootstrap_interval,
    clopper_pearson,
    ratio,
    upper_bound,
    weighted_share,
    wilson,
)
from tumoratlas.review.numbers.readings import LINEAGE_COLUMNS, lineage_table, standing_events
from tumoratlas.review.plan.sampling import SAMPLE_COLUMNS, apportion, sample_full_reads

SHAPE = (4, 8, 20)
MASK = "a" * 64
ORGANS = ["liver", "pancreas"]


def event(number, case_id, candidate_id, decision, *, role="senior", organ="liver", **more):
    """Return an event; its number sets its time."""
    facts = {"stage": "review", "batch": "b0001", "reviewer_id": "S1", "seconds": None}
    facts |= {"mask_sha256": MASK if decision in ("edit", "split", "merge", "add") else ""}
    facts |= {"time": f"2026-11-21T14:{number // 60:02d}:{number % 60:02d}.000Z"}
    return make_event(
        case_id=case_id, organ=organ, candidate_id=candidate_id, decision=decision, role=role,
        **(facts | more),
    )  # fmt: skip


def table(events):
    return pd.DataFrame([asdict(e) for e in events], columns=list(COLUMNS))


def candidate_map(count):
    array = np.zeros(SHAPE, np.uint16)
    for number in range(1, count + 1):
        array[1:3, 2:4, 3 * number - 2 : 3 * number] = number
    return array


def settle(case_id, count, events, masks=None, organ="liver"):
    """Merge one case's organ with the real code; return its ``masks`` row and instances."""
    masks = masks or {}
    merged = merge_organ(
        case_id=case_id,
        organ=organ,
        shape=SHAPE,
        source_lesions=None,
        candidates=candidate_map(count),
        candidate_ids={n: f"{case_id}-{n}" for n in range(1, count + 1)},
        events=events,
        load_mask=lambda sha256: masks[sha256],
    )
    row = {"case_id": case_id, "organ": organ, "state": merged.state, "source": ""}
    row |= {"origin": merged.origin, "signed_by": merged.signed_by, "pending": merged.pending}
    instances = {
        str(label): {"kind": merged.kinds[label], **asdict(lineage)}
        for label, lineage in merged.lineage.items()
    }
    return row, {"case_id": case_id, "instances": {organ: instances}}


@pytest.fixture(scope="module")
def reviewed():
    """Return candidates, reviews, masks and lineage of three cases with a known outcome.

    A: 1 accepted, 2 edited, 3 rejected as cyst, 4 rejected without reason, 5 split in two; one
    tumor added. B: 1 and 2 merged, 3 rejected for a reason of another vocabulary. C is open:
    1 decided but not signed, 2 uncertain, 3 undone and so undecided.
    """
    edit, split, merge, add = ("1" * 64, "2" * 64, "3" * 64, "4" * 64)
    stored = {sha256: np.zeros(SHAPE, np.uint16) for sha256 in (edit, split, merge, add)}
    stored[edit][1:3, 2:5, 4:6] = 1
    stored[split][1:3, 2:3, 13:15] = 1
    stored[split][1:3, 3:4, 13:15] = 2
    stored[merge][1:3, 2:4, 1:6] = 1
    stored[add][0, 6, 6:9] = 1
    a = [
        event(0, "A", "A-1", "accept", seconds=4.0),
        event(1, "A", "A-2", "edit", mask_sha256=edit, role="junior", reviewer_id="J1"),
        event(2, "A", "A-3", "reject", reason="cyst", seconds=2.0),
        event(3, "A", "A-4", "reject", seconds=6.0),
        event(4, "A", "A-5", "split", mask_sha256=split, seconds=50.0),
        event(5, "A", None, "add", mask_sha256=add, seconds=90.0),
        event(6, "A", None, "sign_off", seconds=8.0),
    ]
    b = [
        event(10, "B", "B-1", "reject", reason="vessel", role="junior", reviewer_id="J1"),
        event(11, "B", "B-1", "merge", mask_sha256=merge, seconds=20.0),
        event(12, "B", "B-2", "merge", mask_sha256=merge, seconds=20.0),
        event(13, "B", "B-3", "reject", reason="looks odd", seconds=1.0),
        event(14, "B", None, "sign_off", seconds=1.0),
    ]
    c = [
        event(20, "C", "C-1", "accept", seconds=3.0),
        event(21, "C", "C-2", "uncertain", seconds=5.0),
        event(22, "C", "C-3", "reject", reason="normal", seconds=7.0),
        event(23, "C", "C-3", "undo", seconds=1.0),
    ]
    merged = [settle("A", 5, a, stored), settle("B", 3, b, stored), settle("C", 3, c, stored)]
    candidates = pd.DataFrame(
        [
            {"case_id": case_id, "organ": "liver", "candidate_id": f"{case_id}-{n}"}
            for case_id, count in (("A", 5), ("B", 3), ("C", 3))
            for n in range(1, count + 1)
        ]
    )
    masks = pd.DataFrame([row for row, _ in merged])
    return candidates, table([*a, *b, *c]), masks, lineage_table(row for _, row in merged), ()


def test_every_candidate_has_the_fate_that_the_merge_gave_it(reviewed):
    fates = candidate_fates(*reviewed).set_index("candidate_id")
    assert fates["fate"].to_dict() == {
        "A-1": "accepted", "A-2": "edited", "A-3": "rejected", "A-4": "rejected", "A-5": "split",
        "B-1": "merged", "B-2": "merged", "B-3": "rejected",
        "C-1": "unsigned", "C-2": "undecided", "C-3": "undecided",
    }  # fmt: skip
    said = fates.loc[fates["fate"] == "rejected", "reason"]
    assert said.to_dict() == {"A-3": "cyst", "A-4": "no_reason", "B-3": "other"}


def test_a_kept_candidate_without_a_voxel_left_is_covered():
    whole = np.zeros(SHAPE, np.uint16)
    whole[1:3, 2:4, 1:3] = 1
    events = [
        event(0, "A", "A-1", "accept"),
        event(1, "A", None, "add"),
        event(2, "A", None, "sign_off"),
    ]
    row, instances = settle("A", 1, events, {MASK: whole})
    candidates = pd.DataFrame([{"case_id": "A", "organ": "liver", "candidate_id": "A-1"}])
    inputs = candidates, table(events), pd.DataFrame([row]), lineage_table([instances]), ()
    assert candidate_fates(*inputs)["fate"].tolist() == ["covered"]
    liver = efficiency_table(*inputs, organs=ORGANS, patients=None, bootstrap=10, seed=1)[0]
    assert (liver["precision"], liver["found"], liver["added"]) == (1.0, 0, 1)


def test_what_earlier_decisions_settle_is_inherited(reviewed):
    candidates, reviews, masks, lineage, _ = reviewed
    new = pd.DataFrame([{"case_id": "A", "organ": "liver", "candidate_id": "new"}])
    candidates = pd.concat([candidates, new])
    fates = candidate_fates(candidates, reviews, masks, lineage, {"new"})
    assert fates.set_index("candidate_id")["fate"]["new"] == "inherited"
    added = lineage["origin"] == "add"
    lineage = lineage.assign(
        candidate_ids=[
            ("new",) if a else ids for a, ids in zip(added, lineage["candidate_ids"], strict=True)
        ]
    )
    fates = candidate_fates(candidates, reviews, masks, lineage, ())
    assert fates.set_index("candidate_id")["fate"]["new"] == "inherited"


def test_the_efficiency_of_three_cases(reviewed):
    rows = efficiency_table(
        *reviewed, organs=ORGANS, patients={"A": "p", "B": "q"}, bootstrap=200, seed=1
    )
    assert [row["organ"] for row in rows] == ["liver", "pancreas", "all"]
    assert all(tuple(row) == EFFICIENCY_COLUMNS for row in rows)
    liver = rows[0]
    expected = {
        "scans": 3, "scans_reviewed": 2, "candidates": 11, "candidates_per_scan": 4.0,
        "accepted": 1, "edited": 1, "split": 1, "merged": 2, "rejected": 3, "covered": 0,
        "unsigned": 1, "undecided": 2, "rejected_cyst": 1, "rejected_vessel": 0,
        "rejected_other": 1, "rejected_no_reason": 1, "precision": 5 / 8,
        # Tumors: 1 accepted, 1 edited, 2 of a split, 1 of a merge; 1 added.
        "found": 5, "added": 1, "sensitivity": 5 / 6,
    }  # fmt: skip
    assert {name: liver[name] for name in expected} == expected
    exact = binomtest(5, 6).proportion_ci(method="wilson")
    assert (liver["sensitivity_low"], liver["sensitivity_high"]) == pytest.approx(exact)
    # Patients p (4 of 5) and q (1 of 1): the samples are pp, pq and qq.
    assert liver["sensitivity_patient_low"] == pytest.approx(0.8)
    assert liver["sensitivity_patient_high"] == pytest.approx(1.0)
    assert {**rows[2], "organ": "liver"} == liver
    assert rows[1]["precision"] is None and rows[1]["sensitivity_low"] is None


def test_fates_conserve_the_candidates(reviewed):
    for row in efficiency_table(*reviewed, organs=ORGANS, patients=None, bootstrap=9, seed=1):
        assert sum(row[fate] for fate in FATES) == row["candidates"]
        assert row["rejected"] == sum(
            count for name, count in row.items() if name.startswith("rejected_")
        )
        assert row["sensitivity_patient_low"] is None


def test_the_order_of_rows_does_not_matter(reviewed):
    candidates, reviews, masks, lineage, inherited = reviewed
    options = {"organs": ORGANS, "patients": {"A": "p"}, "bootstrap": 50, "seed": 3}
    turned = efficiency_table(
        candidates[::-1], reviews, masks[::-1], lineage[::-1], inherited, **options
    )
    assert turned == efficiency_table(*reviewed, **options)


def test_source_labels_are_no_result_of_review(reviewed):
    candidates, reviews, masks, lineage, inherited = reviewed
    labelled = {"case_id": "D", "organ": "liver", "state": "present", "source": "lits"}
    masks = pd.concat([masks, pd.DataFrame([labelled | {"origin": "review"}])])
    born = {"case_id": "D", "organ": "liver", "tumor_id": "x", "kind": "tumor", "origin": "add"}
    born |= {"candidate_ids": (), "event_ids": ()}
    lineage = pd.concat([lineage, pd.DataFrame([born])])
    inputs = candidates, reviews, masks, lineage, inherited
    rows = efficiency_table(*inputs, organs=ORGANS, patients=None, bootstrap=9, seed=1)
    assert (rows[0]["scans"], rows[0]["added"]) == (3, 1)


def test_tables_as_a_release_keeps_them(reviewed, tmp_path):
    candidates, reviews, masks, lineage, inherited = reviewed
    events = reviews.astype(object).where(reviews.notna(), None)
    write_table(tmp_path / "reviews.parquet", "reviews", events.to_dict("records"))
    write_table(tmp_path / "masks.parquet", "masks", masks.to_dict("records"))
    kept = read_table(tmp_path / "reviews.parquet"), read_table(tmp_path / "masks.parquet")
    options = {"organs": ORGANS, "patients": None, "bootstrap": 9, "seed": 1}
    rows = efficiency_table(candidates, *kept, lineage, inherited, **options)
    assert rows == efficiency_table(*reviewed, **options)
    assert time_table(kept[0], organs=ORGANS) == time_table(reviews, organs=ORGANS)


def test_nothing_was_reviewed_yet():
    masks = pd.DataFrame(columns=["case_id", "organ", "state", "origin", "source"])
    candidates = pd.DataFrame(columns=["case_id", "organ", "candidate_id"])
    inputs = candidates, table([]), masks, lineage_table([]), ()
    rows = efficiency_table(*inputs, organs=ORGANS, patients={}, bootstrap=9, seed=1)
    assert rows[-1]["candidates"] == 0 and rows[-1]["sensitivity"] is None
    names = ["origin", "size_class", "lesion_kind", "is_fragment"]
    tumors = pd.DataFrame(columns=["case_id", "organ", "tumor_id", *names])
    results = full_reads(units(4), table([]), masks, lineage_table([]), tumors, patients={})
    assert sensitivity_table(results, organs=ORGANS, size_classes=["tiny"])[-1]["tumors"] == 0
    assert empty_table(results, masks, organs=ORGANS)[-1]["share_high"] == 1.0


def test_times_leave_out_what_is_not_timed_and_say_so(reviewed):
    rows = time_table(reviewed[1], organs=ORGANS)
    assert all(tuple(row) == TIME_COLUMNS for row in rows)
    liver = {row["work"]: row for row in rows if row["organ"] == "liver"}
    screen = liver["screen"]
    # A: 4, 2, 6 and signature 8; B: J1 untimed, 1, signature 1; C: 3, 5, and 7 + 1 undone.
    assert (screen["events"], screen["events_untimed"]) == (11, 1)
    assert (screen["readings"], screen["readings_untimed"]) == (8, 1)
    assert screen["median_per_candidate_s"] == 4.0
    assert screen["mean_per_candidate_s"] == pytest.approx((4 + 2 + 6 + 1 + 3 + 5 + 8) / 7)
    assert (screen["scans"], screen["scans_untimed"]) == (3, 1)
    assert screen["mean_per_scan_s"] == pytest.approx((20 + 16) / 2)
    assert (liver["draw"]["events_untimed"], liver["draw"]["total_s"]) == (1, 180.0)
    assert liver["draw"]["mean_per_scan_s"] == 40.0  # B only: A has an edit without seconds
    assert liver["all"]["mean_per_scan_s"] == 16.0  # C only
    assert liver["full_read"]["median_per_scan_s"] is None
    assert [row for row in rows if row["organ"] == "pancreas"][0]["events"] == 0


def test_kinds_of_work_follow_the_stage_and_commands_are_none():
    events = [
        event(0, "A", None, "sign_off", stage="full_read", seconds=60.0),
        event(1, "A", "A-1", "accept", stage="adjudicate", seconds=7.0),
        event(2, "A", None, "withdraw", stage="records", seconds=1000.0),
    ]
    rows = {row["work"]: row for row in time_table(table(events), organs=["liver"])[-5:]}
    assert (rows["full_read"]["total_s"], rows["adjudicate"]["total_s"]) == (60.0, 7.0)
    assert rows["all"]["mean_per_scan_s"] == 67.0


def test_the_papers_formula_gives_the_papers_minutes():
    assert minutes_saved(10_134) == 10_134 * (5 - 1 / 12) == 49_825.5
    rows = savings_table(0, time_table(table([]), organs=ORGANS))
    assert rows[0]["minutes_saved"] == 49_825.5
    assert round(rows[0]["workdays_saved"]) == 83
    assert minutes_saved(10, 360.0) == -10.0  # slower than by hand


def test_savings_with_measured_seconds(reviewed):
    rows = savings_table(2, time_table(reviewed[1], organs=ORGANS))
    assert all(tuple(row) == SAVING_COLUMNS for row in rows)
    saved = {row["basis"]: row["minutes_saved"] for row in rows}
    assert saved["paper's seconds"] == pytest.approx(2 * (5 - 1 / 12))
    assert saved["measured screen"] == pytest.approx(2 * (5 - 18 / 60))
    assert saved["measured all"] == pytest.approx(2 * (5 - 16 / 60))
    assert savings_table(2, time_table(table([]), organs=ORGANS))[2]["minutes_saved"] is None


def test_an_undo_takes_back_its_readers_latest_event_there():
    events = [
        event(0, "A", "A-1", "accept"),
        event(1, "A", "A-1", "reject", reviewer_id="S2"),
        event(2, "A", "A-1", "reject"),
        event(3, "A", "A-1", "undo"),
        event(4, "A", None, "undo"),
    ]
    kept = standing_events(table(events))
    assert kept[["reviewer_id", "decision"]].to_numpy().tolist() == [
        ["S1", "accept"],
        ["S2", "reject"],
    ]


# Intervals


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_equal_scipys(counts):
    hits, total = counts
    test = binomtest(hits, total)
    assert wilson(hits, total) == pytest.approx(test.proportion_ci(method="wilson"), abs=1e-9)
    exact = test.proportion_ci(method="exact")
    assert clopper_pearson(hits / total, total) == pytest.approx(exact, abs=1e-9)
    one_sided = binomtest(hits, total, alternative="less").proportion_ci(method="exact")
    assert upper_bound(hits / total, total) == pytest.approx(one_sided.high, abs=1e-9)


@pytest.mark.parametrize("n", [1, 3, 20, 300])
def test_the_bound_of_none_of_n(n):
    assert upper_bound(0.0, n) == pytest.approx(1 - 0.05 ** (1 / n))


def test_effective_size():
    hits = [True, True, False, True, False, False, True, True]
    single = weighted_share(hits, [3.0] * 8, range(8))
    assert single == pytest.approx((5 / 8, 8.0))
    # Each observation twice in its patient is no more information.
    assert weighted_share(hits * 2, [1.0] * 16, [*range(8)] * 2) == pytest.approx((5 / 8, 8.0))
    # All are hits: no variance to see, so patients count.
    assert weighted_share([True] * 4, [1.0] * 4, ["a", "a", "b", "b"]) == (1.0, 2.0)
    share, size = weighted_share([True, False], [3.0, 1.0], ["a", "b"])
    assert share == 0.75 and size <= 16 / 10 + 1e-9


def test_the_bootstrap_is_seeded_and_needs_two_clusters():
    counts = np.array([[3.0, 4.0], [1.0, 6.0], [5.0, 5.0], [0.0, 0.0]])
    first = bootstrap_interval(counts, ratio, samples=250, seed=7)
    assert first == bootstrap_interval(counts, ratio, samples=250, seed=7)
    assert first[0] < 9 / 15 < first[1]
    assert bootstrap_interval(counts[:1], ratio, samples=250, seed=7) == (None, None)
    nothing = np.zeros((3, 2))
    assert bootstrap_interval(nothing, ratio, samples=20, seed=7) == (None, None)


# Sample of full reads


def units(count, *, source="s1", organ="liver", first=0):
    rows = [
        {"case_id": f"{source}-{n:04d}", "organ": organ, "source": source}
        | {"has_candidates": n % 3 == 0}
        for n in range(first, first + count)
    ]
    return pd.DataFrame(rows)


def keys(rows):
    return {(row["case_id"], row["organ"]) for row in rows}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_largest_remainder_is_within_one_of_the_share(total, sizes):
    whole = sum(sizes)
    assume(0 < whole and total <= whole)
    shares = apportion(total, sizes)
    assert sum(shares) == total
    for share, size in zip(shares, sizes, strict=True):
        assert abs(share - total * size / whole) < 1 and share <= size


def test_each_stratum_gets_its_share_and_at_least_the_minimum():
    table = pd.concat([units(120), units(60, source="s2"), units(2, source="s3")])
    rows = sample_full_reads(table, fraction=0.1, minimum_per_stratum=3, seed=5, already=[])
    assert all(tuple(row) == SAMPLE_COLUMNS for row in rows)
    found = pd.DataFrame(rows).groupby(["source", "has_candidates"]).size().to_dict()
    # s1 40 with and 80 without, s2 20 and 40, s3 one each.
    assert found == {
        ("s1", False): 8, ("s1", True): 4, ("s2", False): 4, ("s2", True): 3,
        ("s3", False): 1, ("s3", True): 1,
    }  # fmt: skip
    assert [row["draw"] for row in rows] == sorted(row["draw"] for row in rows)


def test_the_sample_ignores_row_order_and_follows_the_seed():
    table = units(200)
    options = {"fraction": 0.2, "minimum_per_stratum": 1, "already": []}
    first = sample_full_reads(table, seed=1, **options)
    assert sample_full_reads(table[::-1], seed=1, **options) == first
    assert keys(sample_full_reads(table, seed=2, **options)) != keys(first)


@pytest.mark.parametrize("step", [5, 7, 40])
def test_new_cases_never_push_out_a_chosen_one(step):
    chosen, sizes = set(), []
    for end in range(step, 121, step):
        rows = sample_full_reads(
            units(end), fraction=0.15, minimum_per_stratum=2, seed=3, already=chosen
        )
        assert chosen <= keys(rows)
        assert {(r["case_id"], r["organ"]) for r in rows if r["is_new"]} == keys(rows) - chosen
        chosen = keys(rows)
        sizes.append(len(rows))
    # Keeping costs at most a unit per stratum over the plain share.
    assert 18 <= sizes[-1] <= 20


def test_every_unit_has_the_same_chance():
    table = units(30)
    times = pd.Series(0, index=table["case_id"])
    for seed in range(60):
        rows = sample_full_reads(table, fraction=0.3, minimum_per_stratum=1, seed=seed, already=[])
        times[[row["case_id"] for row in rows]] += 1
    # 18 expected, standard deviation 3.5.
    assert times.between(4, 32).all()


def test_no_units_and_no_fraction():
    options = {"minimum_per_stratum": 0, "seed": 1, "already": [("gone", "liver")]}
    assert sample_full_reads(units(5), fraction=0.0, **options) == []
    assert sample_full_reads(units(0), fraction=1.0, **options) == []
    assert len(sample_full_reads(units(5), fraction=1.0, **options)) == 5


# Full reads


def tumor(case_id, tumor_id, origin, size_class="small", **more):
    row = {"case_id": case_id, "organ": "liver", "tumor_id": tumor_id, "origin": origin}
    row |= {"size_class": size_class, "lesion_kind": "tumor", "is_fragment": False}
    return row | more


def test_full_reads_tell_who_found_what_and_how_safe_empty_is():
    add_review = event(2, "u0", None, "add")
    add_full = event(31, "u1", None, "add", stage="full_read", role="junior", reviewer_id="J1")
    confirm = event(29, "u0", "t0", "accept", stage="full_read")
    events = [
        # u0: a candidate and a tumor that the reviewer added, confirmed in the full read.
        event(1, "u0", "c0", "accept"), add_review, event(3, "u0", None, "sign_off"),
        confirm, event(30, "u0", None, "sign_off", stage="full_read"),
        # u1: signed empty; the full read adds one.
        event(4, "u1", None, "sign_off"), add_full, event(32, "u1", None, "sign_off"),
        # u2: signed empty and empty. u3: signed empty, a tumor reported, not drawn yet.
        event(5, "u2", None, "sign_off"), event(33, "u2", None, "sign_off", stage="full_read"),
        event(6, "u3", "c3", "reject"), event(7, "u3", None, "sign_off"),
        event(34, "u3", None, "contest", stage="full_read", reason="missed"),
        # u4: a contest about something else leaves it open. u5: never read in full.
        event(8, "u4", None, "sign_off"),
        event(35, "u4", None, "contest", stage="full_read", reason="outline"),
        event(9, "u5", None, "sign_off"),
        # u6: read in full before anybody signed it. u7: only begun.
        event(10, "u6", "c6", "reject"), event(36, "u6", None, "sign_off", stage="full_read"),
        event(37, "u7", "c7", "reject", stage="full_read"),
    ]  # fmt: skip
    settled = {"u0": "present", "u1": "present"}
    settled |= dict.fromkeys(("u2", "u5", "u6"), "confirmed_empty")
    masks = pd.DataFrame(
        [
            {"case_id": f"u{n}", "organ": "liver", "source": ""}
            | {"state": settled.get(f"u{n}", "unknown")}
            | {"origin": "review" if f"u{n}" in settled else ""}
            for n in range(8)
        ]
    )
    tumors = pd.DataFrame(
        [
            tumor("u0", "c0", "accept"),
            tumor("u0", "t0", "add", "tiny"),
            tumor("u1", "t1", "add", "tiny"),
            tumor("u0", "speck", "add", is_fragment=True),
            tumor("u0", "cyst", "accept", lesion_kind="cyst"),
        ]
    )
    lineage = pd.DataFrame(
        [
            ("u0", "liver", "c0", "tumor", "accept", ("c0",), (events[0].event_id,)),
            ("u0", "liver", "t0", "tumor", "add", (), (add_review.event_id, confirm.event_id)),
            ("u1", "liver", "t1", "tumor", "add", (), (add_full.event_id,)),
        ],
        columns=list(LINEAGE_COLUMNS),
    )
    asked = pd.DataFrame(
        [
            {"case_id": f"u{n}", "organ": "liver", "source": "s", "has_candidates": False}
            for n in range(8)
        ]
    )
    results = full_reads(asked, table(events), masks, lineage, tumors, patients={})
    reads = results.reads.set_index("case_id")
    assert reads["is_open"].to_dict() == {
        "u0": False, "u1": False, "u2": False, "u3": False, "u4": True, "u6": False,
    }  # fmt: skip
    assert reads["was_empty"].tolist() == [False, True, True, True, True, False]
    assert reads["has_tumor"].tolist() == [True, True, False, True, False, False]
    assert (results.tumors["weight"] == 8 / 5).all()
    assert results.tumors["found_by"].tolist() == [
        "candidates", "reviewers", "full_read", "full_read",
    ]  # fmt: skip
    rows = sensitivity_table(results, organs=ORGANS, size_classes=("tiny", "small"))
    assert all(tuple(row) == SENSITIVITY_COLUMNS for row in rows)
    by = {(row["organ"], row["size_class"]): row for row in rows}
    every = by["liver", "all"]
    assert (every["full_reads"], every["open"], every["tumors"]) == (6, 1, 4)
    assert (every["sensitivity"], every["review_sensitivity"]) == (0.25, 0.5)
    assert every["sensitivity_low"] < 0.25 < every["sensitivity_high"]
    assert by["liver", "tiny"]["sensitivity"] == 0.0
    assert by["liver", "small"]["review_sensitivity"] == 1.0
    assert by["pancreas", "all"]["sensitivity"] is None
    empty = empty_table(results, masks, organs=ORGANS)
    assert all(tuple(row) == EMPTY_COLUMNS for row in empty)
    liver = empty[0]
    assert (liver["confirmed_empty"], liver["full_reads"], liver["with_tumor"]) == (3, 3, 2)
    assert liver["share"] == pytest.approx(2 / 3)
    one_sided = binomtest(2, 3, alternative="less").proportion_ci(method="exact")
    assert liver["share_high"] == pytest.approx(one_sided.high)
    assert (empty[1]["full_reads"], empty[1]["share"], empty[1]["share_high"]) == (0, None, 1.0)


def test_strata_are_weighted_back_to_their_size():
    """Of 90 organs without candidates 1 in 9 is read, of 10 with candidates every one."""
    asked = pd.DataFrame(
        [
            {"case_id": f"u{n:03d}", "organ": "liver", "source": "s", "has_candidates": n >= 90}
            for n in range(100)
        ]
    )
    read = [*range(0, 90, 9), *range(90, 100)]
    events, rows, born, tumors = [], [], [], []
    for place, n in enumerate(read):
        case_id = f"u{n:03d}"
        missed = n == 0
        late = event(place, case_id, None, "add" if missed else "sign_off", stage="full_read")
        events.append(late)
        present = missed or n >= 90
        rows.append({"case_id": case_id, "organ": "liver", "source": "", "origin": "review"})
        rows[-1]["state"] = "present" if present else "confirmed_empty"
        if present:
            origin = "add" if missed else "accept"
            tumors.append(tumor(case_id, case_id, origin))
            made = (late.event_id,) if missed else ()
            born.append((case_id, "liver", case_id, "tumor", origin, (), made))
    lineage = pd.DataFrame(born, columns=list(LINEAGE_COLUMNS))
    results = full_reads(
        asked, table(events), pd.DataFrame(rows), lineage, pd.DataFrame(tumors), patients={}
    )
    row = sensitivity_table(results, organs=["liver"], size_classes=())[0]
    assert (row["tumors"], row["found_by_full_read"]) == (11, 1)
    assert row["sensitivity"] == pytest.approx(10 / 19)


def test_the_interval_of_a_stratified_sample_covers_the_truth():
    """Nominal 95 %: simulated samples of two strata, the one drawn nine times as often."""
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], [900, 100])
    patients = np.arange(1000) // 2
    hit = rng.random(1000) < np.where(strata == 0, 0.85, 0.6)
    truth, covered = hit.mean(), 0
    for _ in range(200):
        drawn = np.concatenate(
            [
                rng.choice(np.flatnonzero(strata == s), n, replace=False)
                for s, n in ((0, 60), (1, 60))
            ]
        )
        weights = np.where(strata[drawn] == 0, 900 / 60, 100 / 60)
        low, high = clopper_pearson(*weighted_share(hit[drawn], weights, patients[drawn]))
        covered += low <= truth <= high
    assert covered >= 184  # 92 %
