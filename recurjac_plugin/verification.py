"""Is a property of a network ever violated? Proved by bounds, refuted by an attack, or left open.

Incomplete: bounds are computed once per box, boxes are not split. `sat` comes with a counterexample; `unsat` is proved
up to the rounding of float64, for which a margin is left; `unknown` is not an answer.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import nn

from .attack import attack
from .errors import InputError, UnsupportedError
from .host import HOST_FAILURES, BoundedModule
from .host_graph import preserved
from .margins import Margins, bounded_model, box_margins
from .methods import parse
from .onnx_model import OnnxNetwork, onnx_session
from .spec import Spec
from .witness import Session, Witness


class Verdict(Enum):
    """What VNN-COMP calls the result of an instance; the values are its words."""

    UNSAT = "unsat"
    """No input of any box violates the property."""
    SAT = "sat"
    """The counterexample does."""
    UNKNOWN = "unknown"
    """Neither was shown."""
    TIMEOUT = "timeout"
    """Neither was shown before the time was over."""


@dataclass(frozen=True, eq=False)
class Result:
    """What `verify` found out.

    Attributes:
        verdict: the answer.
        counterexample: with `SAT` the input and output that violate the property, otherwise None.
        lower_bound: certified lower bound of the distance from a violation: the smallest over boxes and disjuncts of
            the largest over rows of ``A y - b``, in units of the outputs. -inf where a box was left without one.
        boxes: number of boxes that were bounded.
        seconds: wall-clock time.
    """

    verdict: Verdict
    counterexample: Witness | None
    lower_bound: float
    boxes: int
    seconds: float


def verify(
    model: nn.Module,
    spec: Spec,
    *,
    method: str = "RecurJac+CROWN",
    session: Session | None = None,
    timeout: float | None = None,
    seed: int = 0,
    attack_seconds: float = 5.0,
    input_shape: tuple[int, ...] | None = None,
) -> Result:
    """Look for a proof that a property holds, and for a counterexample where there is none.

    `UNSAT` if on every box every disjunct has a row whose lower bound exceeds its right side by more than rounding can
    explain (see `margins.Margins`), in the network's own number type and again in float64 (the second not for a
    `BoundedModule`, which cannot be copied). Otherwise the disjuncts left are attacked (see `attack.attack`), and a
    counterexample is accepted only as `session` computes it.

    Args:
        model: what `load_onnx` returns, another torch module, or auto_LiRPA's `BoundedModule`. It is left as it was.
        spec: what `load_vnnlib` returns.
        method: of the output bounds, as in `output_bounds`.
        session: what counterexamples are checked on. None takes onnxruntime, as VNN-COMP replays them, for a network
            from `load_onnx`, and the model itself for any other.
        timeout: seconds after which to give up. A computation under way is finished first.
        seed: of the attack's random starts.
        attack_seconds: how long to attack at most; 0 for not at all.
        input_shape: of one input, without the batch dimension. Known for a network from `load_onnx`; None takes the
            flat inputs of the property for any other model.

    Raises:
        InputError: model and property do not fit together, a box is not finite, or an option is out of range.
        MethodError: unknown method.
        UnsupportedError: parts of the network have no rule.
    """
    start = time.monotonic()
    parse(method)
    _check_spec(spec)
    if timeout is not None and not timeout > 0:
        raise InputError(f"`timeout` must be a positive number of seconds, or None; got {timeout}.")
    if not attack_seconds >= 0:
        raise InputError(f"`attack_seconds` must be at least 0, got {attack_seconds}.")
    deadline = math.inf if timeout is None else start + timeout
    with preserved(model) if isinstance(model, BoundedModule) else nullcontext():
        network = _as_network(model, spec, input_shape)
        margins = _bound(model, network, spec, method, deadline)
        lower_bound = min(each.worst for each in margins) if len(margins) == len(spec.boxes) else -math.inf
        verdict, found = Verdict.TIMEOUT, None
        if len(margins) == len(spec.boxes):
            open_part = unproved(spec, margins)
            if open_part is None and (isinstance(model, BoundedModule) or confirmed(network, spec, method)):
                verdict = Verdict.UNSAT
            else:
                seconds = max(0.0, min(attack_seconds, deadline - time.monotonic()))
                found = attack(network, open_part or spec, session or _session(network), seconds=seconds, seed=seed)
                given_up = Verdict.TIMEOUT if time.monotonic() >= deadline else Verdict.UNKNOWN
                verdict = given_up if found is None else Verdict.SAT
    return Result(verdict, found, lower_bound, len(margins), time.monotonic() - start)


def confirmed(network: OnnxNetwork, spec: Spec, method: str) -> bool:
    """Whether bounds in float64 prove the property, too; float32 ones may owe it to terms that cancel.

    A network of doubles is taken to be confirmed already. What the host cannot bound in float64 is not confirmed.
    """
    if network.dtype == torch.float64:
        return True
    double = copy.deepcopy(network).double()
    double.dtype = torch.float64
    try:
        return unproved(spec, _bound(double, double, spec, method, math.inf)) is None
    except UnsupportedError:
        return False


def _check_spec(spec: Spec) -> None:
    complete = bool(spec.boxes) and all(
        box.disjuncts and all(len(polytope.b) for polytope in box.disjuncts) for box in spec.boxes
    )
    if not complete:
        raise InputError("`spec` must have a box, every box a disjunct, and every disjunct a row of `A y <= b`.")


def unproved(spec: Spec, margins: list[Margins]) -> Spec | None:
    """The part of a property that bounds leave open; None if they prove all of it."""
    boxes = []
    for each in margins:
        left = tuple(p for p, excluded in zip(each.box.disjuncts, each.excluded()) if not excluded)
        if left:
            boxes.append(dataclasses.replace(each.box, disjuncts=left))
    return dataclasses.replace(spec, boxes=tuple(boxes)) if boxes else None


def _bound(model: nn.Module, network: OnnxNetwork, spec: Spec, method: str, deadline: float) -> list[Margins]:
    """The margins of the boxes, in order; fewer if the time is over."""
    device = _device(network)
    host = model
    if not isinstance(model, BoundedModule):
        host = bounded_model(network, torch.zeros(1, *network.input_shape, dtype=network.dtype, device=device))
    margins: list[Margins] = []
    for box in spec.boxes:
        if time.monotonic() >= deadline:
            break
        margins.append(
            box_margins(
                host,
                box,
                method=method,
                input_shape=network.input_shape,
                dtype=network.dtype,
                device=device,
                difference=network.max_difference,
            )
        )
    return margins


def _as_network(model: nn.Module, spec: Spec, input_shape: tuple[int, ...] | None) -> OnnxNetwork:
    """The model with what bounds and attack need to know of it."""
    if isinstance(model, OnnxNetwork):
        network, shape = model, model.input_shape
        if input_shape not in (None, shape):
            raise InputError(f"`input_shape` is {input_shape}, but the model's is {shape}; leave it out.")
    else:
        shape = (spec.n_inputs,) if input_shape is None else tuple(input_shape)
        parameter = next(model.parameters(), torch.zeros(()))
        network = OnnxNetwork(model, shape, parameter.dtype)
        network.takes_batches, network.max_difference = True, 0.0
    n_inputs = math.prod(shape)
    if n_inputs != spec.n_inputs:
        raise InputError(
            f"`spec` has {spec.n_inputs} inputs, but the model takes {n_inputs} (shape {shape}); give the property "
            "that belongs to it."
        )
    if network is not model:
        try:
            with torch.no_grad():
                output = network(torch.zeros(1, *shape, dtype=network.dtype, device=_device(network)))
        except HOST_FAILURES as error:
            raise InputError(
                f"`model` does not take an input of shape {(1, *shape)} ({' '.join(str(error).split())}); give "
                "`input_shape`."
            ) from error
        network.n_outputs = output.numel()
    if network.n_outputs != spec.n_outputs:
        raise InputError(
            f"`spec` has {spec.n_outputs} outputs, but the model gives {network.n_outputs}; give the property that "
            "belongs to it."
        )
    return network


def _device(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def _session(network: OnnxNetwork) -> Session:
    return ModelSession(network) if network.path is None else onnx_session(network.path)


class ModelSession:
    """A model as the judge of counterexamples to itself, where there is no ONNX file for onnxruntime.

    Attributes:
        dtype: numpy type of inputs and outputs.
    """

    def __init__(self, network: OnnxNetwork) -> None:
        self._network = network
        self.dtype: np.dtype[Any] = np.dtype(np.float64 if network.dtype == torch.float64 else np.float32)

    def __call__(self, x: np.ndarray) -> np.ndarray:  # x: [b, n_inputs] -> [b, n_outputs]
        """Outputs of every input, each evaluated on its own."""
        inputs = torch.from_numpy(np.asarray(x, dtype=self.dtype)).to(_device(self._network))
        with torch.no_grad():
            rows = [self._network(row.reshape(1, *self._network.input_shape)) for row in inputs]
        return torch.cat(rows).cpu().numpy()
