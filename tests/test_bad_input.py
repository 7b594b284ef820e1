"""Bad input: one clear sentence from the package's own error classes, from every entry point."""

from __future__ import annotations

import math

import pytest
import torch
from cases import BY_NAME, hosted, mlp, on_host
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

ENTRIES = {
    "jacobian_bounds": rj.jacobian_bounds,
    "local_lipschitz": rj.local_lipschitz,
    "output_bounds": rj.output_bounds,
    "output_bounds_crown": lambda model, x, **options: rj.output_bounds(model, x, **{"method": "CROWN", **options}),
}
entry = pytest.mark.parametrize("call", ENTRIES.values(), ids=ENTRIES)
INF = float("inf")


def ball(x, norm=INF, **options):
    return BoundedTensor(x, PerturbationLpNorm(norm=norm, **options))


def good(dtype=torch.float64):
    _, center, model = hosted("relu", dtype=dtype)
    return model, center


def assert_one_sentence(error, *words):
    text = str(error.value)
    assert "\n" not in text
    assert 20 < len(text) < 600
    assert text.endswith((".", "?"))
    for word in words:
        assert word in text, text


X = torch.ones(2, 5, dtype=torch.float64)
BAD_INPUTS = {
    "plain_tensor": (lambda: X, "BoundedTensor"),
    "not_a_tensor": (lambda: [1.0], "BoundedTensor"),
    "no_perturbation": (lambda: BoundedTensor(X, None), "PerturbationLpNorm"),
    "nan": (lambda: ball(torch.full((2, 5), math.nan, dtype=torch.float64), eps=0.1), "NaN"),
    "infinite": (lambda: ball(torch.full((2, 5), INF, dtype=torch.float64), eps=0.1), "infinite"),
    "eps_nan": (lambda: ball(X, eps=math.nan), "NaN"),
    "eps_negative": (lambda: ball(X, eps=-0.1), "-0.1"),
    "eps_negative_l2": (lambda: ball(X, norm=2.0, eps=-0.1), "-0.1"),
    "eps_negative_in_one_sample": (lambda: ball(X, eps=torch.tensor([[0.1], [-0.2]]).double()), "negative"),
    "eps_negative_in_one_sample_l2": (
        lambda: ball(X, norm=2.0, eps=torch.tensor([[0.1], [-0.2]]).double()),
        "negative",
    ),
    "eps_of_another_batch": (lambda: ball(X, norm=2.0, eps=torch.ones(3, 1).double()), "eps"),
    "eps_of_another_batch_linf": (lambda: ball(X, eps=torch.ones(3, 1).double()), ""),
    "empty_box": (lambda: ball(X, x_L=X + 1, x_U=X), "empty"),
    "empty_box_in_one_coordinate": (lambda: ball(X, x_L=X - torch.eye(5).double()[:2] * -2, x_U=X + 1), "empty"),
    "box_nan": (lambda: ball(X, x_L=X * math.nan, x_U=X), "NaN"),
    "box_infinite": (lambda: ball(X, x_L=X, x_U=X * INF), "infinite"),
    "box_shape": (lambda: ball(X, x_L=torch.zeros(2, 4).double(), x_U=torch.ones(2, 4).double()), "shape"),
    "box_dtype": (lambda: ball(X, x_L=X.float(), x_U=X.float() + 1), "float32"),
    "norm_below_one": (lambda: ball(X, norm=0.5, eps=0.1), "norm"),
    "whole_numbers": (lambda: ball(torch.ones(2, 5, dtype=torch.int64), eps=1), "int64"),
    "half_precision": (lambda: ball(X.half(), eps=0.1), "float16"),
    "bfloat16": (lambda: ball(X.bfloat16(), eps=0.1), "bfloat16"),
    "other_dtype": (lambda: ball(X.float(), eps=0.1), "float32"),
    "other_shape": (lambda: ball(torch.ones(2, 4).double(), eps=0.1), ""),
}


@entry
@pytest.mark.parametrize("name", BAD_INPUTS)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_bad_regions(call, name):
    build, word = BAD_INPUTS[name]
    model, _ = good()
    with pytest.raises(rj.InputError) as error:
        call(model, build())
    assert_one_sentence(error, word)


BAD_MATRICES = {
    "flat": (torch.ones(4, 3).double(), "(2 or 1, k, 3)"),
    "columns": (torch.ones(1, 4, 5).double(), "(1, 4, 5)"),
    "batch": (torch.ones(3, 4, 3).double(), "(3, 4, 3)"),
    "dtype": (torch.ones(1, 4, 3), "float32"),
    "nan": (torch.full((1, 4, 3), math.nan).double(), "NaN"),
    "infinite": (torch.full((1, 4, 3), INF).double(), "infinite"),
    "list": ([[1.0, 0.0, 0.0]], "list"),
    "device": (torch.ones(1, 4, 3, device="meta", dtype=torch.float64), "meta"),
    "no_rows": (torch.ones(1, 0, 3).double(), "C"),
}


@entry
@pytest.mark.parametrize("name", BAD_MATRICES)
def test_bad_specifications(call, name):
    matrix, word = BAD_MATRICES[name]
    model, center = good()
    with pytest.raises(rj.InputError) as error:
        call(model, ball(center, eps=0.1), C=matrix)
    assert_one_sentence(error, "`C`", word)


@entry
def test_other_models(call):
    net, center, _ = hosted("relu")
    for model in (net, None, "model"):
        with pytest.raises(rj.InputError) as error:
            call(model, ball(center, eps=0.1))
        assert_one_sentence(error, "BoundedModule")


@entry
def test_model_on_another_device(call):
    net, center = BY_NAME["relu"].network(), X
    model = on_host(net, center).to("meta")
    with pytest.raises(rj.InputError) as error:
        call(model, ball(center, eps=0.1))
    assert_one_sentence(error, "cpu", "meta")


@entry
@pytest.mark.parametrize("value", [math.nan, INF])
def test_bad_weights(call, value):
    for layer in (0, 2, 4):
        net, x = mlp(nn.ReLU), torch.zeros(2, 5)
        with torch.no_grad():
            net[layer].weight[1, 1] = value
        with pytest.raises(rj.InputError) as error:
            call(on_host(net, x), ball(x, eps=0.1))
        assert_one_sentence(error, "NaN or infinite")


@entry
def test_output_without_elements(call):
    class Nothing(nn.Linear):
        def forward(self, x):
            return super().forward(x)[:, :0]

    net, x = Nothing(5, 2), torch.zeros(2, 5)
    for function, model in ((call, on_host(net, x)), (lambda net, x, **_: rj.sampled_lipschitz(net, x), net)):
        with pytest.raises(rj.InputError) as error:
            function(model, ball(x, eps=0.1))
        assert_one_sentence(error, "(2, 0), no element")


@entry
def test_output_that_does_not_depend_on_the_input(call):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("value", torch.ones(2, 3))

        def forward(self, x):
            return self.value * 2

    x = torch.zeros(2, 5)
    with pytest.raises(rj.RecurJacError) as error:
        call(on_host(Constant(), x), ball(x, eps=0.1))
    assert_one_sentence(error)


@pytest.mark.parametrize("method", ["", "recur", "RecurJack", "autos", 3, "RecurJac,CROWN", "CROWN + RecurJac"])
@entry
def test_unknown_methods(call, method):
    model, center = good()
    with pytest.raises(rj.MethodError) as error:
        call(model, ball(center, eps=0.1), method=method)
    assert_one_sentence(error, *rj.METHODS)


def test_bad_intermediate_bounds():
    model, center = good()
    x = ball(center, eps=0.1)
    names = [node.inputs[0].name for node in model._modules.values() if type(node).__name__ == "BoundRelu"]
    nine, eight = torch.ones(2, 9).double(), torch.ones(2, 8).double()
    for given, word in (
        ({"nowhere": (nine, nine)}, "nowhere"),
        ({names[0]: (eight, eight)}, names[0]),
        ({names[0]: (nine * math.nan, nine)}, "NaN"),
        ({names[0]: (nine, nine), names[1]: (eight, eight * math.nan)}, "NaN"),
    ):
        for call in (rj.jacobian_bounds, rj.local_lipschitz):
            with pytest.raises(rj.InputError) as error:
                call(model, x, intermediate_bounds=given)
            assert_one_sentence(error, word)


def test_two_perturbed_inputs_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x, y):
            return self.a(x).relu() + y

    x = torch.zeros(2, 3)
    model = BoundedModule(Two(), (x, x))
    with pytest.raises(rj.RecurJacError) as error:
        rj.jacobian_bounds(model, ball(x, eps=0.1))
    assert_one_sentence(error)


def test_error_classes():
    """One `except` clause catches all of them, and they are ValueErrors."""
    for name in ("FileError", "HostError", "InputError", "MethodError", "UnsupportedError"):
        assert issubclass(getattr(rj, name), rj.RecurJacError)
    assert issubclass(rj.RecurJacError, ValueError)


@pytest.mark.parametrize("name", ["missing.onnx", "missing.vnnlib"])
def test_missing_files(tmp_path, name):
    load = rj.load_onnx if name.endswith("onnx") else rj.load_vnnlib
    with pytest.raises(rj.FileError) as error:
        load(tmp_path / name)
    assert_one_sentence(error, name)


DECLARED = "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n"
ABOVE, OUTPUT = "(assert (<= X_0 1.0))\n", "(assert (<= Y_0 0.0))\n"
BAD_PROPERTIES = {
    "syntax": (DECLARED + "(assert (<= X_0 1.0)\n", "bad.vnnlib"),
    "missing_bound": (DECLARED + ABOVE + OUTPUT, "X_0"),
    "empty_file": ("", "bad.vnnlib"),
}


@pytest.mark.parametrize(("text", "word"), BAD_PROPERTIES.values(), ids=BAD_PROPERTIES)
def test_bad_properties(tmp_path, text, word):
    file = tmp_path / "bad.vnnlib"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(rj.FileError) as error:
        rj.load_vnnlib(file)
    assert word in str(error.value)


def test_truncated_network(tmp_path):
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"\x08\x07\x12\x07pytorch\x1a")
    with pytest.raises(rj.FileError, match=r"broken\.onnx"):
        rj.load_onnx(file)
