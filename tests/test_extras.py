"""The optional parts: what each needs is named with its install line where it is missing, and the core needs none."""

from __future__ import annotations

import json
import re
import sys

import pytest
from places import DATA, ROOT
from scripts import run_code

from recurjac_plugin.extras import EXTRAS, install_line, need

HIDE = "import sys; sys.modules.update(dict.fromkeys({names!r}));"
NETWORK, PROPERTY = str(DATA / "digits_relu.onnx"), str(DATA / "digits_relu_small.vnnlib")
OPTIONAL = sorted({name for extra in EXTRAS if extra != "host" for name in EXTRAS[extra].packages})
MODEL = """
import torch
import recurjac_plugin as rj
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.{activation}(), torch.nn.Linear(8, 2))
x0 = torch.rand(1, 3)
model = BoundedModule(net, x0)
x = BoundedTensor(x0, PerturbationLpNorm(norm=float("inf"), eps=0.1))
"""
LIBRARY = "import recurjac_plugin as rj\ntry:\n    {call}\nexcept rj.ExtraError as error:\n    print(error)"
COMMAND = "sys.argv[1:] = {arguments!r}\nfrom recurjac_plugin.cli import main\nmain()"


def without(names, code):
    """What a process does that has none of these modules."""
    return run_code(HIDE.format(names=list(names)) + "\n" + code)


def test_the_core_works_with_nothing_else():
    code = (
        MODEL.format(activation="Tanh")
        + """
bounds = rj.jacobian_bounds(model, x)
inside = x0 + 0.1 * (2 * torch.rand(64, 3) - 1)
J = torch.func.vmap(torch.func.jacrev(net))(inside)
assert ((bounds.lower - 1e-5 <= J) & (J <= bounds.upper + 1e-5)).all()
assert rj.local_lipschitz(model, x) > 0
assert rj.monotonicity(model, x).shape == (1, 2, 3)
rj.register()
lower, upper = model.compute_bounds(x=(x,), method="RecurJac+CROWN")
assert (lower <= net(x0)).all() and (net(x0) <= upper).all()
lower, upper = rj.output_bounds(model, x)
assert (lower <= net(x0)).all() and (net(x0) <= upper).all()
print("done")
"""
    )
    shown = without(OPTIONAL, code)
    assert shown.stdout.strip() == "done", shown.stderr


@pytest.mark.parametrize(
    ("extra", "module", "call"),
    [
        ("onnx", "onnx", f"rj.load_onnx({NETWORK!r})"),
        ("onnx", "onnx2pytorch", f"rj.load_onnx({NETWORK!r})"),
        ("onnx", "onnxruntime", f"rj.load_onnx({NETWORK!r})"),
        ("onnx", "vnnlib", f"rj.load_vnnlib({PROPERTY!r})"),
        ("onnx", "onnx", f"import recurjac_plugin.checker as c; c.check({NETWORK!r}, {PROPERTY!r}, {PROPERTY!r})"),
        ("onnx", "onnx", "import recurjac_plugin.networks.supported as s; s.opset_versions()"),
        ("onnx", "onnx2pytorch", "import recurjac_plugin.networks.supported as s; s.supported_operators()"),
        ("plots", "matplotlib", "import recurjac_plugin.plots as p; p.new_figure(1, 1)"),
        ("plots", "matplotlib", "import torch; t = torch.zeros(1, 1, 2, 2); rj.Bounds(t, t).plot(image_shape=(2, 2))"),
        ("plots", "matplotlib", "import recurjac_plugin.report.page as p; p.render_page([], '')"),
        ("plots", "jinja2", "import recurjac_plugin.report.page as p; p.render_page([], '')"),
        ("cluster", "distributed", "import recurjac_plugin.bench.cluster as c; [*c.run_cluster([], scheduler='x')]"),
    ],
)
def test_what_is_missing_is_named(extra, module, call):
    shown = without([module], LIBRARY.format(call=call))
    assert shown.returncode == 0, shown.stderr
    (line,) = shown.stdout.splitlines()
    assert f"needs `{module}`" in line
    assert line.endswith(f": {install_line(extra)}.")


def test_linear_programs_need_scipy():
    code = (
        MODEL.format(activation="ReLU")
        + """
try:
    rj.tighten(model, x, budget=5)
except rj.ExtraError as error:
    print(error)
"""
    )
    shown = without(["scipy"], code)
    assert shown.returncode == 0, shown.stderr
    assert "needs `scipy`" in shown.stdout
    assert install_line("exact") in shown.stdout


@pytest.mark.parametrize("module", ["appdirs", "setuptools", "tqdm"])
def test_what_the_host_itself_needs_is_named(module):
    code = "import recurjac_plugin as rj\ntry:\n    rj.jacobian_bounds\nexcept rj.HostError as error:\n    print(error)"
    shown = without([module], code)
    assert module in shown.stdout, shown.stderr
    assert install_line("host") in shown.stdout


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_the_command_without_its_packages_says_so_in_one_line(module):
    shown = without([module], COMMAND.format(arguments=["--version"]))
    assert (shown.returncode, shown.stdout) == (2, "")
    (line,) = shown.stderr.splitlines()
    assert line.startswith(f"error: The command `recurjac` needs `{module}`, which ")
    assert line.endswith(f"{install_line('cli')}.")


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("onnx", "onnx", ["verify", NETWORK, PROPERTY]),
        ("vnnlib", "onnx", ["verify", NETWORK, PROPERTY]),
        ("onnx", "onnx", ["supports", "--onnx-opset-versions"]),
        ("matplotlib", "plots", ["lipschitz", NETWORK, "--vnnlib", PROPERTY, "--eps", "0.1", "--plot", "no.png"]),
        ("matplotlib", "plots", ["radius", NETWORK, "--vnnlib", PROPERTY, "--plot", "no.png"]),
    ],
)
def test_commands_name_what_they_miss(module, extra, arguments):
    shown = without([module], COMMAND.format(arguments=arguments))
    assert (shown.returncode, shown.stdout) == (2, "")
    line = shown.stderr.splitlines()[-1]  # older torch remarks on a missing GPU
    assert "Traceback" not in shown.stderr
    assert line.startswith("error: ")
    assert f"`{module}`" in line
    assert line.endswith(f"{install_line(extra)}.")


def test_help_of_commands_needs_no_other_extra():
    others = sorted({*OPTIONAL} - {*EXTRAS["cli"].packages})
    shown = without(others, COMMAND.format(arguments=["verify", "--help"]))
    assert shown.returncode == 0, shown.stderr


def test_a_package_that_does_not_import_is_told_from_one_that_is_missing(tmp_path, monkeypatch):
    (tmp_path / "onnx.py").write_text("import nothing_of_this_name", encoding="utf-8")
    shown = run_code(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + LIBRARY.format(call=f"rj.load_onnx({NETWORK!r})")
    )
    assert "needs `onnx`, which does not import (No module named 'nothing_of_this_name')" in shown.stdout


def test_what_is_there_is_imported():
    need("onnx", "vnnlib", "onnxruntime")


def test_the_table_is_that_of_the_project():
    """Every package of an extra is in pyproject.toml, under that extra, and the core asks for what it needs alone."""
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(lines):
        return [re.match(r"[\w-]+", line)[0] for line in lines]

    extras = project["optional-dependencies"]
    for name, extra in EXTRAS.items():
        assert set(extra.packages.values()) <= {*names(extras[name])}, name
    assert names(project["dependencies"]) == ["torch", "numpy", "filelock"]
    (everything,) = extras["all"]
    assert all(name in everything for name in EXTRAS)


def test_doctor_names_extras():
    shown = without(["auto_LiRPA"], COMMAND.format(arguments=["doctor", "--json"]))
    found = json.loads(shown.stdout)
    assert [row["name"] for row in found["extras"]] == [*EXTRAS]
    assert all(row["install"] == install_line(row["name"]) for row in found["extras"])
