"""The promises of the layout: rules, scripts, package and tracked files."""

import ast
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tumoratlas.core.code import imported_modules

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tumoratlas"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
RULE_FILES = sorted((ROOT / "rules").glob("*.smk"))
# An import runs leftwards only.
ORDER = (
    "core", "images", "ingest", "harmonize", "train", "candidates", "review", "measure",
    "evaluate", "release", "reproduce", "report",
)  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """The text of a rule, from its head to the next line that is not indented."""

    file: str
    name: str
    body: str

    def directive(self, name: str) -> str | None:
        """Return what stands behind ``name:``, or None."""
        match = re.search(rf"^    {name}:(.*(?:\n(?: {{8}}.*)?$)*)", self.body, re.MULTILINE)
        return match[1] if match else None

    @property
    def directives(self) -> list[str]:
        """Names of all directives in order."""
        return re.findall(r"^    ([a-z_]+):", self.body, re.MULTILINE)


def read_rules(path: Path) -> list[Rule]:
    """Return the rules of a file."""
    pattern = r"^(?:rule|checkpoint) (\w+):\n((?:(?: {4}.*)?\n)+)"
    text = path.read_text(encoding="utf-8") + "\n"
    assert len(re.findall(r"^(?:rule|checkpoint)\b", text, re.MULTILINE)) == len(
        found := re.findall(pattern, text, re.MULTILINE)
    )
    return [Rule(path.name, name, body) for name, body in found]


RULES = [rule for path in RULE_FILES for rule in read_rules(path)]


def ident(value: Rule | Path) -> str:
    """Return the name that a failing test shows."""
    return value.name if isinstance(value, Rule) else str(value.relative_to(ROOT))


def tracked_files() -> list[Path]:
    """Return the files that are, or would be, committed."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in files if path.is_file() and not path.is_symlink()]


def test_rules_are_found() -> None:
    """The parser below sees what is there; names are unique; the Snakefile has only targets."""
    assert {"list_scans", "harmonize_scans", "propose_candidates"} <= {r.name for r in RULES}
    targets = read_rules(ROOT / "Snakefile")
    assert all(set(rule.directives) <= {"default_target", "input"} for rule in targets)
    counts = Counter(rule.name for rule in RULES + targets)
    assert counts.most_common(1)[0][1] == 1


@pytest.mark.parametrize("rule", RULES, ids=ident)
def test_every_rule_has_the_same_skeleton(rule: Rule) -> None:
    """Docstring, own script, log, benchmark, environment and code digest, all by its name."""
    assert re.match(r' {4}""".+"""$|    """.+\n', rule.body), "no docstring"
    assert rule.directive("script").strip() == f'"../scripts/{rule.name}.py"'
    assert (ROOT / f"scripts/{rule.name}.py").is_file()
    assert re.fullmatch(rf'\s*"logs/{rule.name}(/.+)?\.log",?\s*', rule.directive("log"))
    benchmark = rule.directive("benchmark")
    assert re.fullmatch(rf'\s*"benchmarks/{rule.name}(/.+)?\.jsonl",?\s*', benchmark)
    assert re.fullmatch(r'\s*"\.\./envs/\w+\.yaml",?\s*', rule.directive("conda"))
    assert (ROOT / "rules" / rule.directive("conda").strip(' \n",')).resolve().is_file()
    assert f'code=code_digest("{rule.name}")' in rule.directive("params")
    assert rule.directive("output").strip(), "no output"


@pytest.mark.parametrize("rule", RULES, ids=ident)
def test_no_rule_uses_what_is_banned(rule: Rule) -> None:
    """No run, shell, message, retries, group or declared folder."""
    banned = {"run", "shell", "message", "group", "retries", "wrapper", "notebook", "shadow"}
    assert not banned & set(rule.directives)
    # Snakemake deletes declared folders before a re-run, which would end any resume.
    assert "directory(" not in rule.body


@pytest.mark.parametrize("path", [ROOT / "Snakefile", *RULE_FILES], ids=ident)
def test_workflow_files_have_no_logic(path: Path) -> None:
    """No lambda, no second default of an option."""
    text = path.read_text(encoding="utf-8")
    for word in ("lambda", "config.get(", "os.environ", "shell("):
        assert word not in text, word
    assert len(text.splitlines()) <= 300


def test_each_script_belongs_to_one_rule() -> None:
    """Script name = rule name, one to one."""
    assert sorted(rule.name for rule in RULES) == [path.stem for path in SCRIPTS]


def test_rule_names_are_verb_noun() -> None:
    """Verbs come from a closed set."""
    verbs = {
        "list", "fingerprint", "deduplicate", "assign", "harmonize", "prepare", "train",
        "register", "predict", "choose", "propose", "export", "check", "merge", "measure",
        "count", "split", "build", "verify", "report", "evaluate", "synthesize", "import",
        "compare", "write", "collect", "fetch", "match", "confirm", "plan", "shard", "replay",
    }  # fmt: skip
    assert {rule.name.split("_")[0] for rule in RULES} <= verbs
    assert all("_" in rule.name for rule in RULES)


@pytest.mark.parametrize("path", SCRIPTS, ids=ident)
def test_scripts_are_thin(path: Path) -> None:
    """A docstring, imports and one block below `rule_run`; no function, no print."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    *imports, block = tree.body[1:]
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in imports)
    assert isinstance(block, ast.With)
    assert ast.unparse(block.items[0]) == "rule_run(snakemake)"
    assert "print(" not in text and "open(" not in text


@pytest.mark.parametrize("path", MODULES, ids=ident)
def test_package_modules_keep_to_themselves(path: Path) -> None:
    """No snakemake, no print outside `__main__`, no relative import, no long module."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no docstring"
    assert len(text.splitlines()) <= 600
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names.append(getattr(node, "module", None) or "")
            assert "snakemake" not in {name.split(".")[0] for name in names}
            # The code digest follows absolute imports only.
            assert getattr(node, "level", 0) == 0, "relative import"
            assert not {"scripts", "tests"} & {name.split(".")[0] for name in names}
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            assert path.name == "__main__.py", "prints"


def module_name(path: Path) -> str:
    """Return the dotted name of a module of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def first_party_imports() -> dict[str, set[str]]:
    """Return for each module the modules that it imports, wherever in its text."""
    names = {module_name(path) for path in MODULES}
    return {
        module_name(path): (set(imported_modules(path)) & names) - {module_name(path)}
        for path in MODULES
    }


def test_imports_have_no_cycle() -> None:
    """The modules can be put in an order (CycleError names the cycle)."""
    assert list(TopologicalSorter(first_party_imports()).static_order())


def test_imports_run_in_one_direction() -> None:
    """Core knows nothing of images, images nothing of sources, and so on."""
    folders = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
    assert set(ORDER) <= set(folders)
    wrong = []
    for name, imports in first_party_imports().items():
        stage = name.split(".")[1] if name.count(".") else ""
        for target in imports:
            there = target.split(".")[1] if target.count(".") else ""
            if stage in ORDER and there in ORDER and ORDER.index(there) > ORDER.index(stage):
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_one_word_per_stage() -> None:
    """A rule's outputs lie in the folder of its stage, or among the tables and releases."""
    shared = {"tables", "release", "report"}
    for rule in RULES:
        stage = rule.file.removesuffix(".smk")
        for folder in re.findall(r"results/(\w+)", rule.directive("output")):
            assert folder in {stage, *shared}, f"{rule.name}: {folder}"


def test_tracked_files_name_no_machine() -> None:
    """No folder of the machine it was written on and no package registry's address."""
    banned = re.compile(
        "|".join([
            r"(?<![\w.{}*-])/" + r"(?:wo" + r"rk|fa" + r"rm)(?![\w-])",
            r"(?<![\w.])/t" + r"mp/v(?![\w-])",
            r"index" + r"[-_]url",
            r"(?:py" + r"pi|python" + r"hosted)\.org/(?:simple|packages)",
            r"files\.python" + r"hosted",
            r"registry\.np" + r"mjs",
            r"conda\.ana" + r"conda\.org",
            r"proxy\.go" + r"lang",
        ]),
        re.IGNORECASE,
    )  # fmt: skip
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if banned.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


def test_profiles_are_found_by_their_short_names() -> None:
    """`--profile slurm` works from a clone; a folder `profiles/default` would override it."""
    for name in ("local", "slurm"):
        link = ROOT / name
        assert link.is_symlink() and link.resolve() == ROOT / "profiles" / name
        assert any((ROOT / "profiles" / name).iterdir())
    assert not (ROOT / "profiles/default").exists()


def test_nothing_tracked_is_large() -> None:
    """No data in the repository: real scans stay outside. A vendored library may be large."""
    own = [path for path in tracked_files() if "resources/vendor/" not in ident(path)]
    large = [ident(path) for path in own if path.stat().st_size > 500_000]
    scans = [ident(p) for p in tracked_files() if p.name.endswith((".nii", ".nii.gz", ".dcm"))]
    assert not large and not scans
