"""Write the worklist, the form for decisions and the reviewers' instructions."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import read_rows
from tumoratlas.review.packets import write_batch_files

with rule_run(snakemake):
    cases = read_rows(snakemake.input.packets)
    write_batch_files(
        Path(snakemake.output.worklist).parent,
        [row for case in cases for row in case["worklist"]],
    )
