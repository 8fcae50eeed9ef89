"""Propose the candidates of a shard for review."""

from pathlib import Path

from tumoratlas.candidates.steps import propose_tumors
from tumoratlas.core.records import latest_by
from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step

with rule_run(snakemake):
    propose_tumors(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        harmonized=Path(snakemake.input.harmonized),
        predicted=Path(snakemake.input.predicted),
        chosen=latest_by(Path(snakemake.params.chosen), "organ"),
        **snakemake.params.settings,
    )
