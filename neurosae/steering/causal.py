"""Does an ensemble cause anything? What steering does to the preference for one ending over another, on held-out pairs.

The preference of a pair is the mean log probability per token of its target ending less that of its foil ending, after
the beginning both share. Every effect is a shift of preferences against the unsteered model and is reported beside what
random directions of the same norm, and random features that fire about as often, do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from neurosae.capture import TEXT, make_prompts
from neurosae.errors import UserError
from neurosae.inference.bootstrap import MIN_GROUPS, bootstrap_interval
from neurosae.inference.permutation import permutation_p, sign_flips, smallest_p
from neurosae.models import LanguageModel
from neurosae.sites import Site
from neurosae.steering.endings import Endings
from neurosae.steering.interventions import Intervention, Positions, random_direction
from neurosae.stimuli import LabelledContrast, StimulusSet

Array = NDArray[np.float64]

SHARED = 3
"""Tokens a pair must share at its beginning; with fewer the endings are not continuations of anything."""
RANDOM_DIRECTIONS = 8


@dataclass(frozen=True, eq=False)
class EndingPairs:
    """Pairs of a target and a foil text that begin alike.

    Attributes
    ----------
    table : DataFrame
        One row per exchangeability block: `target`, `foil` (ids), `group` (what is resampled together), `shared` (the
        common beginning of the texts), `n_shared` (its tokens, without those of a chat template), `usable`, `reason`
        (why not).
    target_ids, foil_ids : list of list of int
        Tokens of the usable pairs up to the end of the text, the sink token in front.
    starts : list of int
        Where the endings of the usable pairs begin.
    """

    table: pd.DataFrame
    target_ids: list[list[int]]
    foil_ids: list[list[int]]
    starts: list[int]

    @property
    def usable(self) -> pd.DataFrame:
        """The rows of usable pairs, in the order of the ids."""
        return self.table[self.table["usable"]].reset_index(drop=True)


def ending_pairs(
    language_model: LanguageModel,
    stimuli: StimulusSet,
    contrast: str | None = None,
    rows: ArrayLike | None = None,
    *,
    trained_on: Collection[str] = (),
) -> EndingPairs:
    """Pair up the stimuli of a contrast whose texts begin with the same tokens.

    Parameters
    ----------
    language_model : LanguageModel
    stimuli : StimulusSet
    contrast : str, optional
        Default: the first.
    rows : array of int or bool, optional
        Rows of the stimulus table, such as the held-out half; all by default.
    trained_on : collection of str
        Ids of the stimuli an ensemble was fitted on: none of them may be among these.

    Raises
    ------
    UserError
        A stimulus of the training set; no usable pair (with the most frequent reason).

    Examples
    --------
    >>> from neurosae import models, stimuli
    >>> pairs = ending_pairs(models.load(), stimuli.load("success"))
    >>> len(pairs.usable) > 40, sorted(set(pairs.table["reason"]))[1][:26]
    (True, 'only 0 tokens at the begin')
    """
    sides = LabelledContrast.of(stimuli, contrast)
    sides = sides if rows is None else sides.among(rows)
    table, is_target = sides.table, sides.labels_S > 0
    if leaked := sorted(set(table["id"].astype(str)) & set(trained_on)):
        raise UserError(
            f"Stimulus {leaked[0]} and {len(leaked) - 1} more were used for fitting; effects are measured on others",
            where="rows",
        )
    prompts = make_prompts(language_model, table, stimuli.chat)
    begins = [prompt.roles.index(TEXT) if TEXT in prompt.roles else len(prompt.ids) for prompt in prompts]
    ids = [prompt.ids[: _end_of_text(prompt.roles)] for prompt in prompts]
    group_S, block_S = sides.groups_S, sides.blocks_S
    found: list[dict[str, object]] = []
    starts, target_ids, foil_ids = [], [], []
    for block in np.unique(block_S):
        members = np.flatnonzero(block_S == block)
        targets, foils = members[is_target[members]], members[~is_target[members]]
        pair = {"target": ", ".join(table["id"].iloc[targets]), "foil": ", ".join(table["id"].iloc[foils])}
        if len(targets) != 1 or len(foils) != 1:
            reason = f"{len(targets)} targets and {len(foils)} foils in a block"
            found.append(pair | {"group": group_S[members[0]], "shared": "", "n_shared": 0, "reason": reason})
            continue
        a, b = ids[targets[0]], ids[foils[0]]
        start, begin = _n_common(a, b), begins[targets[0]]
        n_shared, shared = max(0, start - begin), language_model.tokenizer.decode(a[begin:start])
        reason = _unusable(a, b, start, n_shared)
        found.append(pair | {"group": group_S[members[0]], "shared": shared, "n_shared": n_shared, "reason": reason})
        if not reason:
            starts.append(start)
            target_ids.append(a)
            foil_ids.append(b)
    pairs = pd.DataFrame(found, columns=["target", "foil", "group", "shared", "n_shared", "reason"])
    if not starts:
        reasons = pairs["reason"].value_counts()
        why = f"most often: {reasons.index[0]}" if len(reasons) else "there are no stimuli"
        raise UserError(f"No pair of '{stimuli.name}' can be scored ({why})", where="rows")
    return EndingPairs(pairs.assign(usable=pairs["reason"] == ""), target_ids, foil_ids, starts)


class Preferences:
    """The preference of every usable pair for its target ending, under interventions at one site.

    Parameters
    ----------
    language_model : LanguageModel
    pairs : EndingPairs
    site : Site
    batch_size : int, default 16
        Texts at once.
    """

    def __init__(self, language_model: LanguageModel, pairs: EndingPairs, site: Site, *, batch_size: int = 16) -> None:
        self.language_model, self.pairs, self.site = language_model, pairs, site
        ids, starts = [*pairs.target_ids, *pairs.foil_ids], [*pairs.starts, *pairs.starts]
        self._endings = Endings(language_model, ids, starts, site, batch_size=batch_size)
        self.baseline_P = self._preference(self._endings.log_p()[0])

    def measure(self, intervention: Intervention, positions: Positions = "both") -> tuple[Array, float]:
        """Shift of every pair's preference (P,), nats per token, and the norm; all 0 where nothing changes."""
        log_p_N, norm = self._endings.log_p(intervention, positions)
        return self._preference(log_p_N) - self.baseline_P, norm

    @staticmethod
    def _preference(log_p_N: Array) -> Array:
        target_P, foil_P = np.split(log_p_N, 2)
        return target_P - foil_P


class RandomDirections:
    """What random directions do, shared by all interventions at a site.

    Each direction is measured at norms that are powers of two; between them its effect is interpolated linearly, so
    that any number of interventions has its norm-matched control for the price of a few.

    Parameters
    ----------
    preferences : Preferences
    n : int, default 8
    seed : int, default 0
    known : dict, optional
        What was measured before, of the same preferences with the same `n` and `seed`: shifts (n, P) by norm and
        positions. New measurements are added to it.
    """

    def __init__(
        self,
        preferences: Preferences,
        n: int = RANDOM_DIRECTIONS,
        seed: int = 0,
        *,
        known: dict[tuple[float, Positions], Array] | None = None,
    ) -> None:
        if n < 1:
            raise UserError(f"{n} random directions", where="n", allowed="1 or more")
        self.preferences, self.n, self.seed = preferences, n, seed
        self.known = {} if known is None else known

    def shifts(self, norm: float, positions: Positions = "both") -> Array:
        """Shift of every pair under every direction of this norm, (n, P); 0 for the norm 0."""
        if not 0 <= norm < np.inf:
            raise UserError(f"The norm is {norm}", where="norm", allowed="finite numbers from 0")
        if norm == 0:
            return np.zeros((self.n, len(self.preferences.baseline_P)))
        below = float(2 ** np.floor(np.log2(norm)))
        share = norm / below - 1
        lower_RP = self._at(below, positions)
        return lower_RP if share == 0 else (1 - share) * lower_RP + share * self._at(2 * below, positions)

    def _at(self, norm: float, positions: Positions) -> Array:
        if (norm, positions) not in self.known:
            site, width = self.preferences.site, self.preferences.language_model.d_model
            directions = [random_direction(site, width, norm, draw, self.seed) for draw in range(self.n)]
            shifts = [self.preferences.measure(direction, positions)[0] for direction in directions]
            self.known[norm, positions] = np.array(shifts)
        return self.known[norm, positions]


class Estimate(NamedTuple):
    """A mean over pairs with its 95 % interval (BCa over groups of pairs) and the two-sided sign-flip p-value."""

    value: float
    low: float
    high: float
    p: float
    smallest_p: float
    reason: str = ""
    """Why there is no interval (then NaN), else empty."""


@dataclass(frozen=True, eq=False)
class CausalEffect:
    """Dose-response of an intervention on held-out pairs; shifts are in nats per token, positive towards the target.

    Attributes
    ----------
    table : DataFrame
        One row per dose: `dose` (quantile, negative towards the foil), `n_pairs`, `n_groups`, `preference` (mean,
        steered), `norm` (of what was added, root mean square over tokens; 0 where this dose changes nothing in these
        texts, and no shift), `shift`, `low`, `high`, `p`, `smallest_p`, `reason` (why there is no interval).
    controls : DataFrame
        One row per dose and control: `dose`, `control`, `n` (draws), `mean`, `least`, `most` (of their mean shifts),
        `p` (rank of the effect's size among theirs), `smallest_p`, `difference`, `difference_low`,
        `difference_high` (effect less the mean control; the interval resamples pairs and takes the draws as given),
        `reason`.
    slope : Estimate
        Least-squares slope of the shift on the dose over all doses and the unsteered model at 0.
    shifts : DataFrame
        One row per dose and usable pair: `dose`, `target`, `foil`, `group`, `baseline`, `shift`.
    """

    table: pd.DataFrame
    controls: pd.DataFrame
    slope: Estimate
    shifts: pd.DataFrame


def causal_effect(
    preferences: Preferences,
    interventions: Mapping[float, Intervention],
    random: RandomDirections,
    *,
    random_features: Mapping[float, Sequence[Intervention]] | None = None,
    positions: Positions = "both",
    n: int = 2000,
    seed: int = 0,
) -> CausalEffect:
    """Measure a dose-response against controls.

    Parameters
    ----------
    preferences : Preferences
        Of pairs that took no part in fitting.
    interventions : mapping of float to Intervention
        By dose, negative towards the foil, 0 excluded.
    random : RandomDirections
        Of the same preferences.
    random_features : mapping of float to sequence of Intervention, optional
        The same with other features (`neurosae.steering.doses.alike`), by dose.
    positions : {"prompt", "generated", "both"}, default "both"
        Steered tokens: the shared beginning, the endings, or both.
    n, seed : int, default 2000 and 0
        Resamples and sign flips.

    Raises
    ------
    UserError
        No dose, a dose of 0, an intervention at another site, or no dose that changes anything.
    """
    if not interventions or 0 in interventions:
        raise UserError("A dose-response needs doses other than 0", where="doses")
    about, group_P = preferences.pairs.usable, preferences.pairs.usable["group"].to_numpy()
    rows, controls, shifts = [], [], {}
    for dose, intervention in sorted(interventions.items()):
        shift_P, norm = preferences.measure(intervention, positions)
        shifts[dose] = shift_P
        found = estimate(shift_P, group_P, n=n, seed=seed)
        preference = float((preferences.baseline_P + shift_P).mean())
        counts = {"dose": dose, "n_pairs": len(shift_P), "n_groups": len(np.unique(group_P))}
        rows.append({**counts, "preference": preference, "norm": norm, "shift": found.value, **_rest(found)})
        rivals = {"random directions": random.shifts(norm, positions)}
        if others := (random_features or {}).get(dose, ()):
            rivals["random features"] = np.array([preferences.measure(other, positions)[0] for other in others])
        for name, control_RP in rivals.items():
            controls.append({"dose": dose, "control": name, **_against(shift_P, control_RP, group_P, n, seed)})
    if not any(row["norm"] for row in rows):
        raise UserError(
            "The interventions change nothing in these texts at any dose",
            where="doses",
            suggestion="Are the features silent there? Choose more or other features",
        )
    doses = np.array([0.0, *shifts])
    centred = doses - doses.mean()
    slope_P = centred @ np.array([np.zeros(len(about)), *shifts.values()]) / (centred @ centred)
    per_pair = [
        about[["target", "foil", "group"]].assign(dose=dose, baseline=preferences.baseline_P, shift=shift_P)
        for dose, shift_P in shifts.items()
    ]
    slope = estimate(slope_P, group_P, n=n, seed=seed)
    return CausalEffect(pd.DataFrame(rows), pd.DataFrame(controls), slope, pd.concat(per_pair, ignore_index=True))


def estimate(values_P: ArrayLike, groups_P: ArrayLike, *, n: int = 2000, seed: int = 0) -> Estimate:
    """Mean of values with a bootstrap interval over groups, and a sign-flip test of "the mean is 0".

    Parameters
    ----------
    values_P : array [P]
        Shifts, finite.
    groups_P : array [P]
        What was sampled as one: resampled, and flipped, together.
    n, seed : int, default 2000 and 0

    Examples
    --------
    >>> found = estimate([1.0, 2.0, 1.5], [0, 1, 2])
    >>> found.value, found.p, found.reason
    (1.5, 0.25, 'fewer than 8 groups of pairs')
    """
    values_P = np.asarray(values_P, dtype=np.float64)
    code_P = np.unique(np.asarray(groups_P), return_inverse=True)[1]
    n_groups = int(code_P.max()) + 1
    flips_BG = sign_flips(n_groups, n, seed)
    exhaustive = 2**n_groups - 1 <= n
    p = float(permutation_p(values_P.mean(), (flips_BG[:, code_P] * values_P).mean(axis=1), "two-sided"))
    least = smallest_p(len(flips_BG), mirrored=exhaustive)
    if n_groups < MIN_GROUPS:
        reason = f"fewer than {MIN_GROUPS} groups of pairs"
        return Estimate(float(values_P.mean()), np.nan, np.nan, p, least, reason)
    interval = bootstrap_interval(_mean_of(values_P), code_P, n=n, seed=seed)
    return Estimate(float(values_P.mean()), float(interval.low), float(interval.high), p, least)


def _mean_of(values_P: Array) -> Callable[[Array], Array]:
    return lambda weights_BP: weights_BP @ values_P / weights_BP.sum(axis=1)


def _rest(found: Estimate) -> dict[str, float | str]:
    return {name: value for name, value in found._asdict().items() if name != "value"}


def _against(shift_P: Array, control_RP: Array, group_P: Array, n: int, seed: int) -> dict[str, float | str]:
    """An effect beside its controls."""
    means_R = control_RP.mean(axis=1)
    difference = estimate(shift_P - control_RP.mean(axis=0), group_P, n=n, seed=seed)
    return {
        "n": len(means_R),
        "mean": float(means_R.mean()),
        "least": float(means_R.min()),
        "most": float(means_R.max()),
        "p": float(permutation_p(shift_P.mean(), means_R, "two-sided")),
        "smallest_p": smallest_p(len(means_R)),
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "reason": difference.reason,
    }


def _end_of_text(roles: Sequence[str]) -> int:
    return max(position for position, role in enumerate(roles) if role == TEXT) + 1


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that two texts share at their beginnings, the sink token included."""
    different: Iterable[int] = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(iter(different), min(len(a), len(b)))


def _unusable(a: Sequence[int], b: Sequence[int], start: int, n_shared: int) -> str:
    if n_shared < SHARED:
        return f"only {n_shared} tokens at the beginning are shared, {SHARED} are needed"
    if start == min(len(a), len(b)):
        return "one text is the beginning of the other"
    return ""
