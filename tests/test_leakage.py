"""Every chain into a test set is found, told and reserved; unrelated cases stay free."""

import random
import re
from html.parser import HTMLParser

import pytest

from tests.conftest import ROOT
from tumoratlas.core.errors import ReleaseError
from tumoratlas.ingest.sources import read_source
from tumoratlas.release.leakage.audit import audit_leakage, refuse_leaks
from tumoratlas.release.splits.schemes import split_cases
from tumoratlas.report.leakage import write_leakage_report

OPTIONS = {
    "earlier": [], "seed": 7, "test_fraction": 0.1, "validation_fraction": 0.2, "folds": 5,
    "ood_sources": [], "scaling_sizes": [],
}  # fmt: skip
IRCADB_IN_LITS = [*range(28, 45), *range(46, 49)]


class World:
    """Scans and relations as ingest leaves them, made by hand."""

    def __init__(self):
        self.scans, self.relations, self.groups = [], [], {}

    def scan(self, scan_id, case_id=None, *, source=None, patient=None, reserved="", kept=False,
             role="pool", links=(), licence="CC BY 4.0", voxels=None):  # fmt: skip
        source = source or scan_id.rsplit("_", 1)[0]
        self.scans.append({
            "scan_id": scan_id, "source": source, "source_case": scan_id.removeprefix(f"{source}_"),
            "role": role, "reserved": reserved, "licence": licence, "links": list(links),
            "patient_key": patient or f"{source}/{scan_id}", "case_id": case_id, "kept": kept,
            "duplicate_group": f"g{scan_id}" if case_id is None else f"g{case_id}",
            "voxel_sha256": voxels or f"{len(self.scans):064x}",
        })  # fmt: skip
        return scan_id

    def test_scan(self, scan_id, name, **facts):
        return self.scan(scan_id, role="test_only", reserved=name, **facts)

    def relate(self, a, b, relation="same", outer=None):
        self.relations.append({"scan_a": a, "scan_b": b, "relation": relation, "outer": outer,
                               "evidence": f"{relation} on voxels"})  # fmt: skip

    def splits(self, reserved):
        """Split the cases; ``reserved`` holds the case ids that must not be trained on."""
        cases = sorted({scan["case_id"] for scan in self.scans} - {None})
        return split_cases(
            [{"case_id": c, "group": self.groups.get(c, c), "source": "lits", "sources": ["lits"],
              "strata": ["undecided"], "reserved": "some test set" if c in reserved else ""}
             for c in cases],
            **OPTIONS,
        ).rows  # fmt: skip

    def audit(self, reserved=(), listed=()):
        return audit_leakage(self.scans, self.relations, self.splits(reserved), listed)


def case(number):
    return f"BDMAP_{number:08d}"


def add_liver(world):
    """LiTS = MSD Task03, cropped in the parent release; 3D-IRCADb is in LiTS."""
    for n in range(20, 60):
        msd = world.scan(f"msd_ct_liver_{n}", case(n), source="msd_ct", kept=True)
        world.relate(world.scan(f"lits_{n}", case(n)), msd)
        parent = world.scan(f"abdomenatlas11_{case(n)}", case(n), source="abdomenatlas11")
        world.relate(parent, msd, "crop", outer=msd)
    for number, n in enumerate(IRCADB_IN_LITS, 1):
        ircadb = f"ircadb_3Dircadb1_{number}"
        world.relate(world.test_scan(ircadb, "3D-IRCADb", source="ircadb"), f"lits_{n}")


def add_pancreas(world):
    """MSD Task07 and Pancreas-CT are in PANORAMA; PANORAMA brings scans of its own."""
    for n in range(1, 9):
        msd = world.scan(f"msd_ct_pancreas_{n}", case(100 + n), source="msd_ct", kept=True)
        nih = world.scan(f"pancreas_ct_{n}", case(200 + n), kept=True)
        if n <= 5:
            for offset, pool in ((0, msd), (50, nih)):
                test = f"panorama_1{n + offset:05d}_00001"
                world.test_scan(test, "PANORAMA", source="panorama")
                world.relate(pool, test, "resample" if n == 5 else "same")
    for n in range(3):
        own = f"panorama_2{n:05d}_00001"
        world.test_scan(own, "PANORAMA", source="panorama", patient="panorama/200000")


@pytest.fixture
def world():
    world = World()
    add_liver(world)
    add_pancreas(world)
    return world


LIVER_CASES = {case(n) for n in IRCADB_IN_LITS}
PANCREAS_CASES = {case(base + n) for base in (100, 200) for n in range(1, 6)}
TOUCHED = LIVER_CASES | PANCREAS_CASES


def by_case(audit):
    return {row["case_id"]: row for row in audit.cases}


def test_every_ircadb_and_panorama_case_is_found_and_the_others_are_free(world):
    audit = world.audit(reserved=TOUCHED)
    rows = by_case(audit)
    assert len(rows) == len(audit.cases) == 40 + 16
    assert {c for c, row in rows.items() if row["test_set"]} == TOUCHED
    assert all(rows[c]["split"] == "reserved" for c in TOUCHED)
    assert rows[case(28)] == {
        "case_id": case(28),
        "split": "reserved",
        "test_set": "3D-IRCADb",
        "test_scan_id": "ircadb_3Dircadb1_1",
        "relation": "same",
        "path": "lits_28 = ircadb_3Dircadb1_1",
        "evidence": "lits_28, ircadb_3Dircadb1_1: same on voxels",
        "is_leak": False,
        "leaks_in": "",
    }
    assert rows[case(48)]["test_scan_id"] == "ircadb_3Dircadb1_20"
    assert rows[case(105)]["relation"] == "resample"
    free = rows[case(45)]
    assert free["relation"] == "none" and free["test_scan_id"] == free["path"] == ""
    assert free["evidence"] == (
        "no chain from its 3 scans and 0 linked scans leads to any of 33 test scans"
    )
    refuse_leaks(audit)


def test_every_test_scan_is_told_the_other_way_round(world):
    lost = {"scan_id": "panorama_9", "source": "panorama", "role": "test_only",
            "reserved": "PANORAMA"}  # fmt: skip
    audit = world.audit(reserved=TOUCHED, listed=[*world.scans, lost])
    tests = {row["test_scan_id"]: row for row in audit.tests}
    assert len(tests) == len(audit.tests) == 20 + 13 + 1
    assert tests["ircadb_3Dircadb1_18"]["case_id"] == case(46)
    assert tests["ircadb_3Dircadb1_18"]["pool_scan_id"] == "lits_46"
    assert tests["ircadb_3Dircadb1_18"]["split"] == "reserved"
    assert tests["panorama_200001_00001"]["relation"] == "none"
    assert tests["panorama_9"]["relation"] == "not read"


def test_the_chain_of_a_kept_copy_is_told_scan_by_scan():
    world = World()
    world.scan("msd_ct_liver_28", case(1), source="msd_ct", kept=True)
    world.scan("lits_28")  # left out, and of no case
    world.test_scan("ircadb_3Dircadb1_1", "3D-IRCADb", source="ircadb")
    world.relate("lits_28", "msd_ct_liver_28")
    world.relate("ircadb_3Dircadb1_1", "lits_28")
    row = world.audit(reserved={case(1)}).cases[0]
    assert row["path"] == "msd_ct_liver_28 = lits_28 = ircadb_3Dircadb1_1"
    assert row["relation"] == "chain"


def test_a_copy_under_another_id_is_found_through_the_parents_crop():
    world = World()
    world.scan("abdomenatlas11_BDMAP_00000007", case(7), source="abdomenatlas11", kept=True)
    world.scan("pants_PanTS_00009003", case(7), source="pants")
    world.scan("msd_ct_liver_3", None, source="msd_ct")
    world.test_scan("ircadb_2", "3D-IRCADb")
    whole = "msd_ct_liver_3"
    world.relate("abdomenatlas11_BDMAP_00000007", whole, "crop", outer=whole)
    world.relate("pants_PanTS_00009003", "abdomenatlas11_BDMAP_00000007", "crop",
                 outer="abdomenatlas11_BDMAP_00000007")  # fmt: skip
    world.relate(whole, "ircadb_2", "overlap")
    audit = world.audit(reserved={case(7)})
    assert audit.cases[0]["path"] == (
        "abdomenatlas11_BDMAP_00000007 inside msd_ct_liver_3 overlaps ircadb_2"
    )
    # The copy of the copy alone tells the whole chain.
    world.scans[0]["case_id"] = None
    assert world.audit(reserved={case(7)}).cases[0]["path"] == (
        "pants_PanTS_00009003 inside abdomenatlas11_BDMAP_00000007 inside msd_ct_liver_3 "
        "overlaps ircadb_2"
    )


def test_another_series_of_a_test_patient_touches_the_test_set():
    world = World()
    world.scan("rsna_atd23_10004_21057", case(1), source="rsna_atd23", kept=True,
               patient="rsna_atd23/10004")  # fmt: skip
    world.scan("rsna_atd23_10004_51033", case(2), source="rsna_atd23", kept=True,
               patient="rsna_atd23/10004")  # fmt: skip
    world.test_scan("uls23_5_lesion_01", "ULS23", source="uls23")
    world.relate("rsna_atd23_10004_51033", "uls23_5_lesion_01", "crop",
                 outer="rsna_atd23_10004_51033")  # fmt: skip
    world.groups = dict.fromkeys((case(1), case(2)), case(1))
    audit = world.audit(reserved={case(2)})  # one case reserves its group
    rows = by_case(audit)
    assert rows[case(1)]["split"] == rows[case(2)]["split"] == "reserved"
    assert rows[case(2)]["relation"] == "crop"
    assert rows[case(1)]["path"] == (
        "rsna_atd23_10004_21057 same patient as rsna_atd23_10004_51033 holds uls23_5_lesion_01"
    )
    assert "both of the patient rsna_atd23/10004" in rows[case(1)]["evidence"]
    assert [row["case_id"] for row in audit.tests] == [case(1), case(2)]


def test_the_names_of_private_patients_stay_private():
    world = World()
    world.scan("private_p1", case(1), source="private", licence="internal", patient="private/pA",
               links=["pSTUDY"])  # fmt: skip
    world.scan("private_p2", case(2), source="private", licence="internal", patient="private/pB",
               links=["pSTUDY"], reserved="our test set")  # fmt: skip
    world.groups = dict.fromkeys((case(1), case(2)), case(1))
    audit = world.audit(reserved={case(1), case(2)})
    rows = by_case(audit)
    assert rows[case(1)]["relation"] == "same patient"
    assert rows[case(2)]["relation"] == "itself" and rows[case(2)]["path"] == "private_p2"
    assert not re.search("pA|pB|STUDY", str(audit))


def test_equal_voxels_link_without_a_relation():
    world = World()
    world.scan("lits_1", case(1), kept=True, voxels="ab" * 32)
    world.test_scan("ircadb_1", "3D-IRCADb", voxels="ab" * 32)
    row = world.audit(reserved={case(1)}).cases[0]
    assert row["path"] == "lits_1 = ircadb_1" and row["relation"] == "same"
    assert row["evidence"] == "lits_1, ircadb_1: equal voxels abababababababab"


def test_a_refuted_pair_links_nothing():
    world = World()
    world.scan("lits_1", case(1), kept=True)
    world.test_scan("ircadb_1", "3D-IRCADb")
    world.relate("lits_1", "ircadb_1", "none")
    audit = world.audit()
    assert [row["test_set"] for row in audit.cases] == [""]
    assert audit.overlaps == []


def test_a_case_may_touch_two_test_sets():
    world = World()
    world.scan("lits_test-volume-5", case(1), source="lits", kept=True, reserved="LiTS test")
    world.test_scan("ircadb_1", "3D-IRCADb")
    world.relate("lits_test-volume-5", "ircadb_1")
    audit = world.audit(reserved={case(1)})
    told = [(row["test_set"], row["relation"]) for row in audit.cases]
    assert told == [("3D-IRCADb", "same"), ("LiTS test", "itself")]


@pytest.mark.parametrize("planted", [case(30), case(103), case(205)])
def test_a_planted_leak_is_found_and_refused(world, planted):
    audit = world.audit(reserved=TOUCHED - {planted})
    assert [row["case_id"] for row in audit.leaks] == [planted]
    assert re.search(r"fold fold_\d", audit.leaks[0]["leaks_in"])
    with pytest.raises(ReleaseError, match=f"LEAK: splits: 1 case .*{planted}") as caught:
        refuse_leaks(audit)
    assert audit.leaks[0]["path"] in caught.value.evidence


def test_the_audit_does_not_trust_groups(world):
    """Two scans of a patient in two groups are found, with no test set at hand."""
    world.scan("rsna_1_1", case(901), patient="rsna/1", kept=True)
    names = [case(900 + n) for n in range(2, 30)]
    for n, name in enumerate(names, 2):
        world.scan(f"rsna_1_{n}", name, patient="rsna/1", kept=True)
    audit = world.audit(reserved=TOUCHED)
    assert {row["scheme"] for row in audit.torn} == {"fold", "iid", "ood", "scaling"}
    assert all("same patient as" in row["path"] for row in audit.torn)
    assert audit.leaks == []
    with pytest.raises(ReleaseError, match="two sides of a split"):
        refuse_leaks(audit)
    world.groups = dict.fromkeys([case(901), *names], case(901))
    assert world.audit(reserved=TOUCHED).torn == []


def test_a_case_without_scans_proves_nothing():
    with pytest.raises(ReleaseError, match="LEAK"):
        audit_leakage([], [], [{"case_id": case(1), "scheme": "iid", "split": "train"}])


def test_long_chains_and_many_cases_are_told_in_part():
    world = World()
    names = [world.scan(f"long_{n}", case(n), kept=True) for n in range(40)]
    for one, other in zip(names, names[1:], strict=False):
        world.relate(one, other, "overlap")
    world.relate(names[0], world.test_scan("ircadb_1", "3D-IRCADb"))
    audit = world.audit({case(n) for n in range(40)})
    assert len(audit.tests) == 20 and {row["cases_touched"] for row in audit.tests} == {40}
    assert {row["case_id"] for row in audit.tests} == {case(n) for n in range(20)}
    assert all(row["test_set"] == "3D-IRCADb" for row in audit.cases) and len(audit.cases) == 40
    last = audit.cases[-1]["path"]
    assert last.startswith("long_39 overlaps long_38") and "... (28 more) ..." in last
    assert last.endswith("overlaps long_0 = ircadb_1")


def test_the_order_of_rows_is_of_no_consequence(world):
    for n, other in ((20, 25), (28, 30)):
        world.relate(f"lits_{n}", f"lits_{other}", "overlap")
    expected = world.audit(reserved=TOUCHED)
    for seed in range(3):
        random.Random(seed).shuffle(world.scans)
        random.Random(seed).shuffle(world.relations)
        for row in world.relations[::2]:
            row["scan_a"], row["scan_b"] = row["scan_b"], row["scan_a"]
        assert world.audit(reserved=TOUCHED) == expected


def test_overlaps_count_scans_by_their_closest_relation(world):
    world.scan("rsna_1_1", case(901), source="rsna", patient="rsna/1", kept=True)
    world.scan("rsna_1_2", case(902), source="rsna", patient="rsna/1", kept=True)
    found = {(row["source"], row["other"]): row for row in world.audit(TOUCHED).overlaps}
    numbers = ("scans", "same", "crop", "resample", "overlap", "chain", "patient")

    def counts(source, other):
        return tuple(found[source, other][name] for name in numbers)

    assert counts("lits", "ircadb") == counts("ircadb", "lits") == (20, 20, 0, 0, 0, 0, 0)
    assert counts("lits", "msd_ct") == (40, 40, 0, 0, 0, 0, 0)
    assert counts("abdomenatlas11", "msd_ct") == (40, 0, 40, 0, 0, 0, 0)
    assert counts("abdomenatlas11", "ircadb") == (20, 0, 0, 0, 0, 20, 0)
    assert counts("msd_ct", "panorama") == (5, 4, 0, 1, 0, 0, 0)
    assert counts("panorama", "pancreas_ct") == (5, 4, 0, 1, 0, 0, 0)
    assert counts("rsna", "rsna") == (0, 0, 0, 0, 0, 0, 2)
    assert counts("panorama", "panorama") == (0, 0, 0, 0, 0, 0, 3)
    assert ("lits", "panorama") not in found and ("lits", "lits") not in found


class Page(HTMLParser):
    """Checks that tags close, and collects what the page would fetch and its table rows."""

    void = {"meta", "br", "link", "img"}  # noqa: RUF012

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.rows = [], [], []
        self.feed(text)
        assert self.open == []
        assert all(place.startswith("#") for place in self.fetched)
        assert "<script" not in text and "url(" not in text and "@import" not in text

    def handle_starttag(self, tag, attributes):
        self.fetched += [v for k, v in attributes if k in ("src", "href", "action")]
        if tag not in self.void:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1] and "table" in self.open:
            self.rows[-1][-1] += " ".join(data.split())

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def write_page(world, tmp_path, reserved, listed=()):
    splits = world.splits(reserved)
    path = tmp_path / "leakage.html"
    write_leakage_report(
        path,
        audit=audit_leakage(world.scans, world.relations, splits, listed),
        splits=splits,
        scans=world.scans,
        sources=[read_source(p) for p in sorted((ROOT / "resources/sources").glob("*.yaml"))],
        template=ROOT / "resources/report/leakage.html.jinja",
    )
    return path.read_text(encoding="utf-8")


def test_the_page_tells_what_the_rows_say(world, tmp_path):
    text = write_page(world, tmp_path, TOUCHED)
    page = Page(text)
    assert 'name="viewport"' in text and "@media print" in text
    assert "No leak." in text and "56 released cases" in text
    assert ["3D-IRCADb", "20", "0", "20", "0", "20"] in page.rows
    assert ["PANORAMA", "13", "0", "10", "3", "10"] in page.rows
    audit = world.audit(TOUCHED)
    told = [row for row in page.rows if row and row[0].startswith(("ircadb_", "panorama_"))]
    assert sorted(row[0] for row in told) == [
        row["test_scan_id"] for row in audit.tests if row["case_id"]
    ]
    assert [row[0] for row in told[:3]] == [f"ircadb_3Dircadb1_{n}" for n in (1, 2, 3)]
    assert sum(row[:1] != [] and row[0].startswith("BDMAP_") for row in page.rows) == 56
    matrix = next(row for row in page.rows if row and row[0] == "lits(40)")
    assert matrix[1:] == ["40", "20", "·", "40", "·", "·"]
    for name in ("3D-IRCADb", "PANORAMA"):
        assert name in text
    assert write_page(world, tmp_path, TOUCHED) == text


def test_the_page_shows_leaks_and_what_was_not_looked_at(world, tmp_path):
    world.scans = [scan for scan in world.scans if scan["source"] != "panorama"]
    world.relations = [r for r in world.relations if not r["scan_b"].startswith("panorama")]
    lost = {"scan_id": "ircadb_lost<b>", "source": "ircadb", "role": "test_only",
            "reserved": "3D-IRCADb"}  # fmt: skip
    text = write_page(world, tmp_path, LIVER_CASES - {case(30)}, [lost])
    page = Page(text)
    assert "1 leak." in text and "No leak." not in text
    assert any(row[0] == case(30) and "fold_" in row[1] for row in page.rows if len(row) == 3)
    assert ["3D-IRCADb", "21", "1", "20", "0", "20"] in page.rows
    assert "ircadb_lost&lt;b&gt;" in text
    described = [read_source(p) for p in (ROOT / "resources/sources").glob("*.yaml")]
    names = {s.reserved_for or s.name for s in described if s.role == "test_only"}
    names |= {name for s in described for name in s.reserved_cases}
    assert all(name in text for name in names)


def test_a_run_without_test_sets_claims_nothing(tmp_path):
    world = World()
    world.scan("lits_1", case(1), kept=True)
    text = write_page(world, tmp_path, ())
    Page(text)
    assert "Nothing is proved" in text and "No leak." not in text
