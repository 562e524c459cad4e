"""The field's standard measures as optional sections of the scorecard, measured on request."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.metrics.compactness import complexity, sparseness
from lookalike.metrics.context import Context
from lookalike.metrics.faithfulness_correlation import RandomSubsets, faithfulness_correlation
from lookalike.metrics.map_stability import map_stability
from lookalike.metrics.maps import mean_of_finite
from lookalike.metrics.measures import MEASURES
from lookalike.metrics.perturbation import PixelCurves, deletion, insertion
from lookalike.metrics.road import road
from lookalike.metrics.sections import Measure, Need, SectionResult, section

_ROWS = 8192  # embeddings per batch
_MAPS_BATCH = 32  # images per relevance pass
_NOISE = 0.01  # noise of ROAD and sensitivity, relative to the value range [ours]


def standard(name: str, *needs: Need, per_run: bool = True) -> Callable[[Measure], Measure]:
    """Registers a measure as an optional section, and adds its Co-12 properties to the details."""

    def register(measure: Measure) -> Measure:
        def measured(context: Context, run: int) -> SectionResult:
            figures, details = measure(context, run)
            return figures, {"properties": sorted({MEASURES[figure].co12 for figure in figures}), **details}

        section(name, *needs, per_run=per_run, optional=True)(measured)
        return measure

    return register


def value_range(context: Context, run: int) -> tuple[Tensor, Tensor]:
    """Returns the inputs' values at black and at white [C]."""
    noise = context.noise(run)
    return noise.low, noise.high


@standard("deletion", "images")
def _deletion(context: Context, run: int) -> SectionResult:
    return _pixel_curves("deletion", deletion, context, run)


@standard("insertion", "images")
def _insertion(context: Context, run: int) -> SectionResult:
    return _pixel_curves("insertion", insertion, context, run)


def _pixel_curves(name: str, measure: Callable[..., PixelCurves], context: Context, run: int) -> SectionResult:
    """Measures deletion or insertion by the likeness maps, and in random order as a reference."""
    options = context.options
    curves = {
        key: measure(
            context.probabilities,
            context.images(run),
            maps,
            baseline=value_range(context, run)[0],
            n_steps=options.n_steps,
            seed=options.seed + run,
            batch_size=options.batch_size,
        )
        for key, maps in ((name, context.likeness_maps(run)), (f"{name}_random", None))
    }
    details = {
        "fractions": curves[name].fractions.tolist(),
        "curves": {key: curve.mean.tolist() for key, curve in curves.items()},
        "areas": {key: curve.areas.tolist() for key, curve in curves.items()},
    }
    return {key: curve.area for key, curve in curves.items()}, details


@standard("road", "images")
def _road(context: Context, run: int) -> SectionResult:
    options = context.options
    low, high = value_range(context, run)
    curves = {
        key: road(
            context.probabilities,
            context.images(run),
            maps,
            noise=_NOISE * float((high - low).mean()),
            seed=options.seed + run,
            batch_size=options.batch_size,
        )
        for key, maps in (("road", context.likeness_maps(run)), ("road_random", None))
    }
    details = {
        "percentages": list(curves["road"].percentages),
        "curves": {key: curve.mean.tolist() for key, curve in curves.items()},
    }
    return {key: curve.score for key, curve in curves.items()}, details


@standard("faithfulness_correlation", "images")
def _faithfulness_correlation(context: Context, run: int) -> SectionResult:
    options = context.options
    correlations = faithfulness_correlation(
        context.probabilities,
        context.images(run),
        context.likeness_maps(run),
        baseline=value_range(context, run)[0],
        subsets=RandomSubsets(seed=options.seed + run),
        batch_size=options.batch_size,
    )
    return _mean("faithfulness_correlation", correlations)


@standard("sensitivity", "images")
def _sensitivity(context: Context, run: int) -> SectionResult:
    options, nearest = context.options, context.nearest(run)
    low, high = value_range(context, run)
    stability = map_stability(
        lambda x, rows: context.explain_likeness(x, nearest[rows, None]),
        context.images(run),
        context.likeness_maps(run),
        radius=_NOISE * (high - low),
        n_samples=options.n_draws,
        seed=options.seed + run,
        batch_size=min(_MAPS_BATCH, options.batch_size),
    )
    figures = {
        "max_sensitivity": stability.max_sensitivity,
        "avg_sensitivity": stability.avg_sensitivity,
        "map_stability": stability.correlation,
    }
    details = {
        "rule": options.rule,
        "options": dict(stability.options),
        "correlations": [
            [value if np.isfinite(value) else None for value in row] for row in stability.correlations.tolist()
        ],
    }
    return _finite(figures), details


@standard("sparseness", "images")
def _sparseness(context: Context, run: int) -> SectionResult:
    return _mean("sparseness", sparseness(context.likeness_maps(run)))


@standard("complexity", "images")
def _complexity(context: Context, run: int) -> SectionResult:
    maps = context.likeness_maps(run)
    figures, details = _mean("complexity", complexity(maps))
    return figures, details | {"most": float(np.log(maps[0].numel()))}


def _mean(name: str, values: Tensor) -> SectionResult:
    """Returns the mean over images as a figure, without images that have no value; these are counted."""
    missing = int((~values.isfinite()).sum())
    listed = [value if np.isfinite(value) else None for value in values.tolist()]
    return _finite({name: mean_of_finite(values)}), {"per_image": listed, "without_value": missing}


def _finite(figures: dict[str, float]) -> dict[str, float]:
    """Drops figures without a value."""
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def embeddings_of_store(store: Any) -> np.ndarray:
    """Reads a store's embeddings [N, D] into memory, in single precision."""
    return np.asarray(store.embeddings, dtype=np.float32)


def similarities_to(context: Context, queries: Tensor, training_embeddings: np.ndarray) -> Tensor:
    """Returns the model's similarities [n, N] of embeddings [n, D] to training embeddings [N, D], batch by batch."""
    similarity, device = context.model.similarity, context.model.device
    with torch.no_grad():
        batches = [
            similarity(
                queries.to(device), torch.from_numpy(training_embeddings[start : start + _ROWS]).to(device)
            ).cpu()
            for start in range(0, len(training_embeddings), _ROWS)
        ]
    return torch.cat(batches, 1)
