"""The status of sources: counts add up, copies and defects have names, the page shows them."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.conftest import ROOT
from tests.test_leakage import Page
from tumoratlas.images.checks import CHECKS
from tumoratlas.ingest.sources import Expected, read_source
from tumoratlas.ingest.status import excluded_by_source, missing_cases, source_status
from tumoratlas.report.sources import write_sources_report

SOURCES = [read_source(path) for path in sorted((ROOT / "resources/sources").glob("*.yaml"))]
BY_ID = {source.id: source for source in SOURCES}
# Scans of Table 6, and what the paper claims for them together.
TABLE_6 = {
    "chaos": 20, "btcv": 47, "pancreas_ct": 42, "ct_org": 140, "word": 120, "lits": 130,
    "amos22": 200, "kits23": 489, "abdomenct1k": 1000, "msd_ct": 945, "flare23": 4100,
    "rsna_atd23": 4711,
}  # fmt: skip
CLAIMED = 9901


def listed(source, case, *, labels=True, reserved=""):
    return {"scan_id": f"{source}_{case}", "source": source, "source_case": case,
            "role": BY_ID[source].role, "reserved": reserved,
            "labels": [{"paths": ["some"]}] if labels else []}  # fmt: skip


def read(scan, group, *, kept=False, case_id=None, warnings=(), repairs=()):
    return {**scan, "duplicate_group": group, "kept": kept, "case_id": case_id,
            "warnings": list(warnings), "repairs": list(repairs)}  # fmt: skip


def left_out(row_id, code):
    return {"id": row_id, "rule": "a_rule", "code": code, "reason": f"because {code}",
            "evidence": "", "remedy": f"mend {code}"}  # fmt: skip


@pytest.fixture(scope="module")
def run():
    """A run with LiTS, the Decathlon, 3D-IRCADb and a private source."""
    lits = [listed("lits", str(n)) for n in range(131)]
    lits += [listed("lits", f"test-volume-{n}", labels=False, reserved="LiTS test")
             for n in range(70)]  # fmt: skip
    msd = [listed("msd_ct", f"liver_{n}") for n in range(131)]
    ircadb = [listed("ircadb", f"3Dircadb1_{n}", reserved="3D-IRCADb") for n in range(1, 21)]
    private = [listed("private", f"p{n:016x}", labels=n % 2) for n in range(4)]
    scans = [
        read(scan, f"g{n}", kept=True, case_id=f"BDMAP_{n:08d}", warnings=["SHORT"] * (n < 3))
        for n, scan in enumerate(msd)
    ]
    scans += [
        read(scan, f"g{n}", case_id=f"BDMAP_{n:08d}",
             repairs=["spacing_from_copy: a -> b"] if 28 <= n < 48 else [])
        for n, scan in enumerate(lits[:131])
    ]  # fmt: skip
    scans += [
        read(scan, f"t{n}", kept=True, case_id=f"BDMAP_{900 + n:08d}")
        for n, scan in enumerate(lits[131:200])
    ]
    scans += [read(scan, f"g{n + 28}") for n, scan in enumerate(ircadb)]
    scans += [read(private[0], "p0", kept=True, case_id="BDMAP_00000999")]
    excluded = [left_out(f"lits_{n}", "DUPLICATE") for n in range(131)]
    excluded += [left_out("lits_test-volume-69", "GZIP_CRC")]
    excluded += [left_out("msd_ct/Task01_BrainTumour/imagesTr/BRATS_001.nii.gz", "NOT_CT")]
    excluded += [left_out("msd_ct_liver_3/liver", "LABEL_CUT")]
    excluded += [left_out("BDMAP_00000004/liver", "MERGE")]  # its kept scan is MSD's
    excluded += [left_out(f"private_p{n:016x}", "NO_HU") for n in (1, 2, 3)]
    excluded += [left_out(f"ircadb_3Dircadb1_{n}", "TEST_SET") for n in range(1, 21)]
    listings = {
        "lits": {"scans": lits, "excluded": []},
        "msd_ct": {"scans": msd, "excluded": []},
        "ircadb": {"scans": ircadb, "excluded": []},
        "private": {"scans": private, "excluded": []},
    }
    return listings, scans, excluded


@pytest.fixture(scope="module")
def status(run):
    return source_status(SOURCES, *run, claimed=CLAIMED)


def row_of(status, source):
    return next(row for row in status if row["source"] == source)


def test_the_papers_rows_sum_to_more_than_it_claims(status):
    total = row_of(status, "public")
    assert total["expected_paper"] == sum(TABLE_6.values()) == 11_944
    assert total["claimed"] == CLAIMED
    for source, count in TABLE_6.items():
        assert row_of(status, source)["expected_paper"] == count
    assert row_of(status, "all")["expected_paper"] is None
    assert all(row["claimed"] is None for row in status if row["source"] != "public")


def test_every_number_of_a_source_is_told(status):
    row = row_of(status, "lits")
    assert row == {
        "source": "lits",
        "name": BY_ID["lits"].name,
        "kind": "public",
        "licence": "CC BY-NC-ND 4.0",
        "licence_verified": BY_ID["lits"].licence_verified,
        "found": 201,
        "reserved": 70,
        "expected_paper": 130,
        "expected_official": 131,
        "expected_reserved": 70,
        "difference_paper": 71,
        "difference_official": 0,
        "difference_reserved": 0,
        "read": 200,
        "kept": 69,
        "in_cases": 200,
        "unlabelled": 70,
        "excluded": "DUPLICATE 131; GZIP_CRC 1",
        "copies_of": "msd_ct 131",
        "repaired": "spacing_from_copy 20",
        "warned": "",
        "missing": "",
        "claimed": None,
    }
    assert row_of(status, "msd_ct")["excluded"] == "LABEL_CUT 1; MERGE 1; NOT_CT 1"
    assert row_of(status, "msd_ct")["warned"] == "SHORT 3"
    assert row_of(status, "ircadb")["kind"] == "test"
    assert row_of(status, "ircadb")["copies_of"] == "msd_ct 20"
    assert row_of(status, "private")["excluded"] == "NO_HU 3"
    assert row_of(status, "private")["unlabelled"] == 2


def test_totals_are_sums_and_absent_sources_are_no_zeros(status):
    absent = row_of(status, "kits23")
    assert absent["found"] is absent["kept"] is absent["difference_paper"] is None
    assert absent["expected_paper"] == 489
    rows = [row for row in status if row["kind"] != "total"]
    assert len(rows) == len(SOURCES)
    everything, public = row_of(status, "all"), row_of(status, "public")
    assert everything["found"] == 201 + 131 + 20 + 4
    assert public["found"] == 201 + 131 and public["difference_paper"] is None
    for name in ("excluded", "copies_of", "repaired", "warned"):
        parts = Counter()
        for row in rows:
            for part in filter(None, row[name].split("; ")):
                code, _, count = part.rpartition(" ")
                parts[code] += int(count)
        assert everything[name] == "; ".join(f"{k} {v}" for k, v in sorted(parts.items()))


def test_counts_close_for_every_source(run, status):
    """Every scan that was found was read or left out."""
    _, _, excluded = run
    unread = Counter(row["id"].split("_")[0] for row in excluded
                     if row["code"] in ("GZIP_CRC", "NO_HU"))  # fmt: skip
    for source in ("lits", "private", "ircadb"):
        row = row_of(status, source)
        assert row["found"] == row["read"] + unread[source]


def test_missing_cases_are_those_that_the_description_names(run):
    listings, _, _ = run
    assert missing_cases(BY_ID["lits"], listings["lits"]["scans"]) == []
    some = [scan for scan in listings["lits"]["scans"] if scan["source_case"] not in ("28", "47")]
    assert missing_cases(BY_ID["lits"], some) == ["28", "47"]
    assert missing_cases(BY_ID["private"], []) == []
    named = BY_ID["ct_org"].reserved_cases
    assert set(missing_cases(BY_ID["ct_org"], [])) >= {c for cases in named.values() for c in cases}


def test_rows_go_to_the_source_with_the_longest_fitting_name(run):
    _, scans, _ = run
    rows = [left_out(name, "X") for name in (
        "abdomenct1k_Case_1", "abdomenatlas11/BDMAP_1/x.nii.gz", "lits_9__msd_ct_liver_9",
        "nowhere_1", "msd_ct_liver_1/liver", "BDMAP_00000900",
    )]  # fmt: skip
    found = excluded_by_source(rows, SOURCES, scans)
    told = {row["id"]: source for source, own in found.items() for row in own}
    assert told == {
        "abdomenct1k_Case_1": "abdomenct1k",
        "abdomenatlas11/BDMAP_1/x.nii.gz": "abdomenatlas11",
        "lits_9__msd_ct_liver_9": "lits",
        "msd_ct_liver_1/liver": "msd_ct",
        "BDMAP_00000900": "lits",
    }


OVERLAP = {"same": 0, "crop": 0, "resample": 0, "overlap": 0, "chain": 0, "patient": 0}
OVERLAPS = [
    {"source": "lits", "other": "msd_ct", "scans": 131, **OVERLAP, "same": 131},
    {"source": "lits", "other": "ircadb", "scans": 19, **OVERLAP, "same": 18, "chain": 1},
    {"source": "lits", "other": "private", "scans": 1, **OVERLAP, "overlap": 1, "patient": 2},
]


@pytest.fixture
def page(run, status, tmp_path):
    _, scans, excluded = run
    path = tmp_path / "sources.html"
    write_sources_report(
        path,
        sources=SOURCES,
        status=status,
        scans=scans,
        excluded=excluded,
        overlaps=OVERLAPS,
        template=ROOT / "resources/report/sources.html.jinja",
    )
    return path.read_text(encoding="utf-8")


def test_the_page_shows_every_source_and_the_papers_sum(page):
    rows = Page(page).rows
    assert 'name="viewport"' in page and "@media print" in page
    assert "11,944" in page and "9,901" in page
    for source in SOURCES:
        assert f'id="{source.id}"' in page
    assert "4 of 20" in page
    lits = next(row for row in rows if row[0] == "lits")
    assert lits[1:9] == ["201", "130+71", "131±0", "70±0", "200", "69", "200", "70"]
    assert lits[9] == "131DUPLICATE, 1GZIP_CRC"
    assert next(row for row in rows if row[0] == "kits23")[-1] == "not in this run"
    assert next(row for row in rows if row[0] == "all sources")[1] == "356"


def test_the_page_sets_what_is_documented_beside_what_was_found(page):
    section = page.split('id="lits"')[1].split("</section>")[0]
    assert "131 equal" in section and "18 equal, 1 through a third scan" in section
    assert "not documented" in section and "1 overlapping; 2 more of one patient" in section
    assert "and 111 more in <code>excluded.csv</code>" in section
    for defect in BY_ID["lits"].defects:
        assert defect.id in section
    defects = {row[0]: row[-1] for row in Page(page).rows if len(row) == 4}
    assert defects["identity-affine-28-47"] == "20"


def test_texts_are_escaped_and_the_page_is_reproducible(run, status, page, tmp_path):
    _, scans, excluded = run
    bad = [*excluded, left_out("lits_<script>", "EVIL<b>")]
    arguments = {"sources": SOURCES, "status": status, "scans": scans, "overlaps": OVERLAPS}
    template = ROOT / "resources/report/sources.html.jinja"
    write_sources_report(tmp_path / "a.html", excluded=bad, template=template, **arguments)
    text = (tmp_path / "a.html").read_text()
    Page(text)
    assert "EVIL&lt;b&gt;" in text
    write_sources_report(tmp_path / "b.html", excluded=excluded, template=template, **arguments)
    assert (tmp_path / "b.html").read_text() == page


def test_the_page_names_no_file_of_an_internal_source(run, status, tmp_path):
    _, scans, excluded = run
    path = {"reason": "private/DOE_JANE/ct: the slices are stacked askew"}
    rows = [*excluded, left_out("private_p1", "GANTRY_TILT") | path]
    rows += [left_out("private_p2", "SOME_OTHER") | path, left_out("lits_9", "CRC") | path]
    write_sources_report(
        tmp_path / "a.html",
        sources=SOURCES, status=status, scans=scans, excluded=rows, overlaps=OVERLAPS,
        template=ROOT / "resources/report/sources.html.jinja",
    )  # fmt: skip
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    section = text.split('id="private"')[1].split("</section>")[0]
    assert "GANTRY_TILT" in section and CHECKS["GANTRY_TILT"].meaning in section
    assert "SOME_OTHER" in section and "DOE_JANE" not in section
    assert text.count("DOE_JANE") == 1


def test_a_source_without_expectations_has_no_difference():
    source = replace(BY_ID["lits"], expected=Expected())
    listing = {"lits": {"scans": [listed("lits", "1")], "excluded": []}}
    row = source_status([source], listing, [], [])[0]
    assert row["difference_paper"] is row["difference_official"] is None
    assert row["found"] == 1 and row["read"] == 0
