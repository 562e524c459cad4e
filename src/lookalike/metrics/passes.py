"""Forward passes of the networks under evaluation: fast, and one for two classifiers that share a network."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lookalike._core.acceleration import Accelerated
from lookalike._core.folding import Folded
from lookalike.embedding.folded import foldable_pairs
from lookalike.encoder import Encoder, rows_at_once
from lookalike.encoder.side_by_side import SideBySide
from lookalike.metrics.black_box import BlackBox, Precision, at_precision
from lookalike.metrics.robustness import ordering_rows
from lookalike.model import PrototypeModel
from lookalike.model.similarity import at_least_float32

Result = TypeVar("Result")


class Passes:
    """Runs the model and its black box on a few images after the other, without gradients as fast as it goes.

    Batch norms are folded into convolutions where that is certainly the same; see ``embedding.folded``.

    Args:
        model: The prototype model.
        black_box: The black box, or None.
        precision: Precision in which the networks run.
        batch_size: Most rows that pass at once.
    """

    def __init__(
        self, model: PrototypeModel, black_box: BlackBox | None, precision: Precision, batch_size: int
    ) -> None:
        self.model, self.black_box = model, black_box
        self._precision, self._batch_size = precision, batch_size
        self._accelerated = Accelerated()
        self._networks: dict[int, _PreparedNetwork] = {}  # by the network's id

    @property
    def is_shared(self) -> bool:
        """Whether the black box's scores come from the pass that embeds for the model."""
        return self.black_box is not None and self.black_box.reads_as(self.model.encoder)

    def embeddings(self, inputs: Tensor) -> Tensor:
        """Returns the model's embeddings [n, D] in float32, whatever precision the network runs in."""
        return at_least_float32(torch.cat(self._run(self.model.encoder, inputs, _embed)))

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Returns the model's class probabilities [n, K]."""
        return self.model.probabilities_of(self.embeddings(inputs))

    def black_box_probabilities(self, inputs: Tensor) -> Tensor:
        """Returns the black box's class probabilities [n, K], in the order of its outputs."""
        assert self.black_box is not None  # only sections that need it call this
        outputs = self.black_box.outputs
        scores = self._run(self.black_box.encoder, inputs, _score)
        return torch.cat([outputs.probabilities(of_rows.float()) for of_rows in scores])

    def both(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the class probabilities of the model and of the black box [n, K], which share a network."""
        assert self.black_box is not None  # ``is_shared``
        assert isinstance(self.model.encoder, Encoder)
        results = self._run(self.model.encoder, inputs, _embed_and_score)
        embeddings, scores = (torch.cat(parts) for parts in zip(*results, strict=True))
        return (
            self.model.probabilities_of(embeddings),
            self.black_box.outputs.probabilities(scores.float()),
        )

    def ordering_rows(self, n_images: int, n_steps: int, n_draws: int) -> int:
        """Returns how many rows pass for the relevance-ordering curves of the model and of the black box."""
        if self.is_shared:  # the random order is the same for both
            return ordering_rows(n_images, 3, n_steps, n_draws)
        return (1 if self.black_box is None else 2) * ordering_rows(n_images, 2, n_steps, n_draws)

    def _run(self, network: nn.Module, inputs: Tensor, run: Callable[[Any, Tensor], Result]) -> list[Result]:
        """Runs a network slice by slice; returns the results of each.

        Args:
            network: The network.
            inputs: Rows for it.
            run: Called with the network, or a copy of it, and with a slice of the rows.
        """
        parts = inputs.split(rows_at_once(inputs, self._batch_size, inputs.device))
        prepared = self._networks.setdefault(id(network), _PreparedNetwork(network))
        folded = Folded([]) if torch.is_grad_enabled() else prepared.folded(inputs, self._precision)
        with at_precision(self._precision, inputs.device), self._accelerated:
            return prepared.side_by_side.run(lambda net, rows: folded.run(lambda: run(net, rows)), parts)


class _PreparedNetwork:
    """A network, and what is found out about it once.

    Args:
        network: The network.

    Attributes:
        side_by_side: Runs it in threads.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.side_by_side = SideBySide(network)
        self._folded: Folded | None = None

    def folded(self, inputs: Tensor, precision: Precision) -> Folded:
        """Returns its folded batch norms, which the first inputs find."""
        if self._folded is None:
            network = self._network
            pairs = foldable_pairs(network, inputs, precision, None) if isinstance(network, Encoder) else []
            self._folded = Folded(pairs)
        return self._folded


def _embed(network: nn.Module, rows: Tensor) -> Tensor:
    embeddings: Tensor = network(rows)
    return embeddings


def _score(encoder: Encoder, rows: Tensor) -> Tensor:
    return encoder.scores(rows)


def _embed_and_score(encoder: Encoder, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    return encoder.embed_and_score(rows)
