"""Compares weights with a network: which prefix their names have, how many classes, and what is missing."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# names that data-parallel, compiled, sharded and checkpointed modules insert into the names of weights
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
_MAX_SEGMENTS = 60  # of a dotted name; longer names would make the search quadratic
_COUNTERS = ("num_batches_tracked",)  # may be missing: files of older torch versions lack them
_PROFILERS = ("total_ops", "total_params")  # buffers that a profiler of operations leaves in a network


@dataclass(frozen=True)
class Fit:
    """Weights under the names of a network.

    Attributes:
        prefix: The prefix that was removed from the names in the file.
        weights: Tensors by the network's names.
        left_out: Names in the file that do not start with the prefix.
        missing: Names that the network has and the weights lack.
        unexpected: Names that the weights have and the network lacks.
        reshaped: Names of weights whose shape differs from the network's.
    """

    prefix: str
    weights: dict[str, Tensor]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def is_full(self) -> bool:
        """Whether names and shapes are exactly the network's."""
        return not (self.missing or self.unexpected or self.reshaped)

    @property
    def n_matching(self) -> int:
        """Number of weights whose name and shape are in the network."""
        return len(self.weights) - len(self.unexpected) - len(self.reshaped)

    def sizes(self, expected: Mapping[str, Tensor]) -> dict[str, int]:
        """Returns the sizes with which the network would fit, if only the numbers of classes and channels differ.

        Args:
            expected: The network's state dict.

        Returns:
            ``classes`` and ``channels``, as far as they differ; empty if the weights do not fit for another reason.
        """
        if self.missing or self.unexpected:
            return {}
        pairs = [(tuple(expected[name].shape), tuple(self.weights[name].shape)) for name in self.reshaped]
        # a head with another number of classes differs in its rows, a first convolution in its axis 1
        heads = {(old[0], new[0]) for old, new in pairs if len(old) == len(new) > 0 and old[1:] == new[1:]}
        inputs = [
            (old, new) for old, new in pairs if len(old) == len(new) == 4 and old[0] == new[0] and old[2:] == new[2:]
        ]
        n_explained = sum(len(old) == len(new) > 0 and old[1:] == new[1:] for old, new in pairs) + len(inputs)
        if n_explained < len(pairs) or len(heads) > 1 or len(inputs) > 1:
            return {}
        classes, channels = [new for _, new in heads], [new[1] for _, new in inputs]
        return {name: sizes[0] for name, sizes in (("classes", classes), ("channels", channels)) if sizes}

    def resized_head(self, expected: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Returns the names of the reshaped weights that another number of classes explains; empty if none does."""
        rows = {}
        for name in self.reshaped:
            old, new = tuple(expected[name].shape), tuple(self.weights[name].shape)
            if len(old) == len(new) > 0 and old[1:] == new[1:]:
                rows[name] = (old[0], new[0])
        return tuple(rows) if len(set(rows.values())) == 1 else ()

    def missing_module(self, expected: Mapping[str, Tensor]) -> str | None:
        """Returns the name of the layer whose weights are all that is missing; None if anything else does not fit."""
        if self.unexpected or self.reshaped or not self.missing:
            return None
        modules = {name.rpartition(".")[0] for name in self.missing}
        module = modules.pop()
        weights_of_module = {name for name in expected if name.rpartition(".")[0] == module}
        return module or None if not modules and set(self.missing) == weights_of_module else None


def possible_fits(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Fit]:
    """Returns the ways in which weights fit a network, the best first.

    Names are matched after removing or adding a prefix, and without the names that wrappers insert:

        file       module.net.conv1.weight    module.net.fc.weight    loss.weight
        network               conv1.weight               fc.weight               prefix "module.net.", 1 left out

    Args:
        weights: Tensors by the file's names.
        expected: The network's state dict.
    """
    without_profilers = {name: tensor for name, tensor in weights.items() if not name.endswith(_PROFILERS)}
    unchanged = compare(without_profilers, expected)
    if unchanged.is_full:
        return [unchanged]
    variants = [without_profilers, _without_wrappers(without_profilers, expected)]
    candidates: list[Fit] = []
    for variant in variants[: 1 if variants[1] == without_profilers else 2]:
        candidates += [compare(variant, expected)]
        candidates += [_compare_below(prefix, variant, expected) for prefix in _prefixes(variant, expected)]
        candidates += [compare(renamed, expected) for renamed in _renamed(variant, expected)]
    candidates.sort(key=lambda fit: (-fit.is_full, -fit.n_matching, len(fit.unexpected) + len(fit.left_out)))
    return candidates


def compare(
    weights: dict[str, Tensor], expected: Mapping[str, Tensor], prefix: str = "", left_out: tuple[str, ...] = ()
) -> Fit:
    """Compares weights under the network's names with the network's state dict."""
    return Fit(
        prefix,
        weights,
        left_out,
        tuple(name for name in expected if name not in weights and not name.endswith(_COUNTERS)),
        tuple(name for name in weights if name not in expected),
        tuple(name for name in expected if name in weights and weights[name].shape != expected[name].shape),
    )


def same_weights(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Says whether two sets have the same names and numbers."""
    return first.keys() == second.keys() and all(_same_bytes(first[name], second[name]) for name in first)


def _same_bytes(first: Tensor, second: Tensor) -> bool:
    """Compares two tensors byte by byte: NaN equals itself, and types that torch cannot compare are compared too."""
    if first is second:
        return True
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    first_bytes, second_bytes = (tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (first, second))
    return torch.equal(first_bytes, second_bytes)


def _compare_below(prefix: str, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Fit:
    """Compares the weights whose names start with a prefix, without it."""
    below = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return compare(below, expected, prefix, tuple(name for name in weights if not name.startswith(prefix)))


def _prefixes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Returns up to eight prefixes; removing the first ones turns the most names into names of the network."""
    votes = Counter(name.removesuffix(end) for name in weights for end in _suffixes(name) if end in expected)
    return [prefix for prefix, _ in votes.most_common(8)]


def _suffixes(name: str) -> list[str]:
    """Returns a dotted name without its first segment, without its first two, and so on."""
    segments = name.split(".", _MAX_SEGMENTS)
    return [".".join(segments[i:]) for i in range(1, len(segments))]


def _without_wrappers(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes the segments that compiling and distributed training insert into names."""
    network_segments = {segment for name in expected for segment in name.split(".")}
    wrappers = WRAPPERS - network_segments
    unwrapped = {
        ".".join(segment for segment in name.split(".") if segment not in wrappers): tensor
        for name, tensor in weights.items()
    }
    return unwrapped if len(unwrapped) == len(weights) else dict(weights)


def _renamed(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yields weights with a prefix of the network's added, and weights that need different prefixes removed."""
    first = next(iter(weights), None)
    for prefix in {name.removesuffix(first) for name in expected if first and name.endswith("." + first)}:
        yield {prefix + name: tensor for name, tensor in weights.items()}
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        match = next((end for end in (name, *_suffixes(name)) if end in expected), None)
        if match is None or match in renamed:
            return
        renamed[match] = tensor
    yield renamed
