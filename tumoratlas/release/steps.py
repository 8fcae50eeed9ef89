"""The steps of release, from manifests to functions on rows."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from tumoratlas.release.cases import write_case

# A scan left out by design says nothing about the health of a run.
BY_DESIGN = ("DUPLICATE", "NOT_CT", "APPLE_DOUBLE", "NOT_UNDERSTOOD")


def write_cases(step: Step, manifest: Path, *, harmonized: Path, merged: Path) -> None:
    """Write the released files of every case of the shard (see `run_shard`, `write_case`)."""

    def work(task: Task, folder: Path) -> dict[str, Any]:
        return write_case(
            folder,
            harmonized=task.data["harmonized"],
            merged=task.data["merged"],
            harmonized_row=read_record(task.data["harmonized"])["row"],
            merged_row=read_record(task.data["merged"])["row"],
        )

    cases = finished_folders([harmonized])
    tasks = []
    for case_id, masks in finished_folders([merged]).items():
        case_record, mask_record = read_record(cases[case_id]), read_record(masks)
        hashes = case_record["outputs"] | mask_record["outputs"]
        inputs = {name: facts["sha256"] for name, facts in hashes.items()}
        inputs["rows"] = str([case_record["row"], mask_record["row"]])
        tasks.append(Task(case_id, inputs, {"harmonized": cases[case_id], "merged": masks}))
    run_shard(step, tasks, work, manifest)


def list_excluded(
    listings: Iterable[Path], reports: Iterable[Path], manifests: Iterable[Path]
) -> list[dict[str, str]]:
    """Return every row of the ``excluded`` table.

    Parameters
    ----------
    listings, reports
        JSON files with a list ``excluded``: of list_scans, deduplicate_scans, check_review.
    manifests
        Manifests of the sharded rules; harmonize_scans also leaves out single masks.
    """
    rows = [row for path in [*listings, *reports] for row in read_json(Path(path))["excluded"]]
    rows += read_excluded(manifests)
    for row in read_rows(manifests):
        rows += row.get("excluded_masks", [])
    return sorted(rows, key=lambda row: (row["id"], row["rule"], row["code"]))


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
    failed = [row for row in excluded if row["code"] not in BY_DESIGN and "/" not in row["id"]]
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
    cases: Path, written: Iterable[Path], measured: Iterable[Path]
) -> list[dict[str, str]]:
    """Return ``case_id`` and ``group`` of every case of the release."""
    groups = read_json(cases)
    return [
        {"case_id": case_id, "group": groups[case_id]["group"]}
        for case_id in complete_cases(written, measured)
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
