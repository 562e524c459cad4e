"""The relevance engine: runs a forward pass so that torch's backward pass propagates relevance.

**Gradient × input.** Relevance rules are written for relevance R, layer by layer. The engine propagates g = R / a in
its place, where a are the activations, so that R = a ⊙ g at every point of the network. Then many operations need no
rule at all. Take a sum c = a + b: relevance goes to a and b in proportion to what they contribute, R_a = R_c a / c.
Divided by a, this is g_a = R_c / c = g_c, which is exactly the gradient of a sum. The same is true for averages, max
pooling, ReLU, and for everything that only moves values.

So the engine replaces only those operations whose rule differs from their gradient: layers, most activations, products
and norms. It replaces them by autograd functions with the same values, and the rule as their backward::

    forward    x ────conv────▶ a ───relu────▶ b ──max pool──▶ c ────linear───▶ score
    backward   R ◀───rule───── g ◀─gradient── g ◀──gradient── g ◀────rule───── 1

A torch-function mode sees every torch call of the forward pass, in functions and modules alike. The model gets no hook,
copy or flag. The network itself runs on tensors without gradients; ``dependence`` explains how the graph is built
next to it, and ``pixels`` explains the difference before the first layer.

For each operation, ``Engine.run`` decides what to do::

    does it depend on the pixels? ──no──▶ run it as it is
          │ yes
    do values leave torch (numpy, float)? ──yes──▶ note where, run it as it is
          │ no
    replace its arguments by their twins; run its handler, or its gradient; give the network a face of the result
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lookalike._core.errors import RelevanceError
from lookalike.relevance.composites import Composite, Kind
from lookalike.relevance.dependence import Dependence, map_arguments, map_tensors, tensors_in, tensors_in_call
from lookalike.relevance.functions import LinearWithRule
from lookalike.relevance.handlers import CONSTANT_FACTORS, HANDLERS
from lookalike.relevance.names import (
    ELEMENTWISE,
    GRADIENT,
    LARGEST,
    LEAVES_AS_ARRAY,
    LEAVES_AS_VALUE,
    POOL,
    STRUCTURAL,
    VALUES_OF_FIRST,
    TorchFunction,
    by_position,
    known_function,
    out_of_place,
    raw_name,
)
from lookalike.relevance.operations import Call, Convolution, Linear, Session
from lookalike.relevance.own_precision import OwnPrecision
from lookalike.relevance.pixels import PixelDomain
from lookalike.relevance.plain_pass import ResultCache, Watch
from lookalike.relevance.rule_uses import RuleUse, RuleUses
from lookalike.relevance.twins import Twins
from lookalike.relevance.weak import TensorMap


class Engine(OwnPrecision):
    """Runs a forward pass so that its backward pass propagates relevance.

    The network runs without gradients; ``engine.output_twin`` returns its output with the relevance graph behind it.

    Args:
        composite: The rules.
        inputs: The network's inputs, which require gradients.
        names: Names of the network's parameters and buffers, by identity.
        watch: The constants of the network, from a plain forward pass; with them, the engine recognises results of code
            that it does not see.
        recorded: Keeps results of linear operations for a plain forward pass that is to follow.
        strict: Whether an operation without a rule is an error.

    Attributes:
        operation: Name of the running operation.
        session: Number of backward passes still to come.
        pixels: The tensors before the first layer.
        calls: Outputs of linear operations → the call that made them.
        dependence: The tensors that depend on the pixels, and their twins.
        twins: Finds the twins of all tensors, and the names of weights.
        uses: The rules of operations.
    """

    def __init__(
        self,
        composite: Composite,
        inputs: list[Tensor],
        names: dict[int, str],
        *,
        watch: Watch | None = None,
        recorded: ResultCache | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.composite = composite
        self.strict = strict
        self.session = Session()
        self.operation = ""
        self.calls: TensorMap[tuple[Kind, Call]] = TensorMap()
        self.pixels = PixelDomain(inputs, has_masks=composite.first is not None)
        self.dependence = Dependence(self.pixels.mark_view)
        self.uses = RuleUses(len(inputs[0]) if inputs and inputs[0].ndim else 1)
        self.twins = Twins(self.dependence, self.uses, names, watch)
        self._recorded = recorded
        for tensor in inputs:
            self.dependence.set_twin(tensor, tensor)

    def output_twin(self, output: Tensor) -> Tensor:
        """Returns the twin of the network's output, with the relevance graph behind it.

        Raises:
            RelevanceError: If it has no graph.
        """
        twin = self.dependence.twin_of(output)
        if twin.requires_grad:
            return twin
        origin, exits = self.dependence.non_differentiable.get(output), self.twins.exits
        if origin is None and not exits:
            raise RelevanceError("the class scores do not depend on the pixels, so there is no relevance")
        cut = f"{origin!r}" if origin is not None else ", ".join(map(repr, exits))
        raise RelevanceError(
            f"no relevance can be propagated: the class scores depend on the pixels through {cut} alone, "
            "which has no gradient"
        )

    def rule_table(self, output: Tensor) -> Counter[RuleUse]:
        """Ends the forward pass: counts the rules of the operations between the pixels and an output.

        Raises:
            RelevanceError: If an operation has no rule and the engine is strict.
        """
        return self.uses.table(output, strict=self.strict)

    @override
    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        known = known_function(func)
        if known.describes:
            return func(*args, **kwargs)
        if known.is_attribute:
            return self._attribute(func, known.raw, args)
        tensors = tensors_in_call(args, kwargs)
        of_values = tensors[:1] if known.name in VALUES_OF_FIRST else tensors
        if not self.twins.depend_on_pixels(of_values):
            result = func(*args, **kwargs)
            self.twins.add_results_of_constants(result, from_outside=known.comes_from_outside)
            return result
        if known.leaves_torch:
            return self._leave_torch(func, known.raw, args, kwargs)
        if known.is_passive:
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self._run_with_graph(func, known, args, kwargs, tensors)
        return self._run_with_graph(func, known, args, kwargs, tensors)

    def _run_with_graph(self, func: Any, known: TorchFunction, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        with torch.enable_grad():
            if known.raw == "__iter__":
                return iter(self._run(Tensor.unbind, "unbind", args, {}, tensors))
            if known.reshapes_in_place:
                return self._reshape_in_place(func, known.raw, args, kwargs)
            if known.changes_in_place or kwargs.get("inplace") or kwargs.get("out") is not None:
                return self._run_in_place(func, known, args, kwargs, tensors)
            return self._run(func, known.name, args, kwargs, tensors)

    def _run(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """Runs an operation on the twins of its arguments; returns faces of the results."""
        result = self._run_on_twins(func, name, args, kwargs)
        if type(result) is Tensor:
            return self.twins.face_of_result(name, result, tensors)
        return map_tensors(lambda twin: self.twins.face_of_result(name, twin, tensors), result)

    def _run_in_place(self, func: Any, known: TorchFunction, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """Runs an operation that writes its result into a tensor; returns that tensor."""
        target = kwargs.get("out")
        if target is None:
            target = args[0] if args else next(iter(kwargs.values()))
            func = func if kwargs.get("inplace") else out_of_place(func)
        kwargs = {key: value for key, value in kwargs.items() if key not in ("out", "inplace")}
        result = self._run_on_twins(func, known.name, args, kwargs)
        if not isinstance(target, Tensor) or not isinstance(result, Tensor):
            return map_tensors(lambda twin: self.twins.face_of_result(known.name, twin, tensors), result)
        if not result.requires_grad:
            self.twins.face_of_result(known.name, result, tensors)
        before = self.dependence.twin_of(target)
        if result is not before:
            memory = self.dependence.overwrite(target, before, result)
            self.pixels.mark_overwritten(memory, before, result)
            if not result.requires_grad:
                self.dependence.non_differentiable[target] = known.name
        return target

    def _run_on_twins(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Runs an operation on the twins of its arguments, with its rule."""
        self.operation = name
        if name in ("detach", "data", "alias"):  # the same values, and so the same relevance
            func, args, kwargs = Tensor.view_as, (args[0], args[0]), {}
        sources: list[Tensor] = []  # the twins with a graph behind them
        find_twin = self.twins.twin

        def twin_of(tensor: Tensor) -> Tensor:
            twin = find_twin(tensor)
            if twin.requires_grad:
                sources.append(twin)
            return twin

        twin_args, twin_kwargs = map_arguments(twin_of, args, kwargs)
        if not sources:
            return func(*twin_args, **twin_kwargs)
        if self.dependence.non_differentiable and name not in CONSTANT_FACTORS:
            twin_args, twin_kwargs = map_arguments(self.twins.twin_with_end, args, kwargs)
            sources = [tensor for tensor in tensors_in_call(twin_args, twin_kwargs) if tensor.requires_grad]
        if len(sources) > 1 and len({tensor in self.pixels for tensor in sources}) > 1:
            # some of them are in the pixel domain: R and g must not be mixed
            twin_args, twin_kwargs = map_arguments(self.pixels.leave, twin_args, twin_kwargs)
        return self.apply(func, name, twin_args, twin_kwargs)

    # -- used by handlers --

    def apply_rule(self, kind: Kind, call: Call) -> Tensor:
        """Puts an executed linear operation into the graph, with its rule; returns its output."""
        first = call.source in self.pixels
        rule = self.composite.rule_for(kind, first=first)
        self.uses.where = self.twins.name_of(call.weight) or self.uses.where
        if first:
            call.mask = self.pixels.mask_of(call.source)
        out: Tensor = LinearWithRule.apply(call.source, call, rule, first)
        self.uses.add(kind if call.scale is None else f"{kind} + batch norm", rule.name, out)
        self.calls[out] = (kind, call)
        return out

    def join_relu(self, x: Tensor, relu: Callable[[], Tensor]) -> Tensor | None:
        """Joins a ReLU with the linear operation that made its input; returns its output, or None if that cannot be.

        Where a ReLU gives 0 it returns no relevance, and elsewhere its output is its input. So the operation's rule can
        start at the ReLU's output, if values without relevance do not matter to it. What else reads x has its graph.

        Args:
            x: The ReLU's input.
            relu: Runs it.
        """
        executed = self.calls.get(x)
        if executed is None:
            return None
        kind, call = executed
        first = call.source in self.pixels
        rule = self.composite.rule_for(kind, first=first)
        if not rule.ignores_outputs_without_relevance:
            return None
        with torch.no_grad():
            joined = call.rectified(relu())
        out: Tensor = LinearWithRule.apply(call.source, joined, rule, first)
        self.uses.add_joined(out, x)
        return out

    def apply_linear(
        self, kind: Kind, operation: Convolution | Linear, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Runs a linear operation; puts it into the graph, with its rule, if its input depends on the pixels."""
        with torch.no_grad():
            output = operation.run(x, weight, bias)
        if not x.requires_grad:
            return output
        if self._recorded is not None:
            self._recorded.record(operation, x.detach(), weight, bias, output)
        return self.apply_rule(kind, Call(operation, x, weight, bias, output, session=self.session))

    def apply(self, func: Any, name: str, args: Any, kwargs: Any = None) -> Any:
        """Runs an operation by its handler, or with its gradient if it has none."""
        handler = HANDLERS.get(name, Engine.apply_gradient)
        if kwargs:
            args, kwargs = by_position(raw_name(func), args, kwargs)
        return handler(self, func, name, args, kwargs or {})

    def apply_gradient(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Runs an operation with its own gradient, because that is its rule or because it has none.

        In the pixel domain, where the backward pass carries R, a gradient is right only for operations that move or
        select values. The others pass R on, spread it, or end the domain.
        """
        rule = "structural" if name in STRUCTURAL else GRADIENT.get(name)
        sources = [tensor for tensor in tensors_in_call(args, kwargs) if tensor.requires_grad]
        starts_in_pixels = self.pixels.include(*sources)
        if starts_in_pixels:
            if rule is None and name in ELEMENTWISE and len(sources) == 1:
                rule = "pass"
            if rule == "pass":
                return self._pass_through(func, name, args, kwargs, sources[0])
            if rule == "proportional" and self.composite.first is not None:
                return self._spread(func, name, args, kwargs, sources)
            if rule not in ("structural", "winner takes all"):
                args, kwargs = map_arguments(self.pixels.leave, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            return self._run_without_graph(func, args, kwargs, error)
        if name == POOL and self._recorded is not None:
            self._recorded.record_pool(args, kwargs, result)
        outputs = [tensor for tensor in tensors_in(result) if tensor.requires_grad]
        if not outputs:
            return result
        if starts_in_pixels and self.pixels.include(*tensors_in_call(args, kwargs)):  # else they left the domain above
            if rule == "structural" or name in LARGEST:
                self.pixels.mark_moved(func, name, args, kwargs, outputs)
            else:
                for tensor in outputs:
                    self.pixels.mark(tensor)
        if rule is None:
            self.uses.add_without_rule(name, outputs)
        elif rule != "structural":
            self.uses.add(name, rule, outputs[0])
        return result

    # -- before the first layer --

    def _pass_through(self, func: Any, name: str, args: Any, kwargs: Any, source: Tensor) -> Any:
        with torch.no_grad():
            result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or result.shape != source.shape:
            return self._spread(func, name, args, kwargs, [source])
        out = self.pixels.pass_through(source, result)
        self.uses.add(name, "pass", out)
        return out

    def _spread(self, func: Any, name: str, args: Any, kwargs: Any, sources: list[Tensor]) -> Any:
        with torch.no_grad():
            values = func(*args, **kwargs)
        if not isinstance(values, Tensor):
            args, kwargs = map_arguments(self.pixels.leave, args, kwargs)
            return func(*args, **kwargs)
        out = self.pixels.spread(func, args, kwargs, values, sources)
        self.uses.add(name, "flat", out)
        return out

    # -- special operations --

    def _run_without_graph(self, func: Any, args: Any, kwargs: Any, error: Exception) -> Any:
        """Runs an operation that fails with gradients; raises the first error if it fails without them too."""
        args, kwargs = map_arguments(Tensor.detach, args, kwargs)
        with torch.no_grad():
            try:
                return func(*args, **kwargs)
            except Exception:
                raise error from None

    def _attribute(self, func: Any, raw: str, args: Any) -> Any:
        """Reads or sets a tensor's attribute; ``.data``, ``.T`` and the like are operations."""
        if not self.twins.depend_on_pixels(tensors_in(args)):
            result = func(*args)
            self.twins.add_results_of_constants(result, from_outside=False)
            return result
        if func.__name__ == "__set__" and raw == "data":
            with torch.enable_grad():
                self.dependence.overwrite(args[0], self.twins.twin(args[0]), self.twins.twin(args[1]))
            return None
        if raw in STRUCTURAL and func.__name__ == "__get__":
            with torch.enable_grad():
                return self._run(func, raw, args, {}, tensors_in(args))
        return func(*args)

    def _leave_torch(self, func: Any, raw: str, args: Any, kwargs: Any) -> Any:
        """Gives values to code outside torch; notes where, as they may come back."""
        args, kwargs = map_arguments(lambda tensor: self.dependence.twin_of(tensor).detach(), args, kwargs)
        if raw in LEAVES_AS_VALUE:
            self.twins.numbers.setdefault(raw.strip("_"), self.uses.where)
        if raw in LEAVES_AS_ARRAY:
            self.twins.exits.setdefault(raw.strip("_"), self.uses.where)
            # an array would share memory, and its changes go unseen
            args, kwargs = map_arguments(Tensor.clone, args, kwargs)
        return func(*args, **kwargs)

    def _reshape_in_place(self, func: Any, raw: str, args: Any, kwargs: Any) -> Any:
        """Runs an operation that changes how a tensor reads its memory (``t_``, ``squeeze_``) on twin and face."""
        if raw == "detach_":
            return args[0]
        twin = self.twins.twin(args[0])
        not_in_place = getattr(Tensor, raw.rstrip("_"))
        result = not_in_place(twin, *args[1:], **kwargs)
        if twin in self.pixels:
            self.pixels.mark_moved(not_in_place, raw.strip("_"), (twin, *args[1:]), kwargs, [result])
        func(*args, **kwargs)
        self.dependence.set_twin(args[0], result)
        return args[0]
