"""The page: one HTML file that holds its pictures and needs no other file."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Sequence
from typing import Any

from recurjac_plugin.errors import counted
from recurjac_plugin.extras import need

from . import pictures
from .runs import EMPTY, Answer, Run
from .statistics import categories, common, compared, counts, kind

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
    environment.filters |= {
        "seconds": _seconds,
        "empty": _empty,
        "parts": _parts,
        "ratio": _ratio,
        "quotient": _quotient,
    }
    answers = [(run, answer) for run in runs for answer in run.answers.values()]
    return environment.get_template("page.html.jinja").render(
        title=title,
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
        runs=runs,
        instances=counted(len({place for run in runs for place in run.answers}), "instance"),
        categories=len(categories(runs)),
        rows=[(name, _lines(runs, name)) for name in (*categories(runs), None)],
        kinds=[each for each in _COLUMNS if each in _COLUMNS[:2] or any(counts(run)[each] for run in runs)],
        wrong=[(run.name, answer) for run, answer in answers if answer.wrong],
        errors=[(run.name, answer) for run, answer in answers if answer.error or answer.result == "error"],
        pairs=pairs,
        every=_every(runs),
        with_cpu=any(run.has_cpu for run in runs),
        boxes_name=" or ".join(dict.fromkeys(run.boxes_name for run in runs)),
        details=list(dict.fromkeys(name for run in runs for name in run.details)),
        pictures={name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in drawn.items()},
    )


def _lines(runs: Sequence[Run], category: str | None) -> list[tuple[str, dict[str, int]]]:
    """The counts of every run that has instances of a category, or of all."""
    lines = [(run.name, counts(run, category)) for run in runs]
    return [(name, by_kind | {"total": sum(by_kind.values())}) for name, by_kind in lines if sum(by_kind.values())]


def _every(runs: Sequence[Run]) -> list[tuple[Run, Answer, str]]:
    """What every run says about every instance, with the kind of answer; runs below one another."""
    places = dict.fromkeys(place for run in runs for place in run.answers)
    found = [(run, run.answers[place]) for place in places for run in runs if place in run.answers]
    return [(run, answer, kind(answer)) for run, answer in found]


def _seconds(value: float | None) -> str:
    if value is None:
        return EMPTY
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.3g}"


def _quotient(values: tuple[float | None, float | None]) -> str:
    return _ratio(values[0] / values[1] if values[0] is not None and values[1] else None)


def _parts(name: str) -> str:
    """A name that a browser breaks where its parts end."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.findall(r"[^/_]*[/_]?", name) if part)


def _empty(value: object) -> object:
    return EMPTY if value is None else value
