"""From an ONNX network and a VNN-LIB property to a verdict, as in VNN-COMP.

Asks of three radii around a handwritten digit whether some image in the ball gets another label. `unsat` is a proof
that none does, `sat` comes with the image, and `unknown` says that neither was found.

Run `python examples/verify_onnx.py [--plot FILE] [MODEL.onnx PROPERTY.vnnlib]`; half a minute. The same on the command
line is `recurjac verify MODEL.onnx PROPERTY.vnnlib`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from matplotlib.figure import Figure

import recurjac_plugin as rj

DATA = Path(__file__).parent / "data"


def run(model: Path, prop: Path) -> rj.Result:
    """Verify one property; a counterexample is accepted only if onnxruntime confirms it."""
    net, spec = rj.load_onnx(model), rj.load_vnnlib(prop)
    print(f"{model.name}: {net.input_shape} -> {net.n_outputs}, {net.max_difference:.1e} from onnxruntime; {prop.name}")
    result = rj.verify(net, spec, split=False, attack_seconds=2)
    print(f"  {result.verdict.value} in {result.seconds:.2f} s, lower bound {result.lower_bound:.4g}")
    return result


def draw(middle: np.ndarray, found: np.ndarray, labels: tuple[int, int], path: Path) -> None:
    """The image in the middle of the ball, the counterexample, and what is between them."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    change = found - middle
    titles = (f"middle of the ball: a {labels[0]}", f"counterexample: a {labels[1]}", "counterexample minus middle")
    for axes, image, title in zip(figure.subplots(1, 3), (middle, found, change), titles, strict=True):
        if image is change:
            largest = float(np.abs(change).max())
            figure.colorbar(axes.imshow(image, cmap="PuOr_r", vmin=-largest, vmax=largest), ax=axes, label="ink")
        else:
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axes.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


def main() -> None:
    """Verify the property given, or the shipped ones."""
    parser = argparse.ArgumentParser(description="From an ONNX network and a VNN-LIB property to a verdict.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="network and property; the shipped ones")
    parser.add_argument("--plot", type=Path, default=Path("verify_onnx.png"), help="picture of the shipped ones")
    options = parser.parse_args()
    if options.files:
        run(*options.files)
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
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name, shape = session.get_inputs()[0].name, (1, 1, 8, 8)
    images = [x.reshape(shape).astype(np.float32) for x in ((box.lower + box.upper) / 2, found.x)]
    label, wrong = (int(np.argmax(session.run(None, {name: image})[0])) for image in images)
    assert box.contains(found.x) and label != wrong
    print(f"a {label} in the middle of the large ball, a {wrong} at its counterexample")
    draw(images[0][0, 0], images[1][0, 0], (label, wrong), options.plot)


if __name__ == "__main__":
    main()
