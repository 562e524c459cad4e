"""Requirements have an oldest version and no newest one, and a tool lists the oldest."""

import tomllib
from pathlib import Path

import pytest
from tools.lowest import lowest_versions

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_each_requirement_has_an_oldest_version_and_no_newest_one():
    versions = lowest_versions(PROJECT)
    assert {"torch", "numpy", "typer", "timm", "pytest"} <= versions.keys()


def test_of_two_groups_the_newer_one_counts():
    groups = {"a": ["timm>=1.0.9", "me[b]"], "b": ["timm>=1.0.22"], "lint": ["ruff>=1"]}
    project = {"name": "me", "dependencies": ["ray[data]>=2.40"], "optional-dependencies": groups}
    assert lowest_versions(project) == {"ray": "2.40", "timm": "1.0.22"}


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch>=2,<3", "torch==2.8"])
def test_other_requirements_are_refused(requirement):
    with pytest.raises(ValueError, match="is not of the form"):
        lowest_versions({"name": "me", "dependencies": [requirement], "optional-dependencies": {}})
