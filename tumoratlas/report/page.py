"""Pages that need nothing else: one template, one style sheet, all in one file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2


def render_page(template: Path, values: Mapping[str, Any]) -> str:
    """Return the page that a template makes of values; equal values give equal text.

    Parameters
    ----------
    template
        Jinja template; files that it includes (``style.css``) lie beside it. All values are
        escaped; a value that it lacks is an error. ``number`` writes numbers for people,
        ``signed`` differences.
    values
        What the template names.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["signed"] = _signed
    return environment.get_template(template.name).render(values)


def format_number(value: object) -> str:
    """Return a number for people: thousands apart, at most three digits after the point."""
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, str):
        return value
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _signed(value: int | None) -> str:
    """Return a difference with its sign (``+3``, ``−12``, ``±0``), or a dash for None."""
    if value is None or value != value:
        return "–"
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return f"{sign}{format_number(abs(value))}"
