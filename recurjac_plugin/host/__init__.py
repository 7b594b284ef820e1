"""auto_LiRPA, the host: found, imported on first use, and read.

``from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm`` gives the host's own classes,
whichever version is installed, on 0.3 with the fixes that current torch needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import math

    from torch import Tensor, nn

    from .library import (
        HOST_FAILURES as HOST_FAILURES,
    )
    from .library import (
        IS_03 as IS_03,
    )
    from .library import (
        VERSION as VERSION,
    )
    from .library import (
        Bound as Bound,
    )
    from .library import (
        BoundActivation as BoundActivation,
    )
    from .library import (
        LinearBound as LinearBound,
    )
    from .library import (
        Patches as Patches,
    )
    from .library import (
        bound_op_map as bound_op_map,
    )
    from .library import (
        bound_ops as bound_ops,
    )
    from .library import (
        import_host as import_host,
    )

    # The host has no annotations. To type checkers its classes are these, so that what is bounded has a type.
    class PerturbationLpNorm:
        """An l_p ball, or a box."""

        def __init__(
            self,
            eps: float | Tensor = 0,
            norm: float = math.inf,
            x_L: Tensor | None = None,
            x_U: Tensor | None = None,
        ) -> None: ...

        norm: float
        eps: float | Tensor
        x_L: Tensor | None  # noqa: N815
        x_U: Tensor | None  # noqa: N815

    class BoundedTensor(Tensor):
        """The centre of a region, with the region as its `ptb`."""

        def __init__(self, x: Tensor, ptb: PerturbationLpNorm | None = None) -> None: ...

        ptb: PerturbationLpNorm

    class BoundedModule(nn.Module):
        """A network that has bounds."""

        def __init__(
            self, model: nn.Module, global_input: Tensor | tuple[Tensor, ...], *args: Any, **options: Any
        ) -> None: ...

        def compute_bounds(self, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
            """Bounds of the outputs."""

        def compute_jacobian_bounds(self, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
            """Bounds of the Jacobian."""


_NAMES = (
    "HOST_FAILURES",
    "IS_03",
    "VERSION",
    "Bound",
    "BoundActivation",
    "BoundedModule",
    "BoundedTensor",
    "LinearBound",
    "Patches",
    "PerturbationLpNorm",
    "bound_op_map",
    "bound_ops",
    "import_host",
)


def __getattr__(name: str) -> Any:
    """A name of the host; the first use of one imports it.

    Raises:
        HostError: auto_LiRPA is missing, of a version that is not supported, or does not import.
    """
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import library

    return getattr(library, name)
