"""The steps of release, from manifests to functions on rows."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import read_json
from tumoratlas.core.runner import (
    Step,
    Task,
    finished_folders,
    read_excluded,
    read_record,
    read_rows,
    run_shard,
)
from tumoratlas.core.tables import read_rows_of
from tumoratlas.release.cases import write_case
from tumoratlas.release.leakage.audit import LeakageAudit, audit_tables, refuse_leaks
from tumoratlas.release.licences.decide import decide_case
from tumoratlas.release.licences.policy import Policy
from tumoratlas.release.privacy.search import find_phi, refuse_phi
from tumoratlas.release.privacy.terms import private_terms
from tumoratlas.release.splits.strata import case_strata

# A scan left out by design says nothing about the health of a run; rows of these rules tell of
# files that are no scans, and of pairs.
BY_DESIGN = ("CASE_WITHDRAWN", "CROPPED_COPY", "DUPLICATE", "RESAMPLED_COPY", "TEST_SET")
_NO_SCANS = ("list_scans", "confirm_pairs")


def write_cases(
    step: Step,
    manifest: Path,
    *,
    harmonized: Path,
    merged: Path,
    policy: Policy,
    target: str,
    connectivity: int,
) -> None:
    """Write the released files of every case of the shard (see `run_shard`, `write_case`).

    A case of which the target holds nothing has no files. Another policy or target writes only
    those cases again of which it withholds other files.
    """

    def work(task: Task, folder: Path) -> dict[str, Any]:
        withheld = task.data["withheld"]
        if task.data["is_empty"]:
            return {"case_id": task.id}
        folders = {key: task.data[key] for key in ("harmonized", "merged")}
        rows = {f"{key}_row": read_record(path)["row"] for key, path in folders.items()}
        return write_case(folder, **folders, **rows, withheld=withheld, connectivity=connectivity)

    cases = finished_folders([harmonized])
    tasks = []
    for case_id, masks in finished_folders([merged]).items():
        case_record, mask_record = read_record(cases[case_id]), read_record(masks)
        rows = case_record["row"], mask_record["row"]
        files = decide_case(*rows, policy)
        withheld = sorted(row["file"] for row in files if not row[target])
        hashes = case_record["outputs"] | mask_record["outputs"]
        inputs = {name: facts["sha256"] for name, facts in hashes.items()}
        inputs |= {"rows": str(list(rows)), "withheld": " ".join(withheld)}
        data = {"harmonized": cases[case_id], "merged": masks, "withheld": withheld}
        data["is_empty"] = len(withheld) == len(files)
        tasks.append(Task(case_id, inputs, data))
    run_shard(step, tasks, work, manifest)


def list_licences(
    harmonized: Iterable[Path], merged: Iterable[Path], policy: Policy
) -> list[dict[str, Any]]:
    """Return the rows of the table ``licences``, by case (see `decide_case`)."""
    cases = {row["case_id"]: row for row in read_rows(harmonized)}
    return [
        row
        for masks in read_rows(merged)
        for row in decide_case(cases[masks["case_id"]], masks, policy)
    ]


def list_excluded(
    listings: Iterable[Path],
    reports: Iterable[Path],
    manifests: Iterable[Path],
    masks: Iterable[Path],
) -> list[dict[str, str]]:
    """Return every row of the ``excluded`` table.

    Parameters
    ----------
    listings, reports
        JSON files with a list ``excluded``: of list_scans, deduplicate_scans, assign_cases,
        check_review.
    manifests
        Manifests of the sharded rules that leave out whole scans, pairs or organs.
    masks
        Manifests of the rules that also leave out single masks of a case that they keep.
    """
    rows = [row for path in [*listings, *reports] for row in read_json(Path(path))["excluded"]]
    rows += read_excluded([*manifests, *masks])
    for row in read_rows(masks):
        rows += row["excluded_masks"]
    return sorted(rows, key=lambda row: (row["id"], row["rule"], row["code"]))


def list_repairs(scans: Path, harmonized: Iterable[Path]) -> list[dict[str, str]]:
    """Return every row of the ``repairs`` table.

    Parameters
    ----------
    scans
        JSON file of deduplicate_scans, whose scans have ``name: before -> after`` texts.
    harmonized
        Manifests of harmonize_scans, whose rows tell of masks.
    """
    rows = []
    for scan in read_json(Path(scans))["scans"]:
        for text in scan["repairs"]:
            name, _, change = text.partition(": ")
            before, _, after = change.partition(" -> ")
            rule = "deduplicate_scans" if name == "spacing_from_copy" else "fingerprint_scans"
            row = {"id": scan["scan_id"], "rule": rule, "name": name}
            rows.append(row | {"before": before, "after": after})
    rows += [row for case in read_rows(harmonized) for row in case["repairs"]]
    return sorted(rows, key=lambda row: (row["rule"], row["id"], row["name"]))


def linked_scans(scans: Path, deduplicated: Path) -> list[dict[str, Any]]:
    """Return the rows of the table ``scans`` with ``links``, which no table shows."""
    links = {scan["scan_id"]: scan["links"] for scan in read_json(deduplicated)["scans"]}
    return [{**row, "links": links[row["scan_id"]]} for row in read_rows_of(scans)]


def gather_tables(
    tables: Iterable[Path], audit: Path, proposed: Iterable[Path]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every table that a release is made of, by name.

    Parameters
    ----------
    tables
        Parquet files; a table has the name of its file.
    audit
        JSON file of check_leakage.
    proposed
        Manifests of propose_candidates.

    Raises
    ------
    ReleaseError
        ``LEAK`` (`refuse_leaks`).
    """
    found = LeakageAudit(**read_json(audit))
    refuse_leaks(found)
    rows = {Path(path).stem: read_rows_of(Path(path)) for path in tables}
    candidates = [row for case in read_rows(proposed) for row in case["candidates"]]
    return {**rows, **audit_tables(found), "candidates": candidates}


def refuse_many_excluded(
    excluded: Sequence[Mapping[str, str]], scans: int, max_excluded_fraction: float
) -> None:
    """Stop a release whose scans failed too often.

    Raises
    ------
    ReleaseError
        ``MANY_EXCLUDED``: more than the configured share of the scans that were found, not
        counting duplicates, other modalities and files that are no scans.
    """
    failed = [
        row
        for row in excluded
        if row["code"] not in BY_DESIGN and row["rule"] not in _NO_SCANS and "/" not in row["id"]
    ]
    found = scans + len([row for row in failed if row["rule"] == "fingerprint_scans"])
    if len(failed) > max_excluded_fraction * max(1, found):
        shown = ", ".join(f"{row['id']} ({row['code']})" for row in failed[:5])
        raise ReleaseError(
            "MANY_EXCLUDED",
            "release",
            f"{len(failed)} of {found} scans were excluded, more than {max_excluded_fraction:.1%}",
            evidence=shown,
            remedy="See results/tables/excluded.parquet; mend the scans or raise "
            "`release.max_excluded_fraction`",
        )


def complete_cases(written: Iterable[Path], measured: Iterable[Path]) -> dict[str, Path]:
    """Return the folder of every case that was written and measured: those of the release."""
    numbers = finished_folders(measured)
    return {
        case_id: path for case_id, path in finished_folders(written).items() if case_id in numbers
    }


def split_input(
    cases: Path,
    scans: pd.DataFrame,
    tumors: pd.DataFrame,
    masks: pd.DataFrame,
    written: Iterable[Path],
    measured: Iterable[Path],
) -> list[dict[str, Any]]:
    """Return what `tumoratlas.release.splits.schemes.split_cases` needs of every complete case.

    Parameters
    ----------
    cases
        JSON file of assign_cases.
    scans, tumors, masks
        The tables of these names.
    written, measured
        Manifests of write_cases and measure_tumors.
    """
    facts = read_json(cases)
    complete = sorted(complete_cases(written, measured))
    strata = case_strata(complete, tumors, masks)
    own = scans[scans["case_id"].isin(complete)]
    sources = own.groupby("case_id")["source"].agg(lambda names: sorted(set(names)))
    kept = own[own["kept"].astype(bool)].set_index("case_id")["source"]
    return [
        {
            "case_id": case_id,
            "group": facts[case_id]["group"],
            "reserved": facts[case_id]["reserved"],
            "source": kept[case_id],
            "sources": sources[case_id],
            "strata": strata[case_id],
        }
        for case_id in complete
    ]


def refuse_problems(folder: Path, problems: Sequence[str]) -> None:
    """Stop at a release that breaks a promise.

    Raises
    ------
    ReleaseError
        ``NOT_VERIFIED``, with the first problems.
    """
    if problems:
        raise ReleaseError(
            "NOT_VERIFIED",
            folder,
            f"{len(problems)} promises are broken",
            evidence="; ".join(problems[:10]),
            remedy="`python -m tumoratlas verify` lists them all; build the release again",
        )


def check_privacy(
    released: Iterable[Path], *, private: Iterable[Path], public_words: Iterable[str]
) -> dict[str, int]:
    """Stop at a private word in the release or its reports.

    Parameters
    ----------
    released
        Folders of which every file is searched.
    private
        Folders of internal sources, from whose files the private words are taken.
    public_words
        Words that name nobody, although a private file holds them.

    Returns
    -------
    Number of ``terms`` that were looked for, and of ``files`` that hold none.

    Raises
    ------
    ReleaseError
        ``PHI_FOUND``.
    """
    folders = sorted(released)
    terms = {term for folder in private for term in private_terms(folder)}
    allow = list(public_words)
    refuse_phi([hit for folder in folders for hit in find_phi(folder, terms, allow=allow)])
    files = sum(path.is_file() for folder in folders for path in folder.rglob("*"))
    return {"terms": len(terms), "files": files}
