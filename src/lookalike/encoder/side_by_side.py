"""Parts of a batch pass through a network side by side, each on cores of its own.

torch divides each operation among all cores, and at its end all wait for the slowest: beside threads that read files,
or in a network of many small operations, for much of the time. Threads that compute different images never wait::

    each operation on all cores      core 1  conv │ relu · │ conv  │    core 1  conv │ relu │ conv │ …  images 0 to 5
                                     core 2  conv │ relu   │ conv ·│    core 2  conv │ relu │ conv │ …  images 6 to 11

On two cores, EfficientNet-Lite0 at 224² takes 23 ms an image in place of 34, ResNet34 59 in place of 66.
"""

import _thread
import copy
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from lookalike._core.folding import is_watched
from lookalike._core.thread_settings import ThreadSettings
from lookalike._core.untouched import FunctionMode, in_eval_mode, undoing
from lookalike.encoder.calls import device_of, n_threads
from lookalike.encoder.cut import Encoder
from lookalike.encoder.patches import PatchEncoder
from lookalike.encoder.shadow import shadow_of

Network = TypeVar("Network")
Part = TypeVar("Part")
Result = TypeVar("Result")


_PAUSE = 0.0005  # seconds


class SideBySide(Generic[Network]):
    """Computes parts of a batch in threads, each with a copy of the encoder that shares its weights.

    What a network's forward pass writes into its modules stays in the copies, so that no thread meets what another
    wrote. The parts are computed one after the other where that is not certain to be the same: if the network has
    hooks, cannot be copied, or writes into its buffers; with gradients; in function modes of the user; on a GPU.

    Args:
        encoder: The encoder; anything but an ``Encoder`` of images or patches computes one part after the other.
    """

    def __init__(self, encoder: Network) -> None:
        self._encoder = encoder
        self._is_possible = type(encoder) in (Encoder, PatchEncoder)
        self._copies: queue.SimpleQueue[Network] = queue.SimpleQueue()
        self._copied: list[int] = []  # the modules and tensors that the copies were made of

    def run(self, compute: Callable[[Network, Part], Result], parts: Sequence[Part]) -> list[Result]:
        """Returns ``compute(encoder, part)`` for each part, in their order.

        An ``Encoder`` computes in eval mode; so does a module of the user's own here, which may be in train mode still.

        Args:
            compute: Called with the encoder or a copy of it; it must not call the encoder in another way.
            parts: The parts.
        """
        module: Any = self._encoder
        if isinstance(module, nn.Module) and not isinstance(module, Encoder):
            return in_eval_mode(module, lambda: [compute(self._encoder, part) for part in parts])
        n_cores = torch.get_num_threads()
        settings = ThreadSettings.of_this_thread() if len(parts) > 1 and n_cores > 1 else None
        if settings is None or not self._has_copies():
            return [compute(self._encoder, part) for part in parts]
        versions = self._versions()
        results = self._run_in_threads(compute, parts, settings, n_cores)
        if self._versions() != versions:
            self._is_possible = False
            return [compute(self._encoder, part) for part in parts]
        return results

    def _run_in_threads(
        self,
        compute: Callable[[Network, Part], Result],
        parts: Sequence[Part],
        settings: ThreadSettings,
        n_cores: int,
    ) -> list[Result]:
        def compute_part(part: Part) -> Result:
            encoder = self._copies.get()
            try:
                with settings.applied():
                    return compute(encoder, part)
            finally:
                self._copies.put(encoder)

        return on_all_cores(compute_part, parts, n_threads(torch.device("cpu")), n_cores)

    def _has_copies(self) -> bool:
        """Says whether parts can be computed in threads; makes the copies when it is first asked."""
        encoder = self._encoder
        if not self._is_possible or not isinstance(encoder, Encoder):
            return False
        if device_of(encoder.model).type != "cpu" or is_watched(encoder):
            return False
        contents = [id(content) for of in (encoder.modules, encoder.parameters, encoder.buffers) for content in of()]
        if contents != self._copied:
            try:
                copies = [_copy_of(encoder) for _ in range(n_threads(device_of(encoder.model)))]
            except Exception:  # the user's modules may raise any error; they can then not be copied
                self._is_possible = False
                return False
            self._copies, self._copied = queue.SimpleQueue(), contents
            for one in copies:
                self._copies.put(one)
        return True

    def _versions(self) -> list[int]:
        """Returns how often each of the network's tensors was written to."""
        assert isinstance(self._encoder, Encoder)
        tensors = [*self._encoder.model.parameters(), *self._encoder.model.buffers()]
        return [tensor._version for tensor in tensors if not tensor.is_inference()]


def on_all_cores(
    compute: Callable[[Part], Result], parts: Sequence[Part], n_workers: int, n_cores: int
) -> list[Result]:
    """Returns ``compute(part)`` for each part, in their order, from threads that share the cores.

    No thread computes on when this returns or raises, even if exceptions arrive at whatever moment in this thread. So
    nothing here waits for a condition or joins a thread: what they do cannot be interrupted everywhere. After an
    exception each thread ends at its next operation of torch.

    Args:
        compute: Called with each part, in one of the threads.
        parts: The parts.
        n_workers: Number of threads.
        n_cores: Number of cores that torch uses in this thread.
    """
    waiting: queue.SimpleQueue[tuple[int, Part]] = queue.SimpleQueue()
    arrived: queue.SimpleQueue[tuple[int, Result | None, BaseException | None]] = queue.SimpleQueue()
    for numbered in enumerate(parts):
        waiting.put(numbered)
    begun: list[int] = []  # threads; lists are added to by one instruction
    ended: list[int] = []
    is_stopped = False

    def work() -> None:
        begun.append(threading.get_ident())
        number = -1
        try:
            torch.set_num_threads(n_cores // n_workers)
            while not is_stopped:
                try:
                    number, part = waiting.get_nowait()
                except queue.Empty:
                    break
                with _Stoppable(lambda: is_stopped):
                    arrived.put((number, compute(part), None))
        except BaseException as error:  # the user's network may raise any
            arrived.put((number, None, error))
        finally:
            ended.append(threading.get_ident())

    def end() -> None:
        nonlocal is_stopped
        is_stopped = True
        while len(ended) < len(begun):
            time.sleep(_PAUSE)
        torch.set_num_threads(n_cores)  # the threads' own number became that of threads still to come

    def run() -> list[Result]:
        for _ in range(n_workers):
            _thread.start_new_thread(work, ())
        results: dict[int, Result] = {}
        while len(results) < len(parts):
            number, result, error = arrived.get()
            if error is not None:
                raise error
            results[number] = result  # type: ignore[assignment]
        return [results[number] for number in range(len(parts))]

    return undoing(end, run)


class _StoppedError(BaseException):
    """Ends a pass whose result nobody waits for. No ``Exception``, which a network could catch."""


class _Stoppable(FunctionMode):
    """Ends a thread's pass at its next operation once that is asked for."""

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        super().__init__()
        self._is_stopped = is_stopped

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs an operation."""
        if self._is_stopped():
            raise _StoppedError
        return func(*args, **(kwargs or {}))


def _copy_of(encoder: Network) -> Network:
    """Returns a copy of an encoder that shares its weights and buffers, and nothing that a forward pass may write."""
    assert isinstance(encoder, Encoder)
    if any(isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod") for module in encoder.modules()):
        raise TypeError("compiled modules are not copied")
    shadow = shadow_of(encoder)
    shared = {id(tensor): tensor for tensor in [*shadow.parameters(), *shadow.buffers()]}
    return copy.deepcopy(shadow, shared)
