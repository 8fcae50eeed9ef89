"""Splits are stable per group, tear no group and hold the shares on average."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumoratlas.core.errors import ConfigError, ReleaseError
from tumoratlas.release.splits import RESERVED, SCHEMES, split_cases

OPTIONS = {"seed": 7, "test_fraction": 0.1, "validation_fraction": 0.2, "folds": 5}

cases_of_groups = st.dictionaries(
    st.integers(0, 400).map(lambda n: f"BDMAP_{n:08d}"),
    st.integers(0, 40).map(lambda n: f"group {n}"),
    min_size=1,
    max_size=60,
)


def as_cases(groups, reserved=()):
    return [
        {"case_id": case_id, "group": group, "reserved": "LiTS test" if case_id in reserved else ""}
        for case_id, group in groups.items()
    ]


@settings(deadline=None, max_examples=60)
@given(cases_of_groups)
def test_no_group_is_torn_and_every_case_has_one_place(groups):
    rows = split_cases(as_cases(groups), **OPTIONS)
    sides = defaultdict(set)
    for row in rows:
        sides[row["scheme"], row["group"]].add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    for scheme in SCHEMES:
        assert [r["case_id"] for r in rows if r["scheme"] == scheme] == sorted(groups)


@settings(deadline=None, max_examples=60)
@given(cases_of_groups, st.data())
def test_a_case_that_comes_or_goes_moves_no_other(groups, data):
    before = split_cases(as_cases(groups), **OPTIONS)
    gone = data.draw(st.sampled_from(sorted(groups)))
    rest = {case_id: group for case_id, group in groups.items() if case_id != gone}
    shuffled = data.draw(st.permutations(as_cases(rest)))
    assert split_cases(shuffled, **OPTIONS) == [r for r in before if r["case_id"] != gone]


@settings(deadline=None, max_examples=60)
@given(cases_of_groups, st.data())
def test_one_case_reserves_its_group_in_every_scheme_and_moves_no_other(groups, data):
    touched = set(data.draw(st.lists(st.sampled_from(sorted(groups)), max_size=4)))
    before = split_cases(as_cases(groups), **OPTIONS)
    rows = split_cases(as_cases(groups, touched), **OPTIONS)
    reserved = {groups[case_id] for case_id in touched}
    for row, free in zip(rows, before, strict=True):
        if row["group"] in reserved:
            assert row == free | {"split": RESERVED}
        else:
            assert row == free


def test_shares_hold_on_average_and_follow_the_seed():
    cases = as_cases({f"BDMAP_{n:08d}": str(n) for n in range(5000)})
    rows = split_cases(cases, **OPTIONS)
    share = {
        split: sum(row["split"] == split for row in rows) / len(cases)
        for split in ("test", "validation", "train", *(f"fold_{n}" for n in range(5)))
    }
    expected = {"test": 0.1, "validation": 0.2, "train": 0.7}
    expected |= {f"fold_{n}": 0.2 for n in range(5)}
    assert share == pytest.approx(expected, abs=0.03)
    assert rows != split_cases(cases, **OPTIONS | {"seed": 8})


def test_growing_the_test_set_only_adds_to_it():
    cases = as_cases({f"BDMAP_{n:08d}": str(n) for n in range(300)})

    def test_set(fraction):
        rows = split_cases(cases, **OPTIONS | {"test_fraction": fraction})
        return {row["case_id"] for row in rows if row["split"] == "test"}

    assert test_set(0.1) < test_set(0.2)


def test_wrong_input_is_told():
    with pytest.raises(ConfigError, match="SPLIT_FRACTIONS"):
        split_cases([], **OPTIONS | {"test_fraction": 0.9})
    twice = [case for group in "ab" for case in as_cases({"BDMAP_00000001": group})]
    with pytest.raises(ReleaseError, match="SPLIT_CASES"):
        split_cases(twice, **OPTIONS)
