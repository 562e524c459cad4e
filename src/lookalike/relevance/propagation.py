"""One forward pass per batch, one backward pass per target: where relevance maps are made."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError, RelevanceError, UnfitInputsError, first_line, warn_of
from lookalike._core.provenance import versions
from lookalike._core.untouched import in_eval_mode, keeps_torch_settings
from lookalike.encoder.calls import is_out_of_memory, take_rows
from lookalike.relevance.composites import COMPOSITES, Composite
from lookalike.relevance.engine import Engine, Watch
from lookalike.relevance.foreign import with_foreign_modules
from lookalike.relevance.names import NO_RULE, UNSEEN, named_tensors
from lookalike.relevance.recorded import Recorded
from lookalike.relevance.result import Relevance, RuleUse

Run = Callable[[Tensor], Tensor]
Starts = Callable[[Tensor, slice], Iterator[tuple[Tensor, Tensor]]]

# How far the engine's forward pass may differ from the plain one, relative to the largest output: rounding alone, which
# reduced-precision matrix products on GPUs make large in float32.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 5e-3}
_COARSE = 0.1  # of two and fewer digits: bfloat16, float16


def propagate(
    model: nn.Module,
    x: Tensor,
    run: Run,
    starts: Starts,
    composite: str | Composite,
    batch_size: int,
    strict: bool,
    *,
    several: bool,
) -> Iterator[Relevance]:
    """Runs forward once per batch, and backward once per target; yields each batch's result.

    Args:
        model: The network, whose parameters and modules are watched.
        x: Images [N, C, H, W].
        run: Calls it and returns scores or embeddings [n, D].
        starts: Yields, for outputs and the rows that they are of, pairs of the gradient at the outputs and the
            relevance [n] that it starts with.
        composite: Which rules.
        batch_size: The most images in flight.
        strict: Make an operation without a rule an error.
        several: Return maps [n, M, C, H, W] also of a single target.

    Raises:
        RelevanceError: If the engine computes other numbers than the network, if nothing can be propagated, or an
            operation has no rule and ``strict`` is set.
    """
    if not len(x):
        raise LookalikeError("there are no images to explain")
    explain = _Explainer(model, x, run, COMPOSITES[composite] if isinstance(composite, str) else composite, strict)
    warned: set[str] = set()
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        found = explain(rows, starts, several)
        _warn(found, warned)
        yield found


class _Explainer:
    """Makes the maps of one batch after the other.

    The first batch's forward pass is compared with the network's own. That one comes second: it takes results from the
    engine's. Only where the engine met tensors that it cannot place does it run again, knowing what the plain pass met.
    """

    def __init__(self, model: nn.Module, x: Tensor, run: Run, rules: Composite, strict: bool) -> None:
        self._model, self._x, self._run, self._rules, self._strict = model, x, run, rules, strict
        named = named_tensors(model)
        self._tensors = [tensor for _, tensor in named]
        self._names = {id(tensor): name for name, tensor in named}
        self._watch: Watch | None = None

    @keeps_torch_settings
    def __call__(self, rows: slice, starts: Starts, several: bool) -> Relevance:
        """Returns the maps of some rows."""
        with _undisturbed(self._x.device):
            batch, shown, engine = in_eval_mode(self._model, lambda: self._forward(rows))
            with _naming(engine):
                return _backward(engine, shown, batch, lambda out: starts(out, rows), several)

    def _forward(self, rows: slice) -> tuple[Tensor, Tensor, Engine]:
        batch = take_rows(self._x, rows).detach().clone().requires_grad_()
        if self._watch is not None:
            engine = self._engine(batch, self._watch, None)
            return batch, self._ruled(engine, batch), engine
        # on other devices each look at what was recorded would wait for the device
        recorded = Recorded(len(batch)) if batch.device.type == "cpu" else None
        before = self._versions()
        engine, shown = self._engine(batch, None, recorded), None
        with contextlib.suppress(Exception):  # the plain pass tells whether it is the network that fails
            shown = self._ruled(engine, batch)
        if self._versions() != before:  # a network that changes its weights as it runs
            recorded = None
        watch, plain = _plain_pass(take_rows(self._x, rows), self._run, recorded)
        if shown is None or engine.unsure:
            engine = self._engine(batch, watch, None)
            shown = self._ruled(engine, batch)
        _compare(engine.dependence.twin_of(shown).detach(), plain, batch, self._run)
        self._watch = watch
        return batch, shown, engine

    def _engine(self, batch: Tensor, watch: Watch | None, recorded: Recorded | None) -> Engine:
        return Engine(self._rules, [batch], self._names, plain=watch, recorded=recorded, strict=self._strict)

    def _ruled(self, engine: Engine, batch: Tensor) -> Tensor:
        """Returns the network's output, computed by the engine."""

        def run() -> Tensor:
            with engine:
                return self._run(batch)

        with _naming(engine):
            return with_foreign_modules(engine, run)

    def _versions(self) -> list[int]:
        return [tensor._version for tensor in self._tensors if not tensor.is_inference()]


@contextlib.contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Runs the network as it is, in full precision, whatever surrounds the call."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextlib.contextmanager
def _naming(engine: Engine) -> Iterator[None]:
    """Tells in a line where a network could not be followed, though it runs by itself."""
    try:
        yield
    except RuntimeError as error:
        cause = error.__cause__ if isinstance(error, UnfitInputsError) and error.__cause__ is not None else error
        if is_out_of_memory(cause):
            raise
        first = first_line(cause)
        raise RelevanceError(
            f"no relevance can be propagated through the operation {engine.operation!r} (after {engine.where}): {first}"
        ) from error


def _plain_pass(images: Tensor, run: Run, recorded: Recorded | None) -> tuple[Watch, Tensor]:
    """Returns what the network's own forward pass on the first image met, and its output.

    A network that takes batches of one size alone is run on the whole batch.
    """
    with contextlib.suppress(RuntimeError, AssertionError):
        return _watched(images[:1], run, recorded)
    return _watched(images, run, None)


def _watched(images: Tensor, run: Run, recorded: Recorded | None) -> tuple[Watch, Tensor]:
    images = images.detach().clone()
    with Watch([images], recorded) as watch:
        plain = run(images)
    return watch, plain.detach()


def _backward(
    engine: Engine,
    shown: Tensor,
    pixels: Tensor,
    starts: Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]],
    several: bool,
) -> Relevance:
    out = engine.graph_of(shown)
    table = engine.finish(out)
    columns, errors, shares = [], [], []
    begins = list(starts(out))
    for done, (gradient, begun) in enumerate(begins):
        engine.session.targets_left = len(begins) - done
        last = done == len(begins) - 1
        inputs = [pixels, *(leaf for leaf, _ in engine.unruled.ends)]
        at_pixels, *at_ends = torch.autograd.grad(
            out, inputs, gradient.to(out.dtype), retain_graph=not last, allow_unused=True
        )
        found = torch.zeros_like(pixels) if at_pixels is None else at_pixels
        engine.unruled.arrived(at_ends)
        arrived = found.flatten(1).sum(1)
        columns.append(found)
        errors.append((arrived - begun).abs() / begun.abs().clamp_min(torch.finfo(begun.dtype).tiny))
        shares.append(engine.unruled.shares(begun, arrived))
    uses = [RuleUse(*key, count) for key, count in table.items()]
    maps = torch.stack(columns, 1) if several else columns[0]
    residual = torch.stack(errors, 1) if several else errors[0]
    by_operation = _joined(shares, residual, several)
    return Relevance(maps, residual, uses, engine.composite.name, versions(), by_operation)


def _warn(found: Relevance, warned: set[str]) -> None:
    """Warns of operations without a rule, of each once per call."""
    done = {NO_RULE: "its gradient is used", UNSEEN: "relevance ends there"}
    caution = found.caution
    for use in found.rules:
        if use.rule in done and use.operation not in warned:
            warned.add(use.operation)
            told = f"{use.operation!r} has no relevance rule: {done[use.rule]}"
            warn_of(told if caution is None else f"{told}; {caution}")


def _joined(shares: list[dict[str, Tensor]], like: Tensor, several: bool) -> dict[str, Tensor]:
    nothing = like.new_zeros(len(like))
    joined = {}
    for name in dict.fromkeys(name for column in shares for name in column):
        columns = [column.get(name, nothing) for column in shares]
        joined[name] = torch.stack(columns, 1) if several else columns[0]
    return joined


def _compare(output: Tensor, plain: Tensor, pixels: Tensor, run: Run) -> None:
    """Refuses to explain if the engine did not compute what the network does.

    Raises:
        RelevanceError: If its output is another.
    """
    deviation = _deviation(output[: len(plain)], plain)
    if deviation <= _tolerance(plain):
        return
    with torch.no_grad():
        again, together = run(pixels[: len(plain)].detach().clone()), run(pixels.detach().clone())
    if _deviation(again, plain) > _tolerance(plain):
        raise RelevanceError(
            "the network gives other outputs for the same image each time (dropout that is always on, or other "
            "chance), so there is no function to explain; make it deterministic in eval mode"
        )
    if _deviation(together[: len(plain)], plain) > _tolerance(plain):
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
    if output.shape != plain.shape:
        return float("inf")
    if not bool(plain.isfinite().all()):
        return 0.0
    scale = plain.abs().max().clamp_min(1e-12)
    deviation = float((output - plain).abs().max() / scale)
    return deviation if deviation == deviation else float("inf")


def _tolerance(plain: Tensor) -> float:
    return _ROUNDING.get(plain.dtype, _COARSE)
