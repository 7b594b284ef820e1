"""`load_onnx`: from an ONNX file to a torch module whose outputs were compared with onnxruntime's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recurjac_plugin.errors import FileError, UnsupportedError

from .converter import import_onnx2pytorch
from .forms.editing import Shapes
from .onnx_file import DEFAULT_DOMAINS, OnnxFile, describe, one_line, read_onnx
from .rewrite import constant_arrays, prepare
from .session import OnnxSession, largest_difference, onnx_session
from .several.flat import Port
from .static import static_module

__all__ = ["OnnxNetwork", "OnnxSession", "load_onnx", "onnx_session"]

if TYPE_CHECKING:
    from onnx import ModelProto

# Largest difference from onnxruntime that is put down to rounding, relative to max(1, largest output).
_TOLERANCE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-10}
_BATCH = 3  # inputs at once, to find out whether a network takes batches
# onnx2pytorch has no error type of its own: for a graph that it cannot convert it raises whatever went wrong in it.
_CONVERTER_ERRORS = (
    NotImplementedError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    RuntimeWarning,
    TypeError,
    ValueError,
)


class OnnxNetwork(nn.Module):
    """A converted ONNX network; calling it with ``x[b, *input_shape]`` gives ``[b, n_outputs]``.

    Attributes:
        input_shape: shape of one input, without the batch dimension.
        n_outputs: number of outputs, flattened.
        max_difference: largest absolute difference between its outputs and onnxruntime's on the inputs of `load_onnx`,
            as far as those are numbers. `verify` adds inputs of the property's boxes.
        takes_batches: whether inputs with b > 1 may be given; where False the graph fixes b = 1.
        path: the file it came from, None for a network that has none.
        ports: inputs and outputs of the file, in the order in which they are flat here; empty for other networks.
    """

    def __init__(self, network: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.input_shape = input_shape
        self.register_buffer("_like", torch.zeros((), dtype=dtype), persistent=False)  # there may be no weights
        self.n_outputs = 0
        self.max_difference = float("nan")
        self.takes_batches = False
        self.path: Path | None = None
        self.ports: tuple[tuple[Port, ...], tuple[Port, ...]] = ((), ())

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of inputs, weights and outputs: after ``network.double()`` another one."""
        like: Tensor = self.get_buffer("_like")
        return like.dtype

    def forward(
        self,
        x: Tensor,  # shape: (b, *input_shape)
    ) -> Tensor:  # shape: (b, n_outputs)
        """The network's outputs, flattened; whatever a user's module does with its input, x stays as it is."""
        y = self.network(x if torch.jit.is_tracing() else x.clone())
        return y if y.dim() == 2 else y.flatten(1)

    def extra_repr(self) -> str:
        """Shapes and type, for `repr`."""
        return f"input_shape={self.input_shape}, n_outputs={self.n_outputs}, dtype={self.dtype}"


def load_onnx(path: str | PathLike[str]) -> OnnxNetwork:
    """Read an ONNX file (or ``.gz``) as a torch module in evaluation mode.

    Its outputs are compared with onnxruntime's on zeros, ones and random inputs: with f the module and g the file in
    onnxruntime, ``max |f(x) - g(x)| <= tolerance * max(1, max |g(x)|)``, tolerance 1e-4 in float32 and 1e-10 in
    float64. Where onnxruntime itself gives NaN (0/0 at zeros), there is nothing to compare with. Networks without a
    batch dimension get one where their operators allow it. Several inputs become one, flat and in the order of the
    file, and so do several outputs.

    Args:
        path: the file; ``net.onnx`` also finds ``net.onnx.gz``.

    Raises:
        FileError: the file is missing, malformed, not a network of floats, or its conversion disagrees with
            onnxruntime.
        UnsupportedError: operators without a conversion, all of them listed.
    """
    file = read_onnx(path)
    network = _convert(file)
    network.eval()
    network.path = file.path
    network.ports = file.ports or ((Port(file.input_name, file.single_shape),), ())
    _compare(network, OnnxSession(file), file)
    return network


def _convert(file: OnnxFile) -> OnnxNetwork:
    """The module that onnx2pytorch makes of the plain form, not yet compared with anything."""
    model, shapes = prepare(file)
    dtype = torch.float64 if file.dtype == np.float64 else torch.float32
    with _converter_warnings():
        onnx2pytorch = import_onnx2pytorch()
        try:
            converted = onnx2pytorch.ConvertModel(model)
        except _CONVERTER_ERRORS as error:
            raise UnsupportedError(
                f"`{file.path}`",
                _unconvertible(prepare(file)[0]) or [f"the graph ({type(error).__name__}: {one_line(error)})"],
                "Export it with operators that onnx2pytorch converts.",
            ) from error
    _simplify(converted, shapes)
    return OnnxNetwork(converted.to(dtype), file.input_shape, dtype)


def _unconvertible(model: ModelProto) -> list[str]:
    """Descriptions of the nodes that onnx2pytorch refuses when it is given each of them alone."""
    from onnx import helper
    from onnx2pytorch.convert.operations import convert_operations

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    version = next(entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS)
    offenders = []
    for node in model.graph.node:
        constants = [stored[name] for name in node.input if name in stored]
        alone = helper.make_graph([node], "one node", [], [], constants)
        try:
            list(convert_operations(alone, version, 0, False))
        except _CONVERTER_ERRORS as error:
            offenders.append(f"{describe(node)} ({one_line(error)})")
    return offenders


def _simplify(network: Any, shapes: Shapes) -> None:
    """Replace modules of an `onnx2pytorch.ConvertModel` by those of `static_module`, wherever there is one."""
    graph = network.onnx_model.graph
    constants = constant_arrays(graph)
    for node in graph.node:
        module = static_module(node, constants, shapes)
        if module is not None:
            setattr(network, network.mapping[node.output[0]], module)


def _compare(network: OnnxNetwork, session: OnnxSession, file: OnnxFile) -> None:
    """Compare a network with its file in onnxruntime, and set the attributes that follow from running it.

    Raises:
        FileError: it does not run, or its outputs differ by more than rounding.
    """
    probes = _probes(file)
    expected = session(probes)
    if not np.isfinite(expected).any():
        raise FileError(
            f"`{file.path}` gives no finite output on any of the inputs tried, zeros, ones and random ones, in "
            "onnxruntime; export it again."
        )
    allowed = _TOLERANCE[file.dtype] * max(1.0, float(np.abs(expected[np.isfinite(expected)]).max()))
    network.n_outputs = expected.shape[1]
    groups = [probes[i : i + 1] for i in range(len(probes))]
    outputs = np.concatenate([_evaluate(network, group, file) for group in groups])
    same_shape = outputs.shape == expected.shape
    network.max_difference = largest_difference(outputs, expected) if same_shape else float("inf")
    if network.max_difference > allowed:
        raise FileError(
            f"`{file.path}` gives other outputs when converted by onnx2pytorch than in onnxruntime (largest "
            f"difference {network.max_difference:.3g}, expected at most {allowed:.3g}); simplify the export."
        )
    network.takes_batches = _agrees_on_batch(network, probes[:_BATCH], outputs[:_BATCH], allowed)


def _evaluate(network: OnnxNetwork, x: np.ndarray, file: OnnxFile) -> np.ndarray:
    """Outputs of ``x``, (b, *input_shape), as (b, n_outputs)."""
    try:
        with torch.no_grad():
            return network(torch.from_numpy(x)).numpy()
    except _CONVERTER_ERRORS as error:
        hint = "simplify the export" if file.has_batch else "export it with a leading batch dimension of 1"
        raise FileError(
            f"`{file.path}` does not run on an input of shape {list(x.shape)} when converted by onnx2pytorch "
            f"({one_line(error)}); {hint}."
        ) from error


def _agrees_on_batch(network: OnnxNetwork, x: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Whether the network gives the outputs of several inputs at once that it gives one by one."""
    try:
        with torch.no_grad():
            y = network(torch.from_numpy(x)).numpy()
    except _CONVERTER_ERRORS:
        return False
    return y.shape == expected.shape and largest_difference(y, expected) <= tolerance


def _probes(file: OnnxFile) -> np.ndarray:  # shape: (n, *input_shape)
    """Zeros, ones, and random inputs of both signs and in [0, 1]; the same ones for every call."""
    random = np.random.default_rng(0)
    shape = (2, *file.input_shape)
    signed, unsigned = random.standard_normal(shape), random.random(shape)
    return np.concatenate([signed, np.zeros(shape)[:1], np.ones(shape)[:1], unsigned]).astype(file.dtype)


@contextmanager
def _converter_warnings() -> Iterator[None]:
    """Turn the warnings with which onnx2pytorch guesses at an operator into errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="No explicit conversion for op_type", category=RuntimeWarning)
        # Before 0.6 (Python 3.10) it makes tensors of the file's own memory; nothing writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        yield
