"""Write the released files of a shard's cases."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.release.licences.policy import read_policy
from tumoratlas.release.steps import write_cases

with rule_run(snakemake):
    paths, params = snakemake.input, snakemake.params
    write_cases(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        harmonized=Path(paths.harmonized),
        merged=Path(paths.merged),
        policy=read_policy(
            sources=paths.sources,
            terms=Path(paths.terms),
            permissions=paths.permissions,
            annotation_licence=params.annotation_licence,
        ),
        target=params.target,
        **params.settings,
    )
