"""What is wrong with a release: one line each, ``CODE: what: why``."""

from collections.abc import Iterator
from contextlib import contextmanager

UNREADABLE = "UNREADABLE"
_LONGEST = 300


class Problems:
    """A list of lines that grows; a check that breaks adds a line and stops nothing else."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, code: str, subject: object, reason: object) -> None:
        """Add a line; what could break it or a terminal is shown as an escape."""
        self.lines.append(f"{code}: {_plain(subject)}: {_plain(reason)}")

    @contextmanager
    def guard(self, subject: object) -> Iterator[None]:
        """Turn whatever goes wrong inside into a line: a copy may be damaged in any way."""
        try:
            yield
        except Exception as error:
            self.add(UNREADABLE, subject, f"cannot be checked: {type(error).__name__}: {error}")


def _plain(value: object) -> str:
    text = " ".join(str(value).split())
    text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return text or "''"
