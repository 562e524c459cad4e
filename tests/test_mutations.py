"""The operators of tools/mutations.py, where cosmic-ray is installed (extra ``mutation``)."""

from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray")

from cosmic_ray.mutating import mutate_code
from tools.mutations import DropKeyword, OtherKey, SwapArguments, SwapKeywords, by_hand, mutant_at, places_of


@pytest.mark.parametrize(
    ("operator", "code", "expected"),
    [
        (SwapArguments, "f(a, b, k=c)", ["f( b,a, k=c)"]),
        (SwapArguments, "f(a, b, c)", ["f( b,a, c)", "f(a, c, b)"]),
        (SwapArguments, "f('name', b), g(a, a), h(*a, b)", []),
        (DropKeyword, "f(a, b=1, c=2)", ["f(a, c=2)", "f(a, b=1,)"]),
        (DropKeyword, "f(b=1)", ["f()"]),
        (DropKeyword, "def f(a, b=1): pass", []),
        (SwapKeywords, "f(a=x, b=y.z, c=1)", ["f(a=y.z, b=x, c=1)"]),
        (SwapKeywords, "f(a=x, b=x, c='text')", []),
        (OtherKey, "a['x'] = b['y'] + c[0]", ["a['y'] = b['y'] + c[0]", "a['x'] = b['x'] + c[0]"]),
        (OtherKey, "a['x'] = b['x']", []),
        (OtherKey, "a['x'] = b[\"x\"]", []),
    ],
)
def test_the_operators_of_the_wiring(operator, code, expected):
    found = [mutate_code(code, operator(), i) for i in range(len(expected) + 1)]
    assert found == [*expected, None]


def test_each_place_is_broken_once_and_types_are_not(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("def f(a: int | None, b: str | None = None) -> int | None:\n    return g(a + 1, k=b)\n")
    mutants = [mutant_at(place, tmp_path) for place in places_of(path, 0)]
    assert sorted(one.operator.split("_")[0] for one in mutants) == [
        "DropKeyword", "NumberReplacer", "ReplaceBinaryOperator",
    ]  # fmt: skip
    assert all(one.text.splitlines()[0] == path.read_text().splitlines()[0] for one in mutants)
    assert {one.before for one in mutants} == {"return g(a + 1, k=b)"}


def test_mistakes_whose_module_has_changed_are_named(tmp_path, capsys):
    (tmp_path / "module.py").write_text("a = 1\n")
    rows = [("first", "a = 1", "a = 2"), ("second", "b = 1", "b = 2")]
    text = "".join(f"[[mistake]]\nname='{n}'\nmodule='module.py'\nwas='{w}'\nis='{i}'\n" for n, w, i in rows)
    (tmp_path / "mistakes.toml").write_text(text)
    (found,) = by_hand(Path(tmp_path / "mistakes.toml"), tmp_path)
    assert found.text == "a = 2\n"
    assert "stale: module.py no longer says 'b = 1'" in capsys.readouterr().out
