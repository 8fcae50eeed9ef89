"""Put an organ's trained folds into the model registry."""

from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.train.registry import register_model

with rule_run(snakemake):
    line = register_model(
        Path(snakemake.params.registry),
        snakemake.wildcards.organ,
        model_folder=Path(snakemake.output.line).parent,
        store=Path(snakemake.params.store),
    )
    write_json(Path(snakemake.output.line), line)
