"""The signs of all entries of a Jacobian over a region, as they were found: certified, refuted or unknown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.kept import Kept
from recurjac_plugin.plots.figures import labels, save
from recurjac_plugin.plots.maps import state_map
from recurjac_plugin.written.frames import data_frame, entries
from recurjac_plugin.written.markup import html_table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

STATES = ("increasing", "decreasing", "refuted", "unknown")
"""What is known about an entry."""


@dataclass(frozen=True, eq=False, repr=False)
class Monotonicity(Kept):
    """What is known about the sign of every entry of a Jacobian over a region.

    Attributes:
        sign: int8, (b, k, *input_shape): +1 certified non-decreasing, -1 certified non-increasing, 0 neither.
        refuted: bool, likewise: derivatives of both signs were met, so that the row is neither.
        lowest, highest: the extreme derivatives met at points of the region, likewise; inf and -inf if none was tried.
        points: the points these were met at, (m, *input_shape), all inside their regions.
        lowest_at, highest_at: int64, which of the points, (b, k, *input_shape); -1 if none was tried.
        boxes: int64, (b,): how many boxes of each region were bounded.
    """

    sign: Tensor
    refuted: Tensor
    lowest: Tensor
    highest: Tensor
    points: Tensor
    lowest_at: Tensor
    highest_at: Tensor
    boxes: Tensor

    @property
    def unknown(self) -> Tensor:
        """Entries that are neither certified nor refuted, bool, (b, k, *input_shape)."""
        return (self.sign == 0) & ~self.refuted

    def witnesses(self, sample: int, row: int, *coordinate: int) -> tuple[Tensor, Tensor]:
        """Two points that refute an entry, each of shape input_shape: a falling one, then a rising one.

        The derivatives there are `lowest` and `highest`; both are clear of 0 by more than rounding.

        Args:
            sample: the region.
            row: output, or row of C.
            coordinate: position in the input.

        Raises:
            InputError: there is no such entry, or it is not refuted.
        """
        place = (sample, row, *coordinate)
        shape = tuple(self.refuted.shape)
        if len(place) != len(shape) or not all(-n <= i < n for i, n in zip(place, shape)):
            raise InputError(f"There is no entry {place} in signs of shape {shape}; give region, row and coordinate.")
        if not bool(self.refuted[place]):
            raise InputError(f"Entry {place} is not refuted: only refuted entries have witnesses.")
        return self.points[self.lowest_at[place]], self.points[self.highest_at[place]]

    @property
    def counts(self) -> dict[str, int]:
        """How many entries are increasing, decreasing, refuted and unknown."""
        return {name: int(mask.sum()) for name, mask in self._masks().items()}

    def _masks(self) -> dict[str, Tensor]:
        masks = (self.sign > 0, self.sign < 0, self.refuted, self.unknown)
        return dict(zip(STATES, masks, strict=True))

    def _states(self) -> np.ndarray:
        """Which of `STATES` every entry is in, (b, k, columns)."""
        masks = torch.stack(list(self._masks().values())).flatten(3)
        return masks.to(torch.uint8).argmax(0).cpu().numpy()

    def to_dataframe(self, *, rows: Sequence[str] | None = None, inputs: Sequence[str] | None = None) -> pd.DataFrame:
        """A table of pandas with one line for each entry: region, row, input, state, lowest, highest.

        Args:
            rows: names of the rows; None numbers them from 0.
            inputs: names of the flattened input coordinates; None numbers them from 0.

        Raises:
            InputError: there are more or fewer names than rows or inputs.
            ExtraError: pandas is not installed.
        """
        states = self._states()
        lowest, highest = (met.flatten().cpu().numpy() for met in (self.lowest, self.highest))
        found = {"state": [STATES[i] for i in states.flat], "lowest": lowest, "highest": highest}
        return data_frame(entries(states.shape, rows, inputs) | found)

    def plot(
        self,
        sample: int = 0,
        path: str | os.PathLike[str] | None = None,
        *,
        rows: Sequence[str] | None = None,
        inputs: Sequence[str] | None = None,
        title: str | None = None,
    ) -> Figure:
        """Draw what is known about one region, as a map of rows by inputs.

        Args:
            sample: the region.
            path: where to save the picture; its ending says the format (.png, .pdf, .svg).
            rows: names of the rows; None numbers them from 0.
            inputs: names of the flattened input coordinates; None numbers them from 0.
            title: shown above; None says which region.

        Returns:
            The figure, made without pyplot: nothing has to be closed.

        Raises:
            FileError: the picture cannot be written, see `path`.
            InputError: there is no such region, or more or fewer names than rows or inputs.
        """
        states = self._states()
        if not -len(states) <= sample < len(states):
            raise InputError(f"`sample` must be from 0 to {len(states) - 1} for these signs, got {sample!r}.")
        figure = state_map(
            states[sample],
            STATES,
            labels(rows, states.shape[1], "rows"),
            labels(inputs, states.shape[2], "inputs"),
            f"Monotonicity over region {sample}" if title is None else title,
        )
        if path is not None:
            save(figure, path)
        return figure

    def _repr_html_(self) -> str:
        """The first rows and inputs of the first region, for notebooks."""
        states, most = self._states(), 8
        corner = states[:1, :most, :most]
        signs = {"increasing": 1, "decreasing": -1}
        rows = [
            [(f"row {k}", 0), *((STATES[state], signs.get(STATES[state], 0)) for state in row)]
            for k, row in enumerate(corner.reshape(-1, corner.shape[2]).tolist())
        ]
        return html_table(repr(self), ["", *(f"input {r}" for r in range(corner.shape[2]))], rows)

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.sign.shape))
        return f"Monotonicity([{shape}], {', '.join(f'{count} {name}' for name, count in self.counts.items())})"
