"""What functions return, as an object to hold: what it says, its tables and pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import hosted
from oracle import Ball
from places import DATA

import recurjac_plugin as rj
from recurjac_plugin.plots.figures import FALLING


@pytest.fixture(scope="module")
def region():
    _, center, model = hosted("relu")
    return model, Ball(center[:1], 0.5)


@pytest.fixture(scope="module")
def signs(region):
    model, ball = region
    return rj.monotonicity_report(model, ball.perturbed())


def test_signs_are_counted(signs):
    masks = (signs.sign > 0, signs.sign < 0, signs.refuted, signs.unknown)
    names = ("increasing", "decreasing", "refuted", "unknown")
    assert signs.counts == {name: int(mask.sum()) for name, mask in zip(names, masks, strict=True)}
    assert sum(signs.counts.values()) == signs.sign.numel()
    assert len([count for count in signs.counts.values() if count]) >= 2
    assert all(f"{count} {name}" in repr(signs) for name, count in signs.counts.items())


def test_signs_in_long_form(signs):
    pytest.importorskip("pandas", reason="pandas is not installed")
    count = math.prod(signs.sign.shape[2:])
    frame = signs.to_dataframe(inputs=[f"x{i}" for i in range(count)])
    assert list(frame.columns) == ["region", "row", "input", "state", "lowest", "highest"]
    assert len(frame) == signs.sign.numel()
    sign, unknown = signs.sign.flatten(2), signs.unknown.flatten(2)
    for line in frame.itertuples(index=False):
        place = (line.region, line.row, int(line.input[1:]))
        assert (line.state == "increasing") == (int(sign[place]) == 1)
        assert (line.state == "decreasing") == (int(sign[place]) == -1)
        assert (line.state == "unknown") == bool(unknown[place])
        assert line.lowest == float(signs.lowest.flatten(2)[place])


def test_signs_in_notebooks(signs):
    shown = signs._repr_html_()
    rows, inputs = min(8, signs.sign.shape[1]), min(8, signs.sign[0, 0].numel())
    assert shown.count("<td") == rows * (inputs + 1)
    corner = signs.sign.flatten(2)[0, :rows, :inputs]
    assert shown.count(">increasing<") == int((corner > 0).sum())
    assert shown.count(">decreasing<") == shown.count(f"color: {FALLING}") == int((corner < 0).sum())


def test_signs_are_drawn_as_a_map(signs, tmp_path):
    figure = signs.plot(path=tmp_path / "signs.png")
    assert (tmp_path / "signs.png").read_bytes().startswith(b"\x89PNG")
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert np.array_equal(shown == 0, (signs.sign[0] > 0).flatten(1).numpy())
    assert np.array_equal(shown == 1, (signs.sign[0] < 0).flatten(1).numpy())
    assert np.array_equal(shown == 3, signs.unknown[0].flatten(1).numpy())
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [f"{name}: {count}" for name, count in signs.counts.items()]
    with pytest.raises(rj.InputError, match="`sample` must be from 0 to 0"):
        signs.plot(1)
    with pytest.raises(rj.InputError, match="`rows` must be 3 names"):
        signs.plot(rows=["a"] * (signs.sign.shape[1] + 1))


def test_a_landscape(region):
    model, ball = region
    scan = rj.landscape_scan(model, ball.center, norm=2, radius=0.5, points=3)
    rows = scan.constants.shape[2]
    assert repr(scan).startswith(f"Landscape(1 point, 3 radii, {rows} rows, radii up to 0.5, constants ")
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = scan.to_dataframe()
    assert list(frame.columns) == ["point", "radius", "row", "undetermined", "constant"]
    assert len(frame) == 3 * rows
    for n, line in enumerate(frame.itertuples(index=False)):
        i, k = n // rows, n % rows
        assert (line.point, line.row, line.radius) == (0, k, float(scan.radii[0, i]))
        assert (line.undetermined, line.constant) == (int(scan.undetermined[0, i, k]), float(scan.constants[0, i, k]))


@pytest.mark.parametrize("per_output", [False, True])
def test_a_tightened_constant(region, per_output):
    model, ball = region
    found = rj.tighten(model, ball.perturbed(), per_output=per_output, budget=2)
    count = found.lower.numel()
    assert repr(found).startswith("Tightened(constant in [" if count == 1 else f"Tightened({count} constants in [")
    low, high = (float(end) for end in repr(found).partition("[")[2].partition("]")[0].split(", "))
    assert low <= float(found.lower.min()) and float(found.upper.max()) <= high
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = found.to_dataframe()
    assert list(frame.columns) == ["region", *(["row"] if per_output else []), "lower", "upper", "gap"]
    assert frame.upper.tolist() == found.upper.flatten().tolist()


def test_results_say_their_verdict():
    network = rj.load_onnx(DATA / "digits_relu.onnx")
    proved = rj.verify(network, rj.load_vnnlib(DATA / "digits_relu_small.vnnlib"))
    assert repr(proved).startswith("Result(unsat, lower bound ")
    assert ", 1 box, " in repr(proved)
    spec = rj.load_vnnlib(DATA / "digits_relu_large.vnnlib")
    refuted = rj.verify(network, spec)
    assert repr(refuted).startswith("Result(sat, Counterexample(64 inputs, outputs [")
    assert len(repr(refuted)) < 200


def test_constants_are_plain_tensors(region):
    """Their norms and methods were the caller's: arithmetic on a tensor that says them would make it lie."""
    model, ball = region
    x = ball.perturbed()
    for found in (rj.local_lipschitz(model, x), rj.monotonicity(model, x), rj.global_lipschitz(model, norm=2)):
        assert type(found) is torch.Tensor
