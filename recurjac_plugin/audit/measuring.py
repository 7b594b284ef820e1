"""One specimen at one place, bounded by the host: do the bounds hold?

The host's bounds of the output, and those it leaves in the nodes that the last ReLUs read, are compared with what
torch computes in float64 (`truth`), on all boxes at once. Nothing of the host is trusted: a network that it evaluates
to other numbers than torch does is *misread*, whatever its bounds.

Source: own.
"""

from __future__ import annotations

import copy
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import RecurJacError
from recurjac_plugin.host.library import HOST_FAILURES, IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.read import topological
from recurjac_plugin.host.state import default_dtype, preserved
from recurjac_plugin.lipschitz.mean_value import output_bounds

from .boxes import Boxes, Grid, boxes_of
from .specimens.specimen import Placed, Specimen
from .truth import Truth, truths

METHODS = ("IBP", "CROWN", "CROWN-IBP", "alpha-CROWN")
"""The host's methods that are audited."""

DTYPES = (torch.float32, torch.float64)
"""The number types in which they are."""

# Any number of steps must give bounds; sparse variables of alpha-CROWN end in errors of shapes on batches. In 0.3 so do
# sparse intermediate bounds: what is refused with them is bounded without.
_DENSE = {"optimize_bound_args": {"iteration": 2}, "sparse_spec_alpha": False, "sparse_features_alpha": False}
_OPTIONS = (_DENSE, _DENSE | {"sparse_intermediate_bounds": False})[: 2 if IS_03 else 1]

_ASKED = 4  # boxes for which the plugin is asked


class Verdict(str, Enum):
    """What was found, the better first: `GUARDED` is wrong, but the plugin refuses to go on with it."""

    HOLDS = "holds"
    REFUSED = "refused"
    GUARDED = "guarded"
    VIOLATED = "violated"
    MISREAD = "misread"


@dataclass(frozen=True)
class Finding:
    """What was found for one method.

    Attributes:
        verdict: what was found.
        escape: largest distance of a value from the bounds, beyond the allowance for rounding.
        share: largest such distance in parts of what the value ranges over on the box; infinite where it is constant.
        where: number type, box and tensor of the largest distance.
        reason: the error that refused it.
    """

    verdict: Verdict
    escape: float = 0.0
    share: float = 0.0
    where: str = ""
    reason: str = ""

    @property
    def wrong(self) -> bool:
        """Whether it is a fault of which nobody is told."""
        return self.verdict in (Verdict.VIOLATED, Verdict.MISREAD)

    def worse(self, other: Finding) -> Finding:
        """The worse one of two."""
        order = [*Verdict]
        return max(self, other, key=lambda found: (order.index(found.verdict), found.escape))


def measured(
    specimen: Specimen,
    place: str,
    grid: Grid,
    methods: Sequence[str] = METHODS,
    dtypes: Sequence[torch.dtype] = DTYPES,
    guarded: bool = False,
) -> dict[str, Finding]:
    """The worst that is found on a specimen at a place, by method.

    Args:
        specimen: the specimen.
        place: one of `PLACES`.
        grid: the boxes.
        methods: of the host.
        dtypes: number types.
        guarded: whether to ask the plugin if it would go on where something is wrong.
    """
    findings: dict[str, Finding] = {}
    network = specimen.placed(place)
    for dtype in dtypes:
        boxes = boxes_of(specimen, network.shape, grid, dtype)
        with _quiet(), default_dtype(dtype):
            found = _measured(specimen, network, boxes, methods, guarded)
        for method, finding in found.items():
            findings[method] = finding.worse(findings.get(method, finding))
    return findings


def _measured(
    specimen: Specimen, network: Placed, boxes: Boxes, methods: Sequence[str], guarded: bool
) -> dict[str, Finding]:
    expected = truths(network, boxes, specimen.terms)
    try:
        models = [_on_host(specimen, network, boxes.lower, options) for options in _OPTIONS]
        misread = _misread(models[0], network, boxes, expected[-1])
    except (*HOST_FAILURES, RecurJacError) as error:
        return dict.fromkeys(methods, Finding(Verdict.REFUSED, reason=_sentence(error)))
    findings = {}
    for method in methods:
        wrong = [misread] if misread is not None else _bounded(models, network, boxes, expected, method)
        if isinstance(wrong, Finding):
            findings[method] = wrong
            continue
        finding = Finding(Verdict.HOLDS)
        for _, each in wrong:
            finding = finding.worse(each)
        boxes_wrong = [box for found, _ in wrong for box in found]
        refusal = _refusal(models[-1], boxes, boxes_wrong, method) if guarded else None
        findings[method] = finding if refusal is None else replace(finding, verdict=Verdict.GUARDED, reason=refusal)
    return findings


def _on_host(specimen: Specimen, network: Placed, x: Tensor, options: Mapping[str, Any]) -> Any:
    module = copy.deepcopy(network).to(x.dtype).train(specimen.training)
    model = BoundedModule(module, torch.zeros_like(x), bound_opts=copy.deepcopy(dict(options)))
    model.eval()
    return model


def _misread(model: Any, network: Placed, boxes: Boxes, output: Truth) -> _Wrong | None:
    """The difference of the host's values and torch's, where it is no rounding.

    Near a jump torch itself gives one value or the other, by its type: the host may give either.
    """
    own = copy.deepcopy(network).to(boxes.lower.dtype)
    points = (boxes.lower, boxes.upper, torch.lerp(boxes.lower, boxes.upper, 0.5))
    with torch.no_grad(), preserved(model):
        pairs = [(model(x).double(), network(x.double())) for x in points]
        in_type = [own(x).double() for x in points]
    if any(theirs.shape != ours.shape for theirs, ours in pairs):
        theirs, ours = pairs[0]
        where = f"output, of shape {tuple(theirs.shape[1:])} instead of {tuple(ours.shape[1:])}"
        return [0], Finding(Verdict.MISREAD, math.inf, math.inf, where)
    differences = [
        torch.minimum((theirs - ours).abs(), (theirs - also).abs())
        for (theirs, ours), also in zip(pairs, in_type, strict=True)
    ]
    difference = torch.stack(differences).amax(0)
    return _wrong(Verdict.MISREAD, difference, output, boxes, "output")


def _bounded(
    models: Sequence[Any], network: Placed, boxes: Boxes, expected: Sequence[Truth], method: str
) -> list[_Wrong] | Finding:
    """What is violated, or why the host has no bounds of all boxes; those near 0 are tried by themselves then."""
    reason, near = "", boxes.near()
    for model, numbers in [*((model, None) for model in models), (models[-1], near)]:
        part = boxes if numbers is None else boxes.chosen(numbers)
        try:
            intervals = host_intervals(model, network, part, method)
        except (*HOST_FAILURES, RecurJacError) as error:
            reason = reason or _sentence(error)
            continue
        truth = expected if numbers is None else [each.chosen(numbers) for each in expected]
        wrong = _violated(network, part, truth, intervals)
        if numbers is None:
            return wrong
        if wrong:
            return [([numbers[i] for i in found], finding) for found, finding in wrong]
        break
    return Finding(Verdict.REFUSED, reason=reason)


def _violated(
    network: Placed,
    boxes: Boxes,
    expected: Sequence[Truth],
    intervals: Sequence[tuple[Tensor | None, Tensor | None]],
) -> list[_Wrong]:
    """Where the values of a tensor are outside of its bounds, for all tensors that have bounds."""
    names = (*(f"what ReLU {i + 1} reads" for i in range(len(network.watched))), "output")
    found = [
        _wrong(Verdict.VIOLATED, outside(lower, upper, truth), truth, boxes, name)
        for (lower, upper), truth, name in zip(intervals, expected, names, strict=True)
        if lower is not None and upper is not None  # the host had no use for bounds of this one
    ]
    return [each for each in found if each is not None]


def host_intervals(
    model: Any,
    network: Placed,
    boxes: Boxes,
    method: str,
) -> list[tuple[Tensor | None, Tensor | None]]:
    """The host's bounds of what the last ReLUs read, and of the output; None where it has none.

    Args:
        model: the network on the host; it is left as it was.
        network: the network.
        boxes: the regions.
        method: of the host.
    """
    x = _perturbed(boxes.lower, boxes.upper)
    with preserved(model), torch.set_grad_enabled(method == "alpha-CROWN"):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        output = model.compute_bounds(x=(x,), method=method)
        relus = [node for node in topological(model.final_node()) if type(node).__name__ == "BoundRelu"]
        watched = relus[len(relus) - len(network.watched) :]
        read = [node.inputs[0] for node in watched]
        return [*((getattr(node, "lower", None), getattr(node, "upper", None)) for node in read), output]


def outside(lower: Tensor, upper: Tensor, truth: Truth) -> Tensor:
    """How far values lie outside of their bounds, (b, *shape); infinite where a bound is not a number."""
    low, high = (end.detach().double().reshape(truth.allowance.shape) for end in (lower, upper))
    escapes = torch.maximum(low - truth.values.amin(0), truth.values.amax(0) - high)
    # Infinite bounds say nothing; those of the wrong sign are outside by infinity.
    silent = (low == -torch.inf) & (high == torch.inf)
    return torch.where(silent, 0.0, escapes).nan_to_num(torch.inf, torch.inf, -torch.inf)


_Wrong = tuple[list[int], Finding]
"""Numbers of the boxes on which something is wrong, and what is."""


def _wrong(verdict: Verdict, escapes: Tensor, truth: Truth, boxes: Boxes, name: str) -> _Wrong | None:
    """Where values escape by more than the allowance; None if nowhere."""
    beyond = (escapes - truth.allowance).nan_to_num(torch.inf, torch.inf, -torch.inf).flatten(1)
    found = (beyond > 0).any(1).nonzero().flatten().tolist()
    if not found:
        return None
    share = torch.where(beyond > 0, beyond / truth.spread().flatten(1), 0.0).nan_to_num(torch.inf, torch.inf)
    worst = int(beyond.argmax()) // beyond.shape[1]
    dtype = str(boxes.lower.dtype).removeprefix("torch.")
    return found, Finding(verdict, float(beyond.max()), float(share.max()), f"{name}, {dtype}, {boxes.where(worst)}")


def _refusal(model: Any, boxes: Boxes, wrong: Sequence[int], method: str) -> str | None:
    """Why the plugin does not go on with boxes on which something is wrong; None if it would with one of them."""
    reason = None
    for box in wrong[:: max(1, len(wrong) // _ASKED)]:
        try:
            output_bounds(model, _perturbed(*boxes.at(box)), method=method)
        except RecurJacError as error:
            reason = _sentence(error)
        except HOST_FAILURES:
            return None
        else:
            return None
    return reason


def _perturbed(lower: Tensor, upper: Tensor) -> BoundedTensor:
    ball = PerturbationLpNorm(norm=float("inf"), x_L=lower.clone(), x_U=upper.clone())
    return BoundedTensor(torch.minimum(torch.lerp(lower, upper, 0.5), upper), ball)


def _sentence(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what the host, and torch's exporter below it, print and warn of."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
