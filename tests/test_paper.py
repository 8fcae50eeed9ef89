"""What the paper says, and our counts of the same things: complete, placed, and counted twice."""

import csv
import re
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from tumoratlas.core.structures import tumor_structures
from tumoratlas.measure.instances import SIZE_CLASSES
from tumoratlas.measure.pooled import UNASSIGNED
from tumoratlas.release.counts.definitions import definition_line, definition_rows, size_edges
from tumoratlas.release.counts.figures import share_figure
from tumoratlas.release.counts.files import COUNTS, FIGURES, write_counts
from tumoratlas.report.paper import compare_numbers, compare_releases, compare_sources, read_paper

RESOURCES = ROOT / "resources"
PAPERS = [RESOURCES / f"paper{name}.csv" for name in ("", "_table1", "_table6", "_contradictions")]
ORGANS = list(tumor_structures())
DEFINITIONS = {
    "connectivity": 26,
    "minimum_volume_mm3": 14,
    "size_edges_mm": [5, 10, 20],
    "early_diameter_mm": 20,
}
SEEN = ("source", "accept", "add")
SOURCES = ("kits23", "lits", "private")


def tables_of(seed, *, cases=60, tumors=500):
    """Return random tables and the cases of a release; the last cases hold no tumor."""
    rng = np.random.default_rng(seed)
    names = [f"BDMAP_{n:08d}" for n in range(cases)]
    facts = [
        {"case_id": name, "source": SOURCES[n % 3], "slices": int(rng.integers(20, 900))}
        for n, name in enumerate(names)
    ]
    rows = []
    for number in range(tumors):
        # Whole and half millimetres: many radii lie on an edge.
        radius_mm = float(rng.integers(1, 230)) / 2
        kind = str(rng.choice(["tumor", "tumor", "lesion", "cyst"]))
        rows.append({
            "tumor_id": f"{number:016x}", "number": number, "organ": str(rng.choice(ORGANS)),
            "case_id": names[int(rng.integers(cases // 2))], "lesion_kind": kind,
            "radius_mm": radius_mm, "is_fragment": bool(rng.random() < 0.2),
            "size_class": SIZE_CLASSES[sum(radius_mm > e for e in (5, 10, 20))],
            "is_early": 2 * radius_mm < 20, "is_early_recist": bool(rng.random() < 0.3),
            "origin": "pooled" if kind == "lesion" else str(rng.choice(SEEN)),
        })  # fmt: skip
    masks = [
        {"case_id": name, "organ": organ, "released": True,
         "state": "present" if n < cases // 2 else "confirmed_empty",
         # The labels of every second liver come from elsewhere than the image.
         "source": "lits" if organ == "liver" and n % 2 else ""}
        for n, name in enumerate(names) for organ in ORGANS
    ]  # fmt: skip
    scans = [
        {"scan_id": f"{f['source']}_{n}", "source": f["source"], "case_id": f["case_id"],
         "kept": True}
        for n, f in enumerate(facts)
    ]  # fmt: skip
    scans.append({"scan_id": "lits_copy", "source": "lits", "case_id": names[0], "kept": False})
    sources = [
        {"source": "chaos", "name": "CHAOS", "kind": "public", "found": None},
        {"source": "kits23", "name": "KiTS23", "kind": "public", "found": 25},
        {"source": "lits", "name": "LiTS", "kind": "public", "found": 24},
        {"source": "private", "name": "ours", "kind": "private", "found": 20},
        {"source": "panorama", "name": "PANORAMA", "kind": "test", "found": 9},
        {"source": "all", "name": "all sources", "kind": "total", "found": 78},
    ]
    return {"sources": sources, "scans": scans, "masks": masks, "tumors": rows}, facts


def written(folder):
    """Return the rows of every CSV file of a folder, as texts."""
    found = {}
    for path in folder.glob("*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            found[path.stem] = list(csv.DictReader(file))
    return found


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    tables, cases = tables_of(1)
    folder = tmp_path_factory.mktemp("counts")
    write_counts(folder, tables=tables, cases=cases, definitions=DEFINITIONS)
    headline = [t for t in tables["tumors"] if t["lesion_kind"] != "cyst" and not t["is_fragment"]]
    return folder, written(folder), tables, {c["case_id"]: c for c in cases}, headline


def test_all_files_are_written_and_none_besides(counted):
    assert {path.name for path in counted[0].iterdir()} == set(COUNTS)


def test_organ_size_source_is_the_brute_force_count_with_zeros(counted):
    _, found, _, cases, headline = counted
    rows = found["tumors_by_organ_size_source"]
    keys = [(row["source"], row["organ"], row["size_class"]) for row in rows]
    organs = list(dict.fromkeys(row["organ"] for row in rows))
    assert keys == [(s, o, c) for s in SOURCES for o in organs for c in SIZE_CLASSES]
    tumors, early, recist, of_cases = Counter(), Counter(), Counter(), {}
    for t in headline:
        key = cases[t["case_id"]]["source"], t["organ"], t["size_class"]
        tumors[key] += 1
        early[key] += t["is_early"]
        recist[key] += t["is_early_recist"]
        of_cases.setdefault(key, set()).add(t["case_id"])
    for key, row in zip(keys, rows, strict=True):
        assert int(row["tumors"]) == tumors[key]
        assert int(row["early"]) == early[key]
        assert int(row["early_recist"]) == recist[key]
        assert int(row["cases"]) == len(of_cases.get(key, ()))


def test_early_tumors_and_headline_are_the_brute_force_counts(counted):
    _, found, tables, cases, headline = counted
    early = {row["organ"]: row for row in found["early_by_organ"]}
    for organ in (*ORGANS, "all"):
        own = [t for t in headline if organ in (t["organ"], "all")]
        assert int(early[organ]["tumors"]) == len(own)
        assert int(early[organ]["early"]) == sum(t["is_early"] for t in own)
        assert int(early[organ]["early_recist"]) == sum(t["is_early_recist"] for t in own)
    value = {(r["quantity"], r["subject"]): r["value"] for r in found["headline"]}
    tumor_cases = {t["case_id"] for t in headline}
    radii = [t["radius_mm"] for t in headline]
    assert value["scans", ""] == "60" and value["controls", ""] == "30"
    assert value["slices", ""] == str(sum(c["slices"] for c in cases.values()))
    assert value["tumor_scans", ""] == str(len(tumor_cases))
    assert value["undecided_scans", ""] == str(60 - 30 - len(tumor_cases))
    assert value["tumor_masks", ""] == str(len({(t["case_id"], t["organ"]) for t in headline}))
    assert value["cysts", ""] == str(sum(t["lesion_kind"] == "cyst" for t in tables["tumors"]))
    fragments = [t for t in tables["tumors"] if t["is_fragment"] and t["lesion_kind"] != "cyst"]
    assert value["fragments", ""] == str(len(fragments))
    # A cyst below the smallest volume is a cyst: every row is counted once.
    assert any(t["is_fragment"] and t["lesion_kind"] == "cyst" for t in tables["tumors"])
    parts = [int(value[name, ""]) for name in ("tumors", "cysts", "fragments")]
    assert sum(parts) == len(tables["tumors"])
    assert value["pooled", ""] == str(sum(t["origin"] == "pooled" for t in headline))
    assert float(value["smallest_radius_mm", ""]) == min(radii)
    assert float(value["largest_radius_mm", ""]) == max(radii)
    assert value["early", "colon"] == early["colon"]["early"]


def test_figure_4_is_the_brute_force_count_and_bins_agree_with_classes(counted):
    _, found, _, _, headline = counted
    for row in found["figure4a"]:
        own = sum(t["organ"] == row["organ"] for t in headline)
        assert int(row["tumors"]) == own
        assert float(row["share_percent"]) == pytest.approx(100 * own / len(headline), abs=5e-5)
    for row in found["figure4b"]:
        low, high = float(row["above_mm"]), float(row["to_mm"] or "inf")
        own = [t for t in headline if t["organ"] == row["organ"] and low < t["radius_mm"] <= high]
        assert int(row["tumors"]) == len(own)
    assert sum(int(row["tumors"]) for row in found["figure4b"]) == len(headline)
    bins = pd.DataFrame(found["figure4b"]).astype({"above_mm": float, "tumors": int})
    for row in found["figure4c"]:
        low, high = {"tiny": (0, 5), "small": (5, 10), "medium": (10, 20), "large": (20, 1e9)}[
            row["size_class"]
        ]
        own = bins[(bins["organ"] == row["organ"]) & bins["above_mm"].between(low, high, "left")]
        assert own["tumors"].sum() == int(row["tumors"])


def test_table_6_tells_labels_from_images_and_a_missing_source_from_none(counted):
    _, found, tables, cases, headline = counted
    rows = {row["source"]: row for row in found["table6"]}
    assert list(rows) == ["chaos", "kits23", "lits", "private", "all"]
    assert rows["chaos"]["found"] == "" and rows["chaos"]["kept"] == "0"
    assert (rows["lits"]["found"], rows["lits"]["read"], rows["lits"]["kept"]) == ("24", "21", "20")
    label_source = {(m["case_id"], m["organ"]): m["source"] for m in tables["masks"]}
    labelled = Counter(
        label_source[t["case_id"], t["organ"]] or cases[t["case_id"]]["source"]
        for t in headline
        if t["origin"] in ("source", "pooled")
    )
    for source in SOURCES:
        own = sum(cases[t["case_id"]]["source"] == source for t in headline)
        assert int(rows[source]["tumors"]) == own
        assert int(rows[source]["labelled_tumors"]) == labelled[source] > 0
    assert rows["lits"]["labelled_organs"] == "liver" and rows["kits23"]["labelled_organs"] == ""
    assert int(rows["all"]["tumors"]) == len(headline) and rows["all"]["found"] == "69"
    (ours,) = found["table1"]
    assert ours["n_tumors"] == str(len(headline)) and ours["n_hospitals"] == ""
    assert ours["tumor_in"] == "; ".join(ORGANS)
    assert ours["annotators"] == "AI, accepted by humans; human; source"


def test_files_depend_on_the_rows_alone_and_not_on_their_order(counted, tmp_path):
    folder, _, tables, cases, _ = counted
    shuffled = {name: rows[::-1] for name, rows in tables.items()} | {"sources": tables["sources"]}
    write_counts(
        tmp_path, tables=shuffled, cases=list(cases.values())[::-1], definitions=DEFINITIONS
    )
    for name in COUNTS:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    other, _ = tables_of(2)
    write_counts(tmp_path, tables=other, cases=list(cases.values()), definitions=DEFINITIONS)
    for name in FIGURES:
        assert (tmp_path / f"{name}.svg").read_bytes() != (folder / f"{name}.svg").read_bytes()


def test_figures_stand_alone_with_axes_and_all_definitions(counted):
    texts = {}
    for name in FIGURES:
        text = (counted[0] / f"{name}.svg").read_text(encoding="utf-8")
        tree = ElementTree.fromstring(text)
        assert tree.tag == "{http://www.w3.org/2000/svg}svg" and "<style>" in text
        assert not re.search(r"href|url\(|@import|<script", text)
        words = [e.text for e in tree.iter("{http://www.w3.org/2000/svg}text")]
        assert definition_line(DEFINITIONS) in " ".join(words)
        width, height = map(float, tree.get("viewBox").split()[2:])
        for mark in tree.iter("{http://www.w3.org/2000/svg}rect"):
            right = float(mark.get("x")) + float(mark.get("width"))
            low = float(mark.get("y")) + float(mark.get("height"))
            assert 0 <= float(mark.get("x")) <= right <= width + 0.1 and 0 <= low <= height
        texts[name] = words
    assert "share of tumors (%)" in texts["figure4a"]
    assert "radius of equal volume (mm)" in texts["figure4b"]
    assert {"tiny", "≤ 5", "5–10", "10–20", "> 20"} <= set(texts["figure4c"])


def test_a_release_without_tumors_has_all_files_with_zeros(tmp_path):
    tables, cases = tables_of(1, tumors=0)
    write_counts(tmp_path, tables=tables, cases=cases, definitions=DEFINITIONS)
    found = written(tmp_path)
    assert {row["tumors"] for row in found["figure4b"]} == {"0"} and len(
        found["figure4b"]
    ) % 41 == 0
    assert found["figure4a"][0]["share_percent"] == "" and found["table1"][0]["tumor_in"] == ""
    for name in FIGURES:
        ElementTree.fromstring((tmp_path / f"{name}.svg").read_text(encoding="utf-8"))


def test_an_unassigned_lesion_is_counted_and_drawn_and_none_is_not_drawn(counted, tmp_path):
    tables, cases = tables_of(1)
    tables["tumors"][0] |= {"organ": UNASSIGNED, "lesion_kind": "lesion", "origin": "pooled",
                            "is_fragment": False}  # fmt: skip
    write_counts(tmp_path, tables=tables, cases=cases, definitions=DEFINITIONS)
    shares = {row["organ"]: row["tumors"] for row in written(tmp_path)["figure4a"]}
    assert shares[UNASSIGNED] == "1"
    assert UNASSIGNED in written(tmp_path)["table1"][0]["tumor_in"]
    for name in FIGURES:
        assert f">{UNASSIGNED}<" in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert f">{UNASSIGNED}<" not in (counted[0] / f"{name}.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("tumors", "told"),
    [
        ({"liver": 1}, "1 tumor in 1 organ"),
        ({"liver": 1, UNASSIGNED: 1}, "2 tumors in 1 organ, 1 of them unassigned"),
        (dict.fromkeys([*ORGANS, UNASSIGNED], 1), "7 tumors in 6 organs, 1 of them unassigned"),
        ({"liver": 1200, "kidney": 34}, "1,234 tumors in 2 organs"),
        ({}, "0 tumors in 0 organs"),
    ],
)
def test_figure_4a_says_how_many_tumors_in_how_many_organs(tumors, told):
    names = [*ORGANS, *([UNASSIGNED] if UNASSIGNED in tumors else [])]
    numbers = [tumors.get(name, 0) for name in names]
    shares = pd.DataFrame({"organ": names, "tumors": numbers})
    shares["share_percent"] = 100 * shares["tumors"] / max(1, sum(numbers))
    assert f">{told}<" in share_figure(shares, DEFINITIONS)


def test_definitions_follow_the_configuration():
    rows = {row["definition"]: row["meaning"] for row in definition_rows(DEFINITIONS)}
    assert "26-connected" in rows["tumor"] and "14 mm³" in rows["smallest tumor"]
    assert rows["early"].endswith("20 mm") and rows["early, longest axis"].endswith("20 mm")
    changed = DEFINITIONS | {"connectivity": 6, "size_edges_mm": [4, 9, 15.5]}
    assert size_edges(changed) == "tiny ≤ 4 < small ≤ 9 < medium ≤ 15.5 < large (mm)"
    assert "6-connected" in definition_line(changed) and "15.5" in definition_line(changed)


def test_every_number_of_the_paper_has_a_place_and_an_explanation():
    paper = read_paper(PAPERS)
    for table in (paper.numbers, paper.table1, paper.table6):
        assert (table["place"].str.len() > 3).all() and (table["explanation"].str.len() > 10).all()
    assert not paper.numbers.duplicated(["quantity", "subject", "value"]).any()
    assert paper.values("scans", "") == [10135, 10136, 10134]
    assert paper.values("tumors", "") + paper.values("tumor_masks", "") == [15130, 13223, 10260]
    early = paper.numbers[paper.numbers["quantity"] == "early"].set_index("subject")["value"]
    assert early[""] == early[ORGANS].sum() == 11282
    total, *rows, private = paper.table6["n_scans"].tolist()
    assert (total, sum(rows), private) == (9901, 11944, 233)
    ids = {path.stem for path in (RESOURCES / "sources").glob("*.yaml")}
    assert set(paper.table6["source"]) <= ids and set(paper.table1["source"]) - {""} <= ids


def test_all_43_contradictions_are_there_with_what_is_published_instead():
    table = read_paper(PAPERS).contradictions
    assert table["number"].tolist() == list(range(1, 44))
    assert not table["topic"].duplicated().any()
    for name in ("topic", "says", "place", "elsewhere", "published"):
        assert (table[name].str.strip().str.len() > 2).all(), name
    joined = " ".join(table["says"] + table["elsewhere"])
    for fact in ("10,136", "10,134", "13,223", "10,260", "11,282", "11,944", "250.9 K", "102/131"):
        assert fact in joined


def test_numbers_stand_beside_ours_with_their_difference():
    paper = read_paper(PAPERS)
    rows = {row["label"]: row for row in compare_numbers(paper, {("scans", ""): 10134})}
    assert [said["difference"] for said in rows["CT scans"]["said"]] == [-1, -2, 0]
    assert rows["Hospitals"]["ours"] is None and rows["Hospitals"]["said"][0]["difference"] is None
    assert sum(len(row["said"]) for row in rows.values()) == len(paper.numbers)


def test_tables_1_and_6_hold_every_row_of_the_paper_and_ours(counted):
    paper = read_paper(PAPERS)
    folder = counted[0]
    first, *others = compare_releases(paper, pd.read_csv(folder / "table1.csv"))
    assert first["dataset"] == "this release" and first["countries"] is None
    assert [row["dataset"] for row in others] == paper.table1["dataset"].tolist()
    rows = compare_sources(paper, pd.read_csv(folder / "table6.csv"))
    assert [row["name"] for row in rows[:-1]] == paper.table6["component"].tolist()
    by_source = {row["source"]: row for row in rows}
    assert by_source["lits"]["found"] == 24 and by_source["lits"]["paper_scans"] == 130
    assert by_source["chaos"]["found"] is None and by_source["word"]["released"] is None
    assert rows[-1]["source"] == "all" and rows[-1]["found"] == 69
