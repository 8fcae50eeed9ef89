"""Configuration: every mistake is told before anything runs; file and schema agree."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tumoratlas.core.config import check_config, missing_sources, sort_keys
from tumoratlas.core.errors import ConfigError
from tumoratlas.ingest.sources import read_source

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "resources/schemas/config.schema.yaml"
DEFAULTS = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


def changed(place: str, value: object) -> dict[str, Any]:
    """Return the defaults with one value set, or removed where it is ``...``."""
    config = copy.deepcopy(DEFAULTS)
    *above, key = place.split(".")
    inner = config
    for name in above:
        inner = inner[name]
    if value is ...:
        del inner[key]
    else:
        inner[key] = value
    return config


def told(config: dict[str, Any]) -> str:
    """Return what the check says."""
    with pytest.raises(ConfigError) as caught:
        check_config(config, SCHEMA)
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text
    return text


def costs_spelled_out() -> dict[str, Any]:
    """Return the schema with the row of costs, which all rules share, in its place."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    rules = schema["properties"]["costs"]["properties"]
    assert {part["$ref"] for part in rules.values()} == {"#/$defs/cost"}
    schema["properties"]["costs"]["properties"] = dict.fromkeys(rules, schema["$defs"]["cost"])
    return schema


def leaves(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the dotted name of every option of a schema."""
    for key, value in schema["properties"].items():
        if "properties" in value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def keys(config: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the dotted name of every option of a configuration."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from keys(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def test_the_defaults_pass() -> None:
    """config.yaml is valid."""
    check_config(DEFAULTS, SCHEMA)


def test_file_and_schema_have_the_same_keys() -> None:
    """Each option has a default, and each default is an option that must be there."""
    schema = costs_spelled_out()
    assert list(keys(DEFAULTS)) == list(leaves(schema))
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        assert part["additionalProperties"] is False
        assert sorted(part["required"]) == sorted(part["properties"])
        waiting += [value for value in part["properties"].values() if "properties" in value]


def test_every_option_of_the_schema_is_described() -> None:
    """The description is what an error shows."""
    schema = costs_spelled_out()
    for name in leaves(schema):
        part = schema
        for key in name.split("."):
            part = part["properties"][key]
        assert part.get("description"), name


def test_every_key_has_a_comment_above_it() -> None:
    """A key stands right below its comment, or shares one that names it."""
    lines = (ROOT / "config.yaml").read_text(encoding="utf-8").splitlines()
    sections = {key for key, value in DEFAULTS.items() if isinstance(value, dict)}
    bare = []
    for number, line in enumerate(lines):
        match = re.match(r"( *)([a-z_0-9]+):", line)
        if not match or (not match[1] and match[2] in sections):
            continue
        if match[2] in DEFAULTS["costs"]:  # a row of a table, whose columns stand above it
            continue
        above = number - 1
        while re.match(rf"{match[1]}[a-z_0-9]+: \S", lines[above]):
            above -= 1
        is_shared = above < number - 1
        if not re.match(rf"{match[1]}# \S", lines[above]) or (
            is_shared and match[2].split("_")[0] not in lines[above]
        ):
            bare.append(match[2])
    assert not bare


def test_every_source_has_its_description() -> None:
    """The schema and the folder name the same sources; the precedence those of the pool."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    known = schema["properties"]["sources"]["items"]["properties"]["id"]["enum"]
    files = sorted(path.stem for path in (ROOT / "resources/sources").glob("*.yaml"))
    assert sorted(known) == files
    roles = {name: read_source(ROOT / f"resources/sources/{name}.yaml").role for name in files}
    pool = [name for name in files if roles[name] == "pool"]
    assert len(pool) < len(files)
    assert sorted(DEFAULTS["ingest"]["precedence"]) == pool
    assert {source["id"] for source in DEFAULTS["sources"]} <= set(files)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("sead", 1, "`sead` is unknown (did you mean `seed`?)"),
        ("train.fold", 5, "`train.fold` is unknown (did you mean `folds`?)"),
        ("runner.zzz", 5, "`runner.zzz` is unknown (known here: max_crashes, "),
        ("candidates.margin_mm.spleen", 5, "`candidates.margin_mm.spleen` is unknown"),
        ("seed", "seven", "`seed`: 'seven' is not of type 'integer' (seed of every random choice)"),
        ("version", 2.0, "`version`: 2.0 is not of type 'string' (version of the dataset, such"),
        ("train.device", "gpu", "`train.device`: 'gpu' is not one of ['cuda', 'cpu'] (cuda or"),
        ("runner.max_crashes", 0, "`runner.max_crashes`: 0 is less than the minimum of 1 (deaths"),
        ("measure.early_diameter_mm", -1, "`measure.early_diameter_mm`: -1 is less than or"),
        ("measure.size_edges_mm", [5, 0, 20], "`measure.size_edges_mm.1`: 0 is less than or"),
        ("harmonize.model_spacing_mm", True, "`harmonize.model_spacing_mm`: True is not of type"),
        ("sources", [], "`sources`: [] should be non-empty"),
        ("sources", [{"id": "lits"}], "`sources.0`: 'path' is a required property"),
        ("sources", [{"id": "litz", "path": "x"}], "`sources.0.id`: 'litz' is not one of"),
        ("train", None, "`train`: None is not of type 'object'"),
        ("seed", ..., "`configuration`: 'seed' is a required property"),
        ("review.organs", ..., "`review`: 'organs' is a required property"),
        (1, 2, "`1` is unknown"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_key(place: str | int, value: object, expected: str) -> None:
    """Unknown with a suggestion, wrong type or range with the meaning, missing."""
    config = {**DEFAULTS, place: value} if isinstance(place, int) else changed(place, value)
    text = told(config)
    assert expected in text
    assert text.startswith("CONFIG_VALUE: configuration: ")


def test_a_region_that_hides_candidates_is_refused() -> None:
    """What lies beyond the region is not seen, so that it must hold every candidate's margin."""
    text = told(changed("candidates.region_margin_mm", 9))
    assert "candidates.region_margin_mm" in text and "Set it to 10 or more" in text


def test_all_mistakes_are_told_at_once() -> None:
    """One run, one list."""
    config = changed("train.fold", 5)
    config["seed"] = "x"
    config["sources"] = [{"id": "lits", "path": 3}, {"id": "lits", "pfad": "x"}]
    text = told(config)
    for part in ("`train.fold`", "`seed`", "`sources.0.path`", "`sources.1.pfad`", "'path' is"):
        assert part in text


def test_missing_source_folders_are_told_in_one_line(tmp_path: Path) -> None:
    """Every absent folder by id and path; a file is no folder; nothing missing, no text."""
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    here = {"id": "lits", "path": str(tmp_path / "here")}
    assert missing_sources([here]) == ""
    assert missing_sources([]) == ""
    text = missing_sources(
        [
            here,
            {"id": "kits23", "path": "no/where"},
            {"id": "chaos", "path": str(tmp_path / "file")},
        ]
    )
    assert text.startswith(
        f"SOURCE_MISSING: no folder for source kits23 (no/where), chaos ({tmp_path}"
    )
    assert "\n" not in text and "`sources`" in text


def test_the_place_of_an_option_does_not_count() -> None:
    """Snakemake compares parameters as text: equal options give equal text."""
    given = {"b": {"d": 1, "c": [{"f": 2, "e": 3}]}, "a": 4}
    sort_keys(given)
    assert repr(given) == "{'a': 4, 'b': {'c': [{'e': 3, 'f': 2}], 'd': 1}}"
