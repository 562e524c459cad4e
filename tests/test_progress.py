"""Progress where there is no terminal: lines, and only from commands."""

import itertools

import pytest

from lookalike._core import progress
from lookalike._core.progress import lines_without_terminal, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by two seconds whenever it is read."""
    seconds = itertools.count(0, 2)
    monkeypatch.setattr(progress, "monotonic", lambda: float(next(seconds)))


def test_a_function_prints_nothing(clock, capsys):
    with progress_bar("Embedding", 100) as advance:
        for _ in range(100):
            advance()
    assert capsys.readouterr() == ("", "")


def test_a_command_says_how_far_it_is_and_how_long_it_takes(clock, capsys):
    with lines_without_terminal(), progress_bar("Embedding", 100) as advance:
        for _ in range(25):
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Embedding: 3 of 100, about 3.2 min to go",  # at 6 s, 97 of 2 s each are left
        "Embedding: 18 of 100, about 2.7 min to go",
    ]


def test_without_a_total_there_is_no_estimate_and_a_short_step_says_nothing(clock, capsys):
    with lines_without_terminal():
        with progress_bar("Reading", None) as advance:
            advance(7)
        with progress_bar("Embedding", None) as advance:
            for _ in range(4):
                advance(10)
    assert capsys.readouterr().err.splitlines() == ["Embedding: 30"]


def test_a_first_step_that_waits_for_what_is_done_once_does_not_count(monkeypatch, capsys):
    times = iter([0.0, 20.0, 51.0, 81.0])  # the first step takes 20 s, the others 1 s each
    monkeypatch.setattr(progress, "monotonic", lambda: next(times))
    with lines_without_terminal(), progress_bar("Explaining", 101) as advance:
        advance()
        advance(31)
        advance(30)
    assert capsys.readouterr().err.splitlines() == [
        "Explaining: 1 of 101, at most 33 min to go",
        "Explaining: 32 of 101, about 69 s to go",
        "Explaining: 62 of 101, about 39 s to go",
    ]
