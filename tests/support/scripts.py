"""Scripts, each in a process of its own that begins where torch, or more, is imported already.

Most of the time of a small script is spent on that. A server, this file run by itself, does it once and forks.
Processes that must begin with nothing, because of what they import or how they start, are those of `processes.python`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from processes import environment


def run_script(script, *arguments, cwd=None, env=None, on_warning=None, ready="warm_up"):
    """Run a script to its end, as `processes.python` does.

    Args:
        script: its file.
        arguments: of the script.
        cwd: the folder to run it in; this process's if there is none.
        env: its environment.
        on_warning: what is done about all warnings.
        ready: what has been done before: a function of this module, `import_torch` or `warm_up`.
    """
    command = [str(script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        order = {
            "command": command,
            "streams": [str(path) for path in streams],
            "cwd": str(cwd or Path.cwd()),
            "env": env or environment(),
            "on_warning": on_warning,
        }
        server = _server(ready)
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        code = server.stdout.readline()
        assert code, "the server of scripts has ended"
        shown = [path.read_text(encoding="utf-8") for path in streams]
    return subprocess.CompletedProcess(command, int(code), *shown)


def run_code(code, *arguments, ready="import_torch", **options):
    """Run some code as a script; most of it looks at what is imported besides torch."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "given_code.py"
        script.write_text(code, encoding="utf-8")
        return run_script(script, *arguments, ready=ready, **options)


@functools.cache
def _server(ready):
    """The server of this process, which ends with it."""
    server = subprocess.Popen(
        [sys.executable, __file__, ready], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)  # closes its input, and waits for its end
    return server


def _run(order):
    """In the fork: what `python SCRIPT ...` does."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, path in enumerate(order["streams"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv[:] = order["command"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    if order["on_warning"]:
        warnings.simplefilter(order["on_warning"])
    runpy.run_path(sys.argv[0], run_name="__main__")


def _forked(order):
    """A process for one script: its exit code."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    _run(order)
    sys.exit()


def import_torch():
    """Torch, and neither the package nor the host."""
    import torch

    torch.set_num_threads(1)


def warm_up():
    """What most scripts do once: import, trace a network, make the host's tables, compute and draw."""
    import_torch()
    import torch
    from host_tables import share_tables
    from matplotlib.figure import Figure

    import recurjac_plugin as rj
    from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

    importlib.import_module("sklearn.datasets")
    share_tables()
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 2), torch.nn.ReLU())
    center = torch.zeros(1, 2)
    rj.local_lipschitz(BoundedModule(net, center), BoundedTensor(center, PerturbationLpNorm(eps=0.1)))
    torch.func.vmap(torch.func.jacrev(net))(center)
    Figure(layout="constrained").add_subplot().figure.savefig(io.BytesIO())


def _serve(ready):
    {"import_torch": import_torch, "warm_up": warm_up}[ready]()
    gc.freeze()  # what is here by now is left alone in all forks
    for line in sys.stdin:
        sys.stdout.write(f"{_forked(json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
