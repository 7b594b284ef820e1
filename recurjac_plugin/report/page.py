"""The page: one HTML file that holds its pictures and needs no other file."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any

from recurjac_plugin.extras import need

from . import pictures
from .runs import Run
from .statistics import categories, common, compared, counts, slowest

_SLOWEST = 20
_COLUMNS = ("wrong", "timeout", "unknown", "error", "missing")  # the first two are always there


def render_page(runs: Sequence[Run], title: str) -> tuple[str, dict[str, bytes]]:
    """The page, and its pictures.

    Args:
        runs: the first is compared with each of the others.
        title: of the page.

    Returns:
        The text of the page, and PNG files by name: the pictures that the page holds, too.

    Raises:
        ExtraError: matplotlib or jinja2 are not installed.
    """
    need("matplotlib", "jinja2")
    drawn: dict[str, bytes] = {"solved": pictures.solved_bars(runs)}
    if common(runs):
        drawn["cactus"] = pictures.cactus(runs)
    pairs = []
    for i, other in enumerate(runs[1:], start=2):
        pair = compared(runs[0], other)
        if pair is None:
            continue
        entry: dict[str, Any] = {"pair": pair, "times": f"times-{i}", "boxes": None}
        drawn[entry["times"]] = pictures.time_scatter(pair)
        boxes = pictures.boxes_scatter(pair)
        if boxes is not None:
            entry["boxes"] = f"boxes-{i}"
            drawn[entry["boxes"]] = boxes
        pairs.append(entry)
    return _rendered(runs, title, drawn, pairs), drawn


def _rendered(runs: Sequence[Run], title: str, drawn: dict[str, bytes], pairs: list[dict[str, Any]]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from recurjac_plugin.version import __version__

    environment = Environment(
        loader=PackageLoader("recurjac_plugin", "report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"seconds": _seconds, "ratio": _ratio, "quotient": _quotient}
    answers = [(run.name, answer) for run in runs for answer in run.answers.values()]
    return environment.get_template("page.html.jinja").render(
        title=title,
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
        runs=runs,
        instances=len({place for run in runs for place in run.answers}),
        rows=[(name or "all", [_cells(run, name) for run in runs]) for name in (*categories(runs), None)],
        kinds=[kind for kind in _COLUMNS if kind in _COLUMNS[:2] or any(counts(run)[kind] for run in runs)],
        wrong=[(name, answer) for name, answer in answers if answer.wrong],
        errors=[(name, answer) for name, answer in answers if answer.error or answer.result == "error"],
        pairs=pairs,
        slowest=slowest(runs[0], _SLOWEST),
        details=list(dict.fromkeys(name for run in runs for name in run.details)),
        pictures={name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in drawn.items()},
    )


def _cells(run: Run, category: str | None) -> dict[str, int]:
    by_kind = counts(run, category)
    return by_kind | {"total": sum(by_kind.values())}


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _quotient(values: tuple[float, float]) -> str:
    return _ratio(values[0] / values[1] if values[1] else None)
