"""Settle the final masks of a shard: source labels, accepted, edited and added tumors."""

from pathlib import Path

from tumoratlas.core.records import read_lines
from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.core.tables import read_rows_of
from tumoratlas.review.bases import read_bases
from tumoratlas.review.cases import blinded_batches
from tumoratlas.review.ledger import Event
from tumoratlas.review.merge.steps import merge_masks

with rule_run(snakemake):
    records = Path(snakemake.params.records)
    merge_masks(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        harmonized=Path(snakemake.input.harmonized),
        proposed=Path(snakemake.input.proposed),
        events=[Event(**row) for row in read_rows_of(snakemake.input.reviews)],
        bases=read_bases(records / "bases.jsonl"),
        blinded=blinded_batches(read_lines(records / "batches.jsonl")),
        store=records / "masks",
        **snakemake.params.settings,
    )
