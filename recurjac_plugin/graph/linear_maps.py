"""Linear maps per sample, and their transposes.

Derivatives only see the linear part of a node: how a perturbation of its input moves its output (`push`) and how a
row of sensitivities of its output becomes one of its input (`pull`, with which the gains are computed). With W the
matrix of a map between flattened samples, both act on any number of samples at once,

    push: t -> W t,    (n, *input_shape) -> (n, *output_shape),
    pull: g -> W^T g,  (n, *output_shape) -> (n, *input_shape),

and ``<push t, g> = <t, pull g>`` for all t and g. W is hardly ever written out. Biases and other constants added on
drop out. Shapes are per sample, without the batch dimension. A map knows its shapes, never where it stands in a graph.

A new kind of map supplies `push` and `pull`, and `absolute` unless no element is negative; `Function` makes one of any
torch function that is affine in each sample.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.numerics.sparse import sparse_transposed, times

Shape = tuple[int, ...]


class LinearMap(abc.ABC):
    """One linear map per sample, the same for all samples.

    Attributes:
        input_shape: shape of what it reads, per sample.
        output_shape: shape of what it gives, per sample.
    """

    input_shape: Shape
    output_shape: Shape

    @abc.abstractmethod
    def push(
        self,
        tangent: Tensor,  # shape: (n, *input_shape)
    ) -> Tensor:
        """``W t``, shape (n, *output_shape)."""

    @abc.abstractmethod
    def pull(
        self,
        rows: Tensor,  # shape: (n, *output_shape)
    ) -> Tensor:
        """``W^T g``, shape (n, *input_shape)."""

    def absolute(self) -> LinearMap:
        """The map with the matrix ``|W|``, element by element; itself where none is negative."""
        return self

    def push_absolute(
        self,
        tangent: Tensor,  # shape: (n, *input_shape)
    ) -> Tensor:
        """``|W| t``, shape (n, *output_shape)."""
        return self.absolute().push(tangent)

    def pull_absolute(
        self,
        rows: Tensor,  # shape: (n, *output_shape)
    ) -> Tensor:
        """``|W|^T g``, shape (n, *input_shape)."""
        return self.absolute().pull(rows)

    def push_squared(
        self,
        tangent: Tensor,  # shape: (n, *input_shape)
    ) -> Tensor:
        """At least ``sum_i W_ji^2 t_i`` for ``t >= 0``, shape (n, *output_shape); ``(|W| sqrt(t))^2`` unless known."""
        return self.push_absolute(tangent.sqrt()).square()

    @property
    def terms(self) -> int:
        """Most products that are added up in one element of ``W t``, or of ``W^T g``."""
        return max(_size(self.input_shape), _size(self.output_shape))

    def pull_units(
        self,
        index: Tensor,  # shape: (n,)
        like: Tensor,
    ) -> Tensor:
        """Rows of W: the pull of the unit vectors at `index`.

        Args:
            index: positions in the flattened output.
            like: a tensor of the dtype and device to work in.

        Returns:
            Shape (n, *input_shape).
        """
        units = like.new_zeros(len(index), _size(self.output_shape))
        units = units.scatter(1, index.unsqueeze(1), 1.0)
        return self.pull(units.reshape(-1, *self.output_shape))


def _size(shape: Shape) -> int:
    return int(torch.Size(shape).numel())


@dataclass(frozen=True, eq=False)
class Broadcast(LinearMap):
    """``x -> sign x``, repeated to the output's shape (adding or subtracting something, expanding, identity)."""

    sign: int
    input_shape: Shape
    output_shape: Shape

    @property
    def is_identity(self) -> bool:
        """Whether nothing happens."""
        return self.sign == 1 and self.input_shape == self.output_shape

    def absolute(self) -> LinearMap:
        return replace(self, sign=1)

    @property
    def terms(self) -> int:
        return max(1, _size(self.output_shape) // max(1, _size(self.input_shape)))

    def push(self, tangent: Tensor) -> Tensor:
        out = aligned(tangent, self.output_shape).expand(-1, *self.output_shape)
        return out if self.sign == 1 else -out

    def pull(self, rows: Tensor) -> Tensor:
        rows = summed(rows, self.input_shape)
        return rows if self.sign == 1 else -rows


@dataclass(frozen=True, eq=False)
class Embedding(LinearMap):
    """``x -> [0, x, 0]``: x at `offset` along `axis`, between zeros; one operand of a concatenation."""

    axis: int  # counted with the batch dimension, so 1 is the first one of a sample
    offset: int
    input_shape: Shape
    output_shape: Shape
    terms = 1

    def push(self, tangent: Tensor) -> Tensor:
        length, total = self.input_shape[self.axis - 1], self.output_shape[self.axis - 1]
        behind = len(self.output_shape) - self.axis
        return functional.pad(tangent, (0, 0) * behind + (self.offset, total - self.offset - length))

    def pull(self, rows: Tensor) -> Tensor:
        return rows.narrow(self.axis, self.offset, self.input_shape[self.axis - 1])


@dataclass(frozen=True, eq=False)
class View(LinearMap):
    """``x -> x.reshape(output_shape)``: flatten, squeeze, unsqueeze, reshape; W is a unit matrix."""

    input_shape: Shape
    output_shape: Shape
    terms = 1

    def push(self, tangent: Tensor) -> Tensor:
        return tangent.reshape(-1, *self.output_shape)

    def pull(self, rows: Tensor) -> Tensor:
        return rows.reshape(-1, *self.input_shape)


@dataclass(frozen=True, eq=False)
class Dense(LinearMap):
    """``x -> x weight^T`` over the last dimension."""

    weight: Tensor  # shape: (out, in)
    input_shape: Shape
    output_shape: Shape

    def absolute(self) -> LinearMap:
        return replace(self, weight=self.weight.abs())

    def push(self, tangent: Tensor) -> Tensor:
        return tangent @ self.weight.T

    _sparse = cached_property(lambda self: sparse_transposed(self.weight))

    def pull(self, rows: Tensor) -> Tensor:
        return rows @ self.weight if self._sparse is None else times(rows, self._sparse)

    def push_squared(self, tangent: Tensor) -> Tensor:
        return tangent @ self.weight.square().T

    @property
    def terms(self) -> int:
        return max(self.weight.shape)

    def pull_units(self, index: Tensor, like: Tensor) -> Tensor:
        if len(self.output_shape) == 1:  # no product needed: the rows of the matrix are there to read
            return self.weight[index]
        return super().pull_units(index, like)


@dataclass(frozen=True, eq=False)
class Scale(LinearMap):
    """``x -> factor * x``, element by element; the smaller of the two shapes is broadcast."""

    factor: Tensor  # broadcasts with (1, *input_shape)
    input_shape: Shape
    output_shape: Shape

    def absolute(self) -> LinearMap:
        return replace(self, factor=self.factor.abs())

    def push_squared(self, tangent: Tensor) -> Tensor:
        return replace(self, factor=self.factor.square()).push(tangent)

    @property
    def terms(self) -> int:
        return max(1, _size(self.output_shape) // max(1, _size(self.input_shape)))

    def push(self, tangent: Tensor) -> Tensor:
        return aligned(tangent, self.output_shape) * self.factor

    def pull(self, rows: Tensor) -> Tensor:
        return summed(rows * self.factor, self.input_shape)


@dataclass(frozen=True, eq=False)
class Convolution(LinearMap):
    """``y[o, t] = sum_{i, k} weight[o, i, k] x[i, t stride - padding + k dilation]`` in 1, 2 or 3 dimensions."""

    weight: Tensor  # shape: (out_channels, in_channels / groups, *kernel)
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    input_shape: Shape
    output_shape: Shape

    def absolute(self) -> LinearMap:
        return replace(self, weight=self.weight.abs())

    def push_squared(self, tangent: Tensor) -> Tensor:
        return replace(self, weight=self.weight.square()).push(tangent)

    @property
    def terms(self) -> int:
        return max(self.weight[0].numel(), self.weight[:, 0].numel() // self.groups)

    def push(self, tangent: Tensor) -> Tensor:
        convolve = getattr(functional, f"conv{self.weight.dim() - 2}d")
        return cast(
            "Tensor", convolve(tangent, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        )

    def pull(self, rows: Tensor) -> Tensor:
        weight = self.weight
        sides = zip(
            self.input_shape[1:], self.output_shape[1:], weight.shape[2:], self.stride, self.padding, self.dilation
        )
        # Input positions behind the last full stride are not seen by the convolution: they come back as zeros.
        behind = tuple(n - (out - 1) * step + 2 * pad - spread * (k - 1) - 1 for n, out, k, step, pad, spread in sides)
        if rows.device.type == "cpu" and weight.dim() == 4:  # up to four times as fast there with the channels last
            rows, weight = (value.contiguous(memory_format=torch.channels_last) for value in (rows, weight))
        transpose = getattr(functional, f"conv_transpose{weight.dim() - 2}d")
        pulled = transpose(rows, weight, None, self.stride, self.padding, behind, self.groups, self.dilation)
        return cast("Tensor", pulled).contiguous()

    def pull_units(self, index: Tensor, like: Tensor) -> Tensor:
        """The kernels, each at its place: a row of W has no other elements."""
        if self.weight.dim() != 4:
            return super().pull_units(index, like)
        size, count = _size(self.input_shape), _size(self.output_shape[1:])
        numbers = torch.arange(1.0, size + 1, dtype=torch.float64, device=index.device).reshape(1, *self.input_shape)
        seen = functional.unfold(numbers, self.weight.shape[2:], self.dilation, self.padding, self.stride)
        group = index // count // (len(self.weight) // self.groups)
        at = seen.reshape(self.groups, -1, count)[group, :, index % count].long() - 1  # -1 in the padding
        kernels = self.weight.flatten(1)[index // count] * (at >= 0)
        rows = kernels.new_zeros(len(index), size).scatter_add(1, at.clamp(min=0), kernels)
        return rows.reshape(-1, *self.input_shape)


@dataclass(frozen=True, eq=False)
class Transposed(LinearMap):
    """``W^T`` for another map's W (a transposed convolution is that of a convolution)."""

    linear: LinearMap

    @property
    def input_shape(self) -> Shape:  # type: ignore[override]
        return self.linear.output_shape

    @property
    def output_shape(self) -> Shape:  # type: ignore[override]
        return self.linear.input_shape

    def absolute(self) -> LinearMap:
        return Transposed(self.linear.absolute())

    @property
    def terms(self) -> int:
        return self.linear.terms

    def push(self, tangent: Tensor) -> Tensor:
        return self.linear.pull(tangent)

    def pull(self, rows: Tensor) -> Tensor:
        return self.linear.push(rows)


@dataclass(frozen=True, eq=False)
class Negative(LinearMap):
    """``-W`` for another map's W."""

    linear: LinearMap

    @property
    def input_shape(self) -> Shape:  # type: ignore[override]
        return self.linear.input_shape

    @property
    def output_shape(self) -> Shape:  # type: ignore[override]
        return self.linear.output_shape

    def absolute(self) -> LinearMap:
        return self.linear.absolute()

    @property
    def terms(self) -> int:
        return self.linear.terms

    def push(self, tangent: Tensor) -> Tensor:
        return -self.linear.push(tangent)

    def pull(self, rows: Tensor) -> Tensor:
        return -self.linear.pull(rows)


@dataclass(frozen=True, eq=False)
class Function(LinearMap):
    """The linear part of a function that is affine in each sample, ``f(x) = W x + c``: its derivative, by autograd.

    Exact for slices, gathers, pads, poolings, sums and the like, which need no map of their own.

    Attributes:
        function: f, (n, *input_shape) -> (n, *output_shape).
        input_shape, output_shape: per sample.
        absolute_function: likewise for ``|W|``: the same function where no element of W is negative. None: W is
            computed when it is needed.
    """

    function: Callable[[Tensor], Tensor]
    input_shape: Shape
    output_shape: Shape
    absolute_function: Callable[[Tensor], Tensor] | None = None

    def absolute(self) -> LinearMap:
        function = self.absolute_function or self._times_absolute_matrix
        return Function(function, self.input_shape, self.output_shape, function)

    def _times_absolute_matrix(self, t: Tensor) -> Tensor:
        everything = torch.arange(_size(self.output_shape), device=t.device)
        matrix = self.pull_units(everything, t).flatten(1).abs()
        return (t.flatten(1) @ matrix.T).reshape(-1, *self.output_shape)

    def push(self, tangent: Tensor) -> Tensor:
        return self.function(tangent) - self.function(torch.zeros_like(tangent))

    def pull(self, rows: Tensor) -> Tensor:
        at = rows.new_zeros(len(rows), *self.input_shape)
        if torch.is_inference_mode_enabled():
            return torch.func.vjp(self.function, at)[1](rows)[0]
        # `torch.func` refuses to run where saved tensors are packed (`numerics.memory.recomputed`), autograd does not.
        # A graph only where there is something to differentiate: the rows, or weights that the function brings along.
        wanted = torch.is_grad_enabled() and (rows.requires_grad or self.function(at).requires_grad)
        with torch.enable_grad():
            value = self.function(at.requires_grad_())
            return torch.autograd.grad(value, at, rows, create_graph=wanted, materialize_grads=True)[0]


def nonnegative(function: Callable[[Tensor], Tensor], input_shape: Shape, output_shape: Shape) -> Function:
    """A `Function` that selects, moves or adds up with weights that are not negative."""
    return Function(function, input_shape, output_shape, function)


def aligned(tangent: Tensor, output_shape: Shape) -> Tensor:
    """(n, *shape) -> (n, 1, ..., 1, *shape), as many dimensions as the output has: shapes broadcast from the right."""
    missing = len(output_shape) - (tangent.dim() - 1)
    return tangent.reshape(len(tangent), *(1,) * missing, *tangent.shape[1:]) if missing > 0 else tangent


def summed(rows: Tensor, input_shape: Shape) -> Tensor:
    """The transpose of broadcasting: sum (n, *output_shape) down to (n, *input_shape)."""
    missing = rows.dim() - 1 - len(input_shape)
    rows = rows.sum_to_size(len(rows), *(1,) * missing, *input_shape)
    return rows.reshape(len(rows), *input_shape)
