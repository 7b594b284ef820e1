"""Certified bounds of the Jacobian of a neural network over a region of inputs, as a method of auto_LiRPA.

    import recurjac_plugin as rj        # on auto_LiRPA 0.3 before auto_LiRPA

    model = BoundedModule(net, x0)                                                   # auto_LiRPA's
    x = BoundedTensor(x0, PerturbationLpNorm(norm=float("inf"), eps=0.01))           # auto_LiRPA's

    bounds = rj.jacobian_bounds(model, x)        # lower <= J <= upper for every x in the region
    constant = rj.local_lipschitz(model, x)      # no two inputs of the region differ by more per unit
    signs = rj.monotonicity(model, x)            # which outputs only rise, or only fall, with which inputs

The method is RecurJac (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783). `help(recurjac_plugin.NAME)` says more about
each of the names below; all else may change.

Jacobians               jacobian_bounds, Bounds, chosen_methods, METHODS, zonotope_bounds
Lipschitz constants     local_lipschitz, WeightedNorm, tighten, Tightened, global_lipschitz, sampled_lipschitz
Radii and signs         certified_radius, margin_rows, stationary_free_radius, landscape_scan, Landscape,
                        monotonicity, monotonicity_report, Monotonicity
Outputs and verdicts    output_bounds, verify, Result, Verdict, load_onnx, load_networks, load_vnnlib, Spec,
                        flat_inputs
Tables and pictures     compare, lipschitz_curve, Table, plots
In auto_LiRPA           register, unregister, JacobianOP, GradNorm, host
Extensions              register_activation, unregister_activation, register_operator, unregister_operator,
                        linear_map, LinearMap, Node, Refusal
Types                   MethodName, OutputMethodName, GlobalMethodName, Order, Norm
Errors and version      RecurJacError, InputError, MethodError, UnsupportedError, HostError, ExtraError, FileError,
                        CertificateError, ContradictionError, __version__

A name is loaded with what it needs, torch and auto_LiRPA, when it is first used; the checker of certificates
(`recurjac_plugin.checker`) needs neither.
"""

from __future__ import annotations

import sys

from .errors import (
    CertificateError,
    ContradictionError,
    ExtraError,
    FileError,
    HostError,
    InputError,
    MethodError,
    RecurJacError,
    UnsupportedError,
)
from .hooks.host_import import prepare_import
from .hooks.torch_import import make_known
from .version import __version__

TYPE_CHECKING = False  # without `typing`: the package is there at once, and what a command needs for Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from . import host, plots
    from .certificates.held.entry_signs import Monotonicity
    from .certificates.landscape import Landscape, landscape_scan
    from .certificates.robustness import certified_radius
    from .certificates.signs import monotonicity, monotonicity_report
    from .certificates.stationary_points import stationary_free_radius
    from .graph.linear_maps import LinearMap
    from .graph.node import Node
    from .graph.operators import Refusal, linear_map, register_operator, unregister_operator
    from .jacobian.bounds import Bounds
    from .jacobian.choice import chosen_methods
    from .jacobian.entries import jacobian_bounds
    from .jacobian.methods import METHODS, GlobalMethodName, MethodName, Norm, Order, OutputMethodName
    from .lipschitz.local import local_lipschitz
    from .lipschitz.mean_value import output_bounds
    from .lipschitz.product import global_lipschitz
    from .lipschitz.sampled import sampled_lipschitz
    from .lipschitz.searched.exact import Tightened, tighten
    from .lipschitz.weighted import WeightedNorm
    from .modules.several_inputs import flat_inputs
    from .networks.onnx import load_onnx
    from .networks.several.declared import load_networks
    from .plugin.activations import register_activation, unregister_activation
    from .plugin.jacobian_op import GradNorm, JacobianOP
    from .plugin.registration import register, unregister
    from .preactivations.zonotope import zonotope_bounds
    from .properties.margins import margin_rows
    from .properties.spec import Spec
    from .properties.vnnlib import load_vnnlib
    from .tables.comparison import compare
    from .tables.curves import lipschitz_curve
    from .tables.table import Table
    from .verification.verdicts import Result, Verdict, verify

prepare_import()
make_known()

_MODULES = {
    "Bounds": "jacobian.bounds",
    "GlobalMethodName": "jacobian.methods",
    "GradNorm": "plugin.jacobian_op",
    "JacobianOP": "plugin.jacobian_op",
    "Landscape": "certificates.landscape",
    "LinearMap": "graph.linear_maps",
    "METHODS": "jacobian.methods",
    "MethodName": "jacobian.methods",
    "Monotonicity": "certificates.held.entry_signs",
    "Node": "graph.node",
    "Norm": "jacobian.methods",
    "Order": "jacobian.methods",
    "OutputMethodName": "jacobian.methods",
    "Refusal": "graph.operators",
    "Result": "verification.verdicts",
    "Spec": "properties.spec",
    "Table": "tables.table",
    "Tightened": "lipschitz.searched.exact",
    "Verdict": "verification.verdicts",
    "WeightedNorm": "lipschitz.weighted",
    "certified_radius": "certificates.robustness",
    "chosen_methods": "jacobian.choice",
    "compare": "tables.comparison",
    "flat_inputs": "modules.several_inputs",
    "global_lipschitz": "lipschitz.product",
    "jacobian_bounds": "jacobian.entries",
    "landscape_scan": "certificates.landscape",
    "lipschitz_curve": "tables.curves",
    "linear_map": "graph.operators",
    "load_networks": "networks.several.declared",
    "load_onnx": "networks.onnx",
    "load_vnnlib": "properties.vnnlib",
    "local_lipschitz": "lipschitz.local",
    "margin_rows": "properties.margins",
    "monotonicity": "certificates.signs",
    "monotonicity_report": "certificates.signs",
    "output_bounds": "lipschitz.mean_value",
    "register": "plugin.registration",
    "register_activation": "plugin.activations",
    "register_operator": "graph.operators",
    "sampled_lipschitz": "lipschitz.sampled",
    "stationary_free_radius": "certificates.stationary_points",
    "tighten": "lipschitz.searched.exact",
    "unregister": "plugin.registration",
    "unregister_activation": "plugin.activations",
    "unregister_operator": "graph.operators",
    "verify": "verification.verdicts",
    "zonotope_bounds": "preactivations.zonotope",
}
"""Where the names are that are loaded on their first use."""

_FOLDERS = ("host", "plots")
"""Public modules, likewise."""


def __getattr__(name: str) -> Any:
    """A public name, on its first use.

    Raises:
        HostError: it needs auto_LiRPA, which is missing, of a version that is not supported, or does not import.
    """
    import importlib

    if name in _FOLDERS:
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # `help` would import everything, auto_LiRPA too, and print each class with all that it inherits: thousands of
    # lines behind the table that the docstring has.
    return [] if _asked_by_help() else sorted({*globals(), *_MODULES, *_FOLDERS})


def _asked_by_help() -> bool:
    frame = sys._getframe().f_back
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "inspect"):  # pydoc asks through inspect
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == "pydoc"


__all__ = [
    "METHODS",
    "Bounds",
    "CertificateError",
    "ContradictionError",
    "ExtraError",
    "FileError",
    "GlobalMethodName",
    "GradNorm",
    "HostError",
    "InputError",
    "JacobianOP",
    "Landscape",
    "LinearMap",
    "MethodError",
    "MethodName",
    "Monotonicity",
    "Node",
    "Norm",
    "Order",
    "OutputMethodName",
    "RecurJacError",
    "Refusal",
    "Result",
    "Spec",
    "Table",
    "Tightened",
    "UnsupportedError",
    "Verdict",
    "WeightedNorm",
    "__version__",
    "certified_radius",
    "chosen_methods",
    "compare",
    "flat_inputs",
    "global_lipschitz",
    "host",
    "jacobian_bounds",
    "landscape_scan",
    "linear_map",
    "lipschitz_curve",
    "load_networks",
    "load_onnx",
    "load_vnnlib",
    "local_lipschitz",
    "margin_rows",
    "monotonicity",
    "monotonicity_report",
    "output_bounds",
    "plots",
    "register",
    "register_activation",
    "register_operator",
    "sampled_lipschitz",
    "stationary_free_radius",
    "tighten",
    "unregister",
    "unregister_activation",
    "unregister_operator",
    "verify",
    "zonotope_bounds",
]
