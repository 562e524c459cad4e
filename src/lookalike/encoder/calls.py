"""Calling somebody else's model without leaving a trace."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lookalike.errors import LookalikeError


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts every module of a model into eval mode and each one back into its own mode at the end.

    The flags are set directly: a ``train()`` that the model's owner has overridden may do more than that.
    """
    with _LOCK:
        held = _HELD.get(model)
        if held is None:
            held = _HELD[model] = _Held(_modules_in_training(model))
            for module in held.training:
                module.training = False
        held.users += 1
    try:
        yield
    finally:
        with _LOCK:
            held.users -= 1
            if held.users == 0:  # the last of several threads gives the modes back
                _HELD.pop(model, None)
                for module in held.training:
                    module.training = True


class _Held:
    """A model that is in eval mode for now, and the modules that were not."""

    def __init__(self, training: list[nn.Module]) -> None:
        self.training = training
        self.users = 0


_LOCK = threading.Lock()
_HELD: "WeakKeyDictionary[nn.Module, _Held]" = WeakKeyDictionary()


def _modules_in_training(model: nn.Module) -> list[nn.Module]:
    """Does what ``model.modules()`` would, without its names: this runs at every prediction."""
    found, waiting, seen = [], [model], set()
    while waiting:
        module = waiting.pop()
        if module.training and id(module) not in seen:
            seen.add(id(module))
            found.append(module)
        waiting.extend(child for child in module._modules.values() if child is not None)
    return found


def call(model: nn.Module, inputs: Any) -> Any:
    """Calls a model on a tensor, on a tuple of positional or on a mapping of named inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def n_rows(inputs: Any) -> int:
    """Returns how many rows the inputs have."""
    return len(_tensors(inputs)[0])


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
        tensor = torch.as_tensor(leaf)
        if tensor.dtype == torch.uint8:
            raise LookalikeError(
                "the inputs are bytes (uint8): scale and normalise them as the network was trained, e.g. x / 255"
            )
        wanted = dtype if tensor.is_floating_point() else None
        return tensor.to(device=device, dtype=wanted, non_blocking=True)

    return put(inputs) if isinstance(inputs, Tensor) else tree_map(put, inputs)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Returns the type of a model's first floating-point parameter or buffer; None where it has none."""
    tensors = (*model.parameters(), *model.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def device_of(model: nn.Module) -> torch.device:
    """Returns where a model's first parameter or buffer is."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


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
    thread = threading.get_ident()

    def watch(_module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal calls
        if threading.get_ident() != thread:
            return
        calls += 1
        leaves = args if args and isinstance(args[0], Tensor) else tree_leaves((args, kwargs))
        captured[:] = [leaf for leaf in leaves if isinstance(leaf, Tensor)][:1]
        if stop and captured:
            raise _Reached

    handle = module.register_forward_pre_hook(watch, with_kwargs=True)
    result = None
    try:
        result = run()
    except _Reached:
        pass
    finally:
        handle.remove()
    if calls > 1:
        raise LookalikeError(
            f"the head, a {type(module).__name__}, runs {calls} times in a forward pass, so there is no one embedding; "
            "wrap the network so that it runs once"
        )
    if not captured:
        raise LookalikeError(f"the head, a {type(module).__name__}, was not called with a tensor in the forward pass")
    return captured[0], result


def with_input(module: nn.Module, value: Tensor, run: Callable[[], Any]) -> Any:
    """Returns what ``run`` returns when the module is given ``value`` in place of its first tensor."""
    thread = threading.get_ident()

    def replace(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if threading.get_ident() != thread:
            return None
        for position, argument in enumerate(args):
            if isinstance(argument, Tensor):
                return (*args[:position], value, *args[position + 1 :]), kwargs
        name = next(key for key, argument in kwargs.items() if isinstance(argument, Tensor))
        return args, {**kwargs, name: value}

    handle = module.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        return run()
    finally:
        handle.remove()


def with_output(module: nn.Module, value: Tensor, run: Callable[[], Any]) -> Any:
    """Returns what ``run`` returns when the module gives ``value`` in place of its output."""
    thread = threading.get_ident()

    def replace(_module: nn.Module, _args: Any, _output: Any) -> Tensor | None:
        return value if threading.get_ident() == thread else None

    handle = module.register_forward_hook(replace)
    try:
        return run()
    finally:
        handle.remove()


def output_of(module: nn.Module, run: Callable[[], Any]) -> Tensor:
    """Returns the tensor that a module gives while ``run`` runs, which ends there.

    Raises:
        LookalikeError: If it gave none.
    """
    thread = threading.get_ident()
    captured: list[Tensor] = []

    def watch(_module: nn.Module, _args: Any, output: Any) -> None:
        if threading.get_ident() == thread and isinstance(output, Tensor):
            captured[:] = [output]
            raise _Reached

    handle = module.register_forward_hook(watch)
    try:
        run()
    except _Reached:
        pass
    finally:
        handle.remove()
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
