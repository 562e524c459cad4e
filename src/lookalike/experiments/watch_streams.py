"""How often does a watch raise a false alarm, and how soon does it find a change? Beside a χ² test per batch [ours]."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from lookalike.data import DataBundle, ImageArray
from lookalike.doubt import ExchangeabilityTest
from lookalike.doubt.novelty import DEFAULT_NOVELTY
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.held_out import HeldOut, held_out, rows_of
from lookalike.experiments.strange_images import strange_images
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.model import PrototypeModel
from lookalike.model.calibrating import Promises, calibrated
from lookalike.model.doubting import confidences_of, doubt_of, novelty_of

BOUND = 0.05  # of false alarms; also the level of each χ² test
N_STREAMS, QUICK_STREAMS = 1000, 50
_CHANGED = 200  # streams with a change
_BATCH, _BATCHES, _CHANGE_AT = 25, 12, 4  # images in a batch, batches in a stream, batches before the change
_SHARES = (0.1, 0.3)  # of images of the new class
_DEGREES = 5.0  # by which the images are rotated more from batch to batch: the slow drift

_COLUMNS = (
    Column("alarms", "streams with an alarm: watch %", 100, 1),
    Column("alarms_chi2", "χ² %", 100, 1),
    Column("delay", "images until the alarm, median: watch", 1, 0),
    Column("delay_chi2", "χ²", 1, 0),
)


class Scores(NamedTuple):
    """What a watch sees of N images: novelty [N], probability of the predicted class [N], nearest prototype [N]."""

    novelty: np.ndarray
    confidences: np.ndarray
    nearest: np.ndarray

    def rows(self, rows: np.ndarray) -> "Scores":
        """Returns the scores of some images."""
        return Scores(*(values[rows] for values in self))

    def joined(self, other: "Scores") -> "Scores":
        """Returns both one after the other."""
        return Scores(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


def run_watch(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Watches clean streams, streams with a new class, and streams that drift."""
    n = QUICK_STREAMS if plan.quick else N_STREAMS
    rows: list[Row] = []
    for dataset, network in plan.places():
        by_stream: dict[str, list[Record]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(
                subject, streams=n, batches=[_BATCH, _BATCHES, _CHANGE_AT], bound=BOUND, novelty=DEFAULT_NOVELTY
            )
            record = cells.get(f"watch-{subject.name}", key, _measure, bench, subject, n)
            for kind, figures in (record or {}).items():
                by_stream.setdefault(kind, []).append(figures)
        rows += [
            Row((*table_names(dataset, network), kind), gather(records, _COLUMNS))
            for kind, records in by_stream.items()
        ]
    remarks = [
        f"{n:,} clean streams and {min(n, _CHANGED)} of each other kind, each of {_BATCHES} batches of {_BATCH} images "
        f"in a new random order; a change begins after {_CHANGE_AT} batches. *Watch*: the bound on false alarms is "
        f"{100 * BOUND:g}% for a whole stream. *χ²*: a test of each batch's most similar prototypes against those of "
        f"the validation images, at a level of {100 * BOUND:g}% per batch. *Images until the alarm* counts from the "
        "change; alarms before it do not count, and streams without an alarm count as endless. The new class: letters "
        f"among digits, digits among letters. The drift: each batch is rotated by {_DEGREES:g}° more than the one "
        "before."
    ]
    return Findings(("data", "network", "stream"), _COLUMNS, rows, {}, remarks)


def _measure(bench: Workbench, subject: Subject, n: int) -> Record:
    """Returns the figures of each kind of stream."""
    bench.say(f"watching streams with {subject.name}")
    pool = held_out(bench, subject)
    assert pool.model is not None  # data sets that train a network
    order = np.random.default_rng(subject.seed).permutation(len(pool.images.labels))
    fitted_rows, scored_rows = np.split(order, [len(order) // 4])
    # calibrate on the first part alone: its novelty score does not see the images of the streams
    model = calibrated(pool.model, rows_of(pool.images, fitted_rows), Promises(0.9, 0.05), seed=subject.seed)
    familiar = _scores(model, pool.images.embeddings[torch.from_numpy(scored_rows)])
    strange = _scores(model, _new_class(pool, model, subject.seed))
    drifting = [_scores(model, _rotated(pool, model, scored_rows, level)) for level in range(_BATCHES - _CHANGE_AT + 1)]
    figures = {"clean": _clean(familiar, n, subject.seed)}
    for share in _SHARES:
        figures[f"new class, {100 * share:.0f} % of the images"] = _changed(
            familiar, strange, share, min(n, _CHANGED), subject.seed
        )
    figures["slow drift"] = _drifted(drifting, min(n, _CHANGED), subject.seed)
    return figures


def _scores(model: PrototypeModel, embeddings: torch.Tensor) -> Scores:
    with torch.no_grad():
        nearest = model.similarities_of(embeddings).argmax(1).numpy()
        confidences = confidences_of(model, embeddings)[1].numpy()
    return Scores(novelty_of(model, doubt_of(model), embeddings), confidences, nearest)


def _new_class(pool: HeldOut, model: PrototypeModel, seed: int) -> torch.Tensor:
    kind = "letters" if pool.data.name == "digits" else "digits"
    pictures = strange_images(500, seed, without=pool.data.name)[kind]
    return model.embed(torch.stack([pool.data.preprocessing(picture) for picture in pictures]))


def _rotated(pool: HeldOut, model: PrototypeModel, rows: np.ndarray, level: int) -> torch.Tensor:
    """Embeds the held-out images, rotated by some levels."""
    samples = pool.data.test
    assert isinstance(samples, ImageArray)  # digits and letters are
    pictures = [
        Image.fromarray(samples.images[row]).rotate(level * _DEGREES, Image.Resampling.BILINEAR) for row in rows
    ]
    return model.embed(torch.stack([pool.data.preprocessing(picture) for picture in pictures]))


def _base_and_stream(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides n images at random into validation images and a stream."""
    order = np.random.default_rng([seed, 0x57]).permutation(n)
    n_stream = _BATCH * _BATCHES
    return order[n_stream:], order[:n_stream]


def _clean(familiar: Scores, n: int, seed: int) -> dict[str, float]:
    alarms = np.zeros(2)
    for number in range(n):
        base, stream = _base_and_stream(len(familiar.novelty), 10_000 * seed + number)
        first_alarms = _first_alarms(familiar.rows(base), familiar.rows(stream), number)
        alarms += [batch is not None for batch in first_alarms]
    return {"alarms": alarms[0] / n, "alarms_chi2": alarms[1] / n}


def _changed(familiar: Scores, strange: Scores, share: float, n: int, seed: int) -> dict[str, float]:
    streams = []
    for number in range(n):
        base, stream = _base_and_stream(len(familiar.novelty), 10_000 * seed + number)
        rng = np.random.default_rng([seed, number])
        both = familiar.joined(strange)
        is_new = (np.arange(len(stream)) >= _BATCH * _CHANGE_AT) & (rng.uniform(size=len(stream)) < share)
        rows = np.where(is_new, len(familiar.novelty) + rng.integers(0, len(strange.novelty), len(stream)), stream)
        streams.append((familiar.rows(base), both.rows(rows), number))
    return _delays(streams)


def _drifted(levels: list[Scores], n: int, seed: int) -> dict[str, float]:
    streams = []
    for number in range(n):
        base, stream = _base_and_stream(len(levels[0].novelty), 10_000 * seed + number)
        images_of_classes = [
            levels[max(0, batch - _CHANGE_AT + 1)].rows(stream[batch * _BATCH : (batch + 1) * _BATCH])
            for batch in range(_BATCHES)
        ]
        all_images = images_of_classes[0]
        for part in images_of_classes[1:]:
            all_images = all_images.joined(part)
        streams.append((levels[0].rows(base), all_images, number))
    return _delays(streams)


def _delays(streams: list[tuple[Scores, Scores, int]]) -> dict[str, float]:
    """Returns the share of streams with an alarm after the change, and the median number of images until it."""
    delays: list[list[float]] = []
    for base, stream, number in streams:
        first_alarms = _first_alarms(base, stream, number, after=_CHANGE_AT)
        delays.append([np.inf if batch is None else (batch - _CHANGE_AT + 1) * _BATCH for batch in first_alarms])
    images = np.array(delays)
    shares, medians = np.isfinite(images).mean(0), np.median(images, 0)
    figures = {"alarms": float(shares[0]), "alarms_chi2": float(shares[1])}
    return figures | {
        name: float(value) for name, value in zip(("delay", "delay_chi2"), medians, strict=True) if np.isfinite(value)
    }


def _first_alarms(base: Scores, stream: Scores, seed: int, after: int = 0) -> tuple[int | None, int | None]:
    """Returns the first batch, from ``after`` on, in which the watch and the χ² tests raise an alarm."""
    tests = [ExchangeabilityTest(base.novelty, seed), ExchangeabilityTest(-base.confidences, seed)]
    n_prototypes = int(max(base.nearest.max(), stream.nearest.max())) + 1
    by_watch = by_chi2 = None
    for batch in range(len(stream.novelty) // _BATCH):
        rows = slice(batch * _BATCH, (batch + 1) * _BATCH)
        capitals = [tests[0].add(stream.novelty[rows]), tests[1].add(-stream.confidences[rows])]
        if by_watch is None and batch >= after and max(capitals) / 2 >= 1 / BOUND:
            by_watch = batch
        if by_chi2 is None and batch >= after and _chi2_p(base.nearest, stream.nearest[rows], n_prototypes) <= BOUND:
            by_chi2 = batch
    return by_watch, by_chi2


def _chi2_p(base: np.ndarray, batch: np.ndarray, n_prototypes: int) -> float:
    """Returns the p-value of a χ² test that both have the same most similar prototypes."""
    from scipy.stats import chi2_contingency

    table = np.stack([np.bincount(values, minlength=n_prototypes) for values in (base, batch)])
    return float(chi2_contingency(table[:, table.sum(0) > 0], correction=False).pvalue)


def _lacks_a_network(bundle: DataBundle) -> str | None:
    """Returns why streams of other data are not watched: they are drawn from test images of a trained network."""
    return None if bundle.name in ("digits", "glyphs") else f"streams are of 'digits' or 'glyphs', not {bundle.name!r}"


EXPERIMENTS.register("watch")(
    Experiment("Watching streams of images", "beyond the paper", run_watch, lacking=_lacks_a_network)
)
