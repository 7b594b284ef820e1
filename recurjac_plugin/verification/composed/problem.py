"""Network, property and judge as they are verified: equal inputs as one, conditions on inputs as ones on outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recurjac_plugin.networks.onnx import OnnxNetwork
from recurjac_plugin.properties.spec import Spec
from recurjac_plugin.verification.counterexample import Counterexample, Session

from .equal import SpreadSession, equal_inputs, spread_network, with_equal_inputs
from .joined import JoinedSession, joined_network, without_inputs


@dataclass(frozen=True, eq=False)
class Composed:
    """What is verified in place of a network and a property.

    Attributes:
        network: of what is left of the inputs, and with them as further outputs where the property is about them.
        spec: its property.
        session: its judge.
        place: for every input of the network that was given the position among those of `network`; None for the same.
    """

    network: OnnxNetwork
    spec: Spec
    session: Session
    place: np.ndarray | None = None

    @classmethod
    def of(cls, network: OnnxNetwork, spec: Spec, session: Any) -> Composed:
        """The form of a problem in which it is verified.

        Raises:
            InputError: it is auto_LiRPA's model, which cannot be a part of another one.
        """
        place = equal_inputs(spec) if spec.mixed else None
        if place is not None:
            network, spec = spread_network(network, place), with_equal_inputs(spec, place)
            session = SpreadSession(session, place)
        if spec.mixed:
            network, spec, session = joined_network(network), spec.joined(), JoinedSession(session)
        return cls(network, spec, session, place)

    def restored(self, found: Counterexample | None) -> Counterexample | None:
        """A counterexample of this problem as one of that which was given."""
        found = without_inputs(found) if self.spec.inputs_appended else found
        if found is None or self.place is None:
            return found
        return Counterexample(found.x[self.place], found.y)
