"""`recurjac check`: is the certificate of a verdict a proof?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.streams import open_streams

CertificateFile = Annotated[
    Path,
    typer.Argument(
        metavar="CERTIFICATE", help="What `verify --certificate` wrote (.json or .json.gz).", show_default=False
    ),
]


def check_command(
    model: options.Model, prop: options.Property, certificate: CertificateFile, json: options.Json = False
) -> None:
    """Accept or reject the certificate of an `unsat`.

    The first line is `accepted`, and the exit code 0, if the certificate shows, for the network in real arithmetic,
    that no input of the property's boxes has an output that violates it; otherwise it is `rejected` with the reason,
    and the exit code 1. The checker shares nothing with the search for the verdict, and computes every bound anew; it
    is also `python -m recurjac_plugin.checker`, which needs numpy and onnx alone.
    """
    from recurjac_plugin.checker import Rejected, check

    with open_streams(json) as streams:
        values = {"command": "check", "model": str(model), "property": str(prop), "certificate": str(certificate)}
        try:
            accepted = check(model, prop, certificate)
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
            streams.note(f"{accepted.boxes} boxes in {accepted.regions} regions, written by {accepted.producer}")
