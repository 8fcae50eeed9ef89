"""Read every scan of a shard once: checks, voxel hash and header facts."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.ingest.steps import fingerprint_scans

with rule_run(snakemake):
    fingerprint_scans(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        listings=snakemake.input.listings,
        shards=snakemake.params.shards,
        **snakemake.params.settings,
    )
