"""The three files of a check: network, property, certificate."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from recurjac_plugin.errors import FileError, counted
from recurjac_plugin.extras import need

from .document import Rejected, load
from .jacobian import load_claims, prove_bounds
from .network import Network
from .proof import prove
from .reading.property import Property, read_property

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Accepted:
    """What a certificate proves.

    No input of the property's regions has an output that violates it; or the Jacobian has the bounds that the
    certificate states, on its regions.

    Attributes:
        regions: number of regions.
        boxes: number of boxes of the proof.
        producer: what wrote the certificate.
    """

    regions: int
    boxes: int
    producer: str


@dataclass(frozen=True, eq=False)
class Problem:
    """A network and a property of it, with the hashes of their files.

    Attributes:
        network: from the inputs to the outputs.
        property: what is asked.
        hashes: SHA-256 of both files, not compressed.
    """

    network: Network
    property: Property
    hashes: tuple[str, str]

    @classmethod
    def read(cls, network: str | PathLike[str], prop: str | PathLike[str]) -> Problem:
        """Read both files.

        Raises:
            FileError: one is missing or malformed, or they do not belong together.
            UnsupportedError: the network has operators that have no meaning here.
        """
        read_network, network_hash = network_of(network)
        content = content_of(prop)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(f"`{prop}` is not a VNN-LIB property: it is not text; check the path.") from error
        read = read_network, read_property(text, str(prop))
        sizes = read[0].vectors[0].size, read[0].vectors[-1].size
        if sizes != (read[1].n_inputs, read[1].n_outputs):
            raise FileError(
                f"`{prop}` has {counted(read[1].n_inputs, 'input')} and "
                f"{counted(read[1].n_outputs, 'output')}, but the network {sizes[0]} and "
                f"{sizes[1]}; give the property that belongs to it."
            )
        return cls(*read, (network_hash, hashlib.sha256(content).hexdigest()))


def content_of(path: str | PathLike[str]) -> bytes:
    """Content of a file, decompressed if it is gzip; ``name`` also finds ``name.gz``, and the other way round.

    Raises:
        FileError: there is none, or it cannot be read.
    """
    given = Path(path)
    other = given.with_suffix("") if given.suffix == ".gz" else given.with_name(f"{given.name}.gz")
    file = next((each for each in (given, other) if each.is_file()), None)
    if file is None:
        raise FileError(f"`{given}` does not exist; check the path.")
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"`{file}` cannot be read: {error}; fetch the file again.") from error


def check(network: str | PathLike[str], prop: str | PathLike[str], certificate: str | PathLike[str]) -> Accepted:
    """Check a certificate that no output of a network violates a property.

    Args:
        network: ONNX file, plain or gzip.
        prop: VNN-LIB file, version 1.0 or 2.0, plain or gzip.
        certificate: what `recurjac verify --certificate` wrote, plain or gzip.

    Raises:
        FileError: a file is missing, or network or property are malformed.
        Rejected: the certificate does not prove it.
        UnsupportedError: the network has operators that have no meaning here.

    Source:
        See `proof` and `bounds`.
    """
    return check_content(Problem.read(network, prop), _certificate(certificate))


def check_jacobian(network: str | PathLike[str], certificate: str | PathLike[str]) -> Accepted:
    """Check a certificate of bounds of a network's Jacobian.

    Args:
        network: ONNX file, plain or gzip.
        certificate: what `recurjac jacobian --certificate` wrote, plain or gzip.

    Raises:
        FileError: a file is missing, or the network is malformed.
        Rejected: the certificate does not prove it.
        UnsupportedError: the network has operators that have no meaning here.

    Source:
        See `jacobian` and `bounds`.
    """
    read, found = network_of(network)
    return check_bounds(read, found, _certificate(certificate))


def check_bounds(network: Network, found: str, content: bytes) -> Accepted:
    """Check a certificate of bounds that was read already, of a network with that hash; see `check_jacobian`.

    Raises:
        Rejected: it does not prove them.
    """
    claims = load_claims(content)
    _require_same("network", claims.network, found)
    boxes = sum(prove_bounds(network, tree) for tree in claims.trees)
    return Accepted(len(claims.trees), boxes, claims.producer)


def network_of(path: str | PathLike[str]) -> tuple[Network, str]:
    """The network of a file, and the SHA-256 of its content.

    Raises:
        FileError: it is missing or malformed.
        ExtraError: `onnx` is not installed.
        UnsupportedError: it has operators that have no meaning here.
    """
    content = content_of(path)
    need("onnx")
    from .reading.onnx_graph import read_onnx

    return read_onnx(content, str(path)), hashlib.sha256(content).hexdigest()


def _certificate(path: str | PathLike[str]) -> bytes:
    """Content of a certificate; damage to it is no bad input, but a reason to reject it."""
    try:
        return content_of(path)
    except FileError as error:
        if Path(path).is_file():
            raise Rejected(f"its file is damaged: {error}") from error
        raise


def _require_same(name: str, claimed: str, found: str) -> None:
    if claimed != found:
        raise Rejected(f"it is about another {name}: SHA-256 {claimed}, the file has {found}")


def check_content(problem: Problem, content: bytes) -> Accepted:
    """Check a certificate that was read already; see `check`.

    Raises:
        Rejected: it does not prove the property of the network.
    """
    document = load(content)
    _require_same("network", document.network, problem.hashes[0])
    _require_same("property", document.property, problem.hashes[1])
    regions = problem.property.regions
    if len(document.trees) != len(regions):
        raise Rejected(f"it has {counted(len(document.trees), 'region')}, the property {len(regions)}")
    boxes = sum(prove(problem.network, region, tree) for region, tree in zip(regions, document.trees))
    return Accepted(len(regions), boxes, document.producer)
