"""The encoder of a trained classifier: everything before its head, run in place."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lookalike.encoder.calls import (
    call,
    device_of,
    dtype_of,
    evaluating,
    input_of,
    n_rows,
    place,
    take_rows,
    with_input,
)
from lookalike.encoder.channels import ChannelAxes
from lookalike.encoder.head import CONVOLUTIONS, OUTPUT, find_head, get_head, named_outputs
from lookalike.encoder.single import check_one_image_at_a_time
from lookalike.errors import LookalikeError, LookalikeWarning


class Encoder(nn.Module):
    """Cuts a trained classifier at the input of its head and returns what arrives there.

    The classifier is neither copied nor changed: each call runs it in eval mode with one hook, which is gone,
    like the mode, when the call ends. ``train()`` on this module does not reach the classifier.

    The embedding is the head's input: a vector as it is; a feature map, which a 1×1 convolution takes, or a
    sequence of tokens, which a linear layer takes, averaged over its positions.

    Args:
        model: A trained classifier.
        sample: Inputs to find the head with, one or a few rows.
        head: The head's name among the model's modules; None finds it; ``"output"`` says that there is none, and
            the model's output is the embedding.
        output: Which of several outputs holds the class scores, by key or position.
        spec: How to build the model again, as ``load_classifier`` tells it.

    Attributes:
        model: The classifier itself.
        head_name: Where it was cut, or None.
        output_key: Which output holds the class scores; None for the only one.
        embedding_dim: D.
        n_outputs: How many class scores the classifier gives, or None without a head.
        input_spec: Shape and type of one row of its inputs.
        spec: As given.

    Raises:
        LookalikeError: If no head is found, or more than one, or the model cannot run the sample.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> encoder = Encoder(net, torch.zeros(1, 2, 2))
        >>> encoder.head_name, encoder.embedding_dim
        ('3', 3)
    """

    def __init__(
        self,
        model: nn.Module,
        sample: Any,
        *,
        head: str | None = None,
        output: str | int | None = None,
        spec: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        model = _unwrapped(model)
        if isinstance(model, torch.jit.ScriptModule) and head != OUTPUT:
            raise LookalikeError("a scripted or traced network cannot be cut; give the network that it was made from")
        self.model = model
        self.spec = spec
        self.training = False
        sample = place(sample, device_of(model), dtype_of(model))
        sample = take_rows(sample, slice(0, 2))
        self.input_spec = _describe_row(sample)
        self.output_key = output
        self._head_alone = False
        self._channels: int | None = None
        if head == OUTPUT:
            self.head_name = None
        elif head is None:
            with _naming_inputs(self.input_spec):
                self.head_name, self.output_key = find_head(model, sample, output)
            if self.head_name == OUTPUT:
                self.head_name = None
                warnings.warn(
                    "the network ends in features, not in class scores: its output is the embedding, and there is no "
                    f"black box to compare with (head={OUTPUT!r} says so without this warning)",
                    LookalikeWarning,
                    stacklevel=2,
                )
        else:
            get_head(model, head)
            self.head_name = head
        with torch.no_grad():
            with _naming_inputs(self.input_spec), ChannelAxes() as axes:
                features, scores = self._run(sample)
            self._channels = axes.of(features)
            if len(features) != n_rows(sample):
                raise LookalikeError(
                    f"{n_rows(sample)} samples give {len(features)} rows at the head; it needs one row per sample"
                )
            self.embedding_dim = self._pool(features).shape[1]
            check_one_image_at_a_time(self, sample)
            self.n_outputs = None if scores is None else int(scores.shape[1]) if scores.ndim > 1 else 1
            if self.head_name is not None:
                self._head_alone = self._suffices(features, scores)

    def forward(self, inputs: Any) -> Tensor:
        """Returns embeddings [N, D]; differentiable."""
        return self._pool(self.features(inputs))

    def features(self, inputs: Any) -> Tensor:
        """Returns the head's input as the head is given it: [N, D], [N, D, H, W] or [N, tokens, D]."""
        with evaluating(self.model):
            if self.head_name is None:
                return self._scores_of(call(self.model, inputs))
            head = get_head(self.model, self.head_name)
            return input_of(head, lambda: call(self.model, inputs), stop=True)[0]

    def embed_and_score(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings [N, D] and the classifier's own class scores [N, K] from one pass."""
        features, scores = self._run(inputs)
        return self._pool(features), scores

    def scores(self, inputs: Any) -> Tensor:
        """Returns the classifier's own class scores [N, K]: the black box.

        Raises:
            LookalikeError: If there is no head, and so no class scores.
        """
        self._need_head()
        with evaluating(self.model):
            return self._scores_of(call(self.model, inputs))

    def head(self, features: Tensor) -> Tensor:
        """Returns the class scores [N, K] that the classifier makes of features.

        ``encoder.head(encoder.features(x))`` equals the classifier's output for ``x``. Where the features are
        vectors they are the embeddings, so this is the black box's own reading of an embedding. If something
        follows the head (a softmax, pooling), the classifier runs once on empty inputs, with the features put
        in their place.

        Raises:
            LookalikeError: If there is no head.
        """
        name = self._need_head()
        with evaluating(self.model):
            head = get_head(self.model, name)
            if self._head_alone:
                return head(features)  # type: ignore[no-any-return]
            blank = self._blank(len(features))
            return self._scores_of(with_input(head, features, lambda: call(self.model, blank)))

    @property
    def head_weight(self) -> Tensor | None:
        """The weights [K, D] of a linear or 1×1 convolution head, else None."""
        if self.head_name is None:
            return None
        weight = getattr(get_head(self.model, self.head_name), "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim < 2 or weight.numel() != len(weight) * self.embedding_dim:
            return None
        return weight.detach().reshape(len(weight), -1)

    def train(self, mode: bool = True) -> "Encoder":  # noqa: ARG002
        """Does nothing: an encoder always embeds in eval mode, and its classifier's mode is its owner's."""
        return self

    def probe(self) -> Tensor:
        """Returns the embedding [D] of a fixed pattern: two encoders with the same weights and different
        computations (strides, padding, activations) tell themselves apart by it.
        """  # noqa: D205
        generator = torch.Generator().manual_seed(0)

        def pattern(leaf: dict[str, Any]) -> Tensor:
            shape, dtype = (1, *leaf["shape"]), getattr(torch, leaf["dtype"])
            values = torch.randn(shape, generator=generator)
            return values.to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)

        inputs = _map_spec(pattern, self.input_spec)
        with torch.no_grad():
            embedding: Tensor = self(place(inputs, device_of(self.model)))
        return embedding[0].float().cpu()

    def extra_repr(self) -> str:
        """Shows where the model is cut."""
        return f"head={self.head_name!r}, embedding_dim={self.embedding_dim}"

    def _run(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        with evaluating(self.model):
            if self.head_name is None:
                return self._scores_of(call(self.model, inputs)), None
            head = get_head(self.model, self.head_name)
            features, result = input_of(head, lambda: call(self.model, inputs), stop=False)
            return features, self._scores_of(result)

    def _scores_of(self, result: Any) -> Tensor:
        outputs = dict(named_outputs(result))
        if self.output_key in outputs:
            return outputs[self.output_key]
        if self.output_key is None and "logits" in outputs:
            return outputs["logits"]
        if self.output_key is None and len(outputs) == 1:
            return next(iter(outputs.values()))
        keys = ", ".join(repr(key) for key in outputs) or "no tensors"
        raise LookalikeError(
            f"the model has no single output {self.output_key!r}; it has {keys}; say which with output="
        )

    def _pool(self, features: Tensor) -> Tensor:
        if features.ndim == 2:
            return features
        if features.ndim < 2:
            raise LookalikeError(f"the head's input has shape {tuple(features.shape)}; it needs a row per sample")
        head = get_head(self.model, self.head_name) if self.head_name else None
        tokens = features.ndim == 3 and not isinstance(head, CONVOLUTIONS)
        if not isinstance(head, (nn.Linear, *CONVOLUTIONS)) and self._channels not in (None, 0):
            return features.movedim(self._channels, -1).flatten(1, -2).mean(1)
        if tokens or isinstance(head, nn.Linear):
            return features.flatten(1, -2).mean(1)
        return features.flatten(2).mean(2)

    def _suffices(self, features: Tensor, scores: Tensor | None) -> bool:
        """Says whether the head module alone makes the class scores of the features."""
        assert scores is not None  # noqa: S101 - there is a head
        with evaluating(self.model):
            alone = get_head(self.model, self._need_head())(features)
        return isinstance(alone, Tensor) and alone.shape == scores.shape and bool(torch.equal(alone, scores))

    def _need_head(self) -> str:
        if self.head_name is None:
            raise LookalikeError("this encoder was made without a head, so there is no black box to ask")
        return self.head_name

    def _blank(self, rows: int) -> Any:
        return place(blank_inputs(self.input_spec, rows), device_of(self.model))


def _unwrapped(model: nn.Module) -> nn.Module:
    """Takes off what trains on several devices or compiles: names and hooks are those of the network inside."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def blank_inputs(input_spec: Any, rows: int = 1) -> Any:
    """Returns inputs of zeros for an encoder's ``input_spec``."""
    return _map_spec(lambda leaf: torch.zeros(rows, *leaf["shape"], dtype=getattr(torch, leaf["dtype"])), input_spec)


def _describe_row(inputs: Any) -> Any:
    """Describes one row of the inputs in plain JSON values."""
    n_rows(inputs)
    if isinstance(inputs, Tensor):
        return {"shape": list(inputs.shape[1:]), "dtype": str(inputs.dtype).removeprefix("torch.")}
    if isinstance(inputs, Mapping):
        return {"named": {str(key): _describe_row(value) for key, value in inputs.items() if isinstance(value, Tensor)}}
    return {"positional": [_describe_row(value) for value in inputs if isinstance(value, Tensor)]}


@contextmanager
def _naming_inputs(spec: Any) -> Iterator[None]:
    """Tells in a line why a network cannot run its first inputs."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise LookalikeError(f"the network cannot run inputs of {_shapes(spec)}: {first}") from error


def _shapes(spec: Any) -> str:
    if "named" in spec:
        return ", ".join(f"{key} {_shapes(value)}" for key, value in spec["named"].items())
    if "positional" in spec:
        return ", ".join(_shapes(value) for value in spec["positional"])
    return f"shape {tuple(spec['shape'])}"


def _map_spec(make: Any, spec: Any) -> Any:
    if "named" in spec:
        return {key: _map_spec(make, value) for key, value in spec["named"].items()}
    if "positional" in spec:
        return tuple(_map_spec(make, value) for value in spec["positional"])
    return make(spec)
