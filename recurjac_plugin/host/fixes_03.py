"""What auto_LiRPA 0.3 (2022, written for torch < 1.13) needs to import and run on torch 2.2 and newer.

Most fixes fill in a name that numpy or torch has since removed, and only if it is really absent. Names that
the host copies while it is imported are taken away again afterwards, so that other users of numpy and torch
see those packages as they are. auto_LiRPA 0.4 and newer needs none of this and never comes here.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy
import torch

from recurjac_plugin.modules import exporter


@contextmanager
def names_missing_on_import() -> Iterator[None]:
    """Provide the names that 0.3 imports from numpy and torch, for the duration of the ``with`` block."""
    isin = _module("numpy.lib.arraysetops", isin=numpy.isin)
    opset = _attribute("torch.onnx.symbolic_helper", "_set_opset_version", _set_opset_version)
    with isin, opset:
        yield


def patch_after_import(host: ModuleType) -> None:
    """Fill in what 0.3 relies on while it runs.

    These are graph attributes by name, the signature that `named_parameters` calls today, and two steps of
    CROWN that fail where a network transposes its input (as exporters of channels-last frameworks write it).
    The interval bounds of a product of matrices take a specification, as those of a dense layer do that it calls: a
    layer without biases is one. Quotients are evaluated as such. Casts to float64 give that, not float32.

    Args:
        host: the imported package auto_LiRPA, version 0.3.
    """
    graph_node: Any = torch._C.Node
    if not hasattr(graph_node, "__getitem__"):
        graph_node.__getitem__ = _node_attribute
    bounded = host.BoundedModule
    if "remove_duplicate" not in inspect.signature(bounded._named_members).parameters:
        bounded._named_members = _named_members
    bounded.get_unstable_locations = _on_contiguous_bounds(bounded.get_unstable_locations)
    bounded.restore_sparse_bounds = _beside_contiguous_bounds(bounded.restore_sparse_bounds)
    transpose = importlib.import_module(f"{host.__name__}.operators.shape").BoundTranspose
    transpose.bound_backward = _on_dense_coefficients(transpose.bound_backward)
    linear = importlib.import_module(f"{host.__name__}.operators.linear")
    linear.BoundMatMul.interval_propagate = linear.BoundLinear.interval_propagate
    bivariate = importlib.import_module(f"{host.__name__}.operators.bivariate")
    bivariate.BoundDiv.forward = _quotient
    linear.BoundMatMul.forward = _product
    cast = importlib.import_module(f"{host.__name__}.operators.dtype").BoundCast
    cast.__init__ = _knowing_doubles(cast.__init__)
    for method in (host.BoundedTensor.__new__, host.BoundedTensor.__init__):
        method.__defaults__ = (None,)  # `BoundedTensor(x)` without a perturbation, as newer versions allow


@contextmanager
def _module(name: str, **members: Any) -> Iterator[None]:
    """Let `name` be importable with these members, unless it is importable as it is."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        stand_in = ModuleType(name, "Stand-in for a module that newer releases dropped.")
        vars(stand_in).update(members)
        sys.modules[name] = stand_in
        try:
            yield
        finally:
            del sys.modules[name]
    else:
        yield


@contextmanager
def _attribute(module_name: str, name: str, value: Any) -> Iterator[None]:
    """Let a module have an attribute, unless it has it."""
    module = importlib.import_module(module_name)
    if hasattr(module, name):
        yield
        return
    setattr(module, name, value)
    try:
        yield
    finally:
        delattr(module, name)


def _set_opset_version(version: int) -> None:
    """Choose the ONNX operator set of the graphs that torch lowers for the host."""
    exporter.settings().export_onnx_opset_version = version


def _node_attribute(node: Any, name: str) -> Any:
    """Value of a graph node's attribute; its type (``i``, ``fs``, ``t``, ...) names the getter."""
    return getattr(node, node.kindOf(name))(name)


def _named_members(
    module: Any,
    get_members: Callable[..., Any],
    prefix: str = "",
    recurse: bool = True,
    remove_duplicate: bool = True,
) -> Iterator[tuple[str, Any]]:
    """`torch.nn.Module._named_members` with the host's node names translated to the original network's."""
    members = torch.nn.Module._named_members(module, get_members, prefix, recurse, remove_duplicate)
    for name, value in members:
        yield module.node_name_map.get(name, name), value


def _on_contiguous_bounds(get_unstable_locations: Callable[..., Any]) -> Callable[..., Any]:
    """Give the host's search for unstable neurons bounds that `view` accepts; a transpose leaves others."""

    @functools.wraps(get_unstable_locations)
    def wrapper(self: Any, lower: torch.Tensor, upper: torch.Tensor, *args: Any, **options: Any) -> Any:
        return get_unstable_locations(self, lower.contiguous(), upper.contiguous(), *args, **options)

    return wrapper


def _beside_contiguous_bounds(restore_sparse_bounds: Callable[..., Any]) -> Callable[..., Any]:
    """The same for the bounds that those of unstable neurons are put beside."""

    @functools.wraps(restore_sparse_bounds)
    def wrapper(self: Any, node: Any, index: Any, size: Any, lower: Any, upper: Any, *args: Any, **options: Any) -> Any:
        return restore_sparse_bounds(self, node, index, size, lower.contiguous(), upper.contiguous(), *args, **options)

    return wrapper


def _on_dense_coefficients(bound_backward: Callable[..., Any]) -> Callable[..., Any]:
    """Write a convolution's patches out as a dense tensor before a transpose, which permutes its axes."""

    def dense(node: Any, coefficients: Any) -> Any:
        if coefficients is None or isinstance(coefficients, torch.Tensor):
            return coefficients
        return coefficients.to_matrix(node.output_shape).transpose(0, 1)  # shape: (rows, b, c, h, w)

    @functools.wraps(bound_backward)
    def wrapper(self: Any, lower: Any, upper: Any, *args: Any) -> Any:
        return bound_backward(self, dense(self, lower), dense(self, upper), *args)

    return wrapper


def _quotient(self: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A quotient is one also where the divisor is a root, which 0.3 takes for a part of a layer normalisation."""
    return x / y


def _product(self: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A product of matrices; 0.3 keeps the factors, a weight as a parameter, which no other value can replace."""
    self.x_shape, self.y_shape = x.shape, y.shape
    return x.matmul(y)


def _knowing_doubles(init: Callable[..., Any]) -> Callable[..., Any]:
    """Let casts give the type that ONNX calls 11: in the table of 0.3 float32 stands in the place of float64."""
    double = 11

    @functools.wraps(init)
    def wrapper(self: Any, attr: Any, *args: Any) -> None:
        init(self, attr, *args)
        if attr["to"] == double:
            self.type = torch.float64

    return wrapper
