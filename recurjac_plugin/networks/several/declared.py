"""The networks that a VNN-LIB 2.x query declares, from their files, as the one network that its property is about."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from recurjac_plugin.errors import InputError
from recurjac_plugin.networks.onnx import OnnxNetwork, load_onnx
from recurjac_plugin.properties.spec import Declaration, Interface, Spec, Variable

from .flat import Port
from .product import side_by_side


def load_networks(spec: Spec, files: Mapping[str, str | PathLike[str]]) -> OnnxNetwork:
    """Read the ONNX files of a query of one or several networks, for `verify`.

    Inputs of all networks, flattened and in the order of the query, are the inputs of what is returned, and so are the
    outputs. Declared tensors belong to a file's by their order.

    Args:
        spec: what `load_vnnlib` returns.
        files: ONNX files (or ``.gz``) by the names that the query gives to networks. One that is declared as
            ``equal-to`` another needs none; it may be given the same file again.

    Raises:
        FileError: a file is missing or malformed.
        InputError: files are missing or left over, networks and declarations do not fit together, or networks that are
            declared as equal or isomorphic are not.
        UnsupportedError: operators without a conversion.
    """
    if spec.declaration is None:
        if len(files) != 1:
            raise InputError(f"The property is about one network, but {len(files)} files were given; give one.")
        return load_onnx(next(iter(files.values())))
    paths = _paths(spec.declaration, files)
    loaded: dict[Path, OnnxNetwork] = {}
    networks = []
    for interface, path in zip(spec.declaration.networks, paths, strict=True):
        network = loaded.get(path) or loaded.setdefault(path, load_onnx(path))
        _require_declared(interface, network)
        networks.append(network)
    _require_relations(spec.declaration, networks)
    return networks[0] if len(networks) == 1 else side_by_side(networks)


def _paths(declaration: Declaration, files: Mapping[str, str | PathLike[str]]) -> list[Path]:
    """The file of every network, in the order of the query; those of equal networks are the same one."""
    known = {interface.name: interface for interface in declaration.networks}
    unknown = [name for name in files if name not in known]
    wanted = [name for name, interface in known.items() if interface.equal_to is None]
    missing = [name for name in wanted if name not in files]
    if unknown or missing:
        raise InputError(
            f"The property is about the networks {_listed(known)}, but files were given for {_listed(files)}; give one "
            f"for {_listed(wanted)}."
        )
    paths = []
    for name, interface in known.items():
        path = Path(files[_root(known, name)])
        if name in files and Path(files[name]).absolute() != path.absolute():
            raise InputError(
                f"`{name}` is declared as equal to `{interface.equal_to}`, but their files differ; give the same one."
            )
        paths.append(path)
    return paths


def _root(known: Mapping[str, Interface], name: str) -> str:
    """The network that one is another use of, perhaps by way of others.

    Raises:
        InputError: it is declared as equal to itself, or to one that is not declared.
    """
    start, seen = name, set[str]()
    while (next_ := known[name].equal_to) is not None:
        seen.add(name)
        if next_ not in known or next_ in seen:
            raise InputError(f"`{start}` is declared as equal to `{next_}`, which is no network before it.")
        name = next_
    return name


def _require_declared(interface: Interface, network: OnnxNetwork) -> None:
    """Refuse a file whose inputs and outputs are not those declared.

    Raises:
        InputError: numbers, shapes or names differ.
    """
    inputs, outputs = network.ports
    outputs = outputs or (Port("", (1, network.n_outputs)),)
    for role, declared, ports in (("inputs", interface.inputs, inputs), ("outputs", interface.outputs, outputs)):
        if len(declared) != len(ports):
            raise InputError(
                f"The network `{interface.name}` is declared with {len(declared)} {role}, but `{network.path}` has "
                f"{len(ports)}; give the file that belongs to it."
            )
        for variable, port in zip(declared, ports):
            _require_port(interface.name, network, variable, port, exact=bool(port.name))


def _require_port(name: str, network: OnnxNetwork, variable: Variable, port: Port, exact: bool) -> None:
    same = _without_batch(variable.shape) == _without_batch(port.shape) if exact else variable.size == port.size
    if not same:
        raise InputError(
            f"`{variable.name}` of the network `{name}` is declared as {_shown(variable.shape)}, but "
            f"`{network.path}` has {_shown(port.shape)}; give the network that belongs to it."
        )


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _without_batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def _require_relations(declaration: Declaration, networks: list[OnnxNetwork]) -> None:
    """Refuse networks that are declared as isomorphic and have other inputs or outputs.

    Raises:
        InputError: they have, or the other one is not declared.
    """
    by_name = dict(zip((interface.name for interface in declaration.networks), networks))
    for interface in declaration.networks:
        other = interface.isomorphic_to
        if other is None:
            continue
        sizes = [
            (network.input_shape, network.n_outputs)
            for network in (by_name[interface.name], by_name.get(other))
            if network
        ]
        if len(sizes) < 2 or sizes[0] != sizes[1]:
            raise InputError(f"`{interface.name}` is declared as isomorphic to `{other}`, but they differ in shape.")


def _listed(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
