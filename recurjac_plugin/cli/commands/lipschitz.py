"""`recurjac lipschitz`: Lipschitz constants against the radius, for several methods, and what sampling finds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.files import check_writable, write, write_csv
from recurjac_plugin.cli.plots import check_format, picture_format
from recurjac_plugin.cli.problem import ShapeSources, load_centers, load_network
from recurjac_plugin.cli.streams import Streams, open_streams
from recurjac_plugin.errors import InputError
from recurjac_plugin.jacobian.methods import GLOBAL_METHODS, METHODS

if TYPE_CHECKING:
    from recurjac_plugin.neurons.searches.largest import Progress
    from recurjac_plugin.tables.constants import Norms


def _read_norms(ball_norm: str, input_norm: str | None, output_norm: str | None) -> Norms:
    from recurjac_plugin.tables.constants import Norms

    of_ball = options.norm_of(ball_norm)
    of_input = of_ball if input_norm is None else options.norm_of(input_norm, "--input-norm")
    of_output = of_input if output_norm is None else options.norm_of(output_norm, "--output-norm")
    return Norms(of_ball, of_input, of_output)


_DEFAULT = options.listed((*METHODS, *GLOBAL_METHODS))


def lipschitz_command(
    model: options.Model,
    eps: Annotated[
        str, typer.Option("--eps", metavar="E,E,...", help="Radii, e.g. 0.001,0.01,0.1.", show_default=False)
    ],
    vnnlib: options.BallProperty = None,
    input_file: options.BallInputs = None,
    input_shape: options.InputShape = None,
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
        network = load_network(model, device, dtype, ShapeSources(input_shape, input_file, vnnlib))
        centers = load_centers(network, vnnlib, input_file)
        from recurjac_plugin.tables.constants import Balls, certified, sampled, searched

        balls = Balls(network, centers, norms, radii, streams)
        constants = certified(balls, names, rigorous)
        trace: list[Progress] = []
        if bab:
            constants += searched(balls, gap, timeout, trace)
        _tell_refusals(streams, constants)
        if samples:
            constants += sampled(balls, samples, steps, seed)
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


def _tell_refusals(streams: Streams, constants: list[dict[str, Any]]) -> None:
    """Say which methods have no constants where, and why.

    Raises:
        InputError: there is none at all.
    """
    from recurjac_plugin.tables.constants import refusals

    said = refusals(constants)
    if not any(entry["constant"] is not None for entry in constants):
        raise InputError(f"No method has a constant here. {said[0]}")
    for sentence in said:
        streams.note(sentence)


def _tell(streams: Streams, result: dict[str, Any], csv: Path | None, plot: Path | None, trace: list[Progress]) -> None:
    from recurjac_plugin.tables.constants import largest_by_radius

    constants = result["constants"]
    if csv is not None:
        write_csv(csv, list(constants[0]), [list(entry.values()) for entry in constants])
        streams.note(f"wrote {csv}")
    radii, largest = largest_by_radius(constants)
    norms = _read_norms(result["norm"], result["input_norm"], result["output_norm"])
    norm = options.norm_name(norms.ball)
    if plot is not None:
        write(plot, _drawn(result, norms, trace, picture_format(plot)))
        streams.note(f"wrote {plot}")
    if streams.as_json:
        streams.json(result)
        return
    title = f"Lipschitz constant in {norms.text}" + (
        f", largest of {result['inputs']} inputs" if result["inputs"] > 1 else ""
    )
    rows = [(f"{eps:g}", *(values[i] for values in largest.values())) for i, eps in enumerate(radii)]
    streams.table(title, (f"radius ({norm})", *largest), rows, right=range(len(largest) + 1))


def _drawn(result: dict[str, Any], norms: Norms, trace: list[Progress], file_format: str) -> bytes:
    """The picture: how a search closed in, or constants against the radius."""
    from recurjac_plugin.plots import closing_gap, encoded, lipschitz_curves
    from recurjac_plugin.tables.constants import curves_of

    name = Path(result["model"]).name
    radii, curves = curves_of(result["constants"])
    if trace:
        lower, upper = (
            [float(bound.max()) for bound in bounds] for bounds in zip(*((n.lower, n.upper) for n in trace))
        )
        figure = closing_gap(
            [now.seconds for now in trace], lower, upper, norm=norms.text, title=f"{name}, radius {radii[0]:g}"
        )
    else:
        written = (options.norm_name(norms.ball), norms.text)
        figure = lipschitz_curves(radii, curves, everywhere=GLOBAL_METHODS, norms=written, title=name)
    return encoded(figure, file_format)
