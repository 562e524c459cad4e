"""Tables of the results are computed, never typed."""

from pathlib import Path

import pytest

from lookalike.experiments import read_findings

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
DATA = sorted((RESULTS / "data").glob("*.json"))


def test_there_are_results():
    assert DATA


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_a_page_shows_the_table_that_its_data_give(path):
    pages = "\n".join(page.read_text(encoding="utf-8") for page in RESULTS.glob("*.md"))
    assert read_findings(path).to_markdown() in pages
