"""Computations on a CUDA device that are recorded once and replayed: their many small operations start as one.

A heat-map of a ResNet34 is a thousand operations. A GPU needs a third of the time for them that Python needs to ask for
them one by one. So what is asked for again and again, with inputs of one shape, is recorded (a CUDA graph), and then
started as a whole. A recording is fixed: it always runs the same operations on the same memory. So it is only used

- if nothing was read from the device while it was recorded, by which Python could have decided something,
- if it reads no memory but that of its inputs, of the owner's tensors, and its own: other memory may be freed,
- if it gives, on the inputs with which it was recorded, what the plain computation gives,
- as long as the owner's state is the same (``lookalike._core.network_state``), and
- as long as its user finds nothing wrong with its results (``Recordings.forget``).
"""

import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Compute = Callable[..., list[Tensor]]  # of tensors on the device
Replay = Callable[[Sequence[Tensor]], list[Tensor]]
Record = Callable[[Compute, Sequence[Tensor]], Replay]

_PLAIN_CALLS = 2  # before a computation is recorded, which takes about as long as these
_MOST_PER_OWNER = 2
_LARGEST_SHARE = 0.25  # of the device's memory, for all that is recorded
_ROUNDING = 1e-3  # of the largest value: operations that add in any order give other last digits each time
_READING = frozenset(
    (
        "_local_scalar_dense", "nonzero", "is_nonzero", "equal", "allclose", "masked_select", "unique", "_unique2",
        "unique_dim",
    )
)  # fmt: skip


def can_record(device: torch.device) -> bool:
    """Says whether computations on a device can be recorded now."""
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def record_on_cuda(compute: Compute, inputs: Sequence[Tensor]) -> Replay:
    """Records a computation on the device of its inputs.

    Args:
        compute: The computation; it reads nothing from the device.
        inputs: Inputs of the shapes that all replays have.

    Raises:
        RuntimeError: If it cannot be recorded.
    """
    device = inputs[0].device
    fixed = [tensor.detach().clone() for tensor in inputs]
    torch.cuda.empty_cache()  # a recording has memory of its own; what others hold and do not use hides how much
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.memory_reserved(device)
    with torch.cuda.device(device):
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = compute(*fixed)
        if torch.cuda.memory_reserved(device) - before > _LARGEST_SHARE * torch.cuda.mem_get_info(device)[1]:
            raise RuntimeError("the recording takes too much memory")
        done = torch.cuda.Event()
        done.record()

    def replay(given: Sequence[Tensor]) -> list[Tensor]:
        with torch.cuda.device(device):
            done.wait()  # another stream may still be reading the results of the last replay
            for place, tensor in zip(fixed, given, strict=True):
                place.copy_(tensor, non_blocking=True)
            graph.replay()
            copies = [tensor.clone() for tensor in results]
            done.record()
        return copies

    return replay


@dataclass(eq=False)
class _Entry:
    """What is known of one computation.

    Attributes:
        calls: How many times it ran plainly.
        state: The owner's state when it was recorded.
        replay: The recording, if there is one.
        kept: What its user wanted to keep with the recording.
        is_refused: Whether it cannot be recorded.
    """

    calls: int = 0
    state: Any = None
    replay: Replay | None = None
    kept: Any = None
    is_refused: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Replayed(NamedTuple):
    """The results of a replay, and what was kept with the recording."""

    results: list[Tensor]
    kept: Any


class Recordings:
    """The recorded computations of all networks; each goes with its owner.

    Args:
        record: Records a computation.
    """

    def __init__(self, record: Record = record_on_cuda) -> None:
        self._record = record
        self._entries: weakref.WeakKeyDictionary[Any, OrderedDict[Hashable, _Entry]] = weakref.WeakKeyDictionary()

    def replay(self, owner: Any, key: Hashable, state: Any, inputs: Sequence[Tensor]) -> Replayed | None:
        """Replays a computation; returns None if it must run plainly.

        Args:
            owner: The network.
            key: Says what is computed; two computations with equal keys are the same but for their inputs.
            state: The owner's state; if it is another than when it was recorded, the recording is dropped.
            inputs: The inputs, of the shapes that the key stands for.
        """
        entries = self._entries.get(owner)
        entry = None if entries is None else entries.get(key)
        if entry is None or entry.replay is None or not entry.lock.acquire(blocking=False):
            return None  # or another thread is using it
        try:
            if entry.state != state:
                self.forget(owner, key)
                return None
            recorded = entry.replay  # another thread may have dropped it since
            return None if recorded is None else Replayed(recorded(inputs), entry.kept)
        finally:
            entry.lock.release()

    def ran(
        self, owner: Any, key: Hashable, state: Any, compute: Compute, inputs: Sequence[Tensor],
        results: Sequence[Tensor], kept: Any = None,
    ) -> None:  # fmt: skip
        """Notes that a computation ran plainly; records it if it does so often.

        Args:
            owner: As for ``replay``.
            key: As for ``replay``.
            state: As for ``replay``; None if it is not known, so that nothing is recorded.
            compute: The computation.
            inputs: Its inputs.
            results: What it gave.
            kept: What to keep with the recording.
        """
        entries = self._entries.setdefault(owner, OrderedDict())
        entry = entries.setdefault(key, _Entry())
        entry.calls += 1
        if entry.calls <= _PLAIN_CALLS or entry.is_refused or state is None or not entry.lock.acquire(blocking=False):
            return
        try:
            if entry.replay is not None and entry.state == state:  # it ran plainly as another thread was replaying it
                return
            entries.move_to_end(key)
            while sum(other.replay is not None for other in entries.values()) >= _MOST_PER_OWNER:
                oldest = next(other for other in entries.values() if other.replay is not None)
                oldest.replay, oldest.calls = None, 0
            entry.state, entry.kept = state, kept
            entry.replay = self._recorded(tensors_of(owner), compute, inputs, results)
            entry.is_refused = entry.replay is None
        finally:
            entry.lock.release()

    def _recorded(
        self, known: Sequence[Tensor], compute: Compute, inputs: Sequence[Tensor], results: Sequence[Tensor]
    ) -> Replay | None:
        """Returns a recording that gives what the plain computation gave; None if there is none."""
        try:
            with OperationCheck([*known, *inputs]) as check:
                compute(*inputs)
            if check.reads or check.strange:
                return None
            replay = self._record(compute, inputs)
            is_right = all(map(_are_close, replay(inputs), results))
        except RuntimeError:  # an operation that cannot be recorded, or memory that ran out; the plain way is left
            return None
        return replay if is_right else None

    def forget(self, owner: Any, key: Hashable) -> None:
        """Drops a recording; the computation counts as new."""
        with suppress(KeyError):
            del self._entries[owner][key]

    def forget_all(self) -> None:
        """Drops all recordings, as when memory runs out."""
        self._entries.clear()


class OperationCheck(TorchDispatchMode):
    """Notes what must not be in a computation that is recorded.

    Args:
        known: The inputs, and the tensors that lie in the same place in every replay.

    Attributes:
        reads: Operations by which Python, or the CPU, reads a value of the device or gives it one.
        strange: Operations that read tensors which are neither known nor results of the computation.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads: Counter[str] = Counter()
        self.strange: Counter[str] = Counter()
        self._places = {0, *map(_place, known)}
        self._results: list[Tensor] = []  # kept, so that no other tensor gets the place of one of them

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = func.overloadpacket.__name__
        # numbers of the CPU without an axis are handed over with the operation
        is_number = [tensor.device.type == "cpu" and not tensor.ndim for tensor in given]
        if any(not n and _place(t) not in self._places for t, n in zip(given, is_number, strict=True)):
            self.strange[name] += 1
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._places.update(map(_place, made))
        self._results += made
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        devices = {tensor.device for tensor in (*given, *made) if tensor.ndim or tensor.device.type != "cpu"}
        if name in _READING or by_mask or len(devices) > 1:
            self.reads[name] += 1
        return result


def _place(tensor: Tensor) -> int:
    """Returns where a tensor's memory begins; 0 if it has none."""
    return tensor.untyped_storage().data_ptr() if tensor.numel() and tensor.layout is torch.strided else 0


def tensors_of(owner: Any) -> list[Tensor]:
    """Returns a network's parameters, buffers, and other tensors that are attributes of its modules."""
    if not isinstance(owner, nn.Module):
        return []
    attributes = (value for module in owner.modules() for value in list(vars(module).values()))
    return [*owner.parameters(), *owner.buffers(), *(value for value in attributes if isinstance(value, Tensor))]


def _are_close(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    if not first.numel() or not first.is_floating_point():
        return torch.equal(first, second)
    size = second.abs().max()
    return bool(((first - second).abs().max() <= _ROUNDING * size) & size.isfinite())


RECORDINGS = Recordings()
