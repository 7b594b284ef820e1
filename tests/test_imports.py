"""Data flows one way: a folder imports only what stands before it here, and nothing below the host needs it."""

from __future__ import annotations

import pytest
from architecture import MODULES, folder_of, imports_of

ORDER = (
    "errors",
    "version",
    "extras",
    "checker",
    "files",
    "kept",
    "hooks",
    "plots",
    "written",
    "numerics",
    "modules",
    "activations",
    "graph",
    "gains",
    "passes",
    "recursion",
    "forms",
    "host",
    "bound_operators",
    "preactivations",
    "neurons",
    "jacobian",
    "lipschitz",
    "properties",
    "branch_and_bound",
    "plugin",
    "certificates",
    "networks",
    "verification",
    "tables",
    "bench",
    "report",
    "audit",
    "cli",
)
"""Every folder, and every module outside of one, after what it imports."""

BELOW_THE_HOST = ORDER[: ORDER.index("host")]
"""Plain torch on plain data."""


def test_the_reader_of_imports_sees_them():
    assert imports_of("jacobian.entries") >= {"jacobian.analysis", "jacobian.bounds", "numerics.precision"}
    assert imports_of("cli.commands.compare") >= {"cli.options", "jacobian.methods"}  # the latter within a function
    assert imports_of("errors") == set()


def test_every_folder_has_its_place():
    assert {folder_of(name) for name in MODULES} == set(ORDER)


@pytest.mark.parametrize("folder", ORDER)
def test_a_folder_imports_only_what_stands_before_it(folder):
    before = {*ORDER[: ORDER.index(folder) + 1]}
    for name in MODULES:
        if folder_of(name) == folder:
            assert {folder_of(other) for other in imports_of(name)} <= before, name


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {name: imports_of(name) for name in MODULES}
    while graph:
        leaves = {name for name, needs in graph.items() if not (needs - {name}) & graph.keys()}
        assert leaves, f"these modules import each other in a circle: {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


def test_only_the_host_and_what_follows_it_need_it():
    for name in MODULES:
        if folder_of(name) in BELOW_THE_HOST:
            assert not {other for other in imports_of(name) if folder_of(other) == "host"}, name


@pytest.mark.parametrize("name", ["host.find", "host.fixes_03", "jacobian.methods"])
def test_these_work_without_a_host(name):
    """`recurjac doctor` and the help of the commands must be there where auto_LiRPA is not."""
    reached, new = set(), {name}
    while new:
        reached |= new
        new = set().union(*map(imports_of, new)) - reached
    assert "host.library" not in reached - {"host"}
