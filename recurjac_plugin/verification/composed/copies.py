r"""Two uses of one network, compared: what the signs of its Jacobian show of them.

A violation has inputs x, x' with outputs :math:`f(x), f(x')`, and fulfils a row :math:`a (f(x) - f(x')) \le b`, or
``<``. With every component of :math:`d = x - x'` of a known sign or 0, by the box and by rows such as
:math:`x'_i \le x_i`, the mean value theorem gives

.. math:: a (f(x) - f(x')) = \sum_i \bar J_i d_i \ge 0 \quad \text{if } \bar J_i d_i \ge 0 \text{ for all } i,

:math:`\bar J` being the mean of :math:`a J` on the segment between both, within any interval that holds on a box around
it. So the row excludes its disjunct if :math:`b < 0`, or :math:`b = 0` and it is strict. No bound of ``f(x) - f(x')``
shows as much: it is 0 where both inputs are the same. Where a sign is refuted, the points that show it are tried as
inputs, the other one a little further on.

Signs are meant in real arithmetic, with room for the rounding of float64. A ReLU network is constant in places, where
its derivative is 0 and proven bounds, which have proven errors, have no sign: they are asked for only if nothing but
proofs is wanted.

Source: own; the signs are those of `certificates.signs`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from recurjac_plugin.certificates.signs import Monotonicity, monotonicity_report
from recurjac_plugin.errors import RecurJacError
from recurjac_plugin.host.region import perturbed_box
from recurjac_plugin.networks.onnx import OnnxNetwork
from recurjac_plugin.networks.several.product import Product
from recurjac_plugin.plugin.model import bounded_model
from recurjac_plugin.properties.spec import Box, Polytope, Spec

from .equal import Spread
from .joined import Joined

_BOXES = 2048  # that are bounded for signs where there is no deadline
_SAMPLES = 64  # points at which derivatives may refute a sign
_STEPS = (1.0, 0.1, 1e-2, 1e-3)  # parts of the way to the end of the box that the other input is moved by


@dataclass(frozen=True, eq=False)
class _Row:
    """A row that excludes a disjunct if entries of the Jacobian have the wanted signs.

    Attributes:
        disjunct: which one.
        a: float64 [n_outputs], of the network that is used twice.
        signs: of the components of ``x - x'``, int [n_inputs]; 0 where they are equal.
    """

    disjunct: int
    a: np.ndarray
    signs: np.ndarray


@dataclass(frozen=True, eq=False)
class Copies:
    """Two uses of a network in one that was composed of them.

    Attributes:
        network: which is used twice.
        first: positions of the inputs of the first use, int [n_inputs].
        second: positions of those of the second.
    """

    network: OnnxNetwork
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, network: OnnxNetwork) -> Copies | None:
        """The uses, if the network is made of two of the same one; else None."""
        inner, place = network.network, None
        if isinstance(inner, Joined):
            inner = inner.network.network
        if isinstance(inner, Spread):
            place = inner.place.cpu().numpy()
            inner = inner.network.network
        if not isinstance(inner, Product) or len(inner.networks) != 2 or inner.networks[0] is not inner.networks[1]:
            return None
        place = np.arange(inner.starts[-1]) if place is None else place
        return cls(inner.networks[0], place[: inner.starts[1]], place[inner.starts[1] :])

    def excluded(self, spec: Spec, seconds: float | None, seed: int, rigorous: bool) -> tuple[Spec, list[np.ndarray]]:
        """The property without the disjuncts that signs exclude, and inputs that may violate one of the others.

        Args:
            spec: of the composed network.
            seconds: to spend on all boxes; None for a fixed number of boxes.
            seed: of the points.
            rigorous: whether bounds must have proven errors.
        """
        model = None
        boxes, candidates = [], list[np.ndarray]()
        for box in spec.boxes:
            rows = [row for i, p in enumerate(box.disjuncts) if (row := self._row(i, p, box, spec)) is not None]
            if not rows:
                boxes.append(box)
                continue
            try:
                model = model or self._model()
                limits: dict[str, Any] = (
                    {"max_boxes": _BOXES} if seconds is None else {"timeout": seconds / len(spec.boxes)}
                )
                report = self._signs(model, box, rows, seed=seed, rigorous=rigorous, **limits)
            except RecurJacError:  # no bounds, or no room: the search may do without
                return spec, candidates
            done = {
                row.disjunct for row, sign in zip(rows, report.sign[0].flatten(1)) if _agree(row, sign.cpu().numpy())
            }
            candidates += self._candidates(box, rows, report)
            left = tuple(each for i, each in enumerate(box.disjuncts) if i not in done)
            if left:
                boxes.append(replace(box, disjuncts=left))
        return replace(spec, boxes=tuple(boxes)), candidates

    def _row(self, disjunct: int, polytope: Polytope, box: Box, spec: Spec) -> _Row | None:
        """The first row of a disjunct that signs may exclude."""
        n_inputs = spec.n_inputs if spec.inputs_appended else 0
        outputs, inputs = np.split(polytope.A, [polytope.A.shape[1] - n_inputs], axis=1)
        half = outputs.shape[1] // 2
        compares = (outputs[:, :half] == -outputs[:, half:]).all(1) & outputs.any(1) & ~inputs.any(1)
        below = (polytope.b < 0) | ((polytope.b == 0) & polytope.strict)
        for k in np.flatnonzero(compares & below):
            signs = self._differences(polytope, inputs, box)
            if signs is not None:
                return _Row(disjunct, outputs[k, :half], signs)
        return None

    def _differences(self, polytope: Polytope, inputs: np.ndarray, box: Box) -> np.ndarray | None:
        """Signs of ``x - x'`` by box and rows, int [n_inputs]; None where one is open."""
        most, least = box.upper[self.first] - box.lower[self.second], box.lower[self.first] - box.upper[self.second]
        falls, rises = most <= 0, least >= 0  # exact: a difference of doubles is rounded to the right sign
        for row, outputs, b in zip(inputs, polytope.A[:, : polytope.A.shape[1] - inputs.shape[1]], polytope.b):
            used = np.flatnonzero(row)
            if len(used) != 2 or outputs.any() or b > 0 or row[used[0]] != -row[used[1]]:
                continue
            smaller, larger = used[row[used] > 0][0], used[row[used] < 0][0]  # x_smaller <= x_larger
            falls |= (self.first == smaller) & (self.second == larger)
            rises |= (self.second == smaller) & (self.first == larger)
        same = (self.first == self.second) | (falls & rises)
        if not (falls | rises | same).all():
            return None
        return np.where(same, 0, np.where(rises, 1, -1))

    def _model(self) -> Any:
        """The host's model of the network, in float64."""
        double = copy.deepcopy(self.network).double()
        parameter = next(double.parameters(), torch.zeros(()))
        return bounded_model(double, parameter.new_zeros(1, *self.network.input_shape, dtype=torch.float64))

    def _signs(self, model: Any, box: Box, rows: Sequence[_Row], **options: Any) -> Monotonicity:
        """Signs of the entries of ``a J`` on the box around all inputs of both uses."""
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        shape = (1, *self.network.input_shape)
        lower = np.minimum(box.lower[self.first], box.lower[self.second])
        upper = np.maximum(box.upper[self.first], box.upper[self.second])
        x = perturbed_box(*(torch.from_numpy(end).to(device).reshape(shape) for end in (lower, upper)))
        C = torch.from_numpy(np.stack([row.a for row in rows])).to(device).unsqueeze(0)
        wanted = torch.from_numpy(np.stack([row.signs != 0 for row in rows])).to(device)
        return monotonicity_report(
            model,
            x,
            C=C,
            wanted=wanted.reshape(1, len(rows), *self.network.input_shape),
            samples=_SAMPLES,
            **options,
        )

    def _candidates(self, box: Box, rows: Sequence[_Row], report: Monotonicity) -> Iterator[np.ndarray]:
        """Inputs of the composed network around points where a derivative has the wrong sign."""
        points = report.points.flatten(1).cpu().numpy()
        for k, row in enumerate(rows):
            for lowest, at in ((True, report.lowest_at), (False, report.highest_at)):
                index = at[0, k].flatten().cpu().numpy()
                value = (report.lowest if lowest else report.highest)[0, k].flatten().cpu().numpy()
                wrong = (value * row.signs < 0) & (index >= 0)
                for i, part in itertools.product(np.flatnonzero(wrong), _STEPS):
                    yield self._pair(box, points[index[i]], i, row.signs[i], part)

    def _pair(self, box: Box, point: np.ndarray, i: np.intp, sign: int, part: float) -> np.ndarray:
        """Both uses at a point, the first a part of the way further on in coordinate i."""
        z = box.lower.copy()
        z[self.second] = point
        z[self.first] = point
        one, other = self.first[i], self.second[i]
        end = box.upper[one] if sign > 0 else box.lower[one]
        z[one] = point[i] + part * (end - point[i])
        z[other] = point[i]
        return np.clip(z, box.lower, box.upper)


def _agree(row: _Row, sign: np.ndarray) -> bool:
    """Whether entries of ``a J`` have the signs that a row wants."""
    return bool(((row.signs == 0) | (sign == row.signs)).all())
