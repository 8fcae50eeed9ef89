"""The report of a release: complete, self-contained, escaped and reproducible."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.small_release import CHOICE, make_release
from tumoratlas.candidates.froc import froc_curve
from tumoratlas.core.tables import read_rows_of
from tumoratlas.release.counts.definitions import definition_line
from tumoratlas.release.counts.files import FIGURES
from tumoratlas.release.tables import ORDER, write_released
from tumoratlas.release.verify.release import verify_release
from tumoratlas.report.figures import froc_figure
from tumoratlas.report.page import format_number, render_page
from tumoratlas.report.paper import read_paper
from tumoratlas.report.release import release_summary, write_report

PAPERS = sorted((ROOT / "resources").glob("paper*.csv"))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    work = tmp_path_factory.mktemp("report")
    return make_release(work, work / "out" / "2.0")


@pytest.fixture(scope="module")
def verification(release):
    return verify_release(release)


@pytest.fixture(scope="module")
def curve_csv(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = []
    for case in range(12):
        lesions = case % 3
        probability = rng.random(lesions)
        for rule in ("any", "iou"):
            for threshold in (0.1, 0.2, 0.5, 0.9):
                counts = {
                    "hits": int((probability > threshold / 2).sum()),
                    "false_positives": int(rng.poisson(3 * (1 - threshold))),
                    "candidates": 3,
                    "candidate_volume_mm3": 1.0,
                    "false_volume_mm3": 1.0,
                    "searched_volume_mm3": 1e5,
                }
                key = {"case_id": f"c{case}", "rule": rule, "threshold": threshold}
                rows.append({**key, "lesions": lesions, **counts})
    path = tmp_path_factory.mktemp("curves") / "liver.csv"
    froc_curve(pd.DataFrame(rows), bootstrap=50, seed=1).to_csv(path, index=False)
    return path


@pytest.fixture
def report(release, verification, curve_csv, tmp_path):
    def write(folder=release, found=verification, curves=None, thresholds=None):
        path = tmp_path / "report.html"
        write_report(
            path,
            release=folder,
            verification=found,
            curves={"liver": curve_csv} if curves is None else curves,
            thresholds={"liver": CHOICE} if thresholds is None else thresholds,
            paper=PAPERS,
            template=ROOT / "resources/report/release.html.jinja",
        )
        return path.read_text(encoding="utf-8")

    return write


class Page(HTMLParser):
    """Checks that tags close, and collects what the page would fetch."""

    void = {"meta", "br", "link", "img"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag, attributes):
        self.fetched += [v for k, v in attributes if k in ("src", "href", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def rows_of(text):
    """Return the text of every row of a table; cells are apart by bars."""
    return [
        html.unescape(re.sub(r"<[^>]+>", "|", row))
        for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    ]


def test_the_page_is_whole_needs_nothing_and_is_reproducible(report):
    text = report()
    page = Page()
    page.feed(text)
    assert page.open == [] and page.fetched == []
    assert "<script" not in text and "url(" not in text and "@import" not in text
    # The namespace of SVG is a name; nothing is fetched from there.
    assert set(re.findall(r"\w+://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert 'name="viewport"' in text and "@media print" in text and "max-width: 44rem" in text
    assert report() == text


def test_the_page_shows_counts_and_every_number_of_the_paper_with_place_and_reason(report):
    text = report()
    rows = rows_of(text)
    assert any(re.fullmatch(r"\|+liver\|+1\|+0\|+1\|+0\|+2\|+1\|+2\|+", row) for row in rows)
    paper = read_paper(PAPERS)
    for said in paper.numbers.itertuples():
        cells = (f"|{format_number(said.value)}|", said.place, said.explanation)
        assert any(all(cell in row for cell in cells) for row in rows), said
    for said in paper.contradictions.itertuples():
        cells = (f"{said.number}. {said.topic}", said.says, said.elsewhere, said.published)
        assert any(all(cell in row for cell in cells) for row in rows), said
    scans = next(row for row in rows if "CT scans" in row and "|10,135|" in row)
    assert "|3|" in scans and "|−10,132|" in scans  # ours, and the difference
    assert "Verified." in text
    assert "NOT_UNDERSTOOD" in text and "sign_off" in text and "abababababababab" in text
    assert "paper: 2.0 (section 3.1)" in text


def test_tables_1_and_6_stand_beside_the_papers(report):
    rows = rows_of(report())
    paper = read_paper(PAPERS)
    for said in paper.table1.itertuples():
        cells = (f"|{said.dataset} (paper)|", f"|{said.n_scans:,}|", f"|{said.n_tumors:,}|")
        assert any(all(cell in row for cell in cells) for row in rows), said
    assert any("|250.9|" in row and "95.2 K" in row for row in rows)
    # 72 slices are not none.
    assert any(re.match(r"\|+this release\|+–\|+3\|+0.072\|+4\|", row) for row in rows)
    for said in paper.table6.itertuples():
        cells = (f"|{said.component}|", f"|{said.n_scans:,}|", said.explanation)
        assert any(all(cell in row for cell in cells) for row in rows), said


def test_definitions_stand_with_every_table_of_counts_and_figure(report, release):
    text = report()
    definitions = json.loads((release / "definitions.json").read_text(encoding="utf-8"))
    parts = re.split(r'<h2 id="(\w+)">', text)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for name in ("tumors", "paper", "table1", "table6", "sources"):
        assert (
            html.escape(definition_line(definitions), quote=False).replace("'", "&#39;")
            in sections[name]
        ), name
    assert sections["figure4"].count('class="figure4"') == len(FIGURES)
    assert "26-connected" in sections["definitions"] and "14 mm³" in sections["definitions"]


def test_pooled_lesions_are_told_only_where_there_are_any(report, release, tmp_path):
    assert "pooled lesions" not in report()
    folder = shutil.copytree(release, tmp_path / "copy")
    path = folder / "counts/headline.csv"
    path.write_text(path.read_text().replace("pooled,,0", "pooled,,1"))
    assert "1 of the tumors are pooled lesions" in " ".join(report(folder=folder).split())


def test_problems_are_shown_and_text_is_escaped(report, release, verification, tmp_path):
    folder = shutil.copytree(release, tmp_path / "copy")
    tables = {name: read_rows_of(folder / f"tables/{name}.parquet") for name in ORDER}
    tables["excluded"][0]["reason"] = "<script>alert(1)</script>"
    write_released(folder / "tables", tables)
    found = verify_release(folder)
    text = report(folder=folder, found=found)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "problems</strong>" in text and "SHA256: tables/excluded.csv" in text


def test_what_is_left_out_counts_for_its_source(report, release, tmp_path):
    """By case and organ, by scan, and by a name that two sources might begin."""
    folder = shutil.copytree(release, tmp_path / "copy")
    tables = {name: read_rows_of(folder / f"tables/{name}.parquet") for name in ORDER}
    scan = next(row for row in tables["scans"] if row["source"] == "lits")
    facts = {"scan_id": "lits_b_1", "source": "lits_b", "kept": False, "case_id": None}
    tables["scans"].append(scan | facts)
    for subject, code in (("BDMAP_90000002/liver", "BY_ORGAN"), ("kits23_case_00030", "BY_SCAN"),
                          ("lits_b_77", "LONGER"), ("lits_77", "SHORTER")):  # fmt: skip
        tables["excluded"].append(tables["excluded"][0] | {"id": subject, "code": code})
    write_released(folder / "tables", tables)
    text = report(folder=folder).split('<h2 id="sources">')[1].split("<h2")[0]
    codes = {
        re.split(r"\|+", row)[1]: set(re.findall(r"[A-Z]+_?[A-Z]+(?=\|)", row))
        for row in rows_of(text)
    }
    assert codes["kits23"] == {"BY_ORGAN", "BY_SCAN"}
    assert codes["lits_b"] == {"LONGER"}
    assert "SHORTER" in codes["lits"] and "LONGER" not in codes["lits"]


def test_a_release_without_models_says_so(report):
    assert "No threshold was chosen" in report(curves={}, thresholds={})


def test_the_froc_figure_is_drawn_from_its_numbers(curve_csv):
    curve = pd.read_csv(curve_csv)
    curve = curve[curve["rule"] == "any"]
    tree = ElementTree.fromstring(froc_figure("liver", curve, CHOICE, 2.0))
    svg = "{http://www.w3.org/2000/svg}"
    assert len(tree.find(f"{svg}polyline").get("points").split()) == len(curve)
    (chosen,) = tree.iter(f"{svg}circle")
    assert 0 <= float(chosen.get("cx")) <= 320 and 0 <= float(chosen.get("cy")) <= 200


def test_the_summary_is_a_table_of_plain_text(release):
    counts = pd.read_csv(release / "counts/tumors_by_size.csv").to_dict("records")
    lines = release_summary(counts).splitlines()
    assert lines[0].split() == ["organ", "tiny", "small", "medium", "large", "all", "early"]
    assert lines[1].split() == ["liver", "1", "0", "1", "0", "2", "1"]
    assert lines[-1].split() == ["all", "2", "0", "2", "0", "4", "2"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(10135, "10,135"), (2.0, "2"), (1.375, "1.38"), (None, "–"), (float("nan"), "–"),
     (4700000, "4,700,000"), (123.4, "123")],
)  # fmt: skip
def test_numbers_are_written_for_people(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "+3"), (-10132, "−10,132"), (0, "±0"), (None, "–"), (float("nan"), "–")],
)
def test_differences_have_a_sign_or_are_a_dash(tmp_path, value, text):
    template = tmp_path / "page.jinja"
    template.write_text("{{ value | signed }}")
    assert render_page(template, {"value": value}) == text
