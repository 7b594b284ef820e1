"""Which method bounds a Jacobian where none was named, by its name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.host.region import Inputs, read_arguments, through_float32
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.numerics.precision import full_precision

from .analysis import analyse
from .methods import AUTO, Order, OutputMethodName, parse
from .parts import bounded_in_parts


@through_float32
@full_precision()
@torch.no_grad()
def chosen_methods(
    model: nn.Module,
    x: Inputs,
    *,
    method: OutputMethodName | None = None,
    C: Tensor | None = None,
    order: Order = "backward",
    shift: int = 0,
    memory_budget: int | None = None,
    rigorous: bool = False,
    reference: nn.Module | None = None,
) -> tuple[str, ...]:
    """The method that bounds the Jacobian over each region of `x`, by its name.

    `auto`, and no name, leave the choice to `recurjac_plugin.jacobian.planes`: `RecurJac-McCormick` where smooth
    activations make it worth its time, `RecurJac-Linear` elsewhere. It depends on the region alone, neither on the
    others of a batch nor on the rows. All functions choose alike. What is asked for by its name is that.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x: as in `jacobian_bounds`.
        method: any method of a function that has regions; `IBP+auto` chooses on bounds by IBP.
        C: as in `jacobian_bounds`.
        order: as in `jacobian_bounds`.
        shift: as in `jacobian_bounds`.
        memory_budget: as in `jacobian_bounds`.
        rigorous: as in `jacobian_bounds`; proven ranges of derivatives are a little wider.
        reference: as in `jacobian_bounds`.

    Returns:
        One name for each region, as `METHODS` spells it, with the prefix and ``+CROWN`` that were asked for.

    Raises:
        InputError: as in `jacobian_bounds`.
        MethodError: unknown method.
        UnsupportedError: the network has parts without a rule.

    Source:
        Own.
    """
    declare(model, reference)
    parsed = parse(method)
    if parsed.jacobian != AUTO:
        return (parsed.name,) * len(read_arguments(x, model).regions[0].center)
    options: dict[str, Any] = {"order": order, "shift": shift, "memory_budget": memory_budget, "rigorous": rigorous}
    found: list[str] = []

    def choose(x: Any, C: Tensor | None) -> tuple[Tensor, ...]:
        found.extend(analyse(model, x, parsed, C, **options).methods)
        return ()

    bounded_in_parts(choose, model, x, C, memory_budget)
    return tuple(found)
