"""Similarities s(z, p) between embeddings and prototypes: the larger, the more alike.

Each is a small module that maps embeddings [N, D] and prototypes [P, D] to similarities [N, P]. It is differentiable in
both and never forms an array of size N×P×D. Similarities that learn a metric have ``fit`` and a linear map T.
Prototypes are clustered in the space of T: because T is linear, the mean of mapped embeddings is the mapped mean.

Sources: paper, appendix A.6.1 (the choice of similarities); the definitions of ``l2`` [paper],
``log`` (ProtoPNet) [paper], ``log-l2`` [ref], the others [ours].
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.registry import Registry

_MOST_SAMPLES = 100_000  # embeddings from which a scale is estimated
_DIRECT_CELLS = 1_000_000  # N · P · D up to which distances are computed pair by pair, which is more precise

SIMILARITIES: Registry[type["Similarity"]] = Registry("similarity")


class Similarity(nn.Module, ABC):
    """A similarity between embeddings and prototypes.

    To add one, subclass this, implement ``forward``, list the constructor's arguments in ``options`` and
    register the class under a name.

    Attributes:
        name: Name under which it is registered.
        lengths: Names of options that are lengths in the embedding space. A user's value for one ties the similarity to
            one scale of the embedding.
        fits_to: What ``fit`` uses: ``"nothing"``, the black box's ``"head"``, a ``"sample"`` of the training
            embeddings, or ``"all"`` of them. A class that defines ``fit`` without ``fits_to`` is assumed to need all.
        fit_samples: Size of the sample, which is spread evenly over the training embeddings.
        falls_with_distance: Whether the similarity strictly falls with the Euclidean distance in the space of
            ``project``, so that the most similar prototype is the nearest one. An exponential does not count: rounding
            makes it flat at large distances.
        orders_by_distance: Whether its order is that of these distances, but for rounding. What falls with the distance
            does.
    """

    name: ClassVar[str]
    lengths: ClassVar[tuple[str, ...]] = ()
    fits_to: ClassVar[Literal["nothing", "head", "sample", "all"]] = "nothing"
    fit_samples: int = 0
    falls_with_distance: ClassVar[bool] = False
    orders_by_distance: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "fit" in vars(cls) and "fits_to" not in vars(cls):
            cls.fits_to = "sample" if "fit_samples" in vars(cls) else "all"
        cls.orders_by_distance = cls.orders_by_distance or cls.falls_with_distance

    @abstractmethod
    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        """Compares each embedding with each prototype.

        Args:
            embeddings: [N, D].
            prototypes: [P, D].

        Returns:
            Similarities [N, P], larger = more alike.
        """

    def fit(self, embeddings: np.ndarray, labels: np.ndarray, head_weight: Tensor | None = None) -> Self:  # noqa: ARG002
        """Learns from the training embeddings; most similarities have nothing to learn.

        Args:
            embeddings: Training embeddings [N, D].
            labels: Classes of the embeddings [N].
            head_weight: Weights of the black box's head [K, D], if it has one.

        Returns:
            Itself.
        """
        return self

    def project(self, embeddings: Tensor) -> Tensor:
        """Maps embeddings [N, D] to the Euclidean space [N, D] in which prototypes are clustered."""
        return embeddings

    def fit_and_project(
        self, train: np.ndarray, labels: np.ndarray, head_weight: Tensor | None, embeddings: Tensor
    ) -> Tensor:
        """Returns what ``project`` maps embeddings [N, D] to after ``fit``; the similarity need not stay fitted."""
        return self.fit(train, labels, head_weight).project(embeddings)

    def unproject(self, points: Tensor) -> Tensor:
        """Maps points [N, D] of the clustering space back to the embedding space."""
        return points

    def options(self) -> dict[str, Any]:
        """Returns the constructor's arguments; those that were None have the values that ``fit`` found."""
        return {}

    def extra_repr(self) -> str:
        """Shows the options."""
        return ", ".join(f"{key}={value!r}" for key, value in self.options().items())


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Returns the squared Euclidean distances [N, P] between the rows of ``a`` [N, D] and ``b`` [P, D].

    Few pairs are compared directly, many by one matrix product: ‖a − b‖² = ‖a‖² + ‖b‖² − 2 a·b. The mean of ``b`` is
    subtracted from both sides first, because a common offset would cost digits. Half precision is computed in float32.
    """
    a, b = _to_same_type(a, b)
    if _is_small(a, b):
        return _pairwise_distances(a, b).square()
    if is_traced() and a.dtype is torch.float32:
        # a graph compares all pairs in this way, so short distances need double precision; so do equal prototypes, to
        # which sums of single precision give unequal distances in ONNX Runtime. A common offset costs no digits that
        # float32 has, and each operation that a graph is spared counts: small networks take little more time than 20
        double_a, double_b = a.double(), b.double()
        products = torch.addmm(double_b.square().sum(1), double_a, double_b.T, alpha=-2)
        return (products + double_a.square().sum(1, keepdim=True)).clamp_min(0).to(a.dtype)
    offset = b.detach().mean(0)
    a, b = a - offset, b - offset
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp_min(0)


def euclidean_distances(a: Tensor, b: Tensor) -> Tensor:
    """Returns the Euclidean distances [N, P]; where a distance is 0 its gradient is 0, not NaN."""
    a, b = _to_same_type(a, b)
    if _is_small(a, b):
        return _pairwise_distances(a, b)
    squares = squared_distances(a, b)
    # the graph of torch.jit must not depend on who asked for gradients
    if not squares.requires_grad and not _is_in_jit():
        return squares.sqrt_()
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1).sqrt(), 0)


def _to_same_type(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Converts half precision to float32, and the second tensor to the type of the first."""
    a = at_least_float32(a)
    return a, b.to(a.dtype)


def at_least_float32(values: Tensor) -> Tensor:
    """Returns half precision as float32: with its two or three digits, prototypes that are not equal would tie."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _is_small(a: Tensor, b: Tensor) -> bool:
    """Returns whether there are few enough pairs to compare them directly; False while a graph is traced."""
    return not is_traced() and len(a) * b.numel() <= _DIRECT_CELLS


def is_traced() -> bool:
    """Returns whether a graph is being traced, which must not depend on the size of this batch."""
    return torch.compiler.is_compiling() or _is_in_jit()


def _is_in_jit() -> bool:
    """Returns whether ``torch.jit.trace`` is tracing."""
    return torch._C._get_tracing_state() is not None


def _pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """Returns Euclidean distances [N, P], computed pair by pair."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


@SIMILARITIES.register("l2")
class L2(Similarity):
    """−‖z − p‖, the paper's choice (section 3.2) [paper]."""

    falls_with_distance = True

    @override
    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        return -euclidean_distances(embeddings, prototypes)


@SIMILARITIES.register("sqeuclidean")
class SquaredEuclidean(Similarity):
    """−‖z − p‖² [ours]."""

    falls_with_distance = True

    @override
    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        return -squared_distances(embeddings, prototypes)


@SIMILARITIES.register("l1")
class L1(Similarity):
    """−‖z − p‖₁ [ours]."""

    @override
    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        a, b = _to_same_type(embeddings, prototypes)
        if is_traced():  # ONNX has no cdist; an exported model compares few embeddings at a time
            return -(a[:, None] - b).abs().sum(-1)
        return -torch.cdist(a, b, p=1)


class _LogRatio(Similarity):
    """ln((d + 1) / (d + ε)), where d is a distance divided by a scale."""

    orders_by_distance = True
    lengths = ("scale",)
    fits_to = "sample"
    fit_samples = _MOST_SAMPLES

    def __init__(self, epsilon: float = 1e-4, scale: float | None = None) -> None:
        super().__init__()
        self.epsilon = checks.number("epsilon", epsilon, above=0, below=1)
        self.scale = None if scale is None else checks.number("scale", scale, above=0)

    @override
    def fit(self, embeddings: np.ndarray, labels: np.ndarray, head_weight: Tensor | None = None) -> Self:
        if self.scale is None:
            self.scale = _within_class_scale(embeddings, labels)
        return self

    def options(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "scale": self.scale}

    def _log_ratio(self, distances: Tensor) -> Tensor:
        return torch.log1p((1 - self.epsilon) / (distances + self.epsilon))  # log1p keeps the digits at large distances


@SIMILARITIES.register("log")
class Log(_LogRatio):
    """ln((d² + 1) / (d² + ε)), ProtoPNet's [paper], d over a scale [ours]; scores with different ε are not comparable.

    Args:
        epsilon: ε.
        scale: Distances are divided by it. 1 is the paper's reading; then the embedding's scale decides how flat the
            similarity is. None lets ``fit`` take the root mean squared distance between a training embedding and the
            mean of its class; before ``fit`` it is 1.
    """

    @override
    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        return self._log_ratio(squared_distances(embeddings, prototypes) / (self.scale or 1.0) ** 2)


@SIMILARITIES.register("log-l2")
class LogL2(_LogRatio):
    """ln((d + 1) / (d + ε)), with the distance not squared [ref], over a scale [ours].

    Args:
        epsilon: ε.
        scale: As for ``log``; 1 is the reference code's reading.
    """

    @override
    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        return self._log_ratio(euclidean_distances(embeddings, prototypes) / (self.scale or 1.0))


@SIMILARITIES.register("rbf")
class RBF(Similarity):
    """exp(−d² / 2σ²) [ours].

    Args:
        sigma: σ. None lets ``fit`` take the root mean squared distance between a training embedding and the mean of its
            class, which keeps the exponential away from zero at any scale of the embedding.
    """

    orders_by_distance = True
    lengths = ("sigma",)
    fits_to = "sample"
    fit_samples = _MOST_SAMPLES

    def __init__(self, sigma: float | None = None) -> None:
        super().__init__()
        self.sigma = None if sigma is None else checks.number("sigma", sigma, above=0)

    @override
    def fit(self, embeddings: np.ndarray, labels: np.ndarray, head_weight: Tensor | None = None) -> Self:
        if self.sigma is None:
            self.sigma = _within_class_scale(embeddings, labels)
        return self

    @override
    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        if self.sigma is None:
            raise not_fitted(self, "or give sigma")
        return torch.exp(-squared_distances(embeddings, prototypes) / (2 * self.sigma**2))

    @override
    def options(self) -> dict[str, Any]:
        return {"sigma": self.sigma}


@SIMILARITIES.register("dot")
class Dot(Similarity):
    """z · p, FLINT's [paper]."""

    @override
    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        return embeddings @ prototypes.to(embeddings.dtype).T


@SIMILARITIES.register("cosine")
class Cosine(Similarity):
    """z · p / (‖z‖ ‖p‖); 0 where a vector is 0 [ours]."""

    @override
    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        a = nn.functional.normalize(embeddings, dim=1)
        return a @ nn.functional.normalize(prototypes.to(embeddings.dtype), dim=1).T


@SIMILARITIES.register("ned")
class NormalisedEuclidean(Similarity):
    """−½ · Var(z − p) / (Var z + Var p), Var over the D components; between −1 and 0 [ours]."""

    @override
    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        a = embeddings - embeddings.mean(1, keepdim=True)
        b = prototypes.to(embeddings.dtype)
        b = b - b.mean(1, keepdim=True)
        total = a.square().sum(1, keepdim=True) + b.square().sum(1)
        return -0.5 * squared_distances(a, b) / total.clamp_min(torch.finfo(total.dtype).tiny)


def make_similarity(similarity: str | Similarity, options: Mapping[str, Any] | None = None) -> Similarity:
    """Creates a similarity from its name and options; a ``Similarity`` is returned unchanged.

    Example:
        >>> make_similarity("log", {"epsilon": 1e-3})
        Log(epsilon=0.001, scale=None)

    Raises:
        LookalikeError: If no similarity has that name, or it does not take these options.
    """
    if isinstance(similarity, Similarity):
        if not isinstance(getattr(similarity, "name", None), str):
            raise LookalikeError(
                f"the similarity {type(similarity).__name__} has no name: register it, "
                "@SIMILARITIES.register('my-similarity'), so that a saved model can be loaded"
            )
        return similarity
    kind = SIMILARITIES[similarity]
    if options is not None:
        checks.mapping("similarity_options", options)
    try:
        return kind(**(options or {}))
    except TypeError as error:
        raise LookalikeError(f"the similarity {similarity!r} does not take {dict(options or {})}: {error}") from error


def given_lengths(similarity: Similarity) -> dict[str, float]:
    """Returns the lengths that a similarity has before ``fit``: they tie it to one scale of the embedding.

    Example:
        >>> given_lengths(make_similarity("rbf", {"sigma": 2.0})), given_lengths(make_similarity("rbf"))
        ({'sigma': 2.0}, {})
    """
    options = similarity.options()
    return {name: options[name] for name in similarity.lengths if options.get(name) is not None}


def _within_class_scale(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Returns the root mean squared distance between an embedding and the mean of its class; 1 if that is 0."""
    step = -(-len(embeddings) // _MOST_SAMPLES)
    residuals = within_class_residuals(embeddings[::step], labels[::step])
    scale = float(np.sqrt(np.square(residuals).sum(1).mean()))
    return scale if scale > 0 else 1.0


def within_class_residuals(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the embeddings [N, D] minus the mean of their class."""
    residuals = np.array(embeddings, dtype=np.float32 if embeddings.dtype == np.float16 else None)
    for label in np.unique(labels):
        members = labels == label
        residuals[members] -= residuals[members].mean(0)
    return residuals


def not_fitted(similarity: Similarity, hint: str = "") -> LookalikeError:
    """Returns the error for a similarity that is used before ``fit``."""
    return LookalikeError(
        f"the similarity {similarity.name!r} must be fitted to training embeddings first {hint}".rstrip()
    )
