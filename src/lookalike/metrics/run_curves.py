"""The relevance-ordering curves of a run: of the model and of the black box, by relevance and in random order."""

from torch import Tensor

from lookalike._core.errors import RelevanceError
from lookalike.encoder.calls import n_threads, rows_at_once
from lookalike.metrics.context import Context
from lookalike.metrics.robustness import JointScorer, Ordering, OrderingCurves, ordering_curves

_MODEL, _BLACK_BOX = "model", "black box"
_PARTS_PER_THREAD = 4  # of a network, so that threads seldom wait for each other


def curves_of_run(context: Context, run: int) -> dict[str, OrderingCurves]:
    """Returns the curves by name; those of the black box are computed only once for several evaluated models.

    If both classifiers share a network, no noisy copy passes twice: one pass scores it for both.
    """
    passes, options, images = context.passes, context.options, context.images(run)
    orderings = _orderings(context, run)
    n_rows_at_once = rows_at_once(images, options.batch_size, images.device)
    if (n_workers := n_threads(images.device)) > 1:
        n_rows_at_once *= _PARTS_PER_THREAD * n_workers
    n_done = 0

    def advance(n_rows: int) -> None:
        nonlocal n_done
        n_done += n_rows
        context.advance(n_rows)

    def curves_of(score: JointScorer, orderings: dict[str, Ordering]) -> dict[str, OrderingCurves]:
        return ordering_curves(
            score,
            images,
            orderings,
            context.noise(run),
            samples=context.sample(run),
            n_steps=options.n_steps,
            batch_size=n_rows_at_once,
            advance=advance,
        )

    def of_model(rows: Tensor) -> dict[str, Tensor]:
        return {_MODEL: passes.probabilities(rows)}

    def of_black_box(rows: Tensor) -> dict[str, Tensor]:
        return {_BLACK_BOX: passes.black_box_probabilities(rows)}

    if passes.is_shared:
        curves = curves_of(lambda rows: dict(zip((_MODEL, _BLACK_BOX), passes.both(rows), strict=True)), orderings)
    else:
        curves = curves_of(of_model, {name: each for name, each in orderings.items() if each.classifier == _MODEL})
        of_box = {name: each for name, each in orderings.items() if each.classifier == _BLACK_BOX}
        curves |= curves_of(of_black_box, of_box) if of_box else {}
    context.advance(passes.ordering_rows(len(images), options.n_steps, options.n_draws) - n_done)
    return _with_measured(context, run, curves)


def _orderings(context: Context, run: int) -> dict[str, Ordering]:
    """Returns what the curves show, without those of the black box that were computed for another model."""
    orderings = {"model": Ordering(_MODEL, context.likeness_maps(run)), "random": Ordering(_MODEL, None)}
    if context.black_box is None:
        return orderings
    measured = context.black_box.measured
    if context.curves_key(run, "black_box") not in measured:
        try:
            orderings["black_box"] = Ordering(_BLACK_BOX, context.black_box_maps(run))
        except RelevanceError as error:
            context.note(f"the black box's relevance ordering was not measured: {error}")
    if context.curves_key(run, "black_box_random") not in measured:
        orderings["black_box_random"] = Ordering(_BLACK_BOX, None)
    return orderings


def _with_measured(context: Context, run: int, curves: dict[str, OrderingCurves]) -> dict[str, OrderingCurves]:
    """Remembers the black box's new curves for other models, and adds those computed for others before."""
    if context.black_box is None:
        return curves
    measured = context.black_box.measured
    for name in ("black_box", "black_box_random"):
        key = context.curves_key(run, name)
        if name in curves:
            measured[key] = curves[name]
        elif key in measured:
            curves[name] = measured[key]
    return {name: curves[name] for name in ("model", "random", "black_box", "black_box_random") if name in curves}
