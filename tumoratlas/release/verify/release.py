"""The check of a whole release, from nothing but its folder.

Problems are collected, one line each, ``CODE: what: why``, so that one look at the list tells
what a copy is worth. Whatever is damaged, every other file is still read and compared.
"""

import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tumoratlas.release.licences.targets import hiding_cases
from tumoratlas.release.splits.emitted import emitted_problems
from tumoratlas.release.verify import rows
from tumoratlas.release.verify.case import CaseFindings, ReleasedCase, name_below, verify_case
from tumoratlas.release.verify.files import Files, is_volume
from tumoratlas.release.verify.problems import UNREADABLE, Problems
from tumoratlas.release.verify.tables import (
    Tables,
    check_counts,
    check_small_files,
    read_definitions,
    read_tables,
    read_voxel_hashes,
)

Progress = Callable[[int, int, str], None]
_COUNTED = {"sources", "scans", "masks", "tumors"}


@dataclass(frozen=True)
class Verification:
    """What a release was found to be.

    Attributes
    ----------
    files, cases, tumors
        How many of each were checked; tumors are all rows of the table.
    problems
        One line each; none means that every promise holds.
    """

    files: int
    cases: int
    tumors: int
    problems: list[str]


def verify_release(
    folder: Path, *, processes: int = 1, progress: Progress | None = None
) -> Verification:
    """Check a release: bytes, volumes, masks, sizes, states, licences, splits, counts and texts.

    Parameters
    ----------
    folder
        Any copy of a release. Nothing is raised, whatever it is.
    processes
        Cases checked at the same time.
    progress
        Called with the number of files read so far, that of all, and the file or case last read.
    """
    problems = Problems()
    files = Files(folder, problems)
    tell = _counter(len(files.sums), progress)
    files.check_bytes(partial(tell, 1))
    definitions = read_definitions(files, problems)
    files.check_texts((definitions or {}).get("public_words", ()))
    tables = read_tables(files, problems)
    check_small_files(files, problems)
    _check_rows(files, tables, definitions, problems)
    slices = {}
    cases = {case.case_id: case for case in _cases(files, tables, definitions, problems)}
    for found in _check_cases(list(cases.values()), folder, processes):
        problems.lines += found.problems
        slices[found.case_id] = found.slices
        tell(len(cases[found.case_id].sums), found.case_id)
    is_counted = tables.keys() >= _COUNTED and definitions is not None
    if is_counted and None not in slices.values():
        with problems.guard("counts"):
            check_counts(files, tables, slices, definitions, problems)
    tumors = len(tables.get("tumors", []))
    return Verification(len(files.sums), len(cases), tumors, sorted(set(problems.lines)))


def _counter(total: int, progress: Progress | None) -> Callable[[int, str], None]:
    done = 0

    def tell(files: int, what: str) -> None:
        nonlocal done
        done += files
        if progress is not None:
            progress(done, total, what)

    return tell


def _check_rows(
    files: Files, tables: Tables, definitions: dict[str, Any] | None, problems: Problems
) -> None:
    ids = files.case_ids
    for check in (
        rows.check_ids,
        rows.check_states,
        rows.check_scans,
        rows.check_splits,
    ):
        with problems.guard(check.__name__.removeprefix("check_")):
            check(tables, ids, problems)
    for place in files.sums:
        if place.startswith("seg/") and Path(place).stem not in ids:
            problems.add("STATE", place, "its case is not in the release")
    with problems.guard("leakage"):
        rows.check_leakage(tables, problems)
    if "splits" in tables:
        with problems.guard("layouts"):
            problems.lines += emitted_problems(files.folder, tables["splits"], ids)
    if definitions is not None:
        names: dict[str, set[str]] = {case_id: set() for case_id in ids}
        for place in files.sums:
            case_id = place.split("/")[1] if "/" in place else ""
            if case_id in names:
                names[case_id].add(name_below(case_id, place))
        with problems.guard("licences"):
            rows.check_licences(tables, names, definitions["target"], problems)


def _cases(
    files: Files, tables: Tables, definitions: dict[str, Any] | None, problems: Problems
) -> list[ReleasedCase]:
    volumes: dict[str, dict[str, str]] = {case_id: {} for case_id in files.case_ids}
    for place, sha256 in files.sums.items():
        if is_volume(place):
            volumes[place.split("/")[1]][place] = sha256
    voxels = read_voxel_hashes(files, [p for v in volumes.values() for p in v], problems)
    by_case: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for name in ("masks", "tumors"):
        for row in tables.get(name, []):
            by_case[name][row["case_id"]].append(row)
    target = (definitions or {}).get("target")
    licences = tables.get("licences", []) if target else []
    hiding = hiding_cases(tables.get("masks", []), licences, target)
    return [
        ReleasedCase(
            case_id,
            sums,
            {place: voxels[place] for place in sums if place in voxels},
            by_case["masks"][case_id] if "masks" in tables else None,
            by_case["tumors"][case_id] if "tumors" in tables else None,
            definitions,
            case_id in hiding,
        )
        for case_id, sums in volumes.items()
    ]


def _check_cases(
    cases: Sequence[ReleasedCase], folder: Path, processes: int
) -> Iterator[CaseFindings]:
    work = partial(verify_case, folder)
    if processes <= 1:
        yield from map(work, cases)
        return
    # Forked: a spawned process would run the calling script again.
    context = multiprocessing.get_context("fork")
    left = [case.case_id for case in cases]
    try:
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            for found in pool.map(work, cases):
                left.remove(found.case_id)
                yield found
    except BrokenProcessPool:
        lines = Problems()
        lines.add(UNREADABLE, f"{len(left)} cases", "not checked: a process ended, maybe for lack "
                  "of memory; take fewer processes")  # fmt: skip
        yield CaseFindings(left[0], None, lines.lines)
