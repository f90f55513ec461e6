"""What a contrast map tests: a regressor over stimuli, who is exchangeable with whom, and the nuisance columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from neurosae.errors import UserError, unknown_name
from neurosae.inference import arrangements
from neurosae.inference.least_squares import make_units
from neurosae.responses import Responses
from neurosae.stimuli import StimulusSet
from neurosae.stimuli.contrasts import Contrast
from neurosae.univariate.covariates import covariate_table

Array = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Question:
    """One regressor over the stimuli that take part, what is exchangeable, and the nuisance columns."""

    name: str
    rows_S: Index
    """Rows of the stimulus table."""
    x_S: Array
    code_S: Index
    """Exchangeability blocks, 0..G-1."""
    design: str
    whole_blocks: bool
    """Whether a cell needs all stimuli of a block."""
    nuisance_SP: Array
    covariates: tuple[str, ...]

    def members(self, defined_S: NDArray[np.bool_]) -> Index:
        """Places (in `rows_S`) of the stimuli that a cell can use."""
        usable_S = defined_S[self.rows_S]
        if self.whole_blocks:
            usable_S &= (np.bincount(self.code_S, ~usable_S) == 0)[self.code_S]
        return np.flatnonzero(usable_S)

    def model(self, members: Index) -> tuple[Array, Array, Index]:
        """Regressor, nuisance columns and blocks of these stimuli."""
        return self.x_S[members], self.nuisance_SP[members], self.code_S[members]

    def is_testable(self, members: Index, min_stimuli: int) -> bool:
        """Whether there are enough stimuli, and both conditions among them."""
        if len(members) < min_stimuli:
            return False
        try:
            make_units(np.empty((len(members), 0)), *self.model(members), self.design)
        except UserError:
            return False
        return True


@dataclass(frozen=True, eq=False)
class Permuter:
    """Arrangements of one question, the same for every cell."""

    question: Question
    arrangements_BS: NDArray[np.int8] | None
    """Where a cell has whole blocks."""
    keys_BS: Array
    """Where it has any stimuli: their order says who gets whose value."""

    def of(self, members: Index) -> Array:
        """Arrangements of the regressor over the stimuli of a cell, [B, s]."""
        if self.arrangements_BS is not None:
            return self.arrangements_BS[:, members].astype(np.float64)
        x_s, _, code_s = self.question.model(members)
        home_s = np.argsort(code_s, kind="stable")
        arranged_Bs = np.empty((len(self.keys_BS), len(members)))
        for b, key_s in enumerate(self.keys_BS[:, members]):
            arranged_Bs[b, home_s] = x_s[np.lexsort((key_s, code_s))]
        return arranged_Bs


def ask(
    stimuli: StimulusSet,
    contrast: str | Contrast | None,
    modulator: str | None,
    covariates: Sequence[str] | pd.DataFrame,
    responses: Responses,
    rows: ArrayLike | None,
) -> Question:
    """Make the question of a contrast, or of a modulator, with its covariates.

    Raises
    ------
    UserError
        Unknown names, covariates that do not fit or have no value, nothing left to test, a design that the stimuli do
        not allow.
    """
    table = (
        covariates
        if isinstance(covariates, pd.DataFrame)
        else covariate_table(stimuli, covariates, responses=responses)
    )
    if len(table) != len(stimuli.table):
        raise UserError(f"{len(table)} rows for {len(stimuli.table)} stimuli", where="covariates")
    make = _modulator if modulator else _labels
    question = make(stimuli, contrast, modulator, _used(rows, len(stimuli.table)))
    nuisance_SP = np.hstack([question.nuisance_SP, _numbers(table)[question.rows_S]])
    missing = np.argwhere(~np.isfinite(nuisance_SP))
    if len(missing):
        stimulus = stimuli.table["id"].iloc[question.rows_S[missing[0][0]]]
        raise UserError(f"Stimulus '{stimulus}' has no finite value of a covariate", where="covariates")
    make_units(  # says what is wrong with the whole set, before cells are masked one by one
        np.empty((len(question.rows_S), 0)), question.x_S, nuisance_SP, question.code_S, question.design
    )
    return replace(question, nuisance_SP=nuisance_SP, covariates=(*question.covariates, *map(str, table.columns)))


def _used(rows: ArrayLike | None, n: int) -> NDArray[np.bool_]:
    """The stimuli to use, of a mask or of indices, as a mask."""
    if rows is None:
        return np.ones(n, dtype=bool)
    chosen = np.asarray(rows)
    if chosen.dtype != bool or chosen.shape != (n,):
        is_index = chosen.ndim == 1 and (chosen.dtype.kind in "iu" or not len(chosen))
        if not is_index or not ((chosen >= 0) & (chosen < n)).all():
            raise UserError(
                f"{chosen.dtype} of shape {chosen.shape}",
                where="rows",
                allowed=f"a mask of {n} stimuli, or integers from 0 to {n - 1}",
            )
        chosen = np.isin(np.arange(n), chosen)
    return chosen


def _numbers(table: pd.DataFrame) -> Array:
    """Covariates as float64; what is missing is NaN."""
    try:
        return table.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise UserError(f"A covariate is not a number ({error})", where="covariates") from error


def _labels(
    stimuli: StimulusSet, contrast: str | Contrast | None, _: str | None, used_S: NDArray[np.bool_]
) -> Question:
    """The two sides of a contrast, exchangeable as the stimulus file says."""
    named = contrast if isinstance(contrast, Contrast) else stimuli.contrast(contrast)
    rows_S, y_S = named.labels(stimuli.table)
    code_S, design = stimuli.blocks(named), stimuli.design(named)
    whole_blocks = design != "unpaired"
    keep_S = used_S[rows_S]
    if whole_blocks:
        keep_S &= (np.bincount(code_S, ~keep_S) == 0)[code_S]
    if not keep_S.any():
        raise UserError("No stimulus of the contrast is left", where="rows")
    code_S = np.unique(code_S[keep_S], return_inverse=True)[1]
    x_S = np.where(y_S[keep_S] > 0, 1.0, -1.0)
    return Question(named.name, rows_S[keep_S], x_S, code_S, design, whole_blocks, np.empty((len(x_S), 0)), ())


def _modulator(
    stimuli: StimulusSet, contrast: str | Contrast | None, modulator: str | None, used_S: NDArray[np.bool_]
) -> Question:
    """A rating, exchangeable within the stimuli that were written together."""
    if not stimuli.ratings:
        raise UserError(f"The stimuli of '{stimuli.name}' have no ratings", where="modulator")
    if modulator not in stimuli.ratings:
        raise unknown_name("rating", str(modulator), stimuli.ratings, where="modulator")
    rating_S = stimuli.table[modulator].to_numpy(dtype=np.float64)
    labels_S = np.empty((len(rating_S), 0))
    names: tuple[str, ...] = ()
    keep_S = used_S & np.isfinite(rating_S)
    if contrast is not None:
        named = contrast if isinstance(contrast, Contrast) else stimuli.contrast(contrast)
        labels_S, names = np.sign(named.weights(stimuli.table))[:, None], (named.name,)
        keep_S &= labels_S[:, 0] != 0
    rows_S = np.flatnonzero(keep_S)
    if not len(rows_S):
        raise UserError(f"No stimulus with a value of '{modulator}' is left", where="rows")
    code_S = np.unique(stimuli.groups()[rows_S], return_inverse=True)[1]
    x_S = rating_S[rows_S]
    alone = len(np.unique(code_S)) == len(code_S)
    if not alone and pd.Series(x_S).groupby(code_S).nunique().max() == 1:
        raise UserError(
            f"'{modulator}' differs between families only, not between the stimuli of a family",
            where="modulator",
            suggestion="Rate the stimuli of a family one by one, or keep one stimulus of each",
        )
    design = "unpaired" if alone else "families"
    return Question(str(modulator), rows_S, x_S, code_S * (not alone), design, False, labels_S[rows_S], names)


def make_permuter(question: Question, n: int, seed: int) -> Permuter:
    """Draw the arrangements of a whole map."""
    if n < 1:
        raise UserError(f"{n} permutations", where="n_permutations", allowed="integers from 1")
    drawn_BS = arrangements(question.x_S, question.code_S, n, seed, question.design) if question.whole_blocks else None
    n_drawn = n if drawn_BS is None else len(drawn_BS)
    keys_BS = np.array([np.random.default_rng([seed, b]).random(len(question.x_S)) for b in range(n_drawn)])
    return Permuter(question, drawn_BS, keys_BS)
