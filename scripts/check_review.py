"""Check what reviewers sent back and append it, and the sources' labels, to the ledger."""

from datetime import UTC, datetime
from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.records import read_lines
from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import write_table
from tumoratlas.review.bases import read_bases, record_bases
from tumoratlas.review.cases import review_cases, source_events
from tumoratlas.review.ledger import append_events, read_ledger, to_table
from tumoratlas.review.returns.steps import returned_events
from tumoratlas.review.roster import read_roster

with rule_run(snakemake):
    records = Path(snakemake.params.records)
    cases = list(review_cases(snakemake.input.harmonized, snakemake.input.proposed))
    events, excluded, bases = returned_events(
        records / "returns",
        cases,
        organs=snakemake.params.organs,
        reviewers=read_roster(records / "reviewers.csv"),
        batches=read_lines(records / "batches.jsonl"),
        issued=read_bases(records / "bases.jsonl"),
        store=records / "masks",
        now=datetime.now(UTC),
    )
    record_bases(records / "bases.jsonl", bases)
    append_events(records / "ledger.jsonl", [*source_events(cases), *events])
    ledger = read_ledger(records / "ledger.jsonl")
    write_table(Path(snakemake.output.reviews), "reviews", to_table(ledger))
    write_json(Path(snakemake.output.excluded), {"excluded": excluded})
