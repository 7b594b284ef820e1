"""Exceptions of the package.

A message says in one sentence what is wrong, where, what was expected, and what to do.
"""

from __future__ import annotations

TYPE_CHECKING = False  # without `typing`, see `recurjac_plugin`
if TYPE_CHECKING:
    from collections.abc import Iterable


class RecurJacError(ValueError):
    """Base of every error the package raises for bad input; the command line turns it into exit code 2."""


class HostError(RecurJacError, ImportError):
    """auto_LiRPA is missing, or is a version the package does not support."""


class ExtraError(RecurJacError, ImportError):
    """A package of an optional extra is missing, or does not import; the message has the line that installs it."""


class MethodError(RecurJacError):
    """An unknown method name, or a method that the requested quantity does not have."""


class InputError(RecurJacError):
    """An input region, specification matrix or option of the wrong kind, shape, device or value."""


class RoomError(InputError):
    """What was asked for does not fit into the memory of the device."""


class FileError(RecurJacError):
    """A file that is missing, malformed, or says something the package does not accept."""


class ContradictionError(RecurJacError):
    """A bound and a value, or two answers, that cannot both be right; the command line turns it into exit code 1."""


class UnsupportedError(RecurJacError):
    """Parts of a network that are not supported; `offenders` lists all of them.

    Args:
        subject: what was read, e.g. ``"the network"``.
        offenders: one entry per unsupported part, each naming the part and the reason.
        remedy: what the reader can do.
    """

    def __init__(self, subject: str, offenders: Iterable[str], remedy: str) -> None:
        self.offenders, self.remedy = tuple(offenders), remedy
        listed = "; ".join(self.offenders)
        super().__init__(f"{subject} has {counted(len(self.offenders), 'unsupported part')}: {listed}. {remedy}")


class CertificateError(RecurJacError):
    """A certificate that could not be written, and why."""


def counted(number: int, what: str) -> str:
    """A number of things in words: "1 box", "2 boxes"."""
    if number == 1:
        return f"1 {what}"
    return f"{number} {what}{'es' if what.endswith(('x', 's')) else 's'}"
