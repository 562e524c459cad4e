"""The demonstration's steps."""

import io
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.fresh_folder import fresh_folder
from lookalike.conversion.convert import convert
from lookalike.data import Batches, DataBundle, load_digits
from lookalike.demo import network
from lookalike.demo.drawing import draw_sheet
from lookalike.demo.photos import add_closeups
from lookalike.demo.result import DemoResult, Say
from lookalike.demo.training import train_digit_network
from lookalike.embedding import EmbeddingStore, as_encoder, embed
from lookalike.encoder import load_classifier
from lookalike.encoder.packaged import load_efficientnet_lite0
from lookalike.explanation import explain
from lookalike.metrics import Comparison, compare, predict_store, store_ghosting
from lookalike.model import PrototypeModel
from lookalike.report import Commands, write_report

_LIKENESSES_DRAWN = 6  # images in a picture of likenesses
_TIMED = 9  # pairs of predictions whose times are compared
_MAPS_DRAWN = 4  # images in a picture of relevance maps


def run_demo(
    output: Path, *, seed: int = 0, overwrite: bool = False, say: Say = print, progress: bool | None = None
) -> DemoResult:
    """Trains a small network on real digits, then converts it like a user's own.

    Args:
        output: Folder to write. It gets ``summary.json``, the checkpoint and its source, the model and the pictures.
        seed: Seed of training and clustering.
        overwrite: Replace the folder if it exists.
        say: Called with a message before each step.
        progress: Show progress bars.
    """
    with fresh_folder(output, marker="summary.json", overwrite=overwrite) as folder:
        digits = load_digits(network.PREPROCESSING)
        say(f"Training a small network on {len(digits.train)} real digits: it stands for your own model.")
        source = Path(shutil.copy(network.__file__, folder / "network.py"))
        trained = train_digit_network(digits, seed, progress)
        (folder / "classifier.pth").write_bytes(_checkpoint_bytes(trained))
        say("From here on you would do the same with your own model: load, convert, predict, explain.")
        loaded = load_classifier(f"{source}:digit_network", folder / "classifier.pth")
        model = convert(loaded, digits.train, seed=seed, progress=progress)
        train_store = embed(model, digits.train, progress=progress)
        options: Any = {"embeddings": train_store, "seed": seed, "progress": progress}
        alternative = convert(loaded, digits.train, similarity="mahalanobis", **options)
        test_store = embed(model, digits.test, progress=progress)
        inputs = _first_inputs(digits, 256)
        rows = []
        for name, converted in (("KMEx, l2", model), ("KMEx, mahalanobis", alternative)):
            comparison, ghosts = compare(converted, test_store), store_ghosting(converted, train_store)
            rows.append(_row(name, converted, comparison, ghosts, predict_time_ratio(converted, inputs)))
        summary = _summary(model, rows, len(test_store), seed)
        say("Saving the model and drawing its prototypes and explanations.")
        _save_and_draw(folder, model, digits, test_store)
        say("Evaluating it, and writing a report.")
        network_path = output / source.name  # where the folder will be
        commands = Commands(str(output / "model"), "digits", network=f"{network_path}:digit_network")
        page_options: Any = {"title": "Digits, converted", "commands": commands}
        card = write_report(model, digits, folder / "report.html", seed=seed, progress=progress, **page_options)
        card.save(folder / "scorecard.json")
        summary |= {name: card[name] for name in ("explanation_divergence", "auroc", "auroc_random", "diversity")}
        say("Converting ImageNet's EfficientNet-Lite0 on close-ups of six photographs; nothing is trained.")
        photographs, notes = _closeups(folder, seed, progress)
        summary |= {"photographs": photographs}
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return DemoResult(summary, rows, (*digits.notes, *notes), tuple(card.verdict()))


def _closeups(folder: Path, seed: int, progress: bool | None) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Adds the photographs where their packages are installed; returns the figures, and what to say of them."""
    try:
        figures = add_closeups(folder, seed=seed, progress=progress)
    except LookalikeError as error:
        return None, (f"no photographs: {error}",)
    note = (
        "photographs.png: what six photographs look like to EfficientNet-Lite0, and by which pixels; their test "
        "views are mirrored windows of the same photographs"
    )
    return figures, (note,)


def run_pretrained_demo(
    output: Path, *, seed: int = 0, overwrite: bool = False, say: Say = print, progress: bool | None = None
) -> DemoResult:
    """Converts ImageNet's EfficientNet-Lite0 on the digits, without any training.

    Args:
        output: Folder to write.
        seed: Seed of the clustering.
        overwrite: Replace the folder if it exists.
        say: Called with a message before each step.
        progress: Show progress bars.

    Raises:
        LookalikeError: If the package with the weights is not installed.
    """
    with fresh_folder(output, marker="summary.json", overwrite=overwrite) as folder:
        say("Loading EfficientNet-Lite0 with its ImageNet weights; nothing is trained.")
        loaded = load_efficientnet_lite0(folder / "efficientnet_lite0.safetensors")
        digits = load_digits(loaded.preprocessing)
        n_images = len(digits.train) + len(digits.test)
        say(f"Embedding {n_images} digits at 224×224; on two cores this takes a few minutes.")
        train = Batches(digits.train, batch_size=64)
        encoder = as_encoder(loaded.model, train, spec=loaded.spec)
        started = time.perf_counter()
        train_store = embed(encoder, train, progress=progress)
        embed_seconds = round(time.perf_counter() - started, 3)
        test_store = embed(encoder, digits.test, batch_size=64, progress=progress)
        models, rows = {}, []
        for similarity in ("l2", "mahalanobis"):
            options: Any = {"embeddings": train_store, "seed": seed, "progress": progress}
            models[similarity] = convert(encoder, train, similarity=similarity, **options)
            comparison = compare(models[similarity], test_store)
            ghosts = store_ghosting(models[similarity], train_store)
            rows.append(_row(f"KMEx, {similarity}", models[similarity], comparison, ghosts, None))
        best = models["mahalanobis"]
        summary = {
            "kmex_accuracy": rows[0]["accuracy"],
            "mahalanobis_accuracy": rows[1]["accuracy"],
            "ghosting": rows[0]["ghosting"],
            "n_test": len(digits.test),
            "n_prototypes": len(best.prototypes),
            "embed_seconds": embed_seconds,
            "convert_seconds": embed_seconds + models["l2"].provenance["convert_seconds"],
            "seed": seed,
            "versions": best.provenance["versions"],
        }
        _save_and_draw(folder, best, digits, test_store)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    note = "the network's own 1,000 classes are ImageNet's, so there is no accuracy of a black box to compare with"
    return DemoResult(summary, rows, (*digits.notes, note))


@torch.no_grad()
def predict_time_ratio(model: PrototypeModel, inputs: Tensor) -> float:
    """Returns the time of a prediction divided by the black box's: the median over pairs measured in turn."""
    network = model.encoder.model
    assert isinstance(network, torch.nn.Module)

    def seconds(run: Callable[[Tensor], Tensor]) -> float:
        started = time.perf_counter()
        run(inputs).argmax(1)
        return time.perf_counter() - started

    seconds(model)
    seconds(network)
    return round(statistics.median(seconds(model) / seconds(network) for _ in range(_TIMED)), 3)


def _checkpoint_bytes(network: torch.nn.Module) -> bytes:
    """Returns a network's weights as a checkpoint in memory; ``torch.save`` to a full disk gives no clear error."""
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.getvalue()


def _row(
    name: str, model: PrototypeModel, comparison: Comparison, ghosts: float, time_ratio: float | None
) -> dict[str, Any]:
    return {
        "model": name,
        "black_box_accuracy": comparison.black_box_accuracy,
        "accuracy": comparison.accuracy,
        "agreement": comparison.agreement,
        "ghosting": ghosts,
        "convert_seconds": model.provenance["convert_seconds"],
        "predict_time_ratio": time_ratio,
    }


def _summary(model: PrototypeModel, rows: list[dict[str, Any]], n_test: int, seed: int) -> dict[str, Any]:
    """Returns the figures of the demonstration, from the table's rows of its two conversions."""
    first, alternative = rows
    return {
        "black_box_accuracy": first["black_box_accuracy"],
        "kmex_accuracy": first["accuracy"],
        "agreement": first["agreement"],
        "ghosting": first["ghosting"],
        "n_prototypes": len(model.prototypes),
        "convert_seconds": model.provenance["convert_seconds"],
        "embed_seconds": model.provenance["embed_seconds"],
        "predict_time_ratio": first["predict_time_ratio"],
        "mahalanobis_accuracy": alternative["accuracy"],
        "mahalanobis_agreement": alternative["agreement"],
        "n_test": n_test,
        "seed": seed,
        "versions": model.provenance["versions"],
    }


def _first_inputs(digits: DataBundle, number: int) -> Tensor:
    return torch.stack([digits.test[row][0] for row in range(number)])


def _save_and_draw(folder: Path, model: PrototypeModel, digits: DataBundle, store: EmbeddingStore) -> None:
    """Saves a model, and draws its prototypes and explanations of test images."""
    model.save(folder / "model")
    shutil.copy(folder / "model" / "gallery.png", folder / "gallery.png")
    _draw_likenesses(folder, model, digits, store)


def _draw_likenesses(folder: Path, model: PrototypeModel, digits: DataBundle, store: EmbeddingStore) -> None:
    """Draws correct and wrong predictions on test images, one picture each."""
    predictions = predict_store(model, store).numpy()
    correct = predictions == store.labels
    first_of_class = np.unique(store.labels[correct], return_index=True)[1]  # one image of each class
    for name, rows in (("right", np.flatnonzero(correct)[first_of_class]), ("wrong", np.flatnonzero(~correct))):
        indices = store.indices[rows[:_LIKENESSES_DRAWN]]
        if not len(indices):
            continue
        inputs = torch.stack([digits.test[int(index)][0] for index in indices])
        labels = store.labels[rows[:_LIKENESSES_DRAWN]]
        draw_sheet(folder / f"likeness-{name}.png", explain(model, inputs, labels=labels))
        explanations = explain(model, inputs[:_MAPS_DRAWN], labels=labels[:_MAPS_DRAWN], relevance=True)
        draw_sheet(folder / f"relevance-{name}.png", explanations)
