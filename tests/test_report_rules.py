"""The report on rules and the lineage of a case: its numbers, failures and last source file."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
import shutil
from collections import defaultdict
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.small_release import make_release
from tumoratlas.__main__ import main
from tumoratlas.core.errors import InputError
from tumoratlas.core.files import read_json, sha256_file
from tumoratlas.core.provenance import read_stored
from tumoratlas.core.runner import Step, Task, read_rows, run_shard
from tumoratlas.core.tables import read_rows_of, write_table
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.measure.steps import measure_tumors
from tumoratlas.release.privacy.search import find_phi
from tumoratlas.report.rule_facts import pattern, rule_rows, workflow_rules
from tumoratlas.report.rule_graph import rule_graph
from tumoratlas.report.rule_records import ancestors, different_keys, read_run, rule_edges
from tumoratlas.report.rules import VERDICTS, write_rules_report
from tumoratlas.reproduce import replay
from tumoratlas.reproduce.lineage import COLUMNS, lineage_rows
from tumoratlas.reproduce.plan import planned_and_actual
from tumoratlas.reproduce.trace import trace_case, trace_text
from tumoratlas.review.bases import store_base
from tumoratlas.review.ledger import Event, make_event
from tumoratlas.review.merge.steps import merge_masks
from tumoratlas.review.shards import Said

if TYPE_CHECKING:
    from tests.browser import Browsing

pytest_plugins = ["tests.browser"]

RELEASE = "results/release/2.0"
PROVENANCE = "results/provenance"
CASE, ORGAN = "BDMAP_90000001", "pancreas"
ACCEPTED, REJECTED = "a" * 16, "b" * 16
MODEL = "c" * 16


class Cells(HTMLParser):
    """The texts of the cells of every table row, and the targets of links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        self._inside = tag in ("td", "th") or (self._inside and tag not in ("tr", "table"))
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag == "a" and named.get("href"):
            self.links.append(named["href"])
        if named.get("id"):
            self.ids.append(named["id"])

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data.strip()


def lines_of(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of all jobs by rule, read without the code under test."""
    lines = defaultdict(list)
    for path in sorted((run / PROVENANCE).glob("*/*.jsonl")):
        if not path.stem.endswith("_scans"):
            lines[path.parent.name] += map(json.loads, path.read_text().splitlines())
    return lines


def copy_of_records(run: Path, folder: Path) -> Path:
    """Copy what the report reads: records and release."""
    for name in (PROVENANCE, RELEASE):
        shutil.copytree(run / name, folder / name)
    return folder


def write_report(run: Path, folder: Path, replays: list[dict[str, Any]] | None = None) -> str:
    """Write the report of a run below ``folder`` and return its text."""
    folder.mkdir(exist_ok=True)
    paths = []
    for facts in replays or []:
        paths.append(folder / f"{facts['rule']}.json")
        paths[-1].write_text(json.dumps(facts))
    records = read_run(run / PROVENANCE, running="report_rules/all")
    config = read_stored(run / PROVENANCE, "configs", records.ended[-1]["config"])
    write_rules_report(
        folder / "rules.html",
        table=folder / "lineage.csv",
        run=records,
        snakefile=ROOT / "Snakefile",
        replays=paths,
        costs=planned_and_actual(config, records.ended, run),
        release=run / RELEASE,
        template=ROOT / "resources/report/rules.html.jinja",
    )
    return (folder / "rules.html").read_text(encoding="utf-8")


def replayed(rule: str, verdict: str, **facts: Any) -> dict[str, Any]:
    job = {
        "job": f"{rule}/all", "verdict": verdict, "reason": "DOE_JOHN", "difference": None,
        "deviation": {}, "tolerance": {}, "changed": [],
    }  # fmt: skip
    return {
        "rule": rule, "verdict": verdict, "reason": "DOE_JOHN", "jobs_ended": 3,
        "jobs": [job | facts], "passed_over": {},
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the report of the micro run."""
    return write_report(micro_run, tmp_path_factory.mktemp("report"))


# What the rules did ----------------------------------------------------------------------------


def test_numbers_are_sums_over_the_records(micro_run: Path) -> None:
    """Jobs, attempts, time, memory and traffic of each rule, summed again from the raw lines."""
    run = read_run(micro_run / PROVENANCE, running="")
    rows = {row["rule"]: row for row in rule_rows(run, workflow_rules(ROOT / "Snakefile"))}
    lines = lines_of(micro_run)
    assert set(rows) == set(lines) and len(rows) > 30
    for rule, own in lines.items():
        ended = [line for line in own if line["event"] == "ended"]
        row = rows[rule]
        assert row["jobs"] == len({line["job"] for line in own})
        assert row["attempts"] == sum(line["event"] == "started" for line in own)
        for key, name in (("seconds", "seconds"), ("cpu_s", "cpu_s")):
            assert row[key] == pytest.approx(sum(line[name] for line in ended))
        assert row["memory_mb"] == max(line["peak_memory_mb"] for line in ended)
        for key in ("read", "written"):
            total = sum(line[f"{key}_mb"] for line in ended)
            assert row[f"{key}_gb"] == pytest.approx(total / 1000)
        assert row["gpu_s"] == 0
        latest = {line["job"]: line for line in ended}
        written = {path for line in latest.values() for path in line["outputs"]}
        assert sum(group["files"] for group in row["outputs"]) == len(written)
        assert set(row["codes"]) == {line["code"] for line in latest.values()}
    assert run.attempts == sum(row["attempts"] for row in rows.values())


def test_the_page_shows_each_rule_with_its_numbers(micro_run: Path, page: str) -> None:
    """A row, a section and a place in the graph for each rule; every link leads somewhere."""
    cells = Cells(page)
    lines = lines_of(micro_run)
    shown = {row[0]: row for row in cells.rows if row and row[0] in lines and len(row) == 12}
    assert set(shown) == set(lines)
    for rule, own in lines.items():
        assert shown[rule][2] == str(len({line["job"] for line in own}))
        assert rule in cells.ids
    total = next(row for row in cells.rows if row and row[0] == "all")
    assert total[2] == str(sum(int(row[2]) for row in shown.values()))
    assert {link[1:] for link in cells.links if link.startswith("#")} <= set(cells.ids)
    assert "Did not run" in page and "fetch_files" in page
    assert "No attempt failed" in page and "nothing was replayed" in page


def test_the_page_needs_nothing_else(page: str) -> None:
    """No address, no file beside it; only links within the page."""
    without_names = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|src=|@import|url\(|<link", without_names)
    assert all(link.startswith("#") for link in Cells(page).links)
    assert len(page) < 1_000_000


def test_equal_records_give_an_equal_page(micro_run: Path, page: str, tmp_path: Path) -> None:
    assert write_report(micro_run, tmp_path / "again") == page


def test_a_failed_and_a_killed_attempt_are_told(micro_run: Path, tmp_path: Path) -> None:
    """A start without an end, and an end with exit 1: mended by the later success, or not."""
    run = copy_of_records(micro_run, tmp_path / "run")
    path = run / PROVENANCE / "match_scans/all.jsonl"
    started, ended = map(json.loads, path.read_text().splitlines())
    early = {"time": "2020-01-01T00:00:00.000+00:00"}
    second = {"time": "2020-01-02T00:00:00.000+00:00", "attempt": 2}
    failed = ended | second | {"exit": 1, "error": "DISK_FULL: /secret/DOE_JANE: no space"}
    lines = [started | early, started | second, failed | {"outputs": {}}, started, ended]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    late = {"time": "2090-01-01T00:00:00.000+00:00"}
    lost = run / PROVENANCE / "count_tumors/all.jsonl"
    start = json.loads(lost.read_text().splitlines()[0]) | late
    lost.write_text(lost.read_text() + json.dumps(start) + "\n")

    records = read_run(run / PROVENANCE, running="report_rules/all")
    assert [(row["job"], row["code"], row["is_mended"]) for row in records.failures] == [
        ("match_scans/all", "killed", True),
        ("match_scans/all", "DISK_FULL", True),
        ("count_tumors/all", "killed", False),
    ]
    rows = {row["rule"]: row for row in rule_rows(records, workflow_rules(ROOT / "Snakefile"))}
    row = rows["match_scans"]
    assert (row["attempts"], row["failed"], row["killed"], row["open"]) == (3, 1, 1, [])
    assert row["seconds"] == pytest.approx(2 * ended["seconds"])  # the failed one cost, too
    assert rows["count_tumors"]["open"] == ["count_tumors/all"]
    page = write_report(run, tmp_path / "report")
    assert "DISK_FULL" in page and "DOE_JANE" not in page  # messages may name private files
    assert "1 attempt failed, 2 were killed" in page
    assert "1 job has failed and not ended well since" in page


def test_the_running_job_is_not_killed(micro_run: Path, tmp_path: Path) -> None:
    """The report's own start has no end while it reads; an earlier one was killed."""
    run = copy_of_records(micro_run, tmp_path)
    path = run / PROVENANCE / "report_rules/all.jsonl"
    path.parent.mkdir(exist_ok=True)
    start = {"event": "started", "rule": "report_rules", "job": "report_rules/all", "attempt": 1,
             "host": "h", "pid": 1}  # fmt: skip
    times = [f"209{n}-01-01T00:00:00.000+00:00" for n in (0, 1)]
    path.write_text("".join(json.dumps(start | {"time": time}) + "\n" for time in times))
    failures = read_run(run / PROVENANCE, running="report_rules/all").failures
    assert [row["time"] for row in failures] == times[:1]


def test_verdicts_of_replays_are_shown(micro_run: Path, tmp_path: Path) -> None:
    """Counts, colours, where the difference is; never the values that differ."""
    difference = {"file": "results/tables/tumors.parquet", "place": "row 3, column radius_mm",
                  "before": "DOE_JANE", "after": "2"}  # fmt: skip
    replays = [
        replayed("list_repairs", "equal"),
        replayed("predict_tumors", "within_tolerance", deviation={"level": 0.25},
                 tolerance={"level": 0.5}),
        replayed("count_tumors", "different", difference=difference),
    ]  # fmt: skip
    text = write_report(micro_run, tmp_path, replays)
    assert "1 rule does not repeat" in text
    assert "1 bitwise equal, 1 within tolerance, 1 different" in text
    assert "row 3, column radius_mm" in text and "level 0.25 (allowed 0.5)" in text
    assert "DOE_JANE" not in text and "DOE_JOHN" not in text
    svg = text[text.index("<svg") : text.index("</svg>")]
    assert len(re.findall('class="node (?:equal|within_tolerance|different)"', svg)) == 3
    assert 'href="#count_tumors"><g class="node different"' in svg


def test_every_verdict_has_words() -> None:
    assert set(VERDICTS) == set(replay.VERDICTS)


def test_mixed_code_and_software_are_told(micro_run: Path, tmp_path: Path) -> None:
    """Two codes behind the results of one rule; another version of a library."""
    run = copy_of_records(micro_run, tmp_path / "run")
    folder = run / PROVENANCE
    paths = sorted((folder / "train_model").glob("*.jsonl"))
    line = json.loads(paths[0].read_text().splitlines()[1])
    code = read_json(folder / f"codes/{line['code']}.json")
    other = next(iter(code))
    (folder / "codes/0123456789abcdef.json").write_text(json.dumps(code | {other: "0" * 64}))
    environment = read_json(folder / f"environments/{line['environment']}.json")
    environment["software"]["packages"]["numpy"] = "9.9.9"
    (folder / "environments/fedcba9876543210.json").write_text(json.dumps(environment))
    changed = line | {"code": "0123456789abcdef", "environment": "fedcba9876543210"}
    start = paths[0].read_text().splitlines()[0]
    paths[0].write_text(f"{start}\n{json.dumps(changed)}\n")
    text = write_report(run, tmp_path / "report")
    assert "1 rule ran with more than one code" in text
    assert "2 codes made these results" in text and other in text
    assert "software.packages.numpy" in text and "on 1 machine" in text


def test_names_of_differing_keys() -> None:
    one = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert different_keys(one, {"a": {"b": 1, "c": [2]}, "e": 2}) == ["a.c", "d", "e"]
    assert different_keys(one, one) == []


def test_patterns_of_paths() -> None:
    assert pattern(["results/a/s0001.tsv", "results/a/s0002.tsv"]) == "results/a/*.tsv"
    assert pattern(["results/a.json"]) == "results/a.json"
    assert pattern(["a/x.nii.gz", "b/y.nii.gz"]) == "*.nii.gz"


# The graph --------------------------------------------------------------------------------------


def test_edges_and_ancestors_follow_the_files(micro_run: Path) -> None:
    """As the inputs and outputs of the raw lines say."""
    ended = {line["job"]: line for own in lines_of(micro_run).values() for line in own
             if line["event"] == "ended"}  # fmt: skip
    wrote = {path: line["rule"] for line in ended.values() for path in line["outputs"]}
    expected = {(wrote[p], line["rule"]) for line in ended.values() for p in line["inputs"]
                if p in wrote}  # fmt: skip
    edges = rule_edges(read_run(micro_run / PROVENANCE, running="").latest)
    assert edges == {(a, b) for a, b in expected if a != b}
    rests_on = ancestors(edges)
    assert {"list_scans", "harmonize_scans", "merge_masks"} <= rests_on["count_tumors"]
    assert "count_tumors" not in rests_on["merge_masks"]


def test_the_graph_draws_what_does_not_follow() -> None:
    """Of a, b after a, c after a and b the link from a to c is left out; boxes do not overlap."""
    rows = [
        {"rule": name, "jobs": 1, "verdict": "equal", "verdict_words": "equal"} for name in "abcd"
    ]
    svg = rule_graph(rows, {("a", "b"), ("b", "c"), ("a", "c"), ("a", "d"), ("gone", "d")})
    assert svg.count('class="edge"') == 3
    found = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', svg)
    boxes = {name: tuple(map(float, box)) for name, box in zip("abcd", found, strict=True)}
    assert boxes["a"][1] < boxes["b"][1] < boxes["c"][1]
    assert abs(boxes["b"][0] - boxes["d"][0]) > 142


def test_a_circle_of_rules_is_drawn() -> None:
    rows = [
        {"rule": name, "jobs": 1, "verdict": "equal", "verdict_words": "equal"} for name in "ab"
    ]
    assert rule_graph(rows, {("a", "b"), ("b", "a")}).count('class="edge"') == 1


# Lineage of a release ---------------------------------------------------------------------------


def test_a_source_label_ends_at_its_file(micro_run: Path) -> None:
    """Each tumor of the micro run was labelled by the source whose file, hashed now, is named."""
    rows = lineage_rows(micro_run / RELEASE)
    tumors = [row for row in rows if row["what"] == "tumor"]
    expected = pd.read_csv(micro_run / RELEASE / "tables/tumors.csv")
    assert [row["id"] for row in tumors] == sorted_ids(expected)
    for row in tumors:
        assert row["origin"] == "source" and row["decisions"] == "labelled by lits"
        source = micro_run / "sources/lits" / row["source_file"]
        assert row["file_sha256"] == sha256_file(source)
        assert row["released_sha256"] == sha256_file(micro_run / RELEASE / row["released_file"])
    kept = {row["case_id"]: row for row in rows if row["what"] == "scan" and row["state"] == "kept"}
    for row in kept.values():
        assert row["released_sha256"] == sha256_file(micro_run / RELEASE / row["released_file"])


def sorted_ids(tumors: pd.DataFrame) -> list[str]:
    return tumors.sort_values(["case_id", "organ", "number"])["tumor_id"].astype(str).tolist()


def test_a_candidate_ends_at_its_model(tmp_path: Path) -> None:
    """Model, threshold, candidate and decision of an accepted tumor; no name of a private case."""
    case = "BDMAP_90000002"
    event = make_event(
        stage="review", batch="b1", case_id=case, organ="kidney", candidate_id=ACCEPTED,
        reviewer_id="R07", role="senior", decision="accept", time="2026-03-04T05:06:07.000Z",
    )  # fmt: skip

    def accept(tables: dict[str, list[dict[str, Any]]]) -> None:
        tables["reviews"].append(asdict(event))
        shape = tables["candidates"][0] if tables["candidates"] else candidate_row(1, ACCEPTED, 1)
        tables["candidates"].append(
            shape | candidate_row(1, ACCEPTED, 5) | {"case_id": case, "organ": "kidney"}
        )
        tumor = next(row for row in tables["tumors"] if row["case_id"] == case)
        tumor |= {"origin": "accept", "events": [event.event_id], "reviewers": ["R07"]}

    release = make_release(tmp_path / "work", tmp_path / "2.0", change_tables=accept)
    rows = lineage_rows(release)
    row = next(r for r in rows if r["case_id"] == case and r["origin"] == "accept")
    assert row["what"] == "tumor" and row["model_id"] == MODEL and row["threshold"] == "0.25"
    assert row["candidates"] == ACCEPTED and row["people"] == "R07"
    assert row["decisions"] == "accept by R07 (senior) 2026-03-04"
    assert row["source_file"] == ""  # no source labelled it
    text = json.dumps(rows)
    assert "BDMAP_90000001" in text and "MILLER" not in text


def test_the_page_holds_the_same_rows_as_the_table(micro_run: Path, tmp_path: Path) -> None:
    """Hashes cut to 16 digits, all else equal; the CSV holds them whole."""
    text = write_report(micro_run, tmp_path)
    found = re.search('PACKED = "data:application/gzip;base64,(.+)"', text)[1]
    packed = json.loads(gzip.decompress(base64.b64decode(found)))
    with open(tmp_path / "lineage.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert packed["columns"] == list(COLUMNS) == list(table[0])
    assert len(packed["rows"]) == len(table) == len(lineage_rows(micro_run / RELEASE))
    for cells, row in zip(packed["rows"], table, strict=True):
        for name, cell in zip(COLUMNS, cells, strict=True):
            is_hash = name in ("file_sha256", "released_sha256")
            assert str(cell) == (row[name][:16] if is_hash else row[name])
    assert any(len(row["released_sha256"]) == 64 for row in table)


def test_private_words_are_found_in_the_packed_rows(micro_run: Path, tmp_path: Path) -> None:
    """The search before a release looks into what only the page's script unpacks."""
    write_report(micro_run, tmp_path)
    (tmp_path / "lineage.csv").unlink()
    assert find_phi(tmp_path, ["volume-1.nii"]) and not find_phi(tmp_path, ["volume-77.nii"])


def test_a_reader_finds_a_case(micro_run: Path, tmp_path: Path, browsing: Browsing) -> None:
    """Typed in the search box of the local file, offline: scans, label, tumor, released file."""
    write_report(micro_run, tmp_path)
    page = browsing.open(tmp_path / "rules.html")
    row = next(r for r in lineage_rows(micro_run / RELEASE) if r["what"] == "tumor")
    page.fill("#query", row["id"])
    browsing.until(page, "document.getElementById('found').textContent.includes('tumor 1')")
    found = page.inner_text("#found")
    for said in (row["case_id"], row["source_file"], row["file_sha256"][:16], row["released_file"]):
        assert said in found
    page.fill("#query", "bdmap_")
    browsing.until(page, "document.querySelectorAll('#hits button').length > 1")
    page.fill("#query", "no such case")
    browsing.until(page, "document.getElementById('hits').textContent == 'no released case'")


# Trace of one case ------------------------------------------------------------------------------


def candidate_row(number: int, name: str, voxels: int) -> dict[str, Any]:
    return {
        "candidate_id": name, "number": number, "case_id": CASE, "organ": ORGAN,
        "bbox": [0, 0, 0, 1, 1, 1], "voxels": voxels, "volume_mm3": 1.0, "radius_mm": 1.0,
        "max_p": 0.75, "mean_p": 0.5, "organ_overlap": None, "distance_to_organ_mm": None,
        "threshold": 0.25, "model_id": MODEL, "is_restored": False,
    }  # fmt: skip


def said(decision: str, candidate: str | None, minute: int, **more: str) -> Event:
    return make_event(
        stage="review", batch="b1", case_id=CASE, organ=ORGAN, candidate_id=candidate,
        reviewer_id="R07", role="senior", decision=decision,
        time=f"2026-03-04T05:{minute:02d}:00.000Z", **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def reviewed(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the micro run in which a pancreas candidate was accepted, one rejected.

    The candidates are planted; merging and measuring are the real steps.
    """
    run = tmp_path_factory.mktemp("reviewed") / "run"
    shutil.copytree(micro_run, run, ignore=shutil.ignore_patterns(".snakemake"))
    record = read_json(run / f"results/harmonize/harmonize_scans/{CASE}/record.json")
    grid = Grid.from_json(record["row"]["grid"])
    array = np.zeros(grid.shape, np.uint16)
    array[2:6, 2:6, 2:6], array[12:16, 12:16, 12:16] = 1, 2
    rows = [candidate_row(1, ACCEPTED, 64), candidate_row(2, REJECTED, 64)]
    results = run / "results"

    def propose(task: Task, folder: Path) -> dict[str, Any]:
        write_nifti(folder / "candidates.nii.gz", array, grid)
        return {"case_id": CASE, "organ": ORGAN, "candidates": rows}

    def step(rule: str, folder: str) -> tuple[Step, Path]:
        made = Step(rule, "s0000", results / folder / rule, {}, code="1")
        return made, made.folder / "s0000.tsv"

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run)
        proposing, proposed = step("propose_candidates", "candidates")
        run_shard(proposing, [Task(f"{ORGAN}/{CASE}", {}, {})], propose, proposed)
        base = store_base(
            run / "records/masks", case_id=CASE, organ=ORGAN, candidates=array,
            candidate_ids={1: ACCEPTED, 2: REJECTED}, grid=grid,
        )  # fmt: skip
        shown = {"base_sha256": base.base_sha256}
        old = [
            Event(**row)
            for row in read_rows_of(results / "tables/reviews.parquet")
            if (row["case_id"], row["organ"]) != (CASE, ORGAN)
        ]
        events = [
            *old,
            said("accept", ACCEPTED, 1, **shown),
            said("reject", REJECTED, 2, reason="vessel", **shown),
            said("sign_off", None, 3, **shown),
        ]
        merging, merged = step("merge_masks", "review")
        merge_masks(
            merging, merged,
            harmonized=results / "harmonize/harmonize_scans/s0000.tsv", proposed=proposed,
            said=Said(events, [base], set()), store=run / "records/masks",
            organs=["liver", ORGAN], connectivity=26,
        )  # fmt: skip
        measuring, measured = step("measure_tumors", "measure")
        measure_tumors(
            measuring, measured,
            harmonized=results / "harmonize/harmonize_scans/s0000.tsv", merged=merged,
            connectivity=26, size_edges_mm=[5, 10, 20], early_diameter_mm=20,
            minimum_volume_mm3=14,
        )  # fmt: skip
        write_table(results / "tables/reviews.parquet", "reviews", map(asdict, events))
    masks = {(r["case_id"], r["organ"]): r for row in read_rows([merged]) for r in row["masks"]}
    assert masks[CASE, ORGAN]["state"] == "present"
    return run


def sections(run: Path, **more: Any) -> dict[str, list[tuple[str, str]]]:
    return dict(trace_case(run, CASE, **more))


def test_trace_of_a_source_label(micro_run: Path) -> None:
    """Scan, label file as it is now, model, threshold, tumors, released file; all hashes fit."""
    found = sections(micro_run, organs=["liver"])
    scan = next(r for r in read_rows_of(micro_run / "results/tables/scans.parquet")
                if r["case_id"] == CASE and r["kept"])  # fmt: skip
    lines = dict(found[f"scan {scan['scan_id']}"])
    path = micro_run / "sources/lits" / lines["file"]
    assert lines["sha256"] == sha256_file(path)
    organ = found["liver tumors"]
    label = dict(organ)["label file"]
    name = path.name.replace("volume", "segmentation")
    assert name in label and sha256_file(path.parent / name) in label
    tumors = read_rows_of(micro_run / "results/tables/tumors.parquet")
    own = [row for row in tumors if row["case_id"] == CASE]
    assert [text.split(",")[0] for what, text in organ if what.startswith("tumor ")] == [
        row["tumor_id"] for row in own
    ]
    model = read_json(micro_run / "results/train/liver/registered.json")
    assert dict(organ)["model"].startswith(model["model_id"])
    weights = [text for what, text in organ if what == "weights"]
    assert [fold["sha256"] in text for fold, text in zip(model["folds"], weights, strict=True)]
    mask = micro_run / RELEASE / f"label/{CASE}/instances/liver.nii.gz"
    assert any(sha256_file(mask) in text for _, text in found["released"])
    assert found["do the records fit"][0][0] == "yes"
    line = json.loads(
        next((micro_run / PROVENANCE / "merge_masks").glob("*_scans.jsonl"))
        .read_text().splitlines()[0]
    )  # fmt: skip
    assert f"code {line['code'][:16]}" in dict(organ)["settled by"]


def test_trace_of_a_voxel_of_a_source_label(micro_run: Path) -> None:
    """Every tumor number of the released instance map, looked up at one of its voxels (x, y, z)."""
    mask = nib.load(micro_run / RELEASE / f"label/{CASE}/instances/liver.nii.gz")
    array = np.asanyarray(mask.dataobj)
    tumors = read_rows_of(micro_run / "results/tables/tumors.parquet")
    ids = {row["number"]: row["tumor_id"] for row in tumors if row["case_id"] == CASE}
    assert set(ids) == set(np.unique(array)) - {0}
    for number, tumor_id in ids.items():
        x, y, z = map(int, np.argwhere(array == number)[0])
        lines = next(iter(sections(micro_run, voxel=(x, y, z)).values()))
        assert f"liver tumor {number}, {tumor_id}, origin source" in dict(lines)["tumor"]
        assert "lits_1" in dict(lines)["source label"]
        ct = nib.load(micro_run / RELEASE / f"ct/{CASE}/ct.nii.gz")
        assert dict(lines)["image"] == f"{np.asanyarray(ct.dataobj)[x, y, z]} HU"
    x, y, z = map(int, np.argwhere(array == 0)[0])
    lines = next(iter(sections(micro_run, voxel=(x, y, z)).values()))
    assert dict(lines)["tumor"].startswith("none of")


def test_trace_of_an_accepted_candidate(reviewed: Path) -> None:
    """From the tumor to the decision, candidate, model and scan; the rejected one beside it."""
    found = sections(reviewed, organs=[ORGAN], voxel=(3, 4, 5))
    voxel = next(iter(found.values()))
    assert ("decision", "accept by R07 (senior) 2026-03-04") in voxel
    assert dict(voxel)["candidate"].startswith(f"{ORGAN} {ACCEPTED}, model {MODEL} at 0.25")
    tumor = dict(voxel)["tumor"]
    assert f"origin accept, from candidate {ACCEPTED}" in tumor
    organ = found[f"{ORGAN} tumors"]
    assert dict(organ)["state"] == "present, signed by R07"
    assert dict(organ)["tumor 1"].startswith(f"{ACCEPTED}, tumor, origin accept, 64 voxels")
    assert "1 accept by R07, 1 reject by R07, 1 sign_off by R07" == dict(organ)["reviewed"]
    other = next(iter(sections(reviewed, organs=[ORGAN], voxel=(13, 13, 13)).values()))
    assert dict(other)["candidate"].startswith(f"{ORGAN} {REJECTED}")
    assert ("decision", "reject by R07 (senior) 2026-03-04, vessel") in other
    assert dict(other)["tumor"] == f"none of {ORGAN}"


def test_records_that_do_not_fit_are_told(reviewed: Path) -> None:
    """The masks were settled again, and the release was not built again."""
    wrong = sections(reviewed)["do the records fit"]
    assert (f"{ORGAN}: mask in write_cases" in dict(wrong)) and "yes" not in dict(wrong)


def test_trace_names_no_file_of_an_internal_source(micro_run: Path, tmp_path: Path) -> None:
    """Of a source with the licence ``internal`` the pseudonym and the hash, no path."""
    run = tmp_path / "run"
    shutil.copytree(micro_run, run, ignore=shutil.ignore_patterns(".snakemake", "release"))
    cases = json.loads((run / "results/ingest/cases.json").read_text())
    for member in cases[CASE]["members"]:
        member |= {"licence": "internal", "source_file": "", "image_path": "in/DOE_JANE/ct"}
    (run / "results/ingest/cases.json").write_text(json.dumps(cases))
    path = run / f"results/harmonize/harmonize_scans/{CASE}/record.json"
    record = json.loads(path.read_text())
    record["row"]["annotated"]["liver"]["licence"] = "internal"
    path.write_text(json.dumps(record))
    text = trace_text(CASE, trace_case(run, CASE))
    assert text.count("withheld: the source is internal") == 2
    assert "DOE" not in text and "segmentation-1" not in text and "volume-1" not in text


@pytest.mark.parametrize(
    ("case", "more", "code"),
    [
        ("BDMAP_77777777", {}, "NO_CASE"),
        (CASE, {"organs": ["spleen"]}, "NO_ORGAN"),
        (CASE, {"voxel": (0, 0, 999)}, "NO_VOXEL"),
        (CASE, {"voxel": (-1, 0, 0)}, "NO_VOXEL"),
    ],
)
def test_trace_refuses(micro_run: Path, case: str, more: dict[str, Any], code: str) -> None:
    with pytest.raises(InputError) as error:
        trace_case(micro_run, case, **more)
    assert error.value.code == code


def test_trace_command(
    micro_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints the page of text."""
    arguments = ["trace", CASE, "--directory", str(micro_run), "--organ", "liver"]
    monkeypatch.setattr("sys.argv", ["tumoratlas", *arguments, "--voxel", "1", "2", "3"])
    assert main() == 0
    text = capsys.readouterr().out
    assert text.startswith(CASE) and "voxel x 1, y 2, z 3" in text and "liver tumors" in text
