"""Is a property of a network ever violated? Proved by bounds, refuted by an attack, or left open.

`sat` comes with a counterexample; `unsat` is proved up to the rounding of float64, for which a margin is left;
`unknown` is not an answer. With few inputs boxes are cut until there is an answer, or no time left; with many, inputs
in which rows are monotone are fixed, again and again, before boxes are cut as long as that gets on.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from recurjac_plugin.branch_and_bound.branching import BRANCHINGS, Branching
from recurjac_plugin.errors import InputError, RecurJacError, RoomError, UnsupportedError, counted
from recurjac_plugin.host.library import HOST_FAILURES, BoundedModule
from recurjac_plugin.host.region import require_full_type, through_float32
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.host.state import preserved, takes_batches
from recurjac_plugin.jacobian.methods import OutputMethodName, parse_verification_method, require_rigorous
from recurjac_plugin.modules.several_inputs import flat_inputs
from recurjac_plugin.networks.onnx import OnnxNetwork, onnx_session
from recurjac_plugin.networks.several.product import Product, ProductSession
from recurjac_plugin.numerics.deadline import OverTime, until
from recurjac_plugin.numerics.memory import ran_out
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.properties.spec import Spec

from .attacks.blind import search_blindly
from .bounded.bounding import Bounding
from .composed.joined import JoinedSession, without_inputs
from .composed.problem import Composed
from .counterexample import Counterexample, Session
from .strategy import Verification

if TYPE_CHECKING:
    from recurjac_plugin.checker.files import Problem


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


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What `verify` found out.

    Attributes:
        verdict: the answer.
        counterexample: with `SAT` the input and output that violate the property, otherwise None.
        lower_bound: certified lower bound of the distance from a violation: the smallest over boxes and disjuncts of
            the largest over rows of ``A y - b``, in units of the outputs. -inf where a box was left without one.
        boxes: number of boxes that were bounded.
        seconds: wall-clock time.
        reason: with `UNKNOWN` or `TIMEOUT` why the network was not bounded, where it was not; otherwise None.
    """

    verdict: Verdict
    counterexample: Counterexample | None
    lower_bound: float
    boxes: int
    seconds: float
    reason: str | None = None

    def __repr__(self) -> str:
        found = [] if self.counterexample is None else [repr(self.counterexample)]
        bound = [f"lower bound {self.lower_bound:.4g}"] if math.isfinite(self.lower_bound) else []
        effort = [f"{self.boxes} box{'es' * (self.boxes != 1)}", f"{self.seconds:.3g} s"]
        why = [] if self.reason is None else [self.reason]
        return f"Result({', '.join([self.verdict.value, *found, *bound, *effort, *why])})"


@through_float32
@full_precision()
def verify(
    model: nn.Module,
    spec: Spec,
    *,
    method: OutputMethodName | None = None,
    branching: Branching | str = "jacobian",
    split: bool | None = None,
    session: Session | None = None,
    timeout: float | None = None,
    seed: int = 0,
    attack_seconds: float = 5.0,
    input_shape: tuple[int, ...] | Sequence[tuple[int, ...]] | None = None,
    rigorous: bool | None = None,
    reference: nn.Module | None = None,
    certificate: str | PathLike[str] | None = None,
) -> Result:
    """Look for a proof that a property holds, and for a counterexample where there is none.

    Every box of the property is bounded, then, if many inputs vary, attacked shortly (`attacks.descent`) and reduced to
    faces (`branch_and_bound.exclusion_search`). It is cut, as `split` says, into smaller ones until each of
    them is excluded or a counterexample shows (`branch_and_bound.exclusion`), and attacked in between. `UNSAT` if
    every disjunct has, on every box, a row whose lower bound exceeds its right side by more than rounding can explain
    (see `goals.Rows.slack`), or lies outside of what linear bounds leave of the box. A counterexample is accepted only
    as `session` computes it. Without a `timeout` the answer is the same every time.

    Rigorous bounds are proven for the network in real arithmetic with the weights given, and rest on nothing of the
    host's but its graph (`preactivations.crown`), nor on that for ONNX files of common layers (`networks.plain`).
    Bounds are computed in float64; only those that are not rigorous keep the type of a `BoundedModule`, which cannot be
    copied.

    Args:
        model: what `load_onnx` returns, another torch module, or auto_LiRPA's `BoundedModule`. It is left as it was.
        spec: what `load_vnnlib` returns.
        method: of the output bounds, as in `output_bounds`. None and `auto` are `RecurJac-Linear+CROWN`, because the
            Jacobian of the parts of a region has no planes here.
        branching: what boxes are cut by: ``"jacobian"`` (the largest ``max |J_r| radius_r``), ``"crown"`` (CROWN's
            coefficients in place of J) or ``"longest"`` (the longest side).
        split: whether boxes are cut at all. None for those with at most 20 coordinates that are not fixed, and for
            others as long as that makes progress, or, with a `timeout`, for the time that is left after the attack.
        session: what counterexamples are checked on. None takes onnxruntime, as VNN-COMP replays them, for a network
            from `load_onnx`, and the model itself for any other.
        timeout: seconds after which to give up, within a bound of this package as well. With one, a network that cannot
            be bounded is no error: it is attacked until the time is over, and `Result.reason` says why.
        seed: of the attack's random starts.
        attack_seconds: how long to attack at most where boxes are not cut, or not to the end; 0 for not at all.
        input_shape: of one input, without the batch dimension. Known for a network from `load_onnx`; None takes the
            flat inputs of the property for any other model. For a torch module of several inputs a list of their
            shapes: the property's inputs are theirs, flattened, one after the other (see `flat_inputs`).
        rigorous: whether bounds must be rigorous; None for those methods whose pre-activation bounds are CROWN's, where
            the memory is large enough for them.
        reference: as in `jacobian_bounds`, for a `BoundedModule`.
        certificate: a file to write, with `UNSAT`, what `recurjac check` accepts as a proof, see
            `certificate.write_certificate`; for what `load_onnx` and `load_vnnlib` return.

    Raises:
        CertificateError: the property was proved, but the certificate could not be written.
        InputError: model and property do not fit together, a box is not finite, or an option is out of range.
        MethodError: unknown method, or one that is not rigorous where this is asked for.
        UnsupportedError: without a `timeout`, parts of the network have no rule, or cannot be bounded on a box nor on
            its parts; or parts have none in the checker of the certificate.
        ContradictionError: a bound excludes a violation that was met, and that `session` does not confirm.

    Source:
        Wang et al.: ReluVal, USENIX Security 2018, arXiv:1804.10829, cuts boxes and fixes monotone coordinates by
        interval gradients; here the gradients are RecurJac's.
    """
    declare(model, reference)
    start = time.monotonic()
    shape = cast("tuple[int, ...] | None", input_shape)
    if input_shape is not None and any(isinstance(each, (tuple, list)) for each in input_shape):
        model, shape = flat_inputs(model, cast("Sequence[tuple[int, ...]]", input_shape)), None
    parsed = parse_verification_method(method)
    _check_spec(spec)
    _check_options(branching, timeout, attack_seconds)
    problem = None if certificate is None else _problem(model, spec)
    deadline = math.inf if timeout is None else start + timeout
    with preserved(model) if isinstance(model, BoundedModule) else nullcontext():
        network = _as_network(model, spec, shape)
        session = session or _session(network)
        composed = Composed.of(network, spec, session)
        spec = composed.spec
        bounding = Bounding(
            model,
            composed.network,
            composed.session,
            spec.n_outputs - spec.n_inputs if spec.inputs_appended else None,
            parsed,
            branching,
            parsed.rigorous if rigorous is None else require_rigorous(parsed, rigorous),
            falls_back=rigorous is None,
        )
        verification = Verification(composed.network, spec, composed.session, bounding, deadline=deadline, seed=seed)
        reason = _decide(verification, split, attack_seconds, timeout)
    verdict = _verdict(verification, reason)
    if certificate is not None and problem is not None and verdict is Verdict.UNSAT:
        from .certificate import write_certificate

        remaining = None if timeout is None else max(deadline - time.monotonic(), 0.0)
        write_certificate(problem, certificate, timeout=remaining)
    return Result(
        verdict,
        composed.restored(verification.counterexample),
        verification.lower_bound,
        verification.boxes,
        time.monotonic() - start,
        reason if verdict is Verdict.UNKNOWN else None,
    )


def _decide(verification: Verification, split: bool | None, attack_seconds: float, timeout: float | None) -> str | None:
    """Take all steps, or attack to the end where there are no bounds and a timeout: why there are none."""
    try:
        with until(verification.deadline):
            _take_steps(verification, split, attack_seconds, timeout)
    except OverTime:
        verification.late = True  # no search has lost a box
    except (UnsupportedError, RoomError, MemoryError, RuntimeError) as error:
        if timeout is None or not (isinstance(error, (UnsupportedError, RoomError)) or ran_out(error)):
            raise
        if attack_seconds > 0:
            verification.attack_to_the_end()
        known = isinstance(error, (UnsupportedError, RoomError))
        return " ".join(str(error).split()) if known else "The bounds do not fit into the memory."
    return None


def _take_steps(verification: Verification, split: bool | None, attack_seconds: float, timeout: float | None) -> None:
    """Sample, bound, fix, cut and attack, until there is an answer or nothing left to do."""
    if not verification.spec.boxes:
        return  # no input, no violation
    if attack_seconds > 0:
        verification.sample()
    verification.compare()
    verification.screen()
    verification.bound()
    if attack_seconds > 0:
        verification.probe()
    verification.fix()
    if split is None:
        verification.branch()
    if verification.cut(split):
        verification.attack(attack_seconds)
        if split is None and timeout is not None:
            verification.cut(True)  # there is time left, and nothing better to do with it
    verification.require_bounded()


def attack_refused(
    path: str | PathLike[str], spec: Spec, refusal: RecurJacError, timeout: float, seed: int = 0
) -> Result:
    """A verdict on an ONNX file that only onnxruntime reads: `SAT`, or `UNKNOWN` when the time is over.

    Args:
        path: the network.
        spec: the property.
        refusal: why nothing else reads it; the reason of the result.
        timeout: seconds to attack.
        seed: of the random points.

    Raises:
        RecurJacError: the refusal, if onnxruntime does not run the file either, or the property is not about a network
            with these numbers of inputs and outputs.
    """
    start = time.monotonic()
    _check_spec(spec)
    try:
        judge = onnx_session(path)
        sizes = math.prod(judge.input_shape), judge(np.zeros((1, math.prod(judge.input_shape)))).shape[1]
    except RecurJacError:
        raise refusal from None
    if sizes != (spec.n_inputs, spec.n_outputs):
        raise refusal
    if not spec.boxes:
        return Result(Verdict.UNSAT, None, math.inf, 0, time.monotonic() - start)
    session = JoinedSession(judge) if spec.mixed else judge
    joined = spec.joined() if spec.mixed else spec
    found = search_blindly(joined, session, deadline=start + timeout, seed=seed)
    found = without_inputs(found) if spec.mixed else found
    verdict = Verdict.UNKNOWN if found is None else Verdict.SAT
    reason = " ".join(str(refusal).split()) if found is None else None
    return Result(verdict, found, -math.inf, 0, time.monotonic() - start, reason)


def _verdict(verification: Verification, reason: str | None) -> Verdict:
    if verification.counterexample is not None:
        return Verdict.SAT
    if verification.proved:
        return Verdict.UNSAT
    return Verdict.TIMEOUT if verification.late and reason is None else Verdict.UNKNOWN


def _check_options(branching: str, timeout: float | None, attack_seconds: float) -> None:
    if branching not in BRANCHINGS:
        raise InputError(f"`branching` must be one of {', '.join(map(repr, BRANCHINGS))}, got {branching!r}.")
    if timeout is not None and not timeout > 0:
        raise InputError(f"`timeout` must be a positive number of seconds, or None; got {timeout}.")
    if not attack_seconds >= 0:
        raise InputError(f"`attack_seconds` must be at least 0, got {attack_seconds}.")


def _problem(model: nn.Module, spec: Spec) -> Problem:
    """The files of network and property, which a certificate is about, as the checker reads them."""
    path = model.path if isinstance(model, OnnxNetwork) else None
    if path is None or spec.path is None:
        raise InputError(
            "`certificate` is about files: expected what `load_onnx` and `load_vnnlib` return; leave it out."
        )
    from recurjac_plugin.checker.files import Problem  # with onnx, which is loaded when it is needed

    return Problem.read(path, spec.path)


def _check_spec(spec: Spec) -> None:
    complete = all(box.disjuncts and all(len(polytope.b) for polytope in box.disjuncts) for box in spec.boxes)
    if not complete:
        raise InputError("`spec` must have for every box a disjunct, and for every disjunct a row of `A y <= b`.")


def _as_network(model: nn.Module, spec: Spec, input_shape: tuple[int, ...] | None) -> OnnxNetwork:
    """The model with what bounds and attack need to know of it."""
    if isinstance(model, OnnxNetwork):
        network, shape = model, model.input_shape
        if input_shape not in (None, shape):
            raise InputError(f"`input_shape` is {input_shape}, but the model's is {shape}; leave it out.")
    else:
        shape = (spec.n_inputs,) if input_shape is None else tuple(input_shape)
        parameter = next(model.parameters(), torch.zeros(()))
        require_full_type("`model`", parameter.dtype)
        network = OnnxNetwork(model, shape, parameter.dtype)
        network.max_difference = 0.0
    n_inputs = math.prod(shape)
    if n_inputs != spec.n_inputs:
        raise InputError(
            f"`spec` has {counted(spec.n_inputs, 'input')}, but the model takes {n_inputs} (shape {shape}); give the "
            "property that belongs to it."
        )
    if network is not model:
        try:
            with torch.no_grad():
                output = network(torch.zeros(1, *shape, dtype=network.dtype, device=_device(network)))
        except HOST_FAILURES as error:
            _require_one_input(model)
            raise InputError(
                f"`model` does not take an input of shape {(1, *shape)} ({' '.join(str(error).split())}); give "
                "`input_shape`."
            ) from error
        network.n_outputs = output.numel()
        network.takes_batches = takes_batches(network, shape, output)
    if network.n_outputs != spec.n_outputs:
        raise InputError(
            f"`spec` has {counted(spec.n_outputs, 'output')}, but the model gives {network.n_outputs}; give the "
            "property that belongs to it."
        )
    return network


def _require_one_input(model: nn.Module) -> None:
    """Refuse a model that takes several inputs."""
    if isinstance(model, BoundedModule):
        count = sum(index is not None for index in model.input_index)
    else:
        parameters = inspect.signature(model.forward).parameters.values()
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        count = sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
    if count > 1:
        raise InputError(
            f"`model` takes {count} inputs: give the torch module with the list of their shapes as `input_shape`, or "
            "what `flat_inputs` makes of it."
        )


def _device(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def _session(network: OnnxNetwork) -> Session:
    if isinstance(network.network, Product):
        parts = network.network.networks
        sessions = {id(part): _session(part) for part in parts}
        return ProductSession([sessions[id(part)] for part in parts], parts)
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
