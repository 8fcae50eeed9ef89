"""List every repair of a scan or mask, with before and after."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import write_table
from tumoratlas.release.steps import list_repairs

with rule_run(snakemake):
    rows = list_repairs(Path(snakemake.input.scans), snakemake.input.harmonized)
    write_table(Path(snakemake.output.table), "repairs", rows)
