"""Commands for people: ``status``, ``verify``, ``unpack``, ``key`` and ``lock``."""

import argparse
import sys
import time
from pathlib import Path

from tumoratlas.core.errors import TumorAtlasError
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
    unpack = commands.add_parser(
        "unpack", help="unpack a source's zip or tar archive safely into a new folder"
    )
    unpack.add_argument("archive", type=Path, help="zip, tar, tar.gz, tar.bz2 or tar.xz")
    unpack.add_argument("folder", type=Path, help="folder to create")
    unpack.add_argument("--max-members", type=int, help="most files to take in")
    unpack.add_argument("--max-bytes", type=int, help="most bytes to write")
    unpack.add_argument(
        "--max-ratio", type=float, help="most bytes to write per byte of the archive"
    )
    key = commands.add_parser(
        "key", help="write a new secret key for the pseudonyms of private scans"
    )
    key.add_argument("file", type=Path, help="file to create; keep it beside the private scans")
    lock = commands.add_parser(
        "lock", help="fetch open files once and write the lock that every later fetch must meet"
    )
    lock.add_argument("file", type=Path, help="lock to create, a CSV file")
    lock.add_argument("folder", type=Path, help="folder of the source, which the files go into")
    lock.add_argument("files", nargs="+", metavar="PATH=URL", help="place below folder, address")
    arguments = parser.parse_args()
    if arguments.command == "status":
        return _status(arguments.directory, arguments.watch)
    if arguments.command == "unpack":
        return _unpack(arguments)
    if arguments.command == "key":
        return _key(arguments.file)
    if arguments.command == "lock":
        return _lock(arguments.file, arguments.folder, arguments.files)
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


def _unpack(arguments: argparse.Namespace) -> int:
    from tumoratlas.ingest.archives import MAX_BYTES, MAX_MEMBERS, MAX_RATIO, unpack

    files = unpack(
        arguments.archive,
        arguments.folder,
        max_members=arguments.max_members or MAX_MEMBERS,
        max_bytes=arguments.max_bytes or MAX_BYTES,
        max_ratio=arguments.max_ratio or MAX_RATIO,
    )
    print(f"{arguments.folder}: {files} files")
    return 0


def _key(file: Path) -> int:
    from tumoratlas.ingest.pseudonyms import write_key

    write_key(file)
    print(f"{file}: keep a copy in a safe place; it is never released")
    return 0


def _lock(file: Path, folder: Path, files: list[str]) -> int:
    from tumoratlas.ingest.fetching import lock_files

    named = dict(text.partition("=")[::2] for text in files)
    lock_files(file, folder, named)
    print(f"{file}: {len(named)} files; commit it beside the configuration")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TumorAtlasError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
