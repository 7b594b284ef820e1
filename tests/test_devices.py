"""Where results are computed and in which numbers: devices, number types, what is read back, and how much at a time.

Most of it is seen without a second device, see `second_device`; what needs a CUDA device is marked `gpu`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from bench_runs import QUICK
from cases import on_host
from commands import recurjac
from oracle import Ball, attacked, jacobians
from places import DATA
from second_device import Elsewhere, outside
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.branch_and_bound.boxes import BestFirst, Boxes, Disjuncts
from recurjac_plugin.gains import gains
from recurjac_plugin.host import IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.jacobian.analysis import ORDERS
from recurjac_plugin.numerics import memory
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.passes import columns as recursion
from recurjac_plugin.properties.spec import Box, Polytope
from recurjac_plugin.recursion import fast_lip as interval
from recurjac_plugin.verification.bounded import bounding


def network() -> nn.Module:
    """A convolution, ReLUs, and a smooth end."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 6),
        nn.Tanh(), nn.Linear(6, 3),
    )  # fmt: skip


def rectified() -> nn.Module:
    """Two linear pieces everywhere, as `verify` and the zonotopes like it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))


def smooth() -> nn.Module:
    """No neuron has a side."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3))


class Wide(nn.Sequential):
    """More inputs than are worth cutting."""

    input_shape = (40,)

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 2))


class Lipschitz(nn.Module):
    """Row sums of a Jacobian."""

    def __init__(self) -> None:
        super().__init__()
        self.net = rectified()

    def forward(self, x: Tensor) -> Tensor:
        return rj.JacobianOP.apply(self.net(x), x).abs().sum((2, 3, 4))


@dataclass
class Problem:
    """A network on the host, and balls around two inputs."""

    net: nn.Module
    model: Any
    x0: Tensor

    @classmethod
    @functools.cache
    def of(
        cls, build: Callable[[], nn.Module], dtype: torch.dtype, device: str = "cpu", elsewhere: str | None = None
    ) -> Problem:
        """Everything on one device, or the model elsewhere. Tests share them: making a model is slow on the host."""
        net = build().to(device, dtype)
        shape = getattr(net, "input_shape", (1, 4, 4))
        x0 = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
        model = on_host(net, x0)
        return cls(net, model if elsewhere is None else model.to(elsewhere), x0)

    def ball(self, eps: float = 0.05, norm: float = math.inf) -> Any:
        return BoundedTensor(self.x0.clone(), PerturbationLpNorm(norm=norm, eps=eps))


def ball_around(x0: Tensor) -> Any:
    return BoundedTensor(x0, PerturbationLpNorm(norm=math.inf, eps=0.05))


def a_property() -> rj.Spec:
    """A disjunct of one row and one of two, never met, on a box that has to be cut a hundred times to show that."""
    center, closed = np.linspace(-1, 1, 16), np.zeros(16, dtype=bool)
    row = Polytope(np.array([[1.0, -1.0, 0.0]]), np.array([-0.2]), np.array([False]))
    other = Polytope(np.array([[0.0, 1.0, -1.0], [1.0, 0.0, 0.0]]), np.array([-0.3, -0.1]), np.array([False, False]))
    box = Box(center - 0.8, center + 0.8, (row, other), closed, closed)
    return rj.Spec((box,), n_inputs=16, n_outputs=3)


def bounds(p: Problem, **options: Any) -> tuple[Tensor, ...]:
    found = rj.jacobian_bounds(p.model, p.ball(), **options)
    return found.lower, found.upper


def one_row(p: Problem) -> Tensor:
    return torch.tensor([[[1.0, -0.5, 0.25]]]).to(p.x0)


def verified(p: Problem) -> tuple[Tensor, ...]:
    result = rj.verify(p.model, a_property(), input_shape=(1, 4, 4), split=True, timeout=20, seed=0)
    assert result.verdict is rj.Verdict.UNSAT
    assert result.boxes > 20
    return (torch.tensor(result.lower_bound).to(p.x0),)


def monotone(p: Problem, **options: Any) -> tuple[Tensor, ...]:
    found = rj.monotonicity_report(p.model, p.ball(), max_boxes=9, **options)
    return found.lowest, found.highest


def host_method(p: Problem, method: str) -> tuple[Tensor, ...]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(p.x0.dtype)  # the host makes its unit matrices in it
    try:
        return p.model.compute_bounds(x=(p.ball(),), method=method)
    finally:
        torch.set_default_dtype(before)


def verified_by_neurons(p: Problem) -> tuple[Tensor, ...]:
    row = Polytope(np.array([[1.0, -1.0]]), np.array([-0.4]), np.array([False]))
    ends, closed = np.full(40, 0.5), np.zeros(40, dtype=bool)
    spec = rj.Spec((Box(-ends, ends, (row,), closed, closed),), n_inputs=40, n_outputs=2)
    result = rj.verify(p.net, spec, attack_seconds=0.1, seed=0)
    assert result.verdict is rj.Verdict.UNSAT
    assert result.boxes > 5
    return (torch.tensor(result.lower_bound).to(p.x0),)


def tightened(p: Problem) -> tuple[Tensor, ...]:
    found = rj.tighten(p.model, p.ball(0.3), **SEARCHED)
    return found.lower, found.upper


METHODS = ("RecurJac", "RecurJac-Linear", "Fast-Lip", "IBP+RecurJac", "CROWN-IBP+RecurJac")
Quantity = Callable[[Problem], tuple[Tensor, ...]]
QUANTITIES: dict[str, tuple[Callable[[], nn.Module], Quantity]] = {
    **{f"jacobian_bounds {m}": (network, partial(bounds, method=m)) for m in METHODS},
    **{f"jacobian_bounds {m} both": (network, partial(bounds, method=m, order="both")) for m in METHODS[:3]},
    "jacobian_bounds shifted": (rectified, partial(bounds, order="forward", shift=1)),
    "jacobian_bounds of a row": (network, lambda p: bounds(p, C=one_row(p))),
    "local_lipschitz": (network, lambda p: (rj.local_lipschitz(p.model, p.ball()),)),
    "local_lipschitz l_2": (network, lambda p: (rj.local_lipschitz(p.model, p.ball(norm=2.0), per_output=True),)),
    **{
        f"global_lipschitz {n:g}": (network, lambda p, n=n: (rj.global_lipschitz(p.model, norm=n),))
        for n in (1.0, 2.0, math.inf)
    },
    "output_bounds": (network, lambda p: rj.output_bounds(p.model, p.ball(), method="RecurJac+CROWN", steps=2)),
    "certified_radius": (
        network,
        lambda p: (
            rj.certified_radius(p.model, p.x0, norm=2, C=one_row(p), method="RecurJac+CROWN", steps=2, max_probes=3),
        ),
    ),
    "stationary_free_radius": (
        network,
        lambda p: (rj.stationary_free_radius(p.model, p.x0, norm=2, C=one_row(p), max_probes=3),),
    ),
    "landscape_scan": (
        network,
        lambda p: (rj.landscape_scan(p.model, p.x0, norm=2, C=one_row(p), radius=0.1, points=3).constants,),
    ),
    "monotonicity_report": (rectified, monotone),
    "verify": (rectified, verified),
    "zonotope_bounds": (
        rectified,
        lambda p: tuple(end for pair in rj.zonotope_bounds(p.model, p.ball()).values() for end in pair),
    ),
    "sampled_lipschitz": (network, lambda p: (rj.sampled_lipschitz(p.model, p.ball(), points=4, steps=3),)),
    "JacobianOP IBP": (Lipschitz, partial(host_method, method="IBP")),
    "JacobianOP CROWN": (Lipschitz, partial(host_method, method="CROWN")),
    "JacobianOP CROWN-IBP": (Lipschitz, partial(host_method, method="CROWN-IBP")),
    # 0.3 has no such bounds of Abs.
    **({} if IS_03 else {"JacobianOP forward": (Lipschitz, partial(host_method, method="forward"))}),
    "compute_bounds": (network, partial(host_method, method="RecurJac")),
    "compute_jacobian_bounds": (
        network,
        lambda p: tuple(p.model.compute_jacobian_bounds(p.ball(), method="RecurJac")),
    ),
}
# These search until they know or time is over.
SEARCHED: dict[str, Any] = {"gap": 0.01, "budget": 0.2}
SEARCHES: dict[str, tuple[Callable[[], nn.Module], Quantity]] = {
    "jacobian_bounds searched": (rectified, partial(bounds, **SEARCHED)),
    "local_lipschitz searched": (rectified, lambda p: (rj.local_lipschitz(p.model, p.ball(), **SEARCHED),)),
    "local_lipschitz l_2 searched in boxes": (
        smooth,
        lambda p: (rj.local_lipschitz(p.model, p.ball(norm=2.0), **SEARCHED),),
    ),
    "tighten": (rectified, tightened),
    **{
        f"certified_radius l_{n:g} searched": (
            rectified,
            lambda p, n=n: (rj.certified_radius(p.model, p.x0, norm=n, C=one_row(p), budget=0.2, max_probes=2),),
        )
        for n in (2.0, math.inf)
    },
    "stationary_free_radius searched": (
        rectified,
        lambda p: (rj.stationary_free_radius(p.model, p.x0, norm=math.inf, C=one_row(p), budget=0.2, max_probes=2),),
    ),
    "monotonicity_report searched": (rectified, partial(monotone, budget=0.2)),
    "verify by sides of neurons": (Wide, verified_by_neurons),
}
EVERY = pytest.mark.parametrize("name", QUANTITIES)
NO_INPUT = {"verify", *(name for name in QUANTITIES if name.startswith("global_lipschitz"))}
JACOBIAN_NODE = r"`JacobianOP` \(node `/\S+`\): an input of the model"


def computed(name: str, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, ...]:
    build, quantity = QUANTITIES[name]
    return quantity(Problem.of(build, dtype, device))


# Number types


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@EVERY
def test_results_keep_type_and_device(name, dtype):
    found = computed(name, dtype)
    assert found
    for value in found:
        assert (value.dtype, value.device.type) == (dtype, "cpu")
        assert value.isfinite().all()


HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
OF_THE_HOST = [name for name in QUANTITIES if name.startswith("JacobianOP")]


@pytest.mark.usefixtures("registered")
@HALF
@pytest.mark.parametrize("name", [name for name in QUANTITIES if name not in OF_THE_HOST])
def test_half_types_are_bounded_through_float32(name, dtype):
    build, quantity = QUANTITIES[name]
    half = Problem.of(build, dtype)
    before = {key: (value, value.clone()) for key, value in half.model.state_dict(keep_vars=True).items()}
    learns = [parameter.requires_grad for parameter in half.model.parameters()]
    with pytest.warns(UserWarning, match=f"^The model holds numbers of {dtype}: it is bounded as the network ") as told:
        found = quantity(half)
    assert len([each for each in told if "The model holds" in str(each.message)]) == 1
    assert [parameter.requires_grad for parameter in half.model.parameters()] == learns
    for key, value in half.model.state_dict(keep_vars=True).items():
        assert value is before[key][0]
        assert torch.equal(value, before[key][1])
        assert value.dtype == before[key][1].dtype
    net, x0 = build().to(dtype).float(), half.x0.float()
    for value, expected in zip(found, quantity(Problem(net, on_host(net, x0), x0)), strict=True):
        assert value.dtype == torch.float32 or name == "verify"  # whose answers are put into the type of the points
        assert not value.requires_grad
        assert torch.allclose(value.float(), expected, rtol=1e-5, atol=1e-7)


def test_a_half_model_made_in_inference_mode_is_left_as_it_was():
    """Its tensors take no flags back, and the first that refused one left all others converted."""
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).bfloat16().eval()
        model = BoundedModule(net, torch.zeros(1, 3).bfloat16())
    before = [(value.dtype, value.requires_grad) for value in net.state_dict(keep_vars=True).values()]
    x = BoundedTensor(torch.zeros(1, 3).bfloat16(), PerturbationLpNorm(norm=math.inf, eps=0.1))
    with pytest.warns(UserWarning, match="bfloat16"), contextlib.suppress(rj.RecurJacError):
        rj.jacobian_bounds(model, x)
    assert [(value.dtype, value.requires_grad) for value in net.state_dict(keep_vars=True).values()] == before


@HALF
def test_bounds_of_a_half_model_hold_for_its_weights(dtype):
    half = Problem.of(network, dtype)
    with pytest.warns(UserWarning, match="The model holds numbers of"):
        found = rj.jacobian_bounds(half.model, half.ball(), rigorous=True)
    double = network().to(dtype).double()
    points = attacked(double, Ball(half.x0.double(), 0.05))
    assert found.contains(jacobians(double, points), slack=1e-12)


@HALF
def test_a_half_model_is_as_it_was_after_an_error(dtype):
    half = Problem.of(network, dtype)
    with pytest.warns(UserWarning, match="The model holds"), pytest.raises(rj.MethodError):
        rj.jacobian_bounds(half.model, half.ball(), method="none of them")
    assert {parameter.dtype for parameter in half.model.parameters()} == {dtype}


def test_a_mixed_model_keeps_its_types():
    net = network()
    x0 = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    model = on_host(net, x0)
    net[3].half()
    before = {name: value.dtype for name, value in model.state_dict().items()}
    assert len(set(before.values())) == 2
    with pytest.warns(UserWarning, match="float16"):
        found = rj.jacobian_bounds(model, ball_around(x0))
    assert found.lower.dtype == torch.float32
    assert {name: value.dtype for name, value in model.state_dict().items()} == before


@pytest.mark.usefixtures("registered")
@HALF
@pytest.mark.parametrize("name", OF_THE_HOST)
def test_the_hosts_own_methods_refuse_half_types(name, dtype):
    build, quantity = QUANTITIES[name]
    sentence = rf"^{JACOBIAN_NODE} must hold numbers of float32 or float64, got {dtype}; .*\.$"
    with pytest.raises(rj.InputError, match=sentence):
        quantity(Problem.of(build, dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_inputs_of_a_full_model_are_refused(dtype):
    model, half = Problem.of(network, torch.float32).model, Problem.of(network, dtype)
    with pytest.raises(rj.InputError, match=f"^`x` must hold numbers of float32 or float64, got {dtype}; "):
        rj.jacobian_bounds(model, half.ball())


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", [name for name in QUANTITIES if name not in NO_INPUT])
def test_mixed_types_and_devices_are_refused(name):
    build, quantity = QUANTITIES[name]
    what = JACOBIAN_NODE if build is Lipschitz else "`x`"
    single, double = Problem.of(build, torch.float32), Problem.of(build, torch.float64)
    for problem, model in (
        (Problem(single.net, double.model, single.x0), "torch.float64 on cpu"),
        (Problem.of(build, torch.float32, elsewhere="meta"), "torch.float32 on meta"),
    ):
        sentence = f"{what} is torch.float32 on cpu, but the model is {model}; move one of them."
        with pytest.raises(rj.InputError, match=f"^{sentence}$"):
            quantity(problem)


@pytest.mark.parametrize("way", ["older", "newer", "medium", "mixed"])
def test_full_precision_whatever_was_chosen(way):
    """Also where one set of torch's names for it was written, and the other can no longer be read."""
    mkldnn, cuda, cudnn = torch.backends.mkldnn, torch.backends.cuda, torch.backends.cudnn
    newer = [(cuda.matmul, "none"), (cudnn.conv, "tf32"), (mkldnn.matmul, "none")] if hasattr(mkldnn, "matmul") else []
    if way in ("newer", "mixed") and not newer:
        pytest.skip("this torch has the older names alone")
    try:
        if way in ("older", "mixed"):
            cuda.matmul.allow_tf32 = True
        if way == "medium":
            torch.set_float32_matmul_precision("medium")
        if way == "newer":
            cuda.matmul.fp32_precision = mkldnn.matmul.fp32_precision = "tf32"
        if way == "mixed":
            cudnn.conv.fp32_precision = "ieee"
        before = [place.fp32_precision for place, _ in newer]
        with full_precision():
            assert not cuda.matmul.allow_tf32
            assert way == "mixed" or not cudnn.allow_tf32  # where the operators differ, torch has no one answer
            assert torch.get_float32_matmul_precision() == "highest"
            assert all(place.fp32_precision == "ieee" for place, _ in newer)
        assert [place.fp32_precision for place, _ in newer] == before
        if way in ("older", "medium"):
            assert torch.get_float32_matmul_precision() == {"older": "high", "medium": "medium"}[way]
    finally:
        for place, value in newer:
            place.fp32_precision = value
        torch.set_float32_matmul_precision("highest")
        for place, value in newer:
            place.fp32_precision = value


# A second device

# Random points are drawn on the processor, so that a seed means the same everywhere, radii are searched there, and
# linear programs are solved there.
MOVES_POINTS = {
    "certified_radius", "stationary_free_radius", "landscape_scan", "monotonicity_report", "verify",
    "sampled_lipschitz", *SEARCHES,
}  # fmt: skip


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", [*QUANTITIES, *SEARCHES])
def test_everything_is_computed_where_the_model_is(name, monkeypatch):
    build, quantity = {**QUANTITIES, **SEARCHES}[name]
    there, net, x0 = Elsewhere(), build().double(), Problem.of(build, torch.float64).x0.clone()
    problem = Problem(there.put(net), there.put(on_host(net, x0)), there.put(x0))
    build_model = outside(bounding.bounded_model)
    monkeypatch.setattr(bounding, "bounded_model", lambda *given: there.put(build_model(*given)))
    with there():
        found = quantity(problem)
    assert not there.mixed
    assert all(there.holds(value) for value in found)
    assert name in MOVES_POINTS or not there.copies


def test_the_second_device_sees_mistakes():
    there = Elsewhere()
    x, code = there.put(torch.ones(3)), "y = x + torch.zeros(3)\nz = x.to('cpu')\nbool(x.any())\nx[x > 0].tolist()"
    with there():
        exec(compile(code, str(Path(rj.__file__).parent / "mistakes.py"), "exec"), {"x": x, "torch": torch})
        assert x.device == torch.ones(2, device=x.device).device == x.new_ones(2).device
        assert torch.ones(2).device == x.cpu().device == torch.device("cpu")
    assert list(there.mixed) == ["aten::add at mistakes.py:1"]
    assert list(there.copies) == ["to at mistakes.py:2"]
    assert sorted(there.waits) == [
        "aten::_local_scalar_dense at mistakes.py:3", "aten::index at mistakes.py:4", "tolist at mistakes.py:4",
    ]  # fmt: skip


def waits(net: nn.Module, x0: Tensor, **options: Any) -> Counter[str]:
    """How often a device would have to be waited for to bound a Jacobian."""
    there, model = Elsewhere(), on_host(net, x0)
    for held in (net, model, x0):
        there.put(held)
    with there():
        rj.jacobian_bounds(model, ball_around(x0), **options)
    return there.waits


PASSES = {
    **{f"{method} {order}": {"method": method, "order": order} for method in METHODS[:3] for order in ORDERS},
    "RecurJac shifted": {"order": "forward", "shift": 1},
}


@pytest.mark.parametrize("options", PASSES.values(), ids=PASSES)
def test_a_device_is_waited_for_as_often_for_one_chunk_as_for_many(options):
    net, x0 = rectified().double(), Problem.of(rectified, torch.float64).x0[:1].clone()
    one, many = (waits(net, x0, memory_budget=budget, **options) for budget in (2**30, 1))
    assert one == many
    assert one  # there is something to count


@pytest.mark.parametrize("rule", METHODS[:3])
def test_a_device_is_waited_for_as_often_for_few_neurons_as_for_many(rule):
    def counted(inputs: int, width: int, outputs: int) -> Counter[str]:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
        )
        return waits(net.double(), torch.randn(1, inputs, dtype=torch.float64), method=rule)

    assert counted(4, 5, 2) == counted(12, 15, 6)


def test_waiting_boxes_are_not_read_back_again():
    there, ends = Elsewhere(), torch.arange(40.0).reshape(20, 2, 1)
    alive = torch.ones(2, 1, dtype=torch.bool)
    region = torch.zeros(2, dtype=torch.int64)
    tensors = [(there.put(each.clone()) for each in (region, low, low + 1, alive, -low[:, 0])) for low in ends]
    batches = [Boxes(at, low, high, Disjuncts(alive, bound)) for at, low, high, alive, bound in tensors]
    with there():
        frontier = BestFirst(4, most=100)
        for batch in batches:
            frontier.push(batch)
        pushed = there.waits.total()
        assert frontier.bound == -39.0
        popped = frontier.pop().known.bound
    assert popped.tolist() == [-38.0, -39.0, -36.0, -37.0]
    assert there.waits.total() == pushed == 20


# Memory


def test_a_budget_is_a_share_of_the_free_memory(monkeypatch):
    gigabyte = 2**30
    for free, unused, budget in ((4, 2, 1.5), (0, 1, 0.25), (200, 0, 8)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free * gigabyte, 10**12))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device, unused=unused: (3 + unused) * gigabyte)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * gigabyte)
        assert memory.memory_budget(None, torch.device("cuda")) == budget * gigabyte
    for free, budget in ((gigabyte, 2**28), (64 * gigabyte, 2**29), (None, 2**29), (1, 1)):
        monkeypatch.setattr(memory, "_free_here", lambda free=free: free)
        assert memory.memory_budget(None, torch.device("cpu")) == budget
        assert memory.memory_budget(7, torch.device("cpu")) == 7


def test_free_memory_of_this_machine(monkeypatch):
    assert memory._free_here() == pytest.approx(psutil.virtual_memory().available, rel=0.5)
    monkeypatch.setattr(Path, "read_text", lambda self: "MemTotal: 1 kB\n")
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 3, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert memory._free_here() == 3 * 4096
    monkeypatch.setattr(os, "sysconf", lambda name: int("not known"))
    assert memory._free_here() is None


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", [name for name in QUANTITIES if not name.startswith(("global", "sampled"))])
def test_chunks_follow_the_free_memory_and_results_do_not(name, monkeypatch):
    chunks: list[int] = []

    def counting(recomputed: Callable[..., Any]) -> Callable[..., Any]:
        def prepared(function: Any, *rest: Any) -> Any:
            of_chunk, this = recomputed(function, *rest), len(chunks)
            chunks.append(0)

            def counted(part: Any) -> Any:
                chunks[this] += 1
                return of_chunk(part)

            return counted

        return prepared

    for module in (recursion, interval, gains):
        monkeypatch.setattr(module, "recomputed", counting(module.recomputed))
    found, largest = [], []
    for free in (2**34, 1):
        monkeypatch.setattr(memory, "_free_here", lambda free=free: free)
        chunks.clear()
        found.append(computed(name, torch.float64))
        largest.append(max(chunks, default=0))
    assert largest[0] == 1 < largest[1] or name == "zonotope_bounds"  # which has chunks of its own
    for wide, narrow in zip(*found):
        assert torch.allclose(wide, narrow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("budget", [0, -1, 1.5, "1 GB", True])
@pytest.mark.parametrize("function", [rj.jacobian_bounds, rj.zonotope_bounds])
def test_bad_memory_budgets(function, budget):
    problem = Problem.of(rectified, torch.float32)
    with pytest.raises(rj.InputError, match=r"^`memory_budget` must be a whole number of bytes of at least 1, or None"):
        function(problem.model, problem.ball(), memory_budget=budget)


# A CUDA device

CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")]
on_cuda = pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])


@on_cuda
@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@EVERY
def test_cuda_gives_what_the_processor_gives(device, name, dtype):
    # A search goes another way where two nearly equal numbers change places.
    tolerance = 0.05 if name in MOVES_POINTS else 1e-3 if dtype == torch.float32 else 1e-8
    for here, there in zip(computed(name, dtype), computed(name, dtype, device), strict=True):
        assert (there.dtype, there.device.type) == (dtype, device)
        here, there = here.detach(), there.detach().cpu()
        assert torch.allclose(there, here, rtol=tolerance, atol=tolerance * float(here.abs().max()))


@on_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SEARCHES)
def test_cuda_searches(device, name, dtype):
    build, quantity = SEARCHES[name]
    here, there = (quantity(Problem.of(build, dtype, where)) for where in ("cpu", device))
    for mine, other in zip(here, there, strict=True):
        assert (other.dtype, other.device.type) == (dtype, device)
        # Time ends both where it happens to, and radii are doubled until then.
        assert torch.allclose(other.cpu(), mine, rtol=16 if "radius" in name else 0.3)


@on_cuda
def test_cuda_in_processes_of_bench(device, tmp_path):
    out = tmp_path / "out"
    recurjac("bench", DATA / "instances.csv", "--out", out, *QUICK, "--device", device, "--timeout", "30")
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {(record["onnx"], record["vnnlib"], record["result"]) for record in records} == {
        (f"digits_{name}.onnx", f"digits_{name}_{size}.vnnlib", result)
        for name in ("relu", "cnn")
        for size, result in (("small", "unsat"), ("large", "sat"))
    }
    assert {record["host"]["device"] for record in records} == {device}


@on_cuda
def test_cuda_computes_in_full_precision(device, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 64, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64 * 36, 64), nn.Tanh(), nn.Linear(64, 4)
    )
    x0 = torch.randn(1, 8, 8, 8)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    found = []
    for where in (device, "cpu"):  # both with the same room for rounding, which is larger than what differs
        x = x0.to(where)
        bounds_there = rj.jacobian_bounds(on_host(net.to(where), x), ball_around(x))
        found.append(bounds_there.lower.detach().cpu())
    assert float((found[0] - found[1]).abs().max()) < 2e-5 * float(found[1].abs().max())


@on_cuda
def test_cuda_gradients_and_chunks(device, monkeypatch):
    gradients = []
    for where, free in (("cpu", 2**34), (device, 2**34), (device, 1)):
        monkeypatch.setattr(memory, "_free_on_cuda", lambda _, free=free: free)
        x0 = Problem.of(network, torch.float64).x0.to(where)
        model = on_host(network().to(where, torch.float64), x0)
        upper = rj.jacobian_bounds(model, ball_around(x0), method="RecurJac-Linear").upper
        weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        gradients.append([each.cpu() for each in torch.autograd.grad(upper.square().sum(), weights)])
    for here, there, chunked in zip(*gradients, strict=True):
        assert torch.allclose(there, here, rtol=1e-7, atol=1e-9)
        assert torch.allclose(chunked, here, rtol=1e-7, atol=1e-9)
