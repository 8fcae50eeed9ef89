"""Commands for people: ``python -m tumoratlas status`` and ``python -m tumoratlas verify``."""

import argparse
import sys
import time
from pathlib import Path

from tumoratlas.core.status import format_status, read_status


def main() -> int:
    """Parse the command line, run a command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tumoratlas", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser(
        "status", help="show how far a run is: per rule scans done, rate, time left, excluded"
    )
    status.add_argument(
        "--directory", type=Path, default=Path(), help="working directory of the run"
    )
    status.add_argument("--watch", action="store_true", help="show it again every 5 seconds")
    verify = commands.add_parser("verify", help="check any copy of a release, without the workflow")
    verify.add_argument("release", type=Path, help="folder with SHA256SUMS")
    verify.add_argument("--processes", type=int, default=1, help="cases checked at the same time")
    arguments = parser.parse_args()
    if arguments.command == "status":
        return _status(arguments.directory, arguments.watch)
    return _verify(arguments.release, arguments.processes)


def _status(directory: Path, watch: bool) -> int:
    while True:
        text = format_status(read_status(directory / "results"))
        # Clear the terminal, so that the table stays in its place.
        print(f"\033[2J\033[H{text}" if watch else text, flush=True)
        if not watch:
            return 0
        time.sleep(5)


def _verify(release: Path, processes: int) -> int:
    from tumoratlas.release.verify import verify_release

    found = verify_release(release, processes=processes)
    for problem in found.problems:
        print(problem)
    verdict = f"{len(found.problems)} problems" if found.problems else "every promise holds"
    print(f"{release}: {found.files} files, {found.cases} cases, {found.tumors} tumors: {verdict}")
    return 1 if found.problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
