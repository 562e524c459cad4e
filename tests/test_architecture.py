"""The house: its page and the navigation name what exists; functions, files and imports have their bounds."""

import re
import tomllib
from pathlib import Path

from tools.house import wide_functions

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "lookalike"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def named_files():
    """Yields the files in the page's drawings and sentences; in a drawing, a name may lack the folder before it."""
    for listing in re.findall(r"<small>(.*?)</small>", PAGE):
        room = ""
        for name in re.split(r"<br/>| · ", listing):
            folder, _, file = name.strip().rpartition("/")
            room = folder or room
            yield f"{room}/{file}" if room and (folder or (SOURCE / room / file).exists()) else file
    yield from re.findall(r"`([a-z0-9_/]+\.py)`", PAGE)


def test_every_file_of_the_architecture_page_exists():
    names = list(named_files())
    assert len(names) > 50
    assert [name for name in names if not (SOURCE / name).exists() and not (ROOT / name).exists()] == []


def test_the_architecture_page_lists_every_room():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = [room.strip() for layer in layers for room in layer.split("|")]
    table = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", PAGE, flags=re.MULTILINE)
    assert sorted(table) == sorted(rooms)


def test_every_page_is_in_the_navigation_once():
    navigation = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(navigation) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_no_public_function_has_more_than_eight_parameters():
    """What belongs together travels together, as in ``Origin`` and ``Captions``."""
    assert wide_functions() == []


def test_no_file_is_longer_than_500_lines():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    assert [str(path.relative_to(SOURCE)) for path, length in lengths.items() if length > 500] == []


def test_only_the_metrics_that_are_asked_for_load_torchmetrics():
    """Its import takes two seconds, which 'convert' and 'report' would wait for."""
    texts = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    assert [name for name, text in texts.items() if "torchmetrics import" in text] == ["metrics/accumulated.py"]
    # for type checkers alone
    assert [name for name, text in texts.items() if "metrics.accumulated import" in text] == ["metrics/__init__.py"]
