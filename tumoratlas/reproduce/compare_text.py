"""The comparison of two runs as a text for people."""

from collections.abc import Mapping

from tumoratlas.reproduce.causes import KINDS, Causes
from tumoratlas.reproduce.compare import (
    DIFFERENT,
    EQUAL,
    NOT_COMPARED,
    Count,
    RuleComparison,
    RunComparison,
)

_SHOWN = 3  # texts of a kind, and rules named
_NO_CAUSE = "none of inputs, params, code, software, machine: the rule is not deterministic here"


def comparison_text(found: RunComparison) -> str:
    """Return the verdict, the first differences with their causes, and a table of all rules."""
    rules = found.rules
    compared = sum(rule.verdict != NOT_COMPARED for rule in rules)
    equal = sum(rule.verdict == EQUAL for rule in rules)
    if found.is_equal:
        lines = [f"Equal: all {compared} rules have the same results.", ""]
    else:
        lines = [f"Different: {equal} of {compared} rules have the same results.", ""]
        for rule in rules:
            if rule.is_first:
                lines += [f"{rule.rule} differs first: {_extent(rule)}", *_causes(rule), ""]
    width = max(len(rule.rule) for rule in rules)
    lines.append(f"{'rule':{width}}  {'verdict':9}  {'jobs':>12}  {'scans':>12}  why")
    lines += [_row(rule, width) for rule in rules]
    return "\n".join(line.rstrip() for line in lines)


def _extent(rule: RuleComparison) -> str:
    parts = [_told(rule.jobs, "job")] if rule.jobs.both or not rule.scans else []
    if rule.scans:
        parts.append(_told(rule.scans, "scan"))
    return "; ".join(parts)


def _told(count: Count, word: str) -> str:
    alone = {"A": count.only_a, "B": count.only_b}
    extra = "".join(f", {n} only in {run}" for run, n in alone.items() if n)
    return f"{count.different} of {count.both} {word}{'s' if count.both != 1 else ''}{extra}"


def _causes(rule: RuleComparison) -> list[str]:
    lines = [f"  {kind}: {text}" for kind, text in _kinds(rule.causes).items()]
    if rule.causes.unexplained:
        some = f" ({rule.causes.unexplained} of {rule.causes.pairs})" if lines else ""
        lines.append(f"  {_NO_CAUSE}{some}")
    return lines


def _kinds(causes: Causes) -> Mapping[str, str]:
    return {kind: _listed(causes.texts(kind), "; ") for kind in KINDS if causes.texts(kind)}


def _listed(texts: list[str], between: str) -> str:
    more = len(texts) - _SHOWN
    return between.join(texts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _row(rule: RuleComparison, width: int) -> str:
    why = []
    if rule.upstream:
        why.append(f"follows {_listed(list(rule.upstream), ', ')}")
    if rule.verdict == DIFFERENT:
        # What the first ones differ by stands above; others may differ by more than their inputs.
        why += [kind for kind in KINDS if rule.causes.found[kind]]
        why += ["not deterministic here"] if rule.causes.unexplained else []
    elif rule.verdict == EQUAL:
        changed = [kind for kind in KINDS if rule.causes.found[kind]]
        why += [f"although {', '.join(changed)} differ"] if changed else []
    elif rule.verdict == NOT_COMPARED:
        why.append("not compared: holds time stamps of source files")
    jobs = _short(rule.jobs) if rule.verdict != NOT_COMPARED else ""
    scans = _short(rule.scans) if rule.scans else ""
    return f"{rule.rule:{width}}  {rule.verdict:9}  {jobs:>12}  {scans:>12}  {'; '.join(why)}"


def _short(count: Count) -> str:
    """Return how many are equal, of all; those of one run only are not."""
    total = count.both + count.only_a + count.only_b
    return f"{count.both - count.different} of {total}"
