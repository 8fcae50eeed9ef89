"""Write the volumes of every case of a shard, with the labels of all its copies."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.harmonize.steps import harmonize_scans

with rule_run(snakemake):
    harmonize_scans(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        cases=Path(snakemake.input.cases),
        **snakemake.params.settings,
    )
