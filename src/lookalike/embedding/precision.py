"""In which numbers the encoder computes: half precision where the processor is quicker at it, and what that changes."""

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
from lookalike.encoder.calls import n_rows, repeat_row, take_rows
from lookalike.encoder.shadow import shadow_of

Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

_WORTH_IT = 2e13  # floating-point operations; a shorter pass stays in float32
_PER_BYTE = 4.0  # operations per byte that they read and write; below, memory decides how long a pass takes
_COMPARED = 64  # rows
_SWITCH = "LOOKALIKE_BFLOAT16"


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Runs encoders in a precision, at the speed of the processor.

    Raises:
        LookalikeError: If there is no such precision, or not on this device.
    """
    if precision == "float32":
        with Accelerated():
            yield
        return
    if precision == "float16" and device.type == "cpu":
        raise LookalikeError("float16 is for GPUs; on a CPU there are float32 and bfloat16")
    checks.one_of("precision", precision, PRECISIONS)
    with torch.autocast(device.type, getattr(torch, precision)), Accelerated():
        yield


@torch.no_grad()
def choose_precision(encoder: Encoder, inputs: Any, total: int | None, device: torch.device) -> str:
    """Returns the precision that ``"auto"`` stands for.

    It is a rule, not a measurement of time: the same network, data and machine give the same precision, and so the same
    embeddings bit for bit. Short passes stay in float32, and so do networks with other weights than float32. On a GPU
    it is bfloat16 where it has it, else float16. On a CPU it is bfloat16 if the processor computes in it, and if
    convolutions and matrix products do at least four operations per byte that they read and write. These are counted as
    a row or two pass through a shadow of the network in bfloat16: its owner's hooks do not run. A network that cannot
    be tried in this way stays in float32.

    Args:
        encoder: The network.
        inputs: Its first inputs.
        total: How many rows there will be; None when that is not known: then many.
        device: Where it runs.
    """
    if any(p.dtype != torch.float32 for p in encoder.model.parameters() if p.is_floating_point()):
        return "float32"
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if device.type != "cpu" or not has_bfloat16():
        return "float32"
    try:
        with torch.random.fork_rng(devices=[]):  # a network that draws numbers must not move the caller's
            operations, n_bytes = _operations_of_row(shadow_of(encoder), inputs, device)
    except Exception:  # foreign code may raise anything; the pass itself says what is wrong with it
        return "float32"
    long = total is None or total * operations >= _WORTH_IT
    return "bfloat16" if long and operations >= _PER_BYTE * n_bytes else "float32"


@torch.no_grad()
def effect_of(encoder: Encoder, inputs: Any, precision: str, device: torch.device) -> dict[str, float] | None:
    """Compares a precision with float32 on some rows, in a shadow of the network.

    Returns:
        ``rows``; ``same_predictions``, the share whose predicted class stays, where the encoder has a head;
        ``deviation``, the mean of ‖z′ − z‖ over the mean of ‖z‖. None if the network cannot be tried.
    """
    few = take_rows(inputs, slice(0, _COMPARED))
    passes = []
    try:
        trial = shadow_of(encoder)
        for tried in ("float32", precision):
            with torch.random.fork_rng(devices=[]), computing(tried, device):
                passes.append(trial.embed_and_score(few))
    except LookalikeError:
        raise
    except Exception:  # as above
        return None
    (z, scores), (z_half, scores_half) = passes
    effect = {
        "rows": float(n_rows(few)),
        "deviation": float((z_half.float() - z).norm(dim=1).mean() / z.norm(dim=1).mean().clamp_min(1e-12)),
    }
    if isinstance(scores, Tensor) and isinstance(scores_half, Tensor) and scores.ndim == 2 and scores.shape[1] > 1:
        effect["same_predictions"] = float((scores.argmax(1) == scores_half.argmax(1)).float().mean())
    return effect


def has_bfloat16() -> bool:
    """Whether this processor multiplies matrices in bfloat16 several times as fast as in float32 (AMX).

    Processors that merely have instructions for it (AVX-512 BF16) are quicker with some networks and slower with
    others: there ``"auto"`` is float32, and ``precision="bfloat16"`` asks for it. The environment variable
    ``LOOKALIKE_BFLOAT16`` overrules it: 0 says no, 1 yes. Results are right either way, so both ways can be tested on
    any machine.
    """
    switch = os.environ.get(_SWITCH)
    if switch in ("0", "1"):
        return switch == "1"
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return check is not None and bool(check())


class _Operations(TorchDispatchMode):
    """Counts floating-point operations, and the bytes that they read and write.

    torch's own ``FlopCounterMode`` also tracks modules, by hooks that fail where a tensor that requires grad enters
    one; the operations alone are all that is asked for here.
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
    """Returns how many operations a row takes, and how many bytes in float32 they read and write, weights aside.

    That is what a second row adds.
    """
    counts = []
    for n in (1, 2):
        counter = _Operations()
        with computing("bfloat16", device), counter:
            encoder.embed_and_score(repeat_row(inputs, n))
        counts.append((counter.total, counter.n_bytes))
    return counts[1][0] - counts[0][0], counts[1][1] - counts[0][1]
