"""The stage `steer`: does a variant, fitted to one half of the stimuli, push the endings of the other half?"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from neurosae.decoding.fitted import encoder_of, fit_ensemble
from neurosae.decoding.variants import Variant
from neurosae.errors import UserError
from neurosae.inference import resampling_weights, smallest_p
from neurosae.inference.design import halves_of
from neurosae.runs.comparison import VARIANT
from neurosae.runs.scorecard import answer, few_groups, over_draws, weighted_means
from neurosae.sites import Site
from neurosae.steering.causal import (
    CausalEffect,
    EndingPairs,
    Estimate,
    Preferences,
    RandomDirections,
    causal_effect,
    ending_pairs,
)
from neurosae.steering.doses import observe
from neurosae.steering.interventions import Positions, steer_ensemble
from neurosae.study.work import Array, StageResult, Work

FORMAT = 1  # of the records
_COLUMNS = ("causal_shift", "causal_low", "causal_high", "causal_p", "causal_norm", "causal_random",
            "causal_p_random", "causal_slope", "causal_slope_low", "causal_slope_high", "causal_pairs",
            "causal_reason")  # fmt: skip


@dataclass
class Halves:
    """The stimuli in two halves of whole groups, and the preferences of the held-out half, unsteered."""

    work: Work
    _preferences: dict[Site, Preferences] = field(default_factory=dict)
    _random: dict[Site, RandomDirections] = field(default_factory=dict)

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows to fit on, and rows to measure on."""
        run = self.work.run
        half_S = halves_of(run.sides, run.settings.seed)
        return run.sides.rows[half_S == 0], run.sides.rows[half_S == 1]

    @cached_property
    def pairs(self) -> EndingPairs:
        """Held-out pairs that begin alike; of many, as many as the settings allow, drawn at random."""
        run, (train, test) = self.work.run, self.rows
        pairs = ending_pairs(
            self.work.bench.language_model,
            run.stimuli,
            run.contrast,
            test,
            trained_on=run.stimuli.table["id"].iloc[train].astype(str).tolist(),
        )
        return drawn(pairs, self.work.settings.most_pairs, run.settings.seed)

    def preferences(self, site: Site) -> tuple[Preferences, RandomDirections]:
        """Of the held-out pairs at a site, with the random directions that all variants share."""
        if site not in self._preferences:
            self._preferences[site] = Preferences(self.work.bench.language_model, self.pairs, site)
            self._random[site] = RandomDirections(
                self._preferences[site],
                self.work.settings.random_directions,
                self.work.run.settings.seed,
                known=self._kept(site),
            )
        return self._preferences[site], self._random[site]

    def _kept(self, site: Site) -> dict[tuple[float, Positions], Array]:
        """Shifts of random directions that an interrupted run has measured on just these pairs."""
        found = self.work.folder.shared("steer", f"random-{site}", self._about(site)) or []
        return {(row["norm"], row["positions"]): np.array(row["shifts"]) for row in found}

    def _keep(self, site: Site) -> None:
        rows = [
            {"norm": norm, "positions": positions, "shifts": shifts_RP.tolist()}
            for (norm, positions), shifts_RP in self._random[site].known.items()
        ]
        self.work.folder.write_shared("steer", f"random-{site}", self._about(site), rows)

    def _about(self, site: Site) -> dict[str, Any]:
        settings = self.work.settings
        pairs = self.pairs.usable[["target", "foil"]].to_numpy().tolist()
        return {
            "site": str(site),
            "pairs": pairs,
            "n": settings.random_directions,
            "seed": self.work.run.settings.seed,
            "format": FORMAT,
        }

    def effect(self, variant: Variant) -> CausalEffect:
        """Dose-response of a variant that is fitted to the one half, on the other."""
        work, (train, _) = self.work, self.rows
        ensemble = fit_ensemble(work.bench, work.run.contrast, variant, rows=train, seed=work.run.settings.seed)
        responses = work.bench.responses(variant.representation, variant.block)
        observed = observe(responses, ensemble.features_K, train)
        sae = encoder_of(work.bench, ensemble)
        changes = {
            dose: steer_ensemble(ensemble.site, observed, ensemble.direction_K, dose, sae=sae)
            for dose in work.settings.doses
        }
        preferences, random = self.preferences(ensemble.site)
        found = causal_effect(preferences, changes, random, n=work.settings.resamples, seed=work.run.settings.seed)
        self._keep(ensemble.site)
        return found


def drawn(pairs: EndingPairs, most: int, seed: int = 0) -> EndingPairs:
    """At most so many of the usable pairs, in their order; the others count as not usable, with the reason."""
    usable = np.flatnonzero(pairs.table["usable"])
    kept = np.sort(np.random.default_rng(seed).permutation(len(usable))[:most])
    left_out = np.setdiff1d(usable, usable[kept])
    table = pairs.table.copy()
    table.loc[left_out, "usable"], table.loc[left_out, "reason"] = False, f"not among the {most} drawn"
    target_ids, foil_ids = ([values[i] for i in kept] for values in (pairs.target_ids, pairs.foil_ids))
    return EndingPairs(table, target_ids, foil_ids, [pairs.starts[i] for i in kept])


def steer(work: Work) -> StageResult:
    """Measure the representatives on held-out pairs, beside random directions of the same norm."""
    settings = {
        "format": FORMAT,
        "doses": list(work.settings.doses),
        "how": "clamp",
        "random_directions": work.settings.random_directions,
        "most_pairs": work.settings.most_pairs,
        "resamples": work.settings.resamples,
        "seed": work.run.settings.seed,
    }
    halves, variants = Halves(work), work.representatives()
    for variant in variants:
        if work.folder.record("steer", variant, settings) is not None:
            continue
        try:
            values = {"reason": "", **_plain(halves.effect(variant))}
        except UserError as error:
            values = {"reason": error.what}
        work.folder.write_record("steer", variant, settings, values)
    records = {v: work.folder.record("steer", v, settings) or {} for v in variants}
    rows = [work.keys[v] | _row(record) for v, record in records.items()]
    scores = pd.DataFrame(rows, columns=[*VARIANT, *_COLUMNS])
    return StageResult(scores, _claims(work, records, scores), records, _notes(work, scores))


def best_effect(result: StageResult) -> tuple[Variant, CausalEffect] | None:
    """The variant with the largest shift that selects features, and its dose-response as stored."""
    known = {v: r for v, r in result.records.items() if not r["reason"] and v.selector != "random"}
    if not known:
        return None
    variant = max(known, key=lambda v: known[v]["table"][-1]["shift"])
    table, controls, shifts = (pd.DataFrame(known[variant][name]) for name in ("table", "controls", "shifts"))
    return variant, CausalEffect(table, controls, Estimate(**known[variant]["slope"]), shifts)


def _plain(effect: CausalEffect) -> dict[str, Any]:
    """For JSON, which knows no NaN; the reason stands beside what is missing."""
    tables = {"table": effect.table, "controls": effect.controls, "shifts": effect.shifts}
    slope = {name: None if value != value else value for name, value in effect.slope._asdict().items()}
    rows = {name: t.astype(object).where(t.notna(), None).to_dict("records") for name, t in tables.items()}
    return rows | {"slope": slope}


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """The strongest dose, and the slope over all."""
    if record["reason"]:
        return dict.fromkeys(_COLUMNS, np.nan) | {"causal_reason": record["reason"]}
    top, control, slope = record["table"][-1], record["controls"][-1], record["slope"]
    numbers = [top["shift"], top["low"], top["high"], top["p"], top["norm"], control["mean"], control["p"]]
    numbers += [slope["value"], slope["low"], slope["high"], top["n_pairs"]]
    values = [np.nan if number is None else number for number in numbers]
    return dict(zip(_COLUMNS, [*values, ""], strict=True))


def _claims(work: Work, records: dict[Variant, dict[str, Any]], scores: pd.DataFrame) -> pd.DataFrame:
    """Paired over held-out pairs: the shifts of all variants at the strongest dose are resampled together."""
    known = {v: record for v, record in records.items() if not record["reason"]}
    if not known:
        why = str(scores["causal_reason"].iloc[0]) if len(scores) else "no variant to steer with"
        return answer(scores.iloc[:0], "causal", None, work.scope, why)
    dose = max(work.settings.doses)
    tables = [pd.DataFrame(record["shifts"]) for record in known.values()]
    shifts = [table[table["dose"] == dose] for table in tables]
    groups = shifts[0]["group"].astype(str).to_numpy()
    if reason := few_groups(groups):
        return answer(scores.iloc[:0], "causal", None, work.scope, reason)
    weights_BP = resampling_weights(groups, work.settings.resamples, work.run.settings.seed)
    values_VP = np.array([table["shift"] for table in shifts])
    draws_VB = np.array([weighted_means(values_P, weights_BP) for values_P in values_VP])
    rows = pd.DataFrame([work.keys[v] for v in known])
    return answer(rows, "causal", over_draws(values_VP.mean(axis=1), draws_VB), work.scope)


def _notes(work: Work, scores: pd.DataFrame) -> tuple[str, ...]:
    known = scores[scores["causal_reason"] == ""]
    if known.empty:
        return (f"Causal effect: {scores['causal_reason'].iloc[0] if len(scores) else 'no variant to steer with'}.",)
    methods = known[known["selector"] != "random"]
    towards = methods[methods["causal_low"] > 0]
    beyond = towards[towards["causal_p_random"] <= smallest_p(work.settings.random_directions) + 1e-9]
    away = methods[(methods["causal_high"] < 0)]
    n, least = work.settings.random_directions, smallest_p(work.settings.random_directions)
    text = (
        f"Causal effect: at dose {max(work.settings.doses):g}, {len(towards)} of {len(methods)} variants push "
        f"{int(known['causal_pairs'].iloc[0])} held-out pairs towards their target endings (interval above 0, "
        f"uncorrected), {len(beyond)} of them further than all {n} random directions of the same norm (the smallest "
        f"reachable p is {least:.3f}); {len(away)} push away from them. Norms range from "
        f"{known['causal_norm'].min():.0f} to {known['causal_norm'].max():.0f}: doses are compared, not norms."
    )
    features = [
        f"{row['representation']} {row['causal_shift']:+.3f} [{row['causal_low']:+.3f}, {row['causal_high']:+.3f}]"
        for row in known[known["selector"] == "random"].to_dict("records")
    ]
    return (text, f"Random features in their place: {', '.join(features)}.") if features else (text,)
