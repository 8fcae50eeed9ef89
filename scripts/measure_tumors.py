"""Measure every tumor instance of a shard on its case's native grid."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.measure.steps import measure_tumors

with rule_run(snakemake):
    measure_tumors(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        harmonized=Path(snakemake.input.harmonized),
        merged=Path(snakemake.input.merged),
        **snakemake.params.settings,
    )
