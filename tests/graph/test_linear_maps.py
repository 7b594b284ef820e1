"""Every kind of linear map keeps the contract: a matrix, its transpose, its absolute values, its rows."""

from __future__ import annotations

import torch
from linear_map_contract import LinearMapContract, numbers
from torch.nn import functional

from recurjac_plugin.graph.linear_maps import (
    Broadcast,
    Convolution,
    Dense,
    Embedding,
    Function,
    Negative,
    Scale,
    Transposed,
    View,
    nonnegative,
)


class TestIdentity(LinearMapContract):
    def linear(self):
        return Broadcast(1, (2, 3), (2, 3))

    def function(self, x):
        return x + 1


class TestSubtraction(LinearMapContract):
    def linear(self):
        return Broadcast(-1, (2, 1), (4, 2, 3))

    def function(self, x):
        return 1 - x.expand(4, 2, 3)


class TestEmbedding(LinearMapContract):
    def linear(self):
        return Embedding(2, 1, (2, 3), (2, 6))

    def function(self, x):
        return torch.cat((torch.ones(2, 1), x, torch.ones(2, 2)), 1)


class TestView(LinearMapContract):
    def linear(self):
        return View((2, 3), (6, 1))

    def function(self, x):
        return x.reshape(6, 1)


class TestDense(LinearMapContract):
    weight = numbers(4, 3)

    def linear(self):
        return Dense(self.weight, (3,), (4,))

    def function(self, x):
        return self.weight @ x


class TestDenseOverTheLastDimension(LinearMapContract):
    weight = numbers(4, 3)

    def linear(self):
        return Dense(self.weight, (2, 3), (2, 4))

    def function(self, x):
        return torch.einsum("oi,ci->co", self.weight, x)


class TestScalePerChannel(LinearMapContract):
    factor = numbers(2, 1)

    def linear(self):
        return Scale(self.factor, (2, 3), (2, 3))

    def function(self, x):
        return x * self.factor


class TestScaleThatRepeatsItsInput(LinearMapContract):
    factor = numbers(1, 4, 2, 3)

    def linear(self):
        return Scale(self.factor, (2, 1), (4, 2, 3))

    def function(self, x):
        return x * self.factor[0]


class TestConvolution(LinearMapContract):
    weight = numbers(4, 1, 3, 2)

    def linear(self):
        return Convolution(self.weight, (2, 1), (1, 0), (1, 2), 2, (2, 6, 5), (4, 3, 3))

    def function(self, x):
        return functional.conv2d(x[None], self.weight, None, (2, 1), (1, 0), (1, 2), 2)[0]


class TestTransposedConvolution(LinearMapContract):
    weight = numbers(3, 2, 3)

    def linear(self):
        return Transposed(Convolution(self.weight, (2,), (1,), (1,), 1, (2, 8), (3, 4)))

    def function(self, x):
        return functional.conv_transpose1d(x[None], self.weight, None, 2, 1, 1)[0]


class TestNegative(LinearMapContract):
    weight = numbers(4, 3)

    def linear(self):
        return Negative(Dense(self.weight, (3,), (4,)))

    def function(self, x):
        return -self.weight @ x


class TestFunction(LinearMapContract):
    """Its absolute values are those of the matrix, which is computed."""

    def linear(self):
        return Function(lambda x: 3 + x.cumsum(1) - 2 * x.flip(1), (4,), (4,))

    def function(self, x):
        return x.cumsum(0) - 2 * x.flip(0)


class TestNonnegativeFunction(LinearMapContract):
    def linear(self):
        return nonnegative(lambda x: x.mean((2, 3)), (2, 3, 4), (2,))

    def function(self, x):
        return x.mean((1, 2))


def test_a_unit_matrix_is_known_as_one():
    assert Broadcast(1, (3,), (3,)).is_identity
    assert not Broadcast(-1, (3,), (3,)).is_identity
    assert not Broadcast(1, (1,), (3,)).is_identity


def test_no_gradients_are_recorded_where_nothing_asks_for_them():
    rows = numbers(2, 4)
    assert not Function(lambda x: x.cumsum(1), (4,), (4,)).pull(rows).requires_grad
    weight = numbers(4).requires_grad_()
    assert Function(lambda x: x * weight, (4,), (4,)).pull(rows).requires_grad
