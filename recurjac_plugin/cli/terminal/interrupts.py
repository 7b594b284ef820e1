"""Ctrl-C at any moment: one line on stderr, and the exit code 130 by which shells know it.

Python turns the signal into an exception at the next step of the main thread. That is late inside of a long call of a
library, and lost where somebody's ``except`` swallows it, as in the imports of some libraries. So a thread hears of the
signal, too, and ends the process where the exception does not.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False  # nothing is loaded here that `listen` does not need at once
if TYPE_CHECKING:
    import signal
    import socket
    from types import FrameType
    from typing import NoReturn
else:
    try:
        import _signal as signal  # `signal` itself loads enum, functools and collections first
    except ImportError:
        import signal

INTERRUPTED = 130

_STUCK = 2.0  # seconds after which the main thread is taken to be inside of a long call
_LOST = 10.0  # seconds after which the exception is taken to be lost; until then files and processes are tidied up

_TIDY = "\r\x1b[K\x1b[?25h"  # erases the line, `^C` and a progress bar with it, and shows the cursor, which bars hide

_interrupted = False
_raised = False
_told = False


class Interrupted(BaseException):
    """The end of a command that was stopped; for a `KeyboardInterrupt` click would print an empty line."""


def listen() -> None:
    """Be ready for Ctrl-C, in a process that runs nothing but the program."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # whoever started this process wants it to ignore the signal
    signal.signal(signal.SIGINT, _handler)
    import socket
    import threading

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, writer), daemon=True).start()


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed since `listen`."""
    return _interrupted


def say(message: str) -> None:
    """A line on stderr about the end, on a terminal in the place of what the command showed last."""
    global _told
    _told = True
    tidy = _TIDY if os.isatty(2) and os.environ.get("TERM") != "dumb" else ""
    sys.stderr.write(f"{tidy}{message}\n")
    sys.stderr.flush()


def leave() -> NoReturn:
    """End the process at once, after one line on stderr where there was none."""
    try:
        sys.stdout.flush()
    finally:
        try:
            if not _told:
                say("stopped")
        finally:  # whatever the streams are by now
            os._exit(INTERRUPTED)  # libraries that are loaded in part do not survive an orderly end


def _handler(number: int, frame: FrameType | None) -> None:
    """Raise the exception, once."""
    global _interrupted, _raised
    _interrupted = True
    if not _raised:
        _raised = True
        sys.unraisablehook = lambda unraisable: None  # where it is lost in a destructor, nobody wants to read of it
        raise KeyboardInterrupt


def _watch(reader: socket.socket, writer: socket.socket) -> None:
    """Wait for the signal, then for the end of the process."""
    while signal.SIGINT not in reader.recv(64):
        pass
    end = time.monotonic() + _STUCK
    while not _raised and time.monotonic() < end:
        time.sleep(0.05)
    if _raised:
        reader.settimeout(_LOST)
        try:
            while signal.SIGINT not in reader.recv(64):  # a second time: somebody is in a hurry
                pass
        finally:  # or the time is over
            leave()
    leave()
