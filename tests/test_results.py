"""Tables of the results are computed, never typed."""

import json
from pathlib import Path

import pytest

from lookalike.experiments import EXPERIMENTS, read_findings

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
DATA = sorted((RESULTS / "data").glob("*.json"))


def test_there_are_results():
    assert DATA


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_a_page_shows_the_table_that_its_data_give(path):
    pages = "\n".join(page.read_text(encoding="utf-8") for page in RESULTS.glob("*.md"))
    findings, values = read_findings(path), json.loads(path.read_text(encoding="utf-8"))
    assert findings.to_markdown() in pages
    seeds, pairing = len(values["plan"]["seeds"]), EXPERIMENTS[values["experiment"]].pairing
    paired = findings.to_paired_markdown(values["experiment"], seeds, values.get("test_images", {}))
    assert paired in pages
    others = [
        row for row in findings.rows
        if pairing and row.names[-1] != pairing.reference and set(pairing.columns) & row.values.keys()
    ]  # fmt: skip
    assert bool(paired) == bool(others)  # a reference by another name would leave the comparison out
