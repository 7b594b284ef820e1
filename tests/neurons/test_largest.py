"""Exact constants: against enumeration of patterns, a mixed-integer program, and whatever sampling finds."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import torch
from cases import mlp
from reduced_networks import reduced
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.host.library import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.jacobian.entry_search import searched_entries
from recurjac_plugin.neurons.searches.largest import Effort

pytestmark = pytest.mark.usefixtures("registered")  # 0.3 has no maxima of its own

NORMS = [1.0, 2.0, math.inf]


class Largest(nn.Module):
    """Maxima of pairs, absolute values, and a sum that skips them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.d = nn.Linear(3, 8), nn.Linear(4, 2), nn.Linear(3, 4)

    def forward(self, x):
        h = torch.max(self.a(x)[:, :4], self.a(x)[:, 4:])
        return self.c(h.abs() + torch.nn.functional.leaky_relu(self.d(x), 0.2))


NETWORKS = {
    "relu": lambda: mlp(nn.ReLU, (3, 8, 6, 2)),
    "leaky": lambda: mlp(lambda: nn.LeakyReLU(0.3), (3, 6, 5, 2)),
    "maxima": Largest,
    "linear": lambda: nn.Sequential(nn.Linear(3, 2)),
}


def case(name, norm=math.inf, radius=0.4, seed=3):
    torch.manual_seed(seed)
    net, center = NETWORKS[name]().double(), torch.randn(1, 3).double()
    model = BoundedModule(net, torch.zeros_like(center))
    return net, model, center, BoundedTensor(center, PerturbationLpNorm(norm=norm, eps=radius))


def sampled(net, center, norm, radius, count=20000):
    """Jacobians at random points of the region, (n, k, columns)."""
    t = torch.randn(count, center.shape[1], dtype=torch.float64)
    t = radius * t / torch.linalg.vector_norm(t, ord=norm, dim=1, keepdim=True)
    t = t * torch.rand(count, 1).double() ** 0.5
    return jacobians(net, center + t)


def jacobians(net, x):
    x = x.clone().requires_grad_()
    y = net(x)
    return torch.stack([torch.autograd.grad(row.sum(), x, retain_graph=True)[0] for row in y.unbind(1)], 1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ball", NORMS)
@pytest.mark.parametrize("norm", NORMS)
def test_bounds_meet_and_nothing_that_is_sampled_lies_above(name, ball, norm):
    net, model, center, x = case(name, ball)
    found = rj.tighten(model, x, norm=norm, gap=1e-6)
    J = sampled(net, center, ball, 0.4)
    largest = torch.linalg.matrix_norm(J, ord=norm).max()
    assert largest <= found.upper * (1 + 1e-12)
    assert found.lower <= found.upper
    at = torch.linalg.matrix_norm(jacobians(net, found.points), ord=norm)
    assert torch.allclose(at, found.lower, rtol=1e-9)
    assert torch.linalg.vector_norm(found.points - center, ord=ball) <= 0.4 * (1 + 1e-12)
    if ball == math.inf:  # of other balls the linear programs know no more than the box around them
        assert found.gap.item() <= 1e-6


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, math.inf])
def test_outputs_each_for_itself(norm):
    net, model, center, x = case("relu")
    C = torch.randn(1, 4, 2).double()
    found = rj.tighten(model, x, norm=norm, C=C, per_output=True, gap=1e-6)
    assert found.upper.shape == found.lower.shape == (1, 4)
    dual = {1.0: math.inf, 2.0: 2.0, 3.0: 1.5, math.inf: 1.0}[norm]
    rows = torch.linalg.vector_norm(C @ sampled(net, center, math.inf, 0.4), ord=dual, dim=2).amax(0)
    assert (rows <= found.upper[0] * (1 + 1e-12)).all()
    assert (found.gap <= 1e-6).all()
    at = torch.linalg.vector_norm((C @ jacobians(net, found.points[0])), ord=dual, dim=2).diagonal()
    assert torch.allclose(at, found.lower[0], rtol=1e-9)


def patterns(net, center, radius):
    """The Jacobians of all patterns of ReLUs that some point of the box has, by a program for each."""
    layers = [each for each in net if isinstance(each, nn.Linear)]
    first, *rest = [(each.weight.detach().numpy(), each.bias.detach().numpy()) for each in layers]
    widths = [len(b) for _, b in (first, *rest[:-1])]
    x0 = center[0].numpy()

    def extended(z, A, b, J, depth):
        if depth == len(widths):
            yield rest[-1][0] @ J
            return
        (W, c), (m, v) = z, (None, None)
        del m, v
        for signs in itertools.product((-1.0, 1.0), repeat=len(W)):
            s = np.array(signs)
            A2, b2 = np.vstack([A, -s[:, None] * W]), np.concatenate([b, s * c])
            ends = np.stack([x0 - radius, x0 + radius], 1)
            room = linprog(
                np.append(np.zeros(len(x0)), -1), np.hstack([A2, np.ones((len(b2), 1))]), b2,
                bounds=[*ends, (-1, 1)],
            )  # fmt: skip
            if room.status == 0 and -room.fun > 1e-9:
                D = (s > 0).astype(float)
                V, d = rest[depth]
                yield from extended(((V * D) @ W, V @ (D * c) + d), A2, b2, D[:, None] * W, depth + 1)

    n = len(x0)
    yield from extended((first[0], first[1]), np.zeros((0, n)), np.zeros(0), None, 0)


def test_it_is_what_enumeration_of_patterns_finds():
    torch.manual_seed(0)
    net = mlp(nn.ReLU, (2, 4, 4, 2)).double()
    center = torch.randn(1, 2).double()
    model = BoundedModule(net, torch.zeros_like(center))
    x = BoundedTensor(center, PerturbationLpNorm(eps=1.0))
    every = np.stack([*patterns(net, center, 1.0)])
    assert len(every) > 4
    for norm in NORMS:
        exact = torch.linalg.matrix_norm(torch.from_numpy(every), ord=norm).max()
        found = rj.tighten(model, x, norm=norm, gap=1e-7)
        assert torch.allclose(found.upper, exact, rtol=1e-6), norm
        assert torch.allclose(found.lower, exact, rtol=1e-6), norm


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_a_mixed_integer_program_finds(seed):
    """Of one hidden layer and one output: binary sides d and signs s, ``sum_r |sum_j v_j d_j W_jr|``."""
    torch.manual_seed(seed)
    inputs, hidden = 4, 10
    net = mlp(nn.ReLU, (inputs, hidden, 1)).double()
    center = torch.randn(1, inputs).double()
    (W, b), v = ((net[0].weight.detach().numpy(), net[0].bias.detach().numpy()), net[2].weight.detach().numpy()[0])
    big = np.abs(W).sum(1) * 10 + np.abs(b) + 10
    G = v[:, None] * W  # (hidden, inputs): J_r = sum_j d_j G_jr
    most = np.abs(G).sum(0)
    # variables: x, d, s, p with p_r <= J_r + 2 most (1 - s_r), p_r <= -J_r + 2 most s_r
    zero = np.zeros
    rows = np.vstack([
        np.hstack([W, -np.diag(big), zero((hidden, 2 * inputs))]),
        np.hstack([-W, np.diag(big), zero((hidden, 2 * inputs))]),
        np.hstack([zero((inputs, inputs)), -G.T, np.diag(2 * most), np.eye(inputs)]),
        np.hstack([zero((inputs, inputs)), G.T, -np.diag(2 * most), np.eye(inputs)]),
    ])  # fmt: skip
    limits = np.concatenate([-b, big + b, 2 * most, zero(inputs)])
    x0 = center[0].numpy()
    low = np.concatenate([x0 - 1, zero(hidden + inputs), -most])
    high = np.concatenate([x0 + 1, np.ones(hidden + inputs), most])
    result = milp(
        np.concatenate([zero(inputs + hidden + inputs), -np.ones(inputs)]),
        constraints=LinearConstraint(rows, -np.inf, limits),
        bounds=Bounds(low, high),
        integrality=np.concatenate([zero(inputs), np.ones(hidden + inputs), zero(inputs)]),
        options={"mip_rel_gap": 0},
    )
    model = BoundedModule(net, torch.zeros_like(center))
    found = rj.tighten(model, BoundedTensor(center, PerturbationLpNorm(eps=1.0)), gap=1e-7)
    assert found.upper.item() == pytest.approx(-result.fun, rel=1e-5)
    assert found.lower.item() == pytest.approx(-result.fun, rel=1e-5)


def test_batches_float32_and_rows_of_their_own():
    torch.manual_seed(2)
    net, center = mlp(nn.ReLU, (3, 8, 6, 2)).float(), torch.randn(3, 3)
    model = BoundedModule(net, torch.zeros_like(center))
    x = BoundedTensor(center, PerturbationLpNorm(eps=0.3))
    C = torch.randn(3, 2, 2)
    found = rj.tighten(model, x, C=C, gap=1e-3)
    assert found.upper.dtype == found.points.dtype == torch.float32
    assert (found.gap <= 1e-3 + 1e-6).all()
    for i in range(3):
        alone = BoundedTensor(center[i : i + 1], PerturbationLpNorm(eps=0.3))
        again = rj.tighten(model, alone, C=C[i : i + 1], gap=1e-3)
        assert again.upper[0] == found.upper[i]
        assert again.lower[0] == found.lower[i]
        assert again.parts[0] == found.parts[i]


def test_budget_and_gap():
    _, model, _, x = case("relu", radius=1.0)
    start = time.perf_counter()
    at_once = rj.tighten(model, x, budget=0)
    assert time.perf_counter() - start < 5
    assert at_once.lower <= at_once.upper
    one_pass = rj.local_lipschitz(model, x, rigorous=True)
    assert at_once.upper <= one_pass * (1 + 1e-9)
    exact = rj.tighten(model, x, gap=1e-6)
    assert at_once.lower <= exact.upper
    assert exact.lower <= at_once.upper
    rough = rj.tighten(model, x, gap=0.2)
    assert rough.gap.item() <= 0.2
    assert rough.parts[0] <= exact.parts[0]


def test_progress_closes_in():
    _, model, _, x = case("relu", radius=1.0)
    seen = []
    rj.tighten(model, x, gap=1e-6, seen=lambda progress: seen.append((progress.lower.item(), progress.upper.item())))
    assert len(seen) > 1
    assert all(a[0] <= b[0] and a[1] >= b[1] * (1 - 1e-12) for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, math.inf), (math.inf, 1), (math.inf, 2), (2, 1)])
def test_other_norms_of_the_output(p, q):
    net, model, center, x = case("relu")
    found = rj.tighten(model, x, norm=p, output_norm=q, gap=1e-6)
    J = sampled(net, center, math.inf, 0.4, 2000)
    assert largest_ratio(J, p, q) <= found.upper * (1 + 1e-12)
    assert found.gap.item() <= 1e-6
    assert largest_ratio(jacobians(net, found.points), p, q) == pytest.approx(found.lower.item(), rel=1e-2)


def largest_ratio(J, p, q):
    """The largest ``|J v|_q / |v|_p`` over many v, corners among them."""
    v = torch.randn(3, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([*itertools.product((-1.0, 1.0), repeat=3)]).double().T
    v = torch.cat((v, corners, torch.eye(3).double()), 1)
    return (torch.linalg.vector_norm(J @ v, ord=q, dim=1) / torch.linalg.vector_norm(v, ord=p, dim=0)).max()


def test_local_lipschitz_searches_where_it_is_asked_to():
    _, model, _, x = case("relu")
    found = rj.tighten(model, x, gap=1e-3)
    assert torch.equal(rj.local_lipschitz(model, x, gap=1e-3), found.upper)
    assert rj.local_lipschitz(model, x, budget=0.5) <= rj.local_lipschitz(model, x)
    with pytest.raises(InputError, match="go without `method`"):
        rj.local_lipschitz(model, x, gap=0.1, method="RecurJac")


@pytest.mark.parametrize("name", NETWORKS)
def test_ends_of_entries_are_attained(name):
    torch.manual_seed(3)
    net, center = NETWORKS[name]().double(), torch.randn(1, 3).double()
    small = reduced(net, center, 0.4)
    (lower, upper), found = searched_entries(small, 2**24, Effort(1e-7, time.perf_counter() + 60))
    if found is None:
        assert (upper - lower).max() < 1e-9
        return
    J = jacobians(net, center + found.points)
    assert J.amin(0).allclose(lower, atol=1e-6)
    assert J.amax(0).allclose(upper, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_entries(name):
    net, model, center, x = case(name)
    C = torch.randn(1, 3, 2).double()
    one_pass, found = rj.jacobian_bounds(model, x, C=C), rj.jacobian_bounds(model, x, C=C, gap=1e-6)
    J = C @ sampled(net, center, math.inf, 0.4)
    assert found.contains(J.unsqueeze(1), slack=1e-12)
    assert found.rigorous
    assert (found.lower >= one_pass.lower - 1e-9).all()
    assert (found.upper <= one_pass.upper + 1e-9).all()
    rough = rj.jacobian_bounds(model, x, C=C, budget=0)
    assert rough.contains(J.unsqueeze(1), slack=1e-12)
    with pytest.raises(InputError, match="go without `method`"):
        rj.jacobian_bounds(model, x, gap=0.1, order="both")


@pytest.mark.parametrize(("ball", "seed", "radius"), [(1.0, 5, 0.3), (2.0, 5, 0.2), (math.inf, 2, 0.3)])
def test_signs_that_one_pass_leaves_open(ball, seed, radius):
    net, model, center, x = case("relu", ball, radius, seed)
    before, after = rj.monotonicity(model, x), rj.monotonicity(model, x, budget=20.0)
    J = sampled(net, center, ball, radius)
    assert ((J.amin(0) >= 0) | (after[0] <= 0)).all()
    assert ((J.amax(0) <= 0) | (after[0] >= 0)).all()
    assert ((before == 0) | (before == after)).all()
    assert (after != 0).sum() > (before != 0).sum()


def test_refusals():
    _, model, _, x = case("relu")
    with pytest.raises(InputError, match="`gap` must be"):
        rj.tighten(model, x, gap=-1)
    with pytest.raises(InputError, match="`budget` must be"):
        rj.tighten(model, x, budget="long")
    with pytest.raises(InputError, match="norms must be"):
        rj.tighten(model, x, norm=3)
    net = mlp(nn.Tanh, (3, 4, 2)).double()
    smooth = BoundedModule(net, torch.zeros(1, 3).double())
    with pytest.raises(UnsupportedError, match="two linear pieces"):
        rj.jacobian_bounds(smooth, x, budget=1.0)
