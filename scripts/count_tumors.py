"""Count tumors by organ, size class and source."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import read_rows
from tumoratlas.core.tables import read_table, write_csv, write_table
from tumoratlas.measure.counts import case_facts, count_sources, count_tumors

with rule_run(snakemake):
    output = snakemake.output
    measured = read_rows(snakemake.input.measured)
    merged = read_rows(snakemake.input.merged)
    write_table(Path(output.tumors), "tumors", [t for row in measured for t in row["tumors"]])
    write_table(Path(output.masks), "masks", [m for row in merged for m in row["masks"]])
    tumors, masks = read_table(Path(output.tumors)), read_table(Path(output.masks))
    cases = case_facts(read_rows(snakemake.input.harmonized))
    for path, counts in (
        (output.by_size, count_tumors(tumors)),
        (output.by_source, count_sources(tumors, masks, cases)),
    ):
        write_csv(Path(path), counts.to_dict("records"), columns=list(counts.columns))
