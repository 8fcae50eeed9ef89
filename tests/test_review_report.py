"""The report on review: what it shows of a small run, what it says where there is nothing."""

import re
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.test_leakage import Page
from tumoratlas.candidates.froc import froc_counts, froc_curve
from tumoratlas.candidates.thresholds import choose_threshold
from tumoratlas.core.files import write_json
from tumoratlas.core.records import append_lines
from tumoratlas.core.tables import SCHEMAS, write_csv, write_table
from tumoratlas.images.grid import Grid
from tumoratlas.report.facts import read_model_facts
from tumoratlas.report.figures import loss_figure, yield_figure
from tumoratlas.report.review import write_review_report
from tumoratlas.review.bases import record_bases, store_base
from tumoratlas.review.facts import read_review_facts
from tumoratlas.review.ledger import make_event
from tumoratlas.review.masks import load_mask, store_mask
from tumoratlas.review.merge.organ import merge_organ

SHAPE = (4, 8, 20)
GRID = Grid.of(SHAPE, np.eye(4))
CASES = [f"BDMAP_0000000{n}" for n in range(1, 7)]
ORGANS = ["liver", "pancreas"]
LEVELS = [0.1, 0.3, 0.5]
SETTINGS = {
    "organs": ORGANS,
    "size_edges_mm": [5, 10, 20],
    "max_voxels": 10_000,
    "bootstrap": 50,
    "seed": 1,
    "template": ROOT / "resources/report/review.html.jinja",
}


def candidate_map():
    """Return a map of three candidates."""
    array = np.zeros(SHAPE, np.uint16)
    for number in (1, 2, 3):
        array[1:3, 2:4, 3 * number - 2 : 3 * number] = number
    return array


def mask_with(*voxels):
    array = np.zeros(SHAPE, np.uint16)
    array[voxels] = 1
    return array


class Clock:
    """Makes events, each later than the one before."""

    def __init__(self, bases):
        self._bases, self._minute = bases, 0

    def __call__(self, case, candidate, decision, *, reader="S1", batch="b0001", **more):
        self._minute += 1
        facts = {"stage": "review", "role": "senior", "seconds": 6.0, "organ": "liver"} | more
        return make_event(
            case_id=CASES[case], candidate_id=candidate and f"{CASES[case]}-{candidate}",
            decision=decision, reviewer_id=reader, batch=batch,
            time=f"2026-11-21T{self._minute // 60:02d}:{self._minute % 60:02d}:00.000Z",
            base_sha256=self._bases[CASES[case], facts["organ"]].base_sha256, **facts,
        )  # fmt: skip


def small_run(folder):
    """Write the records and results of six cases, and return what the report reads of them.

    Case 0: two kept, one rejected as cyst, one added; read twice by S2, who agrees. Case 1: all
    rejected, and a full read finds a tumor. Case 2: readers differ. Cases 3 to 5: open, the
    last of them of a source that nobody has seen; the pancreas has no candidates.
    """
    records = folder / "records"
    store = records / "masks"
    bases = {
        (case_id, organ): store_base(
            store,
            case_id=case_id,
            organ=organ,
            candidates=candidate_map() if organ == "liver" else np.zeros(SHAPE, np.uint16),
            candidate_ids={n: f"{case_id}-{n}" for n in (1, 2, 3)} if organ == "liver" else {},
            grid=GRID,
        )
        for case_id in CASES
        for organ in ORGANS
    }
    record_bases(records / "bases.jsonl", bases.values())
    say = Clock(bases)
    second = {"reader": "S2", "batch": "b0002"}
    full = {"stage": "full_read", "reader": "S2", "batch": "b0003"}
    added = store_mask(store, mask_with(0, 6, slice(6, 9)), GRID)
    missed = store_mask(store, mask_with(3, 6, slice(1, 4)), GRID)
    events = [
        say(0, 1, "accept"), say(0, 2, "accept"), say(0, 3, "reject", reason="cyst"),
        say(0, None, "add", mask_sha256=added, seconds=60.0), say(0, None, "sign_off"),
        say(1, 1, "reject", reason="vessel"), say(1, 2, "reject"),
        say(1, 3, "reject", reason="vessel"), say(1, None, "sign_off"),
        say(2, 1, "accept"), say(2, 2, "reject"),
        say(0, 1, "accept", **second), say(0, 2, "accept", **second),
        say(0, 3, "reject", reason="cyst", **second), say(0, None, "sign_off", **second),
        say(2, 1, "reject", **second), say(2, 2, "reject", **second),
        say(1, None, "add", mask_sha256=missed, seconds=None, **full),
        say(1, None, "sign_off", seconds=300.0, **full),
    ]  # fmt: skip
    merged, masks, tumors = [], [], []
    for case_id in CASES:
        row = {"case_id": case_id, "instances": {}, "contests": {}, "inherited": {}}
        row["bases"] = {organ: bases[case_id, organ].base_sha256 for organ in ORGANS}
        for organ in ORGANS:
            settled = merge_organ(
                case_id=case_id,
                organ=organ,
                shape=SHAPE,
                source_lesions=None,
                candidates=candidate_map() if organ == "liver" else np.zeros(SHAPE, np.uint16),
                candidate_ids=bases[case_id, organ].candidates,
                events=[e for e in events if (e.case_id, e.organ) == (case_id, organ)],
                load_mask=lambda sha256: load_mask(store, sha256, max_voxels=10_000),
                bases=[bases[case_id, organ]],
            )
            facts = {name: getattr(settled, name) for name in ("state", "origin", "signed_by")}
            masks.append({"case_id": case_id, "organ": organ, "source": "", **facts})
            row["contests"][organ] = [asdict(contest) for contest in settled.contests]
            row["inherited"][organ] = dict(settled.inherited)
            row["instances"][organ] = {
                str(label): {"kind": settled.kinds[label], **asdict(lineage)}
                for label, lineage in settled.lineage.items()
            }
            tumors += [
                {"case_id": case_id, "organ": organ, "tumor_id": lineage.tumor_id,
                 "lesion_kind": "tumor", "is_fragment": False, "origin": lineage.origin,
                 "size_class": "tiny", "radius_mm": 2.0}
                for lineage in settled.lineage.values()
            ]  # fmt: skip
        merged.append(row)
    lines = [
        {"batch": batch, "kind": kind, "reviewer_id": reader, "case_id": CASES[case],
         "organs": ["liver"], "bases": {"liver": bases[CASES[case], "liver"].base_sha256},
         "rank": rank, "expected_per_minute": 1.0}
        for batch, kind, reader, cases in (
            ("b0001", "candidates", "S1", (1, 0, 2, 3)), ("b0002", "candidates", "S2", (0, 2)),
            ("b0003", "full", "S2", (1,)), ("b0004", "candidates", "S9", (4,)),
        )
        for rank, case in enumerate(cases, 1)
    ]  # fmt: skip
    lines[-1]["bases"] = {"liver": "0" * 64}
    append_lines(records / "batches.jsonl", lines)
    (records / "reviewers.csv").write_text("reviewer_id,role,name\nS1,senior,Ada\nS2,senior,Bo\n")
    write_models(records, folder)
    paths = {name: folder / f"{name}.parquet" for name in ("scans", "masks", "tumors", "reviews")}
    scans = [
        {"case_id": case_id, "source": "lits" if n < 5 else "private", "kept": True}
        for n, case_id in enumerate(CASES)
    ]
    rows = {"scans": scans, "masks": masks, "tumors": tumors}
    rows["reviews"] = [asdict(event) for event in events]
    for name, path in paths.items():
        write_table(path, name, rows[name])
    pending = {"id": f"{CASES[3]}/liver", "rule": "plan_review", "code": "NO_SECOND_READER",
               "reason": "nobody is left", "evidence": "", "remedy": "add a senior"}  # fmt: skip
    write_json(folder / "plan_review.json", {"outstanding": {}, "stale": [], "pending": [pending]})
    write_json(folder / "cases.json", {case_id: {"group": case_id} for case_id in CASES})
    read = read_review_facts(
        records, tables=paths, cases=folder / "cases.json", proposed=[], merged=[],
        plan=folder / "plan_review.json",
    )  # fmt: skip
    proposed = [
        {"candidate_id": f"{case_id}-{n}", "number": n, "case_id": case_id, "organ": "liver",
         "max_p": LEVELS[n - 1], "radius_mm": 2.0}
        for case_id in CASES
        for n in (1, 2, 3)
    ]  # fmt: skip
    table = pd.DataFrame(proposed, columns=SCHEMAS["candidates"].names)
    return replace(read, merged=merged, candidates=table)


def write_models(records, folder):
    """Write a registry, thresholds, curves and trainings: liver here, pancreas elsewhere."""
    rng = np.random.default_rng(0)
    counts = []
    for n in range(12):
        truth, levels = np.zeros(SHAPE, bool), rng.integers(0, 2, SHAPE).astype(np.uint8)
        levels[:, 1] = 0
        if n % 3:
            truth[1, 3, 3:6] = True
            levels[1, 3, 4] = 3 if n > 3 else 1
        counts.append(
            froc_counts(
                levels, truth, LEVELS, case_id=str(n), voxel_volume_mm3=1.0,
                searched_volume_mm3=640.0, minimum_volume_mm3=1, connectivity=26,
            )
        )  # fmt: skip
    curve = froc_curve(pd.concat(counts), bootstrap=20, seed=1)
    write_csv(folder / "curves/liver.csv", curve.to_dict("records"), list(curve.columns))
    choice = choose_threshold(curve, organ="liver", sensitivity=0.8)
    other = replace(choice, sensitivity=0.5, is_target_reached=False)
    append_lines(
        records / "thresholds.jsonl",
        [{"organ": "liver", "model_id": "ab" * 8, **asdict(choice)},
         {"organ": "pancreas", "model_id": "cd" * 8, **asdict(other)}],
    )  # fmt: skip
    folds = [{"fold": n, "training_groups": ["g"]} for n in range(2)]
    line = {"organ": "liver", "model_id": "ab" * 8, "folds": folds}
    unknown = [{"fold": 0, "training_groups": []}]
    outer = {"organ": "pancreas", "model_id": "cd" * 8, "folds": unknown}
    append_lines(records / "models.jsonl", [line, outer | {"external": {"licence": "CC <BY> 4.0"}}])
    for fold in range(2):
        history = [
            {"epoch": n, "train_loss": 0.5 - 0.01 * n, "val_loss": 0.55 - 0.008 * n + 0.05 * fold,
             "pseudo_dice": None}
            for n in range(100)
        ]  # fmt: skip
        record = {"organ": "liver", "fold": fold, "history": history}
        write_json(folder / f"train/liver/fold_{fold}/training.json", record)


def model_facts(folder):
    return read_model_facts(
        folder / "records", training=folder / "train", curves=folder / "curves",
        paper=ROOT / "resources/paper.csv",
    )  # fmt: skip


def write(path, models, review):
    write_review_report(path, models=models, review=review, **SETTINGS)
    text = path.read_text(encoding="utf-8")
    Page(text)
    return text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    review = small_run(folder)
    return model_facts(folder), review


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    return write(tmp_path_factory.mktemp("page") / "review.html", *run)


def rows_of(page, section):
    """Return the table rows between a heading with this id and the next."""
    body = page.split(f'id="{section}"')[1].split("<h2")[0].partition(">")[2]
    return Page(body.partition("</h2>")[2].replace("</main>", "").split("</body>")[0]).rows


def test_models_and_their_losses(page):
    liver, pancreas = rows_of(page, "models")[1:]
    assert liver[:6] == ["liver", "ab" * 8, "here", "2", "2", "100"]
    assert liver[6:] == ["-0.49, -0.49", "-0.242, -0.192", "out of fold"]
    assert pancreas[1:6] == ["cd" * 8, "elsewhere (CC <BY> 4.0)", "1", "0", "–"]
    assert pancreas[-1] == "chosen on cases that the model may have seen"
    assert page.count("<polyline") == 4 + 2  # training and validation of two folds; the order
    assert "CC &lt;BY&gt; 4.0" in page


def test_a_threshold_of_another_model_is_told(run, tmp_path):
    models, review = run
    choice = models.thresholds["liver"] | {"model_id": "ef" * 8}
    page = write(tmp_path / "a.html", replace(models, thresholds={"liver": choice}), review)
    assert rows_of(page, "models")[1][-1] == "chosen for another model"


def test_both_hit_rules_beside_the_paper(page):
    rows = rows_of(page, "thresholds")[1:]
    assert [row[:3] for row in rows] == [
        ["liver", "0.1", "any (chosen by)"],
        ["liver", "0.1", "iou"],
        ["pancreas", "0.1", "any (chosen by)"],
    ]
    assert rows[0][7] == "2(section 3.1)" and rows[2][7] == "1.2(section 3.1)"
    assert rows[2][3].startswith("50 %") and rows[2][8] == "80 % not reached"


def test_what_became_of_candidates(page):
    rows = rows_of(page, "work")
    liver = next(row for row in rows if row[0] == "liver" and len(row) == 14)
    # Two settled organs: 2 accepted, 4 rejected; case 2 is decided and not signed, 3 to 5 open.
    assert liver[1:] == ["6", "2", "18", "3", "2", "0", "0", "0", "0", "4", "0", "2", "10"]
    reasons = next(row for row in rows if row[0] == "liver" and len(row) == 8)
    assert reasons[1:] == ["4", "1", "2", "0", "0", "0", "1"]
    found = next(row for row in rows if row[0] == "liver" and len(row) == 6)
    assert found[1].startswith("33.3 %(") and found[2:4] == ["2", "2"]
    assert found[4].startswith("50 %(")


def test_time_and_what_it_saves(page):
    rows = rows_of(page, "work")
    work = {row[1]: row for row in rows if row[0] == "liver" and len(row) == 10}
    assert set(work) == {"screen", "draw", "full read", "all"}
    assert work["draw"][2:4] == ["1", "0"] and work["full read"][2:4] == ["2", "1"]
    paper = next(row for row in rows if row[0] == "the paper")
    assert paper[1:] == ["10,134", "5", "5", "49,825.5", "83"]
    assert "49,826" in page and "10,135" in page


def test_what_candidates_miss(page):
    rows = rows_of(page, "missed")
    found = next(row for row in rows if row[:2] == ["liver", "all"])
    assert found[2:8] == ["1", "0", "1", "0", "0", "1"] and found[8].startswith("0 %(0–")
    empty = {row[0]: row for row in rows if len(row) == 8}
    assert empty["liver"][1:5] == ["0", "1", "1", "100 %"]
    assert empty["pancreas"][5] == "100 %"


def test_agreement_and_what_is_contested(page):
    rows = rows_of(page, "agreement")
    calls = next(row for row in rows if row[0] == "liver" and len(row) == 11)
    assert calls[1:9] == ["2", "2", "5", "2", "2", "0", "1", "0"] and calls[9].startswith("80 %")
    tumors = next(row for row in rows if row[0] == "liver" and len(row) == 7)
    # Three of each reader's tumors; S1 drew one that S2 did not.
    assert tumors[1:4] == ["4", "2", "2"]
    contested = next(row for row in rows if row[0] == CASES[2])
    assert contested[2] == f"{CASES[2]}-1" and contested[4] == "S1, S2"
    assert "S1 (accept) and S2 (reject)" in contested[3]


def test_what_is_open(page):
    rows = rows_of(page, "open")
    batches = [row for row in rows if len(row) == 9 and row[0].startswith("b0")]
    # S1 has decided two of three candidates of case 2, and nothing of case 3.
    assert batches == [
        ["b0001", "candidates", "S1", "4", "2", "2", "2", "0", "0"],
        ["b0002", "candidates", "S2", "2", "1", "1", "1", "0", "0"],
    ]
    assert f"<code>b0004 {CASES[4]} liver</code>" in page
    assert next(row for row in rows if len(row) == 4 and row[0] != "which") == [
        f"{CASES[3]}/liver", "NO_SECOND_READER", "nobody is left", "add a senior",
    ]  # fmt: skip
    work = [row for row in rows if len(row) == 12][1:]
    assert work[0][:5] == ["1", CASES[2], "liver", "lits", "contested"]
    assert work[0][7].endswith(" in 20 s") and work[-1][10] == "1.73 × 1"
    assert len(work) == 4 + 6


def test_the_order_of_batches_beside_random_order(page):
    text = " ".join(page.split("What this order brought so far")[1].split())
    # Case 1 came first (24 s, nothing but what the full read found), case 0 next (108 s, 3).
    assert "3 tumors in 2 signed organs and 2.2 minutes, 1.36 per minute" in text
    assert "0 % of the area under the curve of the best order" in text


def test_an_empty_run_says_that_there_is_nothing(tmp_path):
    paths = {name: tmp_path / f"{name}.parquet" for name in ("scans", "masks", "tumors", "reviews")}
    for name, path in paths.items():
        write_table(path, name, [])
    write_json(tmp_path / "cases.json", {})
    review = read_review_facts(
        tmp_path / "records", tables=paths, cases=tmp_path / "cases.json", proposed=[], merged=[],
        plan=tmp_path / "plan_review.json",
    )  # fmt: skip
    page = write(tmp_path / "review.html", model_facts(tmp_path), review)
    for text in (
        "No model is registered and none was trained",
        "No threshold was chosen",
        "There are no candidates and no decisions yet",
        "No scan was read in full yet",
        "No organ was read by two reviewers yet",
        "Nothing is contested",
        "No batch was issued yet",
        "Nothing waits for review",
        "Too little was signed",
    ):
        assert text in page, text
    assert "<svg" not in page


def test_equal_inputs_give_equal_bytes_and_texts_are_escaped(run, page, tmp_path):
    models, review = run
    assert write(tmp_path / "a.html", models, review) == page
    shuffled = replace(
        review,
        merged=review.merged[::-1],
        candidates=review.candidates[::-1],
        masks=review.masks[::-1],
        tumors=review.tumors[::-1],
        sources=dict(reversed(review.sources.items())),
    )
    assert write(tmp_path / "b.html", models, shuffled) == page
    contest = {"candidate_id": "", "why": "<script>alert(1)</script>", "parties": ("S<1>",)}
    row = review.merged[3] | {"contests": {"liver": [contest]}}
    bad = replace(review, merged=[*review.merged[:3], row, *review.merged[4:]])
    text = write(tmp_path / "c.html", models, bad)
    assert "&lt;script&gt;" in text and "S&lt;1&gt;" in text


def test_the_page_names_no_person_and_no_place(run, page):
    _, review = run
    assert "Ada" not in page and str(review.store) not in page
    assert str(ROOT) not in page


def test_figures_stay_small_and_readable():
    epochs = 1000
    history = pd.DataFrame(
        {"organ": "liver", "fold": 0, "epoch": range(epochs), "pseudo_dice": 0.0}
        | {"train_loss": np.linspace(0.4, -0.83, epochs)}
        | {"val_loss": np.linspace(0.5, -0.7, epochs)}
    )  # fmt: skip
    figure = loss_figure("liver", history)
    assert len(figure) < 12_000
    ticks = re.findall(r'class="tick[^"]*"[^>]*>([^<]+)<', figure)
    assert ticks[:4] == ["-1", "-0.5", "0", "0.5"] and ticks[-1] == "1k"
    # One epoch, and no spread at all.
    one = history.head(1).assign(train_loss=0.5, val_loss=0.5)
    assert "NaN" not in loss_figure("liver", one) and "nan" not in loss_figure("liver", one)
    curve = pd.DataFrame({"minutes": [0.01], "tumors": [1.0]})
    assert "<polyline" in yield_figure(curve, curve)
