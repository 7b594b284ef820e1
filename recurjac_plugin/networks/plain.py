"""ONNX networks of common layers as plain nodes, read from their modules and not from a trace of the host.

To trace a network, and to build the host's model of what was traced, takes longer than the first bounds of a small one.
Layers without a row in `_ROWS` are left to the host; so is a network whose nodes are not seen to compute what it does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recurjac_plugin.graph.node import Node
from recurjac_plugin.host.read import HostGraph
from recurjac_plugin.modules.evaluation import difference, points, within_rounding

from .converter import import_onnx2pytorch
from .static import Static

if TYPE_CHECKING:
    from .onnx import OnnxNetwork

_POINTS = 3  # at which nodes and network are compared


@dataclass(frozen=True)
class _Layer:
    """What a module is as a node.

    Attributes:
        kind: the host's name for it, as in the tables of `graph` and `activations`.
        forward: its function, of a batch of its first inputs and of the constants.
        constants: its further inputs; None where those of the file's node are taken.
        attributes: as the host names them.
    """

    kind: str
    forward: Callable[..., Tensor]
    constants: tuple[Tensor, ...] | None = ()
    attributes: dict[str, Any] = field(default_factory=dict)


@torch.no_grad()
def plain_graph(network: OnnxNetwork) -> HostGraph | None:
    """A network in float64 as plain nodes, which take a batch of any size, at an input of zeros.

    The nodes are compared with the network at three points, where they may differ by its rounding.

    Args:
        network: what `load_onnx` returns.

    Returns:
        The nodes; None if a layer has no row here, weights are not finite, a part is in training mode, or the
        comparison fails.

    Source:
        Own.
    """
    if not isinstance(network.network, import_onnx2pytorch().ConvertModel):
        return None
    if any(module.training for module in network.modules()):
        return None
    graph = _read(network)
    return graph if graph is not None and _same(graph, network) else None


def _read(network: OnnxNetwork) -> HostGraph | None:
    converted: Any = network.network
    parameter = next(network.parameters(), torch.zeros(()))
    if len(converted.input_names) != 1 or len(converted.output_names) != 1:
        return None
    (source,), (output,) = converted.input_names, converted.output_names
    values = {source: torch.zeros(1, *network.input_shape, dtype=torch.float64, device=parameter.device)}
    stored = {name: _stored(converted, name) for node in converted.onnx_model.graph.node for name in node.input}
    nodes: list[Node] = []
    for each in converted.onnx_model.graph.node:
        module = getattr(converted, converted.mapping[each.output[0]])
        if each.op_type == "Constant":
            stored[each.output[0]] = _number(module())
            continue
        operands = [values.get(name, stored.get(name)) for name in each.input]
        row = _ROWS.get(each.op_type)
        layer = None if row is None or each.input[0] == "" else row(module, operands, [n in values for n in each.input])
        node = None if layer is None else _node(each.output[0], layer, list(each.input), values, operands)
        if node is None:
            return None
        nodes.append(node)
    if output not in values:
        return None
    if values[output].dim() != 2:
        flat = output
        while flat in values:
            flat += "/flat"
        node = _node(flat, _Layer("BoundFlatten", lambda x: x.flatten(1)), [output], values, [values[output]])
        if node is None:
            return None
        nodes.append(node)
        output = flat
    return HostGraph(tuple(nodes), {source: tuple(values[source].shape)}, output, values[output], values)


def _node(
    name: str, layer: _Layer, names: list[str], values: dict[str, Tensor], operands: Sequence[Tensor | None]
) -> Node | None:
    """A layer as a node, its value noted; None where shapes do not fit, or a constant is not finite."""
    perturbed = tuple(each in values for each in names)
    if layer.constants is not None:
        names = [names[0], *(f"{name}/{i}" for i in range(1, 1 + len(layer.constants)))]
        operands = [operands[0], *layer.constants]
        perturbed = (perturbed[0], *(False for _ in layer.constants))
    given = [each for each in operands if each is not None]
    if len(given) < len(names) or not any(perturbed):
        return None
    if not all(known or bool(each.isfinite().all()) for each, known in zip(given, perturbed)):
        return None
    try:
        value = layer.forward(*given)
    except RuntimeError:  # shapes that the file does not mean
        return None
    if value.dim() < 2 or len(value) != 1:
        return None
    values[name] = value
    return Node(
        name=name,
        kind=layer.kind,
        inputs=tuple(names),
        perturbed=perturbed,
        constants=tuple(None if known else each for each, known in zip(given, perturbed)),
        input_shapes=tuple(tuple(each.shape) for each in given),
        output_shape=tuple(value.shape),
        attributes=layer.attributes,
        training=False,
        forward=layer.forward,
    )


def _same(graph: HostGraph, network: OnnxNetwork) -> bool:
    """Whether nodes, all points at once and in the network's own type, compute what it does at each of them."""
    (shape,) = graph.inputs.values()
    example = torch.zeros(shape, dtype=network.dtype, device=graph.output.device)
    where = [x for (x,) in itertools.islice(points((example,)), _POINTS)]
    own = tuple(replace(node, constants=_converted(node.constants, example)) for node in graph.nodes)
    together = replace(graph, nodes=own).at(dict.fromkeys(graph.inputs, torch.cat(where))).output
    gaps = [difference(network(x), each.unsqueeze(0)) for x, each in zip(where, together)]
    return all(gap is not None and within_rounding(gap, network.dtype) for gap in gaps)


def _converted(constants: Sequence[Tensor | None], like: Tensor) -> tuple[Tensor | None, ...]:
    return tuple(None if constant is None else constant.to(like) for constant in constants)


def _stored(converted: Any, name: str) -> Tensor | None:
    """A tensor of the file by its name; None if it is something else."""
    from onnx2pytorch.convert.operations import get_init_parameter

    return _number(get_init_parameter([converted], name, None))


def _number(value: Any) -> Tensor | None:
    """A constant in float64; None if it is no tensor of numbers."""
    return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else None


Row = Callable[[Any, Sequence["Tensor | None"], Sequence[bool]], "_Layer | None"]
"""From a module, its operands and whether each of them depends on the input, to a layer."""


def _linear(module: Any, operands: Sequence[Tensor | None], _perturbed: Sequence[bool]) -> _Layer | None:
    x = operands[0]
    if type(module) is not nn.Linear or x is None or x.dim() != 2:
        return None
    return _Layer("BoundLinear", nn.functional.linear, _weights(module), {"transB": 1})


def _convolution(module: Any, operands: Sequence[Tensor | None], _perturbed: Sequence[bool]) -> _Layer | None:
    if type(module) is not nn.Conv2d or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    geometry = {name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")}

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.conv2d(x, weight, bias, **geometry)

    return _Layer("BoundConv", forward, _weights(module), geometry)


def _weights(module: Any) -> tuple[Tensor, ...]:
    return tuple(each.detach().double() for each in (module.weight, module.bias) if each is not None)


def _batch_norm(module: Any, _operands: Sequence[Tensor | None], _perturbed: Sequence[bool]) -> _Layer | None:
    inner = getattr(module, "bnu", None)
    if getattr(module, "has_lazy", True) or not isinstance(inner, nn.modules.batchnorm._BatchNorm):
        return None
    given = (inner.weight, inner.bias, inner.running_mean, inner.running_var)
    constants = tuple(each.detach().double() for each in given if each is not None)
    if len(constants) < len(given):
        return None

    def forward(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, mean, variance, weight, bias, eps=inner.eps)

    return _Layer("BoundBatchNormalization", forward, constants, {"eps": inner.eps})


def _function(kind: str, function: Callable[[Tensor], Tensor], module_type: type | None = None) -> Row:
    """A function of one operand, from torch's module for it or from the converter's."""

    def row(module: Any, _operands: Sequence[Tensor | None], _perturbed: Sequence[bool]) -> _Layer | None:
        known = type(module) is module_type or getattr(module, "op_name", None) == function.__name__
        return _Layer(kind, function) if known else None

    return row


def _view(module: Any, operands: Sequence[Tensor | None], _perturbed: Sequence[bool]) -> _Layer | None:
    if type(module) is not Static or operands[0] is None:
        return None
    batch, *shape = module(operands[0]).shape
    return _Layer("BoundReshape", lambda x: x.reshape(len(x), *shape)) if batch == 1 and shape else None


def _transpose(module: Any, operands: Sequence[Tensor | None], _perturbed: Sequence[bool]) -> _Layer | None:
    dims = getattr(module, "dims", None)
    return _Layer("BoundTranspose", lambda x: x.permute(dims)) if dims and dims[0] == 0 else None


def _average(module: Any, _operands: Sequence[Tensor | None], _perturbed: Sequence[bool]) -> _Layer | None:
    return _Layer("BoundAveragePool", module.forward) if type(module) is nn.AvgPool2d else None


def _elementwise(kind: str, function: Callable[[Tensor, Tensor], Tensor], of_both: bool) -> Row:
    """An operator of two operands, of which both may depend on the input if it is linear in both together."""

    def row(_module: Any, operands: Sequence[Tensor | None], perturbed: Sequence[bool]) -> _Layer | None:
        shapes = [each.shape for each in operands if each is not None]
        if len(shapes) != 2 or (all(perturbed) and not of_both) or (kind == "BoundDiv" and perturbed[1]):
            return None
        together = np.broadcast_shapes(*shapes)  # torch's own imports sympy
        depends = [shape for shape, known in zip(shapes, perturbed) if known]
        # What depends on the input keeps its batch in front, and constants are the same for all of a batch.
        if any(len(shape) != len(together) for shape in depends) or len(together) < 2 or together[0] != 1:
            return None
        return _Layer(kind, function, None)

    return row


_ROWS: dict[str, Row] = {
    "Add": _elementwise("BoundAdd", torch.add, of_both=True),
    "AveragePool": _average,
    "BatchNormalization": _batch_norm,
    "Ceil": _function("BoundCeil", torch.ceil),
    "Conv": _convolution,
    "Div": _elementwise("BoundDiv", torch.div, of_both=False),
    "Flatten": _view,
    "Floor": _function("BoundFloor", torch.floor),
    "Gemm": _linear,
    "Identity": _function("BoundIdentity", lambda x: x, nn.Identity),
    "MatMul": _linear,
    "Mul": _elementwise("BoundMul", torch.mul, of_both=False),
    "Neg": _function("BoundNeg", torch.neg),
    "Relu": _function("BoundRelu", torch.relu, nn.ReLU),
    "Reshape": _view,
    "Round": _function("BoundRound", torch.round),
    "Sign": _function("BoundSign", torch.sign),
    "Sigmoid": _function("BoundSigmoid", torch.sigmoid, nn.Sigmoid),
    "Squeeze": _view,
    "Sub": _elementwise("BoundSub", torch.sub, of_both=True),
    "Tanh": _function("BoundTanh", torch.tanh, nn.Tanh),
    "Transpose": _transpose,
    "Unsqueeze": _view,
}
"""ONNX operator -> the layer that its module is, None where the host is to read the network."""
