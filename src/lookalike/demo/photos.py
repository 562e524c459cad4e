"""The demonstration on photographs: a pretrained encoder, and no training of anything."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lookalike._core.fresh_folder import fresh_folder
from lookalike.conversion.convert import convert
from lookalike.data import DataBundle, load_stamps
from lookalike.data.closeups import load_closeups
from lookalike.demo.drawing import draw_sheet
from lookalike.demo.result import DemoResult, Say
from lookalike.encoder import LoadedClassifier
from lookalike.encoder.packaged import load_efficientnet_lite0
from lookalike.explanation import explain
from lookalike.metrics import Scorecard, evaluate
from lookalike.model import PrototypeModel

_DRAWN = 4  # photographs in the picture
_PROTOTYPES = 2
CLOSEUPS = ("cat", "coffee", "rocket", "astronaut")  # those drawn, where they are


def run_photo_demo(
    output: Path, *, seed: int = 0, overwrite: bool = False, say: Say = print, progress: bool | None = None
) -> DemoResult:
    """Converts ImageNet's EfficientNet-Lite0 on the stamps, ten kinds of cut-out photographs, without any training.

    Args:
        output: Folder to write.
        seed: Seed of the split and the clustering.
        overwrite: Replace the folder if it exists.
        say: Called with a message before each step.
        progress: Show progress bars.

    Raises:
        LookalikeError: If the stamps or the network's weights are not there; the message says how to get them.
    """
    with fresh_folder(output, marker="summary.json", overwrite=overwrite) as folder:
        loaded = load_efficientnet_lite0(folder / "efficientnet_lite0.safetensors")
        assert loaded.preprocessing is not None  # it has one
        whole_picture = replace(
            loaded.preprocessing, resize=(224, 224), crop=(224, 224), fit="contain", fill=(255,), window=None
        )
        stamps = load_stamps(whole_picture, seed=seed)
        say(f"Converting EfficientNet-Lite0 with {len(stamps.train)} photographs; nothing is trained.")
        model, card, summary = _convert_and_draw(
            folder, replace(loaded, preprocessing=stamps.preprocessing), stamps, seed, progress
        )
        model.save(folder / "model")
        shutil.copy(folder / "model" / "gallery.png", folder / "gallery.png")
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return DemoResult(summary, [_row("KMEx, l2", summary)], stamps.notes, tuple(card.verdict()))


def add_closeups(folder: Path, *, seed: int = 0, progress: bool | None = None) -> dict[str, Any]:
    """Adds the same on close-ups of six free photographs to a demonstration's folder. Returns the figures.

    Raises:
        LookalikeError: If scikit-image or the network's weights are not installed.
    """
    loaded = load_efficientnet_lite0()
    assert loaded.preprocessing is not None  # it has one
    whole_picture = replace(loaded.preprocessing, resize=(224, 224), crop=(224, 224), window=None)
    closeups = load_closeups(whole_picture)
    return _convert_and_draw(folder, replace(loaded, preprocessing=whole_picture), closeups, seed, progress)[2]


def _convert_and_draw(
    folder: Path, loaded: LoadedClassifier, data: DataBundle, seed: int, progress: bool | None
) -> tuple[PrototypeModel, Scorecard, dict[str, Any]]:
    """Converts, compares with plain classifiers on the same embedding, and draws explanations of test photographs."""
    started = time.perf_counter()
    model = convert(loaded, data.train, n_prototypes=_PROTOTYPES, seed=seed, progress=progress)
    seconds = round(time.perf_counter() - started, 3)
    only = ("faithfulness", "same_embedding")
    card = evaluate(model, data.test, train=data.train, only=only, progress=progress)
    labels = np.array([data.test[row][1] for row in range(len(data.test))])
    names = [name for name in CLOSEUPS if name in data.class_names] or data.class_names
    of_classes = [np.flatnonzero(labels == data.class_names.index(name)) for name in names[:_DRAWN]]
    rows = [int(of_class[len(of_class) // 2]) for of_class in of_classes]  # for close-ups, the middle of the photograph
    inputs = torch.stack([data.test[row][0] for row in rows])
    explanations = explain(model, inputs, labels=labels[rows], relevance=True, n_nearest=_PROTOTYPES)
    draw_sheet(folder / "photographs.png", explanations)
    summary = {
        "dataset": data.name,
        "n_test": len(data.test),
        "n_prototypes": len(model.prototypes),
        "convert_seconds": seconds,
        "seed": seed,
        **{name: card[name] for name in card.runs},
    }
    return model, card, summary


def _row(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": name,
        "accuracy": summary["accuracy"],
        "agreement": None,
        "ghosting": None,
        "convert_seconds": summary["convert_seconds"],
        "predict_time_ratio": None,
    }
