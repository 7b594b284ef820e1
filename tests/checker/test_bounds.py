"""Bounds, forms and gradients of random networks against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from recurjac_plugin.checker.bounds import Bounds, gradient_bounds, line_above
from recurjac_plugin.checker.maps import Dense, Diagonal
from recurjac_plugin.checker.network import Affine, Input, Kinks, Network
from recurjac_plugin.checker.rounding import GROWTH

BOXES = 3


def exact(values) -> list[Fraction]:
    return [Fraction(float(value)) for value in values]


def evaluated(network: Network, x: list[Fraction]) -> list[list[Fraction]]:
    """Every vector of a network, in rational arithmetic."""
    vectors = [x]
    for vector in network.vectors[1:]:
        if isinstance(vector, Kinks):
            slopes = zip(exact(vector.negative), exact(vector.positive), vectors[vector.source])
            vectors.append([below * z if z < 0 else above * z for below, above, z in slopes])
            continue
        total = exact(vector.bias)
        for source, map_ in vector.terms:
            weight = np.diag(map_.weight) if isinstance(map_, Diagonal) else map_.weight
            for i, row in enumerate(weight):
                total[i] += sum(w * h for w, h in zip(exact(row), vectors[source]))
        vectors.append(total)
    return vectors


def random_network(random: np.random.Generator) -> Network:
    """Layers, scalings, residual sums, several kinds of kinks; weights from 1e-30 to 1e30, constants to 1e8."""
    vectors = [Input(int(random.integers(1, 4)))]
    scale = 10.0 ** random.integers(-30, 30) if random.random() < 0.4 else 1.0
    for _ in range(int(random.integers(2, 8))):
        last, size, choice = len(vectors) - 1, vectors[-1].size, random.random()
        if choice < 0.5 or not last:
            m = int(random.integers(1, 6))
            terms = [(last, Dense(random.standard_normal((m, size)) * scale ** random.choice([0, 1, -1])))]
            if random.random() < 0.3:
                other = int(random.integers(0, len(vectors)))
                terms.append((other, Dense(random.standard_normal((m, vectors[other].size)))))
            bias = random.standard_normal(m) * 10.0 ** random.integers(-3, 9 if random.random() < 0.2 else 1)
            vectors.append(Affine(tuple(terms), bias, np.zeros(m)))
        elif choice < 0.6:
            vectors.append(Affine(((last, Diagonal(random.standard_normal(size))),), np.zeros(size), np.zeros(size)))
        elif choice < 0.7:
            other = int(random.choice([i for i, vector in enumerate(vectors) if vector.size == size]))
            terms = ((other, Diagonal(np.ones(size))), (last, Diagonal(np.ones(size))))
            vectors.append(Affine(terms, np.zeros(size), np.zeros(size)))
        else:
            negative = random.choice([0.0, 0.01, -1.0, 1.5])
            source = last if random.random() < 0.6 else int(random.integers(0, len(vectors)))
            size = vectors[source].size
            vectors.append(Kinks(source, np.full(size, negative), np.ones(size)))
    return Network.of(vectors, len(vectors) - 1)


def points(random: np.random.Generator, low: np.ndarray, high: np.ndarray) -> list[list[Fraction]]:
    """Corners, middles and random points of a box, exactly."""
    found = []
    for _ in range(5):
        t = random.choice([0.0, 0.5, 1.0], len(low)) if random.random() < 0.6 else random.random(len(low))
        found.append([lo + (hi - lo) * s for lo, hi, s in zip(exact(low), exact(high), exact(t))])
    return found


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_bounds_contain_exact_values_and_differences(first):
    for seed in range(first, first + 25):
        random = np.random.default_rng(seed)
        network = random_network(random)
        n, k = network.vectors[0].size, network.vectors[-1].size
        center = random.standard_normal((BOXES, n)) * 10.0 ** random.integers(-2, 5)
        radius = 10.0 ** random.uniform(-6, 1, (BOXES, n)) * (random.random((BOXES, n)) < 0.9)
        low, high = center - radius, center + radius
        bounds = Bounds(network, low, high)
        form, (least, _) = bounds.output_form(), bounds.output_form().least(low, high)
        gradients = gradient_bounds(bounds, np.repeat(np.arange(BOXES), k), np.tile(np.arange(k), BOXES))
        lower, upper = (each.reshape(BOXES, k, n) for each in gradients)
        for i in range(BOXES):
            for x in points(random, low[i], high[i]):
                vectors = evaluated(network, x)
                for v, vector in enumerate(vectors):
                    for j, value in enumerate(vector):
                        assert Fraction(bounds.low[v][i, j]) <= value <= Fraction(bounds.high[v][i, j]), (seed, v)
                for row, value in enumerate(vectors[-1]):
                    terms = zip(exact(form.coefficients[i, row]), x)
                    line = sum(c * z for c, z in terms) + Fraction(form.offset[i, row])
                    assert line - Fraction(GROWTH) * Fraction(form.error[i, row]) <= value, seed
                    assert Fraction(least[i, row]) <= value, seed
                axis = int(random.integers(n))
                y = [*x]
                y[axis] = Fraction(low[i, axis]) + (Fraction(high[i, axis]) - Fraction(low[i, axis])) / 3
                if y[axis] == x[axis]:
                    continue
                for row, (one, other) in enumerate(zip(evaluated(network, y)[-1], vectors[-1])):
                    quotient = (one - other) / (y[axis] - x[axis])
                    assert Fraction(lower[i, row, axis]) <= quotient <= Fraction(upper[i, row, axis]), seed


def test_bounds_are_of_some_use():
    """Bounds that hold could be infinitely wide: on small boxes they are the function, on larger ones near CROWN's."""
    random = np.random.default_rng(0)
    vectors = [Input(2)]
    for m in (8, 8, 1):
        terms = ((len(vectors) - 1, Dense(random.standard_normal((m, vectors[-1].size)))),)
        vectors.append(Affine(terms, random.standard_normal(m), np.zeros(m)))
        if m > 1:
            vectors.append(Kinks(len(vectors) - 1, np.zeros(m), np.ones(m)))
    network = Network.of(vectors, len(vectors) - 1)
    for width, most in ((0.0, 1e-12), (1e-3, 0.05), (0.1, 5.0)):
        low = np.full((1, 2), 0.3)
        bounds = Bounds(network, low, low + width)
        lower, upper = bounds.refined()
        assert upper[0, 0] - lower[0, 0] <= most


@pytest.mark.parametrize("seed", range(20))
def test_a_line_above_is_above(seed):
    """At both ends and at the kink, exactly; with ends from 1e-300 to 1e300 of either sign."""
    random = np.random.default_rng(seed)
    negative, positive = random.standard_normal((2, 200))
    ends = random.choice([-1.0, 1.0], (2, 200)) * 10.0 ** random.uniform(-300, 300, (2, 200))
    low, high = np.minimum(*ends), np.maximum(*ends)
    with np.errstate(all="ignore"):
        slope, offset = line_above(negative, positive, low, high)
    for n, p, lo, hi, s, t in zip(*map(exact, (negative, positive, low, high)), slope, offset):
        if not np.isfinite([s, t]).all():
            continue  # proves nothing, and nothing is concluded from it
        for z in {lo, hi, *({Fraction(0)} if lo <= 0 <= hi else set())}:
            assert Fraction(s) * z + Fraction(t) >= (n * z if z < 0 else p * z)


def test_what_overflows_proves_nothing():
    """Infinite and NaN bounds are never above anything."""
    big = np.full((1, 1), 1e308)
    vectors = [Input(1), Affine(((0, Dense(big)),), np.zeros(1), np.zeros(1)), Kinks(1, np.zeros(1), np.ones(1))]
    vectors.append(Affine(((2, Dense(np.ones((1, 1)))), (1, Dense(-np.ones((1, 1))))), np.ones(1), np.zeros(1)))
    network = Network.of(vectors, 3)
    low, high = np.full((1, 1), -1e10), np.full((1, 1), 1e10)
    bounds = Bounds(network, low, high)
    least, _ = bounds.output_form().least(low, high)
    assert not (least > 0).any()
    lower, _ = gradient_bounds(bounds, np.array([0]), np.array([0]))
    assert not (lower >= 0).any()  # the true derivative is 0 or -1e308


def test_known_bounds_are_used_and_kept():
    """A part of a box inherits what was known of the whole; a stable neuron stays so."""
    network = random_network(np.random.default_rng(11))
    n = network.vectors[0].size
    low, high = -np.ones((1, n)), np.ones((1, n))
    whole = Bounds(network, low, high)
    part = Bounds(network, low, np.zeros((1, n)), whole.read)
    for v, (lower, upper) in whole.read.items():
        assert (part.low[v] >= lower).all()
        assert (part.high[v] <= upper).all()
