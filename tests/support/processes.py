"""Python processes that find this checkout's package first, and compute with one thread."""

from __future__ import annotations

import os
import subprocess
import sys

from places import ROOT


def environment(*folders, **variables):
    """The variables of such a process; its path begins with `folders`."""
    path = [*map(str, folders), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": "1", **variables}


def python(*arguments, cwd=None, env=None):
    """Run Python to its end: what it printed, and its exit code."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env or environment(), check=False)
