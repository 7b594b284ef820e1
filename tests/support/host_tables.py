"""The host's tables of tangent lines, made once for each function: most of what a small tanh network costs to build.

They depend on the function, on the range and on torch's default dtype alone, and nobody writes into them.
"""

from __future__ import annotations

import functools

import torch

from recurjac_plugin.host import IS_03

if IS_03:
    from auto_LiRPA.operators.activation import BoundTanh as Sigmoidal  # arctan and sigmoid inherit from it
else:
    from auto_LiRPA.operators.s_shaped import BoundSShaped as Sigmoidal

METHODS = [name for name in ("precompute_relaxation", "precompute_dfunc_values") if hasattr(Sigmoidal, name)]
SET = ("x_limit", "step_pre", "num_points_pre", "d_lower", "d_upper", "dfunc_values")
FUNCTIONS = 3 if IS_03 else 2  # arguments that the class says already: the function and its derivative, on 0.3 its name


def shared(method):
    """A method of the host's that makes tables, once for all nodes of the same class."""
    known = {}

    @functools.wraps(method)
    def fill(self, *arguments, **options):
        more = (*arguments[FUNCTIONS:], *options.items())
        key = (type(self), torch.get_default_dtype(), str(self.device), more)
        if key not in known:
            method(self, *arguments, **options)
            known[key] = {name: vars(self)[name] for name in SET if name in vars(self)}
        vars(self).update(known[key])

    return fill


def share_tables():
    """Change the host for the rest of this process."""
    for name in METHODS:
        setattr(Sigmoidal, name, shared(getattr(Sigmoidal, name)))
