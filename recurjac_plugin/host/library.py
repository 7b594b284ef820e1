"""The host library: the only module of the package that imports auto_LiRPA.

Everything else takes `BoundedModule`, `BoundedTensor` and `PerturbationLpNorm` from here. Importing this module imports
the host, on 0.3 with the fixes that current torch needs (`fixes_03`), and leaves logging and warning filters alone.
From then on every model of the host's class is compared with the module that it is made of (`same_function`).
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from recurjac_plugin.errors import HostError
from recurjac_plugin.extras import install_line
from recurjac_plugin.hooks.host_import import prepare_import
from recurjac_plugin.modules import exporter

from . import fixes_03, same_function
from .find import HOST_FAILURES as HOST_FAILURES
from .find import INSTALL_LINES, process_state_kept, require_host, was_prepared


def import_host() -> ModuleType:
    """Import auto_LiRPA and return it.

    Returns:
        The package auto_LiRPA, 0.3 or 0.4 to 0.7; on 0.3 made to run on current torch.

    Raises:
        HostError: auto_LiRPA is missing, is a version that is not supported, or lacks a module it imports itself.
    """
    package = require_host()
    prepare_import()
    with process_state_kept():
        exporter.load_operator_sets()
        try:
            module = importlib.import_module("auto_LiRPA")
        except ImportError as error:
            raise HostError(
                f"`auto_LiRPA` {package.version} at {package.folder} does not import: {error}. Install what it needs "
                f"with `{install_line('host')}`, or another version with `{INSTALL_LINES[0]}` or `{INSTALL_LINES[1]}`."
            ) from error
    if package.is_03 and not was_prepared():  # somebody imported it before this package
        fixes_03.patch_after_import(module)
    return module


_host = import_host()

if TYPE_CHECKING:
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm, bound_ops
    from auto_LiRPA.bound_op_map import bound_op_map
    from auto_LiRPA.bound_ops import Bound, BoundActivation
    from auto_LiRPA.linear_bound import LinearBound
    from auto_LiRPA.operators.clampmult import multiply_by_A_signs as multiply_by_signs
    from auto_LiRPA.parse_graph import parse_module
    from auto_LiRPA.patches import Patches, inplace_unfold, maybe_unfold_patches
    from auto_LiRPA.utils import OneHotC
    from auto_LiRPA.utils import eyeC as EyeC
else:
    BoundedModule = _host.BoundedModule
    BoundedTensor = _host.BoundedTensor
    PerturbationLpNorm = _host.PerturbationLpNorm
    bound_ops = importlib.import_module("auto_LiRPA.bound_ops")
    Bound = bound_ops.Bound
    BoundActivation = bound_ops.BoundActivation
    LinearBound = importlib.import_module("auto_LiRPA.linear_bound").LinearBound
    multiply_by_signs = importlib.import_module("auto_LiRPA.operators.clampmult").multiply_by_A_signs
    Patches = importlib.import_module("auto_LiRPA.patches").Patches
    inplace_unfold = importlib.import_module("auto_LiRPA.patches").inplace_unfold
    maybe_unfold_patches = importlib.import_module("auto_LiRPA.patches").maybe_unfold_patches
    OneHotC = importlib.import_module("auto_LiRPA.utils").OneHotC
    EyeC = importlib.import_module("auto_LiRPA.utils").eyeC
    bound_op_map = importlib.import_module("auto_LiRPA.bound_op_map").bound_op_map
    parse_module = exporter.by_known_sets(importlib.import_module("auto_LiRPA.parse_graph").parse_module)

VERSION: str = _host.__version__
IS_03: bool = require_host().is_03

_host.BoundedModule.__init__ = exporter.by_known_sets(_host.BoundedModule.__init__)
same_function.watch(_host.BoundedModule)
