"""Read the release back and fail on any broken promise."""

from dataclasses import asdict
from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.release.steps import refuse_problems
from tumoratlas.release.verify.release import verify_release

with rule_run(snakemake):
    folder = Path(snakemake.input.sums).parent
    verification = verify_release(folder, processes=snakemake.threads)
    refuse_problems(folder, verification.problems)
    write_json(Path(snakemake.output.verification), asdict(verification))
