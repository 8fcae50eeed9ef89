"""The conda files of the rule groups, from requirements.lock: ``python -m tests.environments``.

A group holds what its rules import and all that these packages need, pinned as in the lock.
"""

import ast
import re
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tumoratlas.core.code import PACKAGE, code_files

ENVS = ROOT / "envs"
_HEAD = """\
# {title}
# Made from requirements.lock by: python -m tests.environments
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - pip:
"""
TITLES = {
    "base": "Rules that read, measure and report.",
    "model": "Rules that use a network, or read what belongs to one.",
}
# Packages ask for these too: some have become Python's own, and one comes with Python.
_GIVEN = {*sys.stdlib_module_names, "setuptools"}
# It re-executes the jobs of any rule.
ANY_RULE = "replay_rule"


def locked() -> dict[str, str]:
    """Return the line of each package of the lock by its normalized name."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if re.match(r"[\w.-]+==", line)]
    return {canonicalize_name(pin.split("==")[0]): pin for pin in pins}


def groups() -> dict[str, list[str]]:
    """Return the rules of each group, as the rules' ``conda:`` lines name it."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        for rule in re.split(r"^(?=(?:rule|checkpoint) )", text, flags=re.MULTILINE)[1:]:
            name = re.match(r"\w+ (\w+)", rule)[1]
            group = re.search(r'^    conda:\n        "\.\./envs/(\w+)\.yaml"', rule, re.MULTILINE)
            found.setdefault(group[1], []).append(name)
    return found


def imported(rule: str) -> set[str]:
    """Return the packages that the code behind a rule imports, anywhere in its text."""
    files = [name for name in code_files(rule) if name.endswith(".py")]
    modules = {module for name in files for module in _modules(name)}
    own = {*sys.stdlib_module_names, PACKAGE}
    packages = _packages()
    return {canonicalize_name(name) for module in modules - own for name in packages[module]}


@cache
def _modules(name: str) -> set[str]:
    """Return the top-level modules that a file of the checkout imports."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


_packages = cache(packages_distributions)


def with_needs(names: Iterable[str]) -> set[str]:
    """Return packages and, at any depth, what they need on this system."""
    waiting, found = list(names), set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            needs = [Requirement(text) for text in requires(name) or []]
            waiting += [
                canonicalize_name(need.name)
                for need in needs
                if need.name not in _GIVEN
                and (not need.marker or need.marker.evaluate({"extra": ""}))
            ]
    return found


def expected(group: str, rules: Iterable[str]) -> str:
    """Return the text of a group's file."""
    pins = locked()
    everything = [rule for members in groups().values() for rule in members]
    covered = everything if ANY_RULE in rules else rules
    names = with_needs(name for rule in covered for name in imported(rule))
    lines = [f"      - {pins[name]}\n" for name in sorted(names)]
    return _HEAD.format(title=TITLES[group]) + "".join(lines)


def main() -> None:
    """Write the file of every group."""
    for group, rules in groups().items():
        (ENVS / f"{group}.yaml").write_text(expected(group, rules), encoding="utf-8")


if __name__ == "__main__":
    main()
