"""Write the report on rules, one HTML file, and the lineage of every case as CSV."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.report.rule_records import read_run
from tumoratlas.report.rules import write_rules_report
from tumoratlas.reproduce.plan import planned_and_actual

with rule_run(snakemake):
    run = read_run(Path(snakemake.params.provenance), running="report_rules/all")
    write_rules_report(
        Path(snakemake.output.report),
        table=Path(snakemake.output.table),
        run=run,
        snakefile=Path(snakemake.input.snakefile),
        replays=sorted(Path(snakemake.params.verdicts).glob("*.json")),
        costs=planned_and_actual(snakemake.config, run.ended),
        release=Path(snakemake.input.sums).parent,
        template=Path(snakemake.input.template),
    )
