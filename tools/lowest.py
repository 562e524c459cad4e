"""Prints the oldest versions that pyproject.toml admits, as constraints for pip.

    python tools/lowest.py > constraints.txt
    pip install -c constraints.txt -e ".[test]"

``make test-lowest`` runs the tests with them.
"""

import re
import tomllib
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_TOOLS = ("lint", "docs", "mutation", "dev")  # groups that no test needs
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[^]]*\])?>=(?P<version>[\d.]+)")


def main() -> None:
    """Prints one line per package."""
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    for name, version in sorted(lowest_versions(project).items()):
        print(f"{name}=={version}")


def lowest_versions(project: dict[str, object]) -> dict[str, str]:
    """Returns the oldest version of each package; where two groups differ, the newer, which suits both.

    Args:
        project: The table ``project`` of pyproject.toml.

    Raises:
        ValueError: If a requirement has no oldest version, or a newest one.
    """
    groups: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    requirements: list[str] = [*project["dependencies"]]  # type: ignore[misc]
    requirements += [one for group, members in groups.items() if group not in _TOOLS for one in members]
    versions: dict[str, str] = {}
    for requirement in requirements:
        if requirement.startswith(f"{project['name']}["):
            continue  # other groups of this package
        parts = _REQUIREMENT.fullmatch(requirement)
        if parts is None:
            raise ValueError(f"{requirement!r} is not of the form 'name>=version'")
        versions[parts["name"]] = max(versions.get(parts["name"], "0"), parts["version"], key=_as_numbers)
    return versions


def _as_numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


if __name__ == "__main__":
    main()
