"""`recurjac check`: is the certificate of a verdict a proof?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.streams import open_streams
from recurjac_plugin.errors import counted

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL [PROP] CERTIFICATE",
        help="ONNX network, for a verdict the VNN-LIB property, and what `--certificate` wrote (any may be .gz).",
        show_default=False,
    ),
]


def check_command(files: Files, json: options.Json = False) -> None:
    """Accept or reject the certificate of an `unsat`, or of bounds of a Jacobian.

    The first line is `accepted`, and the exit code 0, if the certificate shows, for the network in real arithmetic,
    that no input of the property's boxes has an output that violates it (or that the Jacobian has the bounds that the
    certificate states, on its boxes); otherwise it is `rejected` with the reason, and the exit code 1. The checker
    shares nothing with the search for the verdict, and computes every bound anew; it is also
    `python -m recurjac_plugin.checker`, which needs numpy and onnx alone.
    """
    from recurjac_plugin.checker import Rejected, check, check_jacobian

    if len(files) not in (2, 3):
        raise typer.BadParameter("expected a network, for a verdict a property, and a certificate.")
    with open_streams(json) as streams:
        model, *prop, certificate = files
        values: dict[str, str | None] = {"command": "check", "model": str(model), "certificate": str(certificate)}
        values |= {"property": str(prop[0]) if prop else None}
        try:
            accepted = check(model, prop[0], certificate) if prop else check_jacobian(model, certificate)
        except Rejected as error:
            if streams.as_json:
                streams.json({**values, "accepted": False, "reason": str(error), "boxes": None})
            else:
                streams.line(f"rejected: {error}")
            raise typer.Exit(1) from error
        if streams.as_json:
            streams.json({**values, "accepted": True, "reason": None, "boxes": accepted.boxes})
        else:
            streams.line("accepted")
            size = f"{counted(accepted.boxes, 'box')} in {counted(accepted.regions, 'region')}"
            streams.note(f"{size}, written by {accepted.producer}")
