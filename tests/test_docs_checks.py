"""The table of checks, its page and its use in the code agree."""

import re
from pathlib import Path

from tumoratlas.images.checks import CHECKS

ROOT = Path(__file__).resolve().parents[1]


def test_page_shows_the_table() -> None:
    """Each check stands in docs/checks.md under its kind, and nothing else does."""
    shown = []
    kind = ""
    for line in (ROOT / "docs" / "checks.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            kind = line[3:].split(":")[0]
        elif re.match(r"\| [A-Z]", line):
            shown.append((kind, *(cell.strip() for cell in line.strip("| ").split("|"))))
    kinds = list(dict.fromkeys(check.kind for check in CHECKS.values()))
    expected = [
        (c.kind, c.code, c.level, c.meaning, c.remedy)
        for kind in kinds
        for c in CHECKS.values()
        if c.kind == kind
    ]
    assert shown == expected


def test_every_check_is_made_at_its_level() -> None:
    """Code raises only listed refusals, records only listed warnings, and uses all of them."""
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tumoratlas").rglob("*.py"))
    # Conditional codes stand in quotes on lines of their own.
    used = {name for name in CHECKS if len(re.findall(rf'"{name}"', code)) > 1}
    assert used == set(CHECKS)
    for call, level in (("refusal", "refuse"), ("warning", "warn")):
        for name in re.findall(rf'\b{call}\(\s*"(\w+)"', code):
            assert CHECKS[name].level == level, name
