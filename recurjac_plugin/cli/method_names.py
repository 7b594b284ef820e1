"""What `auto` stands for, for the commands: the chosen method by its name, beside what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.jacobian.methods import AUTO, parse

if TYPE_CHECKING:
    from torch import Tensor

    from .problem import Network


def chosen(network: Network, name: str, regions: Iterable[Any], C: Tensor | None = None, rigorous: bool = False) -> str:
    """The methods that a name stands for over some regions: different ones with a comma between them.

    A network that has no bounds keeps the name: it is refused where it is bounded.
    """
    from recurjac_plugin.jacobian.choice import chosen_methods

    if parse(name).jacobian != AUTO:
        return name
    found: dict[str, None] = {}
    try:
        for x in regions:
            found |= dict.fromkeys(chosen_methods(network.host, x, method=name, C=C, rigorous=rigorous))
    except UnsupportedError:
        return name
    return listed(found)


def listed(names: Iterable[str]) -> str:
    """Different names with commas between them, in their order."""
    return ", ".join(dict.fromkeys(names))


def labels(entries: Iterable[Mapping[str, Any]], asked: Iterable[str]) -> dict[str, str]:
    """How tables and pictures call what was asked for: by the methods of its entries; `auto (...)` beside the same."""
    used = {name: listed(entry["method"] for entry in entries if entry["asked"] == name) for name in asked}
    return {name: f"{name} ({by})" if by != name and by in used else by for name, by in used.items()}
