"""The benchmarks run, and their methods agree; no times are tested."""

import pytest

from benchmarks.__main__ import main


def test_all_methods_agree_on_a_small_phantom(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick"])
    shown = capsys.readouterr().out
    assert shown.count("1 (base)") == shown.count("\n| tumoratlas") - 1 == 3
