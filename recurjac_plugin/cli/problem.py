"""The problem of a command, from files and options: a network on its device, a property, inputs and their regions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recurjac_plugin.errors import FileError, InputError, counted
from recurjac_plugin.tables.subject import ball, chosen, labels, listed

from . import collector
from .options import Dtype, is_python, refuse, shape_of

__all__ = ["ball", "chosen", "labels", "listed"]

if TYPE_CHECKING:
    import numpy as np
    import torch

    from recurjac_plugin.networks.onnx import OnnxNetwork
    from recurjac_plugin.properties.spec import Box, Spec


@dataclass(frozen=True, eq=False)
class Network:
    """A network on the device on which it is bounded.

    Attributes:
        module: the torch module, in evaluation mode.
        device: where its weights are.
    """

    module: OnnxNetwork
    device: torch.device

    @cached_property
    def host(self) -> Any:
        """auto_LiRPA's `BoundedModule` of the network.

        Raises:
            UnsupportedError: the host cannot read it.
        """
        import torch

        from recurjac_plugin.plugin.model import bounded_model

        example = torch.zeros(1, *self.module.input_shape, dtype=self.module.dtype, device=self.device)
        return bounded_model(self.module, example)

    def region(self, box: Box) -> Any:
        """A property's box as a perturbed input of the host, shape (1, *input_shape), never smaller than the box."""
        from recurjac_plugin.tables.on_property import region_of

        return region_of(box, self.module, self.device)

    def describe(self, path: Path) -> dict[str, Any]:
        """What JSON results say about where they come from."""
        from recurjac_plugin.host.library import VERSION
        from recurjac_plugin.version import __version__

        return {
            "version": __version__,
            "auto_lirpa": VERSION,
            "model": str(path),
            "device": str(self.device),
            "dtype": str(self.module.dtype).removeprefix("torch."),
        }


def find_device(name: str) -> torch.device:
    """The device of that name: cpu, cuda or cuda:N.

    Raises:
        typer.BadParameter: there is no such device here.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        refuse("--device", f"is {name!r}, expected cpu, cuda or cuda:N.")
    if device.type not in ("cpu", "cuda"):
        refuse("--device", f"is {name!r}, expected cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        refuse("--device", f"is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices here; use cpu.")
    return device


class ShapeSources(NamedTuple):
    """What the shape of a torch network's inputs is known by: the option `--input-shape`, or else a file of inputs."""

    given: str | None
    input_file: Path | None = None
    vnnlib: Path | None = None

    def read(self) -> tuple[int, ...]:
        """The shape of one input, without the batch dimension.

        Raises:
            FileError: a file is missing or malformed.
        """
        if self.given is not None:
            return shape_of("--input-shape", self.given)
        if self.input_file is not None:
            array = load_array(self.input_file)
            return array.shape if array.ndim == 1 else array.shape[1:]
        if self.vnnlib is None:
            refuse("--input-shape", "must be given, such as 3,32,32: nothing else says what the network takes.")
        from recurjac_plugin.properties.vnnlib import load_vnnlib

        return (load_vnnlib(self.vnnlib).n_inputs,)


def load_network(path: Path, device_name: str, dtype: Dtype | None, sources: ShapeSources | None = None) -> Network:
    """Read an ONNX network, or a torch one, with its weights on the device and of the number type that were asked for.

    Args:
        path: an ONNX file, or ``file.py:function``.
        device_name: as `find_device` takes it.
        dtype: None for the network's own.
        sources: what the shape of a torch network's inputs is known by; None where only ONNX will do.

    Raises:
        FileError: the file is missing or malformed.
        InputError: float32 was asked for a network of doubles, or a torch network does not fit.
        UnsupportedError: it cannot be converted.
    """
    if is_python(path):
        if sources is None:
            raise InputError(
                f"`{path}` is a torch network, and verdicts are for ONNX files, on which onnxruntime replays "
                "counterexamples; write one with `torch.onnx.export`."
            )
        with collector.paused():
            from recurjac_plugin.networks.torch_file import load_torch
            from recurjac_plugin.plugin.registration import register

            device, shape = find_device(device_name), sources.read()
            register()  # functions that auto_LiRPA lacks are written out, dropout in evaluation mode among them
        return _placed(load_torch(str(path), shape), f"`{path}`", device, dtype)
    if sources is not None and sources.given is not None:
        refuse("--input-shape", "goes with a torch network; an ONNX file has a shape of its own.")
    with collector.paused():
        from recurjac_plugin.networks.onnx import load_onnx

        device = find_device(device_name)
        module = load_onnx(path)
    return _placed(module, f"`{path}`", device, dtype)


def load_declared(spec: Spec, files: Mapping[str, Path], device_name: str, dtype: Dtype | None) -> Network:
    """Read the networks of a query as the one that its property is about.

    Raises:
        FileError: a file is missing or malformed.
        InputError: files and declarations do not fit together.
        UnsupportedError: one cannot be converted.
    """
    with collector.paused():
        from recurjac_plugin.networks.several.declared import load_networks

        device = find_device(device_name)
        module = load_networks(spec, files)
    return _placed(module, "The network", device, dtype)


def _placed(module: OnnxNetwork, name: str, device: torch.device, dtype: Dtype | None) -> Network:
    """A network on its device, in its number type."""
    import torch

    if dtype is Dtype.float32 and module.dtype == torch.float64:
        raise InputError(f"{name} has float64 weights: bounds in float32 would be those of another network.")
    return Network(module.to(device, torch.float64 if dtype is Dtype.float64 else module.dtype), device)


def load_property(path: Path, network: Network) -> Spec:
    """Read a VNN-LIB property of the network.

    Raises:
        FileError: the file is missing or malformed.
        InputError: it is about another network, or about no input at all.
    """
    from recurjac_plugin.properties.vnnlib import load_vnnlib

    spec = load_vnnlib(path)
    if not spec.boxes:
        raise InputError(f"{spec.remarks[0]} There is no region to bound; rewrite the property.")
    check_property(path, spec, network)
    return spec


def check_property(path: Path, spec: Spec, network: Network) -> None:
    """Refuse a property of another network.

    Raises:
        InputError: numbers of inputs or outputs differ.
    """
    n_inputs, n_outputs = math.prod(network.module.input_shape), network.module.n_outputs
    if (spec.n_inputs, spec.n_outputs) != (n_inputs, n_outputs):
        raise InputError(
            f"`{path}` has {counted(spec.n_inputs, 'input')} and {counted(spec.n_outputs, 'output')}, but the network "
            f"{n_inputs} and {n_outputs}; give the property that belongs to it."
        )


def load_inputs(path: Path, network: Network) -> torch.Tensor:
    """Read inputs from a `.npy` file: one, or several along a first dimension; flat ones are reshaped.

    Returns:
        Shape (b, *input_shape).

    Raises:
        FileError: the file is missing, is not a `.npy` file, or holds no numbers.
        InputError: another shape, none at all, NaN or infinity.
    """
    import numpy as np
    import torch

    array = _shaped(load_array(path), path, network.module.input_shape)
    inputs = torch.from_numpy(array.astype(np.float64)).to(network.device, network.module.dtype)
    if not bool(inputs.isfinite().all()):
        raise InputError(f"`{path}` contains NaN or infinite values; inputs must be finite.")
    return inputs


def load_array(path: Path) -> np.ndarray:
    """Read one array of real numbers from a `.npy` file.

    Raises:
        FileError: the file is missing, is not a `.npy` file, or holds no numbers.
    """
    import numpy as np

    if not path.is_file():
        raise FileError(f"`{path}` does not exist: expected a NumPy array; check the path.")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"`{path}` is not a NumPy array of numbers; write one with `numpy.save`.") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise FileError(f"`{path}` is an archive of arrays, expected one array; write it with `numpy.save`.")
    if array.dtype.kind not in "fiu":
        raise FileError(f"`{path}` holds {array.dtype}, expected real numbers.")
    return array


def load_matrix(path: Path, network: Network) -> torch.Tensor:
    """Read a specification matrix C from a `.npy` file, shape (k, n_outputs), as (1, k, n_outputs).

    Raises:
        FileError: the file is missing, is not a `.npy` file, or holds no numbers.
        InputError: another shape, no row, NaN or infinity.
    """
    import numpy as np
    import torch

    array, outputs = load_array(path), network.module.n_outputs
    if array.ndim != 2 or array.shape[1] != outputs or not len(array):
        raise InputError(
            f"`{path}` has shape {array.shape}, but the network has {outputs} outputs; give a specification matrix of "
            f"shape (k, {outputs})."
        )
    C = torch.from_numpy(array.astype(np.float64)).to(network.device, network.module.dtype)
    if not bool(C.isfinite().all()):
        raise InputError(f"`{path}` contains NaN or infinite values; a specification must be finite.")
    return C.unsqueeze(0)


def _shaped(array: np.ndarray, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """One or several inputs, flat or not, as (b, *shape)."""
    for single in (shape, (math.prod(shape),)):
        if array.shape == single:
            return array.reshape(1, *shape)
        if array.shape[1:] == single and len(array) > 0:
            return array.reshape(-1, *shape)
    raise InputError(
        f"`{path}` has shape {array.shape}, but the network takes {shape}; give one input, or several along a first "
        "dimension."
    )


def load_centers(network: Network, vnnlib: Path | None, input_file: Path | None) -> torch.Tensor:
    """The middles of balls: the inputs of a file, or the middles of a property's boxes, (b, *input_shape).

    Raises:
        FileError: the file is missing or malformed.
        InputError: it belongs to another network.
    """
    import torch

    if input_file is not None:
        return load_inputs(input_file, network)
    assert vnnlib is not None
    spec, module = load_property(vnnlib, network), network.module
    middles = [torch.from_numpy(box.lower + (box.upper - box.lower) / 2) for box in spec.boxes]
    return torch.stack(middles).reshape(-1, *module.input_shape).to(network.device, module.dtype)


def outputs_at(network: Network, points: torch.Tensor) -> torch.Tensor:
    """The network's outputs at each point.

    Args:
        network: is given one point at a time if it takes no batches.
        points: shape (b, *input_shape).

    Returns:
        Shape (b, n_outputs).
    """
    import torch

    with torch.no_grad():
        batches = [points] if network.module.takes_batches else points.split(1)
        return torch.cat([network.module(batch).flatten(1) for batch in batches])


def load_regions(
    network: Network, vnnlib: Path | None, input_file: Path | None, norm: float, eps: float | None
) -> list[Any]:
    """The boxes of a property, or balls around inputs, each as a perturbed input of the host, (1, *input_shape).

    Raises:
        FileError: a file is missing or malformed.
        InputError: it does not belong to the network.
    """
    if vnnlib is not None:
        return [network.region(box) for box in load_property(vnnlib, network).boxes]
    assert input_file is not None and eps is not None
    return [ball(x.unsqueeze(0), norm, eps) for x in load_inputs(input_file, network)]
