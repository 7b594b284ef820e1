"""The audit sees what is wrong, and only that: the host is broken on purpose."""

from __future__ import annotations

import math

import pytest
import torch

from recurjac_plugin.audit.boxes import FULL, SMALL
from recurjac_plugin.audit.measuring import METHODS, Finding, Verdict, measured, outside
from recurjac_plugin.audit.specimens import PLACES
from recurjac_plugin.audit.table import chosen
from recurjac_plugin.audit.truth import Truth
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.host import bound_ops

(ABS,) = chosen(["Abs()"])
BOTH = (torch.float32, torch.float64)


def broken(monkeypatch, name, change):
    """Let a method of the host's nodes of absolute values give something else."""
    own = getattr(bound_ops.BoundAbs, name)
    monkeypatch.setattr(bound_ops.BoundAbs, name, lambda self, *args, **more: change(own(self, *args, **more)))


@pytest.mark.parametrize("place", PLACES)
def test_a_sound_operator_holds(place):
    findings = measured(ABS, place, FULL)
    assert [*findings] == [*METHODS]
    assert {finding.verdict for finding in findings.values()} == {Verdict.HOLDS}


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("place", PLACES)
def test_bounds_of_narrow_intervals_that_are_off_by_less_than_a_millionth_are_violated(place, dtype, monkeypatch):
    broken(monkeypatch, "interval_propagate", lambda bounds: (bounds[0], bounds[1] - 3e-7))
    findings = measured(ABS, place, SMALL, METHODS[:2], (dtype,))
    assert findings["IBP"].verdict is Verdict.VIOLATED
    assert str(dtype).removeprefix("torch.") in findings["IBP"].where
    assert 2e-7 < findings["IBP"].escape < 4e-7
    assert findings["IBP"].wrong


@pytest.mark.parametrize("dtype", BOTH)
def test_a_rounding_far_from_0_is_none(dtype, monkeypatch):
    eps = torch.finfo(dtype).eps
    broken(monkeypatch, "interval_propagate", lambda bounds: (bounds[0] * (1 + eps), bounds[1] * (1 - eps)))
    assert measured(ABS, "input", FULL, ("IBP",), (dtype,))["IBP"].verdict is Verdict.HOLDS


def test_another_function_is_misread(monkeypatch):
    broken(monkeypatch, "forward", lambda value: value * (1 + 1e-9))
    for finding in measured(ABS, "output", SMALL).values():
        assert finding.verdict is Verdict.MISREAD
        assert finding.wrong


def test_errors_are_refusals(monkeypatch):
    def refuse(_):
        raise NotImplementedError("not\nhere")

    broken(monkeypatch, "interval_propagate", refuse)
    finding = measured(ABS, "output", SMALL)["IBP"]
    assert (finding.verdict, finding.reason) == (Verdict.REFUSED, "NotImplementedError: not here")
    assert not finding.wrong


def test_a_refusal_of_some_boxes_does_not_hide_the_others(monkeypatch):
    def refuse_far(bounds):
        if float(bounds[1].max()) > 100:
            raise ValueError("too far")
        return bounds[0], bounds[1] * 0.9

    broken(monkeypatch, "interval_propagate", refuse_far)
    finding = measured(ABS, "output", SMALL, ("IBP",))["IBP"]
    assert finding.verdict is Verdict.VIOLATED
    assert "at 1000" not in finding.where


def test_what_the_plugin_refuses_is_guarded(monkeypatch):
    def refuse(*_, **__):
        raise UnsupportedError("The network", ["it"], "Go.")

    broken(monkeypatch, "interval_propagate", lambda bounds: (bounds[0], bounds[1] * 0.9))
    assert measured(ABS, "output", SMALL, ("IBP",), guarded=False)["IBP"].verdict is Verdict.VIOLATED
    monkeypatch.setattr("recurjac_plugin.audit.measuring.output_bounds", refuse)
    guarded = measured(ABS, "output", SMALL, ("IBP",), guarded=True)["IBP"]
    assert guarded.verdict is Verdict.GUARDED
    assert not guarded.wrong
    assert guarded.reason.startswith("UnsupportedError: The network has")


def test_what_the_plugin_uses_is_not_guarded(monkeypatch):
    broken(monkeypatch, "interval_propagate", lambda bounds: (bounds[0], bounds[1] * 0.9))
    monkeypatch.setattr("recurjac_plugin.audit.measuring.output_bounds", lambda *_, **__: None)
    assert measured(ABS, "output", SMALL, ("IBP",), guarded=True)["IBP"].verdict is Verdict.VIOLATED


def test_bounds_that_are_no_numbers_hold_nothing():
    truth = Truth(torch.tensor([[[0.0, 0.0, 0.0, 0.0]]]), torch.zeros(1, 4))
    lower = torch.tensor([[math.nan, -math.inf, math.inf, -1.0]])
    upper = torch.tensor([[math.inf, math.inf, math.inf, 2.0]])
    assert outside(lower, upper, truth).tolist() == [[math.inf, 0.0, math.inf, -1.0]]


def test_the_worse_finding_counts():
    holds, refused = Finding(Verdict.HOLDS), Finding(Verdict.REFUSED)
    small, large = Finding(Verdict.VIOLATED, 1e-9), Finding(Verdict.VIOLATED, 1e-3)
    assert holds.worse(refused) is refused
    assert refused.worse(small) is small
    assert large.worse(small) is large
    assert small.worse(Finding(Verdict.MISREAD, 1e-12)).verdict is Verdict.MISREAD
