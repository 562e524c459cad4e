"""What a call must leave as it was: the model that it is given, and the state of the whole process."""

import locale
import logging
import os
import random
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageFile
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lookalike._core.provenance import fingerprint_tensors

_HOOKS_OF_ALL = [
    value for name, value in vars(torch_modules).items() if name.startswith("_global_") and isinstance(value, dict)
]


def model_state(model: nn.Module) -> dict[str, Any]:
    """Returns all of a model that a call could change."""
    return {
        "weights": fingerprint_tensors(model.state_dict()),
        "modes": [m.training for m in model.modules()],
        "hooks": [{name: list(value) for name, value in vars(m).items() if "hooks" in name} for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [p.grad is None for p in model.parameters()],
        "inplace": [getattr(m, "inplace", None) for m in model.modules()],
        "parameters": [id(p) for p in model.parameters()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
    }


def process_state() -> dict[str, Any]:
    """Returns what else a call could change: random states, torch's settings, loggers, warnings, the environment."""
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "NumPy's random state": repr(np.random.get_state()),  # noqa: NPY002 - the global state is what is watched
        "Python's random state": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "autocast": [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled),
        "matmul precision": torch.get_float32_matmul_precision(),
        "function modes": len(_get_current_function_mode_stack()),
        "dispatch modes": len(_get_current_dispatch_mode_stack()),
        "NumPy's errors": np.geterr(),
        "matplotlib": (dict(mpl.rcParams), mpl.get_backend()),
        "figures": plt.get_fignums(),
        "Pillow's limits": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "loggers": logger_levels(),
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": dict(os.environ),
        "working folder": str(Path.cwd()),
        "paths": list(sys.path),
        "threads of ours": [t.name for t in threading.enumerate() if t.name.startswith("lookalike")] + readers(),
        "modules' hooks": [len(hooks) for hooks in _HOOKS_OF_ALL],
    }


def logger_levels() -> dict[str, tuple[int, bool, int]]:
    """Returns level, being disabled, and the number of handlers of all loggers that have any of these set."""
    loggers = {"": logging.getLogger()} | {
        name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    states = {name: (logger.level, logger.disabled, len(logger.handlers)) for name, logger in loggers.items()}
    return {name: state for name, state in states.items() if state != (0, False, 0)}


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names what has changed."""
    return [name for name in before if before[name] != after[name]]


def readers() -> list[str]:
    """Names the threads that read batches, which ``threading`` does not know."""
    outermost = []
    for frame in sys._current_frames().values():
        while frame.f_back is not None:
            frame = frame.f_back
        if frame.f_globals.get("__name__") == "lookalike.embedding.ahead":
            outermost.append(frame.f_code.co_name)
    return outermost
