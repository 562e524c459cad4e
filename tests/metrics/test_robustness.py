"""Relevance ordering against closed forms, a plain loop, and Quantus."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from lookalike import experiments
from lookalike._core.errors import LookalikeError
from lookalike.metrics import (
    Noise,
    RelevanceOrdering,
    increase_and_drop,
    positive_activations,
    relevance_ordering,
)
from lookalike.metrics.robustness import Ordering, ordering_curves, ordering_rows


def noise(draws=2, seed=0, low=0.0, high=1.0, channels=1):
    return Noise(torch.full((channels,), low), torch.full((channels,), high), draws, seed)


def looks_at_one_pixel(x):
    """Class 0 as long as the pixel in the corner is 2; noise, between 0 and 1, never is."""
    seen = (x[:, 0, 0, 0] == 2).float()
    return torch.stack([seen, 1 - seen], 1)


def test_a_model_that_looks_at_one_pixel():
    x = torch.zeros(3, 1, 4, 5)
    x[:, 0, 0, 0] = 2
    best = torch.zeros(3, 4, 5)
    best[:, 0, 0] = 1
    curve = relevance_ordering(looks_at_one_pixel, x, best, noise())
    assert curve.mean.tolist() == [1.0] * 20 + [0.0]  # it goes last
    assert curve.auroc == pytest.approx(1 - 0.5 / 20)
    worst = relevance_ordering(looks_at_one_pixel, x, -best, noise())
    assert worst.mean.tolist() == [1.0] + [0.0] * 20  # it goes first
    assert worst.auroc == pytest.approx(0.5 / 20)
    random = relevance_ordering(looks_at_one_pixel, x.repeat(200, 1, 1, 1), None, noise())
    np.testing.assert_allclose(random.mean, np.linspace(1, 0, 21), atol=0.08)  # a straight line on average
    assert random.auroc == pytest.approx(0.5, abs=0.05)


def scorer(seed=0):
    weight = torch.randn(3, 2 * 6 * 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda x: (x.double().flatten(1) @ weight.T / 3).softmax(1)


def test_equals_a_plain_loop():
    score, x = scorer(), torch.randn(5, 2, 6, 6)
    relevance, drawn = torch.randn(5, 6, 6), noise(3, 4, -1, 2, 2)
    found = relevance_ordering(score, x, relevance, drawn, samples=[3, 1, 4, 15, 9], n_steps=7, batch_size=11)
    for row, sample in enumerate([3, 1, 4, 15, 9]):
        first = int(score(x[row : row + 1]).argmax())
        order = np.argsort(relevance[row].numpy().ravel(), kind="stable")
        for step in range(8):
            values = []
            for patch in drawn.of(sample, (2, 6, 6)).numpy():
                image = x[row].numpy().copy().reshape(2, -1)
                gone = order[: round(step * 36 / 7)]
                image[:, gone] = patch.reshape(2, -1)[:, gone]
                values.append(float(score(torch.from_numpy(image.reshape(1, 2, 6, 6)))[0, first]))
            assert float(found.probabilities[row, step]) == pytest.approx(np.mean(values), abs=1e-6)
    assert found.auroc == pytest.approx(np.trapezoid(found.mean, found.fractions))
    assert found.samples == (3, 1, 4, 15, 9)
    assert found.options == {"n_steps": 7, "n_draws": 3, "seed": 4, "random_order": False, "generator": "philox"}


def test_the_batch_size_makes_no_difference_and_bounds_the_rows():
    score, x, relevance = scorer(), torch.randn(4, 2, 6, 6), torch.randn(4, 6, 6)
    found = {}
    for size in (1, 7, 999):
        rows = []

        def watched(images, rows=rows):
            rows.append(len(images))
            return score(images)

        found[size] = relevance_ordering(watched, x, relevance, noise(channels=2), batch_size=size).probabilities
        assert max(rows) <= size
        assert sum(rows) == 4 * (1 + 20 * 2)
    torch.testing.assert_close(found[1], found[7])
    torch.testing.assert_close(found[1], found[999])


def test_several_curves_are_those_computed_alone_and_no_copy_passes_twice():
    scores, x, rows = {"a": scorer(0), "b": scorer(1)}, torch.randn(3, 2, 6, 6), []

    def joint(images):
        rows.append(len(images))
        return {name: score(images) for name, score in scores.items()}

    maps = {"a": torch.randn(3, 6, 6), "b": torch.randn(3, 6, 6)}
    orderings = {(name, kind): Ordering(name, maps[name] if kind else None) for name in "ab" for kind in (True, False)}
    found = ordering_curves(joint, x, orderings, noise(2, channels=2), samples=[5, 2, 8], n_steps=4, batch_size=7)
    assert sum(rows) == ordering_rows(3, 3, 4, 2) == 3 * (1 + 2 * (3 * 3 + 1))  # three orders; the last step once
    for (name, kind), curves in found.items():
        alone = relevance_ordering(
            scores[name], x, maps[name] if kind else None, noise(2, channels=2), samples=[5, 2, 8], n_steps=4
        )
        torch.testing.assert_close(curves.probabilities, alone.probabilities)
        assert curves.options == alone.options


def test_noise_is_the_samples_own_and_in_range():
    drawn = noise(5, 3, -2.0, 5.0, 3)
    first = drawn.of(7, (3, 8, 8))
    assert torch.equal(first, drawn.of(7, (3, 8, 8)))
    assert not torch.equal(first, drawn.of(8, (3, 8, 8)))
    assert not torch.equal(first, noise(5, 4, -2.0, 5.0, 3).of(7, (3, 8, 8)))
    assert -2 <= float(first.min()) < -1.8
    assert 4.8 < float(first.max()) <= 5


def test_the_generator_of_earlier_versions_draws_what_it_drew():
    """The result pages were measured with it: torch's generator on the CPU, seeded by seed, kind and sample."""
    earlier = Noise(torch.tensor([-1.0]), torch.tensor([3.0]), 2, 5, "mersenne")
    for sample in (0, 41):
        generators = [torch.Generator().manual_seed((5 * 2 + kind) * 1_000_003 + sample) for kind in (0, 1)]
        assert torch.equal(earlier.of(sample, (1, 4, 6)), torch.rand(2, 1, 4, 6, generator=generators[0]) * 4 - 1)
        assert torch.equal(earlier.random_order(sample, 24), torch.randperm(24, generator=generators[1]).float())


@pytest.mark.parametrize("generator", ["philox", "mersenne"])
def test_noise_of_many_images_is_that_of_each(generator):
    drawn, samples, x = Noise(torch.zeros(1), torch.ones(1), 3, 1, generator), [9, 2, 70], torch.zeros(3, 1, 200, 300)
    for sample, images in zip(samples, drawn.for_images(samples, x), strict=True):
        assert torch.equal(images, drawn.of(sample, (1, 200, 300)))
    for sample, order in zip(samples, drawn.orders_for_images(samples, x), strict=True):
        assert torch.equal(order, drawn.random_order(sample, 60_000))


def test_every_experiment_keeps_the_generator_of_its_published_figures():
    for file in sorted(Path(experiments.__file__).parent.glob("*.py")):
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            name, texts = ast.unparse(call.func), [ast.unparse(value) for value in (*call.args, *call.keywords)]
            if name in ("evaluate", "Noise"):
                assert {"noise='mersenne'", "'mersenne'"} & set(texts), f"{file.name}:{call.lineno}"


def test_quantus_flips_the_same_pixels():
    """Quantus flips the most relevant first and to a fixed value: the same job with the order turned round."""
    quantus = pytest.importorskip("quantus")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    x, relevance = torch.rand(4, 1, 8, 8), torch.rand(4, 8, 8)
    with torch.no_grad():
        predicted = model(x).argmax(1)
    flipping = quantus.PixelFlipping(
        features_in_step=8, perturb_baseline="black", normalise=False, abs=False, return_auc_per_sample=False,
        return_aggregate=False, disable_warnings=True, display_progressbar=False,
    )  # fmt: skip
    theirs = np.array(
        flipping(model=model, x_batch=x.numpy(), y_batch=predicted.numpy(), a_batch=relevance[:, None].numpy(),
                 device="cpu", softmax=True, channel_first=True)
    )  # fmt: skip
    black = Noise(torch.tensor([float(x.min())]), torch.tensor([float(x.min())]), 1)
    # "black" is the image's own smallest value
    ours = torch.cat(
        [
            relevance_ordering(
                lambda images: model(images).softmax(1),
                x[row : row + 1],
                -relevance[row : row + 1],
                Noise(x[row].amin((1, 2)), x[row].amin((1, 2)), 1),
                n_steps=8,
            ).probabilities
            for row in range(4)
        ]
    )
    assert black.draws == 1
    np.testing.assert_allclose(theirs, ours[:, 1:].numpy(), rtol=1e-4)


def test_the_metric_sums():
    score, x, relevance = scorer(), torch.randn(6, 2, 6, 6), torch.randn(6, 6, 6)
    whole = relevance_ordering(score, x, relevance, noise(channels=2), n_steps=5)
    metric = RelevanceOrdering(n_steps=5)
    for rows in (slice(0, 2), slice(2, 6)):
        samples = list(range(6))[rows]
        metric.update(
            relevance_ordering(score, x[rows], relevance[rows], noise(channels=2), samples=samples, n_steps=5)
        )
    assert float(metric.compute()["auroc"]) == pytest.approx(whole.auroc)
    torch.testing.assert_close(metric.compute()["curve"], whole.mean)


def test_increase_and_drop():
    x = torch.zeros(2, 1, 4, 4)
    x[:, 0, 0, 0] = 2
    relevance = torch.zeros(2, 4, 4)
    relevance[:, 0, 0] = 1

    def activation(images):
        return images[:, 0, 0, 0, None] - 2  # 0 with the pixel, below without

    kept = increase_and_drop(activation, x, relevance, noise(), torch.zeros(2, dtype=torch.int64))
    assert (kept.increase, kept.drop) == (0, 0)
    lost = increase_and_drop(activation, x, -relevance, noise(), torch.zeros(2, dtype=torch.int64))
    seen = torch.stack([noise().of(row, (1, 4, 4))[:, 0, 0, 0] for row in range(2)])
    assert lost.drop == pytest.approx(float((1 - 1 / (1 - (seen - 2))).mean()), abs=1e-6)

    def rises(images):
        return -images[:, 0, 0, 0, None]

    up = increase_and_drop(rises, x, -relevance, noise(), torch.zeros(2, dtype=torch.int64))
    assert (up.increase, up.drop) == (1, 0)


def test_positive_activations_keep_the_order():
    values = torch.linspace(-50, 50, 1001, dtype=torch.float64)
    found = positive_activations(values)
    assert float(found.min()) > 0
    assert bool((found.diff() > 0).all())


def test_mistakes_are_told():
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(LookalikeError, match=r"relevance of shape \(2, 4, 4\)"):
        relevance_ordering(looks_at_one_pixel, x, torch.rand(2, 3, 4), noise())
    with pytest.raises(LookalikeError, match="shape"):
        relevance_ordering(looks_at_one_pixel, x[:0], None, noise())
    with pytest.raises(LookalikeError, match="n_steps must be a whole number of at least 1"):
        relevance_ordering(looks_at_one_pixel, x, None, noise(), n_steps=0)
    with pytest.raises(LookalikeError, match="above 0 and below 1"):
        increase_and_drop(looks_at_one_pixel, x, torch.rand(2, 4, 4), noise(), torch.zeros(2).long(), keep=1.0)
    for batch_size in (1, 256):
        with pytest.raises(LookalikeError, match="targets"):
            increase_and_drop(
                looks_at_one_pixel, x, torch.rand(2, 4, 4), noise(), torch.tensor([0, 7]), batch_size=batch_size
            )
