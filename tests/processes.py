"""Processes that tests interrupt and kill, forked from one that has imported all they need: none waits for torch."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from lookalike.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["lookalike.cli", "lookalike.baselines", "lookalike.experiments", "lightning.pytorch"])


class Started:
    """A function in a process of its own.

    Attributes:
        printed: What it prints, on standard output and standard error, to be read while it runs.
        exit_code: After ``finish``; minus the signal's number if one ended it.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        reader, writer = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(writer, function, arguments), daemon=True)
        self._process.start()
        writer.close()
        self.printed = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()
        self.exit_code: int | None = None

    def wait_for(self, text: str) -> str:
        """Reads up to the first line that has a text in it, and returns this line."""
        lines = []
        for line in self.printed:
            lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"it ended without {text!r}: {''.join(lines)}")

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self._process.pid, number)

    def finish(self) -> str:
        """Waits for its end and returns what else it has printed."""
        with self.printed:
            rest = self.printed.read()
        self._process.join()
        self.exit_code = self._process.exitcode
        return rest


def start_command(*arguments: object) -> Started:
    """Starts the command ``lookalike`` with arguments."""
    return Started(_command, [str(argument) for argument in arguments])


def run_command(*arguments: object) -> str:
    """Runs the command ``lookalike`` to its end and returns what it has printed; it must end with 0."""
    started = start_command(*arguments)
    printed = started.finish()
    assert started.exit_code == 0, printed
    return printed


def _run(writer: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    for stream in (1, 2):
        os.dup2(writer.fileno(), stream)
    writer.close()
    torch.set_num_threads(1)
    function(*arguments)


def _command(arguments: list[str]) -> None:
    sys.argv = ["lookalike", *arguments]
    main()
