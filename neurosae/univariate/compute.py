"""Mass-univariate contrast maps: one contrast of a stimulus file in every block, aligned position and feature.

The tests are those of `neurosae.inference.linear`. All cells of a map share one set of arrangements, so that the
smallest p over the whole map has a null distribution and ``'fwe'`` controls the family of all its tests. A cell takes
the stimuli that have a clean token at its position: whole exchangeability blocks where labels are exchanged within or
with them (pairs, families, interactions), any stimuli otherwise. Then the order of one random number per stimulus
says who gets whose label, so that cells with nearly the same stimuli are rearranged in nearly the same way.

Duplicated features are tests like any other: the permutation p do not change when a feature is repeated, Bonferroni
pays for every copy, and the false discovery rate counts every copy as a discovery. Silent and constant features are
no tests; whether a feature varies does not depend on the labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, stats

from neurosae.errors import UserError, unknown_name
from neurosae.inference import adjust, null_statistics, smallest_p, test_contrast
from neurosae.responses import ALIGNMENTS, Alignment, Pooling, Responses
from neurosae.rsa.results import Reason, Table
from neurosae.sites import Site
from neurosae.stimuli import StimulusSet
from neurosae.stimuli.contrasts import Contrast
from neurosae.univariate.maps import ContrastMap, adjusted
from neurosae.univariate.questions import Permuter, Question, ask, make_permuter

Array = NDArray[np.float64]
Index = NDArray[np.intp]

HEIGHT_CONTROLS = ("fdr", "fwe", "bonferroni")
MIN_STIMULI = 20
"""Cells with fewer stimuli are masked."""
TIE = 1e-9  # relative; p-values this close are equal but for rounding


def compute_contrast(
    responses_by_site: Mapping[Site, Responses] | Sequence[Responses],
    stimuli: StimulusSet,
    contrast: str | Contrast | None = None,
    *,
    covariates: Sequence[str] | pd.DataFrame = (),
    modulator: str | None = None,
    pooling: Pooling | None = "mean",
    align: Alignment = "target",
    width: int = 16,
    height_control: str | None = "fdr",
    alpha: float = 0.05,
    two_sided: bool = True,
    n_permutations: int = 1000,
    seed: int = 0,
    min_stimuli: int = MIN_STIMULI,
    features: ArrayLike | None = None,
    rows: ArrayLike | None = None,
    block_size: int = 4096,
) -> ContrastMap:
    """Test a contrast in every block, aligned position and feature.

    Parameters
    ----------
    responses_by_site : mapping of Site to Responses, or sequence of Responses
        One stream, any blocks, the same number of features everywhere.
    stimuli : StimulusSet
        The stimuli of the responses, in the same order.
    contrast : str or Contrast, optional
        Main effect or interaction of the stimulus file, with the design declared there; the sign of its weights says
        which side a stimulus is on. Default: the first; with a modulator, none.
    covariates : sequence of str or DataFrame [S, P]
        Names of `neurosae.univariate.MEASURES` that need no language model, or ratings; or a column of numbers each.
    modulator : str, optional
        A rating: tests the slope on it (a parametric modulator) over all stimuli that have it. With a contrast, only
        over its stimuli and with its labels among the nuisance columns: the slope within conditions. Stimuli that were
        written together (`StimulusSet.groups`) count as a family, whose mean is left out.
    pooling : {'mean', 'max', 'last', 'target', 'prompt_end'} or None, default 'mean'
        One cell per block; None: one per block and position of the window.
    align, width
        The window, as in `Responses.profiles`. Positions are numbered from the reference of the alignment.
    height_control : {'fdr', 'fwe', 'bonferroni'} or None, default 'fdr'
        Correction over all valid tests of the map: false discovery rate, smallest p over the map by permutation,
        Bonferroni, none.
    alpha : float, default 0.05
        Level of the corrected p.
    two_sided : bool, default True
        False: only target above foil (a positive slope) counts.
    n_permutations, seed : int, default 1000 and 0
        Arrangements for ``'fwe'``; draw `b` depends on the seed and `b` only.
    min_stimuli : int, default 20
        Cells with fewer are masked: every feature TOO_FEW_STIMULI.
    features : array of int, optional
        Test only these.
    rows : array of bool [S] or of int, optional
        Use only these stimuli; nothing is read of the others.
    block_size : int, default 4096
        Features held at a time; memory grows with block_size x S x width, and with 1024 x n_permutations for
        ``'fwe'``.

    Returns
    -------
    ContrastMap

    Raises
    ------
    UserError
        Responses that do not fit the stimuli or each other, a value that is not finite (names stimulus and feature), a
        covariate without value, a modulator that does not vary within families, no cell with enough stimuli.

    References
    ----------
    Friston et al. (1994), Human Brain Mapping 2; Westfall & Young (1993), Resampling-based multiple testing.

    Examples
    --------
    >>> from neurosae import stimuli
    >>> from neurosae.capture import capture
    >>> from neurosae.models import load
    >>> success = stimuli.load("success")
    >>> found = compute_contrast(capture(load(), success.table, [Site(15)]), success)
    >>> found.t.shape, found.n_LW.tolist()
    ((1, 1, 576), [[144]])
    """
    if height_control is not None and height_control not in HEIGHT_CONTROLS:
        raise unknown_name("height control", height_control, HEIGHT_CONTROLS)
    if not 0 < alpha < 1 or min_stimuli < 2 or width < 1 or block_size < 1 or seed < 0:
        raise UserError(
            f"alpha = {alpha}, min_stimuli = {min_stimuli}, width = {width}, block_size = {block_size}, seed = {seed}",
            allowed="alpha between 0 and 1, min_stimuli from 2, width and block_size from 1, seed from 0",
        )
    if align not in ALIGNMENTS:
        raise unknown_name("alignment", align, ALIGNMENTS)
    sites, heard = _ordered(responses_by_site, stimuli, features)
    question = ask(stimuli, contrast, modulator, covariates, heard[0], rows)
    permuter = make_permuter(question, n_permutations, seed) if height_control == "fwe" else None
    positions_W = np.array([pooling]) if pooling else np.arange(width) - _reference(align, width)
    shape = (len(heard), len(positions_W), heard[0].n_features)
    numbers_F = np.arange(shape[2]) if features is None else np.asarray(features, dtype=np.intp)
    found = _Arrays.empty(shape, 0 if permuter is None else len(permuter.keys_BS))
    for level, responses in enumerate(heard):
        for position, columns, Y_Sf, defined_S in _tables(responses, pooling, align, width, block_size):
            members = question.members(defined_S)
            found.n_LW[level, position] = len(members)
            if question.is_testable(members, min_stimuli):
                Y_sf = Y_Sf[question.rows_S[members]]
                _check_finite(Y_sf, responses.site, question.rows_S[members], numbers_F[columns])
                found.fill((level, position, columns), question, members, Y_sf)
                if permuter is not None:
                    found.permute((level, position, columns), permuter, members, Y_sf, two_sided, seed)
    if not found.df_LW.any():
        raise UserError(
            f"No cell has {min_stimuli} stimuli of both conditions: the most is {found.n_LW.max()}",
            suggestion="Use align='end' or pooling='mean', or write more items",
        )
    tests = found.tests | {"p": found.p(two_sided)}
    return ContrastMap(
        contrast=question.name,
        design=question.design,
        covariates=question.covariates,
        blocks_L=np.array([site.block for site in sites]),
        stream=sites[0].stream,
        positions_W=positions_W,
        features_F=numbers_F,
        shared_axis=len(sites) == 1 or all(r.source.get("features") == "neurons" for r in heard),
        **tests,
        p_corrected=found.corrected(tests["p"], height_control, two_sided),
        n_LW=found.n_LW,
        df_LW=found.df_LW,
        height_control=height_control,
        alpha=alpha,
        two_sided=two_sided,
        null_LWB=None if permuter is None else found.null_mean(),
        smallest_p=0.0 if permuter is None else smallest_p(len(permuter.keys_BS)),
    )


@dataclass(frozen=True, eq=False)
class _Arrays:
    """A map while it is filled, cell by cell and block of features by block."""

    tests: dict[str, NDArray[Any]]
    """Fields of `LinearTest`, [L, W, F]."""
    n_LW: Index
    df_LW: Array
    largest_LWB: Array
    """Largest |t|, or t if one-sided, of every arrangement."""
    null_LWB: Array
    """Sum of r2 over features; of a single feature, its t."""

    @classmethod
    def empty(cls, shape: tuple[int, int, int], n_arrangements: int) -> _Arrays:
        """Nothing tested yet."""
        cells, null = shape[:2], (*shape[:2], n_arrangements)
        tests: dict[str, NDArray[Any]] = {name: np.zeros(shape, dtype=np.float32) for name in ("effect", "se", "d")}
        tests |= {
            "t": np.zeros(shape),
            "p": np.ones(shape),
            "reason": np.full(shape, Reason.TOO_FEW_STIMULI, dtype=np.int8),
        }
        return cls(tests, np.zeros(cells, dtype=np.intp), np.zeros(cells), np.full(null, -np.inf), np.zeros(null))

    @property
    def valid(self) -> NDArray[np.bool_]:
        """True where a test means something."""
        return np.isin(self.tests["reason"], (Reason.OK, Reason.PERFECT_SEPARATION))

    def fill(self, place: tuple[int, int, slice], question: Question, members: Index, Y_sf: Table) -> None:
        """Put in the tests of one cell and block of features."""
        x_s, nuisance_sP, code_s = question.model(members)
        test = test_contrast(Y_sf, x_s, nuisance_sP, blocks_S=code_s, design=question.design)
        for name, array in self.tests.items():
            array[place] = getattr(test, name)
        self.df_LW[place[:2]] = test.df[0]

    def permute(
        self, place: tuple[int, int, slice], permuter: Permuter, members: Index, Y_sf: Table, two_sided: bool, seed: int
    ) -> None:
        """Add what the valid ones of a block of features do in a cell under every arrangement."""
        question, largest_B, null_B = permuter.question, self.largest_LWB[place[:2]], self.null_LWB[place[:2]]
        Y_sf = Y_sf[:, self.valid[place]]
        if not Y_sf.shape[1]:
            return
        x_s, nuisance_sP, code_s = question.model(members)
        arranged_Bs, single = permuter.of(members), self.tests["t"].shape[2] == 1
        for _, t_Bf in null_statistics(
            Y_sf, x_s, arranged_Bs, nuisance_sP, blocks_S=code_s, design=question.design, seed=seed
        ):
            np.maximum(largest_B, (np.abs(t_Bf) if two_sided else t_Bf).max(axis=1), out=largest_B)
            null_B += t_Bf[:, 0] if single else (t_Bf**2 / (t_Bf**2 + self.df_LW[place[:2]])).sum(axis=1)

    def null_mean(self) -> Array:
        """What the map's `r2_LW` is under every arrangement; the t of a single feature."""
        if self.tests["t"].shape[2] == 1:
            return self.null_LWB
        n_valid = self.valid.sum(axis=2)[:, :, None]
        return np.where(n_valid > 0, adjusted(self.null_LWB / np.maximum(n_valid, 1), self.df_LW[:, :, None]), 0.0)

    def p(self, two_sided: bool) -> Array:
        """Uncorrected p; 1 where a test is not valid."""
        p, t = self.tests["p"], self.tests["t"]
        return p if two_sided else np.where(self.valid, np.where(t > 0, p / 2, 1 - p / 2), 1.0)

    def corrected(self, p: Array, height_control: str | None, two_sided: bool) -> Array:
        """Corrected p; 1 where a test is not valid."""
        if height_control is None:
            return p
        if height_control != "fwe":
            return adjust(p.ravel(), height_control, valid_F=self.valid.ravel()).reshape(p.shape)
        tested = self.df_LW > 0
        tail_CB = stats.t.sf(self.largest_LWB[tested], self.df_LW[tested][:, None])
        smallest_B = np.sort((2 * tail_CB if two_sided else tail_CB).min(axis=0))
        reached = np.searchsorted(smallest_B, p * (1 + TIE), side="right")
        return np.where(self.valid, (reached + 1) / (len(smallest_B) + 1), 1.0)


def _ordered(
    responses_by_site: Mapping[Site, Responses] | Sequence[Responses], stimuli: StimulusSet, features: ArrayLike | None
) -> tuple[list[Site], list[Responses]]:
    """Sites by block, with their responses, checked against each other and against the stimuli."""
    if isinstance(responses_by_site, Mapping):
        heard = {site: responses for site, responses in responses_by_site.items()}
    else:
        heard = {Site.parse(responses.site): responses for responses in responses_by_site}
    if len(heard) == 0 or len(heard) < len(responses_by_site):
        raise UserError(f"{len(responses_by_site)} responses at {len(heard)} sites", allowed="one per site")
    sites = sorted(heard)
    streams, widths = {site.stream for site in sites}, {responses.n_features for responses in heard.values()}
    if len(streams) > 1 or len(widths) > 1:
        raise UserError(
            f"The responses have {sorted(widths)} features in streams {sorted(streams)}",
            allowed="one stream and one number of features",
            suggestion="Make one map for each",
        )
    for site in sites:
        texts = heard[site].stimuli["text"]
        if len(texts) != len(stimuli.table) or (texts.to_numpy() != stimuli.table["text"].to_numpy()).any():
            raise UserError(f"The responses are not those of the stimuli of '{stimuli.name}'", where=str(site))
    if features is None:
        return sites, [heard[site] for site in sites]
    numbers, n = np.asarray(features), widths.pop()
    is_index = numbers.ndim == 1 and len(numbers) > 0 and numbers.dtype.kind in "iu"
    if not is_index or (numbers < 0).any() or (numbers >= n).any():
        raise UserError(f"features {numbers.tolist()}", where="features", allowed=f"integers from 0 to {n - 1}")
    return sites, [heard[site].with_values(heard[site].values[:, numbers]) for site in sites]


def _reference(align: Alignment, width: int) -> int:
    """Column of the window in which the reference of the alignment stands."""
    return {"left": 0, "centre": width // 2, "target": width // 4, "end": width - 1}[align]


def _tables(
    responses: Responses, pooling: Pooling | None, align: Alignment, width: int, block_size: int
) -> Iterator[tuple[int, slice, Table, NDArray[np.bool_]]]:
    """Yield (position, features, responses [S, f], stimuli that have one [S])."""
    pooled = responses.pool(pooling) if pooling else None
    for start in range(0, responses.n_features, block_size):
        columns = slice(start, min(start + block_size, responses.n_features))
        if pooled is not None:
            yield 0, columns, pooled.values_SF[:, columns], pooled.valid_S
            continue
        window = responses.profiles(align, width, columns)
        for position in range(width):
            Y_Sf = window.values_SWF[:, position]
            Y_Sf = sparse.csr_array(Y_Sf) if sparse.issparse(responses.values) else Y_Sf
            yield position, columns, Y_Sf, window.defined_SW[:, position]


def _check_finite(Y_sf: Table, site: str, rows_s: Index, numbers_f: Index) -> None:
    """Refuse values that are not finite, by the numbers of the stimulus and the feature."""
    if np.isfinite(Y_sf.data if sparse.issparse(Y_sf) else Y_sf).all():
        return
    dense_sf = Y_sf.toarray() if sparse.issparse(Y_sf) else Y_sf
    stimulus, feature = np.argwhere(~np.isfinite(dense_sf))[0]
    raise UserError(
        f"The response is {dense_sf[stimulus, feature]}",
        where=f"{site}, stimulus {rows_s[stimulus]}, feature {numbers_f[feature]}",
        allowed="finite numbers",
    )
