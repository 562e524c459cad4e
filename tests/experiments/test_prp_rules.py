"""The comparison of rules for PRP: which pixels are the object, which rule wins, and a run on small images."""

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.experiments import EXPERIMENTS, Cells, Plan, Workbench
from lookalike.experiments.prp_rules import foreground, mean_ranks
from lookalike.experiments.tables import Row
from lookalike.relevance import PRP_RULES


def test_the_object_is_what_differs_from_the_edge():
    pixels = torch.full((2, 8, 8, 1), 200, dtype=torch.uint8)
    pixels[0, 2:5, 3:6] = 90
    pixels[1, 4, 4] = 220  # within 10% of the background
    found = foreground(pixels)
    assert torch.equal(found[0].nonzero(), (pixels[0, ..., 0] == 90).nonzero())
    assert not found[1].any()


def test_ranks_follow_each_figures_direction():
    values = {"stability": (0.8, 0.9, 0.7), "deletion": (0.1, 0.2, 0.3), "agreement": (0.5, 0.4, 0.6)}
    rows = [
        Row(("digits", "cnn", rule), {name: [value[place]] for name, value in values.items()})
        for place, rule in enumerate(PRP_RULES)
    ]
    assert mean_ranks([*rows, Row(("digits", "cnn", "random order"), {"deletion": [0.0]})]) == pytest.approx(
        {"share": 5 / 3, "gradient": 2, "neuralized": 7 / 3}
    )


def images(folder, noisy):
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("test", 4)):
        for k in range(2):
            for i in range(n):
                image = rng.integers(0, 255 if noisy else 5, (12, 12), dtype=np.uint8)
                image[3 : 6 + k, 3 + 3 * k : 9] = 255
                path = folder / part / "ab"[k] / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    return str(folder)


@pytest.mark.slow
def test_all_rules_are_measured_on_images_with_a_plain_background(tmp_path):
    plan = Plan((images(tmp_path / "plain", noisy=False),), quick=True)
    bench = Workbench(tmp_path / "models", quick=True, progress=False)
    assert EXPERIMENTS["prp-rules"].suited(plan, bench) == (plan.datasets, [])
    found = EXPERIMENTS["prp-rules"].run(plan, bench, Cells(tmp_path / "cells"))
    assert [row.names[2] for row in found.rows] == [*PRP_RULES, "black box's LRP", "random order"]
    for row in found.rows[:3]:
        assert 0 <= row.values["deletion"][0] <= 1
        assert -1 <= row.values["agreement"][0] <= 1
        assert 0 <= row.values["inside"][0] <= 1
    assert set(found.details["mean_ranks"]) == set(PRP_RULES)


def test_images_without_a_plain_background_are_refused(tmp_path):
    plan = Plan((images(tmp_path / "noisy", noisy=True),), quick=True)
    suited, reasons = EXPERIMENTS["prp-rules"].suited(plan, Workbench(tmp_path / "models", quick=True, progress=False))
    assert suited == ()
    assert "'noisy' has no plain background" in reasons[0]
