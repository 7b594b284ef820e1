"""ONNX files run by onnxruntime, which decides what a network computes."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from recurjac_plugin.errors import FileError
from recurjac_plugin.extras import need

from .onnx_file import OnnxFile, one_line, read_onnx
from .several.zeros import onnxruntime_errors

if TYPE_CHECKING:
    from onnx import ModelProto


class OnnxSession:
    """An ONNX network in onnxruntime, evaluated one input at a time, as VNN-COMP replays counterexamples.

    Attributes:
        input_shape: shape of one input, without the batch dimension.
        dtype: numpy type of inputs and outputs.

    Raises:
        ExtraError: onnxruntime is not installed.
    """

    def __init__(self, file: OnnxFile) -> None:
        need("onnxruntime")
        import onnxruntime

        self._file = file
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only; they are raised as well
        try:
            content = file.original or file.content
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except onnxruntime_errors() as error:
            raise FileError(
                f"`{file.path}` is not accepted by onnxruntime: {one_line(error)}; export it again."
            ) from error
        self.input_shape = file.input_shape
        self.dtype = file.dtype

    def __call__(
        self,
        x: np.ndarray,  # shape: (b, *input_shape) or (b, n_inputs)
    ) -> np.ndarray:  # shape: (b, n_outputs)
        """Outputs of every input, each evaluated by itself; `x` is converted to the network's type.

        Raises:
            FileError: the network fails on an input.
        """
        x = np.asarray(x, dtype=self.dtype)
        single = self._file.single_shape
        return np.stack([self._run(row.reshape(single)) for row in x])

    def _run(self, x: np.ndarray) -> np.ndarray:
        """The outputs of one input of the graph's own shape, flattened."""
        try:
            found = self._session.run(None, self._fed(x))
        except onnxruntime_errors() as error:
            raise FileError(f"`{self._file.path}` fails in onnxruntime: {one_line(error)}; export it again.") from error
        return np.concatenate([np.asarray(y).reshape(-1) for y in found])

    def _fed(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """One input by the name of the graph's own, or cut up into several."""
        if self._file.ports is None:
            return {self._file.input_name: x}
        inputs = self._file.ports[0]
        parts = np.split(x.reshape(-1), np.cumsum([port.size for port in inputs])[:-1])
        return {port.name: part.reshape(port.shape) for port, part in zip(inputs, parts)}


def onnx_session(path: str | PathLike[str]) -> OnnxSession:
    """Open an ONNX file (or ``.gz``) in onnxruntime.

    Raises:
        FileError: the file is missing, malformed, not a network with one float input and one output, or
            onnxruntime does not accept it.
        UnsupportedError: it uses operators outside the standard ONNX domain.
    """
    return OnnxSession(read_onnx(path))


def largest_difference(
    outputs: np.ndarray,  # shape: (n, n_outputs)
    expected: np.ndarray,  # shape: (n, n_outputs)
) -> float:
    """``max |y - z|`` over outputs y and expected ones z, without those z that are NaN; 0 if all of them are.

    Equal infinities do not differ; if only one of both is a finite number, they differ infinitely.

    Source:
        Own.
    """
    with np.errstate(invalid="ignore"):
        difference = np.where(outputs == expected, 0.0, np.abs(outputs - expected))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf)[~np.isnan(expected)].max(initial=0.0))


def measured_shapes(
    file: OnnxFile, model: ModelProto, names: list[str], single: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """Shapes of intermediate values for one input of zeros; empty if onnxruntime does not run the model.

    Args:
        file: the network.
        model: the network as parsed; it is not changed.
        names: values computed by its nodes.
        single: shape in which the model takes one input.
    """
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = {value.name for value in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    zeros = np.zeros(single, dtype=file.dtype)
    try:
        session = _quiet_session(shown)
        values = session.run(names, {file.input_name: zeros})
    except onnxruntime_errors():
        return {}
    return {name: np.asarray(value).shape for name, value in zip(names, values, strict=True)}


def constant_values(model: ModelProto) -> dict[str, np.ndarray] | None:
    """Outputs of a model without inputs, by name; None if onnxruntime does not run it, or they are no tensors."""
    names = [value.name for value in model.graph.output]
    try:
        values = _quiet_session(model).run(names, {})
    except onnxruntime_errors():
        return None
    if not all(isinstance(value, np.ndarray | np.generic) for value in values):
        return None
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _quiet_session(model: ModelProto) -> Any:
    """A session that computes a model as it is written, and prints nothing."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
