"""Ctrl-C at any moment: one line on stderr, exit code 130, and no process is left."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time

import psutil
import pytest
from commands import CNN, RELU, SMALL, recurjac
from places import DATA
from processes import environment

LONG = ("lipschitz", CNN, "--vnnlib", SMALL, "--eps", "0.001,0.01,0.1", "--samples", "4000", "--steps", "100000")
STARTS = "from recurjac_plugin.cli import main; main()"


def slow(value):
    """One more moment, for the long run of the tests."""
    return pytest.param(value, marks=pytest.mark.slow)


PROCESSES = []


@pytest.fixture(autouse=True)
def _heard():
    """Processes hear the signal, also where the tests run in the background of a shell, which lets jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    while PROCESSES:  # whatever a failed test has left
        with contextlib.suppress(ProcessLookupError):
            os.killpg(PROCESSES.pop().pid, signal.SIGKILL)


def begun(how, arguments, **streams):
    """A command as the leader of a process group, as shells start it."""
    command = [sys.executable, *how, *map(str, arguments)]
    PROCESSES.append(subprocess.Popen(command, start_new_session=True, **streams))
    return PROCESSES[-1]


def started(*arguments, code=None):
    """The same, its streams read as text."""
    how = ["-m", "recurjac_plugin.cli"] if code is None else ["-c", code]
    return begun(how, arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def stopped(process):
    """Its stderr after Ctrl-C, which a terminal sends to the whole group."""
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert nobody_is_left(process.pid)
    return said


def nobody_is_left(group):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        left = [each for each in psutil.process_iter(["status"]) if each.info["status"] != psutil.STATUS_ZOMBIE]
        if not any(group_of(each.pid) == group for each in left):
            return True
        time.sleep(0.1)
    return False


def group_of(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@pytest.mark.parametrize(
    "moment", ["torch", "onnxruntime", *map(slow, ("auto_LiRPA", "numpy.linalg", "scipy.optimize"))]
)
def test_during_an_import(moment):
    """The signal comes when the program has just begun to import a library."""
    code = f"""
import sys, threading, os, time
def watch():
    while {moment!r} not in sys.modules:
        time.sleep(0.001)
    os.write(1, b"now\\n")
threading.Thread(target=watch, daemon=True).start()
{STARTS}
"""
    process = started(*LONG, code=code)
    assert process.stdout.readline() == "now\n"
    assert stopped(process) == "stopped\n"


def test_while_options_are_read():
    """There typer makes an exit of it, without a word."""
    code = f"""
import os, signal
from recurjac_plugin.cli import app
app._Group.make_context = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)
{STARTS}
"""
    process = started("doctor", code=code)
    assert process.communicate(timeout=60) == ("", "stopped\n")
    assert process.returncode == 130


def test_nothing_is_loaded_before_the_program_listens():
    """Until then Ctrl-C is a traceback of Python's: what is loaded there makes that time longer."""
    code = """
import sys
before = set(sys.modules)
import recurjac_plugin.cli
print(*sorted(name for name in set(sys.modules) - before if not name.startswith("recurjac_plugin")))
"""
    process = started(code=code)
    loaded, said = process.communicate(timeout=60)
    assert said == ""
    assert set(loaded.split()) <= {"__future__", "_signal"}


@pytest.mark.parametrize("seconds", [3.0, *map(slow, (1.0, 6.0))])
def test_after_some_time(seconds):
    """Wherever the program is by then: importing, loading the network, or computing."""
    process = started(*LONG)
    time.sleep(seconds)
    assert stopped(process) == "stopped\n"


def test_during_a_computation():
    code = f"""
import os, recurjac_plugin.lipschitz.sampled as sampled
inner = sampled.sampled_lipschitz
def watched(*args, **options):
    os.write(1, b"now\\n")
    return inner(*args, **options)
sampled.sampled_lipschitz = watched
{STARTS}
"""
    process = started(*LONG, code=code)
    assert process.stdout.readline() == "now\n"
    time.sleep(0.5)
    assert stopped(process) == "stopped\n"


def test_within_a_progress_bar():
    """On a terminal, where the bar hides the cursor: it is there again, and the line stands alone."""
    leader, follower = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), follower)
    process = begun(["-m", "recurjac_plugin.cli"], LONG, **streams, env=environment(TERM="xterm"))
    os.close(follower)
    shown = b""
    while b"Samples" not in shown:
        shown += os.read(leader, 4096)
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(leader, 4096):
            shown += part
    os.close(leader)
    assert process.wait() == 130
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") > -1
    assert shown.decode().splitlines()[-1].endswith("stopped") and b"Traceback" not in shown


@pytest.mark.parametrize(
    "swallow",
    [
        "try:\n        time.sleep(60)\n    except BaseException:\n        pass\n    time.sleep(60)",  # swallowed
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",  # a call of a library that lasts
        "try:\n        time.sleep(60)\n    except BaseException:\n        raise ImportError('broken')",  # another one
        "try:\n        time.sleep(60)\n    except BaseException:\n        pass",  # the command goes on to its end
    ],
)
def test_where_the_exception_is_lost(swallow):
    code = f"""
import hashlib, os, time, recurjac_plugin.networks.onnx as m, recurjac_plugin.cli.terminal.interrupts as interrupts
interrupts._LOST = 2.0
inner = m.load_onnx
def load_onnx(path):
    os.write(1, b"now\\n")
    {swallow}
    return inner(path)
m.load_onnx = load_onnx
{STARTS}
"""
    process = started("verify", RELU, SMALL, code=code)
    assert process.stdout.readline() == "now\n"
    time.sleep(0.2)
    (line,) = [line for line in stopped(process).splitlines() if not line.startswith("lower bound")]
    assert line == "stopped"


@pytest.mark.parametrize("seconds", [2.5, *map(slow, (0.8, 5.0))])
def test_a_run_of_many_instances_ends_with_its_processes(tmp_path, seconds):
    """Wherever it is by then: the server of processes is importing, or an instance is under way."""
    out = tmp_path / "out"
    process = started("bench", DATA / "instances.csv", "--out", out, "--only", "*large*", "--method", "CROWN")
    time.sleep(seconds)
    lines = stopped(process).splitlines()
    assert lines[-1] == "stopped" or (lines[-1].startswith("stopped after ") and lines[-1].endswith("--resume"))
    assert not any("Traceback" in line for line in lines)


def test_within_a_process_of_somebody_else(monkeypatch):
    """A command that is called ends with the same line and code, and leaves the process alone."""
    import recurjac_plugin.networks.onnx as m

    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(m, "load_onnx", interrupted)
    result = recurjac("verify", RELU, SMALL, code=130)
    assert (result.stdout, result.stderr) == ("", "stopped\n")
