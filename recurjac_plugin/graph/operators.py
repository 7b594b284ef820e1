"""The operator table: which linear map a node of the host's graph is, in each of its perturbed inputs.

An operator ``f(x_0, x_1, ...)`` of the host that is affine in each of its perturbed inputs, the others held constant,
has one linear map for each of them, ``W_i = df / dx_i``, and its step adds them up. A row of `OPERATORS` maps the
*exact* class name of the host's node to a function ``(node, position) -> LinearMap``. Looking up by exact name fails
closed: in the host ``BoundMatMul`` inherits from ``BoundLinear`` and ``BoundReduceMin`` from ``BoundReduceMax``, so a
row found through a base class could be another operator's. A row that cannot handle the node at hand raises `Refusal`
with the reason; the graph collects all of them before anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.modules.affine import require_affine

from .linear_maps import (
    Broadcast,
    Convolution,
    Dense,
    Embedding,
    Function,
    LinearMap,
    Scale,
    Transposed,
    View,
    nonnegative,
)
from .node import Node


class Refusal(Exception):
    """Why a node has no linear map; becomes one entry of `UnsupportedError`."""


ToLinearMap = Callable[[Node, int], LinearMap]
"""From a node and the position of one of its perturbed inputs to the linear map between that input and the output."""


def _sample_shapes(node: Node, position: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return node.input_shapes[position][1:], node.output_shape[1:]


def broadcast_shapes(node: Node, position: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes per sample of an operator that broadcasts, which aligns shapes from the right."""
    came, gives = node.input_shapes[position], node.output_shape
    if not came:
        raise Refusal("it spreads one number of the whole batch over its samples")
    if len(came) < len(gives) and came[0] != 1:
        raise Refusal(f"broadcasting {came} to {gives} spreads the batch over another dimension")
    return _sample_shapes(node, position)


def _constant(node: Node, position: int, meaning: str) -> Tensor:
    """The value of an unperturbed input, which must not differ from sample to sample."""
    value = node.constants[position]
    if value is None:
        raise Refusal(f"its {meaning} depends on the perturbed input")
    return value


def per_sample(value: Tensor, node: Node) -> bool:
    """Whether a constant operand of an element-wise operator or product differs from sample to sample."""
    return value.dim() >= len(node.output_shape) and value.shape[0] != 1


def _shared(value: Tensor, node: Node) -> Tensor:
    """A constant operand of an element-wise operator or product, the same for every sample of the batch."""
    if per_sample(value, node):
        raise Refusal(f"its constant operand of shape {tuple(value.shape)} has one value per sample of the batch")
    return value


def _gemm(node: Node, position: int) -> LinearMap:
    if position != 0:
        raise Refusal("its weight or bias depends on the perturbed input")
    if node.attributes.get("transA", 0):
        raise Refusal("its input is transposed (transA), which mixes the batch with the features")
    weight = _constant(node, 1, "weight")
    weight = weight if node.attributes.get("transB", 0) else weight.T
    alpha = node.attributes.get("alpha_linear", node.attributes.get("alpha", 1.0))
    return Dense(weight if alpha == 1.0 else alpha * weight, *_sample_shapes(node, position))


def _matmul(node: Node, position: int) -> LinearMap:
    factor = _constant(node, 1 - position, "other factor")
    shapes = _sample_shapes(node, position)
    if position == 0 and factor.dim() == 2:
        return Dense(factor.T, *shapes)
    factor = _shared(factor, node)
    if position == 0:
        return Function(lambda x: torch.matmul(x, factor), *shapes, lambda x: torch.matmul(x, factor.abs()))
    if len(node.input_shapes[position]) < 3:
        raise Refusal("a constant from the left multiplies over the batch dimension")
    return Function(lambda x: torch.matmul(factor, x), *shapes, lambda x: torch.matmul(factor.abs(), x))


def _convolution(node: Node, position: int) -> LinearMap:
    if position != 0:
        raise Refusal("its weight or bias depends on the perturbed input")
    a = node.attributes
    return Convolution(
        _constant(node, 1, "weight"), a["stride"], a["padding"], a["dilation"], a["groups"],
        *_sample_shapes(node, position),
    )  # fmt: skip


def _transposed_convolution(node: Node, position: int) -> LinearMap:
    if position != 0:
        raise Refusal("its weight or bias depends on the perturbed input")
    a = node.attributes
    inputs, outputs = _sample_shapes(node, position)
    return Transposed(
        Convolution(
            _constant(node, 1, "weight"), a["stride"], a["padding"], a["dilation"], a["groups"], outputs, inputs
        )
    )


def _batch_norm(node: Node, position: int) -> LinearMap:
    if position != 0:
        raise Refusal("its parameters depend on the perturbed input")
    if node.training:
        raise Refusal("it is in training mode, where samples of a batch depend on each other; call `model.eval()`")
    a = node.attributes
    gamma, variance = _constant(node, 1, "weight"), _constant(node, 4, "variance")
    scale = (variance + a["eps"]).rsqrt() if a.get("use_var", True) else torch.ones_like(variance)
    scale = scale * gamma if a.get("use_affine", True) else scale
    inputs, outputs = _sample_shapes(node, position)
    return Scale(scale.reshape(-1, *(1,) * (len(inputs) - 1)), inputs, outputs)


def _add(node: Node, position: int) -> LinearMap:
    return Broadcast(1, *broadcast_shapes(node, position))


def _sub(node: Node, position: int) -> LinearMap:
    return Broadcast(1 if position == 0 else -1, *broadcast_shapes(node, position))


def _neg(node: Node, position: int) -> LinearMap:
    return Broadcast(-1, *_sample_shapes(node, position))


def _mul(node: Node, position: int) -> LinearMap:
    factor = _shared(_constant(node, 1 - position, "other factor"), node)
    return Scale(factor, *broadcast_shapes(node, position))


def _div(node: Node, position: int) -> LinearMap:
    divisor = _shared(_constant(node, 1, "divisor"), node)
    return Scale(1 / divisor, *broadcast_shapes(node, position))


def _view(node: Node, position: int) -> LinearMap:
    if position != 0:
        raise Refusal("the shape it produces depends on the perturbed input")
    return View(*_sample_shapes(node, position))


def _expand(node: Node, position: int) -> LinearMap:
    if position != 0:
        raise Refusal("the shape it produces depends on the perturbed input")
    return Broadcast(1, *broadcast_shapes(node, position))


def _concat(node: Node, position: int) -> LinearMap:
    axis = node.attributes["axis"] % len(node.output_shape)
    if axis == 0:
        raise Refusal("it concatenates along the batch dimension")
    offset = sum(shape[axis] for shape in node.input_shapes[:position])
    return Embedding(axis, offset, *_sample_shapes(node, position))


def _cast(node: Node, position: int) -> LinearMap:
    kind = node.attributes["type"]
    if kind in (torch.float16, torch.bfloat16):
        raise Refusal(f"it casts to {kind}, whose rounding is too large to be left out")
    if kind not in (torch.float32, torch.float64):
        raise Refusal(f"it casts the perturbed input to {kind}, which is piecewise constant")
    return _own_function(node, position)


def _dropout(node: Node, position: int) -> LinearMap:
    if node.training:
        raise Refusal("it is in training mode, where it is random; call `model.eval()`")
    return Broadcast(1, *_sample_shapes(node, position))


def _own_function(node: Node, position: int) -> LinearMap:
    """The node's own forward function, which selects, moves or adds up this input, the others being constants."""
    if position != 0 or any(node.perturbed[1:]):
        raise Refusal("more than its first input depends on the perturbed input")
    constants = node.constants[1:]
    inputs, outputs = _sample_shapes(node, position)
    function = nonnegative(lambda x: node.forward(x, *constants), inputs, outputs)
    if not _acts_per_sample(function):
        raise Refusal("it does not act on each sample of a batch by itself")
    return function


def _acts_per_sample(function: Function) -> bool:
    """Whether a batch gives what its samples give, tried on a batch size that is no other dimension of the node."""
    taken = {*function.input_shape, *function.output_shape}
    count = next(n for n in range(2, len(taken) + 3) if n not in taken)
    probe = torch.rand(count, *function.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    try:
        whole = function.function(probe)
        alone = [function.function(sample.unsqueeze(0)) for sample in (probe[0], probe[-1])]
    except (RuntimeError, IndexError, AssertionError, ValueError):
        return False
    return whole.shape == (count, *function.output_shape) and all(
        part.shape[1:] == whole.shape[1:] and torch.allclose(part[0], sample)
        for part, sample in zip(alone, (whole[0], whole[-1]), strict=True)
    )


OPERATORS: dict[str, ToLinearMap] = {
    "BoundLinear": _gemm,
    "BoundMatMul": _matmul,
    "BoundConv": _convolution,
    "BoundConvTranspose": _transposed_convolution,
    "BoundBatchNormalization": _batch_norm,
    "BoundAdd": _add,
    "BoundSub": _sub,
    "BoundNeg": _neg,
    "BoundMul": _mul,
    "BoundDiv": _div,
    "BoundIdentity": _add,
    "BoundDropout": _dropout,
    "BoundCast": _cast,
    "BoundReshape": _view,
    "BoundATenUnflatten": _view,
    "BoundFlatten": _view,
    "BoundSqueeze": _view,
    "BoundUnsqueeze": _view,
    "BoundExpand": _expand,
    "BoundTranspose": _own_function,
    "BoundConcat": _concat,
    "BoundConcatFromSequence": _concat,
    "BoundSlice": _own_function,
    "BoundSplit": _own_function,
    "BoundGather": _own_function,
    "BoundPad": _own_function,
    "BoundAveragePool": _own_function,
    "BoundGlobalAveragePool": _own_function,
    "BoundReduceSum": _own_function,
    "BoundReduceMean": _own_function,
}
"""The operator table: exact class name of the host's node -> its linear map in one input."""


def linear_map(
    function: Callable[[Tensor], Tensor], input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> LinearMap:
    """The linear part of a torch function that is affine in each sample, ``f(x) = W x + c``, for a rule of your own.

    Its derivative is pushed and pulled by autograd, ``|W|`` is computed when it is needed.

    Checked at random points of the sizes 0.01 to 10 000, in float64 where the function takes it, else in float32: that
    f keeps to straight lines, beyond the points as well, that no sample of a batch changes another, and that autograd
    has the derivative, each up to rounding. What bends between or beyond these points alone, by less than rounding, at
    single points, or later, since it reads something that changes, is not seen: bounds of it would be wrong.

    Args:
        function: f, (n, *input_shape) -> (n, *output_shape), for any n.
        input_shape: of one sample.
        output_shape: of one sample.

    Raises:
        InputError: the function is not affine in each sample, or does not take or give these shapes.
    """
    require_affine(function, tuple(input_shape), tuple(output_shape))
    return Function(function, tuple(input_shape), tuple(output_shape))


def register_operator(class_name: str, rule: ToLinearMap) -> None:
    """Add a linear operator to the table.

    Args:
        class_name: exact name of the host's node class, e.g. ``"BoundCumSum"``.
        rule: ``(node, position) -> LinearMap``: the map from the perturbed input at that position, see
            `recurjac_plugin.Node`; `recurjac_plugin.linear_map` makes one of any torch function that is affine in each
            sample. It raises `recurjac_plugin.Refusal` for what it does not cover.

    Raises:
        InputError: the class already has a rule.
    """
    if class_name in OPERATORS:
        raise InputError(f"`{class_name}` already has a linear map; register another class name.")
    OPERATORS[class_name] = rule


def unregister_operator(class_name: str) -> None:
    """Remove an operator added with `register_operator`.

    Raises:
        InputError: the class has no rule.
    """
    if OPERATORS.pop(class_name, None) is None:
        raise InputError(f"`{class_name}` has no linear map to remove; known: {', '.join(OPERATORS)}.")
