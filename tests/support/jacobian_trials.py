"""Jacobian and output bounds of random networks, held against sampled and ascended values."""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from cases.case import HOST_FAILURES, on_host
from oracle import Box, jacobians, outputs
from random_graphs import Recipe, Regions
from random_operators import Choices
from torch import Tensor, nn
from violations import relative_escape, size_of_terms, trial_points

import recurjac_plugin as rj
from recurjac_plugin.jacobian.methods import HOST_METHODS

ROUNDING, WRITTEN_IN_FLOAT32 = 1e-9, 1e-6


@dataclass
class Report:
    """What came of many trials."""

    graphs: int = 0
    bounds: int = 0
    regions: int = 0
    calls: int = 0
    refused_calls: int = 0
    not_built: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    escapes: list[dict[str, Any]] = field(default_factory=list)
    broken: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, int]:
        return {
            **{name: getattr(self, name) for name in ("graphs", "bounds", "regions", "calls", "refused_calls")},
            "not_built": self.not_built, "escapes": len(self.escapes), "broken": len(self.broken),
        }  # fmt: skip


Methods = tuple[tuple[str, str], ...]
"""Names of methods, each with the order in which it is to be taken."""


def draw_methods(choices: Choices) -> Methods:
    """All rules, and one of them with other pre-activation bounds."""
    methods = tuple((rule, choices.pick(("backward", "forward", "both"))) for rule in rj.METHODS)
    return (*methods, (f"{choices.pick(HOST_METHODS)}+{choices.pick(rj.METHODS)}", "backward"))


def built(recipe: Recipe, regions: Regions, box: Box) -> tuple[nn.Module, Any]:
    """Network and model, None if the host cannot build the model."""
    net = recipe.network(regions if regions.together else None)
    try:
        return net, on_host(net, box.center[:1].clone())
    except HOST_FAILURES:
        return net, None


def examine(seed: int | None, recipe: Recipe, regions: Regions, methods: Methods, report: Report) -> None:
    """Bound one network on some boxes by some methods, and try to find values outside."""
    torch.manual_seed(regions.seed)
    box = regions.boxes(recipe.shape)
    net, model = built(recipe, regions, box)
    if model is None:
        report.not_built += 1
        return
    report.graphs += 1
    where = {"seed": seed, "recipe": repr(recipe), "regions": repr(regions)}
    found: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
    output = constants = None
    for method, order in methods:
        report.calls += 1
        try:
            with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):  # the host's remarks
                x = box.perturbed()
                found[method, order] = tuple(rj.jacobian_bounds(model, x, method=method, order=order))
                if output is None:
                    output = rj.output_bounds(model, x, method=f"{method}+CROWN")
                    constants = rj.local_lipschitz(model, x, method=method, per_output=True)
        except rj.RecurJacError as error:
            report.refused_calls += 1
            report.refusals[reason(error)] += 1
        except Exception as error:  # noqa: BLE001  whatever it is, it is to be looked at
            what = f"{type(error).__name__}: {error}"[:300]
            report.broken.append({**where, "method": method, "order": order, "error": what})
    if not found:
        return
    slack = ROUNDING if recipe.exact else WRITTEN_IN_FLOAT32
    lower = torch.stack([low for low, _ in found.values()]).amax(0)
    upper = torch.stack([high for _, high in found.values()]).amin(0)
    points = trial_points(net, box, lower, upper)
    values = jacobians(net, points)
    for (method, order), (low, high) in found.items():
        report.bounds += low.numel()
        report.regions += len(low)
        note(report, relative_escape(values, low, high), slack, {**where, "method": method, "order": order})
    if output is not None:
        escape = relative_escape(outputs(net, points), *output, size_of_terms(points, values))
        note(report, escape, slack, {**where, "method": "outputs", "order": ""})
    if constants is not None:
        sums = values.abs().flatten(3).sum(3)
        note(report, relative_escape(sums, -constants, constants), slack, {**where, "method": "constants", "order": ""})


def reason(error: Exception) -> str:
    """A refusal without the names of nodes."""
    return re.sub(r"`/[^`]*`", "`/..`", str(error).replace("\n", " "))[:200]


def note(report: Report, escape: Tensor, slack: float, where: dict[str, Any]) -> None:
    """Keep the worst escape of a call."""
    worst = float(escape.nan_to_num(nan=float("inf")).max())
    if worst > slack:
        region = int(escape.nan_to_num(nan=float("inf")).argmax())
        report.escapes.append({**where, "escape": worst, "region": region})
