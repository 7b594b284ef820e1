"""The host's model is compared with the user's module: another function is refused, and nothing is left behind."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from oracle import Ball
from torch import nn
from torch.nn import functional

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule
from recurjac_plugin.host.same_function import found, not_watched
from recurjac_plugin.properties.spec import Box, Polytope

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


class Net(nn.Module):
    """A network of one function; pickled with it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


IMAGE, SIGNAL, VECTOR = (1, 2, 6, 6), (1, 2, 8), (1, 6)


@dataclass
class Kind:
    """A network that the hosts read as another one, and what the refusal says."""

    net: nn.Module
    shape: tuple[int, ...]
    says: str


MISREAD = {
    "reflected": Kind(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), IMAGE, "reflect"),
    "replicated": Kind(nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate"), IMAGE, "edge"),
    "reflection before": Kind(nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 2, 3)), IMAGE, "reflect"),
    "replication by function": Kind(Net(lambda x: functional.pad(x, (1, 2, 1, 0), mode="replicate")), IMAGE, "edge"),
    "divisor": Kind(nn.Sequential(nn.Conv2d(2, 2, 1), nn.AvgPool2d(3, divisor_override=4)), IMAGE, "`1` .AvgPool2d"),
    "rounded up": Kind(nn.AvgPool2d(4, ceil_mode=True), IMAGE, "ceil mode"),
    "padding left out": Kind(nn.AvgPool2d(2, padding=1, count_include_pad=False), IMAGE, "padding"),
    "dilated": Kind(nn.MaxPool2d(2, dilation=2), IMAGE, "dilated"),
    "whole quotients": Kind(Net(lambda x: x // 0.3), VECTOR, "floor"),
    "branch": Kind(Net(lambda x: x if float(x.sum()) >= 0 else 2 * x), VECTOR, "where the largest is"),
}
if not IS_03:
    MISREAD["negative slope"] = Kind(nn.LeakyReLU(-0.2), VECTOR, "negative slope")

RIGHT = {
    "zeros": (nn.Conv2d(2, 2, 3, padding=(1, 2), stride=(2, 1)), IMAGE),
    "circular": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), IMAGE),
    "padded with a number": (Net(lambda x: functional.pad(x, (1, 2, 1, 0), value=3.0)), IMAGE),
    "groups": (nn.Conv2d(2, 4, 3, groups=2, dilation=2), IMAGE),
    "averages": (nn.AvgPool2d((2, 3), stride=(1, 2)), IMAGE),
    "averages with padding": (nn.AvgPool2d(2, padding=1), IMAGE),
    "adaptive averages": (nn.AdaptiveAvgPool2d(2), IMAGE),
    "largest": (nn.MaxPool2d(2, padding=1), IMAGE),
    "normed in batches": (nn.BatchNorm2d(2), IMAGE),
    "tanh gelu": (nn.GELU(approximate="tanh"), VECTOR),
    "softmax": (nn.Softmax(1), SIGNAL),
    "slices": (Net(lambda x: x[:, -3:]), VECTOR),
    "stacked": (Net(lambda x: torch.stack([x, 2 * x], 1)), VECTOR),
    "powers": (Net(lambda x: x**3), VECTOR),
    "logarithm": (Net(torch.log), VECTOR),  # NaN at half of the points
    "number alone": (Net(lambda x: torch.exp(3 * x) * 1e-30), VECTOR),
}


def example(shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def ball(x, radius=0.05):
    return Ball(x, radius).perturbed()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MISREAD)
def test_other_functions_are_refused(name, dtype):
    kind = MISREAD[name]
    x = example(kind.shape, dtype)
    model = BoundedModule(copy.deepcopy(kind.net).to(dtype).eval(), x)
    assert found(model).evaluation
    calls = [
        lambda: rj.jacobian_bounds(model, ball(x)),
        lambda: rj.jacobian_bounds(model, ball(x), method="IBP+Fast-Lip"),
        lambda: rj.output_bounds(model, ball(x)),
        lambda: rj.local_lipschitz(model, ball(x)),
        lambda: rj.monotonicity(model, ball(x)),
    ]
    for call in calls:
        with pytest.raises(rj.UnsupportedError, match=kind.says):
            call()


@pytest.mark.parametrize("name", RIGHT)
def test_the_same_functions_are_not(name):
    net, shape = RIGHT[name]
    for dtype in (torch.float32, torch.float64):
        module = copy.deepcopy(net).to(dtype).eval()
        assert found(BoundedModule(module, example(shape, dtype))).evaluation == ""


def test_every_batch_size_is_compared():
    net = nn.Sequential(nn.AvgPool2d(3, divisor_override=4), nn.Flatten())
    right = nn.Sequential(nn.AvgPool2d(3), nn.Flatten())
    for batch in (1, 2, 7):
        x = example((batch, 2, 6, 6))
        assert found(BoundedModule(net, x)).evaluation
        assert found(BoundedModule(right, x)).evaluation == ""


def test_what_was_found_stays_with_copies_and_files():
    """The sentence, not only the refusal: a copy has no module to compare with."""
    x = example(IMAGE)
    model = BoundedModule(nn.AvgPool2d(3, divisor_override=4), x)  # with weights the host's models cannot be copied
    file = io.BytesIO()
    pickle.dump(vars(model)["recurjac_found"], file)
    assert pickle.loads(file.getvalue()) == (found(model).given, found(model).evaluation)
    for twin in (copy.deepcopy(model), BoundedModule(model, x)):
        assert found(twin) == found(model)
        with pytest.raises(rj.UnsupportedError, match="avg_pool2d"):
            rj.jacobian_bounds(twin, ball(x))


class Watched(nn.Module):
    """Everything that an evaluation could change."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(torch.rand(()))
        return self.norm(self.linear(x))


@pytest.mark.parametrize("training", [False, True])
def test_the_module_is_left_as_the_host_leaves_it(training):
    results = []
    for watching in (True, False):
        torch.manual_seed(0)
        net, x = Watched().train(training), torch.randn(4, 6)
        net.linear.weight.grad = torch.ones(6, 6)
        net.norm.register_forward_hook(lambda *_: None)
        torch.manual_seed(1)
        if watching:
            BoundedModule(net, x)
        else:
            with not_watched():
                BoundedModule(net, x)
        hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()]
        modes = [part.training for part in net.modules()]
        buffers = {name: value.clone() for name, value in net.named_buffers()}
        results.append((torch.rand(3), hooks, modes, buffers, net.linear.weight.grad.sum(), x.clone()))
    first, second = results
    assert torch.equal(first[0], second[0])  # random numbers
    assert first[1:3] == second[1:3]
    assert all(torch.equal(first[3][name], second[3][name]) for name in first[3])
    assert first[4] == second[4]
    assert torch.equal(first[5], second[5])


def test_the_model_is_left_as_the_host_leaves_it():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    x = example(VECTOR)
    models = [BoundedModule(net, x)]
    with not_watched():
        models.append(BoundedModule(net, x))
    first, second = ({name: vars(node) for name, node in model._modules.items()} for model in models)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].keys() == second[name].keys()
        for key, value in first[name].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, second[name][key])
                assert value.requires_grad == second[name][key].requires_grad
    assert vars(models[0]).keys() - vars(models[1]).keys() == {"recurjac_found"}


def test_training_mode_is_another_function():
    """As it was given the network takes statistics of the batch; in evaluation mode it is what the host bounds."""
    net = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    x = example((4, 6))
    model = BoundedModule(net.train(), x)
    assert found(model).evaluation == ""
    net.train()  # the host has put it in evaluation mode
    with pytest.raises(rj.UnsupportedError, match="training mode"):
        rj.jacobian_bounds(model, ball(x))
    model.eval()
    assert rj.jacobian_bounds(model, ball(x)).lower.isfinite().all()
    again = BoundedModule(net.train(), x)
    net.eval()
    assert rj.jacobian_bounds(again, ball(x)).lower.isfinite().all()


def test_random_networks():
    """Dropout is refused in training mode as ever; what is random in evaluation mode, too, has no bounds."""
    x = example(VECTOR)
    always = BoundedModule(Net(lambda x: functional.dropout(x, 0.5, training=True)), x)
    assert "random" in found(always).evaluation
    always.eval()
    with pytest.raises(rj.UnsupportedError, match="random"):
        rj.jacobian_bounds(always, ball(x))
    if IS_03:
        return  # builds no network with dropout from what this torch writes
    at_times = BoundedModule(nn.Sequential(nn.Linear(6, 6), nn.Dropout()), x)
    assert found(at_times).given is None
    with pytest.raises(rj.UnsupportedError, match="training mode, where it is random"):
        rj.jacobian_bounds(at_times, ball(x))
    at_times.eval()
    assert rj.jacobian_bounds(at_times, ball(x)).lower.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_not_another_function(dtype):
    """A mean of 1e4 beside deviations of 1e-2 loses six digits, in other places in torch than in the host."""
    net = Net(lambda x: functional.layer_norm(1e-2 * x + 1e4, (6,)))
    x = example(VECTOR, dtype)
    model = BoundedModule(net, x)
    gap = (model(x) - net(x)).abs().max()
    assert gap > 100 * torch.finfo(dtype).eps
    assert found(model).evaluation == ""
    branches = Net(lambda x: (1 if float(x[0, 0]) > 0 else 2) * functional.layer_norm(1e-2 * x + 1e4, (6,)))
    assert found(BoundedModule(branches, x)).evaluation


def test_the_centre_is_looked_at():
    """A branch that no point took when the model was made."""
    net = Net(lambda x: x if float(x.max()) < 50 else -x)
    x = example(VECTOR)
    model = BoundedModule(net, x)
    assert rj.jacobian_bounds(model, ball(x)).lower.isfinite().all()
    with pytest.raises(rj.UnsupportedError, match="at the centre of the region"):
        rj.jacobian_bounds(model, ball(x + 100))
    del net
    assert found(model).evaluation == ""


def test_weights_may_change():
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = example((2, 6))
    model = BoundedModule(net, x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)  # as in training: the model has the same parameters
    assert rj.jacobian_bounds(model, ball(x)).lower.isfinite().all()
    net[0].weight = nn.Parameter(torch.zeros(4, 6))  # from now on the module is a network of its own
    assert rj.jacobian_bounds(model, ball(x)).lower.isfinite().all()


def out_of_sight(net, x):
    """A model of which nobody knows the module."""
    with not_watched():
        return BoundedModule(net, x)


@pytest.mark.parametrize("name", [name for name in MISREAD if name not in ("divisor", "whole quotients", "branch")])
def test_attributes_alone_show_what_is_misread(name):
    kind = MISREAD[name]
    x = example(kind.shape)
    with pytest.raises(rj.UnsupportedError, match=kind.says):
        rj.jacobian_bounds(out_of_sight(kind.net.eval(), x), ball(x))


def test_modules_can_be_handed_over():
    x = example(IMAGE)
    right = nn.Sequential(nn.Conv2d(2, 2, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()
    wrong = copy.deepcopy(right)
    wrong[2].divisor_override = 3
    calls = [
        rj.jacobian_bounds,
        rj.local_lipschitz,
        rj.output_bounds,
        rj.monotonicity,
        rj.zonotope_bounds,
        lambda model, x, **options: rj.global_lipschitz(model, norm=2, **options),
        lambda model, x, **options: rj.certified_radius(model, x.data, norm=2, C=torch.eye(2)[None], **options),
        lambda model, x, **options: rj.stationary_free_radius(model, x.data, norm=2, **options),
        lambda model, x, **options: rj.landscape_scan(model, x.data, norm=2, radius=0.1, **options),
    ]
    for call in calls:
        model = out_of_sight(right, x)
        with pytest.raises(rj.UnsupportedError, match=r"reference="):
            call(model, ball(x))
        with pytest.raises(rj.UnsupportedError, match=r"another function.*AvgPool2d"):
            call(model, ball(x), reference=wrong)
        call(model, ball(x), reference=right)
        call(model, ball(x))  # it is known now
        with pytest.raises(rj.UnsupportedError, match="AvgPool2d"):
            call(out_of_sight(wrong, x), ball(x), reference=wrong)


def test_only_modules_can_be_handed_over():
    net, x = nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), example(IMAGE)
    model = out_of_sight(net, x)
    for reference, says in ((3, "torch module"), (nn.Linear(3, 2), "does not take"), (model, "torch module")):
        with pytest.raises(rj.InputError, match=says):
            rj.jacobian_bounds(model, ball(x), reference=reference)
    with pytest.raises(rj.InputError, match="no finite numbers"):
        rj.jacobian_bounds(model, ball(x), reference=Net(lambda x: net(x) * float("nan")))


def test_files_and_verdicts_refuse_other_functions():
    kind = MISREAD["divisor"]
    net = nn.Sequential(kind.net, nn.Flatten()).eval()
    n_outputs = net(example(kind.shape)).shape[1]
    row = Polytope(np.eye(1, n_outputs), np.array([-99.0]), np.array([False]))
    ends, closed = np.ones(72), np.zeros(72, dtype=bool)
    spec = rj.Spec((Box(-ends, ends, (row,), closed, closed),), 72, n_outputs)
    with pytest.raises(rj.UnsupportedError, match="AvgPool2d"):
        rj.verify(net, spec, input_shape=kind.shape[1:])


def test_several_and_whole_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.arange(12.0).reshape(6, 2))

        def forward(self, x, y):
            return x[:, :2] * 2 + y.flatten(1)[:, :2]

    x, y = example(VECTOR), example((1, 2, 3))
    assert found(BoundedModule(Two(), (x, y))).evaluation == ""
    whole = torch.tensor([[0, 3, 5, 1, 2, 4]])
    assert found(BoundedModule(Net(lambda x: x.float() * 2), whole)).evaluation == ""


@pytest.mark.usefixtures("registered")
def test_jacobians_in_a_model_are_compared():
    class WithJacobian(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.linear = layer, nn.Linear(32, 2)

        def forward(self, x):
            y = self.linear(torch.tanh(self.layer(x)).flatten(1))
            return rj.JacobianOP.apply(y, x).flatten(1)

    x = example((1, 2, 4, 4), torch.float64)
    assert found(BoundedModule(WithJacobian(nn.Softplus()).double(), x)).evaluation == ""
    with pytest.raises(rj.UnsupportedError, match="another function"):
        BoundedModule(WithJacobian(nn.Softplus(1.0, 0.5)).double(), x)


@pytest.mark.usefixtures("registered")
def test_thresholds_of_taught_activations():
    """Exporters write softplus without the number from which on torch takes it for the identity."""
    x = example(VECTOR)
    assert found(BoundedModule(nn.Softplus(3.0), x)).evaluation == ""
    model = BoundedModule(nn.Softplus(1.0, 0.5), x)
    with pytest.raises(rj.UnsupportedError, match="softplus"):
        rj.jacobian_bounds(model, ball(x))


@pytest.mark.parametrize("name", ["CELU", "clamp"])
@pytest.mark.usefixtures("registered")
def test_casts_that_exporters_write(name):
    """Around CELU they cast float64 to float32 and back, and bounds of `clamp` to float64, which 0.3 had confused."""
    net = nn.CELU(0.7) if name == "CELU" else Net(lambda x: x.clamp(-0.5, 0.7))
    x = example(VECTOR, torch.float64)
    model = BoundedModule(net, x)
    assert found(model).evaluation == ""
    gap = (model(x) - net(x)).abs().max()
    assert gap == 0 if name == "clamp" else 0 < gap < 1e-6
