"""Finds a network's head: the layer that produces the class scores.

While a sample runs, each tensor carries the names of the layers that last produced it:

    conv1 → relu → pool → fc → softmax
                    │            └─ scores: last produced by fc, which is the head
                    └─ features: last produced by conv1
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import FunctionMode, in_eval_mode, with_forward_hooks
from lookalike.encoder.affine import VectorCall, VectorCalls, is_affine_alone
from lookalike.encoder.calls import call, n_rows
from lookalike.encoder.features import embedding_key
from lookalike.encoder.outputs import as_columns, named_outputs, select_output

OUTPUT = "output"  # as a head's name: there is no head, the network's output is the embedding
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PRODUCING_CALLS = frozenset({
    nn.functional.linear,
    torch.conv1d, torch.conv2d, torch.conv3d,
    nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d,
    torch.conv_transpose2d, torch.matmul, torch.mm, torch.addmm, torch.bmm, torch.einsum,
    Tensor.matmul, Tensor.mm, Tensor.__matmul__,
})  # fmt: skip

# Operations that follow hidden layers, never the layer of class scores. ReLU is not among them: fully convolutional
# classifiers (SqueezeNet) have one after their scores, so it only counts after a linear layer.
_AFTER_HIDDEN_LAYERS = frozenset(
    [
        "batch_norm",
        "layer_norm",
        "group_norm",
        "instance_norm",
        "rms_norm",
        "normalize",
        "silu",
        "gelu",
        "hardswish",
        "hardtanh",
        "relu6",
        "elu",
        "selu",
        "celu",
        "mish",
        "leaky_relu",
        "prelu",
        "dropout",
        "feature_dropout",
        "alpha_dropout",
    ]
)


def find_head(model: nn.Module, sample: Any, output: str | int | None = None) -> tuple[str, str | int | None]:
    """Runs a sample and finds the layer that produced the class scores.

    Each tensor of the forward pass is traced back to the linear or convolutional layers that produced it, through
    everything that comes after them (softmax, temperature, pooling, reshaping, a sum). If several layers did, the head
    is a module that holds them all and computes an affine map of vectors (a layer with adapters); of several such
    modules with the same input, it is the first.

    Args:
        model: A trained classifier.
        sample: Its inputs, one or a few rows.
        output: The output that holds the class scores, by key or position, if the model has several.

    Returns:
        The head's name among the model's modules, and the key of the output that it produces. The name is
        ``OUTPUT`` if a norm or an activation of hidden layers came after the last layer: the network has no head
        (``num_classes=0``, or an ``Identity`` in its place), and its output is an embedding. Also if its outputs are
        those of an encoder by name, such as ``pooler_output``.

    Raises:
        LookalikeError: If no linear or 1×1 convolution layer produced the scores, or several did; the message
            lists the candidates. If the output has scores for each position, as for segmentation.
    """
    names = {module: name for name, module in model.named_modules() if isinstance(module, (nn.Linear, *CONVOLUTIONS))}
    sources = _Sources()
    vectors = VectorCalls(sources.of)
    hooks = _hooks(model, names, sources, vectors)

    def run() -> Any:
        with torch.no_grad(), sources:
            return call(model, sample)

    result = in_eval_mode(model, lambda: with_forward_hooks(hooks, run))
    embedding = embedding_key(result) if output is None else None
    if embedding is not None:
        return OUTPUT, embedding
    scores = _candidates(result, output)
    eligible: dict[str, nn.Module] = {name: module for module, name in names.items() if _is_head_like(module)}
    rows = n_rows(sample)
    heads, producers = _heads_of_outputs(model, scores, rows, eligible, sources, vectors)
    if len(heads) == 1:
        name, key = next(iter(heads.items()))
        if name in eligible and sources.are_features(scores[key], eligible[name]):
            return OUTPUT, key
        if as_columns(scores[key], rows) is None:
            raise LookalikeError(no_row_of_scores(key, scores[key], name))
        return name, key
    if not heads and len(scores) == 1 and all(sources.are_features(value, None) for value in scores.values()):
        return OUTPUT, next(iter(scores))
    keys_of_maps = [key for key, layers in producers.items() if layers & eligible.keys()]
    if keys_of_maps and all(as_columns(scores[key], rows) is None for key in keys_of_maps):
        name = sorted(producers[keys_of_maps[0]] & eligible.keys())[0]
        raise LookalikeError(no_row_of_scores(keys_of_maps[0], scores[keys_of_maps[0]], name))
    raise LookalikeError(_no_single_head(heads, producers, eligible))


def _heads_of_outputs(
    model: nn.Module,
    scores: Mapping[str | int | None, Tensor],
    rows: int,
    eligible: Mapping[str, nn.Module],
    sources: "_Sources",
    vectors: VectorCalls,
) -> tuple[dict[str, str | int | None], dict[str | int | None, frozenset[str]]]:
    """Finds the head of each output that may hold class scores.

    Args:
        model: The classifier.
        scores: The candidate outputs, by key.
        rows: Number of samples.
        eligible: Layers that can be a head, by name.
        sources: Traces of the forward pass.
        vectors: Calls of modules on vectors in the forward pass.

    Returns:
        The key of the output by the name of its head, and the names of the layers that produced each output.
    """
    heads: dict[str, str | int | None] = {}
    producers: dict[str | int | None, frozenset[str]] = {}
    for key, value in scores.items():
        if value.ndim < 1 or value.shape[0] != rows or not value.is_floating_point():
            continue
        columns = as_columns(value, rows)
        producers[key] = sources.of(value)
        if len(producers[key]) == 1:
            name = next(iter(producers[key]))
            if name in eligible and _may_produce(eligible[name], value, columns):
                heads.setdefault(name, key)
                continue
        joint = _joint_head(model, vectors, producers[key], columns)
        if joint is not None and not sources.are_features(value, None):
            heads.setdefault(joint.name, key)
            sources.add_feeders(joint.name, joint.feeders)
    # a layer that feeds another head produces features, which some networks return beside their scores
    feeders = {feeder for name in heads for feeder in sources.feeders(name)}
    return {name: key for name, key in heads.items() if name not in feeders} or heads, producers


def _hooks(
    model: nn.Module, layers: Mapping[Any, str], sources: "_Sources", vectors: VectorCalls
) -> dict[nn.Module, Any]:
    """Returns forward hooks that name the outputs of layers and record the calls of modules on vectors."""
    hooks: dict[nn.Module, Any] = {}
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):
            hooks[module] = vectors.hook(name)
    for module, name in layers.items():
        hooks[module] = _in_sequence(sources.name_output(name), vectors.hook(name))
    return hooks


def _in_sequence(first: Any, second: Any) -> Any:
    def hook(*arguments: Any) -> None:
        first(*arguments)
        second(*arguments)

    return hook


def _joint_head(
    model: nn.Module, vectors: VectorCalls, sources: frozenset[str], columns: Tensor | None
) -> VectorCall | None:
    """Returns the call of a module that holds all layers of the class scores, or the first of several on one input."""
    if columns is None or not sources:
        return None
    groups = vectors.covering(sources, columns.shape[1])
    return next((calls[0] for calls in groups if all(is_affine_alone(model, call) for call in calls)), None)


def get_head(model: nn.Module, name: str) -> nn.Module:
    """Returns the module with this name.

    Raises:
        LookalikeError: If there is none; the message lists linear and 1×1 convolution layers.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        heads = [n for n, module in model.named_modules() if _is_head_like(module)]
        listed = ", ".join(repr(n) for n in heads[-8:]) or "none"
        raise LookalikeError(f"the model has no module {name!r}; its last linear and 1×1 layers are {listed}") from None


def no_row_of_scores(key: str | int | None, output: Tensor, head: str) -> str:
    """Returns the message for an output with scores for each position, with the way out.

    Args:
        key: The key of the output; None for the only one.
        output: The output, a row per image.
        head: Name of the layer that produced it.
    """
    output_name = "output" if key is None else f"output {key!r}"
    return (
        f"the network's {output_name} has shape {tuple(output.shape[1:])} per image: scores for each position, as for "
        "segmentation, and no row of class scores; wrap the network so that it returns their mean over the positions "
        f"(or another summary), or say head={head!r} to embed its features, averaged over the "
        "positions, without a black box to compare with"
    )


def _candidates(result: Any, output: str | int | None) -> dict[str | int | None, Tensor]:
    """Returns the outputs that may hold the class scores, by key."""
    scores = dict(named_outputs(result))
    if output is None:
        if "logits" in scores:
            return {"logits": scores["logits"]}
        if not scores:
            raise LookalikeError(f"the model returns no tensors, but a {type(result).__name__}")
        return scores
    try:
        return {output: select_output(result, output)}
    except LookalikeError:
        keys = ", ".join(repr(key) for key in scores)
        raise LookalikeError(f"the model has no output {output!r}; it has {keys or 'no tensors'}") from None


def _may_produce(head: nn.Module, value: Tensor, columns: Tensor | None) -> bool:
    """Says whether a layer may have produced an output, by the number of scores."""
    n = _n_outputs(head)
    if columns is None:
        return n in value.shape[1:]
    return n == columns.shape[1] or (n == 1 and columns.shape[1] == 2)  # one logit, returned as (1 − p, p)


def _is_head_like(module: nn.Module) -> bool:
    if isinstance(module, CONVOLUTIONS):
        return module.groups == 1 and all(size == 1 for size in module.kernel_size)
    return isinstance(module, nn.Linear)


def _n_outputs(module: nn.Module) -> int:
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]


def _no_single_head(
    heads: dict[str, str | int | None],
    producers: dict[str | int | None, frozenset[str]],
    eligible: dict[str, nn.Module],
) -> str:
    """Returns the message for outputs with several heads, or none."""
    if len(heads) > 1:
        outputs = "; ".join(f"output {key!r} comes from {name!r}" for name, key in heads.items())
        return f"the model has several outputs ({outputs}); say which holds the class scores with output="
    candidates = sorted({name for names in producers.values() for name in names if name in eligible})
    if candidates:
        listed = ", ".join(repr(name) for name in candidates)
        return (
            f"cannot tell which layer is the head: the output comes from {listed} and maybe others; choose with head="
        )
    last = ", ".join(repr(name) for name in list(eligible)[-5:]) or "none"
    return (
        "no linear or 1×1 convolution layer produced the model's output; name the layer whose input is the "
        f"embedding with head= (its last linear and 1×1 layers: {last}), or, if the output itself is an embedding, "
        f"say head={OUTPUT!r}"
    )


class _Sources(FunctionMode):
    """Records, during a forward pass, the names of the layers that last produced each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self._layers = WeakTensorKeyDictionary()  # names of the layers that last produced a tensor
        self._operations = WeakTensorKeyDictionary()  # names of the operations since then
        self._feeders: dict[str, frozenset[str]] = {}  # layers that produced the input of a layer
        self._n_calls = 0

    def are_features(self, output: Tensor, layer: nn.Module | None) -> bool:
        """Says whether an output is features rather than class scores, by what came after its last layer."""
        operations = self._operations.get(output, frozenset())
        return bool(operations & _AFTER_HIDDEN_LAYERS) or ("relu" in operations and isinstance(layer, nn.Linear))

    def of(self, tensor: Tensor) -> frozenset[str]:
        """Returns the names of the layers that last produced a tensor."""
        layers: frozenset[str] = self._layers.get(tensor, frozenset())
        return layers

    def add_feeders(self, name: str, feeders: frozenset[str]) -> None:
        """Records the layers that produced a module's input."""
        self._feeders.setdefault(name, feeders)

    def feeders(self, name: str) -> set[str]:
        """Returns all layers before a layer: those that produced its input, and so on."""
        feeders: set[str] = set()
        waiting = [name]
        while waiting:
            for feeder in self._feeders.get(waiting.pop(), frozenset()) - feeders:
                feeders.add(feeder)
                waiting.append(feeder)
        return feeders

    def name_output(self, name: str) -> Any:
        """Returns a forward hook that records a layer as the source of its output."""

        def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
                self._feeders[name] = frozenset().union(*(self.of(tensor) for tensor in tensors))
                self._layers[output] = frozenset({name})
                self._operations[output] = frozenset()

        return hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _PRODUCING_CALLS:
            self._n_calls += 1
            # a bare matrix product has no name; a number tells it apart from the layers around it
            layers = frozenset({f"<{func.__name__} {self._n_calls}>"})
            operations: frozenset[str] = frozenset()
        else:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            layers = frozenset().union(*(self.of(tensor) for tensor in tensors))
            name = getattr(func, "__name__", "").strip("_")
            operations = frozenset({name}).union(*(self._operations.get(tensor, frozenset()) for tensor in tensors))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._layers[leaf] = layers
                self._operations[leaf] = operations
        return result
