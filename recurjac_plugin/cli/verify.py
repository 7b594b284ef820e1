"""`recurjac verify`: the verdict on a VNN-LIB property, in VNN-COMP's form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .files import check_writable, write
from .problem import load_network, load_property
from .report import reporting


def verify(
    model: options.Model,
    prop: options.Property,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", help="Give up after this many seconds.", show_default=False),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="Output bounds: RecurJac, RecurJac-Linear, Fast-Lip, each optionally with "
            "`+CROWN`; CROWN, IBP, CROWN-IBP or alpha-CROWN.",
        ),
    ] = "RecurJac+CROWN",
    attack_seconds: options.AttackSeconds = 5.0,
    results_file: Annotated[
        Path | None,
        typer.Option(
            "--results-file", metavar="FILE", help="Write verdict and counterexample there, too.", show_default=False
        ),
    ] = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    seed: options.Seed = 0,
) -> None:
    """Prove or refute a VNN-LIB property.

    The first line is `unsat` (no input violates it), `sat` (followed by a counterexample, checked with onnxruntime),
    `unknown` or `timeout`. Boxes are not split: `unknown` is a frequent answer.
    """
    from recurjac_plugin.methods import parse
    from recurjac_plugin.verification import Result
    from recurjac_plugin.verification import verify as run

    with reporting(json) as report:
        if timeout is not None and options.seconds("--timeout", timeout) == 0:
            options.refuse("--timeout", "must be more than 0 seconds.")
        options.seconds("--attack-seconds", attack_seconds)
        name = parse(method).name
        check_writable(results_file)
        network = load_network(model, device, dtype)
        spec = load_property(prop, network)
        result: Result = run(
            network.module,
            spec,
            method=name,
            timeout=timeout,
            seed=seed,
            attack_seconds=attack_seconds,
        )
        text = vnncomp_text(result)
        if results_file is not None:
            write(results_file, f"{text}\n".encode())
        if report.as_json:
            report.json(
                {"command": "verify", **network.describe(model), "property": str(prop), "method": name, "seed": seed}
                | _plain(result)
            )
        else:
            report.line(text)
            report.note(
                f"lower bound of the distance from a violation {result.lower_bound:.6g} by {name}, "
                f"{result.boxes} of {len(spec.boxes)} boxes, {result.seconds:.3f} s"
            )


def vnncomp_text(result: Any) -> str:
    """The verdict, and after `sat` the assignment, as VNN-COMP's result files have them."""
    verdict: str = result.verdict.value
    return verdict if result.counterexample is None else f"{verdict}\n{result.counterexample}"


def _plain(result: Any) -> dict[str, Any]:
    witness = result.counterexample
    return {
        "verdict": result.verdict.value,
        "counterexample": None if witness is None else {"x": witness.x.tolist(), "y": witness.y.tolist()},
        "lower_bound": result.lower_bound,
        "boxes": result.boxes,
        "seconds": result.seconds,
    }
