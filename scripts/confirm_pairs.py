"""Compare the voxels of a shard's candidate pairs and name each pair's relation."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.ingest.steps import confirm_pairs

with rule_run(snakemake):
    confirm_pairs(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        pairs=Path(snakemake.input.pairs),
        **snakemake.params.settings,
    )
