"""Draw tumors of every organ and size class with their contours, one HTML file."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.report.tumors import write_contact_sheet

with rule_run(snakemake):
    write_contact_sheet(
        Path(snakemake.output.report),
        release=Path(snakemake.input.sums).parent,
        seed=snakemake.params.seed,
        template=Path(snakemake.input.template),
    )
