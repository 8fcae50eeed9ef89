"""The code digest: every edit that can change a result, and no other, changes it."""

import ast
import io
import shutil
import tokenize
from collections.abc import Callable
from pathlib import Path

import pytest

from tumoratlas.core import code

ROOT = Path(__file__).resolve().parents[1]

TREE = {
    "scripts/measure_tumors.py": (
        '"""Measure."""\n\nfrom tumoratlas.measure.sizes import radius_mm\n\nradius_mm(3)\n'
    ),
    "scripts/list_scans.py": "import tumoratlas.ingest.listing\n",
    "tumoratlas/__init__.py": '__version__ = "1"\n',
    "tumoratlas/measure/__init__.py": "",
    "tumoratlas/measure/sizes.py": (
        '"""Sizes."""\n\nimport math\n\n\ndef radius_mm(volume):\n'
        "    # by equal volume\n    from tumoratlas.core import units\n\n"
        "    return math.cbrt(volume) * units.FACTOR\n"
    ),
    "tumoratlas/core/__init__.py": "",
    "tumoratlas/core/units.py": "from tumoratlas.core.deeper import FACTOR\n",
    "tumoratlas/core/deeper.py": "FACTOR = 0.62\n",
    "tumoratlas/core/unrelated.py": "X = 1\n",
    "tumoratlas/ingest/__init__.py": "",
    "tumoratlas/ingest/listing.py": "import tumoratlas.core.unrelated\n",
}


def forget() -> None:
    """Forget what was read, as a new process does."""
    code._direct.cache_clear()
    code._code_hash.cache_clear()
    code._modules.cache_clear()
    code._without_layout.cache_clear()


def digest(tree: Path, monkeypatch: pytest.MonkeyPatch, rule: str = "measure_tumors") -> str:
    """Return a rule's digest in a checkout, as a new process computes it."""
    monkeypatch.setattr(code, "ROOT", tree)
    forget()
    try:
        return code.code_digest(rule)
    finally:
        forget()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a small checkout."""
    for name, text in TREE.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "checkout"


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return an edit of one file."""

    def edit(tree: Path) -> None:
        text = (tree / name).read_text()
        assert old in text
        (tree / name).write_text(text.replace(old, new))

    return edit


SIZES = "tumoratlas/measure/sizes.py"


@pytest.mark.parametrize(
    "edit",
    [
        replace("scripts/measure_tumors.py", "radius_mm(3)", "radius_mm(4)"),
        replace(SIZES, "cbrt", "sqrt"),
        replace("tumoratlas/core/units.py", "FACTOR\n", "FACTOR\nFACTOR *= 2\n"),
        replace("tumoratlas/core/deeper.py", "0.62", "0.63"),
        replace("tumoratlas/__init__.py", '"1"', '"2"'),
        replace("tumoratlas/measure/__init__.py", "", "import math\n"),
        replace(SIZES, '"""Sizes."""', '"""Sizes in mm."""'),
        replace(SIZES, "    return math.cbrt", "return math.cbrt"),
        replace(SIZES, "* units.FACTOR", "* (units.FACTOR)"),
    ],
    ids="script module imported-in-a-function deeper version init docstring indent tokens".split(),
)
def test_edits_of_code_count(
    tree: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[Path], None]
) -> None:
    """An edit of the script or of anything that it reaches changes the digest."""
    before = digest(tree, monkeypatch)
    edit(tree)
    assert digest(tree, monkeypatch) != before


@pytest.mark.parametrize(
    "edit",
    [
        replace(SIZES, "# by equal volume", "# of the sphere of equal volume"),
        replace(SIZES, "    # by equal volume\n", ""),
        replace(SIZES, "import math\n\n\n", "import math\n\n\n\n\n"),
        replace(SIZES, "import math\n", "import math  # noqa\n"),
        replace("tumoratlas/core/unrelated.py", "1", "2"),
        replace("tumoratlas/ingest/listing.py", "unrelated", "deeper"),
        replace("scripts/list_scans.py", "ingest", "core"),
    ],
    ids="comment no-comment blank trailing unrelated other-stage other-script".split(),
)
def test_edits_of_no_consequence_do_not(
    tree: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[Path], None]
) -> None:
    """Comments, blank lines and code out of reach change nothing."""
    before = digest(tree, monkeypatch)
    edit(tree)
    assert digest(tree, monkeypatch) == before


def test_a_new_module_in_reach_counts_and_one_out_of_reach_does_not(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules join the closure by being imported, not by existing."""
    before = digest(tree, monkeypatch)
    (tree / "tumoratlas/core/fresh.py").write_text("Y = 1\n")
    assert digest(tree, monkeypatch) == before
    replace(SIZES, "import math\n", "import math\n\nimport tumoratlas.core.fresh\n")(tree)
    joined = digest(tree, monkeypatch)
    replace("tumoratlas/core/fresh.py", "1", "2")(tree)
    assert len({before, joined, digest(tree, monkeypatch)}) == 3


def test_import_cycles_end(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules that import each other do not hang the walk."""
    replace("tumoratlas/core/deeper.py", "0.62", "0.62\nimport tumoratlas.core.units")(tree)
    assert digest(tree, monkeypatch)


def test_a_copy_elsewhere_has_the_same_digest(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place of the checkout does not count, for the small tree and the real one."""
    shutil.copytree(tree, tmp_path / "some/where/else")
    assert digest(tree, monkeypatch) == digest(tmp_path / "some/where/else", monkeypatch)
    for name in ("resources", "scripts", "tumoratlas"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "real" / name, ignore=ignore)
    here = digest(ROOT, monkeypatch, "fingerprint_scans")
    assert digest(tmp_path / "real", monkeypatch, "fingerprint_scans") == here


def test_real_rules_differ_and_reach_what_they_use() -> None:
    """Each rule has its own digest; ingest reaches the NIfTI reader, not the trainer."""
    rules = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
    assert len({code.code_digest(rule) for rule in rules}) == len(rules)
    reached = code.code_files("fingerprint_scans")
    assert {"scripts/fingerprint_scans.py", "resources/structures.csv"} <= reached.keys()
    names = {name.removeprefix("tumoratlas/") for name in reached}
    assert {"images/nifti.py", "core/runner.py", "ingest/fingerprint.py"} <= names
    assert not {name for name in names if name.startswith(("train", "review", "release"))}


AWKWARD = {
    "strings.py": (
        "#!/usr/bin/env python\n# import tumoratlas.no\n\n"
        "a = '# no comment'  # import tumoratlas.no\n"
        'b = """\n# text, not a comment\n\nimport tumoratlas.no\n"""\n'
        'c = r"\\\\" + "\\"" + \'"""\' + f"{a!r:>#8}"\n'
        "d = [\n    # one\n    1,\n\n    2,  # two\n]\n"
    ),
    "imports.py": (
        "import os, tumoratlas.a as x, sys\nif x: from tumoratlas.b import c as d; import json\n"
        "from tumoratlas.e import (\n    f,  # why\n    g as h,\n)\nfrom tumoratlas import *\n"
        "from tumoratlas.i \\\n    import j\ntry:\n    raise KeyError from None\nfinally:\n"
        "    import tumoratlas.k\ntumoratlas_like = 1\nfrom tumoratlas_like import no\n"
    ),
}


@pytest.fixture(params=[*AWKWARD, "the checkout"])
def sources(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """Return source files: awkward ones, or many of ours."""
    if request.param == "the checkout":
        return [*(ROOT / "scripts").glob("*.py"), *(ROOT / "tumoratlas/core").glob("*.py")]
    (tmp_path / request.param).write_text(AWKWARD[request.param])
    return [tmp_path / request.param]


def test_python_reads_the_same_program_without_comments(sources: list[Path]) -> None:
    """What is hashed has no comment or blank line, and means what the source means."""
    for path in sources:
        kept = code._without_layout(path)
        assert ast.dump(ast.parse(kept)) == ast.dump(ast.parse(path.read_text())), path
        tokens = tokenize.generate_tokens(io.StringIO(kept.lstrip("\n")).readline)
        assert not {t.string for t in tokens if t.type in (tokenize.COMMENT, tokenize.NL)} - {"\n"}


def test_imports_are_those_that_python_sees(sources: list[Path]) -> None:
    """Every import of the package is found, however it is written, and nothing else."""
    for path in sources:
        seen = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                seen |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                seen |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        expected = {name for name in seen if name.split(".")[0] == "tumoratlas"}
        assert set(code.imported_modules(path)) == expected, path
