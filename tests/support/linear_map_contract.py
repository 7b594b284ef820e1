"""What every linear map must satisfy: a new one inherits `LinearMapContract` and supplies the map and its function."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recurjac_plugin.graph.linear_maps import LinearMap


class LinearMapContract:
    """Push and pull against the matrix of a plain function of one sample, taken by autograd in float64."""

    def linear(self) -> LinearMap:
        """The map, for float64 tensors."""
        raise NotImplementedError

    def function(self, x: Tensor) -> Tensor:
        """What it does to one sample, shape ``input_shape`` -> ``output_shape``, up to a constant."""
        raise NotImplementedError

    @pytest.fixture
    def matrix(self) -> Tensor:
        linear = self.linear()
        matrix = torch.autograd.functional.jacobian(self.function, numbers(*linear.input_shape))
        return matrix.reshape(*linear.output_shape, -1).flatten(0, -2) if linear.output_shape else matrix.reshape(1, -1)

    def test_push_is_the_matrix(self, matrix: Tensor) -> None:
        linear = self.linear()
        t = numbers(3, *linear.input_shape)
        pushed = linear.push(t)
        assert pushed.shape == (3, *linear.output_shape)
        assert torch.allclose(pushed.reshape(3, -1), t.reshape(3, -1) @ matrix.T)

    def test_pull_is_its_transpose(self, matrix: Tensor) -> None:
        linear = self.linear()
        g = numbers(3, *linear.output_shape)
        pulled = linear.pull(g)
        assert pulled.shape == (3, *linear.input_shape)
        assert torch.allclose(pulled.reshape(3, -1), g.reshape(3, -1) @ matrix)

    def test_absolute_has_the_absolute_values_of_its_elements(self, matrix: Tensor) -> None:
        linear = self.linear().absolute()
        t, g = numbers(3, *linear.input_shape), numbers(3, *linear.output_shape)
        assert torch.allclose(linear.push(t).reshape(3, -1), t.reshape(3, -1) @ matrix.abs().T)
        assert torch.allclose(linear.pull(g).reshape(3, -1), g.reshape(3, -1) @ matrix.abs())

    def test_squared_is_no_less_than_the_squares_of_its_elements(self, matrix: Tensor) -> None:
        linear, t = self.linear(), numbers(3, *self.linear().input_shape).abs()
        squared = linear.push_squared(t).reshape(3, -1)
        assert bool((squared >= (1 - 1e-12) * (t.reshape(3, -1) @ matrix.square().T)).all())

    def test_terms_are_no_fewer_than_are_added_up(self, matrix: Tensor) -> None:
        assert self.linear().terms >= max((matrix != 0).sum(1).max(), (matrix != 0).sum(0).max())

    def test_pulled_units_are_its_rows(self, matrix: Tensor) -> None:
        linear, index = self.linear(), torch.tensor([len(matrix) - 1, 0])
        rows = linear.pull_units(index, numbers())
        assert rows.shape == (2, *linear.input_shape)
        assert torch.allclose(rows.reshape(2, -1), matrix[index])

    def test_gradients_pass_through_both(self) -> None:
        """Second derivatives: what arrives is a linear function of what is given, also for autograd."""
        linear = self.linear()
        t = numbers(2, *linear.input_shape).requires_grad_()
        g = numbers(2, *linear.output_shape).requires_grad_()
        (by_t,) = torch.autograd.grad(linear.push(t), t, g)
        assert torch.allclose(by_t, linear.pull(g))
        (by_g,) = torch.autograd.grad(linear.pull(g), g, t)
        assert torch.allclose(by_g, linear.push(t))


def numbers(*shape: int) -> Tensor:
    """Random numbers of both signs in float64, the same for the same shape."""
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)
