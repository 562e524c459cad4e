"""torch's settings of one thread, taken over by another: they are not inherited."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, Self, runtime_checkable

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lookalike._core.untouched import FunctionMode


@runtime_checkable
class ForThreads(Protocol):
    """A function mode that other threads can run with, too."""

    def for_thread(self) -> FunctionMode:
        """Returns a mode that does the same in another thread."""


class ThreadSettings:
    """What passes without gradients run under on a CPU: autocast, inference mode and function modes."""

    def __init__(self, autocast: torch.dtype | None, is_inference: bool, modes: list[ForThreads]) -> None:
        self._autocast = autocast
        self._is_inference = is_inference
        self._modes = modes

    @classmethod
    def of_this_thread(cls) -> Self | None:
        """Returns this thread's settings; None if another thread cannot have the same, or gradients are needed."""
        modes = _get_current_function_mode_stack()
        if torch.is_grad_enabled() or _get_current_dispatch_mode_stack():
            return None
        shared = [mode for mode in modes if isinstance(mode, ForThreads)]
        if len(shared) < len(modes):  # a mode of the user, or one that watches what this thread computes
            return None
        autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        return cls(autocast, torch.is_inference_mode_enabled(), shared)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Runs what is inside the ``with`` block under these settings, in any thread."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self._is_inference))
            stack.enter_context(torch.no_grad())
            if self._autocast is not None:
                stack.enter_context(torch.autocast("cpu", self._autocast))
            for mode in self._modes:
                stack.enter_context(mode.for_thread())
            yield
