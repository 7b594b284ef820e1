"""`recurjac landscape`: balls without stationary points, and what lies along the radius."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from commands import RELU, TANH, WHERE, answer, recurjac
from places import DATA

import recurjac_plugin as rj
from recurjac_plugin import load_onnx


def test_landscape_table_csv_and_picture(tmp_path):
    arguments = ("landscape", TANH, "--vnnlib", DATA / "digits_tanh_small.vnnlib", "--points", 4, "--output", 3)
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    found = answer(*arguments, "--csv", table, "--plot", picture)
    assert found.keys() == WHERE | {
        *(
            "command",
            "norm",
            "clip",
            "initial",
            "budget",
            "limit",
            "tolerance",
            "max_probes",
            "rigorous",
            "inputs",
            "radii",
            "scan",
        ),
    }
    radii = {entry["method"]: entry["radius"] for entry in found["radii"]}
    assert list(radii) == list(rj.METHODS)
    assert all(entry["output"] == 3 for entry in found["radii"])
    assert 0 < radii["Fast-Lip"] <= radii["RecurJac"] + 1e-4
    for name in radii:
        scan = [entry for entry in found["scan"] if entry["method"] == name]
        assert [entry["radius"] for entry in scan] == pytest.approx(np.linspace(0, max(radii.values()), 4))
        assert scan[0]["undetermined"] < 64
        assert scan[0]["constant"] < scan[-1]["constant"]
    with table.open(newline="") as file:
        assert [float(row["constant"]) for row in csv.DictReader(file)] == [e["constant"] for e in found["scan"]]
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = recurjac(*arguments, "--methods", "RecurJac").stdout
    assert "Stationary-free radius (l_inf)" in shown
    assert "Undetermined entries of 64" in shown


def test_landscape_follows_the_largest_output_of_each_input(tmp_path):
    images = np.random.default_rng(0).random((3, 64))
    np.save(tmp_path / "x.npy", images)
    options = ("--norm", 1, "--methods", "Fast-Lip", "--points", 2)
    found = answer("landscape", RELU, "--input", tmp_path / "x.npy", *options)
    with torch.no_grad():
        largest = load_onnx(RELU)(torch.from_numpy(images).float()).flatten(1).argmax(1)
    assert [entry["output"] for entry in found["radii"]] == largest.tolist()
    assert found["limit"] == 100


def test_the_chosen_method_is_listed():
    options = ("--vnnlib", DATA / "digits_tanh_small.vnnlib", "--points", 2, "--max-probes", 3, "--methods", "auto")
    found = answer("landscape", TANH, *options)
    assert [entry["method"] for entry in found["radii"]] == ["RecurJac-McCormick"]
    assert [entry["asked"] for entry in found["scan"]] == ["auto"] * 2
    assert found["scan"][1]["method"] == "RecurJac-McCormick"
    assert "RecurJac-McCormick" in recurjac("landscape", TANH, *options).stdout
