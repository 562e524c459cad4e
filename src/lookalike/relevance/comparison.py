"""The network's own pass, without the engine, and its comparison with what the engine computed."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from lookalike._core.errors import RelevanceError
from lookalike.relevance.plain_pass import PlainPass, ResultCache, Watch

Run = Callable[[Tensor], Tensor]

# Largest difference between the engine's output and the plain one that counts as rounding, relative to the largest
# output. It is wide for float32, as GPUs may multiply float32 matrices in reduced precision.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 5e-3}
_HALF_PRECISION_ROUNDING = 0.1  # bfloat16 and float16 have two to three digits


def plain_pass(
    images: Tensor, run: Run, recorded: ResultCache | None, *, finds_constants: bool
) -> tuple[Watch | None, Tensor]:
    """Runs the network's plain forward pass on the first image; returns its constants if asked for, and its output.

    A network that accepts only batches of its own size runs on the whole batch.
    """
    with contextlib.suppress(RuntimeError, AssertionError):
        return _run_plainly(images[:1], run, recorded, finds_constants)
    return _run_plainly(images, run, None, finds_constants)


def _run_plainly(
    images: Tensor, run: Run, recorded: ResultCache | None, finds_constants: bool
) -> tuple[Watch | None, Tensor]:
    images = images.detach().clone()
    if finds_constants:
        with Watch([images], recorded) as watch:
            return watch, run(images).detach()
    if recorded is None:
        return None, run(images).detach()
    with PlainPass(recorded):
        return None, run(images).detach()


def compare(output: Tensor, plain: Tensor, pixels: Tensor, run: Run) -> None:
    """Checks that the engine computed the same output as the network's plain pass.

    Raises:
        RelevanceError: If it did not; it says why, if the network is random or depends on the rest of the batch.
    """
    deviation = _deviation(output[: len(plain)], plain)
    tolerance = _ROUNDING.get(plain.dtype, _HALF_PRECISION_ROUNDING)
    if deviation <= tolerance:
        return
    with torch.no_grad():
        repeated, in_batch = run(pixels[: len(plain)].detach().clone()), run(pixels.detach().clone())
    if _deviation(repeated, plain) > tolerance:
        raise RelevanceError(
            "the network gives other outputs for the same image each time (dropout that is always on, or other "
            "chance), so there is no function to explain; make it deterministic in eval mode"
        )
    if _deviation(in_batch[: len(plain)], plain) > tolerance:
        raise RelevanceError(
            "the network's output for an image depends on the other images of its batch (a batch norm without running "
            "statistics?), so there is no function of one image to explain; give it running statistics"
        )
    raise RelevanceError(
        f"the relevance engine computes other outputs than the network (off by {deviation:.2g} of the largest "
        "one), so its maps would be about another function; operations that change memory unseen are the usual "
        "cause (numpy, TorchScript or C++ code that works in place)"
    )


def _deviation(output: Tensor, plain: Tensor) -> float:
    """Returns the largest difference relative to the largest output; 0 if the plain output is not finite."""
    if output.shape != plain.shape:
        return float("inf")
    if not bool(plain.isfinite().all()):
        return 0.0
    scale = plain.abs().max().clamp_min(1e-12)
    deviation = float((output - plain).abs().max() / scale)
    return deviation if deviation == deviation else float("inf")
