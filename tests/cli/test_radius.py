"""`recurjac radius`: certified radii of several methods, classes and targets."""

from __future__ import annotations

import csv

import numpy as np
import torch
from commands import RELU, SMALL, TANH, WHERE, answer, recurjac
from places import DATA

import recurjac_plugin as rj
from recurjac_plugin import host, load_onnx

SMALL_TANH = DATA / "digits_tanh_small.vnnlib"


def test_radius_table_csv_and_picture(tmp_path):
    arguments = ("radius", RELU, "--vnnlib", SMALL, "--steps", 3, "--tolerance", 0.001)
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    found = answer(*arguments, "--csv", table, "--plot", picture)
    assert found.keys() == WHERE | {
        *("command", "norm", "target", "seed", "inputs", "radii"),
        *("initial", "budget", "limit", "tolerance", "max_probes", "steps", "clip", "rigorous"),
    }
    assert [entry["method"] for entry in found["radii"]] == ["RecurJac-Linear", "Fast-Lip", "CROWN"]
    assert [entry["asked"] for entry in found["radii"]] == ["auto", "Fast-Lip", "CROWN"]
    assert found["radii"][0].keys() == {"asked", "method", "input", "class", "target", "radius", "seconds"}
    radii = [entry["radius"] for entry in found["radii"]]
    assert 0 < radii[1] <= radii[0] + 0.001
    with table.open(newline="") as file:
        assert [float(row["radius"]) for row in csv.DictReader(file)] == radii
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = recurjac(*arguments).stdout
    assert "Certified radius (l_inf)" in shown
    assert "mean" in shown


def test_radius_is_that_of_the_library(image):
    found = answer("radius", TANH, "--input", image, "--norm", 2, "--target", "runner-up", "--steps", 2, "--methods",
                   "RecurJac")  # fmt: skip
    net, x = load_onnx(TANH), torch.from_numpy(np.load(image)).float().unsqueeze(0)
    with torch.no_grad():
        C = rj.margin_rows(net(x).flatten(1), target="runner-up")
    expected = rj.certified_radius(host.BoundedModule(net, x), x, norm=2, C=C, steps=2, method="RecurJac")
    (entry,) = found["radii"]
    assert entry["radius"] == float(expected)
    assert (entry["class"], entry["target"]) == (int(C.argmax()), int(C.argmin()))


def test_radius_targets_and_labels(tmp_path):
    images = np.random.default_rng(0).random((2, 64))
    np.save(tmp_path / "x.npy", images)
    options = ("--methods", "CROWN", "--tolerance", 0.01, "--clip", "0,1")
    predicted = answer("radius", RELU, "--input", tmp_path / "x.npy", *options)
    classes = [entry["class"] for entry in predicted["radii"]]
    assert predicted["clip"] == [0, 1]
    other = [(c + 1) % 10 for c in classes]
    wrong = answer("radius", RELU, "--input", tmp_path / "x.npy", *options, "--labels", ",".join(map(str, other)))
    assert [entry["class"] for entry in wrong["radii"]] == other
    assert [entry["radius"] for entry in wrong["radii"]] == [0, 0]
    target = next(c for c in range(10) if c not in classes)
    one = answer("radius", RELU, "--input", tmp_path / "x.npy", *options, "--target", target)
    assert [entry["target"] for entry in one["radii"]] == [target, target]
    for single, every in zip(one["radii"], predicted["radii"], strict=True):
        assert single["radius"] >= every["radius"]
    note = recurjac("radius", RELU, "--input", tmp_path / "x.npy", *options, "--norm", "2").stderr
    assert "not clipped" in note


def test_the_chosen_method_is_listed_by_its_name(tmp_path):
    table = tmp_path / "t.csv"
    options = ("--vnnlib", SMALL_TANH, "--steps", 2, "--max-probes", 4, "--csv", table)
    found = answer("radius", TANH, *options)["radii"]
    assert [entry["method"] for entry in found] == ["RecurJac-McCormick", "Fast-Lip", "CROWN"]
    named = answer("radius", TANH, *options, "--methods", "RecurJac-McCormick")["radii"]
    assert named[0]["asked"] == "RecurJac-McCormick"
    assert named[0]["radius"] == found[0]["radius"] > 0
    shown = recurjac("radius", TANH, *options, "--methods", "auto,RecurJac-McCormick,ibp+auto").stdout
    header = " ".join(shown.split())
    assert "auto (RecurJac-McCormick)" in header.replace(" ┃ ", " ")
    with table.open(newline="") as file:
        assert [row["asked"] for row in csv.DictReader(file)] == ["auto", "RecurJac-McCormick", "IBP+auto"]
