"""Connecting to a Ray cluster, and running tasks on it."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from lookalike._core.errors import LookalikeError

Item = TypeVar("Item")

_RETRIES = 10  # of a task, if its node is lost


def import_ray() -> Any:
    """Imports Ray with its data library.

    Raises:
        LookalikeError: If they are not installed.
    """
    try:
        import pyarrow as _  # noqa: F401
        import ray
        import ray.data
    except ImportError as error:
        raise LookalikeError(
            f"a conversion on a cluster needs Ray, and {error.name or 'it'} is not installed: pip install 'ray[data]'"
        ) from error
    return ray


@contextmanager
def connected(cluster: str) -> Iterator[None]:
    """Connects to a cluster while the block runs. An existing connection is used and left open.

    Args:
        cluster: An address; or ``"auto"`` for the running cluster if there is one, else one of this machine alone.

    Raises:
        LookalikeError: If nothing answers at the address, or this process is connected to another cluster.
    """
    ray = import_ray()
    if cluster.startswith("ray://"):
        raise LookalikeError(
            f"{cluster!r} is the address of a Ray client, which Ray Data does not work through: run the conversion on "
            "a node of the cluster, with cluster='auto'"
        )
    if ray.is_initialized():
        present = ray.get_runtime_context().gcs_address
        if cluster not in ("auto", present):
            raise LookalikeError(f"the cluster {present!r} is connected to, not {cluster!r}: call ray.shutdown() first")
        with _quiet():
            yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's core writes to the console without loggers
    address = None if cluster == "auto" else cluster
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise LookalikeError(f"no Ray cluster could be reached as {cluster!r}: {error}") from error
    try:
        with _quiet():
            yield
    finally:
        ray.shutdown()


def n_fitting(num_cpus: float, num_gpus: float) -> int:
    """Returns the number of actors of a size that fit into the cluster.

    Raises:
        LookalikeError: If none fits.
    """
    import ray

    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    capacities = [
        int(available // requested) for available, requested in ((cpus, num_cpus), (gpus, num_gpus)) if requested > 0
    ]
    if not capacities or min(capacities) < 1:
        raise LookalikeError(
            f"an actor with num_cpus={num_cpus} and num_gpus={num_gpus} does not fit into the cluster, which has "
            f"{cpus:g} CPUs and {gpus:g} GPUs"
        )
    return min(capacities)


def as_task(function: Callable[..., Any]) -> Any:
    """Turns a function into a task for one CPU, which runs again if its node is lost."""
    import ray

    return ray.remote(function).options(num_cpus=1, max_retries=_RETRIES)


def portions(items: Sequence[Item], max_size: int | None = None) -> list[Sequence[Item]]:
    """Splits items into portions, about four per CPU, so that no CPU is idle for long.

    Args:
        items: The items, whose order is kept.
        max_size: Largest number of items in a portion.
    """
    import ray

    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    size = max(1, len(items) // (4 * cpus))
    size = size if max_size is None else min(size, max_size)
    return [items[start : start + size] for start in range(0, len(items), size)]


def n_nodes() -> int:
    """Returns the current number of nodes of the cluster."""
    import ray

    return sum(bool(node["Alive"]) for node in ray.nodes())


def result_of(reference: Any) -> Any:
    """Returns a task's result, or raises the task's own error.

    Raises:
        LookalikeError: If the task raised it.
    """
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, LookalikeError):
            raise error.cause from None
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray Data's log messages out of the console; Ray's log files stay complete."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
