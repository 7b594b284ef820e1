"""Networks as `module.py:function`, and `compare` on balls: the numbers of the library, clear refusals."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from commands import RELU, SMALL, TANH, WHERE, answer, recurjac
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.tables import comparison

CODE = """
import torch
from torch import nn
from beside import WIDTH

number = 3

def make():
    torch.manual_seed(0)
    print("made")
    return nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Dropout(), nn.Linear(WIDTH, 3)).double()

def image():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))

def constant():
    return 3

def raises():
    raise RuntimeError("no weights")

def half():
    return nn.Linear(4, 2).half()

def without_values():
    return nn.Linear(4, 2, device="meta")

made = nn.Linear(4, 2)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("WIDTH = 16\n")
    (tmp_path / "broken.py").write_text("import nothing_such\n")
    np.save("x.npy", np.array([[0.0, 0.1, 0.2, 0.3], [1.0, -1.0, 0.5, 0.0]]))
    np.save("one.npy", np.zeros(4))
    np.save("image.npy", np.zeros((1, 1, 4, 4), dtype=np.float32))
    np.save("C.npy", np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]]))
    np.save("wide.npy", np.ones((2, 5)))
    np.save("nan.npy", np.full((1, 3), np.nan))
    yield tmp_path
    rj.unregister()  # what a command's process has to itself


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(), nn.Linear(16, 3)).double().eval()


def test_balls_are_compared_as_by_the_library(folder):
    found = answer(
        *("compare", "net.py:make", "--input", "x.npy", "--eps", 0.05, "--norm", 2, "--spec", "C.npy"),
        *("--methods", "auto,Fast-Lip,CROWN", "--csv", "t.csv", "--plot", "p.svg"),
    )
    assert found.keys() == WHERE | {
        *("command", "inputs", "norm", "eps", "seed", "auto", "methods", "sampled", "contradictions")
    }
    assert (found["dtype"], found["inputs"], found["contradictions"]) == ("float64", 2, [])
    net, x = network(), torch.from_numpy(np.load("x.npy"))
    ball = BoundedTensor(x, PerturbationLpNorm(norm=2, eps=0.05))
    rj.register()
    C, model = torch.from_numpy(np.load("C.npy"))[None], BoundedModule(net, x)
    assert found["auto"] == rj.chosen_methods(model, ball, C=C)[0]
    assert [row["method"] for row in found["methods"]] == [found["auto"], "Fast-Lip", "CROWN"]
    with torch.no_grad():
        bounds = rj.jacobian_bounds(model, ball, method="Fast-Lip", C=C)
        constant = rj.local_lipschitz(model, ball, method="Fast-Lip", C=C).max()
    row = found["methods"][1]
    assert row["jacobian_width"] == pytest.approx(float(bounds.width.mean()))
    assert row["known_signs"] == int(((bounds.lower >= 0) | (bounds.upper <= 0)).sum())
    assert row["lipschitz"] == pytest.approx(float(constant))
    assert 0 < found["sampled"]["lipschitz"] <= found["methods"][0]["lipschitz"]
    with open("t.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["method"] for row in written] == [found["auto"], "Fast-Lip", "CROWN", "sampled"]
    assert float(written[1]["lipschitz"]) == row["lipschitz"]
    assert (folder / "p.svg").read_bytes().startswith(b"<?xml")


def test_an_onnx_network_on_balls(image):
    shown = recurjac("compare", TANH, "--input", image, "--eps", 0.01, "--methods", "Fast-Lip,IBP")
    assert "l_inf balls of radius 0.01" in shown.stdout
    assert "auto is RecurJac-McCormick here" in shown.stderr
    named = answer("compare", RELU, "--spec", SMALL, "--methods", "CROWN")
    assert named["property"] == SMALL
    assert named["methods"][0]["verdict"] == "unsat"


def test_balls_shout_where_points_show_a_larger_constant(folder, monkeypatch):
    honest = comparison.jacobian_of
    monkeypatch.setattr(
        comparison, "jacobian_of", lambda *a: (found := honest(*a))._replace(constant=found.constant / 20)
    )
    shown = recurjac("compare", "net.py:make", "--input", "x.npy", "--eps", 0.05, "--methods", "Fast-Lip", code=1)
    for text in (shown.stderr, shown.stdout):
        assert "CONTRADICTION: `Fast-Lip` says that the Lipschitz constant is at most" in " ".join(text.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("jacobian", "--input", "x.npy", "--eps", "0.05"),
        ("lipschitz", "--input", "one.npy", "--eps", "0.05", "--methods", "Fast-Lip"),
        ("monotone", "--input", "x.npy", "--eps", "0.05"),
        ("radius", "--input", "x.npy", "--methods", "Fast-Lip"),
        ("landscape", "--input", "one.npy", "--methods", "Fast-Lip"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_takes_a_torch_network(folder, arguments):
    found = answer(arguments[0], "net.py:make", *arguments[1:])
    assert (found["model"], found["dtype"]) == ("net.py:make", "float64")


def test_bounds_are_those_of_the_network(folder):
    recurjac("jacobian", folder / "net.py:make", "--input", "x.npy", "--eps", 0.05, "--out", "J.npz")
    x = torch.from_numpy(np.load("x.npy"))
    net = network()
    saved = np.load("J.npz")
    for i in range(2):
        J = torch.autograd.functional.jacobian(net, x[i]).numpy()
        assert (saved["lower"][i] <= J).all()
        assert (saved["upper"][i] >= J).all()
    shown = answer("jacobian", "net.py:image", "--input", "image.npy", "--eps", 0.01)
    assert shown["shape"] == [1, 2, 1, 4, 4]
    np.save("flat.npy", np.zeros((3, 16)))
    shaped = answer("jacobian", "net.py:image", "--input", "flat.npy", "--eps", 0.01, "--input-shape", "1,4,4")
    assert shaped["shape"] == [3, 2, 1, 4, 4]


BALL = "--input x.npy --eps 0.1"
WRONG = [
    (f"compare net.py:nothing {BALL}", "`net.py` has no function `nothing`"),
    (f"compare net.py:number {BALL}", "(number is int)"),
    (f"compare net.py:constant {BALL}", "returns int, expected a torch module"),
    (f"compare net.py:raises {BALL}", "raises RuntimeError (no weights)"),
    (f"compare net.py:half {BALL}", "torch.float16, expected torch.float32 or torch.float64"),
    (f"compare net.py:without_values {BALL}", "weights have no values"),
    (f"compare net.py:made {BALL}", "has no function `made` (made is Linear)"),
    (f"compare broken.py:make {BALL}", "`broken.py` cannot be imported: ModuleNotFoundError"),
    (f"compare none.py:make {BALL}", "`none.py` does not exist: expected a Python file"),
    (f"compare net.py {BALL}", "write `net.py:FUNCTION`"),
    ("compare net.py:make --input wide.npy --eps 0.1", "does not take inputs of shape (1, 5)"),
    (f"compare net.py:make {SMALL}", "verdicts are for ONNX files"),
    (f"verify net.py:make {SMALL}", "verdicts are for ONNX files"),
    ("compare net.py:make", "`PROP` or `--input`"),
    (f"compare {RELU} {SMALL} {BALL}", "only one of them"),
    (f"compare {RELU} {SMALL} --eps 0.1", "`--eps` goes with `--input`"),
    (f"compare {RELU} {SMALL} --spec C.npy", "`--spec` goes with `--input`"),
    (f"compare {RELU} {SMALL} --spec {SMALL}", "but another one was given"),
    ("compare net.py:make --input x.npy", "`--eps` goes with `--input`"),
    (f"compare net.py:make {BALL} --spec wide.npy", "a specification matrix of shape (k, 3)"),
    (f"compare net.py:make {BALL} --spec nan.npy", "must be finite"),
    (f"compare net.py:make {BALL} --input-shape 4,x", "`--input-shape` must be whole numbers"),
    (f"jacobian {RELU} {BALL} --input-shape 64", "`--input-shape` goes with a torch network"),
    (f"jacobian net.py:make {BALL} --certificate c.cert", "`--certificate` is for ONNX files"),
]


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[words for _, words in WRONG])
def test_one_sentence_for_what_is_wrong(folder, line, words):
    told = recurjac(*line.split(), code=2).stderr.strip()
    said = [line for line in told.splitlines() if line != "made"]
    assert len(said) == 1, told
    assert words in said[0]
