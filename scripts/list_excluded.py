"""List every scan, mask and review that was left out, and why."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import write_table
from tumoratlas.release.steps import list_excluded

with rule_run(snakemake):
    paths = snakemake.input
    masks = [*paths.masks, *paths.segs]
    rows = list_excluded(paths.listings, paths.reports, paths.manifests, masks)
    write_table(Path(snakemake.output.table), "excluded", rows)
