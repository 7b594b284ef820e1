"""`recurjac supports`: what queries and networks `recurjac verify` takes, as the VNN-LIB standard wants to be told.

Source: VNN-LIB standard 2.1, chapters "Theories and Logics" and "Command-line Interface"; https://www.vnnlib.org.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
import typer.core

from recurjac_plugin.cli.standard import ELEMENT_TYPES
from recurjac_plugin.cli.streams import open_streams
from recurjac_plugin.cli.terminal import completion


def _opset_versions() -> Iterable[str]:
    from recurjac_plugin.networks.supported import opset_versions

    return map(str, opset_versions())


def _operators() -> Iterable[str]:
    from recurjac_plugin.networks.supported import supported_operators

    return supported_operators()


ANSWERS: dict[str, tuple[str, Callable[[], Iterable[str]]]] = {
    "--onnx-opset-versions": ("oldest and newest operator set", _opset_versions),
    "--onnx-element-types": ("element types of queries", lambda: ELEMENT_TYPES),
    "--onnx-operators": ("operators of networks", _operators),
    "--vnnlib-versions": ("oldest and newest version of queries", lambda: ("1.0", "2.0")),
    "--hidden-node-theories": ("no hidden nodes", lambda: ("NH",)),
    "--multiple-input-output-theories": ("several inputs and outputs", lambda: ("SIO", "MIO")),
    "--multiple-network-theories": ("several networks", lambda: ("SNET", "MENET", "MINET", "MNET")),
    "--multiple-node-comparison-theories": ("comparisons of inputs with outputs", lambda: ("MNC",)),
    "--arithmetic-complexity-theories": ("linear comparisons", lambda: ("BND", "OUTC", "LIN")),
    "--optimised-disjunctive-reasoning": ("disjunctions become a normal form", lambda: ("false",)),
    "--serialise-assignments": ("assignments are text", lambda: ("false",)),
}
"""Capability -> what the answer means, and its lines."""


class Capabilities(typer.core.TyperCommand):
    """Offers capabilities where shells ask for options: they look like these."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Capabilities, then options."""
        options = super().shell_complete(ctx, "--")
        Offer = type(options[0])  # click's own, or that of the copy in typer
        offers = [*map(Offer, ANSWERS), *options]
        return [offer for offer in offers if offer.value.startswith(incomplete)]


def supports_command(
    capability: Annotated[
        str,
        typer.Argument(
            metavar="--CAPABILITY",
            help="One of " + ", ".join(f"{name} ({meaning})" for name, (meaning, _) in ANSWERS.items()) + ".",
            show_default=False,
            autocompletion=completion.one_of(ANSWERS),
        ),
    ],
) -> None:
    """Tell what `verify` takes, one answer a line, in the form of the VNN-LIB standard."""
    if capability not in ANSWERS:
        raise typer.BadParameter(f"`{capability}` is no capability, expected one of {', '.join(ANSWERS)}.")
    with open_streams(as_json=False) as streams:
        for line in ANSWERS[capability][1]():
            streams.line(line)
