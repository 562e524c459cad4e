"""Temporary changes that are undone even after an interruption.

An exception can arrive between any two instructions: Ctrl-C, an alarm, an error in a hook. All that a call changes
temporarily (modes and hooks of a user's model, torch's settings, random states, loggers) is restored nevertheless.
"""

import copy
import functools
import logging
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils._python_dispatch import _pop_mode as _pop_dispatch_mode

P = ParamSpec("P")
T = TypeVar("T")
Network = TypeVar("Network", bound=nn.Module)

AUTOCAST_DEVICES = ("cpu", "cuda")  # devices on which the package uses autocast, or meets it


def is_autocast() -> bool:
    """Says whether autocast is switched on; written for speed, as modes ask before each operation."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


def undoing(restore: Callable[[], object], run: Callable[[], T]) -> T:
    """Calls ``run`` and returns its result; calls ``restore`` at the end, at whatever moment an exception arrives.

    Even two exceptions cannot keep ``restore`` from finishing. The innermost block calls it after ``run``; if that call
    is interrupted, the next block calls it again, and so does the last one. A ``with`` statement is not enough: an
    exception at the beginning or at the end of ``__exit__`` would leave changes behind.

    Args:
        restore: Function that undoes the changes. It may be called several times, so a second call must not change
            more, and must finish what an interrupted call has begun.
        run: Function that makes the changes and does the work. Record what ``restore`` needs before calling.
    """
    is_restored = False

    def restore_once() -> None:
        nonlocal is_restored
        if not is_restored:
            restore()
            is_restored = True

    try:
        try:
            try:
                return run()
            finally:
                restore_once()
        finally:
            restore_once()
    finally:
        restore_once()


def in_eval_mode(model: nn.Module, run: Callable[[], T]) -> T:
    """Calls ``run`` while every module of a model is in eval mode, and restores each module's own mode.

    The modules' flags are set directly, as the model may override ``train()`` to do more. Several threads may call this
    at once, also with models that share modules: the last call that uses a module restores its mode.
    """
    eval_mode_call = _EvalModeCall(model)

    def begin_and_run() -> T:
        eval_mode_call.begin()
        return run()

    return undoing(eval_mode_call.end, begin_and_run)


class _EvalModeCall:
    """A call of ``in_eval_mode``."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.users: list[_ModuleUsers] = []

    def begin(self) -> None:
        with _LOCK:
            self.users = _users_of_modules(self.model)  # before anything changes: ``end`` needs it
            for module_users in self.users:
                module_users.calls.add(self)
                _USERS_BY_ID[id(module_users.module)] = module_users
                _set_mode(module_users.module, False)

    def end(self) -> None:
        if not self.users:
            return
        with _LOCK:
            for module_users in self.users:
                module_users.calls.discard(self)
                if not module_users.calls and _USERS_BY_ID.get(id(module_users.module)) is module_users:
                    _set_mode(module_users.module, True)
                    # last, so that a second call repeats an interrupted one
                    _USERS_BY_ID.pop(id(module_users.module), None)
            self.users = []


class _ModuleUsers:
    """A module that was in train mode, and the calls that use it in eval mode."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.calls: set[_EvalModeCall] = set()


_LOCK = threading.RLock()  # reentrant: a signal's handler may call a model while this thread holds the lock


def _forget_other_threads() -> None:
    """Gives a forked child a lock of its own: another thread of its parent may hold the one that it got."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_forget_other_threads)
# by id, as modules may define equality; the entry holds its module, so that no other object can get the same id
_USERS_BY_ID: dict[int, _ModuleUsers] = {}


def _users_of_modules(model: nn.Module) -> list[_ModuleUsers]:
    """Returns the users of each module that is in train mode, or was before a call that has not ended.

    This visits the same modules as ``model.modules()``, but faster, as it runs at every prediction.
    """
    users: list[_ModuleUsers] = []
    modules: list[nn.Module | None] = [model]
    visited_ids = set()
    for module in modules:  # which grows meanwhile
        if module is None:
            continue
        is_training = getattr(module, "training", False)  # a frozen TorchScript module has no mode
        if (is_training or (_USERS_BY_ID and id(module) in _USERS_BY_ID)) and id(module) not in visited_ids:
            visited_ids.add(id(module))
            users.append(_USERS_BY_ID.get(id(module)) or _ModuleUsers(module))
        if children := module._modules:
            modules += children.values()
    return users


def _set_mode(module: nn.Module, training: bool) -> None:
    attributes = vars(module)
    if "training" in attributes:
        attributes["training"] = training  # nn.Module's own way of setting an attribute takes ten times as long
    else:  # modules of TorchScript
        module.training = training


def with_forward_hooks(hooks: Mapping[nn.Module, Callable[..., Any]], run: Callable[[], T]) -> T:
    """Calls ``run`` while modules have forward hooks, one each, which are called in this thread's passes only."""
    thread_hooks = {module: _OfThread(hook) for module, hook in hooks.items()}

    def register_and_run() -> T:
        with _LOCK:
            for module, hook in thread_hooks.items():
                module.register_forward_hook(hook)
        return run()

    def remove() -> None:
        with _LOCK:
            for module, hook in thread_hooks.items():
                _remove_forward_hook(module, hook)

    return undoing(remove, register_and_run)


def with_forward_pre_hook(module: nn.Module, hook: Callable[..., Any], run: Callable[[], T]) -> T:
    """Calls ``run`` while a module has a forward pre-hook, which also gets the module's keyword arguments.

    The hook is called in this thread's passes only.
    """
    thread_hook = _OfThread(hook)

    def register_and_run() -> T:
        with _LOCK:
            module.register_forward_pre_hook(thread_hook, with_kwargs=True)
        return run()

    def remove() -> None:
        with _LOCK:
            _remove_pre_hook(module, thread_hook)

    return undoing(remove, register_and_run)


def copy_of(model: Network, shared: Iterable[Tensor] = ()) -> Network:
    """Returns a deep copy of a model that other threads may be using: the hooks of their calls are not copied.

    Args:
        model: The model.
        shared: Tensors of it that the copy shares, such as weights that nothing writes into.
    """
    with _LOCK:  # so that no call adds or removes a hook meanwhile
        copied = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    for module in copied.modules():
        for hook in [hook for hook in module._forward_hooks.values() if isinstance(hook, _OfThread)]:
            _remove_forward_hook(module, hook)
        for hook in [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _OfThread)]:
            _remove_pre_hook(module, hook)
    return copied


class _OfThread:
    """A hook that does nothing in other threads' passes through the same module.

    It takes any arguments: while its thread removes it, torch may call it in another thread without keyword arguments.
    """

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook
        self.thread = threading.get_ident()

    def __call__(self, *args: Any) -> Any:
        """Calls the hook in its own thread."""
        return self._hook(*args) if acts_in_this_thread(self) else None

    def __deepcopy__(self, memo: object) -> "_OfThread":
        return self  # ``copy_of`` removes it; what it refers to is not copied for that


def acts_in_this_thread(hook: Callable[..., Any]) -> bool:
    """Says whether a module's hook does anything in this thread: those of our calls in other threads do not."""
    return not isinstance(hook, _OfThread) or hook.thread == threading.get_ident()


def _remove_forward_hook(module: nn.Module, hook: _OfThread) -> None:
    _remove(hook, module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_hooks_always_called)


def _remove_pre_hook(module: nn.Module, hook: _OfThread) -> None:
    _remove(hook, module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)


def _remove(hook: Callable[..., Any], registered: Any, *flags: Any) -> None:
    """Removes a hook without its handle: an interruption may have come before ``register`` returned the handle."""
    for key in [key for key, registered_hook in list(registered.items()) if registered_hook is hook]:
        for flag in flags:
            flag.pop(key, None)
        registered.pop(key, None)


def process_settings(*, loggers: Iterable[str] = (), variables: Iterable[str] = ()) -> Callable[[], None]:
    """Records loggers' levels and environment variables. Returns a function that restores them."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    values = {name: os.environ.get(name) for name in variables}

    def restore() -> None:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    return restore


def with_log_level(level: int, loggers: Iterable[str], run: Callable[[], T]) -> T:
    """Calls ``run`` while loggers have a level, and restores each logger's own."""
    names = list(loggers)

    def set_and_run() -> T:
        for name in names:
            logging.getLogger(name).setLevel(level)
        return run()

    return undoing(process_settings(loggers=names), set_and_run)


class FunctionMode(TorchFunctionMode):
    """A torch-function mode whose exit does nothing if an interruption has removed it from the stack already."""

    def __exit__(self, *_: object) -> None:
        modes = _get_current_function_mode_stack()
        if modes and modes[-1] is self:
            _pop_mode()


def keeps_torch_settings(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function to restore torch's grad mode, autocast and function modes at its end.

    Contexts such as ``torch.no_grad()`` restore them, too, unless they are interrupted while they end.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        grad, modes = torch.is_grad_enabled(), _get_current_function_mode_stack()
        n_dispatch_modes = len(_get_current_dispatch_mode_stack())
        autocast = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in AUTOCAST_DEVICES]

        def restore() -> None:
            while len(_get_current_dispatch_mode_stack()) > n_dispatch_modes:
                _pop_dispatch_mode()
            while len(_get_current_function_mode_stack()) > len(modes):
                _pop_mode()
            n_modes_left = len(_get_current_function_mode_stack())  # torch removes a mode from the stack while it runs
            for mode in modes[n_modes_left:]:
                _push_mode(mode)
            torch.set_grad_enabled(grad)
            for device, enabled, dtype in autocast:
                torch.set_autocast_enabled(device, enabled)
                torch.set_autocast_dtype(device, dtype)

        def run() -> T:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                _end_contexts(error)
                raise

        return undoing(restore, run)

    return call


def _is_context(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") in ("contextlib", "torch.overrides")


def _end_contexts(error: BaseException | None) -> None:
    """Ends contexts of torch that an interruption has left open, at once.

    While a function mode runs, torch removes it from the stack, in a generator's context. If that context is
    interrupted while it ends, the generator puts the mode back only when its frames are freed with the traceback: long
    after the call, and then nothing removes it.
    """
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            frame, traceback = traceback.tb_frame, traceback.tb_next
            # If a signal's handler raised the error, the interrupted frame may be missing in the traceback, but it is
            # the handler's ``f_back``. Frames' locals must not be read: the copy would keep the error and all its
            # frames alive.
            contexts = [
                candidate for candidate in (frame, frame.f_back) if candidate is not None and _is_context(candidate)
            ]
            for context in contexts:
                with suppress(RuntimeError):  # the frame is still running
                    context.clear()
        error = error.__context__


def keeps_random_states(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function to restore torch's settings and the random states of torch, NumPy and Python at its end.

    While another thread's call is in progress, the present states may be set by that call. So this call restores the
    states that were recorded by the earlier one.
    """
    inner = keeps_torch_settings(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        call_id, thread = object(), threading.get_ident()
        restore = next((restore for call_thread, restore in list(_IN_PROGRESS.values()) if call_thread != thread), None)
        put_back = restore or random_states()

        def end() -> None:
            put_back()
            _IN_PROGRESS.pop(call_id, None)

        def run() -> T:
            _IN_PROGRESS[call_id] = thread, put_back
            return inner(*args, **kwargs)

        return undoing(end, run)

    return call


_IN_PROGRESS: dict[object, tuple[int, Callable[[], None]]] = {}  # thread and restoring function of each call


def random_states() -> Callable[[], None]:
    """Records the global random states. Returns a function that restores them."""
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    gpu_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore() -> None:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if gpu_states is not None:
            torch.cuda.set_rng_state_all(gpu_states)
        elif torch.cuda.is_initialized():  # the call was the first to use a GPU: there is no state to restore
            torch.cuda.seed_all()

    return restore
