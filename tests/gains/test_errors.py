"""What rounding can do to bounds: errors that are estimated, and errors that are proven against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from small_network import graph, weights

from recurjac_plugin.gains.errors import Proven, estimated_errors, jacobian_error, roundings
from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.graph.sweeps import forward
from recurjac_plugin.numerics.rounding import AT_KINKS, ELEMENTWISE, PER_SUM

EPS = torch.finfo(torch.float64).eps


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(radius=0.25):
    """The small network at two points: its matrices, values, how far inputs reach, and bounds of what is read."""
    W = weights()
    x, w = randn(2, 3), randn(2, 2, seed=1)
    a = x @ W["A"].T + w @ W["B"].T
    b = a.relu() @ W["C"].T + x @ W["D"].T
    values = {"x": x, "w": w, "a": a, "s": a.relu(), "b": b}
    reach = {"x": torch.full_like(x, radius), "w": torch.full_like(w, radius)}
    bounds = {"a": (a - 1, a + 2), "b": (b - 3, b + 1)}
    return W, values, reach, bounds


def test_estimated_errors_are_roots_of_sums_of_squares():
    W, values, reach, bounds = small()
    errors = estimated_errors(graph(W), values, reach, bounds, EPS)
    x, w = (values[name].abs() + reach[name] for name in ("x", "w"))
    far = {name: torch.maximum(low.abs(), high.abs()) for name, (low, high) in bounds.items()}
    terms = x @ W["A"].abs().T + w @ W["B"].abs().T
    in_a = (EPS * x).square() @ W["A"].square().T, (EPS * w).square() @ W["B"].square().T
    carried = in_a[0].sqrt() + in_a[1].sqrt()  # two paths that meet: their errors may be one and the same
    of_a = carried.hypot(PER_SUM * EPS * (2 * terms + far["a"]))
    assert torch.allclose(errors["a"], AT_KINKS * of_a, rtol=1e-9)
    steepest = (bounds["a"][1] >= 0).double()
    size = values["s"].abs() + steepest * (bounds["a"][1] - bounds["a"][0])
    of_s = (steepest * of_a).hypot(ELEMENTWISE * EPS * (size + steepest * far["a"]))
    in_b = of_s.square() @ W["C"].square().T, (EPS * x).square() @ W["D"].square().T
    terms = size @ W["C"].abs().T + x @ W["D"].abs().T
    of_b = (in_b[0].sqrt() + in_b[1].sqrt()).hypot(PER_SUM * EPS * (2 * terms + far["b"]))
    assert torch.allclose(errors["b"], AT_KINKS * of_b, rtol=1e-9)


def test_the_far_end_of_the_region_counts_and_not_its_centre():
    W, values, reach, bounds = small()
    values["x"], values["w"] = torch.zeros_like(values["x"]), torch.zeros_like(values["w"])
    near = estimated_errors(graph(W), values, reach, bounds, EPS)["a"]
    far = estimated_errors(graph(W), values, {name: 1e6 * r for name, r in reach.items()}, bounds, EPS)["a"]
    assert bool((far > 1e3 * near).all())


def test_terms_that_cancel_count():
    W = {name: torch.ones_like(matrix) for name, matrix in weights().items()}
    zero = torch.zeros(1, 4, dtype=torch.float64)
    values = {"x": torch.tensor([[1e6, -1e6, 0.0]], dtype=torch.float64), "w": zero[:, :2], "a": zero, "s": zero}
    bounds = {"a": (zero, zero), "b": (torch.zeros(1, 5).double(), torch.zeros(1, 5).double())}
    errors = estimated_errors(graph(W), values, {}, bounds, EPS)
    assert bool((errors["a"] > AT_KINKS * 4e6 * EPS).all())
    assert bool((errors["b"] > AT_KINKS * 2e6 * EPS).all())  # behind the activation, too: errors of earlier layers stay


def test_errors_are_finite_where_bounds_are_not():
    W, values, reach, bounds = small()
    bounds["a"] = (torch.full_like(bounds["a"][0], -torch.inf), bounds["a"][1])
    errors = estimated_errors(graph(W), values, reach, bounds, EPS)
    assert all(bool(error.isfinite().all()) for error in errors.values())


def exact(matrix, vector):
    """A product of a matrix and a vector of fractions."""
    return [sum(Fraction(float(w)) * h for w, h in zip(row, vector)) for row in matrix]


def carried_errors(net, inputs, values):
    """Proven errors of all steps, by name."""
    errors = {}

    def factor(step, carried):
        one = torch.ones_like(carried.error)
        return carried.through(one, 0 * one, values[step.name])

    def linear(step, arrived):
        errors[step.name] = Proven.summed(step, arrived, values.get(step.name))
        return errors[step.name]

    forward(net, {name: Proven.at_input(v, 0 * v) for name, v in inputs.items()}, factor, linear)
    return errors


@pytest.mark.parametrize("scale", [1.0, 1e-160, 1e30, 1e8])
def test_proven_errors_contain_the_exact_values(scale):
    """Forward values of the small network in float64, against rational arithmetic."""
    for seed in range(20):
        W = {name: scale * matrix for name, matrix in weights(seed=seed).items()}
        x, w = randn(1, 3, seed=seed), 1e8 * randn(1, 2, seed=seed + 1)
        a = x @ W["A"].T + w @ W["B"].T
        b = a.relu() @ W["C"].T + x @ W["D"].T
        errors = carried_errors(graph(W), {"x": x, "w": w}, {"a": a, "s": a.relu(), "b": b, "t": b.relu()})
        inputs = [[Fraction(float(v)) for v in point[0]] for point in (x, w)]
        true_a = [p + q for p, q in zip(exact(W["A"], inputs[0]), exact(W["B"], inputs[1]))]
        hidden = [max(v, Fraction(0)) for v in true_a]
        true_b = [p + q for p, q in zip(exact(W["C"], hidden), exact(W["D"], inputs[0]))]
        for computed, true, name in ((a, true_a, "a"), (b, true_b, "b")):
            for value, truth, error in zip(computed[0], true, errors[name].error[0]):
                assert abs(Fraction(float(value)) - truth) <= Fraction(float(error)), name


@pytest.mark.parametrize("scale", [1.0, 1e-120, 1e40])
def test_proven_errors_of_a_jacobian_contain_exact_products(scale):
    """With certain derivatives the entries are sums over paths, computed here in float64 and in rational arithmetic."""
    for seed in range(10):
        W = {name: scale * matrix for name, matrix in weights(seed=seed).items()}
        net = graph(W)
        d = {"s": randn(1, 4, seed=seed).abs(), "t": randn(1, 5, seed=seed).abs()}
        layers = {
            name: Layer(torch.zeros(1, 0, dtype=torch.int64), value[:, :0], value[:, :0], value)
            for name, value in d.items()
        }
        error = jacobian_error(net, layers, torch.eye(4, dtype=torch.float64)[None], 1 << 20)[0]
        t_by_s = W["E"] @ (d["t"][0, :, None] * W["C"])
        by_s = t_by_s - torch.eye(4, dtype=torch.float64) + W["F"]
        computed = by_s @ (d["s"][0, :, None] * torch.cat((W["A"], W["B"]), 1))
        computed[:, :3] += W["E"] @ (d["t"][0, :, None] * W["D"])
        for r in range(5):
            source = [Fraction(float(v)) for v in (W["A"][:, r] if r < 3 else W["B"][:, r - 3])]
            s = [Fraction(float(v)) * h for v, h in zip(d["s"][0], source)]
            b = exact(W["C"], s)
            if r < 3:
                b = [p + Fraction(float(v)) for p, v in zip(b, W["D"][:, r])]
            t = [Fraction(float(v)) * h for v, h in zip(d["t"][0], b)]
            truth = [p - v + q for p, v, q in zip(exact(W["E"], t), s, exact(W["F"], s))]
            for k in range(4):
                assert abs(Fraction(float(computed[k, r])) - truth[k]) <= Fraction(float(error[k, r]))


def test_roundings_count_every_sum():
    assert roundings(graph(weights()), 4) > sum((3 + 2, 4, 4 + 3, 5, 5 + 1 + 4))
