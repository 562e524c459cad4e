"""An exception at any moment of a call."""

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch import nn

from tests.watch import differing, model_state, process_state

WATCHED = ("lookalike", "torch", "contextlib", "weakref", "threading")
_UNWATCHED = ("torch._dynamo", "torch._inductor")


class Interruption(BaseException):
    """Stands for Ctrl-C, an alarm, or an error in a hook."""


class Tracer:
    """Counts events of a call, and raises at one of them.

    Args:
        at: At which event; None only counts.
        instructions: Whether each instruction is an event, and not each line.
        again: Raise once more at so many calls and returns of functions after that, while the first exception is on
            its way out; None does not.
    """

    def __init__(self, at: int | None, *, instructions: bool, again: int | None = None) -> None:
        self.at = at
        self.again = again
        self.instructions = instructions
        self.events = 0
        self.where = ""

    def __enter__(self) -> "Tracer":
        if self.instructions:  # Python 3.12 looks for a frame that asks for instructions when tracing begins
            sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in WATCHED or module.startswith(_UNWATCHED):
            return None
        if self.instructions:
            frame.f_trace_opcodes = True
        if event == "opcode" or (event in ("call", "line", "return") and not self.instructions):
            self._count(frame)
        return self._trace

    def _count(self, frame: FrameType) -> None:
        self.events += 1
        if self.events == self.at:
            self.where = f"{frame.f_globals.get('__name__')}:{frame.f_lineno}"
            if self.again is not None:
                sys.setprofile(self._profile)  # tracing ends with the exception, profiling does not
            raise Interruption

    def _profile(self, frame: FrameType, _event: str, argument: Any) -> None:
        del argument  # a method of a generator: it would live as long as this frame, and a signal's handler has none
        assert self.again is not None
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in WATCHED:
            return
        self.again -= 1
        if self.again == 0:
            self.where += f", then {module}:{frame.f_lineno}"
            raise Interruption


def interrupt(
    run: Callable[[], object],
    net: nn.Module,
    times: int,
    *,
    instructions: bool,
    chance: random.Random | None = None,
    twice: bool = False,
) -> tuple[int, int, list[str]]:
    """Interrupts a call at moments that are evenly spread, or random.

    Args:
        run: The call.
        net: The model that it must leave alone.
        times: How often.
        instructions: See ``Tracer``.
        chance: Draws the moments; None spreads them evenly.
        twice: Interrupt what deals with the interruption too, soon after.

    Returns:
        How many moments there are, at how many the call was interrupted, and what was changed where.
    """
    run()  # loads what is loaded on first use
    with Tracer(None, instructions=instructions) as counter:
        run()
    changed, interrupted = [], 0
    for number in range(times):
        before = model_state(net), process_state()
        for _ in range(10):  # what waits for another thread has fewer moments when that is early
            at = 1 + number * counter.events // times if chance is None else chance.randint(1, counter.events)
            again = None if not twice else 1 + number % 40 if chance is None else chance.randint(1, 60)
            tracer = Tracer(at, instructions=instructions, again=again)
            held: BaseException | None = None
            try:
                with tracer:
                    run()
            except BaseException as error:
                held = error  # its frames are alive, as in a debugger: nothing may wait for them to go
                if not tracer.where:
                    raise
            if tracer.where or chance is None:
                break
        interrupted += bool(tracer.where)
        after = model_state(net), process_state()
        wrong = differing(before[0], after[0]) + differing(before[1], after[1])
        if held is not None and not isinstance(held, Interruption):
            wrong.append(f"the interruption became a {type(held).__name__}")
        if wrong:
            changed.append(f"{', '.join(wrong)} (interrupted at {tracer.where})")
        del held
        late = differing(before[1], process_state())
        if late and not wrong:
            changed.append(f"{', '.join(late)}, when the traceback goes (interrupted at {tracer.where})")
    return counter.events, interrupted, changed
