"""Every operator that we take has a specimen, and specimens are what they say they are."""

from __future__ import annotations

import math

import pytest
import torch

from recurjac_plugin.activations.jumps import JUMPS
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.audit.boxes import FULL, SMALL, boxes_of
from recurjac_plugin.audit.specimens import SPECIMENS
from recurjac_plugin.audit.truth import truths
from recurjac_plugin.errors import RecurJacError
from recurjac_plugin.graph.fusions import fused
from recurjac_plugin.graph.operators import OPERATORS
from recurjac_plugin.graph.products import PRODUCTS
from recurjac_plugin.host import HOST_FAILURES, IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.misread import MISREAD
from recurjac_plugin.host.read import read_graph, topological
from recurjac_plugin.preactivations.defects import DEFECTS

# Powers are one activation with one exponent, and no operator of ours with any other.
KINDS = {kind for table in (ACTIVATIONS, JUMPS, OPERATORS, PRODUCTS, DEFECTS, MISREAD) for kind in table} - {"BoundPow"}

# The exporter leaves them out, or the host or a form takes them apart.
UNWRITTEN = {"BoundConcatFromSequence", "BoundIdentity", "BoundSoftmax" if IS_03 else "BoundDiv"}
UNWRITTEN |= {"BoundATenUnflatten", "BoundGlobalAveragePool", "BoundSqueeze"}


def test_every_row_of_the_tables_has_a_specimen():
    assert sorted(KINDS - {specimen.kind for specimen in SPECIMENS}) == []


def test_specimens_have_names_of_their_own():
    assert len({specimen.name for specimen in SPECIMENS}) == len(SPECIMENS)


def kinds_on_host(specimen):
    """Kinds of the nodes of a specimen on the host, also with activations put together; None where it is not built."""
    network = specimen.placed("input").float().train(specimen.training)
    example = torch.ones(2, *network.shape)
    try:
        model = BoundedModule(network, example)
    except HOST_FAILURES:
        return None
    model.eval()
    kinds = {type(node).__name__ for node in topological(model.final_node())}
    try:
        graph = read_graph(model, BoundedTensor(example, PerturbationLpNorm(norm=math.inf, eps=0.1)))
    except RecurJacError:
        return kinds
    return kinds | {node.kind for node in fused(graph.nodes)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_specimen_of_a_kind_is_of_that_kind_on_the_host(kind, registered):
    found = [kinds_on_host(specimen) for specimen in SPECIMENS if specimen.kind == kind]
    built = [kinds for kinds in found if kinds is not None]
    assert not built or kind in UNWRITTEN or any(kind in kinds for kinds in built)


@pytest.mark.parametrize("specimen", SPECIMENS, ids=lambda specimen: specimen.name)
def test_values_are_finite_and_rounding_is_small(specimen):
    network = specimen.placed("inner")
    boxes = boxes_of(specimen, network.shape, SMALL, torch.float64)
    assert len(boxes.lower) >= 3
    for truth in truths(network, boxes, specimen.terms):
        assert bool(truth.values.isfinite().all() and truth.allowance.isfinite().all())
        assert float(truth.allowance.median()) < 1e-12 * max(1.0, float(truth.values.abs().max()))


def test_boxes_are_of_all_widths_and_distances():
    specimen = next(specimen for specimen in SPECIMENS if specimen.kind == "BoundAbs")
    boxes = boxes_of(specimen, (4,), FULL, torch.float64)
    widths = (boxes.upper - boxes.lower).amax(1)
    assert float(widths.min()) == 0
    assert float(widths.max()) == pytest.approx(1e3)
    assert bool(((widths > 0) & (widths < 1e-10)).any())
    assert float(boxes.lower.max()) > 9e4
    assert float(boxes.upper.min()) < -9e4
    crossed = (boxes.lower < 0) & (boxes.upper > 0)
    touched = (boxes.lower == 0) ^ (boxes.upper == 0)
    assert bool(crossed.any() and touched.any())
    thin = boxes_of(specimen, (2, 4, 4), FULL, torch.float64)
    assert 0 < len(thin.lower) < len(boxes.lower) / 2


def test_boxes_stay_in_the_domain():
    for specimen in SPECIMENS:
        low, high = specimen.domain
        boxes = boxes_of(specimen, specimen.shape, FULL, torch.float64)
        assert float(boxes.lower.min()) >= low
        assert float(boxes.upper.max()) <= high
        assert bool((boxes.lower <= boxes.upper).all())
