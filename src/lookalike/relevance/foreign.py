"""Modules whose operations the engine cannot see: their own gradient is used, measured and named."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from lookalike.relevance.dependence import tensors_in, with_tensors
from lookalike.relevance.names import NO_RULE

if TYPE_CHECKING:
    from lookalike.relevance.engine import Engine


@contextmanager
def foreign_modules(engine: "Engine") -> Iterator[None]:
    """Watches the TorchScript parts of a network while it runs, by a hook on all calls that is gone afterwards."""
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

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
