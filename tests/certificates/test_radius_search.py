"""The search for a radius, on verdicts that are known."""

from __future__ import annotations

import math

import pytest
import torch

import recurjac_plugin as rj
from recurjac_plugin.certificates.radius_search import RadiusSearch, largest_radius


def searched(certified, count=1, dtype=torch.float64, active=None, **options):
    probes = [[] for _ in range(count)]

    def noted(radii, active):
        found = certified(radii)
        for i in active.nonzero().flatten().tolist():
            probes[i].append((float(radii[i]), bool(found[i])))
        return found

    active = torch.ones(count, dtype=torch.bool) if active is None else active
    return largest_radius(noted, active, RadiusSearch(**options), dtype), probes


@pytest.mark.parametrize("threshold", [1e-4, 0.0123, 0.5, 7.0, 3e4])
def test_threshold_is_found_from_either_side(threshold):
    found, _ = searched(lambda radii: radii <= threshold)
    assert threshold - 1e-5 <= float(found) <= threshold


def test_samples_are_searched_by_themselves():
    thresholds = torch.tensor([1e-3, 0.3, 40.0, 0.0], dtype=torch.float64)
    together, probes = searched(lambda radii: radii <= thresholds, 4)
    for i, threshold in enumerate(thresholds):
        alone, own = searched(lambda radii, t=threshold: radii <= t)
        assert float(alone) == float(together[i])
        assert own[0] == probes[i]
    assert together[3] == 0


def test_samples_left_out_are_not_probed():
    found, probes = searched(lambda radii: radii <= 1, 2, active=torch.tensor([False, True]))
    assert found[0] == 0
    assert probes[0] == []
    assert 1 - 1e-5 <= found[1] <= 1


def test_only_what_was_certified_is_returned():
    """Verdicts that are not monotone, and even random ones: the answer is the largest certified probe."""
    random = torch.Generator().manual_seed(0)
    for _ in range(200):
        found, probes = searched(lambda radii: torch.rand(1, generator=random) < 0.5, max_probes=12)
        assert float(found) == max((eps for eps, ok in probes[0] if ok), default=0.0)


def test_probes_grow_then_bisect():
    _, probes = searched(lambda radii: radii < 0.6, initial=0.01, max_probes=6)
    assert [eps for eps, _ in probes[0]] == pytest.approx([0.01, 0.1, 1.0, 0.55, 0.775, 0.6625])


def test_limit_itself_is_probed_and_no_more():
    found, probes = searched(lambda radii: radii > 0, limit=0.7)
    assert float(found) == 0.7
    assert [eps for eps, _ in probes[0]] == pytest.approx([0.01, 0.1, 0.7])
    found, _ = searched(lambda radii: radii < 0.65, limit=0.7)
    assert 0.65 - 1e-5 <= float(found) < 0.65
    assert float(searched(lambda radii: radii > 0, limit=0.001)[0]) == 0.001


def test_nothing_certified_ends_below_the_tolerance():
    found, probes = searched(lambda radii: radii < 0, tolerance=1e-4)
    assert float(found) == 0
    assert [eps for eps, _ in probes[0]] == pytest.approx([0.01, 0.001, 0.0001])


def test_radii_are_numbers_of_the_type():
    found, probes = searched(lambda radii: radii < 1000 / 3, dtype=torch.float32, tolerance=1e-9)
    assert all(eps == float(torch.tensor(eps, dtype=torch.float32)) for eps, _ in probes[0])
    assert len(probes[0]) < 50  # neighbours in float32 end the search
    assert 0 < 1000 / 3 - float(found) < 1e-4


@pytest.mark.parametrize("name", ["initial", "limit", "tolerance"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "1", None, True])
def test_numbers_must_make_sense(name, value):
    with pytest.raises(rj.InputError, match=name):
        RadiusSearch(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, None])
def test_probes_must_count(value):
    with pytest.raises(rj.InputError, match="max_probes"):
        RadiusSearch(max_probes=value)
