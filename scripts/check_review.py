"""Check what reviewers sent back and append it, and the sources' labels, to the ledger."""

from datetime import UTC, datetime
from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.records import read_lines
from tumoratlas.core.run import rule_run
from tumoratlas.core.shards import write_shards
from tumoratlas.core.tables import write_table
from tumoratlas.review.bases import read_bases, record_bases
from tumoratlas.review.cases import blinded_batches, review_cases, source_events
from tumoratlas.review.ledger import append_events, read_ledger, to_table
from tumoratlas.review.returns.steps import returned_events
from tumoratlas.review.roster import read_roster
from tumoratlas.review.shards import said_by_shard

with rule_run(snakemake):
    given, records = snakemake.input, Path(snakemake.params.records)
    cases = list(review_cases(given.harmonized, given.proposed))
    batches = read_lines(records / "batches.jsonl")
    events, excluded, bases = returned_events(
        records / "returns", cases, organs=snakemake.params.organs,
        reviewers=read_roster(records / "reviewers.csv"), batches=batches,
        issued=read_bases(records / "bases.jsonl"), store=records / "masks",
        now=datetime.now(UTC),
    )  # fmt: skip
    record_bases(records / "bases.jsonl", bases)
    append_events(records / "ledger.jsonl", [*source_events(cases), *events])
    ledger, shown = read_ledger(records / "ledger.jsonl"), read_bases(records / "bases.jsonl")
    said = said_by_shard(given.harmonized, ledger, shown, blinded_batches(batches))
    write_table(Path(snakemake.output.reviews), "reviews", to_table(ledger))
    write_json(Path(snakemake.output.excluded), {"excluded": excluded})
    write_shards(snakemake.output.shards, said)
