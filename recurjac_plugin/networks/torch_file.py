"""A torch network from a Python file: ``path/to/module.py:function`` names a function that returns it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recurjac_plugin.errors import FileError, InputError
from recurjac_plugin.host.library import HOST_FAILURES
from recurjac_plugin.host.state import takes_batches

from .onnx import OnnxNetwork

_NAME = "recurjac_network_file"


def load_torch(text: str, input_shape: tuple[int, ...]) -> OnnxNetwork:
    """The network that a function of a Python file returns, in evaluation mode, its outputs flattened.

    The file is run as it would be imported, with its own folder on the path: give only files that you trust.

    Args:
        text: ``path/to/module.py:function``; the function takes no arguments.
        input_shape: of one input, without the batch dimension.

    Raises:
        FileError: the file is missing or raises, or the function is missing, raises, or returns no torch module.
        InputError: the network does not take such inputs, or has numbers of a type that is not supported.
    """
    file, function = _split(text)
    with _found_in(file.absolute().parent):
        network = _called(_function(file, function), text)
    if not isinstance(network, nn.Module):
        raise FileError(f"`{text}` returns {type(network).__name__}, expected a torch module; return the network.")
    return _described(network.eval(), text, input_shape)


def _split(text: str) -> tuple[Path, str]:
    """The file and the name of the function."""
    name, _, function = text.rpartition(":")
    if text.endswith(".py") or not function.isidentifier():
        file = text if text.endswith(".py") else name
        raise FileError(f"`{text}` names no function: write `{file}:FUNCTION`, one that returns the network.")
    path = Path(name)
    if not path.is_file():
        raise FileError(f"`{path}` does not exist: expected a Python file with the function `{function}`.")
    return path, function


def _function(file: Path, name: str) -> Callable[[], Any]:
    """The function, after the file has been run."""
    spec = importlib.util.spec_from_file_location(_NAME, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module  # where pickles and dataclasses look
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # code of the user's own may raise anything
        raise FileError(f"`{file}` cannot be imported: {_told(error)}; run it with Python to see where.") from error
    function = getattr(module, name, None)
    if not callable(function) or isinstance(function, nn.Module):
        instead = "" if function is None else f" ({name} is {type(function).__name__})"
        raise FileError(f"`{file}` has no function `{name}`{instead}; name one that returns the network.")
    found: Callable[[], Any] = function
    return found


def _called(function: Callable[[], Any], text: str) -> Any:
    """What the function returns."""
    try:
        return function()
    except (Exception, SystemExit) as error:  # as above
        raise FileError(f"`{text}` raises {_told(error)}; expected a function without arguments.") from error


def _described(network: nn.Module, text: str, shape: tuple[int, ...]) -> OnnxNetwork:
    """The network with what commands ask of it: shapes, number type, and whether it takes batches."""
    numbers = (*network.parameters(), *network.buffers())
    if any(each.is_meta for each in numbers):
        raise InputError(f"`{text}` returns a network whose weights have no values: they are on the device `meta`.")
    types = {each.dtype for each in numbers if each.is_floating_point()}
    if len(types) > 1 or not types <= {torch.float32, torch.float64}:
        listed = ", ".join(sorted(map(str, types)))
        raise InputError(f"`{text}` returns a network of {listed}, expected torch.float32 or torch.float64 throughout.")
    dtype = types.pop() if types else torch.get_default_dtype()
    network = network.cpu()
    found = OnnxNetwork(network, shape, dtype).eval()
    try:
        with torch.no_grad():
            outputs = found(torch.zeros(1, *shape, dtype=dtype))
            found.takes_batches = takes_batches(found, shape, torch.zeros((), dtype=dtype))
    except (*HOST_FAILURES, AttributeError) as error:
        raise InputError(
            f"`{text}` does not take inputs of shape {(1, *shape)}: {_told(error)}; give the shape of one input as "
            "`--input-shape`."
        ) from error
    found.n_outputs, found.max_difference = outputs.shape[1], 0.0
    return found


@contextmanager
def _found_in(folder: Path) -> Iterator[None]:
    """A folder on the path of imports, as for a script that lies there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _told(error: BaseException) -> str:
    """An error in a few words of one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}" + (f" ({text[:200]})" if text else "")
