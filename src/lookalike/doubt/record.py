"""What a calibrated model keeps: how it was calibrated, and the held-out scores that its guarantees rest on."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.records import from_json, plain_json, shown
from lookalike._core.wording import counted
from lookalike.doubt.calibration import CalibrationFigures
from lookalike.doubt.novelty import NOVELTIES, Novelty, conformal_p_values, novelty_threshold

FORMAT = 2  # 1 had no draw: its sets are the conservative ones

_WRONG_ECE = 0.1  # whose interval lies above it: a probability of 90% is then 80% or less on average
_VECTORS = ("fitted_novelty", "fitted_confidences", "scores", "novelty", "confidences")


@dataclass(frozen=True)
class DoubtFacts:
    """How a model was calibrated: plain values that are saved in ``config.json``.

    Attributes:
        coverage: Coverage of the sets, unless another is asked for.
        novelty: Name of the score of unfamiliar inputs.
        false_alarm: Largest share of familiar inputs that are called unfamiliar.
        scale: The unit of the class scores: the mean lead of the best class over the average one, validation images.
        temperature: The temperature in that unit, so that it can be compared between similarities.
        n_fitted: Number of validation images that temperature and novelty score were fitted to.
        n_validation: Number of other validation images; the guarantees rest on these.
        before: Figures of the probabilities before the calibration, on these other images.
        after: The same after the calibration.
        black_box: The same for the original classifier, with a temperature fitted likewise; None without one.
        black_box_temperature: Temperature of the original classifier's logits.
        seed: Seed that divided the validation images.
        data: Fingerprint of the validation data, if known.
        notes: What limits the calibration.
        conservative: Whether the sets keep the coverage with something to spare, unless asked otherwise; if not, a draw
            of the calibration makes it exact, on average over calibrations.
        format: Number of this format.
    """

    coverage: float
    novelty: str
    false_alarm: float
    scale: float
    temperature: float
    n_fitted: int
    n_validation: int
    before: CalibrationFigures
    after: CalibrationFigures
    black_box: CalibrationFigures | None = None
    black_box_temperature: float | None = None
    seed: int = 0
    data: str | None = None
    notes: list[str] = field(default_factory=list)
    conservative: bool = False
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format == 1:
            object.__setattr__(self, "format", FORMAT)
            object.__setattr__(self, "conservative", True)
        if self.format != FORMAT:
            raise LookalikeError(
                f"the calibration has format {shown(self.format)}; this version reads {FORMAT}: update lookalike"
            )
        if self.novelty not in NOVELTIES:
            raise LookalikeError(f"no novelty score is called {shown(self.novelty)}; there are {', '.join(NOVELTIES)}")
        for name in ("scale", "temperature"):
            checks.number(name, getattr(self, name), above=0)
        for name in ("coverage", "false_alarm"):
            checks.number(name, getattr(self, name), above=0, below=1)

    @property
    def not_tested(self) -> str | None:
        """Says why no input can be called unfamiliar, with the way out; None if inputs are tested.

        Of n validation images, the smallest p-value is 1 / (n + 1), so the false-alarm rate must not be below it.
        """
        if np.isfinite(novelty_threshold(np.zeros(self.n_validation), self.false_alarm)):
            return None
        smallest = 1 / (self.n_validation + 1)
        unit = 10.0 ** math.floor(math.log10(smallest))
        rate = math.ceil(smallest / unit - 1e-9) * unit
        return (
            f"not tested ({math.ceil(1 / self.false_alarm - 1e-9) - 1:,} validation images needed besides those of the "
            f"fit, not {self.n_validation:,}, or --false-alarm {rate:.1g})"
        )

    @property
    def is_worse(self) -> bool:
        """Whether the probabilities became worse: the log loss rose by a tenth, or both it and the ECE rose.

        An ECE alone rises by chance, and so does the log loss by a little: the temperature is fitted by it, to others.
        """
        before, after = self.before, self.after
        if round(after.log_loss, 3) <= round(before.log_loss, 3):
            return False
        return after.log_loss > 1.1 * before.log_loss or round(after.ece, 3) > round(before.ece, 3)

    def sentence(self) -> str:
        """Says what the calibrated probabilities are worth, by the images that they were not fitted to."""
        after = self.after
        off = f"{100 * after.ece:.1f} points (95% interval {100 * after.ece_low:.1f} to {100 * after.ece_high:.1f})"
        said = f"The probabilities were calibrated on {counted(self.n_fitted, 'image')}. "
        said += f"On {counted(self.n_validation, 'other')} they are off by {off} on average"
        return f"{said}: do not read them as frequencies." if after.ece_low > _WRONG_ECE else f"{said}."

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        values: dict[str, Any] = plain_json(dataclasses.asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DoubtFacts":
        """Reads what ``to_dict`` returned.

        Raises:
            LookalikeError: If an entry is unknown, missing or of another type, or the format is a later one.
        """
        facts: DoubtFacts = from_json(cls, values, "doubt")
        return facts


class Doubt(nn.Module):
    """A model's calibration. Its tensors are saved with the model's.

    Args:
        facts: How the model was calibrated.
        score: The fitted novelty score.
        **tensors: The held-out values named below.

    Attributes:
        fitted_novelty: Novelty of the images of the fit, sorted [m].
        fitted_confidences: Probability of their predicted class [m].
        scores: Scores of the true classes of the other images [n]: the base of the sets.
        labels: Their true classes [n].
        novelty: Their novelty [n].
        confidences: Probability of their predicted class [n].
        correct: Whether that class is correct [n].
        nearest: Their most similar prototypes [n].
        draws: A number in [0, 1) for each class, and one for all together, which choose the thresholds of the sets
            [K + 1].
    """

    fitted_novelty: Tensor
    fitted_confidences: Tensor
    scores: Tensor
    labels: Tensor
    novelty: Tensor
    confidences: Tensor
    correct: Tensor
    nearest: Tensor
    draws: Tensor

    def __init__(self, facts: DoubtFacts, score: Novelty, **tensors: Tensor) -> None:
        super().__init__()
        self.facts = facts
        self.score = score
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @override
    def _apply(self, fn: Any, recurse: bool = True) -> "Doubt":
        """Moves the novelty score only: the held-out values are double precision on the CPU, whatever the model is.

        Half of its precision would not be enough for a score: it is a small difference of large distances.
        """
        buffers = dict(self.score.named_buffers())
        self.score._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, moved in self.score.named_buffers():
            if moved.dtype.itemsize < torch.float32.itemsize:
                setattr(self.score, name, buffers[name].to(moved.device))
        return self

    @classmethod
    def from_saved(cls, facts: DoubtFacts, tensors: dict[str, Tensor], n_classes: int, n_prototypes: int) -> "Doubt":
        """Rebuilds a calibration from a saved model's values.

        Raises:
            LookalikeError: If a tensor is missing, unknown, or of another type, shape or range.
        """
        score = NOVELTIES[facts.novelty]()
        learned = {name.removeprefix("score."): t for name, t in tensors.items() if name.startswith("score.")}
        blank = dict(score.named_buffers())
        vectors = {name: tensor for name, tensor in tensors.items() if not name.startswith("score.")}
        expected = {*_VECTORS, "labels", "correct", "nearest", "draws"}
        if "draws" not in vectors and "scores" in vectors:  # format 1
            vectors["draws"] = draws_of(facts.seed, vectors["scores"], n_classes)
        for given_names, known_names in ((set(learned), set(blank)), (set(vectors), expected)):
            if given_names != known_names:
                raise LookalikeError(
                    f"the calibration has other tensors than its own: {shown(sorted(given_names ^ known_names))}"
                )
        for name, buffer in blank.items():
            tensor = learned[name]
            if tensor.ndim != buffer.ndim or not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise LookalikeError(f"doubt.score.{name} must be {buffer.ndim}-dimensional finite numbers")
            setattr(score, name, tensor)
        _check_vectors(facts, vectors, n_classes, n_prototypes)
        return cls(facts, score, **vectors)

    @property
    def sorted_novelty(self) -> np.ndarray:
        """Novelty of the validation images that the guarantees rest on, ascending [n]."""
        ordered: np.ndarray = np.sort(self.novelty.cpu().numpy())
        return ordered

    def p_values(self, novelty: np.ndarray) -> np.ndarray:
        """Returns the p-values of novelty scores [N]: small where an input is unlike the validation images."""
        return conformal_p_values(novelty, self.sorted_novelty)

    def are_unfamiliar(self, p_values: np.ndarray) -> np.ndarray | None:
        """Says which inputs are unfamiliar, from their p-values [N]; None if there are too few validation images."""
        return None if self.facts.not_tested is not None else np.asarray(p_values) <= self.facts.false_alarm

    @property
    def unfamiliar_above(self) -> float:
        """Novelty above which an input is unfamiliar; ∞ if there are too few validation images for the rate."""
        return novelty_threshold(self.sorted_novelty, self.facts.false_alarm)

    def draws_for(self, conservative: bool | None = None) -> np.ndarray | None:
        """Returns the draws [K + 1] that choose the thresholds of sets; None if these are to be conservative.

        Args:
            conservative: Whether they are to be; None takes the choice of the calibration.
        """
        is_conservative = self.facts.conservative if conservative is None else conservative
        return None if is_conservative else self.draws.cpu().numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the held-out values as arrays, by name."""
        return {name: getattr(self, name).cpu().numpy() for name in (*_VECTORS, "labels", "correct", "nearest")}


def draws_of(seed: int, scores: Tensor, n_classes: int) -> Tensor:
    """Draws the numbers that choose the thresholds of a calibration [K + 1]: one for each class, and one for all.

    They depend on the seed and on the validation images: one seed for all calibrations would be no draw.

    Args:
        seed: Seed of the calibration.
        scores: Scores of the true classes of the validation images [n], float64.
        n_classes: K.
    """
    digest = int.from_bytes(hashlib.sha256(scores.cpu().numpy().tobytes()).digest()[:8], "big")
    return torch.from_numpy(np.random.default_rng([seed, digest]).uniform(size=n_classes + 1))


def _check_vectors(facts: DoubtFacts, vectors: dict[str, Tensor], n_classes: int, n_prototypes: int) -> None:
    """Checks types, lengths and ranges of the held-out values."""
    for name, tensor in vectors.items():
        n = facts.n_fitted if name.startswith("fitted_") else facts.n_validation
        n = n_classes + 1 if name == "draws" else n
        if tuple(tensor.shape) != (n,):
            raise LookalikeError(f"doubt.{name} must have {n} values, not the shape {shown(tuple(tensor.shape))}")
        dtype = {"correct": torch.bool, "labels": torch.int64, "nearest": torch.int64}.get(name, torch.float64)
        if tensor.dtype != dtype:
            raise LookalikeError(f"doubt.{name} must be {dtype}, not {tensor.dtype}")
        if dtype == torch.float64 and bool(tensor.isnan().any()):
            raise LookalikeError(f"doubt.{name} has values that are no numbers")
    for name, most in (("labels", n_classes), ("nearest", n_prototypes)):
        values = vectors[name]
        if len(values) and not (int(values.min()) >= 0 and int(values.max()) < most):
            raise LookalikeError(f"doubt.{name} must be from 0 to {most - 1}")
    if not bool(((vectors["draws"] >= 0) & (vectors["draws"] < 1)).all()):
        raise LookalikeError("doubt.draws must be in [0, 1)")
    fitted = vectors["fitted_novelty"]
    if not len(fitted) or not bool((fitted.diff() >= 0).all()) or not math.isfinite(float(fitted.abs().max())):
        raise LookalikeError("doubt.fitted_novelty must be finite and ascend")
