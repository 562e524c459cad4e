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
    pool = _Pool(start_actor, size, start_seconds)
    todo = deque(jobs)
    try:
        for _ in range(size):
            pool.request_actor()
        while todo or pool.working:
            while todo and pool.free:
                job = todo.popleft()
                pool.give(job, prepare(job))
            lost_job, results = pool.wait()
            todo.extendleft(lost_job)
            yield from results
    finally:
        pool.end()


class _Pool:
    """The actors of ``work_through``.

    Args:
        start_actor: See ``work_through``.
        size: See ``work_through``.
        start_seconds: See ``work_through``.

    Attributes:
        free: Actors without a job.
        starting: Call of ``ready`` → its actor.
        working: Call of ``work`` → its actor and job.
    """

    def __init__(self, start_actor: Callable[[], Any], size: int, start_seconds: float) -> None:
        self._start_actor = start_actor
        self._size = size
        self._start_seconds = start_seconds
        self._losses = 0  # in a row
        self.free: list[Any] = []
        self.starting: dict[Any, Any] = {}
        self.working: dict[Any, tuple[Any, Any]] = {}

    def request_actor(self) -> None:
        """Requests an actor, and adds it to those that are starting."""
        actor = self._start_actor()
        self.starting[actor.ready.remote()] = actor

    def give(self, job: Any, argument: Any) -> None:
        """Gives a job to a free actor; the argument is what its ``work`` is called with."""
        actor = self.free.pop()
        self.working[actor.work.remote(argument)] = actor, job

    def wait(self) -> tuple[list[Any], list[Any]]:
        """Waits until an actor has started, finished a job or been lost.

        Returns:
            The job that was lost, and the result that has arrived, each as a list of at most one.

        Raises:
            LookalikeError: See ``work_through``.
        """
        import ray

        timeout = None if self.working else self._start_seconds
        finished, _ = ray.wait([*self.working, *self.starting], num_returns=1, timeout=timeout)
        if not finished:
            raise LookalikeError(
                f"none of {self._size} actors could start within {self._start_seconds:.0f} seconds: "
                "the cluster has no room for them, perhaps because other work fills it"
            )
        call = finished[0]
        unfinished: list[Any] = []
        if call in self.working:
            actor, job = self.working.pop(call)
            unfinished.append(job)
        else:
            actor = self.starting.pop(call)
        try:
            result = ray.get(call)
        except ray.exceptions.RayTaskError:
            raise  # an error in our own code; the actor is alive
        except ray.exceptions.RayError as error:
            self._losses += 1
            _check_losses(error, self._losses, self._size)
            ray.kill(actor)  # it may be alive and only unreachable: it must not continue beside its replacement
            self.request_actor()
            return unfinished, []
        self.free.append(actor)
        if not unfinished:
            return [], []
        self._losses = 0
        return [], [result]

    def end(self) -> None:
        """Ends all actors."""
        import ray

        for actor in [*self.free, *self.starting.values(), *(actor for actor, _ in self.working.values())]:
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
