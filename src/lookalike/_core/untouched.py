"""Changes that undo themselves, whatever interrupts them.

An exception can arrive between any two instructions: Ctrl-C, an alarm, an error in a hook. What a call changes for its
duration (modes and hooks of a user's model, torch's settings, random states, loggers) is put back all the same.
"""

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
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils._python_dispatch import _pop_mode as _pop_dispatch_mode

P = ParamSpec("P")
T = TypeVar("T")

_DEVICES = ("cpu", "cuda")  # whose autocast the package switches on


def undoing(restore: Callable[[], object], run: Callable[[], T]) -> T:
    """Returns what ``run`` returns, and restores at the end, at whatever moment an exception arrives.

    There is no moment at which two exceptions can keep ``restore`` from finishing: in ``run`` and after it the
    innermost block calls it; if that is interrupted the next block calls it again, and the last one once more. A
    ``with`` statement has such moments, at the beginning and at the end of ``__exit__``.

    Args:
        restore: Puts everything back; called again it does the same as called once, and it finishes what an
            interrupted call has begun.
        run: Makes the changes and does the work. What ``restore`` needs to know is recorded before.
    """
    try:
        try:
            try:
                return run()
            finally:
                restore()
        finally:
            restore()
    finally:
        restore()


def in_eval_mode(model: nn.Module, run: Callable[[], T]) -> T:
    """Returns what ``run`` returns while every module of a model is in eval mode; each is put back into its own mode.

    The flags are set directly: a ``train()`` that the model's owner has overridden may do more than that. Several
    threads can do so at once, with models that share modules too: a module's last user puts its mode back.
    """
    visit = _Visit(model)

    def visited() -> T:
        visit.begin()
        return run()

    return undoing(visit.end, visited)


class _Visit:
    """One call during which a model is in eval mode."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.users: list[_Users] = []

    def begin(self) -> None:
        with _LOCK:
            self.users = _users_of(self.model)  # before anything changes: ``end`` needs it
            for users in self.users:
                users.visits.add(self)
                _USERS[id(users.module)] = users
                _set_mode(users.module, False)

    def end(self) -> None:
        if not self.users:
            return
        with _LOCK:
            for users in self.users:
                users.visits.discard(self)
                if not users.visits and _USERS.get(id(users.module)) is users:
                    _set_mode(users.module, True)
                    _USERS.pop(id(users.module), None)  # last: until here a second call does it again
            self.users = []


class _Users:
    """A module that was in train mode, and the calls that need it in eval mode."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.visits: set[_Visit] = set()


_LOCK = threading.RLock()  # a signal's handler may call a model while another call holds it
_USERS: dict[int, _Users] = {}  # by identity: a module may define equality; it is held here, so no other takes its id


def _users_of(model: nn.Module) -> list[_Users]:
    """Returns the users of each module that is in train mode, or was before a call that is not done.

    Does what ``model.modules()`` would, without its names: this runs at every prediction.
    """
    users, waiting, seen = [], [model], set()
    while waiting:
        module = waiting.pop()
        if (module.training or (_USERS and id(module) in _USERS)) and id(module) not in seen:
            seen.add(id(module))
            users.append(_USERS.get(id(module)) or _Users(module))
        waiting.extend(child for child in module._modules.values() if child is not None)
    return users


def _set_mode(module: nn.Module, training: bool) -> None:
    attributes = vars(module)
    if "training" in attributes:
        attributes["training"] = training  # nn.Module's own way of setting an attribute takes ten times as long
    else:  # scripted modules
        module.training = training


def with_forward_hooks(hooks: Mapping[nn.Module, Callable[..., Any]], run: Callable[[], T]) -> T:
    """Returns what ``run`` returns while modules have forward hooks, one each, for this thread's passes alone."""
    of_thread = {module: _in_this_thread(hook) for module, hook in hooks.items()}

    def hooked() -> T:
        for module, hook in of_thread.items():
            module.register_forward_hook(hook)
        return run()

    def remove() -> None:
        for module, hook in of_thread.items():
            _remove(hook, module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_hooks_always_called)

    return undoing(remove, hooked)


def with_forward_pre_hook(module: nn.Module, hook: Callable[..., Any], run: Callable[[], T]) -> T:
    """Returns what ``run`` returns while a module has a forward pre-hook, which takes its named arguments too.

    The hook runs in this thread's passes alone.
    """
    of_thread = _in_this_thread(hook)

    def hooked() -> T:
        module.register_forward_pre_hook(of_thread, with_kwargs=True)
        return run()

    return undoing(lambda: _remove(of_thread, module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs), hooked)


def _in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a hook that does nothing in the passes of other threads, which share the module.

    While one thread removes its hook, torch may call it in another thread's pass with fewer arguments.
    """
    thread = threading.get_ident()
    return lambda *args: hook(*args) if threading.get_ident() == thread else None


def _remove(hook: Callable[..., Any], registered: Any, *flags: Any) -> None:
    """Removes a hook by itself: an interruption can come before its handle is there."""
    for key in [key for key, other in list(registered.items()) if other is hook]:
        for flag in flags:
            flag.pop(key, None)
        registered.pop(key, None)


def process_settings(*, loggers: Iterable[str] = (), variables: Iterable[str] = ()) -> Callable[[], None]:
    """Records loggers' levels and environment variables, and returns a function that puts them back."""
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


class FunctionMode(TorchFunctionMode):
    """A torch-function mode that leaves quietly when an interruption has taken it off the stack already."""

    def __exit__(self, *_: object) -> None:
        modes = _get_current_function_mode_stack()
        if modes and modes[-1] is self:
            _pop_mode()


def keeps_torch_settings(function: Callable[P, T]) -> Callable[P, T]:
    """Makes a function put back torch's grad mode, autocast and function modes at its end.

    ``torch.no_grad()`` and the like do so by themselves, unless an interruption meets them as they end.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        grad, modes = torch.is_grad_enabled(), _get_current_function_mode_stack()
        n_dispatch_modes = len(_get_current_dispatch_mode_stack())
        autocast = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _DEVICES]

        def restore() -> None:
            while len(_get_current_dispatch_mode_stack()) > n_dispatch_modes:
                _pop_dispatch_mode()
            while len(_get_current_function_mode_stack()) > len(modes):
                _pop_mode()
            left = len(_get_current_function_mode_stack())  # torch takes them off while one of them is at work
            for mode in modes[left:]:
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
    """Ends contexts of torch that an interruption has left half way, now and not when its traceback is let go of.

    While one function mode is at work torch takes it off the stack, in a generator's context. If that is interrupted as
    it ends, the generator puts the mode back as soon as nobody holds its frames: long after the call, and for good.
    """
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            frame, traceback = traceback.tb_frame, traceback.tb_next
            # The frame that a signal's handler interrupts may not be in the traceback, but is before the handler's.
            # Locals must not be asked for: the copy lives on, and with it error and all that its frames hold.
            contexts = [other for other in (frame, frame.f_back) if other is not None and _is_context(other)]
            for context in contexts:
                with suppress(RuntimeError):  # a frame that is still running
                    context.clear()
        error = error.__context__


def keeps_random_states(function: Callable[P, T]) -> Callable[P, T]:
    """Makes a function put back torch's settings and the global random states of torch, NumPy and Python at its end.

    While a call of another thread is in progress the states may be that call's: this one puts back what the first one
    found.
    """
    inner = keeps_torch_settings(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        this, thread = object(), threading.get_ident()
        restore = next((restore for other, restore in list(_IN_PROGRESS.values()) if other != thread), None)
        put_back = restore or random_states()

        def end() -> None:
            put_back()
            _IN_PROGRESS.pop(this, None)

        def run() -> T:
            _IN_PROGRESS[this] = thread, put_back
            return inner(*args, **kwargs)

        return undoing(end, run)

    return call


_IN_PROGRESS: dict[object, tuple[int, Callable[[], None]]] = {}  # calls: their thread, and what puts the states back


def random_states() -> Callable[[], None]:
    """Records the global random states, and returns a function that puts them back."""
    of_torch, of_numpy, of_python = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore() -> None:
        torch.set_rng_state(of_torch)
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
        if of_gpus is not None:
            torch.cuda.set_rng_state_all(of_gpus)
        elif torch.cuda.is_initialized():  # the function was the first to use a GPU: as if it had not been
            torch.cuda.seed_all()

    return restore
