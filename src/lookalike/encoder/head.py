"""Finding a network's head: the layer whose output became the class scores."""

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
from lookalike.encoder.outputs import as_columns, named_outputs, select_output

OUTPUT = "output"  # the name that says: the network's output is the embedding, there is no head
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PRODUCING_CALLS = frozenset({
    nn.functional.linear,
    torch.conv1d, torch.conv2d, torch.conv3d,
    nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d,
    torch.conv_transpose2d, torch.matmul, torch.mm, torch.addmm, torch.bmm, torch.einsum,
    Tensor.matmul, Tensor.mm, Tensor.__matmul__,
})  # fmt: skip

# Operations that follow a hidden layer and no layer of class scores. A ReLU does behind a linear layer; fully
# convolutional classifiers (SqueezeNet) have one behind their scores.
_OF_HIDDEN_LAYERS = frozenset(
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
    """Runs a sample and watches which layer produced the class scores.

    Each tensor of the forward pass is followed back to the linear or convolutional layers that produced it,
    through whatever comes after them (softmax, temperature, pooling, reshaping, a sum). Where several did, a module
    that holds them all and computes an affine map of vectors (a layer with adapters) is the head, and of several such
    modules that take the same vectors the first.

    Args:
        model: A trained classifier.
        sample: Its inputs, one or a few rows.
        output: Which of several outputs holds the class scores, by key or position.

    Returns:
        The head's name among the model's modules, and the key of the output that it produces. The name is
        ``OUTPUT`` if a norm or an activation of hidden layers came after the last layer: the network has lost its head
        (``num_classes=0``, an ``Identity`` in its place), and its output is an embedding.

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
    scores = _candidates(result, output)

    eligible: dict[str, nn.Module] = {name: module for module, name in names.items() if _is_head_like(module)}
    rows = n_rows(sample)
    found: dict[str, str | int | None] = {}
    produced: dict[str | int | None, frozenset[str]] = {}
    for key, value in scores.items():
        if value.ndim < 1 or value.shape[0] != rows or not value.is_floating_point():
            continue
        columns = as_columns(value, rows)
        produced[key] = sources.of(value)
        if len(produced[key]) == 1:
            name = next(iter(produced[key]))
            if name in eligible and _may_produce(eligible[name], value, columns):
                found.setdefault(name, key)
                continue
        joint = _joint_head(model, vectors, produced[key], columns)
        if joint is not None and not sources.are_features(value, None):
            found.setdefault(joint.name, key)
            sources.feed(joint.name, joint.feeders)
    behind = {feeder for name in found for feeder in sources.feeding(name)}
    found = {name: key for name, key in found.items() if name not in behind} or found  # features are no scores
    if len(found) == 1:
        name, key = next(iter(found.items()))
        if name in eligible and sources.are_features(scores[key], eligible[name]):
            return OUTPUT, key
        if as_columns(scores[key], rows) is None:
            raise LookalikeError(no_row_of_scores(key, scores[key], name))
        return name, key
    if not found and len(scores) == 1 and all(sources.are_features(value, None) for value in scores.values()):
        return OUTPUT, next(iter(scores))
    maps = [key for key, layers in produced.items() if layers & eligible.keys()]
    if maps and all(as_columns(scores[key], rows) is None for key in maps):
        name = sorted(produced[maps[0]] & eligible.keys())[0]
        raise LookalikeError(no_row_of_scores(maps[0], scores[maps[0]], name))
    raise LookalikeError(_no_single_head(found, produced, eligible))


def _hooks(
    model: nn.Module, layers: Mapping[Any, str], sources: "_Sources", vectors: VectorCalls
) -> dict[nn.Module, Any]:
    """Returns forward hooks that follow what each layer produces, and record what modules do to vectors."""
    hooks: dict[nn.Module, Any] = {}
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):
            hooks[module] = vectors.hook(name)
    for module, name in layers.items():
        hooks[module] = _one_after_the_other(sources.name_output(name), vectors.hook(name))
    return hooks


def _one_after_the_other(first: Any, second: Any) -> Any:
    def hook(*given: Any) -> None:
        first(*given)
        second(*given)

    return hook


def _joint_head(
    model: nn.Module, vectors: VectorCalls, sources: frozenset[str], columns: Tensor | None
) -> VectorCall | None:
    """Returns the call of the module in which all layers of class scores are, or the first of several on one input."""
    if columns is None or not sources:
        return None
    ways = vectors.that_produce(sources, columns.shape[1])
    return next((calls[0] for calls in ways if all(is_affine_alone(model, call) for call in calls)), None)


def get_head(model: nn.Module, name: str) -> nn.Module:
    """Returns the module of that name.

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
    """Says that an output has a score for each position, and what to do about it.

    Args:
        key: The output's.
        output: Its values, a row per image.
        head: The layer that produced them.
    """
    which = "output" if key is None else f"output {key!r}"
    return (
        f"the network's {which} has shape {tuple(output.shape[1:])} per image: scores for each position, as for "
        "segmentation, and no row of class scores; wrap the network so that it returns their mean over the positions "
        f"(or whatever else an image's scores are), or say head={head!r} to embed its features, averaged over the "
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
    """Says whether an output may be what a layer produced: by its number of scores."""
    n = _n_outputs(head)
    if columns is None:
        return n in value.shape[1:]
    return n == columns.shape[1] or (n == 1 and columns.shape[1] == 2)  # a single logit, shown as 1 − p and p


def _is_head_like(module: nn.Module) -> bool:
    if isinstance(module, CONVOLUTIONS):
        return module.groups == 1 and all(size == 1 for size in module.kernel_size)
    return isinstance(module, nn.Linear)


def _n_outputs(module: nn.Module) -> int:
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]


def _no_single_head(
    found: dict[str, str | int | None],
    produced: dict[str | int | None, frozenset[str]],
    eligible: dict[str, nn.Module],
) -> str:
    if len(found) > 1:
        outputs = "; ".join(f"output {key!r} comes from {name!r}" for name, key in found.items())
        return f"the model has several outputs ({outputs}); say which holds the class scores with output="
    candidates = sorted({name for names in produced.values() for name in names if name in eligible})
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
    """Keeps, for each tensor, the names of the layers that last produced it."""

    def __init__(self) -> None:
        super().__init__()
        self._of = WeakTensorKeyDictionary()
        self._inputs: dict[str, frozenset[str]] = {}
        self._since = WeakTensorKeyDictionary()  # names of the operations since a layer produced a tensor
        self._n_calls = 0

    def are_features(self, output: Tensor, layer: nn.Module | None) -> bool:
        """Says whether an output is features rather than class scores, by what came after its last layer."""
        since = self._since.get(output, frozenset())
        return bool(since & _OF_HIDDEN_LAYERS) or ("relu" in since and isinstance(layer, nn.Linear))

    def of(self, tensor: Tensor) -> frozenset[str]:
        found: frozenset[str] = self._of.get(tensor, frozenset())
        return found

    def feed(self, name: str, feeders: frozenset[str]) -> None:
        """Files the layers that a module's input came through."""
        self._inputs.setdefault(name, feeders)

    def feeding(self, name: str) -> set[str]:
        """Returns the layers that a layer's input came through."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            for feeder in self._inputs.get(waiting.pop(), frozenset()) - found:
                found.add(feeder)
                waiting.append(feeder)
        return found

    def name_output(self, name: str) -> Any:
        """Returns a forward hook that files a layer's output under its name."""

        def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                given = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
                self._inputs[name] = frozenset().union(*(self.of(tensor) for tensor in given))
                self._of[output] = frozenset({name})
                self._since[output] = frozenset()

        return hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _PRODUCING_CALLS:
            self._n_calls += 1
            origin = frozenset({f"<{func.__name__} {self._n_calls}>"})
            since: frozenset[str] = frozenset()
        else:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            origin = frozenset().union(*(self.of(tensor) for tensor in tensors))
            name = getattr(func, "__name__", "").strip("_")
            since = frozenset({name}).union(*(self._since.get(tensor, frozenset()) for tensor in tensors))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._of[leaf] = origin
                self._since[leaf] = since
        return result
