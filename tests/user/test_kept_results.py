"""Everything that functions return is saved by `torch.save`, and loaded with `weights_only=True` in another process."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from cases import hosted
from oracle import Ball
from places import DATA
from processes import python

import recurjac_plugin as rj
from recurjac_plugin import kept

LOADS = hasattr(torch.serialization, "add_safe_globals")  # torch 2.5

ASKED = {"LinearMap", "Node", "Refusal", "Spec"}
"""Public classes of what users say, not of what they are told: files of properties, and rows of tables."""


@pytest.fixture(scope="module")
def results():
    """One result of every class."""
    _, center, model = hosted("relu")
    ball = Ball(center[:1], 0.5)
    x = ball.perturbed()
    network = rj.load_onnx(DATA / "digits_relu.onnx")
    refuted = rj.verify(network, rj.load_vnnlib(DATA / "digits_relu_large.vnnlib"))
    return {
        "Bounds": rj.jacobian_bounds(model, x).detach(),
        "Counterexample": refuted.counterexample,
        "Landscape": rj.landscape_scan(model, ball.center, norm=2, radius=0.5, points=3),
        "Monotonicity": rj.monotonicity_report(model, x),
        "Result": refuted,
        "Table": rj.lipschitz_curve(model, ball.center, [0.1, 0.2], methods=["Fast-Lip"], samples=4),
        "Tightened": rj.tighten(model, x, budget=1),
        "Verdict": refuted.verdict,
        "WeightedNorm": rj.WeightedNorm(torch.tensor([1.0, 2.0])),
    }


def parts(value):
    """A result as plain values, all the way down."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), value.tolist())
    if isinstance(value, np.ndarray):
        return (str(value.dtype), "array", value.tolist())
    if dataclasses.is_dataclass(value):
        return (type(value), {each.name: parts(getattr(value, each.name)) for each in dataclasses.fields(value)})
    if isinstance(value, rj.Table):
        return (value.title, value.columns, value.rows, value._picture)
    return (type(value), value)


def test_every_class_of_results_is_here(results):
    """A new one without an entry in the table of `kept` fails here, not at a user's `torch.load`."""
    public = {name: getattr(rj, name) for name in rj.__all__}
    classes = {name for name, value in public.items() if dataclasses.is_dataclass(value)} - ASKED
    assert classes | {"Counterexample", "Table", "Verdict"} == set(kept._CLASSES) == set(results)
    assert all(type(result).__name__ == name for name, result in results.items())


@pytest.mark.skipif(not LOADS, reason="torch takes no classes of others before 2.5")
@pytest.mark.parametrize("imports", ["import recurjac_plugin, torch", "import torch, recurjac_plugin"])
def test_they_are_loaded_in_a_new_process(results, tmp_path, imports):
    torch.save(results, tmp_path / "results.pt")
    shown = python(
        "-c",
        f"{imports}, pickle\nfound = torch.load({str(tmp_path / 'results.pt')!r}, weights_only=True)\n"
        f"pickle.dump(found, open({str(tmp_path / 'again.pickle')!r}, 'wb'))",
    )
    assert shown.returncode == 0, shown.stderr
    again = pickle.loads((tmp_path / "again.pickle").read_bytes())
    assert again.keys() == results.keys()
    for name, result in results.items():
        assert parts(again[name]) == parts(result), name
        assert repr(again[name]) == repr(result)
    assert again["Verdict"] is rj.Verdict.SAT


@pytest.mark.parametrize("call", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_say_the_same(results, call):
    for name, result in results.items():
        assert parts(call(result)) == parts(result), name


def test_a_loaded_table_is_drawn(results, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    again = pickle.loads(pickle.dumps(results["Table"]))
    (lines, same) = (table.plot().axes[0].get_lines() for table in (results["Table"], again))
    assert [line.get_xydata().tolist() for line in lines] == [line.get_xydata().tolist() for line in same]


def test_only_results_are_made():
    """Whoever writes the file cannot have other things of the package called."""
    with pytest.raises(rj.FileError, match="holds a `verify`"):
        kept.restored("verify", {})
