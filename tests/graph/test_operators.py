"""The operator table: every row is the linear part of its node, push and pull are transposes, and batches never mix."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Constants, Net, hosted, on_host, parametrized
from oracle import Ball, assert_encloses, truth
from torch import nn
from torch.nn import functional

import recurjac_plugin as rj
from recurjac_plugin.graph.linear_maps import Scale
from recurjac_plugin.graph.node import Node
from recurjac_plugin.graph.operators import OPERATORS, Refusal
from recurjac_plugin.graph.products import multiplies
from recurjac_plugin.host.read import read_graph


def node(kind, forward, *inputs, perturbed=(True,), training=False, **attributes):
    """A node by hand. `inputs`: the shape of a perturbed input, batch included, or a constant."""
    perturbed = perturbed + (False,) * (len(inputs) - len(perturbed))
    constants = tuple(None if p else value for p, value in zip(perturbed, inputs))
    shapes = tuple(tuple(value) if p else tuple(value.shape) for p, value in zip(perturbed, inputs))
    example = [torch.zeros(s, dtype=torch.float64) if c is None else c for s, c in zip(shapes, constants)]
    return Node(
        name=f"/{kind}",
        kind=kind,
        inputs=tuple(f"/{i}" for i in range(len(inputs))),
        perturbed=perturbed,
        constants=constants,
        input_shapes=shapes,
        output_shape=tuple(forward(*example).shape),
        attributes=attributes,
        training=training,
        forward=forward,
    )


def convolution(n, transposed=False, groups=1, output_padding=0, **options):
    """A convolution in n dimensions over 4 channels of side 6, to 6 channels."""
    name = f"conv_transpose{n}d" if transposed else f"conv{n}d"
    generator = torch.Generator().manual_seed(n)
    shape = (4, 6 // groups) if transposed else (6, 4 // groups)
    weight = torch.randn(*shape, *(3,) * n, generator=generator, dtype=torch.float64)
    options = {key: (value,) * n for key, value in {"stride": 1, "padding": 0, "dilation": 1, **options}.items()}
    extra = {"output_padding": (output_padding,) * n} if transposed else {}

    def forward(x, w):
        return getattr(functional, name)(x, w, None, groups=groups, **options, **extra)

    kind = "BoundConvTranspose" if transposed else "BoundConv"
    return node(kind, forward, (2, 4, *(6,) * n), weight, groups=groups, **options, **extra)


def constant(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64) + 0.5


BY_HAND = {
    **{f"conv{n}d": convolution(n, stride=2, padding=1, groups=2) for n in (1, 2, 3)},
    "conv3d_dilation": convolution(3, dilation=2, padding=1),
    "conv2d_unseen_border": convolution(2, stride=4),
    **{f"conv_transpose{n}d": convolution(n, True, stride=2, padding=1, output_padding=1, groups=2) for n in (1, 2, 3)},
    "conv_transpose2d_dilation": convolution(2, True, dilation=2),
    "pad": node(
        "BoundPad",
        lambda x, p: functional.pad(x, (1, 2, 0, 1), value=0.5),
        (2, 3, 4, 4),
        torch.tensor([0, 0, 0, 1, 0, 0, 1, 2]),
    ),
    "concat_from_sequence": node(
        "BoundConcatFromSequence",
        lambda c, x: torch.cat((c, x), -1),
        constant(2, 3, 2),
        (2, 3, 4),
        perturbed=(False, True),
        axis=-1,
    ),
    "concat_second": node(
        "BoundConcat", lambda c, x: torch.cat((c, x), 1), constant(2, 3), (2, 4), perturbed=(False, True), axis=1
    ),
    "dropout": node("BoundDropout", lambda x: x, (2, 4)),
    "identity": node("BoundIdentity", lambda x: x.clone(), (2, 4)),
    "cast": node("BoundCast", lambda x: x.to(torch.float64), (2, 4), type=torch.float64),
    "div": node("BoundDiv", lambda x, c: x / c, (2, 3, 4), constant(3, 1)),
    "mul_left": node("BoundMul", lambda c, x: c * x, constant(1, 4), (2, 3, 4), perturbed=(False, True)),
    "mul_by_number": node("BoundMul", lambda x, c: x * c, (2, 4), torch.tensor(3.0, dtype=torch.float64)),
    "mul_up": node("BoundMul", lambda x, c: x * c, (2, 1, 4), constant(3, 1)),
    "sub_right": node("BoundSub", lambda c, x: c - x, constant(3, 4), (2, 1, 4), perturbed=(False, True)),
    "unflatten": node("BoundATenUnflatten", lambda x: x.unflatten(1, (2, 3)), (2, 6)),
    "expand": node("BoundExpand", lambda x: x.expand(2, 3, 4), (2, 1, 4)),
    "split": node("BoundSplit", lambda x: x.split([1, 3], 1)[1], (2, 4)),
    "gather_repeated": node("BoundGather", lambda x, i: x[:, i], (2, 4), torch.tensor([2, 0, 2])),
    "global_average_pool": node("BoundGlobalAveragePool", lambda x: functional.adaptive_avg_pool2d(x, 1), (2, 3, 4, 4)),
    "gemm_alpha": node(
        "BoundLinear", lambda x, w, b: 2.0 * x @ w + b, (2, 4), constant(4, 3), constant(3), transB=0, alpha_linear=2.0
    ),
    "matmul_left": node("BoundMatMul", lambda c, x: c @ x, constant(1, 2, 3), (2, 3, 4), perturbed=(False, True)),
}


def assert_linear_part(graph_node, position):
    """Push and pull are transposes of each other, and pull is the vector-Jacobian product of the node's function."""
    linear = OPERATORS[graph_node.kind](graph_node, position)
    assert linear.input_shape == graph_node.input_shapes[position][1:]
    assert linear.output_shape == graph_node.output_shape[1:]
    t = torch.randn(graph_node.input_shapes[position], dtype=torch.float64)
    g = torch.randn(graph_node.output_shape, dtype=torch.float64)
    pushed, pulled = linear.push(t), linear.pull(g)
    assert pushed.shape == g.shape
    assert pulled.shape == t.shape
    slack = 1e-6 if graph_node.kind == "BoundCast" else 1e-12  # through another type
    assert torch.allclose((pushed * g).sum().double(), (t * pulled).sum(), rtol=slack, atol=10 * slack)

    def function(x):
        return graph_node.forward(
            *(
                x if i == position else torch.zeros(shape, dtype=torch.float64) if value is None else value
                for i, (shape, value) in enumerate(zip(graph_node.input_shapes, graph_node.constants))
            )
        )

    expected = torch.autograd.functional.vjp(function, torch.randn_like(t), g)[1]
    assert torch.allclose(pulled, expected, rtol=slack, atol=slack)
    index = torch.randint(linear.pull(g)[0].numel() and g[0].numel(), (3,))
    units = torch.zeros(3, g[0].numel(), dtype=torch.float64).scatter(1, index[:, None], 1.0)
    assert torch.allclose(linear.pull_units(index, g), linear.pull(units.reshape(3, *g.shape[1:])))


def operator_nodes(case):
    _, center, model = hosted(case)
    nodes = read_graph(model, Ball(center, 0.1).perturbed()).nodes
    return [n for n in nodes if n.kind in OPERATORS and any(n.perturbed) and not multiplies(n)]


@parametrized()
def test_linear_part_of_the_hosts_nodes(case):
    for graph_node in operator_nodes(case):
        for position, perturbed in enumerate(graph_node.perturbed):
            if perturbed:
                assert_linear_part(graph_node, position)


@pytest.mark.parametrize("name", BY_HAND)
def test_linear_part_of_nodes_by_hand(name):
    assert_linear_part(BY_HAND[name], BY_HAND[name].perturbed.index(True))


def test_every_row_of_the_table_is_exercised():
    found = {graph_node.kind for graph_node in BY_HAND.values()}
    for case in CASES:
        if case.reason is None:
            found |= {graph_node.kind for graph_node in operator_nodes(case)}
    assert sorted(set(OPERATORS) - found) == []


X, W = (2, 3), constant(4, 3)
REFUSED = {
    "gemm_weight": (
        node("BoundLinear", lambda x, w: x @ w.T, constant(2, 3), (4, 3), perturbed=(False, True), transB=1),
        1,
    ),
    "gemm_trans_a": (node("BoundLinear", lambda x, w: x.T @ w, (2, 2), constant(2, 3), transA=1), 0),
    "matmul_both": (node("BoundMatMul", torch.matmul, X, (3, 4), perturbed=(True, True)), 0),
    "matmul_over_the_batch": (node("BoundMatMul", torch.matmul, constant(2, 2), (2, 3), perturbed=(False, True)), 1),
    "matmul_per_sample": (node("BoundMatMul", torch.matmul, (2, 3, 4), constant(2, 4, 3)), 0),
    "mul_both": (node("BoundMul", torch.mul, X, X, perturbed=(True, True)), 0),
    "mul_per_sample": (node("BoundMul", torch.mul, X, constant(2, 3)), 0),
    "div_by_perturbed": (node("BoundDiv", torch.div, constant(3), X, perturbed=(False, True)), 1),
    "div_both": (node("BoundDiv", torch.div, X, X, perturbed=(True, True)), 0),
    "batch_norm_training": (
        node("BoundBatchNormalization", lambda x, *p: x, X, *[constant(3)] * 4, training=True, eps=1e-5),
        0,
    ),
    "dropout_training": (node("BoundDropout", lambda x: x, X, training=True), 0),
    "concat_batch": (
        node("BoundConcat", lambda x, y: torch.cat((x, y), 0)[:2], X, X, perturbed=(True, True), axis=0),
        0,
    ),
    "cast_to_int": (node("BoundCast", lambda x: x.to(torch.int64), X, type=torch.int64), 0),
    "sum_over_batch": (node("BoundReduceSum", lambda x: x.sum(0, keepdim=True).expand(2, 3), X), 0),
    "transpose_batch": (node("BoundTranspose", lambda x: x.transpose(0, 1), (2, 2)), 0),
    "gather_batch": (node("BoundGather", lambda x, i: x[i], X, torch.tensor([1, 0])), 0),
    "mean_over_batch": (node("BoundReduceMean", lambda x: x - x + x.mean(0, keepdim=True), X), 0),
    "add_across_batch": (node("BoundAdd", torch.add, (2, 3), constant(2, 1, 3)), 0),
    "sub_across_batch": (node("BoundSub", torch.sub, (2, 1, 3), (2, 3), perturbed=(True, True)), 1),
    "expand_across_batch": (node("BoundExpand", lambda x: x.expand(2, 2, 3), (2, 3)), 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_linear_per_sample_is_refused(name):
    graph_node, position = REFUSED[name]
    with pytest.raises(Refusal):
        OPERATORS[graph_node.kind](graph_node, position)


MIXING = {
    "transpose": (lambda: Net(lambda s, x: s.a(x).transpose(0, 1), a=nn.Linear(3, 2)), (3,)),
    "add": (lambda: Constants(lambda s, x: (s.a(x) + s.b).flatten(1), {"b": (2, 1, 4)}, a=nn.Linear(3, 4)), (3,)),
}


@pytest.mark.parametrize("name", MIXING)
def test_networks_that_mix_their_batch_are_refused(name):
    """With two samples the shapes look right; a bound per sample would be wrong."""
    build, shape = MIXING[name]
    x = torch.randn(2, *shape, dtype=torch.float64)
    model = on_host(build().double(), x)
    with pytest.raises(rj.UnsupportedError):
        rj.jacobian_bounds(model, Ball(x, 0.1).perturbed(), method="IBP+RecurJac")


def test_all_unsupported_nodes_are_in_one_error():
    class Unsupported(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            y = self.a(x)
            return torch.heaviside(y, torch.zeros_like(y)) + y.cumsum(1)

    x = torch.zeros(2, 4)
    with pytest.raises(rj.UnsupportedError) as error:
        rj.jacobian_bounds(on_host(Unsupported(), x), Ball(x, 0.1).perturbed())
    assert len(error.value.offenders) == 2
    for reason in ("CumSum): no rule", "Heaviside): piecewise constant"):
        assert reason in str(error.value)


def test_unsupported_nodes_off_the_path_do_not_matter():
    net = Constants(lambda s, x: s.a(x).relu() * s.k.exp().sin(), {"k": (4,)}, a=nn.Linear(3, 4)).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    region = Ball(x, 0.3)
    bounds = rj.jacobian_bounds(on_host(net, x), region.perturbed(), method="IBP+RecurJac")
    assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region))


def test_registering_an_operator():
    """A cumulative sum is not twice its input: a wrong rule is enough to see that the table is what is asked."""
    x = torch.zeros(2, 4, dtype=torch.float64)
    model = on_host(nn.Sequential(nn.Linear(4, 3), Net(lambda s, x: x.cumsum(1))).double(), x)
    call = lambda: rj.jacobian_bounds(model, Ball(x, 0.1).perturbed())  # noqa: E731
    with pytest.raises(rj.UnsupportedError, match="CumSum"):
        call()
    rj.register_operator(
        "BoundCumSum",
        lambda n, p: Scale(torch.tensor(2.0, dtype=torch.float64), n.input_shapes[p][1:], n.output_shape[1:]),
    )
    try:
        weight = dict(model.named_parameters())["0.weight"]
        assert torch.allclose(call().upper, 2 * weight.expand(2, 3, 4))
        with pytest.raises(rj.InputError, match="BoundCumSum"):
            rj.register_operator("BoundCumSum", OPERATORS["BoundNeg"])
    finally:
        rj.unregister_operator("BoundCumSum")
    with pytest.raises(rj.UnsupportedError, match="CumSum"):
        call()
    with pytest.raises(rj.InputError, match="BoundCumSum"):
        rj.unregister_operator("BoundCumSum")
    with pytest.raises(rj.InputError, match="BoundLinear"):
        rj.register_operator("BoundLinear", OPERATORS["BoundNeg"])
