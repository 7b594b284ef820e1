"""What a treatment is: methods of one of the host's nodes, in place of its own."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from recurjac_plugin.bound_operators import elementwise
from recurjac_plugin.numerics.intervals import Interval


class Treatment(abc.ABC):
    """Methods of a node; each takes the node first."""

    @abc.abstractmethod
    def requires_input_bounds(self, node: Any) -> list[int]:
        """Positions of the inputs whose bounds CROWN needs."""

    @abc.abstractmethod
    def interval_propagate(self, node: Any, *v: Any, **kwargs: Any) -> Interval:
        """IBP: bounds of the node, (b, *shape) each, from those of its inputs."""

    @abc.abstractmethod
    def bound_backward(self, node: Any, last_lA: Any, last_uA: Any, *x: Any, **kwargs: Any) -> Any:
        """CROWN: coefficients of the inputs, and the constants of both sides."""

    @abc.abstractmethod
    def init_opt_parameters(self, node: Any, start_nodes: Sequence[Any]) -> None:
        """Set `alpha` of the node to what alpha-CROWN optimises."""

    def clip_alpha(self, node: Any) -> None:
        """Bring `alpha` back to where it is allowed."""
        elementwise.clip_alpha(node)
