import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike._core.files import write_whole
from lookalike._core.names import bytes_of, file_name, json_text, name_key, text_of, valid_json, visible
from lookalike._core.provenance import fingerprint_json
from lookalike.conversion.per_class import numbers_per_class
from lookalike.metrics.scorecard import Scorecard
from lookalike.plots.tiles import shorten

ANY_NAME = st.binary(max_size=40).map(lambda name: name.decode("utf-8", "surrogateescape"))
ANY_TEXT = st.text(st.characters(), max_size=40) | ANY_NAME


@given(ANY_TEXT)
def test_every_text_can_be_shown_written_and_compared(text):
    for form in (text_of(text), visible(text), name_key(text), json_text({"name": text})):
        form.encode("utf-8")
    assert "\n" not in visible(text)
    assert "\x1b" not in visible(text)
    assert visible(visible(text)) == visible(text)
    assert len(fingerprint_json([text])) == 64
    shorten(text, 8).encode("utf-8")


@given(ANY_NAME)
def test_names_lose_nothing_in_json(name):
    from urllib.parse import unquote_to_bytes

    written = json.loads(json_text({"name": name, "names": [name, "a"]}))
    if "name_bytes" in written:
        assert unquote_to_bytes(written["name_bytes"]) == bytes_of(name)
        assert written["names_bytes"] == [written["name_bytes"], None]
    else:
        assert written == {"name": name, "names": [name, "a"]}
    assert valid_json(written) == written


@given(ANY_TEXT)
def test_file_names_suit_every_file_system(text):
    name = file_name(text)
    assert 0 < len(os.fsencode(name)) <= 120
    assert not set(name) & set('/\\:*?"<>|\x00\n ')
    assert name == "_" or not name.startswith(".")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31m\x9b2J\x7f\x00", r"\x1b[31m\x9b2J\x7f\x00"),
        ("abc\u202egnp.exe\u2066\ufeff", r"abc\u202egnp.exe\u2066\ufeff"),
        ("\u2028\u2029\u200b\xad", r"\u2028\u2029\u200b\xad"),
        ("\U000e0041", r"\U000e0041"),
        (b"caf\xe9 \xc3\xa9".decode("utf-8", "surrogateescape"), "caf\\xe9 é"),
        ("\ud83d", r"\xed\xa0\xbd"),
        ("日本語 – «é» 👩‍👩‍👧 نمی‌خواهم\u3000x", "日本語 – «é» 👩‍👩‍👧 نمی‌خواهم\u3000x"),
        ("C:\\new\\[bold]x", "C:\\new\\[bold]x"),
    ],
)
def test_what_a_screen_would_obey_is_written_out_and_the_rest_stays(text, shown):
    assert visible(text) == shown


def test_names_are_the_same_in_every_locale():
    under_c = "café".encode().decode("ascii", "surrogateescape")
    assert text_of(under_c) == "café"
    assert name_key(under_c) == name_key("cafe\u0301") == "café"


def test_writers_take_names_that_are_no_text(tmp_path):
    write_whole(tmp_path / "a.txt", "caf\udce9")
    assert (tmp_path / "a.txt").read_text("utf-8") == r"caf\udce9"
    Scorecard({}, {}, ["caf\udce9"], ["a \udcff"], {}).save(tmp_path / "card.json")
    assert Scorecard.read(tmp_path / "card.json").class_names == [r"caf\xe9"]


def test_prototypes_are_numbered_by_names_that_read_alike():
    assert numbers_per_class({"cafe\u0301": 2, "b": 1}, ["b", "caf\xe9"]) == [1, 2]
