"""Calling somebody else's model without leaving a trace."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lookalike._core.checks import unfit
from lookalike._core.errors import LookalikeError, UnfitInputsError, first_line
from lookalike._core.untouched import with_forward_hooks, with_forward_pre_hook

_OF_UNFIT_INPUTS = (
    AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def call(model: nn.Module, inputs: Any) -> Any:
    """Calls a model on a tensor, on a tuple of positional or on a mapping of named inputs.

    Raises:
        UnfitInputsError: If the network cannot run them. Errors of its owner's own classes, and those of a memory that
            does not suffice, pass as they are.
    """
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, tuple | list):
            return model(*inputs)
        return model(inputs)
    except _OF_UNFIT_INPUTS as error:
        if type(error) not in _OF_UNFIT_INPUTS or is_out_of_memory(error):
            raise
        first = first_line(error)
        raise UnfitInputsError(f"the network cannot run inputs of {_shapes(inputs)}: {first}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a network failed as the memory did not suffice."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _shapes(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return ", ".join(f"{key} {_shapes(value)}" for key, value in inputs.items())
    if isinstance(inputs, tuple | list):
        return ", ".join(_shapes(value) for value in inputs)
    return f"shape {tuple(inputs.shape[1:])}" if isinstance(inputs, Tensor) else type(inputs).__name__


def n_rows(inputs: Any) -> int:
    """Returns how many rows the inputs have.

    Raises:
        LookalikeError: If they are no dense tensors with rows.
    """
    first = _tensors(inputs)[0]
    if first.ndim == 0 or first.layout is not torch.strided:
        kind = "a single number" if first.ndim == 0 else "sparse"
        raise LookalikeError(f"the inputs are {kind}; give dense tensors with a row per sample")
    return len(first)


def take_rows(inputs: Any, rows: slice) -> Any:
    """Returns some rows of each tensor of the inputs."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return tree_map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) else leaf, inputs)


def place(inputs: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Returns the inputs on a device, arrays as tensors, floating-point numbers in the model's type.

    Raises:
        LookalikeError: If images are still bytes.
    """

    def put(leaf: Any) -> Any:
        if not hasattr(leaf, "shape"):
            return leaf
        try:
            tensor = torch.as_tensor(leaf)
        except (TypeError, ValueError, RuntimeError):
            raise unfit("inputs", leaf, "tensors or arrays of numbers") from None
        if tensor.is_meta or tensor.layout is not torch.strided:
            kind = "on the meta device, without numbers" if tensor.is_meta else "sparse"
            raise LookalikeError(f"the inputs are {kind}; give dense tensors")
        if tensor.dtype == torch.uint8:
            raise LookalikeError(
                "the inputs are bytes (uint8): scale and normalise them as the network was trained, e.g. x / 255"
            )
        wanted = dtype if tensor.is_floating_point() else None
        return tensor.to(device=device, dtype=wanted, non_blocking=True)

    return put(inputs) if isinstance(inputs, Tensor) else tree_map(put, inputs)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Returns the type of a model's first floating-point parameter or buffer; None where it has none."""
    tensors = itertools.chain(model.parameters(), model.buffers())  # a walk that ends at once
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def device_of(model: nn.Module) -> torch.device:
    """Returns where a model's first parameter or buffer is."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


class _Reached(BaseException):
    """Ends a forward pass at the module whose input was wanted."""


def input_of(module: nn.Module, run: Callable[[], Any], *, stop: bool) -> tuple[Tensor, Any]:
    """Returns the first tensor that a module is given while ``run`` runs.

    Args:
        module: The module to watch.
        run: Calls the model.
        stop: End the forward pass there.

    Returns:
        The module's input, and what ``run`` returned (None if it was stopped).

    Raises:
        LookalikeError: If the module was not called with a tensor.
    """
    captured: list[Tensor] = []
    calls = 0

    def watch(_module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        leaves = args if args and isinstance(args[0], Tensor) else tree_leaves((args, kwargs))
        captured[:] = [leaf for leaf in leaves if isinstance(leaf, Tensor)][:1]
        if stop and captured:
            raise _Reached

    result = None
    with suppress(_Reached):
        result = with_forward_pre_hook(module, watch, run)
    if calls > 1:
        raise LookalikeError(
            f"the head, a {type(module).__name__}, runs {calls} times in a forward pass, so there is no one embedding; "
            "wrap the network so that it runs once"
        )
    if not captured:
        raise LookalikeError(f"the head, a {type(module).__name__}, was not called with a tensor in the forward pass")
    return captured[0], result


def with_input(modules: Sequence[nn.Module], value: Tensor, run: Callable[[], Any]) -> Any:
    """Returns what ``run`` returns when the modules are given ``value`` in place of their first tensor."""
    if not modules:
        return run()
    module, *more = modules

    def replace(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        for position, argument in enumerate(args):
            if isinstance(argument, Tensor):
                return (*args[:position], value, *args[position + 1 :]), kwargs
        name = next(key for key, argument in kwargs.items() if isinstance(argument, Tensor))
        return args, {**kwargs, name: value}

    return with_forward_pre_hook(module, replace, lambda: with_input(more, value, run))


def sharing_input(model: nn.Module, module: nn.Module, run: Callable[[], Any]) -> list[nn.Module]:
    """Returns a module and all others that are given the same tensor while ``run`` runs, as two heads that average."""
    given: dict[nn.Module, Tensor] = {}

    def watch(called: nn.Module, args: Any, _output: Any) -> None:
        tensors = [argument for argument in args if isinstance(argument, Tensor)]
        if tensors:
            given[called] = tensors[0]

    others = [
        other for other in model.modules() if other is not model and not isinstance(other, torch.jit.ScriptModule)
    ]
    with_forward_hooks(dict.fromkeys(others, watch), run)
    return [module, *(other for other in others if other is not module and given.get(other) is given.get(module, 0))]


def with_output(module: nn.Module, value: Tensor, run: Callable[[], Any]) -> Any:
    """Returns what ``run`` returns when the module gives ``value`` in place of its output."""
    return with_forward_hooks({module: lambda *_: value}, run)


def output_of(module: nn.Module, run: Callable[[], Any]) -> Tensor:
    """Returns the tensor that a module gives while ``run`` runs, which ends there.

    Raises:
        LookalikeError: If it gave none.
    """
    captured: list[Tensor] = []

    def watch(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            captured[:] = [output]
            raise _Reached

    with suppress(_Reached):
        with_forward_hooks({module: watch}, run)
    if not captured:
        raise LookalikeError(f"the head, a {type(module).__name__}, gave no tensor in the forward pass")
    return captured[0]


def repeat_row(inputs: Any, times: int) -> Any:
    """Returns inputs whose rows all are the first one of those given."""
    if isinstance(inputs, Tensor):
        return inputs[:1].repeat_interleave(times, 0)
    return tree_map(lambda leaf: leaf[:1].repeat_interleave(times, 0) if isinstance(leaf, Tensor) else leaf, inputs)


def _tensors(inputs: Any) -> list[Tensor]:
    found = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not found:
        raise LookalikeError(f"the model needs tensors, not a {type(inputs).__name__}")
    return found
