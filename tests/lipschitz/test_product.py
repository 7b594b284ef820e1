"""Global Lipschitz constants: above every slope anywhere, the published code's numbers, exact on linear stretches."""

from __future__ import annotations

import functools
import importlib
import json
import math

import numpy as np
import pytest
import torch
from cases import BY_NAME, CASES, PRODUCT_CASES, Case, Constants, Net, hosted, mlp, on_host, parametrized
from golden import FOLDER
from oracle import Ball, jacobians, outputs
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.host import BoundedModule
from recurjac_plugin.lipschitz import operator_norms

NORMS = [1.0, 2.0, math.inf]
INDEX = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))["cases"]
SPECTRAL = {case["name"]: case for case in INDEX if case["kind"] == "spectral"}
MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
global_module = importlib.import_module("recurjac_plugin.lipschitz.product")


# The product of operator norms alone; for p = 2 the function may find less.
product = functools.partial(rj.global_lipschitz, method="Operator-Norm")


def dual(norm):
    return {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]


def constant(net, shape, norm, **options):
    x = torch.zeros(1, *shape, dtype=torch.float64)
    return product(on_host(net.double(), x), norm=norm, **options)


def exact(matrix, norm):
    return torch.linalg.matrix_norm(matrix.detach(), ord=norm).reshape(1)


# Soundness


# The host may write a maximum with a constant as a ReLU, which has a constant.
@parametrized([case for case in PRODUCT_CASES if case.name != "maximum_with_a_constant"])
def test_products_and_extremes_are_refused(case):
    _, _, model = hosted(case)
    with pytest.raises(rj.UnsupportedError, match=r"products and extremes|not bounded"):
        product(model, norm=2.0)


UNBOUNDED = ("exp", "log", "sqrt", "square", "cube", "fourth_power", "root_power", "reciprocal")


@pytest.mark.parametrize("name", UNBOUNDED)
def test_unbounded_derivatives_are_refused(name):
    _, _, model = hosted(name)
    with pytest.raises(rj.UnsupportedError, match="not bounded on the real line"):
        product(model, norm=2.0)


@parametrized([case for case in CASES if case not in PRODUCT_CASES and case.name not in UNBOUNDED])
def test_no_slope_is_above(case):
    """Small inputs and large ones, where every activation has its steepest slope for some."""
    net, center, model = hosted(case)
    points = torch.cat([center * scale + torch.randn(40, *center.shape) * scale for scale in (0.1, 1.0, 5.0)])
    C = torch.randn(1, 4, outputs(net, center[None]).shape[2], dtype=torch.float64)
    for rows in (None, C):
        J = jacobians(net, points, None if rows is None else rows.expand(len(center), -1, -1)).flatten(3)
        slack = 1 + max(case.slack, 1e-12)
        for norm in NORMS:
            whole = product(model, norm=norm, C=rows)
            single = product(model, norm=norm, C=rows, per_output=True)
            if norm == 2:
                less = rj.global_lipschitz(model, norm=norm, C=rows)
                less_single = rj.global_lipschitz(model, norm=norm, C=rows, per_output=True)
                assert bool((less <= whole).all() & (less_single <= single).all())
                whole, single = less, less_single
            assert whole.shape == (1,)
            assert single.shape == (1, J.shape[2])
            assert bool((torch.linalg.matrix_norm(J, ord=norm) <= whole * slack).all())
            assert bool((torch.linalg.vector_norm(J, ord=dual(norm), dim=3) <= single * slack).all())


@pytest.mark.parametrize("name", ["residual_convolutions", "batch_norm2d", "concat_channels", "branches", "split"])
def test_large_layers_are_bounded_too(name, monkeypatch):
    """Nothing is written out: chains of norms, fused neighbours, convolutions on the torus."""
    net, center, model = hosted(name)
    exactly = [product(model, norm=norm) for norm in NORMS]
    for module in (operator_norms, global_module):
        monkeypatch.setattr(module, "SMALL", 0)
    J = jacobians(net, torch.randn(100, *center.shape, dtype=torch.float64)).flatten(3)
    for norm, small in zip(NORMS, exactly, strict=True):
        large = product(model, norm=norm)
        assert bool((torch.linalg.matrix_norm(J, ord=norm) <= large).all())
        assert float(large) >= float(small) * (1 - 1e-12)
        assert float(large) <= 4 * float(small)


# Tightness


def test_ellipsoids_are_below_the_product():
    """Layers stretch most in different directions, which the product of their norms does not see."""
    net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3))
    assert float(constant(net, (6,), 2.0)) > 1.1 * float(constant(net, (6,), 2.0, method=None))


def test_unknown_methods():
    with pytest.raises(rj.MethodError, match="`method` must be None or one of Operator-Norm"):
        constant(nn.Sequential(nn.Linear(2, 2)), (2,), 2.0, method="Nope")


@pytest.mark.parametrize("norm", NORMS)
def test_linear_networks_exactly(norm):
    """All of it is one linear stretch, whatever its shape: skips and concatenations are merged before the norm."""
    a, b, c = (nn.Linear(5, 5).double() for _ in range(3))
    A, B, C = (layer.weight for layer in (a, b, c))
    eye = torch.eye(5, dtype=torch.float64)
    networks = {
        "chain": (nn.Sequential(a, b, c), C @ B @ A),
        "residual": (Net(lambda s, x: x - s.b(s.a(x)), a=a, b=b), eye - B @ A),
        "cancels": (Net(lambda s, x: s.a(x) + s.b(x) - s.a(x), a=a, b=b), B),
        "concat": (Net(lambda s, x: torch.cat([s.a(x), x, s.b(x)], 1), a=a, b=b), torch.cat([A, eye, B])),
    }
    for net, matrix in networks.values():
        assert torch.allclose(constant(net, (5,), norm), exact(matrix, norm), rtol=1e-12, atol=0)
        rows = constant(net, (5,), norm, per_output=True)
        assert torch.allclose(rows[0], torch.linalg.vector_norm(matrix, ord=dual(norm), dim=1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "leaky_relu_steep", "tanh", "sigmoid", "atan", "prelu"])
def test_chains_are_the_product(name, norm):
    net, _, model = hosted(name)
    slope = {"sigmoid": 0.25, "leaky_relu_steep": 1.5}.get(name, 1.0)
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    expected = math.prod(exact(layer.weight, norm) for layer in layers) * slope ** (len(layers) - 1)
    assert torch.allclose(product(model, norm=norm), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_branches_meet(norm):
    """A skip past an activation adds 1; the parts of a concatenation combine as parts of a vector."""
    a, b = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    A, B = exact(a.weight, norm), exact(b.weight, norm)
    skip = constant(Net(lambda s, x: x + s.b(s.a(x).relu()), a=a, b=b), (4,), norm)
    sums = b.weight.detach().abs().sum(1)
    expected = (1 + sums * A).max() if norm == math.inf else 1 + A * B
    assert float(skip) <= float(1 + A * B) * (1 + 1e-12)
    if norm != 2:
        assert float(skip) == pytest.approx(float(expected), rel=1e-12)
    joined = constant(Net(lambda s, x: torch.cat([s.a(x).relu(), s.b(x).tanh()], 1), a=a, b=b), (4,), norm)
    together = torch.linalg.vector_norm(torch.cat([A, B]), ord=norm)  # 1: the sum, 2: the root of squares, inf: max
    assert float(joined) == pytest.approx(float(together), rel=1e-12)


def test_concatenation_in_a_large_network(monkeypatch):
    """As above, when the parts are not written out."""
    for module in (operator_norms, global_module):
        monkeypatch.setattr(module, "SMALL", 0)
    a, b = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    net = Net(lambda s, x: torch.cat([s.a(x).relu(), s.b(x).tanh()], 1).relu(), a=a, b=b)
    for norm in NORMS:
        parts = torch.cat([exact(a.weight, norm), exact(b.weight, norm)])
        together = torch.linalg.vector_norm(parts, ord=norm)
        assert float(constant(net, (4,), norm)) == pytest.approx(float(together), rel=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_batch_normalisation_is_part_of_the_layer_before(norm):
    case = BY_NAME["batch_norm1d"]
    net, _, model = hosted(case)
    first, norm1, _, second, norm2 = net
    scales = [bn.weight / (bn.running_var + bn.eps).sqrt() for bn in (norm1, norm2)]
    matrices = [scale[:, None] * layer.weight for scale, layer in zip(scales, (first, second), strict=True)]
    expected = math.prod(exact(matrix, norm) for matrix in matrices)
    assert torch.allclose(product(model, norm=norm), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_normalised_inputs_are_part_of_the_first_layer(norm):
    """The first `Sub` of ACAS Xu costs nothing, a first `Div` goes into the matrix."""
    shapes = {"m": (1, 5), "d": (1, 5)}
    body = mlp(nn.ReLU).double()
    plain = constant(body, (5,), norm)
    shifted = Constants(lambda s, x: s.c(x - s.m), shapes, c=body)
    assert torch.equal(constant(shifted, (5,), norm), plain)
    scaled = Constants(lambda s, x: s.c((x - s.m) / s.d), shapes, c=body).double()
    expected = plain * exact(body[0].weight / scaled.d, norm) / exact(body[0].weight, norm)
    assert torch.allclose(constant(scaled, (5,), norm), expected, rtol=1e-12, atol=0)


def test_convolutions_exactly_where_they_are_small():
    net, _, model = hosted("conv2d_stride")
    linear = net[3].weight
    J = jacobians(net[0], torch.zeros(1, 1, 2, 5, 5, dtype=torch.float64))[0, 0].flatten(1)
    for norm in NORMS:
        expected = exact(J, norm) * exact(linear, norm)
        assert torch.allclose(product(model, norm=norm), expected, rtol=1e-12, atol=0)


def test_float32_is_rounded_up():
    case = BY_NAME["relu"]
    net, center = case.network(torch.float32), case.center(dtype=torch.float32)
    model = on_host(net, center)
    for norm in NORMS:
        single = product(model, norm=norm)
        double = math.prod(exact(layer.weight.double(), norm) for layer in net if isinstance(layer, nn.Linear))
        assert single.dtype == torch.float32
        assert float(double) <= float(single) <= float(double) * (1 + 3e-7)


# The published code


class Arctan(nn.Module):
    def forward(self, x):
        return torch.arctan(x)


class Golden:
    """One case: the network, a point, and the published numbers."""

    def __init__(self, name, dtype):
        self.case, self.dtype = SPECTRAL[name], dtype
        with np.load(FOLDER / self.case["file"], allow_pickle=False) as file:
            self.arrays = {key: torch.tensor(file[key]) for key in file.files}
        others = {"arctan": Arctan, "leaky": lambda: nn.LeakyReLU(self.case["slope"])}
        self.net = mlp((MODULES | others)[self.case["activation"]], self.case["widths"])
        linear = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        for i, layer in enumerate(linear):
            layer.weight.data, layer.bias.data = self.arrays[f"W{i}"], self.arrays[f"b{i}"]
        self.net.to(dtype)
        self.center = self.arrays["x0"].to(dtype).unsqueeze(0)


def assert_same(ours, published, tolerance):
    ours, published = ours.detach().double(), published.double()
    assert ours.shape == published.shape
    error = (ours - published).abs().max() / published.abs().max()
    assert error <= tolerance, f"differs by {float(error):.2e} of the largest value"


@functools.cache  # making a model with sigmoids is slow on the host
def model_of(net, golden):
    return BoundedModule(net, golden.center)


def spectral(net, golden, norm, C=None, **options):
    model = model_of(net, golden)
    return product(model, norm=norm, C=None if C is None else C.unsqueeze(0).to(golden.dtype), **options)


def rows_of(golden):
    """Rows of the published code: a target, all other classes in order, the class alone."""
    eye = torch.eye(golden.case["widths"][-1], dtype=torch.float64)
    c, j = int(golden.arrays["c"]), int(golden.arrays["j"])
    others = [k for k in range(len(eye)) if k != c]
    return {"tgt": eye[c : c + 1] - eye[j : j + 1], "unt": eye[c] - eye[others], "cls": eye[c : c + 1]}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", SPECTRAL)
def test_published_products(name, dtype):
    """The published norms were computed in float32; in float64 those of NumPy's definition are met to 1e-12."""
    golden = Golden(name, dtype)
    layers = [layer for layer in golden.net if isinstance(layer, nn.Linear)]
    hidden_net = golden.net[:-1]
    for norm, key in zip(NORMS, ("p1", "p2", "pinf"), strict=True):
        published = {part: value.double() for part, value in golden.arrays.items() if part.startswith(key + "_")}
        norms = torch.cat(
            [
                product(BoundedModule(layer, torch.zeros(1, layer.in_features, dtype=dtype)), norm=norm)
                for layer in layers
            ]
        )
        assert_same(norms, published[f"{key}_layer_norms"], 1e-6)
        hidden = spectral(hidden_net, golden, norm)
        assert_same(hidden, published[f"{key}_hidden_product"].reshape(1), 1e-6)
        if dtype == torch.float64:
            assert_same(norms, torch.cat([exact(layer.weight, norm) for layer in layers]), 1e-12)
        for kind, rows in rows_of(golden).items():
            found = spectral(golden.net, golden, norm, rows, per_output=True)[0]
            whole = published[f"{key}_{kind}_lip"]
            if kind == "unt":  # quirk: the last layer's norms without the product behind them
                whole = whole * published[f"{key}_hidden_product"]
            assert_same(found, whole, 1e-6)
            if len(rows) == 1:
                assert torch.allclose(spectral(golden.net, golden, norm, rows).double(), found.double(), rtol=1e-6)


@pytest.mark.parametrize("name", SPECTRAL)
def test_quirk_spectral_cache(name):
    """Two networks and three norms in a row: each has its own product, whatever was asked before.

    The published code kept the first hidden product for the rest of the process; took its margin to the last class
    where only a class was asked for; and returned the norms of the last layer alone for the untargeted constants.
    """
    golden = Golden(name, torch.float64)
    other = mlp(nn.Tanh, (golden.center.shape[1], 6, 4)).double()
    for _ in range(2):
        for norm in (math.inf, 2.0, 1.0):
            for net in (golden.net, other):
                layers = [layer.weight for layer in net if isinstance(layer, nn.Linear)]
                slope = 0.25 if any(isinstance(layer, nn.Sigmoid) for layer in net) else 1.0
                whole = math.prod(exact(layer, norm) for layer in layers) * slope ** (len(layers) - 1)
                assert torch.allclose(spectral(net, golden, norm), whole, rtol=1e-12, atol=0)
    y = outputs(golden.net, golden.center[None])[0, 0]
    assert int(y.argmax()) == int(golden.arrays["c"])
    for norm, key in zip(NORMS, ("p1", "p2", "pinf"), strict=True):
        for kind, rows in rows_of(golden).items():
            if kind == "cls":
                continue
            constants = spectral(golden.net, golden, norm, rows, per_output=True)[0]
            radius = float(((rows @ y) / constants).min().clamp(min=0))
            published = float(golden.arrays[f"{key}_{kind}_bound"])
            if published > 0:
                assert radius == pytest.approx(published, rel=1e-5)
            # No point within the radius is classified otherwise.
            points = Ball(golden.center, radius * (1 - 1e-6), norm).sample(60)
            assert bool((outputs(golden.net, points) @ rows.T >= -1e-9).all())


# Networks without a constant, and bad input


UNBOUNDED = {
    "exp": (torch.exp, []),
    "square": (lambda z: 2 * z, []),
    "root": (lambda z: z.abs().rsqrt() * z.sign(), [(0.0, (-math.inf, math.inf))]),
    "logarithm": (lambda z: torch.where(z > 1, z.log(), z - 1), []),
}
BOUNDED = {
    "sigmoid": (lambda z: torch.sigmoid(z), [], 1.0),
    "slow": (lambda z: z / (1 + z.abs()), [], 1.0),
    "hill": (lambda z: 3 / (1 + z.square()), [(0.0, (3.0,))], 3.0),
    "falling": (lambda z: -2 / (1 + z.square()), [(0.0, (-2.0,))], 2.0),
    "kink": (lambda z: torch.where(z > 0, 0.5, -0.25 * torch.ones_like(z)), [(0.0, (-1.5, 0.5))], 1.5),
}


@pytest.fixture
def replaced_tanh(monkeypatch):
    def replace(derivative, points):
        activation = type(ACTIVATIONS["BoundTanh"])("Custom", lambda z, p: derivative(z), lambda p: points)
        monkeypatch.setitem(ACTIVATIONS, "BoundTanh", activation)

    return replace


@pytest.mark.parametrize("name", UNBOUNDED)
def test_unbounded_derivatives_are_refused_by_name(name, replaced_tanh):
    replaced_tanh(*UNBOUNDED[name])
    _, _, model = hosted("tanh")
    with pytest.raises(rj.UnsupportedError, match="not bounded on the real line") as error:
        product(model, norm=2)
    assert len(error.value.offenders) == 2  # both of its layers


@pytest.mark.parametrize("name", BOUNDED)
def test_the_largest_slope_on_the_real_line(name, replaced_tanh):
    derivative, points, largest = BOUNDED[name]
    _, _, model = hosted("tanh")
    plain = product(model, norm=1)
    replaced_tanh(derivative, points)
    found = product(model, norm=1) / plain
    assert float(found) >= largest**2 * (1 - 1e-15)
    assert float(found) == pytest.approx(largest**2, rel=1e-6)


def test_unsupported_nodes_are_listed(monkeypatch):
    _, _, model = hosted("mixed")
    for kind in ("BoundTanh", "BoundSigmoid"):
        monkeypatch.delitem(ACTIVATIONS, kind)
    with pytest.raises(rj.UnsupportedError) as error:
        product(model, norm=2)
    assert [offender.split("(")[1].split(")")[0] for offender in error.value.offenders] == ["Tanh", "Sigmoid"]


@pytest.mark.parametrize("norm", [3, 0.5, math.nan, -math.inf, "inf", None, 1.5])
def test_other_norms(norm):
    _, _, model = hosted("relu")
    with pytest.raises(rj.InputError, match="`norm` must be 1, 2 or inf"):
        product(model, norm=norm)


def test_other_models():
    for model in (nn.Linear(2, 2), None):
        with pytest.raises(rj.InputError, match="BoundedModule"):
            product(model, norm=2)


def test_bad_matrices():
    _, _, model = hosted("relu")
    good = torch.ones(1, 4, 3, dtype=torch.float64)
    for matrix in (good[0], good[:, :, :2], good.float(), good * math.nan, good[:, :0], good[:0], [[1.0]]):
        with pytest.raises(rj.InputError, match="`C`"):
            product(model, norm=2, C=matrix)


def test_nan_weights():
    case = BY_NAME["relu"]
    net = case.network()
    with torch.no_grad():
        net[2].weight[0, 0] = math.nan
    with pytest.raises(rj.InputError, match="NaN"):
        product(on_host(net, case.center()), norm=2)


def test_several_matrices_at_once():
    _, _, model = hosted("relu")
    C = torch.randn(3, 2, 3, dtype=torch.float64)
    both = product(model, norm=2, C=C)
    assert torch.equal(both, torch.cat([product(model, norm=2, C=C[i : i + 1]) for i in range(3)]))


def test_model_is_left_as_it_was():
    _, center, model = hosted("tanh")
    before = {name: {k: id(v) for k, v in vars(m).items()} for name, m in [("", model), *model._modules.items()]}
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    product(model, norm=2)
    rj.sampled_lipschitz(model, Ball(center, 0.1).perturbed(), points=4, steps=2)
    # Lists and dictionaries are put back as copies.
    after = {name: vars(m) for name, m in [("", model), *model._modules.items()]}
    for name, values in before.items():
        assert values.keys() == after[name].keys()
        for key, value in after[name].items():
            assert isinstance(value, (list, dict, set)) or id(value) == values[key], (name, key)
    assert trainable == [parameter.requires_grad for parameter in model.parameters()]


def test_models_moved_after_they_were_built():
    """The example that the host keeps is not moved along."""
    net = mlp(nn.ReLU)
    model = on_host(net, torch.zeros(1, 5)).double()
    expected = math.prod(exact(layer.weight.double(), 2.0) for layer in net if isinstance(layer, nn.Linear))
    assert torch.allclose(product(model, norm=2), expected, rtol=1e-12)


def test_input_is_the_output():
    case = Case("identity_network", lambda: Net(lambda s, x: x + 0.0), (4,))
    _, _, model = hosted(case, batch=1)
    assert [float(product(model, norm=norm)) for norm in NORMS] == pytest.approx([1.0] * 3)
