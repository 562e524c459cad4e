"""Importing torch in less time."""

import gc
import sys
from importlib import import_module


def import_torch() -> None:
    """Imports torch and torchvision without garbage collections; does nothing if torch is there already.

    Their modules make a million objects that stay. By default the collector looks at all of them again and again while
    they are imported, and after that, which takes a tenth of the time of a short command. Only commands call this,
    first of all in their own process.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        for name in ("torch", "torchvision"):
            import_module(name)
    finally:
        gc.freeze()  # what has been imported is not looked at again
        gc.enable()
