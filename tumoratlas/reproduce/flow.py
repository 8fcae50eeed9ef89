"""Which rule's outputs another rule reads, from the records of their jobs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Job = Mapping[str, Any]


def producers(jobs: Iterable[Job]) -> dict[str, str]:
    """Return, for each path that some job wrote, the rule that wrote it."""
    return {path: job["rule"] for job in jobs for path in job["outputs"]}


def sources_of(jobs: Iterable[Job]) -> dict[str, set[str]]:
    """Return, for each rule, the rules whose outputs its jobs read; of its own do not count."""
    jobs = list(jobs)
    made_by = producers(jobs)
    found: dict[str, set[str]] = {job["rule"]: set() for job in jobs}
    for job in jobs:
        read = {made_by[path] for path in job["inputs"] if path in made_by}
        found[job["rule"]] |= read - {job["rule"]}
    return found


def rule_order(jobs: Iterable[Job]) -> list[str]:
    """Return the rules in the order of the data's flow, equal ones by their first start.

    Rules that read each other's outputs, as records of several runs in one folder may say, are
    taken in the order of their first start.
    """
    jobs = list(jobs)
    started: dict[str, str] = defaultdict(lambda: "9")
    for job in jobs:
        started[job["rule"]] = min(started[job["rule"]], job["time"])
    waiting = sources_of(jobs)
    order: list[str] = []
    while waiting:
        free = [rule for rule, needs in waiting.items() if not needs & waiting.keys()]
        chosen = min(free or waiting, key=lambda rule: (started[rule], rule))
        order.append(chosen)
        del waiting[chosen]
    return order
