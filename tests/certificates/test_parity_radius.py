"""The published RecurJac code, number by number: the integral over nested balls, the search, and the landscape.

Its pre-activation bounds at every radius are computed again (`published_bounds`, equal to its own where those were
recorded) and put in place of the host's. Cases are found as in `test_parity`.
"""

from __future__ import annotations

import functools
import importlib
import json
import math

import numpy as np
import pytest
import torch
from from_zero import FromZero
from golden import CASES, FOLDER, LOCAL, SUBSET, Golden
from published_bounds import preactivation_bounds

import recurjac_plugin as rj
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.certificates import landscape
from recurjac_plugin.certificates.perturbed_points import read_points
from recurjac_plugin.certificates.radius_search import RadiusSearch, largest_radius
from recurjac_plugin.host.region import read_region
from recurjac_plugin.jacobian import analysis as analysis_module
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.lipschitz.norms import row_constants

certified_module, drops_module, stationary_module, landscape_module = (
    importlib.import_module(f"recurjac_plugin.certificates.{name}")
    for name in ("robustness", "drops", "stationary_points", "landscape")
)
INTEGRAL = [name for name, case in CASES.items() if case["kind"] == "integral"]
LANDSCAPE = [name for name, case in CASES.items() if case["kind"] == "landscape"]
SHIPPED = {case["name"] for case in json.loads((SUBSET / "index.json").read_text(encoding="utf-8"))["cases"]}
RULES = {"recurjac": "RecurJac", "fastlip": "Fast-Lip"}
ORDERS = {"bwd": {}, "fwd": {"order": "forward"}, "fsh": {"order": "forward", "shift": 1}}


def shipped(names):
    """Those of the subset; the others are slow."""
    return [pytest.param(name, marks=() if name in SHIPPED else pytest.mark.slow) for name in names]


class Case(Golden):
    """A golden case, its published pre-activation bounds on any ball, and its options here."""

    def __init__(self, name, dtype=torch.float64):
        super().__init__(name, dtype)
        self.norm = float(self.arrays["norm"])
        count = len(self.case["widths"]) - 1
        self.weights, self.biases = ([self.arrays[f"{k}{i}"].to(dtype) for i in range(count)] for k in "Wb")
        self.direction = self.case.get("direction", "bwd")
        self.options = {"norm": self.norm, "method": RULES[self.case.get("jacbndalg", "recurjac")]}
        self.options |= ORDERS[self.direction]

    def published(self, eps):
        return preactivation_bounds(
            self.weights, self.biases, self.case["activation"], self.case["slope"], self.center[0], eps, self.norm
        )

    def on_published_bounds(self, monkeypatch):
        """Let every analysis start from them instead of the host's bounds."""
        names = list(self.given_names())

        def analyse(model, x, method, C, **options):
            each = [self.published(float(radius)) for radius in read_region(x).radius[:, 0]]
            given = {
                n: tuple(torch.stack(ends) for ends in zip(*layer, strict=True))
                for n, layer in zip(names, zip(*each, strict=True), strict=True)
            }
            return analysis_module.analyse(model, x, method, C, intermediate_bounds=given, **options)

        for module in (drops_module, stationary_module, landscape_module):
            monkeypatch.setattr(module, "analyse", analyse)

    def given_names(self):
        readers = [n for n in self.model._modules.values() if type(n).__name__ in ACTIVATIONS]
        return [node.inputs[0].name for node in readers]

    def rows(self):
        c, j = int(self.arrays["c"]), int(self.arrays["j"])
        unit = torch.eye(len(self.arrays["pred"]), dtype=self.dtype)
        if self.case.get("mode") == "untargeted":
            return rj.margin_rows(self.arrays["pred"][None].to(self.dtype), torch.tensor([c]))
        return unit[None, None, c] - (0 if j == -1 else unit[j])


def needs_full_set():
    return pytest.mark.skipif(FOLDER == SUBSET, reason="RECURJAC_GOLDEN is not set: only the subset is compared")


@needs_full_set()
def test_all_cases_are_here():
    assert (len(INTEGRAL), len(LANDSCAPE)) == (14, 16)


@pytest.mark.parametrize("name", LOCAL)
def test_published_preactivation_bounds_are_those_recorded(name):
    case = Case(name, torch.float32)
    for i, bounds in enumerate(case.published(float(case.arrays["eps"]))):
        for side, bound in zip(("LB", "UB"), bounds, strict=True):
            recorded = case.arrays[f"pre{side}{i}"]
            assert float((bound - recorded).abs().max()) <= 1e-6 * float(recorded.abs().max())


# The integral and its search.


def budgets_of(case, eps, steps):
    """Margins minus drops after each step, until one is negative: what the published program calls budgets."""
    order = {k: case.options[k] for k in ("order", "shift") if k in case.options}
    points = read_points(case.center, case.norm)
    margin = (case.rows() @ case.arrays["pred"].to(case.dtype)[None, :, None]).squeeze(2)
    found = []

    def holds(drop, of):
        found.append((margin - drop)[0])
        return (found[-1] >= 0).all()[None]

    drops = drops_module.Drops(case.model, points, parse(case.options["method"]), case.rows(), steps, **order)
    drops.up_to(torch.zeros(1, dtype=torch.long), torch.tensor([eps], dtype=torch.float64), holds)
    return margin[0], torch.stack(found)


def rounds(case, all_steps=(5, 15)):
    """Radius, steps, name and verdict of the recorded integrals; 30 steps say nothing that 15 do not."""
    for radius in ("ok", "edge", "far"):
        for steps in all_steps:
            key = f"{radius}_s{steps}_"
            yield float(case.arrays[f"{radius}_eps"]), steps, key, bool(case.arrays[key + "verified"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("name", shipped(INTEGRAL))
@torch.no_grad()
def test_integral(name, dtype, tolerance, monkeypatch):
    """Constants of the nested balls, budgets and verdicts; the numbers were recorded in float32."""
    case = Case(name, dtype)
    case.on_published_bounds(monkeypatch)
    monkeypatch.setattr(drops_module, "_TOGETHER", 1)  # to see the budget after each of them
    for eps, steps, key, verdict in rounds(case):
        margin, budgets = budgets_of(case, eps, steps)
        recorded, scale = case.arrays[key + "budget"], float(margin.abs().max())
        assert torch.allclose(margin.double(), case.arrays[key + "g_x0"].double(), rtol=0, atol=1e-6 * scale)
        assert budgets.shape == recorded.shape
        assert float((budgets.double() - recorded).abs().max()) <= tolerance * scale
        constants = torch.cat([margin[None], budgets]).double().diff(dim=0).neg() / (eps / steps)
        lip = case.arrays[key + "lip"].double()
        assert float((constants - lip).abs().max() / lip.max()) <= 5 * tolerance
        assert bool((budgets[-1] >= 0).all()) == verdict


@pytest.mark.parametrize("name", INTEGRAL)
def test_search_replays_the_recorded_probes(name):
    """Given the published verdicts, the search probes the same radii in the same order and ends with the same."""
    case = Case(name)
    for steps in (5, 15):
        key = f"search_s{steps}_"
        assert replayed(case, key + "probe_eps", case.arrays[key + "probe_ok"], case.arrays[key + "init"], 15) == float(
            case.arrays[key + "radius"]
        )
    gap = case.arrays["linear_probe_gap"]
    found = replayed(case, "linear_probe_eps", gap >= 0, case.arrays["search_s15_init"], 15)
    assert found == float(case.arrays["linear_radius"])


def replayed(case, probes, verdicts, initial, max_probes=100, limit=1e5):
    queue = list(zip(case.arrays[probes].tolist(), verdicts.bool().tolist(), strict=True))

    def certified(radii, active):
        assert active.tolist() == [True]
        eps, verdict = queue.pop(0)
        assert math.isclose(float(radii), eps, rel_tol=1e-15)
        return torch.tensor([verdict])

    search = RadiusSearch(initial=float(initial), limit=limit, max_probes=max_probes)
    found = float(largest_radius(certified, torch.ones(1, dtype=torch.bool), search))
    assert queue == []
    return found


@pytest.mark.parametrize("steps", [5, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", shipped(INTEGRAL))
def test_certified_radius(name, steps, monkeypatch):
    """The whole of it: integral and search from the published pre-activation bounds. Carried on, it is no smaller."""
    case = Case(name)
    case.on_published_bounds(monkeypatch)
    published = float(case.arrays[f"search_s{steps}_radius"])
    assert float(certified(case, steps)) >= published * (1 - 1e-12)
    monkeypatch.setattr(certified_module, "Drops", FromZero)
    assert float(certified(case, steps)) == pytest.approx(published, rel=1e-12)


def certified(case, steps, **options):
    return rj.certified_radius(
        case.model, case.center, C=case.rows(), steps=steps, max_probes=15,
        initial=float(case.arrays[f"search_s{steps}_init"]), **(case.options | options),
    )  # fmt: skip


@pytest.mark.parametrize("name", shipped(INTEGRAL))
def test_certified_radius_from_the_hosts_bounds(name):
    """Close to the published one, or better; how close depends on the host's lines, which are others for most."""
    case = Case(name)
    least = 0.98 if case.case["activation"] == "relu" else 0.8
    assert float(certified(case, 5)) >= least * float(case.arrays["search_s5_radius"])
    linear = certified(case, 15, method="CROWN", order="backward", shift=0)
    assert float(linear) >= least * float(case.arrays["linear_radius"])


# The landscape.


@pytest.mark.parametrize("name", LANDSCAPE)
@torch.no_grad()
def test_landscape_scan(name, monkeypatch):
    case = Case(name)
    case.on_published_bounds(monkeypatch)
    scan = functools.partial(rj.landscape_scan, case.model, case.center, C=case.rows(), **case.options)
    ours = scan(radius=float(case.arrays["max_eps"]))
    # By the paper's formula; what is returned to users is never larger.
    monkeypatch.setattr(
        landscape, "constants_of_rows", lambda a, _: row_constants(a, torch.ones_like(a.jacobian[0][:, 0]))
    )
    found = scan(radius=float(case.arrays["max_eps"]))
    undetermined, constants = found.undetermined[0, :, 0].numpy(), found.constants[0, :, 0].numpy()
    recorded = case.arrays["scan_nuns"].numpy(), case.arrays["scan_lip"].numpy()
    assert np.allclose(found.radii[0], case.arrays["scan_eps"], rtol=1e-12, atol=0)
    assert undetermined.tolist() == recorded[0].tolist()
    assert np.allclose(constants, recorded[1], rtol=1e-5, atol=0)
    assert (ours.constants[0, :, 0].numpy() <= constants * (1 + 1e-6)).all()


def stationary_free(case, **options):
    """Found with the search's settings of the published program, and the probes: radius and verdict."""
    probes = []

    def probing(check, points):
        certified = stationary_probing(check, points)

        def noted(radii, active):
            found = certified(radii, active)
            probes.append((float(radii), bool(found)))
            return found

        return noted

    with pytest.MonkeyPatch.context() as patch:
        stationary_probing = stationary_module.probing
        patch.setattr(stationary_module, "probing", probing)
        found = rj.stationary_free_radius(
            case.model, case.center, C=case.rows(), initial=float(case.arrays["init_eps"]),
            limit=float(case.arrays["upper_limit"]), **(case.options | options),
        )  # fmt: skip
    return float(found), probes


@pytest.mark.parametrize("name", LANDSCAPE)
def test_stationary_free_radius(name, monkeypatch):
    case = Case(name)
    case.on_published_bounds(monkeypatch)
    found, probes = stationary_free(case)
    published = float(case.arrays["max_eps"])
    if 10 * published <= float(case.arrays["upper_limit"]):
        assert found == pytest.approx(published, rel=1e-12)
        assert [eps for eps, _ in probes] == pytest.approx(case.arrays["probe_eps"].tolist(), rel=1e-12)
        inputs = case.center.numel()
        assert [ok for _, ok in probes] == [nuns < inputs for nuns in case.arrays["probe_nuns"].tolist()]
    else:  # quirk: the published search gave up because its next radius was above the limit
        assert published <= found <= float(case.arrays["upper_limit"])
        inside = stationary_module.read_points(case.center, case.norm).region(torch.tensor([found]))
        given = dict(zip(case.given_names(), ((l[None], u[None]) for l, u in case.published(found)), strict=True))
        lower, upper = rj.jacobian_bounds(case.model, inside, C=case.rows(), intermediate_bounds=given)
        assert bool(((lower > 0) | (upper < 0)).any())


@pytest.mark.parametrize("name", shipped(LANDSCAPE))
def test_stationary_free_radius_from_the_hosts_bounds(name):
    case = Case(name)
    least = 0.98 if case.case["activation"] == "relu" else 0.8
    assert stationary_free(case)[0] >= least * float(case.arrays["max_eps"])
