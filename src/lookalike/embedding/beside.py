"""Work beside a pass on a GPU: the processor is idle meanwhile, and what it finds is only needed at the end."""

import contextvars
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

import torch

T = TypeVar("T")


def beside(compute: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """Starts to compute something beside a pass on a GPU; on a CPU, which has no time to spare, computes it at once.

    Args:
        compute: Reads memory that the pass leaves as it is; on a GPU it does so on a stream of its own, so that it does
            not wait for the pass.
        device: The device of the pass.

    Returns:
        A function that waits for the result and returns it, or raises the error.
    """
    if device.type != "cuda":
        result = compute()
        return lambda: result
    found: Future[T] = Future()
    context, stream = contextvars.copy_context(), torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))

    def run() -> None:
        try:
            with torch.no_grad(), torch.cuda.stream(stream):
                found.set_result(context.run(compute))
        except BaseException as error:
            found.set_exception(error)

    Thread(target=run, daemon=True).start()
    return found.result
