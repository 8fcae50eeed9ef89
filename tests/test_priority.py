"""The worklist's order: its ingredients, and that it finds tumors sooner than random order."""

from dataclasses import asdict
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumoratlas.candidates.froc import froc_counts, froc_curve
from tumoratlas.review.ledger import COLUMNS, make_event
from tumoratlas.review.numbers.readings import standing_events, verdicts
from tumoratlas.review.plan import priority
from tumoratlas.review.plan.priority import (
    WORKLIST_COLUMNS,
    level_precision,
    order_worklist,
    rarity_weights,
    review_speed,
    tumor_probability,
)
from tumoratlas.review.plan.yields import yield_curve

LEVELS = [0.1, 0.3, 0.5, 0.7, 0.9]
ORGANS = ["liver", "pancreas"]
EDGES = (5, 10, 20)


def event(number, case_id, candidate_id, decision, *, organ="liver", **more):
    facts = {"stage": "review", "batch": "b0001", "reviewer_id": "S1", "role": "senior"} | more
    return make_event(
        case_id=case_id, organ=organ, candidate_id=candidate_id, decision=decision,
        time=f"2026-11-21T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000Z",
        **facts,
    )  # fmt: skip


def reviews(events=()):
    return pd.DataFrame([asdict(e) for e in events], columns=list(COLUMNS))


def candidate_rows(*rows):
    names = ["case_id", "organ", "candidate_id", "max_p", "radius_mm"]
    return pd.DataFrame(rows, columns=names)


def mask_rows(keys, settled=(), labelled=()):
    rows = [
        {"case_id": case_id, "organ": organ, "state": "unknown"}
        | {"origin": "review" if (case_id, organ) in settled else ""}
        | {"source": "lits" if (case_id, organ) in labelled else ""}
        for case_id, organ in keys
    ]
    return pd.DataFrame(rows, columns=["case_id", "organ", "state", "origin", "source"])


def tumor_rows(counts):
    rows = [
        {"organ": organ, "radius_mm": radius, "lesion_kind": "tumor", "is_fragment": False}
        for (organ, radius), count in counts.items()
        for _ in range(count)
    ]
    return pd.DataFrame(rows, columns=["organ", "radius_mm", "lesion_kind", "is_fragment"])


def order(candidates, masks, events=(), tumors=None, *, sources=None, contests=(), inherited=()):
    cases = set(masks["case_id"])
    rows = order_worklist(
        candidates,
        masks,
        reviews(events),
        tumor_rows({}) if tumors is None else tumors,
        sources=sources or dict.fromkeys(cases, "s"),
        organs=ORGANS,
        contests=contests,
        inherited=inherited,
        precision={},
        size_edges_mm=EDGES,
    )
    assert all(tuple(row) == WORKLIST_COLUMNS for row in rows)
    return rows


def seen(source_case="seen", count=5):
    """Return events on as many case-organs, so that their source is no longer new."""
    return [event(n, f"{source_case}{n}", f"old{n}", "reject") for n in range(count)]


def seen_sources(masks, source="s"):
    cases = dict.fromkeys(masks["case_id"], source)
    return cases | {f"seen{n}": source for n in range(5)}


# Probability


def test_precision_by_level_from_froc_counts():
    """Ten scans, each with a candidate at 0.9, true in nine, and one at 0.3, true in two."""
    tables = []
    for n in range(10):
        levels = np.zeros((4, 6, 30), np.uint8)
        levels[1:3, 1:3, 2:6] = 5
        levels[1:3, 1:3, 20:24] = 2
        truth = np.zeros(levels.shape, bool)
        truth[1:3, 1:3, 2:5] = n < 9
        truth[1:3, 1:3, 20:23] = n < 2
        tables.append(
            froc_counts(
                levels, truth, LEVELS, case_id=f"c{n}", voxel_volume_mm3=1.0,
                searched_volume_mm3=720.0, minimum_volume_mm3=1.0, connectivity=26,
            )
        )  # fmt: skip
    curve = froc_curve(pd.concat(tables), bootstrap=5, seed=1)
    precision = level_precision(curve)
    assert list(precision) == LEVELS
    weight, mean = priority.PRIOR_LEVEL, 11 / 20
    low, high = (2 + weight * mean) / (10 + weight), (9 + weight * mean) / (10 + weight)
    assert precision[0.3] == pytest.approx(low, abs=0.08) and precision[0.3] < mean
    assert precision[0.9] == pytest.approx(high)
    assert sorted(precision.values()) == list(precision.values())
    from_half = level_precision(curve[curve["threshold"] >= 0.5])
    assert list(from_half) == [0.5, 0.7, 0.9]
    assert level_precision(curve.assign(candidates_per_scan=0.0, false_positives=0)) == {}


def test_decisions_move_the_probability():
    candidates = candidate_rows(
        *[("A", "liver", f"c{n}", 0.3, 6.0) for n in range(40)],
        ("A", "liver", "other", 0.9, 6.0),
        ("A", "pancreas", "p", 0.3, 6.0),
    )
    events = [event(n, "A", f"c{n}", "accept" if n < 27 else "reject") for n in range(30)]
    events.append(event(31, "A", "c31", "uncertain"))
    decided = verdicts(standing_events(reviews(events)))
    p = tumor_probability(candidates, decided, {})
    assert p["p"].iloc[35] == pytest.approx((27 + 10 * 0.3) / 40)
    assert p["calibrated_by"].iloc[35] == "max_p + decisions"
    assert p["p"].iloc[40] == pytest.approx(0.9) and p["p"].iloc[41] == pytest.approx(0.3)
    p = tumor_probability(candidates, decided, {"liver": {0.3: 0.05, 0.9: 0.6}})
    assert p["p"].iloc[35] == pytest.approx((27 + 10 * 0.05) / 40)
    assert p["calibrated_by"].tolist()[-2:] == ["out of fold", "max_p"]


def test_seconds_are_measured_once_there_are_enough():
    few = [event(n, "A", f"c{n}", "accept", seconds=9.0) for n in range(29)]
    speed = review_speed(reviews(few))
    assert (speed.per_candidate_s, speed.per_organ_s) == (5.0, 10.0)
    more = [event(60 + n, "A", f"d{n}", "reject", seconds=float(n)) for n in range(31)]
    drawn = [event(200, "A", "e", "edit", mask_sha256="a" * 64, seconds=900.0)]
    full = [event(201, "A", None, "sign_off", stage="full_read", seconds=900.0)]
    speed = review_speed(reviews([*few, *more, *drawn, *full]))
    assert (speed.per_candidate_s, speed.timed_candidates) == (9.0, 60)
    assert (speed.per_organ_s, speed.timed_organs) == (10.0, 0)


def test_rare_classes_weigh_more_but_never_more_than_twice():
    assert rarity_weights([0, 0, 0]).tolist() == [1, 1, 1]
    weights = rarity_weights([1000, 10, 0])
    assert weights.tolist() == [1.0, 2.0, 2.0]
    assert rarity_weights([9, 4, 6])[1] == pytest.approx(np.sqrt((22 / 3) / 5))


# Order


def test_yield_per_minute_orders_and_shows_its_ingredients():
    candidates = candidate_rows(
        ("A", "liver", "a1", 0.9, 12.0),
        ("B", "liver", "b1", 0.3, 12.0),
        ("C", "liver", "c1", 0.9, 12.0),
        ("C", "liver", "c2", 0.9, 12.0),
        ("D", "liver", "d1", 0.9, 12.0),
    )
    masks = mask_rows([(c, "liver") for c in "DCBAE"])
    rows = order(candidates, masks, seen(), sources=seen_sources(masks))
    assert [row["case_id"] for row in rows] == ["C", "A", "D", "B", "E"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    first = rows[0]
    assert first["expected_seconds"] == 20.0 and first["candidates"] == 2
    assert first["expected_tumors"] == pytest.approx(1.8)
    assert first["expected_per_minute"] == pytest.approx(5.4)
    assert first["uncertainty"] == pytest.approx(2 * 4 * 0.9 * 0.1)
    bonus = priority.UNCERTAINTY_VALUE * first["uncertainty"]
    assert first["score"] == pytest.approx((1.8 + bonus) * 3)
    assert (rows[-1]["score"], rows[-1]["calibrated_by"]) == (0.0, "")
    assert order(candidates[::-1], masks[::-1], seen(), sources=seen_sources(masks)) == rows


def test_what_is_settled_labelled_or_decided_takes_no_place():
    candidates = candidate_rows(
        ("A", "liver", "a1", 0.9, 12.0), ("A", "liver", "a2", 0.7, 12.0),
        ("B", "liver", "b1", 0.9, 12.0), ("C", "liver", "c1", 0.9, 12.0),
    )  # fmt: skip
    keys = [("A", "liver"), ("B", "liver"), ("C", "liver"), ("A", "colon")]
    masks = mask_rows(keys, settled=[("B", "liver")], labelled=[("C", "liver")])
    events = [event(0, "A", "a1", "accept"), event(1, "A", "a2", "uncertain")]
    rows = order(candidates, masks, events)
    assert [(row["case_id"], row["organ"], row["candidates"]) for row in rows] == [
        ("A", "liver", 1)
    ]
    [row] = order(candidates, masks, events, inherited=["a2"])
    assert row["candidates"] == 0
    contest = {"case_id": "A", "organ": "liver", "candidate_id": "a1"}
    [row] = order(candidates, masks, events, contests=[contest])
    assert (row["tier"], row["candidates"]) == ("contested", 2)


def test_contested_first_then_some_of_each_new_source():
    cases = [f"n{n}" for n in range(8)] + [f"k{n}" for n in range(8)]
    candidates = candidate_rows(*[(c, "liver", f"{c}x", 0.3, 12.0) for c in cases[:8]])
    candidates = pd.concat(
        [candidates, candidate_rows(*[(c, "liver", f"{c}x", 0.9, 12.0) for c in cases[8:]])]
    )
    masks = mask_rows([(c, "liver") for c in [*cases, "empty"]])
    sources = {c: "new" if c[0] == "n" else "known" for c in cases} | {"empty": "other"}
    sources |= {f"seen{n}": "known" for n in range(5)}
    rows = order(
        candidates, masks, [*seen(), event(50, "n7", "n7y", "reject")], sources=sources,
        contests=[{"case_id": "k3", "organ": "liver", "candidate_id": ""}],
    )  # fmt: skip
    tiers = [row["tier"] for row in rows]
    assert tiers == ["contested"] + ["unseen source"] * 4 + ["expected yield"] * 12
    assert rows[0]["case_id"] == "k3"
    # One case-organ of the new source was read already; one without candidates shows nothing.
    assert [row["case_id"] for row in rows[1:5]] == ["n0", "n1", "n2", "n3"]
    assert rows[5]["source"] == "known" and rows[-1]["case_id"] == "empty"


def test_rare_organs_and_sizes_come_first_among_equals():
    candidates = candidate_rows(
        ("A", "liver", "a", 0.5, 15.0),
        ("B", "pancreas", "b", 0.5, 15.0),
        ("C", "liver", "c", 0.5, 5.0),
        ("D", "liver", "d", 0.5, 5.01),
    )
    masks = mask_rows([("A", "liver"), ("B", "pancreas"), ("C", "liver"), ("D", "liver")])
    tumors = tumor_rows({("liver", 15.0): 60, ("liver", 6.0): 30, ("pancreas", 15.0): 20})
    rows = order(candidates, masks, seen(), tumors, sources=seen_sources(masks))
    assert [row["case_id"] for row in rows] == ["C", "B", "A", "D"]
    by_case = {row["case_id"]: row for row in rows}
    assert by_case["C"]["size_weight"] == 2.0 and by_case["A"]["size_weight"] == 1.0
    assert by_case["B"]["organ_weight"] == pytest.approx(np.sqrt(56 / 21))
    assert by_case["D"]["size_weight"] == 1.0


def test_uncertainty_decides_among_equal_yields():
    candidates = candidate_rows(
        ("A", "liver", "a1", 0.9, 15.0), ("A", "liver", "a2", 0.1, 15.0),
        ("B", "liver", "b1", 0.5, 15.0), ("B", "liver", "b2", 0.5, 15.0),
    )  # fmt: skip
    masks = mask_rows([("A", "liver"), ("B", "liver")])
    rows = order(candidates, masks, seen(), sources=seen_sources(masks))
    assert [row["case_id"] for row in rows] == ["B", "A"]
    assert rows[0]["expected_per_minute"] == rows[1]["expected_per_minute"]


# Yield


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=5),
)
def test_no_order_beats_the_best_one(facts):
    tumors = {n: count for n, (count, _) in enumerate(facts)}
    seconds = {n: 5.0 * time for n, (_, time) in enumerate(facts)}
    found = [
        yield_curve(list(o), tumors, seconds, random_orders=5, seed=1).relative_area
        for o in permutations(range(len(facts)))
    ]
    assert max(found) == pytest.approx(1.0)


def test_a_yield_curve_by_hand():
    result = yield_curve(
        ["a", "b", "c"], {"a": 1, "c": 3}, {"a": 60.0, "b": 120.0, "c": 60.0},
        random_orders=400, seed=2,
    )  # fmt: skip
    assert result.curve["minutes"].tolist() == [1.0, 3.0, 4.0]
    assert result.curve["tumors"].tolist() == [1.0, 1.0, 4.0]
    assert result.curve["tumors_per_minute"].tolist() == [1.0, 1 / 3, 1.0]
    # One of four tumors after 1 of 4 minutes, three at the end; best: c, a, b.
    assert result.area == pytest.approx(3 / 16)
    assert result.relative_area == pytest.approx((3 / 16) / (11 / 16))
    areas = [
        yield_curve(
            list(o), {"a": 1, "c": 3}, {"a": 60.0, "b": 120.0, "c": 60.0}, random_orders=1, seed=1
        ).relative_area
        for o in permutations("abc")
    ]
    assert result.random_mean == pytest.approx(np.mean(areas), abs=0.05)
    assert result.random_low == pytest.approx(min(areas))
    nothing = yield_curve(["a"], {}, {"a": 5.0}, random_orders=3, seed=1)
    assert (nothing.relative_area, nothing.random_mean) == (1.0, 1.0)


def simulate(seed, truth_of, *, cases=60, each=None):
    """Return worklist input, and the tumors and seconds of each case-organ."""
    rng = np.random.default_rng(seed)
    rows, tumors, seconds, keys = [], {}, {}, []
    for case in range(cases):
        for organ in ORGANS:
            key = (f"case{case:03d}", organ)
            keys.append(key)
            count = int(rng.poisson(1.5)) if each is None else each
            levels = rng.choice(LEVELS, count)
            truth = rng.random(count) < truth_of(levels)
            tumors[key] = int(truth.sum())
            # Readers differ from the assumed seconds, and tumors take longer.
            seconds[key] = 10 + float(rng.gamma(4.0, 1.25, count).sum()) + 3.0 * truth.sum()
            rows += [
                (*key, f"{key[0]}{organ}{n}", p, float(rng.gamma(3.0, 4.0)))
                for n, p in enumerate(levels)
            ]
    masks = mask_rows(keys)
    found = tumor_rows({("liver", 15.0): 60, ("liver", 4.0): 5, ("pancreas", 15.0): 15})
    return candidate_rows(*rows), masks, found, tumors, seconds


def gains(truth_of, *, simulations=20, each=None):
    """Return relative area minus that of random orders, and share above the random interval."""
    gain, above = [], []
    for seed in range(simulations):
        candidates, masks, found, tumors, seconds = simulate(seed, truth_of, each=each)
        sources = {case: f"s{int(case[-2:]) % 3}" for case in masks["case_id"]}
        rows = order(candidates, masks, (), found, sources=sources)
        keys = [(row["case_id"], row["organ"]) for row in rows]
        result = yield_curve(keys, tumors, seconds, random_orders=60, seed=seed)
        gain.append(result.relative_area - result.random_mean)
        above.append(result.relative_area > result.random_high)
    return np.array(gain), float(np.mean(above))


def test_the_order_beats_random_where_probabilities_say_something():
    gain, above = gains(lambda p: p)
    assert gain.mean() > 0.15 and above == 1.0


def test_the_order_beats_random_with_overconfident_probabilities():
    gain, above = gains(lambda p: p**3)
    assert gain.mean() > 0.15 and above > 0.9


def test_the_order_is_no_worse_than_random_where_probabilities_say_nothing():
    gain, _ = gains(lambda p: np.full(len(p), 0.4))
    assert gain.mean() > 0  # more candidates for one opening of the scan
    gain, above = gains(lambda p: np.full(len(p), 0.4), each=1)
    assert gain.mean() > -2 * gain.std() / np.sqrt(len(gain)) and above < 0.3
