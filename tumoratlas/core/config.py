"""Configuration that is checked before anything runs."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from tumoratlas.core.errors import ConfigError


def check_config(config: Mapping[str, Any], schema_path: Path) -> None:
    """Check a configuration against its JSON schema.

    Raises
    ------
    ConfigError
        ``CONFIG_VALUE``: every mistake in one message, each with its key and what to do.
    """
    schema = yaml.safe_load(schema_path.read_text(encoding="utf-8"))
    errors = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda e: list(e.path))
    if errors:
        told = "; ".join(_tell(error, schema) for error in errors)
        raise ConfigError(
            "CONFIG_VALUE",
            "configuration",
            told,
            remedy="config.yaml documents every key with its unit and meaning",
        )
    candidates = config["candidates"]
    farthest_mm = max(candidates["margin_mm"].values())
    if candidates["region_margin_mm"] < farthest_mm:
        raise ConfigError(
            "CONFIG_VALUE",
            "candidates.region_margin_mm",
            "is below a margin that candidates may lie at, so that some would never be seen",
            remedy=f"Set it to {farthest_mm:g} or more",
            evidence=f"{candidates['region_margin_mm']:g} mm",
        )


def _tell(error: ValidationError, schema: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = sorted(map(str, set(error.instance) - set(known)))
        return ", ".join(_unknown(place, key, known) for key in unknown)
    if error.validator == "required":
        return f"`{place or 'configuration'}`: {error.message}"
    return f"`{place}`: {error.message} ({_description(error, schema)})"


def _description(error: ValidationError, schema: Mapping[str, Any]) -> str:
    """Return the innermost description on the way to the error; it may stand beside a $ref."""
    found, part = "see config.yaml", schema
    for step in error.absolute_schema_path:
        if step not in part:  # the path goes on behind a $ref, which it does not name
            break
        part = part[step]
        if isinstance(part, Mapping) and isinstance(part.get("description"), str):
            found = part["description"]
    return found


def _unknown(place: str, key: str, known: list[str]) -> str:
    full = f"{place}.{key}" if place else key
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(sorted(known))}"
    return f"`{full}` is unknown ({hint})"


def missing_sources(sources: list[Mapping[str, str]]) -> str:
    """Return one line that names every source folder that does not exist, or an empty text."""
    missing = [f"{s['id']} ({s['path']})" for s in sources if not Path(s["path"]).is_dir()]
    if not missing:
        return ""
    return (
        f"SOURCE_MISSING: no folder for source {', '.join(missing)}. Put the source there as "
        "downloaded, or correct or remove its entry under `sources` in your configuration."
    )


def sort_keys(config: dict[str, Any]) -> None:
    """Put the keys of a configuration in order, in place and at every depth."""
    for key, value in sorted(config.items()):
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                sort_keys(part)
        config[key] = config.pop(key)
