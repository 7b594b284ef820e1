r"""Local Lipschitz constants from below: the largest norm of the Jacobian met at points of the region.

.. math:: \max_n \lVert J(x_n) \rVert \le \sup_{x \in B} \lVert J(x) \rVert

for points x_n of the region B, in the norm that the constant is for. No upper bound can be smaller, so the two together
say how much of an upper bound may be slack. The points climb by projected gradient ascent (`_Ascent`): the norm at a
point is ``c^T J v`` for some c and v, and its gradient there is that of ``v^T d(c^T f)/dx``.

Axes: n points of each of b regions, k rows, as many columns as input coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.library import HOST_FAILURES, BoundedModule
from recurjac_plugin.host.problem import specification
from recurjac_plugin.host.region import Inputs, read_region, require_alike, through_float32
from recurjac_plugin.host.state import preserved
from recurjac_plugin.jacobian.methods import Norm
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.region import Region

from .matrix_norms import dual_of, norm_below, stretched
from .weighted import plain_norms

_FIRST, _LAST = 0.5, 0.02  # length of an ascent step at the beginning and at the end, in radii

_GATHERED = 4  # steps after which half of the points go on from the best one

Evaluation = Callable[[Tensor], Tensor]


@through_float32
@full_precision()
def sampled_lipschitz(
    model: nn.Module,
    x: Inputs,
    *,
    C: Tensor | None = None,
    norm: Norm | None = None,
    output_norm: Norm | None = None,
    per_output: bool = False,
    points: int = 64,
    steps: int = 20,
    seed: int = 0,
) -> Tensor:
    r"""Lower bound of the Lipschitz constant of ``C f`` over the region of `x`, in norms p and q of input and output.

    .. math:: \max_n \lVert C \, \partial f(x_n) \rVert_{p \to q}, \qquad\text{or}\qquad
        \max_n \lVert C_k \, \partial f(x_n) \rVert_{p^*} \text{ for every row } k, \quad 1/p + 1/p^* = 1,

    over points x_n of the region: its centre, random ones inside and on the boundary, and what projected gradient
    ascent on the norm makes of them. Where the gradient of the norm is 0, as it is everywhere in a network of ReLUs, a
    point follows the gradient of the outputs, or a random direction; a step is kept if the norm grew. All points are
    evaluated together, and lie strictly inside the region in the model's own number type.

    Args:
        model: auto_LiRPA's `BoundedModule`, or any module with ``model(x)`` of shape (b, n_out); it is left as it was.
        x: a `BoundedTensor` whose perturbation is an l_p ball or a box.
        C: specification matrix, shape (b or 1, k, n_out); None takes every output.
        norm: p, which the region need not have, 1, 2 or inf; None for the norm of the region, inf for boxes.
        output_norm: q, 1, 2 or inf; None for that of the input.
        per_output: one constant per row instead of one for the vector output.
        points: number of points per region, the centre included.
        steps: ascent steps of every point; 0 only samples.
        seed: of everything random: the same call gives the same numbers.

    Returns:
        Shape (b,), or (b, k) with `per_output`; exact up to the rounding of one evaluation in the model's number type.

    Raises:
        InputError: model, input or C do not fit together; `points` or `steps` too small; or the vector constant is
            asked for p or q other than 1, 2, inf.
    """
    for name, value, least in (("points", points, 1), ("steps", steps, 0), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
    if not isinstance(model, nn.Module):
        raise InputError(f"`model` must be auto_LiRPA's `BoundedModule` or a torch module, got {type(model).__name__}.")
    region = read_region(x)
    p, q = plain_norms(region.norm, norm, output_norm, per_output)
    require_alike(model, region.center)
    region = Region(region.center.detach(), region.norm, region.radius.detach())
    with _evaluating(model), torch.enable_grad():
        evaluate = _evaluation(model, region.center)
        rows = specification(C, evaluate(region.center)).flatten(2).detach()
        norms = p, None if per_output else q
        ascent = _Ascent(region, rows, evaluate, norms, torch.Generator().manual_seed(seed))
        best = ascent.run(points, steps)[0]
        return best if per_output else best.squeeze(1)


def climbed(
    region: Region,
    rows: Tensor,  # shape: (1, k, n_out)
    evaluate: Evaluation,
    norms: tuple[float, float | None],
    points: int,
    steps: int,
) -> Tensor:
    """Points of one region at which norms of the Jacobian are large, (1, columns), or (k, columns) for those of rows.

    Args:
        region: where to look.
        rows: the matrix C.
        evaluate: the network, (n, *input_shape) -> (n, *output_shape), differentiable.
        norms: p and q; without q every row has a norm of its own.
        points: as in `sampled_lipschitz`.
        steps: as in `sampled_lipschitz`.

    Source: own, as `sampled_lipschitz`.
    """
    with torch.enable_grad():
        return _Ascent(region, rows, evaluate, norms, torch.Generator().manual_seed(0)).run(points, steps)[1][0]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model as it computes when it is used, and afterwards as it was."""
    if isinstance(model, BoundedModule):
        with preserved(model):
            yield
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _evaluation(model: nn.Module, center: Tensor) -> Evaluation:
    """``x -> model(x)`` for any number of samples, in groups of the given size if the model takes no others."""
    size = len(center)

    def in_groups(x: Tensor) -> Tensor:
        return torch.cat([_outputs(model, part) for part in x.split(size)])

    try:
        expected = _outputs(model, center)
    except InputError:
        raise
    except HOST_FAILURES as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"The model does not take an input of shape {tuple(center.shape)} and type {center.dtype} "
            f"({type(error).__name__}: {reason})."
        ) from error
    if expected.dim() < 2 or len(expected) != size:
        raise InputError(f"The model's output has shape {tuple(expected.shape)}, expected ({size}, n_out).")
    if not expected.numel():
        raise InputError(f"The model's output has shape {tuple(expected.shape)}, no element: there is no slope.")
    if not bool(expected.isfinite().all()):
        raise InputError("The model's output contains NaN or infinite values; there is no slope to measure.")
    try:
        many = _outputs(model, torch.cat([center, center, center]))
    except HOST_FAILURES:
        return in_groups
    same = many.shape == (3 * size, *expected.shape[1:]) and all(
        torch.allclose(part, expected, rtol=1e-3) for part in many.split(size)
    )
    return (lambda x: _outputs(model, x)) if same else in_groups


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    y = model(x.clone())  # which it may change
    if not isinstance(y, Tensor):
        raise InputError(f"The model gives {type(y).__name__}, expected one tensor of shape (b, n_out).")
    return y


class _Ascent:
    """Points of the regions that climb the norm of the Jacobian, all of them together.

    Args:
        region: where the points stay.
        rows: the matrices C, (b, k, n_out).
        evaluate: the network, (n, *input_shape) -> (n, *output_shape).
        norms: p and q; without q every row has a norm of its own, and the points take the rows in turn.
        random: where random numbers come from.
    """

    def __init__(
        self,
        region: Region,
        rows: Tensor,
        evaluate: Evaluation,
        norms: tuple[float, float | None],
        random: torch.Generator,
    ) -> None:
        self.region, self.rows, self.evaluate = region, rows, evaluate
        self.p, self.q = norms
        self.random = random
        self.center = region.center.flatten(1)  # (b, columns)
        # A point is rounded to the number type: the ball is smaller by that, so that the rounded point is inside.
        room = 4 * torch.finfo(self.center.dtype).eps
        if region.norm == math.inf:
            lost = room * (self.center.abs() + region.radius)
        else:
            lost = room * (torch.linalg.vector_norm(self.center, ord=region.norm, dim=1, keepdim=True) + region.radius)
        self.radius = (region.radius - lost).clamp(min=0)

    def run(self, points: int, steps: int) -> tuple[Tensor, Tensor]:
        """The largest norms met by so many points in so many steps, (b, 1 or k), and where: (b, 1 or k, columns)."""
        x = self._starts(points)
        J, norms = self._measured(x)
        goal = torch.arange(points, device=x.device) % norms.shape[2]  # of the norms, the one that each point climbs
        goal = goal.reshape(-1, 1, 1).expand(-1, x.shape[1], 1)
        best, at = _largest(norms, x)
        for step in range(steps):
            if step % _GATHERED == _GATHERED - 1:  # half of the points go on from where their norm is largest
                leader = torch.where(_themselves(goal) % 2 == 1, _leaders(norms, goal), _themselves(goal))
                x, J, norms = (_taken(each, leader) for each in (x, J, norms))
            length = _FIRST * (_LAST / _FIRST) ** (step / max(steps - 1, 1))
            trial = self._projected(x + length * self._unit(self._directions(x, J, goal, step)))
            trial_J, trial_norms = self._measured(trial)
            found, where = _largest(trial_norms, trial)
            at = torch.where((found > best).unsqueeze(2), where, at)
            best = torch.maximum(best, found)
            better = trial_norms.gather(2, goal) > norms.gather(2, goal)
            x, norms = torch.where(better, trial, x), torch.where(better, trial_norms, norms)
            J = torch.where(better.unsqueeze(3), trial_J, J)
        return best, at

    def _starts(self, points: int) -> Tensor:
        """The centre, corners, points of the boundary and of the inside: (n, b, columns)."""
        direction = self._normal(points)
        if self.region.norm == math.inf:
            direction[::2] = direction[::2].sign()
        elif self.region.norm == 1:  # its corners are the unit vectors
            corner = torch.zeros_like(direction).scatter(2, direction.abs().argmax(2, keepdim=True), 1.0)
            direction[::2] = (corner * direction.sign())[::2]
        fraction = torch.ones(points, 1, 1, dtype=direction.dtype)
        fraction[1::4] = torch.rand(fraction[1::4].shape, generator=self.random, dtype=direction.dtype)
        fraction[0] = 0
        return self._projected(self.center + self._unit(direction) * fraction.to(direction.device))

    def _normal(self, points: int) -> Tensor:
        shape = (points, *self.center.shape)
        return torch.randn(shape, generator=self.random, dtype=torch.float64).to(self.center)

    def _unit(self, direction: Tensor) -> Tensor:
        """Offsets to the boundary of the region in some directions, (n, b, columns); of boxes, to some side of it."""
        if self.region.norm == math.inf:
            largest = direction.abs().amax(2, keepdim=True)
            return self.radius * direction / largest.clamp(min=torch.finfo(direction.dtype).tiny)
        return self.radius * torch.nn.functional.normalize(direction, p=self.region.norm, dim=2)

    def _projected(self, x: Tensor) -> Tensor:
        """The nearest points of the region, (n, b, columns); for p other than 1, 2, inf some near ones."""
        offset, p = x - self.center, self.region.norm
        if p == math.inf:
            return self.center + torch.minimum(torch.maximum(offset, -self.radius), self.radius)
        if p == 1:
            offset = _onto_simplex(offset, self.radius)
        size = torch.linalg.vector_norm(offset, ord=p, dim=2, keepdim=True)
        shrunk = self.radius / size.clamp(min=torch.finfo(size.dtype).tiny)
        return self.center + offset * shrunk.clamp(max=1)

    def _measured(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Jacobians (n, b, k, columns), and their norms (n, b, k) or (n, b, 1)."""
        leaf, y = self._at(x)
        J = torch.stack([self._gradient(column.sum(), leaf, keep=True) for column in y.unbind(1)], 1).detach()
        J = J.reshape(*x.shape[:2], *J.shape[1:]).nan_to_num(0.0)
        if self.q is None:
            return J, torch.linalg.vector_norm(J, ord=dual_of(self.p), dim=3)
        return J, norm_below(J.flatten(0, 1), self.p, self.q).reshape(*x.shape[:2], 1)

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The points (n b, *input_shape), to be differentiated by, and ``C f`` there (n b, k)."""
        leaf = x.reshape(-1, *self.region.center.shape[1:]).detach().requires_grad_()
        y = self.evaluate(leaf).flatten(1)
        return leaf, (self.rows.repeat(len(x), 1, 1) @ y.unsqueeze(2)).squeeze(2)

    @staticmethod
    def _gradient(value: Tensor, leaf: Tensor, *, keep: bool = False, twice: bool = False) -> Tensor:
        """The gradient (n b, columns); 0 where there is none."""
        gradient = None
        if value.requires_grad:
            keep = keep or twice
            (gradient,) = torch.autograd.grad(value, leaf, retain_graph=keep, create_graph=twice, allow_unused=True)
        return (torch.zeros_like(leaf) if gradient is None else gradient).flatten(1)

    def _directions(self, x: Tensor, J: Tensor, goal: Tensor, step: int) -> Tensor:
        """Where each point goes next, (n, b, columns).

        The norm at a point is ``c^T J v`` for some c and v, so its gradient there is that of ``<v, d(c^T f)/dx>``.
        """
        c, v = self._attained(J, goal)
        leaf, y = self._at(x)
        first = self._gradient((c.flatten(0, 1) * y).sum(), leaf, twice=True)
        second = self._gradient((first * v.flatten(0, 1)).sum(), leaf)
        ascent, uphill = second.detach().reshape(x.shape), first.detach().reshape(x.shape)
        # Points without ascent go uphill or downhill on the outputs in one step, at random in the next, in some of the
        # coordinates: with all of them at once they would leave the pieces of the network that they know.
        side = torch.where(self._uniform(len(x)) < 0.5, -1.0, 1.0)
        wander = torch.arange(len(x), device=x.device).reshape(-1, 1, 1) % 2 == step % 2
        moved = self._uniform(*x.shape) < self._uniform(len(x), x.shape[1])
        noise = self._normal(len(x)) * moved
        useful = ascent.isfinite().all(2, keepdim=True) & (ascent.abs().amax(2, keepdim=True) > 0)
        slope = self._steepest(torch.where(useful, ascent, side * uphill).nan_to_num(0.0))
        flat = slope.abs().amax(2, keepdim=True) == 0
        return torch.where(flat | (wander & ~useful), noise, slope)

    def _steepest(self, gradient: Tensor) -> Tensor:
        """The direction of steepest ascent in the region's norm, (n, b, columns), of any length."""
        if self.region.norm == math.inf:
            return gradient.sign()
        if self.region.norm == 1:  # all of the step in one coordinate
            return torch.zeros_like(gradient).scatter(2, gradient.abs().argmax(2, keepdim=True), 1.0) * gradient
        return gradient

    def _uniform(self, *shape: int) -> Tensor:
        """Random numbers in [0, 1), of up to three dimensions: (n, b, columns)."""
        shape = (*shape, *(1,) * (3 - len(shape)))
        return torch.rand(shape, generator=self.random, dtype=torch.float64).to(self.center)

    def _attained(self, J: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """c (n, b, k) and v (n, b, columns) with ``norm = c^T J v``."""
        if self.q is not None:
            c, v = stretched(J.flatten(0, 1), self.p, self.q)
            return c.reshape(J.shape[:3]), v.reshape(*J.shape[:2], -1)
        c = torch.zeros_like(J[..., 0]).scatter(2, goal, 1.0)
        row = (c.unsqueeze(3) * J).sum(2)
        dual = dual_of(self.p)
        if dual == math.inf:
            one = torch.zeros_like(row).scatter(2, row.abs().argmax(2, keepdim=True), 1.0)
            return c, one * row.sign()
        largest = row.abs().amax(2, keepdim=True).clamp(min=torch.finfo(row.dtype).tiny)
        return c, row.sign() * (row.abs() / largest) ** (dual - 1)


def _leaders(norms: Tensor, goal: Tensor) -> Tensor:
    """For every point the one that is highest in what the point climbs: (n, b, 1)."""
    return norms.argmax(0, keepdim=True).expand_as(norms).gather(2, goal)


def _largest(norms: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest norms of n points, (n, b, g) -> (b, g), and where they are, (n, b, columns) -> (b, g, columns)."""
    best, index = norms.max(0)
    return best, x.transpose(0, 1).gather(1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))


def _themselves(goal: Tensor) -> Tensor:
    return torch.arange(len(goal), device=goal.device).reshape(-1, 1, 1).expand_as(goal)


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]`` over the points, for each region: values (n, b, ...), index (n, b, 1)."""
    index = index.reshape(*index.shape[:2], *(1,) * (values.dim() - 2))
    return values.gather(0, index.expand_as(values))


def _onto_simplex(offset: Tensor, radius: Tensor) -> Tensor:
    """Nearest point of the l_1 ball: soft-thresholding (Duchi et al., ICML 2008); offset (n, b, m), radius (b, 1)."""
    size = offset.abs()
    ordered = size.sort(dim=2, descending=True).values
    count = torch.arange(1, offset.shape[2] + 1, device=offset.device, dtype=offset.dtype)
    threshold = (ordered.cumsum(2) - radius) / count
    last = (ordered > threshold).sum(2, keepdim=True).clamp(min=1)
    least = threshold.gather(2, last - 1).clamp(min=0)
    return offset.sign() * (size - least).clamp(min=0)
