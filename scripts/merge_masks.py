"""Settle the final masks of a shard: source labels, accepted, edited and added tumors."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.review.merge.steps import merge_masks
from tumoratlas.review.shards import read_said

with rule_run(snakemake):
    merge_masks(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        harmonized=Path(snakemake.input.harmonized),
        proposed=Path(snakemake.input.proposed),
        said=read_said(Path(snakemake.input.said)),
        store=Path(snakemake.params.records) / "masks",
        **snakemake.params.settings,
    )
