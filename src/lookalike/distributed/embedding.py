"""The embedding pass: a pool of actors, each of which writes what it has embedded as shards."""

import inspect
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lookalike.acceleration import Accelerated
from lookalike.data import Batches
from lookalike.distributed.cluster import n_fitting
from lookalike.distributed.readers import Reader
from lookalike.distributed.shards import Rows, open_shards, read_indices, shard_name, write_shard
from lookalike.distributed.sources import Known, Left, Source
from lookalike.embedding import name_samples, predicted_class
from lookalike.encoder import Encoder, device_of, dtype_of, place
from lookalike.errors import LookalikeError
from lookalike.files import write_whole
from lookalike.progress import Advance

_COMPLETE = "complete"
_FRUITLESS_ROUNDS = 3


class Embedder:
    """An actor: embeds the rows that it is given and writes them as a shard.

    A shard that is there already is not made again, so that a call which is repeated does no harm. What is wrong with
    the data is not raised but told in the result, as it is no use to try again.

    Args:
        encoder: A reference to the encoder, which is in the object store once.
        reader: A reference to what opens rows.
        folder: Where the shards are.
        batch_size: The most rows that pass through the encoder at once.
        on_error: What to do about an image that cannot be read.
        gpu: Whether to embed on a GPU.
        planned: Whether it is given one row at a time that is a whole shard, with a list per column.
    """

    def __init__(
        self,
        encoder: Any,
        reader: Any,
        folder: str,
        batch_size: int,
        on_error: Literal["stop", "skip"],
        gpu: bool,
        planned: bool,
    ) -> None:
        import ray

        self._encoder: Encoder = ray.get(encoder)
        self._reader: Reader = ray.get(reader)
        self._folder = Path(folder)
        self._batch_size = batch_size
        self._on_error = on_error
        self._planned = planned
        self._encoder.model.to(torch.device("cuda" if gpu else "cpu"))

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the name of the shard [1], for how many rows it stands [1], and what is wrong, or nothing [1]."""
        if self._planned:
            rows = {name: np.asarray(list(column[0])) for name, column in rows.items()}
        if not len(rows["index"]):
            return _report("", 0, "")
        order = np.argsort(rows["index"], kind="stable")
        rows = {name: column[order] for name, column in rows.items()}
        path = self._folder / shard_name(rows["index"])
        try:
            if not path.exists():
                self._write(path, rows)
        except LookalikeError as error:
            return _report(path.name, 0, str(error))
        except Exception as error:
            first, last = rows["index"][0], rows["index"][-1]
            return _report(path.name, 0, f"samples {first} to {last} fail: {type(error).__name__}: {error}")
        return _report(path.name, len(rows["index"]), "")

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
    source: Source,
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

    It goes round by round. A call that is lost with its actor or node is not waited for, as nobody knows whether
    there will be room for the actor again: the others go on, and the next round embeds what is missing, with as many
    actors as the cluster then has room for.

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
        LookalikeError: If samples cannot be embedded, or three rounds in a row add nothing.
    """
    import ray

    complete = folder / _COMPLETE
    if complete.exists() and complete.read_text() == str(len(_names(folder))):
        return 0
    constructor: dict[str, Any] = {}
    used, fruitless = 0, 0
    present = _names(folder)
    while True:
        left = source.left(_known(folder) if source.reads_on_cluster else Known(np.arange(0)), present)
        if left is None:
            break
        if not constructor:
            advance(sum(shard.asked for shard in open_shards(folder)))
            constructor = {
                "encoder": ray.put(encoder),
                "reader": ray.put(source.reader),
                "folder": str(folder),
                "batch_size": batch_size,
                "on_error": on_error,
                "gpu": num_gpus > 0,
                "planned": left.shard_rows is None,
            }
        fitting = n_fitting(num_cpus, num_gpus, spared_cpus=1 if source.reads_on_cluster else 0)
        size = min(n_actors or fitting, fitting, left.n_shards or fitting)
        used = max(used, size)
        # where the number of samples is known, what is lost is missed when the round is over
        tolerant = source.total is not None
        written, failure = _run_round(left, constructor, size, num_cpus, num_gpus, tolerant, advance)
        astray = [name for name in written if not (folder / name).exists()]
        if astray:
            raise LookalikeError(
                f"an actor wrote {astray[0]!r}, and it is not in {str(folder)!r}: the working folder must lie on "
                "storage that all nodes share"
            )
        if failure is None and not tolerant:
            break
        now = _names(folder)
        fruitless = 0 if now - present else fruitless + 1
        present = now
        if fruitless == _FRUITLESS_ROUNDS:
            raise LookalikeError(
                f"the cluster has lost all actors {fruitless} times before they embedded anything "
                f"({failure or 'see the logs of Ray'}): give them more memory, by fewer actors or a smaller batch_size"
            )
    write_whole(complete, str(len(_names(folder))))
    return used


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.parquet") if not path.name.startswith(".")}


def _known(folder: Path) -> Known:
    """Returns the indices that shards stand for already, those of broken images included."""
    shards = open_shards(folder)
    parts = [part for shard in shards for part in (read_indices(shard.path)[0], np.array([*shard.skipped], dtype=int))]
    return Known(np.concatenate([np.arange(0), *parts]))


def _run_round(
    left: Left,
    constructor: dict[str, Any],
    size: int,
    num_cpus: float,
    num_gpus: float,
    tolerant: bool,
    advance: Advance,
) -> tuple[list[str], str | None]:
    """Runs the pool once; returns the shards that it told of, and what ended the round early, if anything did."""
    import ray

    options: dict[str, Any] = {}
    if "ray_remote_args_fn" in inspect.signature(left.dataset.map_batches).parameters:
        options["ray_remote_args_fn"] = _lost_calls_fail
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is no other way yet to say how often to try again
        results = left.dataset.map_batches(
            Embedder,
            batch_size=left.shard_rows or 1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=size),
            fn_constructor_kwargs=constructor,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            **options,
        )
    results.context.enable_progress_bars = False
    results.context.max_errored_blocks = -1 if tolerant else 0
    written: list[str] = []
    told = iter(results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0))
    try:
        for batch in told:
            for name, count, wrong in zip(batch["shard"], batch["rows"], batch["wrong"], strict=True):
                if wrong:
                    raise LookalikeError(str(wrong))
                if name:
                    written.append(str(name))
                    advance(int(count))
    except ray.exceptions.RayError as error:
        return written, f"{type(error).__name__}: {error}"
    return written, None


def _lost_calls_fail() -> dict[str, Any]:
    """Lets an actor start again wherever there is room, and does not wait for that with what it was at."""
    return {"max_restarts": -1, "max_task_retries": 0}


def _report(name: str, rows: int, wrong: str) -> dict[str, np.ndarray]:
    return {"shard": np.array([name]), "rows": np.array([rows]), "wrong": np.array([wrong])}
