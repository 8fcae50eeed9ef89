"""Check what reviewers sent back and append it, and the sources' labels, to the ledger."""

from datetime import UTC, datetime
from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import write_table
from tumoratlas.review.ledger import append_events, read_ledger, to_table
from tumoratlas.review.returns import read_roster
from tumoratlas.review.steps import returned_events, review_cases, source_events

with rule_run(snakemake):
    records = Path(snakemake.params.records)
    cases = list(review_cases(snakemake.input.harmonized, snakemake.input.proposed))
    events, excluded = returned_events(
        records / "returns",
        cases,
        organs=snakemake.params.organs,
        reviewers=read_roster(records / "reviewers.csv"),
        store=records / "masks",
        now=datetime.now(UTC),
    )
    append_events(records / "ledger.jsonl", [*source_events(cases), *events])
    ledger = read_ledger(records / "ledger.jsonl")
    write_table(Path(snakemake.output.reviews), "reviews", to_table(ledger))
    write_json(Path(snakemake.output.excluded), {"excluded": excluded})
