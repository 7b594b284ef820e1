"""The published RecurJac code, number by number: same pre-activation bounds in, same Jacobian bounds and constants out.

The full set of cases is found through RECURJAC_GOLDEN or in a folder ``shared/golden`` next to the repository;
without it the subset in ``tests/data/golden`` is compared. Where the published code is wrong, the truth is asserted.
"""

from __future__ import annotations

import functools
import json
import math

import pytest
import torch
from cases import mlp
from golden import CASES, FOLDER, LOCAL, MODULES, NORMS, SUBSET, Golden
from oracle import Ball, jacobian
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.lipschitz.matrix_norms import norm_of_magnitudes
from recurjac_plugin.lipschitz.norms import row_constants

WIDE = [name for name in CASES if name.startswith("quirk_crown_wide")]
PRECISIONS = [(torch.float64, "", 1e-12), (torch.float32, "_f32", 1e-4)]  # bounds of ours have room for rounding


def assert_same(ours, published, tolerance):
    ours, published = ours.detach().double(), published.double()
    assert ours.shape == published.shape
    error = (ours - published).abs().max() / published.abs().max()
    assert error <= tolerance, f"differs by {float(error):.2e} of the largest value"


def constants(model, x, norm, method, **options):
    """Of rows and of the vector, by the paper's formulas; what is returned to users is never larger."""
    analysis = analyse(model, x, parse(method), None, **options)
    lower, upper = analysis.jacobian
    rows = row_constants(analysis, torch.ones_like(lower[:, 0]))
    magnitude = torch.maximum(lower.abs(), upper.abs())
    vector = rows.amax(1) if norm == math.inf else norm_of_magnitudes(magnitude, norm, norm)
    for found, paper in ((True, rows), (False, vector)):
        ours = rj.local_lipschitz(model, x, per_output=found, method=method, **options)
        assert bool((ours <= paper * (1 + 1e-6)).all())
    return rows, vector


@pytest.mark.skipif(FOLDER == SUBSET, reason="RECURJAC_GOLDEN is not set: only the subset in tests/data is compared")
def test_all_backward_cases_are_here():
    assert len(LOCAL) == 79


def test_subset_covers_every_activation_and_norm():
    subset = [
        c for c in json.loads((SUBSET / "index.json").read_text(encoding="utf-8"))["cases"] if c["kind"] == "local"
    ]
    assert {case["activation"] for case in subset} == {*MODULES, "leaky"}
    assert {float(case["norm"]) for case in subset} == set(NORMS)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS, ids=["float64", "float32"])
@pytest.mark.parametrize("name", LOCAL)
def test_backward_order(name, dtype, suffix, tolerance):
    golden = Golden(name, dtype)
    options = {"method": "RecurJac", "intermediate_bounds": golden.given()}
    with torch.no_grad():
        bounds = rj.jacobian_bounds(golden.model, golden.region().perturbed(), **options)
        assert bounds.lower.dtype == dtype
        assert_same(bounds.lower[0], golden.arrays["bwd_l" + suffix], tolerance)
        assert_same(bounds.upper[0], golden.arrays["bwd_u" + suffix], tolerance)
        for i, norm in enumerate(NORMS):
            x = golden.region(norm).perturbed()
            rows, vector = constants(golden.model, x, norm, **options)
            assert_same(rows[0], golden.arrays["bwd_lip_sep" + suffix][i], tolerance)
            assert_same(vector, golden.arrays["bwd_lip_all" + suffix][i : i + 1], tolerance)


def region_contains(region, point):
    return float((point - region.center.double()).abs().max()) <= region.eps * (1 + 1e-9)


def assert_contains_truth(golden, **options):
    bounds = rj.jacobian_bounds(golden.model, golden.region().perturbed(), **options)
    truth = golden.arrays["true_jac"]
    assert region_contains(golden.region(), golden.arrays["x_bad"].unsqueeze(0))
    slack = 4 * torch.finfo(golden.dtype).eps * truth.abs().amax(1, keepdim=True)
    assert bool((bounds.lower[0].double() <= truth + slack).all())
    assert bool((truth - slack <= bounds.upper[0].double()).all())


def test_quirk_relu_rounding():
    """A lower bound that is positive by rounding alone, fed in as it is, must not fix the neuron's derivative."""
    golden = Golden("quirk_relu_rounding", torch.float32)
    neuron = int(golden.arrays["neuron"])
    assert float(golden.arrays["preLB0"][neuron]) >= 0
    assert_contains_truth(golden, intermediate_bounds=golden.given())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_quirk_relu_rounding_with_the_hosts_bounds(dtype):
    assert_contains_truth(Golden("quirk_relu_rounding", dtype))


def test_quirk_sigmoid_saturation():
    """The derivative at z = 37 and 41 is 1e-16 and less, but not 0."""
    golden = Golden("quirk_sigmoid_saturation", torch.float32)
    assert_contains_truth(golden, intermediate_bounds=golden.given())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_quirk_sigmoid_saturation_with_the_hosts_bounds(dtype):
    golden = Golden("quirk_sigmoid_saturation", dtype)
    assert_contains_truth(golden)
    assert bool((golden.arrays["true_jac"] > 0).all())
    lower, _ = rj.jacobian_bounds(golden.model, golden.region().perturbed())
    assert bool((lower > 0).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("method", ["RecurJac", "RecurJac-Linear", "Fast-Lip", "IBP+RecurJac"])
@pytest.mark.parametrize("name", WIDE)
@pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning")
def test_quirk_crown_wide(name, method, dtype):
    """Tangent lines over very wide intervals: the host's bounds must hold, or we must not build on them."""
    assert_contains_truth(Golden(name, dtype), method=method)


def plain_sums(golden, direction, suffix):
    """Sums of the largest magnitudes of each row: what the improved sum must not exceed."""
    arrays = golden.arrays
    return torch.maximum(arrays[f"{direction}_l{suffix}"].abs(), arrays[f"{direction}_u{suffix}"].abs()).sum(1)


DIRECTIONS = {"fwd": {"order": "forward"}, "fsh": {"order": "forward", "shift": 1}}


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS, ids=["float64", "float32"])
@pytest.mark.parametrize(
    ("name", "direction"), [(name, d) for name in LOCAL for d in DIRECTIONS if f"{d}_l" in CASES[name]["arrays"]]
)
def test_forward_order(name, direction, dtype, suffix, tolerance):
    golden = Golden(name, dtype)
    options = {**DIRECTIONS[direction], "method": "RecurJac", "intermediate_bounds": golden.given()}
    with torch.no_grad():
        forward = rj.jacobian_bounds(golden.model, golden.region().perturbed(), **options)
        assert_same(forward.lower[0], golden.arrays[f"{direction}_l{suffix}"], tolerance)
        assert_same(forward.upper[0], golden.arrays[f"{direction}_u{suffix}"], tolerance)
        for i, norm in enumerate(NORMS):
            x = golden.region(norm).perturbed()
            (rows,), vector = constants(golden.model, x, norm, **options)
            if norm < math.inf:
                assert_same(rows, golden.arrays[f"{direction}_lip_sep{suffix}"][i], tolerance)
                assert_same(vector, golden.arrays[f"{direction}_lip_all{suffix}"][i : i + 1], tolerance)
            else:
                # Quirks 1 and 13: result row 0 stands for every row, and the improved sum can exceed the plain one.
                right = torch.minimum(
                    golden.arrays[f"{direction}_lip_row_inf{suffix}"], plain_sums(golden, direction, suffix)
                )
                assert_same(rows, right, tolerance)
                assert_same(vector, right.max().reshape(1), tolerance)


@pytest.mark.parametrize("name", [name for name in LOCAL if "fl_l" in CASES[name]["arrays"]])
def test_fast_lip(name):
    """The published code has Fast-Lip for ReLU and leaky ReLU, in float32, by the dual exponent q."""
    golden = Golden(name, torch.float32)
    options = {"method": "Fast-Lip", "intermediate_bounds": golden.given()}
    with torch.no_grad():
        lower, upper = rj.jacobian_bounds(golden.model, golden.region().perturbed(), **options)
        assert_same(lower[0], golden.arrays["fl_l"], 1e-5)
        assert_same(upper[0], golden.arrays["fl_u"], 1e-5)
        for i, norm in enumerate((math.inf, 2.0, 1.0)):
            rows, _ = constants(golden.model, golden.region(norm).perturbed(), norm, **options)
            assert_same(rows[0], golden.arrays["fl_q"][i], 1e-5)


@functools.cache
def in_every_order(name):
    """Bounds of one case in the backward order, in the forward order and in both."""
    golden = Golden(name, torch.float64)
    x, given = golden.region().perturbed(), golden.given()
    with torch.no_grad():
        return [
            rj.jacobian_bounds(golden.model, x, order=order, intermediate_bounds=given)
            for order in ("backward", "forward", "both")
        ]


@pytest.mark.parametrize("name", LOCAL)
def test_both_orders_together(name):
    backward, forward, both = in_every_order(name)
    for one in (backward, forward):
        slack = 1e-14 * one.upper.abs().max()
        assert bool((both.lower >= one.lower - slack).all() & (both.upper <= one.upper + slack).all())


@pytest.mark.parametrize("name", LOCAL[::6])
def test_constants_of_both_orders_together(name):
    golden = Golden(name, torch.float64)
    given = golden.given()
    for norm in NORMS:
        with torch.no_grad():
            backward, forward, both = (
                float(
                    rj.local_lipschitz(
                        golden.model, golden.region(norm).perturbed(), order=order, intermediate_bounds=given
                    )
                )
                for order in ("backward", "forward", "both")
            )
        assert both <= min(backward, forward) * (1 + 1e-12)


def test_both_orders_together_are_tighter_than_either():
    """Neither order dominates the other: on most of the deeper networks the intersection is narrower."""
    narrower, uncertain = 0, 0
    for name in LOCAL:
        widths = [float(bounds.width.mean()) for bounds in in_every_order(name)]
        if len(CASES[name]["widths"]) > 3 and widths[0] > 0:
            uncertain += 1
            narrower += widths[2] < min(widths[:2]) * (1 - 1e-9)
    assert narrower >= uncertain / 2 > 0


def test_quirk_row_bug_of_the_forward_sum():
    """Quirk 1: the reference gives row 1 of this case -4.088, but the network attains 1.862 there."""
    golden = Golden("local_tanh_L5_small", torch.float64)
    region = golden.region(math.inf)
    for options in DIRECTIONS.values():
        rows = rj.local_lipschitz(
            golden.model, region.perturbed(), per_output=True, intermediate_bounds=golden.given(), **options
        ).detach()
        assert float(rows[0, 1]) >= 1.862
        assert float(rows[0, 1]) > float(golden.arrays["fwd_lip_sep"][2, 1])


def test_quirk_improved_sum_above_the_plain_one():
    """Quirk 13: forward, the sum over columns of known sign can come out larger than the sum of all entries."""
    golden = Golden("local_tanh_digits4_pinf", torch.float64)
    plain = plain_sums(golden, "fwd", "")
    assert bool((golden.arrays["fwd_lip_row_inf"] > plain).any())
    rows = rj.local_lipschitz(
        golden.model,
        golden.region(math.inf).perturbed(),
        per_output=True,
        order="forward",
        intermediate_bounds=golden.given(),
    ).detach()
    assert bool((rows[0] <= plain * (1 + 1e-12)).all())


@pytest.mark.parametrize("sizes", [(5, 3), (5, 7, 3)], ids=str)
def test_quirk_shift_of_short_networks(sizes):
    """Quirk 7: with one hidden layer or none there is nothing to recurse over; the bounds are the ones of any order."""
    torch.manual_seed(0)
    net = mlp(nn.Tanh, sizes).double()
    x = Ball(torch.randn(2, 5, dtype=torch.float64), 0.3).perturbed()
    model = BoundedModule(net, x.clone())
    with torch.no_grad():
        backward, shifted = (
            rj.jacobian_bounds(model, x, method="RecurJac", order=order, shift=shift)
            for order, shift in (("backward", 0), ("forward", 1))
        )
    assert torch.allclose(backward.lower, shifted.lower, rtol=0, atol=1e-12)
    assert torch.allclose(backward.upper, shifted.upper, rtol=0, atol=1e-12)


def test_quirk_activation_of_the_first_call():
    """Quirk 9: the reference keeps the activation of the first network for all later ones."""
    names = [next(name for name in LOCAL if CASES[name]["activation"] == each) for each in ("relu", "tanh", "relu")]
    for name in names:
        golden = Golden(name, torch.float64)
        options = {"method": "RecurJac", "intermediate_bounds": golden.given()}
        with torch.no_grad():
            bounds = rj.jacobian_bounds(golden.model, golden.region().perturbed(), **options)
        assert_same(bounds.upper[0], golden.arrays["bwd_u"], 1e-12)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "arctan"])
def test_quirk_fast_lip_of_smooth_activations(activation):
    """Quirk 11: the reference has Fast-Lip for ReLU and leaky ReLU alone; here it encloses RecurJac for every one."""
    name = next(name for name in LOCAL if CASES[name]["activation"] == activation and len(CASES[name]["widths"]) > 3)
    golden = Golden(name, torch.float64)
    x, given = golden.region().perturbed(), golden.given()
    with torch.no_grad():
        fast, plain = (
            rj.jacobian_bounds(golden.model, x, method=method, intermediate_bounds=given)
            for method in ("Fast-Lip", "RecurJac")
        )
    slack = 1e-12 * fast.upper.abs().max()
    assert bool((fast.lower <= plain.lower + slack).all() & (plain.upper <= fast.upper + slack).all())


@pytest.mark.parametrize("scale", [30.0, 100.0])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "arctan"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_quirk_inverted_bounds_at_radius_zero(dtype, activation, scale):
    """Quirk 5: far out the reference's bounds at a point cross, and an assertion stops it."""
    torch.manual_seed(0)
    net = mlp(MODULES[activation], (6, 12, 12, 3)).to(dtype)
    with torch.no_grad():
        net[0].weight.mul_(scale)
    x = torch.randn(20, 6, dtype=dtype)
    model = BoundedModule(net, x)
    exact = jacobian(net.double(), x.double())
    net.to(dtype)
    size = float(exact.abs().max())
    for method in rj.METHODS:
        with torch.no_grad():
            lower, upper = rj.jacobian_bounds(model, Ball(x, 0.0).perturbed(), method=method)
        assert bool((lower <= upper).all())
        assert bool((lower <= exact + 1e-5 * size).all() & (upper >= exact - 1e-5 * size).all())
        assert float((upper - lower).max()) <= 1e-3 * size
