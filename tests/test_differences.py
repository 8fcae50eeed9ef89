"""The first difference of two files is named in the terms of their content."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from tests.conftest import ROOT
from tumoratlas.candidates.levels import write_levels
from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import sha256_file, sha256_json
from tumoratlas.core.runner import MANIFEST_HEADER
from tumoratlas.images.arrays import read_array, write_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.reproduce.differences import first_difference
from tumoratlas.reproduce.outputs import locate, unequal_outputs
from tumoratlas.reproduce.replay import refuse_different
from tumoratlas.reproduce.tolerances import allowed, deviation, read_tolerances

GRID = Grid.of((3, 4, 5), np.diag([1.0, 1.0, 2.0, 1.0]))


def pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the same name in two folders."""
    paths = folder / "before" / name, folder / "after" / name
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    return paths


def place(before: Path, after: Path) -> tuple[str, str, str]:
    """Return where two files differ, and the values."""
    found = first_difference(before, after, before.name)
    assert found.file == before.name
    return found.place, found.before, found.after


def test_equal_files_have_no_difference(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "x.json")
    for path in (before, after):
        path.write_text('{"a": 1}')
    assert first_difference(before, after, "x.json") is None


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "x.json")
    before.write_text("{}")
    assert place(before, after) == ("file", "present", "absent")


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]}, ("$.a[1].b", "2", "3")),
        ({"a": 1}, {"a": 1, "b": 2}, ("$.b", "absent", "2")),
        ({"a": [1, 2]}, {"a": [1]}, ("$.a, length", "2", "1")),
        ({"a": 1}, {"a": 1.0}, ("$.a", "1", "1.0")),
        ({"a": 1, "b": {"c": None}}, {"a": 1, "b": {"c": "x"}}, ("$.b.c", "null", "x")),
    ],
)
def test_json_by_its_path(tmp_path: Path, one: dict, other: dict, told: tuple) -> None:
    before, after = pair(tmp_path, "x.json")
    before.write_text(json.dumps(one))
    after.write_text(json.dumps(other))
    assert place(before, after) == told


def test_json_lines_by_line_and_path(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "x.jsonl")
    before.write_text('{"a": 1}\n{"a": 2}\n')
    after.write_text('{"a": 1}\n{"a": 5}\n')
    assert place(before, after) == ("line 2, $.a", "2", "5")
    after.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    assert place(before, after)[0] == "number of lines"


def test_tables_by_row_and_column(tmp_path: Path) -> None:
    one = pd.DataFrame({"name": ["a", "b", "c"], "size": [1.0, None, 3.0], "at": [[1], [2], [3]]})
    other = one.copy()
    other.loc[2, "name"], other.at[1, "at"] = "d", [9]
    before, after = pair(tmp_path, "x.parquet")
    one.to_parquet(before)
    other.to_parquet(after)
    assert place(before, after) == ("row 1, column at", "[2]", "[9]")
    one.rename(columns={"size": "length"}).to_parquet(after)
    assert place(before, after) == ("columns.length", "absent", "double")
    one.iloc[:2].to_parquet(after)
    assert place(before, after) == ("number of rows", "3", "2")
    before, after = pair(tmp_path, "x.csv")
    one.to_csv(before, index=False)
    other.to_csv(after, index=False)
    assert place(before, after) == ("row 1, column at", "[2]", "[9]")


def test_volumes_by_voxel(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    changed = array.copy()
    changed[1, 2, 3], changed[2, 0, 0] = -7, 0
    before, after = pair(tmp_path, "x.nii.gz")
    write_nifti(before, array, GRID)
    write_nifti(after, changed, GRID)
    assert place(before, after) == ("voxel 1, 2, 3 (z, y, x)", "33", "-7")
    before, after = pair(tmp_path, "x.b2nd")
    write_array(before, array, model="a")
    write_array(after, changed, model="a")
    assert place(before, after) == ("voxel 1, 2, 3 (z, y, x)", "33", "-7")
    write_array(after, changed, model="b")
    assert place(before, after) == ("facts.model", "a", "b")
    write_array(after, array.astype(np.int32), model="a")
    assert place(before, after)[0] == "type and shape"


def test_equal_voxels_in_other_bytes_are_told_by_their_bytes(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "x.nii.gz")
    write_nifti(before, np.zeros((3, 4, 5), np.int16), GRID)
    after.write_bytes(gzip.compress(gzip.decompress(before.read_bytes()), 9))
    assert place(before, after)[0].startswith("byte ")


def test_damaged_files_are_told_by_their_bytes(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "x.b2nd")
    write_array(before, np.arange(60, dtype=np.int16))
    data = bytearray(before.read_bytes())
    data[50] ^= 255
    after.write_bytes(data)
    assert place(before, after)[0] == "byte 50"
    before, after = pair(tmp_path, "x.html")
    before.write_text("<p>all is well</p>")
    after.write_text("<p>all is lost</p>")
    assert place(before, after) == ("byte 10", "well</p>", "lost</p>")


def test_weights_by_tensor(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "x.safetensors")
    save_file({"a": np.zeros(3, np.float32), "b": np.ones((2, 2), np.float32)}, before)
    save_file({"a": np.zeros(3, np.float32), "b": np.full((2, 2), 2, np.float32)}, after)
    assert place(before, after) == ("tensor b[0, 0]", "1.0", "2.0")


def shard(base: Path, rows: dict[str, int], voxel: int = 0, organ: str = "liver") -> str:
    """Write a finished shard of level maps and return its manifest's name."""
    lines = [MANIFEST_HEADER]
    for name, row in rows.items():
        folder = base / "stage/rule" / name
        folder.mkdir(parents=True)
        levels = np.zeros((3, 4, 5), np.uint8)
        levels[2, 1, 1] = voxel
        write_levels(folder / "levels.b2nd", levels, [0.1, 0.5, 0.9], GRID, "m")
        facts = {"organ": organ, "reached_voxels": row}
        record = {"id": name, "key": f"{base}", "row": facts, "excluded": None}
        (folder / "record.json").write_text(json.dumps(record))
        hashes = {"row": sha256_json(facts), "levels.b2nd": sha256_file(folder / "levels.b2nd")}
        lines.append(f"{name}\tok\t\t{json.dumps(hashes, sort_keys=True)}")
    (base / "stage/rule/s0000.tsv").write_text("\n".join(lines) + "\n")
    return "stage/rule/s0000.tsv"


def record_of(base: Path, name: str) -> dict:
    """Return the record of a job with this output."""
    return {"outputs": {name: {"sha256": sha256_file(base / name)}}}


def test_a_manifest_leads_to_the_file_and_voxel(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "scratch"
    name = shard(run, {"a": 0, "b": 0})
    shard(folder, {"a": 0, "b": 0})
    job = record_of(run, name)
    assert list(unequal_outputs(job, run, folder)) == []
    shard(tmp_path / "other", {"a": 0, "b": 0}, voxel=3)
    found = list(unequal_outputs(job, run, tmp_path / "other"))
    assert [u.is_altered for u in found] == [False] * 3
    assert str(locate(found[0], run, tmp_path / "other")) == (
        "stage/rule/a/levels.b2nd: voxel 2, 1, 1 (z, y, x): 0 became 3"
    )
    shard(tmp_path / "rows", {"a": 0, "b": 5})
    first = next(unequal_outputs(job, run, tmp_path / "rows"))
    told = locate(first, run, tmp_path / "rows")
    assert (told.file, told.place) == ("stage/rule/b/record.json", "$.row.reached_voxels")
    shard(tmp_path / "more", {"a": 0, "b": 0, "c": 0})
    first = next(unequal_outputs(job, run, tmp_path / "more"))
    assert first.name == "stage/rule/c/levels.b2nd"


def test_a_file_of_the_run_that_is_not_the_recorded_one_is_told(tmp_path: Path) -> None:
    """Bit rot in a file that only the manifest names."""
    run, folder = tmp_path / "run", tmp_path / "scratch"
    name = shard(run, {"a": 0, "b": 0})
    shard(folder, {"a": 0, "b": 0})
    job = record_of(run, name)
    path = run / "stage/rule/b/levels.b2nd"
    array, meta = read_array(path)
    array[0, 0, 4] = 2
    write_array(path, array, **meta)
    (found,) = unequal_outputs(job, run, folder)
    assert found.is_altered
    assert locate(found, run, folder).place == "voxel 0, 0, 4 (z, y, x)"


def test_an_excluded_scan_must_say_the_same(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "scratch"
    name = shard(run, {"a": 0})
    shard(folder, {"a": 0})
    path = folder / "stage/rule/a/record.json"
    path.write_text(path.read_text().replace('"excluded": null', '"excluded": {"reason": "x"}'))
    first = next(unequal_outputs(record_of(run, name), run, folder))
    assert locate(first, run, folder).place == "$.excluded"


def test_a_release_leads_to_its_file(tmp_path: Path) -> None:
    bases = tmp_path / "run", tmp_path / "scratch"
    for base, text in zip(bases, ("organ\nliver\n", "organ\ncolon\n"), strict=True):
        (base / "release").mkdir(parents=True)
        (base / "release/counts.csv").write_text(text)
        line = f"{sha256_file(base / 'release/counts.csv')}  counts.csv\n"
        (base / "release/SHA256SUMS").write_text(line)
    job = record_of(bases[0], "release/SHA256SUMS")
    found = list(unequal_outputs(job, *bases))
    assert [u.name for u in found] == ["release/counts.csv", "release/SHA256SUMS"]
    assert str(locate(found[0], *bases)) == (
        "release/counts.csv: row 0, column organ: liver became colon"
    )


def test_second_names_of_a_file_are_not_read(tmp_path: Path) -> None:
    """A release of a million files has the scans of the rule before, in the replay too."""
    bases = tmp_path / "run", tmp_path / "scratch"
    for base in bases:
        (base / "release").mkdir(parents=True)
        (base / "release/SHA256SUMS").write_text(f"{'0' * 64}  ct.nii.gz\n")
    (bases[0] / "release/ct.nii.gz").write_text("voxels")
    job = record_of(bases[0], "release/SHA256SUMS")
    (bases[1] / "release/ct.nii.gz").hardlink_to(bases[0] / "release/ct.nii.gz")
    assert list(unequal_outputs(job, *bases)) == []
    (bases[1] / "release/ct.nii.gz").unlink()
    assert next(unequal_outputs(job, *bases)).is_altered


def measured(run: Path, folder: Path, name: str) -> dict[str, float] | None:
    """Return the deviation of a replayed prediction."""
    files = [found.name for found in unequal_outputs(record_of(run, name), run, folder)]
    return deviation("predict_tumors", files, run, folder)


def test_level_maps_are_measured(tmp_path: Path) -> None:
    """Share of voxels and largest step, on real level maps; the row follows from them."""
    name = shard(tmp_path / "run", {"a": 0, "b": 0})
    shard(tmp_path / "near", {"a": 1, "b": 1}, voxel=1)
    assert measured(tmp_path / "run", tmp_path / "near", name) == {
        "voxel_share": 1 / 60,
        "level_step": 1,
    }
    shard(tmp_path / "far", {"a": 0, "b": 0}, voxel=3)
    assert measured(tmp_path / "run", tmp_path / "far", name)["level_step"] == 3
    path = tmp_path / "near/stage/rule/b/levels.b2nd"
    array, meta = read_array(path)
    write_array(path, array, **meta | {"model_id": "other"})
    assert measured(tmp_path / "run", tmp_path / "near", name) is None
    shard(tmp_path / "fewer", {"a": 0})
    assert measured(tmp_path / "run", tmp_path / "fewer", name) is None


def test_a_row_that_does_not_follow_from_the_levels_has_no_measure(tmp_path: Path) -> None:
    name = shard(tmp_path / "run", {"a": 0})
    shard(tmp_path / "near", {"a": 0}, voxel=1, organ="colon")
    assert measured(tmp_path / "run", tmp_path / "near", name) is None


def training(base: Path, losses: list[float], **facts: object) -> str:
    """Write what a training tells."""
    history = [{"epoch": n, "train_loss": x, "val_loss": 2 * x} for n, x in enumerate(losses)]
    base.mkdir(parents=True)
    (base / "training.json").write_text(json.dumps({"history": history, "fold": 0} | facts))
    return "training.json"


def test_trainings_are_measured_by_their_last_epochs(tmp_path: Path) -> None:
    losses = [1.0] * 18 + [0.5, 0.3]
    name = training(tmp_path / "a", losses)
    training(tmp_path / "b", [0.9] * 18 + [0.5, 0.5])
    found = deviation("train_model", [name], tmp_path / "a", tmp_path / "b")
    assert found == pytest.approx({"train_loss": 0.1, "val_loss": 0.2})
    training(tmp_path / "c", losses, fold=1)
    assert deviation("train_model", [name], tmp_path / "a", tmp_path / "c") is None
    training(tmp_path / "d", losses[1:])
    assert deviation("train_model", [name], tmp_path / "a", tmp_path / "d") is None


def test_only_gpu_rules_have_tolerances() -> None:
    """Every measure that is taken has a tolerance; on the CPU nothing has."""
    table = read_tolerances(ROOT / "resources/tolerances.csv")
    assert {row.device for row in table} == {"cuda"}
    assert all(row.tolerance > 0 and row.why for row in table)
    for rule, names in (
        ("predict_tumors", {"voxel_share", "level_step"}),
        ("train_model", {"train_loss", "val_loss"}),
    ):
        assert set(allowed(rule, {"device": "cuda"}, table)) == names
        assert allowed(rule, {"device": "cpu"}, table) == {}
    assert allowed("merge_masks", {}, table) == {}


def verdict(rule: str, word: str) -> dict[str, str]:
    """Return a verdict as replay_rule writes it."""
    return {"rule": rule, "verdict": word, "reason": "because"}


def test_a_release_requires_that_rules_repeat() -> None:
    good = [verdict("a", "equal"), verdict("b", "within_tolerance"), verdict("c", "not_replayed")]
    refuse_different(good, superseded=[])
    refuse_different([verdict("plan_review", "inputs_changed")], superseded=["plan_review"])
    for word in ("different", "failed", "inputs_changed"):
        with pytest.raises(ReleaseError, match=f"REPLAY_DIFFERENT: d: is {word}: because") as told:
            refuse_different([*good, verdict("d", word)], superseded=[])
        assert told.value.remedy
