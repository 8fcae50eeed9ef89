"""The errors that a user can mend: each says which file, what is wrong and what to do."""

import errno
from functools import partial
from typing import Any

# Of an OSError: no fault of what met it, but of the machine.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
NO_ANSWER = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}


class ToldError(Exception):
    """What went wrong, told in one line.

    Parameters
    ----------
    code
        Stable upper-case name of the defect, as listed in ``docs/checks.md`` (``GZIP_CRC``).
    subject
        The file, scan, table or configuration key that is wrong.
    reason
        What is wrong with it.
    remedy
        What the user can do about it.
    evidence
        Measured facts that show the defect (``"header claims 90 slices, data holds 60"``).
    """

    def __init__(
        self, code: str, subject: object, reason: str, *, remedy: str, evidence: str = ""
    ) -> None:
        self.code = code
        self.subject = str(subject)
        self.reason = reason
        self.remedy = remedy
        self.evidence = evidence
        super().__init__(code, self.subject, reason, remedy, evidence)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from their positional arguments, which these do not take.
        facts = {"remedy": self.remedy, "evidence": self.evidence}
        return partial(type(self), **facts), (self.code, self.subject, self.reason)

    def __str__(self) -> str:
        evidence = f" ({self.evidence})" if self.evidence else ""
        return f"{self.code}: {self.subject}: {self.reason}{evidence}. {self.remedy}"

    def excluded_row(self, item_id: str, rule: str) -> dict[str, str]:
        """Return the row of the table ``excluded`` that tells of this error."""
        return {
            "id": item_id,
            "rule": rule,
            "code": self.code,
            "reason": f"{self.subject}: {self.reason}",
            "evidence": self.evidence,
            "remedy": self.remedy,
        }


class TumorAtlasError(ToldError):
    """A defect of the input: what it spoils may be left out, and the rest goes on."""


class ConfigError(TumorAtlasError):
    """A configuration key that is unknown, missing or out of range."""


class InputError(TumorAtlasError):
    """A source file or folder that cannot be used."""


class GeometryError(InputError):
    """A volume whose place in space is missing, contradictory or unlike its partner's."""


class ReviewError(TumorAtlasError):
    """A returned decision or mask that cannot be taken in."""


class ReleaseError(TumorAtlasError):
    """A release that breaks one of its promises."""


class MachineError(ToldError):
    """A fault of the machine, not of a scan: the job fails and the scan stays to be done."""


class PutOffError(MachineError):
    """A scan cannot be done now: the other scans go on, then the job fails."""


class DamageError(PutOffError):
    """A result that is not what was written: it is taken away, so that it is made again."""


def disk_full(subject: object, what: str, error: OSError) -> MachineError:
    """Return what tells that ``what`` cannot be written, for an error out of `NO_ROOM`."""
    return MachineError(
        "DISK_FULL",
        subject,
        f"{what} cannot be written: {error}",
        remedy="Make room and run the same command again; it resumes here",
    )


def disk_lost(subject: object, error: OSError) -> PutOffError:
    """Return what tells that a file cannot be read now, for an error out of `NO_ANSWER`."""
    return PutOffError(
        "DISK_LOST",
        subject,
        f"its disk does not answer: {error.strerror}",
        remedy="Run the same command again; if it stays so, replace the file",
    )
