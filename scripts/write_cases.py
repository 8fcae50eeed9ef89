"""Write the released files of a shard's cases."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.release.steps import write_cases

with rule_run(snakemake):
    write_cases(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        harmonized=Path(snakemake.input.harmonized),
        merged=Path(snakemake.input.merged),
    )
