"""Verdicts: proved, refuted or left open, and never more than the bounds carry."""

from __future__ import annotations

import csv
import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from places import DATA
from properties import box, polytope, spec_of
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin import MethodError, Verdict, host, load_onnx, load_vnnlib, verify
from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.errors import InputError
from recurjac_plugin.gains import pull
from recurjac_plugin.host.region import perturbed_box
from recurjac_plugin.networks.onnx import onnx_session
from recurjac_plugin.numerics.deadline import OverTime
from recurjac_plugin.plugin.model import bounded_model

NAMES = ("relu", "tanh", "cnn")


def linear(W, dtype=torch.float32):
    """``y = W x`` behind a ReLU that is always active for x >= 0, so that there is something to recur over."""
    W = torch.tensor(W, dtype=dtype)
    net = nn.Sequential(nn.Linear(W.shape[1], W.shape[1]), nn.ReLU(), nn.Linear(W.shape[1], W.shape[0])).to(dtype)
    for layer, weight in ((net[0], torch.eye(W.shape[1], dtype=dtype)), (net[2], W)):
        layer.weight.data, layer.bias.data = weight, torch.zeros_like(layer.bias)
    return net


def bounded_rows(model, each, method, dtype=torch.float32, shape=None, difference=0.0):
    """The rows of a box, their lower bounds there, and what rounding may be responsible for."""
    shape = shape or (len(each.lower),)
    bounded = bounded_model(model, torch.zeros(1, *shape, dtype=dtype))
    rows = Rows.of(each, torch.zeros((), dtype=dtype), difference)
    low, high = (torch.from_numpy(end).reshape(1, *shape) for end in each.rounded_outward(rows.b.numpy().dtype))
    with torch.no_grad():
        lower = rj.output_bounds(bounded, perturbed_box(low, high), method=method, C=rows.A.unsqueeze(0))[0] - rows.b
        return rows, lower, rows.slack(model((low + high) / 2).flatten(1), lower)


def excluded(*arguments, **options):
    rows, lower, slack = bounded_rows(*arguments, **options)
    return rows.excluded(lower, slack)[0].tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("size", "expected"), [("small", Verdict.UNSAT), ("mid", Verdict.UNKNOWN), ("large", Verdict.SAT)]
)
def test_shipped_properties(name, size, expected):
    path, spec = DATA / f"digits_{name}.onnx", load_vnnlib(DATA / f"digits_{name}_{size}.vnnlib")
    session = onnx_session(path)
    # What an attack finds in the end costs time; what it never finds is not worth more of it.
    options = {"attack_seconds": 0.3, "split": False} if size == "mid" else {"attack_seconds": 20}
    result = verify(load_onnx(path), spec, session=session, **options)
    assert result.verdict is expected
    assert (result.lower_bound > 0) == (expected is Verdict.UNSAT)
    assert result.boxes == 1 or size == "mid"  # whose coordinates are fixed
    assert (result.counterexample is not None) == (expected is Verdict.SAT)
    if result.counterexample is not None:
        x, y = result.counterexample.x, result.counterexample.y
        assert spec.violated(x, y)
        assert np.array_equal(session(x[None])[0], y)


def test_a_loaded_network_in_another_type():
    spec = load_vnnlib(DATA / "digits_tanh_small.vnnlib")
    single, double = load_onnx(DATA / "digits_tanh.onnx"), load_onnx(DATA / "digits_tanh.onnx").double()
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    found = [verify(net, spec, attack_seconds=0.1) for net in (single, double)]
    assert [each.verdict for each in found] == [Verdict.UNSAT] * 2
    assert found[0].lower_bound == pytest.approx(found[1].lower_bound, rel=1e-4)
    with pytest.warns(UserWarning, match=r"^The model holds numbers of torch.float16"):
        assert verify(single.half(), spec, attack_seconds=0.1).verdict is Verdict.UNSAT
    assert single.dtype == torch.float16


def test_branching_on_neurons_proves_what_bounds_leave_open():
    """The same every time where nobody is in a hurry, and not where it is not wanted."""
    net, spec = load_onnx(DATA / "digits_relu.onnx"), load_vnnlib(DATA / "digits_relu_mid.vnnlib")
    first, second = (verify(net, spec, attack_seconds=0.1) for _ in range(2))
    assert first.verdict is second.verdict is Verdict.UNSAT
    assert first.boxes == second.boxes > 100
    assert verify(net, spec, attack_seconds=0.1, split=False).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("name", NAMES)
def test_both_versions_of_a_property_give_the_same_bound(name):
    net = load_onnx(DATA / f"digits_{name}.onnx")
    files = [DATA / f"digits_{name}_mid{version}.vnnlib" for version in ("", ".v2")]
    one, two = (verify(net, load_vnnlib(file), split=False, attack_seconds=0).lower_bound for file in files)
    assert one == two


@pytest.mark.parametrize("method", [*rj.METHODS, "RecurJac-Linear+CROWN", "IBP+RecurJac", "CROWN", "IBP", "CROWN-IBP"])
@pytest.mark.parametrize("name", NAMES)
def test_lower_bound_holds_wherever_it_is_sampled(name, method):
    net, spec = load_onnx(DATA / f"digits_{name}.onnx"), load_vnnlib(DATA / f"digits_{name}_small.vnnlib")
    result = verify(net, spec, method=method, attack_seconds=0)
    (each,) = spec.boxes
    points = torch.rand(500, spec.n_inputs, dtype=torch.float64)
    points[::2] = points[::2].round()
    x = torch.from_numpy(each.lower) + torch.from_numpy(each.upper - each.lower) * points
    with torch.no_grad():
        y = net.double()(x.reshape(-1, *net.input_shape)).numpy()
    distance = np.stack([(y @ p.A.T - p.b).max(1) for p in each.disjuncts]).min(0)
    assert result.lower_bound <= distance.min()
    assert result.verdict in (Verdict.UNSAT, Verdict.UNKNOWN)
    assert (result.verdict is Verdict.UNSAT) == (result.lower_bound > 0)


def test_alpha_crown_is_optimised():
    net, spec = load_onnx(DATA / "digits_relu.onnx"), load_vnnlib(DATA / "digits_relu_small.vnnlib")
    bounds = {m: verify(net, spec, method=m, attack_seconds=0).lower_bound for m in ("CROWN", "alpha-CROWN")}
    assert bounds["alpha-CROWN"] > bounds["CROWN"]


# y = (x0, x1) on [0, 1] x [2, 3]: the bounds of both rows are exact, whatever the method.
IDENTITY, UNIT = [[1.0, 0.0], [0.0, 1.0]], ([0.0, 2.0], [1.0, 3.0])


@pytest.mark.parametrize(
    ("disjuncts", "lower_bound", "verdict"),
    [
        ([polytope([[0, 1]], [1.5])], 0.5, Verdict.UNSAT),
        ([polytope([[0, 1]], [2.5])], -0.5, Verdict.SAT),
        # One row of a conjunction is enough; the best one counts.
        ([polytope([[1, 0], [0, 1]], [0.5, 1.5])], 0.5, Verdict.UNSAT),
        ([polytope([[-1, 0], [0, 1]], [-2.0, 1.5])], 1.0, Verdict.UNSAT),
        # All disjuncts have to be excluded; the worst one counts.
        ([polytope([[0, 1]], [1.5]), polytope([[0, -1]], [-4.0])], 0.5, Verdict.UNSAT),
        ([polytope([[0, 1]], [1.5]), polytope([[0, -1]], [-2.5])], -0.5, Verdict.SAT),
    ],
)
@pytest.mark.parametrize("method", ["RecurJac", "RecurJac+CROWN", "CROWN"])
def test_hand_computed_bounds(disjuncts, lower_bound, verdict, method):
    spec = spec_of(box(*UNIT, *disjuncts))
    result = verify(linear(IDENTITY), spec, method=method, attack_seconds=0, split=False)
    assert result.lower_bound == pytest.approx(lower_bound, abs=1e-5)
    assert result.verdict is verdict


# The rows together cannot be met (x0 <= x1 - 2.9 and x0 >= 0.5), but no single one says so.
TOGETHER = polytope([[1, -1], [-1, 0]], [-2.9, -0.5])


@pytest.mark.parametrize(("method", "proved"), [("RecurJac", False), ("RecurJac+CROWN", True), ("CROWN", True)])
def test_linear_bounds_of_several_rows_exclude_together(method, proved):
    result = verify(linear(IDENTITY), spec_of(box(*UNIT, TOGETHER)), method=method, attack_seconds=0, split=False)
    assert result.verdict is (Verdict.UNSAT if proved else Verdict.UNKNOWN)
    assert result.lower_bound == pytest.approx(0.0 if proved else -0.1, abs=1e-5)


@pytest.mark.parametrize("method", ["RecurJac", "Fast-Lip", "IBP+RecurJac-Linear", "CROWN", "IBP"])
@pytest.mark.parametrize("branching", ["jacobian", "longest"])
def test_cutting_proves_what_one_box_does_not(method, branching):
    spec = spec_of(box(*UNIT, TOGETHER))
    result = verify(linear(IDENTITY), spec, method=method, branching=branching, attack_seconds=0)
    assert result.verdict is Verdict.UNSAT
    assert result.lower_bound >= 0


def test_the_worst_box_counts():
    spec = spec_of(*(box([low], [low + 1.0], polytope([[1.0]], [0.5])) for low in (3.0, 1.0, 2.0)))
    result = verify(linear([[1.0]]), spec)
    assert (result.verdict, result.boxes) == (Verdict.UNSAT, 3)
    assert result.lower_bound == pytest.approx(0.5, abs=1e-5)
    reached = spec_of(*spec.boxes, box([0.0], [1.0], polytope([[1.0]], [0.5])))
    assert verify(linear([[1.0]]), reached).verdict is Verdict.SAT


@pytest.mark.parametrize(("dtype", "proved"), [(torch.float32, False), (torch.float64, True)])
def test_a_margin_that_rounding_can_explain_is_no_proof(dtype, proved):
    spec = spec_of(box([1.0], [2.0], polytope([[1.0]], [1 - 1e-9])))
    result = verify(linear([[1.0]], dtype), spec, attack_seconds=0.1, split=False)
    assert result.lower_bound > 0
    assert result.verdict is (Verdict.UNSAT if proved else Verdict.UNKNOWN)


def test_a_difference_from_onnxruntime_is_no_proof_either():
    each = box([0.0], [1.0], polytope([[2.0]], [-0.01]))
    for difference, proved in ((0.001, True), (0.01, False), (math.nan, False)):
        assert excluded(linear([[1.0]]), each, "CROWN", difference=difference) == [proved]


def test_equality_excludes_strict_rows_only():
    rows = [polytope([[0.0]], [0.0], [strict]) for strict in (True, False)]
    assert excluded(linear([[1.0]]), box([0.0], [1.0], *rows), "CROWN") == [True, False]


@pytest.mark.parametrize("name", NAMES)
def test_slack_covers_what_float32_does_to_bounds(name):
    spec = load_vnnlib(DATA / f"digits_{name}_small.vnnlib")
    net = load_onnx(DATA / f"digits_{name}.onnx")
    arguments = spec.boxes[0], "RecurJac+CROWN"
    _, single, slack = bounded_rows(net, *arguments, shape=net.input_shape)
    _, double, _ = bounded_rows(net.double(), *arguments, torch.float64, net.input_shape)
    assert bool((single - double <= slack).all())
    assert bool((slack < 1e-3 * double.abs().max()).all())  # and it does not swallow what was proved


@pytest.mark.parametrize("method", ["RecurJac", "CROWN", "IBP"])
def test_no_verdict_from_bounds_that_are_not_finite(method):
    large = linear([[1e200, -1e200]], torch.float64)
    large[0].weight.data *= 1e200
    spec = spec_of(box([0.5, 0.5], [1.0, 1.0], polytope([[1.0]], [-1.0]), polytope([[-1.0]], [-1.0])))
    result = verify(large, spec, method=method, attack_seconds=0.1)
    assert result.verdict is not Verdict.UNSAT
    assert result.lower_bound == -math.inf


def test_time_that_is_over_before_a_box_is_bounded():
    net, spec = load_onnx(DATA / "digits_relu.onnx"), load_vnnlib(DATA / "digits_relu_small.vnnlib")
    result = verify(net, spec, timeout=1e-9)
    assert (result.verdict, result.boxes, result.lower_bound) == (Verdict.TIMEOUT, 0, -math.inf)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_time_that_is_over_within_a_bound(monkeypatch, after):
    """Boxes are lost there: nothing is proved, whatever the others say."""
    net, spec = load_onnx(DATA / "digits_relu.onnx"), load_vnnlib(DATA / "digits_relu_small.vnnlib")
    assert verify(net, spec).verdict is Verdict.UNSAT
    calls = []

    def over():
        calls.append(1)
        if len(calls) >= after:
            raise OverTime

    monkeypatch.setattr(pull, "require_time", over)
    result = verify(net, spec, timeout=600)
    assert (result.verdict, result.lower_bound, len(calls)) == (Verdict.TIMEOUT, -math.inf, after)


def test_time_that_is_over_during_the_attack():
    net, spec = load_onnx(DATA / "digits_relu.onnx"), load_vnnlib(DATA / "digits_relu_mid.vnnlib")
    verify(net, spec, attack_seconds=0)  # whatever is slow the first time
    start = time.monotonic()
    result = verify(net, spec, timeout=1.0, attack_seconds=60)
    assert result.verdict is Verdict.TIMEOUT
    assert result.lower_bound < 0
    assert time.monotonic() - start < 10


def test_the_attack_is_repeatable():
    net, spec = load_onnx(DATA / "digits_relu.onnx"), load_vnnlib(DATA / "digits_relu_large.vnnlib")
    first, again = (verify(net, spec, seed=3, attack_seconds=20).counterexample for _ in range(2))
    assert first is not None
    assert again is not None
    assert np.array_equal(first.x, again.x)


def test_a_torch_module_and_the_hosts_model_are_taken_as_they_are():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2))
    model = host.BoundedModule(net, torch.zeros(1, 1, 4, 4))
    each = box([-0.1] * 16, [0.1] * 16, polytope([[1.0, -1.0]], [-5.0]))
    before = {name: set(vars(node)) for name, node in model.named_modules()}
    results = [verify(m, spec_of(each), input_shape=(1, 4, 4)) for m in (net, model)]
    assert [result.verdict for result in results] == [Verdict.UNSAT] * 2
    assert results[0].lower_bound == pytest.approx(results[1].lower_bound, rel=1e-6)  # float64 and float32
    assert {name: set(vars(node)) for name, node in model.named_modules()} == before
    refuted = spec_of(dataclasses.replace(each, disjuncts=(polytope([[1.0, -1.0]], [5.0]),)))
    assert verify(model, refuted, input_shape=(1, 4, 4)).verdict is Verdict.SAT


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"timeout": 0.0}, InputError, "`timeout` must be a positive number"),
        ({"timeout": math.nan}, InputError, "`timeout` must be a positive number"),
        ({"attack_seconds": -1.0}, InputError, "`attack_seconds` must be at least 0"),
        ({"method": "CROWNS"}, MethodError, "Unknown method `CROWNS`"),
        ({"input_shape": (8, 8)}, InputError, "the model's is"),
    ],
)
def test_bad_options(options, error, message):
    net, spec = load_onnx(DATA / "digits_relu.onnx"), load_vnnlib(DATA / "digits_relu_small.vnnlib")
    with pytest.raises(error, match=message):
        verify(net, spec, **options)


def test_property_of_another_network():
    net = load_onnx(DATA / "digits_relu.onnx")
    with pytest.raises(InputError, match="`spec` has 2 inputs, but the model takes 64"):
        verify(net, spec_of(box(*UNIT, polytope([[1.0] * 10], [0.0]))))
    with pytest.raises(InputError, match="`spec` has 3 outputs, but the model gives 10"):
        verify(net, spec_of(box([0.0] * 64, [1.0] * 64, polytope([[1.0] * 3], [0.0]))))


def test_models_of_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(1, 2)

        def forward(self, x, y):
            return self.a(x) + y

    spec = spec_of(box([0.0] * 3, [1.0] * 3, polytope([[1.0, 0.0]], [0.0])))
    for model in (Two(), host.BoundedModule(Two(), (torch.zeros(1, 1), torch.zeros(1, 2)))):
        with pytest.raises(InputError, match="takes 2 inputs: give the torch module"):
            verify(model, spec)


def test_a_network_the_host_cannot_read():
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.special.entr(x)

    with pytest.raises(rj.UnsupportedError, match=r"auto_LiRPA .* cannot read it"):
        verify(Unknown(), spec_of(box([1.0], [2.0], polytope([[1.0]], [0.0]))), attack_seconds=0)


# Category -> positions in expected.csv: unsat and sat, proved and open.
SAMPLE = {
    "acasxu": (45, 150),
    "test": (2,),
    "mnistfc": (0,),
    "eran": (0,),
    "cifar10_resnet": (2,),
    "oval21": (3,),
    "verivital": (0, 4),
    "rl_benchmarks": (74, 200),
    "reach_prob_density": (3,),
    "collins_rul_cnn": (0, 5),
    "tllverifybench": (4,),
}


# Few inputs: positions of instances that take less than a second each, both answers, with and without cuts.
COMPLETE = {
    "acasxu": (0, 6, 30, 48, 102, 120, 144, 168),
    "test": range(5),
    "rl_benchmarks": (20, 120, 180, 280),
    "reach_prob_density": (8, 16, 24, 28),
    "tllverifybench": (0, 3),
}


def expected(vnncomp, category):
    """Network, property and answer of every instance of a category."""
    with open(vnncomp / "expected.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] == category]
    folder = vnncomp / category
    return [(folder / row["onnx"], folder / row["vnnlib"], row["expected"]) for row in rows]


@pytest.mark.parametrize(("category", "position"), [(c, i) for c, each in COMPLETE.items() for i in each])
def test_few_inputs_get_an_answer(vnncomp, category, position):
    path, prop, answer = expected(vnncomp, category)[position]
    spec, session = load_vnnlib(prop), onnx_session(path)
    result = verify(load_onnx(path), spec, session=session, timeout=20)
    assert result.verdict.value == answer
    assert result.counterexample is None or spec.violated(result.counterexample.x, result.counterexample.y)
    if answer == "unsat":
        assert result.lower_bound >= 0


@pytest.mark.slow
@pytest.mark.parametrize("category", COMPLETE)
def test_no_answer_on_few_inputs_is_wrong(vnncomp, category):
    instances, wrong, open_ = expected(vnncomp, category), [], 0
    for path, prop, answer in instances:
        result = verify(load_onnx(path), load_vnnlib(prop), timeout=5)
        open_ += result.verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT)
        if result.verdict in (Verdict.SAT, Verdict.UNSAT) and result.verdict.value != answer:
            wrong.append((path.name, prop.name))
    assert wrong == []
    assert open_ <= len(instances) / 4


@pytest.mark.parametrize(("category", "position"), [(c, i) for c, each in SAMPLE.items() for i in each])
def test_known_answers_are_never_contradicted(vnncomp, category, position):
    path, prop, answer = expected(vnncomp, category)[position]
    spec = load_vnnlib(prop)
    session = onnx_session(path)
    result = verify(load_onnx(path), spec, session=session, attack_seconds=1.0, timeout=10)
    assert result.verdict.value in (answer, "unknown", "timeout")
    # Random points refute some before anything is bounded.
    assert math.isfinite(result.lower_bound) or (result.verdict, result.boxes) == (Verdict.SAT, 0)
    if result.counterexample is not None:
        assert spec.violated(result.counterexample.x, result.counterexample.y)


def test_terms_that_cancel_do_not_prove_anything():
    """In float32 the columns of A cancel exactly, and the row looks constant; it is not."""
    net = nn.Linear(1, 2, bias=False)
    net.weight.data = torch.full((2, 1), 1e6)
    A = np.array([[0.1, -float(np.float32(0.1))]])
    spec = spec_of(box([-1.0], [1.0], polytope(A, [-0.001])))
    assert spec.violated(np.array([1.0]), A.shape[1] * [1e6]) or spec.violated(np.array([-1.0]), A.shape[1] * [-1e6])
    for method in ("CROWN", "RecurJac", "RecurJac+CROWN"):
        assert verify(net, spec, method=method, attack_seconds=0).verdict is not Verdict.UNSAT
