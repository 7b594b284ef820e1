"""Building the host's model of a module: functions are written out, and what fails is said in one sentence.

While the host traces a module, functions that it has no nodes for are written with those that it has (`forms`). Where
it still cannot build a model, its exceptions seldom name the reason; here it is looked for: an output that is no
tensor, operators without a node, or a function of torch that its exporter does not know.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from recurjac_plugin.errors import RecurJacError, UnsupportedError
from recurjac_plugin.forms.images.convolutions import OF_LINES
from recurjac_plugin.forms.writing import require_one_tensor, written_out
from recurjac_plugin.host.library import HOST_FAILURES, IS_03, VERSION, bound_op_map, bound_ops, parse_module
from recurjac_plugin.modules import evaluation

from .jacobian_op import building

_MORE = OF_LINES if IS_03 else {}


def wrapped_conversion(original: Any) -> Any:
    """`BoundedModule._convert_nodes` with functions written out while the module is traced."""

    @functools.wraps(original)
    def convert_nodes(self: Any, model: nn.Module, global_input: Any) -> Any:
        with written_out(model, _MORE):
            return original(self, model, global_input)

    return convert_nodes


def wrapped_check(original: Any) -> Any:
    """`BoundedModule.check_incompatible_nodes`, which switches a module with dropout to training, but for evaluation.

    Dropout in evaluation is nothing, and written as that (`forms`).
    """

    @functools.wraps(original)
    def check_incompatible_nodes(self: Any, model: nn.Module) -> Any:
        return original(self, model) if any(part.training for part in model.modules()) else None

    return check_incompatible_nodes


def explained(error: BaseException, module: Any, inputs: Any, custom: Any) -> RecurJacError | None:
    """What stands behind an exception of the host's constructor; None where that is not known to be the module.

    Args:
        error: the exception.
        module: what the model was to be made of.
        inputs: the example.
        custom: operators that the user gave the host.

    Raises:
        UnsupportedError: the module gives no single tensor.
    """
    own = _own(error)
    if own is not None:
        return None if own is error else own
    arguments = evaluation.tensors(inputs)
    if not isinstance(module, nn.Module) or arguments is None:
        return None
    try:
        with torch.no_grad(), evaluation.undisturbed(module), building():  # of Jacobians in it, shapes are enough
            output = module(*evaluation.clones(arguments))
    except evaluation.MODULE_FAILURES:
        return None  # the module itself does not take these inputs, which its own exception says best
    require_one_tensor(output)
    lacking = _lacking(module, inputs, custom)
    reasons = lacking or [f"auto_LiRPA {VERSION} cannot build a model of it ({said(error)})"]
    return UnsupportedError(
        "The module",
        reasons,
        "Write it with other operators of torch, or teach the operator with `register_activation`.",
    )


def said(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _own(error: BaseException | None) -> RecurJacError | None:
    """An exception of this package among those from which the host raised another one."""
    while error is not None and not isinstance(error, RecurJacError):
        error = error.__cause__ or error.__context__
    return error


def _lacking(module: nn.Module, inputs: Any, custom: Any) -> list[str]:
    """The operators in the traced module that the host has no node for, each once."""
    try:
        with written_out(module, _MORE):
            nodes = parse_module(module, inputs)[0]
    except HOST_FAILURES:
        return []
    found: dict[str, None] = {}
    for node in nodes:
        name = node.op
        if name.startswith("aten::ATen"):
            known = name in bound_op_map or hasattr(bound_ops, f"BoundATen{node.attr['operator'].capitalize()}")
            name = f"aten::{node.attr['operator']}"
        else:
            known = name in bound_op_map or hasattr(bound_ops, f"Bound{name.removeprefix('onnx::')}")
        if not known and node.op not in (custom or {}):
            found[f"auto_LiRPA {VERSION} has no node for the operator `{name}`"] = None
    return list(found)
