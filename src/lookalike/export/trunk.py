"""The network up to its embedding, as a plain graph of operations, for any batch size."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from lookalike._core.draws import normal, seeded
from lookalike._core.errors import LookalikeError, first_line
from lookalike._core.untouched import copy_of, in_eval_mode, with_log_level
from lookalike.encoder import Encoder, device_of, dtype_of, place
from lookalike.encoder.head import get_head
from lookalike.encoder.map_layers import is_average, varied
from lookalike.encoder.outputs import select_output
from lookalike.encoder.patches import PatchEncoder

_LOGGERS = ("torch.export", "torch.fx", "torch._dynamo", "torch.fx.experimental", "torch._export")
_SAMPLE_ROWS = 2  # one row would let the tracer take the batch size for a constant


class _Trunk(nn.Module):
    """Runs a copy of a network and returns the input of its head, averaged over positions as the encoder does."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network = copy_of(encoder.model).eval()
        # the encoder averages the head's input over positions; it is asked, so that there is one rule
        self.pool = encoder.pool
        self.output_key = encoder.output_key
        if encoder.head_name is not None:
            outputs: list[Tensor] = []
            get_head(self.network, encoder.head_name).register_forward_pre_hook(
                lambda _module, args: outputs.append(args[0])
            )
            self.read: Callable[[], Tensor] | None = outputs.pop
        else:
            self.read = None

    def forward(self, inputs: Tensor) -> Tensor:
        result = self.network(inputs)
        features: Tensor = select_output(result, self.output_key) if self.read is None else self.read()
        return self.pool(features)


def trace_trunk(encoder: Encoder) -> tuple[fx.GraphModule, bool]:
    """Traces a network up to its embedding.

    Args:
        encoder: The cut network; it is copied.

    Returns:
        A module that takes inputs [N, …] and returns the embeddings [N, D] and, if these are the average of a feature
        map, that map [N, D, H, W]; and whether they are.

    Raises:
        LookalikeError: If the network cannot be traced: it takes several inputs, or branches on its data.
    """
    sample = _sample_of(encoder)
    trunk = _Trunk(encoder)
    graph = _traced(trunk, trunk.network, sample)
    averaged = _averaged_map(graph, varied(sample))
    if averaged is not None:
        output = next(node for node in graph.graph.nodes if node.op == "output")
        (embeddings,) = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
        output.args = ((embeddings, averaged),)
    return _plain(graph), averaged is not None


def trace_maps(encoder: PatchEncoder) -> fx.GraphModule:
    """Traces a network up to the maps of its patches.

    Args:
        encoder: The encoder of patches; it is copied.

    Returns:
        A module that takes images [N, C, H, W] and returns the joined maps [N, D, h, w].

    Raises:
        LookalikeError: If the network cannot be traced.
    """
    maps, sample = _Maps(encoder), varied(_sample_of(encoder))
    graph = _plain(_traced(maps, maps.encoder.model, sample))
    with torch.no_grad():
        expected, (found, *_) = encoder.maps(sample), _as_tuple(graph(sample))
    # which map is averaged shows in its values, and a tracer has none
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise LookalikeError(
            "the map that is averaged before the head is not found in the network's graph: convert with layers='b4', "
            "or name the layer"
        )
    return graph


class _Maps(nn.Module):
    """Runs a copy of a network and returns the joined maps of its patches."""

    def __init__(self, encoder: PatchEncoder) -> None:
        super().__init__()
        self.encoder = copy_of(encoder).eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.encoder.maps(inputs)


def _traced(module: nn.Module, network: nn.Module, sample: Tensor) -> fx.GraphModule:
    """Returns what a module does as a graph of operations, in eval mode of its network."""
    try:
        # torch.export logs whole graphs when it fails
        program = with_log_level(
            logging.CRITICAL, _LOGGERS, lambda: in_eval_mode(network, lambda: export_program(module, sample))
        )
        graph = program.module()
    except Exception as error:  # torch.export raises errors of a dozen classes
        raise LookalikeError(
            f"the network cannot be exported: torch.export says: {first_line(error)}; networks that branch on their "
            "data, or run code that torch does not see, have no plain graph"
        ) from error
    assert isinstance(graph, fx.GraphModule)  # of torch.export's own making
    _drop_guards(graph)
    return graph


def _as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def _plain(graph: fx.GraphModule) -> fx.GraphModule:
    """Returns a graph as a new module, without the hooks of torch.export's own and what the graph does not use."""
    graph.graph.set_codegen(fx.graph.CodeGen())  # the pytree codegen describes the former outputs
    graph.graph.eliminate_dead_code()
    return fx.GraphModule(graph, graph.graph)


def export_program(module: nn.Module, sample: Tensor) -> torch.export.ExportedProgram:
    """Returns a module that takes one tensor as a program for any number of rows; the sample has two.

    The first try runs the network's Python code; ``len(x)`` and numpy's arrays are closed to it. The second reads the
    code and follows both, which takes ten seconds more.
    """

    def export(*, strict: bool) -> torch.export.ExportedProgram:
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        return torch.export.export(module, (sample,), dynamic_shapes=dynamic, strict=strict)

    with torch.no_grad():
        try:
            return export(strict=False)
        except Exception:  # torch.export raises errors of a dozen classes
            with contextlib.suppress(Exception):
                return export(strict=True)
            raise


def _sample_of(encoder: Encoder) -> Tensor:
    described: Any = encoder.input_spec
    if "shape" not in described:
        raise LookalikeError("a network with several inputs cannot be exported; wrap it to take one tensor")
    generator = seeded(0)
    sample = normal((_SAMPLE_ROWS, *described["shape"]), generator)
    dtype = getattr(torch, described["dtype"])
    sample = sample.to(dtype) if dtype.is_floating_point else torch.zeros_like(sample, dtype=dtype)
    placed_sample: Tensor = place(sample, device_of(encoder.model), dtype_of(encoder.model))
    return placed_sample


def _drop_guards(graph: fx.GraphModule) -> None:
    """Removes checks of the inputs' shapes, and reads the batch size in a way that torch.jit.trace follows."""
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and "guards" in str(node.target):
            graph.graph.erase_node(node)
        elif node.target is torch.ops.aten.sym_size.int:
            with graph.graph.inserting_before(node):
                size = graph.graph.call_method("size", node.args)
            node.replace_all_uses_with(size)
            graph.graph.erase_node(node)


class _Values(fx.Interpreter):
    """Runs a graph and remembers each feature map [N, D, H, W] with more than one position."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.maps: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] * value.shape[3] > 1:
            self.maps[n] = value
        return value


def _averaged_map(graph: fx.GraphModule, sample: Tensor) -> fx.Node | None:
    """Returns the last feature map whose average over positions is the embedding; None if there is none."""
    values = _Values(graph)
    with torch.no_grad():
        result = values.run(sample)
    embeddings = result[0] if isinstance(result, tuple | list) else result
    for node, value in reversed(values.maps.items()):
        if is_average(value, embeddings):
            return node
    return None
