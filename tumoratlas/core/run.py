"""What every script stands in: the rule's log, one-line errors and the provenance record."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from tumoratlas.core.code import code_files
from tumoratlas.core.errors import NO_ROOM, DamageError, ToldError, TumorAtlasError, disk_full
from tumoratlas.core.files import sha256_json
from tumoratlas.core.provenance import JobRecord
from tumoratlas.core.results import keep_sums, refuse_damaged_inputs, take_away

log = logging.getLogger("tumoratlas")


@contextmanager
def rule_run(job: Any) -> Iterator[None]:  # noqa: ANN401 - Snakemake's object, not imported here
    """Run the body of a rule's script.

    Log records go to the rule's log file. A `ToldError` ends the job with its one line
    and no traceback; any other exception keeps its traceback, since it is our bug. Start and
    end are recorded in ``results/provenance/<rule>/``, whatever the end.

    Parameters
    ----------
    job
        The ``snakemake`` object of a script (``rule, input, output, params, config, log``).

    Raises
    ------
    SystemExit
        With status 1 after a `ToldError`; also ``CODE_CHANGED``, where the rule's code is
        not the one that was planned: its results would bear the name of code that did not make
        them.
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
    record, files = JobRecord(job), code_files(job.rule)
    try:
        with _no_room_as_error(job):
            record.start(files)
            _refuse_changed_code(job, files)
            refuse_damaged_inputs(job.input, record.inputs)
            yield
            keep_sums(record.end(0))
    except ToldError as error:
        log.error("%s", error)
        if isinstance(error, DamageError):
            with suppress(OSError):
                take_away(Path(error.subject))
        with suppress(OSError):  # a full disk may be why we are here
            record.end(1, str(error))
        sys.exit(1)
    except SystemExit as error:
        record.end(error.code if isinstance(error.code, int) else 1, "stopped on request")
        raise
    except BaseException as error:
        log.exception("the rule %s failed by a defect of the pipeline; please report it", job.rule)
        with suppress(OSError):
            record.end(1, f"{type(error).__name__}: {error}")
        raise


@contextmanager
def _no_room_as_error(job: Any) -> Iterator[None]:  # noqa: ANN401
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise disk_full(job.rule, str(error.filename or "its results"), error) from None


def _refuse_changed_code(job: Any, files: dict[str, str]) -> None:  # noqa: ANN401
    if sha256_json(files) != job.params.code:
        raise TumorAtlasError(
            "CODE_CHANGED",
            job.rule,
            "its code was edited after this run was planned",
            remedy="Start the same command again",
        )
