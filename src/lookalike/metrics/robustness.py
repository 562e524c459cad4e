"""Robustness of explanations: relevance ordering, its area under the curve, average increase and drop.

Source: paper section 4.3.3; steps, noise and draws are our reading [ours].
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.acceleration import Accelerated
from lookalike._core.errors import LookalikeError
from lookalike._core.philox import inverse
from lookalike._core.untouched import keeps_torch_settings
from lookalike.encoder import rows_at_once
from lookalike.metrics.noise import Noise

Scorer = Callable[[Tensor], Tensor]  # inputs [n, C, H, W] → class probabilities [n, K], or activations [n, P]
JointScorer = Callable[[Tensor], Mapping[str, Tensor]]  # inputs [n, C, H, W] → class probabilities [n, K] by classifier


@dataclass(frozen=True)
class ProbabilityCurves:
    """Probability of a class against the share of changed pixels.

    Attributes:
        fractions: Share of changed pixels [S + 1], from 0 to 1.
        probabilities: Probability of the class, image by image [N, S + 1].
    """

    fractions: Tensor
    probabilities: Tensor

    @property
    def mean(self) -> Tensor:
        """The curve [S + 1]: the mean over images."""
        return self.probabilities.mean(0)

    @property
    def areas(self) -> Tensor:
        """The area under each image's curve [N], by the trapezoid rule, in [0, 1]."""
        return torch.trapezoid(self.probabilities, self.fractions, dim=1)


@dataclass(frozen=True)
class OrderingCurves(ProbabilityCurves):
    """Relevance-ordering (RO) curves.

    Attributes:
        fractions: Share of the pixels, the least relevant first, that are replaced by noise [S + 1], from 0 to 1.
        probabilities: Probability of the class predicted for the clean image, mean over the draws [N, S + 1].
        samples: Index of each image in its data set, which selects its noise.
        options: Number of steps and draws, seed, and whether the pixel order was random.
    """

    samples: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def auroc(self) -> float:
        """The area under the relevance-ordering curve, in [0, 1]; higher is better."""
        return float(self.areas.mean())


@keeps_torch_settings
@torch.no_grad()
def relevance_ordering(
    score: Scorer,
    inputs: Tensor,
    relevance: Tensor | None,
    noise: Noise,
    *,
    samples: Sequence[int] | None = None,
    n_steps: int = 20,
    batch_size: int = 256,
    advance: Callable[[int], object] | None = None,
) -> OrderingCurves:
    """Replaces the least relevant pixels by noise, step by step, and tracks the predicted class (section 4.3.3).

    Args:
        score: Maps inputs to class probabilities; the tracked class is the one predicted for the clean input.
        inputs: Images [N, C, H, W].
        relevance: Relevance per pixel [N, H, W]; None replaces pixels in random order, as a reference.
        noise: The noise that replaces pixels.
        samples: Index of each image in its data set, which selects its noise; None counts from 0.
        n_steps: Number S of equal steps from no pixels to all.
        batch_size: Most rows that pass through the model at once.
        advance: Called with the number of rows done.

    Raises:
        LookalikeError: If the shapes do not fit, or ``n_steps`` is less than 1.
    """
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    _checked_shape(score, inputs, relevance, noise)
    return ordering_curves(
        lambda rows: {"": score(rows)},
        inputs,
        {"": Ordering("", relevance)},
        noise,
        samples=samples,
        n_steps=n_steps,
        batch_size=rows_at_once(inputs, batch_size, inputs.device),
        advance=advance,
    )[""]


class Ordering(NamedTuple):
    """What a curve shows.

    Attributes:
        classifier: Name of the classifier whose predictions it tracks.
        relevance: Relevance per pixel [N, H, W], which orders the pixels; None takes a random order.
    """

    classifier: str
    relevance: Tensor | None


@keeps_torch_settings
@torch.no_grad()
def ordering_curves(
    score: JointScorer,
    inputs: Tensor,
    orderings: Mapping[str, Ordering],
    noise: Noise,
    *,
    samples: Sequence[int] | None = None,
    n_steps: int = 20,
    batch_size: int = 256,
    advance: Callable[[int], object] | None = None,
) -> dict[str, OrderingCurves]:
    """Returns several relevance-ordering curves of the same images, by name; no noisy copy passes twice.

    Curves share the clean images, the noise alone (the last step), and all copies if the order is the same, which the
    random order is. ``score`` returns the probabilities of several classifiers, which may share a network.

    Args:
        score: Maps inputs to class probabilities [n, K] by classifier.
        inputs: Images [N, C, H, W].
        orderings: What each curve shows, by name.
        noise: The noise that replaces pixels.
        samples: Index of each image in its data set; None counts from 0.
        n_steps: Number S of equal steps.
        batch_size: Number of rows that ``score`` gets at once.
        advance: Called with the number of rows done, of ``ordering_rows``.

    Raises:
        LookalikeError: If the shapes do not fit, or ``n_steps`` is less than 1.
    """
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    for ordering in orderings.values():
        n, _, height, width = _checked_shape(score, inputs, ordering.relevance, noise)
    n_steps = checks.whole_number("n_steps", n_steps, 1)
    sample_indices = _sample_indices(samples, n)
    n_pixels = height * width
    batcher = _FullBatches(score, batch_size, advance)
    for batch in inputs.split(batch_size):
        batcher.run(batch)
    clean = batcher.probabilities()
    target_classes = {name: values.argmax(1) for name, values in clean.items()}
    replaced = torch.tensor([round(step * n_pixels / n_steps) for step in range(n_steps + 1)])
    n_replaced = replaced[1:-1].view(-1, 1, 1, 1, 1).to(inputs.device)
    orders = {id(ordering.relevance): ordering.relevance for ordering in orderings.values()}
    random_orders = noise.orders_for_images(sample_indices, inputs)
    # on a GPU, that Python looks at each operation would take longer than it gains
    with Accelerated() if inputs.device.type == "cpu" else contextlib.nullcontext():
        for row, noise_images in enumerate(noise.for_images(sample_indices, inputs)):
            x = inputs[row]
            batcher.target = {name: classes[row] for name, classes in target_classes.items()}
            for relevance in orders.values():
                order = next(random_orders) if relevance is None else relevance[row].reshape(-1).to(inputs.device)
                ranks = inverse(order.argsort(stable=True)).view(1, 1, 1, height, width).to(inputs.device)
                noisy = torch.where(ranks < n_replaced, noise_images, x)  # [steps, draws, C, H, W]
                batcher.add(noisy.flatten(0, 1))
            batcher.add(noise_images)
        batcher.finish()
    # [N, orders · (steps − 1) + 1] for each classifier: the last step is the same for all orders
    means = {
        name: values.cpu().double().view(n, -1, noise.draws).mean(2) for name, values in batcher.probabilities().items()
    }
    options = {"n_steps": n_steps, "n_draws": noise.draws, "seed": noise.seed}
    curves = {}
    for name, (classifier, relevance) in orderings.items():
        first = list(orders).index(id(relevance)) * (n_steps - 1)
        at_clean = clean[classifier].gather(1, target_classes[classifier][:, None]).cpu().double()
        by_steps, last = means[classifier][:, first : first + n_steps - 1], means[classifier][:, -1:]
        probabilities = torch.cat([at_clean, by_steps, last], 1)
        of_curve = {**options, "random_order": relevance is None, **noise.record}
        curves[name] = OrderingCurves(replaced.double() / n_pixels, probabilities, tuple(sample_indices), of_curve)
    return curves


def ordering_rows(n_images: int, n_orders: int, n_steps: int, n_draws: int) -> int:
    """Returns how many rows pass through a network for relevance-ordering curves with so many different orders."""
    return n_images * (1 + n_draws * (n_orders * (n_steps - 1) + 1))


class _FullBatches:
    """Scores noisy copies of many images in full batches, and keeps the probability of each image's target class.

    An image has steps × draws noisy copies, and a batch may hold the copies of several images, or a part of one's::

        copies   | image 0       | image 1       | image 2       |
        batches  | batch 0   | batch 1   | batch 2   | batch 3   |

    Nothing is read from the device before all is computed: on a GPU, reading waits.
    """

    def __init__(self, score: JointScorer, batch_size: int, advance: Callable[[int], object] | None) -> None:
        self.score, self.batch_size, self.advance = score, batch_size, advance
        self.target: dict[str, Tensor] = {}  # class of the next copies, by classifier
        self.waiting: list[Tensor] = []
        self.classes: list[dict[str, Tensor]] = []
        self.values: list[dict[str, Tensor]] = []
        self.rows = 0

    def add(self, inputs: Tensor) -> None:
        """Adds copies of an image; its target classes are set before."""
        while len(inputs):
            room = self.batch_size - self.rows
            chunk, inputs = inputs[:room], inputs[room:]
            self.waiting.append(chunk)
            self.classes.append({name: target.expand(len(chunk)) for name, target in self.target.items()})
            self.rows += len(chunk)
            if self.rows == self.batch_size:
                self.finish()

    def finish(self) -> None:
        """Scores the copies that wait."""
        if not self.rows:
            return
        inputs = self.waiting[0] if len(self.waiting) == 1 else torch.cat(self.waiting)
        classes = {name: torch.cat([chunk[name] for chunk in self.classes])[:, None] for name in self.classes[0]}
        self.waiting, self.classes, self.rows = [], [], 0
        self.run(inputs, classes)

    def run(self, inputs: Tensor, classes: Mapping[str, Tensor] | None = None) -> None:
        """Scores rows; keeps the probability of one class per row, given by classifier, or else of all classes."""
        scores = self.score(inputs)
        self.values.append(
            dict(scores) if classes is None else {name: scores[name].gather(1, classes[name]) for name in scores}
        )
        if self.advance is not None:
            self.advance(len(inputs))

    def probabilities(self) -> dict[str, Tensor]:
        """Returns the probabilities kept since the last call, by classifier: of all classes [n, K], or of one [n]."""
        values, self.values = self.values, []
        return {name: torch.cat([part[name] for part in values]) for name in values[0]}


@dataclass(frozen=True)
class IncreaseAndDrop:
    """How activations change when only the most relevant pixels are kept [ours, after AI and AD of Grad-CAM++].

    Attributes:
        increase: AI, the share of images and draws whose activation increases; higher is better.
        drop: AD, the mean of max(0, a − a′) / a; lower is better.
        samples: Index of each image in its data set.
        options: The share of pixels kept, draws and seed.
    """

    increase: float
    drop: float
    samples: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@keeps_torch_settings
@torch.no_grad()
def increase_and_drop(
    activation: Scorer,
    inputs: Tensor,
    relevance: Tensor,
    noise: Noise,
    targets: Tensor,
    *,
    samples: Sequence[int] | None = None,
    keep: float = 0.5,
    batch_size: int = 256,
) -> IncreaseAndDrop:
    """Returns average increase (AI) and average drop (AD) of activations [ours].

    The names and both formulas are from the reference code [ref]. Their inputs are ours: the most relevant share
    ``keep`` of the pixels is kept, noise replaces the others, each draw of the noise counts, and
    ``positive_activations`` makes activations positive first. So do not compare them with other published figures.

    Args:
        activation: Maps inputs to similarities [n, P], or to class scores.
        inputs: Images [N, C, H, W].
        relevance: Relevance per pixel [N, H, W], for the activation of ``targets``.
        noise: The noise that replaces pixels.
        targets: The activation that each image's relevance explains [N].
        samples: Index of each image in its data set; None counts from 0.
        keep: Share of pixels that are kept.
        batch_size: Most rows that pass through the model at once.

    Raises:
        LookalikeError: If the shapes do not fit, or ``keep`` is not between 0 and 1.
    """
    relevance = checks.tensor("relevance", relevance)
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    n, _, height, width = _checked_shape(activation, inputs, relevance, noise)
    checks.number("keep", keep, above=0, below=1)
    targets = checks.tensor("targets", targets, (n,), kind="whole").long()
    sample_indices = _sample_indices(samples, n)
    removed = round((1 - keep) * height * width)
    clean, masked = [], []
    per_batch = max(1, batch_size // noise.draws)
    for start in range(0, n, per_batch):
        rows = range(start, min(start + per_batch, n))
        ranks = relevance[rows.start : rows.stop].flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
        replaced = (ranks < removed).view(-1, 1, 1, height, width).to(inputs.device)
        x = inputs[rows.start : rows.stop]
        noise_images = noise.of_each(sample_indices[rows.start : rows.stop], inputs.shape[1:], inputs.device).to(inputs)
        mixed = torch.where(replaced, noise_images, x[:, None]).flatten(0, 1)
        target_columns = targets[rows.start : rows.stop].to(inputs.device)[:, None]
        activations = activation(x)
        if not start:  # only now is it known how many activations there are
            _ = checks.class_indices("targets", targets, activations.shape[1], (n,))
        clean.append(activations.gather(1, target_columns)[:, 0])
        masked.append(activation(mixed).gather(1, target_columns.repeat_interleave(noise.draws, 0)).view(len(x), -1))
    before = positive_activations(torch.cat(clean).double())[:, None]
    after = positive_activations(torch.cat(masked).double())
    return IncreaseAndDrop(
        increase=float((after > before).double().mean()),
        drop=float(((before - after).clamp_min(0) / before).mean()),
        samples=tuple(sample_indices),
        options={"keep": keep, "n_draws": noise.draws, "seed": noise.seed, **noise.record},
    )


def positive_activations(values: Tensor) -> Tensor:
    """Maps activations of any sign to positive ones, in the same order: 1 / (1 − s) for s < 0, else 1 + s [ours].

    Example:
        >>> positive_activations(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0.5000, 1.0000, 3.0000])
    """
    values = checks.tensor("values", values, kind="number")
    return torch.where(values < 0, 1 / (1 - values.clamp_max(0)), 1 + values)


def _sample_indices(samples: Sequence[int] | None, n: int) -> list[int]:
    """Returns the given indices, checked, or 0 to n − 1."""
    if samples is None:
        return list(range(n))
    indices: list[int] = checks.tensor("samples", samples, (n,), kind="whole").tolist()
    for sample in indices:
        checks.whole_number("a sample's number", sample, 0)
    return indices


def _checked_shape(score: Any, inputs: Tensor, relevance: Tensor | None, noise: Any) -> tuple[int, int, int, int]:
    """Checks the arguments that the measures of this module share; returns the inputs' shape."""
    if not callable(score):
        raise checks.unfit("score", score, "a function")
    checks.instance("noise", noise, Noise, "a Noise")
    checks.instance("inputs", inputs, Tensor, "a tensor [N, C, H, W]")
    checks.optional(checks.instance, "relevance", relevance, Tensor, "a tensor [N, H, W]")
    if inputs.ndim != 4 or not len(inputs):
        raise LookalikeError(f"images have the shape [N, C, H, W], not {tuple(inputs.shape)}")
    n, channels, height, width = inputs.shape
    if len(noise.low) not in (1, channels):
        raise LookalikeError(f"the noise has {len(noise.low)} channels and the images have {channels}")
    if relevance is not None and relevance.shape != (n, height, width):
        raise LookalikeError(
            f"{n} images of {height}×{width} need relevance of shape {(n, height, width)}, not {tuple(relevance.shape)}"
        )
    if relevance is not None:
        checks.finite("relevance", relevance)
    return n, channels, height, width
