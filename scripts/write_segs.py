"""Write the masks of a shard's cases as DICOM SEG objects on their original series."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import shard_step
from tumoratlas.release.seg.steps import write_segs

with rule_run(snakemake):
    paths = snakemake.input
    write_segs(
        shard_step(snakemake),
        manifest=Path(snakemake.output.manifest),
        written=Path(paths.written),
        measured=Path(paths.measured),
        cases=Path(paths.cases),
        codes=Path(paths.codes),
        **snakemake.params.settings,
    )
