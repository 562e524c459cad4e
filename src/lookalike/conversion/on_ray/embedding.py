"""The embedding pass: a pool of actors, which embed and write the embeddings as shards."""

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
from lookalike.conversion.on_ray.sources import ShardedSource
from lookalike.data import Batches
from lookalike.embedding import name_samples
from lookalike.embedding.rows import MemoryAwareEmbedder
from lookalike.encoder import Encoder, device_of, dtype_of, place

_COMPLETE_MARK = "complete"


class Actors(NamedTuple):
    """The actors that embed.

    Attributes:
        number: Largest number of them; None takes as many as fit into the cluster.
        num_cpus: CPUs of each.
        num_gpus: GPUs of each.
    """

    number: int | None
    num_cpus: float
    num_gpus: float


class JobResult(NamedTuple):
    """Result of an actor's job.

    Attributes:
        shards: Names of the shards, written by this job or found already written.
        rows: Number of samples in them.
        error: What is wrong with the data; empty if nothing is.
    """

    shards: tuple[str, ...]
    rows: int
    error: str = ""


class Embedder:
    """An actor that embeds the rows of a job and writes them as shards.

    A shard that exists already is not written again, so repeating a job is harmless. Mistakes in the data are returned
    in the result and not raised, because Ray would retry the job in vain.

    Args:
        shared: References to the encoder and the reader in Ray's object store.
        folder: Folder of the shards.
        batch_size: Largest number of rows that pass through the encoder at once.
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

        encoder, reader = shared  # Ray would resolve the references themselves, but not inside a tuple
        self._encoder: Encoder = ray.get(encoder)
        self._reader: Reader = ray.get(reader)
        self._folder = Path(folder)
        self._batch_size = batch_size
        self._on_error = on_error
        self._encoder.model.to(torch.device("cuda" if gpu else "cpu"))
        self._embedder, self._accelerated = MemoryAwareEmbedder(self._encoder), Accelerated()

    def ready(self) -> None:
        """Returns when the actor has started."""

    def work(self, job: Any) -> JobResult:
        """Embeds the rows of a job and writes them as shards."""
        written: list[str] = []
        rows = 0
        try:
            for columns in self._reader.read(job):
                written.append(self._write_once(columns))
                rows += len(columns["index"])
        except LookalikeError as error:
            return JobResult(tuple(written), rows, str(error))
        except (OSError, ValueError) as error:  # from a reader whose file is missing or damaged
            return JobResult(tuple(written), rows, f"the data cannot be read: {error}")
        return JobResult(tuple(written), rows)

    def _write_once(self, rows: dict[str, np.ndarray]) -> str:
        """Writes rows as a shard, unless it exists; returns its name."""
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
        """Embeds rows and writes them as a shard."""
        index = rows["index"].astype(np.int64)
        repeated = index[1:][index[1:] == index[:-1]]
        if len(repeated):
            raise LookalikeError(
                f"the index {repeated[0]} stands for two samples; number the rows of column 'index' without repeats"
            )
        batches = Batches(self._reader.open(rows), self._batch_size, on_error=self._on_error)
        device, dtype = device_of(self._encoder.model), dtype_of(self._encoder.model)
        embedded: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        predictions: list[np.ndarray] = []
        broken: list[int] = []
        with torch.no_grad():
            for batch in batches:
                with self._accelerated:  # not the reading, which sees the memory of images
                    z, scores = self._embedder.embed(place(batch.inputs, device, dtype))
                z = z.float()
                broken += batch.indices[(~z.isfinite().all(1)).cpu().numpy()].tolist()
                embedded.append((batch.indices, batch.labels, z.cpu().numpy()))
                if scores is not None and self._encoder.outputs is not None:
                    predictions.append(self._encoder.outputs.predicted(scores).cpu().numpy())
        if broken:
            samples = name_samples(np.asarray(broken), batches.describe)
            raise LookalikeError(f"{len(broken)} embeddings have NaN or infinite values: {samples}")
        empty = (np.arange(0), np.arange(0), np.zeros((0, self._encoder.embedding_dim), dtype=np.float32))
        positions, labels, embeddings = (np.concatenate(column) for column in zip(*(embedded or [empty]), strict=True))
        skipped = {int(index[position]): message for position, message in batches.skipped.items()}
        with writing_to(self._folder, "the shards before are safe"):
            write_shard(
                path,
                index,
                Rows(index[positions], labels, embeddings),
                np.concatenate(predictions) if predictions else None,
                skipped,
            )


def embed_shards(
    source: ShardedSource,
    encoder: Encoder,
    folder: Path,
    *,
    actors: Actors,
    batch_size: int,
    on_error: Literal["stop", "skip"],
    advance: Advance,
) -> int:
    """Embeds all samples that are not in shards yet.

    Args:
        source: The data.
        encoder: The encoder, on the CPU.
        folder: Folder of the shards, on storage that all nodes share.
        actors: How many actors embed, and what each takes of the cluster.
        batch_size: Largest number of rows that pass through the encoder at once.
        on_error: ``"skip"`` leaves out images that cannot be read.
        advance: Advances a progress bar by a number of samples.

    Returns:
        Number of actors; 0 if all samples were embedded already.

    Raises:
        LookalikeError: If samples cannot be embedded, or many actors in a row are lost before they embed anything.
    """
    import ray

    complete = folder / _COMPLETE_MARK
    _remove_damaged(folder)
    if complete.exists() and complete.read_bytes() == str(len(shard_names(folder))).encode():
        return 0
    shards = open_shards(folder)
    advance(sum(shard.n_requested for shard in shards))
    n_possible = n_fitting(actors.num_cpus, actors.num_gpus)
    reader, job_specs = source.remaining(shards)
    n_started = min(actors.number or n_possible, n_possible, len(job_specs))
    arguments = {
        "shared": (ray.put(encoder), ray.put(reader)),
        "folder": str(folder),
        "batch_size": batch_size,
        "on_error": on_error,
        "gpu": actors.num_gpus > 0,
    }

    def start_actor() -> Any:
        """Requests an actor without automatic restarts: for a restarted one there may never be room."""
        remote = ray.remote(Embedder).options(
            num_cpus=actors.num_cpus, num_gpus=actors.num_gpus, max_restarts=0, max_task_retries=0
        )
        return remote.remote(**arguments)

    with closing(work_through(job_specs, start_actor, n_started, prepare=source.make_job)) as results:
        for result in results:
            _check_result(result, folder)
            advance(result.rows)
    with writing_to(folder, "all embeddings are safe"):
        write_whole(complete, str(len(shard_names(folder))))
    return n_started


def _remove_damaged(folder: Path) -> None:
    """Removes shards that were changed or damaged since an earlier run wrote them. Tasks read each shard once.

    Warns:
        LookalikeWarning: If there are any.
    """
    paths = [str(folder / name) for name in sorted(shard_names(folder))]
    if not paths:
        return
    task = as_task(damaged_shards)
    damaged = [
        path for reference in [task.remote(portion) for portion in portions(paths)] for path in result_of(reference)
    ]
    for path in damaged:
        Path(path).unlink(missing_ok=True)
    if damaged:
        warn_of(
            f"{len(damaged)} shards do not fit their checksums (the first: {damaged[0]!r}); their samples are embedded "
            "again"
        )


def _check_result(result: JobResult, folder: Path) -> None:
    """Raises the error of a job, or the loss of its shards on storage that is not shared."""
    if result.error:
        raise LookalikeError(result.error)
    missing = [name for name in result.shards if not (folder / name).exists()]
    if missing:
        raise LookalikeError(
            f"an actor wrote {missing[0]!r}, and it is not in {str(folder)!r}: the working folder must be on storage "
            "that all nodes share"
        )
