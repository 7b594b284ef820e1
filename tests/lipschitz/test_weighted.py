"""Weighted norms: constants in them are those of the network between weighted coordinates."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import hosted
from oracle import Ball, Box, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.lipschitz.matrix_norms import NORMS, norm_below
from recurjac_plugin.plugin.model import bounded_model

PAIRS = [*itertools.product(NORMS, NORMS)]


@torch.no_grad()
def constant(model, region, **options):
    return rj.local_lipschitz(model, region.perturbed(), **options)


def positive_definite(count, dtype=torch.float64):
    root = torch.randn(count, count, dtype=dtype) / 2 + torch.eye(count, dtype=dtype)
    matrix = root.mT @ root
    return (matrix + matrix.mT) / 2


def net_and_model(dtype=torch.float64, activation=nn.ReLU):
    net = nn.Sequential(
        nn.Linear(5, 12, dtype=dtype), activation(), nn.Linear(12, 10, dtype=dtype), activation(),
        nn.Linear(10, 3, dtype=dtype),
    )  # fmt: skip
    center = torch.randn(2, 5, dtype=dtype)
    return net, center, bounded_model(net, center)


def sizes(vectors, norm):
    """The definition: (n, count) -> (n,)."""
    if isinstance(norm, float):
        return torch.linalg.vector_norm(vectors, ord=norm, dim=1)
    if norm.weight.dim() == 2:
        return torch.einsum("ni,ij,nj->n", vectors, norm.weight, vectors).sqrt()
    return torch.linalg.vector_norm(vectors * norm.weight, ord=norm.p, dim=1)


@pytest.mark.parametrize("rigorous", [False, True], ids=["fast", "rigorous"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_no_vector_is_stretched_more(activation, rigorous):
    net, center, model = net_and_model(activation=activation)
    weights, inputs = torch.rand(5, dtype=torch.float64) + 0.1, positive_definite(5)
    outputs = torch.rand(3, dtype=torch.float64) + 0.1
    given = [2.0, rj.WeightedNorm(inputs), *(rj.WeightedNorm(weights, p) for p in NORMS)]
    measured = [1.0, rj.WeightedNorm(positive_definite(3)), *(rj.WeightedNorm(outputs, p) for p in NORMS)]
    for region in (Ball(center, 0.2, 2.0), Box(center - 0.2 * torch.rand_like(center), center + 0.1)):
        matrices = truth(net, region).flatten(0, 1)
        v = torch.randn(len(matrices), 5, 200, dtype=torch.float64)
        v[:, :, :100] = v[:, :, :100].sign()
        v = torch.cat([v, torch.eye(5, dtype=torch.float64).expand(len(v), -1, -1)], 2)
        image = (matrices @ v).mT.flatten(0, 1)
        for norm, output_norm in itertools.product(given, measured):
            found = constant(model, region, norm=norm, output_norm=output_norm, rigorous=rigorous)
            ratio = sizes(image, output_norm) / sizes(v.mT.flatten(0, 1), norm)
            ratio = ratio.unflatten(0, (-1, 2, v.shape[2])).amax((0, 2))
            assert bool((ratio <= found * (1 + 1e-9)).all())


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_weights_are_another_network(pair):
    """Layers that weigh the coordinates, in front and behind, have the same constants."""
    p, q = pair
    net, center, model = net_and_model()
    inputs, outputs = torch.rand(5, dtype=torch.float64) + 0.5, torch.rand(3, dtype=torch.float64) + 0.5
    first, last = nn.Linear(5, 5, bias=False, dtype=torch.float64), nn.Linear(3, 3, bias=False, dtype=torch.float64)
    first.weight.data, last.weight.data = torch.diag(1 / inputs), torch.diag(outputs)
    other = bounded_model(nn.Sequential(first, *net, last), center)
    box = Box(center - 0.1, center + 0.2)
    weighted = Box(box.lower * inputs, box.upper * inputs)
    found = constant(model, box, norm=rj.WeightedNorm(inputs, p), output_norm=rj.WeightedNorm(outputs, q))
    assert torch.allclose(found, constant(other, weighted, norm=p, output_norm=q), rtol=1e-6)


@pytest.mark.parametrize("side", ["norm", "output_norm"])
def test_a_diagonal_matrix_is_weights(side):
    _, center, model = net_and_model()
    weights = torch.rand(5 if side == "norm" else 3, dtype=torch.float64) + 0.5
    region = Ball(center, 0.1)
    options = {"norm": 2.0, "output_norm": 2.0}
    as_matrix = constant(model, region, **options | {side: rj.WeightedNorm(torch.diag(weights.square()))})
    as_weights = constant(model, region, **options | {side: rj.WeightedNorm(weights)})
    assert torch.allclose(as_matrix, as_weights, rtol=1e-2)


def test_they_tend_to_the_norm_of_the_jacobian():
    net, center, model = net_and_model()
    inputs, outputs = positive_definite(5), positive_definite(3)
    region = Ball(center, 1e-9)
    J = truth(net, region, count=3, targets=1)[0]
    left, right = torch.linalg.cholesky(outputs).mT, torch.linalg.inv(torch.linalg.cholesky(inputs).mT)
    exact = norm_below(left @ J @ right, 2.0, 2.0)
    for rigorous in (False, True):
        found = constant(
            model, region, norm=rj.WeightedNorm(inputs), output_norm=rj.WeightedNorm(outputs), rigorous=rigorous
        )
        assert torch.allclose(found, exact, rtol=1e-5)


def test_rows_in_weighted_norms():
    net, center, model = net_and_model()
    region = Ball(center, 0.2)
    matrices = truth(net, region)
    matrix, weights = positive_definite(5), torch.rand(5, dtype=torch.float64) + 0.5
    found = constant(model, region, norm=rj.WeightedNorm(matrix), per_output=True)
    exact = (matrices @ torch.linalg.inv(torch.linalg.cholesky(matrix).mT)).norm(dim=3)
    assert bool((exact <= found * (1 + 1e-9)).all())
    found = constant(model, region, norm=rj.WeightedNorm(weights, math.inf), per_output=True)
    assert bool(((matrices / weights).abs().sum(3) <= found * (1 + 1e-9)).all())


def test_images_are_weighted_pixel_by_pixel():
    _, center, model = hosted("conv2d_stride")
    region = Ball(center, 0.05)
    weights = torch.full(center.shape[1:], 2.0, dtype=torch.float64)
    for p in NORMS:
        usual = constant(model, region, norm=p, output_norm=p)
        found = constant(model, region, norm=rj.WeightedNorm(weights, p), output_norm=p)
        assert torch.allclose(found, usual / 2, rtol=1e-9)


def test_c_and_a_matrix_of_the_output():
    _, center, model = net_and_model()
    C, matrix = torch.randn(1, 2, 3, dtype=torch.float64), positive_definite(2)
    region = Ball(center, 0.1)
    found = constant(model, region, C=C, norm=2.0, output_norm=rj.WeightedNorm(matrix))
    mixed = torch.linalg.cholesky(matrix).mT @ C
    assert torch.allclose(found, constant(model, region, C=mixed, norm=2.0), rtol=1e-9)
    with pytest.raises(rj.InputError, match="leave `C` out"):
        constant(model, region, C=C, output_norm=rj.WeightedNorm(matrix), rigorous=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_number_types(dtype):
    _, center, model = net_and_model(dtype)
    for weight in (torch.rand(5) + 0.5, positive_definite(5)):
        for rigorous in (False, True):
            norms = {"norm": rj.WeightedNorm(weight), "output_norm": rj.WeightedNorm(positive_definite(3))}
            found = constant(model, Ball(center, 0.1), rigorous=rigorous, **norms)
            assert found.dtype == dtype
            assert bool((found > 0).all())


def test_bad_weights():
    _, center, model = net_and_model()
    region = Ball(center, 0.1)
    with pytest.raises(rj.InputError, match="expected 5 weights"):
        constant(model, region, norm=rj.WeightedNorm(torch.ones(4)))
    with pytest.raises(rj.InputError, match="expected 3 weights"):
        constant(model, region, output_norm=rj.WeightedNorm(torch.ones(5)))
    with pytest.raises(rj.InputError, match="must be positive"):
        constant(model, region, norm=rj.WeightedNorm(torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])))
    with pytest.raises(rj.InputError, match="symmetric and positive definite"):
        constant(model, region, norm=rj.WeightedNorm(-torch.eye(5)))
    with pytest.raises(rj.InputError, match="symmetric and positive definite"):
        constant(model, region, norm=rj.WeightedNorm(torch.eye(5) + torch.ones(5, 5).triu()))
    with pytest.raises(rj.InputError, match="p = 2 only"):
        constant(model, region, norm=rj.WeightedNorm(torch.eye(5), 1.0))
    with pytest.raises(rj.InputError, match="p = 2 only"):
        constant(model, region, output_norm=rj.WeightedNorm(torch.eye(3), 1.0))
    with pytest.raises(rj.InputError, match="square matrix"):
        constant(model, region, output_norm=rj.WeightedNorm(torch.ones(1, 3)))
    with pytest.raises(rj.InputError, match="ill-conditioned"):
        constant(model, region, norm=rj.WeightedNorm(torch.eye(5).double() * 1e-15 + torch.ones(5, 5).double()))
    with pytest.raises(rj.InputError, match="must be 1, 2 or inf"):
        rj.WeightedNorm(torch.ones(5), 3.0)
    with pytest.raises(rj.InputError, match="finite numbers"):
        rj.WeightedNorm(torch.tensor([1.0, math.nan]))
