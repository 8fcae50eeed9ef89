"""Give every case its place in each split; no patient is torn."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import write_table
from tumoratlas.release.splits import split_cases
from tumoratlas.release.steps import split_input

with rule_run(snakemake):
    paths = snakemake.input
    cases = split_input(Path(paths.cases), paths.written, paths.measured)
    rows = split_cases(cases, **snakemake.params.settings)
    write_table(Path(snakemake.output.table), "splits", rows)
