"""The whole workflow on the micro phantoms: results, errors and re-runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd

from tests.conftest import ROOT
from tests.micro import RELEASE, config_with, snakemake
from tests.phantoms import write_phantoms
from tests.phantoms.truth import tumors
from tumoratlas.core.files import sha256_file
from tumoratlas.core.provenance import latest_jobs, read_scans, read_stored
from tumoratlas.release.verify.release import verify_release
from tumoratlas.review.ledger import append_events, make_event


def test_the_release_verifies_and_counts_the_truth(micro_run: Path) -> None:
    """Every promise holds, and the tumors are those of the phantoms, class by class."""
    verification = verify_release(micro_run / RELEASE)
    assert verification.problems == []
    counted = pd.read_csv(micro_run / RELEASE / "counts/tumors_by_size.csv")
    found = counted[counted.tumors > 0].set_index(["organ", "size_class"]).tumors.to_dict()
    true = tumors(micro_run).query("kind == 'tumor'")
    assert found == true.groupby(["organ", "size_class"]).size().to_dict()


def test_a_second_run_does_nothing(micro_checkout: Path, micro_run: Path) -> None:
    """All targets are up to date, those of training included, once the last answers are in."""
    assert snakemake(micro_checkout, micro_run, "packets").returncode == 0
    assert json.loads((micro_run / "results/review/plan_review.json").read_text()) == {
        "outstanding": {}, "stale": [], "pending": [],
    }  # fmt: skip
    run = snakemake(micro_checkout, micro_run, "train", "thresholds", "packets", "all")
    assert "Nothing to be done" in run.stdout + run.stderr


def test_a_corrupt_scan_is_listed_and_the_rest_goes_on(micro_run: Path) -> None:
    """The truncated volume is in the excluded table with its code and a remedy."""
    excluded = pd.read_csv(micro_run / RELEASE / "tables/excluded.csv")
    row = excluded.set_index("id").loc["lits_5"]
    assert row.code == "DATA_SIZE"
    assert row.remedy


def test_a_missing_source_is_one_line(tmp_path: Path) -> None:
    """No traceback: the folder's name and what to do."""
    config = config_with(tmp_path, sources=[{"id": "lits", "path": "nowhere/lits"}])
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "all",
         "--configfile", str(config), "--directory", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    said = run.stdout + run.stderr
    told = [line for line in said.splitlines() if "SOURCE_MISSING" in line]
    assert len(told) == 1
    assert "nowhere/lits" in told[0]
    assert "Traceback" not in said


def test_a_locked_source_is_fetched_and_a_changed_file_stops_the_run(tmp_path: Path) -> None:
    """From a real server; what was fetched stays when the server gives something else."""
    served, folder = tmp_path / "served", tmp_path / "run"
    write_phantoms(tmp_path / "phantoms", micro=True)
    shutil.copytree(tmp_path / "phantoms/sources/lits", served)
    files = sorted(path for path in served.rglob("*.nii") if path.name.endswith("-0.nii"))
    handler = partial(SimpleHTTPRequestHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        rows = ["path,url,bytes,sha256"]
        for path in files:
            place = path.relative_to(served).as_posix()
            url = f"http://127.0.0.1:{server.server_port}/{place}"
            rows.append(f"{place},{url},{path.stat().st_size},{sha256_file(path)}")
        lock = tmp_path / "lits.csv"
        lock.write_text("\n".join(rows) + "\n")
        config = config_with(
            tmp_path, sources=[{"id": "lits", "path": "data/lits", "lock": str(lock)}]
        )
        command = [
            sys.executable, "-m", "snakemake", "--profile", "profiles/local", "--configfile",
            str(config), "--directory", str(folder), "results/ingest/list_scans/lits.json",
        ]  # fmt: skip
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        listing = json.loads((folder / "results/ingest/list_scans/lits.json").read_text())
        assert [scan["scan_id"] for scan in listing["scans"]] == ["lits_0"]
        files[0].write_bytes(b"another file")
        fetched = folder / "data/lits" / files[0].relative_to(served)
        before = fetched.read_bytes()
        fetched.unlink()
        command += ["--forcerun", "fetch_files"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        server.shutdown()
    assert run.returncode != 0
    assert "UPSTREAM_CHANGED" in run.stdout + run.stderr
    assert not fetched.exists() or fetched.read_bytes() == before


def test_an_unknown_key_is_one_line(tmp_path: Path) -> None:
    """A typing error in the configuration is named, with the key that was meant."""
    config = config_with(tmp_path, shard=3)
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "all", "-n",
         "--configfile", str(config), "--directory", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = run.stdout + run.stderr
    assert run.returncode != 0
    assert "`shard` is unknown (did you mean `shards`?)" in said
    assert "Traceback" not in said


def test_a_wrong_mask_sent_back_is_excluded_and_the_rest_counts(
    micro_checkout: Path, micro_run: Path, tmp_path: Path
) -> None:
    """A damaged return becomes one excluded row; the other decisions stay in force."""
    folder = tmp_path / "run"
    shutil.copytree(micro_run, folder, symlinks=True)
    form = pd.read_csv(folder / "records/returns/b0001/decisions.csv", dtype=str)
    bad = folder / "records/returns/later"
    bad.mkdir()
    row = form.iloc[[0]].assign(decision="maybe", time="2026-02-01T00:00:00Z")
    row.to_csv(bad / "decisions.csv", index=False)
    run = snakemake(micro_checkout, folder, "all")
    assert run.returncode == 0, run.stdout + run.stderr
    excluded = pd.read_csv(folder / RELEASE / "tables/excluded.csv")
    rows = excluded[excluded.rule == "check_review"]
    assert list(rows.id) == ["later/decisions.csv:2"]
    tables = [pd.read_csv(f / RELEASE / "tables/tumors.csv") for f in (folder, micro_run)]
    pd.testing.assert_frame_equal(*tables)


def test_a_decision_on_another_models_candidate_opens_its_organ(
    micro_checkout: Path, micro_run: Path, tmp_path: Path
) -> None:
    """The organ becomes unknown and is listed; the case's other organs stay."""
    folder = tmp_path / "run"
    shutil.copytree(micro_run, folder, symlinks=True)
    before = pd.read_csv(micro_run / RELEASE / "tables/masks.csv").set_index(["case_id", "organ"])
    case_id, organ = before[before.signed_by == "R01"].index[0]
    event = make_event(
        stage="review", batch="old", case_id=case_id, organ=organ, candidate_id="0" * 16,
        reviewer_id="R01", role="senior", decision="accept", time="2026-03-01T00:00:00.000Z",
    )  # fmt: skip
    append_events(folder / "records/ledger.jsonl", [event])
    run = snakemake(micro_checkout, folder, "all", "--forcerun", "check_review")
    assert run.returncode == 0, run.stdout + run.stderr
    after = pd.read_csv(folder / RELEASE / "tables/masks.csv").set_index(["case_id", "organ"])
    assert after.state[case_id, organ] == "unknown"
    assert "CANDIDATE_UNKNOWN" in after.pending[case_id, organ]
    others = after.index != (case_id, organ)
    pd.testing.assert_frame_equal(after[others], before[others])
    excluded = pd.read_csv(folder / RELEASE / "tables/excluded.csv").set_index("id")
    assert excluded.code[f"{case_id}/{organ}"] == "CANDIDATE_UNKNOWN"


def test_the_slurm_profile_plans_word_for_word(micro_checkout: Path, tmp_path: Path) -> None:
    """``snakemake --profile slurm all`` plans in a checkout with an empty home."""
    environment = os.environ | {"HOME": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME", None)
    run = subprocess.run(
        [str(Path(sys.executable).parent / "snakemake"), "--profile", "slurm", "all", "-n"],
        cwd=micro_checkout, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "build_release" in run.stdout


def test_one_module_re_runs_exactly_its_rules(micro_checkout: Path, micro_run: Path) -> None:
    """An edit of the measure code re-runs measuring and what follows, and nothing before."""
    module = micro_checkout / "tumoratlas/measure/diameters.py"
    code = module.read_text()
    module.write_text(code + "\nADDED = 1\n")
    run = snakemake(micro_checkout, micro_run, "all", "-n")
    module.write_text(code)
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = set(re.findall(r"^(\w+) +\d+$", run.stdout + run.stderr, re.MULTILINE))
    assert "measure_tumors" in jobs
    assert not jobs & {"fingerprint_scans", "harmonize_scans", "predict_tumors", "merge_masks"}


def tumoratlas(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the package's own command line."""
    return subprocess.run(
        [sys.executable, "-m", "tumoratlas", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_status_tells_what_is_done(micro_run: Path) -> None:
    """One line per sharded rule: shards, scans and excluded ones."""
    run = tumoratlas("status", "--directory", str(micro_run))
    assert run.returncode == 0, run.stderr
    rows = {line.split()[0]: line.split()[1:4] for line in run.stdout.splitlines()[1:]}
    assert rows["fingerprint_scans"] == ["1/1", "4/4", "1"]
    assert rows["measure_tumors"] == ["1/1", "2/2", "0"]


def test_verify_finds_one_changed_byte(micro_run: Path, tmp_path: Path) -> None:
    """A copy of the release verifies anywhere; a flipped bit does not."""
    copy = tmp_path / "copy"
    shutil.copytree(micro_run / RELEASE, copy)
    assert tumoratlas("verify", str(copy)).returncode == 0
    victim = next(copy.glob("ct/*/ct.nii.gz"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    run = tumoratlas("verify", str(copy))
    assert run.returncode == 1
    assert victim.parent.name in run.stdout
    assert "Traceback" not in run.stderr


def test_provenance_tells_how_each_result_came_about(micro_run: Path) -> None:
    """Every finished scan has a record of its inputs, outputs, code, time and machine."""
    folder = micro_run / "results/provenance"
    records = read_scans(folder, "harmonize_scans")
    assert len(records) == 2
    for record in records:
        case = micro_run / "results/harmonize/harmonize_scans" / record["subject"]
        assert record["outputs"]["ct.nii.gz"] == sha256_file(case / "ct.nii.gz")
        assert record["inputs"] and record["code"] and record["seconds"] >= 0
    job = latest_jobs(folder)["harmonize_scans/s0000"]
    assert job["params"]["settings"]["model_spacing_mm"] == 1.5
    config = read_stored(folder, "configs", job["config"])
    assert config["harmonize"]["model_spacing_mm"] == 1.5
    manifest = "results/harmonize/harmonize_scans/s0000.tsv"
    assert job["outputs"][manifest]["sha256"] == sha256_file(micro_run / manifest)
    weights = latest_jobs(folder)["train_model/liver_0"]
    assert weights["determinism"]["torch"]["threads"] == 1
