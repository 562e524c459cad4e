"""The relevance engine: which rule for which operation.

While a forward pass runs, a torch-function mode replaces the operations whose rule differs from their gradient
by autograd functions with the rule as backward. In the form "gradient × input" (R = a ⊙ g) all others need nothing. The
model has no hook, copy or flag of it: the mode sees functional and module calls alike.

In the pixel domain, that is before the first linear operation, gradients *are* relevance: pixels may be zero, so
R = a ⊙ g cannot be read off there.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from lookalike.errors import LookalikeError, warn_of
from lookalike.relevance.composites import Composite, Kind
from lookalike.relevance.functions import Ruled
from lookalike.relevance.handlers import HANDLERS
from lookalike.relevance.names import GRADIENT, NO_RULE, STRUCTURAL, changes_in_place, name_of, out_of_place
from lookalike.relevance.operations import Call, Convolution, Linear, Session
from lookalike.untouched import FunctionMode


class Engine(FunctionMode):
    """Runs a forward pass so that its backward pass propagates relevance.

    Args:
        composite: The rules.
        pixels: The network's inputs, which require gradients.
        names: What to call weights in the rule table.
        strict: Make an operation without a rule an error.

    Attributes:
        table: How often each (operation, where, rule) was met.
        session: Says how many backward passes are to come.
    """

    def __init__(
        self, composite: Composite, pixels: list[Tensor], names: dict[int, str], *, strict: bool = False
    ) -> None:
        super().__init__()
        self.composite = composite
        self.names = names
        self.strict = strict
        self.table: Counter[tuple[str, str, str]] = Counter()
        self.session = Session()
        self.where = "input"
        self.calls = WeakTensorKeyDictionary()  # outputs of linear operations → Call
        self._pixels = WeakTensorKeyDictionary()
        self._now = WeakTensorKeyDictionary()  # tensors changed in place → what they are now
        for tensor in pixels:
            self._pixels[tensor] = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        if name in ("get", "set", "delete"):  # attributes: shape, dtype, T, …
            result = func(*self._current(args), **kwargs)
            self._follow(args, result)
            return result
        args, kwargs = self._current(args), self._current(kwargs)
        if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            with torch.enable_grad():
                return self._run(func, name, args, kwargs)
        return self._run(func, name, args, kwargs)

    def _run(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        changes = changes_in_place(func, name, kwargs)
        if changes:
            target = args[0] if args else next(iter(kwargs.values()))
            func, kwargs = out_of_place(func, name), {k: v for k, v in kwargs.items() if k != "inplace"}
        result = self.by_name(func, name, args, kwargs)
        if changes and result is not target:
            self._now[target] = result
        return result

    # -- what every handler uses --

    def note(self, name: str, rule: str) -> None:
        """Files what was done in the rule table."""
        self.table[name, self.where, rule] += 1

    def in_pixels(self, *tensors: Any) -> bool:
        """Whether any of these tensors lies before the first linear operation."""
        return any(isinstance(tensor, Tensor) and tensor in self._pixels for tensor in tensors)

    def linear(self, kind: Kind, call: Call) -> Tensor:
        """Puts a linear operation with its rule into the graph."""
        first = self.in_pixels(call.source)
        rule = self.composite.rule_for(kind, first=first)
        self.where = self.names.get(id(call.weight), self.where)
        self.note(kind + (" + batch norm" if call.scale is not None else ""), rule.name)
        out: Tensor = Ruled.apply(call.source, call, rule, first)
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
        values = weight.detach() if weight.grad_fn else weight
        bias = None if bias is None else bias.detach()
        return self.linear(kind, Call(operation, x, values, bias, output, session=self.session))

    def mark_pixels(self, tensor: Tensor) -> None:
        """Says that a tensor lies before the first linear operation."""
        self._pixels[tensor] = True

    def by_name(self, func: Any, name: str, args: Any, kwargs: Any = None) -> Any:
        """Runs an operation by its handler, or by its gradient where it has none."""
        handler = HANDLERS.get(name, Engine.by_gradient)
        return handler(self, func, name, args, kwargs or {})

    def by_gradient(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Runs an operation whose gradient is its rule, or that has none."""
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if not outputs:
            return result
        self._follow((args, kwargs), result)
        rule = "structural" if name in STRUCTURAL else GRADIENT.get(name)
        if rule is None:
            self._no_rule(name)
        elif rule != "structural":
            self.note(name, rule)
        return result

    def _no_rule(self, name: str) -> None:
        if self.strict:
            raise LookalikeError(
                f"the operation {name!r} (after {self.where}) has no relevance rule; "
                "strict=False uses its gradient and names it in the rule table"
            )
        if not any(operation == name and rule == NO_RULE for operation, _, rule in self.table):
            warn_of(f"{name!r} has no relevance rule: its gradient is used")
        self.note(name, NO_RULE)

    def _follow(self, inputs: Any, result: Any) -> None:
        """Marks what was made of pixels alone."""
        if any(self.in_pixels(leaf) for leaf in tree_leaves(inputs)):
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._pixels[leaf] = True

    def _current(self, values: Any) -> Any:
        if not len(self._now):
            return values
        return tree_map(self._latest, values)

    def _latest(self, value: Any) -> Any:
        while isinstance(value, Tensor) and value in self._now:
            value = self._now[value]
        return value
