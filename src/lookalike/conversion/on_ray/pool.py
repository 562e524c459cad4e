"""A pool of actors that work through a list of jobs, and goes on when some of them are lost."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from lookalike._core.errors import LookalikeError

Job = TypeVar("Job")

_START_SECONDS = 600.0
_LOSSES = 3  # for each actor of the pool, in a row


def work_through(
    jobs: Iterable[Job],
    hire: Callable[[], Any],
    size: int,
    *,
    prepare: Callable[[Job], Any] = lambda job: job,
    start_seconds: float = _START_SECONDS,
) -> Generator[Any, None, None]:
    """Hands jobs to actors, one at a time to each, and yields the results as they come.

    The job of a lost actor is handed to another one. In its place a new one is asked for, which joins when the cluster
    has room for it; nobody waits for that, unless no other is left.

    Args:
        jobs: What is to be done.
        hire: Asks the cluster for an actor that has the methods ``ready()`` and ``work(job)``, and returns its handle.
        size: How many actors.
        prepare: Makes of a job what ``work`` takes, when its turn comes.
        start_seconds: How long to wait while there is no actor.

    Yields:
        What ``work`` returns, in no order.

    Raises:
        LookalikeError: If an actor fails to start, actors are lost again and again with nothing done, or there is none
            for too long.
    """
    import ray

    todo = deque(jobs)
    free: list[Any] = []
    starting: dict[Any, Any] = {}
    working: dict[Any, tuple[Any, Job]] = {}
    losses = 0
    try:
        for _ in range(size):
            _ask(hire, starting)
        while todo or working:
            while todo and free:
                actor, job = free.pop(), todo.popleft()
                working[actor.work.remote(prepare(job))] = actor, job
            done, _ = ray.wait([*working, *starting], num_returns=1, timeout=None if working else start_seconds)
            if not done:
                raise LookalikeError(
                    f"none of {size} actors could start within {start_seconds:.0f} seconds: "
                    "the cluster has no room for them, perhaps because other work fills it"
                )
            call = done[0]
            given: list[Job] = []
            if call in working:
                actor, job = working.pop(call)
                given.append(job)
            else:
                actor = starting.pop(call)
            try:
                result = ray.get(call)
            except ray.exceptions.RayTaskError:
                raise  # it is of our own making, and the actor lives
            except ray.exceptions.RayError as error:
                if getattr(error, "actor_init_failed", False):
                    reason = str(error).strip().splitlines()[-1]
                    raise LookalikeError(
                        f"an actor could not start: {reason} (does its machine have lookalike and your network's code?)"
                    ) from error
                losses += 1
                if losses >= _LOSSES * size:
                    raise LookalikeError(
                        f"the cluster has lost {losses} actors in a row that had embedded nothing "
                        f"({type(error).__name__}: {error}): give them more memory, by fewer actors or a smaller batch"
                    ) from error
                todo.extendleft(given)
                ray.kill(actor)  # one that merely did not answer must not go on
                _ask(hire, starting)
                continue
            free.append(actor)
            if given:
                losses = 0
                yield result
    finally:
        for actor in [*free, *starting.values(), *(actor for actor, _ in working.values())]:
            ray.kill(actor)


def _ask(hire: Callable[[], Any], starting: dict[Any, Any]) -> None:
    actor = hire()
    starting[actor.ready.remote()] = actor
