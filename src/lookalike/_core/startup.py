"""Importing torch in less time."""

import gc
import sys


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
        import torch  # noqa: F401
    finally:
        gc.freeze()  # what has been imported is not looked at again
        gc.enable()
