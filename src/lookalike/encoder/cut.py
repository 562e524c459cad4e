"""The encoder of a trained classifier: everything before its head, run in place."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.untouched import in_eval_mode, keeps_torch_settings
from lookalike.encoder.affine import is_affine, matrix_of
from lookalike.encoder.calls import (
    call,
    device_of,
    dtype_of,
    input_of,
    n_rows,
    place,
    repeat_row,
    sharing_input,
    take_rows,
    with_input,
    with_output,
)
from lookalike.encoder.channels import ChannelAxes
from lookalike.encoder.class_names import name_outputs, names_of_model
from lookalike.encoder.head import CONVOLUTIONS, OUTPUT, find_head, get_head
from lookalike.encoder.outputs import (
    Kind,
    Outputs,
    as_columns,
    can_only_be_logits,
    kind_of,
    probe_scores,
    select_output,
)
from lookalike.encoder.single import check_one_image_at_a_time


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
        output_names: The names of the classes, in the order of the outputs; None takes those that the model has with
            it, if any.

    Attributes:
        model: The classifier itself.
        head_name: Where it was cut, or None.
        output_key: Which output holds the class scores; None for the only one.
        outputs: How its class scores are read; None without a head, or if the output is no row of class scores.
        embedding_dim: D.
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

    @keeps_torch_settings
    def __init__(
        self,
        model: nn.Module,
        sample: Any,
        *,
        head: str | None = None,
        output: str | int | None = None,
        spec: dict[str, Any] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        model = unwrapped(checks.model("model", model))
        checks.optional(checks.text, "head", head)
        checks.output_key("output", output)
        if isinstance(model, torch.jit.ScriptModule) and head != OUTPUT:
            raise LookalikeError("a scripted or traced network cannot be cut; give the network that it was made from")
        self.model = model
        self.spec = spec
        self.training = False
        sample = place(sample, device_of(model), dtype_of(model))
        sample = take_rows(sample, slice(0, 2))
        self.input_spec = _describe_row(sample)
        self.output_key = output
        self._head_alone = self._affine = False
        self._channels: int | None = None
        if head == OUTPUT:
            self.head_name = None
        elif head is None:
            self.head_name, self.output_key = find_head(model, sample, output)
            if self.head_name == OUTPUT:
                self.head_name = None
                warn_of(
                    "the network ends in features, not in class scores: its output is the embedding, and there is no "
                    f"black box to compare with (head={OUTPUT!r} says so without this warning)"
                )
        else:
            get_head(model, head)
            self.head_name = head
        with torch.no_grad():
            with ChannelAxes() as axes:
                features, scores = self._run(sample)
            self._channels = axes.of(features)
            if len(features) != n_rows(sample):
                raise LookalikeError(
                    f"{n_rows(sample)} samples give {len(features)} rows at the head; it needs one row per sample"
                )
            self.embedding_dim = self._pool(features).shape[1]
            check_one_image_at_a_time(self, sample)
            self.outputs: Outputs | None = None
            if self.head_name is not None:
                self._head_alone = self._suffices(features, scores)
                plain_layer = type(get_head(model, self.head_name)) in (nn.Linear, *CONVOLUTIONS)
                self._affine = not plain_layer and features.ndim == 2 and is_affine(model, self.head_name, features)
                if scores is not None:
                    kind = self._kind(sample, features, scores)
                    plain = isinstance(get_head(model, self.head_name), (nn.Linear, *CONVOLUTIONS))
                    logits_from = self.head_name if plain and kind != "logits" else None
                    self.outputs = Outputs(self.output_key, scores.shape[1], kind, logits_from=logits_from)
                    names = names_of_model(model, self.head_name) if output_names is None else list(output_names)
                    self.outputs = name_outputs(self.outputs, names)

    def forward(self, inputs: Any) -> Tensor:
        """Returns embeddings [N, D]; differentiable."""
        return self._pool(self.features(inputs))

    def features(self, inputs: Any) -> Tensor:
        """Returns the head's input as the head is given it: [N, D], [N, D, H, W] or [N, tokens, D]."""
        if self.head_name is None:
            return select_output(self._call(inputs), self.output_key)
        head = get_head(self.model, self.head_name)
        return input_of(head, lambda: self._call(inputs), stop=True)[0]

    def embed_and_score(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings [N, D] and the classifier's own class scores [N, C], if any, from one pass.

        ``outputs`` says what the scores are; single logits are one column.
        """
        features, scores = self._run(inputs)
        return self._pool(features), scores

    def scores(self, inputs: Any) -> Tensor:
        """Returns the classifier's own class scores [N, C]: the black box.

        Raises:
            LookalikeError: If there is no head, and so no class scores, or its output is no row of scores.
        """
        self._need_head()
        result = select_output(self._call(inputs), self.output_key)
        scores = as_columns(result, n_rows(inputs))
        if scores is None:
            raise LookalikeError(f"the model's output has shape {tuple(result.shape)}, not a row of scores per input")
        return scores

    def head(self, features: Tensor) -> Tensor:
        """Returns the class scores [N, C] that the classifier makes of features.

        ``encoder.head(encoder.features(x))`` equals the classifier's output for ``x``. Where the features are
        vectors they are the embeddings, so this is the black box's own reading of an embedding. If something
        follows the head (a softmax, pooling) or stands beside it, the classifier runs on empty inputs, with the
        features put in the place of what the head and all others are given that take the same.

        Raises:
            LookalikeError: If there is no head.
        """
        head = get_head(self.model, self._need_head())
        if self._head_alone:
            result = in_eval_mode(self.model, lambda: call(head, features))
        else:
            blank = self._blank(len(features))
            modules = sharing_input(self.model, head, lambda: self._call(blank))
            result = select_output(with_input(modules, features, lambda: self._call(blank)), self.output_key)
        scores = as_columns(result, len(features))
        return result if scores is None else scores

    @property
    def n_outputs(self) -> int | None:
        """How many class scores the classifier gives; None without any."""
        return None if self.outputs is None else self.outputs.n_columns

    def with_outputs(self, outputs: Outputs) -> "Encoder":
        """Returns an encoder of the same classifier that reads its class scores otherwise."""
        again = copy.copy(self)
        again.outputs = outputs
        return again

    @property
    def head_weight(self) -> Tensor | None:
        """The weights [K, D] of a linear or 1×1 convolution head, or of a module that computes an affine map."""
        if self.head_name is None:
            return None
        head = get_head(self.model, self.head_name)
        if self._affine:
            return matrix_of(self.model, head, self.embedding_dim, dtype_of(self.model)) if self._head_alone else None
        weight = getattr(head, "weight", None) if isinstance(head, (nn.Linear, *CONVOLUTIONS)) else None
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
        if self.head_name is None:
            return select_output(self._call(inputs), self.output_key), None
        head = get_head(self.model, self.head_name)
        features, result = input_of(head, lambda: self._call(inputs), stop=False)
        return features, as_columns(select_output(result, self.output_key), n_rows(inputs))

    def _call(self, inputs: Any) -> Any:
        return in_eval_mode(self.model, lambda: call(self.model, inputs))

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
        head = get_head(self.model, self._need_head())
        alone = in_eval_mode(self.model, lambda: head(features))
        columns = as_columns(alone, len(features)) if isinstance(alone, Tensor) else None
        return (
            scores is not None
            and columns is not None
            and columns.shape == scores.shape
            and bool(torch.equal(columns, scores))
        )

    def _kind(self, sample: Any, features: Tensor, scores: Tensor) -> Kind:
        """Finds out what the class scores are, by what becomes of logits that are put in place of the head's."""
        head = get_head(self.model, self._need_head())
        plain = isinstance(head, (nn.Linear, *CONVOLUTIONS))
        if can_only_be_logits(scores) or (plain and self._head_alone):
            return "logits"
        try:
            made = self._try_tail(head, sample, features) if plain else self._try_head(features)
        except RuntimeError:  # a network for so many rows and no others: sums of one are no coincidence
            kind = kind_of(scores)
            return "logits" if kind == "sigmoids" else kind
        return kind_of(made)

    def _try_tail(self, head: nn.Module, sample: Any, features: Tensor) -> Tensor:
        """Returns the class scores [4, C] that whatever follows the head makes of known logits."""
        shape = in_eval_mode(self.model, lambda: head(features)).shape[1:]
        channels_first = isinstance(head, CONVOLUTIONS)
        n_columns = shape[0] if channels_first else shape[-1]
        logits = probe_scores(n_columns).to(features)
        for _ in shape[1:]:
            logits = logits.unsqueeze(-1 if channels_first else 1)
        inputs, logits = repeat_row(sample, len(logits)), logits.expand(-1, *shape).clone()
        result = select_output(with_output(head, logits, lambda: self._call(inputs)), self.output_key)
        made = as_columns(result, len(logits))
        assert made is not None  # noqa: S101 - the sample's output is a row of scores
        return made

    def _try_head(self, features: Tensor) -> Tensor:
        """Returns the class scores that a head of several layers makes of features near and far from the sample's."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(features.shape, generator=generator).to(features)
        scale = float(features.std().nan_to_num()) or 1.0
        return torch.cat([self.head(features + far * scale * noise) for far in (0.0, 1.0, 10.0, 100.0)])

    def _need_head(self) -> str:
        if self.head_name is None:
            raise LookalikeError("this encoder was made without a head, so there is no black box to ask")
        return self.head_name

    def _blank(self, rows: int) -> Any:
        return place(blank_inputs(self.input_spec, rows), device_of(self.model))


def unwrapped(model: nn.Module) -> nn.Module:
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


def _map_spec(make: Any, spec: Any) -> Any:
    if "named" in spec:
        return {key: _map_spec(make, value) for key, value in spec["named"].items()}
    if "positional" in spec:
        return tuple(_map_spec(make, value) for value in spec["positional"])
    return make(spec)
