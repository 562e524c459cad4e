"""The encoder's precision: half precision if the processor is faster with it, and the effect on the embeddings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lookalike._core import checks
from lookalike._core.acceleration import Accelerated
from lookalike._core.errors import LookalikeError
from lookalike.encoder import Encoder
from lookalike.encoder.calls import repeat_row
from lookalike.encoder.shadow import shadow_of

Precision = Literal["auto", "fastest", "float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

_MIN_ROWS = 150  # counting operations takes three rows; so it is at most 2% of a pass
_MIN_OPERATIONS = 1e11  # floating-point operations, about a second in float32; a shorter pass stays in it
_MIN_OPERATIONS_PER_BYTE = 4.0  # per byte read or written; below, memory bandwidth decides the time, not arithmetic
_BFLOAT16_VARIABLE = "LOOKALIKE_BFLOAT16"


@contextmanager
def computing(precision: str, device: torch.device, accelerated: Accelerated | None = None) -> Iterator[None]:
    """Runs the encoder inside the ``with`` block in a precision, with fast convolutions and matrix products.

    Args:
        precision: The precision.
        device: Device of the encoder.
        accelerated: The mode to run in, with weights that it has prepared before; None makes a new one.

    Raises:
        LookalikeError: If the precision does not exist, or not on this device.
    """
    accelerated = accelerated or Accelerated()
    if precision == "float32":
        with accelerated:
            yield
        return
    if precision == "float16" and device.type == "cpu":
        raise LookalikeError("float16 is for GPUs; a CPU computes in float32 or bfloat16")
    checks.one_of("precision", precision, PRECISIONS)
    with torch.autocast(device.type, getattr(torch, precision)), accelerated:
        yield


@torch.no_grad()
def choose_precision(encoder: Encoder, inputs: Any, total: int | None, device: torch.device) -> str:
    """Returns the precision that ``"auto"`` stands for.

    The choice is a rule and not a measurement of time: the same network, data and machine always give the same
    precision, and so the same embeddings to the bit.

    - A network whose weights are not float32 runs in float32.
    - A GPU uses bfloat16 if it supports it, else float16.
    - A CPU uses bfloat16 if it has fast instructions for it, the pass is long, and convolutions and matrix products do
      at least four operations per byte that they read and write; else float32.

    The operations are counted while one row, and then two, pass through a copy of the network in bfloat16, in which the
    user's hooks do not run. If this fails, the network stays in float32.

    Args:
        encoder: The encoder.
        inputs: The first batch of inputs.
        total: Number of rows of the whole pass; None if unknown, which counts as many.
        device: Device of the encoder.
    """
    if any(p.dtype != torch.float32 for p in encoder.model.parameters() if p.is_floating_point()):
        return "float32"
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if device.type != "cpu" or not has_bfloat16() or (total is not None and total < _MIN_ROWS):
        return "float32"
    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # the caller's random state stays the same even if the network draws numbers
            operations, n_bytes = _operations_of_row(shadow_of(encoder), inputs, device)
    except Exception:  # the user's code may raise any error; if it is a real one, the pass itself raises it again
        return "float32"
    is_long = total is None or total * operations >= _MIN_OPERATIONS
    return "bfloat16" if is_long and operations >= _MIN_OPERATIONS_PER_BYTE * n_bytes else "float32"


def has_bfloat16() -> bool:
    """Whether this processor multiplies matrices in bfloat16 several times as fast as in float32 (AMX).

    With AVX-512 BF16 instructions alone, some networks are faster and others slower: there ``"auto"`` stays in float32,
    and ``precision="bfloat16"`` can be requested. The environment variable ``LOOKALIKE_BFLOAT16`` overrides the
    detection: 0 for no, 1 for yes. Results are correct in both cases, so tests can run both on any machine.
    """
    setting = os.environ.get(_BFLOAT16_VARIABLE)
    if setting in ("0", "1"):
        return setting == "1"
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return check is not None and bool(check())


class _Operations(TorchDispatchMode):
    """Counts floating-point operations, and the bytes that they read and write.

    torch's own ``FlopCounterMode`` also tracks modules with hooks, which fail if a tensor that requires grad enters a
    module. Here only the operations are needed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += int(count(*args, **(kwargs or {}), out_val=result))
            leaves = tree_leaves((args, kwargs, result))
            self.n_bytes += sum(4 * leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
        return result


def _operations_of_row(encoder: Encoder, inputs: Any, device: torch.device) -> tuple[int, int]:
    """Returns the number of operations for one row, and of the bytes in float32 that they read and write.

    Both are what a second row adds to the first. So the weights, which are read once per batch, do not count.
    """
    counts = []
    for n in (1, 2):
        counter = _Operations()
        with computing("bfloat16", device), counter:
            encoder.embed_and_score(repeat_row(inputs, n))
        counts.append((counter.total, counter.n_bytes))
    return counts[1][0] - counts[0][0], counts[1][1] - counts[0][1]
