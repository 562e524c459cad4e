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

For each operation, ``Engine.__torch_function__`` decides what to do::

    does it depend on the pixels? ──no──▶ run it as it is
          │ yes
    do values leave torch (numpy, float)? ──yes──▶ note where, run it as it is
          │ no
    replace its arguments by their twins; run its handler, or its gradient; give the network a face of the result
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.errors import RelevanceError
from lookalike._core.untouched import FunctionMode
from lookalike.relevance.composites import Composite, Kind
from lookalike.relevance.dependence import Dependence, map_tensors, tensors_in
from lookalike.relevance.functions import LinearWithRule
from lookalike.relevance.handlers import CONSTANT_FACTORS, HANDLERS
from lookalike.relevance.names import (
    COMES_FROM_OUTSIDE,
    DESCRIBES,
    ELEMENTWISE,
    GRADIENT,
    LEAVES_AS_ARRAY,
    LEAVES_AS_NUMBER,
    NO_RULE,
    POOL,
    RESHAPES_IN_PLACE,
    SHAPE_ONLY,
    STRUCTURAL,
    UNSEEN,
    changes_in_place,
    is_attribute,
    name_of,
    out_of_place,
    raw_name,
)
from lookalike.relevance.operations import Call, Convolution, Linear, Session
from lookalike.relevance.pixels import PixelDomain
from lookalike.relevance.result_cache import ResultCache
from lookalike.relevance.rule_uses import RuleUses
from lookalike.relevance.unruled import Unruled
from lookalike.relevance.watch import Watch
from lookalike.relevance.weak import TensorMap

OUTSIDE = "code that the engine does not see"


class Engine(FunctionMode):
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
        where: Name of the weights of the last operation that had any.
        session: Number of backward passes still to come.
        pixels: The tensors before the first layer.
        calls: Outputs of linear operations → the call that made them.
        dependence: The tensors that depend on the pixels, and their twins.
        unruled: Measures the relevance that goes through operations without a rule.
        exits: Operations by which values left torch → where.
        met_unknown_tensors: Whether there were tensors that only the constants of a plain pass can tell from results of
            code that the engine does not see.
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
        self.weight_names = dict(names)
        self.session = Session()
        self.where = "input"
        self.operation = ""
        self.calls: TensorMap[tuple[Kind, Call]] = TensorMap()
        self.pixels = PixelDomain(inputs)
        self.dependence = Dependence(self.pixels.mark_view)
        self.unruled = Unruled(len(inputs[0]) if inputs and inputs[0].ndim else 1)
        self.met_unknown_tensors = False
        self.exits: dict[str, str] = {}
        self._watch = watch
        self._recorded = recorded
        self._own_tensors = names  # ids of parameters and buffers
        self._twins_of_parameters: set[int] = set()
        self._twins_of_own: dict[int, tuple[Tensor, Tensor]] = {}  # parameters and buffers, and their twins
        self._rules_used = RuleUses()
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
        origin = self.dependence.non_differentiable.get(output)
        if origin is None and not self.exits:
            raise RelevanceError("the class scores do not depend on the pixels, so there is no relevance")
        cut = f"{origin!r}" if origin is not None else ", ".join(map(repr, self.exits))
        raise RelevanceError(
            f"no relevance can be propagated: the class scores depend on the pixels through {cut} alone, "
            "which has no gradient"
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        raw = raw_name(func)
        if raw in DESCRIBES:
            return func(*args, **kwargs)
        if is_attribute(func):
            return self._attribute(func, raw, args)
        tensors = tensors_in((args, kwargs))
        if not self._depend_on_pixels(tensors):
            result = func(*args, **kwargs)
            if self.exits and raw in COMES_FROM_OUTSIDE:  # numpy had values, so this may be made from pixels
                for tensor in tensors_in(result):
                    self._add_unseen_result(tensor)
            else:
                for tensor in tensors_in(result):
                    self.dependence.independent[tensor] = True
            return result
        if raw in LEAVES_AS_NUMBER or raw in LEAVES_AS_ARRAY:
            return self._leave_torch(func, raw, args, kwargs)
        if raw in ("requires_grad_", "retain_grad", "register_hook", "backward", "__repr__", "__hash__", "__format__"):
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self._run_with_graph(func, raw, args, kwargs, tensors)
        return self._run_with_graph(func, raw, args, kwargs, tensors)

    def _run_with_graph(self, func: Any, raw: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        with torch.enable_grad():
            if raw == "__iter__":
                return iter(self._run(Tensor.unbind, "unbind", args, {}, tensors))
            if raw in RESHAPES_IN_PLACE:
                return self._reshape_in_place(func, raw, args, kwargs)
            return self._run(func, name_of(func), args, kwargs, tensors)

    def _run(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """Runs an operation on the twins of its arguments; returns a face, or the changed argument if in place."""
        target = None  # the tensor that is to hold the result
        if kwargs.get("out") is not None:
            target = kwargs["out"]
            kwargs = {key: value for key, value in kwargs.items() if key != "out"}
        elif changes_in_place(func, kwargs):
            target = args[0] if args else next(iter(kwargs.values()))
            func = out_of_place(func, kwargs)
            kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        self.operation = name
        if name in ("detach", "data", "alias"):  # the same values, and so the same relevance
            func, args, kwargs = Tensor.view_as, (args[0], args[0]), {}
        sources: list[Tensor] = []  # the twins with a graph behind them

        def twin_of(tensor: Tensor) -> Tensor:
            twin = self._twin(tensor)
            if twin.requires_grad:
                sources.append(twin)
            return twin

        twins = map_tensors(twin_of, (args, kwargs))
        if sources:
            if self.dependence.non_differentiable and name not in CONSTANT_FACTORS:
                twins = map_tensors(self._twin_with_end, (args, kwargs))
                sources = [tensor for tensor in tensors_in(twins) if tensor.requires_grad]
            result = self.apply(func, name, *self._in_one_domain(twins, sources))
        else:
            result = func(*twins[0], **twins[1])
        faces = map_tensors(lambda twin: self._face_of_result(name, twin, tensors), result)
        if target is None:
            return faces
        if isinstance(target, Tensor) and isinstance(result, Tensor):
            before = self.dependence.twin_of(target)
            if result is not before:
                memory = self.dependence.overwrite(target, before, result)
                if self.pixels.include(result):
                    self.pixels.mark(memory)
                elif not result.requires_grad:
                    self.dependence.non_differentiable[target] = name
            return target
        return faces

    # -- used by handlers --

    def record_rule(self, name: str, rule: str, output: Tensor) -> None:
        """Records in the rule table the rule of an operation with this output."""
        self._rules_used.add((name, self.where, rule), output)

    def drop_rule(self, output: Tensor) -> None:
        """Removes an operation from the rule table, as it has become a part of the next one."""
        self._rules_used.drop(output)

    def rule_table(self, output: Tensor) -> Counter[tuple[str, str, str]]:
        """Ends the forward pass: returns the rule table of the operations between the pixels and an output.

        Returns:
            Counts by (operation, where, rule).

        Raises:
            RelevanceError: If an operation has no rule and the engine is strict.
        """
        table = self._rules_used.behind(output)
        self._rules_used = RuleUses()
        without_rule = {name: where for name, where, rule in reversed(table) if rule in (NO_RULE, UNSEEN)}
        if self.strict and without_rule:
            name, where = next(iter(without_rule.items()))
            raise RelevanceError(
                f"the operation {name!r} (after {where}) has no relevance rule; "
                "strict=False uses its gradient and names it in the rule table"
            )
        return table

    def is_parameter(self, tensor: Any) -> bool:
        """Returns whether a tensor is a parameter of the network, trainable or frozen."""
        return isinstance(tensor, nn.Parameter) or id(tensor) in self._twins_of_parameters

    def apply_rule(self, kind: Kind, call: Call) -> Tensor:
        """Puts an executed linear operation into the graph, with its rule; returns its output."""
        first = self.pixels.include(call.source)
        rule = self.composite.rule_for(kind, first=first)
        self.where = self.weight_names.get(id(call.weight), self.where)
        out: Tensor = LinearWithRule.apply(call.source, call, rule, first)
        self.record_rule(kind + (" + batch norm" if call.scale is not None else ""), rule.name, out)
        self.calls[out] = (kind, call)
        return out

    def apply_linear(
        self, kind: Kind, operation: Convolution | Linear, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Runs a linear operation; puts it into the graph, with its rule, if its input depends on the pixels."""
        with torch.no_grad():
            output = operation.apply(x, weight, bias)
        if not x.requires_grad:
            return output
        if self._recorded is not None:
            self._recorded.record(operation, x.detach(), weight, bias, output)
        return self.apply_rule(kind, Call(operation, x, weight, bias, output, session=self.session))

    def apply(self, func: Any, name: str, args: Any, kwargs: Any = None) -> Any:
        """Runs an operation by its handler, or with its gradient if it has none."""
        handler = HANDLERS.get(name, Engine.apply_gradient)
        return handler(self, func, name, args, kwargs or {})

    def apply_gradient(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Runs an operation with its own gradient, because that is its rule or because it has none.

        In the pixel domain, where the backward pass carries R, a gradient is right only for operations that move or
        select values. The others pass R on, spread it, or end the domain.
        """
        rule = "structural" if name in STRUCTURAL else GRADIENT.get(name)
        sources = [tensor for tensor in tensors_in((args, kwargs)) if tensor.requires_grad]
        starts_in_pixels = self.pixels.include(*sources)
        if starts_in_pixels:
            if rule is None and name in ELEMENTWISE and len(sources) == 1:
                rule = "pass"
            if rule == "pass":
                return self._pass_through(func, name, args, kwargs, sources[0])
            if rule == "proportional" and self.composite.first is not None:
                return self._spread(func, name, args, kwargs, sources)
            if rule not in ("structural", "winner takes all"):
                args, kwargs = map_tensors(self.pixels.leave, (args, kwargs))
        try:
            result = func(*args, **kwargs)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            return self._run_without_graph(func, args, kwargs, error)
        if name == POOL and self._recorded is not None:
            self._recorded.record_pool(args, kwargs, result)
        outputs = [tensor for tensor in tensors_in(result) if tensor.requires_grad]
        if not outputs:
            return result
        if starts_in_pixels and self.pixels.include(*tensors_in((args, kwargs))):  # else they left the domain above
            for tensor in outputs:
                self.pixels.mark(tensor)
        if rule is None:
            self._record_without_rule(name, outputs)
        elif rule != "structural":
            self.record_rule(name, rule, outputs[0])
        return result

    def _record_without_rule(self, name: str, outputs: list[Tensor], rule: str = NO_RULE) -> None:
        """Records an operation without a rule, and measures the relevance that goes through it."""
        self.record_rule(name, rule, outputs[0])
        for tensor in outputs:
            self.unruled.watch(tensor, name, self.where)

    # -- before the first layer --

    def _pass_through(self, func: Any, name: str, args: Any, kwargs: Any, source: Tensor) -> Any:
        with torch.no_grad():
            result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or result.shape != source.shape:
            return self._spread(func, name, args, kwargs, [source])
        out = self.pixels.pass_through(source, result)
        self.record_rule(name, "pass", out)
        return out

    def _spread(self, func: Any, name: str, args: Any, kwargs: Any, sources: list[Tensor]) -> Any:
        with torch.no_grad():
            values = func(*args, **kwargs)
        if not isinstance(values, Tensor):
            args, kwargs = map_tensors(self.pixels.leave, (args, kwargs))
            return func(*args, **kwargs)
        out = self.pixels.spread(func, args, kwargs, values, sources)
        self.record_rule(name, "flat", out)
        return out

    def _in_one_domain(self, values: Any, sources: list[Tensor]) -> Any:
        """Makes arguments leave the pixel domain if only some of them are in it: R and g must not be mixed."""
        inside = {tensor in self.pixels for tensor in sources}
        return map_tensors(self.pixels.leave, values) if len(inside) > 1 else values

    # -- which tensors depend on the pixels --

    def _depend_on_pixels(self, tensors: list[Tensor]) -> bool:
        """Returns whether any of the tensors depends on the pixels; adds results of unseen code to the graph."""
        dependence, dependent = self.dependence, False
        for tensor in tensors:
            if dependence.has_twin(tensor) or tensor in dependence.non_differentiable:
                dependent = True
            elif dependence.is_changed(tensor) and dependence.twin_of(tensor).requires_grad:
                dependent = True  # a buffer or constant into which pixels were written
            elif (
                id(tensor) not in self._own_tensors
                and tensor not in dependence.independent
                and self._is_unseen_result(tensor)
            ):
                self._add_unseen_result(tensor)
                dependent = True
        return dependent

    def _is_unseen_result(self, tensor: Tensor) -> bool:
        """Returns whether a tensor of unknown origin is the result of unseen code, and no constant; see ``Watch``."""
        if not tensor.is_floating_point():
            return False
        if self._watch is None:
            self.met_unknown_tensors = True
            return False
        constants = self._watch.constants
        if tensor in constants:
            return False
        return tensor._base is None or (tensor._base not in constants and id(tensor._base) not in self._own_tensors)

    def _add_unseen_result(self, tensor: Tensor) -> None:
        """Adds a result of unseen code to the graph: relevance ends there, and is measured."""
        if not tensor.is_floating_point():
            self.dependence.non_differentiable[tensor] = OUTSIDE
            return
        self.dependence.independent.pop(tensor)
        self.add_result(tensor, tensor.detach(), ", ".join(sorted(self.exits)) or OUTSIDE, UNSEEN)

    def add_result(self, face: Tensor, twin: Tensor, name: str, rule: str) -> None:
        """Adds a tensor that code other than torch operations has made to the relevance graph.

        Args:
            face: The tensor as the network has it.
            twin: The same values, with a graph behind them if there is one.
            name: Name of that code in the rule table.
            rule: Its rule in the rule table.
        """
        with torch.inference_mode(False), torch.enable_grad():
            if twin.is_leaf:
                twin = self._end_of_relevance(twin, name)
            else:
                twin = twin.view_as(twin)  # a node of its own, by which the rule table knows it
                self._record_without_rule(name, [twin], rule)
        self.dependence.set_twin(face, twin)

    def _end_of_relevance(self, values: Tensor, name: str) -> Tensor:
        """Returns values at which relevance ends; how much does, is measured."""
        leaf = values.detach().requires_grad_()
        twin = leaf.view_as(leaf)
        self.record_rule(name, UNSEEN, twin)
        self.unruled.add_end(leaf, name, self.where)
        return twin

    def _twin(self, tensor: Tensor) -> Tensor:
        """Returns a tensor's twin; that of a parameter keeps its name."""
        known = self._twins_of_own.get(id(tensor))
        if known is not None and known[0] is tensor and not self.dependence.is_changed(tensor):
            return known[1]
        twin = self.dependence.twin_of(tensor)
        if twin is not tensor and id(tensor) in self.weight_names and id(twin) not in self.weight_names:
            self.weight_names[id(twin)] = self.weight_names[id(tensor)]
            if isinstance(tensor, nn.Parameter):
                self._twins_of_parameters.add(id(twin))
        if twin.is_inference():
            twin = twin.clone()
        if id(tensor) in self._own_tensors and not twin.requires_grad and not self.dependence.is_changed(tensor):
            self._twins_of_own[id(tensor)] = tensor, twin
        return twin

    def _twin_with_end(self, tensor: Tensor) -> Tensor:
        """Returns a tensor's twin; for a mask or an index used as a value, an end of relevance."""
        twin = self._twin(tensor)
        if twin.requires_grad or tensor not in self.dependence.non_differentiable or not twin.is_floating_point():
            return twin
        return self._end_of_relevance(twin, self.dependence.non_differentiable[tensor])

    def _face_of_result(self, name: str, twin: Tensor, inputs: list[Tensor]) -> Tensor:
        """Returns the tensor that the network gets as an operation's result."""
        if twin.requires_grad:
            return self.dependence.new_face(twin)
        if name in SHAPE_ONLY:
            self.dependence.independent[twin] = True
            return twin
        non_differentiable = self.dependence.non_differentiable
        if any(tensor is twin and tensor in non_differentiable for tensor in inputs):
            return twin
        origins = [non_differentiable[tensor] for tensor in inputs if tensor in non_differentiable]
        non_differentiable[twin] = origins[0] if origins else name
        return twin

    # -- special operations --

    def _run_without_graph(self, func: Any, args: Any, kwargs: Any, error: Exception) -> Any:
        """Runs an operation that fails with gradients; raises the first error if it fails without them too."""
        values = map_tensors(Tensor.detach, (args, kwargs))
        with torch.no_grad():
            try:
                return func(*values[0], **values[1])
            except Exception:
                raise error from None

    def _attribute(self, func: Any, raw: str, args: Any) -> Any:
        """Reads or sets a tensor's attribute; ``.data``, ``.T`` and the like are operations."""
        if not self._depend_on_pixels(tensors_in(args)):
            return func(*args)
        if func.__name__ == "__set__" and raw == "data":
            with torch.enable_grad():
                self.dependence.overwrite(args[0], self._twin(args[0]), self._twin(args[1]))
            return None
        if raw in STRUCTURAL and func.__name__ == "__get__":
            with torch.enable_grad():
                return self._run(func, raw, args, {}, tensors_in(args))
        return func(*args)

    def _leave_torch(self, func: Any, raw: str, args: Any, kwargs: Any) -> Any:
        """Gives values to code outside torch; notes where, if they may come back as an array."""
        values = map_tensors(lambda tensor: self.dependence.twin_of(tensor).detach(), (args, kwargs))
        if raw in LEAVES_AS_ARRAY and raw not in ("data_ptr", "untyped_storage", "storage"):
            self.exits.setdefault(raw.strip("_"), self.where)
            values = map_tensors(Tensor.clone, values)  # an array would share memory, and its changes go unseen
        return func(*values[0], **values[1])

    def _reshape_in_place(self, func: Any, raw: str, args: Any, kwargs: Any) -> Any:
        """Runs an operation that changes how a tensor reads its memory (``t_``, ``squeeze_``) on twin and face."""
        if raw == "detach_":
            return args[0]
        twin = self._twin(args[0])
        not_in_place = getattr(Tensor, raw.rstrip("_"))
        result = not_in_place(twin, *args[1:], **kwargs)
        if twin in self.pixels:
            self.pixels.mark(result)
        func(*args, **kwargs)
        self.dependence.set_twin(args[0], result)
        return args[0]
