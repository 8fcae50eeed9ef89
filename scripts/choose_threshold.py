"""Choose an organ's threshold on its out-of-fold FROC curve."""

from pathlib import Path

from tumoratlas.candidates.steps import choose_organ_threshold
from tumoratlas.core.files import write_json
from tumoratlas.core.records import append_latest
from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import write_csv

with rule_run(snakemake):
    choice, curve = choose_organ_threshold(
        snakemake.wildcards.organ,
        predicted=snakemake.input.predicted,
        harmonized=snakemake.input.harmonized,
        registry=Path(snakemake.params.registry),
        **snakemake.params.settings,
    )
    rows = curve.to_dict("records")
    write_csv(Path(snakemake.output.curve), rows, columns=list(curve.columns))
    append_latest(Path(snakemake.params.chosen), "organ", choice)
    write_json(Path(snakemake.output.choice), choice)
