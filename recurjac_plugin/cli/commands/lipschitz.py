"""`recurjac lipschitz`: Lipschitz constants against the radius, for several methods, and what sampling finds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.files import check_writable, write, write_csv
from recurjac_plugin.cli.plots import check_format, closing_gap, lipschitz_curves, picture_format
from recurjac_plugin.cli.problem import Network, ball, chosen, labels, load_centers, load_network
from recurjac_plugin.cli.streams import Streams, open_streams
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.jacobian.methods import GLOBAL_METHODS, METHODS

if TYPE_CHECKING:
    import torch

    from recurjac_plugin.neurons.searches.largest import Progress

_Ball = tuple[float, int]  # its radius, and the index of the input in its middle


class _Norms(NamedTuple):
    """Of the ball, and of what the constant compares: changes of the input and of the output."""

    ball: float
    input: float
    output: float

    @property
    def text(self) -> str:
        """How the constant's norms are written."""
        names = [options.norm_name(norm) for norm in dict.fromkeys((self.input, self.output))]
        return " to ".join(names)


def _read_norms(ball_norm: str, input_norm: str | None, output_norm: str | None) -> _Norms:
    of_ball = options.norm_of(ball_norm)
    of_input = of_ball if input_norm is None else options.norm_of(input_norm, "--input-norm")
    of_output = of_input if output_norm is None else options.norm_of(output_norm, "--output-norm")
    return _Norms(of_ball, of_input, of_output)


_DEFAULT = options.listed((*METHODS, *GLOBAL_METHODS))


def lipschitz_command(
    model: options.Model,
    eps: Annotated[
        str, typer.Option("--eps", metavar="E,E,...", help="Radii, e.g. 0.001,0.01,0.1.", show_default=False)
    ],
    vnnlib: options.BallProperty = None,
    input_file: options.BallInputs = None,
    norm: options.Norm = "inf",
    input_norm: options.InputNorm = None,
    output_norm: options.OutputNorm = None,
    methods: options.Methods = _DEFAULT,
    samples: Annotated[
        int, typer.Option("--samples", min=0, metavar="N", help="Points sampled for a lower bound; 0: none.")
    ] = 64,
    steps: Annotated[
        int, typer.Option("--steps", min=0, metavar="N", help="Steps that each point climbs; 0: stays.")
    ] = 10,
    bab: Annotated[
        bool,
        typer.Option("--bab", help="Search over the sides of neurons, too: proven bounds on both sides close in."),
    ] = False,
    gap: Annotated[
        float, typer.Option("--gap", metavar="G", help="With --bab: where upper <= (1 + G) lower, a search ends.")
    ] = 0.01,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="With --bab: seconds for each ball, at most.")
    ] = 60.0,
    csv: options.Csv = None,
    plot: options.Plot = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    rigorous: options.Rigorous = False,
    seed: options.Seed = 0,
) -> None:
    """Bound the Lipschitz constant of the network's output vector on balls, by default in the norm of the ball.

    With several inputs the table shows the largest constant over them; JSON and CSV have all. Operator-Norm holds
    everywhere, so it is the same for every ball. No bound can be below what was sampled. With --bab `searched` is the
    proven upper bound that a search ends with, and `attained` the lower one beside it: over the sides of neurons in
    networks of ReLUs and maxima, over boxes in all others. On large balls one pass may be smaller, whose rounding is
    not proven without --rigorous. Of a single ball --plot then shows how they close in.
    """
    with open_streams(json) as streams:
        options.require_one_source(vnnlib, input_file)
        norms, radii = _read_norms(norm, input_norm, output_norm), options.radii("--eps", eps)
        names = options.lipschitz_methods("--methods", methods)
        check_writable(csv, plot)
        check_format(plot)
        network = load_network(model, device, dtype)
        centers = load_centers(network, vnnlib, input_file)
        constants = _constants(network, centers, norms, radii, names, rigorous, streams)
        trace: list[Progress] = []
        if bab:
            constants += _searched(network, centers, norms, radii, (gap, timeout), streams, trace)
        if samples:
            constants += _sampled(network, centers, norms, radii, (samples, steps, seed), streams)
        result = {
            "command": "lipschitz",
            **network.describe(model),
            "rigorous": rigorous,
            "norm": norm.lower(),
            "input_norm": f"{norms.input:g}",
            "output_norm": f"{norms.output:g}",
            "inputs": len(centers),
            "seed": seed,
            "samples": samples,
            "steps": steps,
            "constants": constants,
        }
        _tell(streams, result, csv, plot, trace if bab and len(radii) * len(centers) == 1 else [])


def _constants(
    network: Network,
    centers: torch.Tensor,
    norms: _Norms,
    radii: tuple[float, ...],
    names: tuple[str, ...],
    rigorous: bool,
    streams: Streams,
) -> list[dict[str, Any]]:
    """Certified constants, one entry per method and ball."""
    import torch

    from recurjac_plugin.lipschitz.local import local_lipschitz

    balls = _balls(radii, centers)
    local = [(name, eps, i) for name in names if name not in GLOBAL_METHODS for eps, i in balls]
    entries: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name, eps, i in streams.progress(local, "Lipschitz constants"):
        start = time.perf_counter()
        with torch.no_grad():
            x = ball(centers[i : i + 1], norms.ball, eps)
            constant = local_lipschitz(
                network.host, x, method=name, norm=norms.input, output_norm=norms.output, rigorous=rigorous
            )
        seconds = time.perf_counter() - start
        by = chosen(network, name, [x], rigorous=rigorous)
        entries[name].append(_entry(name, eps, i, float(constant[0]), seconds) | {"method": by})
    for name in (name for name in names if name in GLOBAL_METHODS):
        start = time.perf_counter()
        everywhere = _everywhere(network, norms, name, streams)
        seconds = time.perf_counter() - start
        entries[name] = [_entry(name, eps, i, everywhere, seconds) for eps, i in balls]
    return [entry for name in names for entry in entries[name]]


def _balls(radii: tuple[float, ...], centers: torch.Tensor) -> list[_Ball]:
    """Every radius around every input, the radii in increasing order."""
    return [(eps, i) for eps in radii for i in range(len(centers))]


def _everywhere(network: Network, norms: _Norms, name: str, streams: Streams) -> float | None:
    """The constant on the whole space; None, and a remark, where the network has none."""
    from recurjac_plugin.lipschitz.product import global_lipschitz

    if norms.input != norms.output:
        streams.note(f"{name}: it has constants in one norm on both sides only.")
        return None
    try:
        return float(global_lipschitz(network.host, norm=norms.input, method=name)[0])
    except UnsupportedError as error:
        streams.note(f"{name}: {error}")
        return None


def _sampled(
    network: Network,
    centers: torch.Tensor,
    norms: _Norms,
    radii: tuple[float, ...],
    effort: tuple[int, int, int],  # points, steps, seed
    streams: Streams,
) -> list[dict[str, Any]]:
    """What sampling finds, one entry per ball: no certified constant can be below it."""
    from recurjac_plugin.lipschitz.sampled import sampled_lipschitz

    entries = []
    largest = [0.0] * len(centers)  # a smaller ball lies in a larger one: what was met in it counts there, too
    points, steps, seed = effort
    for eps, i in streams.progress(_balls(radii, centers), "Samples"):
        start = time.perf_counter()
        x = ball(centers[i : i + 1], norms.ball, eps)
        constant = sampled_lipschitz(
            network.module, x, norm=norms.input, output_norm=norms.output, points=points, steps=steps, seed=seed
        )
        largest[i] = max(largest[i], float(constant[0]))
        entries.append(_entry("sampled", eps, i, largest[i], time.perf_counter() - start))
    return entries


def _searched(
    network: Network,
    centers: torch.Tensor,
    norms: _Norms,
    radii: tuple[float, ...],
    effort: tuple[float, float],  # gap, seconds
    streams: Streams,
    trace: list[Progress],
) -> list[dict[str, Any]]:
    """What a search ends with, an upper and a lower bound per ball; how the last one came there is put into `trace`."""
    from recurjac_plugin.lipschitz.searched.exact import tighten

    upper, lower = [], []
    for eps, i in _balls(radii, centers):
        trace.clear()
        with streams.status(f"radius {eps:g}") as say:

            def seen(now: Progress, say: Callable[[str], None] = say) -> None:
                trace.append(now)
                say(f"{float(now.lower.max()):.6g} <= constant <= {float(now.upper.max()):.6g}, {now.parts} parts")

            x = ball(centers[i : i + 1], norms.ball, eps)
            found = tighten(
                network.host, x, norm=norms.input, output_norm=norms.output, gap=effort[0], budget=effort[1], seen=seen
            )
        upper.append(_entry("searched", eps, i, float(found.upper[0]), found.seconds[0]))
        lower.append(_entry("attained", eps, i, float(found.lower[0]), found.seconds[0]))
    return upper + lower


def _entry(method: str, eps: float, i: int, constant: float | None, seconds: float) -> dict[str, Any]:
    return {"asked": method, "method": method, "eps": eps, "input": i, "constant": constant, "seconds": seconds}


def _tell(streams: Streams, result: dict[str, Any], csv: Path | None, plot: Path | None, trace: list[Progress]) -> None:
    constants = result["constants"]
    if csv is not None:
        write_csv(csv, list(constants[0]), [list(entry.values()) for entry in constants])
        streams.note(f"wrote {csv}")
    called = labels(constants, dict.fromkeys(entry["asked"] for entry in constants))
    largest: dict[tuple[str, float], float | None] = {}
    for entry in constants:
        key, constant = (called[entry["asked"]], entry["eps"]), entry["constant"]
        largest[key] = None if constant is None else max(largest.get(key) or 0.0, constant)
    names = list(dict.fromkeys(name for name, _ in largest))
    radii = sorted({eps for _, eps in largest})
    norms = _read_norms(result["norm"], result["input_norm"], result["output_norm"])
    norm = options.norm_name(norms.ball)
    if plot is not None:
        drawn = {
            name: [value for eps in radii if (value := largest[name, eps]) is not None]
            for name in names
            if largest[name, radii[0]] is not None
        }
        name, kind = Path(result["model"]).name, picture_format(plot)
        if trace:
            ends = [(now.seconds, float(now.lower.max()), float(now.upper.max())) for now in trace]
            write(plot, closing_gap(ends, norms.text, f"{name}, radius {radii[0]:g}", kind))
        else:
            write(plot, lipschitz_curves(radii, drawn, (norm, norms.text), name, kind))
        streams.note(f"wrote {plot}")
    if streams.as_json:
        streams.json(result)
        return
    title = f"Lipschitz constant in {norms.text}" + (
        f", largest of {result['inputs']} inputs" if result["inputs"] > 1 else ""
    )
    rows = [(f"{eps:g}", *(largest[name, eps] for name in names)) for eps in radii]
    streams.table(title, (f"radius ({norm})", *names), rows, right=range(len(names) + 1))
