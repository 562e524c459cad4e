"""Tries network families: conversion, relevance maps, and whether the maps keep under what must not change them.

    python tools/families.py run FILE.jsonl [PATTERN]   # a line per network that is not there yet
    python tools/families.py run FILE.jsonl 3/15        # the third of 15 parts; join their files with cat
    python tools/families.py page FILE.jsonl            # writes docs/reference/families.md

Networks are small variants with random weights, norms and statistics; nothing is downloaded.
"""

import contextlib
import copy
import datetime
import fnmatch
import gc
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.architectures import EVERY, channels_last, make, randomised  # noqa: E402
from tests.families import CONVOLUTIONAL, FAMILIES  # noqa: E402
from tests.hugging_face import classifiers, hugging_face  # noqa: E402
from tests.round_trip import differ_by, explained_twice  # noqa: E402

from lookalike._core.errors import LookalikeError  # noqa: E402
from lookalike._core.provenance import versions  # noqa: E402
from lookalike._core.untouched import in_eval_mode  # noqa: E402
from lookalike.encoder import Encoder  # noqa: E402
from lookalike.encoder.outputs import named_outputs  # noqa: E402
from lookalike.relevance import lrp  # noqa: E402

Make = Callable[[], tuple[nn.Module, Tensor]]
SAME = 1e-3  # relative difference of two maps in float64 that counts as none
PAGE = ROOT / "docs/reference/families.md"


def networks() -> Iterator[tuple[str, Make]]:
    """Yields all networks by name."""
    for name in EVERY:
        yield name, lambda name=name: make(name)  # type: ignore[misc]
    for name, (build, shape) in (FAMILIES | CONVOLUTIONAL).items():
        if name not in EVERY:
            yield name, lambda build=build, shape=shape: _made(build, shape)  # type: ignore[misc]
    for name in classifiers():
        yield name, lambda name=name: _made(*hugging_face(name))  # type: ignore[misc]


def _made(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return randomised(build()), torch.randn(2, *shape)


def examine(make_one: Make) -> dict[str, Any]:
    """Tries one network.

    Returns:
        Its row; under ``"absent"``, ``"refused"`` or ``"not_converted"`` why it is not complete.
    """
    try:
        model, x = make_one()
    except (ImportError, RuntimeError) as error:
        if isinstance(error, ImportError) or "Unknown model" in str(error):
            return {"absent": " ".join(str(error).split())[:120]}
        raise
    model, x = model.double(), x.double()
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        try:
            found = lrp(model, x, 1)
        except LookalikeError as error:
            return row | {"refused": str(error)[:300]}
        before = dict(named_outputs(in_eval_mode(model, lambda: model(x))))
        lrp(model, x, 1)
        after = dict(named_outputs(in_eval_mode(model, lambda: model(x))))
    row["untouched"] = all(torch.equal(before[key], after[key]) for key in before)
    row["residual"] = float(found.residual.max())
    row["unruled"] = float(found.unruled.max())
    row["without_rule"] = found.without_rule
    row["warned"] = any("Lookalike" in entry.category.__name__ for entry in caught)
    row["finite"] = bool(found.maps.isfinite().all()) and float(found.maps.abs().max()) > 0
    row["invariances"] = {name: difference(found.maps[rows], maps) for name, maps, rows in variants(model, x)}
    return row | converted(model, x)


def converted(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Converts a network, and compares explanations with those of what it is saved and loaded as."""
    images = torch.cat([x, x.flip(-1)])
    try:
        encoder = Encoder(model, x)
        with tempfile.TemporaryDirectory() as folder:
            first, second = explained_twice(model, images, Path(folder) / "model")
    except LookalikeError as error:
        return {"not_converted": str(error)[:300]}
    return {"head": encoder.head_name or "output", "dim": encoder.embedding_dim, "saved": differ_by(first, second)}


def variants(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Tensor, slice]]:
    """Yields maps that must be those of the network itself, and the rows that they are of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            yield "alone, around", lrp(model, x[:1], 1).maps.clone(), slice(0, 1)
        other = copy.deepcopy(model)
        other.load_state_dict(model.state_dict())
        other.requires_grad_(False)
        yield "frozen, loaded, channels last", lrp(channels_last(other), channels_last(x[1:]), 1).maps, slice(1, 2)


def difference(maps: Tensor, others: Tensor) -> float:
    """Returns the relative difference of two sets of maps."""
    return float((maps - others).norm() / maps.norm().clamp_min(1e-300))


def run(path: Path, pattern: str) -> None:
    """Tries networks and appends a line for each."""
    done = {json.loads(line)["name"] for line in path.read_text().splitlines()} if path.exists() else set()
    part, _, parts = pattern.partition("/") if pattern[:1].isdigit() else ("", "", "")
    for number, (name, make_one) in enumerate(networks()):
        asked = number % int(parts) == int(part) - 1 if parts else fnmatch.fnmatch(name, pattern)
        if name in done or not asked:
            continue
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                row = examine(make_one)
        except Exception as error:
            row = {"failed": f"{type(error).__name__}: {error}"[:200]}
        row = {"name": name, **row, "seconds": round(time.perf_counter() - start, 1)}
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        gc.collect()


def verdict(row: dict[str, Any]) -> str:
    """Says in a word what became of a network."""
    for word in ("absent", "failed", "refused"):
        if word in row:
            return word
    largest = max(*row["invariances"].values(), row.get("saved", 0.0))
    if not row["finite"] or not row["untouched"] or not largest <= SAME:
        return "wrong" if row["unruled"] <= 0.1 else "cautioned"
    if row["unruled"] > 0.1:
        return "cautioned"
    return "refused" if "not_converted" in row else "right"


def page(path: Path) -> None:
    """Writes the page."""
    rows = sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda row: row["name"])
    counts = {word: sum(verdict(row) == word for row in rows) for word in _WORDS}
    tried = len(rows) - counts["absent"]
    lines = [
        "# Network families",
        "",
        f"Written by `tools/families.py` on {datetime.date.today().isoformat()} with "
        + ", ".join(f"{name} {version}" for name, version in _installed().items())
        + ". Small variants with random weights, norms and statistics, in float64; composite "
        "`epsilon-plus-flat`. All of transformers' image classifiers are there.",
        "",
        f"{tried} networks, {counts['right'] / tried:.1%} right: "
        + ", ".join(f"{number} {word}" for word, number in counts.items())
        + ".",
        "",
        *(f"- **{word}**: {meaning}" for word, meaning in _WORDS.items()),
        "",
        "*residual*: largest share of relevance lost or gained. *unruled*: largest share that went through operations "
        "without a rule. *differs by*: largest relative difference between the maps and those of the same network "
        "frozen and loaded from its weights, with channels last, image by image, and under "
        "`inference_mode` and `autocast`. *saved*: that between the heat-maps of the converted network (of the black "
        "box and of the nearest prototypes) and those of the folder that it was saved to.",
        "",
        "| network | verdict | head | residual | unruled | differs by | saved | remarks |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
    ]
    PAGE.write_text("\n".join(lines) + "\n")


_WORDS = {
    "right": "converted, explained, saved and loaded; maps that pass all checks",
    "cautioned": "maps that say themselves that they are not to be relied on",
    "refused": "no map, or no conversion as it is; the error names the reason",
    "wrong": "maps that change where they must not, without a word",
    "failed": "an unexpected error",
    "absent": "not tried and not counted: the installed libraries cannot build it",
}


def _installed() -> dict[str, str]:
    import importlib.metadata

    found = dict(versions())
    for package in ("torch", "torchvision", "timm", "transformers"):
        found.setdefault(package, importlib.metadata.version(package))
    return {name: found[name] for name in ("torch", "torchvision", "timm", "transformers")}


def _line(row: dict[str, Any]) -> str:
    remark = row.get("failed") or row.get("refused") or row.get("absent") or ""
    if row.get("without_rule"):
        remark = "without a rule: " + ", ".join(f"`{name}`" for name in row["without_rule"])
    if "not_converted" in row:
        remark = (remark + "; " if remark else "") + "not cut: " + row["not_converted"]
    remark = remark.replace("|", "/").replace("\n", " ")
    figures = ["", "", "", ""]
    if "invariances" in row:
        figures = [f"{row['residual']:.2g}", f"{row['unruled']:.0%}", f"{max(row['invariances'].values()):.1g}"]
        figures.append(f"{row['saved']:.1g}" if "saved" in row else "")
    head = f"`{row['head']}`" if "head" in row else ""
    return f"| {row['name']} | {verdict(row)} | {head} | {' | '.join(figures)} | {remark} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, file, *rest = sys.argv[1:]
    if command == "run":
        run(Path(file), rest[0] if rest else "*")
    else:
        page(Path(file))
