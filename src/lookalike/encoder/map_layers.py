"""Finds the layers of a classifier that return feature maps, by running it: no names are assumed."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
_MOST_MISFIT = math.log(1.25)  # sizes that are no multiple of the stride are rounded up or down, so strides may differ


class NoMapError(LookalikeError):
    """Raised if a network has no feature map that is averaged before its head, nor tokens."""


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


def fits_layout(output: Tensor, layout: Layout) -> bool:
    """Says whether an output has the grid of a layout; images of another size have another grid."""
    if layout.kind == "tokens":
        return output.ndim == 3 and output.shape[1] == layout.prefix + layout.grid[0] * layout.grid[1]
    return grid_in_layout(output, layout) == layout.grid


def grid_in_layout(output: Tensor, layout: Layout) -> tuple[int, int] | None:
    """Returns height and width of the map that an output of a layout holds, of images of any size.

    Returns:
        None if it has other axes, or is one of tokens, whose number gives no grid.
    """
    if layout.kind == "tokens" or output.ndim != 4:
        return None
    return _four_axes(output, layout.kind).grid


def to_map(output: Tensor, layout: Layout) -> Tensor:
    """Returns a layer's output as a map [N, D, H, W]."""
    if layout.kind == "channels-first":
        return output
    if layout.kind == "channels-last":
        return output.permute(0, 3, 1, 2)
    tokens: Tensor = output[:, layout.prefix :].transpose(1, 2).unflatten(2, layout.grid)
    return tokens


def find_layers(encoder: Encoder, sample: Tensor, layers: str | Sequence[str]) -> dict[str, Layout]:
    """Returns the layers that ``layers`` stands for, the last one at the end, with the layouts of their outputs.

    See ``PatchEncoder``.

    Raises:
        LookalikeError: If there are none, a name is unknown, or what a layer returns is no map.
    """
    if isinstance(layers, str) and layers in (LAST, "b4", "b234"):
        run = _run(encoder, sample)
        last = run.last_layer()
        stages = run.stages(last) if layers == "b234" else [last]
        return {name: run.layout_of(name) for name in stages[-_STAGES:]}
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
    run = _run(encoder, sample, names)
    return {name: run.layout_of(name) for name in names}


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
    """Records the feature map that was averaged over its positions last.

    The average may be one operation or several, such as ``x.flatten(2).mean(2)`` or ``x.sum((2, 3)) / 49``: what an
    operation returns is compared with the averages of the maps that it takes, or else with that of the last map.

    Attributes:
        source: That map with its channels first or last; None without such an average.
        kind: Where its channels are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source: Tensor | None = None
        self.kind: Literal["channels-first", "channels-last"] = "channels-first"
        self._latest: Tensor | None = None  # the last map so far; None once its average was found

    def of_head(self, features: Tensor) -> Tensor | None:
        """Returns what a head's input is, or is the average of: a map of any layout, or tokens; None if neither."""
        return features if _has_positions(features) else self.source

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs)) if kwargs else tree_leaves(args)
        maps = [leaf for leaf in leaves if isinstance(leaf, Tensor) and _is_map(leaf)]
        if maps:
            self._latest = maps[0]  # what follows may be weights
        if isinstance(result, Tensor):
            for candidate in maps or ([] if self._latest is None else [self._latest]):
                axis = _pooled_channels(candidate, result)
                if axis is not None:
                    self.source, self._latest = candidate, None
                    self.kind = "channels-first" if axis == 1 else "channels-last"
            if _is_map(result):
                self._latest = result
        return result


def _is_map(tensor: Tensor) -> bool:
    """Says whether a tensor may be a feature map of several positions, with its channels first or last."""
    return tensor.ndim == 4 and _has_positions(tensor)


def _has_positions(features: Tensor) -> bool:
    """Says whether features are more than a vector for each image; [N, D, 1, 1] and [N, 1, D] are vectors."""
    return sum(size > 1 for size in features.shape[1:]) > 1


def _pooled_channels(before: Tensor, after: Tensor) -> int | None:
    """Returns the axis of the channels if the second tensor is the average of a feature map over its positions.

    Returns:
        1 for a map [N, D, H, W], 3 for [N, H, W, D]; None if it is no such average.
    """
    if not before.is_floating_point() or not after.is_floating_point():
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
        average = before.mean(positions).to(after.dtype)  # a network may average in another precision
        if torch.allclose(after.flatten(1), average, rtol=1e-3, atol=1e-5, equal_nan=True):
            return axis
    return None


@dataclass(frozen=True)
class _Run:
    """What the layers of a classifier returned in one pass.

    Attributes:
        outputs: Their outputs [N, ...], in the order of their last calls.
        last: The map that is averaged before the head, or the tokens or the map that the head takes; None if neither
            was found.
        last_layout: Its layout; None if it is no map.
        image_size: Height and width of the images.
        n_images: Their number.
    """

    outputs: dict[str, Tensor]
    last: Tensor | None
    last_layout: Layout | None
    image_size: tuple[int, int]
    n_images: int

    @cached_property
    def maps(self) -> dict[str, Layout]:
        """The layouts of the outputs that are maps: one for each image, not tables, or windows of images."""
        layouts: dict[str, Layout] = {}
        grids: set[tuple[int, int]] = set()  # of maps so far, such as that of the layer that makes tokens of an image
        for name, output in self.outputs.items():
            if len(output) != self.n_images:
                continue
            layout = self.last_layout if output is self.last else self._layout_or_none(output, grids)
            if layout is not None:
                layouts[name] = layout
                if layout.kind != "tokens":
                    grids.add(layout.grid)
        return layouts

    def layout_of(self, name: str) -> Layout:
        """Returns the layout of a layer's output.

        An output that no shape tells to be a map is read as its name asks for: with its channels where the last map
        has them.

        Raises:
            LookalikeError: If it is no map.
        """
        if name == LAST:
            if self.last_layout is not None:
                return self.last_layout
            raise _no_map()
        layout = self.maps.get(name)
        if layout is not None:
            return layout
        if name not in self.outputs:
            raise LookalikeError(f"the layer {name!r} gives no feature map for these inputs")
        output = self.outputs[name]
        if len(output) != self.n_images:
            raise LookalikeError(
                f"the layer {name!r} gives {len(output)} rows for {self.n_images} images, and so no map of each: name "
                "another layer"
            )
        if output.ndim == 4:
            are_last = self.last_layout is not None and self.last_layout.kind == "channels-last"
            layout = _four_axes(output, "channels-last" if are_last else "channels-first")
            if math.prod(layout.grid) > 1:
                return layout
        if output.ndim == 3 and _has_positions(output):
            raise LookalikeError(
                f"the layer {name!r} gives {output.shape[1]} tokens, which make no grid of the images' shape, whether "
                f"or not the first of them, up to {_MOST_PREFIX_TOKENS}, stand for the whole image; name another layer"
            )
        raise LookalikeError(
            f"the layer {name!r} gives an output of shape {tuple(output.shape[1:])}, which is no feature map larger "
            "than 1×1 (larger images make larger maps)"
        )

    def last_layer(self) -> str:
        """Returns the name of the layer of the last map: that which is pooled, or without one the last tokens.

        Raises:
            NoMapError: If there is neither.
        """
        if self.last is not None and self.last_layout is not None:
            same = [name for name, output in self.outputs.items() if output is self.last]
            return same[-1] if same else LAST
        tokens = [name for name, layout in self.maps.items() if layout.kind == "tokens"]
        if self.last is None and tokens:
            return tokens[-1]
        raise _no_map()

    def stages(self, last: str) -> list[str]:
        """Returns the last layer of each resolution, the coarsest and last at the end.

        In a network of one resolution, such as a vision transformer, it returns those after a half, three quarters and
        all of the layers of the deepest sequence of equal blocks.
        """
        by_grid: dict[tuple[int, int], str] = {}
        for name, layout in self.maps.items():
            by_grid.pop(layout.grid, None)
            by_grid[layout.grid] = name
        last_grid = self.layout_of(last).grid
        names = [name for grid, name in by_grid.items() if grid != last_grid]
        if names:
            return [*names, last]
        parents: dict[str, list[str]] = {}
        for name in self.maps:
            parent, _, position = name.rpartition(".")
            if position.isdecimal() or "layer" in position:
                parents.setdefault(parent, []).append(name)
        blocks = max(parents.values(), key=len, default=[])
        if len(blocks) < _STAGES + 1:
            return [last]
        return [blocks[len(blocks) // 2 - 1], blocks[3 * len(blocks) // 4 - 1], last]

    def _layout_or_none(self, output: Tensor, grids: Collection[tuple[int, int]]) -> Layout | None:
        """Returns the layout of an output, or None if it is no map.

        A map has about the image's aspect ratio. That tells channels first from channels last, and gives the grid of
        tokens. These can often be read as several grids: 30 are 5×6, or 5 tokens before 5×5. A grid that a map has had,
        such as that of the layer that makes the tokens, comes first, then the one with the most equal strides.
        """
        if output.ndim == 4:
            layouts = [_four_axes(output, kind) for kind in ("channels-first", "channels-last")]
            return min(filter(self._fits, layouts), key=self._misfit, default=None)
        if output.ndim != 3:
            return None
        layouts = []
        for prefix in range(_MOST_PREFIX_TOKENS + 1):
            n_tokens = int(output.shape[1]) - prefix
            of_maps = [grid for grid in grids if grid[0] * grid[1] == n_tokens]
            height = round((max(n_tokens, 0) * self.image_size[0] / self.image_size[1]) ** 0.5)
            by_shape = [(height, n_tokens // height)] if height > 0 and n_tokens % height == 0 else []
            layouts += [Layout("tokens", grid, prefix) for grid in (*of_maps, *by_shape)]
        return min(
            filter(self._fits, layouts),
            key=lambda layout: (layout.grid not in grids, self._misfit(layout), layout.prefix),
            default=None,
        )

    def _fits(self, layout: Layout) -> bool:
        """Says whether a layout is one of more than one position, and of about the shape of the image."""
        height, width = layout.grid
        if height * width <= 1 or height > self.image_size[0] or width > self.image_size[1]:
            return False
        return self._misfit(layout) <= _MOST_MISFIT

    def _misfit(self, layout: Layout) -> float:
        """Returns how far a map's strides down and across are from being equal, as a logarithm of their ratio.

        A network that has other strides down than across, or cuts off a part of the image, has them up to its last map.
        """
        ratio = self._log_ratio_of_strides(layout)
        of_last = 0.0 if self.last_layout is None else self._log_ratio_of_strides(self.last_layout)
        return max(ratio - max(of_last, 0), min(of_last, 0) - ratio, 0.0)

    def _log_ratio_of_strides(self, layout: Layout) -> float:
        return math.log(self.image_size[0] * layout.grid[1] / (self.image_size[1] * layout.grid[0]))


def _run(encoder: Encoder, sample: Tensor, names: Collection[str] = ()) -> _Run:
    """Runs the classifier, and keeps what its layers return; of layers of any kind if they are named."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim:
                outputs.pop(name, None)  # the order is that of the last calls
                outputs[name] = output

        return hook

    # softmax and dropout return attention weights [N, heads, tokens, tokens], which look like a map
    skipped = (torch.jit.ScriptModule, nn.Dropout, nn.Identity, nn.Softmax, nn.LogSoftmax)
    hooks = {
        module: keep(name)
        for name, module in encoder.model.named_modules()
        if name and (name in names or not isinstance(module, skipped))
    }
    with torch.no_grad(), Pooled() as pooled:
        features = with_forward_hooks(hooks, lambda: encoder.features(sample))
    run = _Run(outputs, None, None, (int(sample.shape[2]), int(sample.shape[3])), len(sample))
    if not _has_positions(features):
        if pooled.source is None:
            return run
        return replace(run, last=pooled.source, last_layout=_four_axes(pooled.source, pooled.kind))
    if features.ndim == 4:
        layouts = [_four_axes(features, kind) for kind in ("channels-first", "channels-last")]
        same = [layout for layout in layouts if is_average(to_map(features, layout), encoder.pool(features))]
        return replace(run, last=features, last_layout=(same or layouts)[0])
    grids = [layout.grid for layout in run.maps.values() if layout.kind != "tokens"]
    return replace(run, last=features, last_layout=run._layout_or_none(features, grids))


def _four_axes(output: Tensor, kind: Literal["channels-first", "channels-last"]) -> Layout:
    """Reads an output of four axes as a map."""
    height, width = output.shape[2:] if kind == "channels-first" else output.shape[1:3]
    return Layout(kind, (int(height), int(width)))


def _no_map() -> NoMapError:
    return NoMapError(
        "no feature map larger than 1×1 was found that is averaged before the network's head, and so no patches: name "
        "a layer that returns a map (layers=), or give larger images"
    )
