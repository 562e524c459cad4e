"""TorchScript modules: the engine does not see their operations, so it uses their gradient and says so."""

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
from lookalike.relevance.dependence import map_tensors, tensors_in
from lookalike.relevance.names import NO_RULE

if TYPE_CHECKING:
    from lookalike.relevance.engine import Engine

T = TypeVar("T")


def with_script_modules(engine: "Engine", run: Callable[[], T]) -> T:
    """Returns the result of ``run``; meanwhile, global hooks add the results of TorchScript modules to the graph."""
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
                _add_to_graph(engine, module, args, output)

    def watched() -> T:
        register_module_forward_pre_hook(enter)
        register_module_forward_hook(leave)
        return run()

    def remove() -> None:
        for hooks, hook in ((_global_forward_pre_hooks, enter), (_global_forward_hooks, leave)):
            for key in [key for key, registered in list(hooks.items()) if registered is hook]:
                hooks.pop(key, None)

    return undoing(remove, watched)


def _add_to_graph(engine: "Engine", module: nn.Module, args: Any, output: Any) -> None:
    """Runs a module once more, with gradients, and adds its results to the relevance graph."""
    with torch._C.DisableTorchFunction(), torch.inference_mode(False), torch.enable_grad():
        twins = map_tensors(lambda tensor: engine.pixels.leave(engine.dependence.twin_of(tensor)), args)
        if not any(tensor.requires_grad for tensor in tensors_in(twins)):
            return
        results = module.forward(*twins)
        name = f"TorchScript module {getattr(module, 'original_name', type(module).__name__)}"
        for face, twin in zip(tensors_in(output), tensors_in(results), strict=True):
            if twin.requires_grad:
                engine.twins.add_result(face, twin, name, NO_RULE)
