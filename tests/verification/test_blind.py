"""Networks that nothing but onnxruntime reads, or that have no bounds: attacked as long as there is time."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from commands import answer, recurjac
from onnx_files import model, node, save
from properties import box, polytope, spec_of
from torch import nn

import recurjac_plugin.networks.onnx as onnx_door
from recurjac_plugin import UnsupportedError, Verdict, load_vnnlib, verify
from recurjac_plugin.networks.onnx import onnx_session
from recurjac_plugin.verification.attacks.blind import search_blindly
from recurjac_plugin.verification.verdicts import attack_refused

INPUTS = 12


def votes(folder, weights):
    """``y = sum_i w_i [x_i > 0]`` without any gradient."""
    nodes = [node("Greater", "x zero", "above"), node("Cast", "above", "a", to=1), node("MatMul", "a W", "y")]
    stored = {"W": np.array(weights, float).reshape(-1, 1), "zero": np.zeros((1, 1))}
    return save(folder / "votes.onnx", model(nodes, [1, INPUTS], [1, 1], stored))


@pytest.fixture
def unread(monkeypatch):
    """A converter that gives up on everything."""
    refusal = UnsupportedError("`votes.onnx`", ["Greater `above`"], "Export it otherwise.")

    def refuse(path):
        raise refusal

    monkeypatch.setattr(onnx_door, "load_onnx", refuse)
    return refusal


def asks(folder, least, more=""):
    names = "".join(f"(declare-const X_{i} Real)" for i in range(INPUTS)) + "(declare-const Y_0 Real)"
    ends = "".join(f"(assert (>= X_{i} -1))(assert (<= X_{i} 1))" for i in range(INPUTS))
    path = folder / "p.vnnlib"
    path.write_text(f"{names}{ends}(assert (>= Y_0 {least})){more}")
    return path


def test_steps_are_climbed_without_gradients(tmp_path):
    """One of 2^12 sign patterns has all votes: points at random would meet it in one of 4096 tries."""
    path, prop = votes(tmp_path, [1.0, -1.0] * 6), asks(tmp_path, 6)
    session, spec = onnx_session(path), load_vnnlib(prop)
    found = search_blindly(spec, session, deadline=time.monotonic() + 60)
    assert found is not None
    assert spec.violated(found.x, found.y) and np.array_equal(session(found.x[None])[0], found.y)
    again = search_blindly(spec, session, deadline=time.monotonic() + 60)
    assert np.array_equal(again.x, found.x)
    assert search_blindly(load_vnnlib(asks(tmp_path, 6.5)), session, deadline=time.monotonic() + 0.2) is None


def test_a_network_that_only_onnxruntime_reads(tmp_path, unread):
    path, prop = votes(tmp_path, [1.0] * INPUTS), asks(tmp_path, INPUTS - 2)
    result = attack_refused(path, load_vnnlib(prop), unread, 60.0)
    assert (result.verdict, result.reason, result.lower_bound) == (Verdict.SAT, None, -np.inf)
    open_ = attack_refused(path, load_vnnlib(asks(tmp_path, INPUTS + 1)), unread, 0.3)
    assert (open_.verdict, open_.counterexample) == (Verdict.UNKNOWN, None)
    assert "Greater" in open_.reason
    ordered = load_vnnlib(asks(tmp_path, INPUTS - 2, "(assert (<= X_0 X_1))(assert (<= X_1 (- X_2 0.25)))"))
    point = attack_refused(path, ordered, unread, 60.0).counterexample
    assert point.x[0] <= point.x[1] <= point.x[2] - 0.25 and point.y.shape == (1,)
    with pytest.raises(UnsupportedError, match="Greater"):  # a property of another network
        attack_refused(path, spec_of(box([0.0], [1.0], polytope([[1.0]], [0.0]))), unread, 1.0)


def test_the_command_attacks_what_it_cannot_read_if_there_is_time(tmp_path, unread):
    path = votes(tmp_path, [1.0] * INPUTS)
    result = recurjac("verify", path, asks(tmp_path, INPUTS + 1), "--timeout", 0.5)
    assert result.stdout == "unknown\n"
    assert "attacked until the time was over" in result.stderr and "Greater" in result.stderr
    assert recurjac("verify", path, asks(tmp_path, INPUTS - 3), "--timeout", 60).stdout.startswith("sat\n((X_0 ")
    found = answer("verify", path, asks(tmp_path, INPUTS + 1), "--timeout", 0.5)
    assert (found["verdict"], found["lower_bound"]) == ("unknown", None)
    assert "Greater" in found["reason"]
    for options in ((), ("--timeout", 5, "--attack-seconds", 0)):  # without time, or without attacks, as ever
        refused = recurjac("verify", path, asks(tmp_path, INPUTS + 1), *options, code=2)
        assert "Greater" in refused.stderr and refused.stdout == ""


class Unknown(nn.Module):
    """The host reads no entropy, so there are no bounds."""

    def forward(self, x):
        return torch.special.entr(x)


def test_a_model_without_bounds_is_attacked_to_the_end():
    """``-x log x`` is at least 0 on [1/2, 1], and at most 0.35 nowhere but at its ends."""
    start = time.monotonic()
    result = verify(Unknown(), spec_of(box([0.5], [0.75], polytope([[1.0]], [0.2]))), timeout=1.5)
    assert (result.verdict, result.lower_bound) == (Verdict.UNKNOWN, -np.inf)
    assert "cannot read it" in result.reason
    assert time.monotonic() - start >= 1.5
    assert verify(Unknown(), spec_of(box([0.5], [1.0], polytope([[1.0]], [1e-3]))), timeout=60).verdict is Verdict.SAT
    result = verify(Unknown(), spec_of(box([0.5], [0.75], polytope([[1.0]], [0.2]))), timeout=600, attack_seconds=0)
    assert (result.verdict, "cannot read it" in result.reason) == (Verdict.UNKNOWN, True)


class Sign(nn.Module):
    def forward(self, x):
        return (x > 0).to(x.dtype).sum(1, keepdim=True)


def test_a_model_without_gradients_is_attacked_all_the_same():
    """The gradient attack has nothing to follow, and leaves the time to the other."""
    for least, expected in ((-12.0, Verdict.SAT), (-13.0, Verdict.UNKNOWN)):
        spec = spec_of(box([-1.0] * INPUTS, [1.0] * INPUTS, polytope([[-1.0]], [least])))
        assert verify(Sign(), spec, timeout=2.0).verdict is expected
