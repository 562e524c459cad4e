"""How weights fit a network: under which prefix, with how many classes, and what is missing."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
_MOST_PARTS = 60  # of a dotted name
_COUNTERS = ("num_batches_tracked",)  # may be missing: older files lack them
_PROFILERS = ("total_ops", "total_params")  # left in the network by a popular counter of operations


@dataclass(frozen=True)
class Fit:
    """Weights under the names of a network.

    Attributes:
        prefix: What came off their names.
        weights: By the network's names.
        left_out: Names that are not below the prefix.
        missing: Names that the network has and the weights lack.
        unexpected: Names that the network lacks.
        reshaped: Names of weights whose shape is another.
    """

    prefix: str
    weights: dict[str, Tensor]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def is_full(self) -> bool:
        """Whether every weight of the network is there, in its shape."""
        return not (self.missing or self.unexpected or self.reshaped)

    @property
    def n_matching(self) -> int:
        """Number of weights that have a place in the network, in their shape."""
        return len(self.weights) - len(self.unexpected) - len(self.reshaped)

    def sizes(self, expected: Mapping[str, Tensor]) -> dict[str, int]:
        """Reads sizes off weights whose only misfits are the rows of the head and the first layer's input channels.

        Returns:
            ``classes`` and ``channels``, whichever differ; nothing where the weights do not fit for another reason.
        """
        if self.missing or self.unexpected:
            return {}
        pairs = [(tuple(expected[name].shape), tuple(self.weights[name].shape)) for name in self.reshaped]
        heads = {(old[0], new[0]) for old, new in pairs if len(old) == len(new) > 0 and old[1:] == new[1:]}
        inputs = [
            (old, new) for old, new in pairs if len(old) == len(new) == 4 and old[0] == new[0] and old[2:] == new[2:]
        ]
        n_explained = sum(len(old) == len(new) > 0 and old[1:] == new[1:] for old, new in pairs) + len(inputs)
        if n_explained < len(pairs) or len(heads) > 1 or len(inputs) > 1:
            return {}
        classes, channels = [new for _, new in heads], [new[1] for _, new in inputs]
        found = {"classes": classes, "channels": channels}
        return {name: values[0] for name, values in found.items() if values}

    def missing_module(self, expected: Mapping[str, Tensor]) -> str | None:
        """Names the layer all of whose weights are missing, where nothing else is amiss."""
        if self.unexpected or self.reshaped or not self.missing:
            return None
        modules = {name.rpartition(".")[0] for name in self.missing}
        module = modules.pop()
        whole = {name for name in expected if name.rpartition(".")[0] == module}
        return module or None if not modules and set(self.missing) == whole else None


def fits(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Fit]:
    """Returns the ways in which weights fit a network, the best first.

    Any prefix may come off, or be put on, that makes the names the network's; wrappers' names come off anywhere.

    Args:
        weights: Tensors by the file's names.
        expected: The network's state dict.
    """
    given = {name: tensor for name, tensor in weights.items() if not name.endswith(_PROFILERS)}
    as_it_is = measure(given, expected)
    if as_it_is.is_full:
        return [as_it_is]
    variants = [given, _without_wrappers(given, expected)]
    ways: list[Fit] = []
    for variant in variants[: 1 if variants[1] == given else 2]:
        ways += [measure(variant, expected)]
        ways += [_below(prefix, variant, expected) for prefix in _prefixes(variant, expected)]
        ways += [measure(named, expected) for named in _renamed(variant, expected)]
    ways.sort(key=lambda way: (-way.is_full, -way.n_matching, len(way.unexpected) + len(way.left_out)))
    return ways


def measure(
    weights: dict[str, Tensor], expected: Mapping[str, Tensor], prefix: str = "", left_out: tuple[str, ...] = ()
) -> Fit:
    """Compares weights, under the network's names, with what the network expects."""
    return Fit(
        prefix,
        weights,
        left_out,
        tuple(name for name in expected if name not in weights and not name.endswith(_COUNTERS)),
        tuple(name for name in weights if name not in expected),
        tuple(name for name in expected if name in weights and weights[name].shape != expected[name].shape),
    )


def _below(prefix: str, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Fit:
    below = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return measure(below, expected, prefix, tuple(name for name in weights if not name.startswith(prefix)))


def _prefixes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Returns the prefixes, up to eight, below which the most names are the network's."""
    votes = Counter(name.removesuffix(end) for name in weights for end in _ends(name) if end in expected)
    return [prefix for prefix, _ in votes.most_common(8)]


def _ends(name: str) -> list[str]:
    """Returns what is left of a dotted name without its first parts, the longest first."""
    parts = name.split(".", _MOST_PARTS)
    return [".".join(parts[i:]) for i in range(1, len(parts))]


def _without_wrappers(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Takes off the names that compiling and distributed training put within names."""
    own = {part for name in expected for part in name.split(".")}
    wrappers = WRAPPERS - own
    named = {".".join(part for part in name.split(".") if part not in wrappers): t for name, t in weights.items()}
    return named if len(named) == len(weights) else dict(weights)


def _renamed(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yields weights under a prefix of the network's, and weights whose parts have different prefixes."""
    first = next(iter(weights), None)
    for prefix in {name.removesuffix(first) for name in expected if first and name.endswith("." + first)}:
        yield {prefix + name: tensor for name, tensor in weights.items()}
    named: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        match = next((end for end in (name, *_ends(name)) if end in expected), None)
        if match is None or match in named:
            return
        named[match] = tensor
    yield named
