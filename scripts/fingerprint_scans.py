"""Read every scan of a shard once: checks, hashes, fingerprint and header facts."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.ingest.steps import fingerprint_scans

with rule_run(snakemake):
    fingerprint_scans(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        scans=Path(snakemake.input.scans),
        key_file=Path(snakemake.params.key),
        **snakemake.params.settings,
    )
