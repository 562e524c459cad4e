"""What is measured of a model: its scorecard, how long it took to make, how long a prediction takes."""

import statistics
import time
from typing import Any

import torch

from lookalike.encoder import LoadedClassifier
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.workbench import Subject, Workbench
from lookalike.metrics import evaluate
from lookalike.model import PrototypeModel

_TIMED = 30  # predictions of one image


def measured(bench: Workbench, cells: Cells, subject: Subject) -> Record | None:
    """Returns the figures of a model, from disk if it was measured already."""
    n_images = bench.n_images
    options = {"subject": vars(subject), "made": bench.options(subject), "n_images": n_images}

    def make() -> Record:
        model, box, data = bench.model(subject), bench.black_box(subject), bench.data(subject)
        bench.say(f"measuring {subject.name}")
        card = evaluate(
            model, data, black_box=box, n_images=n_images, random_state=subject.seed, progress=bench.progress
        )
        found = card.to_dict()
        return {
            "figures": {name: value for name, value in found.items() if isinstance(value, float | int)}
            | {
                "train_seconds": bench.train_seconds(subject),
                "black_box_train_seconds": _box_seconds(bench, subject),
                **predict_seconds(model, box, data.test[0][0][None]),
                "n_prototypes": len(model.prototypes),
                "embedding_dim": int(model.prototypes.vectors.shape[1]),
            },
            "scorecard": found,
            "provenance": model.provenance,
        }

    return cells.get(subject.name, options, make)


@torch.no_grad()
def predict_seconds(model: PrototypeModel, box: LoadedClassifier, image: torch.Tensor) -> dict[str, float]:
    """Returns how long one image takes the model and its black box: medians of predictions made in turn."""
    runs: dict[str, list[float]] = {"predict_seconds": [], "black_box_predict_seconds": []}
    for number in range(_TIMED + 3):
        for name, predict in (("predict_seconds", model), ("black_box_predict_seconds", box.model)):
            started = time.perf_counter()
            predict(image).argmax(1)
            if number >= 3:  # the first are slower
                runs[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in runs.items()}


def _box_seconds(bench: Workbench, subject: Subject) -> float:
    from lookalike.artifact import read_artifact

    folder = bench.folder / Subject(subject.dataset, subject.network, "blackbox", subject.seed).name
    config: dict[str, Any] = read_artifact(folder)[0]
    return float(config["provenance"]["train_seconds"])
