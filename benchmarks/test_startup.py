"""How long `recurjac verify` takes before it solves, beside the bare import of its libraries: `make bench`.

Whole processes of one thread each. Before every round of `recurjac verify` the bare import of torch, auto_LiRPA and
onnxruntime is timed, so that both see the same load; the median of the ratios is printed, and kept in the extra
information. "until solving" ends when network and property are loaded, "instant instance" is all of a run that bounds
decide at once.
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
LIMIT = 1.5  # times the bare import
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
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == code, done.stderr


@pytest.mark.benchmark(group="start of `recurjac verify`")
@pytest.mark.parametrize("name", COMMANDS)
def test_startup(benchmark, name):
    arguments, code = COMMANDS[name]
    bare = []

    def bare_import() -> None:
        start = time.perf_counter()
        _run(["-c", _IMPORT])
        bare.append(time.perf_counter() - start)

    benchmark.pedantic(_run, args=(arguments, code), setup=bare_import, rounds=ROUNDS, warmup_rounds=1)
    taken = benchmark.stats.stats.data
    ratio = statistics.median(ours / theirs for ours, theirs in zip(taken, bare[-ROUNDS:]))
    benchmark.extra_info["times the bare import"] = round(ratio, 3)
    print(f"\n{name}: {statistics.median(taken):.2f} s, {ratio:.2f} times the bare import")
    assert ratio < LIMIT
