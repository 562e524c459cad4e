"""The key of a page: every symbol on it has an entry, and one word is used for one thing."""

import html
import re

import pytest

from lookalike.metrics.findings import Finding
from lookalike.metrics.scorecard import FIGURES
from lookalike.report.key import TERMS, linked, of_the_page

SYMBOL = re.compile(r"(?<![\w-])(?:[A-Z]+_\w+|[A-Z]{2,}[A-Za-z]*|[A-Z][a-z]+[A-Z]\w*|ε)(?![\w-])")
COMMON = {"RGB", "ID", "JPEG", "PNG", "KiB", "MiB", "JavaScript", "HTML"}
COMMON |= {"MODEL", "DATA", "MORE_IMAGES"}  # in commands, where a reader puts folders; said above them
JARGON = ("Holm", "neuralized", "Wilson", "Brier", "softmax", "AOPC", "ghosting", "silhouette", "Kullback", "logits")


def explained(word):
    return word in COMMON or any(re.search(rf"(?<![\w-])(?:{term.pattern})(?![\w-])", word) for term in TERMS)


def texts_of(page):
    """Returns what a reader can read, without the data's own names, by section."""
    text = page.read_text(encoding="utf-8")
    for tag in ("script", "style"):
        text = re.sub(rf"<{tag}.*?</{tag}>", "", text, flags=re.DOTALL)
    found = dict(re.findall(r'<section id="(\w+)"[^>]*>(.*?)</section>', text, re.DOTALL))
    return {name: html.unescape(re.sub(r"<[^>]+>", " ", section)) for name, section in found.items()}


def test_every_symbol_on_a_page_is_in_its_key(page):
    texts = texts_of(page)
    assert len(texts) >= 8
    for name, text in texts.items():
        if name != "key":  # the entries explain themselves
            unknown = {word for word in SYMBOL.findall(text) if not explained(word)}
            assert not unknown, (name, unknown)
            assert not {word for word in JARGON if word in text and not any(word in t.pattern for t in TERMS)}, name


@pytest.mark.parametrize("title", [title for title, _, _ in FIGURES.values()])
def test_every_symbol_in_the_name_of_a_figure_is_in_the_key(title):
    """Also of the figures that this page does not have."""
    assert [word for word in SYMBOL.findall(of_the_page(title)) if not explained(word)] == []


def test_every_link_into_the_key_has_an_entry(page):
    text = page.read_text(encoding="utf-8")
    asked, there = set(re.findall(r'href="#key-([\w-]+)"', text)), set(re.findall(r'<dt id="key-([\w-]+)"', text))
    assert len(asked) >= 8
    assert asked <= there == {term.anchor for term in TERMS}


def test_a_word_of_the_key_becomes_a_link_once_and_other_text_stays_text():
    said = str(linked("AI and <b>AI</b>, by the black box's D_fth of AIR (Holm, 5%)"))
    assert said.count('<a class="term" href="#key-ai-ad">AI</a>') == 1
    assert "&lt;b&gt;AI&lt;/b&gt;" in said
    assert "the original&#39;s" in said
    assert 'href="#key-fth">D_fth</a> of AIR' in said
    assert 'href="#key-holm">Holm</a>' in said
    assert str(linked(Finding("data", "info", "nothing").claim)) == "nothing"


def test_the_page_calls_the_converted_network_the_original(page):
    for name, text in texts_of(page).items():
        assert "black box" not in text, name
    assert of_the_page("no black box; a black box; AUROC of the black box's maps") == (
        "no original; an original; AUROC of the original's maps"
    )
