"""What a fault is, and the list of all."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.run import Run, Said

FAULTS: dict[str, "Fault"] = {}

Act = Callable[[Run], Said]


@dataclass(frozen=True)
class Fault:
    """A fault, what must be told of it, and what mends it.

    Attributes
    ----------
    name
        What happens, in words; the key of the list.
    topic
        Heading of its table.
    sees
        Regular expression that a line of what the disturbed run prints or logs must match.
        Empty: nothing is told, since the results are right without it.
    recovery
        What the user does, in words. What the act has done by its end.
    act
        Brings the fault about, runs, recovers; returns what the disturbed run said.
    is_quick
        Also a test of the checks that each commit must pass.
    """

    name: str
    topic: str
    sees: str
    recovery: str
    act: Act
    is_quick: bool = False


def fault(
    name: str, topic: str, *, sees: str, recovery: str, is_quick: bool = False
) -> Callable[[Act], Act]:
    """Enter a function into the list of faults."""

    def enter(act: Act) -> Act:
        if name in FAULTS:
            raise ValueError(f"two faults are named {name}")
        FAULTS[name] = Fault(name, topic, sees, recovery, act, is_quick)
        return act

    return enter
