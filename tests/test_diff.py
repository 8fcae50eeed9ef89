"""The difference of two releases: what changed, what caused it, and who signed it."""

import csv
import hashlib
import json
import random
import shutil
from html.parser import HTMLParser
from operator import itemgetter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT
from tests.small_release import make_release, relist
from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.tables import SCHEMAS, read_rows_of, write_parquet
from tumoratlas.release.diff.facts import CAUSES, KINDS
from tumoratlas.release.diff.releases import (
    changelog_text,
    diff_releases,
    diff_rows,
    write_diff_csv,
)
from tumoratlas.release.diff.text import NAMES, summary_text
from tumoratlas.release.tables import released_schema
from tumoratlas.report.diff import write_diff_report

LIVER, PRIVATE, KIDNEY = "BDMAP_00000001", "BDMAP_90000001", "BDMAP_90000002"
TEMPLATE = ROOT / "resources/report/diff.html.jinja"
HOSTILE = '<script>alert("x")</script>|`a`\n=1+1'
TUMOR_KINDS = tuple(kind for kind in KINDS if kind.startswith("tumor_"))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    work = tmp_path_factory.mktemp("diff")
    return make_release(work, work / "out" / "2.0")


@pytest.fixture
def variant(release, tmp_path):
    """Return a function that copies the release and edits tables, definitions and files."""
    made = []

    def vary(*, definitions=None, files=None, drop=(), **tables):
        folder = tmp_path / f"variant_{len(made)}"
        made.append(folder)
        shutil.copytree(release, folder)
        values = json.loads((folder / "definitions.json").read_text())
        values |= {"version": "2.0.1"} | (definitions or {})
        put(folder, "definitions.json", json.dumps(values).encode())
        for name, edit in tables.items():
            path = folder / f"tables/{name}.parquet"
            rows = read_rows_of(path) if path.exists() else []
            path.unlink(missing_ok=True)  # another name of the runner's file
            write_parquet(path, released_schema(name), edit(rows))
            relist(folder, path)
        for place, data in (files or {}).items():
            put(folder, place, data)
            if "voxel_hashes.csv" not in files:
                rehash(folder, place, data)
        for place in drop:
            forget(folder, place)
        return folder

    return vary


def put(folder, place, data):
    path = folder / place
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    relist(folder, path)


def rehash(folder, place, data):
    """List other voxels of a volume."""
    lines = (folder / "voxel_hashes.csv").read_text().splitlines()
    hashed = f"{place},{hashlib.sha256(data).hexdigest()}"
    lines = [hashed if line.startswith(f"{place},") else line for line in lines]
    put(folder, "voxel_hashes.csv", "".join(f"{line}\n" for line in lines).encode())


def forget(folder, prefix):
    """Take the files whose place begins like this out of a release."""
    sums = folder / "SHA256SUMS"
    lines = sums.read_text().splitlines()
    sums.unlink()
    sums.write_text("".join(f"{line}\n" for line in lines if not line[66:].startswith(prefix)))


def event(number, **facts):
    row = dict.fromkeys(SCHEMAS["reviews"].names, "")
    row |= {"schema": 1, "event_id": f"{number:064x}", "role": "senior", "reviewer_id": "R07"}
    row |= {"seconds": 5.0, "candidate_id": None, "time": f"2026-05-01T00:00:{number:02}.000Z"}
    return row | facts


def adding(*rows):
    return lambda old: [*old, *rows]


def changing(wanted, **facts):
    """Return an edit of the rows that hold some values."""

    def edit(rows):
        hit = [row for row in rows if wanted.items() <= row.items()]
        assert hit
        return [row | facts if row in hit else row for row in rows]

    return edit


def without(**wanted):
    return lambda rows: [row for row in rows if not wanted.items() <= row.items()]


def largest(release, case_id, organ):
    rows = read_rows_of(release / "tables/tumors.parquet")
    own = [row for row in rows if (row["case_id"], row["organ"]) == (case_id, organ)]
    return max(own, key=lambda row: row["voxels"])


def bigger(row, **facts):
    size = {"voxels": 2 * row["voxels"], "volume_mm3": 2 * row["volume_mm3"]}
    return changing({"tumor_id": row["tumor_id"]}, **size, **facts)


def only(diff):
    [change] = diff.changes
    return change


def conserved(diff):
    for row in diff.counts:
        assert row.before + row.added - row.removed + row.moved_in - row.moved_out == row.after
    for organ in {row.organ for row in diff.counts}:
        rows = [row for row in diff.counts if row.organ == organ]
        assert sum(row.moved_in for row in rows) == sum(row.moved_out for row in rows)


def test_equal_releases_differ_in_nothing(release, tmp_path):
    shutil.copytree(release, tmp_path / "copy")
    diff = diff_releases(release, tmp_path / "copy")
    assert diff.is_empty
    assert diff_rows(diff) == []
    assert (
        summary_text(diff).splitlines()[0] == "2.0 -> 2.0: No difference: every file is the same."
    )
    conserved(diff)


def test_another_version_of_equal_content_differs_in_files_only(release, variant):
    diff = diff_releases(release, variant())
    assert not diff.is_empty
    assert diff.changes == ()
    assert [(group.kind, group.changed) for group in diff.files] == [("document", 1)]
    assert "No case, mask, tumor, split or definition differs; 1 file does." in summary_text(diff)


def test_one_review_that_resizes_one_tumor_is_one_row(release, variant):
    tumor = largest(release, KIDNEY, "kidney")
    edit = event(1, case_id=KIDNEY, organ="kidney", decision="edit", mask_sha256="a" * 64,
                 candidate_id=tumor["tumor_id"])  # fmt: skip
    other = event(2, case_id=LIVER, organ="liver", decision="accept", candidate_id="b" * 16)
    new = variant(tumors=bigger(tumor), reviews=adding(edit, other))
    diff = diff_releases(release, new)
    [row] = diff_rows(diff)
    assert row["kind"] == "tumor_resized"
    assert (row["case_id"], row["organ"]) == (KIDNEY, "kidney")
    assert row["tumor_id"] == tumor["tumor_id"]
    assert row["before"].startswith(f"{tumor['voxels']} voxels")
    assert row["after"].startswith(f"{2 * tumor['voxels']} voxels")
    assert row["events"] == [edit["event_id"]]
    assert row["signers"] == ["R07"]
    assert row["cause"] == "edit by R07 (senior), 2026-05-01T00:00:01.000Z"
    assert {k: dict(v) for k, v in diff.effects().items()} == {
        edit["event_id"]: {"tumor_resized": 1}, other["event_id"]: {},
    }  # fmt: skip


def test_the_signature_is_named_with_the_edit_and_other_tumors_events_are_not(release, variant):
    tumor = largest(release, KIDNEY, "kidney")
    about = {"case_id": KIDNEY, "organ": "kidney"}
    events = [
        event(1, **about, decision="edit", role="junior", reviewer_id="R04",
              candidate_id=tumor["tumor_id"]),
        event(2, **about, decision="reject", candidate_id="c" * 16),
        event(3, **about, decision="sign_off"),
    ]  # fmt: skip
    change = only(diff_releases(release, variant(tumors=bigger(tumor), reviews=adding(*events))))
    assert change.cause.events == (events[0]["event_id"], events[2]["event_id"])
    assert change.cause.signers == ("R07",)
    assert "edit by R04 (junior)" in change.cause.text


def test_events_of_the_lineage_explain_a_tumor_that_no_candidate_names(release, variant):
    tumor = largest(release, KIDNEY, "kidney")
    about = {"case_id": KIDNEY, "organ": "kidney"}
    drawn = event(1, **about, decision="add")
    events = [drawn, event(2, **about, decision="reject", candidate_id="c" * 16)]
    new = tumor | {"tumor_id": "9" * 16, "number": 9, "events": [drawn["event_id"]]}
    diff = diff_releases(release, variant(tumors=adding(new), reviews=adding(*events)))
    change = only(diff)
    assert (change.kind, change.tumor_id) == ("tumor_added", "9" * 16)
    assert change.cause.events == (drawn["event_id"],)
    conserved(diff)


def test_an_undo_explains_the_tumor_that_it_takes_away(release, variant):
    tumor = largest(release, KIDNEY, "kidney")
    key = {"tumor_id": tumor["tumor_id"]}
    about = {"case_id": KIDNEY, "organ": "kidney"}
    drawn = event(1, **about, decision="add")
    undo = event(2, **about, decision="undo", base_sha256=drawn["event_id"])
    other = event(3, **about, decision="reject", candidate_id="c" * 16)
    old = variant(tumors=changing(key, events=[drawn["event_id"]]), reviews=adding(drawn))
    new = variant(tumors=without(**key), reviews=adding(drawn, undo, other))
    change = only(diff_releases(old, new))
    assert change.kind == "tumor_removed"
    assert change.cause.events == (undo["event_id"],)


def test_split_and_merge_name_parents_and_children(release, variant):
    rows = read_rows_of(release / "tables/tumors.parquet")
    liver = [row for row in rows if (row["case_id"], row["organ"]) == (LIVER, "liver")]
    one, two = liver[:2]
    about = {"case_id": LIVER, "organ": "liver"}
    split = event(1, **about, decision="split", candidate_id=one["tumor_id"])
    pieces = [one | {"tumor_id": letter * 16, "events": [split["event_id"]]} for letter in "ab"]
    new = variant(
        tumors=lambda t: [*without(tumor_id=one["tumor_id"])(t), *pieces], reviews=adding(split)
    )
    diff = diff_releases(release, new)
    told = {change.tumor_id: change.what for change in diff.of("tumor_added", "tumor_removed")}
    assert told == {
        one["tumor_id"]: f"split into {'a' * 16}, {'b' * 16}",
        "a" * 16: f"split from {one['tumor_id']}",
        "b" * 16: f"split from {one['tumor_id']}",
    }
    merges = [
        event(n, **about, decision="merge", candidate_id=row["tumor_id"])
        for n, row in enumerate((one, two), 1)
    ]
    ids = sorted(row["tumor_id"] for row in (one, two))
    joined = one | {"tumor_id": "a" * 16, "events": [row["event_id"] for row in merges]}
    new = variant(
        tumors=lambda t: [*(r for r in t if r["tumor_id"] not in ids), joined],
        reviews=adding(*merges),
    )
    told = {change.tumor_id: change.what for change in diff_releases(release, new).changes}
    assert told["a" * 16] == f"merged from {ids[0]}, {ids[1]}"
    assert {told[name] for name in ids} == {f"merged into {'a' * 16}"}


def test_equal_size_with_other_voxels_is_seen(release, variant):
    tumor = largest(release, LIVER, "liver")
    key = {"tumor_id": tumor["tumor_id"]}
    box = [tumor["bbox"][0] + 1, *tumor["bbox"][1:3], tumor["bbox"][3] + 1, *tumor["bbox"][4:]]
    change = only(diff_releases(release, variant(tumors=changing(key, bbox=box))))
    assert (change.kind, change.what) == ("tumor_reshaped", "bbox")
    change = only(diff_releases(release, variant(tumors=changing(key, mean_hu=1.5))))
    assert (change.kind, change.what) == ("tumor_reshaped", "mean_hu")


def test_the_last_digit_of_another_machine_is_no_change(release, variant):
    tumor = largest(release, LIVER, "liver")
    new = variant(
        tumors=changing({"tumor_id": tumor["tumor_id"]}, mean_hu=tumor["mean_hu"] * (1 + 1e-14))
    )
    assert diff_releases(release, new).changes == ()


def test_another_definition_explains_another_class(release, variant):
    tumor = largest(release, LIVER, "liver")
    new = variant(
        definitions={"size_edges_mm": [1, 2, 3]},
        tumors=changing({"tumor_id": tumor["tumor_id"]}, size_class="large"),
    )
    diff = diff_releases(release, new)
    [definition] = diff.of("definition_changed")
    assert (definition.what, definition.before) == ("size_edges_mm", "[5, 10, 20]")
    [change] = diff.of("tumor_changed")
    assert change.cause.kind == "definitions"
    assert "[5, 10, 20] → [1, 2, 3]" in change.cause.text
    moved = {row.size_class: (row.moved_in, row.moved_out) for row in diff.counts
             if row.organ == "liver"}  # fmt: skip
    assert moved["large"] == (1, 0)
    assert moved[tumor["size_class"]] == (0, 1)
    conserved(diff)


def test_other_numbers_from_equal_files_come_from_code(release, variant):
    tumor = largest(release, LIVER, "liver")
    new = variant(tumors=changing({"tumor_id": tumor["tumor_id"]}, max_3d_mm=99.0))
    change = only(diff_releases(release, new))
    assert (change.kind, change.cause.kind) == ("tumor_changed", "code")
    assert (change.after, change.what) == ("max_3d_mm 99", "max_3d_mm")


def test_a_change_that_nothing_explains_is_told_as_such(release, variant):
    tumor = largest(release, LIVER, "liver")
    place = f"label/{LIVER}/instances/liver.nii.gz"
    diff = diff_releases(release, variant(tumors=bigger(tumor), files={place: b"other"}))
    assert diff.unexplained == (only(diff),)
    assert "cause unknown: 1 of 1 changes" in summary_text(diff)
    assert "**Cause unknown**: 1 " in changelog_text(diff)


def test_a_changed_volume_without_a_changed_row_is_told(release, variant):
    files = {f"label/{LIVER}/instances/liver.nii.gz": b"other"}
    change = only(diff_releases(release, variant(files=files)))
    assert (change.kind, change.organ, change.cause.kind) == ("volume_changed", "liver", "unknown")


def test_another_model_explains_masks(release, variant):
    row = dict.fromkeys(SCHEMAS["candidates"].names)
    row |= {"candidate_id": "c" * 16, "case_id": KIDNEY, "organ": "colon", "voxels": 9}
    new = variant(
        candidates=adding(row),
        masks=changing({"case_id": KIDNEY, "organ": "colon"}, pending=["c: open"]),
    )
    change = only(diff_releases(release, new))
    assert (change.kind, change.what, change.cause.kind) == ("mask_changed", "pending", "model")
    models = (release / "models.csv").read_bytes().replace(b",0.2,", b",0.3,")
    [change] = diff_releases(release, variant(files={"models.csv": models})).changes
    assert (change.kind, change.organ) == ("model_changed", "liver")
    assert (change.before, change.after) == ("threshold 0.2", "threshold 0.3")


def test_a_state_is_told_with_its_signature(release, variant):
    signed = event(1, case_id=LIVER, organ="colon", decision="sign_off", reviewer_id="R03")
    new = variant(
        masks=changing({"case_id": LIVER, "organ": "colon"}, state="confirmed_empty"),
        reviews=adding(signed),
    )
    change = only(diff_releases(release, new))
    assert (change.kind, change.before, change.after) == (
        "mask_state", "unknown", "confirmed_empty",
    )  # fmt: skip
    assert change.cause.events == (signed["event_id"],)
    assert change.cause.signers == ("R03",)


def test_a_sources_new_label_is_the_sources(release, variant):
    label = event(1, case_id=LIVER, organ="colon", decision="source_label", role="source",
                  reviewer_id="lits", time="")  # fmt: skip
    new = variant(
        masks=changing({"case_id": LIVER, "organ": "colon"}, state="present"),
        reviews=adding(label),
    )
    cause = only(diff_releases(release, new)).cause
    assert (cause.kind, cause.text) == ("source", "source_label by lits (source)")


def test_a_case_that_came_or_went_tells_why(release, tmp_path):
    small = make_release(tmp_path, tmp_path / "out" / "2.0", cases=(LIVER, PRIVATE))
    diff = diff_releases(small, release)
    [added] = diff.of("case_added")
    assert added.case_id == KIDNEY
    assert "AFFINE_SINGULAR" in added.cause.text
    assert {c.case_id for c in diff.of("tumor_added")} == {KIDNEY}
    assert diff.unexplained == ()
    conserved(diff)
    diff = diff_releases(release, small)
    [gone] = diff.of("case_withdrawn")
    assert (gone.case_id, gone.before) == (KIDNEY, "kits23_case_00030")
    assert gone.cause.text == "AFFINE_SINGULAR: no inverse"
    removed = diff.of("tumor_removed")
    assert removed and all(change.cause == gone.cause for change in removed)
    conserved(diff)


def test_the_withdrawn_list_comes_first(release, variant, tmp_path):
    text = f"case_id,organ,code,reason,remedy\n{KIDNEY},,CASE_WITHDRAWN,a patient asked,\n"
    new = variant(files={"withdrawn.csv": text.encode()},
                  tumors=without(case_id=KIDNEY), masks=without(case_id=KIDNEY))  # fmt: skip
    for part in ("ct", "label"):
        forget(new, f"{part}/{KIDNEY}/")
    [gone] = diff_releases(release, new).of("case_withdrawn")
    assert gone.cause.text == "CASE_WITHDRAWN: a patient asked"


def test_another_image_and_organ_mask_are_told(release, variant):
    image, mask = f"ct/{LIVER}/ct.nii.gz", f"label/{LIVER}/segmentations/spleen.nii.gz"
    change = only(diff_releases(release, variant(files={image: b"other"})))
    assert (change.kind, change.what, change.cause.kind) == ("case_reimaged", "voxels", "code")
    scan = changing({"case_id": LIVER, "kept": True}, file_sha256="0" * 64)
    change = only(diff_releases(release, variant(files={image: b"other"}, crosswalk=scan)))
    assert change.cause.text == "the file of lits_12 is another one"
    change = only(diff_releases(release, variant(files={mask: b"other"})))
    assert (change.kind, change.what) == ("organ_masks_changed", "spleen")
    assert change.cause.kind == "unknown"


def test_equal_voxels_in_another_file_are_no_other_mask(release, variant):
    mask = f"label/{LIVER}/segmentations/spleen.nii.gz"
    hashes = f"path,voxel_sha256\n{mask},{'a' * 64}\n".encode()
    old = variant(files={"voxel_hashes.csv": hashes})
    diff = diff_releases(old, variant(files={"voxel_hashes.csv": hashes, mask: b"repacked"}))
    assert diff.changes == ()
    [group] = diff.files
    assert (group.kind, group.changed, group.same_voxels) == ("organ mask", 1, 1)


def test_moves_between_splits_are_told_by_scheme(release, variant):
    old = variant(splits=changing({"scheme": "iid", "case_id": PRIVATE}, split="train"))
    new = variant(
        splits=changing({"scheme": "iid", "case_id": PRIVATE}, split="reserved"),
        leakage=changing({"case_id": PRIVATE}, test_set="FLARE"),
    )
    change = only(diff_releases(old, new))
    assert (change.kind, change.case_id, change.what) == ("split_moved", PRIVATE, "iid")
    assert (change.before, change.after) == ("train", "reserved")
    assert change.cause.text == "it touches FLARE"
    place = {"scheme": "other", "case_id": LIVER, "split": "train", "group": LIVER}
    diff = diff_releases(old, variant(splits=lambda rows: [*rows, place]))
    assert "split other: only the newer release has it" in diff.notes
    assert not [change for change in diff.changes if change.what == "other"]


def test_licences_and_targets_explain_what_is_withheld(release, variant):
    row = {"case_id": LIVER, "file": "instances/liver.nii.gz", "kind": "mask", "sources": ["lits"],
           "licences": ["CC BY-NC-ND 4.0"], "internal": True, "labels_only": True, "full": True,
           "reasons": []}  # fmt: skip
    released = lambda value: lambda rows: [r | {"released": value} for r in rows]  # noqa: E731
    licence = lambda **facts: lambda _: [row | facts]  # noqa: E731
    old = variant(definitions={"target": "full"}, licences=licence(), masks=released(True))
    new = variant(
        definitions={"target": "full"},
        licences=licence(full=False, reasons=["altered"]),
        masks=lambda rows: changing({"case_id": LIVER, "organ": "liver"}, released=False)(
            released(True)(rows)
        ),
        tumors=without(case_id=LIVER),
    )
    diff = diff_releases(old, new)
    [change] = diff.of("licence_changed")
    assert (change.what, change.before, change.after) == (
        "1 mask file of lits",
        "full True",
        "full no",
    )
    withheld = diff.of("mask_changed", "tumor_removed")
    assert {change.cause.kind for change in withheld} == {"licence"}
    assert all("altered" in change.cause.text for change in withheld)
    conserved(diff)


def test_a_lost_event_is_of_unknown_cause(release, variant):
    change = only(diff_releases(release, variant(reviews=without(case_id=KIDNEY))))
    assert (change.kind, change.case_id, change.organ) == ("events_lost", KIDNEY, "pancreas")
    assert change.cause.kind == "unknown"


def test_numbers_of_instances_are_one_row(release, variant):
    rows = read_rows_of(release / "tables/tumors.parquet")
    own = [row for row in rows if row["case_id"] == LIVER]
    new = variant(
        tumors=lambda old: [r | {"number": r["number"] + 5 * (r["case_id"] == LIVER)} for r in old]
    )
    change = only(diff_releases(release, new))
    assert change.kind == "tumors_renumbered"
    assert change.what == f"{len(own)} in the instance map"


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_conserved(release, variant, seed):
    rng = random.Random(seed)

    def shaken(rows):
        kept = [dict(row) for row in rows if rng.random() < 0.7]
        for row in kept:
            if rng.random() < 0.5:
                row["size_class"] = rng.choice(("tiny", "small", "medium", "large"))
                row["is_fragment"] = rng.random() < 0.3
                row["voxels"] = rng.randrange(1, 99)
                row["lesion_kind"] = rng.choice(("tumor", "cyst", "lesion"))
        new = [dict(rng.choice(rows)) | {"tumor_id": f"{n:016x}"} for n in range(rng.randrange(6))]
        return kept + new

    old, new = variant(tumors=shaken), variant(tumors=shaken)
    diff = diff_releases(old, new)
    conserved(diff)
    rows = [read_rows_of(folder / "tables/tumors.parquet") for folder in (old, new)]
    assert sum(row.before for row in diff.counts) == len(rows[0])
    assert sum(row.after for row in diff.counts) == len(rows[1])
    # Every difference of the rows is in some change: those who are told make one of the other.
    key = itemgetter("case_id", "organ", "tumor_id")
    old_rows, new_rows = ({key(row): row for row in side} for side in rows)
    assert len(diff.of("tumor_added")) == len(new_rows.keys() - old_rows.keys())
    assert len(diff.of("tumor_removed")) == len(old_rows.keys() - new_rows.keys())
    both = old_rows.keys() & new_rows.keys()
    moved = sum(old_rows[k] != new_rows[k] for k in both)
    assert len(diff.of(*TUMOR_KINDS)) == moved + len(old_rows.keys() ^ new_rows.keys())


def test_the_order_of_rows_does_not_matter(release, variant):
    def shuffled(rows):
        return random.Random(1).sample(rows, len(rows))

    gone = without(case_id=KIDNEY, organ="kidney")
    plain = diff_rows(diff_releases(release, variant(tumors=gone)))
    mixed = diff_rows(
        diff_releases(release, variant(tumors=lambda rows: shuffled(gone(rows)), masks=shuffled))
    )
    assert plain and plain == mixed


def test_releases_of_other_versions_of_the_tables_are_compared(release, variant):
    old = variant(drop=("tables/licences.", "tables/leakage."))
    path = old / "tables/tumors.parquet"
    table = pq.read_table(path).drop_columns(["events", "perpendicular_mm"])
    path.unlink()
    pq.write_table(table, path)
    relist(old, path)
    tumor = largest(release, LIVER, "liver")
    for pair in ((old, variant(tumors=bigger(tumor))), (variant(tumors=bigger(tumor)), old)):
        diff = diff_releases(*pair)
        assert [change.kind for change in diff.changes] == ["tumor_resized"]
        notes = "; ".join(diff.notes)
        side = "older" if pair[0] == old else "newer"
        assert f"table leakage: the {side} release has none" in notes
        assert f"perpendicular_mm, events of table tumors: the {side} release has none" in notes
    table = pa.table({"case_id": ["a"]})
    path.unlink()
    pq.write_table(table, path)
    relist(old, path)
    diff = diff_releases(old, release)
    assert not diff.of(*TUMOR_KINDS)
    assert any("table tumors: the older release has no column" in note for note in diff.notes)


def test_a_folder_that_is_no_release_is_one_error(release, tmp_path, variant):
    with pytest.raises(ReleaseError, match="NO_RELEASE.*nowhere.*Give the folder") as error:
        diff_releases(release, tmp_path / "nowhere")
    assert "\n" not in str(error.value)
    (tmp_path / "SHA256SUMS").write_text("no hash\n")
    with pytest.raises(ReleaseError, match="is not a list of hashes"):
        diff_releases(tmp_path, release)
    for place in ("tables/tumors.parquet", "definitions.json"):
        with pytest.raises(ReleaseError, match=rf"NO_RELEASE: .*{place}: cannot be read"):
            diff_releases(release, variant(files={place: b"{broken"}))
    changed = variant()
    (changed / "definitions.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"CHANGED: .*definitions\.json"):
        diff_releases(release, changed)
    missing = variant()
    (missing / "tables/masks.parquet").unlink()
    with pytest.raises(ReleaseError, match=r"NO_RELEASE: .*masks\.parquet"):
        diff_releases(release, missing)


def test_a_tumor_that_is_listed_twice_is_one_error(release, variant):
    twice = variant(tumors=lambda rows: [*rows, rows[0]])
    with pytest.raises(ReleaseError, match="TABLE_KEY"):
        diff_releases(release, twice)


class Tags(HTMLParser):
    """Collects the tags of a page and what it would fetch."""

    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def hostile(release, variant):
    """Return a difference whose every text is hostile."""
    tumor = largest(release, LIVER, "liver")
    names = ("decision", "reviewer_id", "role", "time", "reason")
    evil = event(
        1, case_id=LIVER, organ="liver", candidate_id=tumor["tumor_id"],
        **dict.fromkeys(names, HOSTILE),
    )  # fmt: skip
    new = variant(
        definitions={"version": HOSTILE, HOSTILE: HOSTILE},
        tumors=bigger(tumor, size_class=HOSTILE, origin=HOSTILE),
        masks=changing({"case_id": LIVER, "organ": "colon"}, state=HOSTILE),
        splits=changing({"scheme": "iid", "case_id": PRIVATE}, split=HOSTILE),
        reviews=adding(evil),
        drop=("tables/relations.",),
    )
    return diff_releases(release, new)


def test_the_page_is_escaped_and_needs_nothing_else(hostile, tmp_path):
    path = tmp_path / "diff.html"
    write_diff_report(path, hostile, TEMPLATE)
    text = path.read_text(encoding="utf-8")
    page = Tags()
    page.feed(text)
    assert "script" not in page.tags
    assert page.links == []
    assert text.count("&lt;script&gt;") > 5
    write_diff_report(tmp_path / "again.html", hostile, TEMPLATE)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_hostile_texts_stay_in_their_cell_and_line(hostile, tmp_path):
    path = tmp_path / "diff.csv"
    write_diff_csv(path, hostile)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(hostile.changes)
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "+", "-", "@")]
    assert all(line.isprintable() for line in summary_text(hostile).splitlines())
    text = changelog_text(hostile)
    assert "<script" not in text.replace("\\<", "")
    assert "\n=1+1" not in text


def test_the_page_caps_its_tables_and_tells_so(release, variant, tmp_path):
    tumor = largest(release, LIVER, "liver")
    many = [tumor | {"tumor_id": f"{n:016x}", "number": n + 10} for n in range(400)]
    diff = diff_releases(release, variant(tumors=adding(*many)))
    path = tmp_path / "diff.html"
    write_diff_report(path, diff, TEMPLATE)
    text = path.read_text(encoding="utf-8")
    assert "The first 300 of 400 rows; the CSV holds all." in text
    assert "and 380 more" in changelog_text(diff)
    assert len(diff_rows(diff)) == 400


def test_every_kind_has_a_name_and_every_cause_is_known(hostile):
    assert set(NAMES) == set(KINDS)
    assert {change.cause.kind for change in hostile.changes} <= set(CAUSES)
    assert all(change.cause.text for change in hostile.changes)


def test_the_changelog_tells_what_went_and_why(release, tmp_path):
    small = make_release(tmp_path, tmp_path / "out" / "2.0", cases=(LIVER, PRIVATE))
    text = changelog_text(diff_releases(release, small))
    assert text.startswith("## 2.0\n\nCompared with 2.0: ")
    assert (
        f"### Cases withdrawn\n\n* case withdrawn, {KIDNEY}: kits23_case_00030 "
        "(AFFINE_SINGULAR: no inverse)\n" in text
    )
    assert "| kidney | not counted | 2 | 0 | 2 | 0 | 0 | 0 |" in text
