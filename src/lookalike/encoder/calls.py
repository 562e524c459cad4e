"""Calls a user's model, and reads or replaces inputs and outputs of its modules with temporary hooks."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lookalike._core.acceleration import keep_layout
from lookalike._core.checks import unfit
from lookalike._core.errors import LookalikeError, UnfitInputsError, first_line
from lookalike._core.untouched import with_forward_hooks, with_forward_pre_hook

# a network that gets inputs of a wrong shape, type or number fails with one of these
_INPUT_ERRORS = (
    AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError,
)  # fmt: skip

_BYTES_AT_ONCE = 6 * 3 * 224 * 224 * 4  # of inputs, on a CPU: 6 images of 224² in float32
_ROWS_PER_CORE = 2
_MOST_THREADS = 4  # more would wait for Python's lock: an operation of a few images is over in a millisecond


def call(model: nn.Module, inputs: Any) -> Any:
    """Calls a model on a tensor, a tuple of positional inputs, or a mapping of named inputs.

    Raises:
        UnfitInputsError: If the network cannot run the inputs. Errors of user-defined classes and out-of-memory errors
            are passed on unchanged.
    """
    try:
        return _call(model, inputs)
    except _INPUT_ERRORS as error:
        if type(error) not in _INPUT_ERRORS or is_out_of_memory(error):
            raise
        if keep_layout():  # the layout of the accelerated pass may have been the reason
            return call(model, inputs)
        raise UnfitInputsError(
            f"the network cannot run inputs of {_describe_shapes(inputs)}: {first_line(error)}"
        ) from error


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def copied(inputs: Any) -> Any:
    """Returns inputs in memory of their own."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def writes_into(inputs: Any, run: Callable[[], Any]) -> bool:
    """Says whether ``run`` writes into inputs, as ``x.sub_(mean)`` in a forward pass does.

    Errors of ``run`` are ignored here; the next pass raises them.

    Args:
        inputs: A copy of the user's inputs, which are restored.
        run: Runs a network on them.
    """
    tensors = _tensors(inputs)
    values = [tensor.clone() for tensor in tensors]
    if any(tensor.is_inference() for tensor in tensors):  # nothing counts how often they are written to
        return False
    before = [tensor._version for tensor in tensors]
    with torch.no_grad(), suppress(Exception):
        run()
    if [tensor._version for tensor in tensors] == before:
        return False
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an error means that the memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _describe_shapes(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return ", ".join(f"{key} {_describe_shapes(value)}" for key, value in inputs.items())
    if isinstance(inputs, tuple | list):
        return ", ".join(_describe_shapes(value) for value in inputs)
    return f"shape {tuple(inputs.shape[1:])}" if isinstance(inputs, Tensor) else type(inputs).__name__


def n_rows(inputs: Any) -> int:
    """Returns the number of samples in the inputs.

    Raises:
        LookalikeError: If the inputs are not dense tensors with a row per sample.
    """
    first = _tensors(inputs)[0]
    if first.ndim == 0 or first.layout is not torch.strided:
        kind = "a single number" if first.ndim == 0 else "sparse"
        raise LookalikeError(f"the inputs are {kind}; give dense tensors with a row per sample")
    return len(first)


def take_rows(inputs: Any, rows: slice | Tensor) -> Any:
    """Returns a slice of the rows of each tensor in the inputs, or those that a mask [n] keeps."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return tree_map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) else leaf, inputs)


def split_rows(inputs: Any, size: int) -> list[Any]:
    """Returns the inputs in parts of at most ``size`` rows; at least one part, even of no rows."""
    n = n_rows(inputs)
    return [inputs] if n <= size else [take_rows(inputs, slice(start, start + size)) for start in range(0, n, size)]


def rows_at_once(inputs: Any, most: int, device: torch.device) -> int:
    """Returns how many rows of the inputs pass through a network at once, at most ``most``; fewer of large images.

    On a CPU, activations of more than some megabytes leave its caches, and above 32 MiB glibc always hands their memory
    back to the system after each layer, to be mapped and cleared again for the next: the widest layers of
    EfficientNet-Lite0 and ResNet34 stay below that with 6 images of 224². With 128 at once, EfficientNet-Lite0 spends
    twice as long on that as on arithmetic.
    """
    if device.type != "cpu":
        return most
    row_bytes = sum(
        tensor.numel() * _input_bytes(tensor) // max(tensor.shape[:1].numel(), 1) for tensor in _tensors(inputs)
    )
    least = _ROWS_PER_CORE * (torch.get_num_threads() // n_threads(device))  # enough for a thread's cores
    return max(1, min(most, max(least, _BYTES_AT_ONCE // max(row_bytes, 1))))


def n_threads(device: torch.device) -> int:
    """Returns how many threads pass rows through a network on a device side by side; see ``side_by_side``."""
    return min(torch.get_num_threads(), _MOST_THREADS) if device.type == "cpu" else 1


def _input_bytes(tensor: Tensor) -> int:
    """Returns the bytes per value of an input; images as bytes become float32."""
    return 4 if tensor.dtype == torch.uint8 else tensor.element_size()


def place(inputs: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Moves inputs to a device: arrays become contiguous tensors, floating-point numbers get the type ``dtype``.

    Raises:
        LookalikeError: If the inputs are bytes (uint8), sparse, or not numbers.
    """

    def to_device(leaf: Any) -> Any:
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
        target_dtype = dtype if tensor.is_floating_point() else None
        # in torch's own layout, which networks may rely on: x.view(len(x), -1)
        is_queued = torch.device(device).type != "cpu"  # a copy from a GPU that is not waited for may be half done
        return tensor.to(device=device, dtype=target_dtype, non_blocking=is_queued).contiguous()

    return to_device(inputs) if isinstance(inputs, Tensor) else tree_map(to_device, inputs)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Returns the type of a model's first weight, or else of its first floating-point parameter or buffer, or None.

    A scale or an offset may be in another type than the layers, as NumPy's numbers are.
    """
    first = None
    for tensor in itertools.chain(model.parameters(), model.buffers()):  # lazy: stops at the first weight
        if tensor.is_floating_point():
            if tensor.ndim > 1:
                return tensor.dtype
            first = first or tensor.dtype
    return first


def device_of(model: nn.Module) -> torch.device:
    """Returns the device of a model's first parameter or buffer."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


class _StopForwardPass(BaseException):
    """Ends a forward pass once the tensor has been read.

    It is no ``Exception``, so that a model's own ``except Exception`` does not catch it.
    """


def input_of(module: nn.Module, run: Callable[[], Any], *, stop: bool) -> tuple[Tensor, Any]:
    """Returns the first tensor that a module is called with while ``run`` runs.

    Args:
        module: The module to watch.
        run: Calls the model.
        stop: End the forward pass at this module.

    Returns:
        The module's input, as it was before the module ran (which may work in place), and the result of ``run`` (None
        if it was stopped).

    Raises:
        LookalikeError: If the module was not called with a tensor, or more than once.
    """
    captured: list[Tensor] = []
    calls = 0

    def capture(_module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        leaves = args if args and isinstance(args[0], Tensor) else tree_leaves((args, kwargs))
        captured[:] = [leaf if stop else leaf.clone() for leaf in leaves if isinstance(leaf, Tensor)][:1]
        if stop and captured:
            raise _StopForwardPass

    result = None
    with suppress(_StopForwardPass):
        result = with_forward_pre_hook(module, capture, run)
    if calls > 1:
        raise LookalikeError(
            f"the head, a {type(module).__name__}, runs {calls} times in a forward pass, so there is no one embedding; "
            "wrap the network so that it runs once"
        )
    if not captured:
        raise LookalikeError(
            f"the head, a {type(module).__name__}, was not called with a tensor in the forward pass; if the network, "
            "or a part of it, is compiled (torch.compile), give it uncompiled"
        )
    return captured[0], result


def with_input(modules: Sequence[nn.Module], value: Tensor, run: Callable[[], Any]) -> Any:
    """Returns the result of ``run`` with the first tensor argument of the modules replaced by ``value``."""
    if not modules:
        return run()
    module, *further = modules

    def replace(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        for position, argument in enumerate(args):
            if isinstance(argument, Tensor):
                return (*args[:position], value, *args[position + 1 :]), kwargs
        name = next(key for key, argument in kwargs.items() if isinstance(argument, Tensor))
        return args, {**kwargs, name: value}

    return with_forward_pre_hook(module, replace, lambda: with_input(further, value, run))


def sharing_input(model: nn.Module, module: nn.Module, run: Callable[[], Any]) -> list[nn.Module]:
    """Returns a module and all others that ``run`` calls on the same tensor, such as two averaged heads."""
    input_of_module: dict[nn.Module, Tensor] = {}

    def record_input(called: nn.Module, args: Any, _output: Any) -> None:
        tensors = [argument for argument in args if isinstance(argument, Tensor)]
        if tensors:
            input_of_module[called] = tensors[0]

    modules = [
        submodule
        for submodule in model.modules()
        if submodule is not model and not isinstance(submodule, torch.jit.ScriptModule)
    ]
    with_forward_hooks(dict.fromkeys(modules, record_input), run)
    shared = input_of_module.get(module)
    if shared is None:
        return [module]
    return [module, *(child for child in modules if child is not module and input_of_module.get(child) is shared)]


def with_output(module: nn.Module, value: Tensor, run: Callable[[], Any]) -> Any:
    """Returns the result of ``run`` with the output of a module replaced by ``value``."""
    return with_forward_hooks({module: lambda *_: value}, run)


def output_of(module: nn.Module, run: Callable[[], Any]) -> Tensor:
    """Returns the tensor that a module returns while ``run`` runs, and ends the forward pass there.

    Raises:
        LookalikeError: If the module returned no tensor.
    """
    captured: list[Tensor] = []

    def capture(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            captured[:] = [output]
            raise _StopForwardPass

    with suppress(_StopForwardPass):
        with_forward_hooks({module: capture}, run)
    if not captured:
        raise LookalikeError(f"the head, a {type(module).__name__}, returned no tensor in the forward pass")
    return captured[0]


def repeat_row(inputs: Any, times: int) -> Any:
    """Returns inputs that repeat the first row ``times`` times."""
    if isinstance(inputs, Tensor):
        return inputs[:1].repeat_interleave(times, 0)
    return tree_map(lambda leaf: leaf[:1].repeat_interleave(times, 0) if isinstance(leaf, Tensor) else leaf, inputs)


def _tensors(inputs: Any) -> list[Tensor]:
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not tensors:
        raise LookalikeError(f"the model needs tensors, not a {type(inputs).__name__}")
    return tensors
