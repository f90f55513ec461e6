"""Localizer, then test: half of the items define a region, the other half says what it does.

A functional localizer (Saxe, Brett & Kanwisher 2006, NeuroImage 30; Fedorenko et al. 2010, Journal of Neurophysiology
104) picks features by a contrast. To measure that same contrast in them on the same items would be circular
(Kriegeskorte et al. 2009, Nature Neuroscience 12). Pairs, families and groups of stimuli stay in one half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from neurosae.decoding import DecodingResult, decode
from neurosae.errors import UserError
from neurosae.inference import BootstrapInterval, bootstrap_interval, permutation_p, smallest_p
from neurosae.inference.design import Design, halves_of, make_design
from neurosae.inference.least_squares import make_units
from neurosae.responses import Alignment, Pooling, Responses
from neurosae.sites import Site
from neurosae.stimuli import LabelledContrast, StimulusSet
from neurosae.stimuli.contrasts import Contrast
from neurosae.univariate.compute import compute_contrast
from neurosae.univariate.maps import ContrastMap
from neurosae.univariate.questions import Question, ask

Array = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Region:
    """Features that a contrast picked, with what is needed to read them on one scale."""

    table: pd.DataFrame
    """One row per feature, strongest first: `block`, `feature`; on the localizing items `effect`, `t`, `d`, `p`,
    `p_corrected`, and `mean` and `spread` (standard deviation) of its response."""
    rows_S: Index
    """The localizing stimuli, as rows of the stimulus table."""

    def patterns(self, responses_by_site: Mapping[Site, Responses], pooling: Pooling, rows_S: Index) -> Array:
        """Pooled responses of its features, in standard deviations of the localizing items from their mean.

        Parameters
        ----------
        responses_by_site, pooling
            As in `find_region`.
        rows_S : array of int [S]
            Stimuli, as rows of the stimulus table.

        Returns
        -------
        array [S, K]

        Raises
        ------
        UserError
            A stimulus without a value.
        """
        patterns_SK = np.zeros((len(rows_S), len(self.table)))
        for site, places, features in self._places(responses_by_site):
            heard = responses_by_site[site]
            patterns_SK[:, places] = _pooled(heard.with_values(heard.values[:, features]), pooling, rows_S)
        return (patterns_SK - self.table["mean"].to_numpy()) / self.table["spread"].to_numpy()

    def respond(self, responses_by_site: Mapping[Site, Responses]) -> Responses:
        """Mean of its features as a single one, token by token.

        Each is scaled as in `patterns` and has the sign of its effect, so that the target is expected to be higher.
        Token rows of all sites coincide, as `neurosae.capture` makes them.
        """
        sign_K = np.sign(self.table["t"].to_numpy(dtype=np.float64))
        weight_K = sign_K / self.table["spread"].to_numpy() / len(self.table)
        template = responses_by_site[min(responses_by_site)]
        total_T = np.full(len(template.tokens), -weight_K @ self.table["mean"].to_numpy())
        for site, places, features in self._places(responses_by_site):
            total_T += np.asarray(responses_by_site[site].values[:, features] @ weight_K[places])
        return template.with_values(total_T[:, None], features="region")

    def _places(self, responses_by_site: Mapping[Site, Responses]) -> Iterator[tuple[Site, Index, Index]]:
        """Yield sites, with the rows of the table that belong there and their features."""
        for site in sorted(responses_by_site):
            places = np.flatnonzero(self.table["block"] == site.block)
            if len(places):
                yield site, places, self.table["feature"].to_numpy()[places]


@dataclass(frozen=True, eq=False)
class Localized:
    """A region and what it does on held-out items."""

    region: Region
    held_out_S: Index
    """The testing stimuli, as rows of the stimulus table."""
    response: ContrastMap
    """The contrast in the region's mean response, one test."""
    interval: BootstrapInterval
    """Of the effect in the mean response, given the covariates, over groups of held-out stimuli."""
    time_course: ContrastMap
    """The same contrast token by token."""
    decoding: DecodingResult
    """Cross-validation among the held-out stimuli, on the region's features."""
    rsa_score: float
    """Correlation of the held-out stimuli's distances (Euclidean, over the region's scaled features) with the model
    "same or different condition", over stimuli of different groups; in [-1, 1]."""
    rsa_p: float
    """Of a higher score, by permutation within exchangeability blocks."""
    smallest_p: float
    """Smallest p that the permutations of RSA can give."""

    def summary(self) -> pd.DataFrame:
        """One row per outcome on held-out items: `outcome`, `value`, `ci_low`, `ci_high`, `p`."""
        effect, auroc = self.interval, self.decoding.auroc
        ends = float(effect.estimate), float(effect.low), float(effect.high)
        rows = [
            ("response of the region, target - foil", *ends, float(self.response.p.min())),
            ("decoding, AUROC", auroc.mean, auroc.ci_low, auroc.ci_high, auroc.p),
            ("RSA, r with the category model", self.rsa_score, np.nan, np.nan, self.rsa_p),
        ]
        return pd.DataFrame(rows, columns=["outcome", "value", "ci_low", "ci_high", "p"])


def find_region(
    responses_by_site: Mapping[Site, Responses],
    stimuli: StimulusSet,
    contrast: str | Contrast | None = None,
    *,
    rows_S: Any,
    k: int | None = 32,
    pooling: Pooling = "mean",
    covariates: Sequence[str] | pd.DataFrame = (),
) -> Region:
    """Find the features in which a contrast is strongest.

    Parameters
    ----------
    responses_by_site, stimuli, contrast, pooling, covariates
        As in `neurosae.univariate.compute_contrast`.
    rows_S : array of bool [S] or of int
        Localizing stimuli; nothing is read of the others.
    k : int or None, default 32
        The k features with the smallest p over all blocks; None: every feature of the block in which the contrast
        explains most variance.

    Returns
    -------
    Region

    Raises
    ------
    UserError
        As in `compute_contrast`; k below 1, or no feature that varies.

    Examples
    --------
    >>> from neurosae import stimuli
    >>> from neurosae.capture import capture
    >>> from neurosae.models import load
    >>> success = stimuli.load("success")
    >>> heard = capture(load(), success.table, [Site(15)])
    >>> find_region(heard, success, rows_S=success.groups() % 2 == 0, k=4).table["block"].tolist()
    [15, 15, 15, 15]
    """
    if k is not None and k < 1:
        raise UserError(f"k is {k}", where="k", allowed="integers from 1, or None for a whole block")
    named = contrast if isinstance(contrast, Contrast) else stimuli.contrast(contrast)
    found = compute_contrast(responses_by_site, stimuli, named, pooling=pooling, covariates=covariates, rows=rows_S)
    table = found.peaks(found.t.size)
    if table.empty:
        raise UserError("No feature varies over the localizing stimuli", where="rows_S")
    if k is None:
        table = table[table["block"] == found.blocks_L[np.argmax(found.r2_LW[:, 0])]]
    table = table.iloc[:k].drop(columns=["position", "n"]).reset_index(drop=True)
    used_S = LabelledContrast.of(stimuli, named).among(rows_S).rows
    region = Region(table.assign(mean=0.0, spread=1.0), used_S)
    patterns_SK = region.patterns(responses_by_site, pooling, used_S)
    scale = {"mean": patterns_SK.mean(axis=0), "spread": patterns_SK.std(axis=0, ddof=1)}
    return Region(table.assign(**scale), used_S)


def localize(
    responses_by_site: Mapping[Site, Responses],
    stimuli: StimulusSet,
    contrast: str | Contrast | None = None,
    *,
    k: int | None = 32,
    pooling: Pooling = "mean",
    covariates: Sequence[str] | pd.DataFrame = (),
    align: Alignment = "target",
    width: int = 16,
    n_splits: int = 5,
    n_repeats: int = 10,
    n_permutations: int = 100,
    seed: int = 0,
) -> Localized:
    """Find a region on half of the items; measure response, time course, decoding and RSA in it on the other half.

    Parameters
    ----------
    responses_by_site, stimuli, contrast, pooling, covariates, align, width
        As in `neurosae.univariate.compute_contrast`; no modulators. Covariates serve to find the region and to test its
        response; decoding and RSA take none, and may live on what the covariates say.
    k : int or None, default 32
        As in `find_region`.
    n_splits, n_repeats : int, default 5 and 10
        Folds of the decoding among held-out stimuli; see `neurosae.decoding.decode`.
    n_permutations : int, default 100
        For decoding and RSA.
    seed : int, default 0
        Of the halves (drawn by groups of stimuli, stratified by condition), folds and permutations.

    Returns
    -------
    Localized

    Raises
    ------
    UserError
        As in `compute_contrast` and `neurosae.decoding.decode`.
    """
    named = contrast if isinstance(contrast, Contrast) else stimuli.contrast(contrast)
    rows_S, labels_S, groups_S, half_S = _halves(stimuli, named, seed)
    region = find_region(
        responses_by_site, stimuli, named, rows_S=rows_S[half_S == 0], k=k, pooling=pooling, covariates=covariates
    )
    test_S = np.flatnonzero(half_S == 1)
    held_out_S = rows_S[test_S]
    heard = {min(responses_by_site): region.respond(responses_by_site)}
    patterns_SK = region.patterns(responses_by_site, pooling, held_out_S)
    plan = make_design(
        labels_S[test_S],
        groups_S[test_S],
        stimuli.blocks(named)[test_S],
        stimuli.design(named),
        n_splits=n_splits,
        n_repeats=n_repeats,
        n_permutations=n_permutations,
        seed=seed,
    )
    score, p = _category_rsa(patterns_SK, plan)
    question: dict[str, Any] = {"covariates": covariates, "rows": held_out_S}
    return Localized(
        region=region,
        held_out_S=held_out_S,
        response=compute_contrast(heard, stimuli, named, pooling=pooling, **question),
        interval=_effect(heard, stimuli, named, covariates, held_out_S, pooling, seed),
        time_course=compute_contrast(heard, stimuli, named, pooling=None, align=align, width=width, **question),
        decoding=decode(
            patterns_SK, plan, "all", [len(region.table)], "logistic_l2", n_permutations=n_permutations, seed=seed
        )[0],
        rsa_score=score,
        rsa_p=p,
        smallest_p=smallest_p(len(plan.arrangements_BS)),
    )


def region_profile(
    responses_by_site: Mapping[Site, Responses],
    stimuli: StimulusSet,
    contrast: str | Contrast | None = None,
    *,
    k: int | None = 32,
    pooling: Pooling = "mean",
    covariates: Sequence[str] | pd.DataFrame = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Localize in every block by itself and measure its region on the other half of the items.

    Parameters
    ----------
    responses_by_site, stimuli, contrast, k, pooling, covariates, seed
        As in `localize`; one split for all blocks.

    Returns
    -------
    DataFrame
        One row per block: `block`, `effect` (mean response of the region, target minus foil given the covariates, in
        standard deviations of the localizing items; unbiased, and below 0 where the two halves disagree), `low`, `high`
        (95 % bootstrap over held-out groups, BCa), `n` (held-out stimuli).
    """
    named = contrast if isinstance(contrast, Contrast) else stimuli.contrast(contrast)
    rows_S, _, _, half_S = _halves(stimuli, named, seed)
    local_S, held_out_S = rows_S[half_S == 0], rows_S[half_S == 1]
    rows = []
    for site in sorted(responses_by_site):
        heard = {site: responses_by_site[site]}
        region = find_region(heard, stimuli, named, rows_S=local_S, k=k, pooling=pooling, covariates=covariates)
        answer = {site: region.respond(heard)}
        found = _effect(answer, stimuli, named, covariates, held_out_S, pooling, seed)
        rows.append((site.block, float(found.estimate), float(found.low), float(found.high), len(held_out_S)))
    return pd.DataFrame(rows, columns=["block", "effect", "low", "high", "n"])


def _halves(
    stimuli: StimulusSet, contrast: Contrast, seed: int
) -> tuple[Index, NDArray[np.int8], Index, NDArray[np.int64]]:
    """Rows of the contrast, their labels and groups, and the half (0 localizes, 1 tests) that each falls into."""
    sides = LabelledContrast.of(stimuli, contrast)
    return sides.rows, sides.labels_S, sides.groups_S, halves_of(sides, seed)


def _pooled(responses: Responses, pooling: Pooling, rows_S: Index) -> Array:
    """Pooled responses to these stimuli, each of which must have one; [S, F]."""
    return responses.pool(pooling).of(rows_S)


def _effect(
    heard: Mapping[Site, Responses],
    stimuli: StimulusSet,
    contrast: Contrast,
    covariates: Sequence[str] | pd.DataFrame,
    rows_S: Index,
    pooling: Pooling,
    seed: int,
) -> BootstrapInterval:
    """The effect in a region's response that `compute_contrast` estimates, with its interval over groups."""
    (region,) = heard.values()
    question = ask(stimuli, contrast, None, covariates, region, rows_S)
    y_U, columns_UQ, of_U, per_slope = _least_squares(_pooled(region, pooling, question.rows_S), question)

    def effect(weights_BS: Array) -> Array:
        weights_BU = weights_BS[:, of_U]
        gram_BQQ = columns_UQ.T @ (weights_BU[:, :, None] * columns_UQ)
        undefined_B = np.linalg.matrix_rank(gram_BQQ, hermitian=True) < columns_UQ.shape[1]  # such as one condition
        gram_BQQ[undefined_B] = np.eye(columns_UQ.shape[1])
        slope_BQ = np.linalg.solve(gram_BQQ, ((weights_BU * y_U) @ columns_UQ)[:, :, None])[:, :, 0]
        return np.where(undefined_B, np.nan, per_slope * slope_BQ[:, 0])

    return bootstrap_interval(effect, stimuli.groups()[question.rows_S], seed=seed)


def _least_squares(value_S1: Array, question: Question) -> tuple[Array, Array, Index, float]:
    """Units of analysis [U] and columns [U, Q], the regressor first; a stimulus of every unit; effect per slope.

    A family lies in one group, so that its stimuli have the same weight in every resample: its mean is taken out once.
    """
    units = make_units(value_S1, question.x_S, question.nuisance_SP, question.code_S, question.design)
    fixed_UQ, covariates_UQ = np.split(units.basis_UQ, [units.basis_UQ.shape[1] - units.n_covariates], axis=1)
    columns_UQ = np.column_stack([units.regressor_U, covariates_UQ])
    if units.differences_US is not None:
        return units.differences_US @ value_S1[:, 0], columns_UQ, np.unique(question.code_S, return_index=True)[1], 1.0
    everyone = np.arange(len(value_S1))
    if question.design == "unpaired":
        return value_S1[:, 0], np.hstack([columns_UQ, fixed_UQ]), everyone, 2.0
    within = np.eye(len(value_S1)) - fixed_UQ @ fixed_UQ.T
    return within @ value_S1[:, 0], within @ columns_UQ, everyone, 2.0


def _category_rsa(patterns_SK: Array, plan: Design) -> tuple[float, float]:
    """Correlation of distances with the model "different condition", and its permutation p.

    Stimuli of one group share their wording and stay close whatever their labels: their distances are left out. 0 and 1
    where all stimuli are equally far apart. For labels l of +1 and -1 the model is -l l', so that every sum over pairs
    is a quadratic form.
    """
    apart_SS = plan.groups_S[:, None] != plan.groups_S
    distance_SS = squareform(pdist(patterns_SK))
    distance_SS = np.where(apart_SS, distance_SS - distance_SS[apart_SS].mean(), 0.0)
    n_pairs, size = apart_SS.sum() / 2, np.linalg.norm(distance_SS) / np.sqrt(2)
    if size <= 1e-12 * np.abs(patterns_SK).max():
        return 0.0, 1.0
    labels_BS = np.vstack([plan.labels_S, plan.arrangements_BS]).astype(np.float64)
    along_B, differs_B = (-((labels_BS @ M_SS) * labels_BS).sum(axis=1) / 2 for M_SS in (distance_SS, apart_SS))
    r_B = along_B / (size * np.sqrt(n_pairs - differs_B**2 / n_pairs))
    return float(r_B[0]), float(permutation_p(r_B[0], r_B[1:]))
