"""Exports 28 architectures to ONNX, and compares each file with the model and its speed with the plain network's file.

    python tools/exported.py run FILE.jsonl [PATTERN]   # a line per architecture that is not there yet
    python tools/exported.py page FILE.jsonl            # writes docs/reference/exported.md

Nothing is downloaded: weights are random, and normalised as training would leave them, so that embeddings vary from
image to image. One thread; times are CPU time, of runs in turn with the plain network's.
"""

import contextlib
import copy
import datetime
import fnmatch
import gc
import importlib.metadata
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lookalike import convert, explain  # noqa: E402
from lookalike._core.provenance import processor  # noqa: E402
from lookalike.export import Answer  # noqa: E402

PAGE = ROOT / "docs/reference/exported.md"
BATCHES = (1, 3, 64)
SIDE, SMALLER = 224, 128  # pixels; large networks get fewer, or this would take hours
SCORES, SLOWER = 1e-4, 1.05  # bars: relative difference of scores, and time relative to the plain network's file
TIMED_SECONDS = 6  # CPU seconds that are spent on timing one batch size
LEAST_RUNS, MOST_RUNS = 8, 400  # of a batch size, whatever they take; the shortest of 60 still varied by 5%
MOST_TURNS = 4  # of so many runs, where the time misses its bar: other work on the machine only lengthens runs
N_NORMALISED = 32  # images that the statistics of batch norms are taken from

ARCHITECTURES: dict[str, tuple[str, dict[str, Any], int]] = {
    f"{library}:{name}": (library, options, side)
    for library, name, options, side in [
        *(("torchvision", name, {}, SIDE) for name in (
            "resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0",
            "regnet_y_400mf", "mnasnet1_0")),
        *(("torchvision", name, {}, SMALLER) for name in (
            "resnet50", "resnext50_32x4d", "densenet121", "vgg11_bn", "convnext_tiny", "swin_t")),
        ("torchvision", "googlenet", {"init_weights": False, "aux_logits": False}, SMALLER),
        ("torchvision", "vit_b_16", {"image_size": SMALLER}, SMALLER),
        *(("timm", name, {}, SIDE) for name in (
            "efficientnet_lite0", "ghostnet_100", "mobilenetv4_conv_small", "convnext_atto", "mobilevit_xxs",
            "levit_128s", "pvt_v2_b0", "rexnet_100")),
        *(("timm", name, {}, SMALLER) for name in ("resnet26d", "poolformer_s12")),
        *(("timm", name, {"img_size": SIDE}, SIDE) for name in ("vit_tiny_patch16_224", "deit_tiny_patch16_224")),
        ("timm", "mixer_s32_224", {"img_size": SMALLER}, SMALLER),
    ]
}  # fmt: skip


def network(name: str) -> tuple[nn.Module, int]:
    """Returns a network with random weights, normalised to images like those of the test; and their side."""
    library, options, side = ARCHITECTURES[name]
    model_name = name.partition(":")[2]
    torch.manual_seed(0)
    if library == "timm":
        import timm

        model = timm.create_model(model_name, num_classes=8, **options)
    else:
        import torchvision

        model = torchvision.models.get_model(model_name, weights=None, num_classes=8, **options)
    return normalised(model, images(N_NORMALISED, side, seed=2)[0]), side


def normalised(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Gives a network the scales and statistics that let its embeddings vary from image to image.

    Factors that start at zero or nearly so (of residual branches and layers) become about 1, norms get random scales
    and offsets, and the statistics of batch norms are those of the inputs, layer by layer in one pass.
    """
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            is_constant = bool((parameter == parameter.flatten()[0]).all())
            if is_constant and parameter_name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
            elif is_constant:
                parameter.uniform_(0.7, 1.4, generator=generator)
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # the plain average of what passes
            norm.reset_running_stats()
        model(inputs)
    return model.eval()


def images(n: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns pictures with the spectrum of photographs; and their classes, which differ in colour and direction."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 8
    frequency = torch.fft.fftfreq(side) * side
    down, across = frequency[:, None], frequency[None, : side // 2 + 1].abs()
    angle = (y * torch.pi / 8)[:, None, None]
    along = down * angle.cos() + across * angle.sin()
    # amplitudes fall as 1 / f in photographs; each class has more of them along its direction
    amplitude = (1 + 3 * (along / (down.square() + across.square()).sqrt().clamp_min(1)).square()) / (
        down.square() + across.square()
    ).sqrt().clamp_min(1)
    noise = torch.randn(n, 3, side, side, generator=generator)
    grey = torch.fft.rfft2(noise.mean(1, keepdim=True).expand(-1, 3, -1, -1) + 0.5 * noise)
    picture = torch.fft.irfft2(grey * amplitude[:, None], s=(side, side))
    picture = picture / picture.std((1, 2, 3), keepdim=True)
    tint = torch.stack([(y % 2).float(), (y // 2 % 2).float(), (y // 4).float()], 1)[:, :, None, None] - 0.5
    return picture + tint, y


def mixed(train: Tensor, new: Tensor) -> Tensor:
    """Returns training images, new images and noisy images in turn: the first are familiar, the last mostly are not.

    Noise keeps the scale of the inputs. Inputs of another scale would grow from layer to layer of a random network,
    until rounding differs from one run of it to the next by more than the bar.
    """
    noisy = new + 0.5 * torch.randn(new.shape, generator=torch.Generator().manual_seed(3))
    kind = (torch.arange(len(new)) % 3)[:, None, None, None]
    return torch.where(kind == 0, train, torch.where(kind == 1, new, noisy))


def session(file: Path) -> onnxruntime.InferenceSession:
    """Opens a file for one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def write_plain(net: nn.Module, sample: Tensor, file: Path) -> None:
    """Writes the network alone, by the same exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        torch.onnx.export(
            net, (sample,), str(file), dynamo=True, opset_version=18, input_names=["inputs"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), verbose=False, external_data=False,
        )  # fmt: skip
        logging.disable(logging.NOTSET)


def examine(name: str) -> dict[str, Any]:
    """Exports one architecture, and compares."""
    net, side = network(name)
    train, labels = images(64, side, seed=0)
    model = convert(net, (train, labels), 2, progress=False)
    inputs = mixed(train, images(64, side, seed=1)[0])
    # how much embeddings differ from image to image, relative to their size: 0 if the network sees no difference
    z = model.embed(train)
    row: dict[str, Any] = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "side": side,
        "variation": float((z - z.mean(0)).norm() / z.norm()),
    }
    with tempfile.TemporaryDirectory() as folder:
        exported = session(model.export(Path(folder) / "sem"))
        write_plain(net, train[:2], Path(folder) / "net.onnx")
        plain = session(Path(folder) / "net.onnx")
        row["evidence"] = json.loads((Path(folder) / "sem" / "prototypes.json").read_text())["evidence"]
        explained = explain(model, inputs)
        row["batches"] = {str(n): batch(model, exported, plain, inputs[:n], explained[:n]) for n in BATCHES}
    if max(found["scores"] for found in row["batches"].values()) > SCORES:
        row["rounding"] = rounding_of(model, inputs)
    return row


def rounding_of(model: Any, inputs: Tensor) -> float:
    """Returns the largest difference between a model's scores in float32 and in float64, relative to the largest."""
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        exact = torch.cat([double(part.double()) for part in inputs.split(8)])
        return float((model(inputs).double() - exact).abs().max() / exact.abs().max())


def batch(model: Any, exported: Any, plain: Any, inputs: Tensor, explained: list[Any]) -> dict[str, Any]:
    """Compares answers and times for one batch."""
    fed = {"inputs": inputs.numpy()}
    answer = Answer(*exported.run(None, fed))
    scores = model(inputs).detach().numpy()
    expected = [[near.prototype for near in explanation.likenesses] for explanation in explained]
    for current in (plain, exported):  # the first run of a shape allocates
        current.run(None, fed)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(MOST_TURNS):
        time_in_turn(plain, exported, fed, seconds)
        if min(seconds[1]) <= SLOWER * min(seconds[0]):
            break
    return {
        "scores": float(np.abs(answer.scores - scores).max() / np.abs(scores).max()),
        "nearest": sum(a == b for a, b in zip(answer.nearest.tolist(), expected, strict=True)),
        "unfamiliar": sum(bool(a) == b.unfamiliar for a, b in zip(answer.unfamiliar, explained, strict=True)),
        "are_unfamiliar": sum(b.unfamiliar for b in explained),
        "plain_seconds": min(seconds[0]),
        "ratio": min(seconds[1]) / min(seconds[0]),  # other work on the machine can only lengthen a run
        "runs": len(seconds[0]),
    }


def time_in_turn(plain: Any, exported: Any, fed: dict[str, Any], seconds: tuple[list[float], list[float]]) -> None:
    """Runs two files in turn for a while, and adds what each run takes to their lists."""
    start, n_before, runs = time.process_time(), len(seconds[0]), [(plain, seconds[0]), (exported, seconds[1])]
    while (n_runs := len(seconds[0]) - n_before) < LEAST_RUNS or (
        time.process_time() - start < TIMED_SECONDS and n_runs < MOST_RUNS
    ):
        for current, kept in runs:
            started = time.process_time()
            current.run(None, fed)
            kept.append(time.process_time() - started)
        runs.reverse()


def run(path: Path, pattern: str) -> None:
    """Tries architectures and appends a line for each."""
    done = {json.loads(line)["name"] for line in path.read_text().splitlines()} if path.exists() else set()
    for name in ARCHITECTURES:
        if name in done or not fnmatch.fnmatch(name, pattern):
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):
                row = examine(name)
        except Exception as error:
            row = {"failed": f"{type(error).__name__}: {error}"[:300]}
        with path.open("a") as file:
            file.write(json.dumps({"name": name, **row}) + "\n")
        print(name, json.dumps(row), flush=True)
        gc.collect()


def page(path: Path) -> None:
    """Writes the page."""
    rows = sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda row: row["name"])
    installed = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision", "timm", "onnx", "onnxruntime")
    )
    complete = [row for row in rows if "batches" in row]
    alike = sum(all(_is_alike(n, found) for n, found in row["batches"].items()) for row in complete)
    cells = [found["ratio"] for row in complete for found in row["batches"].values()]
    fast = sum(ratio <= SLOWER for ratio in cells)
    lines = [
        "# Exported architectures",
        "",
        f"Written by `tools/exported.py` on {datetime.date.today().isoformat()} on {processor()} with {installed}. One "
        "thread; the machine was shared, so times are CPU time, in turn with the plain network's file. Weights are "
        "random; norms have the statistics of the images, which have the spectrum of photographs; 8 classes with 2 "
        "prototypes each. The 64 inputs are training images, new ones and noisy ones in turn.",
        "",
        f"{len(rows)} architectures were exported to ONNX and run by ONNX Runtime. {alike} of {len(rows)} answer as "
        f"the model does on batches of 1, 3 and 64 inputs; {fast} of {len(cells)} times are within {SLOWER} of the "
        f"plain network's file, their median is {statistics.median(cells):.3f}.",
        "",
        "- *side*: of the square images, in pixels",
        "- *varies*: how far embeddings are from their mean, relative to their length; near 0, only rounding would "
        "order the prototypes",
        "- *scores*: largest difference between the file's scores and the model's, relative to the largest score, on "
        f"64 inputs; the bar is {SCORES:g}",
        "- *prototypes*: inputs of 64 with the same three nearest prototypes in the same order as in `explain`",
        "- *unfamiliar*: inputs of 64 with the same verdict; in brackets, how many are unfamiliar",
        "- *map*: whether the file has an evidence map",
        f"- *× 1*, *× 3*, *× 64*: the file's time over that of the plain network's, by batch, each the shortest of "
        f"{LEAST_RUNS} to {MOST_RUNS} runs in turn, and of up to {MOST_TURNS} times as many where it missed the "
        f"bar, which is {SLOWER}",
        "",
        "A cell that misses its bar is marked ✗.",
        "",
        *_remarks(rows),
        "| architecture | parameters | side | varies | scores | prototypes | unfamiliar | map | × 1 | × 3 | × 64 |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|",
        *(_line(row) for row in rows),
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Says how far the model itself is from exact where a file differs from it."""
    rounded = [f"`{row['name']}` by {row['rounding']:.0e}" for row in rows if "rounding" in row]
    missing = sorted(set(ARCHITECTURES) - {row["name"] for row in rows})
    remarks = []
    if rounded:
        remarks += [
            "Where scores differ, the model in float32 was found to differ from itself in float64 as well: "
            + ", ".join(rounded)
            + ".",
            "",
        ]
    if missing:
        remarks += ["Not run yet: " + ", ".join(f"`{name}`" for name in missing) + ".", ""]
    return remarks


def _is_alike(n: str, found: dict[str, Any]) -> bool:
    return found["scores"] <= SCORES and found["nearest"] == found["unfamiliar"] == int(n)


def _marked(text: str, is_met: bool) -> str:
    return text if is_met else f"{text} ✗"


def _line(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"| {row['name']} | ✗ {row['failed'].replace('|', '/')} |" + " |" * 9
    largest = row["batches"]["64"]
    difference = max(found["scores"] for found in row["batches"].values())
    cells = [
        f"{row['parameters'] / 1e6:.1f} M",
        str(row["side"]),
        f"{row['variation']:.2f}",
        _marked(f"{difference:.0e}", difference <= SCORES),
        _marked(str(largest["nearest"]), largest["nearest"] == 64),
        _marked(f"{largest['unfamiliar']} ({largest['are_unfamiliar']})", largest["unfamiliar"] == 64),
        "yes" if row["evidence"] else "no",
        *(
            _marked(f"{row['batches'][str(n)]['ratio']:.3f}", row["batches"][str(n)]["ratio"] <= SLOWER)
            for n in BATCHES
        ),
    ]
    return f"| {row['name']} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, file, *rest = sys.argv[1:]
    if command == "run":
        run(Path(file), rest[0] if rest else "*")
    else:
        page(Path(file))
