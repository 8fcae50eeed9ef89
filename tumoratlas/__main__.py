"""Commands for people: about a run, a release, a source's files and the records of review."""

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tumoratlas.core.errors import ToldError
from tumoratlas.core.status import format_status, read_status

if TYPE_CHECKING:
    from tumoratlas.review.ledger import Event


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
    check = commands.add_parser(
        "check", help="read all results of a run back; damaged ones are made again by the next run"
    )
    check.add_argument(
        "--directory", type=Path, default=Path(), help="working directory of the run"
    )
    plan = commands.add_parser(
        "plan", help="say what a run would do, why, and what it will cost; starts nothing"
    )
    plan.add_argument("--directory", type=Path, default=Path(), help="working directory of the run")
    plan.add_argument("--configfile", type=Path, nargs="+", default=[], help="as for snakemake")
    plan.add_argument("--targets", nargs="+", default=["all"], help="as for snakemake")
    plan.add_argument("--cores", type=int, default=os.cpu_count(), help="to estimate hours for")
    plan.add_argument("--gpus", type=int, default=1, help="to estimate hours for")
    plan.add_argument(
        "--measured", action="store_true", help="print what scans cost so far, for `costs`"
    )
    verify = commands.add_parser("verify", help="check any copy of a release, without the workflow")
    verify.add_argument("release", type=Path, help="folder with SHA256SUMS")
    verify.add_argument("--processes", type=int, default=1, help="cases checked at the same time")
    diff = commands.add_parser(
        "diff", help="say what changed between two releases, and which review caused it"
    )
    diff.add_argument("old", type=Path, help="folder of the earlier release")
    diff.add_argument("new", type=Path, help="folder of the later one")
    diff.add_argument("--html", type=Path, help="file to write the report to")
    diff.add_argument("--csv", type=Path, help="file to write every change to")
    compare = commands.add_parser(
        "compare", help="say how the results of two runs differ, and why, from their records alone"
    )
    compare.add_argument("run_a", type=Path, help="working directory of a run")
    compare.add_argument("run_b", type=Path, help="working directory of another one")
    crate = commands.add_parser(
        "crate", help="write what happened in a run as a Workflow Run RO-Crate, for publishing"
    )
    crate.add_argument("folder", type=Path, help="folder to create")
    crate.add_argument(
        "--directory", type=Path, default=Path(), help="working directory of the run"
    )
    crate.add_argument("--agent", help="name of the organization that ran it, to be published")
    view = commands.add_parser("view", help="show the cases of a release in the browser")
    view.add_argument("release", type=Path, help="folder with SHA256SUMS")
    view.add_argument("--port", type=int, default=8765, help="of the address on this machine")
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
    trace = commands.add_parser(
        "trace", help="say where a case's labels come from: files, models, people, jobs"
    )
    trace.add_argument("case", help="case id")
    trace.add_argument(
        "--directory", type=Path, default=Path(), help="working directory of the run"
    )
    trace.add_argument("--organ", action="append", default=[], help="only this; may be repeated")
    trace.add_argument(
        "--voxel",
        type=int,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="index from 0 in the released scan, as viewers count",
    )
    _add_review_commands(commands)
    arguments = parser.parse_args()
    run = {
        "status": _status,
        "check": _check,
        "plan": _plan,
        "verify": _verify,
        "diff": _diff,
        "compare": _compare,
        "crate": _crate,
        "view": _view,
        "trace": _trace,
        "unpack": _unpack,
        "key": _key,
        "lock": _lock,
        "undo": _undo,
        "withdraw": _withdraw,
        "backup": _backup,
        "restore": _restore,
    }[arguments.command]
    return run(arguments)


def _add_review_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    undo = commands.add_parser(
        "undo", help="take decisions back: own ones, or anybody's as a senior"
    )
    undo.add_argument("events", nargs="+", metavar="EVENT_ID", help="first 8 digits or more")
    withdraw = commands.add_parser(
        "withdraw", help="take a case's tumor masks out of the release until signed again"
    )
    withdraw.add_argument("case", help="case id")
    withdraw.add_argument(
        "--organ", action="append", default=[], help="only this organ; may be repeated"
    )
    for command in (undo, withdraw):
        command.add_argument("--reviewer", required=True, help="reviewer_id in reviewers.csv")
        command.add_argument(
            "--reason", required=True, help="why; kept in the ledger, not released"
        )
        command.add_argument(
            "--records", type=Path, default=Path("records"), help="folder of human work"
        )
    backup = commands.add_parser(
        "backup", help="check the records folder and write it into one tar archive"
    )
    backup.add_argument("records", type=Path, help="folder of human work")
    backup.add_argument("archive", type=Path, help="tar file to create")
    backup.add_argument(
        "--with-key",
        action="store_true",
        help="take in pseudonym.key; keep the archive as secret as the key",
    )
    restore = commands.add_parser("restore", help="check a backup and unpack it into a new folder")
    restore.add_argument("archive", type=Path, help="tar file of backup")
    restore.add_argument("records", type=Path, help="new or empty folder")


def _status(arguments: argparse.Namespace) -> int:
    while True:
        text = format_status(read_status(arguments.directory / "results"))
        # Clear the terminal, so that the table stays in its place.
        print(f"\033[2J\033[H{text}" if arguments.watch else text, flush=True)
        if not arguments.watch:
            return 0
        time.sleep(5)


def _check(arguments: argparse.Namespace) -> int:
    from tumoratlas.core.rereading import damaged_results
    from tumoratlas.core.results import take_away

    os.chdir(arguments.directory)
    damaged = list(damaged_results())
    for path, taken in damaged:
        print(f"{path} is not what was written")
        for place in taken:
            take_away(place)
    print(f"{len(damaged)} damaged; the next run makes again what is needed of them")
    return 1 if damaged else 0


def _plan(arguments: argparse.Namespace) -> int:
    from tumoratlas.core.code import ROOT
    from tumoratlas.core.provenance import read_jobs
    from tumoratlas.reproduce.plan import measured_costs
    from tumoratlas.reproduce.plan_text import measured_text, plan_lines, read_config

    run, files = arguments.directory, arguments.configfile
    if arguments.measured:
        config = read_config([ROOT / "config.yaml", *files])
        jobs = read_jobs(run / "results/provenance")
        print(measured_text(measured_costs(config, jobs, run)))
        return 0
    for line in plan_lines(ROOT, run, arguments.targets, files, arguments.cores, arguments.gpus):
        print(line)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from tumoratlas.release.verify.release import verify_release

    show = _show_progress if sys.stderr.isatty() else None
    found = verify_release(arguments.release, processes=arguments.processes, progress=show)
    for problem in found.problems:
        print(problem)
    verdict = f"{len(found.problems)} problems" if found.problems else "every promise holds"
    print(
        f"{arguments.release}: {found.files} files, {found.cases} cases, {found.tumors} tumors: "
        f"{verdict}"
    )
    return 1 if found.problems else 0


def _show_progress(done: int, total: int, name: str) -> None:
    """Show a bar on the terminal; it goes when all is done."""
    width = 30
    filled = width * done // max(1, total)
    text = f"[{'#' * filled}{'.' * (width - filled)}] {done:,} of {total:,} {name}"
    print(f"\r\033[K{text if done < total else ''}", end="", file=sys.stderr, flush=True)


def _diff(arguments: argparse.Namespace) -> int:
    from tumoratlas.core.structures import RESOURCES
    from tumoratlas.release.diff.releases import diff_releases, write_diff_csv
    from tumoratlas.release.diff.text import summary_text
    from tumoratlas.report.diff import write_diff_report

    try:
        diff = diff_releases(arguments.old, arguments.new)
    except ToldError as error:
        print(error, file=sys.stderr)
        return 2  # as diff(1): 0 equal, 1 different, 2 trouble
    print(summary_text(diff))
    if arguments.csv:
        write_diff_csv(arguments.csv, diff)
    if arguments.html:
        write_diff_report(arguments.html, diff, RESOURCES / "report/diff.html.jinja")
    return 0 if diff.is_empty else 1


def _compare(arguments: argparse.Namespace) -> int:
    from tumoratlas.core.provenance import PROVENANCE
    from tumoratlas.reproduce.compare import compare_runs
    from tumoratlas.reproduce.compare_text import comparison_text

    runs = arguments.run_a, arguments.run_b
    try:
        found = compare_runs(*(run / PROVENANCE for run in runs))
    except ToldError as error:
        print(error, file=sys.stderr)
        return 2  # as diff(1): 0 equal, 1 different, 2 trouble
    print(f"A: {runs[0]}\nB: {runs[1]}\n\n{comparison_text(found)}")
    return 0 if found.is_equal else 1


def _crate(arguments: argparse.Namespace) -> int:
    from tumoratlas.reproduce.crate import write_crate

    facts = write_crate(arguments.directory, arguments.folder, agent=arguments.agent)
    print(f"{arguments.folder}: {facts.jobs} jobs, {facts.files} files, {facts.entities} entities")
    return 0


def _view(arguments: argparse.Namespace) -> int:
    from tumoratlas.release.viewer import release_server

    with release_server(arguments.release, arguments.port) as server:
        print(f"http://127.0.0.1:{server.server_port}/viewer/  (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    return 0


def _trace(arguments: argparse.Namespace) -> int:
    from tumoratlas.reproduce.trace import trace_case, trace_text

    sections = trace_case(
        arguments.directory,
        arguments.case,
        organs=arguments.organ,
        voxel=tuple(arguments.voxel) if arguments.voxel else None,
    )
    print(trace_text(arguments.case, sections))
    return 0


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


def _key(arguments: argparse.Namespace) -> int:
    from tumoratlas.ingest.pseudonyms import write_key

    write_key(arguments.file)
    print(f"{arguments.file}: keep a copy in a safe place; it is never released")
    return 0


def _lock(arguments: argparse.Namespace) -> int:
    from tumoratlas.ingest.fetching import lock_files

    named = dict(text.partition("=")[::2] for text in arguments.files)
    lock_files(arguments.file, arguments.folder, named)
    print(f"{arguments.file}: {len(named)} files; commit it beside the configuration")
    return 0


def _undo(arguments: argparse.Namespace) -> int:
    from tumoratlas.review.commands import undo

    taken = undo(
        arguments.records,
        arguments.events,
        reviewer_id=arguments.reviewer,
        reason=arguments.reason,
        now=datetime.now(UTC),
    )
    return _told(taken)


def _withdraw(arguments: argparse.Namespace) -> int:
    from tumoratlas.review.commands import withdraw

    taken = withdraw(
        arguments.records,
        arguments.case,
        arguments.organ,
        reviewer_id=arguments.reviewer,
        reason=arguments.reason,
        now=datetime.now(UTC),
    )
    return _told(taken)


def _told(events: "list[Event]") -> int:
    for event in events:
        print(f"{event.decision} of {event.case_id} {event.organ} as {event.event_id[:16]}")
    print("the next run of the workflow takes it in")
    return 0


def _backup(arguments: argparse.Namespace) -> int:
    from tumoratlas.review.backup import backup

    files = backup(arguments.records, arguments.archive, with_key=arguments.with_key)
    print(f"{arguments.archive}: {files} files, all checked")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from tumoratlas.review.backup import restore

    files = restore(arguments.archive, arguments.records)
    print(f"{arguments.records}: {files} files, all checked")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ToldError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
