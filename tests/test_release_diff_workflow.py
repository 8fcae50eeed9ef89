"""A release that is made again after one review differs by exactly what the review says."""

import shutil
from datetime import UTC, datetime

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.micro import RELEASE, config_with, snakemake
from tumoratlas.release.diff.releases import diff_releases
from tumoratlas.review.commands import withdraw

NEXT = "results/release/2.0.1"
CASE = "BDMAP_00000001"
LATER = "2026-06-01T12:00:00Z"


@pytest.fixture
def run(micro_run, tmp_path):
    """Return a copy of the finished run, which a test may change."""
    folder = tmp_path / "run"
    shutil.copytree(micro_run, folder, symlinks=True)
    return folder


def release_again(checkout, folder, tmp_path):
    """Make the next release of a run; return how it differs from the first."""
    release = {"previous": RELEASE, "max_excluded_fraction": 1.0}
    config = config_with(tmp_path / "next", version="2.0.1", release=release)
    made = snakemake(checkout, folder, "all", config=config)
    assert made.returncode == 0, made.stdout + made.stderr
    return diff_releases(folder / RELEASE, folder / NEXT)


def told(diff):
    return [(c.kind, c.case_id, c.organ, c.before, c.after.split(",")[0]) for c in diff.changes]


def test_one_review_changes_one_thing(micro_checkout, run, tmp_path):
    [event] = withdraw(
        run / "records", CASE, ["liver"], reviewer_id="R01", reason="wrong patient",
        now=datetime(2026, 6, 1, 12, tzinfo=UTC),
    )  # fmt: skip
    tumors = pd.read_csv(run / RELEASE / "tables/tumors.csv")
    [tumor] = tumors[(tumors.case_id == CASE) & (tumors.organ == "liver")].itertuples()
    diff = release_again(micro_checkout, run, tmp_path)
    assert [(change.kind, change.case_id, change.organ) for change in diff.changes] == [
        ("mask_state", CASE, "liver"), ("tumor_removed", CASE, "liver"),
    ]  # fmt: skip
    state, removed = diff.changes
    assert (state.before, state.after) == ("present", "unknown")
    assert removed.tumor_id == tumor.tumor_id
    for change in diff.changes:
        assert change.cause.events == (event.event_id,)
        assert change.cause.signers == ("R01",)
        assert change.cause.text == "withdraw by R01 (senior), 2026-06-01T12:00:00.000Z"
    moved = [row for row in diff.counts if row.before != row.after]
    assert [(row.organ, row.size_class, row.removed) for row in moved] == [
        ("liver", tumor.size_class, 1)
    ]
    rows = pd.read_csv(run / "results/report/diff.csv")
    assert rows.kind.tolist() == ["mask_state", "tumor_removed"]
    assert set(rows.events) == {event.event_id}
    changelog = (run / NEXT / "CHANGELOG.md").read_text()
    assert "1 mask with another state, 1 tumor removed." in changelog


def test_one_drawing_that_comes_back_adds_one_tumor(micro_checkout, run, tmp_path):
    returned = run / "records/returns/later"
    returned.mkdir()
    image = nib.load(run / RELEASE / f"ct/{CASE}/ct.nii.gz")
    drawn = np.zeros(image.shape, np.uint16)
    middle = tuple(slice(size // 2 - 2, size // 2 + 2) for size in image.shape)
    drawn[middle] = 1
    nib.save(nib.Nifti1Image(drawn, image.affine), returned / "drawn.nii.gz")
    form = pd.read_csv(run / "records/returns/b0001/decisions.csv", dtype=str)
    signed = (form.case_id == CASE) & (form.organ == "pancreas") & (form.decision == "sign_off")
    lines = pd.concat([form[signed], form[signed]])
    lines["decision"], lines["mask"] = ["add", "sign_off"], ["drawn.nii.gz", ""]
    lines["time"] = [LATER, LATER.replace(":00Z", ":05Z")]
    lines.to_csv(returned / "decisions.csv", index=False)
    diff = release_again(micro_checkout, run, tmp_path)
    assert told(diff) == [
        ("mask_state", CASE, "pancreas", "confirmed_empty", "present"),
        ("tumor_added", CASE, "pancreas", "", "64 voxels"),
    ]
    assert [event["decision"] for event in diff.events] == ["add", "sign_off"]
    for change in diff.changes:
        assert change.cause.events == tuple(event["event_id"] for event in diff.events)
        assert change.cause.signers == ("R01",)
    touched = {place for group in diff.files for place in group.examples if "BDMAP" in place}
    assert touched and all(CASE in place for place in touched)
