"""A few jobs of the micro run on a live SLURM; `make test-slurm` is the whole trial."""

import shutil
from pathlib import Path

from tests.slurm.cluster import processes_of, slurm_cluster
from tests.slurm.workflow import jobs_of, workflow
from tumoratlas.core.provenance import latest_jobs

HARMONIZED = "results/harmonize/harmonize_scans"
PREDICTED = "results/candidates/predict_tumors"
RULES = ("harmonize_scans", "predict_tumors")


def test_slurm_gives_the_bytes_of_a_local_run(
    micro_checkout: Path, micro_run: Path, tmp_path: Path
) -> None:
    """Cases are harmonized and predicted anew, the latter with a GPU that SLURM counts."""
    folder = tmp_path / "run"
    shutil.copytree(micro_run, folder, symlinks=True)
    for name in (HARMONIZED, PREDICTED):
        shutil.rmtree(folder / name)
    with slurm_cluster() as cluster:
        with workflow(cluster, micro_checkout, folder, f"{PREDICTED}/s0000.tsv") as run:
            run.finish()
        jobs = {rule: jobs_of(cluster, folder, rule) for rule in RULES}
    assert processes_of(cluster.folder) == []
    assert not cluster.folder.exists()
    for name in (HARMONIZED, PREDICTED):
        manifests = [path / name / "s0000.tsv" for path in (folder, micro_run)]
        assert manifests[0].read_bytes() == manifests[1].read_bytes()
    records = latest_jobs(folder / "results/provenance")
    for rule, (job,) in jobs.items():
        record = records[f"{rule}/s0000"]
        # What the rule asks for is what SLURM gave, and what the record tells.
        assert record["slurm"]["job_id"] == job["JobId"]
        assert job["MinMemoryNode"] == f"{record['resources']['mem_mb']}M"
        assert job["CPUs/Task"] == str(record["threads"])
        assert _minutes(job["TimeLimit"]) == record["resources"]["runtime"]
    assert jobs["predict_tumors"][0]["TresPerNode"] == "gres:gpu:1"
    assert jobs["predict_tumors"][0]["Partition"] == "gpu"
    assert jobs["harmonize_scans"][0]["Partition"] == "cpu"


def _minutes(limit: str) -> int:
    """Return a limit of time, [days-]hours:minutes:seconds, in minutes."""
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = map(int, clock.split(":"))
    return int(days or 0) * 1440 + hours * 60 + minutes
