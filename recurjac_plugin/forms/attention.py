"""Products by a formula of indices, bilinear forms, and attention.

Heads keep an axis of their own behind the batch: torch's own attention makes one axis of both, in which samples can no
longer be told from heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .marks import depends, shape_of
from .masks import Mask, causal, mask_of, softmax_of_allowed


def _einsum(*args: Any) -> Any:
    if not args or not isinstance(args[0], str):
        return NotImplemented
    equation, operands = args[0].replace(" ", ""), args[1:]
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(set(right)) != len(right) or len(terms) > 3:
        return NotImplemented
    if any(len(set(term)) != len(term) for term in terms):  # a diagonal
        taken = [_diagonal(operand, term) for operand, term in zip(operands, terms, strict=True)]
        if any(each is None for each in taken):
            return NotImplemented
        return _einsum(f"{','.join(term for _, term in taken)}->{right}", *(operand for operand, _ in taken))
    value, letters = operands[0], terms[0]
    for i in range(1, len(terms)):
        later = set(right).union(*terms[i + 1 :])
        value, letters = _product(value, letters, operands[i], terms[i], later)
    value, letters = _summed(value, letters, set(right))
    return _arranged(value, letters, right)


def _diagonal(operand: Tensor, letters: str) -> Any:
    """An operand whose last two letters are the same as one with that letter once; None for others that repeat one."""
    if len(set(letters)) == len(letters):
        return operand, letters
    if len(letters) < 3 or letters[-2] != letters[-1] or len(set(letters[:-1])) != len(letters) - 1:
        return None
    return operand.diagonal(0, -2, -1), letters[:-1]


def _determinant(A: Tensor) -> Any:
    """Of matrices with up to three rows, along the first."""
    shape = shape_of(A)
    if len(shape) < 3 or shape[-1] > 3 or shape[-1] != shape[-2]:
        return NotImplemented
    return _expanded_along_rows(A, 0, list(range(shape[-1])))


def _expanded_along_rows(A: Tensor, row: int, columns: list[int]) -> Tensor:
    terms = []
    for i, column in enumerate(columns):
        entry, rest = A[..., row, column], columns[:i] + columns[i + 1 :]
        term = entry * _expanded_along_rows(A, row + 1, rest) if rest else entry
        terms.append(-term if i % 2 else term)
    value = terms[0]
    for term in terms[1:]:
        value = value + term
    return value


def _summed(value: Tensor, letters: str, kept: set[str]) -> tuple[Tensor, str]:
    gone = tuple(i for i, letter in enumerate(letters) if letter not in kept)
    return (value.sum(gone), "".join(letter for letter in letters if letter in kept)) if gone else (value, letters)


def _arranged(value: Tensor, letters: str, wanted: str) -> Tensor:
    return value if letters == wanted else value.permute([letters.index(letter) for letter in wanted])


def _product(x: Tensor, xs: str, y: Tensor, ys: str, later: set[str]) -> tuple[Tensor, str]:
    """Two operands as one product of matrices, summed over what is not wanted later."""
    if depends(y) and not depends(x):
        x, xs, y, ys = y, ys, x, xs
    x, xs = _summed(x, xs, later | set(ys))
    y, ys = _summed(y, ys, later | set(xs))
    both = [letter for letter in xs if letter in ys and letter in later]
    gone = [letter for letter in xs if letter in ys and letter not in later]
    own, others = [a for a in xs if a not in ys], [a for a in ys if a not in xs]
    size = {**dict(zip(xs, shape_of(x))), **dict(zip(ys, shape_of(y)))}

    def count(some: list[str]) -> int:
        return math.prod(size[letter] for letter in some)

    def axes(some: list[str]) -> list[int]:  # the first of them may be the batch, of any size
        return [-1, *(size[letter] for letter in some[1:])] if some else []

    rows = [letter for letter in xs if letter in (both if both else own)]
    if not both:
        # The axis that comes first may be the batch: it stays where it is.
        first = _arranged(x, xs, "".join(rows + gone)).reshape(*axes(rows), count(gone))
        second = _arranged(y, ys, "".join(gone + others)).reshape(count(gone), count(others))
        return torch.matmul(first, second).reshape(*axes(rows + others)), "".join(rows + others)
    if not own and not others:
        product = _arranged(x, xs, "".join(both + gone)) * _arranged(y, ys, "".join(both + gone))
        return (product.sum(tuple(range(len(both), len(both + gone)))) if gone else product), "".join(both)
    first = _arranged(x, xs, "".join(both + own + gone)).reshape(*axes(both), count(own), count(gone))
    second = _arranged(y, ys, "".join(both + gone + others)).reshape(*axes(both), count(gone), count(others))
    found = both + own + others
    return torch.matmul(first, second).reshape(*axes(found)), "".join(found)


def _bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Any = None) -> Any:
    if input1.dim() != 2:
        return NotImplemented
    outputs, first, second = shape_of(weight)
    half = torch.matmul(input1, weight.permute(1, 0, 2).reshape(first, outputs * second))
    value = (half.reshape(-1, outputs, second) * input2.unsqueeze(1)).sum(2)
    return value if bias is None else value + bias


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> tuple[Any, Any]:
    """Attention on (..., n, d) and its weights, (..., n, m)."""
    scores = torch.matmul(q * scale, k.transpose(-2, -1))
    if mask.added is not None:
        scores = scores + mask.added
    weights = torch.softmax(scores, -1) if mask.allowed is None else softmax_of_allowed(scores, mask.allowed)
    return torch.matmul(weights, v), weights


def _scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    mask = causal(shape_of(query)[-2], shape_of(key)[-2]) if is_causal else mask_of(attn_mask, query)
    if mask is None or enable_gqa or dropout_p or (is_causal and attn_mask is not None):
        return NotImplemented
    scale = 1 / math.sqrt(shape_of(query)[-1]) if scale is None else scale
    return _attended(query, key, value, mask, scale)[0]


def _multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int, in_proj_weight: Any,
    in_proj_bias: Any, bias_k: Any, bias_v: Any, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor,
    out_proj_bias: Any, training: bool = True, key_padding_mask: Any = None, need_weights: bool = True,
    attn_mask: Any = None, use_separate_proj_weight: bool = False, q_proj_weight: Any = None,
    k_proj_weight: Any = None, v_proj_weight: Any = None, static_k: Any = None, static_v: Any = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> Any:  # fmt: skip
    others = (bias_k, bias_v, key_padding_mask, static_k, static_v)
    if training or add_zero_attn or any(other is not None for other in others) or query.dim() != 3:
        return NotImplemented
    mask = mask_of(attn_mask, query, true_is_allowed=False)
    if mask is None or (attn_mask is not None and attn_mask.dim() != 2):
        return NotImplemented
    size, heads = embed_dim_to_check, num_heads
    if use_separate_proj_weight:
        weights = [q_proj_weight, k_proj_weight, v_proj_weight]
    else:
        weights = [in_proj_weight[i * size : (i + 1) * size] for i in range(3)]
    projected = []
    for i, (tensor, weight) in enumerate(zip((query, key, value), weights, strict=True)):
        bias = None if in_proj_bias is None else in_proj_bias[i * size : (i + 1) * size]
        batch_first = tensor.transpose(0, 1)  # torch hands the steps on first, the batch behind them
        steps = shape_of(batch_first)[1]
        linear = functional.linear(batch_first, weight, bias)
        projected.append(linear.reshape(-1, steps, heads, size // heads).permute(0, 2, 1, 3))
    found, shares = _attended(projected[0], projected[1], projected[2], mask, 1 / math.sqrt(size // heads))
    joined = found.permute(0, 2, 1, 3).reshape(-1, shape_of(query)[0], size)
    output = functional.linear(joined, out_proj_weight, out_proj_bias).transpose(0, 1)
    if not need_weights:
        return output, None
    return output, shares.mean(1) if average_attn_weights else shares


def _matmul(input: Tensor, other: Tensor) -> Any:
    """Products with vectors as those with matrices of one column or row."""
    if other.dim() == 1 and input.dim() > 1:
        return torch.matmul(input, other.unsqueeze(1)).squeeze(-1)
    if input.dim() == 1 and other.dim() > 1:
        return torch.matmul(input.unsqueeze(0), other).squeeze(-2)
    return NotImplemented


FORMS: dict[str, Callable[..., Any]] = {
    "einsum": _einsum,
    "matmul": _matmul,
    "mv": _matmul,
    "bilinear": _bilinear,
    "det": _determinant,
    "linalg_det": _determinant,
    "scaled_dot_product_attention": _scaled_dot_product_attention,
    "multi_head_attention_forward": _multi_head_attention,
}
"""Name -> form."""
