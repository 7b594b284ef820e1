"""`lipschitz_curve`: its numbers are those of the single functions, ordered as they must be."""

from __future__ import annotations

import math

import pytest
import torch
from cases import hosted
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedTensor, PerturbationLpNorm
from recurjac_plugin.tables import constants

RADII = [0.1, 0.01]


def by(table, name):
    return {(row["eps"], row["input"]): row["constant"] for row in table if row["asked"] == name}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("kind", ["relu", "tanh"])
@torch.no_grad()
def test_constants_are_those_of_the_functions(kind, norm, dtype):
    _, center, model = hosted(kind, dtype=dtype)
    names = ["RecurJac", "fast-lip", "operator-norm"]
    table = rj.lipschitz_curve(model, center, RADII, methods=names, norm=norm, samples=16)
    assert list(dict.fromkeys(row["asked"] for row in table)) == ["RecurJac", "Fast-Lip", "Operator-Norm", "sampled"]
    everywhere = float(rj.global_lipschitz(model, norm=norm, method="Operator-Norm")[0])
    for (eps, i), constant in by(table, "RecurJac").items():
        x = BoundedTensor(center[i : i + 1], PerturbationLpNorm(norm=norm, eps=eps))
        assert constant == pytest.approx(float(rj.local_lipschitz(model, x, method="RecurJac")[0]), rel=1e-5)
        assert by(table, "sampled")[eps, i] <= constant * (1 + 1e-5)
        assert by(table, "Operator-Norm")[eps, i] == everywhere
    for i in range(len(center)):
        assert by(table, "sampled")[0.01, i] <= by(table, "sampled")[0.1, i]
    assert len(table.plot().axes[0].lines) == 4


def test_a_search_lies_between():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    table = rj.lipschitz_curve(net, torch.zeros(1, 3), [0.2], methods=["RecurJac"], norm=2, budget=5.0)
    one = {row["asked"]: row["constant"] for row in table}
    assert one["sampled"] * (1 - 1e-5) <= one["searched"] <= one["RecurJac"] * (1 + 1e-5)
    assert one["attained"] <= one["searched"]


@torch.no_grad()
def test_norms_and_what_there_is_not():
    _, center, model = hosted("tanh", dtype=torch.float64)
    table = rj.lipschitz_curve(
        model, center[:1], [0.01], methods=["RecurJac", "Operator-Norm"], output_norm=2, samples=0
    )
    mixed, none = table
    x = BoundedTensor(center[:1], PerturbationLpNorm(norm=math.inf, eps=0.01))
    assert mixed["constant"] == pytest.approx(
        float(rj.local_lipschitz(model, x, method="RecurJac", output_norm=2)[0]), rel=1e-12
    )
    assert none["constant"] is None
    assert "one norm on both sides" in none["unsupported"]
    assert len(table.plot().axes[0].lines) == 1
    assert "l_inf to l_2" in table.title


class Inverse(nn.Module):
    """``1 / (2 + x)``, which has no derivative at ``x = -2``."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.layer.weight.data, self.layer.bias.data = torch.eye(2), torch.full((2,), 2.0)

    def forward(self, x):
        return 1 / self.layer(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_refused_radius_is_a_row_with_a_reason_and_the_others_go_on(dtype):
    center = torch.zeros(1, 2, dtype=dtype)
    options = {"methods": ["RecurJac", "Fast-Lip"], "budget": 0.2, "samples": 4}
    table = rj.lipschitz_curve(Inverse().to(dtype), center, [1.0, 3.0], **options)
    for name in ("RecurJac", "Fast-Lip", "searched", "attained"):
        near, far = (row for row in table if row["asked"] == name)
        assert near["constant"] == pytest.approx(1.0, rel=1e-2)  # 1 / (2 - 1)^2
        assert near["unsupported"] is None
        assert far["constant"] is None
        assert "must be on one side of 0" in far["unsupported"]
    assert all(row["constant"] > 0 for row in table if row["asked"] == "sampled")
    assert len(table.plot().axes[0].lines) == 5


def test_the_largest_of_some_inputs_is_not_that_of_all():
    """One input of two is refused: the table of the largest has nothing there, the rows have what there is."""
    centers = torch.tensor([[0.0, 0.0], [10.0, 10.0]])
    table = rj.lipschitz_curve(Inverse(), centers, [1.0, 3.0], methods=["RecurJac"], samples=0)
    assert [row["constant"] is None for row in table] == [False, False, True, False]
    radii, largest = constants.largest_by_radius(table.rows)
    assert radii == [1.0, 3.0]
    assert largest == {"RecurJac": [table.rows[0]["constant"], None]}


@pytest.mark.parametrize("function", [torch.floor, torch.erfinv], ids=["no_rule", "not_read_by_the_host"])
def test_a_refused_network_has_a_table_of_reasons(function, monkeypatch):
    class Refused(nn.Module):
        def forward(self, x):
            return function(x)

    read, built = [], constants._unread
    monkeypatch.setattr(constants, "_unread", lambda subject: read.append(subject) or built(subject))
    table = rj.lipschitz_curve(Refused(), torch.zeros(2, 2), [0.1, 0.2], methods=["RecurJac", "Operator-Norm"])
    certified = [row for row in table if row["asked"] != "sampled"]
    assert len(certified) == 8
    assert len(read) == 1
    assert all(row["constant"] is None and "unsupported part" in row["unsupported"] for row in certified)
    assert {row["asked"] for row in table} == {"RecurJac", "Operator-Norm", "sampled"}
    assert table.plot().axes


def test_a_constant_below_what_points_show_is_refused(monkeypatch):
    honest = constants.local_lipschitz
    monkeypatch.setattr(constants, "local_lipschitz", lambda *a, **options: honest(*a, **options) / 20)
    _, center, model = hosted("tanh", dtype=torch.float64)
    with pytest.raises(rj.ContradictionError, match="points of the ball show"):
        rj.lipschitz_curve(model, center, [0.01], methods=["RecurJac"])


BAD = {
    "no_radii": ({"radii": []}, "`radii`"),
    "negative": ({"radii": [-1.0]}, "`radii`"),
    "infinite": ({"radii": [math.inf]}, "`radii`"),
    "words": ({"radii": ["a"]}, "`radii`"),
    "norm": ({"norm": 3}, "`norm` must be"),
    "output_norm": ({"output_norm": 0.5}, "`output_norm` must be"),
    "host_alone": ({"methods": ["CROWN"]}, "no Jacobian bounds"),
    "no_tensor": ({"x": 1.0}, "`x` must be a tensor"),
    "module": ({"model": 1.0}, "torch module"),
    "nan": ({"x": torch.full((1, 5), math.nan, dtype=torch.float64)}, "NaN"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_bad_arguments(options, words):
    _, center, model = hosted("tanh", dtype=torch.float64)
    with pytest.raises(rj.RecurJacError, match=words):
        rj.lipschitz_curve(**{"model": model, "x": center, "radii": [0.1], **options})
