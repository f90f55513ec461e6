"""The two sides of a contrast: whom all evidence is about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.stimuli import StimulusSet
from neurosae.stimuli.contrasts import Contrast


@dataclass(frozen=True, eq=False)
class Sides:
    """The stimuli of a contrast and the side each of them is on.

    Attributes
    ----------
    stimuli : StimulusSet
    contrast : Contrast
    rows : int array [S]
        Rows of the stimulus table that are on a side.
    labels_S : int8 array [S]
        +1 target, -1 foil.

    Examples
    --------
    >>> from neurosae.stimuli import load
    >>> sides = Sides.of(load("continuation"))
    >>> sides.names, len(sides.rows) == len(sides.table)
    (('continuation', 'cessation'), True)
    """

    stimuli: StimulusSet
    contrast: Contrast
    rows: NDArray[np.intp]
    labels_S: NDArray[np.int8]

    @classmethod
    def of(cls, stimuli: StimulusSet, contrast: str | None = None) -> Sides:
        """Sides of a contrast by its name; the first of the set by default."""
        chosen = stimuli.contrast(contrast)
        rows, is_target = chosen.labels(stimuli.table)
        return cls(stimuli, chosen, rows, np.where(is_target > 0, 1, -1).astype(np.int8))

    @property
    def table(self) -> pd.DataFrame:
        """Rows of the stimulus table, one per stimulus of the contrast."""
        return self.stimuli.table.iloc[self.rows].reset_index(drop=True)

    @property
    def names(self) -> tuple[str, str]:
        """Names of target and foil: the level, where a side is one level, else the contrast's name and its sign."""
        for factor in self.stimuli.factors:
            target, foil = (set(self.table.loc[self.labels_S == sign, factor]) for sign in (1, -1))
            if len(target) == len(foil) == 1 and target != foil:
                return str(target.pop()), str(foil.pop())
        return f"{self.contrast.name} > 0", f"{self.contrast.name} < 0"

    @property
    def side_S(self) -> NDArray[np.str_]:
        """Name of every stimulus's side."""
        target, foil = self.names
        return np.where(self.labels_S > 0, target, foil)

    @property
    def groups_S(self) -> NDArray[np.intp]:
        """Items: what was written together."""
        return self.stimuli.groups()[self.rows]

    @property
    def blocks_S(self) -> NDArray[np.intp]:
        """Exchangeability blocks."""
        return self.stimuli.blocks(self.contrast, self.rows)

    @property
    def design(self) -> str:
        """One of `neurosae.inference.DESIGNS`."""
        return self.stimuli.design(self.contrast)
