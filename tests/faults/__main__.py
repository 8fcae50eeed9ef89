"""Run the campaign; see the package."""

import argparse
import os
import sys
import traceback
from pathlib import Path

from tests.faults import disks
from tests.faults.campaign import prepare, suffer, table
from tests.faults.fault import FAULTS
from tests.faults.topics import TOPICS


def main() -> int:
    """Run the faults that were asked for and tell what came of each."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="words of the faults to run; all without")
    parser.add_argument("--folder", type=Path, default=Path("faults"), help="where everything is")
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    chosen = [
        fault
        for fault in FAULTS.values()
        if not arguments.names or any(word in fault.name for word in arguments.names)
    ]
    if os.geteuid():
        print("faults of disks are skipped: mounting small file systems needs root")
        chosen = [fault for fault in chosen if TOPICS[fault.topic] is not disks]
    folder = arguments.folder.resolve()
    checkout, reference = prepare(folder)
    outcomes, failed = [], 0
    for fault in chosen:
        try:
            outcome = suffer(fault, checkout, reference, folder)
        except Exception:  # whatever one fault does, the others go on
            failed += 1
            print(f"FAILED  {fault.name}\n{traceback.format_exc()}", flush=True)
            continue
        outcomes.append(outcome)
        failed += bool(outcome.differences)
        verdict = f"differs {outcome.differences[:6]}" if outcome.differences else "equal"
        print(f"{verdict} {outcome.seconds:.0f} s {fault.name}: {outcome.told}", flush=True)
    if arguments.page:
        arguments.page.write_text(table(outcomes), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
