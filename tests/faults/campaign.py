"""The campaign: one undisturbed run, each fault on a copy of it, and the table of what came out."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tests.conftest import ROOT
from tests.faults.fault import Fault
from tests.faults.run import NotHitError, Run, contents
from tests.micro import MICRO
from tests.phantoms.demo import run_demo

_LEFT_OUT = (".git", ".venv", ".snakemake", "demo", "faults", "__pycache__", ".ruff_cache")
_LONGEST = 230
HEAD = """# Faults

What `make faults` saw: the micro run under one fault at a time, compared with an undisturbed run,
file by file, results and records. Written by the campaign (`python -m tests.faults`); messages
are those of the runs.
"""


@dataclass(frozen=True)
class Outcome:
    """What came of a fault: what was told, and which files differ after the recovery."""

    fault: Fault
    told: str
    differences: tuple[str, ...]
    seconds: float

    @property
    def is_silent(self) -> bool:
        """Whether something differs that nobody told of."""
        return bool(self.differences) and not self.told


def prepare(folder: Path) -> tuple[Path, Path]:
    """Return a copy of the checkout and the undisturbed run in it, made at the first call."""
    checkout, reference = folder / "checkout/tumoratlas", folder / "reference"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        # A copy, because some faults break it, and nobody may edit what a run is compared by.
        shutil.copytree(ROOT, checkout, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        run_demo(reference, MICRO, micro=True, cores=1, checkout=checkout)
        with Run(reference, checkout) as run:
            run.again("train", "thresholds", "packets", "all")
        (folder / "ready").touch()
    return checkout, reference


def suffer(fault: Fault, checkout: Path, reference: Path, folder: Path) -> Outcome:
    """Let a copy of the undisturbed run, below a folder, suffer a fault.

    Raises
    ------
    NotHitError
        The fault never came about, or nothing was told of it that should have been.
    """
    started = time.monotonic()
    copy = folder / "copy" / "run"
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir()
    subprocess.run(["cp", "-a", str(reference), str(copy)], check=True)
    with Run(copy, checkout) as run:
        said = fault.act(run)
        found = contents(copy)
        told = tell(said.text, fault.sees, run)
    undisturbed = contents(reference)
    differences = tuple(
        place
        for place in sorted(undisturbed.keys() | found.keys())
        if undisturbed.get(place) != found.get(place)
    )
    if fault.sees and not told:
        raise NotHitError(f"nothing says {fault.sees!r}:\n{said.text[-6000:]}")
    return Outcome(fault, told, differences, time.monotonic() - started)


def tell(text: str, pattern: str, run: Run) -> str:
    """Return the first line that a pattern matches, without times and places of the machine."""
    for line in text.splitlines() if pattern else []:
        if re.search(pattern, line):
            line = re.sub(r"^\s*[\d-]+ [\d:,]+ (ERROR|WARNING|INFO) ", "", line)
            for place, name in ((run.folder, "run"), (run.checkout, "checkout")):
                line = line.replace(str(place), name)
            line = line.replace(sys.prefix, "env").strip()
            return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
    return ""


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the page: a table for each topic, and what adds up."""
    equal = sum(not outcome.differences for outcome in outcomes)
    silent = sum(outcome.is_silent for outcome in outcomes)
    lines = [HEAD, f"{len(outcomes)} faults: {equal} end in equal hashes; silent losses: {silent}."]
    for topic, group in groupby(outcomes, key=lambda outcome: outcome.fault.topic):
        lines += ["", f"## {topic}", "| fault | you see | recovery | hashes equal |"]
        lines.append("|---|---|---|---|")
        for outcome in group:
            told = outcome.told.replace("|", "/").replace("`", "'")
            shown = f"`{told}`" if told else "nothing"
            verdict = "yes" if not outcome.differences else f"no, {len(outcome.differences)} files"
            name, recovery = outcome.fault.name, outcome.fault.recovery
            lines.append(f"| {name} | {shown} | {recovery} | {verdict} |")
    return "\n".join(lines) + "\n"
