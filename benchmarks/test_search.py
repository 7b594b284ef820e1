"""What boxes are cut by: Jacobian bounds against CROWN's coefficients, on 20 instances of ACAS Xu.

Same search, same limit, one run: `make bench`, with $VNNCOMP_BENCHMARKS set. The last test prints the ratios; an
instance that is not solved counts with the boxes it got to and with the limit.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

import recurjac_plugin as rj

VNNCOMP = os.environ.get("VNNCOMP_BENCHMARKS")
pytestmark = pytest.mark.skipif(VNNCOMP is None, reason="$VNNCOMP_BENCHMARKS is not set")

LIMIT = 30.0  # seconds for a verdict
INSTANCES = (
    ("1_1", 1), ("2_2", 1), ("2_7", 1), ("3_8", 1), ("4_9", 1), ("5_5", 1),
    ("1_1", 2), ("1_7", 2), ("1_8", 2), ("1_9", 2), ("3_3", 2), ("4_2", 2),
    ("1_1", 3), ("2_2", 3), ("1_1", 4), ("3_8", 4), ("1_1", 5), ("1_1", 6), ("3_3", 9), ("4_5", 10),
)  # fmt: skip
WAYS = {
    "jacobian": {"method": "RecurJac-Linear+CROWN", "branching": "jacobian"},
    "crown": {"method": "CROWN", "branching": "crown"},
}
_results: dict[tuple[str, int, str], rj.Result] = {}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("network", "prop"), INSTANCES)
def test_verdict(benchmark, network, prop, way):
    folder = Path(str(VNNCOMP)) / "acasxu"
    model = rj.load_onnx(folder / f"ACASXU_run2a_{network}_batch_2000.onnx")
    spec = rj.load_vnnlib(folder / f"prop_{prop}.vnnlib")
    benchmark.group = f"ACAS Xu {network}, property {prop}"
    result = benchmark.pedantic(lambda: rj.verify(model, spec, timeout=LIMIT, **WAYS[way]), rounds=1)
    assert result.verdict in (rj.Verdict.UNSAT, rj.Verdict.TIMEOUT)
    benchmark.extra_info |= {"verdict": result.verdict.value, "boxes": result.boxes}
    _results[network, prop, way] = result


def test_ratios(capsys):
    pairs = [
        (_results[network, prop, "jacobian"], _results[network, prop, "crown"])
        for network, prop in INSTANCES
        if (network, prop, "jacobian") in _results and (network, prop, "crown") in _results
    ]
    if not pairs:
        pytest.skip("no instance was run both ways")
    boxes = math.exp(math.fsum(math.log(j.boxes / c.boxes) for j, c in pairs) / len(pairs))
    seconds = [math.fsum(min(each[i].seconds, LIMIT) for each in pairs) for i in (0, 1)]
    solved = [sum(each[i].verdict is rj.Verdict.UNSAT for each in pairs) for i in (0, 1)]
    with capsys.disabled():
        print(
            f"\n{len(pairs)} instances, cut by Jacobian bounds / by CROWN's coefficients: boxes {boxes:.3f} (geometric "
            f"mean), seconds {seconds[0]:.1f} / {seconds[1]:.1f} = {seconds[0] / seconds[1]:.3f}, solved {solved[0]} / "
            f"{solved[1]}"
        )
