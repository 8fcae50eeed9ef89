"""Texts of a release from templates and values; equal values give equal text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from tumoratlas.core.files import to_json


def render_text(template: Path, values: Mapping[str, Any]) -> str:
    """Return the text that a Jinja template makes of values; a value that it lacks is an error.

    Nothing is escaped: the texts are Markdown and YAML. ``cell`` makes a text fit for a cell of a
    Markdown table, ``tojson`` for a value of YAML.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    environment.filters["cell"] = _cell
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def json_text(value: Mapping[str, Any]) -> str:
    """Return JSON with one line per key, in order."""
    lines = [f"  {to_json(key)}: {to_json(part)}" for key, part in sorted(value.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"
