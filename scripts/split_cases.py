"""Give every case its place in each split; no patient is torn."""

from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import read_table, write_table
from tumoratlas.release.splits.schemes import register_splits
from tumoratlas.release.steps import split_input

with rule_run(snakemake):
    paths, params = snakemake.input, snakemake.params
    cases = split_input(
        Path(paths.cases),
        read_table(Path(paths.scans)),
        read_table(Path(paths.tumors)),
        read_table(Path(paths.masks)),
        paths.written,
        paths.measured,
    )
    split = register_splits(Path(params.registry), cases, **params.settings)
    write_table(Path(snakemake.output.table), "splits", split.rows)
    write_json(Path(snakemake.output.told), {"told": split.told})
