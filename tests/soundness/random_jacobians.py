"""Jacobian bounds of random networks over the whole support table, sampled and ascended.

python tests/soundness/random_jacobians.py --bounds 100000 --seed 0 [--seconds S] [--out FILE]

Every network is bounded on several boxes at once, from narrow to wide, by every method. A derivative at a sampled or
ascended point that lies outside by more than 1e-9 of the largest one on the box (1e-6 where an exporter wrote
constants in float32) is an escape. What was refused is counted, what broke is listed, all with seeds.
"""

# ruff: noqa: E402, T201
from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import re
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import torch
from cases.case import HOST_FAILURES, on_host
from host_tables import share_tables
from oracle import jacobians, outputs
from random_graphs import Choices, Recipe, Regions, draw_regions, recipes
from violations import relative_escape, size_of_terms, trial_points

import recurjac_plugin as rj
from recurjac_plugin.jacobian.methods import HOST_METHODS

ROUNDING, WRITTEN_IN_FLOAT32 = 1e-9, 1e-6
REGIONS = 16


@dataclass
class Report:
    """What came of many trials."""

    graphs: int = 0
    bounds: int = 0
    regions: int = 0
    calls: int = 0
    refused_calls: int = 0
    not_built: int = 0
    refusals: Counter = field(default_factory=Counter)
    escapes: list = field(default_factory=list)
    broken: list = field(default_factory=list)

    def summary(self) -> dict:
        return {
            **{name: getattr(self, name) for name in ("graphs", "bounds", "regions", "calls", "refused_calls")},
            "not_built": self.not_built, "escapes": len(self.escapes), "broken": len(self.broken),
        }  # fmt: skip


def draw_methods(choices: Choices) -> list[tuple[str, str]]:
    """Methods with the order in which each is to be taken: all rules, one of them with another prefix."""
    methods = [(rule, choices.pick(("backward", "forward", "both"))) for rule in rj.METHODS]
    return [*methods, (f"{choices.pick(HOST_METHODS)}+{choices.pick(rj.METHODS)}", "backward")]


def built(recipe: Recipe, regions: Regions, box):
    """Network and model, None if the host cannot build the model."""
    net = recipe.network(regions if regions.together else None)
    try:
        return net, on_host(net, box.center[:1].clone())
    except HOST_FAILURES:
        return net, None


def examine(seed, recipe: Recipe, regions: Regions, methods, report: Report) -> None:
    """Bound one network on some boxes by some methods, and try to find values outside."""
    torch.manual_seed(regions.seed)
    box = regions.boxes(recipe.shape)
    net, model = built(recipe, regions, box)
    if model is None:
        report.not_built += 1
        return
    report.graphs += 1
    found, output = {}, None
    where = {"seed": seed, "recipe": repr(recipe), "regions": repr(regions)}
    for method, order in methods:
        report.calls += 1
        try:
            with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):  # the host's remarks
                bounds = rj.jacobian_bounds(model, box.perturbed(), method=method, order=order)
                found[method, order] = bounds.lower, bounds.upper
                output = output or rj.output_bounds(model, box.perturbed(), method=f"{method}+CROWN")
        except rj.RecurJacError as error:
            report.refused_calls += 1
            report.refusals[reason(error)] += 1
        except Exception as error:  # noqa: BLE001  whatever it is, it is to be looked at
            report.broken.append(
                {**where, "method": method, "order": order, "error": f"{type(error).__name__}: {error}"[:300]}
            )
    if not found:
        return
    slack = ROUNDING if recipe.exact else WRITTEN_IN_FLOAT32
    lower = torch.stack([low for low, _ in found.values()]).amax(0)
    upper = torch.stack([high for _, high in found.values()]).amin(0)
    points = trial_points(net, box, lower, upper)
    values = jacobians(net, points)
    for (method, order), (low, high) in found.items():
        report.bounds += len(low) * low[0].numel()
        report.regions += len(low)
        note(report, relative_escape(values, low, high), slack, {**where, "method": method, "order": order})
    if output is not None:
        escape = relative_escape(outputs(net, points), *output, size_of_terms(points, values))
        note(report, escape, slack, {**where, "method": "outputs", "order": ""})


def reason(error: Exception) -> str:
    """A refusal without the names of nodes."""
    return re.sub(r"`/[^`]*`", "`/..`", str(error).replace("\n", " "))[:200]


def note(report: Report, escape: torch.Tensor, slack: float, where: dict) -> None:
    """Keep the worst escape of a call."""
    worst = float(escape.nan_to_num(nan=float("inf")).max())
    if worst > slack:
        region = int(escape.nan_to_num(nan=float("inf")).argmax())
        report.escapes.append({**where, "escape": worst, "region": region})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bounds", type=int, default=10_000, help="regions x methods to bound")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--parts", type=int, default=6, help="largest number of parts of a network")
    parser.add_argument("--out", type=Path, help="where failures are written to, as JSON")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    share_tables()
    rj.register()
    report, start, seen = Report(), time.perf_counter(), 0
    for seed, recipe, generator in recipes(options.seed, options.parts):
        if report.regions >= options.bounds or time.perf_counter() - start > options.seconds:
            break
        examine(seed, recipe, draw_regions(generator, REGIONS), draw_methods(generator), report)
        for each in [*report.escapes, *report.broken][seen:]:
            print(json.dumps(each), flush=True)
        seen = len(report.escapes) + len(report.broken)
        if options.out:
            options.out.write_text(json.dumps({"escapes": report.escapes, "broken": report.broken}, indent=1))
    print(json.dumps({**report.summary(), "seeds": [options.seed, seed], "seconds": time.perf_counter() - start}))
    for reason, count in report.refusals.most_common(25):
        print(count, reason)
    return 1 if report.escapes or report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
