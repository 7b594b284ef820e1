"""Data flows one way: each module imports only what lies before it, and nothing below the graph needs the host."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import recurjac_plugin

PACKAGE = Path(recurjac_plugin.__file__).parent
# Plain torch on plain data: from the graph up to the Jacobian bounds of a graph.
BELOW_THE_HOST = (
    "activation", "activations", "bounds", "boxes", "branching", "combinations", "contraction", "curves", "errors",
    "expansion", "forward", "fusions", "gains", "graph", "interval", "linear_maps", "methods", "multivariate", "node",
    "operator_norms", "operators", "plots", "radius_search", "recursion", "refinement", "relaxation", "relevance",
    "rules", "steps", "undetermined",
)  # fmt: skip
# What each stage must not know of: the stages after it.
STAGES = (
    (
        "node",
        "linear_maps",
        "operator_norms",
        "relaxation",
        "rules",
        "activation",
        "activations",
        "fusions",
        "operators",
        "steps",
        "multivariate",
        "graph",
    ),
    ("undetermined", "relevance", "gains", "curves", "expansion", "recursion", "forward", "interval"),
    ("analysis",),
    ("global_lipschitz", "sampled_lipschitz"),
    ("jacobian",),
    ("lipschitz",),
    ("output_bounds",),
    ("gradient_rounding", "slopes", "monotonicity"),
    ("refinement", "boxes", "branching", "contraction"),
    ("box_bounds",),
    ("search",),
    ("stages",),
    ("verification",),
    ("certified_radius", "stationary_free_radius"),
    ("landscape",),
    ("jacobian_op",),
    ("jacobian_node",),
    ("registration",),
)
# The two files that come in from outside know nothing of bounds.
ADAPTERS = ("onnx_model", "vnnlib_spec", "spec")


def direct_imports(module):
    """Modules of this package that a module imports, anywhere in its code."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module.partition(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {str(name).split(".")[1] for name in names if str(name).startswith("recurjac_plugin.")}
    return {name for name in found if (PACKAGE / f"{name}.py").exists()}


def all_imports(module):
    """What a module needs, directly or through others."""
    found, open_ = set(), {module}
    while open_:
        open_ = set().union(*(direct_imports(name) for name in open_)) - found
        found |= open_
    return found


def test_the_reader_of_imports_sees_them():
    assert direct_imports("jacobian") >= {"analysis", "bounds", "methods"}
    assert direct_imports("errors") == set()
    assert "host" in all_imports("jacobian")


@pytest.mark.parametrize("module", BELOW_THE_HOST)
def test_nothing_below_the_graph_needs_the_host(module):
    assert not {name for name in all_imports(module) if "host" in name}


@pytest.mark.parametrize("module", ADAPTERS)
def test_adapters_need_neither_host_nor_graph(module):
    assert not all_imports(module) & {"host", "graph", "analysis", "jacobian"}


@pytest.mark.parametrize("stage", range(len(STAGES)))
def test_no_stage_needs_a_later_one(stage):
    later = {module for modules in STAGES[stage + 1 :] for module in modules}
    for module in STAGES[stage]:
        assert not all_imports(module) & later, module


def package_imports(folder):
    """Modules and packages that the files of a package import, as far as they are ours."""
    found = set()
    for path in (PACKAGE / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found |= {node.module} if node.module != "recurjac_plugin" else {f".{each.name}" for each in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return {name.removeprefix("recurjac_plugin.").partition(".")[0] for name in found if "recurjac_plugin." in name}


def test_benchmarks_come_after_verification_and_reports_after_benchmarks():
    assert "verification" in package_imports("bench")
    assert "bench" in package_imports("report")
    assert not package_imports("bench") & {"cli", "report"}
    assert "cli" not in package_imports("report")
    assert not {"bench", "report", "cli"} & {
        name.partition(".")[0] for path in PACKAGE.glob("*.py") for name in direct_imports_of_packages(path)
    }


def direct_imports_of_packages(path):
    """Packages within ours that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.removeprefix("recurjac_plugin."))
    return {name for name in found if (PACKAGE / name.partition(".")[0]).is_dir()}
