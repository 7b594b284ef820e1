"""`recurjac lipschitz`: constants against the radius, of every method."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest
import torch
from commands import CNN, MID, RELU, TANH, WHERE, answer, recurjac
from places import DATA

import recurjac_plugin as rj
from recurjac_plugin import host, load_onnx
from recurjac_plugin.tables import constants


def test_lipschitz_table_csv_and_picture(tmp_path):
    arguments = ("lipschitz", TANH, "--vnnlib", DATA / "digits_tanh_small.vnnlib", "--eps", "0.1,0.001,0.01")
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    found = answer(*arguments, "--csv", table, "--plot", picture)
    assert found.keys() == WHERE | {
        *("command", "rigorous", "norm", "input_norm", "output_norm", "inputs", "seed", "samples", "steps", "constants")
    }
    assert found["constants"][0].keys() == {"asked", "method", "eps", "input", "constant", "seconds", "unsupported"}
    curves = {
        name: [entry["constant"] for entry in found["constants"] if entry["method"] == name]
        for name in (*rj.METHODS, "Operator-Norm", "sampled")
    }
    assert {len(curve) for curve in curves.values()} == {3}
    assert sum(map(len, curves.values())) == len(found["constants"])
    for curve in curves.values():
        assert curve == sorted(curve)
    assert len(set(curves["Operator-Norm"])) == 1
    order = [curves[name] for name in ("sampled", "RecurJac-Linear", "RecurJac", "Fast-Lip", "Operator-Norm")]
    for tighter, looser in itertools.pairwise(order):
        assert all(a <= b * (1 + 1e-5) for a, b in zip(tighter, looser, strict=True))
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], float(row["constant"])) for row in rows] == [
        (entry["method"], entry["constant"]) for entry in found["constants"]
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = recurjac(*arguments, "--methods", "Fast-Lip", "--samples", 0).stdout
    assert "Fast-Lip" in shown
    assert "sampled" not in shown


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_sampled_constants_are_below_the_certified_ones(norm):
    found = answer("lipschitz", CNN, "--vnnlib", DATA / "digits_cnn_mid.vnnlib", "--eps", "0,0.02", "--norm", norm)
    certified = {e["eps"]: e["constant"] for e in found["constants"] if e["method"] == "RecurJac-Linear"}
    sampled = {e["eps"]: e["constant"] for e in found["constants"] if e["method"] == "sampled"}
    assert 0 < sampled[0.0] <= sampled[0.02] <= certified[0.02]
    assert sampled[0.0] == pytest.approx(certified[0.0], rel=1e-4)  # a point has one Jacobian


def test_norms_other_than_the_balls():
    arguments = ("lipschitz", TANH, "--vnnlib", MID, "--eps", "0,0.02", "--methods", "RecurJac-Linear,Operator-Norm")
    result = recurjac(*arguments, "--input-norm", "2", "--output-norm", "inf")
    assert "Lipschitz constant in l_2 to l_inf" in result.stdout
    assert "radius (l_inf)" in result.stdout
    assert "Operator-Norm: it has constants in one norm on both sides only." in result.stderr
    found = answer(*arguments, "--input-norm", "2", "--output-norm", "inf")
    assert (found["norm"], found["input_norm"], found["output_norm"]) == ("inf", "2", "inf")
    certified = [e["constant"] for e in found["constants"] if e["method"] == "RecurJac-Linear"]
    sampled = [e["constant"] for e in found["constants"] if e["method"] == "sampled"]
    assert 0 < sampled[0] == pytest.approx(certified[0], rel=1e-4)
    assert sampled[1] <= certified[1]
    assert answer(*arguments, "--input-norm", "2")["output_norm"] == "2"


def test_bounds_of_a_search_lie_side_by_side(tmp_path):
    picture = tmp_path / "gap.png"
    found = answer(
        *("lipschitz", RELU, "--vnnlib", MID, "--eps", "0.02", "--bab", "--gap", "0.01", "--timeout", "30"),
        *("--plot", picture),
    )
    by = {entry["asked"]: entry["constant"] for entry in found["constants"]}
    assert by["sampled"] * (1 - 1e-5) <= by["searched"] <= by["RecurJac-Linear"]
    assert by["attained"] <= by["searched"] <= 1.011 * by["attained"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    smooth = answer("lipschitz", TANH, "--vnnlib", MID, "--eps", "0.02", "--bab", "--timeout", "2")["constants"]
    by = {entry["asked"]: entry["constant"] for entry in smooth}
    assert by["attained"] <= by["searched"] <= by["RecurJac-Linear"]
    assert by["sampled"] * (1 - 1e-5) <= by["searched"]


def test_operator_norm_is_that_of_the_library_and_in_any_case():
    found = answer(
        *("lipschitz", CNN, "--vnnlib", DATA / "digits_cnn_mid.vnnlib", "--eps", "0,1", "--norm", "2"),
        *("--methods", "operator-norm", "--samples", 0),
    )
    model = host.BoundedModule(load_onnx(CNN), torch.zeros(1, 1, 8, 8))
    expected = float(rj.global_lipschitz(model, norm=2, method="Operator-Norm"))
    assert [(e["method"], e["constant"]) for e in found["constants"]] == [("Operator-Norm", expected)] * 2


def test_operator_norm_is_a_dash_where_there_is_none(monkeypatch, tmp_path):
    def refuse(model, *, norm, method):
        raise rj.UnsupportedError("The network", ["`/exp` (Exp): no"], "Nothing to be done.")

    monkeypatch.setattr(constants, "global_lipschitz", refuse)
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    arguments = ("lipschitz", TANH, "--vnnlib", MID, "--eps", "0,0.01", "--methods", "Operator-Norm,Fast-Lip")
    result = recurjac(*arguments, "--csv", table, "--plot", picture)
    assert "Operator-Norm: The network has 1 unsupported part: `/exp` (Exp): no." in result.stderr
    assert result.stdout.count("–") == 2
    with table.open(newline="") as file:
        assert [row["constant"] == "" for row in csv.DictReader(file)] == [True, True] + [False] * 4
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [e["constant"] for e in answer(*arguments)["constants"][:2]] == [None, None]


@pytest.fixture
def inverse(tmp_path):
    """Asks for constants of ``1 / (2 + x)``, a torch network: the local ones end where the radius reaches 2."""
    (tmp_path / "net.py").write_text(
        "import torch\n\n\nclass Inverse(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = torch.nn.Linear(3, 3)\n"
        "        self.layer.weight.data, self.layer.bias.data = torch.eye(3), torch.full((3,), 2.0)\n\n"
        "    def forward(self, x):\n        return 1 / self.layer(x)\n\n\ndef inverse():\n    return Inverse()\n"
    )
    np.save(tmp_path / "x.npy", np.zeros(3))
    yield "lipschitz", f"{tmp_path / 'net.py'}:inverse", "--input", tmp_path / "x.npy", "--methods", "RecurJac,Fast-Lip"
    rj.unregister()  # what a command's process has to itself


def test_a_radius_without_a_constant_is_a_dash_with_its_reason(inverse):
    result = recurjac(*inverse, "--eps", "0.5,3", "--samples", "0")
    assert result.stdout.count("–") == 2
    for name in ("RecurJac", "Fast-Lip"):
        assert f"{name} on radius 3: The network has 1 unsupported part: " in result.stderr
    entries = answer(*inverse, "--eps", "0.5,3", "--samples", "0")["constants"]
    assert [entry["constant"] is None for entry in entries] == [False, True] * 2
    assert [entry["unsupported"] is None for entry in entries] == [True, False] * 2


def test_nothing_but_refusals_is_refused(inverse):
    shown = recurjac(*inverse, "--eps", "3", code=2)
    assert shown.stderr.startswith("error: No method has a constant here. RecurJac: The network has 1 unsupported part")


def test_pictures_in_every_format(tmp_path):
    for form, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        path = tmp_path / f"p.{form}"
        recurjac("lipschitz", TANH, "--vnnlib", MID, "--eps", "0,0.01", "--methods", "Fast-Lip", "--plot", path)
        assert path.read_bytes().startswith(start)


def test_every_ball_has_the_method_that_was_chosen_for_it():
    found = answer(
        *("lipschitz", TANH, "--vnnlib", DATA / "digits_tanh_small.vnnlib", "--eps", "0.01,100"),
        *("--methods", "auto,RecurJac-Linear", "--samples", 0),
    )["constants"]
    assert [entry["method"] for entry in found] == ["RecurJac-McCormick", *["RecurJac-Linear"] * 3]
    assert [entry["asked"] for entry in found] == ["auto"] * 2 + ["RecurJac-Linear"] * 2
    assert found[0]["constant"] < found[2]["constant"]
    assert found[1]["constant"] == found[3]["constant"]
