"""A plain model in one file: ONNX, or a PyTorch program; with what an explanation shows beside it."""

import base64
import io
import json
import logging
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.draws import normal, seeded
from lookalike._core.errors import LookalikeError, first_line
from lookalike._core.extent import WHOLE, Extent
from lookalike._core.files import check_writable
from lookalike._core.fresh_folder import check_replaceable, fresh_folder
from lookalike._core.provenance import fingerprint_tensors, versions
from lookalike._core.records import plain_json
from lookalike._core.replacing import replacing_file
from lookalike._core.untouched import keeps_random_states, with_log_level
from lookalike.data import Preprocessing
from lookalike.doubt import Doubt
from lookalike.encoder import Encoder, device_of, dtype_of, place
from lookalike.encoder.cut import blank_inputs
from lookalike.encoder.head import CONVOLUTIONS
from lookalike.encoder.patches import PatchEncoder, patch_reader
from lookalike.export.plain import PlainModel
from lookalike.export.plain_parts import PlainParts
from lookalike.export.thresholds import Thresholds
from lookalike.export.trunk import export_program
from lookalike.model import PrototypeModel
from lookalike.model.doubting import usual_abstention
from lookalike.saved import encode_image

FORMAT = 1
KINDS = ("onnx", "pt2")
MARKER = "prototypes.json"
_OPSET = 18
_SAME = 1e-3  # relative difference that rounding may make
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


Plain = PlainModel | PlainParts


def plain_of(model: PrototypeModel, n_nearest: int | None = None) -> Plain:
    """Returns a prototype model as one plain module; see ``PlainModel``, and ``PlainParts`` for one of patches."""
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    return PlainParts(model, n_nearest) if model.has_patches else PlainModel(model, n_nearest)


class _Program(nn.Module):
    """What is exported: a plain model that returns an ordinary tuple, so that no class of this library is needed."""

    def __init__(self, plain: Plain) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for value in self.plain(inputs) if value is not None)


class _PixelProgram(_Program):
    """Takes uint8 pixels [N, H, W, C] of the network's size in place of its inputs."""

    mean: Tensor
    std: Tensor

    def __init__(self, plain: Plain, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        super().__init__(plain)
        self.dtype = dtype
        self.is_bgr = preprocessing.channel_order == "bgr"
        shape = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(preprocessing.mean, dtype=torch.float32).view(shape))
        self.register_buffer("std", torch.tensor(preprocessing.std, dtype=torch.float32).view(shape))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        # contiguous, or a flattening in the network would be written as a lookup by strides
        values = pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255
        values = (values - self.mean) / self.std
        return super().forward((values.flip(1) if self.is_bgr else values).to(self.dtype))


@keeps_random_states
def export_model(
    model: PrototypeModel,
    target: str | Path,
    *,
    kind: str | None = None,
    n_nearest: int | None = None,
    pixels: bool = False,
    images: bool | Literal["inside"] = True,
    licence: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a model that explains itself and needs nothing of this library: a folder, or a single file.

    A folder has ``model.onnx`` or ``model.pt2``, whose outputs are those of ``Answer``; ``prototypes.json``, which
    says what each number means; and ``prototypes/``, the training images that show them. A file whose name ends in
    ``.onnx`` or ``.pt2`` has all this inside.

    Args:
        model: A prototype model.
        target: Folder or file to write; it appears only when it is complete.
        kind: ``"onnx"``, or ``"pt2"`` for ``torch.export.load``; None takes that of the file's name, else ONNX.
        n_nearest: Number of most similar prototypes in an answer; None takes 3, or all if there are fewer.
        pixels: Take bytes [N, H, W, C] of the network's size, and scale and normalise them inside.
        images: Write the training images that show prototypes, as files; ``"inside"`` writes them into the model's own
            file and ``prototypes.json``, as data URIs, as it is for a single file. If False, no pixel leaves this
            machine.
        licence: Licence of the model, to be named in the file; None takes what the model itself records, if it does.
        overwrite: Replace the folder or file if there is one.

    Returns:
        The file of the model.

    Raises:
        LookalikeError: If the network has no plain graph, the format cannot express an operation, or the target exists.
    """
    kind = kind_of(target, kind)
    for name, flag in (("pixels", pixels), ("overwrite", overwrite)):
        checks.flag(name, flag)
    if images != "inside":
        checks.flag("images", images)
    checks.optional(checks.text, "licence", licence)
    check_target(target, overwrite=overwrite)
    images = "inside" if images and is_single_file(target) else images
    plain = plain_of(model, n_nearest)
    if kind == "onnx":
        _check_precision(model)
    plain.order.by_topk = kind == "onnx"
    module, sample = _with_sample(plain, model, pixels)
    program = _program_of(module, sample)
    description = describe(model, plain, pixels=pixels, images=images, licence=licence)
    if is_single_file(target):
        with replacing_file(Path(target), replace=overwrite) as temporary:
            temporary.write_bytes(_bytes_of(program, description, kind))
        return Path(target)
    with fresh_folder(target, marker=MARKER, overwrite=overwrite) as aside:
        (aside / MARKER).write_text(_as_text(description), encoding="utf-8", errors="backslashreplace")
        (aside / f"model.{kind}").write_bytes(_bytes_of(program, description, kind))
        if images is True and model.images is not None:
            (aside / "prototypes").mkdir()
            for j, picture in enumerate(model.images[:, 0]):
                (aside / _picture_file(j)).write_bytes(encode_image(picture))
    return Path(target) / f"model.{kind}"


def kind_of(target: str | Path, kind: str | None) -> str:
    """Returns the format of an export: the one that is asked for, or that of the file's name, or ONNX.

    Raises:
        LookalikeError: If there is no such format, or it is not that of the file's name.
    """
    if kind is not None:
        checks.one_of("kind", kind, KINDS)
    by_name = Path(target).suffix.lower()[1:] if is_single_file(target) else None
    if None not in (kind, by_name) and kind != by_name:
        raise LookalikeError(
            f"{str(target)!r} is the name of a file of the kind {by_name}, not {kind}; give one of them"
        )
    return kind or by_name or "onnx"


def is_single_file(target: str | Path) -> bool:
    """Returns whether an export is a single file: its name says so, and there is no folder of this name."""
    return Path(target).suffix.lower()[1:] in KINDS and not Path(target).is_dir()


def check_target(target: str | Path, *, overwrite: bool) -> None:
    """Checks that an export may be written, before any work is done.

    Raises:
        LookalikeError: If it exists and ``overwrite`` is False, or nothing can be written there.
    """
    if is_single_file(target):
        check_writable(Path(target), overwrite)
    else:
        check_replaceable(target, marker=MARKER, overwrite=overwrite)


def _as_text(description: dict[str, Any]) -> str:
    return json.dumps(description, indent=2, ensure_ascii=False) + "\n"


def _bytes_of(program: torch.export.ExportedProgram, description: dict[str, Any], kind: str) -> bytes:
    """Returns the content of a program's file, with its description inside."""
    if kind == "onnx":
        return _onnx_bytes(program, description)
    buffer = io.BytesIO()  # torch wants a file's name to end in .pt2
    torch.export.save(program, buffer, extra_files={MARKER: _as_text(description)})
    return buffer.getvalue()


def _with_sample(plain: Plain, model: PrototypeModel, pixels: bool) -> tuple[nn.Module, Tensor]:
    """Returns the module to export, and two rows of its inputs."""
    assert isinstance(model.encoder, Encoder)  # `plain_of` refuses others
    described: Any = model.encoder.input_spec
    device = plain.vectors.device
    if not pixels:
        dtype = getattr(torch, described["dtype"])
        return _Program(plain), torch.zeros(2, *described["shape"], dtype=dtype, device=device)
    if model.preprocessing is None:
        raise LookalikeError("the model does not know what its images go through; convert with preprocessing=...")
    if model.preprocessing.pad is not None:
        raise LookalikeError(
            "images are padded after they are normalised, which no bytes can say; export without pixels"
        )
    channels, height, width = described["shape"]
    module = _PixelProgram(plain, model.preprocessing, getattr(torch, described["dtype"])).to(device)
    return module, torch.zeros(2, height, width, channels, dtype=torch.uint8, device=device)


def _check_precision(model: PrototypeModel) -> None:
    """Checks that a network computes in numbers that ONNX runtimes take: they have no convolution of others.

    Raises:
        LookalikeError: If it computes in bfloat16, or has convolutions in double precision.
    """
    dtypes = {parameter.dtype for parameter in model.encoder.parameters()}
    has_convolutions = any(isinstance(module, CONVOLUTIONS) for module in model.encoder.modules())
    for dtype in dtypes & ({torch.bfloat16, torch.float64} if has_convolutions else {torch.bfloat16}):
        name = str(dtype).removeprefix("torch.")
        raise LookalikeError(
            f"the network computes in {name}, which ONNX runtimes do not take: convert it in single precision "
            "(network.float()), or export kind='pt2'"
        )


def _program_of(module: nn.Module, sample: Tensor) -> torch.export.ExportedProgram:
    """Returns a plain module as a program for any batch size.

    Raises:
        LookalikeError: If it cannot be exported, or the program computes something else.
    """
    try:
        program = export_program(module, sample)
    except Exception as error:
        raise LookalikeError(f"the model cannot be exported: torch.export says: {first_line(error)}") from error
    _check_same(program, module, sample)
    return program


@torch.no_grad()
def _check_same(program: torch.export.ExportedProgram, module: nn.Module, sample: Tensor) -> None:
    """Compares a program with the module that it was made from, on random inputs.

    Raises:
        LookalikeError: If their numbers differ, as those of a network that draws random numbers from a seed of its own,
            or decides by Python's values, which a program does not have.
    """
    noise = normal(sample.shape, seeded(0))
    is_number = sample.is_floating_point()
    trial = noise.to(sample) if is_number else (64 * noise + 128).clamp(0, 255).to(sample)
    if not is_number and sample.dtype != torch.uint8:  # such as tokens: not every number is one
        trial = sample
    outputs, outputs_of_program = module(trial.clone()), program.module()(trial.clone())  # both may write into inputs
    for ours, theirs in zip(outputs, outputs_of_program, strict=True):
        margin = _SAME * _size(ours)
        if ours.is_floating_point() and not torch.allclose(ours, theirs, rtol=_SAME, atol=margin, equal_nan=True):
            raise LookalikeError(
                "the exported program computes something else than the model: the network draws random numbers in its "
                "forward pass, or uses values of Python that a program does not have; make it a function of its inputs"
            )


def _size(values: Tensor) -> float:
    """Returns the largest finite absolute value of some numbers."""
    finite = values[values.isfinite()].abs() if values.is_floating_point() else values[:0]
    return float(finite.max()) if len(finite) else 0.0


def _onnx_bytes(program: torch.export.ExportedProgram, description: dict[str, Any]) -> bytes:
    """Returns a program as the bytes of an ONNX file, with the description as metadata.

    Raises:
        LookalikeError: If ``onnx`` is not installed, or it has no operation for one of the network's.
    """
    values = [node.meta.get("val") for node in program.graph.nodes]
    if any(isinstance(value, Tensor) and value.dtype == torch.bfloat16 for value in values):
        raise LookalikeError(
            "the network computes in bfloat16, which ONNX runtimes do not take: leave out its own autocast, or export "
            "kind='pt2'"
        )
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch needs it
    except ImportError as error:
        raise LookalikeError("exporting to ONNX needs the extra 'onnx': pip install onnx onnxscript") from error

    def convert() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                program,
                dynamo=True,
                opset_version=_OPSET,
                input_names=["inputs"],
                output_names=description["outputs"],
                dynamic_shapes=({0: "N"},),
                verbose=False,
            )

    try:
        converted = with_log_level(logging.ERROR, _LOGGERS, convert)
    except Exception as error:
        raise LookalikeError(
            f"the model has no ONNX form: {_reason(error)}; kind='pt2' writes it as a program of PyTorch"
        ) from error
    proto = converted.model_proto
    onnx.helper.set_model_props(proto, {"lookalike": json.dumps(description)})
    buffer = io.BytesIO()
    onnx.save(proto, buffer)
    return buffer.getvalue()


def _reason(error: BaseException) -> str:
    """Returns why a conversion failed: the first line of the first cause, without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _COLOURS.sub("", first_line(error))


def describe(
    model: PrototypeModel,
    plain: Plain,
    *,
    pixels: bool,
    images: bool | Literal["inside"],
    licence: str | None = None,
) -> dict[str, Any]:
    """Returns what the numbers in an answer mean, as plain JSON values."""
    prototypes = model.prototypes
    familiar = prototypes.familiar_range()
    is_known = plain.likenesses.familiar_up_to.isfinite()
    weights = {name: tensor for name, tensor in plain.state_dict().items() if isinstance(tensor, Tensor)}
    recorded = model.provenance.get("fingerprints")
    made_with = model.provenance.get("versions")
    return {
        "format": FORMAT,
        "inputs": "uint8 pixels [N, H, W, C]" if pixels else "inputs of the network [N, ...]",
        "outputs": plain.outputs,
        "class_names": model.class_names,
        "n_nearest": plain.n_nearest,
        "evidence": isinstance(plain, PlainParts) or plain.evidence is not None,
        "extent": list(_extent(model, plain)),
        "parts": _parts(model),
        "reasons": {
            "nearest": model.classifier.reason(is_nearest=True),
            "otherwise": model.classifier.reason(is_nearest=False),
        },
        "calibration": None if isinstance(plain, PlainParts) else _calibration(model.doubt, plain.thresholds),
        "similarity": {"name": model.similarity.name, "options": plain_json(model.similarity.options())},
        "preprocessing": None if model.preprocessing is None else model.preprocessing.to_dict(),
        "licence": licence or model.provenance.get("licence"),
        "fingerprint": fingerprint_tensors(weights),
        "fingerprints": plain_json(dict(recorded)) if isinstance(recorded, Mapping) else None,
        "versions": versions(),
        "converted_with": plain_json(dict(made_with)) if isinstance(made_with, Mapping) else None,
        "prototypes": [
            {
                "name": f"{row['class']} · no. {j}{model.all_annotations.quoted(j)}",
                "title": model.all_annotations.names[j],
                "description": model.all_annotations.descriptions[j],
                "class": row["class"],
                "count": row["count"],
                "purity": row["purity"],
                "familiar_up_to": float(familiar.farthest[j]) if bool(is_known[j]) else None,
                "image": _picture(model, j, images),
                "box": _box(model, j),
            }
            for j, row in enumerate(prototypes.to_table())
        ],
    }


def _parts(model: PrototypeModel) -> dict[str, Any] | None:
    """Returns what the patches of a model are; None for a model of whole images."""
    if not isinstance(model.encoder, PatchEncoder):
        return None
    return {
        "grid": list(model.encoder.grid),
        "layers": list(model.encoder.layers),
        "decision": model.classifier.name,
    }


def _extent(model: PrototypeModel, plain: Plain) -> Extent:
    """Returns the part of the image that the cells of an answer's maps cover: top, left, bottom, right, as shares."""
    if isinstance(model.encoder, PatchEncoder):
        return model.encoder.extent
    if isinstance(plain, PlainParts) or plain.evidence is None or not isinstance(model.encoder, Encoder):
        return WHOLE
    blank = place(blank_inputs(model.encoder.input_spec), device_of(model.encoder), dtype_of(model.encoder))
    return patch_reader(model.encoder, blank).extent


def _box(model: PrototypeModel, prototype: int) -> list[float] | None:
    """Returns where a prototype's patch lies in its picture: top, left, bottom, right, as shares of the sides."""
    boxes = model.patch_boxes()
    return None if boxes is None else [float(share) for share in boxes[prototype, 0]]


def _calibration(doubt: Doubt | None, thresholds: Thresholds | None) -> dict[str, Any] | None:
    """Returns the calibration of a model, with its thresholds as constants; None for a model without one."""
    if doubt is None:
        return None
    assert thresholds is not None  # a calibrated model has them
    rule = usual_abstention(doubt)
    limits = {
        "unfamiliar_above": thresholds.unfamiliar_above,
        "set_threshold": thresholds.set_threshold,
        "set_novelty_up_to": thresholds.novelty_up_to,
    }
    return {
        **doubt.facts.to_dict(),
        **{name: value if math.isfinite(value) else None for name, value in limits.items()},
        "abstention": None if rule is None else rule.to_dict(),
    }


def _picture(model: PrototypeModel, prototype: int, images: bool | Literal["inside"]) -> str | None:
    """Returns the picture that shows a prototype: the name of its file, or the picture itself as a data URI."""
    if model.images is None or not images:
        return None
    if images is True:
        return _picture_file(prototype)
    return "data:image/png;base64," + base64.b64encode(encode_image(model.images[prototype, 0])).decode()


def _picture_file(prototype: int) -> str:
    return f"prototypes/{prototype:05d}.png"
