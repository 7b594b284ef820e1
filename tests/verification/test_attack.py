"""Counterexamples: found where there are some, confirmed by the network itself, never claimed otherwise."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
import torch
from properties import box, spec_of
from torch import nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.networks.onnx import OnnxNetwork, load_onnx, onnx_session
from recurjac_plugin.properties.spec import Polytope
from recurjac_plugin.properties.vnnlib import load_vnnlib
from recurjac_plugin.verification.attacks.descent import _Targets, find_counterexample
from recurjac_plugin.verification.counterexample import Counterexample, check, into_box, representable_bounds

FLOAT32 = np.dtype(np.float32)


class Session:
    """The network as onnxruntime would evaluate it, or not quite."""

    def __init__(self, function, dtype=FLOAT32):
        self.function, self.dtype, self.seen = function, dtype, []

    def __call__(self, x):
        self.seen.append(x)
        return self.function(x)


def polytope(*rows, strict=False):
    """Rows are (coefficients..., bound)."""
    A = np.array([row[:-1] for row in rows], dtype=float)
    return Polytope(A, np.array([row[-1] for row in rows], dtype=float), np.full(len(rows), strict))


ANY = polytope((0.0, 1.0))


@pytest.mark.parametrize("is_open", [False, True])
def test_bounds_round_inwards_and_no_further(is_open):
    # 0.1 and 0.3 lie below their float32 neighbours of the same name, 0.7 above it, 0.5 is one.
    region = box([0.1, 0.1, 0.5, 0.7], [0.3, 0.7, 0.7, 0.9], ANY, lower_open=is_open, upper_open=is_open)
    lower, upper = representable_bounds(region, FLOAT32)
    assert lower.dtype == upper.dtype == FLOAT32
    assert region.contains(lower) and region.contains(upper)
    for i in range(4):
        for corner, outwards in ((lower, -np.inf), (upper, np.inf)):
            beyond = corner.copy()
            beyond[i] = np.nextafter(corner[i], np.float32(outwards))
            assert not region.contains(beyond)


def test_candidate_moves_into_the_box():
    region = box([0.1, -1.0], [0.3, 1.0], ANY)
    inside = into_box(region, np.array([7.0, 0.25]), FLOAT32)
    assert inside.tolist() == [float(np.nextafter(np.float32(0.3), np.float32(0))), 0.25]
    assert region.contains(inside)


def test_fixed_input_that_is_no_float32_stays_in_the_box():
    fixed = spec_of(box([0.1], [0.1], polytope((-1.0, 0.0))))  # y >= 0
    session = Session(lambda x: x)
    found = check(fixed, session, np.array([5.0]))
    assert found is not None
    assert found.x.tolist() == [0.1] and fixed.boxes[0].contains(found.x)
    assert session.seen[0].dtype == FLOAT32 and found.y[0] == np.float32(0.1)


def test_check_believes_the_session_alone():
    target = spec_of(box([0.0], [1.0], polytope((-1.0, -0.5))))  # y >= 0.5
    assert check(target, Session(lambda x: x), np.array([0.75])) is not None
    assert check(target, Session(lambda x: x - 0.3), np.array([0.75])) is None
    assert check(target, Session(lambda x: x * np.nan), np.array([0.75])) is None
    strict = spec_of(box([0.0], [1.0], polytope((-1.0, -0.5), strict=True)))
    assert check(strict, Session(lambda x: x), np.array([0.5])) is None


def test_assignment_reads_back_exactly():
    values = np.array([0.1, np.nextafter(np.float32(0.3), np.float32(1)), 1e-30, -5.0])
    text = str(Counterexample(values, np.array([1 / 3, 2.0], dtype=np.float32)))
    pairs = re.findall(r"\((\w+) (\S+)\)", text)
    assert text.startswith("((X_0 ") and text.endswith("))")
    assert [name for name, _ in pairs] == ["X_0", "X_1", "X_2", "X_3", "Y_0", "Y_1"]
    assert [float(value) for _, value in pairs[:4]] == values.tolist()
    assert np.float32(pairs[4][1]) == np.float32(1 / 3)


def network(module, n_inputs, n_outputs, batches=True, dtype=torch.float32):
    found = OnnxNetwork(module.to(dtype), (n_inputs,), dtype)
    found.n_outputs, found.takes_batches = n_outputs, batches
    return found


def session_of(net):
    def run(x):
        with torch.no_grad():
            return np.concatenate([net(torch.from_numpy(row[None])).numpy() for row in x])

    return Session(run, np.dtype(np.float64 if net.dtype == torch.float64 else np.float32))


def ridge(dtype=torch.float32, batches=True):
    """``(|x_0 - 0.3| + |x_1 + 0.2|, x_0)``: 0 in a single point, up to 2.5 on [-1, 1]^2."""
    first, last = nn.Linear(2, 6), nn.Linear(6, 2)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1], [1, 0], [-1, 0]]))
        first.bias.copy_(torch.tensor([-0.3, 0.3, 0.2, -0.2, 0, 0]))
        last.weight.copy_(torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, -1]]))
        last.bias.zero_()
    return network(nn.Sequential(first, nn.ReLU(), last), 2, 2, batches, dtype)


SQUARE = ([-1.0, -1.0], [1.0, 1.0])


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finds_the_bottom_of_a_valley(dtype, batches):
    net = ridge(dtype, batches)
    target = spec_of(box(*SQUARE, polytope((1.0, 0.0, 1e-3))))
    found = find_counterexample(net, target, session_of(net), seconds=20)
    assert found is not None and target.violated(found.x, found.y)
    np.testing.assert_allclose(found.x, [0.3, -0.2], atol=1e-3)
    assert all(p.grad is None for p in net.parameters())


def test_finds_the_one_disjunct_of_the_one_box_that_can_be_met():
    net = ridge()
    nowhere, corner = polytope((1.0, 0.0, -0.1)), polytope((-1.0, 0.0, -2.4), (0.0, 1.0, 0.0))
    target = spec_of(box([0.0, 0.0], [1.0, 1.0], nowhere, corner), box(*SQUARE, nowhere, corner))
    found = find_counterexample(net, target, session_of(net), seconds=20)
    assert found is not None
    assert found.x[0] < -0.9 and found.x[1] > 0.9 and found.y[0] >= 2.4


@pytest.mark.parametrize(
    "impossible",
    [
        polytope((1.0, 0.0, -1e-4)),
        polytope((-1.0, 0.0, -2.51)),
        polytope((0.0, 1.0, -0.5), (0.0, -1.0, -0.5)),
        polytope((1.0, 0.0, 0.0), strict=True),
    ],
)
def test_claims_nothing_where_there_is_nothing(impossible):
    net = ridge()
    assert find_counterexample(net, spec_of(box(*SQUARE, impossible)), session_of(net), seconds=20, rounds=3) is None


def test_claims_nothing_that_the_session_denies():
    net = ridge()
    target = spec_of(box(*SQUARE, polytope((1.0, 0.0, 1.0))))
    session = Session(lambda x: np.full((len(x), 2), 9.0))
    assert find_counterexample(net, target, session, seconds=20, rounds=1) is None
    assert session.seen


def test_same_seed_same_counterexample():
    net = ridge()
    target = spec_of(box(*SQUARE, polytope((1.0, 0.0, 0.05))))
    one, two, other = (find_counterexample(net, target, session_of(net), seconds=20, seed=seed) for seed in (3, 3, 4))
    assert one is not None and two is not None and other is not None
    assert one.x.tolist() == two.x.tolist() != other.x.tolist()


def test_stops_in_time():
    net = ridge()
    start = time.monotonic()
    assert (
        find_counterexample(net, spec_of(box(*SQUARE, polytope((1.0, 0.0, -1.0)))), session_of(net), seconds=0.3)
        is None
    )
    assert time.monotonic() - start < 3.0


def test_property_of_another_network_is_refused():
    net = ridge()
    with pytest.raises(InputError, match="`spec` has 2 inputs and 1 output: expected 2 and 2"):
        find_counterexample(net, spec_of(box(*SQUARE, polytope((1.0, 0.0)))), session_of(net))


SAT = [
    ("acasxu", "ACASXU_run2a_1_2_batch_2000.onnx", "prop_2.vnnlib"),
    ("acasxu", "ACASXU_run2a_2_2_batch_2000.onnx", "prop_2.vnnlib"),
    ("acasxu", "ACASXU_run2a_2_9_batch_2000.onnx", "prop_8.vnnlib"),
    (
        "collins_rul_cnn",
        "onnx/NN_rul_small_window_20.onnx",
        "vnnlib/robustness_2perturbations_delta5_epsilon10_w20.vnnlib",
    ),
    ("mnistfc", "mnist-net_256x2.onnx", "prop_1_0.05.vnnlib"),
    ("reach_prob_density", "onnx/vdp.onnx", "vnnlib/vdp_3.vnnlib"),
    ("rl_benchmarks", "onnx/lunarlander.onnx", "vnnlib/lunarlander_case_safe_0.vnnlib"),
    ("rl_benchmarks", "onnx/dubinsrejoin.onnx", "vnnlib/dubinsrejoin_case_unsafe_84.vnnlib"),
    ("test", "test_sat.onnx", "test_prop.vnnlib"),
    ("tllverifybench", "onnx/tllBench_n=2_N=M=8_m=1_instance_0_0.onnx", "vnnlib/property_N=8_0.vnnlib"),
]
UNSAT = [
    ("acasxu", "ACASXU_run2a_1_1_batch_2000.onnx", "prop_1.vnnlib"),
    ("mnistfc", "mnist-net_256x2.onnx", "prop_2_0.05.vnnlib"),
    ("test", "test_nano.onnx", "test_nano.vnnlib"),
    ("test", "test_small.onnx", "test_small.vnnlib"),
    ("test", "test_tiny.onnx", "test_tiny.vnnlib"),
    ("test", "test_unsat.onnx", "test_prop.vnnlib"),
]


@pytest.mark.parametrize(("category", "onnx", "vnnlib"), SAT)
def test_vnncomp_sat(category, onnx, vnnlib, vnncomp):
    path = vnncomp / category / onnx
    target, session = load_vnnlib(vnncomp / category / vnnlib), onnx_session(path)
    found = find_counterexample(load_onnx(path), target, session, seconds=60)
    assert found is not None
    assert target.violated(found.x, session(found.x[None])[0])


@pytest.mark.parametrize(("category", "onnx", "vnnlib"), UNSAT)
def test_vnncomp_unsat(category, onnx, vnnlib, vnncomp):
    path = vnncomp / category / onnx
    target = load_vnnlib(vnncomp / category / vnnlib)
    assert find_counterexample(load_onnx(path), target, onnx_session(path), seconds=60, rounds=2) is None


def test_an_output_that_is_no_number_is_no_violation():
    """Of outputs NaN, infinity and 1 the last one comes nearest to ``y <= 0``, and NaN is nowhere near."""
    targets = _Targets.of(spec_of(box([0.0], [1.0], polytope((1.0, 0.0)))), torch.float64, torch.device("cpu"))
    loss = targets.take(torch.zeros(3, dtype=torch.int64)).loss(torch.tensor([[np.nan], [np.inf], [1.0]]).double())
    assert loss.tolist() == [np.inf, np.inf, 1.0]
