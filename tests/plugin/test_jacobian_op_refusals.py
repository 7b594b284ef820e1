"""`JacobianOP` where it has no answer: one sentence that names the node, before or while something is bounded."""

from __future__ import annotations

import re

import pytest
import torch
from cases import mlp
from jacobian_models import USES, J, Wrapped, built
from oracle import Ball
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm, bound_op_map
from recurjac_plugin.plugin.jacobian_op import OPERATOR
from recurjac_plugin.preactivations.defects import DEFECTS

pytestmark = pytest.mark.usefixtures("registered", "in_doubles")


def refused(function, shape=(2, 3), kind=rj.InputError, **networks):
    net = Wrapped(function, **networks)
    with pytest.raises(kind) as caught:
        BoundedModule(net, torch.randn(*shape))
    return str(caught.value)


def test_outputs_that_do_not_depend_on_x():
    text = refused(lambda s, x: J(s.f(x), s.g(x)), f=nn.Linear(3, 2), g=nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    named = r"`JacobianOP` \(node `/\S+`\): its output `/\S+` \(Linear\) does not depend on its input `/\S+` \(Tanh\); "
    assert re.match(named, text)
    x = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(rj.InputError, match=r"output, of shape \(2, 2\), that does not depend on its input"):
        J(nn.Linear(3, 2)(x.detach()), x)


def test_inputs_that_need_gradients_in_torch():
    with pytest.raises(rj.InputError, match=r"`x.requires_grad_\(\)`.*`recurjac_plugin.register\(\)`"):
        J(nn.Linear(3, 2)(torch.zeros(1, 3)), torch.zeros(1, 3))


def test_unregistered_models_say_what_to_do():
    net = Wrapped(USES["jacobian"], f=nn.Linear(3, 3))
    rj.unregister()
    assert OPERATOR not in bound_op_map
    with pytest.raises(rj.InputError, match=r"`recurjac_plugin.register\(\)` before building a `BoundedModule`"):
        BoundedModule(net, torch.zeros(1, 3))
    rj.register()
    assert OPERATOR in bound_op_map


def test_unsupported_parts_are_all_listed_when_the_model_is_built():
    text = refused(
        lambda s, x: J(s.f(x).exp().pow(x) + x.exp().pow(s.f(x)), x).flatten(1), kind=rj.UnsupportedError,
        f=nn.Linear(3, 3),
    )  # fmt: skip
    assert re.match(r"`JacobianOP` \(node `/\S+`\), from `/\S+` \(Input\) to `/\S+` \(Add\), has 2 unsupported", text)
    assert text.count("(Pow): its exponent must be one constant number") == 2


def test_second_derivatives_are_refused():
    text = refused(
        lambda s, x: J(J(s.f(x), x).flatten(1), x).flatten(1), kind=rj.UnsupportedError, f=mlp(nn.Tanh, (3, 4, 1))
    )
    assert "(RecurJacobian): the derivative of a Jacobian is not supported" in text


def test_squeezing_without_an_axis():
    for function in (lambda s, x: J(s.f(x), x).squeeze(), lambda s, x: J(s.f(x), x).squeeze() * s.f(x)):
        text = refused(function, (1, 3), kind=rj.UnsupportedError, f=nn.Linear(3, 1))  # it drops the batch
        assert "Squeeze without an axis" in text and text.endswith("Name the axis, as in `squeeze(1)`.")


def test_mixed_types():
    if not IS_03:  # which computes in one type whatever the network says
        text = refused(lambda s, x: J(s.f(x).float(), x).flatten(1), f=nn.Linear(3, 2))
        assert re.match(r"`JacobianOP` \(node `/\S+`\): its output `/\S+` \(Cast\) is torch.float32 on cpu, but", text)
    x = torch.randn(1, 3, requires_grad=True)
    with pytest.raises(rj.InputError, match=r"output of torch.float32 on cpu and an input of torch.float64 on cpu"):
        J(nn.Linear(3, 2)(x).float(), x)


def test_regions_the_host_loses_are_refused():
    net = Wrapped(lambda s, x: J(s.f(torch.tanh(x)), x).flatten(1), f=nn.Linear(3, 2))
    x = torch.randn(1, 3)
    model = BoundedModule(net, x)
    region = BoundedTensor(x, PerturbationLpNorm(norm=2, eps=0.1))
    with pytest.raises(rj.UnsupportedError, match=r"lose its l_2 norm. Bound it over the box"):
        model.compute_bounds(x=(region,), method="IBP")


def test_known_errors_of_the_host_are_refused(monkeypatch):
    monkeypatch.setitem(DEFECTS, "BoundTanh", lambda node, method: None if method == "IBP" else "too flat")
    net = Wrapped(lambda s, x: J(s.f(x), x).flatten(1), f=nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    x = torch.randn(1, 3)
    model = BoundedModule(net, x)
    region = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=0.5))
    with pytest.raises(rj.UnsupportedError, match=r"\(Tanh\): too flat"):
        model.compute_bounds(x=(region,), method="CROWN")
    lower, upper = model.compute_bounds(x=(region,), method="IBP")
    assert bool((lower <= upper).all())


def test_broken_regions_are_refused():
    _, x, model = built("jacobian")
    with pytest.raises(rj.InputError, match="NaN"):
        model.compute_bounds(x=(Ball(x * float("nan"), 0.1).perturbed(),), method="CROWN")
