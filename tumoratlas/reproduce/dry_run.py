"""What Snakemake would do: its dry run, as jobs with their files and reasons."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tumoratlas.core.errors import TumorAtlasError

_HEAD = re.compile(r"^(?:local)?(?P<kind>rule|checkpoint) (?P<rule>\w+):$")
_ITEM = re.compile(r"^    (\w+): (.*)$")
# A job's input that depends on a checkpoint that is to run first.
UNKNOWN = "<TBD>"


@dataclass(frozen=True)
class PlannedJob:
    """A job that Snakemake would run.

    Attributes
    ----------
    rule, wildcards
        Which job.
    inputs, outputs
        Paths as in the rule; `UNKNOWN` among the inputs until a checkpoint has run.
    reason
        Why, in Snakemake's words.
    threads
        Processes of the job.
    is_checkpoint
        Whether jobs behind it are decided on again when it has run.
    """

    rule: str
    wildcards: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str
    threads: int
    is_checkpoint: bool

    @property
    def name(self) -> str:
        """Name of the job in its records: ``<rule>/<wildcards>``."""
        return f"{self.rule}/{'_'.join(self.wildcards.values()) or 'all'}"


def dry_run(
    checkout: Path, directory: Path, targets: Sequence[str], configfiles: Sequence[Path]
) -> list[PlannedJob]:
    """Ask Snakemake, in a process of its own, which jobs a run would start; none is started.

    Parameters
    ----------
    checkout
        Folder with the Snakefile.
    directory
        Working directory of the run; need not exist yet.
    targets
        Rules or files to make.
    configfiles
        Configuration beside ``config.yaml``, as for ``--configfile``.

    Raises
    ------
    TumorAtlasError
        ``PLAN_FAILED``: Snakemake refuses; with the end of what it says.
    """
    overlay = ["--configfile", *(str(path.resolve()) for path in configfiles)]
    command = [
        sys.executable, "-m", "snakemake", *targets, "--dry-run", "--profile", "profiles/local",
        "--directory", str(directory.resolve()), "--cores", "1", "--nocolor",
        *(overlay if configfiles else []),
    ]  # fmt: skip
    run = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if run.returncode:
        lines = (run.stdout + run.stderr).splitlines()
        said = [line for line in lines if line.strip() and not line.startswith("Using profile")]
        raise TumorAtlasError(
            "PLAN_FAILED",
            directory,
            "Snakemake refuses to plan this run",
            evidence=" | ".join(said[-3:]),
            remedy="Run the same with `snakemake ... -n` to see all that it says",
        )
    return parse_dry_run(run.stdout)


def parse_dry_run(text: str) -> list[PlannedJob]:
    """Return the jobs that the text of a dry run shows, in its order; targets are none.

    A target rule makes no file.
    """
    heads: list[re.Match[str]] = []
    items: list[dict[str, str]] = []
    key = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            heads.append(head)
            items.append({})
            key = "rule"
        elif not line or line.startswith("["):
            key = ""  # a time stands between jobs
        elif key and (item := _ITEM.match(line)):
            key = item[1]
            items[-1][key] = item[2]
        elif key:  # a long reason goes on in lines of its own
            items[-1][key] = f"{items[-1].get(key, '')}\n{line}"
    return [
        PlannedJob(
            rule=head["rule"],
            wildcards=dict(part.split("=", 1) for part in _listed(item.get("wildcards", ""))),
            inputs=_listed(item.get("input", "")),
            outputs=_listed(item["output"]),
            reason=item.get("reason", ""),
            threads=int(item.get("threads", "1")),
            is_checkpoint=head["kind"] == "checkpoint",
        )
        for head, item in zip(heads, items, strict=True)
        if "output" in item
    ]


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(", ") if part)
