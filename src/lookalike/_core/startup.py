"""Importing torch in less time, and torchvision with one line where its build does not fit."""

import gc
import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lookalike._core.errors import LookalikeError, first_line


def import_torch() -> None:
    """Imports torch without garbage collections; does nothing if it is there already.

    Its modules make a million objects that stay. By default the collector looks at all of them again and again while
    they are imported, and after that, which takes a tenth of the time of a short command. Only commands call this,
    first of all in their own process.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        with ending_at_once():
            import torch  # noqa: F401
    finally:
        gc.freeze()  # what has been imported is not looked at again
        gc.enable()


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Has Ctrl-C and SIGTERM end the process at once, without Python.

    Modules that try one import after another swallow Python's exception, or print it with a long traceback. Nothing has
    been written yet that would have to be put in order.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # a signal that is ignored, as of a process in the background, stays so; other threads cannot set handlers
    mine = {number: handler for number, handler in handlers.items() if callable(handler)}
    mine = mine if threading.current_thread() is threading.main_thread() else {}
    try:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)
        yield
    finally:
        for number, handler in mine.items():
            signal.signal(number, handler)


def import_with_torchvision(package: str = "torchvision") -> Any:
    """Imports torchvision, or a package that imports it.

    Raises:
        LookalikeError: If torchvision was built for another version of torch.
    """
    try:
        return importlib.import_module(package)
    except RuntimeError as error:
        if "torchvision" not in str(error):
            raise
        from importlib.metadata import version

        raise LookalikeError(
            f"torchvision {version('torchvision')} does not fit torch {version('torch')} ({first_line(error)}): "
            "install the two of one release, from the same place: pip install --force-reinstall torch torchvision"
        ) from error
