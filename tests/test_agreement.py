"""Agreement of double reads, against scikit-learn and hand-made truth."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from tumoratlas.review.ledger import COLUMNS, make_event
from tumoratlas.review.numbers.agreement import (
    AGREEMENT_COLUMNS,
    CALLS,
    DoubleRead,
    agreement_table,
    cohen_kappa,
    double_reads,
    match_instances,
)

SHAPE = (2, 4, 40)
ORGANS = ["liver", "pancreas"]


def event(number, case_id, candidate_id, decision, batch, *, organ="liver", mask="", **more):
    facts = {"stage": "review", "reviewer_id": batch.upper(), "role": "senior"} | more
    return make_event(
        case_id=case_id, organ=organ, candidate_id=candidate_id, decision=decision, batch=batch,
        time=f"2026-11-21T14:{number // 60:02d}:{number % 60:02d}.000Z", mask_sha256=mask,
        **facts,
    )  # fmt: skip


def table(events):
    return pd.DataFrame([asdict(e) for e in events], columns=list(COLUMNS))


def line(batch, case_id, organs=("liver",), kind="candidates"):
    return {
        "batch": batch, "kind": kind, "reviewer_id": batch.upper(), "case_id": case_id,
        "organs": list(organs),
    }  # fmt: skip


def bar(start, stop):
    """Return the raster indices of a bar in the first row."""
    return np.arange(start, stop, dtype=np.int64)


def instance_map(*bars):
    array = np.zeros(SHAPE, np.uint16)
    for label, piece in enumerate(bars, start=1):
        array.flat[piece] = label
    return array


def compare(events, lines, *, candidates=None, masks=None, patients=None, bootstrap=200):
    candidates = candidates or {}
    masks = masks or {}
    rows = agreement_table(
        lines,
        table(events),
        organs=ORGANS,
        load_mask=lambda case_id, sha256: masks[sha256],
        load_candidates=lambda case_id, organ: candidates.get((case_id, organ), {}),
        patients=patients or {},
        bootstrap=bootstrap,
        seed=11,
    )
    assert all(tuple(row) == AGREEMENT_COLUMNS for row in rows)
    return {row["organ"]: row for row in rows}


DECISION = {"tumor": "accept", "no tumor": "reject", "uncertain": "uncertain"}


def read_twice(pairs, cases=7):
    """Return events and batches of two readers who say the pairs of calls."""
    events, lines = [], []
    for n, pair in enumerate(pairs):
        for batch, call in zip(("r1", "r2"), pair, strict=True):
            events.append(event(n, f"case{n % cases}", f"c{n}", DECISION[call], batch))
    for n in range(cases):
        lines += [line("r1", f"case{n}"), line("r2", f"case{n}")]
    return events, lines


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(CALLS), st.sampled_from(CALLS)), min_size=2))
def test_kappa_is_scikit_learns(pairs):
    counts = np.zeros((3, 3))
    for a, b in pairs:
        counts[CALLS.index(a), CALLS.index(b)] += 1
    ours = float(cohen_kappa(counts))
    if len({call for pair in pairs for call in pair}) == 1:
        assert np.isnan(ours)
    else:
        theirs = cohen_kappa_score(*zip(*pairs, strict=True), labels=list(CALLS))
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_a_known_table():
    """Cohen 1960, as in textbooks: 20, 5, 10, 15 give 0.4; independent readers give 0."""
    pairs = (
        [("tumor", "tumor")] * 20 + [("tumor", "no tumor")] * 5
        + [("no tumor", "tumor")] * 10 + [("no tumor", "no tumor")] * 15
    )  # fmt: skip
    row = compare(*read_twice(pairs))["liver"]
    assert (row["candidates"], row["both_tumor"], row["both_no_tumor"]) == (50, 20, 15)
    assert (row["differ"], row["agreement"]) == (15, 0.7)
    assert row["kappa"] == pytest.approx(0.4)
    assert row["kappa_low"] < 0.4 < row["kappa_high"]
    assert row["agreement_low"] < 0.7 < row["agreement_high"]
    assert (row["double_reads"], row["patients"], row["kappa_note"]) == (7, 7, "")
    assert compare(*read_twice(pairs))["all"] == {**row, "organ": "all"}
    chance = [(a, b) for a in CALLS[:2] for b in CALLS[:2]]
    assert compare(*read_twice(chance))["liver"]["kappa"] == pytest.approx(0)


def test_one_class_only_has_no_kappa_and_says_why():
    row = compare(*read_twice([("no tumor", "no tumor")] * 9))["liver"]
    assert (row["agreement"], row["kappa"], row["kappa_low"]) == (1.0, None, None)
    assert row["kappa_note"] == "both readers said no tumor of all 9 candidates"
    nothing = compare([], [])
    assert nothing["all"]["kappa_note"] == "no candidate was read twice"
    assert nothing["all"]["detection_f1"] is None and nothing["all"]["double_reads"] == 0


def test_patients_are_resampled_as_a_whole():
    pairs = [("tumor", "tumor"), ("tumor", "no tumor"), ("no tumor", "no tumor")] * 20
    events, lines = read_twice(pairs, cases=60)
    apart = compare(events, lines)["liver"]
    together = {f"case{n}": f"p{n % 3}" for n in range(60)}
    joined = compare(events, lines, patients=together)["liver"]
    assert joined["patients"] == 3 and joined["kappa"] == apart["kappa"]
    # Patients that are all alike inside say less than their cases.
    width = [row["agreement_high"] - row["agreement_low"] for row in (joined, apart)]
    assert width[0] > width[1]
    one = compare(events, lines, patients=dict.fromkeys(together, "p"))["liver"]
    assert one["agreement_low"] is None


def test_double_reads_are_two_readers_of_candidates_that_have_begun():
    lines = [
        line("r1", "A", ORGANS), line("r2", "A", ORGANS), line("r1", "B"), line("r2", "B"),
        line("r1", "C"), line("r2", "C", kind="full"), line("r3", "A", ["liver"]),
        line("r1", "D"), {**line("r4", "D"), "reviewer_id": "R1"},
    ]  # fmt: skip
    events = [
        event(0, "A", "a", "accept", "r1"), event(1, "A", "a", "reject", "r2"),
        event(2, "A", None, "sign_off", "r3"), event(3, "B", "b", "accept", "r1"),
        event(4, "C", "c", "accept", "r1"), event(5, "C", "c", "accept", "r2"),
        event(6, "A", "p", "accept", "r1", organ="pancreas"),
        event(7, "A", "p", "accept", "r2", organ="pancreas"),
        event(8, "A", "p", "undo", "r2", organ="pancreas"),
        event(9, "D", "d", "accept", "r1"), event(10, "D", "d", "reject", "r4", reviewer_id="R1"),
    ]  # fmt: skip
    assert double_reads(lines, table(events)) == [
        DoubleRead("A", "liver", "r1", "r2"),
        DoubleRead("A", "liver", "r1", "r3"),
        DoubleRead("A", "liver", "r2", "r3"),
    ]


def test_tumors_and_outlines_of_two_readers():
    """Candidates c1 to c4; the readers agree on c1, draw c2, split c3 differently."""
    candidates = {
        ("A", "liver"): {
            "c1": bar(0, 4), "c2": bar(6, 12), "c3": bar(14, 22), "c4": bar(24, 26),
        }
    }  # fmt: skip
    edit_a, edit_b, split_a, edit3_b, add_a, add_b = (f"{n}" * 64 for n in range(1, 7))
    masks = {
        edit_a: instance_map(bar(6, 10)),
        edit_b: instance_map(bar(8, 12)),
        split_a: instance_map(bar(14, 18), bar(19, 22)),
        edit3_b: instance_map(bar(14, 22)),
        add_a: instance_map(bar(80, 90)),
        add_b: instance_map(bar(89, 100)),
    }
    events = [
        event(0, "A", "c1", "accept", "r1"), event(1, "A", "c1", "accept", "r2"),
        event(2, "A", "c2", "accept", "r1"), event(3, "A", "c2", "edit", "r1", mask=edit_a),
        event(4, "A", "c2", "edit", "r2", mask=edit_b),
        event(5, "A", "c3", "split", "r1", mask=split_a),
        event(6, "A", "c3", "edit", "r2", mask=edit3_b),
        event(7, "A", "c4", "reject", "r1"),
        event(8, "A", None, "add", "r1", mask=add_a), event(9, "A", None, "add", "r2", mask=add_b),
        event(10, "A", None, "sign_off", "r1"), event(11, "A", None, "sign_off", "r2"),
    ]  # fmt: skip
    row = compare(events, [line("r1", "A"), line("r2", "A")], candidates=candidates, masks=masks)[
        "liver"
    ]
    assert (row["candidates"], row["read_once"], row["both_tumor"]) == (3, 1, 3)
    # r1: c1, c2, two parts of c3, one added; r2: c1, c2, c3, one added, hardly touching r1's.
    assert (row["instances_a"], row["instances_b"], row["matched"]) == (5, 4, 3)
    assert row["detection_f1"] == pytest.approx(6 / 9)
    # Both drew c2 (2 of 4 and 4 voxels) and c3 (r1's larger part against the whole).
    assert row["outlines"] == 2
    assert row["dsc_mean"] == pytest.approx((4 / 8 + 8 / 12) / 2)


def test_a_merged_tumor_counts_once():
    merged = "9" * 64
    events = [
        event(0, "A", "c1", "merge", "r1", mask=merged),
        event(1, "A", "c2", "merge", "r1", mask=merged),
        event(2, "A", "c1", "accept", "r2"), event(3, "A", "c2", "accept", "r2"),
    ]  # fmt: skip
    candidates = {("A", "liver"): {"c1": bar(0, 4), "c2": bar(6, 9)}}
    row = compare(
        events,
        [line("r1", "A"), line("r2", "A")],
        candidates=candidates,
        masks={merged: instance_map(bar(0, 9))},
    )["liver"]
    assert (row["instances_a"], row["instances_b"], row["matched"]) == (1, 2, 1)
    assert row["agreement"] == 1.0 and row["outlines"] == 0 and row["dsc_mean"] is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 30), max_size=5), st.lists(st.integers(0, 30), max_size=5))
def test_matching_finds_the_most_pairs(first, second):
    from itertools import permutations

    a = [bar(n * 2, n * 2 + 5) for n in first]
    b = [bar(n * 2, n * 2 + 4) for n in second]

    def iou(x, y):
        common = len(np.intersect1d(x, y))
        return common / (len(x) + len(y) - common)

    small, large = sorted((a, b), key=len)
    most = max(
        sum(iou(x, y) >= 0.1 for x, y in zip(small, order, strict=True))
        for order in permutations(large, len(small))
    )
    pairs = match_instances(a, b)
    assert len(pairs) == most
    assert len({i for i, _, _ in pairs}) == len({j for _, j, _ in pairs}) == most
    for i, j, dice in pairs:
        shared = iou(a[i], b[j])
        assert shared >= 0.1 and dice == pytest.approx(2 * shared / (1 + shared))
