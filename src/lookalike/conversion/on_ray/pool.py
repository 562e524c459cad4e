"""A pool of actors that works through a list of jobs, and continues when actors are lost."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from lookalike._core.errors import LookalikeError

Job = TypeVar("Job")

_START_SECONDS = 600.0
_LOSSES = 3  # actors lost in a row, per actor of the pool, before the pool gives up: so many losses are no accident


def work_through(
    jobs: Iterable[Job],
    start_actor: Callable[[], Any],
    size: int,
    *,
    prepare: Callable[[Job], Any] = lambda job: job,
    start_seconds: float = _START_SECONDS,
) -> Generator[Any, None, None]:
    """Gives jobs to actors, one at a time to each, and yields the results as they arrive.

    If an actor is lost, its job goes to another one. A new actor is requested and joins when the cluster has room for
    it. The pool waits for it only if no other actor is left.

        starting --ready--> free --job--> working --result--> free
                                             |
                                          lost: job back to the queue, new actor to starting

    Args:
        jobs: The jobs.
        start_actor: Requests an actor with methods ``ready()`` and ``work(job)`` from the cluster, returns its handle.
        size: Number of actors.
        prepare: Turns a job into the argument of ``work``, just before the job is given to an actor.
        start_seconds: Time to wait, in seconds, while there is no actor.

    Yields:
        Results of ``work``, in the order of their arrival.

    Raises:
        LookalikeError: If an actor fails to start, many actors in a row are lost without a result, or no actor starts
            in time.
    """
    import ray

    todo = deque(jobs)
    free: list[Any] = []
    starting: dict[Any, Any] = {}
    working: dict[Any, tuple[Any, Job]] = {}
    losses = 0
    try:
        for _ in range(size):
            _request_actor(start_actor, starting)
        while todo or working:
            while todo and free:
                actor, job = free.pop(), todo.popleft()
                working[actor.work.remote(prepare(job))] = actor, job
            finished, _ = ray.wait([*working, *starting], num_returns=1, timeout=None if working else start_seconds)
            if not finished:
                raise LookalikeError(
                    f"none of {size} actors could start within {start_seconds:.0f} seconds: "
                    "the cluster has no room for them, perhaps because other work fills it"
                )
            call = finished[0]
            unfinished: list[Job] = []
            if call in working:
                actor, job = working.pop(call)
                unfinished.append(job)
            else:
                actor = starting.pop(call)
            try:
                result = ray.get(call)
            except ray.exceptions.RayTaskError:
                raise  # an error in our own code; the actor is alive
            except ray.exceptions.RayError as error:
                losses += 1
                _check_losses(error, losses, size)
                todo.extendleft(unfinished)
                ray.kill(actor)  # it may be alive and only unreachable: it must not continue beside its replacement
                _request_actor(start_actor, starting)
                continue
            free.append(actor)
            if unfinished:
                losses = 0
                yield result
    finally:
        for actor in [*free, *starting.values(), *(actor for actor, _ in working.values())]:
            ray.kill(actor)


def _check_losses(error: Exception, losses: int, size: int) -> None:
    """Raises the loss of an actor as an error, if another actor would be lost in the same way."""
    if getattr(error, "actor_init_failed", False):
        reason = str(error).strip().splitlines()[-1]
        raise LookalikeError(
            f"an actor could not start: {reason} (does its machine have lookalike and your network's code?)"
        ) from error
    if losses >= _LOSSES * size:
        raise LookalikeError(
            f"the cluster has lost {losses} actors in a row that had embedded nothing "
            f"({type(error).__name__}: {error}): give them more memory, by fewer actors or a smaller batch"
        ) from error


def _request_actor(start_actor: Callable[[], Any], starting: dict[Any, Any]) -> None:
    """Requests an actor, and adds it to those that are starting."""
    actor = start_actor()
    starting[actor.ready.remote()] = actor
