r"""Recurrent cells and layers, step by step.

.. math:: h' = \tanh(W x + U h), \quad
    \text{GRU: } h' = n + z (h - n), \quad
    \text{LSTM: } c' = f c + i g,\; h' = o \tanh(c')
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .marks import shape_of
from .rearranging import parts

_Weights = Sequence[Any]
"""Weights and biases of a cell: W, U, b, c; the biases may be None."""


def _gates(x: Tensor, h: Tensor, weights: _Weights) -> tuple[Tensor, Tensor]:
    w, u, b, c = weights
    return functional.linear(x, w, b), functional.linear(h, u, c)


def _rnn_step(x: Tensor, h: Tensor, weights: _Weights, bend: Callable[[Tensor], Tensor]) -> Tensor:
    own, kept = _gates(x, h, weights)
    return bend(own + kept)


def _gru_step(x: Tensor, h: Tensor, weights: _Weights) -> Tensor:
    own, kept = _gates(x, h, weights)
    size = shape_of(h)[-1]
    r1, z1, n1 = parts(own, [size] * 3, 1)
    r2, z2, n2 = parts(kept, [size] * 3, 1)
    update = torch.sigmoid(z1 + z2)
    new = torch.tanh(n1 + torch.sigmoid(r1 + r2) * n2)
    return new + update * (h - new)


def _lstm_step(x: Tensor, state: tuple[Tensor, Tensor], weights: _Weights) -> tuple[Tensor, Tensor]:
    h, c = state
    own, kept = _gates(x, h, weights)
    i, f, g, o = parts(own + kept, [shape_of(h)[-1]] * 4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _rnn_cell(bend: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def form(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Any:
        return _rnn_step(input, hx, (w_ih, w_hh, b_ih, b_hh), bend) if input.dim() == 2 else NotImplemented

    return form


def _gru_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Any:
    return _gru_step(input, hx, (w_ih, w_hh, b_ih, b_hh)) if input.dim() == 2 else NotImplemented


def _lstm_cell(input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Any:
    return _lstm_step(input, tuple(hx), (w_ih, w_hh, b_ih, b_hh)) if input.dim() == 2 else NotImplemented


def _layers(
    input: Tensor, states: Sequence[Any], params: Sequence[Any], bidirectional: bool, batch_first: bool,
    has_biases: bool, step: Callable[[Tensor, Any, _Weights], Any], value: Callable[[Any], Tensor],
) -> tuple[Tensor, list[Any]]:  # fmt: skip
    """All layers over all steps; `states` are those of the layers and directions in torch's order."""
    time = 1 if batch_first else 0
    inputs = [input.select(time, t) for t in range(shape_of(input)[time])]
    width, directions = (4 if has_biases else 2), (2 if bidirectional else 1)
    last: list[Any] = []
    for layer in range(len(states) // directions):
        ways = []
        for direction in range(directions):
            position = layer * directions + direction
            given = list(params[position * width : (position + 1) * width])
            weights = given if has_biases else [*given, None, None]
            state, found = states[position], []
            for x in inputs[:: -1 if direction else 1]:
                state = step(x, state, weights)
                found.append(value(state))
            last.append(state)
            ways.append(found[:: -1 if direction else 1])
        inputs = [torch.cat(both, 1) if directions > 1 else both[0] for both in zip(*ways, strict=True)]
    return torch.stack(inputs, time), last


def _simple(step: Callable[[Tensor, Any, _Weights], Any]) -> Callable[..., Any]:
    def form(
        input: Tensor, hx: Tensor, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool,
        bidirectional: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        if input.dim() != 3 or train:
            return NotImplemented
        states = [hx.select(0, i) for i in range(shape_of(hx)[0])]
        output, last = _layers(input, states, params, bidirectional, batch_first, has_biases, step, lambda h: h)
        return output, torch.stack(last)

    return form


def _lstm(
    input: Tensor, hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    expected = 4 if has_biases else 2
    if input.dim() != 3 or train or len(params) != expected * num_layers * (2 if bidirectional else 1):
        return NotImplemented  # with a projection
    h, c = hx
    states = [(h.select(0, i), c.select(0, i)) for i in range(shape_of(h)[0])]
    output, last = _layers(
        input, states, params, bidirectional, batch_first, has_biases, _lstm_step, lambda state: state[0]
    )
    return output, torch.stack([h for h, _ in last]), torch.stack([c for _, c in last])


FORMS: dict[str, Callable[..., Any]] = {
    "rnn_tanh_cell": _rnn_cell(torch.tanh),
    "rnn_relu_cell": _rnn_cell(torch.relu),
    "gru_cell": _gru_cell,
    "lstm_cell": _lstm_cell,
    "rnn_tanh": _simple(lambda x, h, weights: _rnn_step(x, h, weights, torch.tanh)),
    "rnn_relu": _simple(lambda x, h, weights: _rnn_step(x, h, weights, torch.relu)),
    "gru": _simple(_gru_step),
    "lstm": _lstm,
}
"""Name -> form."""
