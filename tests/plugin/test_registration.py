"""RecurJac as method names of the host: answered where meant, the rest untouched, and undone without a trace."""

from __future__ import annotations

import copy
import importlib
import math

import pytest
import torch
from cases import hosted
from oracle import Ball, assert_encloses, outputs, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule
from recurjac_plugin.jacobian import methods

NAMES = [*rj.METHODS, "recurjac", "IBP+RecurJac", "crown-ibp+recurjac-linear", "CROWN+Fast-Lip", "RecurJac+CROWN"]


def class_state():
    return dict(vars(BoundedModule))


@pytest.fixture
def problem():
    net, center, model = hosted("relu")
    return net, model, Ball(center, 0.1)


def test_register_is_idempotent_and_unregister_leaves_no_trace():
    before = class_state()
    rj.unregister()  # nothing to undo: nothing happens
    assert class_state() == before
    rj.register()
    once = class_state()
    rj.register()
    assert class_state() == once
    assert {name for name in once if once[name] is not before.get(name)} == {
        "__init__",
        "_convert_nodes",
        "check_incompatible_nodes",
        "compute_bounds",
        "compute_jacobian_bounds",
        *(["check_IBP_intermediate"] if IS_03 else []),
    }
    rj.unregister()
    assert class_state() == before
    assert list(vars(BoundedModule)) == list(before) or IS_03
    rj.unregister()
    assert class_state() == before


def test_importing_registers_nothing():
    assert "recurjac_plugin" not in BoundedModule.compute_bounds.__module__


@pytest.mark.usefixtures("registered")
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_output_bounds_by_name(problem, name):
    net, model, region = problem
    C = torch.randn(2, 4, 3, dtype=torch.float64)
    x = region.perturbed()
    for rows in (None, C):
        lower, upper = model.compute_bounds(x=(x,), method=name, C=rows)
        expected = rj.output_bounds(model, x, method=name, C=rows)
        assert torch.equal(lower, expected[0])
        assert torch.equal(upper, expected[1])
        assert_encloses(lower, upper, outputs(net, region.sample(200), rows))
        only_lower = model.compute_bounds(x=(x,), method=name, C=rows, bound_upper=False)
        only_upper = model.compute_bounds(x=(x,), method=name, C=rows, bound_lower=False)
        assert torch.equal(only_lower[0], lower)
        assert only_lower[1] is None
        assert only_upper[0] is None
        assert torch.equal(only_upper[1], upper)
        assert torch.equal(model.compute_bounds(x, method=name, C=rows)[0], lower)  # a bare tensor, as the host takes


@pytest.mark.usefixtures("registered")
@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NAMES if name != "RecurJac+CROWN"])
def test_jacobian_bounds_by_name(problem, name):
    net, model, region = problem
    for x in (region.perturbed(), (region.perturbed(),)):
        lower, upper = model.compute_jacobian_bounds(x, method=name)
        assert lower.shape == (2, 3, 5)
        assert_encloses(lower, upper, truth(net, region))


@pytest.mark.parametrize("method", ["IBP", "CROWN", "CROWN-IBP", "alpha-CROWN", "backward", None])
def test_other_methods_go_to_the_host_untouched(problem, method):
    _, model, region = problem
    options = {} if method is None else {"method": method}
    torch.set_default_dtype(torch.float64)
    try:
        expected = model.compute_bounds(x=(region.perturbed(),), **options)
        rj.register()
        try:
            found = model.compute_bounds(x=(region.perturbed(),), **options)
        finally:
            rj.unregister()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.usefixtures("registered")
def test_the_host_is_called_with_what_the_user_wrote(monkeypatch, problem):
    """Arguments of other methods pass through as they are, positional ones and options included."""
    rj.unregister()
    seen = []
    monkeypatch.setattr(BoundedModule, "compute_bounds", lambda self, *args, **kwargs: seen.append((args, kwargs)))
    # The signature of the original decides how a call is read.
    monkeypatch.setattr(BoundedModule.compute_bounds, "__signature__", _signature(), raising=False)
    rj.register()
    _, model, _ = problem
    model.compute_bounds("x", "aux", method="CROWN", IBP=True, bound_upper=False)
    assert seen == [(("x", "aux"), {"method": "CROWN", "IBP": True, "bound_upper": False})]
    rj.unregister()


def _signature():
    import inspect

    from recurjac_plugin.preactivations.host import _HOST_COMPUTE_BOUNDS

    return inspect.signature(_HOST_COMPUTE_BOUNDS)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    "name",
    [
        "RecurJac2",
        "RecurJac-Quadratic",
        "FOO+RecurJac",
        "RecurJac+IBP",
        "Fast-Lipschitz",
        "RecurJac+CROWN+CROWN",
        "RecurJac+",
    ],
)
def test_unknown_names_are_refused_and_the_known_listed(problem, name):
    _, model, region = problem
    calls = [
        lambda: model.compute_bounds(x=(region.perturbed(),), method=name),
        lambda: model.compute_jacobian_bounds(region.perturbed(), method=name),
        lambda: rj.output_bounds(model, region.perturbed(), method=name),
        lambda: rj.jacobian_bounds(model, region.perturbed(), method=name),
        lambda: rj.local_lipschitz(model, region.perturbed(), method=name),
    ]
    for call in calls:
        with pytest.raises(rj.MethodError) as error:
            call()
        for known in (*rj.METHODS, *methods.HOST_METHODS, name):
            assert known in str(error.value)


@pytest.mark.usefixtures("registered")
def test_host_options_that_would_be_ignored_are_refused(problem):
    _, model, region = problem
    with pytest.raises(rj.InputError, match="return_A"):
        model.compute_bounds(x=(region.perturbed(),), method="RecurJac", return_A=True)
    with pytest.raises(rj.InputError, match="bound_lower"):
        model.compute_bounds(x=(region.perturbed(),), method="RecurJac", bound_lower=False, bound_upper=False)
    with pytest.raises(rj.InputError, match="input 1"):
        model.compute_bounds(x=(region.perturbed(), region.perturbed()), method="RecurJac")
    for option, reason in (
        ({"return_A": True, "needed_A_dict": {}}, "no coefficients A"),
        ({"reference_bounds": {}}, "not taken from outside"),
        ({"IBP": True}, "`IBP\\+RecurJac`"),
    ):
        with pytest.raises(rj.InputError, match=reason):
            model.compute_bounds(x=(region.perturbed(),), method="RecurJac", **option)


@pytest.mark.usefixtures("registered")
def test_inputs_may_be_left_out_in_a_later_call():
    """As with the host: those of the last call are taken, whoever answered it."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    model = BoundedModule(net, x)
    with pytest.raises(rj.InputError, match="`x` was left out, but the model has no perturbed input"):
        model.compute_bounds(method="RecurJac")
    wide, small, other = (Ball(center, eps).perturbed() for center, eps in ((x, 0.2), (x, 0.1), (x[:1] + 1, 0.3)))

    def bounds(method="RecurJac", **options):
        return torch.stack(model.compute_bounds(method=method, **options))

    expected = {each: bounds(x=(each,)) for each in (wide, small, other)}
    assert len({float(each.detach()[1].sum()) for each in expected.values()}) == 3
    for each in (wide, small, wide, other):
        model(each)  # the host's own call
        assert torch.equal(bounds(), expected[each])
        assert torch.equal(bounds(), expected[each])
    bounds(x=(small,))
    assert torch.equal(bounds(), expected[small])
    assert torch.equal(bounds(C=torch.eye(3).double().expand(2, -1, -1)), expected[small])
    bounds("CROWN", x=(wide,))
    assert torch.equal(bounds(), expected[wide])


@pytest.mark.usefixtures("registered")
def test_jacobian_bounds_without_a_method(problem):
    _, model, region = problem
    said = "no Jacobian bounds of its own" if IS_03 else "this model has none"
    for options in ({}, {"optimize": False}, {"labels": None}):
        with pytest.raises(rj.MethodError, match=f"{said}; name a method, e.g. `method='RecurJac'`, got None"):
            model.compute_jacobian_bounds(region.perturbed(), **options)


@pytest.mark.usefixtures("registered")
def test_norms_that_are_no_numbers_are_refused(problem):
    x = problem[2].perturbed()
    for norm in ("inf", "2", 0.5):
        with pytest.raises(
            rj.InputError, match="`norm` must be a number of at least 1, or `float\\('inf'\\)` for boxes"
        ):
            rj.host.PerturbationLpNorm(0.1, norm=norm)
    assert rj.host.PerturbationLpNorm(0.1, norm=1).norm == 1
    rj.unregister()
    assert rj.host.PerturbationLpNorm(norm=0.5, eps=0.1).norm == 0.5
    assert x.ptb.norm == math.inf


@pytest.mark.usefixtures("registered")
def test_perturbed_weights_are_refused(problem):
    network, _, region = problem
    network = copy.deepcopy(network)
    weights = importlib.import_module("auto_LiRPA").BoundedParameter
    perturbation = rj.host.PerturbationLpNorm(norm=math.inf, eps=0.01)
    network[0].weight = weights(network[0].weight.data, perturbation)
    model = BoundedModule(network, region.center)
    with pytest.raises(rj.UnsupportedError, match=r"\(Params\)\. Perturbed weights are not supported"):
        rj.jacobian_bounds(model, region.perturbed())


@pytest.mark.usefixtures("registered")
def test_dropout_in_evaluation_is_nothing(problem):
    net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout1d(), nn.Linear(6, 2))
    net = net.double().eval()
    nn.init.normal_(net[2].running_mean)
    region = Ball(torch.randn(1, 4, dtype=torch.float64), 0.1)
    model = BoundedModule(net, region.center)
    bounds = rj.jacobian_bounds(model, region.perturbed())
    assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region))


@pytest.mark.parametrize("name", ["IBP", "crown", "CROWN-Optimized"])
def test_methods_of_the_host_alone_bound_outputs_only(problem, name):
    net, model, region = problem
    lower, upper = rj.output_bounds(model, region.perturbed(), method=name)
    assert_encloses(lower.detach(), upper.detach(), outputs(net, region.sample(200)))
    for call in (rj.jacobian_bounds, rj.local_lipschitz):
        with pytest.raises(rj.MethodError, match="RecurJac"):
            call(model, region.perturbed(), method=name)


@pytest.mark.parametrize(
    ("name", "rule", "host", "intersected"),
    [
        ("RECURJAC", "RecurJac", "CROWN", False),
        ("fast-lip", "Fast-Lip", "CROWN", False),
        ("ibp+recurjac-linear", "RecurJac-Linear", "IBP", False),
        ("CROWN-IBP+Fast-Lip", "Fast-Lip", "CROWN-IBP", False),
        ("Alpha-Crown+RecurJac+CROWN", "RecurJac", "alpha-CROWN", True),
        ("RecurJac+crown", "RecurJac", "CROWN", True),
        ("IBP", None, "IBP", True),
    ],
)
def test_grammar_of_names(name, rule, host, intersected):
    method = methods.parse(name)
    assert (method.jacobian, method.host, method.with_host_output) == (rule, host, intersected)
    assert methods.parse(method.name) == method
