"""Composites: named assignments of rules to operations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.registry import Registry
from lookalike.relevance.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZPlus

Kind = Literal["convolution", "linear"]


@dataclass(frozen=True)
class Composite:
    """Assigns a rule to each linear operation; other operations always have the same rule (see ``handlers``).

    Attributes:
        name: Its name in results.
        rules: The rule for ``"convolution"`` and for ``"linear"``.
        first: The rule for the first linear layer or convolution, whose inputs are pixels; None takes the usual rule.
            With such a rule, linear operations before that layer spread relevance evenly too.
        softmax: The rule for a softmax inside the network: its ``"jacobian"`` (AttnLRP), or ``"constant"`` weights
            (CP-LRP, Ali et al. 2022), so that no relevance reaches queries and keys.
    """

    name: str
    rules: Mapping[Kind, Rule] = field(default_factory=dict)
    first: Rule | None = None
    softmax: Literal["jacobian", "constant"] = "jacobian"

    def __post_init__(self) -> None:
        checks.text("name", self.name)
        checks.mapping("rules", self.rules)
        for kind, rule in self.rules.items():
            checks.one_of("the kind of operation", kind, ("convolution", "linear"))
            checks.instance(f"rules[{kind!r}]", rule, Rule, "a Rule")
        checks.one_of("softmax", self.softmax, ("jacobian", "constant"))
        checks.instance("first", self.first, (Rule, type(None)), "a Rule or None")

    def rule_for(self, kind: Kind, *, first: bool) -> Rule:
        """Returns the rule for an operation.

        Raises:
            LookalikeError: If the composite has none.
        """
        if first and self.first is not None:
            return self.first
        if kind not in self.rules:
            raise LookalikeError(
                f"the composite {self.name!r} has no rule for operations of the kind {kind!r}, and the network has "
                f"some: give rules={{{kind!r}: …}}"
            )
        return self.rules[kind]


COMPOSITES: Registry[Composite] = Registry("composite")

COMPOSITES.register("epsilon-plus-flat")(
    Composite("epsilon-plus-flat", {"convolution": ZPlus(), "linear": Epsilon()}, first=Flat())
)
COMPOSITES.register("epsilon")(Composite("epsilon", {"convolution": Epsilon(), "linear": Epsilon()}))
COMPOSITES.register("alpha1-beta0")(Composite("alpha1-beta0", {"convolution": AlphaBeta(), "linear": AlphaBeta()}))
COMPOSITES.register("gamma")(Composite("gamma", {"convolution": Gamma(), "linear": Gamma()}))
COMPOSITES.register("attnlrp")(Composite("attnlrp", {"convolution": Gamma(), "linear": Epsilon()}))

CP_LRP = Composite("cp-lrp", {"convolution": Gamma(), "linear": Epsilon()}, softmax="constant")
