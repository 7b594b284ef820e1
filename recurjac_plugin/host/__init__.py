"""auto_LiRPA, the host: found, imported on first use, and read.

``from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm`` gives the host's own classes,
whichever version is installed, on 0.3 with the fixes that current torch needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        BoundedModule as BoundedModule,
    )
    from .library import (
        BoundedTensor as BoundedTensor,
    )
    from .library import (
        LinearBound as LinearBound,
    )
    from .library import (
        Patches as Patches,
    )
    from .library import (
        PerturbationLpNorm as PerturbationLpNorm,
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
