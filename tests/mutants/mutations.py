"""Ways to break the package, some in every folder, each of which a test must notice.

A mutant replaces one piece of text, which occurs once in its file. What it would mean is said in one line. The tests
that are run are those of the folder, not of the mutant: they stand for "somebody who changed this ran the fitting
tests". `run.py` applies one after the other.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change.

    Attributes:
        file: below `recurjac_plugin/`.
        old: the text there, which occurs once.
        new: what takes its place.
        meaning: what would be wrong.
        tests: below `tests/`, files or folders.
    """

    file: str
    old: str
    new: str
    meaning: str
    tests: tuple[str, ...]


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "numerics/region.py",
        "return math.inf if self.norm == 1 else self.norm / (self.norm - 1)",
        "return math.inf if self.norm == 1 else self.norm",
        "the dual of an l_p norm is taken for p itself, which shows for other p than 2",
        ("host/test_region.py", "jacobian/test_soundness.py", "lipschitz/test_local.py"),
    ),
    Mutant(
        "numerics/rounding.py",
        "scale = terms if fallen is None else terms + torch.where(fallen.isfinite(), fallen.abs(), 0.0)",
        "scale = terms",
        "a proof leaves no room for the rounding of what a bound lost on the way from the centre",
        ("branch_and_bound/test_goals.py", "numerics"),
    ),
    Mutant(
        "numerics/intervals.py",
        "lower, upper = torch.maximum(first[0], second[0]), torch.minimum(first[1], second[1])\n"
        "    if bool((lower - upper",
        "lower, upper = torch.maximum(first[0], second[0]), torch.minimum(first[1], second[1])\n"
        "    if bool((upper - lower",
        "bounds that contradict each other are intersected without a word",
        ("numerics", "recursion"),
    ),
    Mutant(
        "activations/functions.py",
        "((0.0, (negative_slope(parameters, names, default), 1.0)),)",
        "((0.0, (negative_slope(parameters, names, default),)),)",
        "an interval that touches a kink from the left does not contain the slope on the right",
        ("activations/test_table.py",),
    ),
    Mutant(
        "activations/activation.py",
        "return torch.ceil(first - reach) <= torch.floor(last + reach)",
        "return torch.ceil(first) <= torch.floor(last)",
        "rounding loses a peak of a periodic derivative at the end of an interval",
        ("activations/test_table.py", "activations/test_curves.py"),
    ),
    Mutant(
        "activations/curves.py",
        "self._step.square() / 8",
        "self._step.square() / 16",
        "lines cut through a derivative between the points of their grid",
        ("activations/test_curves.py",),
    ),
    Mutant(
        "activations/lines.py",
        "value = torch.where(center >= 0, right, left) * center",
        "value = right * center",
        "lines start from the wrong value where a ReLU is inactive at the centre",
        ("gains/test_crown.py", "preactivations/test_crown.py"),
    ),
    Mutant(
        "graph/linear_maps.py",
        "behind, self.groups, self.dilation)",
        "behind, self.groups, 1)",
        "rows are pulled back through a dilated convolution as if it were not dilated",
        ("graph/test_linear_maps.py", "graph/test_operators.py"),
    ),
    Mutant(
        "graph/operators.py",
        '(variance + a["eps"]).rsqrt()',
        "variance.rsqrt()",
        "batch normalisation without its epsilon: derivatives are off by parts of a million",
        ("graph/test_operators.py", "jacobian/test_soundness.py"),
    ),
    Mutant(
        "graph/operators.py",
        "    if not _acts_per_sample(function):\n",
        "    if False:\n",
        "operators that mix the samples of a batch are taken for maps of one sample",
        ("graph/test_operators.py",),
    ),
    Mutant(
        "graph/extremes.py",
        "return (low > 0).to(low.dtype), (high >= 0).to(high.dtype)",
        "overlap = 0.02 * (high - low)\n    return (low > -overlap).to(low.dtype), (high >= overlap).to(high.dtype)",
        "a maximum is decided though its operands' bounds overlap by 2 %",
        ("graph/test_extremes.py",),
    ),
    Mutant(
        "graph/extremes.py",
        "loses = high < low.amax(1, keepdim=True)",
        "loses = high < low.amax(1, keepdim=True) + 0.02 * (high - low)",
        "a contender drops out of a maximum though it may win by 2 % of its interval",
        ("graph/test_extremes.py",),
    ),
    Mutant(
        "graph/products.py",
        "if bool(((lower <= 0) & (upper >= 0)).any()):",
        "if bool(((lower < 0) & (upper > 0)).any()):",
        "division by an interval that ends at 0 is accepted",
        ("graph/test_extremes.py", "graph/test_products.py"),
    ),
    Mutant(
        "graph/fusions.py",
        "                elif _close(coefficient, pattern.number):\n",
        "                else:\n",
        "twice a GELU, or half of it, is taken for a GELU",
        ("graph/test_fusions.py",),
    ),
    Mutant(
        "graph/sweeps.py",
        "return pull_absolute(step, rows.sign())",
        "return (pulled.clamp(min=0) for pulled in pull(step, rows.sign()))",
        "relevance: weights of opposite signs cancel on the way back from the rows",
        ("gains/test_paths.py",),
    ),
    Mutant(
        "gains/paths.py",
        "rows.abs().sum(1)",
        "rows.sum(1).abs()",
        "relevance: two rows with opposite coefficients cancel, and a neuron of both is left out",
        ("gains/test_paths.py",),
    ),
    Mutant(
        "gains/crown.py",
        "_met(negative, lines.lower_constant)",
        "_met(negative, lines.upper_constant)",
        "CROWN takes the upper line's constant for the lower line where a coefficient is negative",
        ("gains/test_crown.py",),
    ),
    Mutant(
        "gains/gains.py",
        "if len(block) > 1:\n                block = block[regions]",
        "if len(block) > 1 and len(regions) > 1:\n                block = block[regions]",
        "a single region chosen from a batch gets the gains of all, or of the first",
        ("gains", "jacobian/test_bounded.py"),
    ),
    Mutant(
        "gains/errors.py",
        "size = centers[name].abs() + reach.get(name, 0.0)",
        "size = centers[name].abs()",
        "the size of the terms, and with it their rounding, is that at the centre, however wide the region",
        ("gains/test_errors.py", "preactivations/test_rounding.py"),
    ),
    Mutant(
        "passes/rules.py",
        "constant = (du - dl) * (-yl) * (yu / width)",
        "constant = 0.98 * (du - dl) * (-yl) * (yu / width)",
        "the chord of RecurJac-Linear lies 2 % too low in the middle",
        ("passes/test_rules.py",),
    ),
    Mutant(
        "passes/products.py",
        "((lines.upper_slope != 0) | (lines.lower_slope != 0))",
        "((lines.upper_slope != 0) & (lines.lower_slope != 0))",
        "a neuron with one flat line carries nothing on, though its other line does",
        ("recursion", "jacobian/test_soundness.py"),
    ),
    Mutant(
        "recursion/forward.py",
        "return lower + more[0], upper + more[1]",
        "return lower + more[0], upper + more[0]",
        "the shifted order takes the lower bound of what leads around the first layer for both sides",
        ("recursion/test_orders.py",),
    ),
    Mutant(
        "recursion/sums.py",
        "return (positive * lower + negative * upper).sum(2), (positive * upper + negative * lower).sum(2)",
        "return (positive * lower + negative * upper).sum(2), (positive * upper + negative * upper).sum(2)",
        "sums of entries with negative coefficients are bounded from above by too little",
        ("recursion/test_sums.py",),
    ),
    Mutant(
        "passes/mccormick.py",
        "activations[name] = change.padded(error, steepest, rounding)",
        "activations[name] = change",
        "lines of the expansion have no room for the rounding of distances from the centre",
        ("passes/test_mccormick.py",),
    ),
    Mutant(
        "recursion/fast_lip.py",
        "middle.abs() * radius, (high - low) / 2",
        "middle * radius, (high - low) / 2",
        "Fast-Lip turns intervals around at neurons with one negative derivative",
        ("recursion", "jacobian/test_soundness.py"),
    ),
    Mutant(
        "host/region.py",
        "radius = torch.maximum(upper - center, center - lower).flatten(1)",
        "radius = (upper - lower).flatten(1) / 2",
        "the region of a box whose middle was rounded does not reach its further end",
        ("host/test_region.py",),
    ),
    Mutant(
        "host/state.py",
        "            vars(module).clear()\n",
        "",
        "what the host wrote to a model stays there",
        ("host", "plugin/test_registration.py"),
    ),
    Mutant(
        "preactivations/zonotope.py",
        "return PreactivationBounds(*bounds[name], errors[name]).widened()",
        "return bounds[name]",
        "a zonotope takes a neuron for stable whose sign rounding may have changed",
        ("preactivations/test_zonotope.py",),
    ),
    Mutant(
        "preactivations/crown.py",
        "lines.padded(error, steepest, rounding).where(layer.lower < layer.upper, nothing)",
        "lines.padded(error, steepest, rounding)",
        "an operand that has won a maximum on one box of a batch counts twice if it has not on another",
        ("preactivations/test_crown_batches.py",),
    ),
    Mutant(
        "jacobian/bounds.py",
        "return bool(((lower <= J) & (upper >= J)).all())",
        "return not bool(((lower > J) | (upper < J)).any())",
        "`Bounds.contains` says that NaN is within bounds",
        ("jacobian/test_bounds.py",),
    ),
    Mutant(
        "jacobian/bounds.py",
        "if lower.dtype != torch.promote_types(lower.dtype, self.dtype):",
        "if not lower.numel():",
        "bounds in a narrower number type are rounded to the nearest number, not outward",
        ("jacobian/test_held_bounds.py",),
    ),
    Mutant(
        "jacobian/bounds.py",
        "tuple(methods[i] for i in regions)",
        "methods[: len(regions)]",
        "regions that an index chooses have the methods of the first ones",
        ("jacobian/test_held_bounds.py",),
    ),
    Mutant(
        "plots/figures.py",
        "return (lower > 0).astype(int) - (upper < 0).astype(int)",
        "return (lower > 0).astype(int) - (lower < 0).astype(int)",
        "pictures show a negative sign wherever the lower bound is negative",
        ("jacobian/test_bounds.py",),
    ),
    Mutant(
        "hooks/torch_import.py",
        "add_safe_globals([restored])",
        "add_safe_globals([])",
        "torch is not told what makes saved results anew",
        ("user/test_kept_results.py",),
    ),
    Mutant(
        "tables/comparison.py",
        "name in (AUTO, autos[i])",
        "name not in (AUTO, autos[i])",
        "a comparison names every method but the one that `auto` chooses",
        ("tables/test_compare_methods.py",),
    ),
    Mutant(
        "written/markup.py",
        "{_rounded(upper, digits, ROUND_CEILING)}",
        "{_rounded(upper, digits, ROUND_FLOOR)}",
        "upper bounds are rounded down where they are written",
        ("jacobian/test_held_bounds.py",),
    ),
    Mutant(
        "lipschitz/norms.py",
        "sign = torch.where(lower >= 0, below, -above)",
        "sign = torch.where(lower > 0, below, -above)",
        "entries between 0 and something count as negative in the constant of the l_inf norm",
        ("lipschitz/test_local.py", "lipschitz/test_mean_value.py"),
    ),
    Mutant(
        "lipschitz/product.py",
        "return torch.where(nearest.double() < value, above, nearest)",
        "return nearest",
        "the product of operator norms is rounded to nearest, which may be below it",
        ("lipschitz/test_product.py",),
    ),
    Mutant(
        "properties/cases.py",
        "for array in (self.lower, self.upper, self.lower_open, self.upper_open)",
        "for array in (self.lower, self.upper)",
        "boxes of a property that differ in an open end alone are merged",
        ("properties",),
    ),
    Mutant(
        "properties/spec.py",
        "        lower = np.where(lower > self.lower, np.nextafter(lower, np.asarray(-np.inf, dtype)), lower)\n",
        "",
        "a lower end that float32 has not is rounded up, and a part of the box is left out",
        ("properties", "verification/test_verdicts.py"),
    ),
    Mutant(
        "branch_and_bound/search.py",
        "return self.finished and not self.stuck and not self.aside",
        "return self.finished and not self.stuck",
        "boxes that were put aside count as proved",
        ("branch_and_bound/test_exclusion_search.py",),
    ),
    Mutant(
        "branch_and_bound/exclusion.py",
        "left = left._replace(alive=one_hot(disjunct, self.rows.disjuncts).bool())",
        "left = left._replace(alive=one_hot(disjunct * 0, self.rows.disjuncts).bool())",
        "taken apart, all boxes ask for the first disjunct",
        ("branch_and_bound/test_fixing.py", "branch_and_bound/test_exclusion_search.py"),
    ),
    Mutant(
        "branch_and_bound/exclusion.py",
        "if bool((needed.sum(1) > valid.sum(1))[index].any()):",
        "if False:",
        "a coordinate is fixed by one row alone, whatever the other rows of the disjunct do",
        ("branch_and_bound",),
    ),
    Mutant(
        "branch_and_bound/contraction.py",
        "torch.minimum(above, limit + room)",
        "torch.minimum(above, limit)",
        "cuts are made to the last digit, and rounding may cut off a violation",
        ("branch_and_bound/test_contraction.py",),
    ),
    Mutant(
        "branch_and_bound/boxes.py",
        "lower = torch.cat((self.lower, self.lower.scatter(1, axis, middle)))",
        "lower = torch.cat((self.lower, self.lower.scatter(1, axis, middle + (high - low) / 64)))",
        "the halves of a box leave a gap between them",
        ("branch_and_bound/test_boxes.py",),
    ),
    Mutant(
        "branch_and_bound/entry_signs.py",
        "lacking[0].index_add_(0, boxes.region, (~boxes.known.rises).int())",
        "lacking[0].index_copy_(0, boxes.region, (~boxes.known.rises).int())",
        "an entry rises on the region if it does so on one of its boxes, the last",
        ("branch_and_bound/test_entry_signs.py", "certificates/test_signs.py"),
    ),
    Mutant(
        "plugin/inner_jacobian.py",
        "upper_of_sums(self.order, -coefficients, -plain)",
        "upper_of_sums(self.order, coefficients, -plain)",
        "lower bounds of sums of derivatives inside a model are those of other sums",
        ("plugin/test_jacobian_op.py",),
    ),
    Mutant(
        "certificates/signs.py",
        "toward = torch.full_like(center, math.inf if outward else -math.inf)",
        "toward = torch.full_like(center, math.inf)",
        "derivatives are sampled at points that rounding has moved out of the region",
        ("certificates/test_signs.py",),
    ),
    Mutant(
        "networks/static.py",
        "return Take(axis, index % size) if index.ndim else",
        "return Take(axis, abs(index)) if index.ndim else",
        "negative indices of an ONNX Gather count from the wrong end",
        ("networks",),
    ),
    Mutant(
        "networks/plain.py",
        "return graph if graph is not None and _same(graph, network) else None",
        "return graph",
        "nodes that were read without the host are not compared with the network",
        ("networks/test_plain.py",),
    ),
    Mutant(
        "neurons/optimised.py",
        "end = torch.where(beta > 0, parts.lower[name], parts.upper[name])",
        "end = torch.where(beta > 0, parts.upper[name], parts.lower[name])",
        "a multiplier pays for the wrong end of an interval",
        ("neurons",),
    ),
    Mutant(
        "neurons/optimised.py",
        "end = torch.where(beta > 0, parts.lower[name], parts.upper[name])",
        "end = neurons.center",
        "what a multiplier pays is left out",
        ("neurons",),
    ),
    Mutant(
        "neurons/searches/branching.py",
        "upper[name] = torch.cat((torch.where(here, high.clamp(max=0.0), high), high))",
        "upper[name] = torch.cat((torch.where(here, high.clamp(max=-0.1), high), high))",
        "points near a kink lie on neither side",
        ("neurons",),
    ),
    Mutant(
        "neurons/contraction.py",
        "torch.where(slope < 0, torch.maximum(low, end), low),",
        "torch.where(slope > 0, torch.maximum(low, end), low),",
        "boxes are cut at the wrong end",
        ("neurons",),
    ),
    Mutant(
        "verification/counterexample.py",
        "outside = np.where(box.lower_open, low <= box.lower, low < box.lower)",
        "outside = low < box.lower",
        "a counterexample is looked for on an open end, where it is none",
        ("verification",),
    ),
    Mutant(
        "verification/attacks/descent.py",
        "return torch.where(worst.isnan(), torch.inf, worst)",
        "return torch.where(worst.isnan(), -torch.inf, worst)",
        "a point with NaN for an output is the best one of an attack",
        ("verification/test_attack.py",),
    ),
    Mutant(
        "bench/summary.py",
        'verdict = record.get("late") or record["result"]',
        'verdict = record["result"]',
        "a wrong verdict that came too late is not counted",
        ("bench/test_summary.py",),
    ),
    Mutant(
        "report/statistics.py",
        'return "wrong" if answer.wrong else answer.result',
        "return answer.result",
        "the page about a run counts wrong verdicts as solved",
        ("report",),
    ),
    Mutant(
        "cli/app.py",
        "    sys.exit(2)\n",
        "    sys.exit(0)\n",
        "bad input ends with exit code 0",
        ("cli/test_app.py", "cli/test_bad_input.py"),
    ),
    Mutant(
        "lipschitz/searched/boxes.py",
        "self.closed = torch.maximum(self.closed, self.bound[~mask].amax(0))",
        "pass",
        "boxes that a search is done with no longer count in its upper bound",
        ("lipschitz/test_boxes.py",),
    ),
    Mutant(
        "lipschitz/searched/boxes.py",
        "nearest = torch.maximum(low, -high).clamp(min=0)",
        "nearest = torch.maximum(low.abs(), high.abs())",
        "boxes that reach out of a ball are left out, though a part of them lies in it",
        ("lipschitz/test_boxes.py",),
    ),
    Mutant(
        "lipschitz/ellipsoids.py",
        "block = block if bool(real[end].all()) else block * real[end].unsqueeze(3 - axis)",
        "pass",
        "constants depend on which regions are bounded beside one",
        ("jacobian/test_parts.py", "lipschitz/test_norms.py"),
    ),
    Mutant(
        "forms/functions.py",
        "return 2 * torch.atan(input / (_hypot(input, other) + other))",
        "return torch.atan(input / other)",
        "an angle is that of the half plane of the example, on whichever side the region lies",
        ("forms/test_forms.py",),
    ),
)
"""All of them, in the order of the folders."""
