"""The demo: phantom sources to a verified release, with one command.

``python -m tests.phantoms.demo FOLDER [--micro] [--profile NAME ...]`` runs in FOLDER, which
keeps everything. A second run finds nothing to do.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tests.phantoms import write_phantoms
from tests.phantoms.reviewer import answer, write_roster
from tests.phantoms.told import differences, summary
from tumoratlas.report.release import release_summary

SILENT_S = 30  # between two lines of progress in a log file
# No secret: phantoms have no privacy. Real scans need a key of their own.
DEMO_KEY = "5eed" * 16
ROOT = Path(__file__).resolve().parents[2]
_STEPS = re.compile(r"(\d+) of (\d+) steps")
_RULE = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):")
# Targets of one run each: training and thresholds are never a side effect.
_TARGETS = (("train", "train the models"), ("thresholds", "predict, choose thresholds"))
_LOCAL = ("profiles/local",)


def run_demo(
    folder: Path,
    config: Path,
    *,
    micro: bool = False,
    cores: int | None = None,
    checkout: Path = ROOT,
    profiles: Sequence[str] = _LOCAL,
) -> None:
    """Run a checkout's pipeline on phantoms below ``folder``; see the module."""

    def run(targets: list[str], title: str) -> None:
        run_targets(checkout, folder, config, targets, title, cores, profiles)

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "truth/tumors.csv").exists():
        _say("write phantom sources")
        scratch = folder / "phantoms"
        shutil.rmtree(scratch, ignore_errors=True)
        write_phantoms(scratch, micro=micro)
        for name in ("sources", "truth"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (scratch / name).rename(folder / name)
        scratch.rmdir()
    write_roster(folder / "records")
    _write_key(folder / "records/pseudonym.key")
    if not (folder / "records/batches.jsonl").exists():
        for target, title in _TARGETS:
            run([target], title)
    # Readers who contradict each other cause a second round.
    for _ in range(1 if micro else 2):
        run(["packets"], "write review packets")
        if decided := answer(folder):
            _say(f"the phantom reviewers sent back {decided} decisions")
    run(["all"], "build, verify and report the release")


def run_targets(
    checkout: Path,
    folder: Path,
    config: Path,
    targets: list[str],
    title: str,
    cores: int | None,
    profiles: Sequence[str] = _LOCAL,
) -> None:
    """Run snakemake in ``folder`` and show one line of progress; on failure its output."""
    command = [
        sys.executable, "-m", "snakemake", *targets,
        *(word for profile in profiles for word in ("--profile", profile)),
        "--configfile", str(config), "--directory", str(folder),
        *(["--cores", str(cores)] if cores else []),
    ]  # fmt: skip
    log = folder / "logs" / "demo.log"
    log.parent.mkdir(exist_ok=True)
    lines, running, done = [], "", ""
    start = shown = time.monotonic()
    with (
        open(log, "a") as file,
        subprocess.Popen(
            command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            if found := _RULE.match(line):
                running = found[1]
            if found := _STEPS.search(line):
                done = f"{found[1]} of {found[2]} jobs"
            # A terminal gets one line that changes, a log file a line now and then.
            is_due = sys.stdout.isatty() or time.monotonic() - shown > SILENT_S
            if is_due and (_RULE.match(line) or _STEPS.search(line)):
                shown = time.monotonic()
                _show(f"{title}: {done or 'starting'}, running {running}", start)
    if process.returncode:
        raise SystemExit(f"\n{''.join(lines[-60:])}\nfailed: {title}; the whole log is {log}")
    nothing = any("Nothing to be done" in line for line in lines)
    _show(f"{title}: {'nothing to be done' if nothing else done}", start)
    print(flush=True, end="\n" if sys.stdout.isatty() else "")


def _show(text: str, start: float) -> None:
    before, after = ("\r\033[K", "") if sys.stdout.isatty() else ("", "\n")
    print(f"{before}[{time.monotonic() - start:4.0f} s] {text}", end=after, flush=True)


def _write_key(path: Path) -> None:
    """Write the key of the pseudonyms, always the same: the demo's results are, too."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(DEMO_KEY + "\n", encoding="ascii")


def _say(text: str) -> None:
    print(f"[  ...] {text}", flush=True)


def _summary(folder: Path) -> str:
    return release_summary(pd.read_csv(folder / "results/measure/tumors_by_size.csv"))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--micro", action="store_true", help="the smallest phantoms")
    parser.add_argument("--profile", action="append", help=f"of snakemake; {_LOCAL[0]} if none")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    config = ROOT / "tests/phantoms" / ("micro.yaml" if arguments.micro else "demo.yaml")
    run_demo(folder, config, micro=arguments.micro, profiles=arguments.profile or _LOCAL)
    if wrong := differences(folder, folder / "results/tables", bytes.fromhex(DEMO_KEY)):
        raise SystemExit("\n".join(["what was told is not what was planted:", *wrong]))
    print(f"\n{_summary(folder)}\n\n{summary(folder)}\n")
    print(f"release  {folder / 'results/release/2.0'}")
    for name in ("release", "tumors", "review", "sources", "leakage", "rules"):
        print(f"report   {folder / 'results/report' / name}.html")


if __name__ == "__main__":
    main()
