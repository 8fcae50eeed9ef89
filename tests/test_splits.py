"""Splits are stratified and stable: no group is torn, and no case moves because of another."""

import json
import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumoratlas.core.errors import ConfigError, InputError, ReleaseError
from tumoratlas.core.files import sha256_json
from tumoratlas.core.structures import tumor_structures
from tumoratlas.measure.instances import SIZE_CLASSES
from tumoratlas.release.splits.register import read_places
from tumoratlas.release.splits.schemes import (
    NOT_TRAINED,
    RESERVED,
    SCHEMES,
    register_splits,
    split_cases,
)
from tumoratlas.release.splits.strata import CONTROL, UNDECIDED, case_strata

OOD = "panorama"
SIZES = (3, 6, 12)
OPTIONS = {
    "seed": 7, "test_fraction": 0.1, "validation_fraction": 0.2, "folds": 5,
    "ood_sources": [OOD], "scaling_sizes": SIZES,
}  # fmt: skip
SOURCES = ("lits", "kits23", "private", OOD)


def case(number, group=None, source="lits", *, reserved="", sources=(), strata=(CONTROL,)):
    case_id = f"BDMAP_{number:08d}"
    return {
        "case_id": case_id, "group": group or case_id, "reserved": reserved, "source": source,
        "sources": sorted({source, *sources}), "strata": list(strata),
    }  # fmt: skip


def split(cases, earlier=(), **changes):
    return split_cases(cases, earlier=list(earlier), **OPTIONS | changes)


def places(result, scheme=None):
    """Return the place of each scheme and case, or of each case in one scheme."""
    found = {(row["scheme"], row["case_id"]): row["split"] for row in result.rows}
    return found if scheme is None else {c: p for (s, c), p in found.items() if s == scheme}


one_case = st.builds(
    case,
    st.integers(0, 40),
    st.integers(0, 18).map(lambda n: f"group {n}"),
    st.sampled_from(SOURCES),
    reserved=st.sampled_from(["", "", "", "", "LiTS test"]),
    sources=st.sets(st.sampled_from(SOURCES), max_size=1),
    strata=st.sets(
        st.sampled_from(["liver tiny", "liver large", "kidney small"]), min_size=1, max_size=2
    ),
)
some_cases = st.lists(one_case, min_size=1, max_size=30, unique_by=lambda c: c["case_id"])


def opened(before, after):
    """Return the sets of scaling that are shown after and were not before."""
    shown = [{p for p in places(r, "scaling").values() if "_" in p} for r in (before, after)]
    return shown[1] - shown[0]


def check_alone(before, after, touched):
    """Check that no case but those of the touched groups moved."""
    old, new = places(before), places(after)
    groups = {row["case_id"]: row["group"] for r in (before, after) for row in r.rows}
    for key in old.keys() & new.keys():
        if groups[key[1]] not in touched and old[key] != new[key]:
            # A set of scaling that is full for the first time takes in the cases next in order.
            assert (key[0], old[key]) == ("scaling", "rest"), (key, old[key], new[key])
            assert new[key] in opened(before, after)


@settings(deadline=None, max_examples=60)
@given(some_cases, st.data())
def test_changes_of_one_case_move_no_other_group(cases, data):
    """Cases are added, taken out and changed in every way, one at a time, in a long history."""
    register, before = [], split(cases)
    for _ in range(data.draw(st.integers(1, 5))):
        register += before.new_lines
        changed = data.draw(one_case)
        was = [c for c in cases if c["case_id"] == changed["case_id"]]
        cases = [c for c in cases if c not in was]
        if not was or data.draw(st.booleans()):
            cases = [*cases, changed]
        after = split(data.draw(st.permutations(cases)), register)
        check_alone(before, after, {changed["group"], *(c["group"] for c in was)})
        before = after


@settings(deadline=None, max_examples=60)
@given(some_cases, st.data())
def test_within_a_group_a_case_that_goes_moves_no_other(cases, data):
    """Also those stay that were kept out of training because of it."""
    before = split(cases)
    gone = data.draw(st.sampled_from(cases))
    after = split([c for c in cases if c is not gone], before.new_lines)
    check_alone(before, after, {gone["group"]} if gone["reserved"] else set())


@settings(deadline=None, max_examples=60)
@given(some_cases, some_cases)
def test_every_case_has_one_place_and_the_register_says_it_all(cases, earlier):
    """No group is torn, nothing leaks, and running again changes nothing."""
    register = split(earlier).new_lines
    result = split(cases, register)
    register += result.new_lines
    again = split(cases[::-1], register)
    assert (again.rows, again.new_lines, again.told) == (result.rows, [], result.told)
    reserved = {c["group"] for c in cases if c["reserved"]}
    touched = {c["group"] for c in cases if OOD in c["sources"]}
    of_ood = {c["group"] for c in cases if OOD == c["source"]}
    sides = defaultdict(set)
    for row in result.rows:
        sides[row["scheme"], row["group"]].add(row["split"])
    assert sides.keys() == {(scheme, c["group"]) for scheme in SCHEMES for c in cases}
    for (scheme, group), (*own,) in sides.items():
        if group in reserved:
            assert own == ["none" if scheme == "scaling" else RESERVED]
        elif scheme == "ood" and group in touched:
            assert own[0] in ("test", "left_out")
            assert own == ["test"] or group not in of_ood
        elif scheme == "scaling":
            assert (own == ["none"]) == (sides["iid", group] != {"train"})
        assert len(own) == 1 and RESERVED in NOT_TRAINED
    assert [(r["scheme"], r["case_id"]) for r in result.rows] == sorted(
        (scheme, c["case_id"]) for scheme in SCHEMES for c in cases
    )


# A population like that of the paper: few sources with most cases, organs that go with sources,
# some patients with several scans, reserved cases and copies in other sources.
SHARES = {"flare23": 41, "panorama": 19, "atlas": 12, "abdomenct1k": 7, "kits23": 5, "private": 4,
          "msd": 4, "amos": 3, "lits": 2, "word": 1, "btcv": 1}  # fmt: skip


def population(cases):
    draw, names, found = random.Random(3), list(SHARES), []
    organs = list(tumor_structures())
    usual = {name: draw.sample(organs, 2) for name in names}
    while len(found) < cases:
        source, group = draw.choices(names, SHARES.values())[0], f"group {len(found)}"
        for _ in range(draw.choices([1, 2, 3], [9, 2, 1])[0]):
            kind = draw.random()
            strata = [CONTROL] if kind < 0.4 else [UNDECIDED]
            if kind < 0.85 and kind >= 0.4:
                strata = [
                    f"{draw.choice(usual[source] if draw.random() < 0.8 else organs)} "
                    f"{draw.choices(SIZE_CLASSES, [10, 30, 35, 25])[0]}"
                    for _ in range(draw.choice([1, 1, 1, 2, 3]))
                ]
            copies = [draw.choice(names)] if draw.random() < 0.03 else []
            test = "some test" if draw.random() < 0.03 else ""
            found.append(case(len(found), group, source, reserved=test, sources=copies,
                              strata=strata))  # fmt: skip
    return found


BIG = OPTIONS | {"validation_fraction": 0.1, "scaling_sizes": (60, 120, 278, 435, 750, 1125)}


@pytest.fixture(scope="module")
def big():
    cases = population(2000)
    return cases, split_cases(cases, earlier=[], **BIG)


def members(cases):
    """Return the cases of every organ and size, of every source, and of both together."""
    found = defaultdict(set)
    for row in cases:
        found[row["source"]].add(row["case_id"])
        for stratum in row["strata"]:
            found[stratum].add(row["case_id"])
            found[stratum, row["source"]].add(row["case_id"])
    return found


def deviations(cases, chosen):
    """Return how far every stratum's members among the chosen are from their share."""
    share = len(chosen) / len(cases)
    return {
        stratum: (len(own & chosen) - share * len(own), share * len(own))
        for stratum, own in members(cases).items()
        if len(own) >= 30
    }


def is_balanced(found):
    return all(abs(over) <= max(0.35 * wanted, 2) for over, wanted in found.values())


def total(found):
    return sum(abs(over) for over, _ in found.values())


def by_hash(cases, number):
    """Return so many cases, whole groups as they come in the order of their hashes."""
    groups = sorted({c["group"] for c in cases}, key=lambda group: sha256_json([1, group]))
    order = {group: place for place, group in enumerate(groups)}
    return {c["case_id"] for c in sorted(cases, key=lambda c: order[c["group"]])[:number]}


@pytest.mark.parametrize("place", ["iid test", "iid validation", "ood validation", "fold fold_3"])
def test_every_stratum_has_its_share_which_a_hash_misses(big, place):
    cases, result = big
    scheme, place = place.split()
    placed = places(result, scheme)
    out = (RESERVED, "left_out") + (("test",) if scheme == "ood" else ())
    free = [c for c in cases if placed[c["case_id"]] not in out]
    chosen = {c["case_id"] for c in free if placed[c["case_id"]] == place}
    wanted = {"test": 0.1, "validation": 0.1, "fold_3": 0.2}[place] * len(free)
    assert abs(len(chosen) - wanted) <= 1
    stratified, hashed = (deviations(free, c) for c in (chosen, by_hash(free, len(chosen))))
    assert is_balanced(stratified) and not is_balanced(hashed)
    assert total(stratified) < 0.5 * total(hashed)


def test_folds_are_balanced_without_the_test_cases_too(big):
    """The folds of nnU-Net hold the cases of train and validation only."""
    cases, result = big
    iid, fold = places(result, "iid"), places(result, "fold")
    free = [c for c in cases if iid[c["case_id"]] in ("train", "validation")]
    chosen = [
        {c["case_id"] for c in free if fold[c["case_id"]] == f"fold_{number}"}
        for number in range(5)
    ]
    stratified = [deviations(free, own) for own in chosen]
    hashed = [deviations(free, by_hash(free, len(own))) for own in chosen]
    assert all(map(is_balanced, stratified))
    # 0.4 where the folds are balanced over all cases only.
    assert sum(map(total, stratified)) < 0.3 * sum(map(total, hashed))


def test_scaling_sets_are_nested_exact_and_each_has_the_strata_of_the_whole(big):
    cases, result = big
    iid, placed = places(result, "iid"), places(result, "scaling")
    train = [c for c in cases if iid[c["case_id"]] == "train"]
    assert {c for c, p in placed.items() if p != "none"} == {c["case_id"] for c in train}
    names = []
    for size in BIG["scaling_sizes"]:
        names.append(f"scaling_{size}")
        chosen = {case_id for case_id, place in placed.items() if place in names}
        assert len(chosen) == size
        stratified, hashed = (deviations(train, c) for c in (chosen, by_hash(train, size)))
        assert is_balanced(stratified)
        assert total(stratified) < 0.5 * total(hashed)
    assert result.told == []


def test_new_cases_are_balanced_against_those_that_have_places(big):
    """Half of the cases first, then all: the first stay, the whole is stratified again."""
    cases, _ = big
    groups = {c["group"] for c in cases[:1000]}
    first = [c for c in cases if c["group"] in groups]
    before = split_cases(first, earlier=[], **BIG)
    after = split_cases(cases, earlier=before.new_lines, **BIG)
    check_alone(before, after, set())
    assert opened(before, after) == {"scaling_1125"}
    iid = places(after, "iid")
    free = [c for c in cases if iid[c["case_id"]] != RESERVED]
    assert is_balanced(deviations(free, {c for c, place in iid.items() if place == "test"}))
    for size in BIG["scaling_sizes"]:
        names = [f"scaling_{n}" for n in BIG["scaling_sizes"] if n <= size]
        assert sum(place in names for place in places(after, "scaling").values()) == size


@pytest.mark.parametrize("cases", range(3, 20))
def test_a_small_release_has_something_to_test_on(cases):
    """Shares of less than a case are not lost, whatever the strata."""
    every = [case(n, source=SOURCES[n % 3], strata=[f"liver {n}"]) for n in range(cases)]
    found = Counter(places(split(every), "iid").values())
    assert found["test"] and found["validation"] or cases < 4
    assert found["train"] >= cases // 2


def test_a_withdrawn_case_leaves_its_place_empty_and_finds_it_again():
    cases = [case(n) for n in range(40)]
    before = split(cases)
    gone = min(c for c, place in places(before, "scaling").items() if place == "scaling_3")
    rest = [c for c in cases if c["case_id"] != gone] + [case(99)]
    after = split(rest, before.new_lines)
    assert {c for _, c in places(after).items() ^ places(before).items()} <= {
        place
        for key, place in (places(after) | places(before)).items()
        if key[1] in (gone, "BDMAP_00000099")
    }
    assert "scaling: the set of 3 cases holds 2" in after.told
    again = split([*cases, case(99)], before.new_lines + after.new_lines)
    assert places(again).items() >= places(before).items()


def test_groups_that_merge_take_the_earliest_place_for_ever_and_it_is_told():
    """The second patient turns out to be the first."""
    cases = [case(n) for n in range(40)]
    register = split(cases).new_lines
    iid = {line["group"]: line["place"] for line in register if line["scheme"] == "iid"}
    first = min(iid)
    other = next(name for name, place in iid.items() if place != iid[first])
    merged = [c | {"group": first} if c["group"] == other else c for c in cases]
    after = split(merged, register)
    assert places(after, "iid") == iid | {other: iid[first]}
    assert (
        f"iid: {other} is in {iid[first]} and no more in {iid[other]}, since its group {first} "
        "has another claim"
    ) in after.told
    register = register + after.new_lines
    alone = split([c for c in merged if c["case_id"] != first], register)
    assert places(alone, "iid")[other] == iid[first]
    apart = split(cases, register)
    assert places(apart, "iid") == places(after, "iid")


def test_a_group_that_splits_keeps_its_places():
    cases = [case(n, f"group {n // 2}") for n in range(40)]
    before = split(cases)
    after = split([c | {"group": c["case_id"]} for c in cases], before.new_lines)
    assert places(after) == places(before) and after.new_lines == []


def test_new_scans_of_patients_whose_cases_are_gone_come_to_their_places():
    cases = [case(n, f"group {n}") for n in range(40)]
    before = split(cases)
    again = [case(100 + n, f"group {n}") for n in range(20)]
    after = split([*again, *cases[20:]], before.new_lines)
    old = {(row["scheme"], row["group"]): row["split"] for row in before.rows}
    assert old == {(row["scheme"], row["group"]): row["split"] for row in after.rows}


def test_a_case_that_comes_to_touch_a_test_set_is_reserved_though_it_had_a_place():
    cases = [case(n) for n in range(40)]
    before = split(cases)
    cases[3] = case(3, reserved="LiTS test")
    after = split(cases, before.new_lines)
    check_alone(before, after, {cases[3]["group"]})
    own = {scheme: places(after, scheme)[cases[3]["case_id"]] for scheme in SCHEMES}
    assert own == {"iid": RESERVED, "ood": RESERVED, "fold": RESERVED, "scaling": "none"}
    assert any("touches a test set and is no more in train" in line for line in after.told)
    free = [c if n != 3 else case(3) for n, c in enumerate(cases)]
    assert places(split(free, before.new_lines + after.new_lines)) == places(before)


def test_a_copy_keeps_a_group_out_of_the_training_of_ood_even_when_it_goes():
    """A duplicate in the source of the test is enough, also one of another case of the group."""
    cases = [case(n, f"group {n // 2}") for n in range(40)]
    before = split(cases)
    cases[4] = case(4, "group 2", sources=[OOD])
    cases[8] = case(8, "group 4", OOD)
    after = split(cases, before.new_lines)
    ood = places(after, "ood")
    assert [ood[cases[n]["case_id"]] for n in (4, 5, 8, 9)] == ["left_out"] * 2 + ["test"] * 2
    assert Counter(ood.values()).keys() == {"train", "validation", "test", "left_out"}
    register = before.new_lines + after.new_lines
    gone = split([c for n, c in enumerate(cases) if n not in (4, 8)], register)
    assert [places(gone, "ood")[cases[n]["case_id"]] for n in (5, 9)] == ["left_out", "test"]


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"seed": 8}, {"iid", "ood", "fold", "scaling"}),
        ({"test_fraction": 0.2}, {"iid", "scaling"}),
        ({"validation_fraction": 0.1}, {"iid", "ood", "scaling"}),
        ({"folds": 4}, {"fold"}),
        ({"ood_sources": ["kits23"]}, {"ood"}),
        ({"scaling_sizes": (4, 12)}, {"scaling"}),
    ],
)
def test_other_settings_start_their_schemes_anew_and_no_others(change, anew):
    cases = [case(n, source=SOURCES[n % 4]) for n in range(60)]
    before = split(cases)
    after = split(cases, before.new_lines, **change)
    assert {line["scheme"] for line in after.new_lines} == anew
    assert places(after) == places(split(cases, **change)) or anew != set(SCHEMES)
    for scheme in SCHEMES:
        assert (places(after, scheme) != places(before, scheme)) == (scheme in anew)
    # The old settings still have their places.
    back = split(cases, before.new_lines + after.new_lines)
    assert (back.rows, back.new_lines) == (before.rows, [])


def test_what_cannot_be_had_is_told():
    told = split([case(n) for n in range(6)], ood_sources=["kits23"]).told
    assert told == [
        "scaling: no set of 6, 12 cases, since 4 have been placed",
        "ood: no case is of the source kits23",
    ]


def test_the_register_is_a_file_that_only_grows_and_equal_inputs_give_equal_bytes(tmp_path):
    cases = [case(n) for n in range(40)]
    settings_ = {key: OPTIONS[key] for key in OPTIONS}
    first = register_splits(tmp_path / "a/splits.jsonl", cases, **settings_)
    before = (tmp_path / "a/splits.jsonl").read_bytes()
    assert register_splits(tmp_path / "a/splits.jsonl", cases[::-1], **settings_) == first
    assert (tmp_path / "a/splits.jsonl").read_bytes() == before
    assert register_splits(tmp_path / "b.jsonl", cases[::-1], **settings_) == first
    assert (tmp_path / "b.jsonl").read_bytes() == before
    register_splits(tmp_path / "b.jsonl", [*cases, case(99)], **settings_)
    assert (tmp_path / "b.jsonl").read_bytes().startswith(before)


def test_two_runs_at_once_agree(tmp_path):
    """Each has cases that the other has not; what both have stands in one place."""
    path, cases = tmp_path / "splits.jsonl", [case(n, f"group {n // 2}") for n in range(80)]

    def run(number):
        own = [c for n, c in enumerate(cases) if n % 5 != number]
        return register_splits(path, own, **OPTIONS)

    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(run, range(5)))
    last = places(register_splits(path, cases, **OPTIONS))
    for result in results:
        for (scheme, case_id), place in places(result).items():
            assert place == last[scheme, case_id] or (scheme, place) == ("scaling", "rest")


@pytest.mark.parametrize(
    "damage",
    [
        '{"scheme": "iid", ',
        "[]",
        '{"scheme": "iid", "settings": "x", "group": "g", "place": "train"}',
        '{"scheme": "iid", "settings": "x", "group": "g", "cases": "c", "place": "train"}',
        '{"scheme": "iid", "settings": "x", "group": "g", "cases": [], "place": "train"}',
        '{"scheme": "iid", "settings": "x", "group": "g", "cases": [1], "place": "train"}',
    ],
)
def test_a_damaged_register_is_refused(tmp_path, damage):
    path = tmp_path / "splits.jsonl"
    register_splits(path, [case(1)], **OPTIONS)
    lines = len(read_places(path))
    path.write_text(path.read_text() + damage + "\n")
    with pytest.raises(InputError, match=f"RECORDS: .*line {lines + 1} "):
        register_splits(path, [case(1)], **OPTIONS)


def test_a_place_that_the_scheme_does_not_have_is_refused():
    lines = [line | {"place": "elsewhere"} for line in split([case(1)]).new_lines]
    with pytest.raises(InputError, match="RECORDS: iid .*'elsewhere'"):
        split([case(1)], json.loads(json.dumps(lines)))


def test_wrong_input_is_told():
    with pytest.raises(ConfigError, match="SPLIT_FRACTIONS"):
        split([], test_fraction=0.9)
    with pytest.raises(ReleaseError, match="SPLIT_CASES.*groups a and b"):
        split([case(1, "b"), case(1, "a")])


def test_strata_are_those_of_headline_tumors():
    tumors = pd.DataFrame(
        [
            ("a", "liver", "small", "tumor", False), ("a", "liver", "small", "tumor", False),
            ("a", "colon", "large", "lesion", False), ("a", "liver", "tiny", "tumor", True),
            ("b", "kidney", "large", "cyst", False),
        ],
        columns=["case_id", "organ", "size_class", "lesion_kind", "is_fragment"],
    )  # fmt: skip
    states = [("b", organ, "confirmed_empty") for organ in tumor_structures() if organ != "kidney"]
    states += [("b", "kidney", "present"), ("c", "liver", "unknown")]
    states += [("d", organ, "confirmed_empty") for organ in tumor_structures()]
    masks = pd.DataFrame(states, columns=["case_id", "organ", "state"])
    assert case_strata("abcd", tumors, masks) == {
        "a": ["colon large", "liver small"], "b": [UNDECIDED], "c": [UNDECIDED], "d": [CONTROL],
    }  # fmt: skip
