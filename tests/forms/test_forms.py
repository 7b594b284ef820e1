"""Functions written out give what torch's own give, whatever the arguments, and their derivatives do."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import recurjac_plugin as rj
from recurjac_plugin.forms.images.convolutions import OF_LINES
from recurjac_plugin.forms.marks import depends, mark_as_input
from recurjac_plugin.forms.sorting import ascending, rounds
from recurjac_plugin.forms.writing import FORMS, Writing, written_out

GENERATOR = torch.Generator().manual_seed(3)


def drawn(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


W, MASK = drawn(5, 4), torch.tensor([True, False, True, False])
LSTM, GRU, RNN = (
    kind(4, 3, num_layers=2, batch_first=True, bidirectional=True, bias=bias).double().eval()
    for kind, bias in ((nn.LSTM, True), (nn.GRU, False), (nn.RNN, True))
)
RELU_RNN = nn.RNN(4, 3, nonlinearity="relu").double().eval()
CELLS = [kind(4, 3).double() for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)]
RELU_CELL = nn.RNNCell(4, 3, nonlinearity="relu").double()
LOWER = torch.ones(3, 3, dtype=torch.bool).tril()
ATTENTION = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()
SEPARATE = nn.MultiheadAttention(4, 2, kdim=4, vdim=4, bias=False).double().eval()
SEPARATE_KEYS = nn.MultiheadAttention(4, 2, kdim=3, vdim=3).double().eval()
V, IMAGE, LINE, CUBE, TEXT = (2, 4), (2, 4, 5, 6), (2, 3, 7), (2, 2, 4, 5, 4), (2, 3, 4)


def in_place(change):
    """A copy of the argument, changed in place."""

    def use(x):
        y = x.clone()
        change(x, y)
        return y * 1

    return use


def assigned(x, y):
    y[:, 0] = x[:, 1] * 2
    y[..., 1:3] = x[:, :1]
    y[:, 3:] = 0.5


def added(x, y):
    y[:, 0] += x[:, 1]
    y[:, 1:] *= 2


def preallocated(x):
    y = torch.ones(x.shape[0], 3, dtype=x.dtype)
    y[:, [0, 2]] = x[:, :2]
    y[:, 1] += 1
    return y * 1


def orthogonal(size, map):
    layer = nn.Linear(4, size, bias=False).double()
    return nn.utils.parametrizations.orthogonal(layer, orthogonal_map=map)


MATRIX = (2, 3, 3)


def channels_shuffled(x, groups):
    """Torch's own has no derivative."""
    if torch.overrides._get_current_function_mode_stack():
        return torch.channel_shuffle(x, groups)
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


USES = {
    "rsqrt": [(V, lambda x: torch.rsqrt(x**2 + 1))],
    "div": [(V, lambda x: x / torch.sqrt(x**2 + 1)), (V, lambda x: x.div(torch.sqrt(x.abs() + 1)))],
    "true_divide": [(V, lambda x: torch.true_divide(x, torch.sqrt(x**2 + 1)))],
    "divide": [(V, lambda x: torch.divide(x, torch.sqrt(x**2 + 1)))],
    "pow": [(V, lambda x: x * torch.tensor(4) ** -0.5), (V, lambda x: x**2)],
    "reciprocal": [(V, lambda x: torch.sqrt(x**2 + 1).reciprocal())],
    "__rdiv__": [(V, lambda x: 3.0 / torch.sqrt(x**2 + 1))],
    "clamp": [(V, lambda x: x.clamp(min=0.2)), (V, lambda x: torch.clamp(x, max=0.2)), (V, lambda x: x.clamp(-1, 1))],
    "clip": [(V, lambda x: torch.clip(x, min=-0.2)), (V, lambda x: torch.clip(x, W[0] - 0.5, W[0] + 0.1))],
    "clamp_min": [(V, lambda x: x.clamp_min(0.2))],
    "clamp_max": [(V, lambda x: x.clamp_max(0.2))],
    "softshrink": [(V, lambda x: functional.softshrink(x, 0.3))],
    "threshold": [(V, lambda x: torch.threshold(x, 0.1, 0.1))],
    "_threshold": [(V, lambda x: functional.threshold(x, 0.1, 0.1)), (V, nn.Threshold(0.1, 0.4))],
    "prelu": [(IMAGE, lambda x: functional.prelu(x, W[0])), (V, lambda x: functional.prelu(x, W[0]))],
    **{
        name: [(V, lambda x: functional.dropout(x, 0.5, False)), (IMAGE, nn.Dropout2d().eval())]
        for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout")
    },
    "expm1": [(V, torch.expm1)],
    "sinh": [(V, torch.sinh)],
    "cosh": [(V, lambda x: x.cosh())],
    "log1p": [(V, lambda x: torch.log1p(x.abs()))],
    "erfc": [(V, torch.erfc)],
    "logit": [(V, lambda x: torch.logit(x.sigmoid()))],
    "hypot": [(V, lambda x: torch.hypot(x, x + 1))],
    "atan2": [
        (V, lambda x: torch.atan2(x, x.abs() + 1)),
        (V, lambda x: torch.atan2(x, x + 0.5)),
        (V, lambda x: torch.atan2(x, -x.abs() - 0.1)),
    ],
    "arctan2": [(V, lambda x: torch.arctan2(x, x.abs() + 1))],
    "masked_fill": [(V, lambda x: x.masked_fill(MASK, 0.7))],
    "where": [
        (V, lambda x: torch.where(MASK, x, 2 * x)),
        (V, lambda x: torch.where(x > 0, x, 0.1 * x)),
        (V, lambda x: torch.where(x <= 0, x * 0.3, 2 * x)),
        (V, lambda x: torch.where(x < 0, 0.0, x)),
        (V, lambda x: torch.where(x > 0, x, torch.exp(x) - 1)),
        (V, lambda x: torch.where(x > 0, 2.5 * x, 1.5 * torch.expm1(x))),
        (V, lambda x: torch.where(x > 0, 2 * x, torch.exp(x + 1) - 1)),
    ],
    "mul": [(V, lambda x: x * (x > 0).to(x.dtype)), (V, lambda x: (x < 0).double() * x), (V, lambda x: x * 2)],
    "chunk": [(V, lambda x: torch.cat(x.chunk(3, 1)[::-1], 1))],
    "unsafe_chunk": [(V, lambda x: x.unsafe_chunk(2, 1)[1])],
    "tensor_split": [(V, lambda x: x.tensor_split(3, 1)[0]), (V, lambda x: torch.tensor_split(x, (1, 3), dim=1)[1])],
    "unbind": [(V, lambda x: torch.stack(x.unbind(1)[::-1], 1))],
    "glu": [(V, lambda x: functional.glu(x, 1))],
    "unflatten": [(IMAGE, lambda x: x.unflatten(1, (2, 2))), (V, lambda x: x.unflatten(1, (-1, 2)))],
    "squeeze": [(V, lambda x: x.sum(1, True).squeeze(1)), (TEXT, lambda x: x[:, :1].squeeze(-2).squeeze(1))],
    "unfold": [(IMAGE, lambda x: functional.unfold(x, (2, 3), (1, 2), 1, (2, 1))), (V, lambda x: x.unfold(1, 2, 1))],
    "repeat": [(V, lambda x: x.repeat(1, 3)), (TEXT, lambda x: x.repeat(1, 2, 2))],
    "tile": [(V, lambda x: torch.tile(x, (2,))), (V, lambda x: x.tile(1, 2))],
    "repeat_interleave": [(TEXT, lambda x: x.repeat_interleave(2, dim=1))],
    "__getitem__": [
        (V, lambda x: x[:, MASK]),
        (V, lambda x: x[:, 1:3]),
        (V, lambda x: x[:, 0]),
        (TEXT, lambda x: x[:, -1, ::2]),
        (TEXT, lambda x: x[..., -2]),
    ],
    "__setitem__": [
        (V, in_place(assigned)),
        (V, in_place(added)),
        (V, preallocated),
        (TEXT, in_place(lambda x, y: y.__setitem__((slice(None), slice(1, 3), 0), x[:, :2, 1]))),
        (V, in_place(lambda x, y: y.__setitem__((slice(None), MASK), W[:2, 0]))),
    ],
    "expand": [(V, lambda x: x + W[:1].expand(2, -1)), (TEXT, lambda x: x[:, :1].expand(2, 5, -1))],
    "mT": [(TEXT, lambda x: x.mT)],
    "mH": [(TEXT, lambda x: x.mH)],
    "diagonal": [(MATRIX, lambda x: x.diagonal(0, 1, 2)), (MATRIX, lambda x: torch.diagonal(x, 1, -1, -2))],
    "det": [(MATRIX, lambda x: x.det()), ((3, 2, 2), torch.det)],
    "linalg_det": [(MATRIX, torch.linalg.det)],
    "pixel_shuffle": [(IMAGE, lambda x: functional.pixel_shuffle(x, 2))],
    "pixel_unshuffle": [((2, 3, 4, 6), lambda x: functional.pixel_unshuffle(x, 2))],
    "channel_shuffle": [(IMAGE, lambda x: channels_shuffled(x, 2))],
    "norm": [
        *((V, lambda x, p=p: torch.norm(x, p, dim=1, keepdim=True)) for p in (1, 2, 3.5, math.inf, -math.inf)),
        (V, lambda x: x.norm(dim=1)),
    ],
    "linalg_norm": [(V, lambda x: torch.linalg.norm(x, dim=1)), (V, lambda x: torch.linalg.norm(x, dim=(0, 1)))],
    "linalg_vector_norm": [(TEXT, lambda x: torch.linalg.vector_norm(x, 1, (1, 2)))],
    "normalize": [
        (V, lambda x: functional.normalize(x, dim=1)),
        (V, lambda x: functional.normalize(1e-13 * x, dim=1)),
    ],
    "var": [(V, lambda x: x.var(1, keepdim=True)), (V, lambda x: torch.var(x, 1, unbiased=False))],
    "std": [(V, lambda x: x.std(1)), (TEXT, lambda x: torch.std(x, (1, 2), correction=0, keepdim=True))],
    "var_mean": [(V, lambda x: torch.cat(torch.var_mean(x, 1, keepdim=True), 1))],
    "std_mean": [(V, lambda x: torch.cat(torch.std_mean(x, 1, keepdim=True), 1))],
    "log_softmax": [(V, lambda x: functional.log_softmax(x, 1))],
    "logaddexp": [(V, lambda x: torch.logaddexp(x, 1 - x))],
    "sum": [(V, lambda x: torch.stack([x, x**2]).sum(0)), (V, lambda x: x.sum(1))],
    "mean": [(V, lambda x: torch.stack([x, x**2], 0).mean(0)), (V, lambda x: x.mean(1, True))],
    "amax": [(V, lambda x: torch.stack([x, x**2], dim=0).amax(0)), (V, lambda x: x.amax(1))],
    "amin": [(V, lambda x: torch.stack([x, x**2], 0).amin(0)), (V, lambda x: torch.stack([x, x**2], 1).amin(1))],
    "cumsum": [(V, lambda x: x.cumsum(1)), (TEXT, lambda x: torch.cumsum(x, dim=1))],
    "prod": [(TEXT, lambda x: x.prod(1)), (V, lambda x: torch.prod(x, 1, keepdim=True))],
    "group_norm": [(IMAGE, lambda x: functional.group_norm(x, 2, W[0], W[1]))],
    "instance_norm": [(IMAGE, lambda x: functional.instance_norm(x, weight=W[0], bias=W[1]))],
    "layer_norm": [(V, lambda x: functional.layer_norm(x, (4,), W[0], W[1])), (TEXT, nn.LayerNorm((3, 4)).double())],
    "rms_norm": [(V, lambda x: functional.rms_norm(x, (4,), W[0])), (TEXT, lambda x: functional.rms_norm(x, (3, 4)))],
    "local_response_norm": [
        (IMAGE, lambda x: functional.local_response_norm(x, 3, 0.5)),
        (IMAGE, nn.LocalResponseNorm(2)),
    ],
    "_weight_norm": [(V, lambda x: x @ torch._weight_norm(W.T, W.T.norm(dim=1, keepdim=True) + 1, 0))],
    "sort": [
        (V, lambda x: torch.sort(x, 1)[0]),
        (TEXT, lambda x: x.sort(dim=1, descending=True).values),
        (V, lambda x: x.gather(1, torch.sort(x, 1)[1])),
    ],
    "topk": [((2, 7), lambda x: x.topk(3, 1)[0]), (V, lambda x: torch.topk(x, 2, 1, largest=False).values)],
    "kthvalue": [((2, 6), lambda x: x.kthvalue(4, 1)[0])],
    "median": [((2, 5), lambda x: x.median(1, keepdim=True)[0]), ((2, 6), lambda x: x.median(1).values)],
    "pad": [
        *(
            (IMAGE, lambda x, mode=mode: functional.pad(x, (1, 2, 0, 3), mode))
            for mode in ("reflect", "replicate", "circular")
        ),
        (V, lambda x: functional.pad(x, (1, 2), value=0.5)),
    ],
    "interpolate": [
        *(
            (IMAGE, lambda x, m=m: functional.interpolate(x, (7, 9), mode=m))
            for m in ("nearest", "bilinear", "bicubic", "area")
        ),
        (IMAGE, lambda x: functional.interpolate(x, scale_factor=1.7, mode="bilinear", align_corners=True)),
        (LINE, lambda x: functional.interpolate(x, scale_factor=2, mode="linear")),
        (CUBE, lambda x: functional.interpolate(x, scale_factor=2, mode="trilinear")),
    ],
    **{
        f"conv{n}d": [
            (shape, lambda x, n=n, w=w: getattr(functional, f"conv{n}d")(x, w, padding="same")),
            (shape, lambda x, n=n, w=w: getattr(functional, f"conv{n}d")(x, w, padding="valid", dilation=2)),
            (shape, lambda x, n=n, w=w: getattr(functional, f"conv{n}d")(x, w, stride=2, padding=1)),
        ]
        for n, shape, w in ((1, LINE, drawn(2, 3, 2)), (2, IMAGE, drawn(3, 4, 3, 1)), (3, CUBE, drawn(2, 2, 1, 2, 2)))
    },
    **{
        f"conv_transpose{n}d": [
            (
                shape,
                lambda x, n=n, w=w: getattr(functional, f"conv_transpose{n}d")(x, w, W[0, :2], stride=2, padding=1),
            ),
            (shape, lambda x, n=n, w=w: getattr(functional, f"conv_transpose{n}d")(x, w, None, 3, 0, 1, 1, 2)),
            (shape, lambda x, n=n, w=w, g=shape[1]: getattr(functional, f"conv_transpose{n}d")(x, w, None, 2, 2, 1, g)),
        ]
        for n, shape, w in ((1, LINE, drawn(3, 2, 2)), (2, IMAGE, drawn(4, 2, 3, 1)), (3, CUBE, drawn(2, 2, 1, 2, 2)))
    },
    **{
        f"adaptive_avg_pool{n}d": [
            (shape, lambda x, n=n: getattr(functional, f"adaptive_avg_pool{n}d")(x, 3)),
            (shape, lambda x, n=n: getattr(functional, f"adaptive_avg_pool{n}d")(x, 1)),
        ]
        for n, shape in ((1, LINE), (2, IMAGE), (3, CUBE))
    },
    **{
        f"avg_pool{n}d": [
            (shape, lambda x, n=n, o=o: getattr(functional, f"avg_pool{n}d")(x, 2, **o))
            for o in ({}, {"stride": 1, "padding": 1, "count_include_pad": False}, {"ceil_mode": True})
        ]
        for n, shape in ((1, LINE), (2, IMAGE), (3, CUBE))
    },
    **{
        f"lp_pool{n}d": [
            (shape, lambda x, n=n, p=p: getattr(functional, f"lp_pool{n}d")(x.abs() + 0.1, p, 2)) for p in (1, 2)
        ]
        for n, shape in ((1, LINE), (2, IMAGE), (3, CUBE))
    },
    **{
        f"{prefix}max_pool{n}d": [
            (shape, lambda x, n=n, o=o: getattr(functional, f"max_pool{n}d")(x, 2, **o))
            for o in ({}, {"stride": 1, "padding": 1}, {"ceil_mode": True}, {"dilation": 2, "stride": 1})
        ]
        for n, shape in ((1, LINE), (2, IMAGE), (3, CUBE))
        for prefix in ("", "_")
    },
    **{
        f"adaptive_max_pool{n}d": [(shape, lambda x, n=n: getattr(functional, f"adaptive_max_pool{n}d")(x, 3))]
        for n, shape in ((1, LINE), (2, IMAGE), (3, CUBE))
    },
    "einsum": [
        (V, lambda x: torch.einsum("bi,ji->bj", x, W)),
        (TEXT, lambda x: torch.einsum("ij,bjk->bik", drawn(2, 3) * 0 + 1.5, x)),
        (TEXT, lambda x: torch.einsum("bij,bkj->bik", x, x)),
        (V, lambda x: torch.einsum("bi,bi->b", x, x)),
        (V, lambda x: torch.einsum("bi,bj->bij", x, x)),
        (V, lambda x: torch.einsum("bi,ij,bj->b", x, W[:4], x)),
        (TEXT, lambda x: torch.einsum("bij->bj", x)),
        (TEXT, lambda x: torch.einsum("bij->bji", x)),
        (MATRIX, lambda x: torch.einsum("bii->b", x)),
        (MATRIX, lambda x: torch.einsum("bii,bij->bj", x, x)),
    ],
    "matmul": [(V, lambda x: x @ W[0]), (TEXT, lambda x: torch.matmul(W[0, :3], x)), (V, lambda x: x @ W.T)],
    "mv": [((2, 4), lambda x: torch.mv(x, W[0]))],
    "bilinear": [(V, lambda x: functional.bilinear(x, x + 1, drawn(3, 4, 4) * 0 + 0.3, W[:3, 0]))],
    "scaled_dot_product_attention": [
        (TEXT, lambda x: functional.scaled_dot_product_attention(x, x + 1, x)),
        (TEXT, lambda x: functional.scaled_dot_product_attention(x, x, x, W[:3, :3], scale=0.3)),
        (TEXT, lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True)),
        (TEXT, lambda x: functional.scaled_dot_product_attention(x, x[:, :2], x[:, :2], W[:3, :2] > W.median())),
    ],
    "softmax": [
        (TEXT, lambda x: torch.softmax((x @ x.mT).masked_fill(~LOWER, -math.inf), -1) @ x),
        (TEXT, lambda x: functional.softmax(x @ x.mT + torch.zeros(3, 3).masked_fill(~LOWER, -math.inf), dim=2)),
        (TEXT, lambda x: (x.exp() + W[:3].masked_fill(W[:3] < 0, -math.inf)).softmax(-1)),
        (TEXT, lambda x: (x + x.mean()).softmax(1)),
    ],
    "multi_head_attention_forward": [
        (TEXT, lambda x: ATTENTION(x, x, x, need_weights=False)[0]),
        (TEXT, lambda x: torch.cat([each.flatten(1) for each in ATTENTION(x, x + 1, x)], 1)),
        (TEXT, lambda x: SEPARATE(x, x, x, average_attn_weights=False)[0]),
        (TEXT, lambda x: SEPARATE_KEYS(x, x[..., :3], x[..., :3])[0]),
        (TEXT, lambda x: ATTENTION(x, x, x, attn_mask=~LOWER, need_weights=False)[0]),
    ],
    "rnn_tanh_cell": [(V, lambda x: CELLS[2](x))],
    "rnn_relu_cell": [(V, lambda x: RELU_CELL(x))],
    "gru_cell": [(V, lambda x: CELLS[1](x, x[:, :3]))],
    "lstm_cell": [(V, lambda x: torch.cat(CELLS[0](x), 1))],
    "rnn_tanh": [(TEXT, lambda x: RNN(x)[0])],
    "rnn_relu": [(TEXT, lambda x: RELU_RNN(x)[0])],
    "gru": [(TEXT, lambda x: GRU(x)[0])],
    "lstm": [(TEXT, lambda x: LSTM(x)[0]), (TEXT, lambda x: LSTM(x)[1][1])],
    "to": [
        (V, lambda x: (x > 0.1).to(x.dtype) * x),
        (V, lambda x: ((x >= 0.1) & (x < 1) | ~(x <= 0)).to(x) * x),
        (V, lambda x: ((x > 0.1) ^ MASK).to(dtype=x.dtype) * x),
        (V, lambda x: x.to(torch.float64)),
    ],
    "type": [(V, lambda x: (x != 0.1).type(x.dtype) * x)],
    "type_as": [(V, lambda x: (x.round() == 1).type_as(x) * x)],
    "float": [(V, lambda x: (x < 0.1).float() * x)],
    "double": [(V, lambda x: torch.logical_not(x.le(0.1)).double() * x)],
    "heaviside": [(V, lambda x: x * torch.heaviside(x.data.round(), torch.tensor(0.5).double()))],
    "hardshrink": [(V, lambda x: functional.hardshrink(x, 0.3))],
    "trunc": [(V, lambda x: x * torch.trunc(2 * x))],
    "fix": [(V, lambda x: x * (2 * x).fix())],
    "frac": [(V, lambda x: torch.frac(2 * x))],
    "fmod": [(V, lambda x: torch.fmod(x, 0.3))],
    "argmax": [(V, lambda x: x * x.argmax(1, keepdim=True)), (TEXT, lambda x: x[:, 0] * x.argmax(1))],
    "argmin": [(V, lambda x: x * torch.argmin(x, dim=-1, keepdim=True))],
}
"""Name of a form -> uses of its function: shape of the argument, function."""

EVERY = [(name, i, *use) for name, uses in USES.items() for i, use in enumerate(uses)]


def test_every_form_is_tried():
    assert USES.keys() == FORMS.keys()


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize(("name", "index", "shape", "use"), EVERY, ids=[f"{name}-{i}" for name, i, *_ in EVERY])
def test_written_out_it_is_the_same_function(name, index, shape, use):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    mark_as_input(again)
    own = use(x)
    with Writing():
        written = use(again)
    assert torch.allclose(written, own, rtol=1e-9, atol=1e-12)
    weights = torch.rand(own.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    (first,), (second,) = (torch.autograd.grad((weights * y).sum(), z) for y, z in ((own, x), (written, again)))
    assert torch.allclose(second, first, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("count", range(1, 18))
def test_networks_sort(count):
    """All sequences of zeros and ones, or many of them, which decides for all numbers (Knuth, 5.3.4, theorem Z)."""
    every = torch.tensor([[n >> i & 1 for i in range(count)] for n in range(min(2**count, 1 << 12))])
    values = torch.cat([every.double(), drawn(50, count)])
    assert torch.equal(ascending(values, 1), values.sort(1)[0])
    for pairs in rounds(count):
        places = [place for pair in pairs for place in pair]
        assert len(places) == len({*places})


def test_constants_are_no_part_of_the_trace():
    """Nor does a form warn where torch's own function does not."""
    module = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.AdaptiveAvgPool2d(3)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with written_out(module):
            graph, _ = torch.jit._get_trace_graph(module, torch.rand(1, 2, 4, 4))
    assert {node.kind() for node in graph.nodes()} <= {"aten::matmul", "prim::Constant"}


def test_other_batches_are_taken():
    rj.register()
    try:
        module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.PixelShuffle(2), nn.LocalResponseNorm(1))
        model = rj.host.BoundedModule(module.eval(), torch.rand(1, 4, 3, 3))
        x = torch.rand(3, 4, 3, 3)
        assert torch.allclose(model(x), module(x), rtol=1e-4, atol=1e-5)
    finally:
        rj.unregister()


class Whole(nn.Module):
    """A count, which is a whole number and no value of a mask."""

    def forward(self, x):
        return x + (x > 0).sum(1, keepdim=True)


class Several(nn.Module):
    """A network with other outputs than one tensor."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(3, 2), kind

    def forward(self, x):
        y = self.layer(x)
        return {"tuple": (y, x), "list": [y], "dict": {"y": y, "x": x}}[self.kind]


@pytest.fixture
def registered():
    rj.register()
    yield
    rj.unregister()


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Several("tuple"), r"its output is a tuple with 0, 1\. Bounds are of one tensor: wrap the module"),
        (Several("list"), r"its output is a list with 0\."),
        (Several("dict"), r"its output is a dictionary with 'y', 'x'\."),
        (nn.Sequential(nn.Linear(3, 2), Whole()), r"no node for the operator `onnx::Greater`"),
    ],
    ids=["tuple", "list", "dict", "operator"],
)
def test_what_cannot_be_built_is_said_in_one_sentence(registered, module, said, capsys):
    with pytest.raises(rj.UnsupportedError, match=said):
        rj.host.BoundedModule(module.eval(), torch.rand(2, 3))


class Detached(nn.Module):
    """A branch that autograd does not see."""

    def __init__(self, constant):
        super().__init__()
        self.layer, self.constant = nn.Linear(3, 3), constant

    def forward(self, x):
        return self.layer(x) * (self.layer.weight[0] if self.constant else x).detach()


def test_detached_values_are_refused(registered):
    with pytest.raises(rj.UnsupportedError, match="it detaches a value that depends on its input"):
        rj.host.BoundedModule(Detached(False), torch.rand(2, 3))
    rj.host.BoundedModule(Detached(True), torch.rand(2, 3))


@pytest.mark.parametrize(("size", "map"), [(4, "matrix_exp"), (4, "cayley"), (6, "householder"), (3, "householder")])
def test_orthogonal_layers_become_numbers(size, map):
    layer, x = orthogonal(size, map), drawn(2, 4)
    with written_out(layer):
        graph, output = torch.jit._get_trace_graph(layer, x)
    assert {node.kind() for node in graph.nodes()} <= {"prim::Constant", "aten::linear"}
    assert torch.allclose(output, layer(x))


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("use", [lambda x, w: functional.conv1d(x, w, W[0, :2], 2, 1, 2),
                                 lambda x, w: functional.conv1d(x, w[:, :1], None, padding="same", groups=3)
                                 if len(w) % 3 == 0 else functional.conv1d(x, w, None, padding="same")])  # fmt: skip
def test_lines_are_images_where_a_host_knows_no_lines(use):
    x, w = drawn(*LINE), drawn(2, 3, 2)
    again = x.clone()
    mark_as_input(again)
    with Writing(OF_LINES):
        written = use(again, w)
    assert torch.allclose(written, use(x, w))


def _changed_mask(x):
    y = x.clone()
    mask = y > 0
    y += 1
    return y * mask


def _changed_root(x):
    root = torch.sqrt(x.abs() + 1)
    root.mul_(2)
    return x / root


def _filled(x):
    y = torch.zeros_like(x)
    y[:, :2].copy_(x[:, :2])
    return torch.where(x > 0, y, 2 * x)


@pytest.mark.parametrize("function", [_changed_mask, _changed_root, _filled])
def test_what_was_changed_in_place_is_not_what_it_was(function):
    x = drawn(50, 4)
    again = x.clone()
    mark_as_input(again)
    with Writing():
        written = function(again)
    assert torch.allclose(written, function(x))


def test_a_value_that_was_written_into_depends_on_what_was_written():
    x = torch.zeros(2, 4)
    mark_as_input(x)
    with Writing():
        y = torch.zeros(2, 4)
        assert not depends(y)
        y[:, 1:2].copy_(x[:, 1:2])
        z = torch.zeros(2, 4)
        z[:, 0] = x[:, 0]
    assert depends(y) and depends(z)
