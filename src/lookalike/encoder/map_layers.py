"""Finds the layers of a classifier that return feature maps, by running it: no names are assumed."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lookalike._core import checks
from lookalike._core.draws import normal, seeded
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import FunctionMode, with_forward_hooks
from lookalike.encoder.cut import Encoder

LAST = "last"
_MOST_PREFIX_TOKENS = 8  # class token and registers before the tokens of the image
_STAGES = 3  # of "b234"


@dataclass(frozen=True)
class Layout:
    """How a layer's output holds its map.

    Attributes:
        kind: ``"channels-first"`` [N, D, H, W], ``"channels-last"`` [N, H, W, D], or
            ``"tokens"`` [N, prefix + H · W, D].
        grid: Height and width of the map.
        prefix: Number of tokens before those of the image.
    """

    kind: Literal["channels-first", "channels-last", "tokens"]
    grid: tuple[int, int]
    prefix: int = 0


def layout_of(output: Tensor, image_size: tuple[int, int]) -> Layout:
    """Returns the layout of a layer's output.

    A map has the image's aspect ratio. That distinguishes channels first from channels last, and gives the grid of
    tokens.

    Raises:
        LookalikeError: If it is no map, or one of 1×1.
    """
    layout = _layout_or_none(output, image_size)
    if layout is None:
        raise LookalikeError(
            f"an output of shape {tuple(output.shape[1:])} is no feature map larger than 1×1 "
            "(larger images make larger maps)"
        )
    return layout


def fits_layout(output: Tensor, layout: Layout) -> bool:
    """Says whether an output has the grid of a layout; images of another size have another grid."""
    if layout.kind == "tokens":
        return output.ndim == 3 and output.shape[1] == layout.prefix + layout.grid[0] * layout.grid[1]
    start = 2 if layout.kind == "channels-first" else 1
    return output.ndim == 4 and tuple(output.shape[start : start + 2]) == layout.grid


def to_map(output: Tensor, layout: Layout) -> Tensor:
    """Returns a layer's output as a map [N, D, H, W]."""
    if layout.kind == "channels-first":
        return output
    if layout.kind == "channels-last":
        return output.permute(0, 3, 1, 2)
    tokens: Tensor = output[:, layout.prefix :].transpose(1, 2).unflatten(2, layout.grid)
    return tokens


def find_layers(
    encoder: Encoder, sample: Tensor, layers: str | Sequence[str]
) -> tuple[tuple[str, ...], dict[str, Layout]]:
    """Returns the names of the layers that ``layers`` stands for, and the layouts of those that modules return.

    See ``PatchEncoder``.

    Raises:
        LookalikeError: If there are none, or a name is unknown.
    """
    if not isinstance(layers, str) or layers not in (LAST, "b4", "b234"):
        names = (layers,) if isinstance(layers, str) else tuple(checks.names("layers", layers))
        if not names:
            raise LookalikeError("layers names no layer: give 'last', 'b4', 'b234' or names of layers")
        modules = dict(encoder.model.named_modules())
        unknown = [name for name in names if name != LAST and (not name or name not in modules)]
        if unknown:
            examples = ", ".join([name for name, _ in encoder.model.named_children()][:8])
            raise LookalikeError(
                f"layers takes 'last', 'b4', 'b234' or names of layers; there is no {unknown[0]!r} (there are: "
                f"{examples}, …)"
            )
        outputs, _ = _run(encoder, sample)
    else:
        outputs, last_map = _run(encoder, sample)
        last = _last_of(outputs, last_map)
        stages = [last] if layers == LAST else _stages(outputs, last)
        names = tuple(stages[-_STAGES:] if layers == "b234" else stages[-1:])
    return names, {name: outputs[name].layout for name in names if name in outputs}


def varied(sample: Tensor) -> Tensor:
    """Returns noise of one input's shape, and 8 and −8 times it: a clamp or a ReLU after an average shows on them.

    Args:
        sample: Inputs [n, ...]; inputs of whole numbers are returned as they are.
    """
    if not sample.is_floating_point():
        return sample
    noise = normal((1, *sample.shape[1:]), seeded(0)).to(sample)
    return torch.cat([noise, 8 * noise, -8 * noise])


def is_average(maps: Tensor, embeddings: Tensor) -> bool:
    """Says whether embeddings [N, D] are the averages of feature maps [N, D, H, W] over their positions.

    The tolerance is relative, so that maps of small values are not taken for the average of anything.
    """
    if maps.shape[:2] != embeddings.shape:
        return False
    largest = float(embeddings.abs().max())
    if not math.isfinite(largest):
        return False
    return torch.allclose(maps.mean((2, 3)), embeddings, rtol=1e-3, atol=1e-5 * largest)


class Pooled(FunctionMode):
    """Records the input of the last operation that averages a feature map over its positions.

    Attributes:
        source: That input: a map with its channels first or last; None without such an operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source: Tensor | None = None
        self._channels_last = False

    @property
    def map(self) -> Tensor | None:
        """The map [N, D, H, W]."""
        return self.source.permute(0, 3, 1, 2) if self.source is not None and self._channels_last else self.source

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            for leaf in tree_leaves(args):
                axis = _pooled_channels(leaf, result) if isinstance(leaf, Tensor) else None
                if axis is not None:
                    self.source, self._channels_last = leaf, axis == 3
        return result


def _pooled_channels(before: Tensor, after: Tensor) -> int | None:
    """Returns the axis of the channels if the second tensor is the average of a feature map over its positions.

    Returns:
        1 for a map [N, D, H, W], 3 for [N, H, W, D]; None if it is no such average.
    """
    if before.ndim != 4 or after.ndim not in (2, 4):
        return None
    for axis, positions in ((1, (2, 3)), (3, (1, 2))):
        n_channels, n_positions = before.shape[axis], before.shape[positions[0]] * before.shape[positions[1]]
        is_map = n_positions > 1 and (axis == 1 or n_channels > 1)  # [N, D, 1, 1] is no map with its channels last
        if not is_map or n_channels not in after.shape[1:]:
            continue
        # shapes are compared, not lengths: whoever traces a network leaves the number of images open
        if after.shape[0] != before.shape[0] or after.numel() != before.shape[0] * n_channels:
            continue
        if torch.compiler.is_compiling():  # nothing has values then; who traces a network compares the result
            return axis
        if torch.allclose(after.flatten(1), before.mean(positions), rtol=1e-3, atol=1e-5, equal_nan=True):
            return axis
    return None


@dataclass(frozen=True)
class _Output:
    """A module's output that is a map: the tensor itself, to compare by identity, and its layout."""

    tensor: Tensor
    layout: Layout


def _run(encoder: Encoder, sample: Tensor) -> tuple[dict[str, _Output], Tensor | None]:
    """Runs the classifier; returns the maps that its modules return, in order, and the map that is pooled."""
    image_size = (int(sample.shape[2]), int(sample.shape[3]))
    outputs: dict[str, _Output] = {}
    grids: set[tuple[int, int]] = set()  # of maps so far, such as that of the layer that makes tokens of an image

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            layout = _layout_or_none(output, image_size, grids) if isinstance(output, Tensor) else None
            if layout is not None:
                if layout.kind != "tokens":
                    grids.add(layout.grid)
                outputs.pop(name, None)  # the order is that of the last calls
                outputs[name] = _Output(output, layout)

        return hook

    modules = {name: module for name, module in encoder.model.named_modules() if name}
    # softmax and dropout return attention weights [N, heads, tokens, tokens], which look like a map
    skipped = (torch.jit.ScriptModule, nn.Dropout, nn.Identity, nn.Softmax, nn.LogSoftmax)
    hooks = {module: keep(name) for name, module in modules.items() if not isinstance(module, skipped)}
    with torch.no_grad(), Pooled() as pooled:
        features = with_forward_hooks(hooks, lambda: encoder.features(sample))
    return outputs, features if features.ndim > 2 else pooled.source


def _last_of(outputs: dict[str, _Output], last_map: Tensor | None) -> str:
    """Returns the name of the layer of the last map: that which is pooled, or without one the last tokens."""
    if last_map is not None and (last_map.ndim != 4 or last_map.shape[2] * last_map.shape[3] > 1):
        same = [name for name, output in outputs.items() if output.tensor is last_map]
        return same[-1] if same else LAST
    tokens = [name for name, output in outputs.items() if output.layout.kind == "tokens"]
    if last_map is None and tokens:
        return tokens[-1]
    raise LookalikeError(
        "the network has no feature map larger than 1×1 that is averaged before its head, and so no patches "
        "(larger images make larger maps)"
    )


def _stages(outputs: dict[str, _Output], last: str) -> list[str]:
    """Returns the last layer of each resolution, the coarsest and last at the end.

    In a network of one resolution, such as a vision transformer, it returns those after a half, three quarters and all
    of the layers of the deepest sequence of equal blocks.
    """
    by_grid: dict[tuple[int, int], str] = {}
    for name, output in outputs.items():
        by_grid.pop(output.layout.grid, None)
        by_grid[output.layout.grid] = name
    names = list(by_grid.values())
    if last != LAST:
        grid = outputs[last].layout.grid
        names = [name for name in names if outputs[name].layout.grid != grid]
    else:
        names = names[:-1]
    if names:
        return [*names, last]
    parents: dict[str, list[str]] = {}
    for name in outputs:
        parent, _, position = name.rpartition(".")
        if position.isdecimal() or "layer" in position:
            parents.setdefault(parent, []).append(name)
    blocks = max(parents.values(), key=len, default=[])
    if len(blocks) < _STAGES + 1:
        return [last]
    return [blocks[len(blocks) // 2 - 1], blocks[3 * len(blocks) // 4 - 1], last]


def _layout_or_none(
    output: Tensor, image_size: tuple[int, int], grids: Collection[tuple[int, int]] = ()
) -> Layout | None:
    """Returns the layout of an output, or None if it is no map.

    Tokens can often be read as several grids: 30 are 5×6, or 5 tokens before 5×5. A grid that a map has had, such as
    that of the layer that makes the tokens, comes first, then the one with the most equal strides.
    """
    if output.ndim == 4:
        first, last = tuple(output.shape[2:]), tuple(output.shape[1:3])
        if _fits(first, image_size):
            return Layout("channels-first", first)  # type: ignore[arg-type]
        return Layout("channels-last", last) if _fits(last, image_size) else None  # type: ignore[arg-type]
    if output.ndim != 3:
        return None
    layouts = []
    for prefix in range(_MOST_PREFIX_TOKENS + 1):
        n_tokens = int(output.shape[1]) - prefix
        of_maps = [grid for grid in grids if grid[0] * grid[1] == n_tokens]
        height = round((max(n_tokens, 0) * image_size[0] / image_size[1]) ** 0.5)
        by_shape = [(height, n_tokens // height)] if height > 0 and n_tokens % height == 0 else []
        layouts += [Layout("tokens", grid, prefix) for grid in (*of_maps, *by_shape) if _fits(grid, image_size)]
    return min(
        layouts,
        key=lambda layout: (layout.grid not in grids, _difference_of_strides(layout.grid, image_size), layout.prefix),
        default=None,
    )


def _fits(grid: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Says whether a grid of more than one position has about the same stride down and across the image."""
    height, width = grid
    if height * width <= 1 or height > image_size[0] or width > image_size[1]:
        return False
    # sizes that are no multiple of the stride are rounded up or down, so the strides may differ a little
    return _difference_of_strides((height, width), image_size) <= 0.2


def _difference_of_strides(grid: tuple[int, int], image_size: tuple[int, int]) -> float:
    """Returns by which share the strides down and across the image differ."""
    down, across = image_size[0] / grid[0], image_size[1] / grid[1]
    return abs(down - across) / max(down, across)
