"""Write what changed since the release before, and who caused it, as HTML and CSV."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.release.diff.releases import diff_releases, write_diff_csv
from tumoratlas.report.diff import write_diff_report

with rule_run(snakemake):
    paths = snakemake.input
    diff = diff_releases(Path(paths.previous[0]).parent, Path(paths.sums).parent)
    write_diff_csv(Path(snakemake.output.table), diff)
    write_diff_report(Path(snakemake.output.report), diff, Path(paths.template))
