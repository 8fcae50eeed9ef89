"""The digest of the code behind a rule, since Snakemake does not see edits in imported modules.

It is made of all rules each time a plan is made, and in every job: no parser is started for it.
"""

import os
import re
from functools import cache
from pathlib import Path

from tumoratlas.core.files import sha256_bytes, sha256_file, sha256_json

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "tumoratlas"
# Modules that read a table of the checkout themselves: the table is part of their code.
_TABLES = {
    "tumoratlas/core/structures.py": "resources/structures.csv",
    "tumoratlas/release/licences/decide.py": "resources/licences.csv",
}
# Each pattern begins with the few characters that it can begin with: it is searched for in C.
_STRING = (
    r'"""(?:[^"\\]+|\\.|"(?!""))*"""'
    r"|'''(?:[^'\\]+|\\.|'(?!''))*'''"
    r'|"(?:[^"\\\n]+|\\.)*"'
    r"|'(?:[^'\\\n]+|\\.)*'"
)
_STRINGS = re.compile(_STRING, re.DOTALL)
_LAYOUT = re.compile(rf"({_STRING})|(#[^\n]*)|\n(?:[ \t]*(?:#[^\n]*)?\n)*", re.DOTALL)
# Outside strings and comments, these keywords stand in statements of these forms only.
_FROM = re.compile(rf"from[ \t]+({PACKAGE}\b[\w.]*)[ \t]+import\b[ \t]*(\([^)]*\)|[^\n;]*)")
_IMPORT = re.compile(r"import\b[ \t]*([^\n;]*)")


def code_digest(rule: str) -> str:
    """Return the SHA-256 of a rule's script and of every package module that it reaches.

    Comments and blank lines do not count, so that a better comment re-runs nothing. Names are
    relative to the checkout, so that its place does not count either.
    """
    return sha256_json(code_files(rule))


def code_files(rule: str) -> dict[str, str]:
    """Return the SHA-256 of each file behind a rule, by its place in the checkout.

    Comments and blank lines are left out of what is hashed.
    """
    files = _closure(f"scripts/{rule}.py")
    hashes = {name: _code_hash(name) for name in sorted(files)}
    for module, table in _TABLES.items():
        if module in hashes:
            hashes[table] = sha256_file(ROOT / table)
    return hashes


def imported_modules(path: Path) -> list[str]:
    """Return the dotted names of the package's modules that a source file imports anywhere."""
    code = _STRINGS.sub('""', _without_layout(path)).replace("\\\n", " ")
    names = [name for listed in _IMPORT.findall(code) for name in _listed(listed)]
    for module, listed in _FROM.findall(code):
        names += [module, *(f"{module}.{name}" for name in _listed(listed))]
    return [name for name in names if name.split(".")[0] == PACKAGE]


def _listed(names: str) -> list[str]:
    """Return the names of an import statement, without what they are imported as."""
    return [name.split()[0] for name in names.strip("() \n").split(",") if name.strip()]


@cache
def _without_layout(path: Path) -> str:
    """Return a source file's text without comments and blank lines; strings stay as they are."""
    # NUL, which no source holds, stands for a comment until the blanks before it are gone too.
    text = "\n" + path.read_text(encoding="utf-8") + "\n"
    text = _LAYOUT.sub(lambda match: match[1] or ("\0" if match[2] else "\n"), text)
    return "".join(part.rstrip(" \t") for part in text.split("\0"))


@cache
def _modules() -> dict[str, str]:
    """Return the file of every module of the package by its dotted name."""
    found = {}
    for folder, _, names in os.walk(ROOT / PACKAGE):
        place = os.path.relpath(folder, ROOT)
        for name in names:
            if name.endswith(".py"):
                file = f"{place}/{name}"
                found[file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")] = file
    return found


@cache
def _direct(file: str) -> frozenset[str]:
    """Return the files that importing what a file imports runs, itself not counted."""
    modules = _modules()
    reached = set()
    for name in imported_modules(ROOT / file):
        parts = name.split(".")
        # Importing a module runs the __init__ of every package above it.
        reached |= {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return frozenset(modules[name] for name in reached & modules.keys())


def _closure(start: str) -> set[str]:
    """Return a file and every file of the package that it reaches."""
    seen = {start}
    waiting = [start]
    while waiting:
        new = _direct(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


@cache
def _code_hash(file: str) -> str:
    return sha256_bytes(_without_layout(ROOT / file).encode())
