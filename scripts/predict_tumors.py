"""Predict the level maps of a shard, one organ's model in memory at a time."""

from pathlib import Path

from tumoratlas.candidates.steps import predict_tumors
from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step

with rule_run(snakemake):
    predict_tumors(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        harmonized=Path(snakemake.input.harmonized),
        cases=Path(snakemake.input.cases),
        registry=Path(snakemake.params.registry),
        device=snakemake.params.device,
        **snakemake.params.settings,
    )
