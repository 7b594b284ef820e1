"""RecurJac bounds of neural network Jacobians, as a method of auto_LiRPA.

Everything public is named here; all else may change. On auto_LiRPA 0.3 import this package before the host.
"""

from __future__ import annotations

from typing import Any

from .errors import (
    ContradictionError,
    FileError,
    HostError,
    InputError,
    MethodError,
    RecurJacError,
    UnsupportedError,
)
from .version import __version__ as __version__

try:
    from . import host
    from .host import library as _library  # noqa: F401
except HostError as error:
    # Without a host nothing but `recurjac doctor` works, and that must be able to say so: the error waits for the
    # first use of a name.
    _host_error = error

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise _host_error
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    from .certificates.landscape import Landscape, landscape_scan
    from .certificates.robustness import certified_radius
    from .certificates.signs import Monotonicity, monotonicity, monotonicity_report
    from .certificates.stationary_points import stationary_free_radius
    from .graph.linear_maps import LinearMap
    from .graph.node import Node
    from .graph.operators import Refusal, register_operator, unregister_operator
    from .jacobian.bounds import Bounds
    from .jacobian.entries import jacobian_bounds
    from .jacobian.methods import METHODS
    from .lipschitz.local import local_lipschitz
    from .lipschitz.mean_value import output_bounds
    from .lipschitz.product import global_lipschitz
    from .lipschitz.sampled import sampled_lipschitz
    from .networks.onnx import load_onnx
    from .plugin.activations import register_activation, unregister_activation
    from .plugin.jacobian_op import GradNorm, JacobianOP
    from .plugin.registration import register, unregister
    from .preactivations.zonotope import zonotope_bounds
    from .properties.margins import margin_rows
    from .properties.spec import Spec
    from .properties.vnnlib import load_vnnlib
    from .verification.verdicts import Result, Verdict, verify

__all__ = [
    "METHODS",
    "Bounds",
    "ContradictionError",
    "FileError",
    "GradNorm",
    "HostError",
    "InputError",
    "JacobianOP",
    "Landscape",
    "LinearMap",
    "MethodError",
    "Monotonicity",
    "Node",
    "RecurJacError",
    "Refusal",
    "Result",
    "Spec",
    "UnsupportedError",
    "Verdict",
    "certified_radius",
    "global_lipschitz",
    "host",
    "jacobian_bounds",
    "landscape_scan",
    "load_onnx",
    "load_vnnlib",
    "local_lipschitz",
    "margin_rows",
    "monotonicity",
    "monotonicity_report",
    "output_bounds",
    "register",
    "register_activation",
    "register_operator",
    "sampled_lipschitz",
    "stationary_free_radius",
    "unregister",
    "unregister_activation",
    "unregister_operator",
    "verify",
    "zonotope_bounds",
]
