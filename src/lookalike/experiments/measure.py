"""Measurements of a model: its scorecard, its training time and the time of a prediction."""

import statistics
import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.workbench import Subject, Workbench
from lookalike.metrics import Scorecard
from lookalike.model import PrototypeModel

_TIMED, _WARM_UP = 30, 3  # predictions of one image: measured, and before them


def measure_subject(bench: Workbench, cells: Cells, subject: Subject) -> Record | None:
    """Returns a model's figures, from disk if it has been measured before; None if the measurement failed."""
    return cells.get(subject.name, bench.key(subject, n_images=bench.n_images), _measure, bench, subject)


def _measure(bench: Workbench, subject: Subject) -> Record:
    """Evaluates a model and times its predictions."""
    model, box, data = bench.model(subject), bench.black_box(subject), bench.data(subject)
    bench.say(f"measuring {subject.name}")
    card = bench.evaluate(subject, model, data, bench.measured_box(subject))
    values = card.to_dict()
    provenance = model.provenance
    return {
        "figures": {name: value for name, value in values.items() if isinstance(value, float | int)}
        | {
            "train_seconds": float(
                provenance["convert_seconds" if "convert_seconds" in provenance else "train_seconds"]
            ),
            "black_box_train_seconds": bench.black_box_seconds(subject),
            **predict_seconds(model, box.model, data.test[0][0][None]),
            "n_prototypes": len(model.prototypes),
            "embedding_dim": int(model.prototypes.vectors.shape[1]),
        },
        "scorecard": values,
        "provenance": provenance,
    }


def mean_axes(records: Sequence[Record]) -> dict[str, float]:
    """Returns the mean of measured models' radars, axis by axis."""
    return mean_of([Scorecard.from_dict(record["scorecard"]).axes() for record in records])


def mean_of(radars: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of radars, axis by axis, over the radars that have the axis."""
    axes = dict.fromkeys(axis for radar in radars for axis in radar)
    return {axis: statistics.fmean(radar[axis] for radar in radars if axis in radar) for axis in axes}


@torch.no_grad()
def predict_seconds(model: PrototypeModel, box: nn.Module, image: torch.Tensor) -> dict[str, float]:
    """Returns the time of a prediction of one image by the model and by its black box.

    They predict in turn, so that a change of the machine's load meets both. Each time is the median.
    """
    runs: dict[str, list[float]] = {"predict_seconds": [], "black_box_predict_seconds": []}
    for number in range(_WARM_UP + _TIMED):
        for name, predict in (("predict_seconds", model), ("black_box_predict_seconds", box)):
            started = time.perf_counter()
            predict(image).argmax(1)
            if number >= _WARM_UP:  # the first predictions are slower
                runs[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in runs.items()}
