"""`recurjac verify`: the verdict on a VNN-LIB property, in VNN-COMP's form or in that of the VNN-LIB standard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurjac_plugin.cli import collector, options, standard
from recurjac_plugin.cli.files import check_writable, write
from recurjac_plugin.cli.problem import check_property, load_declared, load_network
from recurjac_plugin.cli.streams import open_streams
from recurjac_plugin.errors import CertificateError, FileError, RecurJacError, UnsupportedError, counted
from recurjac_plugin.jacobian.methods import VERIFY_METHOD

if TYPE_CHECKING:
    from recurjac_plugin.checker.files import Problem
    from recurjac_plugin.cli.problem import Network
    from recurjac_plugin.properties.spec import Declaration, Spec
    from recurjac_plugin.verification.verdicts import Result

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL PROP | QUERY --network NAME=FILE",
        help="ONNX network and VNN-LIB property (either may be .gz); with `--network` the query alone. Several "
        "networks are written as in VNN-COMP, [('f', 'a.onnx'), ('g', 'b.onnx')].",
        show_default=False,
    ),
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        metavar="NAME=FILE",
        help="The ONNX network that the query calls NAME; once for each that is not declared as `equal-to` another.",
        show_default=False,
    ),
]
Since = Annotated[
    float | None,
    typer.Option(
        "--since", metavar="EPOCH", help="Count --timeout from this time, in seconds since 1970.", show_default=False
    ),
]


def verify_command(
    files: Files,
    networks: Networks = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", help="Give up after this many seconds.", show_default=False),
    ] = None,
    since: Since = None,
    method: options.OutputMethod = VERIFY_METHOD,
    branching: options.Branching = options.Branchings.jacobian,
    split: options.Split = None,
    attack_seconds: options.AttackSeconds = 5.0,
    results_file: Annotated[
        Path | None,
        typer.Option(
            "--results-file", metavar="FILE", help="Write verdict and counterexample there, too.", show_default=False
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="FILE",
            help="Write a proof of `unsat` for `recurjac check` there.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    seed: options.Seed = 0,
) -> None:
    """Prove or refute a VNN-LIB property.

    The first line is `unsat` (no input violates it), `sat` (followed by a counterexample, checked with onnxruntime),
    `unknown` or `timeout`. Boxes in which at most 20 inputs vary are cut into smaller ones until there is an answer.
    With more inputs the search also branches on the signs of neurons and attacks; it may end in `unknown`.

    With `--timeout` a network that has no bounds, or that only onnxruntime reads, is attacked until the time is over:
    it ends in `sat`, or in `unknown` with the reason on stderr.

    `recurjac verify QUERY --network NAME=FILE` is the form of the VNN-LIB standard: it says `timed-out`, and takes
    queries over real numbers only. Counterexamples to queries of VNN-LIB 2 name the query's own variables.

    A certificate (.json or .json.gz) is written after `unsat` only. If the checker's bounds do not show what was
    proved, nothing is written, and the exit code is 2.
    """
    from recurjac_plugin.jacobian.methods import parse_verification_method
    from recurjac_plugin.verification.verdicts import attack_refused, verify

    with open_streams(json) as streams:
        remaining = _remaining(timeout, since)
        options.seconds("--attack-seconds", attack_seconds)
        name = parse_verification_method(method).name
        check_writable(results_file, certificate)
        with collector.paused():
            model, prop, spec, by_name = _files(files, networks or [])
        for remark in spec.remarks:
            streams.note(f"warning: {remark}")
        search: dict[str, Any] = {"method": name, "branching": branching.value, "split": split}
        limits: dict[str, Any] = {"timeout": remaining, "attack_seconds": attack_seconds, "seed": seed}
        network = _read(model, spec, by_name, device, dtype, limits)
        if isinstance(network, RecurJacError):
            problem, result = None, attack_refused(model, spec, network, remaining or 0.0, seed)
        else:
            check_property(prop, spec, network)
            problem = None if certificate is None else _certified(model, prop, spec)
            result = verify(network.module, spec, **search, **limits)
        text = standard.answer(result, spec.declaration) if networks else vnncomp_text(result, spec.declaration)
        if results_file is not None:
            write(results_file, f"{text}\n".encode())
        if result.reason is not None:
            streams.note(f"attacked until the time was over, because there are no bounds: {result.reason}")
        if not streams.as_json:
            streams.line(text)
            streams.note(
                f"lower bound of the distance from a violation {result.lower_bound:.6g} by {name}, "
                f"{counted(result.boxes, 'box')}, {result.seconds:.3f} s"
            )
        boxes, failure = _certify(problem, certificate, result, remaining)
        if streams.as_json:
            streams.json(
                {"command": "verify", **_described(network, model), "property": str(prop), "method": name, "seed": seed}
                | {"branching": branching.value}
                | _plain(result)
                | ({} if certificate is None else {"certified_boxes": boxes})
            )
        elif boxes is not None:
            streams.note(f"certificate of {counted(boxes, 'box')} in {certificate}")
        if failure is not None:
            raise failure


def _read(
    model: Path,
    spec: Spec,
    by_name: dict[str, Path],
    device: str,
    dtype: options.Dtype | None,
    limits: dict[str, Any],
) -> Network | RecurJacError:
    """The network or networks, or why one is refused where an attack can do without."""
    try:
        return load_declared(spec, by_name, device, dtype) if by_name else load_network(model, device, dtype)
    except (FileError, UnsupportedError) as error:
        if limits["timeout"] is None or limits["attack_seconds"] == 0 or len(by_name) > 1:
            raise
        return error


def _certified(model: Path, prop: Path, spec: Spec) -> Problem:
    """Network and property as the checker of certificates reads them."""
    from recurjac_plugin.checker.files import Problem

    if spec.declaration is not None and len(spec.declaration.networks) > 1:
        options.refuse("--certificate", f"is for properties of one network, and `{prop}` declares several.")
    return Problem.read(model, prop)


def _certify(
    problem: Problem | None, certificate: Path | None, result: Result, timeout: float | None
) -> tuple[int | None, CertificateError | None]:
    """Write the certificate of an `unsat`: the number of its boxes, or why there is none."""
    if problem is None or certificate is None or result.verdict.value != "unsat":
        return None, None
    from recurjac_plugin.verification.certificate import write_certificate

    try:
        remaining = None if timeout is None else max(timeout - result.seconds, 0.0)
        return write_certificate(problem, certificate, timeout=remaining), None
    except CertificateError as error:
        return None, error  # the verdict is a result all the same


def _remaining(timeout: float | None, since: float | None) -> float | None:
    """Seconds left of the timeout; just above 0 where it is over, so that there is a verdict all the same."""
    if timeout is None:
        if since is not None:
            options.refuse("--since", "goes with `--timeout`.")
        return None
    options.time_limit("--timeout", timeout)
    if since is None:
        return timeout
    passed = time.time() - options.seconds("--since", since)
    return max(timeout - max(passed, 0.0), 1e-9)


def _files(files: list[Path], networks: list[str]) -> tuple[Path, Path, Spec, dict[str, Path]]:
    """The network's path, that of the property, the property, and files by name where the query's names count."""
    from recurjac_plugin.properties.vnnlib import load_vnnlib

    if not networks:
        if len(files) != 2:
            what = "--network NAME=FILE" if len(files) == 1 else "no more"
            raise typer.BadParameter(f"expected a network and a property, or a query with `--network`; give {what}.")
        model, prop = files
        spec, by_name = load_vnnlib(prop), standard.networks_of(str(model))
        if by_name is None:
            by_name = {} if spec.declaration is None else _only(model, spec.declaration)
        return model, prop, spec, by_name
    if len(files) != 1:
        raise typer.BadParameter(f"`--network` goes with one file, the query; {len(files)} were given.")
    (prop,) = files
    by_name = standard.parse_networks(networks)
    spec = load_vnnlib(prop)
    standard.check_networks(prop, spec.declaration, by_name)
    return next(iter(by_name.values())), prop, spec, by_name


def _only(model: Path, declaration: Declaration) -> dict[str, Path]:
    """One file for a query of several networks: that of the first one; empty for a query of one."""
    return {} if len(declaration.networks) == 1 else {declaration.networks[0].name: model}


def vnncomp_text(result: Any, declaration: Declaration | None) -> str:
    """The verdict, and after `sat` the assignment, as VNN-COMP's result files have them."""
    verdict: str = result.verdict.value
    point = result.counterexample
    return verdict if point is None else f"{verdict}\n{standard.assignment(point, declaration)}"


def _plain(result: Any) -> dict[str, Any]:
    """A result as JSON has it."""
    point = result.counterexample
    return {
        "verdict": result.verdict.value,
        "counterexample": None if point is None else {"x": point.x.tolist(), "y": point.y.tolist()},
        "lower_bound": result.lower_bound,
        "boxes": result.boxes,
        "seconds": result.seconds,
        "reason": result.reason,
    }


def _described(network: Network | RecurJacError, model: Path) -> dict[str, Any]:
    """What JSON results say about where they come from; of a network that was not read less."""
    from recurjac_plugin.version import __version__

    if isinstance(network, RecurJacError):
        return {"version": __version__, "model": str(model)}
    return network.describe(model)
