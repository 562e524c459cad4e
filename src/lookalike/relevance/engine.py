"""The relevance engine: which rule for which operation.

While a forward pass runs, a torch-function mode replaces the operations whose rule differs from their gradient
by autograd functions with the rule as backward. In the form "gradient × input" (R = a ⊙ g) all others need nothing. The
model has no hook, copy or flag of it: the mode sees functional and module calls alike.

In the pixel domain, that is before the first layer, gradients *are* relevance: pixels may be zero, so R = a ⊙ g cannot
be read off there. See ``pixels``.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.errors import RelevanceError
from lookalike._core.untouched import FunctionMode
from lookalike.relevance.composites import Composite, Kind
from lookalike.relevance.dependence import Dependence, tensors_in, with_tensors
from lookalike.relevance.functions import Ruled, left_pixels, passed, spread
from lookalike.relevance.handlers import CONSTANT_FACTORS, HANDLERS
from lookalike.relevance.names import (
    COMES_FROM_OUTSIDE,
    ELEMENTWISE,
    GRADIENT,
    LEAVES_AS_ARRAY,
    LEAVES_AS_NUMBER,
    LINEAR,
    NO_RULE,
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
from lookalike.relevance.recorded import Recorded
from lookalike.relevance.unruled import Unruled
from lookalike.relevance.weak import OfTensors

OUTSIDE = "code that the engine does not see"


class Engine(FunctionMode):
    """Runs a forward pass so that its backward pass propagates relevance.

    The network runs without gradients; ``engine.graph_of`` returns its output with the relevance graph behind it.

    Args:
        composite: The rules.
        pixels: The network's inputs, which require gradients.
        names: The network's parameters and buffers, by identity, with their names.
        plain: What watched a plain forward pass; with it, results of code that the engine does not see are noticed.
        recorded: Where results are kept for a plain forward pass that is to follow.
        strict: Make an operation without a rule an error.

    Attributes:
        operation: The one that is running, and the weights of the last one that had any, in ``where``.
        session: Says how many backward passes are to come.
        unruled: Measures the relevance that goes through operations without a rule.
        without: Those operations, once the forward pass is finished: where they are, and what was done.
        unsure: Whether it met tensors that a plain forward pass would tell from results of code that it does not see.
    """

    def __init__(
        self,
        composite: Composite,
        pixels: list[Tensor],
        names: dict[int, str],
        *,
        plain: "Watch | None" = None,
        recorded: Recorded | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.composite = composite
        self.names = dict(names)
        self._plain = plain
        self._recorded = recorded
        self._state = names
        self._learned: set[int] = set()
        self.strict = strict
        self.session = Session()
        self.where = "input"
        self.operation = ""
        self.calls: OfTensors[tuple[Kind, Call]] = OfTensors()  # outputs of linear operations → Call
        self.dependence = Dependence(self._view_of_pixels)
        self.unruled = Unruled(len(pixels[0]) if pixels and pixels[0].ndim else 1)
        self.without: dict[str, tuple[str, str]] = {}
        self.unsure = False
        self.left: dict[str, str] = {}  # operations by which values left torch → where
        self._uses: list[tuple[tuple[str, str, str], Any]] = []
        self._pixels: OfTensors[bool] = OfTensors()
        for tensor in pixels:
            self._pixels[tensor] = True
            self.dependence.adopt(tensor, tensor)

    def graph_of(self, output: Tensor) -> Tensor:
        """Returns an output of the network with the relevance graph behind it.

        Raises:
            RelevanceError: If there is none.
        """
        twin = self.dependence.twin_of(output)
        if twin.requires_grad:
            return twin
        origin = self.dependence.choices.get(output)
        if origin is None and not self.left:
            raise RelevanceError("the class scores do not depend on the pixels, so there is no relevance")
        cut = f"{origin!r}" if origin is not None else ", ".join(map(repr, self.left))
        raise RelevanceError(
            f"no relevance can be propagated: the class scores depend on the pixels through {cut} alone, "
            "which has no gradient"
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        raw = raw_name(func)
        if is_attribute(func):
            return self._attribute(func, raw, args)
        tensors = tensors_in((args, kwargs))
        dependent = self._look_at(tensors)
        if not dependent:
            result = func(*args, **kwargs)
            if self.left and raw in COMES_FROM_OUTSIDE:
                for tensor in tensors_in(result):
                    self._outside(tensor)
            else:
                for tensor in tensors_in(result):
                    self.dependence.known[tensor] = True
            return result
        if raw in LEAVES_AS_NUMBER or raw in LEAVES_AS_ARRAY:
            return self._leave(func, raw, args, kwargs)
        if raw in ("requires_grad_", "retain_grad", "register_hook", "backward", "__repr__", "__hash__", "__format__"):
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self._with_graph(func, raw, args, kwargs, tensors)
        return self._with_graph(func, raw, args, kwargs, tensors)

    def _with_graph(self, func: Any, raw: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        with torch.enable_grad():
            if raw == "__iter__":
                return iter(self._run(Tensor.unbind, "unbind", args, {}, tensors))
            if raw in RESHAPES_IN_PLACE:
                return self._reshape_in_place(func, raw, args, kwargs)
            return self._run(func, name_of(func), args, kwargs, tensors)

    def _run(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        target = None
        if kwargs.get("out") is not None:
            target = kwargs["out"]
            kwargs = {key: value for key, value in kwargs.items() if key != "out"}
        elif changes_in_place(func, kwargs):
            target = args[0] if args else next(iter(kwargs.values()))
            func = out_of_place(func, kwargs)
            kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        self.operation = name
        if name in ("detach", "data", "alias"):  # the same values, and so the same relevance
            func, args, kwargs = _aliased, args[:1], {}
        twins = with_tensors(self._twin, (args, kwargs))
        if any(tensor.requires_grad for tensor in tensors_in(twins)):
            if self.dependence.choices and name not in CONSTANT_FACTORS:
                twins = with_tensors(self._twin_with_relevance, (args, kwargs))
            result = self.by_name(func, name, *self._in_one_domain(twins))
        else:
            result = func(*twins[0], **twins[1])
        shown = with_tensors(lambda twin: self._show(name, twin, tensors), result)
        if target is None:
            return shown
        if isinstance(target, Tensor) and isinstance(result, Tensor):
            before = self.dependence.twin_of(target)
            if result is not before:
                memory = self.dependence.change(target, before, result)
                if self.in_pixels(result):
                    self._pixels[memory] = True
                elif not result.requires_grad:
                    self.dependence.choices[target] = name
            return target
        return shown

    # -- what every handler uses --

    def note(self, name: str, rule: str, output: Tensor) -> None:
        """Files in the rule table by which rule relevance leaves an operation's output."""
        self._uses.append(((name, self.where, rule), output.grad_fn))

    def forget(self, output: Tensor) -> None:
        """Takes an operation out of the rule table: it has become part of the next one."""
        node = output.grad_fn
        self._uses = [use for use in self._uses if use[1] is not node]

    def finish(self, output: Tensor) -> Counter[tuple[str, str, str]]:
        """Ends the forward pass: returns the rule table of what lies between the pixels and an output.

        Returns:
            How often each (operation, where, rule) does.

        Raises:
            RelevanceError: If one has no rule and the engine is strict.
        """
        reached, waiting = set(), [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in reached:
                reached.add(node)
                waiting.extend(following for following, _ in node.next_functions)
        table = Counter(use for use, node in self._uses if node in reached)
        self._uses = []
        self.without = {name: (where, rule) for name, where, rule in reversed(table) if rule in (NO_RULE, UNSEEN)}
        if self.strict and self.without:
            name, (where, _) = next(iter(self.without.items()))
            raise RelevanceError(
                f"the operation {name!r} (after {where}) has no relevance rule; "
                "strict=False uses its gradient and names it in the rule table"
            )
        return table

    def in_pixels(self, *tensors: Any) -> bool:
        """Whether any of these tensors lies before the first layer."""
        return any(isinstance(tensor, Tensor) and tensor in self._pixels for tensor in tensors)

    def mark_pixels(self, tensor: Tensor) -> Tensor:
        """Says that a tensor lies before the first layer."""
        self._pixels[tensor] = True
        return tensor

    def pass_in_pixels(self, source: Tensor, values: Tensor) -> Tensor:
        """Passes relevance through something that happens to pixels one by one."""
        return self.mark_pixels(passed(source, values))

    def is_learned(self, tensor: Any) -> bool:
        """Says whether a tensor is a parameter of the network, trainable or frozen."""
        return isinstance(tensor, nn.Parameter) or id(tensor) in self._learned

    def linear(self, kind: Kind, call: Call) -> Tensor:
        """Puts a linear operation with its rule into the graph."""
        first = self.in_pixels(call.source)
        rule = self.composite.rule_for(kind, first=first)
        self.where = self.names.get(id(call.weight), self.where)
        out: Tensor = Ruled.apply(call.source, call, rule, first)
        self.note(kind + (" + batch norm" if call.scale is not None else ""), rule.name, out)
        self.calls[out] = (kind, call)
        return out

    def execute(
        self, kind: Kind, operation: Convolution | Linear, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Runs a linear operation, and puts it with its rule into the graph if its input depends on the pixels."""
        with torch.no_grad():
            output = operation.apply(x, weight, bias)
        if not x.requires_grad:
            return output
        if self._recorded is not None:
            self._recorded.file(operation, x.detach(), weight, bias, output)
        return self.linear(kind, Call(operation, x, weight, bias, output, session=self.session))

    def by_name(self, func: Any, name: str, args: Any, kwargs: Any = None) -> Any:
        """Runs an operation by its handler, or by its gradient where it has none."""
        handler = HANDLERS.get(name, Engine.by_gradient)
        return handler(self, func, name, args, kwargs or {})

    def by_gradient(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Runs an operation whose gradient is its rule, or that has none."""
        rule = "structural" if name in STRUCTURAL else GRADIENT.get(name)
        sources = [tensor for tensor in tensors_in((args, kwargs)) if tensor.requires_grad]
        starts_in_pixels = self.in_pixels(*sources)
        if starts_in_pixels:
            if rule is None and name in ELEMENTWISE and len(sources) == 1:
                rule = "pass"
            if rule == "pass":
                return self._pass_each(func, name, args, kwargs, sources[0])
            if rule == "proportional" and self.composite.first is not None:
                return self._spread(func, name, args, kwargs, sources)
            if rule not in ("structural", "winner takes all"):
                args, kwargs = with_tensors(self.leave_pixels, (args, kwargs))
        try:
            result = func(*args, **kwargs)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            return self._without_graph(func, args, kwargs, error)
        outputs = [tensor for tensor in tensors_in(result) if tensor.requires_grad]
        if not outputs:
            return result
        if starts_in_pixels and self.in_pixels(*tensors_in((args, kwargs))):  # else they have left the domain above
            for tensor in outputs:
                self._pixels[tensor] = True
        if rule is None:
            self.without_rule(name, outputs)
        elif rule != "structural":
            self.note(name, rule, outputs[0])
        return result

    def without_rule(self, name: str, outputs: list[Tensor], rule: str = NO_RULE) -> None:
        """Files and measures an operation that has no rule."""
        self.note(name, rule, outputs[0])
        for tensor in outputs:
            self.unruled.watch(tensor, name, self.where)

    def leave_pixels(self, tensor: Tensor) -> Tensor:
        """Ends the pixel domain: from here on relevance is R = a ⊙ g."""
        return left_pixels(tensor) if tensor in self._pixels else tensor

    # -- before the first layer --

    def _pass_each(self, func: Any, name: str, args: Any, kwargs: Any, source: Tensor) -> Any:
        with torch.no_grad():
            result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or result.shape != source.shape:
            return self._spread(func, name, args, kwargs, [source])
        out = self.pass_in_pixels(source, result)
        self.note(name, "pass", out)
        return out

    def _spread(self, func: Any, name: str, args: Any, kwargs: Any, sources: list[Tensor]) -> Any:
        with torch.no_grad():
            values = func(*args, **kwargs)
        if not isinstance(values, Tensor):
            args, kwargs = with_tensors(self.leave_pixels, (args, kwargs))
            return func(*args, **kwargs)
        out = self.spread_in_pixels(func, args, kwargs, values, sources)
        self.note(name, "flat", out)
        return out

    def spread_in_pixels(self, func: Any, args: Any, kwargs: Any, values: Tensor, sources: list[Tensor]) -> Tensor:
        """Spreads relevance evenly over the pixels that a linear operation on pixels mixes."""
        place = {id(source): position for position, source in enumerate(sources)}

        def on(*replaced: Tensor) -> Tensor:
            def fill(tensor: Tensor) -> Tensor:
                return replaced[place[id(tensor)]] if id(tensor) in place else _indicator(tensor)

            filled_args, filled_kwargs = with_tensors(fill, (args, kwargs))
            result: Tensor = func(*filled_args, **filled_kwargs)
            return result

        return self.mark_pixels(spread(values, on, sources))

    # -- following dependence --

    def _look_at(self, tensors: list[Tensor]) -> bool:
        """Says whether any of the tensors depends on the pixels; looks where unknown ones come from."""
        dependence, dependent = self.dependence, False
        for tensor in tensors:
            if dependence.has_twin(tensor) or tensor in dependence.choices:
                dependent = True
            elif id(tensor) not in self._state and tensor not in dependence.known:
                if dependence.twin_of(tensor).requires_grad:
                    dependent = True
                elif self._is_foreign(tensor):
                    self._outside(tensor)
                    dependent = True
            elif dependence.twin_of(tensor).requires_grad:
                dependent = True
        return dependent

    def _is_foreign(self, tensor: Tensor) -> bool:
        if not tensor.is_floating_point():
            return False
        if self._plain is None:
            self.unsure = True
            return False
        if tensor in self._plain.constants:
            return False
        constants = self._plain.constants
        return tensor._base is None or (tensor._base not in constants and id(tensor._base) not in self._state)

    def _outside(self, tensor: Tensor) -> None:
        """Takes in a tensor that came from code outside: its relevance is measured and goes no further."""
        if not tensor.is_floating_point():
            self.dependence.choices[tensor] = OUTSIDE
            return
        name = ", ".join(sorted(self.left)) or OUTSIDE
        self.dependence.known.pop(tensor)
        self.adopt(tensor, tensor.detach(), name, UNSEEN)

    def adopt(self, face: Tensor, twin: Tensor, name: str, rule: str) -> None:
        """Gives a tensor that other code made its place in the relevance graph."""
        with torch.inference_mode(False), torch.enable_grad():
            if twin.is_leaf:
                twin = self._ending(twin, name)
            else:
                twin = twin.view_as(twin)  # so that it has a node that is filed
                self.without_rule(name, [twin], rule)
        self.dependence.adopt(face, twin)

    def _ending(self, values: Tensor, name: str) -> Tensor:
        """Returns values at which relevance ends, and is measured."""
        leaf = values.detach().requires_grad_()
        twin = leaf.view_as(leaf)
        self.note(name, UNSEEN, twin)
        self.unruled.end(leaf, name, self.where)
        return twin

    def _twin(self, tensor: Tensor) -> Tensor:
        twin = self.dependence.twin_of(tensor)
        if twin is not tensor and id(tensor) in self.names and id(twin) not in self.names:
            self.names[id(twin)] = self.names[id(tensor)]
            if isinstance(tensor, nn.Parameter):
                self._learned.add(id(twin))
        if twin.is_inference():
            twin = twin.clone()
        return twin

    def _twin_with_relevance(self, tensor: Tensor) -> Tensor:
        """Returns a twin; of a value without a gradient, one that shows how much relevance ends there."""
        twin = self._twin(tensor)
        if twin.requires_grad or tensor not in self.dependence.choices or not twin.is_floating_point():
            return twin
        return self._ending(twin, self.dependence.choices[tensor])

    def _view_of_pixels(self, memory: Tensor, view: Tensor) -> Tensor:
        return self.mark_pixels(view) if memory in self._pixels else view

    def _in_one_domain(self, values: Any) -> Any:
        sources = [tensor for tensor in tensors_in(values) if tensor.requires_grad]
        if len(sources) < 2:
            return values
        inside = [tensor in self._pixels for tensor in sources]
        return with_tensors(self.leave_pixels, values) if any(inside) and not all(inside) else values

    def _show(self, name: str, twin: Tensor, inputs: list[Tensor]) -> Tensor:
        if twin.requires_grad:
            return self.dependence.shown(twin)
        if name in SHAPE_ONLY:
            self.dependence.known[twin] = True
            return twin
        for tensor in inputs:
            if tensor is twin and tensor in self.dependence.choices:
                return twin
        origins = [self.dependence.choices[tensor] for tensor in inputs if tensor in self.dependence.choices]
        self.dependence.choices[twin] = origins[0] if origins else name
        return twin

    def _without_graph(self, func: Any, args: Any, kwargs: Any, error: Exception) -> Any:
        """Runs an operation that cannot run with gradients."""
        values = with_tensors(Tensor.detach, (args, kwargs))
        with torch.no_grad():
            try:
                return func(*values[0], **values[1])
            except Exception:
                raise error from None

    def _attribute(self, func: Any, raw: str, args: Any) -> Any:
        if not self._look_at(tensors_in(args)):
            return func(*args)
        if func.__name__ == "__set__" and raw == "data":
            with torch.enable_grad():
                self.dependence.change(args[0], self._twin(args[0]), self._twin(args[1]))
            return None
        if raw in STRUCTURAL and func.__name__ == "__get__":
            with torch.enable_grad():
                return self._run(func, raw, args, {}, tensors_in(args))
        return func(*args)

    def _leave(self, func: Any, raw: str, args: Any, kwargs: Any) -> Any:
        values = with_tensors(lambda tensor: self.dependence.twin_of(tensor).detach(), (args, kwargs))
        if raw in LEAVES_AS_ARRAY and raw not in ("data_ptr", "untyped_storage", "storage"):
            self.left.setdefault(raw.strip("_"), self.where)
            values = with_tensors(Tensor.clone, values)  # arrays share memory: changes there must not go unseen
        return func(*values[0], **values[1])

    def _reshape_in_place(self, func: Any, raw: str, args: Any, kwargs: Any) -> Any:
        if raw == "detach_":
            return args[0]
        twin = self._twin(args[0])
        plain = getattr(Tensor, raw.rstrip("_"))
        result = plain(twin, *args[1:], **kwargs)
        if twin in self._pixels:
            self._pixels[result] = True
        func(*args, **kwargs)
        self.dependence.adopt(args[0], result)
        return args[0]


def _aliased(tensor: Tensor) -> Tensor:
    return tensor.view_as(tensor)


def _indicator(tensor: Tensor) -> Tensor:
    """Returns 1 for each coefficient that plays a part, 0 for the others."""
    return (tensor != 0).to(tensor.dtype) if tensor.is_floating_point() else tensor


class Watch(FunctionMode):
    """Collects, during a plain forward pass, the tensors that come from no operation.

    Args:
        inputs: The network's inputs.
        recorded: Results of linear operations that need not be computed again.

    Attributes:
        constants: Those tensors.
    """

    def __init__(self, inputs: list[Tensor], recorded: Recorded | None = None) -> None:
        super().__init__()
        self._recorded = recorded
        self.constants: OfTensors[bool] = OfTensors()
        self._made: OfTensors[bool] = OfTensors()
        self._held: list[Tensor] = []
        for tensor in inputs:
            self._made[tensor] = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors_in((args, kwargs)):
            if tensor not in self._made and tensor not in self.constants:
                self.constants[tensor] = True
                self._held.append(tensor)  # so that no other tensor takes its identity
        if self._recorded is not None and name_of(func) in LINEAR:
            with self._recorded:
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        for tensor in tensors_in(result):
            self._made[tensor] = True
        return result
