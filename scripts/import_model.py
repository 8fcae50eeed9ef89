"""Convert a model trained elsewhere and put it into the model registry."""

from pathlib import Path

from tumoratlas.core.files import read_json, write_json
from tumoratlas.core.run import rule_run
from tumoratlas.train.imported import external_model, import_model

with rule_run(snakemake):
    output = Path(snakemake.output.line)
    line = import_model(
        external_model(snakemake.params.model),
        registry=Path(snakemake.params.registry),
        store=Path(snakemake.params.store),
        work=output.parent / "imported",
        cases=read_json(Path(snakemake.input.cases)) if snakemake.input.cases else {},
    )
    write_json(output, line)
