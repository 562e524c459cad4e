"""Names that the shell completes."""

import os
import subprocess
import sys

import pytest

from lookalike.baselines import METHODS
from lookalike.cli import completion
from lookalike.conversion.clustering import CLUSTERERS
from lookalike.data import DATASETS
from lookalike.experiments import EXPERIMENTS, MODELS
from lookalike.model.similarity import SIMILARITIES
from lookalike.relevance import COMPOSITES


@pytest.mark.parametrize(
    ("written", "registered"),
    [
        (completion.SIMILARITIES, SIMILARITIES),
        (completion.CLUSTERERS, CLUSTERERS),
        (completion.COMPOSITES, COMPOSITES),
        (completion.METHODS, METHODS),
        (completion.DATASETS, DATASETS),
        (completion.MODELS, MODELS),
        (completion.EXPERIMENTS, EXPERIMENTS),
    ],
)
def test_the_names_are_those_of_the_registries(written, registered):
    assert set(written) == {name for name in registered if not name.startswith("test-")}
    assert len(set(written)) == len(written)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("convert --similarity co", ["cosine"]),
        ("convert --similarity a", ["auto"]),
        ("convert --clusterer b", ["bisecting"]),
        ("convert --level p", ["patch"]),
        ("convert --decision v", ["vote"]),
        ("explain --composite att", ["attnlrp"]),
        ("evaluate --composite ga", ["gamma"]),
        ("train proto", ["protopnet", "protovae"]),
        ("reproduce accu", ["accuracy"]),
        ("reproduce --dataset digits,gl", ["digits,glyphs"]),
        ("reproduce --models kmex,fl", ["kmex,flint", "kmex,flint+kmex"]),
        ("datasets fetch cu", ["cub200"]),
    ],
)
def test_the_shell_is_told(words, names):
    environment = os.environ | {"_LOOKALIKE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"lookalike {words}"}
    code = "import sys; sys.argv[0] = 'lookalike'; from lookalike.cli.app import app; app(prog_name='lookalike')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    for name in names:
        assert f'"{name}"' in done.stdout
    assert done.stdout.count('"') == 2 * len(names)
