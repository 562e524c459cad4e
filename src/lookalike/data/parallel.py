"""Reads samples in threads or in worker processes, always in the order of their numbers.

Threads start at once and share their memory, but each of the short calls that a file takes waits for Python's lock: on
16 cores, 8 threads read 1,900 photographs of 320² in a second, 16 threads 1,300, and 16 processes 10,700. Processes
take some tenths of a second to start. So threads read for a CPU, which computes meanwhile, and processes for long
passes on a GPU.
"""

import math
import mmap
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lookalike._core.cores import n_cores
from lookalike._core.errors import LookalikeError

Item = tuple[int, Any, LookalikeError | None]  # a sample's number; its image and label, or why they cannot be read
Result = TypeVar("Result")

MAX_THREADS = 8
_PARTS_PER_THREAD = 4  # of a chunk, so that threads end at about the same time
_MOST_TOGETHER = 8  # numbers in a part

_FEWEST_PROCESSES = 4
_CORES_LEFT = 2  # for this process, which takes the images over and feeds the GPU
_FEWEST_FILES = 1024  # which threads read in the time in which processes start
_FILES_PER_START = 20  # read in the time in which one process starts
_IN_PART = 16  # files that a process reads before it hands them over
_MOST_BYTES_IN_PART = 1 << 24  # but no more than these, of one file at least
_PARTS_AHEAD = 2  # of each process


def in_threads(read: Callable[[int], Result], chunks: Sequence[np.ndarray], n_threads: int) -> Iterator[list[Result]]:
    """Yields the results of ``read`` for each chunk of numbers, in order; the next chunk is read meanwhile.

    Args:
        read: Called with each number.
        chunks: Arrays of numbers.
        n_threads: Number of threads; with 0 or 1 the calling thread reads.
    """

    def read_all(numbers: np.ndarray) -> list[Result]:
        return [read(int(number)) for number in numbers]

    if n_threads <= 1:
        yield from map(read_all, chunks)
        return
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="lookalike-read")
    try:
        ahead: list[Future[list[Result]]] = []
        for chunk in [*chunks, np.arange(0)]:
            # Handing over takes Python's lock, so that several numbers go together; but no thread shall be idle.
            n_parts = min(len(chunk), max(n_threads * _PARTS_PER_THREAD, -(-len(chunk) // _MOST_TOGETHER)))
            following = [pool.submit(read_all, part) for part in np.array_split(chunk, n_parts)] if n_parts else []
            if ahead:
                yield [result for future in ahead for result in future.result()]
            ahead = following
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def n_processes_for(n_files: int, n_asked: int | None) -> int:
    """Returns the number of processes that are worth their start; 0 where threads read better.

    Args:
        n_files: Number of files to read.
        n_asked: Number of workers that the user asks for, or None.
    """
    best = min(math.isqrt(n_files // _FILES_PER_START), n_cores() - _CORES_LEFT)  # more would take longer to start
    n_processes = best if n_asked is None else min(n_asked, n_cores())
    # Only a forked process needs no `if __name__ == "__main__"` in the user's script, and starts within milliseconds.
    can_fork = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
    return n_processes if can_fork and n_processes >= _FEWEST_PROCESSES and n_files >= _FEWEST_FILES else 0


def in_processes(read: Callable[[int], Item], chunks: Sequence[np.ndarray], n_processes: int) -> Iterator[list[Item]]:
    """Yields the samples of each chunk of numbers, in order; the next parts are read meanwhile.

        process ── 16 images ──▶ a slot of shared memory ──▶ this thread ── chunk ──▶

    The images of a chunk are valid until the next one is asked for.

    Args:
        read: Called with each number, in one of the processes.
        chunks: Arrays of numbers.
        n_processes: Number of processes.

    Raises:
        LookalikeError: If one of the processes ends before its time.
    """
    _, first, error = read(int(chunks[0][0]))
    in_part = _IN_PART if error is not None else max(1, min(_IN_PART, _MOST_BYTES_IN_PART // first[0].nbytes))
    parts = [part for chunk in chunks for part in np.array_split(chunk, -(-len(chunk) // in_part))]
    # A chunk is taken over as a whole, while the processes are ahead of it.
    n_slots = -(-max(map(len, chunks)) // in_part) + _PARTS_AHEAD * n_processes + 1
    slots = _Slots(first[0], n_slots, in_part) if error is None else None
    loader: DataLoader[Any] = DataLoader(
        _Parts(read, parts, slots),
        batch_size=None,
        num_workers=n_processes,
        prefetch_factor=_PARTS_AHEAD,
        collate_fn=_as_it_is,
        multiprocessing_context=multiprocessing.get_context("fork"),
        generator=torch.Generator(),  # seeds the processes, so that torch's global random state does not change
    )
    iterator = iter(loader)
    done = enumerate(iterator)
    try:
        for chunk in chunks:
            items: list[Item] = []
            while len(items) < len(chunk):
                part, read_items = _next_of(done)
                items += read_items if slots is None else slots.taken(part, read_items)
            yield items
    finally:
        _end(iterator)


def _next_of(done: Iterator[tuple[int, list[Item]]]) -> tuple[int, list[Item]]:
    """Returns the next part that the processes have read, and its number."""
    try:
        return next(done)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LookalikeError(
            "a process that read images has ended, perhaps for lack of memory; read with fewer processes, or in "
            "threads with one (--workers 1, num_workers=1)"
        ) from error


def _end(iterator: Any) -> None:
    """Ends the processes of a loader.

    A process that was forked while another thread held a lock can wait for it forever, and hear no other signal.
    """
    processes = list(getattr(iterator, "_workers", ()))
    getattr(iterator, "_shutdown_workers", lambda: None)()
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()


class _Slots:
    """Memory that processes share, in which each part of the images has a slot, in turn.

    Each tensor that goes through a ``DataLoader`` costs a file and a connection of its own, more than an image takes to
    be decoded.

    Args:
        like: An image; images of another shape or type go the usual way.
        n_slots: Number of slots. A slot is used again for the part with this number more.
        in_part: Largest number of images in a part.
    """

    def __init__(self, like: Tensor, n_slots: int, in_part: int) -> None:
        self._n_slots = n_slots
        memory = torch.frombuffer(mmap.mmap(-1, n_slots * in_part * like.nbytes), dtype=like.dtype)
        self._images = memory.view(n_slots, in_part, *like.shape)
        self._parts = torch.frombuffer(mmap.mmap(-1, 8 * n_slots), dtype=torch.int64)  # the part in each slot

    def put(self, part: int, items: list[Item]) -> list[Item]:
        """Puts the images of a part into its slot; returns the items without them."""
        slot, left = part % self._n_slots, list(items)
        self._parts[slot] = -1
        for row, (index, sample, error) in enumerate(items):
            if error is None and sample[0].shape == self._images.shape[2:] and sample[0].dtype == self._images.dtype:
                self._images[slot, row].numpy()[...] = sample[0].numpy()
                left[row] = index, (None, sample[1]), None
        self._parts[slot] = part
        return left

    def taken(self, part: int, items: list[Item]) -> list[Item]:
        """Returns the items of a part with their images, as views of the slot."""
        slot = part % self._n_slots
        if int(self._parts[slot]) != part:
            raise RuntimeError(f"part {int(self._parts[slot])} was read into the memory of part {part}")
        return [
            (index, (self._images[slot, row], sample[1]), None) if error is None and sample[0] is None else item
            for row, item in enumerate(items)
            for index, sample, error in [item]
        ]


class _Parts(Dataset[Any]):
    """Reads some samples at a time."""

    def __init__(self, read: Callable[[int], Item], parts: list[np.ndarray], slots: _Slots | None) -> None:
        self._read = read
        self._parts = parts
        self._slots = slots

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, part: int) -> list[Item]:
        items = [self._read(int(number)) for number in self._parts[part]]
        return items if self._slots is None else self._slots.put(part, items)


def _as_it_is(part: Any) -> Any:
    return part
