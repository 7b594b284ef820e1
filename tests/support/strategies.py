"""Random networks, regions and methods for hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exact_trials import ExactTrial, draw_exact
from hypothesis import strategies as st
from jacobian_trials import Methods, draw_methods
from random_graphs import Recipe, Regions, draw_recipe, draw_regions


class Drawn:
    """Choices that hypothesis makes, and can make smaller: towards the first option, and the lowest number."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def whole(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))


@st.composite
def jacobian_trials(draw: st.DrawFn, parts: int, regions: int) -> tuple[Recipe, Regions, Methods]:
    """A network of up to so many parts, so many regions, and methods."""
    choices = Drawn(draw)
    return draw_recipe(choices, parts), draw_regions(choices, regions), draw_methods(choices)


@st.composite
def exact_trials(draw: st.DrawFn, boxes: int, plain: bool, single: bool | None = None) -> ExactTrial:
    """An exact network with so many boxes."""
    return draw_exact(Drawn(draw), boxes, single, plain)
