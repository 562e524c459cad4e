"""Modules whose operations the engine cannot see: their own gradient is used, measured and named."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import (
    _global_forward_hooks,
    _global_forward_pre_hooks,
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from lookalike._core.untouched import undoing
from lookalike.relevance.dependence import tensors_in, with_tensors
from lookalike.relevance.names import NO_RULE

if TYPE_CHECKING:
    from lookalike.relevance.engine import Engine

T = TypeVar("T")


def with_foreign_modules(engine: "Engine", run: Callable[[], T]) -> T:
    """Returns what ``run`` returns, and watches a network's TorchScript parts meanwhile, by a hook on all calls."""
    thread, depth = threading.get_ident(), 0

    def enter(module: nn.Module, _args: Any) -> None:
        nonlocal depth
        if isinstance(module, torch.jit.ScriptModule) and threading.get_ident() == thread:
            depth += 1

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal depth
        if isinstance(module, torch.jit.ScriptModule) and threading.get_ident() == thread:
            depth -= 1
            if depth == 0:
                _adopt(engine, module, args, output)

    def watched() -> T:
        register_module_forward_pre_hook(enter)
        register_module_forward_hook(leave)
        return run()

    def remove() -> None:
        for hooks, hook in ((_global_forward_pre_hooks, enter), (_global_forward_hooks, leave)):
            for key in [key for key, other in list(hooks.items()) if other is hook]:
                hooks.pop(key, None)

    return undoing(remove, watched)


def _adopt(engine: "Engine", module: nn.Module, args: Any, output: Any) -> None:
    """Runs a module once more, with gradients, and puts its results into the relevance graph."""
    with torch._C.DisableTorchFunction(), torch.inference_mode(False), torch.enable_grad():
        twins = with_tensors(lambda tensor: engine.leave_pixels(engine.dependence.twin_of(tensor)), args)
        if not any(tensor.requires_grad for tensor in tensors_in(twins)):
            return
        again = module.forward(*twins)
        name = f"TorchScript module {getattr(module, 'original_name', type(module).__name__)}"
        for face, twin in zip(tensors_in(output), tensors_in(again), strict=True):
            if twin.requires_grad:
                engine.adopt(face, twin, name, NO_RULE)
