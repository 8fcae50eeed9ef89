"""The digest of the code behind a rule, since Snakemake does not see edits in imported modules."""

import ast
import io
import tokenize
from functools import cache
from pathlib import Path

from tumoratlas.core.files import sha256_json

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "tumoratlas"
# Modules that read a table of the checkout themselves: the table is part of their code.
_TABLES = {
    "tumoratlas/core/structures.py": "resources/structures.csv",
    "tumoratlas/release/licences/decide.py": "resources/licences.csv",
}
_LAYOUT_TOKENS = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}


def code_digest(rule: str) -> str:
    """Return the SHA-256 of a rule's script and of every package module that it reaches.

    Comments and blank lines do not count, so that a better comment re-runs nothing. Names are
    relative to the checkout, so that its place does not count either.
    """
    script = ROOT / "scripts" / f"{rule}.py"
    files = sorted({script} | _closure(script))
    sources = {str(path.relative_to(ROOT)): _tokens(path) for path in files}
    for module, table in _TABLES.items():
        if module in sources:
            sources[table] = (ROOT / table).read_text(encoding="utf-8")
    return sha256_json(sources)


def imported_modules(path: Path) -> list[str]:
    """Return the dotted names of the package's modules that a source file imports anywhere."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == PACKAGE]


@cache
def _direct(path: Path) -> frozenset[Path]:
    files = set()
    for name in imported_modules(path):
        parts = name.split(".")
        # Importing a module runs the __init__ of every package above it.
        for depth in range(1, len(parts) + 1):
            place = ROOT.joinpath(*parts[:depth])
            files |= {p for p in (place / "__init__.py", place.with_suffix(".py")) if p.is_file()}
    return frozenset(files)


def _closure(start: Path) -> set[Path]:
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        new = _direct(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


@cache
def _tokens(path: Path) -> str:
    source = io.BytesIO(path.read_bytes())
    kept = [
        tokenize.tok_name[token.type] if token.type in _BLOCK_TOKENS else token.string
        for token in tokenize.tokenize(source.readline)
        if token.type not in _LAYOUT_TOKENS
    ]
    return "\n".join(kept)


_BLOCK_TOKENS = {tokenize.INDENT, tokenize.DEDENT, tokenize.NEWLINE}
