"""The encoder of a trained classifier: everything before its head, run in place."""

import copy
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.draws import normal, seeded
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.untouched import in_eval_mode, keeps_torch_settings
from lookalike.encoder.affine import is_affine, matrix_of
from lookalike.encoder.calls import (
    call,
    copied,
    device_of,
    dtype_of,
    input_of,
    n_rows,
    place,
    sharing_input,
    take_rows,
    with_input,
    writes_into,
)
from lookalike.encoder.channels import ChannelAxes
from lookalike.encoder.class_names import name_outputs, names_of_model
from lookalike.encoder.features import (
    Tokens,
    check_encodes_images,
    describe_embedding,
    is_image_tower,
    output_key_of,
    tokens_of,
)
from lookalike.encoder.graphs import make_known
from lookalike.encoder.head import CONVOLUTIONS, OUTPUT, find_head, get_head
from lookalike.encoder.head_trials import HeadTrials
from lookalike.encoder.outputs import (
    Outputs,
    as_columns,
    as_rows,
    select_output,
)
from lookalike.encoder.single import check_one_image_at_a_time
from lookalike.encoder.unsaved import Constants
from lookalike.networks.backbone import RemovedHead, check_nothing_follows


class Encoder(nn.Module):
    """Cuts a trained classifier at the input of its head and returns the head's input as the embedding.

    The classifier is neither copied nor changed: each call runs it in eval mode with one hook, and restores the mode
    and removes the hook when it ends. ``train()`` on this module does not reach the classifier.

    The embedding is the head's input. A vector is taken unchanged; a feature map (the input of a 1×1 convolution) or a
    sequence of tokens (the input of a linear layer) is averaged over its positions. Of a network without a head it is
    the output that its library calls the image's embedding, see ``embedding_from``.

    Args:
        model: A trained classifier.
        sample: Inputs to find the head with, one or a few rows.
        head: The head's name among the model's modules; None finds it; ``"output"`` says that there is none, and
            the model's output is the embedding.
        output: The output that holds the class scores, by key or position, if the model has several.
        spec: How to build the model again, as ``load_classifier`` returns it.
        output_names: The names of the classes, in the order of the outputs; None reads them from the model, if it has
            any.

    Attributes:
        model: The classifier itself.
        head_name: The name of the layer at whose input it is cut, or None.
        output_key: The key or position of the output with the class scores; None for the only output.
        outputs: How to read its class scores; None without a head, or if the output is no row of class scores.
        embedding_dim: D.
        embedding_from: What the embedding is, in words, for a network without a head; else None.
        constants: Names of the values that are no part of the network's state, and that its passes leave alone.
        input_spec: Shape and type of one row of its inputs.
        spec: The spec that it was created with.

    Raises:
        LookalikeError: If no head is found, or several, or the model cannot run the sample.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> encoder = Encoder(net, torch.zeros(1, 2, 2))
        >>> encoder.head_name, encoder.embedding_dim
        ('3', 3)
    """

    _writes_into_inputs = False  # what pickles of earlier versions do not say
    _decides_alone = True
    constants: Set[str] = frozenset()

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
        make_known(self)
        model = unwrapped(checks.model("model", model))
        checks.optional(checks.text, "head", head)
        checks.output_key("output", output)
        if isinstance(model, torch.jit.ScriptModule) and head != OUTPUT:
            raise LookalikeError("a scripted or traced network cannot be cut; give the network that it was made from")
        if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
            raise LookalikeError(
                "the network has lazy layers that have no weights yet, so it is not trained: run it once on a "
                "batch, and load its weights"
            )
        self.model = model
        self.spec = spec
        self.training = False
        sample = place(sample, device_of(model), dtype_of(model))
        sample = copied(take_rows(sample, slice(0, 2)))  # the network may write into it
        self.input_spec = _describe_row(sample)
        self.output_key = output
        self._is_head_enough = False  # calling the head module alone on the features gives the class scores
        self._is_head_alone = True  # the class scores depend on the images through the head's input alone
        self._is_custom_affine = False  # the head is no plain layer, but computes an affine map of vectors
        self._decides_alone = False  # the class scores depend on the images through the head's output alone
        self._writes_into_inputs = False
        self._channel_axis: int | None = None
        self._tokens: Tokens | None = None  # which tokens of a network without a head are the embedding
        self.embedding_from: str | None = None
        check_encodes_images(model)
        constants = Constants(model)
        self._writes_into_inputs = writes_into(sample, lambda: self._call(sample))
        self.head_name, self.output_key = self._locate_head(sample, head, output)
        with torch.no_grad():
            with ChannelAxes() as axes:
                features, scores = self._run(sample)
            self._channel_axis = axes.of(features)
            if self.head_name is None:
                removed = next((module for module in model.modules() if isinstance(module, RemovedHead)), None)
                if removed is not None and features.ndim == 2:
                    check_nothing_follows(removed, features, lambda: self._call(sample))
                self._tokens = tokens_of(model, self.output_key, features)
                self.embedding_from = describe_embedding(self.output_key, self._tokens, features)
                if head is None:
                    warn_of(
                        f"the network ends in features, not in class scores: {self.embedding_from} is the embedding, "
                        f"and there is no black box to compare with (head={OUTPUT!r} says so without this warning)"
                    )
            if len(features) != n_rows(sample):
                raise LookalikeError(
                    f"{n_rows(sample)} samples give {len(features)} rows at the head; it needs one row per sample"
                )
            self.embedding_dim = self.pool(features).shape[1]
            check_one_image_at_a_time(self, sample)
            self.outputs: Outputs | None = None
            if self.head_name is not None:
                self._try_head(self.head_name, sample, features, scores, output_names)
        self.constants = constants.names()

    def _locate_head(
        self, sample: Any, head: str | None, output: str | int | None
    ) -> tuple[str | None, str | int | None]:
        """Returns the head's name, None without a head, and the key of the output with the class scores."""
        if head == OUTPUT:
            if output is None:
                with torch.no_grad():
                    output = output_key_of(self._call(sample))
            return None, output
        if head is not None:
            get_head(self.model, head)  # raises an error if there is no such module
            return head, output
        name, key = (OUTPUT, output) if is_image_tower(self.model) else find_head(self.model, sample, output)
        if name != OUTPUT:
            return name, key
        return None, key

    def _try_head(
        self,
        name: str,
        sample: Any,
        features: Tensor,
        scores: Tensor | None,
        output_names: Sequence[str] | None,
    ) -> None:
        """Finds out what the head gives, and how the class scores [n, C] of a sample are read."""
        head = get_head(self.model, name)
        trials = HeadTrials(self.model, head, self.output_key, self._call, self.head, sample, features)
        self._is_head_enough = trials.gives_scores(scores)
        is_plain = type(head) in (nn.Linear, *CONVOLUTIONS)
        self._is_custom_affine = not is_plain and features.ndim == 2 and is_affine(self.model, name, features)
        if scores is None:
            return
        kind = trials.kind_of_scores(scores, self._is_head_enough)
        self._decides_alone = self._is_head_enough or trials.decides_alone(scores, kind)
        logits_from = name if kind != "logits" and self._decides_alone else None
        outputs = Outputs(self.output_key, scores.shape[1], kind, logits_from=logits_from)
        names = names_of_model(self.model, name) if output_names is None else list(output_names)
        self.outputs = name_outputs(outputs, names)
        self._is_head_alone = self._is_head_enough or trials.features_decide_alone(scores)

    def forward(self, inputs: Any) -> Tensor:
        """Returns embeddings [N, D]; differentiable."""
        if torch.compiler.is_dynamo_compiling():
            from lookalike.encoder.compiled import embed_compiled, refuse_strict_export

            if torch.compiler.is_exporting():
                refuse_strict_export()
            return embed_compiled(self, inputs)
        return self._embed(inputs)

    def _embed(self, inputs: Any) -> Tensor:
        """Returns embeddings [N, D] without a compiler."""
        features = self.features(inputs)
        # vectors may be memory of the network's own, which its next pass writes into
        return features.clone() if features.ndim == 2 else self.pool(features)

    def __setstate__(self, state: dict[str, Any]) -> None:  # copies and pickles do not run __init__
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        make_known(self)

    def features(self, inputs: Any) -> Tensor:
        """Returns the head's input without averaging: [N, D], [N, D, H, W] or [N, tokens, D]."""
        if self.head_name is None:
            return select_output(self._call(inputs), self.output_key)
        head = get_head(self.model, self.head_name)
        # a tracer must see the network return: it keeps account of which module runs
        features = input_of(head, lambda: self._call(inputs), stop=not torch.compiler.is_exporting())[0]
        return features if torch.compiler.is_exporting() else as_rows(features, n_rows(inputs))

    def embed_and_score(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings [N, D] and the classifier's own class scores [N, C], if any, from one pass.

        ``outputs`` says whether the scores are logits or probabilities; a single logit is one column.
        """
        features, scores = self._run(inputs)
        return self.pool(features), scores

    def scores(self, inputs: Any) -> Tensor:
        """Returns the classifier's own class scores [N, C]: the black box.

        Raises:
            LookalikeError: If there is no head, and so no class scores, or the output is no row of scores.
        """
        self._require_head()
        result = select_output(self._call(inputs), self.output_key)
        scores = as_columns(result, n_rows(inputs))
        if scores is None:
            raise LookalikeError(f"the model's output has shape {tuple(result.shape)}, not a row of scores per input")
        return scores

    def head(self, features: Tensor) -> Tensor:
        """Returns the class scores [N, C] that the classifier computes from features.

        ``encoder.head(encoder.features(x))`` equals the classifier's output for ``x``. Features that are vectors are
        embeddings, so this also classifies embeddings. If something follows the head (a softmax, pooling) or runs
        beside it, the classifier runs on blank inputs, and the features replace the input of the head and of all
        modules that share its input.

        Raises:
            LookalikeError: If there is no head, or the class scores depend on more than its input.
        """
        head = get_head(self.model, self._require_head())
        if not self._is_head_alone:
            raise LookalikeError(
                f"the class scores depend on more than the input of the head {self.head_name!r}: another path from the "
                "images leads to them, so embeddings alone cannot be classified"
            )
        if features.ndim == 2 and isinstance(head, CONVOLUTIONS) and max(head.kernel_size) == 1:
            # it takes vectors as maps of one position
            features = features.reshape(*features.shape, *(1 for _ in head.kernel_size))
        if self._is_head_enough:
            result = in_eval_mode(self.model, lambda: call(head, features))
        else:
            blank = self._blank_inputs(len(features))
            modules = sharing_input(self.model, head, lambda: self._call(blank))
            result = select_output(with_input(modules, features, lambda: self._call(blank)), self.output_key)
        scores = as_columns(result, len(features))
        return result if scores is None else scores

    @property
    def n_outputs(self) -> int | None:
        """Number of class scores; None without any."""
        return None if self.outputs is None else self.outputs.n_columns

    def with_outputs(self, outputs: Outputs) -> "Encoder":
        """Returns an encoder of the same classifier that reads its class scores as ``outputs`` says."""
        encoder = copy.copy(self)
        encoder.outputs = outputs
        return encoder

    @property
    def head_weight(self) -> Tensor | None:
        """The weights [K, D] of a linear, 1×1 convolution or other affine head.

        None for any other head, and for one that is not alone: the logits may be the sum of several heads.
        """
        if self.head_name is None:
            return None
        head = get_head(self.model, self.head_name)
        if self._is_custom_affine:
            if not self._is_head_enough:
                return None
            return matrix_of(self.model, head, self.embedding_dim, dtype_of(self.model))
        # a subclass may compute something else with its weight, such as cosines
        is_plain = type(head) in (nn.Linear, *CONVOLUTIONS)
        weight = getattr(head, "weight", None) if is_plain and self._decides_alone else None
        if not isinstance(weight, Tensor) or weight.ndim < 2 or weight.numel() != len(weight) * self.embedding_dim:
            return None
        return weight.detach().reshape(len(weight), -1)

    @override
    def train(self, mode: bool = True) -> "Encoder":
        """Does nothing: an encoder always embeds in eval mode, and never changes the classifier's own mode."""
        return self

    def probe(self) -> Tensor:
        """Returns the embedding [D] of a fixed random pattern.

        It differs between encoders that have the same weights and compute differently (strides, padding, activations).
        """
        generator = seeded(0)

        def pattern(leaf: dict[str, Any]) -> Tensor:
            shape, dtype = (1, *leaf["shape"]), getattr(torch, leaf["dtype"])
            values = normal(shape, generator)
            return values.to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)

        inputs = _map_spec(pattern, self.input_spec)
        with torch.no_grad():
            embedding: Tensor = self(place(inputs, device_of(self.model)))
        return embedding[0].float().cpu()

    def extra_repr(self) -> str:
        """Shows where the model is cut."""
        return f"head={self.head_name!r}, embedding_dim={self.embedding_dim}"

    def _run(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Runs the classifier once; returns the features and the class scores [N, C], or None without any."""
        if self.head_name is None:
            return select_output(self._call(inputs), self.output_key), None
        head = get_head(self.model, self.head_name)
        features, result = input_of(head, lambda: self._call(inputs), stop=False)
        rows = n_rows(inputs)
        return as_rows(features, rows), as_columns(select_output(result, self.output_key), rows)

    def _call(self, inputs: Any) -> Any:
        passed_on = copied(inputs) if self._writes_into_inputs else inputs
        return in_eval_mode(self.model, lambda: call(self.model, passed_on))

    def pool(self, features: Tensor) -> Tensor:
        """Averages features over their positions: [N, D] for [N, D], [N, D, H, W], [N, tokens, D] or [N, H, W, D]."""
        if features.ndim == 2:
            return features
        if self._tokens is not None:
            return self._tokens.pool(features)
        if features.ndim < 2:
            raise LookalikeError(f"the head's input has shape {tuple(features.shape)}; it needs a row per sample")
        head = get_head(self.model, self.head_name) if self.head_name else None
        are_tokens = features.ndim == 3 and not isinstance(head, CONVOLUTIONS)
        if not isinstance(head, (nn.Linear, *CONVOLUTIONS)) and self._channel_axis not in (None, 0):
            return features.movedim(self._channel_axis, -1).flatten(1, -2).mean(1)
        if are_tokens or isinstance(head, nn.Linear):
            return features.flatten(1, -2).mean(1)
        return features.flatten(2).mean(2)

    def _require_head(self) -> str:
        if self.head_name is None:
            raise LookalikeError("this encoder was made without a head, so there is no black box to ask")
        return self.head_name

    def _blank_inputs(self, rows: int) -> Any:
        return place(blank_inputs(self.input_spec, rows), device_of(self.model))


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the network inside the wrappers of ``torch.compile``, data-parallel and distributed training.

    Names of modules and hooks refer to the network inside.
    """
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


def _map_spec(function: Any, spec: Any) -> Any:
    """Applies a function to the description of each input tensor."""
    if "named" in spec:
        return {key: _map_spec(function, value) for key, value in spec["named"].items()}
    if "positional" in spec:
        return tuple(_map_spec(function, value) for value in spec["positional"])
    return function(spec)
