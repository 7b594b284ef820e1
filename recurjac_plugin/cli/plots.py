"""The formats of pictures that commands write."""

from __future__ import annotations

from pathlib import Path

from recurjac_plugin.extras import need

from .options import refuse

_FORMATS = ("png", "pdf", "svg")


def check_format(plot: Path | None) -> None:
    """Refuse, before a long computation, a picture in a format that is not drawn; None where none was asked for.

    Raises:
        ExtraError: matplotlib is not installed.
        typer.BadParameter: the format is none that is drawn.
    """
    if plot is not None:
        picture_format(plot)


def picture_format(path: Path) -> str:
    """The format that a file's name asks for: png, pdf or svg."""
    name = path.suffix.removeprefix(".").lower()
    if name not in _FORMATS:
        refuse("--plot", f"must end in {', '.join(f'.{known}' for known in _FORMATS)}; got `{path}`.")
    need("matplotlib")
    return name
