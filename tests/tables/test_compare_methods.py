"""`compare` in Python: its numbers are those of the single functions, and nothing sampled contradicts them."""

from __future__ import annotations

import csv
import sys

import pytest
import torch
from cases import hosted
from places import DATA
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.tables import comparison, on_property
from recurjac_plugin.tables.measured import together

METHODS = ["RecurJac", "RecurJac-Linear", "Fast-Lip", "CROWN", "IBP"]


def region(center, eps=0.05, norm=float("inf")):
    return BoundedTensor(center, PerturbationLpNorm(norm=norm, eps=eps))


def small(kind="tanh", dtype=torch.float64):
    _, center, model = hosted(kind, dtype=dtype)
    return model, center


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [2.0, float("inf")])
@pytest.mark.parametrize("kind", ["relu", "tanh"])
@torch.no_grad()
def test_numbers_are_those_of_the_functions(kind, norm, dtype):
    model, center = small(kind, dtype)
    x, C = region(center, norm=norm), torch.randn(1, 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    C = C if rj.jacobian_bounds(model, x).lower.shape[1] == 3 else None
    table = rj.compare(model, x, methods=METHODS, C=C, norm=1.0)
    assert [(row["method"], row["input"]) for row in table] == [(n, i) for n in [*METHODS, "sampled"] for i in (0, 1)]
    rows = {row["method"]: row for row in together(table.rows)}
    for name in METHODS[:3]:
        bounds = rj.jacobian_bounds(model, x, method=name, C=C)
        assert rows[name]["jacobian_width"] == pytest.approx(float(bounds.width.mean()), rel=1e-5)
        assert rows[name]["known_signs"] == int(((bounds.lower >= 0) | (bounds.upper <= 0)).sum())
        constant = rj.local_lipschitz(model, x, method=name, C=C, norm=1.0).max()
        assert rows[name]["lipschitz"] == pytest.approx(float(constant), rel=1e-5)
    for name in METHODS:
        lower, upper = rj.output_bounds(model, x, method=name, C=C)
        assert rows[name]["output_width"] == pytest.approx(float((upper - lower).mean()), rel=1e-5)
        assert rows[name]["seconds"] > 0
    assert rows["CROWN"]["jacobian_width"] is rows["CROWN"]["lipschitz"] is rows["CROWN"]["known_signs"] is None


@pytest.mark.parametrize("norm", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_what_points_show_limits_every_method(kind, norm):
    model, center = small(kind)
    table = rj.compare(model, region(center, 0.2, norm), methods=METHODS, samples=200)
    met = {row["input"]: row for row in table if row["method"] == "sampled"}
    assert len(met) == len(center) > 1
    assert any(sampled["jacobian_width"] > 0 for sampled in met.values())
    for row in table:
        sampled = met[row["input"]]
        assert sampled["output_width"] > 0
        assert row["output_width"] >= sampled["output_width"] * (1 - 1e-12)
        if row["lipschitz"] is not None:
            assert row["jacobian_width"] >= sampled["jacobian_width"] * (1 - 1e-12)
            assert row["lipschitz"] >= sampled["lipschitz"] * (1 - 1e-12)
            assert row["known_signs"] <= sampled["known_signs"]


@pytest.mark.parametrize("norm", [1.0, 2.0, float("inf")])
@torch.no_grad()
def test_every_input_of_a_batch_has_the_rows_that_it_has_alone(norm):
    """Its own radius and its own rows C, too."""
    model, center = small()
    C = torch.randn(len(center), 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps = torch.linspace(0.05, 0.1, len(center), dtype=torch.float64)
    options = {"methods": ["auto", "RecurJac", "IBP"], "samples": 8}
    of_shape = eps.reshape(-1, *[1] * (center.dim() - 1)) if norm == float("inf") else eps
    table = rj.compare(model, region(center, of_shape, norm), C=C, **options)
    for i in range(len(center)):
        alone = rj.compare(model, region(center[i : i + 1], float(eps[i]), norm), C=C[i : i + 1], **options)
        same = [row for row in table if row["input"] == i]
        assert len(same) == len(alone) == 4
        for row, expected in zip(same, alone, strict=True):
            for name in set(row) - {"input", "seconds"}:
                value = expected[name]
                assert row[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_climb_to_the_ends_of_ranges(dtype):
    """Of ``tanh(a x)`` both ranges are known: four random points are far from their ends, and the ascents there."""
    net = nn.Sequential(nn.Linear(3, 2, bias=False, dtype=dtype), nn.Tanh())
    net[0].weight.data = torch.tensor([[1.0, -1.0, 0.5], [0.3, 0.2, 0.9]], dtype=dtype)
    W, radius = net[0].weight.detach(), 0.5
    reach = radius * W.abs().sum(1)
    exact = {
        "jacobian_width": float((W.abs() * torch.tanh(reach).square().unsqueeze(1)).mean()),
        "output_width": float((2 * torch.tanh(reach)).mean()),
    }
    sampled = rj.compare(net, region(torch.zeros(1, 3, dtype=dtype), radius), methods=["RecurJac"], samples=4).rows[-1]
    for name, width in exact.items():
        assert 0.95 * width <= sampled[name] <= width * (1 + 1e-5), name


def test_points_look_for_the_sign_that_is_missing():
    """Of ``x^3 / 3 - x / 100``, whose derivative is negative below 0.1 alone, on the cube from 0 to 1."""

    class Cubic(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)
            self.layer.weight.data = torch.eye(4)

        def forward(self, x):
            y = self.layer(x)
            return y * y * y / 3 - y / 100

    center = torch.full((1, 4), 0.5)
    sampled = rj.compare(Cubic(), region(center, 0.5), methods=["RecurJac"], samples=3).rows[-1]
    assert sampled["known_signs"] == 12  # the entries off the diagonal, which are 0


def test_at_a_point_both_sides_meet():
    model, center = small()
    exact, sampled = rj.compare(model, region(center[:1], 0.0), methods=["RecurJac"])
    assert exact["lipschitz"] == pytest.approx(sampled["lipschitz"], rel=1e-9)
    assert exact["jacobian_width"] == pytest.approx(0.0, abs=1e-12)
    assert sampled["jacobian_width"] == pytest.approx(0.0, abs=1e-12)
    assert exact["known_signs"] == sampled["known_signs"]


def test_auto_is_named_and_a_plain_module_will_do():
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x = region(torch.zeros(1, 4), 0.01)
    table = rj.compare(net, x, methods=["auto", "RecurJac", "IBP"])
    (chosen,) = rj.chosen_methods(BoundedModule(net, torch.zeros(1, 4)), x)
    assert [row["method"] for row in table] == [chosen, "RecurJac", "IBP", "sampled"]
    assert [row["auto"] for row in table] == [True, False, False, False]
    assert f"auto is {chosen} here" in table.title


def test_default_methods_are_all():
    model, center = small("relu")
    table = rj.compare(model, region(center[:1]))
    assert [row["method"] for row in table] == [*comparison.DEFAULT_METHODS, "sampled"]


def test_what_cannot_be_used_is_told_in_a_column(monkeypatch):
    honest = comparison.outputs_of

    def refuse(subject, parts, name):
        if name == "IBP":
            raise rj.UnsupportedError("The network", ["a part"], "Nothing to be done.")
        return honest(subject, parts, name)

    monkeypatch.setattr(comparison, "outputs_of", refuse)
    model, center = small()
    table = rj.compare(model, region(center), methods=["IBP", "RecurJac"])
    assert [row["unsupported"] is None for row in table] == [False] * 2 + [True] * 4
    assert "a part" in table.rows[0]["unsupported"]
    assert table.plot().axes


def test_a_constant_below_what_points_show_is_refused(monkeypatch):
    honest = comparison.jacobian_of

    def wrong(*arguments):
        found = honest(*arguments)
        return found._replace(constant=found.constant / 20)

    monkeypatch.setattr(comparison, "jacobian_of", wrong)
    model, center = small()
    with pytest.raises(rj.ContradictionError, match="points of the region show"):
        rj.compare(model, region(center), methods=["RecurJac"])


def test_on_a_property_it_is_the_command(tmp_path):
    network, spec = rj.load_onnx(DATA / "digits_relu.onnx"), rj.load_vnnlib(DATA / "digits_relu_small.vnnlib")
    table = rj.compare(network, spec=spec, methods=["RecurJac-Linear", "IBP"], timeout=1)
    assert [row["verdict"] for row in table] == ["unsat", "timeout", None]
    assert table.rows[0]["lipschitz"] >= table.rows[2]["lipschitz"] > 0
    table.plot(tmp_path / "p.pdf")
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")
    double = rj.load_vnnlib(DATA / "digits_cnn_small.vnnlib")
    with pytest.raises(rj.InputError, match="from `load_onnx`"):
        rj.compare(nn.Linear(64, 10), spec=double)


def test_on_a_property_a_contradiction_is_refused(monkeypatch):
    honest = on_property.jacobian_of

    def wrong(*arguments):
        found = honest(*arguments)
        return found._replace(constant=found.constant / 100)

    monkeypatch.setattr(on_property, "jacobian_of", wrong)
    network, spec = rj.load_onnx(DATA / "digits_relu.onnx"), rj.load_vnnlib(DATA / "digits_relu_small.vnnlib")
    with pytest.raises(rj.ContradictionError, match="points of the boxes show"):
        rj.compare(network, spec=spec, methods=["Fast-Lip"], timeout=1)


def test_the_table_is_shown_written_and_given_to_pandas(tmp_path):
    model, center = small()
    table = rj.compare(model, region(center[:1]), methods=["RecurJac", "CROWN"])
    assert len(table) == 3
    frame = table.frame
    assert list(frame.columns) == list(table.columns)
    assert frame["method"].tolist() == ["RecurJac", "CROWN", "sampled"]
    assert frame["lipschitz"].tolist()[0] == table.rows[0]["lipschitz"]
    table.to_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert float(written[0]["lipschitz"]) == table.rows[0]["lipschitz"]
    assert written[1]["lipschitz"] == ""
    lines = repr(table).splitlines()
    assert lines[0] == table.title
    assert lines[1].split()[:3] == ["method", "input", "jacobian_width"]
    assert "unsupported" not in repr(table)
    html = table._repr_html_()
    assert html.count("<tr>") == 4
    assert "sampled" in html
    assert table.plot(title="mine").get_suptitle() == "mine"


def test_without_pandas_there_is_a_sentence(monkeypatch):
    model, center = small()
    table = rj.compare(model, region(center), methods=["IBP"])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(rj.ExtraError, match=r"pip install 'recurjac-plugin\[plots\]'"):
        table.frame  # noqa: B018


BAD = {
    "one_name": ({"methods": "RecurJac"}, "must be a list of names"),
    "no_name": ({"methods": []}, "at least one method"),
    "unknown": ({"methods": ["nothing"]}, "Unknown method"),
    "no_samples": ({"samples": 0}, "`samples`"),
    "both": ({"spec": object()}, "only one of them"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_bad_arguments(options, words):
    model, center = small()
    with pytest.raises(rj.RecurJacError, match=words):
        rj.compare(model, region(center), **options)


def test_bad_models_and_inputs():
    model, center = small()
    with pytest.raises(rj.InputError, match="BoundedTensor"):
        rj.compare(model, center)
    with pytest.raises(rj.InputError, match="torch module"):
        rj.compare(lambda x: x, region(center))
    with pytest.raises(rj.InputError, match="only one of them"):
        rj.compare(model)
    with pytest.raises(rj.InputError, match="go without `spec`"):
        rj.compare(model, spec=object(), norm=2.0)
