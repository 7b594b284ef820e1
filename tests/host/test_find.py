"""Finding and importing auto_LiRPA: what is refused, and that a user's process stays as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from torch import nn

from recurjac_plugin import host
from recurjac_plugin.errors import HostError
from recurjac_plugin.host import find

HIDE_HOST = "import sys; sys.modules['auto_LiRPA'] = None\n"
SHOW_ERROR = """
try:
    from recurjac_plugin.host import BoundedModule
except Exception as error:
    print(type(error).__name__, error)
"""


def python(code: str, *options: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with `path` ahead of everything that is installed."""
    return processes.python(*options, "-c", code, env=processes.environment(*filter(None, [path])))


def fake_host(folder: Path, source: str) -> Path:
    (folder / "auto_LiRPA").mkdir()
    (folder / "auto_LiRPA" / "__init__.py").write_text(source)
    return folder


def test_missing_host_is_one_error_with_the_install_lines():
    shown = python(HIDE_HOST + SHOW_ERROR)
    assert shown.stdout.startswith("HostError `auto_LiRPA` is not installed"), shown.stderr
    assert len(shown.stdout.splitlines()) == 1
    for line in find.INSTALL_LINES:
        assert line in shown.stdout


def test_unsupported_version_is_refused_without_importing_it(tmp_path):
    fake_host(tmp_path, "__version__ = '0.9'\nprint('imported')\n")
    shown = python(SHOW_ERROR, path=tmp_path)
    assert shown.stdout.startswith(f"HostError `auto_LiRPA` 0.9 at {tmp_path / 'auto_LiRPA'}"), shown.stderr
    assert "imported" not in shown.stdout
    assert find.INSTALL_LINES[0] in shown.stdout


def test_host_without_a_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(fake_host(tmp_path, "VERSION = '0.3'\n")))
    monkeypatch.delitem(sys.modules, "auto_LiRPA")
    with pytest.raises(HostError, match="does not state its version"):
        find.find_host()


def test_root_of_a_checkout_on_the_path_is_not_the_host(tmp_path, monkeypatch):
    (tmp_path / "auto_LiRPA").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "auto_LiRPA")
    with pytest.raises(HostError, match="is not installed"):
        find.find_host()


def test_host_that_fails_to_import_says_what_it_misses(tmp_path):
    shown = python(SHOW_ERROR, path=fake_host(tmp_path, "import no_such_module\n__version__ = '0.6.1'\n"))
    assert "HostError `auto_LiRPA` 0.6.1" in shown.stdout, shown.stderr
    assert "No module named 'no_such_module'" in shown.stdout


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.2", False),
        ("0.3", True),
        ("0.4", True),
        ("0.7.1", True),
        ("0.8", False),
        ("0.10.1", False),
        ("1.0", False),
    ],
)
def test_versions_are_read_from_the_source(tmp_path, monkeypatch, version, expected):
    fake_host(tmp_path, f'"""A package."""\n__version__ = "{version}"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "auto_LiRPA")
    found = find.find_host()
    assert (found.version, found.folder) == (version, tmp_path / "auto_LiRPA")
    assert found.supported is expected
    assert found.is_03 is (version == "0.3")
    if not expected:
        with pytest.raises(HostError, match="is not supported"):
            find.require_host()


def test_import_leaves_the_process_as_it_was():
    state = "[repr(warnings.filters), repr(logging.root.handlers), logging.root.level]"
    code = f"""
import json, logging, warnings
import numpy, torch, torch.onnx
before = {state}
import recurjac_plugin.host
import sys
assert "auto_LiRPA" not in sys.modules
recurjac_plugin.host.BoundedModule
assert "auto_LiRPA" in sys.modules
json.dump([before, {state}], sys.stderr)
"""
    shown = python(code)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == ""
    before, after = json.loads(shown.stderr.splitlines()[-1])
    assert after == before


def test_import_is_silent_even_where_warnings_are_errors():
    shown = python("import recurjac_plugin, auto_LiRPA; recurjac_plugin.verify", "-W", "error")
    assert (shown.returncode, shown.stdout) == (0, ""), shown.stderr
    assert "Warning" not in shown.stderr


def test_user_configured_root_logger_keeps_its_handler():
    code = """
import logging, sys
logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="mine %(message)s")
import recurjac_plugin
import auto_LiRPA
logging.getLogger().error("seen")
logging.getLogger().warning("not seen")
"""
    shown = python(code)
    # Lines of torch itself may precede it (a CUDA build that finds no device says so).
    assert (shown.stdout, shown.stderr.splitlines()[-1:]) == ("", ["mine seen"])


def test_names_lent_for_the_import_are_taken_back():
    code = """
import importlib.util, torch.onnx.symbolic_helper as helper
def lent():
    try:
        import numpy.lib.arraysetops
    except ModuleNotFoundError:
        return False, hasattr(helper, "_set_opset_version")
    return True, hasattr(helper, "_set_opset_version")
before = lent()
import recurjac_plugin
recurjac_plugin.verify
assert lent() == before, (before, lent())
"""
    shown = python(code)
    assert shown.returncode == 0, shown.stderr


def test_the_host_is_the_same_whoever_imports_it_first():
    """On 0.3 with the fixes that current torch needs; the package itself imports neither torch nor the host."""
    code = """
import sys
import recurjac_plugin
assert not {"torch", "auto_LiRPA"} & set(sys.modules)
import auto_LiRPA, torch
assert "recurjac_plugin.host.library" in sys.modules  # which watches the models that are made
from recurjac_plugin.host import BoundedModule
assert BoundedModule is auto_LiRPA.BoundedModule
assert type(auto_LiRPA.__loader__).__name__ == "SourceFileLoader" == type(auto_LiRPA.__spec__.loader).__name__
model = auto_LiRPA.BoundedModule(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()), torch.zeros(1, 2))
print(*model(torch.zeros(1, 2)).shape)
"""
    shown = python(code)
    assert shown.stdout.split()[-2:] == ["1", "3"], shown.stderr


@pytest.mark.skipif(host.IS_03, reason="0.3 does not import on torch 2 before this package")
def test_models_are_watched_where_the_host_was_imported_before():
    shown = python("import sys, auto_LiRPA, recurjac_plugin; print('recurjac_plugin.host.library' in sys.modules)")
    assert shown.stdout.split()[-1:] == ["True"], shown.stderr


class ChannelsLast(nn.Module):
    """Convolutions between transposes, as exporters of channels-last frameworks write them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Linear(4 * 36, 3)

    def forward(self, x):
        x = self.second(self.first(x.permute(0, 3, 1, 2)).relu()).relu()
        return self.last(x.permute(0, 2, 3, 1).flatten(1).relu())


class Images(nn.Module):
    """A convolution, a batch normalisation, a residual sum and an average pooling."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.pool, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(2), nn.Linear(36, 3)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        return self.last(self.pool((x + self.second(x)).relu()).flatten(1))


def mlp():
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.LeakyReLU(0.1), nn.Linear(16, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("build", "shape"),
    [(mlp, (5,)), (Images, (1, 6, 6)), (ChannelsLast, (6, 6, 2))],
    ids=["mlp", "images", "channels_last"],
)
@pytest.mark.parametrize("method", ["IBP", "CROWN"])
def test_host_bounds_hold(build, shape, method, dtype):
    torch.manual_seed(0)
    net, center, eps = build().to(dtype).eval(), torch.rand(2, *shape, dtype=dtype), 0.05
    model = host.BoundedModule(net, center)
    x = host.BoundedTensor(center, host.PerturbationLpNorm(norm=float("inf"), eps=eps))
    lower, upper = model.compute_bounds(x=(x,), method=method)
    assert lower.dtype == upper.dtype == dtype
    assert lower.shape == (2, 3)

    with torch.no_grad():
        outputs = torch.stack([net(center + eps * (2 * torch.rand_like(center) - 1)) for _ in range(200)])
    slack = 100 * torch.finfo(dtype).eps
    assert (outputs >= lower - slack).all()
    assert (outputs <= upper + slack).all()
    # Bounds a hundred times wider than what is reached would hold, too, and say nothing.
    assert ((upper - lower) < 100 * (outputs.amax(0) - outputs.amin(0))).all()


def test_parameters_keep_the_names_of_the_network():
    model = host.BoundedModule(mlp(), torch.zeros(1, 5))
    assert dict(model.named_parameters(remove_duplicate=False)).keys() == dict(mlp().named_parameters()).keys()
