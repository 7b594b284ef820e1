"""From an ONNX network and a VNN-LIB property to a verdict, as in VNN-COMP.

Asks of three radii around a handwritten digit whether some image in the ball gets another label. `unsat` is a proof
that none does, `sat` comes with the image, and `unknown` says that neither was found.

Run `python examples/verify_onnx.py [MODEL.onnx PROPERTY.vnnlib]`. The same on the command line is
`recurjac verify MODEL.onnx PROPERTY.vnnlib`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import recurjac_plugin as rj
from recurjac_plugin.networks.onnx import onnx_session

DATA = Path(__file__).parent / "data"


def run(model: Path, prop: Path) -> rj.Result:
    """Verify one property; a counterexample is accepted only if onnxruntime confirms it."""
    net, spec = rj.load_onnx(model), rj.load_vnnlib(prop)
    print(f"{model.name}: {net.input_shape} -> {net.n_outputs}, {net.max_difference:.1e} from onnxruntime; {prop.name}")
    result = rj.verify(net, spec, split=False, attack_seconds=2)
    print(f"  {result.verdict.value} in {result.seconds:.2f} s, lower bound {result.lower_bound:.4g}")
    return result


def main() -> None:
    """Verify the property given, or the shipped ones."""
    if len(sys.argv) == 3:
        run(Path(sys.argv[1]), Path(sys.argv[2]))
        return
    model = DATA / "digits_cnn.onnx"
    small, mid, large = (run(model, DATA / f"digits_cnn_{size}.vnnlib") for size in ("small", "mid", "large"))

    # The smallest ball is proved to be safe, the largest is not, and bounds alone cannot tell about the one between.
    assert small.verdict is rj.Verdict.UNSAT and small.lower_bound > 0
    assert mid.verdict is rj.Verdict.UNKNOWN
    assert large.verdict is rj.Verdict.SAT

    # What a counterexample says, anybody can check: the image lies in the ball and gets another label.
    found = large.counterexample
    assert found is not None
    box = rj.load_vnnlib(DATA / "digits_cnn_large.vnnlib").boxes[0]
    session = onnx_session(model)
    label, wrong = (int(np.argmax(session(x[None])[0])) for x in ((box.lower + box.upper) / 2, found.x))
    assert box.contains(found.x) and label != wrong
    print(f"a {label} in the middle of the large ball, a {wrong} at its counterexample")


if __name__ == "__main__":
    main()
