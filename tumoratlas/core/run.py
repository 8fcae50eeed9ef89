"""What every script stands in: the rule's log, one-line errors and the provenance record."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from tumoratlas.core.errors import TumorAtlasError
from tumoratlas.core.provenance import PROVENANCE, ProvenanceFile, file_hashes

log = logging.getLogger("tumoratlas")
# Above this, a file's hash is left to the stage that made it (per-scan records hold it).
_MAX_HASHED_BYTES = 64 * 2**20


@contextmanager
def rule_run(job: Any) -> Iterator[None]:  # noqa: ANN401 - Snakemake's object, not imported here
    """Run the body of a rule's script.

    Log records go to the rule's log file. A `TumorAtlasError` ends the job with its one line
    and no traceback; any other exception keeps its traceback, since it is our bug. A job that
    ends well leaves a line in ``results/provenance/<rule>/``.

    Parameters
    ----------
    job
        The ``snakemake`` object of a script (``rule, input, output, params, log``).
    """
    # Parallelism is by process; sums then keep their order whatever the machine.
    threadpool_limits(1)
    logging.basicConfig(
        filename=job.log[0],
        filemode="w",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    logging.captureWarnings(True)
    started = time.time()
    try:
        yield
    except TumorAtlasError as error:
        log.error("%s", error)
        sys.exit(1)
    except SystemExit:
        raise
    except BaseException:
        log.exception("the rule %s failed by a defect of the pipeline; please report it", job.rule)
        raise
    params = {name: value for name, value in job.params.items() if name != "code"}
    name = "_".join([str(value) for value in job.wildcards]) or "all"
    ProvenanceFile(PROVENANCE / job.rule / f"{name}.jsonl", rule=job.rule, params=params).record(
        f"{job.rule}/{name}",
        inputs=file_hashes(_small(job.input)),
        outputs=file_hashes(_small(job.output)),
        started=started,
        code=job.params.get("code"),
        seed=params.get("seed"),
        threads=job.threads,
    )


def _small(paths: Any) -> list[Path]:  # noqa: ANN401 - Snakemake's list of paths
    files = [Path(str(path)) for path in paths]
    return [path for path in files if path.is_file() and path.stat().st_size < _MAX_HASHED_BYTES]
