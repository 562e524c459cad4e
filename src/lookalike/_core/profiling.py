"""Profiling: writes a trace that a browser can open, and prints the steps that took the most time."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function

from lookalike._core.errors import LookalikeError
from lookalike._core.replacing import replacing_file

PREFIX = "lookalike: "


def step(name: str) -> record_function:
    """Returns a context that appears in a trace under a name. Without a trace it costs next to nothing."""
    return record_function(PREFIX + name)


@contextmanager
def profiled(path: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Writes a trace of its block, for chrome://tracing or ui.perfetto.dev, and reports its largest steps.

    Args:
        path: File to write; None does nothing.
        say: Called with the lines of the report.

    Raises:
        LookalikeError: Before the block runs, if the file exists or cannot be written.
    """
    if path is None:
        yield
        return
    if path.exists():
        raise LookalikeError(f"{str(path)!r} exists already; choose another place for the trace")
    try:
        path.touch(exist_ok=False)
    except OSError as error:
        raise LookalikeError(f"cannot write to {str(path)!r}: {error.strerror}") from error
    path.unlink()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it prints that there is no GPU
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        yield
        total = time.perf_counter() - started
    with replacing_file(path, replace=False) as temporary:
        trace.export_chrome_trace(str(temporary))
        if not temporary.read_bytes()[-16:].rstrip().endswith(b"}"):  # the profiler does not say when the disk is full
            raise LookalikeError(f"cannot write {str(path)!r}: the trace breaks off; is the disk full?")
    steps = {
        event.key.removeprefix(PREFIX): (event.cpu_time_total / 1e6, event.count)
        for event in trace.key_averages()
        if event.key.startswith(PREFIX)
    }
    say(f"The trace is in {path}: open it in chrome://tracing or ui.perfetto.dev. Its largest steps:")
    for name, (seconds, count) in sorted(steps.items(), key=lambda item: -item[1][0])[:5]:
        say(f"  {seconds:8.2f} s {seconds / total:6.1%}  {name} ({count}×)")
