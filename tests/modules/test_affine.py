"""`linear_map` takes affine functions, and refuses all others in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import recurjac_plugin as rj

KERNEL = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
MATRIX = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Halved(torch.autograd.Function):
    """The identity, with half of its derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


AFFINE = {
    "identity": (lambda x: x, (3,), (3,)),
    "constant": (lambda x: torch.ones_like(x), (3,), (3,)),
    "float64": (lambda x: x @ MATRIX + 1e3, (3,), (5,)),
    "float32": (lambda x: functional.conv2d(x, KERNEL, padding=1), (3, 8, 8), (4, 8, 8)),
    "far_from_0": (lambda x: x - 1e6, (4,), (4,)),
    "differences": (lambda x: x.diff(dim=1), (1000,), (999,)),
    "fourier": (lambda x: torch.fft.irfft(torch.fft.rfft(x), n=16), (16,), (16,)),
    "sum": (lambda x: x.flatten(1).sum(1), (300, 300), ()),
    "pool": (lambda x: functional.avg_pool1d(x, 2), (2, 6), (2, 3)),
    "in_place": (lambda x: x.clone().mul_(2), (3,), (3,)),
    "nothing": (lambda x: x[:, :0], (3,), (0,)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_functions_are_taken(name):
    function, came, gives = AFFINE[name]
    state = torch.get_rng_state()
    found = rj.linear_map(function, came, gives)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.input_shape == came
    assert found.output_shape == gives


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(8))
def test_rounding_of_long_sums_is_no_bend(seed, dtype):
    W = torch.randn(1500, 40, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    assert rj.linear_map(lambda x: x.to(dtype) @ W, (1500,), (40,)).input_shape == (1500,)


OTHERS = {
    "relu": torch.relu,
    "abs": torch.abs,
    "square": torch.square,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "clamp": lambda x: x.clamp(-3000, 3000),
    "little_bend": lambda x: x + 1e-6 * x.abs(),
    "shrink": lambda x: functional.hardshrink(x, 0.01),
    "max": lambda x: x - x.amax(1, keepdim=True),
    "round": torch.round,
    "nan": lambda x: x * float("nan"),
    "batch_mean": lambda x: x - x.mean(0),
    "detached": lambda x: x.detach() + 0 * x,
    "half_a_derivative": Halved.apply,
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_refused(name):
    with pytest.raises(rj.InputError, match=r"`function` is not affine in each sample: .*; give a function that is"):
        rj.linear_map(OTHERS[name], (4,), (4,))


BAD = {
    "outputs": (lambda x: x, (3,), (4,), "expected"),
    "inputs": (lambda x: x @ MATRIX, (4,), (5,), "does not take inputs of shape"),
    "tuple": (lambda x: (x, x), (3,), (3,), "must give a tensor of real numbers, got tuple"),
    "whole_numbers": (lambda x: x.long(), (3,), (3,), "must give a tensor of real numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_functions(name):
    *arguments, words = BAD[name]
    with pytest.raises(rj.InputError, match=words):
        rj.linear_map(*arguments)
