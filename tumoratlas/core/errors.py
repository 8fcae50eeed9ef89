"""The errors that a user can mend: each says which file, what is wrong and what to do."""

from functools import partial
from typing import Any


class TumorAtlasError(Exception):
    """A defect of the input, told in one line.

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


class MachineError(TumorAtlasError):
    """A fault of the machine, not of a scan: the job fails and the scan stays to be done."""
