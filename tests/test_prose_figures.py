"""Numbers in the prose of some results' pages are computed from the stored data, never typed."""

import re
from pathlib import Path

import pytest
from scipy import stats
from tools.prose_figures import FIGURE, computed

RESULTS = Path(__file__).resolve().parents[1] / "docs/results"
PAGES = {name: (RESULTS / f"{name}.md").read_text(encoding="utf-8") for name in ("index", "clustering", "n-prototypes")}
LEAST = {"index": 100, "clustering": 20, "n-prototypes": 20}  # numbers that are computed

# Numbers that follow from the method, with what they are.
CONSTANTS = {
    "95": 100 * 0.95,  # percent, of the intervals
    "12.7": round(float(stats.t.ppf(0.975, 1)), 1),  # Student's factor for two seeds
    "16": 1 / (2 * 0.5**5),  # five equally probable signs on one side
    "0": 0,
    "1": 1,  # the paper's temperature
}
# Numbers of an earlier run, at a temperature of 1: its data are no longer there.
EARLIER = {
    "clustering": {"0.407", "0.397", "0.261", "0.234", "0.028"},
    "n-prototypes": {"0.271", "0.245", "0.241", "0.223", "0.691", "0.659"},
}
NUMBERS = {"n-prototypes": {"10", "20", "50"}}  # of prototypes per class


@pytest.mark.parametrize("name", PAGES)
def test_every_number_is_what_the_data_give(name):
    text = PAGES[name]
    differing = [
        f"{old[0]} is {new[0]}" for old, new in zip(FIGURE.finditer(text), FIGURE.finditer(computed(text)), strict=True)
        if old[0] != new[0]
    ]  # fmt: skip
    assert not differing
    assert len(FIGURE.findall(text)) > LEAST[name]


@pytest.mark.parametrize("name", PAGES)
def test_every_number_is_explained_or_follows_from_the_method(name):
    prose = re.sub(r"<!-- result: .*?<!-- end -->|```.*?```", "", PAGES[name], flags=re.DOTALL)
    prose = FIGURE.sub("", prose)
    prose = re.sub(r"\]\([^)]*\)|`[^`]*`", "", prose)  # links and code
    prose = re.sub(r"\b(Tables?|Figures?|section|appendix) [A-Z]?[\d.]*\d[abc]?((,| and| to)+ \d+)*", "", prose)
    typed = set(re.findall(r"(?<![\w.-])\d+(?:[.,]\d+)*(?![\w])", prose))
    assert typed <= set(CONSTANTS) | EARLIER.get(name, set()) | NUMBERS.get(name, set())
    for text, value in CONSTANTS.items():
        assert float(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("9.9%<!-- mean accuracy/digits/KMEx/accuracy -->", "97.9%"),
        ("9<!-- below accuracy/glyphs/FLINT/accuracy --> of", "3"),
        ("1.0<!-- from accuracy/digits/KMEx/accuracy -->", "−0.6"),
        ("1,111<!-- images accuracy/glyphs -->", "1,340"),
        ("0.0<!-- least runtime/digits/*/train_seconds -->", "2.5"),
        ("0.0<!-- most attributes/glyphs/*/1/attributes_captured -->", "10.0"),
    ],
)
def test_a_wrong_number_is_computed_anew_and_the_rest_stays(wrong, right):
    number, rest = re.match(r"[\d.,]+%?", wrong)[0], wrong.partition("<")[2]
    assert number != right
    assert computed(f"before {wrong} after") == f"before {right}<{rest} after"


def test_a_row_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"accuracy has no row \['digits', 'SENN'\]"):
        computed("1<!-- mean accuracy/digits/SENN/accuracy -->")
