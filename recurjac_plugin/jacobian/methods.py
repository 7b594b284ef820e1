"""The methods by name: one table for the API, the command line, the tests and the documentation.

A name is ``[PREFIX+]RULE[+CROWN]``, in any case:

* the rule is `RecurJac`, `RecurJac-Linear`, `RecurJac-McCormick` or `Fast-Lip` (`RULES`);
* the prefix is the host's method that bounds the pre-activations, `CROWN` if there is none;
* ``+CROWN`` intersects *output* bounds with those the host gets from the same pre-activation bounds.

A host method by itself (`IBP`, `CROWN`, `CROWN-IBP`, `alpha-CROWN`) is a method for output bounds only. `Operator-Norm`
bounds the Lipschitz constant on the whole space (`global_lipschitz`), where there is no region to bound a Jacobian on.
"""

from __future__ import annotations

from dataclasses import dataclass

from recurjac_plugin.errors import MethodError
from recurjac_plugin.recursion import rules
from recurjac_plugin.recursion.rules import recurjac, recurjac_linear


@dataclass(frozen=True)
class Rule:
    """What happens at an undetermined neuron.

    Attributes:
        upper_line: what replaces the product of its derivative and what lies behind it; None is interval arithmetic
            everywhere.
        planes: whether it is a plane in the gradient and the pre-activation where the derivative is smooth.
        chords: whether the sum of a row's absolute entries takes a chord for an entry of unknown sign.
    """

    upper_line: rules.Rule | None
    planes: bool = False
    chords: bool = False


RULES: dict[str, Rule] = {
    "RecurJac": Rule(recurjac),
    "RecurJac-Linear": Rule(recurjac_linear, chords=True),
    "RecurJac-McCormick": Rule(recurjac_linear, planes=True, chords=True),
    "Fast-Lip": Rule(None),
}
"""The rules by their names, as documented."""

METHODS: tuple[str, ...] = tuple(RULES)
"""The methods that bound Jacobians."""

HOST_METHODS: tuple[str, ...] = ("IBP", "CROWN-IBP", "CROWN", "alpha-CROWN")
"""The host's methods that can stand before a rule, and by themselves for output bounds."""

VERIFY_METHOD = "RecurJac-Linear+CROWN"
"""What verifications use unless told otherwise."""

OPERATOR_NORM = "Operator-Norm"

GLOBAL_METHODS: tuple[str, ...] = (OPERATOR_NORM,)
"""The methods that need no region: bounds of Lipschitz constants on the whole space."""

_RULES = {name.lower(): name for name in RULES}
_GLOBAL = {name.lower(): name for name in GLOBAL_METHODS}
_HOST = {name.lower(): name for name in HOST_METHODS} | {"crown-optimized": "alpha-CROWN"}


@dataclass(frozen=True)
class Method:
    """A parsed method name.

    Attributes:
        name: canonical spelling.
        rule: the rule's name, or None for a method of the host alone.
        host: the host's method that bounds the pre-activations, and the output where that is wanted.
        with_host_output: whether output bounds include the host's.
    """

    name: str
    rule: str | None
    host: str
    with_host_output: bool

    @property
    def does(self) -> Rule:
        """What the rule does.

        Raises:
            MethodError: a method of the host alone.
        """
        if self.rule is None:
            raise MethodError(
                f"`{self.name}` gives no Jacobian bounds; choose one of {', '.join(METHODS)}, optionally after "
                f"{' or '.join(f'`{name}+`' for name in HOST_METHODS)}."
            )
        return RULES[self.rule]


def is_method(name: object) -> bool:
    """Whether a method name is meant for this package rather than for the host alone."""
    return isinstance(name, str) and any(rule in name.lower() for rule in _RULES)


def parse_global(name: object) -> str | None:
    """The canonical name of a method that needs no region, None for any other name."""
    return _GLOBAL.get(name.lower()) if isinstance(name, str) else None


def parse(name: str) -> Method:
    """Read the name of a method that bounds something over a region.

    Raises:
        MethodError: not a known name; the message lists what is.
    """
    if parse_global(name) is not None:
        raise MethodError(
            f"`{parse_global(name)}` bounds Lipschitz constants on the whole space, not over a region; use "
            "`global_lipschitz`, or `recurjac lipschitz`."
        )
    parts = name.lower().split("+") if isinstance(name, str) else []
    if len(parts) == 1 and parts[0] in _HOST:
        return Method(_HOST[parts[0]], None, _HOST[parts[0]], True)
    prefix = _HOST.get(parts[0]) if parts else None
    rest = parts[1:] if prefix else parts
    rule = _RULES.get(rest[0]) if rest else None
    tail = rest[1:]
    if rule is None or tail not in ([], ["crown"]):
        raise MethodError(
            f"Unknown method `{name}`; known are {', '.join(METHODS)}, each optionally with a prefix for the "
            f"pre-activation bounds ({', '.join(f'{host}+' for host in HOST_METHODS)}) and with `+CROWN` for output "
            f"bounds, and {', '.join(HOST_METHODS)} alone for output bounds."
        )
    canonical = "+".join([*([prefix] if prefix else []), rule, *(["CROWN"] if tail else [])])
    host = prefix or "CROWN"
    # CROWN over intervals from IBP is what the host calls CROWN-IBP.
    return Method(canonical, rule, "CROWN-IBP" if host == "IBP" and tail else host, bool(tail))
