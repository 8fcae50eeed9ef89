"""Metrics of evaluation, against surface-distance, MONAI, scipy, the FROC counts and by hand."""

import itertools
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_dice, compute_surface_dice
from scipy.stats import binomtest
from surface_distance import (
    compute_dice_coefficient,
    compute_surface_dice_at_tolerance,
    compute_surface_distances,
)
from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

from tumoratlas.candidates.froc import froc_counts
from tumoratlas.core.errors import ConfigError, GeometryError, InputError
from tumoratlas.evaluate.cases import CaseScore, TumorScore, score_case, scores_table
from tumoratlas.evaluate.overlap import dice
from tumoratlas.evaluate.shares import Mean, Share, mean_by_case
from tumoratlas.evaluate.summary import ALL, Summary, summarize, summary_table
from tumoratlas.evaluate.surface import TOLERANCE_MM, piece_areas_mm2, surface_dice
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti
from tumoratlas.measure.instances import label_instances, measure_instances

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SPACINGS = ((1.0, 1.0, 1.0), (3.0, 0.8, 0.7), (0.5, 2.0, 1.5), (5.0, 0.9765625, 0.9765625))
TOLERANCES = (0.0, 1.0, 2.0, 5.0)
ORGANS = ("colon", "esophagus", "kidney", "liver", "pancreas", "uterus")


def reference(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> float:
    distances = compute_surface_distances(a, b, spacing)
    return compute_surface_dice_at_tolerance(distances, tolerance)


def ours(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> float:
    return surface_dice(a, b, spacing_zyx_mm=spacing, tolerance_mm=tolerance)


def ball(shape: tuple[int, ...], center: tuple[float, ...], radius: float) -> np.ndarray:
    places = np.indices(shape)
    return sum((p - c) ** 2 for p, c in zip(places, center, strict=True)) <= radius**2


def hard_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of masks where surfaces are easily computed wrongly."""
    rng = np.random.default_rng(5)
    shape = (9, 14, 12)
    empty = np.zeros(shape, bool)
    point, corner, other = empty.copy(), empty.copy(), empty.copy()
    point[4, 7, 6] = corner[0, 0, 0] = other[-1, -1, -1] = True
    chess = np.indices(shape).sum(axis=0) % 2 == 0
    hole = ball(shape, (4, 7, 6), 4) & ~ball(shape, (4, 7, 6), 2)
    plate, rod = empty.copy(), empty.copy()
    plate[3], rod[:, 2, 5] = True, True
    noise = [rng.random(shape) < share for share in (0.02, 0.1, 0.5, 0.95)]
    return {
        "points": (point, corner),
        "corners": (corner, other),
        "whole volume": (~empty, point),
        "whole and one less": (~empty, ~point),
        "chess": (chess, ~chess),
        "hole": (hole, ball(shape, (4, 7, 6), 4)),
        "plate and rod": (plate, rod),
        "at the border": (ball(shape, (0, 0, 11), 5), ball(shape, (1, 0, 10), 4.5)),
        "sparse noise": (noise[0], noise[1]),
        "dense noise": (noise[2], noise[3]),
        "noise and ball": (noise[1], ball(shape, (4, 6, 6), 3)),
    }


@pytest.mark.parametrize("name", hard_pairs())
def test_nsd_of_hard_masks_is_that_of_surface_distance(name: str) -> None:
    a, b = hard_pairs()[name]
    for spacing, tolerance in itertools.product(SPACINGS, TOLERANCES):
        assert ours(a, b, spacing, tolerance) == pytest.approx(
            reference(a, b, spacing, tolerance), abs=1e-9
        ), (spacing, tolerance)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("tolerance", [0.95, 2.05, 4.95])
def test_nsd_is_that_of_monai_with_subvoxels(spacing: tuple[float, ...], tolerance: float) -> None:
    # MONAI rounds: a distance of 5.000000000000001 mm is within 5 mm there, and not here or in
    # surface-distance. No distance of these spacings is near these tolerances.
    for a, b in hard_pairs().values():
        one_hot = [torch.tensor(mask[None, None]).float() for mask in (b, a)]
        theirs = compute_surface_dice(
            *one_hot, [tolerance], include_background=True, spacing=spacing, use_subvoxels=True
        )
        assert ours(a, b, spacing, tolerance) == pytest.approx(float(theirs), abs=5e-5)
        assert dice(a, b) == pytest.approx(float(compute_dice(*one_hot)), abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(*[st.integers(1, 7)] * 3).flatmap(
        lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
    ),
    st.tuples(*[st.sampled_from((0.5, 0.7, 1.0, 2.5, 3.0))] * 3),
    st.sampled_from((0.0, 0.5, 1.0, 2.1, 5.0, 40.0)),
)
def test_any_masks_have_the_numbers_of_surface_distance(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...], tolerance: float
) -> None:
    a, b = pair
    if a.any() and b.any():
        expected = reference(a, b, spacing, tolerance)
        assert ours(a, b, spacing, tolerance) == pytest.approx(expected, abs=1e-9)
    if a.any() or b.any():
        assert dice(a, b) == pytest.approx(compute_dice_coefficient(a, b), abs=1e-12)


def test_published_values() -> None:
    """The three-dimensional cases of surface-distance's own tests."""
    a, b = np.zeros((2, 100, 100, 100), bool)
    a[:50], b[:51] = True, True
    assert ours(a, b, (2, 1, 1), 1) == pytest.approx(0.836145, abs=1e-3)
    assert dice(a, b) == pytest.approx(0.990099, abs=1e-6)
    a, b = np.zeros((2, 100, 100, 100), bool)
    a[50, 60, 70] = b[50, 60, 72] = True
    assert ours(a, b, (3, 2, 1), 1) == pytest.approx(0.5, abs=1e-9)
    assert dice(a, b) == 0


@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_256_surface_pieces(spacing: tuple[float, ...]) -> None:
    expected = create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(piece_areas_mm2(np.array(spacing)), expected, rtol=1e-12)


def test_real_tumors_have_the_numbers_of_surface_distance(real_data: Path) -> None:
    file = read_nifti(real_data / "lits_liver_0/tumor_instances.nii.gz", max_voxels=10**9)
    truth, spacing = file.array > 0, file.grid.spacing_mm[::-1]
    shifted = np.roll(truth, (1, 2, -1), axis=(0, 1, 2))
    for prediction in (shifted, ndi.binary_dilation(truth), ndi.binary_erosion(truth)):
        distances = compute_surface_distances(truth, prediction, spacing)
        for tolerance in (0.5, TOLERANCE_MM, 5.0):
            expected = compute_surface_dice_at_tolerance(distances, tolerance)
            assert ours(truth, prediction, spacing, tolerance) == pytest.approx(expected, abs=1e-9)
        assert dice(truth, prediction) == pytest.approx(compute_dice_coefficient(truth, prediction))


PAIRS = st.tuples(*[st.integers(1, 6)] * 3).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


@settings(max_examples=80, deadline=None)
@given(
    PAIRS,
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from((1, -1))] * 3),
    st.integers(0, 2),
    st.sampled_from((0.6, 1.0, 2.0, 3.7)),
)
def test_exchanging_turning_and_padding_change_nothing(
    pair: tuple[np.ndarray, np.ndarray],
    order: list[int],
    flips: tuple[int, ...],
    padding: int,
    tolerance: float,
) -> None:
    spacing = (2.5, 0.6, 1.0)
    a, b = pair
    turned = [
        np.pad(mask.transpose(order)[tuple(slice(None, None, f) for f in flips)], padding)
        for mask in pair
    ]
    turned_spacing = tuple(spacing[axis] for axis in order)
    assert str(dice(a, b)) == str(dice(b, a)) == str(dice(*turned))
    before = ours(a, b, spacing, tolerance)
    assert str(before) == str(ours(b, a, spacing, tolerance))
    flipped = [mask[tuple(slice(None, None, f) for f in flips)] for mask in pair]
    assert str(before) == str(ours(*flipped, spacing, tolerance))
    after = ours(*turned, turned_spacing, tolerance)
    assert after == pytest.approx(before, abs=1e-12, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_dice_is_one_only_of_equal_masks(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert (dice(a, b) == 1) == (a.any() and np.array_equal(a, b))
    if a.any():
        assert dice(a, a) == ours(a, a, (3, 1, 1), 0) == 1
    if a.any() and b.any():
        values = [ours(a, b, (3, 1, 1), tolerance) for tolerance in (0, 1, 2, 4, 30)]
        assert 0 <= dice(a, b) <= 1 and values == sorted(values) and values[-1] == 1


def test_empty_masks_are_never_perfect() -> None:
    empty = np.zeros((4, 5, 6), bool)
    full = ~empty
    assert math.isnan(dice(empty, empty)) and math.isnan(ours(empty, empty, (1, 1, 1), 2))
    for a, b in ((empty, full), (full, empty)):
        assert dice(a, b) == ours(a, b, (1, 1, 1), 100) == 0


def test_any_integer_type_is_a_mask() -> None:
    a, b = hard_pairs()["at the border"]
    wanted = dice(a, b), ours(a, b, (1, 1, 1), 1)
    a, b = a.astype(np.uint16) * 300, np.asfortranarray(b.astype(np.int64) * -1)
    assert (dice(a, b), ours(a, b, (1, 1, 1), 1)) == wanted


def test_wrong_shapes_and_tolerances_are_refused() -> None:
    a, b = np.ones((2, 3, 4), bool), np.ones((2, 3, 5), bool)
    with pytest.raises(GeometryError, match="SHAPE_MISMATCH"):
        dice(a, b)
    for spacing, tolerance in (((1, 1, 1), -1), ((1, 1, 1), math.nan), ((0, 1, 1), 2)):
        with pytest.raises(ConfigError, match="TOLERANCE"):
            ours(a, a, spacing, tolerance)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_shares_carry_wilsons_interval(counts: tuple[int, int]) -> None:
    share = Share(*counts)
    expected = binomtest(*counts).proportion_ci(method="wilson")
    assert share.interval == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert str(share).startswith(f"{counts[0]}/{counts[1]} (")


def test_a_share_of_nothing_is_no_percentage() -> None:
    assert str(Share(0, 0)) == "0/0" and math.isnan(Share(0, 0).value)
    assert str(Mean(0.0, 0, (None, None))) == "none of 0"


def test_means_resample_patients() -> None:
    totals = {f"c{i}": (float(i), 1) for i in range(6)}
    one = mean_by_case(totals, dict.fromkeys(totals, "p"), bootstrap=200, seed=1)
    many = mean_by_case(totals, {}, bootstrap=200, seed=1)
    assert (one.value, one.of, one.interval) == (2.5, 6, (None, None))
    assert many.value == 2.5 and many.interval[0] < 2.5 < many.interval[1]
    turned = dict(reversed(totals.items()))
    assert mean_by_case(turned, {}, bootstrap=200, seed=1) == many


SHAPE = (10, 40, 40)


def scored(
    truth: np.ndarray, tumors: pd.DataFrame, prediction: np.ndarray, **options: object
) -> tuple[CaseScore, list[TumorScore]]:
    facts = {"case_id": "c", "organ": "kidney", "state": "present", "connectivity": 26}
    facts |= {"minimum_volume_mm3": 4.0, **options}
    return score_case(
        truth, tumors, prediction, Grid.of(truth.shape, np.diag([0.5, 1, 2, 1])), **facts
    )


def tumor_rows(*rows: tuple[int, str, bool, bool]) -> pd.DataFrame:
    """Make rows of the table from number, kind, whether early and whether a fragment."""
    columns = ["number", "lesion_kind", "is_early", "is_fragment"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(size_class="small", is_early_recist=False)


def test_one_case_by_hand() -> None:
    """A tumor is found, another missed; a fragment and a cyst are there; one finding is false."""
    truth, prediction = np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, np.uint8)
    truth[1:4, 2:8, 2:8] = 7  # 108 voxels, found by 72 of its voxels
    prediction[2:5, 2:8, 2:8] = 1
    truth[6:8, 2:4, 30:32] = 2  # missed
    truth[8, 20, 20] = 3  # a fragment, found
    prediction[8, 20, 20:25] = 1
    truth[1:3, 30:34, 30:34] = 5  # a cyst, taken for a tumor
    prediction[1:3, 30:34, 30:34] = 1
    prediction[9, 39, 0:2] = 1  # 2 mm3: too small to be a finding
    rows = tumor_rows((7, "tumor", False, False), (2, "tumor", True, False),
                      (3, "tumor", True, True), (5, "cyst", True, False))  # fmt: skip
    case, tumors = scored(truth, rows, prediction)
    assert [(t.number, t.is_early, t.is_hit, t.is_hit_iou) for t in tumors] == [
        (2, True, False, False), (7, False, True, True),
    ]  # fmt: skip
    assert (case.tumors, case.findings) == (2, 3)
    assert (case.false_positives, case.false_positives_iou) == (1, 1)
    # Voxels of 1 mm3.
    assert case.truth_volume_mm3 == pytest.approx(108 + 8 + 1)
    assert case.predicted_volume_mm3 == pytest.approx(108 + 5 + 32 + 2)
    assert case.false_volume_mm3 == pytest.approx(36 + 4 + 32 + 2)
    mask = np.isin(truth, (7, 2, 3))
    assert case.dsc == pytest.approx(2 * 73 / (117 + 147)) == dice(mask, prediction)
    assert case.nsd == pytest.approx(reference(mask, prediction > 0, (2, 1, 0.5), 2.0))


def test_one_finding_over_two_tumors_hits_one_to_one() -> None:
    truth, prediction = np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, bool)
    truth[2:4, 2:6, 2:6], truth[2:4, 2:6, 10:13] = 1, 2
    prediction[2:4, 2:6, 2:13] = True
    rows = tumor_rows((1, "tumor", False, False), (2, "lesion", False, False))
    case, tumors = scored(truth, rows, prediction)
    assert [(t.is_hit, t.is_hit_iou) for t in tumors] == [(True, True), (True, False)]
    # A finding that touches a tumor by less than a tenth is false under one rule only.
    prediction[:] = False
    prediction[3, 5, 12:36] = True
    case, tumors = scored(truth, rows, prediction)
    assert [(t.is_hit, t.is_hit_iou) for t in tumors] == [(False, False), (True, False)]
    assert (case.false_positives, case.false_positives_iou) == (0, 1)


def test_controls_and_unknown_organs() -> None:
    nothing, none = np.zeros(SHAPE, np.uint16), tumor_rows()
    case, tumors = scored(nothing, none, nothing, state="confirmed_empty")
    assert math.isnan(case.dsc) and math.isnan(case.nsd) and tumors == []
    assert (case.truth_volume_mm3, case.false_volume_mm3, case.findings) == (0, 0, 0)
    found = ball(SHAPE, (5, 20, 20), 3)
    case, _ = scored(nothing, none, found, state="confirmed_empty")
    assert (case.dsc, case.nsd, case.findings, case.false_positives) == (0, 0, 1, 1)
    assert case.false_volume_mm3 == pytest.approx(found.sum())
    case, tumors = scored(nothing, none, found, state="unknown")
    assert math.isnan(case.dsc) and math.isnan(case.false_volume_mm3) and case.findings == 0


def test_maps_and_rows_must_belong_together() -> None:
    truth = np.zeros(SHAPE, np.uint16)
    truth[1:3, 1:4, 1:4] = 2
    wrong = tumor_rows((1, "tumor", False, False))
    right = tumor_rows((2, "tumor", False, False))
    for rows, state in ((wrong, "present"), (right, "confirmed_empty"), (right, "empty")):
        with pytest.raises(InputError, match="EVALUATION_ROWS"):
            scored(truth, rows, truth, state=state)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw tumors, and a prediction that finds, shifts, joins, misses and invents them."""
    rng = np.random.default_rng(seed)
    shape = (14, 30, 30)
    truth, prediction = np.zeros((2, *shape), bool)
    for _ in range(rng.integers(0, 7)):
        center, radius = rng.uniform(0, shape), rng.uniform(0.4, 5)
        truth |= ball(shape, center, radius)
        if rng.random() < 0.7:
            prediction |= ball(shape, center + rng.normal(0, 1.5, 3), radius * rng.uniform(0.4, 2))
    for _ in range(rng.integers(0, 4)):
        prediction |= ball(shape, rng.uniform(0, shape), rng.uniform(0.4, 4))
    return truth, prediction


def score_random(seed: int, case_id: str, organ: str) -> tuple[CaseScore, list[TumorScore]]:
    truth, prediction = random_case(seed)
    grid = Grid.of(truth.shape, np.diag([0.5, 1, 2, 1]))
    instances = label_instances(truth)
    measured = measure_instances(
        instances, None, grid, size_edges_mm=(1, 2, 3), early_diameter_mm=4, minimum_volume_mm3=4
    )
    columns = ("size_class", "is_early", "is_early_recist", "is_fragment")
    rows = pd.DataFrame(
        [[m.label, "tumor", *(getattr(m, name) for name in columns)] for m in measured],
        columns=["number", "lesion_kind", *columns],
    )
    state = "present" if truth.any() else "confirmed_empty"
    if seed % 7 == 3:
        state = "unknown"
    return score_case(
        instances,
        rows,
        prediction,
        grid,
        case_id=case_id,
        organ=organ,
        state=state,
        connectivity=26,
        minimum_volume_mm3=4,
    )


@pytest.mark.parametrize("seed", [s for s in range(30) if s % 7 != 3])
def test_detections_are_those_of_the_froc_curve(seed: int) -> None:
    case, tumors = score_random(seed, "c", "liver")
    truth, prediction = random_case(seed)
    counted = froc_counts(
        prediction.astype(np.uint8),
        truth,
        [0.5],
        case_id="c",
        voxel_volume_mm3=1.0,
        searched_volume_mm3=1.0,
        minimum_volume_mm3=4,
        connectivity=26,
    ).set_index("rule")
    for rule, hit, false in (
        ("any", "is_hit", case.false_positives),
        ("iou", "is_hit_iou", case.false_positives_iou),
    ):
        row = counted.loc[rule]
        assert row.hits == sum(getattr(t, hit) for t in tumors)
        assert (row.lesions, row.false_positives) == (len(tumors), false)
        assert (row.lesions, row.candidates) == (case.tumors, case.findings)


@pytest.fixture(scope="module")
def evaluated() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two organs of 24 cases."""
    scores = [
        score_random(2 * i + j, f"c{i:02}", organ)
        for i in range(24)
        for j, organ in enumerate(("kidney", "liver"))
    ]
    cases = scores_table([case for case, _ in scores], CaseScore)
    return cases, scores_table([t for _, tumors in scores for t in tumors], TumorScore)


def test_summaries_count_what_they_say(evaluated: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    cases, tumors = evaluated
    # Two cases per patient.
    patients = {name: f"p{index // 2}" for index, name in enumerate(sorted(set(cases.case_id)))}
    found = summarize(cases, tumors, patients=patients, bootstrap=50, seed=3)
    assert [s.organ for s in found] == ["kidney", "liver", ALL]
    for summary in found:
        own = cases if summary.organ == ALL else cases[cases.organ == summary.organ]
        lesions = tumors if summary.organ == ALL else tumors[tumors.organ == summary.organ]
        known = own[own.state != "unknown"]
        assert summary.unknown == sum(own.state == "unknown") > 0
        ill = known[known.tumors > 0]
        assert summary.dsc.of == summary.nsd.of == len(ill)
        assert summary.dsc.value == pytest.approx(ill.dsc.mean())
        assert summary.nsd.value == pytest.approx(ill.nsd.mean())
        assert summary.nsd.interval[0] < summary.nsd.value < summary.nsd.interval[1]
        assert summary.tumor_sensitivity == Share(sum(lesions.is_hit), len(lesions))
        assert summary.tumor_sensitivity_iou == Share(sum(lesions.is_hit_iou), len(lesions))
        assert 0 < summary.tumor_sensitivity_iou.hits < summary.tumor_sensitivity.hits
        early = lesions[lesions.is_early]
        assert summary.early_sensitivity == Share(sum(early.is_hit), len(early))
        assert 0 < len(early) < len(lesions)
        with_tumor = {patients[name] for name in ill.case_id}
        warned = {patients[name] for name in known[known.findings > 0].case_id}
        wanted = Share(len(with_tumor & warned), len(with_tumor))
        assert summary.patient_sensitivity == wanted
        scans = known.case_id.nunique()
        assert (summary.false_positives.total, summary.false_positives.of) == (
            known.false_positives.sum(), scans,
        )  # fmt: skip
    for summary in found[:2]:
        own = cases[(cases.organ == summary.organ) & (cases.state == "confirmed_empty")]
        assert summary.specificity == Share(sum(own.findings == 0), len(own))
        assert summary.false_volume_tumor_free_mm3.of == len(own) > 0
        assert summary.false_volume_tumor_free_mm3.total == pytest.approx(
            own.predicted_volume_mm3.sum()
        )
    # Nobody looked at the other four organs: none of these is a control.
    assert found[-1].specificity == Share(0, 0)


def test_summaries_do_not_depend_on_the_order_of_rows(
    evaluated: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    options = {"patients": {}, "bootstrap": 20, "seed": 3}
    table = summary_table(summarize(*evaluated, **options))
    mixed = [rows.sample(frac=1, random_state=1) for rows in evaluated]
    pd.testing.assert_frame_equal(table, summary_table(summarize(*mixed, **options)))
    assert table.measure.unique().tolist() == [field.name for field in fields(Summary)[1:]]
    shares = table[table.measure.str.contains("sensitivity|specificity")]
    counted = shares[shares.of > 0]
    np.testing.assert_allclose(counted.value, counted.total / counted.of.astype(float))
    assert (counted.low <= counted.value).all() and (counted.value <= counted.high).all()


def test_controls_are_scans_whose_six_organs_are_empty() -> None:
    rows = [
        CaseScore(case, organ, "confirmed_empty", 2.0, findings=int(f"{case}/{organ}" == "b/liver"))
        for case in "abc"
        for organ in ORGANS
    ]
    rows[-1] = CaseScore("c", "uterus", "unknown", 2.0)
    cases, tumors = scores_table(rows, CaseScore), scores_table([], TumorScore)
    *organs, everything = summarize(cases, tumors, patients={}, bootstrap=5, seed=0)
    assert [s.organ for s in organs] == list(ORGANS)
    assert everything.specificity == Share(1, 2)
    assert organs[ORGANS.index("liver")].specificity == Share(2, 3)
    assert organs[ORGANS.index("uterus")].specificity == Share(2, 2)
    assert everything.tumor_sensitivity == everything.patient_sensitivity == Share(0, 0)
    # Agreement on nothing is no perfect score.
    assert everything.dsc == Mean(0.0, 0, (None, None)) and math.isnan(everything.dsc.value)


def test_patients_are_found_wherever_the_finding_lies() -> None:
    rows = [
        CaseScore("a", "liver", "present", 2.0, dsc=0.0, nsd=0.0, tumors=1, findings=0),
        CaseScore("b", "liver", "present", 2.0, dsc=0.0, nsd=0.0, tumors=0, findings=1),
        CaseScore("c", "liver", "present", 2.0, dsc=0.4, nsd=0.2, tumors=1, findings=0),
    ]
    tumors = [TumorScore(c, "liver", 1, "tiny", True, True, False, False) for c in "ac"]
    tables = scores_table(rows, CaseScore), scores_table(tumors, TumorScore)
    liver, _ = summarize(*tables, patients={"a": "p", "b": "p"}, bootstrap=5, seed=0)
    assert liver.patient_sensitivity == Share(1, 2)
    assert (liver.dsc.value, liver.dsc.of) == (0.2, 2)
    assert liver.specificity == Share(0, 0)


def test_mixed_sets_are_refused(evaluated: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    cases, tumors = evaluated
    twice = pd.concat([cases, cases.head(1)])
    mixed = cases.assign(tolerance_mm=[1.0] + [2.0] * (len(cases) - 1))
    for wrong in ((twice, tumors), (mixed, tumors), (cases, tumors.tail(-1))):
        with pytest.raises(InputError, match="EVALUATION_ROWS"):
            summarize(*wrong, patients={}, bootstrap=5, seed=0)
