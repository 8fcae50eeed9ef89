"""The report of a release: complete, self-contained, escaped and reproducible."""

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
from tumoratlas.measure.counts import count_tumors
from tumoratlas.release.tables import ORDER, write_released
from tumoratlas.release.verify import verify_release
from tumoratlas.report.figures import froc_figure, organ_figure, radius_figure, size_figure
from tumoratlas.report.page import format_number
from tumoratlas.report.release import release_summary, write_report

PAPER = ROOT / "resources/paper.csv"


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
            paper=PAPER,
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


def test_the_page_is_whole_needs_nothing_and_is_reproducible(report):
    text = report()
    page = Page()
    page.feed(text)
    assert page.open == [] and page.fetched == []
    assert "<script" not in text and "url(" not in text and "@import" not in text
    assert 'name="viewport"' in text and "@media print" in text
    assert report() == text


def test_the_page_shows_counts_and_every_figure_of_the_paper_with_its_place(report):
    text = report()
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)]
    assert any(re.fullmatch(r"\|+liver\|+1\|+0\|+1\|+0\|+2\|+1\|+2\|+", row) for row in rows)
    for row in pd.read_csv(PAPER, keep_default_na=False).itertuples():
        if row.quantity != "source_scans":
            assert any(format_number(row.value) in r and row.place in r for r in rows), row
    assert "Verified." in text
    assert "130 or 131" in text  # scans of LiTS in the paper
    assert "NOT_UNDERSTOOD" in text and "sign_off" in text and "abababababababab" in text
    assert "paper: 2.0 (section 3.1)" in text
    assert "26-connected" in text and "14 mm" in text


def test_problems_are_shown_and_text_is_escaped(report, release, verification, tmp_path):
    folder = shutil.copytree(release, tmp_path / "copy")
    tables = {name: read_rows_of(folder / f"tables/{name}.parquet") for name in ORDER}
    tables["excluded"][0]["reason"] = "<script>alert(1)</script>"
    write_released(folder / "tables", tables)
    found = verify_release(folder)
    text = report(folder=folder, found=found)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "problems</strong>" in text and "SHA256: tables/excluded.csv" in text


def test_a_release_without_models_says_so(report):
    assert "No threshold was chosen" in report(curves={}, thresholds={})


def test_figures_are_drawn_from_their_numbers(release, curve_csv):
    counts = count_tumors(pd.DataFrame(read_rows_of(release / "tables/tumors.parquet")))
    curve = pd.read_csv(curve_csv)
    curve = curve[curve["rule"] == "any"]
    figures = {
        "size": size_figure(counts, "liver"),
        "organ": organ_figure(counts),
        "radius": radius_figure([1.0, 4.0, 70.0], [5, 10, 20]),
        "no radius": radius_figure([], [5, 10, 20]),
        "froc": froc_figure("liver", curve, CHOICE, 2.0),
    }
    trees = {name: ElementTree.fromstring(text) for name, text in figures.items()}
    bars = [bar for bar in trees["size"].iter("rect")]
    assert [float(bar.get("height")) > 0 for bar in bars] == [True, False, True, False]
    assert len(list(trees["organ"].iter("rect"))) == 6
    filled = [bar for bar in trees["radius"].iter("rect") if float(bar.get("height")) > 0]
    assert len(filled) == 3
    assert len(trees["froc"].find("polyline").get("points").split()) == len(curve)
    for tree in trees.values():
        for mark in (*tree.iter("rect"), *tree.iter("circle")):
            place = float(mark.get("x") or mark.get("cx")), float(mark.get("y") or mark.get("cy"))
            assert 0 <= place[0] <= 320 and 0 <= place[1] <= 200


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
