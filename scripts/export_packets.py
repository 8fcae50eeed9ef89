"""Write the CT, candidates and organ outlines of a shard's cases for review."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.review.steps import export_packets

with rule_run(snakemake):
    export_packets(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        harmonized=Path(snakemake.input.harmonized),
        proposed=Path(snakemake.input.proposed),
        **snakemake.params.settings,
    )
