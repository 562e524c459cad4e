"""Prototypes while a network is being trained: a function to call in any loop, and a callback for Lightning."""

from typing import TYPE_CHECKING, Any

from lookalike.snapshots.snapshot import Snapshot, take_snapshot

if TYPE_CHECKING:
    from lookalike.snapshots.callback import SnapshotCallback

__all__ = ["Snapshot", "SnapshotCallback", "take_snapshot"]


def __getattr__(name: str) -> Any:  # the callback needs Lightning, the function does not
    if name == "SnapshotCallback":
        from lookalike.snapshots.callback import SnapshotCallback

        return SnapshotCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
