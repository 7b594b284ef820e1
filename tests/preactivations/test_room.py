"""Where the host's CROWN does not fit into memory, ours takes its place; where neither does, a sentence says so."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from cases import on_host
from oracle import Ball, assert_encloses, outputs, truth
from processes import python
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.errors import RoomError
from recurjac_plugin.host.problem import read
from recurjac_plugin.numerics.memory import ran_out
from recurjac_plugin.preactivations import host, rigorous
from recurjac_plugin.preactivations.host import HostRoomError, bytes_for_crown
from recurjac_plugin.properties.spec import Box, Polytope, Spec

OUT_OF_MEMORY = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def problem(dtype=torch.float64):
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 2, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(18, 2),
    ).to(dtype)
    x = torch.randn(2, 1, 8, 8, dtype=dtype)
    return net, on_host(net, x), Ball(x, 0.05)


def without_room(*_arguments, **_options):
    raise OUT_OF_MEMORY


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("found_out", ["before", "by trying"])
def test_bounds_of_our_own_where_the_host_has_no_room(monkeypatch, dtype, found_out):
    net, model, region = problem(dtype)
    if found_out == "before":
        monkeypatch.setattr(rigorous, "memory_of", lambda device: 1)
    monkeypatch.setattr(host, "_HOST_COMPUTE_BOUNDS", without_room)
    lower, upper = rj.output_bounds(model, region.perturbed(), method="CROWN")
    entries = rj.jacobian_bounds(model, region.perturbed())
    assert lower.dtype == entries.lower.dtype == dtype
    slack = 1e-9 if dtype == torch.float64 else 1e-5
    assert_encloses(lower, upper, outputs(net, region.sample(200)), slack)
    assert_encloses(entries.lower, entries.upper, truth(net, region), slack)


def test_they_are_as_tight_as_those_of_our_own(monkeypatch):
    _, model, region = problem()
    proven = rj.output_bounds(model, region.perturbed(), method="CROWN", rigorous=True)
    monkeypatch.setattr(rigorous, "memory_of", lambda device: 1)
    monkeypatch.setattr(host, "_HOST_COMPUTE_BOUNDS", without_room)
    found = rj.output_bounds(model, region.perturbed(), method="CROWN")
    for bound, other in zip(found, proven):
        torch.testing.assert_close(bound, other, rtol=1e-12, atol=1e-12)


def test_the_host_is_asked_where_it_has_room(monkeypatch):
    _, model, region = problem()
    monkeypatch.setattr(rigorous, "bounds_of_our_own", without_room)
    lower, upper = rj.output_bounds(model, region.perturbed(), method="CROWN")
    assert bool((lower < upper).all())


def full(*_arguments):
    raise RoomError("gains would take 9 GB")


def test_the_host_is_asked_all_the_same_where_it_may_have_room(monkeypatch):
    _, model, region = problem()
    expected = rj.output_bounds(model, region.perturbed(), method="CROWN")
    needed = bytes_for_crown(read(model, region.perturbed()).host_graph, torch.float64)
    monkeypatch.setattr(rigorous, "memory_of", lambda device: 1.5 * needed)
    monkeypatch.setattr(rigorous, "bounds_of_our_own", full)
    found = rj.output_bounds(model, region.perturbed(), method="CROWN")
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_what_does_not_fit_is_refused_before_it_is_tried(monkeypatch):
    _, model, region = problem()
    monkeypatch.setattr(rigorous, "memory_of", lambda device: 1)
    monkeypatch.setattr(rigorous, "bounds_of_our_own", full)
    monkeypatch.setattr(host, "_HOST_COMPUTE_BOUNDS", lambda *_, **__: pytest.fail("the host was asked"))
    with pytest.raises(HostRoomError, match=r"would take about 0 GB where there are 0 with `CROWN`"):
        rj.jacobian_bounds(model, region.perturbed())


@pytest.mark.parametrize("method", ["CROWN", "IBP", "IBP+RecurJac"])
def test_one_sentence_where_nothing_fits(monkeypatch, method):
    _, model, region = problem()
    monkeypatch.setattr(host, "_HOST_COMPUTE_BOUNDS", without_room)
    monkeypatch.setattr(rigorous, "bounds_of_our_own", without_room)
    with pytest.raises(HostRoomError, match=r"runs out of memory with `(CROWN|IBP)`"):
        rj.output_bounds(model, region.perturbed(), method=method)


def test_other_failures_of_our_own_bounds_are_not_hidden(monkeypatch):
    _, model, region = problem()
    monkeypatch.setattr(host, "_HOST_COMPUTE_BOUNDS", without_room)

    def broken(*_arguments):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(rigorous, "bounds_of_our_own", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        rj.output_bounds(model, region.perturbed(), method="CROWN")


def test_verify_attacks_where_bounds_do_not_fit(monkeypatch):
    """A violation is found without bounds; where there is none, the answer says why it is open."""
    from recurjac_plugin.verification.strategy import Verification

    monkeypatch.setattr(Verification, "bound", without_room)
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    no = np.zeros(2, dtype=bool)
    violation = Polytope(A=np.array([[-1.0]]), b=np.array([-1000.0]), strict=no[:1])
    box = Box(np.zeros(2), np.ones(2), (violation,), no, no)
    found = rj.verify(net, Spec(boxes=(box,), n_inputs=2, n_outputs=1), timeout=0.5)
    assert found.verdict is rj.Verdict.UNKNOWN and found.reason == "The bounds do not fit into the memory."


def by_hand(shape_of_neurons, rows, dtype_bytes):
    return 4 * int(np.prod(shape_of_neurons)) * max(rows) * dtype_bytes


def test_size_of_windows(monkeypatch):
    """3 x 3 windows, 2 apart, of 3 x 3 windows: 5 x 5 pixels of one channel, or 9 of three."""
    monkeypatch.setattr(host, "_SMALL", 0)
    _, model, region = problem()
    graph = read(model, region.perturbed()).host_graph
    first, second = by_hand((3, 8, 8), (9, 1), 8), by_hand((2, 3, 3), (25, 27, 1), 8)
    assert bytes_for_crown(graph, torch.float64) == 2 * max(first, second)
    assert bytes_for_crown(graph, torch.float32) == max(first, second)


def test_size_of_whole_rows(monkeypatch):
    """Behind a transposed convolution the host has no windows."""
    monkeypatch.setattr(host, "_SMALL", 0)
    net = nn.Sequential(nn.ConvTranspose2d(2, 3, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 1)).double()
    x = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    graph = read(on_host(net, x), Ball(x, 0.1).perturbed()).host_graph
    assert bytes_for_crown(graph, torch.float64) == by_hand((3, 4, 4), (8, 1), 8)


@pytest.mark.parametrize(
    ("error", "expected"), [(OUT_OF_MEMORY, True), (MemoryError(), True), (RuntimeError("shapes do not fit"), False)]
)
def test_errors_that_say_there_is_no_memory(error, expected):
    assert ran_out(error) is expected


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit addresses")
def test_a_limit_of_the_process_is_all_the_memory_there_is():
    code = (
        "import resource; limit = 6 << 30; resource.setrlimit(resource.RLIMIT_AS, (limit, limit));"
        "import torch; from recurjac_plugin.numerics.memory import memory_of;"
        "print(memory_of(torch.device('cpu')) <= limit)"
    )
    found = python("-c", code)
    assert found.stdout.strip() == "True"
