"""Write the packet of every outstanding batch: CTs, candidates, forms and the triage page."""

from pathlib import Path

from tumoratlas.core.files import read_json
from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.core.tables import read_rows_of
from tumoratlas.review.cases import review_cases
from tumoratlas.review.ledger import Event
from tumoratlas.review.packets.steps import export_packets
from tumoratlas.review.plan.planning import missed_places
from tumoratlas.review.roster import read_roster, roles

with rule_run(snakemake):
    given = snakemake.input
    export_packets(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        batches=read_json(Path(given.plan))["outstanding"],
        cases={case.case_id: case for case in review_cases(given.harmonized, given.proposed)},
        reviewers=roles(read_roster(Path(snakemake.params.records) / "reviewers.csv")),
        missed=missed_places(Event(**row) for row in read_rows_of(Path(given.reviews))),
    )
