"""What notebooks show: every name escaped, pictures inside; and the tutorial's cells run from the first to the last."""

import ast
import json
import re
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from lookalike import convert, embed, evaluate, explain
from lookalike._core.progress import progress_bar
from lookalike.data import ImageArray, Preprocessing
from lookalike.networks import small_cnn
from lookalike.relevance import lrp

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tutorial.ipynb"
HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J"


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    net = small_cnn(2, 1, 4).eval()
    values = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 1), dtype=np.uint8)
    data = ImageArray(values, np.arange(24) % 2, ["ant", HOSTILE], Preprocessing((12, 12), None, (0.5,), (0.5,)))
    model = convert(net, data, 2, progress=False)
    x = torch.stack([data[i][0] for i in range(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        card = evaluate(model, data, black_box=net, progress=False, n_images=4)
    return {
        "model": model, "prototypes": model.prototypes, "explanation": explain(model, x)[0],
        "card": card, "store": embed(net, data, progress=False), "relevance": lrp(net, x),
        "likeness": explain(model, x)[0].likenesses[0],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["model", "prototypes", "explanation", "card", "store"])
def test_html_escapes_names_and_shows_pictures(made, name):
    shown = made[name]._repr_html_()
    assert "<img src=x" not in shown
    assert "\x1b" not in shown
    assert ('src="data:image/png;base64,' in shown) is (name in ("model", "explanation"))
    assert not plt.get_fignums()  # a notebook would show open figures a second time


def test_a_model_without_pictures_shows_its_prototypes(made):
    x, y = torch.randn(12, 1, 4, 4), torch.arange(12) % 2
    model = convert(small_cnn(2, 1, 4).eval(), (x, y), 1, n_images=0, progress=False)
    shown = model._repr_html_()
    assert "purity" in shown
    assert "PrototypeModel(SmallCNN, 2 prototypes of 2 classes" in shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model", r"PrototypeModel\(SmallCNN, 4 prototypes of 2 classes, similarity='l2', dim=16\)"),
        ("explanation", r"Explanation\('.*' \d+%(, unfamiliar)?, looks like no\. \d of '.*"),
        ("likeness", r"Likeness\(no\. \d of '.*', similarity=-[\d.]+, percentile=\d+\)"),
        ("card", r"Scorecard\(accuracy=[\d.]+, .*"),
        ("store", r"EmbeddingStore\(24 × 16 float32, 2 classes, in memory\)"),
        ("relevance", r"Relevance\(maps 3 × 1 × 12 × 12, composite='epsilon-plus-flat', residual up to .*\)"),
    ],
)
def test_a_repr_is_a_line_that_a_person_can_read(made, name, expected):
    assert re.fullmatch(expected, repr(made[name])), repr(made[name])


def test_a_notebook_gets_a_bar_that_goes_when_it_is_done(monkeypatch):
    """The kernel's IPython is stood in for by what the bar uses of it."""
    said = []
    handle = types.SimpleNamespace(update=said.append)

    def show(what, display_id):
        said.append(what)
        return handle

    kernel = types.SimpleNamespace(kernel=object())
    display = types.SimpleNamespace(HTML=str, display=show)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel, display=display))
    with progress_bar("Embedding <b>", 10) as advance:
        advance(4)
    assert '<progress max="10" value="0">' in said[0]
    assert "Embedding &lt;b&gt;" in said[0]
    assert '<progress max="10" value="4">' in said[1]
    assert said[-1] == ""


def test_the_tutorial_runs(monkeypatch):
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    scope, shown = {"__name__": "notebook"}, []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []  # nothing generated is kept in the repository
        code = "".join(cell["source"]).replace("N_EPOCHS, N_TEST = 2, 200", "N_EPOCHS, N_TEST = 1, 20")
        code = code.replace("digits.train,", "few,").replace(
            "black_box=network)", "black_box=network, only=['faithfulness'])"
        )
        *lines, last = ast.parse(code).body
        is_shown = isinstance(last, ast.Expr)
        exec(compile(ast.Module(lines if is_shown else [*lines, last], []), "cell", "exec"), scope)
        if "few" not in scope:
            scope["few"] = torch.utils.data.Subset(scope["digits"].train, range(0, 4000, 20))
        if is_shown:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), scope)
            shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
    assert len(shown) == 6
    assert all("<table>" in text or "<img" in text or "Explanation(" in text for text in shown)
