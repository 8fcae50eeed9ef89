"""The software of each rule group, and of the container, is that of requirements.lock."""

import re

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.environments import ENVS, TITLES, expected, groups, imported, locked, with_needs


def pins(group: str) -> dict[str, str]:
    """Return the pins of a group's file by normalized name."""
    environment = yaml.safe_load((ENVS / f"{group}.yaml").read_text(encoding="utf-8"))
    lines = environment["dependencies"][-1]["pip"]
    return {canonicalize_name(line.split("==")[0]): line for line in lines}


def test_groups_and_files_are_the_same() -> None:
    """Every file has rules, every rule a file."""
    assert set(groups()) == set(TITLES) == {path.stem for path in ENVS.glob("*.yaml")}


@pytest.mark.parametrize("group", TITLES)
def test_pins_are_those_of_the_lock(group: str) -> None:
    """The lock alone decides on versions."""
    assert set(pins(group).values()) <= set(locked().values())


@pytest.mark.parametrize("group", TITLES)
def test_a_group_holds_what_its_rules_import(group: str) -> None:
    """And all that these packages need; nothing else."""
    for rule in groups()[group]:
        missing = with_needs(imported(rule)) - set(pins(group))
        assert not missing, f"{rule} needs {missing}: run python -m tests.environments"
    text = (ENVS / f"{group}.yaml").read_text(encoding="utf-8")
    assert text == expected(group, groups()[group]), "run python -m tests.environments"


def test_the_network_is_in_one_group() -> None:
    """Most rules, and so most jobs, start without torch's gigabytes."""
    assert "torch" in pins("model")
    assert "torch" not in pins("base")
    assert {"predict_tumors", "train_model"} <= set(groups()["model"])


@pytest.mark.parametrize("name", ["Containerfile", "tumoratlas.def"])
def test_the_container_holds_the_lock(name: str) -> None:
    """Both recipes install the lock file itself, on the Python that the package asks for."""
    text = (ENVS / name).read_text(encoding="utf-8")
    wanted = re.search(r'requires-python = "==(3\.\d+)', (ROOT / "pyproject.toml").read_text())[1]
    assert f"python:{wanted}-" in text
    assert "--no-deps --requirement /opt/requirements.lock" in text
    assert "==" not in text
