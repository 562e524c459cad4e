"""The processes that a training on several devices starts: no more than there are devices, and none left behind."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import process_settings, undoing

T = TypeVar("T")

_PARENT = "LOOKALIKE_TRAINING_PARENT"  # tells the processes of the other devices who started them
_OF_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
_PATIENCE = 5.0  # seconds for a process to end when it is told to,
_LONG_PATIENCE = 30.0  # or by itself, when its work is done
_LOOK = 1.0  # seconds between looks whether the parent is there


def check_devices(accelerator: str, devices: int | str) -> None:
    """Checks that there are as many devices as are asked for, before a process is started for each.

    Raises:
        LookalikeError: If there are fewer.
    """
    asked = int(devices) if str(devices).strip().isdecimal() else 1
    if asked <= 1:
        return
    there, kind = _devices_of(accelerator)
    if asked > there:
        raise LookalikeError(
            f"{asked} devices were asked for, and this machine has {there} ({kind}); ask for at most {there}"
        )


def _devices_of(accelerator: str) -> tuple[int, str]:
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.cuda.device_count(), "GPUs"
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return 1, "Apple GPU"
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1, "processor cores"


def with_children(trainer: Any, run: Callable[[], T]) -> T:
    """Returns what ``run`` returns; if it fails, the processes that the trainer has started end with it.

    They end too when this process is killed, and the environment is as before.

    Args:
        trainer: Lightning's.
        run: Trains. Lightning starts this program again for each further device; there it waits for the others.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0 and _PARENT in os.environ:
        _end_with(int(os.environ[_PARENT]))
        return run()
    succeeded = False

    def watched() -> T:
        nonlocal succeeded
        os.environ[_PARENT] = str(os.getpid())
        result = run()
        succeeded = True
        return result

    restore_environment = process_settings(variables=[_PARENT, *_OF_LIGHTNING])

    def end() -> None:
        _end(getattr(getattr(trainer.strategy, "launcher", None), "procs", []), at_once=not succeeded)
        restore_environment()

    return undoing(end, watched)


def _end(processes: list["subprocess.Popen[bytes]"], *, at_once: bool) -> None:
    for process in processes:
        if at_once and process.poll() is None:
            process.terminate()
    until = time.monotonic() + (_PATIENCE if at_once else _LONG_PATIENCE)
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with(parent: int) -> None:
    """Ends this process as soon as the one that started it is gone, in whatever it waits for meanwhile."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os._exit(1)

    threading.Thread(target=watch, name="lookalike-parent", daemon=True).start()
