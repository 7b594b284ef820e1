"""Every method on one property: bounds, verdicts, and whether all that was said can be true."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.errors import ContradictionError, InputError, UnsupportedError
from recurjac_plugin.host.region import perturbed_box
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.networks.onnx import OnnxNetwork, onnx_session
from recurjac_plugin.verification.agreement import Claim, contradictions
from recurjac_plugin.verification.attacks.descent import find_counterexample
from recurjac_plugin.verification.verdicts import Verdict, verify

from .measured import Part, jacobian_of, named, outputs_of, timed, too_small
from .met import sampled_constant
from .pictures import SAMPLED, Picture
from .subject import GivenModel, Nobody, Subject, Watcher, listed
from .table import Table

if TYPE_CHECKING:
    from recurjac_plugin.properties.spec import Box, Spec

COLUMNS = ("method", "lower_bound", "seconds", "jacobian_width", "lipschitz", "verdict", "boxes", "verify_seconds")
"""What is said of every method, and `unsupported` besides."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods on a property.

    Attributes:
        rows: of each method `COLUMNS` and `unsupported`.
        auto: what `auto` is on the property's boxes.
        sampled: the largest Lipschitz constant of the rows that points of the boxes show.
        wrong: what cannot be true, each with a sentence in `message`.
    """

    rows: list[dict[str, Any]]
    auto: str
    sampled: float
    wrong: list[dict[str, Any]]


def region_of(box: Box, network: OnnxNetwork, device: torch.device) -> Any:
    """A property's box as a perturbed input of the host, shape (1, *input_shape), never smaller than the box."""
    like = torch.zeros((), dtype=network.dtype)
    ends = (torch.from_numpy(end).to(device) for end in box.rounded_outward(like.numpy().dtype))
    lower, upper = (end.reshape(1, *network.input_shape) for end in ends)
    return perturbed_box(lower, upper)


def rows_of(box: Box, network: OnnxNetwork, device: torch.device) -> Tensor:
    """The property's rows on a box as a specification matrix, (1, k, n_outputs)."""
    return torch.from_numpy(box.rows()[0]).to(device, network.dtype).unsqueeze(0)


def compared_on_property(model: Any, spec: Spec, names: Sequence[str], search: Mapping[str, Any]) -> Table:
    """The table of `compare` on a property.

    Args:
        model: what `load_onnx` returns.
        spec: what `load_vnnlib` returns.
        names: canonical names of methods.
        search: `branching`, `timeout`, `seed` and `attack_seconds`.

    Raises:
        ContradictionError: some of what was said is wrong.
        InputError: another model, or a property with nothing to bound.
    """
    if not isinstance(model, OnnxNetwork) or model.path is None:
        raise InputError(
            f"`spec` goes with a network from `load_onnx`, on whose file counterexamples are checked; got "
            f"{type(model).__name__}."
        )
    if not spec.boxes or spec.mixed:
        raise InputError(
            "`spec` must have boxes, and conditions on outputs alone, to compare methods on; use `verify`."
        )
    if (spec.n_inputs, spec.n_outputs) != (math.prod(model.input_shape), model.n_outputs):
        raise InputError(
            f"`spec` has {spec.n_inputs} inputs and {spec.n_outputs} outputs, but the network "
            f"{math.prod(model.input_shape)} and {model.n_outputs}; give the property that belongs to it."
        )
    device = next((each.device for each in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    example = torch.zeros(1, *model.input_shape, dtype=model.dtype, device=device)
    found = compared(GivenModel(model, example), spec, names, search, device)
    if found.wrong:
        raise ContradictionError(found.wrong[0]["message"])
    rows = [row | {"auto": row["method"] == found.auto} for row in found.rows]
    rows.append(dict.fromkeys(rows[0]) | {"method": SAMPLED, "lipschitz": found.sampled, "auto": False})
    return Table(f"{model.path.name}; auto is {found.auto} here", rows, Picture("property"))


def compared(
    subject: Subject,
    spec: Spec,
    names: Sequence[str],
    search: Mapping[str, Any],
    device: torch.device,
    watcher: Watcher | None = None,
) -> Comparison:
    """Every method on one property, held against each other and against values of the network.

    Args:
        subject: a network from a file, and its model.
        spec: the property, about outputs alone.
        names: canonical names of methods.
        search: `branching`, `timeout`, `seed` and `attack_seconds`.
        device: where the network is.
        watcher: is told how it gets on.
    """
    network = subject.module
    parts: list[Part] = [(region_of(box, network, device), rows_of(box, network, device)) for box in spec.boxes]
    names, autos = named(subject, parts, names)
    watching = Nobody() if watcher is None else watcher
    alone = {**search, "attack_seconds": 0.0}
    entries = [_entry(subject, spec, parts, name, alone) for name in watching.progress(names, "Methods")]
    rows, claims = [row for row, _ in entries], [claim for _, claim in entries]
    claims.append(_judge(rows, network, spec, search))
    sampled = sampled_constant(subject, parts, None, search["seed"])
    wrong = _contradictions(network, spec, claims, device) + _below_sampled(rows, sampled, network.dtype)
    return Comparison(rows, listed(autos), sampled, wrong)


def _entry(
    subject: Subject, spec: Spec, parts: Sequence[Part], name: str, search: Mapping[str, Any]
) -> tuple[dict[str, Any], Claim]:
    """The row of one method, and what it claims; where it cannot be used on the network, `unsupported` says why."""
    entry: dict[str, Any] = dict.fromkeys(COLUMNS) | {"method": name, "unsupported": None}
    claim = Claim(name, (), -math.inf, False, None)
    try:
        found, entry["seconds"] = timed(lambda: outputs_of(subject, parts, name))
        bounds = [(lower[0], upper[0]) for lower, upper in found]
        entry["lower_bound"] = min(map(_margin, spec.boxes, bounds))
        claim = replace(claim, bounds=bounds)
        result = verify(subject.module, spec, method=name, **search)
        claim = replace(
            claim,
            distance=result.lower_bound,
            proved=result.verdict is Verdict.UNSAT,
            counterexample=result.counterexample,
        )
        entry |= {"boxes": result.boxes, "verify_seconds": result.seconds}
        entry["verdict"] = None if result.verdict is Verdict.UNKNOWN else result.verdict.value
        if parse(name).bounds_jacobian:
            of_jacobian = jacobian_of(subject, parts, name)
            entry |= {"jacobian_width": of_jacobian.width, "lipschitz": of_jacobian.constant}
    except UnsupportedError as error:
        entry["unsupported"] = str(error)
    return entry, claim


def _margin(box: Box, bounds: tuple[Tensor, Tensor]) -> float:
    """Certified distance of a box from a violation: the smallest, over disjuncts, of the best row's bound."""
    rows = Rows.of(box, torch.zeros((), dtype=torch.float64))
    lower = bounds[0].unsqueeze(0) - rows.b
    return float(rows.per_disjunct(torch.where(lower.isfinite(), lower, -math.inf), "amax").min())


def _judge(rows: list[dict[str, Any]], network: OnnxNetwork, spec: Spec, search: Mapping[str, Any]) -> Claim:
    """Fill in the verdicts of the methods that prove nothing: one attack serves them all. Returns what it claims."""
    assert network.path is not None
    answered = any(row["verdict"] is not None for row in rows)
    found = find_counterexample(
        network,
        spec,
        onnx_session(network.path),
        seconds=search["attack_seconds"],
        rounds=1 if answered else None,
        seed=search["seed"],
    )
    for row in rows:
        if row["verdict"] is None and row["unsupported"] is None:
            row["verdict"] = "unknown" if found is None else "sat"
    return Claim("the attack", (), -math.inf, False, found)


def _contradictions(
    network: OnnxNetwork, spec: Spec, claims: list[Claim], device: torch.device
) -> list[dict[str, Any]]:
    """What of the claims cannot all be true, and what values of the network in float64 contradict."""
    double = copy.deepcopy(network).double()

    def outputs(x: np.ndarray) -> Tensor:
        points = torch.from_numpy(x).to(device).reshape(-1, *network.input_shape)
        with torch.no_grad():
            return torch.cat([double(one) for one in ([points] if network.takes_batches else points.split(1))])

    like = torch.zeros((), dtype=network.dtype)
    return [asdict(each) for each in contradictions(claims, spec, outputs, like, network.max_difference)]


def _below_sampled(rows: list[dict[str, Any]], sampled: float, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Lipschitz constants that points of the boxes show to be too small."""
    against = {"against": "a value of the network", "box": None, "value": sampled, "point": None}
    return [
        {
            **against,
            "method": row["method"],
            "bound": row["lipschitz"],
            "message": f"`{row['method']}` says that the Lipschitz constant of the rows is at most "
            f"{row['lipschitz']:.9g}, but points of the boxes show {sampled:.9g}; one of them is wrong: please report "
            "the network and the property.",
        }
        for row in too_small(rows, sampled, dtype)
    ]
