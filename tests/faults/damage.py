"""Files that are no longer what was written: bit rot, cut, gone."""

import json
from functools import partial

from tests.faults.fault import fault
from tests.faults.processes import HARMONIZE, TARGET
from tests.faults.run import SUMS, VERIFIED, Run, Said, cut, flip, rewrite

PREDICTED = "results/candidates/predict_tumors"
PROPOSED = "results/candidates/propose_candidates"
MERGED = "results/review/merge_masks"
MEASURED = "results/measure/measure_tumors"
WRITTEN = "results/release/write_cases"
CASE = "BDMAP_00000001"

TOPIC = "Files"
rotten = partial(fault, topic=TOPIC)
REDONE = "the same command: the damaged scan is done again, then what failed"
REMADE = "the same command: the file is made again, then what failed"


def consume(run: Run, consumer: str) -> Said:
    """Run a rule that has to read what was damaged; then mend by running again."""
    run.drop(consumer)
    said = run.run(f"{consumer}/s0000.tsv")
    run.again(f"{consumer}/s0000.tsv")
    return said


def consume_linked(run: Run, consumer: str) -> Said:
    """As `consume`, for a file that has a second name in the release, which is damaged as well."""
    run.drop(consumer)
    said = run.run(f"{consumer}/s0000.tsv")
    assert run.command("check", "--directory", str(run.folder)).status == 1
    run.again(VERIFIED)
    assert run.command("check", "--directory", str(run.folder)).status == 0
    return said


CHECKED = "`tumoratlas check` finds its other names, then the same command"


@rotten("bit rot in a case's CT", sees="RESULT_DAMAGED", recovery=CHECKED)
def rot_ct(run: Run) -> Said:
    flip(run.folder / HARMONIZE / CASE / "ct.nii.gz")
    return consume_linked(run, MEASURED)


@rotten("bit rot in a case's CT before it is released", sees="RESULT_DAMAGED", recovery=CHECKED)
def rot_linked_ct(run: Run) -> Said:
    flip(run.folder / HARMONIZE / CASE / "ct.nii.gz")
    return consume_linked(run, WRITTEN)


@rotten("bit rot in a case's model image", sees="RESULT_DAMAGED", recovery=REDONE)
def rot_model_image(run: Run) -> Said:
    flip(run.folder / HARMONIZE / CASE / "model.b2nd")
    return consume(run, PREDICTED)


@rotten("bit rot in a source's tumor mask", sees="RESULT_DAMAGED", recovery=REDONE)
def rot_lesions(run: Run) -> Said:
    flip(run.folder / HARMONIZE / CASE / "lesions_liver.b2nd")
    return consume(run, MERGED)


@rotten("bit rot in the facts of an array", sees="RESULT_DAMAGED", recovery=REDONE)
def rot_facts(run: Run) -> Said:
    path = run.folder / HARMONIZE / CASE / "structures.b2nd"
    data = path.read_bytes()
    at = data.rindex(b'"shape": [') + len(b'"shape": [')
    rewrite(path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    return consume(run, WRITTEN)


@rotten("bit rot in a fingerprint", sees="RESULT_DAMAGED", recovery=REDONE)
def rot_fingerprint(run: Run) -> Said:
    flip(run.path("results/ingest/fingerprint_scans/*/fingerprint.*"), at=0.9)
    run.drop("results/ingest/match_scans.json")
    said = run.run("results/ingest/match_scans.json")
    run.again("results/ingest/match_scans.json")
    return said


@rotten("a digit of a case's record changed", sees="RESULT_DAMAGED", recovery=REDONE)
def rot_record(run: Run) -> Said:
    path = run.folder / MEASURED / CASE / "record.json"
    record = json.loads(path.read_text())
    tumor = record["row"]["tumors"][0]
    text = json.dumps(tumor["volume_mm3"])
    other = text[:-1] + ("1" if text[-1] != "1" else "2")
    rewrite(path, path.read_bytes().replace(text.encode(), other.encode()))
    run.drop("results/tables/tumors.parquet")
    said = run.run("results/tables/tumors.parquet")
    run.again("results/tables/tumors.parquet")
    return said


@rotten("bit rot in a manifest", sees="INPUT_DAMAGED", recovery=REMADE, is_quick=True)
def rot_manifest(run: Run) -> Said:
    path = run.folder / MEASURED / "s0000.tsv"
    rewrite(path, path.read_bytes().replace(b"\tok\t", b"\toj\t", 1))
    run.drop("results/tables/tumors.parquet")
    said = run.run("results/tables/tumors.parquet")
    run.again("results/tables/tumors.parquet")
    return said


@rotten("bit rot in a table", sees="INPUT_DAMAGED", recovery=REMADE)
def rot_table(run: Run) -> Said:
    flip(run.folder / "results/tables/tumors.parquet", at=0.1)
    run.drop(SUMS, VERIFIED)
    said = run.run(VERIFIED)
    run.again(VERIFIED)
    return said


@rotten("bit rot in a file of JSON", sees="INPUT_DAMAGED", recovery=REMADE)
def rot_json(run: Run) -> Said:
    path = run.folder / "results/ingest/cases.json"
    rewrite(path, path.read_bytes().replace(b'"group": "BDMAP_0', b'"group": "BDMAP_1', 1))
    run.drop("results/tables/splits.parquet")
    said = run.run("results/tables/splits.parquet")
    run.again("results/tables/splits.parquet")
    return said


@rotten(
    "bit rot in trained weights before they are registered",
    sees="INPUT_DAMAGED",
    recovery="the same command: the fold is trained again",
)
def rot_weights(run: Run) -> Said:
    flip(run.folder / "results/train/liver/fold_0/weights.safetensors")
    run.drop("results/train/liver/registered.json")
    said = run.run("results/train/liver/registered.json")
    run.again("results/train/liver/registered.json")
    return said


@rotten(
    "bit rot in the weights of a registered model",
    sees="MODEL_HASH",
    recovery="restore the file from the backup of `records/`, then the same command",
)
def rot_model(run: Run) -> Said:
    path = run.path("records/models/*/fold_0/weights.safetensors")
    good = path.read_bytes()
    flip(path)
    run.drop(PREDICTED)
    said = run.run(f"{PREDICTED}/s0000.tsv")
    rewrite(path, good)
    run.again(f"{PREDICTED}/s0000.tsv")
    return said


@rotten(
    "bit rot in a released file",
    sees=r"ct/.*ct.nii.gz",
    recovery="`tumoratlas check`, then the same command",
)
def rot_release(run: Run) -> Said:
    flip(run.path(f"results/release/2.0/ct/{CASE}/ct.nii.gz"))
    said = run.command("verify", str(run.folder / "results/release/2.0"))
    assert said.status == 1
    assert run.command("check", "--directory", str(run.folder)).status == 1
    run.again(VERIFIED)
    assert run.command("check", "--directory", str(run.folder)).status == 0
    return said


@rotten("a case's CT cut, its time kept", sees="RESULT_DAMAGED", recovery=CHECKED)
def cut_ct(run: Run) -> Said:
    cut(run.folder / HARMONIZE / CASE / "ct.nii.gz")
    return consume_linked(run, MEASURED)


@rotten("a table cut, its time kept", sees="INPUT_DAMAGED", recovery=REMADE)
def cut_table(run: Run) -> Said:
    cut(run.folder / "results/tables/masks.parquet")
    run.drop(SUMS, VERIFIED)
    said = run.run(VERIFIED)
    run.again(VERIFIED)
    return said


@rotten("a case's folder deleted", sees="RESULT_DAMAGED", recovery=REDONE)
def delete_folder(run: Run) -> Said:
    run.drop(f"{HARMONIZE}/{CASE}")
    return consume(run, MEASURED)


@rotten("a file of a case deleted", sees="RESULT_DAMAGED", recovery=REDONE)
def delete_file(run: Run) -> Said:
    run.drop(f"{HARMONIZE}/{CASE}/structures.b2nd")
    return consume(run, MEASURED)


@rotten("a manifest deleted", sees="", recovery="the same command: the shard finds its scans done")
def delete_manifest(run: Run) -> Said:
    run.drop(TARGET)
    said = run.run(TARGET)
    assert said.status == 0
    return said


@rotten("a table deleted", sees="", recovery="the same command")
def delete_table(run: Run) -> Said:
    run.drop("results/tables/tumors.parquet")
    said = run.run("results/tables/tumors.parquet")
    assert said.status == 0
    return said


@rotten(
    "a case's folder left half written under its final name",
    sees="",
    recovery="none needed: the scan is done again",
)
def half_folder(run: Run) -> Said:
    folder = run.folder / HARMONIZE / CASE
    (folder / "record.json").unlink()
    (folder / "structures.b2nd").unlink()
    (folder / "ct.nii.gz").unlink()
    (folder / "ct.nii.gz").write_bytes(b"\x1f\x8b half")
    run.drop(TARGET)
    said = run.run(TARGET)
    assert said.status == 0
    return said
