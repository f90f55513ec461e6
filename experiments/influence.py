"""Does an ensemble cause anything? Steer with it, and see which endings the model prefers and what it writes.

The ensemble is fitted to one half of the stimuli; effects are measured on the other half.

Examples
--------
python -m experiments.influence --concept success --out influence
python -m experiments.influence --concept success --representation raw --selector t --doses .5 .9 --out influence
python -m experiments.influence --concept continuation --ask 20 --score --out influence
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from experiments import options as shared
from neurosae import plots, stimuli
from neurosae.console import Parser, Summary
from neurosae.decoding.fitted import FittedEnsemble, encoder_of, fit_ensemble
from neurosae.decoding.selection import SELECTORS
from neurosae.decoding.variants import Variant
from neurosae.discovery import gold
from neurosae.errors import UserError
from neurosae.files import write_json, write_text
from neurosae.inference.design import halves_of
from neurosae.plots import dose_response
from neurosae.representations import Bench, Source
from neurosae.responses import Responses
from neurosae.sae import loading
from neurosae.steering.causal import (
    RANDOM_DIRECTIONS,
    CausalEffect,
    Preferences,
    RandomDirections,
    causal_effect,
    ending_pairs,
)
from neurosae.steering.doses import alike, observe
from neurosae.steering.generation import generate
from neurosae.steering.interventions import (
    HOWS,
    POSITIONS,
    FeatureChange,
    Intervention,
    NothingChanged,
    random_direction,
    steer_ensemble,
)
from neurosae.steering.texts import gold_probe, perplexity_cost, score_texts, what_is_it
from neurosae.stimuli import LabelledContrast
from neurosae.stimuli.contrasts import Contrast

PROMPTS = (
    "After months of work, the team",
    "At the end of the race, she",
    "The young baker opened his first shop and",
    "On the last day of the trial, the lawyer",
)
_WIDTH = 110


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("influence", __doc__)
    what = p.add_argument_group("what")
    what.add_argument("--concept", default="success", help="a stimulus set: name or file")
    what.add_argument("--contrast", help="one of its contrasts (default: the first)")
    variant = p.add_argument_group("the ensemble")
    variant.add_argument(
        "--representation", default="sae", choices=["raw", "sae", "untrained_sae"], help="whose features"
    )
    variant.add_argument("--selector", default="mean_difference", choices=sorted(SELECTORS), help="how they are found")
    variant.add_argument("--k", type=int, default=8, help="features in the ensemble")
    variant.add_argument("--block", type=int, help="block of the neurons (default: that of the SAE)")
    variant.add_argument("--sae", default=loading.DEFAULT, help="a bundled name, a path, a hub name")
    shared.add_model(p)
    how = p.add_argument_group("steering")
    how.add_argument("--how", default="clamp", choices=HOWS, help="what is done to the features")
    how.add_argument(
        "--doses", type=float, nargs="+", default=[0.5, 0.9, 0.99], help="quantiles; either sign is measured"
    )
    how.add_argument("--positions", default="both", choices=POSITIONS, help="steered tokens")
    how.add_argument("--random-directions", type=int, default=RANDOM_DIRECTIONS, help="controls of the same norm")
    how.add_argument("--random-features", type=int, default=3, help="draws of features that fire as often")
    how.add_argument("--seed", type=int, default=0, help="of halves, controls and sampling")
    texts = p.add_argument_group("texts")
    texts.add_argument("--prompt", action="append", help="text to continue; may be repeated (default: four that ship)")
    texts.add_argument("--tokens", type=int, default=30, help="new tokens per prompt")
    texts.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default)")
    texts.add_argument("--ask", type=int, default=0, help="ask the steered model what so many held-out texts are")
    texts.add_argument("--score", action="store_true", help="score the texts by a decision fitted to the gold corpus")
    p.output.add_argument("--out", type=Path, required=True, help="folder for tables and figures")
    return p


def _check(options: argparse.Namespace) -> None:
    least = {"random_directions": 1, "random_features": 0, "tokens": 1, "k": 1, "ask": 0, "temperature": 0, "seed": 0}
    for name, smallest in least.items():
        if not getattr(options, name) >= smallest:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is {getattr(options, name)}", where=flag, allowed=f"numbers from {smallest}")
    if any(not 0 < dose <= 1 for dose in options.doses):
        raise UserError(f"Doses are {options.doses}", where="--doses", allowed="quantiles above 0 up to 1")


@dataclass(frozen=True)
class Task:
    """A fitted ensemble and everything that is needed to steer with it."""

    bench: Bench
    ensemble: FittedEnsemble
    sae: Any
    responses: Responses
    train_rows: np.ndarray
    test_rows: np.ndarray
    options: argparse.Namespace

    def change(self, dose: float, features: np.ndarray | None = None) -> FeatureChange:
        """The ensemble at a dose; with other features in their place where given."""
        observed = observe(self.responses, self.ensemble.features_K if features is None else features, self.train_rows)
        ensemble, how = self.ensemble, self.options.how
        return steer_ensemble(ensemble.site, observed, ensemble.direction_K, dose, how=how, sae=self.sae)


def prepare(options: argparse.Namespace) -> Task:
    """Halve the stimuli by groups and fit the ensemble to one half."""
    _check(options)
    chosen = stimuli.load(options.concept)
    source = Source(options.model, options.device, options.dtype, options.sae, device_map=options.device_map)
    bench = Bench(chosen, source)
    contrast = chosen.contrast(options.contrast)
    if options.ask:
        _sides(contrast)
    if options.score:
        gold.concept_of(chosen.name, contrast.target)
    block = options.block
    if block is None or options.representation != "raw":
        block = loading.declared_site(options.sae, options.model).block
    sides = LabelledContrast.of(chosen, contrast)
    half_S = halves_of(sides, options.seed)
    train_rows, test_rows = sides.rows[half_S == 0], sides.rows[half_S == 1]
    variant = Variant(options.representation, options.selector, options.k, "logistic_l2", block, "mean")
    ensemble = fit_ensemble(bench, contrast.name, variant, rows=train_rows, seed=options.seed)
    responses = bench.responses(options.representation, block)
    return Task(bench, ensemble, encoder_of(bench, ensemble), responses, train_rows, test_rows, options)


def measure(task: Task) -> CausalEffect:
    """The dose-response on held-out pairs, against random directions and random features."""
    options, language_model = task.options, task.bench.language_model
    pairs = ending_pairs(
        language_model, task.bench.stimuli, task.ensemble.contrast, task.test_rows, trained_on=task.ensemble.train_ids
    )
    unusable = pairs.table[~pairs.table["usable"]]
    print(f"{len(pairs.usable)} held-out pairs share their beginning; {len(unusable)} are not usable:")
    for reason, count in unusable["reason"].value_counts().items():
        print(f"  {count} x {reason}")
    _write(task, "pairs", pairs.table)
    preferences = Preferences(language_model, pairs, task.ensemble.site)
    doses = [sign * dose for dose in sorted(options.doses) for sign in (-1, 1)]
    controls = [alike(_shares(task), task.ensemble.features_K, b, options.seed) for b in range(options.random_features)]
    return causal_effect(
        preferences,
        {dose: task.change(dose) for dose in doses},
        RandomDirections(preferences, options.random_directions, options.seed),
        random_features={dose: [task.change(dose, other) for other in controls] for dose in doses},
        positions=options.positions,
        seed=options.seed,
    )


def write_texts(task: Task, norms: dict[float, float]) -> pd.DataFrame:
    """Every prompt continued: as it is, steered, and along a random direction of the same norm."""
    options, language_model = task.options, task.bench.language_model
    prompts = options.prompt or list(PROMPTS)
    ids = language_model.token_ids(prompts)
    conditions: list[tuple[float, str, Intervention | None]] = [(0.0, "baseline", None)]
    for dose in sorted(options.doses):
        noise = random_direction(task.ensemble.site, language_model.d_model, norms[dose], 0, options.seed)
        conditions += [(dose, "steered", task.change(dose)), (-dose, "steered", task.change(-dose))]
        conditions += [(dose, "random direction", noise)]
    rows = []
    unsteered: list[list[int]] = []
    for dose, condition, intervention in conditions:
        note = ""
        try:
            new = generate(
                language_model,
                ids,
                n_tokens=options.tokens,
                intervention=intervention,
                positions=options.positions,
                temperature=options.temperature,
                seed=options.seed,
            )
        except NothingChanged:
            new, note = unsteered, "changes nothing here"
        unsteered = unsteered or new
        for number, (prompt, tokens) in enumerate(zip(prompts, new, strict=True)):
            text = language_model.tokenizer.decode(tokens)
            about = {"dose": dose, "condition": condition, "prompt": number, "start": prompt}
            rows.append(about | {"generated": text, "note": note})
    return pd.DataFrame(rows)


def run(options: argparse.Namespace) -> Summary:
    """Fit, steer, print and write."""
    task = prepare(options)
    ensemble = task.ensemble
    print(f"{ensemble.name}: features {ensemble.features_K.tolist()}, directions {ensemble.direction_K.tolist()}")
    effect = measure(task)
    changes: dict[float, Intervention] = {dose: task.change(dose) for dose in effect.table["dose"]}
    cost = perplexity_cost(task.bench.language_model, changes, ensemble.site)
    texts = write_texts(task, dict(zip(effect.table["dose"], effect.table["norm"], strict=True)))
    if options.score:
        texts = _scored(task, texts)
    show_texts(texts)
    table = effect.table.merge(cost[["dose", "ratio"]].rename(columns={"ratio": "perplexity_ratio"}), on="dose")
    print(f"\nShift of the preference for '{ensemble.target}' endings, nats per token\n{_plain(table)}")
    print(f"\nAgainst controls\n{_plain(effect.controls)}")
    slope = effect.slope
    print(
        f"\nSlope over doses: {slope.value:+.3f} [{slope.low:.3f}, {slope.high:.3f}], p = {slope.p:.4f} {slope.reason}"
    )
    for name, frame in {"doses": table, "controls": effect.controls, "shifts": effect.shifts, "texts": texts}.items():
        _write(task, name, frame)
    if options.ask:
        _write(task, "answers", ask(task))
    ensemble.save(options.out / "ensemble.json")
    about = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    write_json(options.out / "influence.json", {"options": about, "slope": effect.slope._asdict()})
    name = options.representation
    title = f"{ensemble.concept}, {plots.LABELS[name]}, k = {options.k}"
    ax = dose_response(effect, colour=plots.PALETTE[name], title=title)
    plots.save(ax.figure, options.out / "figures" / "dose_response")
    return _summary(task, effect, table)


def _summary(task: Task, effect: CausalEffect, doses: pd.DataFrame) -> Summary:
    """How far the strongest dose pushes, beside what random directions do, and what it costs."""
    options, ensemble, slope = task.options, task.ensemble, effect.slope
    top, controls = doses.iloc[doses["dose"].argmax()], effect.controls
    random = controls[(controls["dose"] == top["dose"]) & (controls["control"] == "random directions")].iloc[0]
    shift = shared.with_interval(top["shift"], top["low"], top["high"])
    return Summary(
        [
            f"Steered with {ensemble.name} at dose {top['dose']:g}, the model shifts towards "
            f"'{ensemble.target}' endings by {shift} nats per token on {top['n_pairs']:.0f} held-out pairs.",
            f"{random['n']:.0f} random directions of the same norm shift it by {random['least']:.2f} to "
            f"{random['most']:.2f} (p = {random['p']:.3f}, the least possible: {random['smallest_p']:.3f}).",
            f"The slope over doses is {shared.with_interval(slope.value, slope.low, slope.high)}; "
            f"at that dose the perplexity of other text grows {top['perplexity_ratio']:.2f}-fold.",
        ],
        {
            "ensemble": ensemble.name,
            "doses": doses.to_dict("records"),
            "controls": controls.to_dict("records"),
            "slope": slope._asdict(),
        },
        options.out,
        {
            "figures/dose_response.png": "the dose-response",
            "texts.csv": "texts side by side",
            "doses.csv": "shift and cost per dose",
            "controls.csv": "random directions and features",
        },
        [shared.next_command("discover", options, "discovered", "which texts drive it")],
    )


def ask(task: Task) -> pd.DataFrame:
    """What the steered model says held-out texts are."""
    ensemble, table = task.ensemble, task.bench.stimuli.table
    names = _sides(task.bench.stimuli.contrast(ensemble.contrast))
    texts = table["text"].iloc[task.test_rows[: task.options.ask]].tolist()
    changes = {dose: task.change(dose) for dose in (-max(task.options.doses), max(task.options.doses))}
    answers = what_is_it(task.bench.language_model, texts, names, changes, ensemble.site)
    means = answers.groupby("dose")[["log_odds", "order_bias"]].mean().reset_index()
    print(f"\nIs this '{names[0]}' or '{names[1]}'? Mean log odds over {len(texts)} held-out texts\n{_plain(means)}")
    return answers


def _sides(contrast: Contrast) -> tuple[str, str]:
    """Target and foil, where a contrast is one level against another."""
    if len(contrast.levels) != 1 or len(contrast.levels[0]) != 2:
        raise UserError(f"'{contrast.expression}' is not one level against another", where="--ask")
    target = contrast.target
    return target, next(level for level in contrast.levels[0] if level != target)


def show_texts(texts: pd.DataFrame) -> None:
    """Side by side, one block per prompt."""
    for _, rows in texts.groupby("prompt"):
        print(f"\n{rows['start'].iloc[0]} ...")
        for row in rows.to_dict("records"):
            score = f" [{row['score']:+.1f}]" if "score" in row else ""
            label = row["condition"] if row["condition"] == "baseline" else f"{row['condition']} {row['dose']:+g}"
            text = " ".join(str(row["generated"]).split())[:_WIDTH]
            print(f"  {label + score:<28}{row['note'] or text}")


def _scored(task: Task, texts: pd.DataFrame) -> pd.DataFrame:
    concept = gold.concept_of(task.ensemble.concept, task.ensemble.target)
    probe = gold_probe(task.bench.language_model, concept, task.ensemble.site, seed=task.options.seed)
    print(f"Gold decision for '{concept}': held-out AUROC {probe.auroc:.2f} on {probe.n_sentences} sentences that")
    print("language models graded; it judges texts together with their prompts, read unsteered.")
    whole = texts.assign(generated=texts["start"] + texts["generated"])
    scored = score_texts(whole, probe).assign(generated=texts["generated"])
    means = scored.groupby(["condition", "dose"])[["score", "change"]].mean().reset_index()
    print(_plain(means))
    return scored


def _shares(task: Task) -> np.ndarray:
    """How often every feature is not zero on the training stimuli."""
    tokens = task.responses.tokens
    use_T = tokens["clean"].to_numpy(dtype=bool) & np.isin(tokens["stimulus"].to_numpy(), task.train_rows)
    active_TF = sp.csr_array(task.responses.values[np.flatnonzero(use_T)]) != 0
    return np.asarray(active_TF.mean(axis=0), dtype=np.float64).ravel()


def _write(task: Task, name: str, table: pd.DataFrame) -> None:
    write_text(task.options.out / f"{name}.csv", table.to_csv(index=False))


def _plain(table: pd.DataFrame) -> str:
    with pd.option_context("display.width", None, "display.max_columns", None):
        return table.to_string(index=False, float_format=lambda value: f"{value:.4f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
