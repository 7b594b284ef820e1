"""RecurJac bounds of neural network Jacobians, as a method of auto_LiRPA."""

from __future__ import annotations

from . import host
from .activations import register_activation, unregister_activation
from .bounds import Bounds
from .errors import FileError, HostError, InputError, MethodError, RecurJacError, UnsupportedError
from .jacobian import jacobian_bounds
from .lipschitz import local_lipschitz
from .methods import METHODS
from .operators import register_operator, unregister_operator
from .output_bounds import output_bounds
from .registration import register, unregister

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Bounds",
    "FileError",
    "HostError",
    "InputError",
    "MethodError",
    "RecurJacError",
    "UnsupportedError",
    "host",
    "jacobian_bounds",
    "local_lipschitz",
    "output_bounds",
    "register",
    "register_activation",
    "register_operator",
    "unregister",
    "unregister_activation",
    "unregister_operator",
]
