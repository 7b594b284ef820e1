"""RecurJac bounds of neural network Jacobians, as a method of auto_LiRPA.

Everything public is named here; all else may change. On auto_LiRPA 0.3 import this package before the host.
"""

from __future__ import annotations

from typing import Any

from .errors import FileError, HostError, InputError, MethodError, RecurJacError, UnsupportedError

try:
    from . import host
except HostError as error:
    # Without a host nothing but `recurjac doctor` works, and that must be able to say so: the error waits for the
    # first use of a name.
    _host_error = error

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise _host_error
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    from .activations import register_activation, unregister_activation
    from .bounds import Bounds
    from .certified_radius import certified_radius
    from .global_lipschitz import global_lipschitz
    from .jacobian import jacobian_bounds
    from .jacobian_op import GradNorm, JacobianOP
    from .landscape import Landscape, landscape_scan
    from .lipschitz import local_lipschitz
    from .margin_rows import margin_rows
    from .methods import METHODS
    from .monotonicity import Monotonicity, monotonicity, monotonicity_report
    from .onnx_model import load_onnx
    from .operators import register_operator, unregister_operator
    from .output_bounds import output_bounds
    from .registration import register, unregister
    from .sampled_lipschitz import sampled_lipschitz
    from .spec import Spec
    from .stationary_free_radius import stationary_free_radius
    from .verification import Result, Verdict, verify
    from .vnnlib_spec import load_vnnlib
    from .zonotope import zonotope_bounds

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Bounds",
    "FileError",
    "GradNorm",
    "HostError",
    "InputError",
    "JacobianOP",
    "Landscape",
    "MethodError",
    "Monotonicity",
    "RecurJacError",
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
