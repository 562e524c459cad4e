"""Patches: the positions of a classifier's feature maps, each an embedding of a part of the image.

An image has S = H · W patches of D dimensions. Its embedding is all of them in one row [S · D], so that everything that
stores, reads and checks embeddings works on patches too.

Source: paper, appendix A.7 (the last feature map before average pooling); several layers at once follow the abstract of
"Post-hoc Self-explanation of CNNs" (2026); how layers are found, resized and normalised is [ours].
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.draws import normal, seeded
from lookalike._core.errors import LookalikeError, UnfitInputsError, warn_of
from lookalike._core.extent import WHOLE, Extent
from lookalike._core.untouched import copy_of, with_forward_hooks
from lookalike.encoder.calls import device_of, dtype_of, place
from lookalike.encoder.cut import Encoder, blank_inputs
from lookalike.encoder.graphs import make_known
from lookalike.encoder.map_layers import (
    LAST,
    Pooled,
    find_layers,
    fits_layout,
    grid_in_layout,
    is_average,
    to_map,
    varied,
)
from lookalike.encoder.views import LayerView, Viewer

T = TypeVar("T")

Layers = str | Sequence[str]

_IMAGES_AT_ONCE = 32
_LEAST_FOR_PLACES = 4  # positions on a side: in a smaller map any position is near
_NEAR = 1.5  # positions: convolutions of random weights, at the border of a small map, answer that far away


class PatchEncoder(Encoder):
    """Returns the patches of images: the positions of one or several feature maps of a classifier.

    Several maps are resized to the finest by bilinear interpolation and joined channel by channel. Each is first
    divided by the root of the mean squared length of its positions' vectors, measured on ``sample``. So each layer has
    the same share in a squared distance on average, and none drowns the others. A single map stays as it is.

    Args:
        encoder: The classifier, cut at its head.
        sample: Inputs to run through it.
        layers: ``"last"``, the map that is averaged before the head (a transformer's last tokens); ``"b4"``, the last
            map of the last resolution; ``"b234"``, the last maps of the three last resolutions (of a network of one
            resolution, the outputs after a half, three quarters and all of its depth); or names of modules.
        scales: Factor of each layer; None measures them.

    Attributes:
        layers: Names of the layers.
        scales: Factor of each layer.
        grid: Height and width of the joined map (H, W).
        patch_dim: D, the number of channels of the joined map.
        embedding_dim: S · D.

    Raises:
        LookalikeError: If there is no map, or it is 1×1, or a name is unknown.
    """

    def __init__(
        self, encoder: Encoder, sample: Any, layers: Layers = LAST, *, scales: Sequence[float] | None = None
    ) -> None:
        checks.instance("encoder", encoder, Encoder, "an Encoder")
        nn.Module.__init__(self)
        make_known(self)
        image_encoder = encoder.image_encoder if isinstance(encoder, PatchEncoder) else encoder
        self.__dict__.update(image_encoder.__dict__)  # shares the classifier, as `with_outputs` does
        self.image_dim = image_encoder.embedding_dim
        sample = place(sample, device_of(encoder), dtype_of(encoder))
        if not isinstance(sample, Tensor) or sample.ndim != 4:
            raise LookalikeError("patches are parts of images: images [N, C, H, W] are needed")
        self.image_size = (int(sample.shape[2]), int(sample.shape[3]))
        self._image_spec = {"shape": list(sample.shape[1:]), "dtype": str(sample.dtype).removeprefix("torch.")}
        self._extent: Extent | None = None
        with torch.no_grad():
            self._layouts = find_layers(image_encoder, sample[:2], layers)
            self.layers = tuple(self._layouts)
            self.scales = tuple(1.0 for _ in self.layers)
            images, sample = sample, sample[:2]
            # A later operation may write into a layer's output, as an in-place ReLU does. That is part of the map that
            # is pooled; of others it is, if no module does it.
            self._is_live, self._read_at = len(self.layers) == 1, dict[str, str]()
            self._is_live = self._is_live and self._pools_to_image_embedding(sample)
            if not self._is_live:
                self._read_at = self._find_written(sample)
            maps = self._layer_maps(lambda: Encoder.features(self, sample))[0]
            height, width = max((layer_map.shape[2:] for layer_map in maps), key=lambda size: size[0] * size[1])
            self.grid = (int(height), int(width))
            if scales is not None:
                self.scales = tuple(float(scale) for scale in scales)
            elif len(maps) > 1:
                self.scales = self._measured_scales(images)
            self.patch_dim = sum(layer_map.shape[1] for layer_map in maps)
            self.embedding_dim = self.n_patches * self.patch_dim
            self.is_pooled = self._is_live
            if scales is None:
                self._warn_of_no_places(sample)

    def _measured_scales(self, images: Tensor) -> tuple[float, ...]:
        """Returns for each layer 1 / the root of the mean squared length of its positions' vectors."""
        squares = [
            torch.stack([layer_map.float().square().sum(1).mean((1, 2)) for layer_map in maps])
            for batch in images.split(_IMAGES_AT_ONCE)
            for maps in (self._layer_maps(partial(Encoder.features, self, batch))[0],)
        ]
        means = torch.cat(squares, 1).double().mean(1).tolist()
        return tuple(mean**-0.5 if mean > 0 else 1.0 for mean in means)

    def _warn_of_no_places(self, sample: Tensor) -> None:
        """Warns of layers whose positions are no places: where a part of an image changes, another position answers.

        A layer's shape alone does not tell a map from channels, attention weights or tokens in another order.
        """
        for number, name in enumerate(self.layers):
            offset = _offset_of(self, number, sample[:1], WHOLE)
            if offset is not None and self.extent != WHOLE:
                offset = _offset_of(self, number, sample[:1], self.extent)
            if offset is not None:
                warn_of(
                    f"the positions of the layer {name!r} may be no places in the image: where a part of it changes, "
                    f"the position that answers most lies {offset:.0f} positions away; name other layers (layers=)"
                )

    @property
    def n_patches(self) -> int:
        """S."""
        return self.grid[0] * self.grid[1]

    @property
    def image_encoder(self) -> Encoder:
        """The encoder of whole images that this one was made from."""
        encoder = Encoder.__new__(Encoder)
        encoder.__dict__.update(self.__dict__)
        encoder.embedding_dim = self.image_dim
        return encoder

    @override
    def _embed(self, inputs: Any) -> Tensor:
        """Returns the patches of each image in one row [N, S · D], row of the map by row; differentiable."""
        return _as_rows(self.maps(inputs))

    def maps(self, inputs: Any) -> Tensor:
        """Returns the joined maps [N, D, H, W]; differentiable."""
        maps, _ = self._layer_maps(lambda: Encoder.features(self, inputs))
        return self._joined(maps)

    def maps_and_embeddings(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Returns the joined maps [N, D, H, W] and the embeddings of the whole images [N, D'], from one pass."""
        maps, features = self._layer_maps(lambda: Encoder.features(self, inputs))
        return self._joined(maps), self.pool(features)

    @override
    def embed_and_score(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        maps, (_, scores) = self._layer_maps(lambda: self._run(inputs))
        return _as_rows(self._joined(maps)), scores

    @override
    def head(self, features: Tensor) -> Tensor:
        """Returns the class scores that the classifier computes from the head's input, or from patches [N, S · D].

        Raises:
            LookalikeError: If patches are given and the head's input is not their average.
        """
        if features.ndim == 2 and features.shape[1] == self.embedding_dim != self.image_dim:
            if not self.is_pooled:
                raise LookalikeError("the head's input is not the average of these patches")
            features = features.unflatten(1, (self.n_patches, self.patch_dim)).mean(1)
        return super().head(features)

    @property
    def head_weight(self) -> Tensor | None:
        """The weights [K, D] of a linear head, if its input is the average of the patches."""
        return Encoder.head_weight.fget(self.image_encoder) if self.is_pooled else None  # type: ignore[attr-defined]

    def views(self) -> list[LayerView]:
        """Returns what the positions of each layer see of the image.

        It is found by making bands of pixels NaN. A receptive field reaches the whole image if something before the
        position looks everywhere, such as attention.

        Raises:
            UnfitInputsError: If the network cannot run images with NaN pixels.
        """
        apart = self._apart()
        return [apart._viewer(name).view() for name in self.layers]

    @property
    def extent(self) -> Extent:
        """The part of the image that the cells of the joined map cover: top, left, bottom, right, as shares [4].

        See ``LayerView``. It is found once, by running the network. A network that runs no images with NaN pixels is
        taken to see the whole image evenly.
        """
        if self._extent is None:
            try:
                finest = next(name for name in self.layers if self._layouts[name].grid == self.grid)
                self._extent = self._apart()._viewer(finest).extent()
            except Exception:  # whatever error of its own a network raises on pixels that are no numbers
                self._extent = WHOLE
        return self._extent

    def _apart(self) -> "PatchEncoder":
        """Returns a copy that shares the weights alone: a network may keep numbers of its passes, also NaN."""
        apart = copy.copy(self)
        vars(apart)["_modules"] = self._modules | {"model": copy_of(self.model, self.model.parameters())}
        return apart

    def _viewer(self, name: str) -> Viewer:
        """Returns what runs the network to find what the positions of a layer see."""
        layout, number = self._layouts[name], self.layers.index(name)

        @torch.no_grad()
        def map_of(x: Tensor) -> Tensor:
            return self._layer_maps(lambda: Encoder.features(self, x))[0][number]

        @torch.no_grad()
        def grid_of(x: Tensor) -> tuple[int, int] | None:
            output = self._outputs(lambda: Encoder.features(self, x))[0].get(name)
            return None if output is None else grid_in_layout(output, layout)

        return Viewer(name, layout.grid, self._blank(), map_of, grid_of)

    def _blank(self) -> Tensor:
        blank: Tensor = place(blank_inputs(self._image_spec), device_of(self), dtype_of(self))
        if not blank.is_floating_point():  # whole numbers have no NaN
            raise UnfitInputsError("what positions see is found with NaN pixels, and the network takes whole numbers")
        return blank

    def boxes(self, positions: Tensor) -> Tensor:
        """Returns where positions lie in the image: top, left, bottom, right, as shares of height and width [..., 4].

        This is a position's cell of the grid, within the part of the image that the grid covers (``extent``). The
        network's receptive field at the position is larger [ours].

        Args:
            positions: Numbers of positions, row by row of the map.
        """
        rows, columns = self.grid
        row, column = positions.div(columns, rounding_mode="floor"), positions.remainder(columns)
        (first_row, last_row), (first_column, last_column) = self.extent.down, self.extent.across
        height, width = (last_row - first_row) / rows, (last_column - first_column) / columns
        corner = torch.stack([first_row + row * height, first_column + column * width], -1)
        return torch.cat([corner, corner + corner.new_tensor([height, width])], -1).clamp(0, 1)

    @override
    def extra_repr(self) -> str:
        """Shows the layers and the grid."""
        return f"layers={self.layers}, grid={self.grid}, patch_dim={self.patch_dim}"

    def _outputs(self, run: Callable[[], T]) -> tuple[dict[str, Tensor], T]:
        """Returns the output of each layer, and what ``run``, which calls the classifier, returns."""
        outputs: dict[str, Tensor] = {}
        written: dict[str, Tensor] = {}  # outputs that are read when the next module has run, or at the end

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                for layer in [layer for layer in written if self._read_at[layer] == name]:
                    outputs[layer] = written.pop(layer).clone()
                if not isinstance(output, Tensor) or name not in self.layers:
                    return
                if name in self._read_at:
                    written[name] = output
                else:
                    outputs[name] = output if self._is_live else output.clone()

            return hook

        names = {*self.layers, *self._read_at.values()} - {LAST}
        hooks = {self.model.get_submodule(name): keep(name) for name in names}
        with Pooled() if LAST in self.layers else nullcontext() as pooled:
            result = with_forward_hooks(hooks, run)
        outputs.update(written)
        if pooled is not None:
            features = result[0] if isinstance(result, tuple) else result
            last = pooled.of_head(features) if isinstance(features, Tensor) else pooled.source
            if isinstance(last, Tensor):
                outputs[LAST] = last
        return outputs, result

    def _layer_maps(self, run: Callable[[], T]) -> tuple[list[Tensor], T]:
        """Returns the map [N, D, h, w] of each layer, and what ``run``, which calls the classifier, returns."""
        outputs, result = self._outputs(run)
        maps = []
        for name in self.layers:
            if name not in outputs:
                raise LookalikeError(f"the layer {name!r} gives no feature map for these inputs")
            layout = self._layouts[name]
            if not fits_layout(outputs[name], layout):
                raise LookalikeError(
                    f"the images give the layer {name!r} an output of shape {tuple(outputs[name].shape[1:])}, which is "
                    f"no map of {layout.grid[0]}×{layout.grid[1]} patches, as images of "
                    f"{self.image_size[0]}×{self.image_size[1]} give: bring the images to that size"
                )
            maps.append(to_map(outputs[name], layout))
        return maps, result

    def _find_written(self, sample: Tensor) -> dict[str, str]:
        """Finds layers whose output a function changes in place before the next module runs.

        Such a change belongs to the layer, as in ``relu(norm(x), inplace=True)``. That of a module does not: it is a
        layer of its own. Later ones do not, either, such as what the next block adds in place.

        Returns:
            For each such layer the module that runs next, by which its output can be read; ``"last"`` if there is none.
        """
        read_at: dict[str, str] = {}
        watched: dict[str, tuple[Tensor, int]] = {}

        def watch(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                for layer, (tensor, version) in list(watched.items()):
                    is_same, is_written = output is tensor, tensor._version != version
                    if is_written and not is_same:
                        read_at[layer] = name
                    if is_written or not is_same:  # else it is a module around the layer
                        del watched[layer]
                if name in self.layers and isinstance(output, Tensor):
                    watched[name] = output, output._version

            return hook

        hooks = {
            module: watch(name)
            for name, module in self.model.named_modules()
            if name and not isinstance(module, torch.jit.ScriptModule)
        }
        with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode count no versions
            x = sample.clone()
            with_forward_hooks(hooks, lambda: Encoder.features(self, x))
        read_at.update({layer: LAST for layer, (tensor, version) in watched.items() if tensor._version != version})
        return read_at

    def _joined(self, maps: list[Tensor]) -> Tensor:
        """Scales maps, resizes them to the grid, and joins their channels."""
        if len(maps) == 1:
            return maps[0]
        resized = [
            layer_map if tuple(layer_map.shape[2:]) == self.grid else _resize(layer_map, self.grid)
            for layer_map in (scale * layer_map for scale, layer_map in zip(self.scales, maps, strict=True))
        ]
        return torch.cat(resized, 1)

    def _pools_to_image_embedding(self, sample: Tensor) -> bool:
        """Says whether the average over the patches of the only layer is the embedding of the whole image."""
        (layer_map,), features = self._layer_maps(lambda: Encoder.features(self, varied(sample)))
        return is_average(layer_map, self.pool(features))


_READERS: "WeakKeyDictionary[Encoder, dict[tuple[Any, ...], PatchEncoder]]" = WeakKeyDictionary()


def patch_reader(encoder: Encoder, x: Tensor) -> PatchEncoder:
    """Returns an encoder of the patches of images like ``x`` [n, C, H, W]: the averaged map, or the last tokens.

    To find the layer takes several passes of the network, so it is done once for each encoder and size of images.

    Raises:
        LookalikeError: If the network has no feature map.
    """
    if isinstance(encoder, PatchEncoder):
        return encoder
    of_encoder, key = _READERS.setdefault(encoder, {}), (tuple(x.shape[1:]), x.dtype, x.device)
    if key not in of_encoder:
        of_encoder[key] = PatchEncoder(encoder, x[:2])
    return of_encoder[key]


def _as_rows(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2).flatten(1)


def _resize(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    return nn.functional.interpolate(maps, size=grid, mode="bilinear", align_corners=False)


def _offset_of(encoder: PatchEncoder, layer: int, image: Tensor, extent: Extent) -> float | None:
    """Returns how far from a changed part of an image a layer's map changes most, in positions, if that is too far.

    Too far is a quarter of the map's shorter side, and more than one and a half: layers in which every position sees
    the whole image still answer most at the place itself, or beside it [ours].
    """
    with torch.no_grad():
        layer_map = encoder._layer_maps(lambda: Encoder.features(encoder, image))[0][layer]
        rows, columns = layer_map.shape[2:]
        if min(rows, columns) < _LEAST_FOR_PLACES:
            return None
        quarters = ((1, 3), (3, 1), (1, 2), (3, 2))  # none on the diagonal, where rows and columns are alike
        places = [(r * rows // 4, c * columns // 4) for r, c in quarters]
        noise = 1 + 2 * normal(image.shape, seeded(0xC311)).to(image)
        changed = image.repeat(len(places), 1, 1, 1)
        for number, (row, column) in enumerate(places):
            down = _pixels_of(row, int(rows), image.shape[2], *extent.down)
            across = _pixels_of(column, int(columns), image.shape[3], *extent.across)
            changed[number, :, down, across] = noise[0, :, down, across]
        answers = encoder._layer_maps(lambda: Encoder.features(encoder, changed))[0][layer] - layer_map
    largest, strongest_position = answers.norm(dim=1).flatten(1).max(1)
    if not bool((largest > 0).all()) or not bool(largest.isfinite().all()):
        return None
    strongest = strongest_position.tolist()
    offsets = [
        max(abs(position // int(columns) - row), abs(position % int(columns) - column))
        for position, (row, column) in zip(strongest, places, strict=True)
    ]
    offset = sum(offsets) / len(offsets)
    return offset if offset > max(_NEAR, min(rows, columns) / 4) else None


def _pixels_of(position: int, n: int, length: int, start: float, end: float) -> slice:
    """Returns the pixels of one of n cells that cover an axis of a length from one share of it to another."""
    first = int((start + position * (end - start) / n) * length)
    return slice(first, max(int((start + (position + 1) * (end - start) / n) * length), first + 1))
