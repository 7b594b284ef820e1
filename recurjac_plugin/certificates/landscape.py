"""Gradients along the radius: how many entries lose their sign, and how the Lipschitz constant grows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.region import through_float32
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import MethodName, Norm, Order, parse_jacobian_method
from recurjac_plugin.jacobian.parts import regions_at_once
from recurjac_plugin.kept import Kept
from recurjac_plugin.lipschitz.norms import constants_of_rows
from recurjac_plugin.numerics.intervals import rounded_up
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.rounding import gamma, underflow
from recurjac_plugin.written.frames import data_frame, entries

from .perturbed_points import Clip, point_rows, read_points
from .stationary_points import certain_signs

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Landscape(Kept):
    """What is known of the gradients on growing balls.

    Attributes:
        radii: radii of the balls, increasing from 0, shape (b, n).
        undetermined: number of entries of a row's gradient whose sign is not certain on the ball, entries that are 0
            everywhere among them; int64 (b, n, k).
        constants: Lipschitz constants of the rows on the ball, shape (b, n, k).
    """

    radii: Tensor
    undetermined: Tensor
    constants: Tensor

    def to_dataframe(self) -> pd.DataFrame:
        """A table of pandas with one line for each point, radius and row: point, radius, row, undetermined, constant.

        Raises:
            ExtraError: pandas is not installed.
        """
        places = entries(tuple(self.constants.shape), None, None)
        radius, undetermined, constant = (
            value.detach().flatten().cpu().numpy()
            for value in (self.radii.unsqueeze(2).expand_as(self.constants), self.undetermined, self.constants)
        )
        measured = {"undetermined": undetermined, "constant": constant}
        return data_frame({"point": places["region"], "radius": radius, "row": places["input"]} | measured)

    def __repr__(self) -> str:
        points, radii, rows = self.constants.shape
        about = f"{points} point{'s' * (points != 1)}, {radii} radii, {rows} row{'s' * (rows != 1)}"
        if self.constants.numel():
            low, high = float(self.constants.min()), float(self.constants.max())
            about += f", radii up to {float(self.radii.max()):.3g}, constants {low:.3g} to {high:.3g}"
        return f"Landscape({about})"


@through_float32
@full_precision()
def landscape_scan(
    model: nn.Module,
    x0: Tensor,
    *,
    norm: Norm,
    radius: float | Tensor,
    points: int = 16,
    C: Tensor | None = None,
    method: MethodName | None = None,
    order: Order = "backward",
    shift: int = 0,
    clip: Clip | None = None,
    memory_budget: int | None = None,
    rigorous: bool = False,
    reference: nn.Module | None = None,
) -> Landscape:
    """Follow the gradients on balls that grow evenly from a point up to a radius.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x0: the points, shape (b, *input_shape), a plain tensor.
        norm: p of the balls: 1, 2 or inf.
        radius: the largest radius, a number, or one per sample, e.g. from `stationary_free_radius`.
        points: number n of radii, the first of them 0.
        C: specification matrix, shape (b or 1, k, n_out); None takes every output.
        method: as in `jacobian_bounds`.
        order: as in `jacobian_bounds`.
        shift: as in `jacobian_bounds`.
        clip: as in `certified_radius`.
        memory_budget: as in `jacobian_bounds`.
        rigorous: as in `jacobian_bounds`: whether what is certified is proven, rounding included.
        reference: as in `jacobian_bounds`.

    Returns:
        Radii, and for every radius and row the number of entries without a certain sign (as `stationary_free_radius`
        understands it) and the Lipschitz constant (as `local_lipschitz` with `per_output`).

    Raises:
        InputError: model, points, C or options do not fit together.
        MethodError: unknown method, or one without Jacobian bounds.
        UnsupportedError: the network has parts without a rule.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, section 4 (local optimization landscape).
    """
    declare(model, reference)
    parsed, around = parse_jacobian_method(method), read_points(x0, norm, clip)
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise InputError(f"`points` must be a whole number of at least 2, got {points!r}.")
    radii = _radii(radius, points, around.center)
    _, rows = point_rows(model, around, C)
    undetermined = torch.empty(*radii.shape, rows.shape[1], dtype=torch.int64, device=rows.device)
    constants = torch.empty(*radii.shape, rows.shape[1], dtype=rows.dtype, device=rows.device)
    # One ball after the other, unless they are boxes: as in `perturbed_points.probing`.
    size = regions_at_once(model, rows.shape[1], memory_budget, around.center) if around.norm == math.inf else 1
    with torch.no_grad():
        for part in torch.arange(radii.numel(), device=rows.device).split(size):
            index, i = part // points, part % points
            region = around.take(index).region(radii[index, i])
            analysis = analyse(
                model,
                region,
                parsed,
                rows[index],
                order=order,
                shift=shift,
                memory_budget=memory_budget,
                rigorous=rigorous,
            )
            undetermined[index, i] = (~certain_signs(analysis, rigorous)).sum(2)
            found = constants_of_rows(analysis, analysis.region.norm)
            constants[index, i] = _proven(found, analysis.region.columns, rows.dtype) if rigorous else found
    return Landscape(radii, undetermined, constants)


def _proven(constants: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """Row constants with room for the sums that they are, rounded up to the type of the points."""
    return rounded_up(constants * (1 + gamma(2 * columns + 64)) + underflow(1), dtype)


def _radii(largest: float | Tensor, count: int, center: Tensor) -> Tensor:
    """Evenly spaced from 0, (b, count)."""
    try:
        end = torch.as_tensor(largest, dtype=torch.float64, device=center.device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"`radius` must be a number or a tensor, got {largest!r}.") from error
    if end.shape not in ((), (1,), center.shape[:1]) or not bool((end.isfinite() & (end >= 0)).all()):
        raise InputError(
            f"`radius` must be finite and at least 0, one number or one per sample ({len(center)}), got {largest!r}."
        )
    fractions = torch.linspace(0, 1, count, dtype=torch.float64, device=center.device)
    return (end.reshape(-1, 1).expand(len(center), 1) * fractions).to(center)
