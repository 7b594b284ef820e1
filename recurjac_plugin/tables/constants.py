"""Lipschitz constants against the radius: certified ones, what a search ends with, and what sampling finds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.jacobian.methods import GLOBAL_METHODS
from recurjac_plugin.lipschitz.local import local_lipschitz
from recurjac_plugin.lipschitz.product import global_lipschitz
from recurjac_plugin.lipschitz.sampled import sampled_lipschitz
from recurjac_plugin.lipschitz.searched.exact import Tightened, tighten
from recurjac_plugin.neurons.searches.largest import Progress

from .subject import Subject, Watcher, ball, chosen, labels

_Ball = tuple[float, int]  # its radius, and the index of the input in its middle

COLUMNS = ("asked", "method", "eps", "input", "constant", "seconds", "unsupported")
"""What is said of every method and ball."""


class Norms(NamedTuple):
    """Of the ball, and of what the constant compares: changes of the input and of the output."""

    ball: float
    input: float
    output: float

    @property
    def text(self) -> str:
        """How the constant's norms are written."""
        return " to ".join(norm_name(norm) for norm in dict.fromkeys((self.input, self.output)))


def norm_name(norm: float) -> str:
    """How a norm is written in tables and pictures."""
    return f"l_{norm:g}"


@dataclass(frozen=True, eq=False)
class Balls:
    """A network on balls of several radii around inputs.

    Attributes:
        subject: the network.
        centers: the inputs, (b, *input_shape).
        norms: of the balls and of the constants.
        radii: in increasing order.
        watcher: is told how it gets on.
    """

    subject: Subject
    centers: Tensor
    norms: Norms
    radii: tuple[float, ...]
    watcher: Watcher

    @property
    def all(self) -> list[_Ball]:
        """Every radius around every input, the radii in increasing order."""
        return [(eps, i) for eps in self.radii for i in range(len(self.centers))]

    def region(self, eps: float, i: int) -> Any:
        """One ball as a perturbed input of the host."""
        return ball(self.centers[i : i + 1], self.norms.ball, eps)


def certified(balls: Balls, names: Sequence[str], rigorous: bool) -> list[dict[str, Any]]:
    """Certified constants, one entry per method and ball; where a method has none, `unsupported` says why."""
    subject, norms, unread = balls.subject, balls.norms, _unread(balls.subject)
    local = [(name, eps, i) for name in names if name not in GLOBAL_METHODS for eps, i in balls.all]
    entries: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name, eps, i in balls.watcher.progress(local, "Lipschitz constants"):
        start = time.perf_counter()
        constant, by, reason = (None, name, unread) if unread is not None else _on_ball(balls, name, eps, i, rigorous)
        seconds = time.perf_counter() - start
        entries[name].append(_entry(name, eps, i, constant, seconds, reason) | {"method": by})
    for name in (name for name in names if name in GLOBAL_METHODS):
        start = time.perf_counter()
        everywhere, reason = (None, unread) if unread is not None else _everywhere(subject, norms, name)
        seconds = time.perf_counter() - start
        entries[name] = [_entry(name, eps, i, everywhere, seconds, reason) for eps, i in balls.all]
    return [entry for name in names for entry in entries[name]]


def refusals(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be said of methods that have no constant: each reason once, with the radii that it is about."""
    radii = sorted({entry["eps"] for entry in entries})
    met: dict[tuple[str, str], set[float]] = {}
    for entry in entries:
        if entry["unsupported"] is not None:
            met.setdefault((entry["asked"], entry["unsupported"]), set()).add(entry["eps"])
    about = {key: "" if len(on) == len(radii) else f" on radius {', '.join(f'{eps:g}' for eps in sorted(on))}"
             for key, on in met.items()}  # fmt: skip
    return [f"{name}{on}: {reason}" for (name, reason), on in about.items()]


def _unread(subject: Subject) -> str | None:
    """Why the host cannot read the network, if it cannot: asked once, and not for every ball."""
    try:
        _ = subject.host
    except UnsupportedError as error:
        return str(error)
    return None


def _on_ball(balls: Balls, name: str, eps: float, i: int, rigorous: bool) -> tuple[float | None, str, str | None]:
    """The constant of a method on one ball, and what the method is there; None, and why, where it has none."""
    norms, x = balls.norms, balls.region(eps, i)
    try:
        with torch.no_grad():
            constant = local_lipschitz(
                balls.subject.host, x, method=name, norm=norms.input, output_norm=norms.output, rigorous=rigorous
            )
        return float(constant[0]), chosen(balls.subject, name, [x], rigorous=rigorous), None
    except UnsupportedError as error:
        return None, name, str(error)


def _everywhere(subject: Subject, norms: Norms, name: str) -> tuple[float | None, str | None]:
    """The constant on the whole space; None, and why, where the network has none."""
    if norms.input != norms.output:
        return None, "it has constants in one norm on both sides only."
    try:
        return float(global_lipschitz(subject.host, norm=norms.input, method=name)[0]), None
    except UnsupportedError as error:
        return None, str(error)


def sampled(balls: Balls, points: int, steps: int, seed: int) -> list[dict[str, Any]]:
    """What sampling finds, one entry per ball: no certified constant can be below it."""
    entries, norms = [], balls.norms
    largest = [0.0] * len(balls.centers)  # a smaller ball lies in a larger one: what was met in it counts there, too
    for eps, i in balls.watcher.progress(balls.all, "Samples"):
        start = time.perf_counter()
        constant = sampled_lipschitz(
            balls.subject.module, balls.region(eps, i), norm=norms.input, output_norm=norms.output, points=points,
            steps=steps, seed=seed,
        )  # fmt: skip
        largest[i] = max(largest[i], float(constant[0]))
        entries.append(_entry("sampled", eps, i, largest[i], time.perf_counter() - start))
    return entries


def searched(balls: Balls, gap: float, budget: float, trace: list[Progress]) -> list[dict[str, Any]]:
    """What a search ends with, an upper and a lower bound per ball; how the last one came there is put into `trace`."""
    found_by: dict[str, list[dict[str, Any]]] = {"searched": [], "attained": []}
    for eps, i in balls.all:
        trace.clear()
        start = time.perf_counter()
        found, reason = _search(balls, eps, i, (gap, budget), trace)
        seconds = time.perf_counter() - start if found is None else found.seconds[0]
        ends = (None, None) if found is None else (float(found.upper[0]), float(found.lower[0]))
        for (name, entries), constant in zip(found_by.items(), ends, strict=True):
            entries.append(_entry(name, eps, i, constant, seconds, reason))
    return [entry for entries in found_by.values() for entry in entries]


def _search(
    balls: Balls, eps: float, i: int, ends: tuple[float, float], trace: list[Progress]
) -> tuple[Tightened | None, str | None]:
    """What the search on one ball found with a gap and a budget; None, and why, where there is none."""
    norms, (gap, budget) = balls.norms, ends
    with balls.watcher.status(f"radius {eps:g}") as say:

        def seen(now: Progress) -> None:
            trace.append(now)
            say(f"{float(now.lower.max()):.6g} <= constant <= {float(now.upper.max()):.6g}, {now.parts} parts")

        try:
            found = tighten(
                balls.subject.host, balls.region(eps, i), norm=norms.input, output_norm=norms.output, gap=gap,
                budget=budget, seen=seen,
            )  # fmt: skip
        except UnsupportedError as error:
            return None, str(error)
    return found, None


def _entry(
    method: str, eps: float, i: int, constant: float | None, seconds: float, unsupported: str | None = None
) -> dict[str, Any]:
    return {
        "asked": method, "method": method, "eps": eps, "input": i, "constant": constant, "seconds": seconds,
        "unsupported": unsupported,
    }  # fmt: skip


def largest_by_radius(entries: Sequence[Mapping[str, Any]]) -> tuple[list[float], dict[str, list[float | None]]]:
    """The radii, and by method the largest constant over the inputs for each of them; None where one input has none."""
    called = labels(entries, dict.fromkeys(entry["asked"] for entry in entries))
    radii = sorted({entry["eps"] for entry in entries})
    found: dict[str, list[float | None]] = {}
    for name in dict.fromkeys(called.values()):
        of_name = [entry for entry in entries if called[entry["asked"]] == name]
        found[name] = []
        for eps in radii:
            values = [entry["constant"] for entry in of_name if entry["eps"] == eps]
            found[name].append(None if None in values else max(values, default=None))
    return radii, found


def curves_of(entries: Sequence[Mapping[str, Any]]) -> tuple[list[float], dict[str, list[float]]]:
    """`largest_by_radius` to draw: without the methods that have no constant, NaN where one has none on a radius."""
    radii, found = largest_by_radius(entries)
    some = {name: values for name, values in found.items() if any(value is not None for value in values)}
    return radii, {name: [math.nan if value is None else value for value in values] for name, values in some.items()}
