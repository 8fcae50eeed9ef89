"""The proof that no released case that may be trained on touches a test set.

Scans are linked where their voxels were compared and found related, where their voxels are
equal, or where they name one patient. A case touches a test set where any chain of links leads
from one of its scans to a scan of the set, also through scans that no case was made of. The
chains are searched here from the tables alone, and not with the code that made the splits.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from tumoratlas.core.errors import ReleaseError
from tumoratlas.release.leakage.chains import IMAGE_RELATIONS, Network, Reached, Rows
from tumoratlas.release.splits.schemes import NOT_TRAINED

Row = dict[str, Any]
Places = Mapping[str, Mapping[str, str]]  # case to scheme to split

TEST_ONLY = "test_only"
NOT_READ, UNTOUCHED, NOT_RELEASED = "not read", "none", "not released"
# What a case may be in although it touches a test set: nobody trains on these.
_MOST_CASES = 20


@dataclass(frozen=True)
class LeakageAudit:
    """What the audit found; every list holds rows.

    Attributes
    ----------
    cases
        ``case_id, split`` (of ``iid``), ``test_set, test_scan_id, relation, path, evidence,
        is_leak, leaks_in``: per released case a row for each test set that it touches, or one
        row with an empty ``test_set`` whose evidence says what was searched.
    tests
        ``test_set, test_scan_id, relation, pool_scan_id, case_id, split, path, evidence,
        cases_touched``: per scan of a test set a row for each released case that it touches,
        the 20 nearest at most. One that touches none has a single row: the nearest scan of the
        pool, or ``relation`` ``none`` or ``not read``.
    overlaps
        ``source, other, scans, same, crop, resample, overlap, chain, patient``: how many scans
        of ``source`` share voxels with scans of ``other``, by their closest direct relation
        (``chain``: through other scans only), and how many share a patient but no voxels.
    torn
        ``scheme, cases, splits, path``: of every set of linked cases that a scheme tears, two
        cases on different sides.
    """

    cases: list[Row]
    tests: list[Row]
    overlaps: list[Row]
    torn: list[Row]

    @property
    def leaks(self) -> list[Row]:
        """Rows of `cases` that break the promise."""
        return [row for row in self.cases if row["is_leak"]]


def audit_leakage(
    scans: Rows, relations: Rows, splits: Rows, listed: Iterable[Mapping[str, Any]] = ()
) -> LeakageAudit:
    """Search every chain between released cases and test sets.

    Parameters
    ----------
    scans
        Every scan that was read: ``scan_id, source, role, reserved, patient_key, links,
        licence, voxel_sha256, duplicate_group, case_id``. ``case_id`` is that of its case,
        kept or not, or None; ``reserved`` names the test set that it belongs to, or is empty.
    relations
        Compared pairs: ``scan_a, scan_b, relation, outer, evidence``; ``none`` links nothing.
    splits
        Rows of `tumoratlas.release.splits.schemes.split_cases`; their cases are the released ones.
    listed
        Every scan that was found: ``scan_id, source, role, reserved``. Scans of test sets that
        could not be read are told, since nothing is known about them.

    Raises
    ------
    ReleaseError
        ``LEAK``: a released case has no scan.
    """
    network = Network(scans, relations)
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for row in splits:
        places[row["case_id"]][row["scheme"]] = row["split"]
    _refuse_unknown(places, scans)
    linked = list(network.components(lambda _: True))
    rows = _test_rows(network, places, linked)
    for scan in listed:
        if scan["scan_id"] not in network.scans and (name := name_of_test_set(scan)):
            told = _empty_row(NOT_READ, "found but not readable, so compared with nothing")
            rows.append({"test_set": name, "test_scan_id": scan["scan_id"], **told})
    rows.sort(key=lambda row: (row["test_set"], row["test_scan_id"], row["case_id"]))
    cases = _case_rows(network, places, linked)
    return LeakageAudit(cases, rows, _overlaps(network, linked), _torn(network, places, linked))


def refuse_leaks(audit: LeakageAudit) -> None:
    """Stop a release whose training lists touch a test set or tear linked cases apart.

    Raises
    ------
    ReleaseError
        ``LEAK``, naming the first cases and the chains that lead to them.
    """
    told = [f"{row['case_id']} ({row['leaks_in']}): {row['path']}" for row in audit.leaks]
    told += [f"{row['cases']} ({row['scheme']} {row['splits']}): {row['path']}"
             for row in audit.torn]  # fmt: skip
    if told:
        cases = _count(len({row["case_id"] for row in audit.leaks}), "case")
        pairs = _count(len(audit.torn), "pair")
        raise ReleaseError(
            "LEAK",
            "splits",
            f"{cases} that may be trained on touch a test set, {pairs} of linked cases are on two "
            "sides of a split",
            evidence="; ".join(told[:10]),
            remedy="Run assign_cases and split_cases again: linked cases need one group, and a "
            "group that touches a test set must be reserved",
        )


def name_of_test_set(scan: Mapping[str, Any]) -> str:
    """Return the test set that a scan belongs to, or an empty text."""
    return scan["reserved"] or (scan["source"] if scan["role"] == TEST_ONLY else "")


def _refuse_unknown(places: Places, scans: Rows) -> None:
    known = {scan["case_id"] for scan in scans}
    for case_id in places:
        if case_id not in known:
            raise ReleaseError(
                "LEAK",
                case_id,
                "is in the splits and no scan is its own, so that nothing is proved of it",
                remedy="Run assign_cases and split_cases again",
            )


def _test_rows(network: Network, places: Places, linked: Iterable[list[str]]) -> list[Row]:
    rows = []
    for component in linked:
        scans = [network.scans[scan_id] for scan_id in component]
        tests = [scan for scan in scans if name_of_test_set(scan)]
        pool = {scan["scan_id"] for scan in scans if scan["role"] != TEST_ONLY}
        cases = {scan["case_id"] for scan in scans} & places.keys()
        for test in tests:
            key = {"test_set": name_of_test_set(test), "test_scan_id": test["scan_id"]}
            if not pool:
                told = _empty_row(UNTOUCHED, f"linked with {_count(len(scans) - 1, 'other scan')}")
                rows.append(key | told)
                continue
            rows += [
                key | row | {"cases_touched": len(cases)}
                for row in _touched_by(network, places, test["scan_id"], pool, len(cases))
            ]
    return rows


def _touched_by(
    network: Network, places: Places, test_scan_id: str, pool: Set[str], cases: int
) -> Iterator[Row]:
    """Give a row of every released case that a test scan touches, through its nearest scan.

    If there is none, of the nearest scan of the pool.
    """
    found: dict[str, Reached] = {}
    told: set[str] = set()
    for node, reached in network.chains([test_scan_id]):
        found[node] = reached
        if node not in pool:
            continue
        case_id = network.scans[node]["case_id"]
        is_released = case_id in places
        if (is_released and case_id not in told) or not cases:
            told.add(case_id)
            row = {
                "pool_scan_id": node,
                "case_id": case_id if is_released else "",
                "split": places[case_id].get("iid", "") if is_released else NOT_RELEASED,
            }
            chain = network.tell(found, node)
            yield row | {name: chain[name] for name in ("relation", "path", "evidence")}
        if len(told) == max(1, min(cases, _MOST_CASES)):
            return


def _empty_row(relation: str, evidence: str) -> Row:
    row = {"pool_scan_id": "", "case_id": "", "split": "", "relation": relation, "path": ""}
    return row | {"evidence": evidence, "cases_touched": 0}


def _case_rows(network: Network, places: Places, linked: Iterable[list[str]]) -> list[Row]:
    tests: dict[str, list[str]] = defaultdict(list)
    for scan_id, scan in network.scans.items():
        if name := name_of_test_set(scan):
            tests[name].append(scan_id)
    touched: dict[str, dict[str, Row]] = defaultdict(dict)
    for name, starts in sorted(tests.items()):
        found: dict[str, Reached] = {}
        for node, reached in network.chains(starts):
            found[node] = reached
            case_id = network.scans[node]["case_id"] if node in network.scans else None
            if case_id in places and name not in touched[case_id]:
                chain = network.tell(found, node)
                touched[case_id][name] = {
                    "test_set": name,
                    "test_scan_id": chain.pop("start"),
                    **chain,
                }
    own: Counter[str] = Counter(scan["case_id"] for scan in network.scans.values())
    reach: dict[str, int] = Counter()
    for component in linked:
        for case_id in {network.scans[scan_id]["case_id"] for scan_id in component}:
            reach[case_id] += len(component)
    tested = sum(map(len, tests.values()))
    rows = []
    for case_id, splits in sorted(places.items()):
        trained = ", ".join(
            f"{scheme} {split}"
            for scheme, split in sorted(splits.items())
            if split not in NOT_TRAINED
        )
        facts = {"case_id": case_id, "split": splits.get("iid", "")}
        verdict = {"is_leak": trained != "", "leaks_in": trained}
        rows += [facts | row | verdict for _, row in sorted(touched[case_id].items())]
        if not touched[case_id]:
            evidence = (
                f"no chain from its {_count(own[case_id], 'scan')} and "
                f"{_count(reach[case_id] - own[case_id], 'linked scan')} leads to any of "
                f"{_count(tested, 'test scan')}"
            )
            free = {"test_set": "", "test_scan_id": "", "relation": UNTOUCHED, "path": ""}
            rows.append(facts | free | {"evidence": evidence, "is_leak": False, "leaks_in": ""})
    return rows


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")


def _overlaps(network: Network, linked: Iterable[list[str]]) -> list[Row]:
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    images: dict[str, set[str]] = {}
    for component in network.components(lambda link: link.is_image):
        found = Counter(network.scans[scan_id]["source"] for scan_id in component)
        for scan_id in component:
            own, direct = network.scans[scan_id]["source"], network.direct(scan_id)
            images[scan_id] = {s for s, n in found.items() if n > (s == own)}
            for other in images[scan_id]:
                counts[own, other].update(["scans", direct.get(other, "chain")])
    for component in linked:
        found = Counter(network.scans[scan_id]["source"] for scan_id in component)
        for scan_id in component:
            own = network.scans[scan_id]["source"]
            for other, n in found.items():
                if n > (other == own) and other not in images[scan_id]:
                    counts[own, other]["patient"] += 1
    names = ("scans", *IMAGE_RELATIONS, "chain", "patient")
    return [
        {"source": source, "other": other} | {name: counts[source, other][name] for name in names}
        for source, other in sorted(counts)
    ]


def _torn(network: Network, places: Places, linked: Iterable[list[str]]) -> list[Row]:
    rows = []
    for component in linked:
        scan_of: dict[str, str] = {}
        for scan_id in component:
            case_id = network.scans[scan_id]["case_id"]
            if case_id in places:
                scan_of.setdefault(case_id, scan_id)
        for scheme in sorted({scheme for case_id in scan_of for scheme in places[case_id]}):
            sides = {case_id: places[case_id].get(scheme, "") for case_id in sorted(scan_of)}
            one = min(sides)
            other = next((c for c in sides if sides[c] != sides[one]), None)
            if other is not None:
                chain = network.tell(dict(network.chains([scan_of[other]])), scan_of[one])
                row = {"scheme": scheme, "cases": f"{one}, {other}", "path": chain["path"]}
                rows.append(row | {"splits": f"{sides[one]}, {sides[other]}"})
    return rows


def audit_tables(audit: LeakageAudit) -> dict[str, list[Row]]:
    """Return the rows of an audit by the name of their table."""
    return {
        "leakage": audit.cases, "test_scans": audit.tests, "source_overlaps": audit.overlaps,
    }  # fmt: skip
