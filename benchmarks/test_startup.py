"""How long `recurjac` takes before it computes, beside the bare import of its libraries, and of none: `make bench`.

Whole processes of one thread each, with compiled modules, as they are after an installation. Before every round of
`recurjac verify` the bare import of torch, auto_LiRPA and onnxruntime is timed, so that both see the same load; the
median of the ratios is printed, and kept in the extra information. "until solving" ends when network and property are
loaded, "instant instance" is all of a run that bounds decide at once. It may take less than the bare import, because it
lets the garbage collector wait. `recurjac --help` imports none of them; before each of its rounds an empty Python runs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = ROOT / "examples" / "data"
INSTANCE = [str(DATA / "digits_relu.onnx"), str(DATA / "digits_relu_small.vnnlib")]
LIMIT = 1.1  # times the bare import
HELP_LIMIT, HELP_SECONDS = 20.0, 0.3  # times an empty Python; what it should stay below on a machine of today
ROUNDS = 5

# auto_LiRPA 0.3 imports on current torch only with what `host` prepares.
_IMPORT = """
import torch, onnxruntime
try:
    import auto_LiRPA
except (ImportError, AttributeError):
    import recurjac_plugin.host
"""
_RUN = "from recurjac_plugin.cli import main; main()"
_REACHED = 7
_UNTIL_SOLVING = f"""
import sys, recurjac_plugin.verification.verdicts as verdicts
verdicts.verify = lambda *args, **options: sys.exit({_REACHED})
{_RUN}
"""
COMMANDS = {
    "until solving": (["-c", _UNTIL_SOLVING, "verify", *INSTANCE], _REACHED),
    "instant instance": (["-c", _RUN, "verify", *INSTANCE], 0),
}


def _run(arguments: list[str], code: int = 0) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == code, done.stderr


def _beside(benchmark, code: str, arguments: list[str], ends_with: int = 0) -> tuple[float, float]:
    """Median seconds of a run, and the median of its ratios to runs of some code."""
    others = []

    def other() -> None:
        start = time.perf_counter()
        _run(["-c", code])
        others.append(time.perf_counter() - start)

    benchmark.pedantic(_run, args=(arguments, ends_with), setup=other, rounds=ROUNDS, warmup_rounds=1)
    taken = benchmark.stats.stats.data
    return statistics.median(taken), statistics.median(ours / each for ours, each in zip(taken, others[-ROUNDS:]))


@pytest.mark.benchmark(group="start of `recurjac verify`")
@pytest.mark.parametrize("name", COMMANDS)
def test_startup(benchmark, name):
    seconds, ratio = _beside(benchmark, _IMPORT, *COMMANDS[name])
    benchmark.extra_info["times the bare import"] = round(ratio, 3)
    print(f"\n{name}: {seconds:.2f} s, {ratio:.2f} times the bare import")
    assert ratio < LIMIT


@pytest.mark.benchmark(group="`recurjac --help`")
def test_help(benchmark):
    seconds, ratio = _beside(benchmark, "pass", ["-c", _RUN, "--help"])
    benchmark.extra_info["times an empty Python"] = round(ratio, 3)
    print(f"\nhelp: {seconds:.3f} s (goal: {HELP_SECONDS} s), {ratio:.1f} times an empty Python")
    assert ratio < HELP_LIMIT
