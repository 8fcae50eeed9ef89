"""Splits of the release: by patient group, and stable for ever.

A group's place is a hash of the seed, the scheme and the group's name. No case moves because
another one came or went, and no group is torn, so that nothing leaks by construction. The price
is that the shares hold only on average, and that no scheme is stratified.

A group that touches a reserved or external test set is ``reserved`` in every scheme, so that no
list to train or validate on can hold it. No other group moves because of it.
"""

from collections.abc import Iterable, Mapping

from tumoratlas.core.errors import ConfigError, ReleaseError
from tumoratlas.core.files import sha256_json

SCHEMES = ("iid", "fold")
RESERVED = "reserved"
_UNIT = 1 << 52  # bits of the hash that are used; exact as a float


def split_cases(
    cases: Iterable[Mapping[str, str]],
    *,
    seed: int,
    test_fraction: float,
    validation_fraction: float,
    folds: int,
) -> list[dict[str, str]]:
    """Return the place of every case in the schemes ``iid`` and ``fold``.

    Parameters
    ----------
    cases
        ``case_id``, ``group`` and ``reserved`` of each case. Cases of one patient share a
        group; ``reserved`` names the test sets that a case touches, joined by ``"; "``, or is
        empty. One such case reserves its group.
    seed
        Another seed gives another split.
    test_fraction, validation_fraction
        Expected share of free groups in the ``test`` and ``validation`` sets of ``iid``; the
        rest is ``train``.
    folds
        Number of equal parts ``fold_0`` onwards of ``fold``, over all free cases.

    Returns
    -------
    Rows of the table ``splits``, by scheme and case.

    Raises
    ------
    ConfigError
        ``SPLIT_FRACTIONS``: the shares exceed 1.
    ReleaseError
        ``SPLIT_CASES``: a case stands in two groups.
    """
    if test_fraction + validation_fraction > 1:
        raise ConfigError(
            "SPLIT_FRACTIONS",
            "splits.test_fraction and splits.validation_fraction",
            f"{test_fraction:g} and {validation_fraction:g} exceed 1",
            remedy="Lower one of them",
        )
    groups: dict[str, str] = {}
    reserved: set[str] = set()
    for case in cases:
        if case["reserved"]:
            reserved.add(case["group"])
        if groups.setdefault(case["case_id"], case["group"]) != case["group"]:
            raise ReleaseError(
                "SPLIT_CASES",
                case["case_id"],
                f"stands in the groups {groups[case['case_id']]} and {case['group']}",
                remedy="Give each case one group",
            )
    rows = []
    for scheme in SCHEMES:
        for case_id, group in sorted(groups.items()):
            place = _place(seed, scheme, group)
            if group in reserved:
                split = RESERVED
            elif scheme == "fold":
                split = f"fold_{int(place * folds)}"
            elif place < test_fraction:
                split = "test"
            elif place < test_fraction + validation_fraction:
                split = "validation"
            else:
                split = "train"
            rows.append({"scheme": scheme, "case_id": case_id, "split": split, "group": group})
    return sorted(rows, key=lambda row: (row["scheme"], row["case_id"]))


def _place(seed: int, scheme: str, group: str) -> float:
    """Return a number in [0, 1) that depends on nothing else."""
    return int(sha256_json([seed, scheme, group]), 16) % _UNIT / _UNIT
