"""Smaller files: an exported network in 16-bit floats or 8-bit integers, with what that changes, measured."""

import json
import logging
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, first_line
from lookalike._core.fresh_folder import check_replaceable, fresh_folder
from lookalike._core.records import parse_json, read_bytes
from lookalike._core.untouched import with_log_level

_BATCH = 32  # inputs at once, for the calibration and the comparison
_SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note of the modules that a node comes from
_HEAVY = ("Conv", "Gemm", "MatMul")  # the operations that are computed in integers
_MARKER = "prototypes.json"
_LEAST_AGREEMENT = 0.95  # of the answers; a file that keeps fewer gets a warning


@dataclass(frozen=True)
class Quantised:
    """What a smaller file answers otherwise than the full one, on given inputs.

    Attributes:
        precision: ``"float16"`` or ``"int8"``.
        n_inputs: Number of inputs that both answered.
        agreement: Share with the same predicted class.
        same_prototype: Share with the same nearest prototype.
        same_familiarity: Share with the same verdict *unfamiliar*.
        same_set: Share with the same set of classes and the same choice to answer; None if the model is not calibrated.
        probability_change: Largest difference of a class probability.
        changes: How often an input's nearest prototype changed from one number to another: (from, to, count), the most
            frequent first.
        bytes: Size of the file.
        bytes_before: Size of the full file.
    """

    precision: str
    n_inputs: int
    agreement: float
    same_prototype: float
    same_familiarity: float
    probability_change: float
    changes: list[tuple[int, int, int]]
    bytes: int
    bytes_before: int
    same_set: float | None = None

    def sentence(self) -> str:
        """Says it in a sentence."""
        changed = "".join(f"; prototype {a} became {b} {count}×" for a, b, count in self.changes[:3])
        if self.same_set is not None:
            changed += f"; {self.same_set:.1%} keep their set of classes, and its coverage is promised of the full file"
        said = (
            f"{self.precision}: {self.bytes / self.bytes_before:.0%} of the size; of {self.n_inputs:,} inputs "
            f"{self.agreement:.1%} keep their class and {self.same_prototype:.1%} their nearest prototype{changed}"
        )
        if self.agreement >= _LEAST_AGREEMENT:
            return said
        way_out = "take float16, or float32" if self.precision == "int8" else "take float32"
        return f"{said}. Warning: so many other answers make it another model; {way_out}"


def quantise(
    exported: str | Path,
    folder: str | Path,
    inputs: Any,
    *,
    precision: Literal["float16", "int8"] = "int8",
    overwrite: bool = False,
) -> Quantised:
    """Writes a smaller copy of an exported folder, and measures on given inputs what it answers otherwise.

    Only the network is made smaller. Prototypes, similarities and everything after the embedding keep their precision.
    The result is written into the copy's description, under ``quantised``.

    Args:
        exported: A folder that ``export_model`` wrote as ONNX.
        folder: The folder to write.
        inputs: What the file takes, [N, …]: bytes if it was exported with ``pixels=True``. For ``"int8"`` they also
            calibrate the network; take images like those to come, some hundred of them.
        precision: ``"float16"`` or ``"int8"``.
        overwrite: Replace the folder if there is one.

    Raises:
        LookalikeError: If there is no such export, its packages are missing, the inputs do not fit, or the network has
            no form in this precision.
    """
    checks.one_of("precision", precision, ("float16", "int8"))
    checks.flag("overwrite", overwrite)
    source = Path(exported)
    if not (source / "model.onnx").is_file() or not (source / _MARKER).is_file():
        raise LookalikeError(f"{str(exported)!r} holds no model exported to ONNX")
    check_replaceable(folder, marker=_MARKER, overwrite=overwrite)
    values = checks.tensor("inputs", inputs).detach().cpu().numpy()
    if not values.ndim:
        raise checks.unfit("inputs", inputs, "inputs of the file [N, ...]")
    before = _answers(source / "model.onnx", values)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.onnx"
        _write(source / "model.onnx", file, precision, values)
        after = _answers(file, values)
        effect = _compared(before, after, precision, file.stat().st_size, (source / "model.onnx").stat().st_size)
        description = {**parse_json(read_bytes(source / _MARKER)), "quantised": asdict(effect)}
        _describe(file, description)
        with fresh_folder(folder, marker=_MARKER, overwrite=overwrite) as aside:
            shutil.copyfile(file, aside / "model.onnx")
            (aside / _MARKER).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            if (source / "prototypes").is_dir():
                shutil.copytree(source / "prototypes", aside / "prototypes")
    return effect


def _write(source: Path, target: Path, precision: str, inputs: np.ndarray) -> None:
    """Writes a file's network in another precision."""
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.transformers import float16
    except ImportError as error:
        raise LookalikeError("smaller files need onnxruntime: pip install onnxruntime") from error
    model = onnx.load(source)
    of_network = _network_nodes(model.graph)
    heavy = [node.name for node in model.graph.node if node.name in of_network and node.op_type in _HEAVY]
    # without a check, the quantiser takes an empty list of nodes for all nodes, those of the similarity too
    if precision == "int8" and not heavy:
        raise LookalikeError(f"the network has no operation that can be computed in int8 ({', '.join(_HEAVY)})")
    if precision == "float16" and not _has_weights(model.graph, of_network):
        raise LookalikeError("the network has no weights that can be kept in float16")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Gives the calibration its batches."""

        def __init__(self) -> None:
            self.batches = ({model.graph.input[0].name: batch} for batch in _batches(inputs))

        def get_next(self) -> Any:
            return next(self.batches, None)

    def convert() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if precision == "float16":
                protected_nodes = [node.name for node in model.graph.node if node.name not in of_network]
                onnx.save(
                    float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=protected_nodes), target
                )
                return
            quantization.quantize_static(
                model, target, Reader(), op_types_to_quantize=list(_HEAVY), nodes_to_quantize=heavy, per_channel=True
            )

    try:
        with_log_level(logging.ERROR, ("root", "onnxruntime"), convert)
    except Exception as error:  # its tools raise errors of any class
        raise LookalikeError(f"the network has no form in {precision}: {first_line(error)}") from error


def _network_nodes(graph: Any) -> set[str]:
    """Returns the names of the nodes before the embedding: all that the similarity depends on.

    What turns bytes into the network's inputs is not among them: it scales pixels by constants, which are no weights.
    """
    producers = {name: node for node in graph.node for name in node.output if not _is_before_network(node)}
    of_similarity = [
        node for node in graph.node for prop in node.metadata_props
        if prop.key == _SCOPES and "plain.similarity" in prop.value
    ]  # fmt: skip
    inside = {node.name for node in of_similarity}
    waiting = [name for node in of_similarity for name in node.input]
    reached_nodes: set[str] = set()
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in inside and node.name not in reached_nodes:
            reached_nodes.add(node.name)
            waiting += node.input
    return reached_nodes


def _is_before_network(node: Any) -> bool:
    """Returns whether a node comes from the program around the model, which prepares bytes."""
    scopes = [prop.value for prop in node.metadata_props if prop.key == _SCOPES]
    return bool(scopes) and all("'plain" not in scope for scope in scopes)


def _has_weights(graph: Any, names: set[str]) -> bool:
    """Says whether one of the named nodes reads stored numbers in single precision."""
    from onnx import TensorProto

    stored = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return any(not stored.isdisjoint(node.input) for node in graph.node if node.name in names)


def _batches(inputs: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(inputs), _BATCH):
        yield inputs[start : start + _BATCH]


def _answers(file: Path, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a file's outputs for all inputs, by name."""
    try:
        import onnxruntime
    except ImportError as error:
        raise LookalikeError("smaller files need onnxruntime: pip install onnxruntime") from error
    if not len(inputs):
        raise LookalikeError("there are no inputs to compare on")
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        rows = [session.run(None, {name: batch}) for batch in _batches(inputs)]
    except Exception as error:  # its errors are of many classes
        raise LookalikeError(f"ONNX Runtime cannot run these inputs: {first_line(error)}") from error
    names = [output.name for output in session.get_outputs()]
    return {name: np.concatenate([row[k] for row in rows]) for k, name in enumerate(names)}


def _compared(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], precision: str, size: int, size_before: int
) -> Quantised:
    """Compares two files' answers."""
    first, now = before["nearest"][:, 0], after["nearest"][:, 0]
    doubts = [name for name in ("in_set", "answered") if name in before]
    kept = [(before[name] == after[name]).reshape(len(first), -1).all(1) for name in doubts]
    changes = Counter((int(a), int(b)) for a, b in zip(first, now, strict=True) if a != b)
    return Quantised(
        precision=precision,
        n_inputs=len(first),
        agreement=float((before["scores"].argmax(1) == after["scores"].argmax(1)).mean()),
        same_prototype=float((first == now).mean()),
        same_familiarity=float((before["unfamiliar"] == after["unfamiliar"]).mean()),
        probability_change=float(np.abs(before["probabilities"] - after["probabilities"]).max()),
        changes=[(a, b, count) for (a, b), count in changes.most_common()],
        bytes=size,
        bytes_before=size_before,
        same_set=float(np.all(kept, axis=0).mean()) if kept else None,
    )


def _describe(file: Path, description: dict[str, Any]) -> None:
    """Writes the description into the file."""
    import onnx

    model = onnx.load(file)
    onnx.helper.set_model_props(model, {"lookalike": json.dumps(description)})
    onnx.save(model, file)
