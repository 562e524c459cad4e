"""The how-to's own baseline, run as it stands there."""

import re
from pathlib import Path

from lookalike.baselines import METHODS, train
from tests.baselines.test_training import TINY, make_bundle

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "add-a-baseline.md"


def test_the_baseline_of_the_how_to_trains(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    monkeypatch.setattr(METHODS, "_members", dict(METHODS._members))
    exec(code, {"__name__": "own"})
    given = TINY | {"epochs": 12, "dim": 8}
    made = train("nearest", make_bundle(), options=given, accelerator="cpu", progress=False)
    assert made.log[-1]["test_accuracy"] > 0.9
    assert "clustering" in made.log[0]
    assert made.model.prototypes.vectors.shape == (6, 8)
