"""Write the phantom sources: ``python -m tests.phantoms FOLDER [--micro] [--seed N]``."""

import argparse
from pathlib import Path

from tests.phantoms.layouts import write_phantoms

parser = argparse.ArgumentParser(prog="python -m tests.phantoms", description=__doc__)
parser.add_argument("folder", type=Path, help="gets sources/ and truth/")
parser.add_argument("--micro", action="store_true", help="the small set, for quick runs")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()
write_phantoms(arguments.folder, micro=arguments.micro, seed=arguments.seed)
