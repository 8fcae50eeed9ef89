"""At the size of the paper: the plan stays small, and the table rules count a catalog rightly."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.catalog import PAPER_CANDIDATES, PAPER_SCANS, PAPER_TUMORS, Catalog, make_catalog
from benchmarks.scale import (
    CASES_PER_SHARD,
    RELEASE,
    REPORT_RULES,
    Cost,
    growth_text,
    plan,
    prepare,
    run_empty,
    run_tables,
)
from tumoratlas.core.files import read_json
from tumoratlas.core.tables import read_rows_of

CASES = 200
MOST_JOBS = 3000
MOST_MB = 300
# With the parent release and the test sets.
ALL_SCANS = 22_000


@pytest.mark.parametrize("shards", [160, ALL_SCANS // CASES_PER_SHARD + 1])
def test_the_whole_release_is_planned_in_few_jobs_and_little_memory(
    tmp_path: Path, shards: int
) -> None:
    """The default configuration, and one with 64 of all found scans in a shard."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"shards": shards}))
    jobs, cost = plan(tmp_path)
    assert 8 * shards < jobs < MOST_JOBS
    assert cost.peak_mb < MOST_MB


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Return a catalog of the paper's proportions."""
    return make_catalog(CASES, seed=1)


@pytest.fixture(scope="module")
def truth(catalog: Catalog) -> dict[str, Any]:
    """Return what the catalog says of itself."""
    return catalog.truth()


@pytest.fixture(scope="module")
def run(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working directory in which the table rules ran on the catalog."""
    folder = prepare(tmp_path_factory.mktemp("scale"), catalog)
    costs = run_tables(folder, catalog)
    assert all(cost.cpu_s > 0 for cost in costs.values())
    return folder


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of a table of the release."""
    return read_rows_of(run / RELEASE / f"tables/{name}.parquet")


def test_scans_and_copies_are_those_of_the_catalog(run: Path, truth: dict[str, Any]) -> None:
    """One case for each scan that is no copy, and every other one is excluded by its code."""
    scans = rows(run, "scans")
    assert len(scans) == truth["scans"]
    assert sum(scan["kept"] for scan in scans) == truth["cases"] == CASES
    codes = Counter(row["code"] for row in rows(run, "excluded"))
    assert codes == {
        "DUPLICATE": truth["equal_copies"],
        "CROPPED_COPY": truth["cropped_copies"],
        "TEST_SET": truth["test_scans"],
        "GZIP_CRC": truth["unreadable"],
    }


def test_tumors_masks_candidates_and_events_are_those_of_the_catalog(
    run: Path, truth: dict[str, Any]
) -> None:
    """By organ and size class, by organ and state, and one by one."""
    tumors = Counter((row["organ"], row["size_class"]) for row in rows(run, "tumors"))
    assert tumors == truth["tumors"]
    assert Counter((row["organ"], row["state"]) for row in rows(run, "masks")) == truth["states"]
    assert len(rows(run, "candidates")) == truth["candidates"]
    assert len(rows(run, "reviews")) == truth["events"]


def test_every_case_has_its_place_and_no_patient_is_torn(run: Path, catalog: Catalog) -> None:
    """Cases that touch a test set are reserved, and no group is in two places."""
    placed = [row for row in rows(run, "splits") if row["scheme"] == "iid"]
    assert len(placed) == CASES
    places: dict[str, set[str]] = {}
    for row in placed:
        places.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in places.values())
    touched = {scan.copy_of for scan in catalog.scans.values() if scan.source == "ircadb"} - {""}
    cases = {row["scan_id"]: row["case_id"] for row in rows(run, "scans")}
    reserved = {row["case_id"] for row in placed if row["split"] == "reserved"}
    assert {cases[scan_id] for scan_id in touched} <= reserved


def test_the_reports_are_written_and_the_tables_verified(run: Path, truth: dict[str, Any]) -> None:
    """What was verified is what the catalog holds."""
    for rule in REPORT_RULES:
        assert (run / f"results/report/{rule.removeprefix('report_')}.html").stat().st_size > 1000
    verified = read_json(run / f"{RELEASE}.verified.json")
    assert verified["problems"] == []
    assert (verified["cases"], verified["tumors"]) == (CASES, sum(truth["tumors"].values()))


def test_every_job_of_the_graph_runs_with_empty_scripts(tmp_path: Path) -> None:
    """The scheduler gets through the whole graph, checkpoints included."""
    jobs, wall_s, cost = run_empty(tmp_path, shards=1)
    assert jobs > 30
    assert wall_s > 0
    assert cost.cpu_s > 0
    assert (tmp_path / "run" / f"{RELEASE}.privacy.json").is_file()


def test_the_catalog_has_the_size_of_the_paper() -> None:
    """As many scans, tumors and candidates as are asked for, made twice alike."""
    catalog = make_catalog(PAPER_SCANS, seed=1)
    assert len(catalog.kept) == PAPER_SCANS
    assert len(catalog.scans) > 2 * PAPER_SCANS
    assert (catalog.tumors, catalog.candidates) == (PAPER_TUMORS, PAPER_CANDIDATES)
    assert make_catalog(CASES, seed=1) == make_catalog(CASES, seed=1)
    assert make_catalog(CASES, seed=1) != make_catalog(CASES, seed=2)


def test_the_table_says_where_a_rule_bends() -> None:
    """Ten times the scans at a hundred times the cost is told, and at ten times it is not."""
    costs = {
        100: {"straight": Cost(1.0, 100), "bent": Cost(1.0, 100)},
        1000: {"straight": Cost(3.0, 100), "bent": Cost(3.0, 100)},
        10_000: {"straight": Cost(21.0, 100), "bent": Cost(201.0, 100)},
    }
    straight, bent = growth_text(costs).splitlines()[2:]
    assert straight.endswith("|  |")
    assert bent.endswith("| 10,000: 100 times for 10 |")
