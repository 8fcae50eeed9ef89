"""``python -m benchmarks [--quick] [--rounds N]``: print the tables of docs/performance.md.

All methods of a table run in one process on one thread, in turn, on a phantom made on the spot;
their outputs are compared, and a difference ends the run.
"""

import argparse
import os
import tempfile
from pathlib import Path

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
            "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small phantom, one round")
    parser.add_argument(
        "--rounds",
        type=int,
        default=None,
        help="rounds that count (3)",
    )
    chosen = parser.parse_args(arguments)
    rounds = chosen.rounds or (1 if chosen.quick else 3)
    # Libraries read these when they are imported.
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    from benchmarks.deduplicating import match_pool
    from benchmarks.evaluating import compare_evaluating
    from benchmarks.harmonizing import compare_harmonizing
    from benchmarks.ingesting import compare_ingesting
    from benchmarks.instances import compare_instances
    from benchmarks.phantom import write_phantom
    from benchmarks.reading import compare_reading
    from benchmarks.verifying import compare_verifying

    shape, tumors = ((24, 96, 96), 8) if chosen.quick else ((150, 512, 512), 60)
    released = [shape] if chosen.quick else [(150, 256, 256), (150, 512, 512), (200, 512, 512)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        phantom = write_phantom(folder, shape, tumors, seed=20251021)
        # Short runs vary most.
        print(compare_reading(phantom, 3 * rounds), flush=True)
        print(f"\n{compare_ingesting(phantom, 3 * rounds)}", flush=True)
        print(f"\n{compare_harmonizing(phantom, folder / 'out', rounds)}", flush=True)
        # The map that the targets are set for.
        (folder / "many").mkdir()
        size = (shape, tumors) if chosen.quick else ((300, 512, 512), 100)
        many = write_phantom(folder / "many", *size, seed=20251021)
        print(f"\n{compare_instances(many, rounds)}", flush=True)
        print(f"\n{compare_evaluating(many, rounds)}", flush=True)
        print(f"\n{compare_verifying(folder / 'verify', released, rounds)}", flush=True)
        print(f"\n{match_pool(300 if chosen.quick else 12_000, seed=20251021)}", flush=True)
        if not chosen.quick:
            # The mean length of the paper's scans.
            (folder / "long").mkdir()
            long = write_phantom(folder / "long", (464, 512, 512), tumors, seed=20251021)
            print(f"\n{compare_ingesting(long, 2 * rounds)}", flush=True)


if __name__ == "__main__":
    main()
