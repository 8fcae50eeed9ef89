"""What stands in for Snakemake when a job is run again: its object, and a process of its own."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.code import ROOT
from tumoratlas.core.provenance import PROVENANCE, read_jobs
from tumoratlas.reproduce.overlay import Overlay

# Snakemake sets these to a job's threads; how a sum is parted, and its last bit, follow them.
_THREADS = (
    "OMP_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_START = "from tumoratlas.reproduce.standin import main; main()"


class Named(list):
    """A list of values that have names, as scripts find them in Snakemake's object.

    A value that is a list is several entries, with one name.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(
            entry
            for value in values.values()
            for entry in (value if isinstance(value, list) else [value])
        )
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - JSON values
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - a name, or a place in the list
        return self._values[key] if isinstance(key, str) else super().__getitem__(key)

    def get(self, name: str, default: object = None) -> Any:  # noqa: ANN401
        """Return the value of a name."""
        return self._values.get(name, default)

    def items(self) -> Any:  # noqa: ANN401 - a view of a dictionary
        """Return names and values."""
        return self._values.items()


class StandIn:
    """Snakemake's object for a script, made of a job's record.

    Parameters
    ----------
    record
        The job's ``ended`` record.
    config
        The whole configuration that it refers to.
    """

    def __init__(self, record: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self.rule = record["rule"]
        self.input = Named(record["input_names"])
        self.output = Named(record["output_names"])
        self.params = Named(record["params"])
        self.wildcards = Named(record["wildcards"])
        self.resources = Named(record["resources"])
        self.log = [record["log"]]
        self.threads = record["threads"]
        self.config = config


def run_again(
    record: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    root: Path,
    folder: Path,
    protected: Sequence[Path],
) -> str | None:
    """Run a job's script in ``folder``, in a process that writes only below ``root``.

    Returns
    -------
    None, or in one line why it failed.
    """
    facts = {
        "record": dict(record),
        "config": dict(config),
        "root": str(root),
        "protected": [str(path) for path in protected],
    }
    environment = os.environ | dict.fromkeys(_THREADS, str(record["threads"]))
    path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    done = subprocess.run(
        [sys.executable, "-c", _START],
        input=json.dumps(facts),
        cwd=folder,
        env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.returncode:
        return None
    told = [line["error"] for line in read_jobs(folder / PROVENANCE) if line["exit"]]
    lines = done.stderr.strip().splitlines()
    return next(iter(told or lines[-1:]), f"it ended with status {done.returncode}")


def main() -> None:
    """Run the script of the job that stands on the standard input."""
    facts = json.load(sys.stdin)
    overlay = Overlay(Path(facts["root"]), [Path(path) for path in facts["protected"]])
    overlay.install()
    record = facts["record"]
    script = ROOT / "scripts" / f"{record['rule']}.py"
    job = StandIn(record, facts["config"])
    runpy.run_path(str(script), init_globals={"snakemake": job}, run_name="__main__")
