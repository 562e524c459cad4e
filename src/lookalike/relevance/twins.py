"""Which tensors depend on the pixels, and which twins stand for an operation's arguments in the relevance graph.

``dependence`` keeps faces and twins of the tensors that the engine has made itself. This module also knows the others::

    parameters, buffers         constants; their twins carry no gradient, and keep their names
    made by operations          constants, if no argument of the operation depends on the pixels
    numbers and masks           depend on the pixels, but have no gradient: relevance ends there, and is measured
    of unknown origin           constants of the network, or results of code that the engine does not see: see ``Watch``
"""

from typing import Any

import torch
from torch import Tensor, nn

from lookalike.relevance.dependence import Dependence, tensors_in
from lookalike.relevance.names import SHAPE_ONLY, UNSEEN
from lookalike.relevance.plain_pass import Watch
from lookalike.relevance.rule_uses import RuleUses
from lookalike.relevance.weak import TensorMap

OUTSIDE = "code that the engine does not see"


class Twins:
    """Tells which tensors depend on the pixels, and finds their twins.

    Args:
        dependence: The tensors that depend on the pixels.
        uses: The rules of operations.
        names: Names of the network's parameters and buffers, by identity.
        watch: The constants of the network, from a plain forward pass; with them, it recognises results of unseen code.

    Attributes:
        names: Names of parameters, buffers and their twins, by identity; ``name_of`` knows those of views, too.
        exits: Operations by which values left torch as arrays → where.
        numbers: Operations by which values left torch as single numbers → where.
        met_unknown_tensors: Whether there were tensors that only the constants of a plain pass can tell from results of
            unseen code.
    """

    def __init__(self, dependence: Dependence, uses: RuleUses, names: dict[int, str], watch: Watch | None) -> None:
        self.names = dict(names)
        self.exits: dict[str, str] = {}
        self.numbers: dict[str, str] = {}
        self.met_unknown_tensors = False
        self._dependence = dependence
        self._uses = uses
        self._watch = watch
        self._own_ids = names.keys()
        self._of_own: dict[int, tuple[Tensor, Tensor]] = {}  # parameters and buffers, and their twins
        self._ids_of_parameters: set[int] = set()
        self._views: TensorMap[str] = TensorMap()  # twins of views of parameters, such as a transposed weight

    def depend_on_pixels(self, tensors: list[Tensor]) -> bool:
        """Returns whether any of the tensors depends on the pixels; adds results of unseen code to the graph."""
        dependence, dependent = self._dependence, False
        twins, no_gradient = dependence.twins.by_id, dependence.non_differentiable.by_id
        for tensor in tensors:
            identity = id(tensor)
            if identity in twins or identity in no_gradient:
                dependent = True
            elif dependence.is_changed(tensor) and dependence.twin_of(tensor).requires_grad:
                dependent = True  # a buffer or constant into which pixels were written
            elif (
                identity not in self._own_ids
                and identity not in dependence.independent.by_id
                and self._is_unseen_result(tensor)
            ):
                self.add_unseen_result(tensor)
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
        return tensor._base is None or (tensor._base not in constants and id(tensor._base) not in self._own_ids)

    def add_results_of_constants(self, result: Any, *, from_outside: bool) -> None:
        """Adds the results of an operation whose arguments do not depend on the pixels.

        Args:
            result: The results.
            from_outside: Whether the operation makes tensors of values from outside torch. If values left torch before,
                these may be made from pixels.
        """
        for tensor in tensors_in(result):
            if from_outside and self.exits:
                self.add_unseen_result(tensor)
            else:
                self._dependence.independent[tensor] = True

    def add_unseen_result(self, tensor: Tensor) -> None:
        """Adds a result of unseen code to the graph: relevance ends there, and is measured."""
        if not tensor.is_floating_point():
            self._dependence.non_differentiable[tensor] = OUTSIDE
            return
        self._dependence.independent.pop(tensor)
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
                twin = self._uses.end_of_relevance(twin, name)
            else:
                twin = twin.view_as(twin)  # a node of its own, by which the rule table knows it
                self._uses.add_without_rule(name, [twin], rule)
        self._dependence.set_twin(face, twin)

    def twin(self, tensor: Tensor) -> Tensor:
        """Returns a tensor's twin; that of a parameter keeps its name."""
        identity = id(tensor)
        if identity in self._own_ids:
            return self._twin_of_own(tensor, identity)
        twin = self._dependence.twin_of(tensor)
        twin = twin.clone() if twin.is_inference() else twin
        base = tensor._base
        if base is not None and isinstance(base, nn.Parameter) and id(base) in self._own_ids:
            self._views[twin] = self.names[id(base)]
        return twin

    def _twin_of_own(self, tensor: Tensor, identity: int) -> Tensor:
        is_changed = self._dependence.is_changed(tensor)
        known = self._of_own.get(identity)
        if known is not None and known[0] is tensor and not is_changed:
            return known[1]
        twin = self._dependence.twin_of(tensor)
        if twin is not tensor and id(twin) not in self.names:
            self.names[id(twin)] = self.names[identity]
            if isinstance(tensor, nn.Parameter):
                self._ids_of_parameters.add(id(twin))
        if twin.is_inference():
            twin = twin.clone()
        if not twin.requires_grad and not is_changed:
            self._of_own[identity] = tensor, twin
        return twin

    def is_parameter(self, tensor: Any) -> bool:
        """Returns whether a tensor is a parameter of the network, trainable or frozen."""
        return isinstance(tensor, nn.Parameter) or id(tensor) in self._ids_of_parameters

    def is_view_of_parameter(self, tensor: Tensor) -> bool:
        """Returns whether a tensor shows a parameter in another form, such as transposed."""
        return tensor in self._views

    def name_of(self, tensor: Tensor) -> str | None:
        """Returns the name of the parameter or buffer that a tensor is, or is the twin or a view of; else None."""
        return self.names.get(id(tensor)) or self._views.get(tensor)

    def transpose(self, weight: Tensor) -> Tensor:
        """Transposes a weight, which keeps its name."""
        transposed, name = weight.t(), self.name_of(weight)
        if name is not None:
            self._views[transposed] = name
        return transposed

    def twin_with_end(self, tensor: Tensor) -> Tensor:
        """Returns a tensor's twin; for a mask or an index used as a value, an end of relevance."""
        twin = self.twin(tensor)
        if twin.requires_grad or tensor not in self._dependence.non_differentiable or not twin.is_floating_point():
            return twin
        return self._uses.end_of_relevance(twin, self._dependence.non_differentiable[tensor])

    def face_of_result(self, name: str, twin: Tensor, inputs: list[Tensor]) -> Tensor:
        """Returns the tensor that the network gets as an operation's result."""
        if twin.requires_grad:
            return self._dependence.new_face(twin)
        if name in SHAPE_ONLY:
            self._dependence.independent[twin] = True
            return twin
        non_differentiable = self._dependence.non_differentiable
        if any(tensor is twin and tensor in non_differentiable for tensor in inputs):
            return twin
        origins = [non_differentiable[tensor] for tensor in inputs if tensor in non_differentiable]
        non_differentiable[twin] = origins[0] if origins else name
        return twin
