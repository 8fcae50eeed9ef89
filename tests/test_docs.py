"""The documentation says what the code does: rules, columns, codes, commands, links."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.test_layout import RULE_FILES, read_rules
from tumoratlas import __version__
from tumoratlas.core.config import check_config
from tumoratlas.core.provenance import read_jobs, read_scans, read_starts, read_stored
from tumoratlas.core.tables import SCHEMAS
from tumoratlas.measure.counts import count_tumors
from tumoratlas.report.release import STATES, release_summary
from tumoratlas.review.ledger import DECISIONS, MASK_DECISIONS, ROLES, SENIOR_DECISIONS
from tumoratlas.review.merge.instances import Origin

DOCS = ROOT / "docs"
STAGES = [path.stem for path in RULE_FILES if path.stem != "common"]
PAGES = sorted([
    *ROOT.glob("*.md"), *DOCS.glob("*.md"),
    *(ROOT / folder / "README.md" for folder in ("profiles", "resources")),
])  # fmt: skip
TEXT = {path: path.read_text(encoding="utf-8") for path in PAGES}
README = TEXT[ROOT / "README.md"]
# The page that describes a table's columns.
TABLE_PAGES = {
    "scans": "ingest", "candidates": "candidates", "reviews": "review", "masks": "review",
    "tumors": "measure", "splits": "release", "crosswalk": "release", "excluded": "release",
    "relations": "ingest", "repairs": "release", "sources": "release", "leakage": "release",
    "test_scans": "release", "source_overlaps": "release", "licences": "release",
}  # fmt: skip
CALLS = {
    "InputError", "PutOffError", "DamageError", "MachineError", "_damage", "GeometryError",
    "ConfigError", "ReviewError", "ReleaseError",
    "TumorAtlasError", "error", "_error", "mask_error", "refuse", "refusal", "warning", "report",
    "_row", "_leave", "_refusal", "_side_row",
}  # fmt: skip


def ident(path: Path) -> str:
    """Return the name that a failing test shows."""
    return str(path.relative_to(ROOT))


def quoted(text: str) -> set[str]:
    """Return everything that stands in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def cells(text: str) -> Iterator[list[str]]:
    """Yield the cells of every row of the tables of a page, headers included."""
    for line in text.splitlines():
        if line.lstrip().startswith("|") and not set(line) <= set("| -:"):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def section(text: str, heading: str) -> str:
    """Return what stands below the heading that starts like this, up to the next."""
    found = re.search(rf"^## {re.escape(heading)}[^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"no section {heading}"
    return found[1]


@pytest.mark.parametrize("stage", STAGES)
def test_every_rule_stands_on_the_page_of_its_stage(stage: str) -> None:
    """Each stage has a page, which names its rules; so does the picture."""
    page = quoted(TEXT[DOCS / f"{stage}.md"])
    picture = (DOCS / "rules.svg").read_text(encoding="utf-8")
    for rule in read_rules(ROOT / f"rules/{stage}.smk"):
        assert rule.name in page
        assert f">{rule.name}<" in picture


def test_the_picture_shows_no_other_rule() -> None:
    """A rule that is gone leaves the picture."""
    picture = (DOCS / "rules.svg").read_text(encoding="utf-8")
    shown = set(re.findall(r'class="name"[^>]*>(\w+)<', picture))
    assert shown == {rule.name for path in RULE_FILES for rule in read_rules(path)}


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_is_described(table: str) -> None:
    """The section of a table describes its columns, all of them and no others."""
    text = section(TEXT[DOCS / f"{TABLE_PAGES[table]}.md"], f"Table `{table}`")
    described = [name for row in cells(text) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(described) == sorted(SCHEMAS[table].names)


def codes() -> set[str]:
    """Return every code that the package gives to an error, finding or excluded row."""
    found = set()
    for path in (ROOT / "tumoratlas").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
                parts = node.args if name in CALLS else []
            elif isinstance(node, ast.Dict):
                keys = [getattr(key, "value", None) for key in node.keys]
                parts = [v for k, v in zip(keys, node.values, strict=True) if k == "code"]
                # ``{"same": ("DUPLICATE", ...)}``
                parts += [v.elts[0] for v in node.values if isinstance(v, ast.Tuple) and v.elts]
            elif isinstance(node, ast.Assign):
                # ``code, reason = "UNEXPECTED", ...``
                names = [getattr(n, "id", "") for t in node.targets for n in ast.walk(t)]
                parts = getattr(node.value, "elts", [])[:1] if "code" in names else []
            else:
                continue
            # A code may be one of two, chosen in place.
            constants = [part for node in parts for part in ast.walk(node)]
            found |= {
                part.value
                for part in constants
                if isinstance(part, ast.Constant)
                and isinstance(part.value, str)
                and re.fullmatch(r"[A-Z][A-Z0-9_]+", part.value)
            }
    return found


def test_every_code_is_described() -> None:
    """Whatever a user may meet stands on a page of docs/, with what to do."""
    text = "\n".join(TEXT[path] for path in PAGES if path.parent == DOCS)
    listed = set(re.findall(r"^\| ([A-Z][A-Z0-9_]+) \|", TEXT[DOCS / "checks.md"], re.MULTILINE))
    found = codes()
    assert {"UNEXPECTED", "MASK_GIVEN", "DUPLICATE", "NOT_CT", "LEAK"} <= found
    assert sorted(found - listed - quoted(text)) == []


def test_no_page_names_a_code_that_is_gone() -> None:
    """Codes in backticks exist."""
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for folder, kind in (("tumoratlas", "*.py"), ("resources/sources", "*.yaml"))
        for path in (ROOT / folder).rglob(kind)
    )
    outside = {"TUMORATLAS_REAL_DATA", "RELEASE", "SHA256SUMS", "SIGTERM", "LAST_CLASS"}
    outside |= {"CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY"}  # SLURM's
    shown = {
        word
        for text in TEXT.values()
        for word in quoted(text)
        if re.fullmatch(r"[A-Z][A-Z0-9_]{3,}", word)
    }
    assert sorted(word for word in shown - outside if f"{word}" not in sources) == []


def test_decisions_states_and_origins_are_described() -> None:
    """The closed sets of the review page are those of the code, with who and what they need."""
    page = TEXT[DOCS / "review.md"]
    rows = {row[0].strip("`"): row for row in cells(section(page, "Decisions, a closed set"))}
    del rows["decision"]
    assert set(rows) == set(DECISIONS)
    for decision, row in rows.items():
        assert (row[1] == "senior") == (decision in SENIOR_DECISIONS)
        assert (row[2] == "yes") == (decision in MASK_DECISIONS)
    assert set(STATES) <= quoted(section(page, "Table `masks`"))
    assert all(role in section(page, "Table `reviews`") for role in ROLES)
    tumors = quoted(section(TEXT[DOCS / "measure.md"], "Table `tumors`"))
    assert set(Origin.__args__) <= tumors


def slug(heading: str) -> str:
    """Return the anchor of a heading, as code forges make it."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=ident)
def test_links_resolve(path: Path) -> None:
    """Relative links lead to files, anchors to headings."""
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT[path]):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        assert place.exists(), target
        assert place.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


@pytest.mark.parametrize("path", PAGES, ids=ident)
def test_named_files_exist(path: Path) -> None:
    """Paths of the checkout in backticks are there; places with ``<...>`` are patterns."""
    folders = r"(?:rules|scripts|tumoratlas|resources|profiles|tests|docs|envs|benchmarks)/"
    for name in quoted(TEXT[path]):
        if re.match(folders, name) and not re.search(r"[<{*\s:]", name):
            assert (ROOT / name).exists(), name


def commands() -> list[str]:
    """Return every command line that the pages show."""
    lines = [line for text in TEXT.values() for part in blocks(text, "sh") for line in [part]]
    shown = [line for part in lines for line in part.splitlines()]
    shown += [name for text in TEXT.values() for name in quoted(text)]
    return [line.split("#")[0].strip() for line in shown]


def test_make_targets_exist() -> None:
    """``make X`` of the pages is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(VENV)", ".venv")
    targets = set(re.findall(r"^([\w./-]+):(?!=)", makefile, re.MULTILINE))
    shown = {line.split()[1] for line in commands() if re.match(r"make \S+$", line)}
    assert {"demo", "test"} <= shown <= targets


def test_snakemake_targets_exist() -> None:
    """Targets and profiles of the pages are there, and every target is on the page of running."""
    targets = {rule.name for rule in read_rules(ROOT / "Snakefile")}
    shown, profiles = set(), set()
    for line in commands():
        if line.startswith("snakemake "):
            profiles |= set(re.findall(r"--profile (\w+)", line)) - {"my_site"}
            bare = re.sub(r"--(?:profile|configfile|directory|forcerun) \S+", "", line)
            shown |= {word for word in bare.split()[1:] if re.fullmatch(r"[a-z_]+", word)}
    assert shown == targets
    assert profiles == {"local", "slurm"}
    running = section(TEXT[DOCS / "running.md"], "Targets")
    assert {row[0].strip("`") for row in cells(running)} - {"target"} == targets


def test_commands_of_the_package_exist() -> None:
    """Subcommands and their options of the pages are those of ``__main__``."""
    main = (ROOT / "tumoratlas/__main__.py").read_text(encoding="utf-8")
    known = set(re.findall(r'add_parser\(\s*"(\w+)"', main))
    options = set(re.findall(r'add_argument\(\s*"(--\w+)"', main))
    shown, used = set(), set()
    for line in commands():
        if line.startswith("python -m tumoratlas "):
            shown.add(line.split()[3])
            used |= set(re.findall(r"--\w+", line))
    assert shown == known
    assert used <= options


def merged(base: dict, overlay: dict) -> dict:
    """Return a configuration with an overlay, as Snakemake joins them."""
    both = {key: merged(base[key], overlay[key]) for key in base.keys() & overlay.keys()
            if isinstance(base[key], dict)}  # fmt: skip
    return base | overlay | both


def test_the_configuration_of_the_readme_is_valid() -> None:
    """`my.yaml` is complete, and the release below it bears its version."""
    defaults = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    (block,) = blocks(README, "yaml")
    mine = yaml.safe_load(block)
    check_config(merged(defaults, mine), ROOT / "resources/schemas/config.schema.yaml")
    assert f"my_run/results/release/{mine['version']}" in README


@pytest.mark.parametrize("path", PAGES, ids=ident)
def test_named_options_exist(path: Path) -> None:
    """``section.key`` in backticks is an option."""
    defaults = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    files = (".md", ".smk", ".json", ".jsonl", ".csv", ".yaml", ".py", ".html")
    for name in quoted(TEXT[path]):
        found = re.fullmatch(r"(\w+)\.(\w+)", name)
        if found and found[1] in defaults and not name.endswith(files) and found[2] != "items":
            assert found[2] in defaults[found[1]], name


def test_provenance_fields_are_described(micro_run: Path) -> None:
    """Every field of a record that is written now stands in its table."""
    page = section(TEXT[DOCS / "provenance.md"], "Records of the run")
    described = {name for row in cells(page) for name in re.findall(r"`(\w+)`", row[0])}
    folder = micro_run / "results/provenance"
    lines = [*read_jobs(folder), *read_starts(folder), *read_scans(folder, "harmonize_scans")]
    assert {key for line in lines for key in line} <= described
    environment = read_stored(folder, "environments", lines[0]["environment"])
    assert {key for part in environment.values() for key in part} <= described


def test_the_demo_of_the_readme_prints_this_table() -> None:
    """The output that is shown has the form of today's, and names no machine."""
    shown = blocks(README, "text")[0]
    nothing = release_summary(count_tumors(_no_tumors()))
    heads = [line.split()[0] for line in nothing.splitlines()]
    lines = shown.splitlines()
    start = lines.index(nothing.splitlines()[0])
    assert [line.split()[0] for line in lines[start : start + len(heads)]] == heads
    assert "release  demo/" in shown and "report   demo/" in shown


def _no_tumors() -> object:
    import pandas as pd

    return pd.DataFrame(columns=SCHEMAS["tumors"].names)


def test_the_version_is_told() -> None:
    """Changelog and citation name the package's version."""
    changelog = TEXT[ROOT / "CHANGELOG.md"]
    assert re.findall(r"^## (\S+)", changelog, re.MULTILINE)[0] == __version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
