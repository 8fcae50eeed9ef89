"""Look for private words in every released file and report."""

from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.release.steps import check_privacy

with rule_run(snakemake):
    paths = [snakemake.input.sums, *snakemake.input.reports]
    found = check_privacy(
        {Path(path).parent for path in paths},
        private=[Path(folder) for folder in snakemake.params.folders],
        public_words=snakemake.params.public_words,
    )
    write_json(Path(snakemake.output.privacy), found)
