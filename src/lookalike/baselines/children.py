"""Child processes of a training on several devices: at most one per device, and all end with the training."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lookalike._core.cores import n_cores
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import process_settings, undoing

T = TypeVar("T")

_PARENT = "LOOKALIKE_TRAINING_PARENT"  # environment variable with the id of the process that started the training
_LIGHTNING_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
_TERMINATE_SECONDS = 5.0  # to wait for a process that was told to end
_FINISH_SECONDS = 30.0  # to wait for a process whose work is done
_POLL_SECONDS = 1.0  # between checks that the parent is alive


def check_devices(accelerator: str, devices: int | str) -> None:
    """Checks that the machine has the requested number of devices, before a process is started for each.

    Raises:
        LookalikeError: If it has fewer.
    """
    requested = int(devices) if str(devices).strip().isdecimal() else 1
    if requested <= 1:
        return
    available, kind = _available_devices(accelerator)
    if requested > available:
        raise LookalikeError(
            f"{requested} devices were asked for, and this machine has {available} ({kind}); "
            f"ask for at most {available}"
        )


def _available_devices(accelerator: str) -> tuple[int, str]:
    """Returns the number of devices of an accelerator, and what they are."""
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.cuda.device_count(), "GPUs"
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return 1, "Apple GPU"
    return n_cores(), "processor cores"


def with_children(trainer: Any, run: Callable[[], T]) -> T:
    """Calls ``run`` and returns its result; ends the processes that the trainer has started if it fails.

    They also end when this process is killed. Environment variables are restored.

    Args:
        trainer: Lightning's trainer.
        run: Trains the model. Lightning starts this program again for each further device, and each of these processes
            calls this function too.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0 and _PARENT in os.environ:
        _end_with_parent(int(os.environ[_PARENT]))
        return run()
    succeeded = False

    def run_as_parent() -> T:
        nonlocal succeeded
        os.environ[_PARENT] = str(os.getpid())
        result = run()
        succeeded = True
        return result

    restore_environment = process_settings(variables=[_PARENT, *_LIGHTNING_VARIABLES])

    def end_children() -> None:
        _end_processes(getattr(getattr(trainer.strategy, "launcher", None), "procs", []), at_once=not succeeded)
        restore_environment()

    return undoing(end_children, run_as_parent)


def _end_processes(processes: list["subprocess.Popen[bytes]"], *, at_once: bool) -> None:
    """Ends processes: terminates them at once or lets them finish, and kills those that take too long."""
    for process in processes:
        if at_once and process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + (_TERMINATE_SECONDS if at_once else _FINISH_SECONDS)
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent(parent: int) -> None:
    """Starts a thread that ends this process once its parent has ended, even while it waits for other processes."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="lookalike-parent", daemon=True).start()
