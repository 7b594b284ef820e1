"""Graphs that are kept with a model: the same values as read anew, any change noticed, and gone with the model."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import pytest
import torch
from cases import CASES, hosted, on_host, parametrized
from oracle import Ball
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm, problem
from recurjac_plugin.host.problem import read
from recurjac_plugin.host.read import read_graph


@pytest.fixture
def readings(monkeypatch):
    """How often a graph was really read, as the length of a list."""
    found = []

    def counted(*arguments):
        found.append(arguments)
        return read_graph(*arguments)

    monkeypatch.setattr(problem, "read_graph", counted)
    return found


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.LeakyReLU(0.1), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)
    )


def small(dtype=torch.float64):
    net = network().to(dtype).eval()
    x = torch.rand(4, 3, dtype=dtype)
    return net, on_host(net, x), BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.1))


def jacobian(model, x):
    with torch.no_grad():
        bounds = rj.jacobian_bounds(model, x, method="RecurJac-Linear")
    return torch.stack(tuple(bounds[0] if isinstance(x, tuple) else bounds))


def read_anew(model, x):
    """What follows from a graph that nobody has kept."""
    problem._kept.pop(model, None)
    return jacobian(model, x)


@parametrized(CASES)
@torch.no_grad()
def test_kept_graphs_have_the_values_of_those_that_are_read(case, readings):
    _, center, model = hosted(case.name, 2)
    problem._kept.pop(model, None)
    for shift in (0.0, 0.01, 0.02):
        x = Ball(center + shift, 0.01).perturbed()
        own, fresh = read(model, x).host_graph, read_graph(model, x)
        assert torch.equal(own.output, fresh.output)
        assert own.values.keys() == fresh.values.keys()
        assert all(torch.equal(own.values[name], fresh.values[name]) for name in fresh.values)
        assert [node.name for node in own.nodes] == [node.name for node in fresh.nodes]
        assert own.inputs == fresh.inputs
    assert len(readings) == 1


def test_a_graph_is_read_once_for_every_shape(readings):
    _, model, x = small()
    with torch.no_grad():
        steps = [read(model, x).graph for _ in range(3)]
        assert steps[0] is steps[1] is steps[2]
        assert len(readings) == 1
        y = BoundedTensor(torch.rand(2, 3, dtype=torch.float64), PerturbationLpNorm(norm=2, eps=0.1))
        assert read(model, y).graph is read(model, y).graph
        assert len(readings) == 2
        for batch in range(1, 40):
            read(model, BoundedTensor(torch.rand(batch, 3, dtype=torch.float64), PerturbationLpNorm(norm=2, eps=0.1)))
    assert len(problem._kept[model].graphs) <= problem._SHAPES


def test_graphs_go_with_their_model():
    _, model, x = small()
    jacobian(model, x)
    reference, entry = weakref.ref(model), weakref.ref(problem._kept[model])
    del model
    gc.collect()
    assert reference() is None
    assert entry() is None


def written_through_data(net, model):
    net[0].weight.data.mul_(1.5)


def written_in_place(net, model):
    with torch.no_grad():
        net[3].weight[0, 0] += 1


def one_bias(net, model):
    with torch.no_grad():
        net[5].bias[1] += 1e-6
        net[3].bias[0] -= 3


def loaded(net, model):
    torch.manual_seed(8)
    net.load_state_dict(
        {key: torch.rand_like(value) if value.is_floating_point() else value for key, value in net.state_dict().items()}
    )


def statistics(net, model):
    net[1].running_var.mul_(4)
    held = [node.buffer for node in model._modules.values() if hasattr(node, "buffer")]
    for buffer in held:  # the host has copies of some
        if buffer.data_ptr() != net[1].running_var.data_ptr() and torch.equal(buffer * 4, net[1].running_var):
            buffer.mul_(4)


@pytest.mark.parametrize("change", [written_through_data, written_in_place, one_bias, loaded, statistics])
def test_changed_weights_are_noticed(change):
    net, model, x = small()
    before = jacobian(model, x)
    assert torch.equal(before, jacobian(model, x))
    change(net, model)
    after = jacobian(model, x)
    assert not torch.equal(before, after)
    assert torch.equal(after, read_anew(model, x))


def test_another_type_is_noticed():
    net, model, x = small(torch.float32)
    single = jacobian(model, x)
    net.double()
    model.double()
    x = BoundedTensor(x.double().as_subclass(torch.Tensor), x.ptb)
    double = jacobian(model, x)
    assert double.dtype == torch.float64
    assert torch.equal(double, jacobian(on_host(copy.deepcopy(net), x), x))
    assert torch.allclose(single.double(), double, atol=1e-5)


def test_changed_attributes_modes_options_and_tables_are_noticed(readings, monkeypatch):
    _, model, x = small()
    nodes = [*model._modules.values()]
    changes = [
        lambda: setattr(nodes[-1], "mark", 1.0),
        lambda: setattr(nodes[-1], "mark", 2.0),
        lambda: setattr(nodes[-1], "marks", [1, 2]),
        lambda: nodes[-1].marks.append(3),
        lambda: setattr(nodes[-1], "training", not nodes[-1].training),
        lambda: model.bound_opts.update(mark=True),
        lambda: monkeypatch.setitem(ACTIVATIONS, "BoundMark", ACTIVATIONS["BoundTanh"]),
    ]
    with torch.no_grad():
        read(model, x)
        for count, change in enumerate(changes, 2):
            change()
            read(model, x)
            assert len(readings) == count
            read(model, x)
            assert len(readings) == count


class Two(nn.Module):
    """Two inputs, of which the second scales the first layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, y):
        return self.b(torch.tanh(self.a(x) * y))


def test_plain_arguments_are_constants_of_one_call():
    torch.manual_seed(2)
    net, x, y = Two(), torch.rand(2, 3), torch.rand(2, 4)
    model = BoundedModule(net, (x, y))
    ball = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.1))
    first = jacobian(model, (ball, y))
    second = jacobian(model, (ball, 2 * y))
    assert not torch.equal(first, second)
    assert torch.equal(second, jacobian(BoundedModule(net, (x, y)), (ball, 2 * y)))
    y.mul_(3)
    assert torch.equal(jacobian(model, (ball, y)), jacobian(BoundedModule(net, (x, y)), (ball, y)))


def test_nothing_is_kept_while_gradients_are_wanted():
    net, model, x = small()
    for _ in range(2):
        net.zero_grad()
        lower, upper = rj.jacobian_bounds(model, x)
        (upper - lower).sum().backward()
        assert float(net[0].weight.grad.abs().sum()) > 0
    assert model not in problem._kept


def test_large_networks_are_read_anew(readings, monkeypatch):
    _, model, x = small()
    monkeypatch.setattr(problem, "_WEIGHTS", 10)
    with torch.no_grad():
        read(model, x)
        read(model, x)
    assert len(readings) == 2


def test_nodes_that_give_something_else_are_not_kept(readings, monkeypatch):
    """They are evaluated by themselves once, to see it."""
    _, model, x = small()
    evaluations, own = [], problem._evaluated

    def wrong(*arguments):
        evaluations.append(own(*arguments))
        evaluations[-1].output.add_(1e-12)
        return evaluations[-1]

    monkeypatch.setattr(problem, "_evaluated", wrong)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(read(model, x).host_graph.output, read_graph(model, x).output)
    assert (len(readings), len(evaluations)) == (3, 1)
