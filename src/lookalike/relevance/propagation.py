"""Computes relevance maps: one forward pass per batch, one backward pass per target."""

import contextlib
import sys
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lookalike._core.errors import LookalikeError, RelevanceError, UnfitInputsError, first_line, listing, warn_of
from lookalike._core.folding import is_watched
from lookalike._core.network_state import state_of
from lookalike._core.provenance import versions
from lookalike._core.recording import RECORDINGS, can_record
from lookalike._core.untouched import in_eval_mode, keeps_torch_settings
from lookalike.encoder.calls import is_out_of_memory, rows_at_once, take_rows
from lookalike.relevance.comparison import Run, compare, plain_pass
from lookalike.relevance.composites import COMPOSITES, Composite
from lookalike.relevance.engine import Engine
from lookalike.relevance.foreign import with_script_modules
from lookalike.relevance.names import LEFT, NO_RULE, UNSEEN, contents_of
from lookalike.relevance.numbers import share_on_one, with_numbers
from lookalike.relevance.plain_pass import PlainPass, ResultCache, Watch
from lookalike.relevance.result import Relevance, RuleUse

# Yields, for each target, the gradient g at the outputs [n, D] and the relevance [n] that it stands for. It is called
# with the outputs, their rows among all images, and these rows of ``RelevanceStart.chosen``.
Starts = Callable[[Tensor, slice, Tensor | None], Iterator[tuple[Tensor, Tensor]]]

_MOST_CHANNELS = 4  # of images [H, W, C]
_N_LISTED = 5


@dataclass(frozen=True)
class RelevanceStart:
    """Where relevance starts.

    Attributes:
        starts: Yields the gradients of all targets.
        chosen: What each image's targets are [N, M], on the images' device; None if the outputs alone decide.
        name: Says what ``run`` and ``starts`` compute for a network, so that it can be recorded on a GPU; None if they
            compute something else for other rows, or if it is not known.
    """

    starts: Starts
    chosen: Tensor | None = None
    name: Hashable | None = None


def propagate(
    model: nn.Module,
    x: Tensor,
    run: Run,
    start: RelevanceStart,
    composite: str | Composite,
    batch_size: int,
    strict: bool,
    *,
    plain: Tensor | None = None,
) -> Iterator[Relevance]:
    """Runs forward once per batch, and backward once per target; yields each batch's result.

    The maps are [n, M, C, H, W], for M targets per image. On a CUDA device, what is asked for repeatedly is recorded
    (``lookalike._core.recording``).

    Args:
        model: The network.
        x: Images [N, C, H, W].
        run: Runs the network on images; returns scores or embeddings [n, D].
        start: Where relevance starts.
        composite: The rules, by name or your own.
        batch_size: Most images per forward pass.
        strict: Whether an operation without a rule is an error.
        plain: The network's own outputs [N, D] for all images, to check the engine's against, if they are known. None
            runs the network once more, on the first image.

    Raises:
        RelevanceError: If the engine's output differs from the network's, if nothing can be propagated, an operation
            has no rule and ``strict`` is set, or, at the end, if a map has NaN values.
    """
    if not len(x):
        raise LookalikeError("there are no images to explain")
    rules = COMPOSITES[composite] if isinstance(composite, str) else composite
    explain = _Explainer(model, x, run, rules, strict, plain)
    batch_size = rows_at_once(x, batch_size, x.device)  # 6 images of 224² take a sixth less time each than 16
    warned: set[str] = set()
    are_nan: list[Tensor] = []
    channels_last = _has_channels_last(model, x)
    first = 0
    while first < len(x):
        n_rows = min(batch_size, len(x) - first)
        try:
            relevance = explain(slice(first, first + n_rows), start)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or n_rows == 1:
                raise
            relevance = None
        if relevance is None:  # not in the handler: there the error still refers to the failed pass's tensors
            batch_size = n_rows // 2
            RECORDINGS.forget_all()
            if x.device.type == "cuda":
                torch.cuda.empty_cache()
            warn_of(f"not enough memory for the maps of {n_rows} images at once; going on with {batch_size}")
            continue
        are_nan.append(relevance.residual.isnan().any(1))
        _warn_of_missing_rules(relevance, warned)
        yield replace(relevance, has_channels_last=True) if channels_last else relevance
        first += n_rows
    _check_numbers(torch.cat(are_nan), x)  # reading waits for a GPU, so it comes when all maps are asked for


def _has_channels_last(model: nn.Module, x: Tensor) -> bool:
    """Whether images are [N, H, W, C], with at most four channels, as far as the first convolution tells."""
    if x.ndim != 4 or not x.shape[-1] <= _MOST_CHANNELS < x.shape[1]:
        return False
    first = next((module for module in model.modules() if isinstance(module, _ConvNd)), None)
    return first is None or first.in_channels != x.shape[1]


def _check_numbers(is_nan: Tensor, x: Tensor) -> None:
    """Checks that no image's map has NaN values [N]: it would be drawn as a map without relevance."""
    if not bool(is_nan.any()):
        return
    rows = torch.nonzero(is_nan)[:, 0].tolist()
    finite = bool(x[rows].isfinite().all())
    cause = "the network's outputs for them, or what leads to these, are not finite"
    raise RelevanceError(
        f"there are no maps of the images in rows {listing([str(row) for row in rows], _N_LISTED)}: "
        f"{cause if finite else 'they have NaN or infinite values'}"
    )


class _Explainer:
    """Computes the maps of one batch after the other.

    The first batch is also a check: the engine's output is compared with that of the network's plain forward pass. The
    plain pass comes second, so that it can reuse the engine's results. If the engine met tensors of unknown origin, the
    plain pass also finds the network's constants, and the engine runs once more, with these::

        engine's pass ──▶ plain pass, reusing results ──▶ (engine's pass, with constants) ──▶ outputs equal?
    """

    def __init__(
        self, model: nn.Module, x: Tensor, run: Run, rules: Composite, strict: bool, plain: Tensor | None
    ) -> None:
        self._plain = plain
        self._model, self._x, self._run, self._rules, self._strict = model, x, run, rules, strict
        named, has_scripts = contents_of(model)
        self._names = {id(tensor): name for name, tensor in named}
        self._counted = [tensor for _, tensor in named if not tensor.is_inference()]  # those with version counters
        self._is_checked = False
        self._left: dict[str, str] = {}  # operations by which values leave torch
        self._share_by_numbers = 0.0
        self._watch: Watch | None = None
        # hooks for these slow down each module; others, which the model does not list, make tensors of unknown origin
        self._runs_scripts = has_scripts

    @keeps_torch_settings
    def __call__(self, rows: slice, start: RelevanceStart) -> Relevance:
        """Returns the maps of some rows of the images."""
        with _undisturbed(self._x.device):
            return in_eval_mode(self._model, lambda: self._maps(rows, start))

    def _maps(self, rows: slice, start: RelevanceStart) -> Relevance:
        inputs = [take_rows(self._x, rows), *([] if start.chosen is None else [start.chosen[rows]])]
        key = self._key(inputs, start)
        state = None if key is None else state_of(self._model)
        replayed = None if state is None else self._replayed(key, state, inputs, rows)
        if replayed is not None:
            return replayed
        relevance, computed, engine = self._plain_maps(inputs, rows, start)
        if state is not None and self._watch is None and not (engine.twins.exits or engine.twins.numbers):
            recorded = RecordedMaps(relevance, self._rules, met_autocast=engine.met_autocast)
            compute = self._computing(rows, start)
            RECORDINGS.ran(self._model, key, state, compute, inputs, recorded.tensors(relevance, computed), recorded)
        return relevance

    def _plain_maps(self, inputs: list[Tensor], rows: slice, start: RelevanceStart) -> tuple[Relevance, Tensor, Engine]:
        """Returns some rows' maps, the engine's outputs for them, and the engine."""
        batch, output, engine, plain = self._forward(rows)
        computed = engine.dependence.twin_of(output).detach()
        chosen = inputs[1] if len(inputs) > 1 else None
        try:
            with _naming_operation(engine):
                relevance = _backward(engine, output, batch, lambda out: start.starts(out, rows, chosen))
                return self._with_numbers(relevance), computed, engine
        finally:  # comparing reads values, and on a GPU that waits: so it comes when all of the map's work is given
            if plain is not None:
                compare(computed, plain, batch, self._run_of(engine.met_autocast))

    def _key(self, inputs: list[Tensor], start: RelevanceStart) -> Hashable | None:
        """Returns what stands for the maps of inputs of these shapes; None if they are not to be recorded."""
        if start.name is None or self._runs_scripts or not can_record(self._x.device) or is_watched(self._model):
            return None
        shapes = tuple((tuple(tensor.shape), tensor.dtype, tensor.device) for tensor in inputs)
        return start.name, id(self._rules), self._strict, shapes

    def _computing(self, rows: slice, start: RelevanceStart) -> Callable[..., list[Tensor]]:
        """Returns a function of images, and of what their targets are, that computes maps and nothing else."""

        def compute(images: Tensor, chosen: Tensor | None = None) -> list[Tensor]:
            batch = images.detach().clone().requires_grad_()
            engine = self._engine(batch)
            output = self._run_engine(engine, batch)
            computed = engine.dependence.twin_of(output).detach()
            relevance = _backward(engine, output, batch, lambda out: start.starts(out, rows, chosen))
            return RecordedMaps.tensors(relevance, computed)

        return compute

    def _replayed(self, key: Hashable, state: Any, inputs: list[Tensor], rows: slice) -> Relevance | None:
        """Returns recorded maps; None if there are none, or if the network now gives other outputs than these."""
        replayed = RECORDINGS.replay(self._model, key, state, inputs)
        if replayed is None:
            return None
        recorded: RecordedMaps = replayed.kept
        relevance, computed = recorded.relevance(replayed.results)
        if not self._is_checked or self._plain is not None:
            images, run = inputs[0], self._run_of(recorded.met_autocast)
            if self._plain is None or recorded.met_autocast:
                plain = plain_pass(images, run, None, finds_constants=False)[1]
            else:
                plain = self._plain[rows].to(images)
            try:
                compare(computed, plain, images, run)
            except RelevanceError:  # the plain way says whether that is the network's fault
                RECORDINGS.forget(self._model, key)
                return None
            self._is_checked = True
        return relevance

    def _forward(self, rows: slice) -> tuple[Tensor, Tensor, Engine, Tensor | None]:
        """Runs some rows; returns them, the network's output, its engine, and the output of the plain pass if any."""
        images = take_rows(self._x, rows)
        batch = images.detach().clone().requires_grad_()
        plain = None if self._plain is None else self._plain[rows].to(batch)
        if not self._is_checked:
            return self._first_forward(images, batch, plain)
        engine = self._engine(batch)
        output = self._run_engine(engine, batch)
        engine.twins.depend_on_pixels([output])
        if engine.twins.met_unknown_tensors:
            self._runs_scripts = True
            self._watch, _ = plain_pass(images, self._run_of(engine.met_autocast), None, finds_constants=True)
            engine, output = self._forward_with_constants(batch)
        return batch, output, engine, None if engine.met_autocast else plain  # that was known is in another precision

    def _first_forward(
        self, images: Tensor, batch: Tensor, plain: Tensor | None
    ) -> tuple[Tensor, Tensor, Engine, Tensor | None]:
        """Runs the first rows, and the network's plain pass if its outputs are not known or constants are needed."""
        # on a GPU, each comparison of recorded inputs would wait for the device
        recorded = ResultCache(len(batch)) if batch.device.type == "cpu" and plain is None else None
        versions = self._versions()
        engine, output = self._engine(batch, recorded), None
        try:
            output = self._run_engine(engine, batch)
            engine.twins.depend_on_pixels([output])  # tells whether the output itself is of unknown origin
        except Exception as error:  # if the network itself fails, the plain pass raises its error
            if is_out_of_memory(error):
                raise
        if self._versions() != versions:  # the network changes its weights as it runs
            recorded = None
        run = self._run_of(engine.met_autocast)
        plain = None if engine.met_autocast else plain  # what was known is in another precision
        needs_constants = output is None or engine.twins.met_unknown_tensors
        if needs_constants or plain is None:
            with _naming_own_casts(engine):
                self._watch, found = plain_pass(images, run, recorded, finds_constants=needs_constants)
            plain = found if plain is None else plain
        if output is None or needs_constants:
            self._runs_scripts = True
            engine, output = self._forward_with_constants(batch)
        self._is_checked = True
        self._left = engine.twins.exits | engine.twins.numbers
        if self._left:
            self._share_by_numbers = share_on_one(images, run)
        return batch, output, engine, plain

    def _with_numbers(self, relevance: Relevance) -> Relevance:
        """Adds what left torch to the rule table; refuses it if the engine is strict."""
        if not self._share_by_numbers:
            return relevance
        named = with_numbers(relevance, self._left, self._share_by_numbers)
        if self._strict and named is not relevance:
            use = named.rules[-1]
            raise RelevanceError(
                f"values leave torch by {use.operation!r} (after {use.where}) and decide the output, and no relevance "
                "follows them; keep them as tensors, or strict=False names them in the rule table"
            )
        return named

    def _forward_with_constants(self, batch: Tensor) -> tuple[Engine, Tensor]:
        """Runs the engine with the constants of a plain pass, by which it recognises results of unseen code."""
        engine = self._engine(batch)
        return engine, self._run_engine(engine, batch)

    def _engine(self, batch: Tensor, recorded: ResultCache | None = None) -> Engine:
        return Engine(self._rules, [batch], self._names, watch=self._watch, recorded=recorded, strict=self._strict)

    def _run_engine(self, engine: Engine, batch: Tensor) -> Tensor:
        """Runs the network under the engine; returns its output."""

        def run() -> Tensor:
            with engine:
                return self._run(batch)

        with _naming_operation(engine):
            return with_script_modules(engine, run) if self._runs_scripts else run()

    def _run_of(self, met_autocast: bool) -> Run:
        """Returns what runs the network in the precision of its weights, as the engine does."""
        if not met_autocast:
            return self._run

        def run(images: Tensor) -> Tensor:
            with PlainPass():
                return self._run(images)

        return run

    def _versions(self) -> list[int]:
        """Returns the version counters of the network's tensors, which writes in place increase."""
        return [tensor._version for tensor in self._counted]


class RecordedMaps:
    """What a recording of maps keeps of them: all but their numbers.

    Args:
        relevance: The maps of a plain computation.
        rules: The composite, whose identity stands in the recording's key.
        met_autocast: Whether the network switches autocast on.
    """

    def __init__(self, relevance: Relevance, rules: Composite, *, met_autocast: bool) -> None:
        self.rules, self.met_autocast = rules, met_autocast
        empty = relevance.maps.new_empty(0)
        self._names = list(relevance.unruled_by)
        self._template = replace(relevance, maps=empty, residual=empty, rules=list(relevance.rules), unruled_by={})

    @staticmethod
    def tensors(relevance: Relevance, computed: Tensor) -> list[Tensor]:
        """Returns the numbers of maps, and the engine's outputs."""
        return [computed, relevance.maps, relevance.residual, *relevance.unruled_by.values()]

    def relevance(self, tensors: list[Tensor]) -> tuple[Relevance, Tensor]:
        """Returns maps, and the engine's outputs, from their numbers."""
        computed, maps, residual, *shares = tensors
        named = dict(zip(self._names, shares, strict=True))
        template = self._template
        return replace(template, rules=list(template.rules), maps=maps, residual=residual, unruled_by=named), computed


@contextlib.contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Disables inference mode, autocasting and compilation of the caller, so that the network runs as it is."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _cause_of(error: RuntimeError) -> BaseException:
    """Returns the error of torch, behind that of a network that cannot run its inputs."""
    return error.__cause__ if isinstance(error, UnfitInputsError) and error.__cause__ is not None else error


@contextlib.contextmanager
def _naming_operation(engine: Engine) -> Iterator[None]:
    """Turns an error of torch into one that names the operation through which no relevance can be propagated."""
    try:
        yield
    except RuntimeError as error:
        cause = _cause_of(error)
        if is_out_of_memory(cause):
            raise
        message = first_line(cause)
        raise RelevanceError(
            f"no relevance can be propagated through the operation {engine.operation!r} (after {engine.uses.where}): "
            f"{message}"
        ) from error


@contextlib.contextmanager
def _naming_own_casts(engine: Engine) -> Iterator[None]:
    """Turns an error of a network that switches autocast on, run without it, into one that says so."""
    try:
        yield
    except RuntimeError as error:
        cause = _cause_of(error)
        if not engine.met_autocast or is_out_of_memory(cause):
            raise
        raise RelevanceError(
            "no relevance can be propagated: the network switches autocast on, and casts tensors itself so that it "
            f"cannot run in the precision of its weights ({first_line(cause)}); leave all casts to autocast"
        ) from error


def _backward(
    engine: Engine,
    output: Tensor,
    pixels: Tensor,
    starts: Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]],
) -> Relevance:
    """Propagates one target after the other through the graph behind an output."""
    out = engine.output_twin(output)
    table = engine.rule_table(out)
    maps_of_targets, residuals, shares = [], [], []
    target_starts = list(starts(out))
    for index, (gradient, initial_relevance) in enumerate(target_starts):
        engine.session.targets_left = len(target_starts) - index
        is_last = index == len(target_starts) - 1
        inputs = [pixels, *(leaf for leaf, _ in engine.uses.unruled.ends)]
        with torch.enable_grad():
            # A number needs no `grad_outputs`, for which torch imports SymPy: half a second of a short command.
            start = (out * gradient.to(out.dtype)).sum()
        at_pixels, *at_ends = torch.autograd.grad(start, inputs, retain_graph=not is_last, allow_unused=True)
        relevance_map = torch.zeros_like(pixels) if at_pixels is None else at_pixels
        engine.uses.unruled.measure_ends(at_ends)
        arrived_relevance = relevance_map.flatten(1).sum(1)
        maps_of_targets.append(relevance_map)
        residuals.append(
            (arrived_relevance - initial_relevance).abs()
            / initial_relevance.abs().clamp_min(torch.finfo(initial_relevance.dtype).tiny)
        )
        shares.append(engine.uses.unruled.shares(initial_relevance, arrived_relevance))
    uses = [RuleUse(*key, count) for key, count in table.items()]
    maps, residual = torch.stack(maps_of_targets, 1), torch.stack(residuals, 1)
    return Relevance(maps, residual, uses, engine.composite.name, versions(), _join_shares(shares, residual))


def _warn_of_missing_rules(relevance: Relevance, warned: set[str]) -> None:
    """Warns of operations without a rule, once per operation and call."""
    treatments = {
        NO_RULE: "has no relevance rule: its gradient is used",
        UNSEEN: "has no relevance rule: relevance ends there",
        LEFT: "takes values out of torch, where relevance cannot follow them; keep them as tensors",
    }
    for use in relevance.rules:
        if use.rule in treatments and use.operation not in warned:
            warned.add(use.operation)
            message, caution = f"{use.operation!r} {treatments[use.rule]}", relevance.caution
            warn_of(message if caution is None else f"{message}; {caution}")


def _join_shares(shares: list[dict[str, Tensor]], like: Tensor) -> dict[str, Tensor]:
    """Joins the shares of several targets, by operation; a target without an operation has the share 0."""
    zeros = like.new_zeros(len(like))
    joined = {}
    for name in dict.fromkeys(name for column in shares for name in column):
        columns = [column.get(name, zeros) for column in shares]
        joined[name] = torch.stack(columns, 1)
    return joined
