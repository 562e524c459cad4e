"""Reads the next batches while the encoder works on the current one."""

import _thread
import time
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue

from lookalike._core.profiling import step
from lookalike.data import Batch

_BATCHES_AHEAD = 2
_POLL_INTERVAL = 0.001  # seconds between checks whether the reading thread has ended
_SLOT_TIMEOUT = 0.1  # seconds; so often the reading thread, when it has nothing to do, checks whether to end
_START_TIMEOUT = 1.0  # seconds that a thread may need to start


class ReadAhead:
    """Reads the next batches in a thread while the caller works on the current one.

        reading thread ── batches, error or None ──▶  _results  ──▶  __iter__
        reading thread ◀── one item per free slot ──  _free_slots ◀──  __iter__

    The threads share nothing with a lock that is handled in Python code, and therefore no ``threading.Thread``: an
    interruption (Ctrl-C) between two steps of Python code would leave such a lock taken, and ``stop`` would wait for
    ever. ``SimpleQueue`` is written in C.

    Args:
        batches: The batches. They are closed by the thread that reads them.
        pinned: Move their inputs to pinned memory, for copies to a GPU that do not wait.
    """

    def __init__(self, batches: Iterator[Batch], *, pinned: bool = False) -> None:
        self._batches = batches
        self._pinned = pinned
        self._results: SimpleQueue[Batch | BaseException | None] = SimpleQueue()
        self._free_slots: SimpleQueue[None] = SimpleQueue()
        for _ in range(_BATCHES_AHEAD):
            self._free_slots.put(None)
        self._is_started = self._is_running = self._is_stopped = self._has_ended = False

    def __iter__(self) -> Iterator[Batch]:
        self._is_started = True
        _thread.start_new_thread(self._run_thread, ())
        while True:
            with step("wait for images"):
                batch = self._results.get()
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            self._free_slots.put(None)
            yield batch

    def stop(self) -> None:
        """Tells the thread to end, and waits for it."""
        self._is_stopped = True
        # An interruption may come after `_is_started` is set and before the thread starts: then it never runs.
        deadline = time.monotonic() + _START_TIMEOUT
        while self._is_started and not self._has_ended and (self._is_running or time.monotonic() < deadline):
            time.sleep(_POLL_INTERVAL)

    def _run_thread(self) -> None:
        self._is_running = True
        try:
            if not self._is_stopped:
                self._read_all()
        finally:
            # An iterator that is not read to its end still has its threads.
            close = getattr(self._batches, "close", None)
            if close is not None:
                close()
            self._has_ended = True

    def _read_all(self) -> None:
        try:
            for batch in self._batches:
                self._results.put(batch.pin_memory() if self._pinned else batch)
                if not self._wait_for_slot():
                    return
        except BaseException as error:
            self._results.put(error)
        else:
            self._results.put(None)

    def _wait_for_slot(self) -> bool:
        """Waits until another batch may be read; returns False if the thread has to end instead."""
        while not self._is_stopped:
            with suppress(Empty):
                self._free_slots.get(timeout=_SLOT_TIMEOUT)
                return not self._is_stopped
        return False
