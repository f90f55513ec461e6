"""The labelled contrast: which stimuli are on which side, what belongs together, what may be exchanged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from neurosae.errors import UserError
from neurosae.stimuli.contrasts import Contrast
from neurosae.stimuli.sets import StimulusSet, load

PAIRED = ("pairs", "families")
"""Designs in whose blocks target and foil are compared by a paired statistic."""


@dataclass(frozen=True, eq=False)
class LabelledContrast:
    """The stimuli of a contrast and the side each of them is on: what every analysis of a contrast starts from.

    Attributes
    ----------
    stimuli : StimulusSet
    contrast : Contrast
    rows : int array [S]
        Rows of the stimulus table that are on a side, ascending.
    labels_S : int8 array [S]
        +1 target, -1 foil.

    Examples
    --------
    >>> success = LabelledContrast.of("success")
    >>> success.names, success.design, success.target
    (('success', 'failure'), 'pairs', 'success')
    >>> len(success.rows), int(success.labels_S.sum()), len(set(success.groups_S))
    (144, 0, 72)
    """

    stimuli: StimulusSet
    contrast: Contrast
    rows: NDArray[np.intp]
    labels_S: NDArray[np.int8]

    @classmethod
    def of(cls, stimuli: StimulusSet | str | Path, contrast: str | Contrast | None = None) -> LabelledContrast:
        """The contrast of a set, by its name.

        Parameters
        ----------
        stimuli : StimulusSet, str or Path
            A set, the name of a built-in one, or a YAML file.
        contrast : str or Contrast, optional
            Default: the first of the set.

        Raises
        ------
        UserError
            No such set or contrast; the nearest name is suggested.
        """
        stimuli = stimuli if isinstance(stimuli, StimulusSet) else load(stimuli)
        chosen = contrast if isinstance(contrast, Contrast) else stimuli.contrast(contrast)
        rows, is_target = chosen.labels(stimuli.table)
        return cls(stimuli, chosen, rows, np.where(is_target > 0, 1, -1).astype(np.int8))

    def among(self, rows: ArrayLike) -> LabelledContrast:
        """The part of it among these rows of the stimulus table (numbers, or a mask over all of them).

        Raises
        ------
        UserError
            Numbers that are no rows of the table.
        """
        try:
            chosen = np.arange(len(self.stimuli.table))[np.asarray(rows)]
        except IndexError as error:
            raise UserError(f"These are no rows of the stimulus table: {error}", where="rows") from error
        used_S = np.isin(self.rows, chosen)
        return replace(self, rows=self.rows[used_S], labels_S=self.labels_S[used_S])

    @property
    def title(self) -> str:
        """Set and contrast, or the one name that both have."""
        return " / ".join(dict.fromkeys([self.stimuli.name, self.contrast.name]))

    @property
    def table(self) -> pd.DataFrame:
        """Rows of the stimulus table, one per stimulus of the contrast."""
        return self.stimuli.table.iloc[self.rows].reset_index(drop=True)

    @property
    def ids_S(self) -> NDArray[np.str_]:
        """Id of every stimulus."""
        return self.table["id"].to_numpy(dtype=str)

    @property
    def target(self) -> str:
        """What the contrast is about; see `neurosae.stimuli.contrasts.Contrast.target`."""
        return self.contrast.target

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
        """Items: what was written together, and stays in one fold."""
        return self.stimuli.groups()[self.rows]

    @property
    def design(self) -> str:
        """One of `neurosae.inference.DESIGNS`."""
        return self.stimuli.design(self.contrast)

    @property
    def blocks_S(self) -> NDArray[np.intp]:
        """Exchangeability blocks."""
        return self.stimuli.blocks(self.contrast, self.rows)

    @property
    def paired_S(self) -> NDArray[np.intp] | None:
        """Blocks within which target and foil are compared by a paired statistic; None where there are none."""
        return self.blocks_S if self.design in PAIRED else None

    @property
    def domains_S(self) -> NDArray[np.str_] | None:
        """Domain of every stimulus; None where some have none."""
        domains = self.table["domain"]
        return None if domains.isna().any() else domains.to_numpy(dtype=str)
