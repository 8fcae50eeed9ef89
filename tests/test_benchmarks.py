"""The benchmarks run, and their methods agree; no times are tested."""

import re

import pytest

from benchmarks.__main__ import main
from tests.conftest import ROOT


def test_all_methods_agree_on_a_small_phantom(capsys: pytest.CaptureFixture[str]) -> None:
    """Every table that the module imports is printed, each with one base and our own line."""
    text = (ROOT / "benchmarks/__main__.py").read_text(encoding="utf-8")
    tables = len(re.findall(r"import compare_\w+", text))
    main(["--quick"])
    shown = capsys.readouterr().out
    assert shown.count("1 (base)") == tables >= 4
    # Harmonizing has two: the functions, and the step that writes more.
    assert shown.count("\n| tumoratlas") == tables + 1
