"""`recurjac compare`: every method on one problem."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.files import check_writable, write, write_csv
from recurjac_plugin.cli.plots import check_format, comparison, picture_format
from recurjac_plugin.cli.problem import Network, chosen, listed, load_network, load_property
from recurjac_plugin.cli.streams import Streams, duration, open_streams
from recurjac_plugin.errors import InputError
from recurjac_plugin.jacobian.methods import AUTO, HOST_METHODS, METHODS

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from recurjac_plugin.properties.spec import Box, Spec
    from recurjac_plugin.verification.agreement import Claim

T = TypeVar("T")

_DEFAULT = options.listed((*METHODS, *(f"{name}+CROWN" for name in METHODS[1:2]), *HOST_METHODS))
_HEADER = ("method", "lower_bound", "seconds", "jacobian_width", "lipschitz", "verdict", "boxes", "verify_seconds")
_REPEATED = 0.5  # seconds below which a computation is timed twice: the first call of a process is slow


def compare_command(
    model: options.Model,
    prop: options.Property,
    methods: options.Methods = _DEFAULT,
    branching: options.Branching = options.Branchings.jacobian,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Longest time for each verdict.")] = 10.0,
    attack_seconds: options.AttackSeconds = 5.0,
    csv: options.Csv = None,
    plot: options.Plot = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    seed: options.Seed = 0,
) -> None:
    """Compare methods on one VNN-LIB property.

    The lower bound is the certified distance of the outputs from a violation, without cutting the boxes: above 0 the
    property is proved. Its seconds include the pre-activation bounds. The Jacobian's width is the mean over its
    elements, one row per row of the property. The Lipschitz constant is the largest of those rows on the boxes
    (l_inf), which cannot be below what was sampled. The verdict is that of `recurjac verify` with the method: same
    search, same budget, other bounds; with the boxes it took and its seconds. One attack serves all methods that prove
    nothing; where some prove something, it is short.

    All of this is held against each other and against values of the network. A proof beside a counterexample, or a
    bound beside a value outside of it, is told on stderr and with the results, and the exit code is 1.
    """
    with open_streams(json) as streams:
        names = options.methods("--methods", methods)
        options.seconds("--attack-seconds", attack_seconds)
        options.time_limit("--timeout", timeout)
        check_writable(csv, plot)
        check_format(plot)
        network = load_network(model, device, dtype)
        spec = load_property(prop, network)
        if spec.mixed:
            raise InputError(
                f"`{prop}` has conditions on several inputs, or on inputs and outputs; use `recurjac verify`."
            )
        search = {"branching": branching.value, "timeout": timeout, "seed": seed, "attack_seconds": 0.0}
        names, auto = _named(network, spec, names)
        entries = [_entry(network, spec, name, search) for name in streams.progress(names, "Methods")]
        rows, claims = [row for row, _ in entries], [claim for _, claim in entries]
        claims.append(_judge(rows, network, spec, model, attack_seconds, seed))
        sampled = _sampled(network, spec, seed)
        result = {
            "command": "compare",
            **network.describe(model),
            "property": str(prop),
            "boxes": len(spec.boxes),
            "seed": seed,
            "auto": auto,
            "methods": rows,
            "lipschitz_sampled": sampled,
            "contradictions": _contradictions(network, spec, claims) + _below_sampled(rows, sampled, network),
        }
        _tell(streams, result, csv, plot)
    if result["contradictions"]:
        raise typer.Exit(1)


def _named(network: Network, spec: Spec, names: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The methods with `auto` replaced by what it is on the property's boxes, where it is one, and what it is."""
    boxes = [(network.region(box), _rows(network, box)) for box in spec.boxes]

    def on_boxes(name: str) -> str:
        return listed(chosen(network, name, [x], C) for x, C in boxes)

    found = {name: on_boxes(name) for name in names}
    kept = (by if "," not in by else name for name, by in found.items())
    return tuple(dict.fromkeys(kept)), on_boxes(AUTO)


def _entry(network: Network, spec: Spec, name: str, search: dict[str, Any]) -> tuple[dict[str, Any], Claim]:
    """The row of one method, and what it claims; where it cannot be used on the network, `unsupported` says why."""
    from recurjac_plugin.errors import UnsupportedError
    from recurjac_plugin.jacobian.methods import parse
    from recurjac_plugin.verification.agreement import Claim
    from recurjac_plugin.verification.verdicts import Verdict, verify

    entry: dict[str, Any] = dict.fromkeys(_HEADER) | {"method": name, "unsupported": None}
    claim = Claim(name, (), -math.inf, False, None)
    try:
        bounds, entry["seconds"] = _timed(lambda: _bounds(network, spec, name))
        entry["lower_bound"] = min(map(_margin, spec.boxes, bounds))
        claim = replace(claim, bounds=bounds)
        result = verify(network.module, spec, method=name, **search)
        claim = replace(
            claim,
            distance=result.lower_bound,
            proved=result.verdict is Verdict.UNSAT,
            counterexample=result.counterexample,
        )
        entry |= {"boxes": result.boxes, "verify_seconds": result.seconds}
        entry["verdict"] = None if result.verdict is Verdict.UNKNOWN else result.verdict.value
        if parse(name).bounds_jacobian:
            entry["jacobian_width"], entry["lipschitz"] = _width_and_constant(network, spec, name)
    except UnsupportedError as error:
        entry["unsupported"] = str(error)
    return entry, claim


def _bounds(network: Network, spec: Spec, name: str) -> list[tuple[Tensor, Tensor]]:
    """Lower and upper bounds of the property's rows ``A f`` on every box, float64 (k,) each."""
    import torch

    from recurjac_plugin.lipschitz.mean_value import output_bounds

    found = []
    for box in spec.boxes:
        with torch.no_grad():
            lower, upper = output_bounds(network.host, network.region(box), method=name, C=_rows(network, box))
        found.append((lower[0].double().cpu(), upper[0].double().cpu()))
    return found


def _margin(box: Box, bounds: tuple[Tensor, Tensor]) -> float:
    """Certified distance of a box from a violation: the smallest, over disjuncts, of the best row's bound."""
    import torch

    from recurjac_plugin.branch_and_bound.goals import Rows

    rows = Rows.of(box, torch.zeros((), dtype=torch.float64))
    lower = bounds[0].unsqueeze(0) - rows.b
    return float(rows.per_disjunct(torch.where(lower.isfinite(), lower, -math.inf), "amax").min())


def _rows(network: Network, box: Box) -> Tensor:
    """The property's rows on a box as a specification matrix, (1, k, n_outputs)."""
    import torch

    return torch.from_numpy(box.rows()[0]).to(network.device, network.module.dtype).unsqueeze(0)


def _width_and_constant(network: Network, spec: Spec, name: str) -> tuple[float, float]:
    """Mean width of the Jacobian's bounds, and the largest Lipschitz constant, of the property's rows."""
    import torch

    from recurjac_plugin.jacobian.entries import jacobian_bounds
    from recurjac_plugin.lipschitz.local import local_lipschitz

    widths, constants = [], []
    for box in spec.boxes:
        x, C = network.region(box), _rows(network, box)
        with torch.no_grad():
            lower, upper = jacobian_bounds(network.host, x, method=name, C=C)
            constants.append(float(local_lipschitz(network.host, x, method=name, C=C)[0]))
        widths.append(float((upper - lower).mean()))
    return math.fsum(widths) / len(widths), max(constants)


def _sampled(network: Network, spec: Spec, seed: int) -> float:
    """The largest Lipschitz constant that points of the boxes show for the property's rows: no method can go below."""
    from recurjac_plugin.lipschitz.sampled import sampled_lipschitz

    constants = []
    for box in spec.boxes:
        x, C = network.region(box), _rows(network, box)
        constants.append(float(sampled_lipschitz(network.module, x, C=C, points=32, steps=10, seed=seed)[0]))
    return max(constants)


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    """The value of `run`, and its seconds; of two runs the shorter one where they are short."""
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    if seconds < _REPEATED:
        start = time.perf_counter()
        result = run()
        seconds = min(seconds, time.perf_counter() - start)
    return result, seconds


def _judge(
    rows: list[dict[str, Any]], network: Network, spec: Spec, model: Path, attack_seconds: float, seed: int
) -> Claim:
    """Fill in the verdicts of the methods that prove nothing: one attack serves them all. Returns what it claims."""
    from recurjac_plugin.networks.onnx import onnx_session
    from recurjac_plugin.verification.agreement import Claim
    from recurjac_plugin.verification.attacks.descent import find_counterexample

    answered = any(row["verdict"] is not None for row in rows)
    found = find_counterexample(
        network.module,
        spec,
        onnx_session(model),
        seconds=attack_seconds,
        rounds=1 if answered else None,
        seed=seed,
    )
    for row in rows:
        if row["verdict"] is None and row["unsupported"] is None:
            row["verdict"] = "unknown" if found is None else "sat"
    return Claim("the attack", (), -math.inf, False, found)


def _contradictions(network: Network, spec: Spec, claims: list[Claim]) -> list[dict[str, Any]]:
    """What of the claims cannot all be true, and what values of the network in float64 contradict."""
    import torch

    from recurjac_plugin.cli.problem import Network, outputs_at
    from recurjac_plugin.verification.agreement import contradictions

    double = Network(copy.deepcopy(network.module).double(), network.device)

    def outputs(x: np.ndarray) -> Tensor:
        points = torch.from_numpy(x).to(network.device).reshape(-1, *network.module.input_shape)
        return outputs_at(double, points)

    like = torch.zeros((), dtype=network.module.dtype)
    return [asdict(each) for each in contradictions(claims, spec, outputs, like, network.module.max_difference)]


def _below_sampled(rows: list[dict[str, Any]], sampled: float, network: Network) -> list[dict[str, Any]]:
    """Lipschitz constants that points of the boxes show to be too small."""
    from recurjac_plugin.numerics.rounding import PROOF, eps

    allowed = 1 + PROOF * eps(network.module.dtype)
    wrong = [row for row in rows if row["lipschitz"] is not None and row["lipschitz"] * allowed < sampled]
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
        for row in wrong
    ]


def _tell(streams: Streams, result: dict[str, Any], csv: Path | None, plot: Path | None) -> None:
    rows = result["methods"]
    title = f"{Path(result['model']).name}, {Path(result['property']).name}"
    if csv is not None:
        write_csv(csv, _HEADER, [[row[name] for name in _HEADER] for row in rows])
        streams.note(f"wrote {csv}")
    if plot is not None:
        write(plot, comparison(rows, title, picture_format(plot)))
        streams.note(f"wrote {plot}")
    for row in rows:
        if row["unsupported"] is not None:
            streams.note(f"{row['method']}: {row['unsupported']}")
    streams.note(f"auto is {result['auto']} here")
    wrong = [f"CONTRADICTION: {each['message']}" for each in result["contradictions"]]
    for line in wrong:
        streams.note(line)
    if streams.as_json:
        streams.json(result)
        return
    header = ("method", "lower bound", "seconds", "Jacobian width", "Lipschitz", "verdict", "boxes", "verdict seconds")
    times = ("seconds", "verify_seconds")
    table = [[duration(row[name]) if name in times else row[name] for name in _HEADER] for row in rows]
    table.append(["sampled", None, None, None, result["lipschitz_sampled"], None, None, None])
    streams.table(title, header, table, right=(1, 2, 3, 4, 6, 7))
    for line in wrong:
        streams.line(line)
