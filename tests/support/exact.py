"""The exact truth of small piecewise-linear networks with two inputs, in rational numbers.

A box is a polygon. Every kink of a neuron is a line on it as long as all before it is linear there, so the polygon is
cut, neuron by neuron, into cells on which the network is one affine function. Cells touch in edges; a cell without area
is left out. The Jacobians of a network on a box are then a finite set, its constants and extremes are reached at cells
and corners, and all of it is known exactly: weights and ends are numbers that floating point has, the rest is integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from cases.modules import Net
from torch import Tensor, nn

Affine = tuple[int, int, int]
"""``a x + b y + c``, times a power of two that all functions of a cell share."""

Point = tuple[int, int, int]
"""``(X / W, Y / W)`` with W > 0."""


def dyadic(values: Sequence[float]) -> tuple[list[int], int]:
    """Floating-point numbers as whole ones over ``2^shift``."""
    ratios = [value.as_integer_ratio() for value in values]
    shift = max(bottom.bit_length() for _, bottom in ratios) - 1
    return [top << (shift + 1 - bottom.bit_length()) for top, bottom in ratios], shift


def _at(f: Affine, p: Point) -> int:
    """A function at a point, times positive numbers."""
    return f[0] * p[0] + f[1] * p[1] + f[2] * p[2]


def _crossing(p: Point, at_p: int, q: Point, at_q: int) -> Point:
    """Where a function that has these values, of different signs, at two points is 0 between them."""
    x, y, w = (at_p * b - at_q * a for a, b in zip(p, q))
    shared = math.gcd(x, y, w) * (1 if w > 0 else -1)
    return x // shared, y // shared, w // shared


@dataclass(frozen=True)
class Cell:
    """A part of the box on which everything is affine.

    Attributes:
        corners: of a convex polygon, in their order around it.
        values: of the neurons there, or of the outputs, each over ``2^shift``.
        shift: the power of two.
    """

    corners: tuple[Point, ...]
    values: tuple[Affine, ...]
    shift: int

    def split(self, f: Affine) -> tuple[Cell | None, Cell | None]:
        """The parts where a function is at most 0, and at least 0; None for one without area."""
        at = [_at(f, p) for p in self.corners]
        if max(at) <= 0:
            return self, None
        if min(at) >= 0:
            return None, self
        below, above = [], []
        for i, (p, here) in enumerate(zip(self.corners, at)):
            q, there = self.corners[(i + 1) % len(at)], at[(i + 1) % len(at)]
            below += [p] * (here <= 0)
            above += [p] * (here >= 0)
            if here * there < 0:
                cut = _crossing(p, here, q, there)
                below.append(cut)
                above.append(cut)
        return Cell(tuple(below), self.values, self.shift), Cell(tuple(above), self.values, self.shift)

    def with_values(self, values: Sequence[Affine], shift: int) -> Cell:
        return Cell(self.corners, tuple(values), self.shift + shift)

    def fraction(self, f: Affine, p: Point) -> Fraction:
        return Fraction(_at(f, p), p[2] << self.shift)


def _plus(f: Affine, g: Affine, factor: int = 1) -> Affine:
    return f[0] + factor * g[0], f[1] + factor * g[1], f[2] + factor * g[2]


class Layer:
    """One step of an exact network: a torch module, and what it makes of a cell."""

    def module(self) -> nn.Module:
        raise NotImplementedError

    def on(self, cell: Cell) -> Iterator[Cell]:
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(Layer):
    layer: nn.Linear

    def module(self) -> nn.Module:
        return self.layer

    @cached_property
    def numbers(self) -> tuple[list[list[int]], list[int], int]:
        """Weights and biases as whole numbers over ``2^shift``, and the shift."""
        weight = self.layer.weight.detach().double()
        whole, shift = dyadic([*weight.flatten().tolist(), *self.layer.bias.detach().double().tolist()])
        columns = weight.shape[1]
        rows = [whole[i * columns : (i + 1) * columns] for i in range(len(weight))]
        return rows, whole[weight.numel() :], shift

    def of(self, cell: Cell) -> tuple[list[Affine], int]:
        """The values behind it, and by how much the shift grows."""
        rows, constants, shift = self.numbers
        a, b, c = zip(*cell.values)
        return [
            (
                sum(map(int.__mul__, row, a)),
                sum(map(int.__mul__, row, b)),
                sum(map(int.__mul__, row, c), constant << cell.shift),
            )
            for row, constant in zip(rows, constants)
        ], shift

    def on(self, cell: Cell) -> Iterator[Cell]:
        yield cell.with_values(*self.of(cell))


@dataclass(frozen=True)
class TwoSlopes(Layer):
    """``left z`` below 0 and ``right z`` above."""

    left: float
    right: float

    def module(self) -> nn.Module:
        if (self.left, self.right) == (0.0, 1.0):
            return nn.ReLU()
        return Net(lambda s, x: x.abs()) if self.left == -1 else nn.LeakyReLU(self.left)

    def on(self, cell: Cell) -> Iterator[Cell]:
        (left, right), shift = dyadic((self.left, self.right))
        for part in _two_slopes(cell, range(len(cell.values)), left, right):
            yield part.with_values(part.values, shift)


def _two_slopes(cell: Cell, neurons: Sequence[int], left: int, right: int) -> Iterator[Cell]:
    """The cell cut by the kinks of some of its values, which are multiplied by one slope or the other."""
    if not neurons:
        yield cell
        return
    first, *rest = neurons
    for part, slope in zip(cell.split(cell.values[first]), (left, right)):
        if part is not None:
            values = list(part.values)
            values[first] = (slope * values[first][0], slope * values[first][1], slope * values[first][2])
            yield from _two_slopes(part.with_values(values, 0), rest, left, right)


def _with_relu(cell: Cell, inner: list[Affine], base: Sequence[Affine], shift: int, sign: int) -> Iterator[Cell]:
    """``base + sign relu(inner)``, all of them over the same power of two."""
    count = len(inner)
    for part in _two_slopes(cell.with_values((*inner, *base), shift), range(count), 0, 1):
        yield part.with_values([_plus(g, f, sign) for f, g in zip(part.values[:count], part.values[count:])], 0)


@dataclass(frozen=True)
class Extreme(Layer):
    """``max(A h, B h)``, or ``min``: ``B h +- relu(+-(A h - B h))``."""

    first: Linear
    second: Linear
    sign: int

    def module(self) -> nn.Module:
        function = torch.maximum if self.sign > 0 else torch.minimum
        return Net(lambda s, x: function(s.a(x), s.b(x)), a=self.first.layer, b=self.second.layer)

    def on(self, cell: Cell) -> Iterator[Cell]:
        (a, first), (b, second) = self.first.of(cell), self.second.of(cell)
        shift = max(first, second)
        a, b = ([_scaled(f, shift - own) for f in values] for values, own in ((a, first), (b, second)))
        differences = [_scaled(_plus(f, g, -1), 0, self.sign) for f, g in zip(a, b)]
        yield from _with_relu(cell, differences, b, shift, self.sign)


def _scaled(f: Affine, shift: int, sign: int = 1) -> Affine:
    return sign * f[0] << shift, sign * f[1] << shift, sign * f[2] << shift


@dataclass(frozen=True)
class Residual(Layer):
    """``h + relu(A h)``."""

    inner: Linear

    def module(self) -> nn.Module:
        return Net(lambda s, x: x + s.a(x).relu(), a=self.inner.layer)

    def on(self, cell: Cell) -> Iterator[Cell]:
        inner, shift = self.inner.of(cell)
        yield from _with_relu(cell, inner, [_scaled(f, shift) for f in cell.values], shift, 1)


@dataclass(frozen=True)
class Truth:
    """What is exactly so on one box.

    Attributes:
        jacobians: all of them, each k rows of 2 numbers.
        lower, upper: the extremes of the k outputs.
        cells: what it was found from.
    """

    jacobians: tuple[tuple[tuple[Fraction, Fraction], ...], ...]
    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    cells: tuple[Cell, ...]

    def constant(self, row: int) -> Fraction:
        """The Lipschitz constant of an output against the l-inf norm of the input."""
        return max(sum(map(abs, jacobian[row]), Fraction(0)) for jacobian in self.jacobians)


@dataclass(frozen=True)
class ExactNetwork:
    """A network with two inputs whose layers are known exactly."""

    layers: tuple[Layer, ...]

    def module(self) -> nn.Module:
        return nn.Sequential(*(layer.module() for layer in self.layers)).eval()

    def cells(self, lower: Tensor, upper: Tensor) -> list[Cell]:
        """The box [lower, upper], both (2,) and apart from each other, cut into cells with the outputs as values."""
        (x0, y0, x1, y1), shift = dyadic([*lower.double().tolist(), *upper.double().tolist()])
        corners = tuple((x, y, 1 << shift) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))
        cells = [Cell(corners, ((1, 0, 0), (0, 1, 0)), 0)]
        for layer in self.layers:
            cells = [part for cell in cells for part in layer.on(cell)]
        return cells

    def truth(self, lower: Tensor, upper: Tensor) -> Truth:
        """Everything on the box [lower, upper], both (2,)."""
        cells = self.cells(lower, upper)
        count = len(cells[0].values)
        ends = [[cell.fraction(cell.values[k], p) for cell in cells for p in cell.corners] for k in range(count)]
        shift = cells[0].shift
        whole = {tuple((f[0], f[1]) for f in cell.values): None for cell in cells}
        return Truth(
            tuple(tuple((Fraction(a, 1 << shift), Fraction(b, 1 << shift)) for a, b in rows) for rows in whole),
            tuple(min(each) for each in ends),
            tuple(max(each) for each in ends),
            tuple(cells),
        )


def least_where(cells: Sequence[Cell], wanted: int, limited: int, limit: float) -> Fraction | None:
    """The smallest value of one output where another one is at most `limit`; None if that is nowhere so."""
    top, bottom = limit.as_integer_ratio()
    least: list[Fraction] = []
    for cell in cells:
        f = cell.values[limited]
        off: Affine = (bottom * f[0], bottom * f[1], bottom * f[2] - (top << cell.shift))
        at = [_at(off, p) for p in cell.corners]
        points = [p for p, here in zip(cell.corners, at) if here <= 0]
        for i, (p, here) in enumerate(zip(cell.corners, at)):
            q, there = cell.corners[(i + 1) % len(at)], at[(i + 1) % len(at)]
            if here * there < 0:
                points.append(_crossing(p, here, q, there))
        least += [cell.fraction(cell.values[wanted], p) for p in points]
    return min(least, default=None)


KINKS = {"relu": (0.0, 1.0), "leaky": (0.25, 1.0), "falling": (-0.5, 1.0), "abs": (-1.0, 1.0)}
KINDS = (*KINKS, "max", "min", "residual")


def exact_network(
    kinds: Sequence[str],
    widths: Sequence[int],
    outputs: int,
    seed: int,
    dtype: torch.dtype,
    *,
    scale: float = 1.0,
    center: Tensor | None = None,
    spread: float = 1.0,
) -> ExactNetwork:
    """A random network, one hidden layer for each kind.

    Args:
        kinds: of `KINDS`.
        widths: of the hidden layers.
        outputs: number of outputs.
        seed: of the weights.
        dtype: of the module.
        scale: of the first layer's weights and biases; the last one's are divided by it.
        center: a point that the first layer's kinks lie around, (2,); the origin by default.
        spread: how far from it.
    """
    generator = torch.Generator().manual_seed(seed)

    def linear(inputs: int, size: int, factor: float = 1.0, around: Tensor | None = None) -> Linear:
        layer = nn.Linear(inputs, size).to(dtype)
        with torch.no_grad():
            weight = torch.randn(size, inputs, generator=generator, dtype=torch.float64) * 1.5 / inputs**0.5
            bias = torch.randn(size, generator=generator, dtype=torch.float64) * 0.4
            layer.weight.copy_(weight * factor)
            if around is not None:
                bias = bias * spread - (layer.weight.double() / factor) @ around.double()
            layer.bias.copy_(bias * factor)
        return Linear(layer)

    layers: list[Layer] = []
    size = 2
    for i, (kind, width) in enumerate(zip(kinds, widths)):
        factor, around = (scale, center) if i == 0 else (1.0, None)
        if kind in ("max", "min"):
            pair = (linear(size, width, factor, around) for _ in range(2))
            layers.append(Extreme(*pair, 1 if kind == "max" else -1))
        elif kind == "residual" and i:
            layers.append(Residual(linear(size, size)))
            width = size
        else:
            layers += [linear(size, width, factor, around), TwoSlopes(*KINKS.get(kind, (0.0, 1.0)))]
        size = width
    return ExactNetwork((*layers, linear(size, outputs, 1.0 / scale)))
