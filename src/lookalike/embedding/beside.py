"""Work beside a pass on a GPU: the processor is idle meanwhile, and what it finds is only needed at the end."""

import contextvars
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Beside(Generic[T]):
    """Computes something beside a pass on a GPU; on a CPU, which has no time to spare, at once.

    Args:
        compute: Reads memory or files that the pass leaves as they are; on a GPU it does so on a stream of its own, so
            that it does not wait for the pass.
        device: The device of the pass.
    """

    def __init__(self, compute: Callable[[], T], device: torch.device) -> None:
        self._compute = compute
        self._device = device
        self._found: Future[T] | None = None
        if device.type != "cuda":
            self._found = Future()
            self._found.set_result(compute())

    def start(self) -> None:
        """Starts to compute in a thread; the second time nothing happens.

        The beginning of a pass keeps all cores busy until the first images are on the GPU: what is computed beside it
        would only delay them.
        """
        if self._found is not None:
            return
        found = self._found = Future()
        context, stream = contextvars.copy_context(), torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))

        def run() -> None:
            try:
                with torch.no_grad(), torch.cuda.stream(stream):
                    found.set_result(context.run(self._compute))
            except BaseException as error:
                found.set_exception(error)

        Thread(target=run, daemon=True).start()

    def result(self) -> T:
        """Waits for the result and returns it, or raises the error."""
        self.start()
        assert self._found is not None
        return self._found.result()
