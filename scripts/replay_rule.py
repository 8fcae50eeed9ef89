"""Run sampled jobs of a rule again in a scratch directory and compare what they make."""

from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.reproduce.replay import replay_rule
from tumoratlas.reproduce.tolerances import read_tolerances

with rule_run(snakemake):
    verdict = replay_rule(
        snakemake.wildcards.rule,
        run=Path.cwd(),
        records=snakemake.params.records,
        sources=[Path(folder) for folder in snakemake.params.sources],
        tolerances=read_tolerances(Path(snakemake.input.tolerances)),
        not_replayed=snakemake.params.not_replayed,
        **snakemake.params.settings,
    )
    write_json(Path(snakemake.output.verdict), verdict)
