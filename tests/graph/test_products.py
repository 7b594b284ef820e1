"""Products, quotients, extremes and softmax of perturbed tensors; models of several inputs."""

from __future__ import annotations

import math

import pytest
import torch
from cases import PRODUCT_CASES, Net, head, hosted, on_host
from oracle import Ball, assert_encloses, jacobian, truth
from torch import nn
from torch.nn import functional

import recurjac_plugin as rj
from recurjac_plugin.gains.gains import compute_gains
from recurjac_plugin.gains.undetermined import PreactivationBounds, classify
from recurjac_plugin.graph.graph import build_graph
from recurjac_plugin.graph.node import Node
from recurjac_plugin.graph.operators import Refusal
from recurjac_plugin.graph.products import PRODUCTS, expand, multiplies
from recurjac_plugin.graph.steps import FactorStep
from recurjac_plugin.host.read import read_graph
from recurjac_plugin.passes.rules import recurjac
from recurjac_plugin.recursion.backward import backward_order


def node(kind, forward, *shapes, constants=None, **attributes):
    """A node by hand whose inputs of the given shapes, batch included, are perturbed unless they have a constant."""
    constants = constants or [None] * len(shapes)
    example = [torch.zeros(s, dtype=torch.float64) if c is None else c for s, c in zip(shapes, constants)]
    return Node(
        name="/out",
        kind=kind,
        inputs=tuple(f"/{i}" for i in range(len(shapes))),
        perturbed=tuple(c is None for c in constants),
        constants=tuple(constants),
        input_shapes=tuple(map(tuple, shapes)),
        output_shape=tuple(forward(*example).shape),
        attributes=attributes,
        training=False,
        forward=forward,
    )


def tensor(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64) + 0.5


POOLS = {
    "max_pool": {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)},
    "max_pool_overlapping": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 0)},
    "max_pool_padded": {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)},
}
BY_HAND = {
    "mul": node("BoundMul", torch.mul, (2, 3, 4), (2, 1, 4)),
    "mul_up": node("BoundMul", torch.mul, (2, 1), (2, 4)),
    "mul_per_sample": node("BoundMul", torch.mul, (2, 3), (2, 3), constants=[None, tensor(2, 3)]),
    "div": node("BoundDiv", torch.div, (2, 3), (2, 3)),
    "div_of_constant": node("BoundDiv", torch.div, (3,), (2, 3), constants=[tensor(3), None]),
    "matmul": node("BoundMatMul", torch.matmul, (2, 3, 4), (2, 4, 2)),
    "matmul_of_batches": node("BoundMatMul", torch.matmul, (2, 5, 3, 4), (2, 5, 4, 2)),
    "max": node("BoundMax", torch.maximum, (2, 3, 4), (2, 1, 4)),
    "max_with_constant": node("BoundMax", torch.maximum, (2, 4), (4,), constants=[None, tensor(4)]),
    "min": node("BoundMin", torch.minimum, (2, 4), (2, 4)),
    "min_with_constant": node("BoundMin", torch.minimum, (4,), (2, 4), constants=[tensor(4), None]),
    "reduce_max": node("BoundReduceMax", lambda x: x.amax(1), (2, 5, 3), axis=1, keepdim=False),
    "reduce_max_all": node("BoundReduceMax", lambda x: x.amax((1, 2), keepdim=True), (2, 3, 3), axis=None),
    "reduce_max_axes": node(
        "BoundReduceMax", lambda x, a: x.amax((1, 3)), (2, 2, 3, 3), (2,), constants=[None, torch.tensor([1, -1])]
    ),
    "reduce_min": node("BoundReduceMin", lambda x: x.amin(-1), (2, 3, 7), axis=-1, keepdim=False),
    **{
        name: node(
            "BoundMaxPool",
            lambda x, a=a: functional.max_pool2d(x, a["kernel_size"], a["stride"], a["padding"]),
            (2, 2, 5, 6),
            **a,
        )
        for name, a in POOLS.items()
    },
    "log_sum_exp": node("BoundReduceLogSumExp", lambda x: x.logsumexp(1), (2, 5, 3), axis=1, keepdim=False),
    "matmul_per_sample": node("BoundMatMul", torch.matmul, (2, 3, 4), (2, 4, 2), constants=[None, tensor(2, 4, 2)]),
    "softmax": node("BoundSoftmax", lambda x: x.softmax(1), (2, 5), axis=1),
    "softmax_middle": node("BoundSoftmax", lambda x: x.softmax(-2), (2, 4, 3), axis=-2),
}


def bounds_by_hand(case, centers, radius):
    """Jacobian bounds of one node over boxes, below the host, as one matrix per sample; and the inputs' intervals."""
    names = [name for name, perturbed in zip(case.inputs, case.perturbed) if perturbed]
    shapes = {name: shape for name, shape in zip(case.inputs, case.input_shapes) if name in names}
    graph = build_graph([case], shapes, case.name)
    intervals = {name: (c - radius, c + radius) for name, c in zip(names, centers)}
    eps = torch.finfo(torch.float64).eps
    layers = {
        step.name: classify(step, [PreactivationBounds(*intervals[read.name], eps) for read in step.reads])
        for step in graph.factors
    }
    size = math.prod(case.output_shape[1:])
    rows = (
        torch.eye(size, dtype=torch.float64)
        .reshape(1, size, *case.output_shape[1:])
        .expand(2, *(-1,) * len(case.output_shape))
    )
    return backward_order(compute_gains(graph, layers, rows, 2**20), recurjac, 2**20).jacobian()


def jacobians_by_hand(case, points):
    """Jacobians at points, one per sample: (b, k, columns)."""
    points = [p.clone().requires_grad_() for p in points]
    given = iter(points)
    out = case.forward(*(next(given) if p else c for p, c in zip(case.perturbed, case.constants))).flatten(1)
    rows = [torch.autograd.grad(out[:, k].sum(), points, retain_graph=True) for k in range(out.shape[1])]
    return torch.stack([torch.cat([g.flatten(1) for g in row], 1) for row in rows], 1)


def centers_of(case):
    generator = torch.Generator().manual_seed(3)
    shapes = [s for s, p in zip(case.input_shapes, case.perturbed) if p]
    return [torch.randn(s, generator=generator, dtype=torch.float64) + 2 * (case.kind == "BoundDiv") for s in shapes]


@pytest.mark.parametrize("name", BY_HAND)
def test_rules_hold_and_are_exact_at_points(name):
    case, generator = BY_HAND[name], torch.Generator().manual_seed(0)
    assert multiplies(case)
    centers = centers_of(case)
    for radius in (0.0, 0.05, 0.3):
        if case.kind == "BoundDiv" and min(float(c.min()) for c in centers) <= radius:
            centers = [c.abs() + 1 for c in centers]
        lower, upper = bounds_by_hand(case, centers, radius)
        points = [
            [c + radius * (2 * torch.rand(c.shape, generator=generator, dtype=torch.float64) - 1) for c in centers]
            for _ in range(200)
        ]
        values = torch.stack([jacobians_by_hand(case, p) for p in points])
        assert_encloses(lower, upper, values)
        if radius == 0:
            assert float((upper - lower).max()) <= 1e-12


def test_every_row_is_tested():
    assert {case.kind for case in BY_HAND.values()} == set(PRODUCTS)


@pytest.mark.parametrize("name", BY_HAND)
def test_push_and_pull_of_every_map_are_transposes(name):
    case = BY_HAND[name]
    for step in expand(case, dict(zip(case.inputs, case.inputs))):
        for _, linear in () if isinstance(step, FactorStep) else step.sources:
            t = torch.randn(3, *linear.input_shape, dtype=torch.float64)
            g = torch.randn(3, *linear.output_shape, dtype=torch.float64)
            assert torch.allclose((linear.push(t) * g).sum(), (t * linear.pull(g)).sum())
            matrix = linear.pull_units(torch.arange(g[0].numel()), g).flatten(1)
            assert torch.allclose(linear.push(t).flatten(1), t.flatten(1) @ matrix.T)
            assert torch.allclose(linear.absolute().push(t).flatten(1), t.flatten(1) @ matrix.abs().T)
            assert torch.allclose(linear.absolute().pull(g).flatten(1), g.flatten(1) @ matrix.abs())


@pytest.mark.parametrize("name", ["reduce_max", "reduce_min", "max_pool", "max_pool_padded"])
def test_weights_of_an_extreme_add_up_to_one(name):
    """A row of equal columns cannot tell which entry won: it has no uncertainty, however many could win."""
    case = BY_HAND[name]
    shape = case.input_shapes[0][1:]
    graph = build_graph([case], {"/0": case.input_shapes[0]}, case.name)
    wide = PreactivationBounds(
        -torch.ones(2, *shape, dtype=torch.float64), torch.ones(2, *shape, dtype=torch.float64), 1e-16
    )
    layers = {step.name: classify(step, [wide]) for step in graph.factors}
    size = math.prod(case.output_shape[1:])
    rows = (
        torch.eye(size, dtype=torch.float64)
        .reshape(1, size, *case.output_shape[1:])
        .expand(2, *(-1,) * len(case.output_shape))
    )
    order = backward_order(compute_gains(graph, layers, rows, 2**20), recurjac, 2**20)
    weights = torch.ones(2, size, math.prod(shape), dtype=torch.float64)
    assert torch.allclose(order.upper_of_sum(weights), torch.ones(2, size, dtype=torch.float64))
    assert torch.allclose(order.upper_of_sum(-weights), -torch.ones(2, size, dtype=torch.float64))
    lower, upper = order.jacobian()
    assert bool((lower >= 0).all() & (upper <= 1).all() & (upper.amax(2) == 1).all())


@pytest.mark.parametrize("gap", [0.0, 8 * torch.finfo(torch.float64).eps])
@pytest.mark.parametrize("name", ["max", "min", "reduce_max", "reduce_min", "max_pool"])
def test_winners_that_rounding_could_decide_are_open(name, gap):
    """Values that differ by less than their rounding, or not at all: either of them may have won."""
    case, level = BY_HAND[name], 1.0 if gap else 0.0  # at 0 nothing is widened, and both sides of the kink remain
    graph = build_graph([case], dict(zip(case.inputs, case.input_shapes)), case.name)
    values = {i: torch.full(shape, level, dtype=torch.float64) for i, shape in zip(case.inputs, case.input_shapes)}
    values[case.inputs[-1]].flatten()[::2] += gap
    for step in graph.factors:
        known = [values[read.name] for read in step.reads]
        layer = classify(step, [PreactivationBounds(value, value, torch.full_like(value, gap)) for value in known])
        assert layer.count == math.prod(step.shape)
        assert bool((layer.lower == 0).all() & (layer.upper == 1).all())


def test_certain_winner_has_weight_one():
    case = BY_HAND["reduce_max"]
    centers = [torch.zeros(2, 5, 3, dtype=torch.float64)]
    centers[0][0, 2] = 1
    centers[0][1, 4] = 1
    lower, upper = bounds_by_hand(case, centers, 0.3)
    assert torch.equal(lower, upper)
    assert torch.equal(lower.reshape(2, 3, 5, 3)[0, 1, :, 1], torch.tensor([0, 0, 1, 0, 0], dtype=torch.float64))


def test_softmax_range_is_attained():
    """The range of each s_i is that of the softmax itself: one input low, all others high, or the reverse."""
    case = BY_HAND["softmax"]
    step = next(s for s in expand(case, {"/0": "/0"}) if isinstance(s, FactorStep))
    center = torch.randn(2, 5, dtype=torch.float64)
    low, high = center - 0.4, center + 0.7
    lower, upper = step.factor.derivative_range((low, high))
    for i in range(5):
        one = torch.zeros(5, dtype=torch.bool)
        one[i] = True
        assert torch.allclose(torch.where(one, low, high).softmax(1)[:, i], lower[:, i])
        assert torch.allclose(torch.where(one, high, low).softmax(1)[:, i], upper[:, i])
    far = step.factor.derivative_range((center - 1e4, center + 1e4))
    assert all(bool(bound.isfinite().all()) for bound in far)


REFUSED = {
    "matmul_of_vectors": node("BoundMatMul", lambda x, y: (x * y).sum(-1, keepdim=True), (2, 3), (2, 3)),
    "max_of_three": node("BoundMax", lambda x, y, z: x.maximum(y).maximum(z), (2, 3), (2, 3), (2, 3)),
    "reduce_max_over_the_batch": node("BoundReduceMax", lambda x: x.amax(0, keepdim=True).expand(2, 3), (2, 3), axis=0),
    "softmax_over_the_batch": node("BoundSoftmax", lambda x: x.softmax(0), (2, 3), axis=0),
    "max_pool_ceil": node(
        "BoundMaxPool",
        lambda x: functional.max_pool2d(x, 2, 2, ceil_mode=True),
        (2, 1, 5, 5),
        kernel_size=(2, 2),
        stride=(2, 2),
        padding=(0, 0),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused(name):
    case = REFUSED[name]
    with pytest.raises(Refusal):
        expand(case, dict(zip(case.inputs, case.inputs)))


def test_division_by_what_can_be_zero_is_refused():
    case = BY_HAND["div"]
    with pytest.raises(rj.UnsupportedError, match=r"`/out` \(Div\).*contain 0"):
        bounds_by_hand(case, [torch.ones(2, 3, dtype=torch.float64), torch.full((2, 3), 0.1, dtype=torch.float64)], 0.2)


@pytest.mark.parametrize("case", PRODUCT_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(
    "options", [{"order": "forward"}, {"order": "forward", "shift": 1}, {"order": "both"}], ids=str
)
def test_every_order(case, options):
    net, center, model = hosted(case)
    region = Ball(center, 0.2)
    for rule in rj.METHODS:
        with torch.no_grad():
            bounds = rj.jacobian_bounds(model, region.perturbed(), method=case.method(rule), **options)
        assert_encloses(bounds.lower, bounds.upper, truth(net, region), case.slack)


class Two(nn.Module):
    """A model of two inputs, of which the product is taken."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 6), head(6)

    def forward(self, x, y):
        return self.c(torch.tanh(self.a(x)) * torch.relu(self.b(y)) + self.a(x))


@pytest.fixture(scope="module")
def two():
    torch.manual_seed(0)
    net = Two().double()
    x, y = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    return net, x, y, rj.host.BoundedModule(net, (x, y))


def regions(x, y):
    return {
        "both": (Ball(x, 0.2), Ball(y, 0.1)),
        "first": (Ball(x, 0.2), Ball(y, 0.0)),
        "second": (Ball(x, 0.0), Ball(y, 0.1)),
        "norms": (Ball(x, 0.2, 2.0), Ball(y, 0.1, 1.0)),
    }


@pytest.mark.parametrize("method", rj.METHODS)
@pytest.mark.parametrize("kind", ["both", "first", "second", "norms"])
def test_several_inputs(two, kind, method):
    """The Jacobian with respect to each perturbed input; an unperturbed one may differ from sample to sample."""
    net, x, y, model = two
    first, second = regions(x, y)[kind]
    arguments = (x if kind == "second" else first.perturbed(), y if kind == "first" else second.perturbed())
    found = rj.jacobian_bounds(model, arguments, method=method)
    assert [tuple(b.lower.shape) for b in found] == [
        shape for shape, left_out in (((2, 3, 4), "second"), ((2, 3, 3), "first")) if kind != left_out
    ]
    pairs = zip(first.sample(300), second.sample(300))
    values = [torch.autograd.functional.jacobian(lambda a, b: net(a, b).sum(0), pair) for pair in pairs]
    chosen = [i for i, left_out in enumerate(("second", "first")) if kind != left_out]
    for bounds, i in zip(found, chosen):
        truth_of_input = torch.stack([v[i].transpose(0, 1) for v in values])
        assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth_of_input)


def test_several_inputs_have_one_constant_and_output_bound(two):
    net, x, y, model = two
    first, second = regions(x, y)["both"]
    arguments = (first.perturbed(), second.perturbed())
    constant = rj.local_lipschitz(model, arguments).detach()
    found = rj.jacobian_bounds(model, arguments)
    sums = sum(torch.maximum(b.lower.abs(), b.upper.abs()).sum(2) for b in found).amax(1)
    assert bool((constant <= sums * (1 + 1e-12)).all())
    lower, upper = rj.output_bounds(model, arguments, steps=3)
    outputs = torch.stack([net(a, b) for a, b in zip(first.sample(300), second.sample(300))]).detach()
    assert_encloses(lower.detach(), upper.detach(), outputs)
    mixed = (Ball(x, 0.1, 2.0).perturbed(), second.perturbed())
    for call in (rj.local_lipschitz, rj.output_bounds):
        with pytest.raises(rj.InputError, match="norms 2, inf"):
            call(model, mixed)


def test_several_inputs_through_the_host(two):
    _, x, y, model = two
    arguments = tuple(region.perturbed() for region in regions(x, y)["both"])
    rj.register()
    try:
        pairs = model.compute_jacobian_bounds(arguments, method="RecurJac")
        lower, upper = model.compute_bounds(x=arguments, method="RecurJac+CROWN")
    finally:
        rj.unregister()
    for (low, high), bounds in zip(pairs, rj.jacobian_bounds(model, arguments, method="RecurJac")):
        assert torch.equal(low, bounds.lower)
        assert torch.equal(high, bounds.upper)
    assert bool((lower <= upper).all())


def test_bad_arguments(two):
    _, x, y, model = two
    ball = Ball(x, 0.1).perturbed()
    for arguments, message in (
        ((), "tuple"),
        ((x, y), "None of the inputs is perturbed"),
        ((ball, Ball(y[:1], 0.1).perturbed()), "batch size"),
        (ball, "does not take"),
        ((ball, "y"), "str"),
    ):
        with pytest.raises(rj.InputError, match=message):
            rj.jacobian_bounds(model, arguments)


def test_an_input_that_is_not_used_is_named():
    net = Net(lambda s, x: s.a(x), a=nn.Linear(3, 2)).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    model = on_host(net, x)
    with pytest.raises(rj.InputError, match="input 1"):
        rj.jacobian_bounds(model, (Ball(x, 0.1).perturbed(), Ball(x, 0.1).perturbed()))


def test_the_hosts_missing_bounds_are_asked_for():
    """Softmax reads its input's bounds, which no other operator of the host has to."""
    net, center, model = hosted("softmax")
    bounds = rj.jacobian_bounds(model, Ball(center, 1e-9).perturbed(), method="IBP+RecurJac")
    assert torch.allclose(bounds.lower, jacobian(net, center), atol=1e-6)


def test_nodes_with_a_single_perturbed_factor_stay_linear():
    _, center, model = hosted("mul_constant")
    nodes = read_graph(model, Ball(center, 0.1).perturbed()).nodes
    assert not any(multiplies(n) for n in nodes)
