"""The embedding pass: a pool of actors, each of which writes what it has embedded as shards."""

import inspect
import warnings
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from lookalike.acceleration import Accelerated
from lookalike.data import Batches
from lookalike.distributed.cluster import n_fitting
from lookalike.distributed.pool import work_through
from lookalike.distributed.readers import Reader
from lookalike.distributed.shards import Rows, open_shards, read_indices, shard_name, write_shard
from lookalike.distributed.sources import Columns, Known, Planned
from lookalike.embedding import name_samples, predicted_class
from lookalike.encoder import Encoder, device_of, dtype_of, place
from lookalike.errors import LookalikeError
from lookalike.files import write_whole
from lookalike.progress import Advance

_COMPLETE = "complete"
_FRUITLESS_ROUNDS = 3


class Told(NamedTuple):
    """What an actor tells of the rows that it was given.

    Attributes:
        shard: The file's name, or nothing if there were no rows.
        rows: For how many it stands.
        wrong: What is wrong with the data, or nothing.
    """

    shard: str
    rows: int
    wrong: str


class Embedder:
    """An actor: embeds the rows that it is given and writes them as a shard.

    A shard that is there already is not made again, so that a call which is repeated does no harm. What is wrong with
    the data is not raised but told in the result, as it is no use to try again.

    Args:
        shared: References to the encoder and to what opens rows, which are in the object store once.
        folder: Where the shards are.
        batch_size: The most rows that pass through the encoder at once.
        on_error: What to do about an image that cannot be read.
        gpu: Whether to embed on a GPU.
    """

    def __init__(
        self,
        shared: tuple[Any, Any],
        folder: str,
        batch_size: int,
        on_error: Literal["stop", "skip"],
        gpu: bool,
    ) -> None:
        import ray

        encoder, reader = shared  # in a tuple, which Ray does not look into
        self._encoder: Encoder = ray.get(encoder)
        self._reader: Reader = ray.get(reader)
        self._folder = Path(folder)
        self._batch_size = batch_size
        self._on_error = on_error
        self._encoder.model.to(torch.device("cuda" if gpu else "cpu"))

    def ready(self) -> None:
        """Returns when the actor has started."""

    def work(self, rows: dict[str, np.ndarray]) -> Told:
        """Embeds rows, a column ``index`` and what the reader asks for, and writes them as a shard."""
        if not len(rows["index"]):
            return Told("", 0, "")
        order = np.argsort(rows["index"], kind="stable")
        rows = {name: column[order] for name, column in rows.items()}
        path = self._folder / shard_name(rows["index"])
        try:
            if not path.exists():
                self._write(path, rows)
        except LookalikeError as error:
            return Told(path.name, 0, str(error))
        except Exception as error:
            first, last = rows["index"][0], rows["index"][-1]
            return Told(path.name, 0, f"samples {first} to {last} fail: {type(error).__name__}: {error}")
        return Told(path.name, len(rows["index"]), "")

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Does so as Ray Data asks for it, with what there is to tell as columns of one row."""
        return {name: np.array([value]) for name, value in self.work(rows)._asdict().items()}

    def _write(self, path: Path, rows: dict[str, np.ndarray]) -> None:
        index = rows["index"].astype(np.int64)
        repeated = index[1:][index[1:] == index[:-1]]
        if len(repeated):
            raise LookalikeError(
                f"the index {repeated[0]} stands for two samples; number the rows of column 'index' without repeats"
            )
        batches = Batches(self._reader.open(rows), self._batch_size, on_error=self._on_error)
        device, dtype = device_of(self._encoder.model), dtype_of(self._encoder.model)
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        predictions: list[np.ndarray] = []
        broken: list[int] = []
        with torch.no_grad(), Accelerated():
            for batch in batches:
                z, scores = self._encoder.embed_and_score(place(batch.inputs, device, dtype))
                z = z.float()
                broken += batch.indices[(~z.isfinite().all(1)).cpu().numpy()].tolist()
                parts.append((batch.indices, batch.labels, z.cpu().numpy()))
                if scores is not None and scores.ndim in (1, 2):
                    predictions.append(predicted_class(scores).cpu().numpy())
        if broken:
            named = name_samples(np.asarray(broken), batches.describe)
            raise LookalikeError(f"{len(broken)} embeddings have NaN or infinite values: {named}")
        empty = (np.arange(0), np.arange(0), np.zeros((0, self._encoder.embedding_dim), dtype=np.float32))
        positions, labels, embeddings = (np.concatenate(column) for column in zip(*(parts or [empty]), strict=True))
        write_shard(
            path,
            index,
            Rows(index[positions], labels, embeddings),
            np.concatenate(predictions) if predictions else None,
            {int(index[position]): message for position, message in batches.skipped.items()},
        )


def embed_all(
    source: Planned | Columns,
    encoder: Encoder,
    folder: Path,
    *,
    batch_size: int,
    on_error: Literal["stop", "skip"],
    n_actors: int | None,
    num_cpus: float,
    num_gpus: float,
    advance: Advance,
) -> int:
    """Embeds what is not embedded yet.

    Args:
        source: The data.
        encoder: On the CPU.
        folder: Where the shards go, on storage that all nodes share.
        batch_size: The most rows that pass through the encoder at once.
        on_error: ``"skip"`` goes on at an image that cannot be read.
        n_actors: The most actors; None takes as many as there is room for.
        num_cpus: Of an actor.
        num_gpus: Of an actor.
        advance: Moves a progress bar on by a number of samples.

    Returns:
        How many actors there were; 0 if nothing was left to embed.

    Raises:
        LookalikeError: If samples cannot be embedded, or actors are lost again and again with nothing done.
    """
    import ray

    complete = folder / _COMPLETE
    if complete.exists() and complete.read_text() == str(len(_names(folder))):
        return 0
    advance(sum(shard.asked for shard in open_shards(folder)))
    spared = 1 if isinstance(source, Columns) else 0
    fitting = n_fitting(num_cpus, num_gpus, spared_cpus=spared)
    actors = _Actors(
        {
            "shared": (ray.put(encoder), ray.put(source.reader)),
            "folder": str(folder),
            "batch_size": batch_size,
            "on_error": on_error,
            "gpu": num_gpus > 0,
        },
        {"num_cpus": num_cpus, "num_gpus": num_gpus},
        min(n_actors or fitting, fitting),
    )
    if isinstance(source, Columns):
        _embed_rows(source, actors, folder, advance)
    else:
        _embed_plans(source, actors, folder, advance)
    write_whole(complete, str(len(_names(folder))))
    return actors.size


@dataclass
class _Actors:
    """What actors are made of.

    Attributes:
        arguments: Of ``Embedder``.
        resources: Of each.
        size: How many.
    """

    arguments: dict[str, Any]
    resources: dict[str, float]
    size: int

    def hire(self) -> Any:
        """Asks for one that does not come again when it is lost, as there may never be room for it."""
        import ray

        remote = ray.remote(Embedder).options(**self.resources, max_restarts=0, max_task_retries=0)
        return remote.remote(**self.arguments)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.parquet") if not path.name.startswith(".")}


def _known(folder: Path) -> Known:
    """Returns the indices that shards stand for already, those of broken images included."""
    shards = open_shards(folder)
    parts = [part for shard in shards for part in (read_indices(shard.path)[0], np.array([*shard.skipped], dtype=int))]
    return Known(np.concatenate([np.arange(0), *parts]))


def _embed_plans(source: Planned, actors: _Actors, folder: Path, advance: Advance) -> None:
    """Embeds samples that have numbers, so that each shard is known before it is made."""
    spans = source.left(_names(folder))
    actors.size = min(actors.size, len(spans))
    with closing(work_through(spans, actors.hire, actors.size, prepare=source.rows)) as results:
        for told in results:
            _check_told(told, folder)
            advance(told.rows)


def _embed_rows(source: Columns, actors: _Actors, folder: Path, advance: Advance) -> None:
    """Embeds rows as Ray Data reads them, which has an index only then.

    It goes round by round. A call that is lost with its actor or node is not waited for, as nobody knows whether
    there will be room for the actor again: the others go on, and the next round embeds what is missing.
    """
    # where the number of samples is known, what is lost is missed when the round is over
    tolerant = source.total is not None
    present, fruitless = _names(folder), 0
    while True:
        dataset = source.left(_known(folder))
        if dataset is None:
            return
        failure = _run_round(dataset, source.shard_rows, actors, folder, tolerant, advance)
        if failure is None and not tolerant:
            return
        now = _names(folder)
        fruitless = 0 if now - present else fruitless + 1
        present = now
        if fruitless == _FRUITLESS_ROUNDS:
            raise LookalikeError(
                f"the cluster has lost all actors {fruitless} times before they embedded anything "
                f"({failure or 'see the logs of Ray'}): give them more memory, by fewer actors or a smaller batch"
            )


def _run_round(
    dataset: Any, shard_rows: int, actors: _Actors, folder: Path, tolerant: bool, advance: Advance
) -> str | None:
    """Runs a pool of Ray Data's once; returns what ended the round early, if anything did."""
    import ray

    options: dict[str, Any] = {}
    if "ray_remote_args_fn" in inspect.signature(dataset.map_batches).parameters:
        options["ray_remote_args_fn"] = _lost_calls_fail
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is no other way yet to say how often to try again
        results = dataset.map_batches(
            Embedder,
            batch_size=shard_rows,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=actors.size),
            fn_constructor_kwargs=actors.arguments,
            **actors.resources,
            **options,
        )
    results.context.enable_progress_bars = False
    results.context.max_errored_blocks = -1 if tolerant else 0
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for row in zip(*(batch[name] for name in Told._fields), strict=True):
                told = Told(str(row[0]), int(row[1]), str(row[2]))
                _check_told(told, folder)
                advance(told.rows)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {error}"
    return None


def _check_told(told: Told, folder: Path) -> None:
    if told.wrong:
        raise LookalikeError(told.wrong)
    if told.shard and not (folder / told.shard).exists():
        raise LookalikeError(
            f"an actor wrote {told.shard!r}, and it is not in {str(folder)!r}: the working folder must lie on storage "
            "that all nodes share"
        )


def _lost_calls_fail() -> dict[str, Any]:
    """Lets an actor start again wherever there is room, and does not wait for that with what it was at."""
    return {"max_restarts": -1, "max_task_retries": 0}
