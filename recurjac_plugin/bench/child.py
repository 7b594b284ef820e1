"""An instance in a process of its own: it may crash, hang, or be killed, and costs nobody else anything.

The processes are forked from a server that has imported everything and computed nothing (where the system has such
servers), one for each instance, so that they begin within milliseconds and no instance inherits another's memory.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .records import blank
from .solve import Task, solve_task

Solve = Callable[[Task, Callable[[float], None]], dict[str, Any]]

_PRELOAD = "recurjac_plugin.bench.preload"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_starting = threading.Lock()  # held while the environment, which all threads share, says how many threads to have
_RETRIES = (0.05, 0.2, 1.0, 5.0)  # seconds to wait before another attempt; the last one has none
_LOG_TAIL = 4000  # characters of what a broken process said


class Child:
    """The process of one instance.

    Args:
        task: the instance.
        solve: what to do there; importable by name.
    """

    def __init__(self, task: Task, solve: Solve = solve_task) -> None:
        self.task = task
        self._answer: dict[str, Any] | None = None
        self._prepare_seconds: float | None = None
        self._limit_reached = False
        self._cpu_loaded = 0.0
        self._cpu_killed: float | None = None
        handle, log = tempfile.mkstemp(prefix="recurjac-", suffix=".log")
        os.close(handle)
        self._log = Path(log)
        try:
            with _starting, _threads_for_imports(task.threads):
                context = _context(task.device)
                self._connection, theirs = context.Pipe(duplex=False)
                with theirs:
                    self._process = _started(context, (solve, task, theirs, log))
        except BaseException:  # Ctrl-C while the server imports, say: nobody else knows of the file
            self._log.unlink(missing_ok=True)
            raise
        self._started = self._loaded = time.monotonic()
        self._deadline = self._started + task.loading

    @property
    def waitables(self) -> list[Any]:
        """What `multiprocessing.connection.wait` can wait for until something happens."""
        return [self._process.sentinel] if self._connection.closed else [self._connection, self._process.sentinel]

    @property
    def seconds_left(self) -> float:
        """Until the process is killed."""
        return max(0.0, self._deadline - time.monotonic())

    def finished(self) -> bool:
        """Whether the process is over; takes in what it has said, and ends it where it is too late."""
        self._listen()
        if self._answer is None and self._process.is_alive():
            if self.seconds_left > 0:
                return False
            self._limit_reached = True
        self.close()
        return True

    def close(self) -> None:
        """End the process, if it is still there."""
        if self._answer is not None:
            self._process.join(1.0)  # it has said all it has to say, and leaves by itself
        if self._process.is_alive():
            self._cpu_killed = cpu_seconds_of(self._process.pid)
            self._process.kill()
        self._process.join()
        if not self._limit_reached:
            self._listen()  # it may have answered and ended since
        self._connection.close()

    def record(self) -> dict[str, Any]:
        """Everything known about the instance, after `finished`; see `records.blank`."""
        ended = time.monotonic()
        record = blank(self.task.number, self.task.timeout, self.task.options)
        if self._prepare_seconds is not None:
            record |= {"prepare_seconds": self._prepare_seconds, "run_seconds": ended - self._loaded}
            if self._cpu_killed is not None:
                record["cpu_seconds"] = max(0.0, self._cpu_killed - self._cpu_loaded)  # in ticks of the system
        record |= self._answer or self._failure()
        record["wall_seconds"] = ended - self._started
        record["host"] = record["host"] | {"threads": self.task.threads, "device": self.task.device}
        if record["result"] != "error" and record["run_seconds"] > self.task.timeout:
            late = None if record["result"] == "timeout" else record["result"]
            record |= {"result": "timeout", "late": late}
        with contextlib.suppress(OSError):
            self._log.unlink()
        return record

    def _listen(self) -> None:
        """Take in what the process has sent so far."""
        try:
            while not self._connection.closed and self._connection.poll():
                kind, content, cpu_seconds = self._connection.recv()
                if kind == "loaded":
                    self._prepare_seconds, self._loaded = content, time.monotonic()
                    self._cpu_loaded = cpu_seconds
                    self._deadline = self._loaded + self.task.timeout + self.task.grace
                else:
                    self._answer = content | {"cpu_seconds": cpu_seconds - self._cpu_loaded}
        except (EOFError, OSError):
            self._connection.close()  # nothing more will come; how the process ended says why

    def _failure(self) -> dict[str, Any]:
        """What became of a process that gave no answer."""
        log = self._log.read_text(encoding="utf-8", errors="replace").strip()[-_LOG_TAIL:] or None
        if self._limit_reached and self._prepare_seconds is None:
            message = f"Loading was not over after {self.task.loading:g} s; its process was killed."
        elif self._limit_reached:
            message = f"No verdict {self.task.grace:g} s after the timeout; its process was killed."
        else:
            last = log.splitlines()[-1] if log else ""
            return {"error": f"{_how_ended(self._process.exitcode)}{f': {last}' if last else ''}", "log": log}
        return {"result": "timeout", "error": message, "log": log}


def cpu_seconds_of(pid: int) -> float | None:
    """Seconds that all cores together have spent on a process that is still there; None where nobody says."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # of programs, and of the system for them
    except (OSError, IndexError, ValueError):
        return None


def _how_ended(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        why = " (by the system where memory runs out)" if name == "SIGKILL" else ""
        return f"Its process was ended by {name}{why}"
    return f"Its process ended with exit code {code} and without a verdict"


def _context(device: str) -> Any:
    """How processes are started: forked from a server, but for those that use CUDA, which does not survive a fork."""
    if device != "cpu" or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker  # Windows has neither

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOAD])
    resource_tracker.ensure_running()  # the server would start it, and hear signals again after that
    with _without_interrupts():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait; the server waits with it until `preload` says how it takes it, rather than show a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _started(context: Any, arguments: tuple[Any, ...]) -> Any:
    """A new process; the first one waits until the server has imported everything."""
    for wait in _RETRIES:
        process = context.Process(target=_work, args=arguments, daemon=True)
        try:
            process.start()
        except (EOFError, ConnectionError):
            # The server was killed just now; once the system has noticed, another one is started.
            if wait == _RETRIES[-1]:
                raise
            time.sleep(wait)
        else:
            return process
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _threads_for_imports(count: int) -> Iterator[None]:
    """Set the number of threads for the imports of the server: libraries ask for it once, while they are imported."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _work(solve: Solve, task: Task, connection: Any, log: str) -> None:
    """What the process does. An exception ends it and leaves its traceback in the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _die_with_parent(log)
    _redirect_output(log)
    _offer_to_out_of_memory_killer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = solve(task, lambda seconds: connection.send(("loaded", seconds, time.process_time())))
    connection.send(("done", answer, time.process_time()))
    connection.close()


def _redirect_output(log: str) -> None:
    """Let everything that libraries print, Python or not, go to a file."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    faulthandler.enable(file=2)


def _die_with_parent(log: str) -> None:
    """End this process when its parent is gone, however that ended: nobody would hear the answer."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        with contextlib.suppress(OSError):
            os.unlink(log)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _offer_to_out_of_memory_killer() -> None:
    """Where memory runs out, this process is to go, not the one that keeps the results."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
