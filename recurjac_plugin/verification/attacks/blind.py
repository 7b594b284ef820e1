r"""Search for counterexamples where a network can be evaluated and nothing else: no gradients, no bounds.

For every box and disjunct ``A y <= b`` a population of points is kept, scored by :math:`\max_k (A y - b)_k`. A child of
one of the best points has some of its coordinates, from all of them down to one, drawn anew: at an end of the box, or
between the ends. That takes no notice of whether the network is continuous, which networks of signs and comparisons are
not. Whatever has a score of at most 0 is checked by `counterexample.check`.

Source: random local search, as in Andriushchenko, Croce, Flammarion, Hein: Square Attack, ECCV 2020, arXiv:1912.00049,
without their squares.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import torch

from recurjac_plugin.networks.onnx import OnnxNetwork
from recurjac_plugin.properties.spec import Box, Polytope, Spec
from recurjac_plugin.verification.counterexample import Counterexample, Session, check, into_box

_KEPT = 8  # points of a population
_CHILDREN = 16  # points that are evaluated at once
_PLACES = 8  # where gradients are looked for
_PATIENCE = 40  # generations of a population without progress before it starts anew


class _Population:
    """The best points met in one box for one disjunct."""

    def __init__(self, box: Box, polytope: Polytope, random: np.random.Generator) -> None:
        self.box, self.polytope, self.random = box, polytope, random
        self.free = np.flatnonzero(box.upper > box.lower)
        self.restart(centre=True)

    def restart(self, centre: bool = False) -> None:
        """Forget all points; the middle of the box is the first one once more, if it is to be."""
        self.points = np.empty((0, len(self.box.lower)))
        self.scores = np.empty(0)
        self.idle, self.centre = 0, centre

    def children(self, dtype: np.dtype) -> np.ndarray:
        """Points to be evaluated, (_CHILDREN, n_inputs), in the box."""
        size = (_CHILDREN, len(self.box.lower))
        between = self.random.random(size)
        across = np.where(self.random.random((_CHILDREN, 1)) < 0.5, between.round(), between)
        drawn = self.box.lower + (self.box.upper - self.box.lower) * across
        if len(self.points) == 0:
            if self.centre:
                drawn[0] = self.box.lower + (self.box.upper - self.box.lower) / 2
        else:
            share = 2.0 ** -self.random.integers(0, max(1, len(self.free)).bit_length() + 1, (_CHILDREN, 1))
            changed = self.random.random(size) < share
            parents = self.points[self.random.integers(0, len(self.points), _CHILDREN)]
            drawn = np.where(changed, drawn, parents)
        return np.stack([into_box(self.box, x, dtype) for x in drawn])

    def take(self, points: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Keep the best; the scores of the new points, NaN as infinity."""
        with np.errstate(invalid="ignore", over="ignore"):
            scores = (outputs.astype(np.float64) @ self.polytope.A.T - self.polytope.b).max(1)
        scores = np.where(np.isnan(scores), np.inf, scores)
        best = self.scores.min(initial=np.inf)
        every, values = np.concatenate([self.points, points]), np.concatenate([self.scores, scores])
        order = values.argsort(kind="stable")[:_KEPT]
        self.points, self.scores = every[order], values[order]
        self.idle = 0 if self.scores[0] < best else self.idle + 1
        if self.idle > _PATIENCE:
            self.restart()
        return scores


def is_flat(network: OnnxNetwork, box: Box) -> bool:
    """Whether outputs have no gradient anywhere in a box, as where every way through a network jumps.

    That is said of networks without a gradient in the middle and at some random points, of outputs with random weights:
    at one point alone a rectifier may be off, or the gradients of two outputs cancel.

    Source: own.
    """
    parameter = next(network.parameters(), torch.zeros(()))
    random = np.random.default_rng(0)
    places = np.concatenate([np.full((1, len(box.lower)), 0.5), random.random((_PLACES - 1, len(box.lower)))])
    weights = torch.from_numpy(random.random((_PLACES, network.n_outputs)) + 0.5).to(parameter.device, network.dtype)
    for place, weight in zip(places, weights, strict=True):
        point = torch.from_numpy(box.lower + (box.upper - box.lower) * place).to(parameter.device, network.dtype)
        with torch.enable_grad():
            x = point.reshape(1, *network.input_shape).requires_grad_()
            value = (network(x).flatten() * weight).sum() + 0.0 * x.sum()
            (gradient,) = torch.autograd.grad(value, x)
        if bool(gradient.any()):
            return False
    return True


def search_blindly(spec: Spec, session: Session, *, deadline: float, seed: int = 0) -> Counterexample | None:
    """Look for an input that violates a property, by evaluating the network alone, until the time is over.

    Args:
        spec: the property.
        session: the network.
        deadline: value of `time.monotonic` at which to stop; one generation of points is finished.
        seed: of the random points.

    Returns:
        A confirmed counterexample, or None, which proves nothing.

    Source:
        As this module's.
    """
    random = np.random.default_rng(seed)
    pairs = itertools.cycle([(box, polytope) for box in spec.boxes for polytope in box.disjuncts])
    populations: dict[int, _Population] = {}
    for box, polytope in pairs:
        if time.monotonic() >= deadline:
            return None
        population = populations.setdefault(id(polytope), _Population(box, polytope, random))
        points = population.children(session.dtype)
        scores = population.take(points, session(points.astype(session.dtype)))
        for x in points[scores <= 0]:
            counterexample = check(spec, session, x)
            if counterexample is not None:
                return counterexample
    return None
