"""Alters saved models at random and loads them: each is refused in one line, or loads and works.

Run: ``python tools/fuzz_saved.py --number 2000``. Half of the alterations recompute every checksum, as someone hostile
would. Each folder is loaded in a process of its own, whose time and memory are measured. Also a library: the tests
take a sample of the alterations.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from lookalike import load
from lookalike._core.errors import LookalikeError
from lookalike._core.provenance import fingerprint_file, fingerprint_json
from lookalike.conversion.convert import convert
from lookalike.encoder import LoadedClassifier, load_classifier, save_classifier
from lookalike.explanation import explain
from lookalike.model import PrototypeModel
from lookalike.model.similarity import SIMILARITIES
from lookalike.networks import NETWORKS

SECONDS = 60
MEMORY = 2 * 2**30
NONSENSE: list[Any] = [
    None, True, False, 0, 1, -1, 7, 10**9, 2**63, 10**30, 1.5, -0.0, 1e308, "", "x", "../x", "/etc/passwd", "a\0b",
    "\udc80", "é" * 300, [], [[]], [None], ["a", "a"], [1e308] * 3, [[0.0] * 3] * 2, [["x"]], {}, {"": None},
    {"shape": [10**6, 10**6], "dtype": "float32"}, {"shape": [3, 4000, 4000], "dtype": "float32"},
    {"source": "file", "name": "x.py:f"}, {"source": "hf", "name": "x", "config": {"model_type": "vit"}},
    {"source": "torchvision", "name": "resnet18", "args": {"num_classes": 10**8}},
    {"source": "torchvision", "name": "resnet18", "args": {"width_per_group": 10**5}},
    {"source": "lookalike", "name": "small-cnn", "args": {"width": 10**7}},
]  # fmt: skip
RAW = [
    b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b'{"format": 1e400}', b"\xff\xfe", b"null", b"[]", b"{}",
    b'{"format": NaN}', b'{"format": ' + b"9" * 5_000 + b"}", b'{"a": 1, "a": 2}', b"[" + b"{}," * 3_000_000 + b"{}]",
    b'{"format": "\\ud800"}', b"\xef\xbb\xbf{}", b'"' + b"x" * 10_000_000 + b'"',
]  # fmt: skip

Alteration = Callable[[Path, random.Random], str]


def make_models(root: Path) -> list[Path]:
    """Saves a few models of different kinds, to be altered."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.rand(60, 3, 16, 16, generator=generator) / 2
    x[torch.arange(60), y] += 0.5
    folders = []
    for similarity in ("l2", "mahalanobis", "rbf"):
        torch.manual_seed(0)
        spec = {"source": "lookalike", "name": "small-cnn", "args": {"n_classes": 3, "width": 4}}
        network = NETWORKS["small-cnn"](n_classes=3, width=4).eval()
        loaded = LoadedClassifier(network, spec, class_names=["ant", "bee", "cat"])
        convert(loaded, (x, y), 2, similarity, progress=False).save(root / similarity)
        folders.append(root / similarity)
    save_classifier(loaded, root / "classifier")
    return [*folders, root / "classifier"]


def alter(folder: Path, chance: random.Random) -> str:
    """Alters a folder once or twice, and perhaps recomputes its checksums; returns what was done."""
    done = []
    for alteration in chance.choices(ALTERATIONS, k=chance.choice([1, 1, 1, 2])):
        done.append(alteration(folder, chance))
        if alteration is alter_file:  # what reads a pipe waits for ever
            return done[-1]
    if chance.random() < 0.5 and recompute(folder):
        done.append("checksums recomputed")
    return "; ".join(done)


def recompute(folder: Path) -> bool:
    """Makes the checksums those of what is there; False where that cannot be done."""
    try:
        config = json.loads((folder / "config.json").read_text())
        for name, file in config["files"].items():
            if isinstance(file, dict) and (folder / name).is_file():
                file |= {"sha256": fingerprint_file(folder / name), "bytes": (folder / name).stat().st_size}
        write_config(folder, config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return True


def write_config(folder: Path, config: Any) -> None:
    """Writes a configuration, with the fingerprint that it ought to have."""
    if isinstance(config, dict):
        config.pop("fingerprint", None)
        config["fingerprint"] = fingerprint_json(config)
    (folder / "config.json").write_text(json.dumps(config))


def alter_config(folder: Path, chance: random.Random) -> str:
    """Puts nonsense in place of a value, removes it, or adds one."""
    config = json.loads((folder / "config.json").read_text())
    container, key, path = config, "", []
    for _ in range(chance.randint(1, 5)):
        entries = list(container) if isinstance(container, dict) else list(range(len(container)))
        if not entries:
            break
        holder, key = container, chance.choice(entries)
        path.append(key)
        container = holder[key]
        if not isinstance(container, dict | list):
            break
    what, value = chance.choice(["replace", "replace", "replace", "remove", "add", "repeat"]), chance.choice(NONSENSE)
    if what == "remove":
        del holder[key]
    elif what == "add" and isinstance(holder, dict):
        holder["extra"] = value
    elif what == "repeat" and isinstance(holder, list):
        holder.append(holder[key])
    elif isinstance(holder[key], int | float) and not isinstance(holder[key], bool) and chance.random() < 0.5:
        holder[key] = holder[key] * chance.choice([-1, 2, 1000, 10**7])
    else:
        holder[key] = value
    write_config(folder, config)
    return f"config {what} {path} {str(value)[:40]!r}"


def raw_config(folder: Path, chance: random.Random) -> str:
    """Writes bytes that are no configuration."""
    content = chance.choice(RAW)
    (folder / "config.json").write_bytes(content)
    return f"config is {content[:20]!r}"


def later_format(folder: Path, chance: random.Random) -> str:
    """Claims another format."""
    config = json.loads((folder / "config.json").read_text())
    config["format"] = chance.choice([0, 1, 3, 99, "2", 2.0, None, True, [2]])
    write_config(folder, config)
    return f"format {config['format']!r}"


def flip_bits(folder: Path, chance: random.Random) -> str:
    """Flips a bit of a file, or cuts it, or appends to it."""
    path = chance.choice(sorted(one for one in folder.rglob("*") if one.is_file()))
    content = bytearray(path.read_bytes())
    how = chance.choice(["flip", "flip", "cut", "empty", "append"])
    if how == "flip" and content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif how == "cut":
        content = content[: chance.randrange(len(content) + 1)]
    elif how == "append":
        content += b"\0" * chance.choice([1, 4096])
    else:
        content.clear()
    path.write_bytes(content)
    return f"{how} {path.name}"


def alter_tensors(folder: Path, chance: random.Random) -> str:
    """Gives tensors other values, types or shapes, or removes or adds some."""
    tensors = load_file(folder / "model.safetensors")
    ours = [name for name in tensors if not name.startswith("encoder")] or list(tensors)
    name = chance.choice(ours if chance.random() < 0.7 else list(tensors))
    tensor = tensors[name].clone()
    how = chance.choice(["nan", "inf", "negate", "remove", "add", "dtype", "shape", "empty", "huge", "shuffle", "zero"])
    if how in ("nan", "inf") and tensor.is_floating_point() and tensor.numel():
        tensor.view(-1)[chance.randrange(tensor.numel())] = float(how)
    elif how == "negate":
        tensor = -tensor - 1 if tensor.dtype != torch.bool else tensor
    elif how == "dtype":
        tensor = tensor.to(chance.choice([torch.float16, torch.float64, torch.int32, torch.bool, torch.uint8]))
    elif how == "shape":
        other = tensor.T if tensor.ndim == 2 else tensor[None, None]
        tensor = chance.choice([tensor.reshape(-1), tensor[None], tensor.reshape(-1)[:0], other])
    elif how == "empty":
        tensor = torch.empty(0)
    elif how == "huge":
        tensor = tensor + 10**6
    elif how == "shuffle":
        tensor = tensor.reshape(-1)[torch.randperm(tensor.numel())].reshape(tensor.shape)
    elif how == "zero":
        tensor = torch.zeros_like(tensor)
    tensors[name] = tensor.contiguous()
    if how == "remove":
        del tensors[name]
    elif how == "add":
        tensors[chance.choice(["extra", "prototypes.extra", "similarity.extra", "classifier.weight"])] = tensor
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors")
    recompute(folder)
    return f"tensor {how} {name}"


def alter_header(folder: Path, chance: random.Random) -> str:
    """Declares something else in the header of the tensors' file."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    entry = header[chance.choice([name for name in header if name != "__metadata__"])]
    how = chance.choice(["shape", "dtype", "offsets", "length", "extra", "nonsense"])
    if how == "shape":
        entry["shape"] = chance.choice([[10**12], [-1], [2**62, 2], "x", None, [1.5], [[1]], []])
    elif how == "dtype":
        entry["dtype"] = chance.choice(["F4", "F64", "X", None, 3, "BOOL", "C64"])
    elif how == "offsets":
        entry["data_offsets"] = chance.choice([[0, 10**15], [5, 2], [-4, 0], [0], None, "x", [0, 2**64]])
    elif how == "extra":
        entry["extra"] = 1
    elif how == "nonsense":
        header = chance.choice([[], None, {"a": 1}, {"__metadata__": 5}])
    text = json.dumps(header).encode()
    length = chance.choice([2**63, 10**9, len(text) - 3, 0]) if how == "length" else len(text)
    path.write_bytes(struct.pack("<Q", length) + text + data)
    recompute(folder)
    return f"header {how}"


def alter_picture(folder: Path, chance: random.Random) -> str:
    """Puts another picture in place of one."""
    pictures = sorted((folder / "images").glob("*.png"))
    if not pictures:
        return "no picture"
    path = chance.choice(pictures)
    how = chance.choice(["large", "bomb", "mode", "jpeg", "text", "palette", "deep"])
    if how == "bomb":
        Image.new("L", (11_000, 8_000)).save(path)  # 88 megapixels
    elif how == "large":
        Image.new("RGB", (chance.choice([1, 17, 5_000]), 16)).save(path)
    elif how == "jpeg":
        Image.new("RGB", (16, 16)).save(path, format="JPEG")
    elif how == "text":
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0")
    elif how == "deep":
        Image.fromarray(np.zeros((16, 16), dtype=np.uint16)).save(path)
    else:
        Image.new("P" if how == "palette" else "RGBA", (16, 16)).save(path)
    recompute(folder)
    return f"picture {how}"


def alter_file(folder: Path, chance: random.Random) -> str:
    """Puts a link, a pipe, a device or a folder in place of a file, or removes it."""
    path = chance.choice(sorted(one for one in folder.rglob("*") if one.is_file()))
    how = chance.choice(["remove", "link", "pipe", "folder", "device", "loop"])
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how in ("link", "device", "loop"):
        path.symlink_to({"link": "/etc/passwd", "device": "/dev/zero", "loop": path}[how])
    return f"{how} in place of {path.name}"


ALTERATIONS: list[Alteration] = [
    alter_config, alter_config, alter_config, alter_config, raw_config, later_format, flip_bits, flip_bits,
    alter_tensors, alter_tensors, alter_tensors, alter_header, alter_picture, alter_file,
]  # fmt: skip


def use(folder: Path) -> str:
    """Loads a folder and uses what it holds; returns what came of it, the first word of which is the kind.

    ``refused`` and ``works`` are good; everything else is not.
    """
    try:
        if folder.name.startswith("classifier"):
            model: Any = load_classifier(str(folder)).model
            with torch.no_grad():
                scores = model(torch.rand(2, 3, 16, 16))
            return "works" if bool(scores.isfinite().all()) else "silent: its scores are not finite"
        model = load(folder)
    except LookalikeError as error:
        text = str(error)
        return f"refused {text}" if "\n" not in text and len(text) < 1_000 else f"long refusal: {text[:200]!r}"
    except BaseException:
        return f"traceback {traceback.format_exc()[-600:]}"
    try:
        return _use_model(model)
    except BaseException:
        return f"later traceback {traceback.format_exc()[-600:]}"


def _use_model(model: PrototypeModel) -> str:
    if model.similarity.name not in SIMILARITIES or not isinstance(model.encoder, nn.Module):
        return "silent: no similarity"
    x = torch.rand(2, 3, 16, 16)
    scores, probabilities = model(x), model.predict_proba(x)
    if not bool(scores.isfinite().all()) or not bool(probabilities.isfinite().all()):
        return "silent: its scores are not finite"
    json.dumps(model.prototypes.to_table(), allow_nan=False)
    for one in explain(model, x):
        json.dumps(one.to_dict(), allow_nan=False)
    model.prototype_inputs()
    if model.to_pixels(x) is not None and model.images is not None:
        model.plot_gallery()
    return "works"


def in_child(work: Callable[[], str], seconds: float = SECONDS) -> tuple[str, float, int]:
    """Runs a function in a fork; returns what it returned, its seconds and its peak of memory in bytes."""
    reader, writer = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            signal.alarm(int(seconds))
            os.write(writer, work().encode("utf-8", "backslashreplace")[:4_000])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read().decode()
    _, status, usage = os.wait4(pid, 0)
    if not answer:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        answer = "hang" if number == signal.SIGALRM else f"killed by signal {number}"
    return answer, time.monotonic() - started, usage.ru_maxrss * 1024


def main() -> int:
    """Alters and loads; prints what came of it; returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="repeat one number alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts: collections.Counter[str] = collections.Counter()
    slowest, largest, wrong = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        models = make_models(Path(name) / "models")
        for folder in models:
            assert use(folder) == "works", use(folder)
        for number in range(given.number) if given.only is None else [given.only]:
            chance = random.Random(f"{given.seed}/{number}")
            model = chance.choice(models)
            folder = Path(name) / f"{model.name}-{number}"
            shutil.copytree(model, folder)
            try:
                done = alter(folder, chance)
            except Exception as error:  # the first alteration left nothing for the second
                counts["not altered twice"] += 1
                done = f"half done: {error}"
            answer, seconds, memory = in_child(lambda folder=folder: use(folder))
            counts[answer.split(" ")[0].rstrip(":")] += 1
            slowest, largest = max(slowest, seconds), max(largest, memory)
            if not answer.startswith(("refused", "works")) or memory > MEMORY:
                wrong += 1
                print(
                    f"{number}: {folder.name}: {done}\n  {answer}\n  {seconds:.1f} s, {memory / 2**20:.0f} MiB",
                    flush=True,
                )
            elif given.only is not None:
                print(f"{number}: {done}\n  {answer}")
            shutil.rmtree(folder, ignore_errors=True)
            if number % 50 == 49:
                print(f"{number + 1}: {dict(counts)}", flush=True)
    print(f"{dict(counts)}; slowest {slowest:.1f} s, largest {largest / 2**20:.0f} MiB; {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
