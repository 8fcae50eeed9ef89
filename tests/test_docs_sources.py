"""The page of sources shows what their descriptions say, and nothing else."""

import re
from pathlib import Path

from tumoratlas.ingest.sources import ANSWERS, Source, read_source

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/sources.md"


def described() -> list[Source]:
    """Return all sources, the pool first."""
    sources = [read_source(path) for path in sorted((ROOT / "resources/sources").glob("*.yaml"))]
    return sorted(sources, key=lambda source: (source.role != "pool", source.id))


def source_rows(source: Source) -> tuple[str, ...]:
    """Return the cells of a source's row."""
    licence = source.licence if source.licence_verified else f"{source.licence} (not verified)"
    counts = (source.expected.paper, source.expected.official)
    shown = ["" if count is None else f"{count:,}" for count in counts]
    return (f"`{source.id}`", source.name, source.role, *shown, licence, source.licence_note)


def defect_rows(source: Source) -> list[tuple[str, ...]]:
    """Return the cells of the rows of a source's known defects."""
    return [
        (f"`{source.id}`", defect.id, defect.text, f"{defect.answer}{_doubt(defect.verified)}")
        for defect in source.defects
    ]


def _doubt(verified: bool) -> str:
    return "" if verified else " (defect not verified)"


def page_rows(text: str) -> list[tuple[str, ...]]:
    """Return the cells of every table row of a page whose first cell is code."""
    rows = [line for line in text.splitlines() if re.match(r"\| `", line)]
    return [tuple(cell.strip() for cell in row.strip().strip("|").split("|")) for row in rows]


def line_of(cells: tuple[str, ...]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def test_the_page_is_that_of_the_descriptions() -> None:
    """Every source, defect and answer stands on the page, word for word and in order."""
    sources = described()
    rows = [source_rows(source) for source in sources]
    rows += [row for source in sources for row in defect_rows(source)]
    used = {defect.answer for source in sources for defect in source.defects}
    rows += [(f"`{name}`", text) for name, text in ANSWERS.items() if name in used]
    expected = [page_rows(line_of(row))[0] for row in rows]
    assert page_rows(PAGE.read_text(encoding="utf-8")) == expected
