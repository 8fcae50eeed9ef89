"""FROC counts, curve and threshold, against closed forms, picai_eval and hand-made cases."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from picai_eval import evaluate
from scipy import ndimage

from tumoratlas.candidates.froc import froc_counts, froc_curve
from tumoratlas.candidates.levels import level_map
from tumoratlas.candidates.thresholds import choose_threshold
from tumoratlas.core.errors import ConfigError, GeometryError, InputError
from tumoratlas.images.components import find_components

THRESHOLDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


def counts(
    levels: np.ndarray,
    truth: np.ndarray,
    case_id: str = "c",
    thresholds: list[float] = THRESHOLDS,
    minimum_volume_mm3: float = 0.0,
) -> pd.DataFrame:
    return froc_counts(
        levels,
        truth,
        thresholds,
        case_id=case_id,
        voxel_volume_mm3=1.0,
        searched_volume_mm3=float(levels.size),
        minimum_volume_mm3=minimum_volume_mm3,
        connectivity=26,
    )


def curve_of(*cases: pd.DataFrame, bootstrap: int = 50) -> pd.DataFrame:
    return froc_curve(pd.concat(cases), bootstrap=bootstrap, seed=3)


def random_case(seed: int, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Lesions, and probabilities that find, shift, miss and invent them."""
    rng = np.random.default_rng(seed)
    grid = np.indices((size,) * 3)
    truth, probability = np.zeros((size,) * 3, bool), np.zeros((size,) * 3)

    def distance(center: np.ndarray) -> np.ndarray:
        return np.sqrt(sum((i - c) ** 2 for i, c in zip(grid, center, strict=True)))

    for _ in range(rng.integers(0, 5)):
        center, radius = rng.uniform(6, size - 6, 3), rng.uniform(2, 7)
        truth |= distance(center) <= radius
        peak = np.clip(rng.beta(3, 1.2) * min(1, 0.35 + radius / 9), 0.01, 0.999)
        edge = (distance(center + rng.normal(0, 1.5, 3)) - radius * rng.uniform(0.6, 1.2)) / 1.5
        probability = np.maximum(probability, peak / (1 + np.exp(edge)))
    for _ in range(rng.integers(0, 5)):
        edge = (distance(rng.uniform(4, size - 4, 3)) - rng.uniform(1.5, 4)) / 1.5
        probability = np.maximum(probability, rng.beta(1.2, 3) / (1 + np.exp(edge)))
    return truth, probability.astype(np.float32)


@pytest.fixture(scope="module")
def random_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    return [random_case(seed) for seed in range(14)]


def test_sensitivity_is_the_share_of_lesions_whose_peak_reaches_the_threshold(
    random_cases: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    peaks, tables = [], []
    for number, (truth, probability) in enumerate(random_cases):
        lesions = find_components(truth, connectivity=26)
        crop = probability[lesions.box]
        peaks += [crop[lesions.labels == i + 1].max() for i in range(len(lesions.voxels))]
        tables.append(counts(level_map(probability, THRESHOLDS), truth, f"c{number}"))
    curve = curve_of(*tables)
    ours = curve[curve.rule == "any"].sensitivity.to_numpy()
    exact = [np.mean([float(peak) >= threshold for peak in peaks]) for threshold in THRESHOLDS]
    assert ours.tolist() == exact


@settings(max_examples=80, deadline=None)
@given(
    arrays(np.float32, (3, 5, 6), elements=st.floats(0, 1, width=32)),
    arrays(bool, (3, 5, 6), elements=st.sampled_from([False, False, True])),
    arrays(np.int8, (3, 5, 6), elements=st.integers(-1, len(THRESHOLDS) - 1)),
    st.sampled_from([6, 18, 26]),
)
def test_closed_form_of_sensitivity(
    probability: np.ndarray, truth: np.ndarray, snap: np.ndarray, connectivity: int
) -> None:
    """Sensitivity by any overlap is the share of lesions whose peak reaches the threshold.

    Some voxels are set to a threshold itself, where a rounding error would show.
    """
    probability = np.where(snap >= 0, np.float32(THRESHOLDS)[snap], probability)
    table = froc_counts(
        level_map(probability, THRESHOLDS),
        truth,
        THRESHOLDS,
        case_id="c",
        voxel_volume_mm3=1.0,
        searched_volume_mm3=90.0,
        minimum_volume_mm3=0.0,
        connectivity=connectivity,
    )
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    labels, count = ndimage.label(truth, structure)
    peaks = [float(probability[labels == lesion + 1].max()) for lesion in range(count)]
    rows = table[table.rule == "any"]
    assert rows.lesions.tolist() == [count] * len(THRESHOLDS)
    assert rows.hits.tolist() == [sum(p >= t for p in peaks) for t in THRESHOLDS]


@pytest.mark.parametrize("index", [3, 5, 7])
def test_iou_rule_equals_picai_eval(
    random_cases: list[tuple[np.ndarray, np.ndarray]], index: int
) -> None:
    detections, totals = [], np.zeros(3, int)
    for truth, probability in random_cases:
        levels = level_map(probability, THRESHOLDS)
        found = find_components(levels > index, connectivity=26, minimum_count=8)
        detection = np.zeros(truth.shape, np.float32)
        detection[found.box] = (found.labels > 0) * 0.9
        detections.append(detection)
        table = counts(levels, truth, minimum_volume_mm3=8)
        row = table[table.rule == "iou"].iloc[index]
        totals += row[["hits", "lesions", "false_positives"]].to_numpy(int)
    metrics = evaluate(
        y_det=detections,
        y_true=[truth.astype(np.uint8) for truth, _ in random_cases],
        min_overlap=0.1,
        overlap_func="IoU",
        num_parallel_calls=1,
    )
    rows = [row for case in metrics.lesion_results.values() for row in case]
    hits = sum(lesion == 1 and confidence > 0 for lesion, confidence, _ in rows)
    lesions = sum(lesion == 1 for lesion, _, _ in rows)
    assert totals.tolist() == [hits, lesions, sum(lesion == 0 for lesion, _, _ in rows)]
    assert hits > 5


def hand_made() -> list[pd.DataFrame]:
    """Two lesions under one candidate; a false positive in a control; an empty control."""
    levels = [np.zeros((1, 5, 12), np.uint8) for _ in range(3)]
    truths = [np.zeros((1, 5, 12), bool) for _ in range(3)]
    truths[0][0, 1, 1:4] = truths[0][0, 1, 6:8] = True
    levels[0][0, 1, 1:8] = 1  # one candidate over both lesions at 0.1
    levels[0][0, 1, 2:4] = 2  # only the first lesion at 0.5
    levels[1][0, 3, 3:6] = 2  # a false positive at both
    return [
        counts(level, truth, f"c{i}", [0.1, 0.5])
        for i, (level, truth) in enumerate(zip(levels, truths, strict=True))
    ]


def test_hand_made_cases() -> None:
    curve = curve_of(*hand_made()).set_index(["rule", "threshold"])
    seen = curve[["lesions", "hits", "false_positives", "fp_per_scan"]].to_dict("index")
    # By IoU the long candidate is one lesion's only (3/7 against 2/7).
    assert {key: tuple(row.values()) for key, row in seen.items()} == {
        ("any", 0.1): (2, 2, 1, 1 / 3),
        ("any", 0.5): (2, 1, 1, 1 / 3),
        ("iou", 0.1): (2, 1, 1, 1 / 3),
        ("iou", 0.5): (2, 1, 1, 1 / 3),
    }
    first = curve.loc[("any", 0.1)]
    assert (first.scans, first.tumor_free_scans, first.fp_per_tumor_free_scan) == (3, 2, 0.5)
    assert first.candidates_per_scan == pytest.approx(2 / 3)
    assert first.candidate_volume_mm3_per_scan == pytest.approx(10 / 3)
    assert first.false_fraction == pytest.approx((2 + 3) / 180)


def test_a_candidate_on_a_fragment_of_the_truth_is_not_false() -> None:
    truth, levels = np.zeros((1, 6, 12), bool), np.zeros((1, 6, 12), np.uint8)
    truth[0, 0, 0] = True
    levels[0, 0, :4] = 1
    levels[0, 4, :2] = 1  # too small to be a candidate
    table = counts(levels, truth, thresholds=[0.5], minimum_volume_mm3=3)
    numbers = table[["lesions", "hits", "false_positives", "candidates"]]
    assert numbers.to_numpy().tolist() == [[0, 0, 0, 1]] * 2


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.uint8, (4, 6, 6), elements=st.integers(0, 4)),
    arrays(bool, (4, 6, 6)),
    st.integers(0, 6),
)
def test_any_overlap_never_rises_with_the_threshold(
    levels: np.ndarray, truth: np.ndarray, minimum: int
) -> None:
    table = counts(levels, truth, "c", [0.1, 0.2, 0.5, 0.9], minimum)
    hits = table[table.rule == "any"].hits.to_numpy()
    assert (np.diff(hits) <= 0).all()
    assert (table.hits <= table.lesions).all() and (table.false_volume_mm3 >= 0).all()
    pairs = table.set_index(["threshold", "rule"])
    assert (pairs.xs("iou", level=1).hits <= pairs.xs("any", level=1).hits).all()


def test_order_of_cases_does_not_matter() -> None:
    tables = [
        counts(level_map(p, THRESHOLDS), truth, f"c{i}")
        for i, (truth, p) in enumerate(random_case(seed, 24) for seed in range(5))
    ]
    expected = curve_of(*tables)
    for order in itertools.islice(itertools.permutations(tables), 1, 120, 37):
        pd.testing.assert_frame_equal(curve_of(*order), expected)
    chosen = choose_threshold(expected, organ="liver", sensitivity=0.5)
    assert chosen == choose_threshold(
        expected.sample(frac=1, random_state=0), organ="liver", sensitivity=0.5
    )


def test_intervals_hold_the_estimate_and_shrink_with_patients() -> None:
    rng = np.random.default_rng(0)
    row = {"rule": "any", "threshold": 0.5, "lesions": 1, "candidates": 1}
    volumes = dict.fromkeys(
        ("candidate_volume_mm3", "false_volume_mm3", "searched_volume_mm3"), 1.0
    )
    cases = pd.DataFrame(
        row | volumes | {"case_id": f"{i:03}", "hits": hit, "false_positives": 0}
        for i, hit in enumerate(rng.random(400) < 0.9)
    )
    cases["patient"] = cases.case_id.str[:2]
    [by_case] = froc_curve(cases, bootstrap=2000, seed=1).to_dict("records")
    rate = by_case["sensitivity"]
    half = 1.96 * np.sqrt(rate * (1 - rate) / 400)
    assert by_case["sensitivity_low"] == pytest.approx(rate - half, abs=0.006)
    assert by_case["sensitivity_high"] == pytest.approx(rate + half, abs=0.006)
    # Ten copies of the same scan are one patient's worth of evidence.
    copies = cases[:40].loc[cases[:40].index.repeat(10)].reset_index(drop=True)
    copies["patient"], copies["case_id"] = copies.case_id, [f"{i:03}" for i in range(400)]
    narrow = froc_curve(copies, bootstrap=500, seed=1).iloc[0]
    wide = froc_curve(copies, bootstrap=500, seed=1, unit="patient").iloc[0]
    width = wide.sensitivity_high - wide.sensitivity_low
    assert width > 2 * (narrow.sensitivity_high - narrow.sensitivity_low) > 0


def curve_table(sensitivities: list[float], false_fractions: list[float]) -> pd.DataFrame:
    columns = ["scans", "lesions", "hits", "fp_per_scan", "sensitivity_low", "sensitivity_high"]
    table = pd.DataFrame(
        {"sensitivity": sensitivities, "false_fraction": false_fractions, "rule": "any"}
    )
    table["threshold"] = THRESHOLDS[: len(table)]
    table["fp_per_tumor_free_scan"] = np.nan
    return table.assign(**dict.fromkeys(columns, 1.0))


def test_choice_is_the_largest_threshold_at_the_target() -> None:
    curve = curve_table([1.0, 0.95, 0.9, 0.92, 0.6], [0.9, 0.2, 0.1, 0.05, 0.0])
    chosen = choose_threshold(curve, organ="liver")
    assert (chosen.threshold, chosen.index, chosen.is_target_reached) == (0.1, 3, True)
    assert chosen.fp_per_tumor_free_scan is None


def test_the_interval_may_have_to_reach_the_target() -> None:
    curve = curve_table([1.0, 0.95, 0.93, 0.92, 0.6], [0.0] * 5)
    curve["sensitivity_low"] = curve.sensitivity - 0.04
    chosen = choose_threshold(curve, organ="liver", criterion="ci_lower")
    assert (chosen.threshold, chosen.criterion) == (0.02, "ci_lower")
    assert choose_threshold(curve, organ="liver").threshold == 0.1
    with pytest.raises(InputError, match=r"FROC_SHORTFALL.*0\.97 \(ci_lower\)"):
        choose_threshold(curve, organ="liver", sensitivity=0.97, criterion="ci_lower")


def test_a_flood_is_no_choice() -> None:
    curve = curve_table([1.0, 0.7, 0.7, 0.6], [0.9, 0.2, 0.1, 0.05])
    assert choose_threshold(curve, organ="liver").threshold == 0.01
    with pytest.raises(InputError, match="FROC_SHORTFALL.*liver model.*best 1.000 at 0.01"):
        choose_threshold(curve, organ="liver", maximum_false_fraction=0.5)
    fallback = choose_threshold(
        curve, organ="liver", maximum_false_fraction=0.5, on_shortfall="fallback"
    )
    assert (fallback.threshold, fallback.is_target_reached) == (0.05, False)
    with pytest.raises(InputError, match="FROC_SHORTFALL"):
        choose_threshold(curve, organ="liver", maximum_false_fraction=0.01, on_shortfall="fallback")


def test_a_map_that_is_full_at_the_lowest_threshold_is_flooded() -> None:
    truth = np.zeros((4, 8, 8), bool)
    truth[1, 2:4, 2:4] = True
    levels = np.ones(truth.shape, np.uint8)
    curve = curve_of(counts(levels, truth, thresholds=[0.01, 0.5]))
    first = curve.iloc[0]
    assert (first.sensitivity, first.fp_per_scan) == (1, 0)
    assert first.false_fraction == pytest.approx(252 / 256)
    assert np.isnan(first.fp_per_tumor_free_scan)


def test_wrong_input_is_refused() -> None:
    small, mask = np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), bool)
    with pytest.raises(GeometryError, match="SHAPE_MISMATCH"):
        counts(small, np.zeros((2, 2, 3), bool))
    with pytest.raises(ConfigError, match="THRESHOLDS"):
        counts(small, mask, thresholds=[0.5, 0.1])
    with pytest.raises(ConfigError, match="THRESHOLDS"):
        counts(small + 3, mask, thresholds=[0.1, 0.5])
    with pytest.raises(InputError, match="FROC_CASES"):
        curve_of(counts(small, mask))
    good = counts(small, ~mask)
    with pytest.raises(InputError, match="FROC_CASES"):
        curve_of(good, good)
    with pytest.raises(InputError, match="FROC_CASES"):
        curve_of(good, counts(small, mask, "d", THRESHOLDS[1:]))
    with pytest.raises(ConfigError, match="FROC_OPTION"):
        choose_threshold(curve_of(good), organ="liver", rule="dice")
    with pytest.raises(ConfigError, match="FROC_OPTION"):
        choose_threshold(curve_of(good), organ="liver", criterion="median")
