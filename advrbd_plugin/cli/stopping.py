"""Ctrl-C and SIGTERM end the process with one line and the shell's exit status, from the first import on.

A ``KeyboardInterrupt`` in the middle of an import leaves modules half made: whatever touches them next, even to report
the error, may crash. So a signal during an import ends the process at once. Nothing is lost by that, since every file
is written beside its place and moved in. At any other moment :class:`Stopped` unwinds the command as usual.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as typing has it, whose import takes time
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it

_advice = ""
_unwinding = False


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(_WORDS[signal.Signals(number)])
        self.number = number


def advise(text: str) -> None:
    """Say what the line that ends an interrupted process adds, such as how to go on."""
    global _advice
    _advice = text


def describe(error: KeyboardInterrupt) -> tuple[str, int]:
    """The line, without ``advrbd: error:``, and the exit status for a Ctrl-C or a :class:`Stopped`."""
    number = error.number if isinstance(error, Stopped) else signal.SIGINT
    return _line(number), 128 + number  # as shells have it


def run_process(command: Callable[[], int]) -> int:
    """Run ``command`` with the signals in hand; the process ends with the status that this returns."""
    try:
        _install()
        status = command()
    except KeyboardInterrupt as error:
        _leave(error.number if isinstance(error, Stopped) else signal.SIGINT)
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        # The line is out. Threads may be at work and modules half imported, so nobody is waited for and no destructor
        # runs.
        try:
            sys.stdout.flush()
        finally:
            os._exit(status)
    return status


def _install() -> None:
    for number in _WORDS:
        if signal.getsignal(number) != signal.SIG_IGN:  # a background job of a shell ignores Ctrl-C
            signal.signal(number, _stop)
    sys.unraisablehook = _unraisable


def _stop(number: int, frame: FrameType | None) -> None:
    """Unwind; at once where that is unsafe, or where the user asks again."""
    global _unwinding
    if _unwinding or _is_importing(frame):
        _leave(number)
    _unwinding = True
    raise Stopped(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _unraisable(found: Any) -> None:
    """Python drops what a destructor or a callback raises, so a signal that came in one ends the process here."""
    if isinstance(found.exc_value, Stopped):
        _leave(found.exc_value.number)
    sys.__unraisablehook__(found)


def _leave(number: int) -> NoReturn:
    cursor = _SHOW_CURSOR if os.isatty(2) else ""
    try:
        os.write(2, f"{cursor}advrbd: error: {_line(number)}\n".encode())
    finally:  # stderr may be closed
        os._exit(128 + number)


def _line(number: int) -> str:
    word = _WORDS[signal.Signals(number)]
    return f"{word}: {_advice}" if _advice else word
