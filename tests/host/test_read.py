"""Reading the host's graph: plain nodes, values at the centres, and nothing left behind in the model."""

from __future__ import annotations

import math

import pytest
import torch
from cases import hosted, on_host
from oracle import Ball
from torch import nn

from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.graph.node import Node
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read, specification
from recurjac_plugin.host.read import plain_nodes, read_graph, topological
from recurjac_plugin.host.state import evaluated, preserved


class Two(nn.Module):
    """Two inputs, of which the second may stay a plain tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x, y):
        return torch.relu(self.a(x) + self.b(y))


def two():
    torch.manual_seed(1)
    net = Two()
    x, y = torch.randn(2, 3), torch.randn(2, 2)
    return net, BoundedModule(net, (torch.zeros_like(x), torch.zeros_like(y))), x, y


def ball(x, norm=math.inf):
    return BoundedTensor(x, PerturbationLpNorm(norm=norm, eps=0.1))


def states(model):
    """Everything that the host keeps in a model and its nodes, by identity; containers by what is in them."""

    def kept(value):
        if isinstance(value, dict):
            return {key: id(each) for key, each in value.items()}
        return [id(each) for each in value] if isinstance(value, (list, set)) else id(value)

    return [{key: kept(value) for key, value in vars(each).items()} for each in model.modules()]


@pytest.mark.parametrize("name", ["relu", "mixed"])
def test_nodes_are_plain_and_in_topological_order(name):
    net, center, model = hosted(name)
    graph = read_graph(model, Ball(center, 0.1).perturbed())
    known = set(graph.inputs)
    for node in graph.nodes:
        assert type(node) is Node
        assert any(node.perturbed)
        for source, perturbed, constant in zip(node.inputs, node.perturbed, node.constants, strict=True):
            assert perturbed == (source in known)
            assert (constant is None) or not perturbed
        known.add(node.name)
    assert graph.output_name == graph.nodes[-1].name
    with torch.no_grad():
        assert torch.allclose(graph.output, net(center))


def test_values_are_those_at_the_centre():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    graph = read_graph(on_host(net, x), ball(x))
    with torch.no_grad():
        hidden = net[0](x)
    assert any(torch.allclose(value, hidden) for name, value in graph.values.items() if name not in graph.inputs)
    assert set(graph.values) == {*graph.inputs, *(node.name for node in graph.nodes)}
    rows = torch.randn(2, 5, 2, dtype=torch.float64)
    assert torch.allclose(graph.specified(rows), torch.einsum("bkn,bn->bk", rows, net(x)))


@pytest.mark.parametrize("perturbation", ["plain", "bounded"])
def test_nothing_is_left_behind_in_the_model(perturbation):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(2, 3)
    model = on_host(net, x)
    if perturbation == "bounded":  # a user has bounded something before
        model.compute_bounds(x=(ball(x),), method="CROWN")
    before = states(model)
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    read(model, ball(x + 1))
    assert states(model) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable


def test_a_failure_leaves_nothing_behind_either():
    model = on_host(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3))
    before = states(model)
    with pytest.raises(InputError, match="does not take an input of shape"):
        read(model, ball(torch.zeros(1, 5)))
    assert states(model) == before


def test_several_inputs_are_read_in_the_order_of_the_arguments():
    net, model, x, y = two()
    problem = read(model, (ball(x), ball(y)))
    assert list(problem.host_graph.inputs.values()) == [(2, 3), (2, 2)]
    assert problem.region.columns == 5
    with torch.no_grad():
        assert torch.allclose(problem.host_graph.output, net(x, y))
    only = read(model, (x, ball(y)))
    assert list(only.host_graph.inputs.values()) == [(2, 2)]
    assert only.graph.columns == 2
    assert all(not any(node.perturbed) or node.name != "x" for node in only.host_graph.nodes)


def test_a_problem_is_shrunk_without_being_read_again():
    _, model, x, y = two()
    problem = read(model, (ball(x), y))
    half = problem.shrunk(0.5)
    assert half.host_graph is problem.host_graph
    assert torch.equal(half.region.radius, 0.5 * problem.region.radius)
    assert half.region.center is problem.region.center


def test_an_input_without_influence_is_named():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x, y):
            return torch.relu(self.a(x))

    x = torch.randn(2, 3)
    model = BoundedModule(First(), (x, x))
    with pytest.raises(InputError, match="does not depend on its perturbed input"):
        read(model, (x, ball(x)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_must_be_finite(bad):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[0, 0] = bad
    x = torch.randn(2, 3)
    with pytest.raises(InputError, match="NaN or infinite"):
        read(on_host(net, x), ball(x))


def test_operators_without_a_rule_are_refused_when_steps_are_asked_for(monkeypatch):
    x = torch.randn(2, 3)
    model = on_host(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), x)
    monkeypatch.delitem(ACTIVATIONS, "BoundTanh")
    problem = read(model, ball(x))
    with pytest.raises(UnsupportedError, match="Tanh"):
        _ = problem.graph


def test_the_matrix_of_rows_has_one_shape():
    output = torch.randn(2, 3)
    assert torch.equal(specification(None, output), torch.eye(3).expand(2, -1, -1))
    one = torch.randn(1, 4, 3)
    assert torch.equal(specification(one, output), one.expand(2, -1, -1))
    image = torch.randn(2, 3, 2)
    assert specification(torch.randn(2, 4, 6), image).shape == (2, 4, 3, 2)
    for wrong in (torch.randn(4, 3), torch.randn(3, 4, 3), torch.randn(1, 4, 2), torch.randn(1, 4, 3).double()):
        with pytest.raises(InputError, match="`C`"):
            specification(wrong, output)
    with pytest.raises(InputError, match="NaN"):
        specification(torch.full((1, 1, 3), math.nan), output)


def test_topological_order_of_several_nodes():
    model = on_host(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3))
    final = model.final_node()
    order = topological(final)
    place = {node.name: i for i, node in enumerate(order)}
    assert order[-1] is final
    assert all(place[source.name] < place[node.name] for node in order for source in node.inputs)
    assert [node.name for node in topological(final, order[0])] == [node.name for node in order]


def test_plain_nodes_take_their_shapes_from_given_values():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    x = torch.randn(2, 3)
    model = on_host(net, x)
    with preserved(model):
        model.forward(x)
        order = topological(model.final_node())
        names = {node.name for node in order}
        values = {node.name: model.get_forward_value(node) for node in order}
        values |= {name: value[:1].expand(7, *value.shape[1:]) for name, value in values.items()}
        nodes = plain_nodes([node for node in order if node.inputs], {}, names, values)
    assert all(node.output_shape[0] == 7 for node in nodes)
    assert [node.kind for node in nodes][-1] == "BoundRelu"


def test_evaluation_gives_the_values_of_named_nodes():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    model = on_host(net, x)
    names = [node.name for node in read(model, ball(x)).host_graph.nodes][:1]
    with preserved(model):
        output, values = evaluated(model, x, names)
    assert torch.allclose(output, net(x)) and not output.requires_grad
    assert torch.allclose(values[names[0]], net[0](x))
