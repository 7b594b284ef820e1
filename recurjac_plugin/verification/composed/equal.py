r"""Inputs that a property wants equal, as one input.

Where every violation has :math:`x_i = x_j`, the network :math:`z \mapsto f(S z)` with fewer inputs is looked at, S a
matrix of zeros and ones with one 1 in each row. Two networks on one input are then bounded as functions of that input,
and an attack meets the equality exactly.

Source: own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from recurjac_plugin.networks.onnx import OnnxNetwork
from recurjac_plugin.properties.spec import Box, Polytope, Spec
from recurjac_plugin.verification.counterexample import Session


def equal_inputs(spec: Spec) -> np.ndarray | None:
    """For every input the position among those that are left, int [n_inputs]; None if no two are always equal.

    Args:
        spec: the property; inputs are equal if every disjunct of every box has the rows ``x_i - x_j <= 0`` and
            ``x_j - x_i <= 0``.
    """
    common: set[tuple[int, int]] | None = None
    for box in spec.boxes:
        for polytope in box.disjuncts:
            pairs = _equalities(polytope)
            common = pairs if common is None else common & pairs
            if not common:
                return None
    if not common:
        return None
    first = np.arange(spec.n_inputs)
    for i, j in sorted(common):
        low, high = sorted((first[i], first[j]))
        first[first == high] = low
    return np.unique(first, return_inverse=True)[1].reshape(-1)


def _equalities(polytope: Polytope) -> set[tuple[int, int]]:
    """Pairs i < j of inputs that the rows of a polytope make equal."""
    if polytope.B is None:
        return set()
    ordered = set()
    for row, outputs, b, strict in zip(polytope.B, polytope.A, polytope.b, polytope.strict):
        used = np.flatnonzero(row)
        if len(used) == 2 and not outputs.any() and b == 0 and not strict and row[used[0]] == -row[used[1]]:
            ordered.add((int(used[row[used] > 0][0]), int(used[row[used] < 0][0])))
    return {(i, j) for i, j in ordered if i < j and (j, i) in ordered}


def with_equal_inputs(spec: Spec, place: np.ndarray) -> Spec:
    """The property of the network ``z -> f(z[place])``.

    Args:
        spec: the property of f.
        place: as `equal_inputs` gives it.
    """
    count = int(place.max()) + 1
    boxes = tuple(box for box in (_box(box, place, count) for box in spec.boxes) if box is not None)
    return replace(spec, boxes=boxes, n_inputs=count, input_shape=None, declaration=None)


def _box(box: Box, place: np.ndarray, count: int) -> Box | None:
    """The box of what is left, where the bounds of equal inputs must all hold; None if nothing in it may violate."""
    lower, upper = np.full(count, -np.inf), np.full(count, np.inf)
    np.maximum.at(lower, place, box.lower)
    np.minimum.at(upper, place, box.upper)
    lower_open, upper_open = np.zeros(count, bool), np.zeros(count, bool)
    np.logical_or.at(lower_open, place, box.lower_open & (box.lower == lower[place]))
    np.logical_or.at(upper_open, place, box.upper_open & (box.upper == upper[place]))
    if ((lower > upper) | ((lower == upper) & (lower_open | upper_open))).any():
        return None
    polytopes = (_polytope(each, place, count) for each in box.disjuncts)
    disjuncts = tuple(each for each in polytopes if each is not None)
    if not disjuncts:
        return None
    return Box(lower, upper, disjuncts, lower_open, upper_open)


def _polytope(polytope: Polytope, place: np.ndarray, count: int) -> Polytope | None:
    """The rows over what is left; None if one never holds. Those that always do are dropped, unless all of them do."""
    assert polytope.B is not None
    B = np.zeros((len(polytope.b), count))
    np.add.at(B.T, place, polytope.B.T)
    trivial = ~polytope.A.any(1) & ~B.any(1) & np.where(polytope.strict, polytope.b > 0, polytope.b >= 0)
    kept = np.flatnonzero(~trivial) if not trivial.all() else np.array([0])
    rows = B[kept] if B[kept].any() else None
    return Polytope(polytope.A[kept], polytope.b[kept], polytope.strict[kept], rows)


class Spread(nn.Module):
    """``z -> f(z[place])``: (b, count) -> (b, n_outputs).

    Args:
        network: f, which stays as it is.
        place: int [n_inputs].
    """

    def __init__(self, network: OnnxNetwork, place: np.ndarray) -> None:
        super().__init__()
        self.network = network
        self.place: Tensor
        self.register_buffer("place", torch.from_numpy(np.ascontiguousarray(place)))

    def forward(self, z: Tensor) -> Tensor:
        """The outputs of f."""
        return self.network(z[:, self.place].reshape(-1, *self.network.input_shape))


def spread_network(network: OnnxNetwork, place: np.ndarray) -> OnnxNetwork:
    """The network of what is left of the inputs; it shares the weights."""
    spread = OnnxNetwork(Spread(network, place), (int(place.max()) + 1,), network.dtype)
    spread.n_outputs, spread.max_difference = network.n_outputs, network.max_difference
    spread.takes_batches = network.takes_batches
    return spread


class SpreadSession:
    """The judge of f as the judge of ``z -> f(z[place])``.

    Args:
        session: of f.
        place: int [n_inputs].

    Attributes:
        dtype: numpy type of inputs.
    """

    def __init__(self, session: Session, place: np.ndarray) -> None:
        self._session, self._place, self.dtype = session, place, session.dtype

    def __call__(self, z: np.ndarray) -> np.ndarray:  # [b, count] -> [b, n_outputs]
        """The outputs of f."""
        return self._session(np.asarray(z, dtype=self.dtype).reshape(len(z), -1)[:, self._place])
