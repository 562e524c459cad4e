"""The embedding pass: a pool of actors, each of which writes what it has embedded as shards."""

from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from lookalike._core.acceleration import Accelerated
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.files import write_whole
from lookalike._core.progress import Advance
from lookalike._core.working_folder import writing_to
from lookalike.conversion.on_ray.cluster import as_task, n_fitting, portions, result_of
from lookalike.conversion.on_ray.pool import work_through
from lookalike.conversion.on_ray.readers import Reader
from lookalike.conversion.on_ray.shards import Rows, damaged_shards, open_shards, shard_name, shard_names, write_shard
from lookalike.conversion.on_ray.sources import Sharded
from lookalike.data import Batches
from lookalike.embedding import name_samples
from lookalike.encoder import Encoder, device_of, dtype_of, place

_COMPLETE = "complete"


class Told(NamedTuple):
    """What an actor tells of its job.

    Attributes:
        shards: The names of the files that it wrote, or found.
        rows: For how many samples they stand.
        wrong: What is wrong with the data, or nothing.
    """

    shards: tuple[str, ...]
    rows: int
    wrong: str = ""


class Embedder:
    """An actor: embeds the rows that it is given and writes them as shards.

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

    def work(self, job: Any) -> Told:
        """Embeds the rows of a job and writes them as shards."""
        written: list[str] = []
        rows = 0
        try:
            for columns in self._reader.read(job):
                written.append(self._shard(columns))
                rows += len(columns["index"])
        except LookalikeError as error:
            return Told(tuple(written), rows, str(error))
        except (OSError, ValueError) as error:  # of a reader, whose file has gone or is damaged
            return Told(tuple(written), rows, f"the data cannot be read: {error}")
        return Told(tuple(written), rows)

    def _shard(self, rows: dict[str, np.ndarray]) -> str:
        order = np.argsort(rows["index"], kind="stable")
        rows = {name: column[order] for name, column in rows.items()}
        path = self._folder / shard_name(rows["index"])
        try:
            if not path.exists():
                self._write(path, rows)
        except LookalikeError:
            raise
        except Exception as error:
            first, last = rows["index"][0], rows["index"][-1]
            raise LookalikeError(f"samples {first} to {last} fail: {type(error).__name__}: {error}") from error
        return path.name

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
                if scores is not None and self._encoder.outputs is not None:
                    predictions.append(self._encoder.outputs.predicted(scores).cpu().numpy())
        if broken:
            named = name_samples(np.asarray(broken), batches.describe)
            raise LookalikeError(f"{len(broken)} embeddings have NaN or infinite values: {named}")
        empty = (np.arange(0), np.arange(0), np.zeros((0, self._encoder.embedding_dim), dtype=np.float32))
        positions, labels, embeddings = (np.concatenate(column) for column in zip(*(parts or [empty]), strict=True))
        skipped = {int(index[position]): message for position, message in batches.skipped.items()}
        with writing_to(self._folder, "the shards before are safe"):
            write_shard(
                path,
                index,
                Rows(index[positions], labels, embeddings),
                np.concatenate(predictions) if predictions else None,
                skipped,
            )


def embed_all(
    source: Sharded,
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
    _remove_damaged(folder)
    if complete.exists() and complete.read_bytes() == str(len(shard_names(folder))).encode():
        return 0
    shards = open_shards(folder)
    advance(sum(shard.asked for shard in shards))
    fitting = n_fitting(num_cpus, num_gpus)
    reader, briefs = source.left(shards)
    size = min(n_actors or fitting, fitting, len(briefs))
    arguments = {
        "shared": (ray.put(encoder), ray.put(reader)),
        "folder": str(folder),
        "batch_size": batch_size,
        "on_error": on_error,
        "gpu": num_gpus > 0,
    }

    def hire() -> Any:
        """Asks for an actor that does not come again when it is lost, as there may never be room for it."""
        remote = ray.remote(Embedder).options(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, max_task_retries=0)
        return remote.remote(**arguments)

    with closing(work_through(briefs, hire, size, prepare=source.job)) as results:
        for told in results:
            _check_told(told, folder)
            advance(told.rows)
    with writing_to(folder, "all embeddings are safe"):
        write_whole(complete, str(len(shard_names(folder))))
    return size


def _remove_damaged(folder: Path) -> None:
    """Removes shards that were altered or damaged since an earlier run wrote them: tasks read each once.

    Warns:
        LookalikeWarning: If there are some.
    """
    paths = [str(folder / name) for name in sorted(shard_names(folder))]
    if not paths:
        return
    task = as_task(damaged_shards)
    damaged = [path for found in [task.remote(part) for part in portions(paths)] for path in result_of(found)]
    for path in damaged:
        Path(path).unlink(missing_ok=True)
    if damaged:
        warn_of(
            f"{len(damaged)} shards do not fit their checksums (the first: {damaged[0]!r}); their samples are embedded "
            "again"
        )


def _check_told(told: Told, folder: Path) -> None:
    if told.wrong:
        raise LookalikeError(told.wrong)
    astray = [name for name in told.shards if not (folder / name).exists()]
    if astray:
        raise LookalikeError(
            f"an actor wrote {astray[0]!r}, and it is not in {str(folder)!r}: the working folder must lie on storage "
            "that all nodes share"
        )
