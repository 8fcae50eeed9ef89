"""Counts of tumors, controls and sources, on hand-made tables."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumoratlas.core.errors import InputError
from tumoratlas.core.structures import tumor_structures
from tumoratlas.measure.counts import (
    controls,
    count_sources,
    count_strata,
    count_tumors,
    headline_tumors,
)
from tumoratlas.measure.instances import SIZE_CLASSES
from tumoratlas.measure.pooled import UNASSIGNED

ORGANS = list(tumor_structures())
TUMOR = {
    "case_id": "c1",
    "organ": "liver",
    "lesion_kind": "tumor",
    "size_class": "tiny",
    "is_early": True,
    "is_early_recist": False,
    "is_fragment": False,
}


def tumor_table(*changes: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame([TUMOR | change for change in changes], columns=list(TUMOR))


def mask_table(**states: list[str]) -> pd.DataFrame:
    rows = [
        {"case_id": case, "organ": organ, "state": state}
        for case, organs in states.items()
        for organ, state in zip(ORGANS, organs, strict=True)
    ]
    return pd.DataFrame(rows, columns=["case_id", "organ", "state"])


CASES = pd.DataFrame(
    [("c1", "msd", 100), ("c2", "msd", 50), ("c3", "amos", 10), ("c4", "amos", 7)],
    columns=["case_id", "source", "slices"],
)
MASKS = mask_table(
    c1=["present"] + ["unknown"] * 5,
    c2=["confirmed_empty"] * 6,
    c3=["confirmed_empty"] * 5 + ["unknown"],
    c4=["present"] * 2 + ["confirmed_empty"] * 4,
)
TUMORS = tumor_table(
    {},
    {},
    {"size_class": "large", "is_early": False},
    {"organ": "kidney", "lesion_kind": "cyst"},
    {"organ": "kidney", "is_fragment": True},
    {"case_id": "c4", "organ": "pancreas", "lesion_kind": "lesion", "is_early_recist": True},
)


def test_organ_by_size_class_keeps_zeros() -> None:
    counted = count_tumors(TUMORS)
    assert [*zip(counted.organ, counted.size_class, strict=True)] == [
        (organ, name) for organ in ORGANS for name in SIZE_CLASSES
    ]
    seen = counted[counted.tumors > 0].set_index(["organ", "size_class"])
    assert seen.to_dict("index") == {
        ("liver", "tiny"): {"tumors": 2, "cases": 1, "early": 2, "early_recist": 0},
        ("liver", "large"): {"tumors": 1, "cases": 1, "early": 0, "early_recist": 0},
        ("pancreas", "tiny"): {"tumors": 1, "cases": 1, "early": 1, "early_recist": 1},
    }
    assert len(count_tumors(tumor_table())) == 24


def test_controls_need_all_six_organs_confirmed() -> None:
    assert controls(MASKS) == ["c2"]
    assert controls(MASKS[:0]) == []


def test_sources_add_up() -> None:
    table = count_sources(TUMORS, MASKS, CASES).set_index("source")
    assert list(table.index) == ["amos", "msd", "all"]
    assert table.loc["msd"].to_dict() == {
        "cases": 2,
        "slices": 150,
        "tumor_cases": 1,
        "controls": 1,
        "undecided_cases": 0,
        "tumors": 3,
        "early": 2,
        "early_recist": 0,
        **{f"{organ}_tumors": 3 if organ == "liver" else 0 for organ in ORGANS},
    }
    assert table.loc["amos", "undecided_cases"] == 1
    assert (table.loc["all"] == table.loc["amos"] + table.loc["msd"]).all()
    assert (table.tumor_cases + table.controls + table.undecided_cases == table.cases).all()
    assert (table.filter(like="_tumors").sum(axis=1) == table.tumors).all()


def test_a_tumor_of_no_organ_is_a_tumor() -> None:
    """It stands after the organs; without one nothing in the tables hints at it."""
    pooled = {"lesion_kind": "lesion", "organ": UNASSIGNED}
    fragment = tumor_table(pooled | {"is_fragment": True})
    assert UNASSIGNED not in set(count_tumors(fragment).organ)
    assert f"{UNASSIGNED}_tumors" not in count_sources(fragment, MASKS, CASES)
    table = pd.concat([TUMORS, tumor_table(pooled, pooled | {"case_id": "c2"})])
    counted = count_tumors(table)
    assert list(counted.organ.unique()) == [*ORGANS, UNASSIGNED] and len(counted) == 28
    assert counted.tumors.sum() == len(headline_tumors(TUMORS)) + 2
    sources = count_sources(table, MASKS, CASES).set_index("source")
    assert sources[f"{UNASSIGNED}_tumors"].to_dict() == {"amos": 0, "msd": 2, "all": 2}
    # All six organs of c2 are empty, but somebody drew a tumor elsewhere.
    assert sources.loc["msd", ["tumor_cases", "controls"]].tolist() == [2, 0]
    assert (sources.filter(regex=".+_tumors$").sum(axis=1) == sources.tumors).all()


def test_strata_hold_every_source_organ_and_class() -> None:
    table = count_strata(TUMORS, CASES)
    assert [*zip(table.source, table.organ, table.size_class, strict=True)] == [
        (source, organ, name) for source in ("amos", "msd") for organ in ORGANS
        for name in SIZE_CLASSES
    ]  # fmt: skip
    seen = table[table.tumors > 0].set_index(["source", "organ", "size_class"])
    assert seen.tumors.to_dict() == {
        ("amos", "pancreas", "tiny"): 1,
        ("msd", "liver", "tiny"): 2,
        ("msd", "liver", "large"): 1,
    }
    assert seen.early_recist.to_dict()["amos", "pancreas", "tiny"] == 1
    assert len(count_strata(tumor_table(), CASES)) == 48


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 40))
def test_counts_are_conserved_in_any_order(random: object, rows: int) -> None:
    table = tumor_table(
        *(
            {
                "case_id": random.choice(["c1", "c2", "c3"]),
                "organ": random.choice([*ORGANS, UNASSIGNED]),
                "lesion_kind": random.choice(["tumor", "lesion", "cyst"]),
                "size_class": random.choice(SIZE_CLASSES),
                "is_early": random.random() < 0.5,
                "is_fragment": random.random() < 0.3,
            }
            for _ in range(rows)
        )
    )
    counted = count_tumors(table)
    assert counted.tumors.sum() == len(headline_tumors(table))
    pd.testing.assert_frame_equal(counted, count_tumors(table.sample(frac=1, random_state=1)))
    by_source = count_sources(table, MASKS, CASES)
    assert by_source.tumors.iloc[-1] == counted.tumors.sum()
    assert (by_source.filter(regex="^(?!tumor_).*_tumors$").sum(axis=1) == by_source.tumors).all()
    strata = count_strata(table, CASES)
    for keys, other in (
        (["organ", "size_class"], counted.set_index(["organ", "size_class"])),
        (["source"], by_source.iloc[:-1].set_index("source")),
    ):
        sums = strata.groupby(keys)[["tumors", "early", "early_recist"]].sum()
        pd.testing.assert_frame_equal(sums, other[sums.columns].loc[sums.index])
    # A case has one source, so that cases add up too.
    cases = strata.groupby(["organ", "size_class"]).cases.sum()
    assert cases.to_dict() == counted.set_index(["organ", "size_class"]).cases.to_dict()


@pytest.mark.parametrize(
    "change", [{"organ": "spleen"}, {"size_class": "huge"}, {"lesion_kind": "scar"}]
)
def test_unknown_values_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(InputError, match="UNKNOWN_VALUE"):
        count_tumors(tumor_table(change))
    with pytest.raises(InputError, match="UNKNOWN_VALUE"):
        count_sources(tumor_table(change), MASKS, CASES)


def test_a_tumor_without_case_and_a_double_case_are_refused() -> None:
    with pytest.raises(InputError, match="UNKNOWN_VALUE"):
        count_sources(tumor_table({"case_id": "c9"}), MASKS, CASES)
    with pytest.raises(InputError, match="CASES_TABLE"):
        count_sources(TUMORS, MASKS, pd.concat([CASES, CASES]))
    with pytest.raises(InputError, match="UNKNOWN_VALUE"):
        count_strata(tumor_table({"case_id": "c9"}), CASES)
    with pytest.raises(InputError, match="CASES_TABLE"):
        count_strata(TUMORS, pd.concat([CASES, CASES]))
